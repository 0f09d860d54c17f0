"""The house keeps its rules: folders, packages, who imports whom, what an import loads, locks, file sizes.

Each rule stands in DESIGN section 1, with the traps that led to it.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTAINERS = {
    "serving": "saccade_serving",
    "predictor": "saccade_predictor",
    "transformers": "saccade_transformers",
    "cli": "saccade_cli",
    "loadtest": "saccade_loadtest",
}
#: What a container may hold beside its package: Locust wants a file to run.
BESIDE = {"loadtest": {"locustfile.py"}}
PACKAGES = {name: ROOT / folder / name for folder, name in CONTAINERS.items()}

#: What each package may import of ours. The two services meet on the wire; only the command line may use both.
ALLOWED = {
    "saccade_serving": {"saccade_serving"},
    "saccade_predictor": {"saccade_predictor", "saccade_serving"},
    "saccade_transformers": {"saccade_transformers", "saccade_serving"},
    "saccade_cli": {"saccade_serving", "saccade_predictor", "saccade_transformers", "saccade_cli"},
    "saccade_loadtest": {"saccade_loadtest"},  # a client like any other
}
#: The modules whose import brings kserve's global protobuf definitions with it.
KSERVE_MODULES = {f"saccade_serving.{name}" for name in ("server", "application", "listener", "model")}
#: Modules that must stay usable beside tritonclient.grpc.
LIGHT = ("saccade_serving.oip", "saccade_serving.client", "saccade_cli")
LIGHT_MODULES = ("saccade_serving", "saccade_serving.errors", "saccade_serving.connection.exchange")

LONGEST = 400
#: How a longer module's docstring says why: "... over 400 lines because ...".
REASON = re.compile(r"over 400 lines[,:]? (because|since)", re.IGNORECASE)
LARGEST_FILE = 10 * 2**20


def modules(*packages: str) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module of our packages."""
    for package in packages or PACKAGES:
        folder = PACKAGES[package]
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imported(path: Path) -> set[str]:
    """Full names of everything a file imports, anywhere in it: at the top, in functions, for type checking."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its direction"
            assert node.module is not None
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def run_python(code: str, **environment: str) -> str:
    """Run code in a fresh interpreter at the repository's root; returns what it prints."""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONSAFEPATH": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.parametrize(("folder", "package"), CONTAINERS.items())
def test_a_code_folder_holds_exactly_one_package_and_is_none_itself(folder: str, package: str) -> None:
    here = ROOT / folder
    assert not (here / "__init__.py").exists(), f"{folder}/ would be a package of that name"
    assert {child.name for child in here.iterdir()} - {"__pycache__"} - BESIDE.get(folder, set()) == {package}
    assert (here / package / "__init__.py").is_file()
    assert (here / package / "py.typed").is_file(), f"{package} is typed, and says so"


def test_every_folder_with_a_package_of_ours_is_one_of_the_known_ones() -> None:
    found = {path.parents[1].relative_to(ROOT).as_posix() for path in ROOT.glob("*/saccade_*/__init__.py")}
    assert found == set(CONTAINERS)


def test_the_wheel_and_the_tools_know_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tools = project["tool"]
    assert set(tools["hatch"]["build"]["targets"]["wheel"]["packages"]) == {f"{k}/{v}" for k, v in CONTAINERS.items()}
    folders = {*CONTAINERS, "tests"}
    for known in (tools["pytest"]["ini_options"]["pythonpath"], tools["mypy"]["mypy_path"], tools["ruff"]["src"]):
        assert folders <= set(known)
    assert folders <= set(tools["mypy"]["files"])
    # ruff's default source list holds the root, where Hugging Face's transformers would sort as ours.
    assert "." not in tools["ruff"]["src"]
    assert "--import-mode=importlib" in tools["pytest"]["ini_options"]["addopts"]


def test_no_folder_of_the_tests_is_a_package() -> None:
    # tests/transformers/__init__.py would put tests/ on the path and shadow Hugging Face's transformers.
    assert [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("__init__.py")] == []


def test_the_folder_transformers_does_not_pass_for_hugging_faces() -> None:
    found = run_python(
        "import importlib.util\n"
        "spec = importlib.util.find_spec('transformers')\n"
        "print('' if spec is None else list(spec.submodule_search_locations))"
    )
    assert not found or str(ROOT) not in found.replace(str(ROOT / ".venv"), "")


def test_the_path_guard_is_needed_and_works() -> None:
    # Without PYTHONSAFEPATH the root is on the path and the bare folder is found: the guard is not decoration.
    code = "import importlib.util; print(importlib.util.find_spec('predictor') is not None)"
    assert run_python(code, PYTHONSAFEPATH="") == "True"
    assert run_python(code) == "False"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    ours = {name.partition(".")[0] for name in imported(MODULES[module])} & set(PACKAGES)
    assert ours <= ALLOWED[module.partition(".")[0]]


def test_of_the_serving_package_only_what_serves_imports_kserve() -> None:
    found = {
        module
        for module, path in modules("saccade_serving")
        if any(name.partition(".")[0] == "kserve" for name in imported(path))
    }
    assert found == KSERVE_MODULES


def test_what_stays_light_does_not_import_the_modules_that_load_kserve() -> None:
    for module, path in modules("saccade_serving", "saccade_cli"):
        if module.startswith(LIGHT) or module in LIGHT_MODULES:
            assert not imported(path) & KSERVE_MODULES, module
            assert not any(name.rpartition(".")[0] in KSERVE_MODULES for name in imported(path)), module


def test_nothing_of_ours_imports_tritons_grpc_package() -> None:
    # Triton's model_config_pb2 is loaded by its path; the package around it would claim kserve's symbols.
    for module, path in MODULES.items():
        found = [name for name in imported(path) if name.startswith(("tritonclient.grpc", "tritonclient.utils"))]
        assert not found, f"{module} imports {found}"


def test_the_light_modules_load_neither_kserve_nor_tritonclient() -> None:
    light = [m for m in MODULES if m.startswith(LIGHT) or m in LIGHT_MODULES]
    assert len(light) > 20
    found = run_python(
        f"import importlib, sys\n"
        f"for name in {light!r}:\n"
        f"    importlib.import_module(name)\n"
        f"    bad = sorted(m for m in sys.modules if m.partition('.')[0] in ('kserve', 'tritonclient'))\n"
        f"    if bad:\n"
        f"        print(name, bad[:3])\n"
        f"        break\n"
    )
    assert found == ""


#: Uses both protobuf worlds: ours to encode and decode a request, Triton's to decode ours.
_BESIDE_TRITON = """
import numpy as np
{imports}
from saccade_serving.oip import grpc_codec
from saccade_serving.oip.messages import InferRequest, Tensor
request = InferRequest("m", [Tensor.of("x", np.arange(3, dtype=np.int32))], id="7")
message = grpc_codec.encode_request(request)
theirs = tritonclient.grpc.service_pb2.ModelInferRequest.FromString(message.SerializeToString())
assert theirs.id == "7" and theirs.inputs[0].name == "x"
assert grpc_codec.decode_request(message).inputs[0].array.tolist() == [0, 1, 2]
saccade_serving.client.GrpcClient("127.0.0.1:1"), saccade_serving.client.RestClient("http://127.0.0.1:1")
assert saccade_cli.__main__.app.registered_commands
print("works")
"""


@pytest.mark.parametrize("triton_first", [True, False])
def test_client_codecs_and_command_line_work_beside_tritonclient_grpc_in_either_order(triton_first: bool) -> None:
    ours = ["import saccade_serving.client", "import saccade_cli.__main__", "import saccade_serving.oip.proto"]
    theirs = ["import tritonclient.grpc"]
    lines = theirs + ours if triton_first else ours + theirs
    assert run_python(_BESIDE_TRITON.format(imports="\n".join(lines))) == "works"


def test_the_transformer_loads_no_engine_and_nothing_of_the_predictor() -> None:
    found = run_python(
        "import sys, saccade_transformers.__main__\n"
        "bad = ('saccade_predictor', 'tensorrt', 'tensorrt_rtx', 'cuda', 'pycuda', 'onnxruntime', 'onnx', 'torch')\n"
        "print(sorted(m for m in sys.modules if m.partition('.')[0] in bad))"
    )
    assert found == "[]"


def test_a_load_test_without_locust_loads_neither_gevent_nor_a_protobuf_module_nor_a_service() -> None:
    # gevent patches whoever imports it; the generators' schedules must not run under it.
    found = run_python(
        "import sys, saccade_loadtest.__main__, saccade_loadtest.sending.generator\n"
        "bad = ('gevent', 'locust', 'kserve', 'tritonclient', 'saccade_serving', 'onnxruntime')\n"
        "print(sorted(m for m in sys.modules if m.partition('.')[0] in bad))"
    )
    assert found == "[]"


LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_says_what_to_install_and_not_from_where(lock: Path) -> None:
    text = re.sub(r"^\s*#.*$", "", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|--trusted-host|\s@\s|file:", text)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_requirement_of_a_lock_is_pinned_and_hashed(lock: Path) -> None:
    logical = lock.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    requirements = [line for line in logical if line.strip() and not line.lstrip().startswith("#")]
    assert requirements
    for line in requirements:
        assert re.match(r"[a-z0-9][a-z0-9._-]*(\[[a-z,-]+\])?==[^\s;]+", line), line[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", line), line[:80]


def test_there_is_a_lock_for_every_extra_that_an_image_installs() -> None:
    assert {"predictor.txt", "transformer.txt", "app.txt", "dev.txt", "build.txt"} <= {lock.name for lock in LOCKS}


def test_no_tracked_file_is_over_10_mb() -> None:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("git does not list this checkout's files")
    files = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    assert len(files) > 50
    assert [f.name for f in files if f.is_file() and f.stat().st_size > LARGEST_FILE] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_and_is_short_or_says_why_not(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, f"{module} has no docstring"
    lines = len(text.splitlines())
    assert lines <= LONGEST or REASON.search(docstring), f"{module} has {lines} lines; its docstring gives no reason"
