"""The documentation says what the code does: settings, config fields, errors, metrics, links."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from saccade_predictor.__main__ import HELP as PREDICTOR_HELP
from saccade_predictor.build.saying import INTERRUPTED, MODEL, TERMINATED, USAGE
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.settings import PredictorSettings
from saccade_predictor.tritonschema import HARMLESS, REFUSED
from saccade_serving import errors
from saccade_serving.server import argument_parser
from saccade_serving.settings import ServiceSettings
from saccade_transformers.__main__ import HELP as TRANSFORMER_HELP
from saccade_transformers.cache.shared.metrics import RedisMetrics
from saccade_transformers.metrics import TransformerMetrics
from saccade_transformers.settings import TransformerSettings
from saccade_transformers.workers import ImageWorkers

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("settings", [PredictorSettings, TransformerSettings])
def test_every_setting_is_documented_with_its_default_and_meaning(settings: type[ServiceSettings]) -> None:
    text = read("settings.md")
    for name, field in settings.model_fields.items():
        prefix = settings.model_config["env_prefix"]
        if name in ServiceSettings.model_fields:
            prefix = "SACCADE_PREDICTOR_"  # one table for the fields both services have
        default = f"`{field.default}`" if str(field.default) else "empty"
        assert f"| `{prefix}{name.upper()}` | {default} | {field.description} |" in text


@pytest.mark.parametrize("service", ["predictor", "transformer"])
def test_every_flag_is_documented(service: str) -> None:
    text = read("settings.md")
    table, _, rest = text.partition("Accepted without effect:")
    ignored, _, _ = rest.partition("\n\n")
    told = {"predictor": PREDICTOR_HELP, "transformer": TRANSFORMER_HELP}[service]
    for action in argument_parser(service, ServiceSettings, told)._actions:
        (flag, *_) = action.option_strings[-1:]
        if flag in ("--help", "--version") or action.dest in told:
            continue
        where = ignored if (action.help or "").startswith("ignored") else table
        assert f"`{flag}`" in where, flag
    for name in TRANSFORMER_HELP:
        assert f"`--{name}`" in table


def test_every_documented_setting_exists() -> None:
    known = {
        f"{prefix}{name}".upper()
        for prefix, settings in (
            ("SACCADE_PREDICTOR_", PredictorSettings),
            ("SACCADE_TRANSFORMER_", TransformerSettings),
        )
        for name in settings.model_fields
    }
    for page in DOCS.glob("*.md"):
        for variable in re.findall(r"SACCADE_(?:PREDICTOR|TRANSFORMER)_[A-Z_]*[A-Z]", page.read_text()):
            assert variable in known, f"{page.name} names {variable}"


def test_every_field_of_config_pbtxt_that_is_not_implemented_is_documented() -> None:
    text = read("config.md")
    for fields in (HARMLESS, REFUSED):
        for field, reason in fields.items():
            assert f"| `{field}` | {reason} |" in text


def leaves(base: type[errors.SaccadeError]) -> list[type[errors.SaccadeError]]:
    found = [base] if base is not errors.SaccadeError else []
    for child in base.__subclasses__():
        found += leaves(child)
    return found


def test_every_error_is_documented_with_its_codes() -> None:
    text = read("api.md")
    for error in leaves(errors.SaccadeError):
        if not error.__module__.startswith("saccade_serving"):
            continue
        row = re.search(rf"\| `{error.reason}` \| {error.status}[^|]*\| {error.grpc_code} \|", text)
        assert row, f"{error.reason} {error.status} {error.grpc_code} is not in docs/api.md"


#: Names of settings and log events that look like metrics.
NO_METRICS = {"request_log", "request_log_share"}


def exposed_names() -> set[str]:
    predictor, transformer = PredictorMetrics(), TransformerMetrics()
    predictor.watch_queues(list, list, list)
    predictor.watch_models(list)
    predictor.watch_gpus(list, lambda: 0)
    workers = ImageWorkers(1, 1)
    transformer.watch_workers(workers)
    transformer.add(*RedisMetrics().families)
    workers.close()
    names = set()
    for metrics in (predictor, transformer):
        metrics.watch_gate(lambda: 0, dict)
        for family in metrics.collect():
            names.add(family.name + ("_total" if family.type == "counter" else ""))
    return names


def test_every_metric_is_documented_and_every_documented_metric_exists() -> None:
    # KServe's own names begin with request_.
    documented = set(re.findall(r"\b(?:saccade|request)_[a-z_]+_?[a-z]+", read("operations.md"))) - NO_METRICS
    assert documented == exposed_names()


@pytest.mark.parametrize("page", sorted([ROOT / "README.md", ROOT / "THIRD_PARTY.md", *DOCS.glob("*.md")]), ids=str)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_exit_codes_of_a_build_are_documented() -> None:
    _, _, section = read("tensorrt.md").partition("## In a Job")
    documented = re.findall(r"^\| (\d+(?:, \d+)*) \|", section, re.MULTILINE)
    codes = {int(code) for row in documented for code in row.split(", ")}
    # 137 is the kernel's, for a process that it kills.
    assert codes == {0, MODEL, USAGE, INTERRUPTED, TERMINATED, 128 + signal.SIGKILL}


def test_every_alert_of_the_chart_is_documented() -> None:
    rules = (ROOT / "helm" / "saccade" / "templates" / "prometheusrule.yaml").read_text(encoding="utf-8")
    alerts = set(re.findall(r"alert: (\w+)", rules))
    rows = re.findall(r"^\| (`Saccade.*?) \|", read("install.md"), flags=re.MULTILINE)
    assert alerts == {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_the_readme_names_only_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    text = "\n".join(page.read_text() for page in [ROOT / "README.md", *DOCS.glob("*.md")])
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
