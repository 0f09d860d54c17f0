"""The directory of the frames that disagree most: what stands there, its bounds, restarts, disks that fail."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest

from fakes import eventually
from saccade_transformers.shadow import store as store_module
from saccade_transformers.shadow.store import WorstStore
from saccade_transformers.shadow.worst import Kept


def frame(number: int, agreement: float, image: bytes = b"") -> tuple[Kept, bytes]:
    name = f"{number:016x}"
    file = f"{name}.jpg" if image else ""
    line = orjson.dumps({"id": name, "agreement": agreement, "image": f"images/{file}" if file else None})
    return Kept(agreement, name, line, file, len(image)), image


def lines(directory: Path) -> list[Any]:
    return [orjson.loads(line) for line in (directory / "worst.jsonl").read_bytes().splitlines()]


def images(directory: Path) -> set[str]:
    return set(os.listdir(directory / "images"))


def keep_all(directory: Path, *frames: tuple[Kept, bytes], keep: int = 3, max_bytes: int = 10_000) -> None:
    """Keep frames one after the other, as a process does from its start to its end."""
    store = WorstStore(directory, keep, max_bytes)
    for one in frames:
        assert len(store._offered) < 16
        store.offer(*one)
    store.close()


def test_the_worst_stand_first_with_their_images_beside_them(tmp_path: Path) -> None:
    keep_all(tmp_path, frame(1, 0.5, b"one"), frame(2, 0.1), frame(3, 0.3, b"three"))
    assert [line["agreement"] for line in lines(tmp_path)] == [0.1, 0.3, 0.5]
    assert (tmp_path / lines(tmp_path)[1]["image"]).read_bytes() == b"three"
    assert lines(tmp_path)[0]["image"] is None
    assert images(tmp_path) == {f"{1:016x}.jpg", f"{3:016x}.jpg"}


def test_frames_that_are_driven_out_take_their_images_along(tmp_path: Path) -> None:
    keep_all(tmp_path, *(frame(number, 1 - number / 10, b"x") for number in range(1, 9)))
    assert [line["agreement"] for line in lines(tmp_path)] == pytest.approx([0.2, 0.3, 0.4])
    assert len(images(tmp_path)) == 3


def test_bytes_are_bounded_images_included(tmp_path: Path) -> None:
    keep_all(tmp_path, *(frame(number, number / 100, bytes(3000)) for number in range(10)), keep=10)
    assert len(lines(tmp_path)) == len(images(tmp_path)) == 3
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 10_000


def test_full_by_bytes_no_image_is_written_to_be_removed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_all(tmp_path, *(frame(number, 0.2, bytes(3000)) for number in range(3)), keep=10)
    written: list[str] = []
    replace = store_module._replace

    def note(path: Path, content: bytes) -> None:
        written.append(path.name)
        replace(path, content)

    monkeypatch.setattr(store_module, "_replace", note)
    keep_all(tmp_path, *(frame(number, 0.9, bytes(3000)) for number in range(3, 9)), keep=10)
    assert written == ["worst.jsonl"]
    assert len(images(tmp_path)) == 3


async def test_the_file_is_written_while_the_service_runs(tmp_path: Path) -> None:
    store = WorstStore(tmp_path, 3, 10_000, interval_s=0.01)
    store.offer(*frame(1, 0.5, b"one"))
    await eventually(lambda: lines(tmp_path), "the frame is in the file")
    store.close()
    assert not [name for name in [*os.listdir(tmp_path), *images(tmp_path)] if name.endswith(".tmp")]


def test_a_restart_goes_on_with_what_is_there(tmp_path: Path) -> None:
    keep_all(tmp_path, frame(1, 0.5, b"one"), frame(2, 0.1), frame(3, 0.3, b"three"))
    store = WorstStore(tmp_path, 3, 10_000)
    assert store.wants(0.4)
    assert not store.wants(0.6)
    store.offer(*frame(4, 0.2, b"four"))
    store.close()
    assert [line["agreement"] for line in lines(tmp_path)] == [0.1, 0.2, 0.3]
    assert images(tmp_path) == {f"{3:016x}.jpg", f"{4:016x}.jpg"}


def test_a_restart_with_smaller_bounds_drops_what_is_too_much(tmp_path: Path) -> None:
    keep_all(tmp_path, frame(1, 0.5, b"one"), frame(2, 0.1), frame(3, 0.3, b"three"))
    keep_all(tmp_path, keep=1)
    assert [line["agreement"] for line in lines(tmp_path)] == [0.1]
    assert images(tmp_path) == set()


def test_what_is_not_ours_is_dropped_from_the_file_and_left_alone_among_the_images(tmp_path: Path) -> None:
    keep_all(tmp_path, frame(1, 0.5))
    with (tmp_path / "worst.jsonl").open("ab") as file:
        file.write(b'{"agreement": 0.1}\n[]\nnot json\n{"id":"x","agreement":0.1,"image":"images/../../etc/passwd"}\n')
    (tmp_path / "images" / "holiday.jpg").write_bytes(b"theirs")
    (tmp_path / "images" / f"{9:016x}.jpg").write_bytes(b"ours, of a crash")
    (tmp_path / "images" / f"{9:016x}.jpg.tmp").write_bytes(b"likewise")
    keep_all(tmp_path)
    assert [line["id"] for line in lines(tmp_path)] == [f"{1:016x}"]
    assert images(tmp_path) == {"holiday.jpg"}


def test_an_image_that_somebody_took_away_leaves_its_line(tmp_path: Path) -> None:
    keep_all(tmp_path, frame(1, 0.5, b"one"))
    (tmp_path / "images" / f"{1:016x}.jpg").unlink()
    keep_all(tmp_path)
    assert len(lines(tmp_path)) == 1


def test_a_directory_that_cannot_be_made_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="Not a directory"):
        WorstStore(tmp_path / "file" / "dir", 3, 10_000)


async def test_a_full_disk_is_said_once_and_writing_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = WorstStore(tmp_path, 3, 10_000, interval_s=0.001)
    really, refused = store_module._replace, []

    def full(path: Path, content: bytes) -> None:
        refused.append(path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "_replace", full)
    with caplog.at_level(logging.WARNING):
        for number in range(20):
            before = len(refused)
            store.offer(*frame(number, 0.5, b"x"))
            await eventually(lambda before=before: len(refused) > before, "it was tried")  # type: ignore[misc]
    assert [record.getMessage() for record in caplog.records] == ["shadow_store_failed"]
    monkeypatch.setattr(store_module, "_replace", really)
    await eventually(lambda: not store._offered, "what was offered meanwhile is gone")
    store.offer(*frame(99, 0.1, b"x"))
    await asyncio.to_thread(store.close)
    assert lines(tmp_path)[0]["id"] == f"{99:016x}"


def test_a_disk_that_hangs_costs_neither_memory_nor_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = WorstStore(tmp_path, 3, 10_000, interval_s=0.001)
    entered, door = threading.Event(), threading.Event()

    def hang(_path: Path, _content: bytes) -> None:
        entered.set()
        door.wait()

    monkeypatch.setattr(store_module, "_replace", hang)
    monkeypatch.setattr(store_module, "_CLOSE_S", 0.01)
    store.offer(*frame(1, 0.5, b"x"))
    assert entered.wait(10)
    for number in range(100):
        store.offer(*frame(number, 0.1, b"x"))
    assert len(store._offered) == 16
    assert not store.wants(0.0), "no frame is made for it any more"
    store.close()
    door.set()
    store._thread.join(10)


def test_a_link_in_the_place_of_a_file_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"theirs")
    kept = tmp_path / "kept"
    (kept / "images").mkdir(parents=True)
    (kept / "worst.jsonl.tmp").symlink_to(theirs)
    (kept / "images" / f"{1:016x}.jpg.tmp").symlink_to(theirs)
    (kept / "images" / f"{1:016x}.jpg").symlink_to(theirs)
    keep_all(kept, frame(1, 0.5, b"one"))
    assert theirs.read_bytes() == b"theirs"
    assert len(lines(kept)) == 1
    for path in (kept / "worst.jsonl", kept / "images" / f"{1:016x}.jpg"):
        assert not path.is_symlink()
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("what", ["pipe", "link", "directory", "huge"])
def test_a_file_that_cannot_be_ours_is_an_error_at_the_start(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_FILE_BYTES", 100)
    path = tmp_path / "worst.jsonl"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "link":
        path.symlink_to("/dev/zero")
    elif what == "directory":
        path.mkdir()
    else:
        path.write_bytes(bytes(101))
    with pytest.raises(OSError, match=r"regular file|more than 100 bytes"):
        WorstStore(tmp_path, 3, 10_000)


def test_a_line_whose_image_is_a_link_goes_with_it(tmp_path: Path) -> None:
    keep_all(tmp_path / "kept", frame(1, 0.5, b"one"))
    (tmp_path / "theirs").write_bytes(b"theirs")
    image = tmp_path / "kept" / "images" / f"{1:016x}.jpg"
    image.unlink()
    image.symlink_to(tmp_path / "theirs")
    keep_all(tmp_path / "kept")
    assert lines(tmp_path / "kept") == []
    assert images(tmp_path / "kept") == set()
    assert (tmp_path / "theirs").read_bytes() == b"theirs"


def test_a_directory_that_somebody_deleted_is_made_again(tmp_path: Path) -> None:
    store = WorstStore(tmp_path / "kept", 3, 10_000)
    shutil.rmtree(tmp_path / "kept")
    store.offer(*frame(1, 0.5, b"one"))
    store.close()
    assert [line["agreement"] for line in lines(tmp_path / "kept")] == [0.5]
    assert images(tmp_path / "kept") == {f"{1:016x}.jpg"}


def other_process(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Run some lines in a process of its own; ``store``, ``sys`` and ``frame`` are there."""
    head = (
        "import sys\nfrom pathlib import Path\nfrom test_shadow_store import frame\n"
        "from saccade_transformers.shadow.store import WorstStore\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


#: Keeps a frame, says so, and goes on until it is told to end.
KEEPING = """
store = WorstStore(Path(sys.argv[1]), 3, 10_000)
store.offer(*frame(7, 0.2, b"theirs"))
print("begun", flush=True)
sys.stdin.readline()
store.close()
"""


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_second_process_is_refused_and_changes_nothing_and_may_have_it_afterwards(tmp_path: Path, end: str) -> None:
    keep_all(tmp_path, frame(1, 0.5, b"one"))
    with other_process(KEEPING, tmp_path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        (tmp_path / "images" / f"{9:016x}.jpg").write_bytes(b"just written by the other, and not in its file yet")
        with pytest.raises(OSError, match=r"another process keeps its frames there; expected a directory of its own"):
            WorstStore(tmp_path, 3, 10_000)
        assert f"{9:016x}.jpg" in images(tmp_path), "nothing of the other's is taken for litter"
        if end == "kill":
            other.kill()
        else:
            other.communicate("end\n")
    keep_all(tmp_path, frame(2, 0.1, b"two"))
    kept = {line["agreement"] for line in lines(tmp_path)}
    assert {0.1, 0.5} <= kept
    assert (0.2 in kept) or end == "kill", "a crash costs the last seconds"
    assert images(tmp_path) == {Path(line["image"]).name for line in lines(tmp_path)}


async def test_a_directory_that_was_deleted_and_is_another_processes_now_is_left_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = WorstStore(tmp_path / "kept", 3, 10_000, interval_s=0.001)
    shutil.rmtree(tmp_path / "kept")
    with other_process(KEEPING, tmp_path / "kept") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        store.offer(*frame(1, 0.1, b"mine"))
        await eventually(lambda: "shadow_store_failed" in caplog.messages, "it is said")
        other.communicate("end\n")
    assert [line["agreement"] for line in lines(tmp_path / "kept")] == [0.2]
    assert images(tmp_path / "kept") == {f"{7:016x}.jpg"}
    store.offer(*frame(2, 0.3))
    await asyncio.to_thread(store.close)
    assert [line["agreement"] for line in lines(tmp_path / "kept")] == [0.2, 0.3], "what the other left is taken up"
    assert images(tmp_path / "kept") == {f"{7:016x}.jpg"}


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / ".lock").symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="symbolic links"):
        WorstStore(tmp_path / "kept", 3, 10_000)
    assert not (tmp_path / "theirs").exists()


def test_a_start_that_fails_leaves_the_directory_free(tmp_path: Path) -> None:
    (tmp_path / "worst.jsonl").mkdir()
    for _ in range(2):
        with pytest.raises(OSError, match="regular file"):
            WorstStore(tmp_path, 3, 10_000)
    (tmp_path / "worst.jsonl").rmdir()
    keep_all(tmp_path, frame(1, 0.5))
