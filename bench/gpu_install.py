"""Installs the wheels of a kit (make gpu-kit) on a GPU machine that reaches no registry, and says what comes next.

Travels in the kit as install.py; needs nothing but Python 3.12 with pip. Every wheel's SHA-256 is checked first. What
was installed before is left as it is, so that it may be called at the beginning of every visit.

    python3 install.py              in a checkout of Saccade, which has the code itself

Exit codes: 0 installed, 1 a wheel is damaged or something is missing that the machine should have, 2 another Python.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

PYTHON = (3, 12)
MANIFEST = "manifest.json"
#: Folders of a checkout that hold packages and modules.
CODE = ("serving", "predictor", "transformers", "cli", "bench", "tests")
#: What runs plans, which no kit brings: name of the module -> what it is.
LIBRARIES = {"tensorrt": "TensorRT with its Python bindings", "pycuda.driver": "pycuda, built for this CUDA"}


def sha256(path: Path) -> str:
    """Of a file, as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def broken(kit: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of the wheels that are missing or not what the manifest says."""
    found = []
    for wheel in manifest["wheels"]:
        path = kit / "wheels" / wheel["file"]
        if not path.is_file() or path.stat().st_size != wheel["bytes"] or sha256(path) != wheel["sha256"]:
            found.append(wheel["file"])
    return found


def missing(manifest: dict[str, Any]) -> list[str]:
    """What the kit leaves to the machine, and is not there or is older than what is asked for."""
    found = []
    for name, least in manifest["left_out"].items():
        try:
            there = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(f"{name} (needs {least} or later)")
            continue
        if numbers(there) < numbers(least):
            found.append(f"{name} is {there} (needs {least} or later)")
    return found


def numbers(version: str) -> tuple[int, ...]:
    """The numbers a version begins with."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def install(kit: Path, target: Path, manifest: dict[str, Any]) -> bool:
    """Install all wheels into ``target/site``, in one step; returns False if they were there already.

    Raises:
        subprocess.CalledProcessError: pip failed; what was there before is left.
    """
    site, stamp = target / "site", target / MANIFEST
    if site.is_dir() and stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == manifest:
        return False
    target.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix="site-", dir=target))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    wheels = [str(kit / "wheels" / wheel["file"]) for wheel in manifest["wheels"]]
    try:
        subprocess.run([*pip, "--no-compile", "--no-cache-dir", "--target", str(new), *wheels], check=True)
        stamp.unlink(missing_ok=True)
        shutil.rmtree(site, ignore_errors=True)
        new.rename(site)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    stamp.write_text(json.dumps(manifest), encoding="utf-8")
    return True


def write_environment(target: Path, checkout: Path) -> Path:
    """The file that a shell reads before everything else: where the packages and the checkout's code are."""
    folders = [target / "site", *(checkout / folder for folder in CODE)]
    path = target / "env.sh"
    path.write_text(
        f'export PYTHONPATH={shlex.quote(":".join(map(str, folders)))}"${{PYTHONPATH:+:$PYTHONPATH}}"\n'
        f"export PATH={shlex.quote(str(target / 'site' / 'bin'))}:$PATH\n",
        encoding="utf-8",
    )
    return path


def can_import(module: str, environment: Path) -> str:
    """Import a module in a process of its own; returns why not, or nothing."""
    command = f". {shlex.quote(str(environment))} && exec {shlex.quote(sys.executable)} -c 'import {module}'"
    ended = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    if ended.returncode == 0:
        return ""
    return (ended.stderr.strip().splitlines() or [f"the import ended with {ended.returncode}"])[-1]


def next_steps(environment: Path, target: Path, count: int, is_new: bool) -> list[str]:
    """What there is to do, in order; each step may be begun again."""
    libraries = []
    for module, what in LIBRARIES.items():
        why = can_import(module, environment)
        libraries.append(f"   {module}: {f'missing, {what} ({why})' if why else 'imports'}")
    source, quoted = f". {shlex.quote(str(environment))}", shlex.quote(str(target / "plans"))
    bench = f"{source} && python3 bench/gpu.py --model MODEL.onnx --plans {quoted}"
    parity = f"{source} && python3 bench/parity.py --folder pictures"
    return [
        "1. libraries (not in the kit)",
        *libraries,
        f"2. wheels: {count} {'installed' if is_new else 'were installed before'} in {target / 'site'}",
        "3. plans, saved for later visits; one that is there is not built again:",
        f"   {bench} --plans-only",
        "4. tests:",
        f"   {source} && python3 -m pytest tests/gpu -m gpu -n 0 -s",
        "5. measurements, written after each size of batch; those that are written are not measured again:",
        f"   {bench} --output {shlex.quote(str(target / 'gpu.json'))} --plot {shlex.quote(str(target / 'gpu.png'))}",
        "6. exactness, on pictures that bench/parity.py --pictures-only --folder pictures made elsewhere:",
        f"   {parity} --output {shlex.quote(str(target / 'parity.json'))}",
    ]


def main(arguments: list[str]) -> int:
    """Check, install, say what comes next; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(tempfile.gettempdir()) / "saccade-gpu"
    parser.add_argument(
        "--kit", type=Path, default=Path(__file__).resolve().parent, help="the kit (default: this one)"
    )
    parser.add_argument("--target", type=Path, default=default, help=f"where to install (default: {default})")
    parser.add_argument("--checkout", type=Path, default=Path.cwd(), help="of Saccade (default: where you are)")
    given = parser.parse_args(arguments)
    kit, target, checkout = given.kit.resolve(), given.target.resolve(), given.checkout.resolve()
    here = sys.version_info[:2]
    if here != PYTHON or sys.platform != "linux" or platform.machine() != "x86_64":
        found = f"Python {here[0]}.{here[1]} on {sys.platform} {platform.machine()}"
        print(f"this is {found}; the wheels are for Python 3.12 on linux x86_64")
        return 2
    if not (checkout / "bench" / "gpu.py").is_file():
        print(f"{checkout} is no checkout of Saccade (no bench/gpu.py); go there, or give it with --checkout")
        return 2
    manifest = json.loads((kit / MANIFEST).read_text(encoding="utf-8"))
    if damaged := broken(kit, manifest):
        print(f"damaged or missing, so that nothing was installed: {', '.join(damaged)}; bring the kit again")
        return 1
    if lacking := missing(manifest):
        print(f"the kit leaves these to the machine, which lacks them: {', '.join(lacking)}")
        return 1
    try:
        is_new = install(kit, target, manifest)
    except subprocess.CalledProcessError as error:
        print(f"pip ended with {error.returncode}; what was installed before is as it was")
        return 1
    environment = write_environment(target, checkout)
    print("\n".join(next_steps(environment, target, len(manifest["wheels"]), is_new)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
