"""The kit for GPU machines: what is packed, what is refused, and an installation where there is only Python 3.12.

The last test downloads some 130 MB, so that it runs only with ``CI=true`` or ``SACCADE_TEST_INSTALL=1``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import gpu_install
import gpu_kit
from gpu_kit import LEFT_OUT, LOCK, UNUSED, KitFailed, Locked, describe, is_current, pack, read_lock

ROOT = Path(__file__).resolve().parents[1]
DETECTOR = ROOT / "examples" / "model-repository" / "detector"


def wheel(folder: Path, name: str, version: str = "1.0", content: str = "answer = 42\n") -> Path:
    """A wheel that pip installs: one module of its own name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{file},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}"
        for file, text in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(zipfile.ZipInfo(file), text)
    return path


def locked(path: Path) -> Locked:
    name, version, *_ = path.name.split("-")
    digest = gpu_install.sha256(path)
    return Locked(name, version, f"{name}=={version} \\\n    --hash=sha256:{digest}\n", frozenset({digest}))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Two packages, a lock of them, and in pip's place copies; counts the downloads."""
    wheels = [wheel(tmp_path / "registry", name) for name in ("one", "two")]
    (tmp_path / "lock.txt").write_text("# made by a test\n" + "".join(locked(path).text for path in wheels))
    count = [0]

    def download(packages: list[Locked], folder: Path) -> None:
        count[0] += 1
        assert [package.name for package in packages] == ["one", "two"]
        for path in wheels:
            shutil.copy(path, folder)

    monkeypatch.setattr(gpu_kit, "download", download)
    monkeypatch.setattr(gpu_kit, "LEFT_OUT", {"pytest": "1.0"})
    return count


# packing


def test_the_lock_is_of_one_platform_and_has_what_is_needed() -> None:
    packages = {package.name: package for package in read_lock(LOCK.read_text(encoding="utf-8"))}
    assert {"kserve", "fastapi", "uvicorn", "httptools", "pydantic", "tritonclient", "pytest-asyncio"} <= set(packages)
    assert {*LEFT_OUT, *UNUSED} <= set(packages)
    for name, least in LEFT_OUT.items():
        assert gpu_install.numbers(packages[name].version) >= gpu_install.numbers(least), name
    assert "--index" not in LOCK.read_text(encoding="utf-8")


def test_the_kit_has_the_versions_of_the_predictors_lock() -> None:
    kit = {package.name: package.version for package in read_lock(LOCK.read_text(encoding="utf-8"))}
    predictor = (ROOT / "requirements" / "predictor.txt").read_text(encoding="utf-8")
    for name in ("kserve", "uvicorn", "pydantic", "grpcio", "protobuf", "orjson", "uvloop"):
        assert f"\n{name}=={kit[name]} " in predictor


@pytest.mark.parametrize(
    ("line", "found"),
    [("one>=1.0\n", "'one>=1.0'"), ("one==1.0\n", "'one==1.0'"), ('one==1.0 ; python_version < "3.12" \\\n', "'one=")],
)
def test_a_lock_that_says_too_little_is_refused(line: str, found: str) -> None:
    with pytest.raises(KitFailed, match=f"{found}.* is no NAME==VERSION with hashes"):
        read_lock(line)


def test_a_kit_is_written_once(fetched: list[int], tmp_path: Path) -> None:
    kit, lock = tmp_path / "kit", tmp_path / "lock.txt"
    manifest = pack(kit, lock, [])
    assert [one["file"] for one in manifest["wheels"]] == ["one-1.0-py3-none-any.whl", "two-1.0-py3-none-any.whl"]
    assert gpu_install.broken(kit, manifest) == []
    assert (kit / "install.py").read_bytes() == gpu_kit.INSTALLER.read_bytes()
    assert pack(kit, lock, []) == manifest
    assert fetched == [1]
    (kit / "wheels" / "two-1.0-py3-none-any.whl").write_bytes(b"cut")
    pack(kit, lock, [])
    assert fetched == [2], "a damaged kit is written anew"
    added = wheel(tmp_path, "pycuda")
    assert "pycuda-1.0-py3-none-any.whl" in [one["file"] for one in pack(kit, lock, [added])["wheels"]]
    assert fetched == [3]
    lock.write_text("# changed\n" + lock.read_text())
    assert not is_current(kit, lock.read_text(), [added])


def test_what_the_lock_does_not_allow_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    one, two = wheel(folder, "one"), wheel(folder, "two")
    both = [locked(one), locked(two)]
    assert len(describe(folder, both, [], "lock")["wheels"]) == 2
    with pytest.raises(KitFailed, match=r"two-1\.0-py3-none-any\.whl is not what the lock allows"):
        describe(folder, both[:1], [], "lock")
    wheel(folder, "two", content="answer = 43\n")
    with pytest.raises(KitFailed, match=r"two.* is not what the lock allows"):
        describe(folder, both, [], "lock")
    two.unlink()
    with pytest.raises(KitFailed, match="no wheel came for two"):
        describe(folder, both, [], "lock")


def test_a_kit_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = wheel(tmp_path, "one")
    monkeypatch.setattr(gpu_kit, "MOST_BYTES", one.stat().st_size - 1)
    with pytest.raises(KitFailed, match=r"MiB, expected at most .*the largest: one"):
        describe(tmp_path, [locked(one)], [], "lock")


def test_a_download_that_fails_leaves_the_kit_as_it_was(
    fetched: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, lock = tmp_path / "kit", tmp_path / "lock.txt"
    manifest = pack(kit, lock, [])
    lock.write_text("# changed\n" + lock.read_text())

    def fails(packages: list[Locked], folder: Path) -> None:
        raise KitFailed("no network")

    monkeypatch.setattr(gpu_kit, "download", fails)
    with pytest.raises(KitFailed, match="no network"):
        pack(kit, lock, [])
    assert gpu_install.broken(kit, manifest) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kit", "lock.txt", "registry"]


# installing, in this Python


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_install, "PYTHON", sys.version_info[:2])


def run_installer(kit: Path, target: Path) -> int:
    return gpu_install.main([f"--kit={kit}", f"--target={target}", f"--checkout={ROOT}"])


@pytest.mark.usefixtures("here")
def test_a_kit_is_installed_once_and_the_next_steps_are_said(
    fetched: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kit, target = tmp_path / "kit", tmp_path / "a target"
    pack(kit, tmp_path / "lock.txt", [])
    assert run_installer(kit, target) == 0
    said = capsys.readouterr().out
    steps = [line for line in said.splitlines() if line[:1].isdigit()]
    assert [step[:2] for step in steps] == ["1.", "2.", "3.", "4.", "5.", "6."]
    assert "tensorrt: missing, TensorRT with its Python bindings" in said
    assert f"2 installed in {target / 'site'}" in said
    script = (
        f". '{target / 'env.sh'}' && {sys.executable} -c 'import one, two, gpu_kit; print(one.answer + two.answer)'"
    )
    answered = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert answered.stdout == "84\n"
    written = (target / "site" / "one.py").stat().st_ino
    assert run_installer(kit, target) == 0
    assert "2 were installed before" in capsys.readouterr().out
    assert (target / "site" / "one.py").stat().st_ino == written
    (target / gpu_install.MANIFEST).unlink()  # as if it had been stopped in the midst of it
    assert run_installer(kit, target) == 0
    assert "2 installed" in capsys.readouterr().out
    assert sorted(path.name for path in target.iterdir()) == ["env.sh", "manifest.json", "site"]


@pytest.mark.usefixtures("here")
def test_damage_and_what_the_machine_lacks_are_said_before_anything_is_installed(
    fetched: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, target = tmp_path / "kit", tmp_path / "target"
    pack(kit, tmp_path / "lock.txt", [])
    manifest: dict[str, Any] = json.loads((kit / "manifest.json").read_text())
    manifest["left_out"] = {"pytest": "1000.0", "no-such-package": "1.0"}
    (kit / "manifest.json").write_text(json.dumps(manifest))
    assert run_installer(kit, target) == 1
    said = capsys.readouterr().out
    assert "(needs 1000.0 or later)" in said
    assert "no-such-package (needs 1.0 or later)" in said
    damaged = kit / "wheels" / "two-1.0-py3-none-any.whl"
    content = bytearray(damaged.read_bytes())
    content[10] ^= 1
    damaged.write_bytes(content)
    (kit / "wheels" / "one-1.0-py3-none-any.whl").unlink()
    assert run_installer(kit, target) == 1
    assert "nothing was installed: one-1.0-py3-none-any.whl, two-1.0-py3-none-any.whl" in capsys.readouterr().out
    assert not target.exists()


def test_another_python_and_a_folder_that_is_no_checkout_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_install, "PYTHON", (2, 7))
    assert gpu_install.main([f"--kit={tmp_path}", f"--checkout={ROOT}"]) == 2
    assert "this is Python 3." in capsys.readouterr().out
    monkeypatch.setattr(gpu_install, "PYTHON", sys.version_info[:2])
    assert gpu_install.main([f"--kit={tmp_path}", f"--checkout={tmp_path}"]) == 2
    assert "is no checkout of Saccade" in capsys.readouterr().out


# installing, in an empty Python 3.12


def python312() -> str | None:
    """A Python 3.12 that runs; None if there is none."""
    for found in (shutil.which("python3.12"), *map(str, Path.home().glob(".pyenv/versions/3.12*/bin/python3.12"))):
        if found and subprocess.run([found, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return found
    return None


#: In the environment: the predictor as a process, the bench's clients, our client.
SERVE = """
import sys, tempfile
from pathlib import Path
from measuring.client import Client
from measuring.served import offer, serving
if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch, Client("rest") as client:
        with serving(Path(sys.argv[1]), 2, Path(scratch)) as served:
            found = offer(served, [client], 4, 0.5)
    print(sys.version_info[:2], found.answers > 3, found.mean_batch > 1)
"""


@pytest.mark.install
@pytest.mark.skipif(
    os.environ.get("CI") != "true" and os.environ.get("SACCADE_TEST_INSTALL") != "1",
    reason="downloads the kit and what it leaves to the machine, 130 MB; set CI=true or SACCADE_TEST_INSTALL=1",
)
def test_the_predictor_runs_from_the_kit_in_an_empty_python_312(tmp_path: Path) -> None:
    python = python312()
    if python is None:
        pytest.skip("needs Python 3.12 (python3.12 on the PATH, or pyenv's)")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SACCADE_", "VIRTUAL_ENV", "PIP_"))}
    clean |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def run(*command: str | Path, code: int = 0, **environment: str) -> str:
        ended = subprocess.run(
            list(map(str, command)), cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == code, f"{command}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
        return ended.stdout

    kit = tmp_path / "kit"
    run(sys.executable, ROOT / "bench" / "gpu_kit.py", f"--output={kit}")
    assert sum(path.stat().st_size for path in kit.rglob("*")) <= 61 * 2**20
    run(python, "-m", "venv", tmp_path / "bare")
    bare = tmp_path / "bare" / "bin" / "python"
    installer: list[str | Path] = [bare, kit / "install.py", f"--target={tmp_path / 'target'}", f"--checkout={ROOT}"]
    # No registry is reached from here on, but for what such a machine has.
    assert "numpy (needs 2.0 or later)" in run(*installer, code=1, PIP_INDEX_URL="http://127.0.0.1:9/")
    there = "".join(one.text for one in read_lock(LOCK.read_text(encoding="utf-8")) if one.name in LEFT_OUT)
    (tmp_path / "there.txt").write_text(there)
    run(bare, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", tmp_path / "there.txt")
    said = run(*installer, PIP_INDEX_URL="http://127.0.0.1:9/")
    assert "tensorrt: missing" in said

    (tmp_path / "serve.py").write_text(SERVE)
    environment = f". '{tmp_path / 'target' / 'env.sh'}' && exec '{bare}'"
    assert run("/bin/sh", "-c", f"{environment} '{tmp_path / 'serve.py'}' '{DETECTOR}'") == "(3, 12) True True\n"
    assert "nothing is measured: " in run("/bin/sh", "-c", f"{environment} bench/gpu.py")
    tested = run("/bin/sh", "-c", f"{environment} -m pytest tests/gpu -m gpu -n 0 -p no:cacheprovider -q")
    assert "skipped" in tested
