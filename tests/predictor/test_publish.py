"""``saccade-build publish`` and ``fetch``: against a server of S3's protocol, and against one of Google's JSON API."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner

from gcs_fake import FakeGcs, FakeObject
from integration_support import HOST
from measuring.processes import free_port
from s3_server import environment, s3_server
from saccade_predictor.build import publishing
from saccade_predictor.build.__main__ import app
from saccade_predictor.build.manifest import files_of
from saccade_predictor.build.publishing import File, changes
from saccade_predictor.build.stores import Stored, StoreError, open_store, split

#: Of Google's library, which is imported here first.
pytestmark = pytest.mark.filterwarnings("ignore:Please install grpcio-status:ImportWarning")
BUCKET = "models"


def run(*arguments: object) -> tuple[int, str]:
    """The command's exit code, and what it printed."""
    ended = CliRunner().invoke(app, [str(one) for one in arguments])
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return ended.exit_code, " ".join(ended.output.split())


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two models, one with two versions."""
    folder = tmp_path / "repository"
    for name, content in {
        "detector/config.pbtxt": b'name: "detector"',
        "detector/labels.txt": b"cat\n",
        "detector/1/model.onnx": b"first" * 1000,
        "detector/2/model.onnx": b"second" * 1000,
        "detector/2/model.plan": b"plan" * 1000,
        "detector/2/plan.json": b"{}",
        "other/1/model.onnx": b"other",
        ".detector.12.part/1/model.onnx": b"unfinished",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of S3's protocol, as a process of its own."""
    with s3_server(tmp_path_factory.mktemp("moto") / "log") as url:
        yield url


@pytest.fixture
def s3(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its client, with an empty bucket."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment(s3_url).items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{s3_url}/moto-api/reset", method="POST"), timeout=30).close()
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    fake = FakeGcs({BUCKET: {}})
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.url)
    yield fake
    fake.close()


@pytest.fixture(params=["s3", "gs"])
def place(request: pytest.FixtureRequest) -> str:
    """A prefix in either store."""
    request.getfixturevalue("s3" if request.param == "s3" else "gcs")
    return f"{request.param}://{BUCKET}/repository"


def objects(uri: str) -> dict[str, bytes]:
    """What lies there."""
    store = open_store(uri)
    return {name: store.read(name) for name in store.sizes()}


def local(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


def test_all_files_and_the_list_of_their_digests_are_there(place: str, repository: Path, tmp_path: Path) -> None:
    code, output = run("publish", repository, place)
    assert code == 0, output
    assert f"{place}: 7 files sent" in output
    found = objects(place)
    listed = found.pop("SHA256SUMS")
    assert found == local(repository)
    for name, content in found.items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(content)
    (tmp_path / "copy" / "SHA256SUMS").write_bytes(listed)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path / "copy", check=True)


def test_again_with_the_same_content_nothing_is_sent(place: str, repository: Path) -> None:
    assert run("publish", repository, place)[0] == 0
    before = objects(place)
    code, output = run("publish", repository, place)
    assert (code, objects(place)) == (0, before)
    assert "0 files sent (0 bytes), 7 were there" in output


def test_only_what_is_new_is_sent(place: str, repository: Path) -> None:
    assert run("publish", repository, place)[0] == 0
    (repository / "detector" / "3").mkdir()
    (repository / "detector" / "3" / "model.onnx").write_bytes(b"third")
    (repository / "detector" / "labels.txt").write_bytes(b"cat\ndog\n")
    code, output = run("publish", repository, place)
    assert code == 0
    assert "2 files sent (13 bytes), 6 were there" in output
    found = objects(place)
    found.pop("SHA256SUMS")
    assert found == local(repository)


def test_a_version_that_is_there_is_not_changed(place: str, repository: Path) -> None:
    assert run("publish", repository, place)[0] == 0
    before = objects(place)
    (repository / "detector" / "2" / "model.plan").write_bytes(b"NALP" * 1000)
    code, output = run("publish", repository, place)
    assert code == 1
    assert f"detector/2/model.plan would change in {place}, where a service may read it just now" in output
    assert objects(place) == before
    assert run("publish", repository, place, "--replace")[0] == 0
    assert objects(place)["detector/2/model.plan"] == b"NALP" * 1000


def test_by_digest_each_content_has_its_place(place: str, repository: Path) -> None:
    code, first = run("publish", repository, place, "--by-digest")
    assert code == 0
    (repository / "detector" / "1" / "model.onnx").write_bytes(b"another")
    code, second = run("publish", repository, place, "--by-digest")
    assert code == 0
    places = [output.split(f"{place}/")[1].split(":")[0] for output in (first, second)]
    assert len(set(places)) == 2
    assert all(len(one) == publishing.DIGEST_DIGITS for one in places)
    assert objects(f"{place}/{places[0]}")["detector/1/model.onnx"] == b"first" * 1000
    assert objects(f"{place}/{places[1]}")["detector/1/model.onnx"] == b"another"


def test_what_is_only_there_stays_and_stays_listed(place: str, repository: Path) -> None:
    assert run("publish", repository, place)[0] == 0
    shutil.rmtree(repository / "other")
    assert run("publish", repository, place)[0] == 0
    assert "other/1/model.onnx" in objects(place)["SHA256SUMS"].decode()
    code, output = run("publish", repository, place, "--delete")
    assert code == 0
    assert "1 removed" in output
    found = objects(place)
    assert "other/1/model.onnx" not in found
    assert "other/1/model.onnx" not in found["SHA256SUMS"].decode()


def test_a_dry_run_changes_nothing(place: str, repository: Path) -> None:
    code, output = run("publish", repository, place, "--dry-run")
    assert code == 0
    assert "7 files would be sent" in output
    assert "would send detector/2/model.plan" in output
    assert objects(place) == {}


def test_an_interrupted_one_is_gone_on_with(place: str, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(place)
    here = publishing.read_local(repository)
    real = type(store).upload
    sent: list[str] = []

    def failing(self: Any, path: Path, name: str, sha256: str) -> None:
        if len(sent) == 3:
            raise StoreError("the line is cut")
        sent.append(name)
        real(self, path, name, sha256)

    with monkeypatch.context() as patched:
        patched.setattr(type(store), "upload", failing)
        with pytest.raises(StoreError):
            publishing.publish(repository, here, store)
    assert "SHA256SUMS" not in objects(place), "nothing is listed before all is there"
    code, output = run("publish", repository, place)
    assert code == 0
    assert "4 files sent" in output
    assert "3 were there" in output


def test_a_reader_by_the_list_never_sees_half_a_version(
    place: str, repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run("publish", repository, place)[0] == 0
    (repository / "detector" / "3").mkdir()
    for name in ("model.onnx", "model.plan", "plan.json"):
        (repository / "detector" / "3" / name).write_bytes(b"third")
    store = open_store(place)
    real = type(store).upload
    seen: list[list[str]] = []

    def watched(self: Any, path: Path, name: str, sha256: str) -> None:
        real(self, path, name, sha256)
        folder = tmp_path / f"reader-{len(seen)}"
        publishing.fetch(open_store(place), folder)
        seen.append(sorted(one.name for one in (folder / "detector").iterdir() if one.is_dir()))

    with monkeypatch.context() as patched:
        patched.setattr(type(store), "upload", watched)
        publishing.publish(repository, publishing.read_local(repository), store)
    assert seen == [["1", "2"]] * 3
    publishing.fetch(open_store(place), tmp_path / "after")
    assert local(tmp_path / "after") == local(repository)


def test_of_two_who_publish_at_once_one_is_told(place: str, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(place)
    real = type(store).write

    def second(self: Any, name: str, content: bytes, sha256: str, over: Stored | None) -> None:
        real(open_store(place), name, b"0" * 64 + b"  theirs\n", "0" * 64, over)
        real(self, name, content, sha256, over)

    with monkeypatch.context() as patched:
        patched.setattr(type(store), "write", second)
        code, output = run("publish", repository, place)
    assert code == 2
    assert f"{place}/SHA256SUMS was written by somebody else meanwhile; run it again" in output


def test_an_object_that_is_not_what_was_sent_is_told_of(
    place: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(place)
    real = type(store).upload

    def damaging(self: Any, path: Path, name: str, sha256: str) -> None:
        if name == "detector/labels.txt":
            path = path.with_name("short")
            path.write_bytes(b"c")
        real(self, path, name, sha256)

    here = publishing.read_local(repository)
    monkeypatch.setattr(type(store), "upload", damaging)
    with pytest.raises(publishing.PublishError, match=r"labels\.txt is not as it was sent: 1 bytes"):
        publishing.publish(repository, here, store)
    assert "SHA256SUMS" not in store.sizes()


def test_a_file_that_is_written_to_meanwhile_is_told_of(
    place: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(place)
    here = publishing.read_local(repository)
    (repository / "detector" / "labels.txt").write_bytes(b"dog\n")
    os.utime(repository / "detector" / "labels.txt", ns=(1, 1))
    with pytest.raises(publishing.PublishError, match=r"labels\.txt was written to while it was sent"):
        publishing.publish(repository, here, store)
    assert "SHA256SUMS" not in store.sizes()


def test_what_others_put_there_is_told_apart_by_the_list(s3: Any, repository: Path) -> None:
    """``aws s3 sync`` gives objects no digest: with our list beside them they are known, without it they are not."""
    for name, content in local(repository).items():
        s3.put_object(Bucket=BUCKET, Key=f"repository/{name}", Body=content)
    code, output = run("publish", repository, f"s3://{BUCKET}/repository")
    assert code == 1
    assert "would change" in output
    listed = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(local(repository).items())
    )
    s3.put_object(Bucket=BUCKET, Key="repository/SHA256SUMS", Body=listed.encode())
    code, output = run("publish", repository, f"s3://{BUCKET}/repository")
    assert code == 0
    assert "7 were there" in output


def test_fetched_it_is_the_same(place: str, repository: Path, tmp_path: Path) -> None:
    assert run("publish", repository, place)[0] == 0
    code, output = run("fetch", place, tmp_path / "there")
    assert code == 0
    assert "7 files came" in output
    assert local(tmp_path / "there") == local(repository)
    code, output = run("fetch", place, tmp_path / "there")
    assert code == 0
    assert "0 files came" in output


def test_a_damaged_object_is_not_fetched(place: str, repository: Path, tmp_path: Path) -> None:
    assert run("publish", repository, place)[0] == 0
    (tmp_path / "bad").write_bytes(b"damaged")
    open_store(place).upload(tmp_path / "bad", "detector/2/model.plan", "0" * 64)
    code, output = run("fetch", place, tmp_path / "there")
    assert code == 1
    assert f"{place}/detector/2/model.plan is not as SHA256SUMS says: 7 bytes" in output
    assert not (tmp_path / "there" / "detector" / "2" / "model.plan").exists()
    assert not list((tmp_path / "there").rglob(".*"))


def test_a_place_without_a_list_is_no_repository(place: str, tmp_path: Path) -> None:
    code, output = run("fetch", place, tmp_path / "there")
    assert code == 1
    assert f"{place} has no SHA256SUMS; expected a repository of saccade-build publish" in output


def test_a_place_without_a_list_may_be_asked_for(place: str, tmp_path: Path) -> None:
    code, output = run("fetch", place, tmp_path / "there", "--if-there")
    assert code == 0
    assert f"nothing is published at {place} yet" in output
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_bucket_that_is_not_there_is_named(scheme: str, request: pytest.FixtureRequest, repository: Path) -> None:
    request.getfixturevalue("s3" if scheme == "s3" else "gcs")
    code, output = run("publish", repository, f"{scheme}://no-such-bucket/x")
    assert code == 2
    assert f"Error: {scheme}://no-such-bucket/x: there is no" in output


def test_without_credentials_it_says_where_they_come_from(
    s3: Any, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    code, output = run("publish", repository, f"s3://{BUCKET}/x")
    assert code == 2
    assert "there are no credentials; AWS_PROFILE" in output


def test_without_googles_credentials_it_says_where_they_come_from(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent")
    code, output = run("publish", repository, f"gs://{BUCKET}/x")
    assert code == 2
    assert "there are no credentials; gcloud auth application-default login" in output


def test_without_the_right_it_says_which(gcs: FakeGcs, repository: Path) -> None:
    gcs.forbidden = True
    code, output = run("publish", repository, f"gs://{BUCKET}/x")
    assert code == 2
    assert "access is denied; the credentials need the role Storage Object Admin" in output


def test_a_server_that_is_not_there_is_an_answer(repository: Path, monkeypatch: pytest.MonkeyPatch, s3: Any) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{HOST}:{free_port()}")
    code, output = run("publish", repository, f"s3://{BUCKET}/x")
    assert code == 2
    assert "Could not connect to the endpoint URL" in output


def test_a_large_file_goes_in_pieces_and_is_one_object(place: str, repository: Path, tmp_path: Path) -> None:
    """Beyond 8 MiB both libraries send parts."""
    content = os.urandom(2**16) * 144
    (repository / "detector" / "1" / "model.onnx").write_bytes(content)
    assert run("publish", repository, place)[0] == 0
    assert run("fetch", place, tmp_path / "there")[0] == 0
    assert (tmp_path / "there" / "detector" / "1" / "model.onnx").read_bytes() == content


@pytest.mark.parametrize(
    "uri", ["models", "http://models/x", "s3://", "s3://A/x", "s3://models/a//b", "s3://models/../x", "gs://m"]
)
def test_what_is_no_place_is_refused(uri: str, repository: Path) -> None:
    code, output = run("publish", repository, uri)
    assert code == 2
    assert "is no place in an object store; expected s3://BUCKET/PREFIX or gs://BUCKET/PREFIX" in output


def test_a_place_is_read_without_slashes_around_it() -> None:
    assert split("s3://models/a/b/") == ("s3", "models", "a/b")
    assert split("gs://models") == ("gs", "models", "")


def test_a_folder_without_models_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    code, output = run("publish", tmp_path, "s3://models/x")
    assert code == 2
    assert "has no version of a model; expected files such as MODEL/1/model.onnx" in output
    code, output = run("publish", tmp_path / "none", "s3://models/x")
    assert code == 2
    assert "is not a folder" in output


def test_without_its_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "saccade_predictor.build.s3store", raising=False)
    code, output = run("publish", repository, "s3://models/x")
    assert code == 2
    assert "needs the library boto3, which is not installed: in the checkout make dev" in output
    assert ".venv/bin/pip install --require-hashes -r requirements/publish.txt" in output


def test_the_order_is_versions_before_what_points_to_them() -> None:
    names = ["m/config.pbtxt", "m/1/model.plan", "m/labels.txt", "m/1/plan.json", "m/1/build.log", "top.txt"]
    assert sorted(names, key=publishing.upload_order) == [
        "m/1/build.log",
        "m/1/plan.json",
        "m/1/model.plan",
        "m/labels.txt",
        "top.txt",
        "m/config.pbtxt",
    ]


def test_an_object_of_another_size_is_changed_whatever_its_list_says() -> None:
    here = {"m/1/model.onnx": File("a" * 64, 10)}
    listed = {"m/1/model.onnx": "a" * 64}
    found = changes(here, {"m/1/model.onnx": Stored(9, None, "")}, listed, remove=False)
    assert found.uploads == found.conflicts == ("m/1/model.onnx",)
    assert changes(here, {"m/1/model.onnx": Stored(10, None, "")}, listed, remove=False).uploads == ()


def test_a_list_that_leads_out_of_the_folder_is_refused(gcs: FakeGcs, tmp_path: Path) -> None:
    text = b"0" * 64 + b"  ../escaped\n"
    gcs.buckets[BUCKET]["r/SHA256SUMS"] = FakeObject(text, {}, 1)
    code, output = run("fetch", f"gs://{BUCKET}/r", tmp_path / "there")
    assert code == 1
    assert "line 1 is not 'SHA-256 name' of a file in its folder" in output
    assert not (tmp_path / "escaped").exists()


def test_nothing_else_in_the_bucket_is_touched(place: str, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "beside").write_bytes(b"beside")
    root = open_store(f"{place.rpartition('/')[0]}")
    root.upload(tmp_path / "beside", "repository-2/x", "0" * 64)
    assert run("publish", repository, place, "--delete")[0] == 0
    assert root.read("repository-2/x") == b"beside"
