"""Packs what the predictor and bench/gpu.py need on a GPU machine that has Python 3.12 but reaches no registry.

Wheels for CPython 3.12 on Linux x86-64 from the lock requirements/gpu-kit.txt, each one's SHA-256 held against the
lock, at most 60 MiB in all; a manifest; and the script that installs them there. Large packages that such machines
have anyway are left to them, and the script looks whether they are there. The code itself is not in it: a checkout
travels with it. TensorRT's libraries and pycuda are not either: they belong to the machine's CUDA.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gpu_install import MANIFEST, PYTHON, broken, sha256

ROOT: Final = Path(__file__).resolve().parents[1]
KIT: Final = ROOT / ".gpu-kit"
LOCK: Final = ROOT / "requirements" / "gpu-kit.txt"
INSTALLER: Final = ROOT / "bench" / "gpu_install.py"
MOST_BYTES: Final = 60 * 2**20
#: Left to the machine, with the least version that does: 77 MiB that one with PyTorch has.
LEFT_OUT: Final[Mapping[str, str]] = {
    "ml-dtypes": "0.5",
    "numpy": "2.0",
    "onnx": "1.18",
    "onnxruntime": "1.23",
    "pillow": "11",
}
#: Wanted by kserve and tritonclient, and imported by nothing here: 12 MiB, without which kit and checkout fit 64 MiB.
UNUSED: Final = frozenset(
    {"aiohttp", "cffi", "cryptography", "grpcio-tools", "pycparser", "python-rapidjson", "setuptools"}
)
#: glibc 2.28 and later; pip takes each tag for itself.
PLATFORMS: Final = (*(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)), "manylinux2014_x86_64",
                    "manylinux2010_x86_64", "manylinux1_x86_64")  # fmt: skip


class KitFailed(Exception):
    """There is no kit; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Locked:
    """One package of the lock.

    Attributes:
        text: its lines.
        hashes: SHA-256 of the files that may be it, as hex.
    """

    name: str
    version: str
    text: str
    hashes: frozenset[str]


def read_lock(text: str) -> list[Locked]:
    """The packages of a lock that was made for one platform.

    Raises:
        KitFailed: a requirement has no version, no hash, or a condition.
    """
    found = []
    for part in re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)):
        if not part.strip():
            continue
        match = re.match(r"([A-Za-z0-9._-]+)==(\S+) \\\n", part.lstrip())
        hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", part))
        if match is None or not hashes:
            raise KitFailed(f"{part.strip().splitlines()[0]!r} in the lock is no NAME==VERSION with hashes; make lock")
        found.append(Locked(normal(match[1]), match[2], part.strip() + "\n", hashes))
    return found


def normal(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def download(packages: Sequence[Locked], folder: Path) -> None:
    """Have pip fetch the wheels, which checks their hashes.

    Raises:
        KitFailed: it cannot.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as wanted:
        wanted.write("".join(package.text for package in packages))
        wanted.flush()
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", "--implementation=cp"]
        command += [f"--python-version={PYTHON[0]}.{PYTHON[1]}", *(f"--platform={tag}" for tag in PLATFORMS)]
        command += ["--dest", str(folder), "-r", wanted.name]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise KitFailed(
            f"pip ended with {ended.returncode}: {(ended.stderr.strip().splitlines() or ['no message'])[-1]}"
        )


def describe(folder: Path, packages: Sequence[Locked], added: Sequence[Path], lock: str) -> dict[str, Any]:
    """The manifest of downloaded wheels, after a look at each.

    Raises:
        KitFailed: a wheel is missing, too many, or none that the lock allows; or they are too large.
    """
    wheels = sorted(folder.glob("*.whl"))
    known = {package.name: package for package in packages}
    own = {path.name for path in added}
    seen = set()
    for path in wheels:
        name = normal(path.name.split("-")[0])
        if path.name in own:
            continue
        if name not in known or sha256(path) not in known[name].hashes:
            raise KitFailed(f"{path.name} is not what the lock allows")
        seen.add(name)
    if lacking := sorted(set(known) - seen):
        raise KitFailed(f"no wheel came for {', '.join(lacking)}")
    total = sum(path.stat().st_size for path in wheels)
    if total > MOST_BYTES:
        large = sorted(wheels, key=lambda path: -path.stat().st_size)[:5]
        listed = ", ".join(f"{path.name.split('-')[0]} {path.stat().st_size / 2**20:.1f}" for path in large)
        most = MOST_BYTES / 2**20
        raise KitFailed(f"the wheels have {total / 2**20:.1f} MiB, expected at most {most:.0f}; the largest: {listed}")
    return {
        "lock": hashlib.sha256(lock.encode()).hexdigest(),
        "added": sorted(own),
        "left_out": dict(LEFT_OUT),
        "unused": sorted(UNUSED),
        "wheels": [{"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)} for path in wheels],
    }


def is_current(kit: Path, lock: str, added: Sequence[Path]) -> bool:
    """Whether a kit is there, whole, and of this lock."""
    try:
        manifest = json.loads((kit / MANIFEST).read_text(encoding="utf-8"))
        digest, left = hashlib.sha256(lock.encode()).hexdigest(), [dict(LEFT_OUT), sorted(UNUSED)]
        wanted = digest, left, {path.name: sha256(path) for path in added}
        hashes = {wheel["file"]: wheel["sha256"] for wheel in manifest["wheels"]}
        added_then = {name: hashes[name] for name in manifest["added"]}
        told = manifest["lock"], [manifest["left_out"], manifest["unused"]], added_then
        return wanted == told and not broken(kit, manifest)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def pack(kit: Path, lock: Path, added: Sequence[Path]) -> dict[str, Any]:
    """Write the kit, in one step; returns its manifest.

    Raises:
        KitFailed: it cannot be written.
    """
    text = lock.read_text(encoding="utf-8")
    packages = [package for package in read_lock(text) if package.name not in {*LEFT_OUT, *UNUSED}]
    if not is_current(kit, text, added):
        kit.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".gpu-kit-", dir=kit.parent) as scratch:
            new = Path(scratch) / "kit"
            wheels = new / "wheels"
            wheels.mkdir(parents=True)
            download(packages, wheels)
            for path in added:
                shutil.copyfile(path, wheels / path.name)
            (new / MANIFEST).write_text(json.dumps(describe(wheels, packages, added, text), indent=1) + "\n")
            shutil.rmtree(kit, ignore_errors=True)
            new.rename(kit)
    shutil.copyfile(INSTALLER, kit / "install.py")
    manifest: dict[str, Any] = json.loads((kit / MANIFEST).read_text(encoding="utf-8"))
    return manifest


def main(arguments: Sequence[str]) -> int:
    """Write the kit, say what to do with it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="bench/gpu_kit.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=KIT, help="the kit's folder (default: .gpu-kit)")
    parser.add_argument(
        "--add", type=Path, action="append", default=[], metavar="WHEEL", help="a further wheel, such as pycuda's"
    )
    given = parser.parse_args(arguments)
    if odd := [path for path in given.add if not (path.is_file() and path.suffix == ".whl")]:
        parser.error(f"--add {odd[0]}: expected a wheel that exists")
    try:
        manifest = pack(given.output, LOCK, given.add)
    except (KitFailed, OSError) as why:
        print(f"no kit was written: {why}", file=sys.stderr)
        return 1
    total = sum(wheel["bytes"] for wheel in manifest["wheels"])
    print(f"{given.output}: {len(manifest['wheels'])} wheels, {total / 2**20:.1f} MiB")
    print("Bring it and a checkout to the GPU machine, and there, in the checkout: python3 .gpu-kit/install.py")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
