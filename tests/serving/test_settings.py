"""Settings: bounded, frozen, explained as the operator wrote them, and listed where people look."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from saccade_predictor.settings import PredictorSettings
from saccade_serving.settings import ServiceSettings, describe, explain
from saccade_transformers.settings import TransformerSettings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
SERVICES: dict[str, type[ServiceSettings]] = {
    "SACCADE_PREDICTOR_": PredictorSettings,
    "SACCADE_TRANSFORMER_": TransformerSettings,
}
FIELDS = [
    pytest.param(prefix, name, info, id=f"{prefix.lower()}{name}")
    for prefix, settings in SERVICES.items()
    for name, info in settings.model_fields.items()
]
NUMBERS = [field for field in FIELDS if field.values[2].annotation in (int, float)]  # type: ignore[union-attr]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of ours from outside."""
    for name in list(os.environ):
        if name.startswith("SACCADE_"):
            monkeypatch.delenv(name)


def bounds(info: FieldInfo) -> tuple[float, float]:
    """The least and the largest value that the field's constraints allow; every number has both."""
    limits = {kind: getattr(m, kind) for m in info.metadata for kind in ("ge", "gt", "le") if hasattr(m, kind)}
    return limits["ge" if "ge" in limits else "gt"], limits["le"]


@pytest.mark.parametrize(("prefix", "name", "info"), FIELDS)
def test_every_setting_is_described(prefix: str, name: str, info: FieldInfo) -> None:
    assert info.description


@pytest.mark.parametrize(("prefix", "name", "info"), NUMBERS)
def test_a_value_out_of_bounds_is_refused_and_named(
    prefix: str, name: str, info: FieldInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    low, high = bounds(info)
    assert low <= info.default <= high
    for wrong in (low - 1, high + 1):
        monkeypatch.setenv(prefix + name.upper(), str(wrong))
        with pytest.raises(ValidationError) as caught:
            SERVICES[prefix]()
        [line] = explain(caught.value, prefix).splitlines()
        assert line.startswith(f"{prefix}{name.upper()}='{wrong}': ")


@pytest.mark.parametrize(("prefix", "settings"), SERVICES.items())
def test_a_running_service_cannot_change_its_mind(prefix: str, settings: type[ServiceSettings]) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings().max_request_bytes = 5  # type: ignore[misc]


def test_the_environment_is_read_under_the_services_own_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SACCADE_PREDICTOR_MAX_QUEUE_SIZE", "7")
    monkeypatch.setenv("SACCADE_TRANSFORMER_HOST", "10.0.0.1")
    monkeypatch.setenv("MAX_REQUEST_BYTES", "2048")
    assert PredictorSettings().max_queue_size == 7
    assert PredictorSettings().host == "0.0.0.0"
    assert PredictorSettings().max_request_bytes == 64 * 2**20
    assert TransformerSettings().host == "10.0.0.1"


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    # Helm writes a variable for every value, also for those that are not set.
    monkeypatch.setenv("SACCADE_PREDICTOR_MAX_QUEUE_SIZE", "")
    assert PredictorSettings().max_queue_size == 1024


def test_a_variable_that_is_no_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Kubernetes writes such variables into every pod for a Service named saccade-predictor.
    monkeypatch.setenv("SACCADE_PREDICTOR_PORT", "tcp://10.0.0.7:8080")
    monkeypatch.setenv("SACCADE_PREDICTOR_SERVICE_HOST", "10.0.0.7")
    assert PredictorSettings() == PredictorSettings(host="0.0.0.0")


def test_a_setting_that_does_not_exist_is_refused_when_it_is_given_in_code() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        PredictorSettings(max_queue_sise=5)  # type: ignore[call-arg]


def test_every_wrong_variable_gets_a_line_named_as_the_operator_wrote_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SACCADE_PREDICTOR_LOG_LEVEL", "loud")
    monkeypatch.setenv("SACCADE_PREDICTOR_MAX_QUEUE_SIZE", "many")
    with pytest.raises(ValidationError) as caught:
        PredictorSettings()
    lines = sorted(explain(caught.value, "SACCADE_PREDICTOR_").splitlines())
    assert lines[0].startswith("SACCADE_PREDICTOR_LOG_LEVEL='loud': Input should be 'debug', 'info'")
    assert lines[1].startswith("SACCADE_PREDICTOR_MAX_QUEUE_SIZE='many': Input should be a valid integer")


@pytest.mark.parametrize(("prefix", "settings"), SERVICES.items())
def test_the_help_text_lists_every_variable_with_its_default(prefix: str, settings: type[ServiceSettings]) -> None:
    lines = describe(settings).splitlines()
    assert len(lines) == len(settings.model_fields)
    for (name, info), line in zip(settings.model_fields.items(), lines, strict=True):
        default = str(info.default) if isinstance(info.default, Path | SecretStr) else repr(info.default)
        default = "''" if isinstance(info.default, SecretStr) else default
        assert line == f"  {prefix}{name.upper()} (default {default}): {info.description}"
    assert "Path(" not in "".join(lines)


def test_the_settings_page_lists_every_variable_with_its_default_and_its_meaning() -> None:
    rows = {
        variable: (default.strip("`"), meaning)
        for variable, default, meaning in re.findall(
            r"^\| `(SACCADE_\w+)` \| ([^|]+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    expected = {}
    for prefix, settings in SERVICES.items():
        for name, info in settings.model_fields.items():
            if prefix == "SACCADE_TRANSFORMER_" and name in ServiceSettings.model_fields:
                continue  # listed once, for the predictor
            expected[prefix + name.upper()] = (str(info.default) or "empty", info.description)
    assert rows == expected
