"""How two variants are told to the transformer, and what of it contradicts itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from saccade_serving.settings import explain
from saccade_transformers.__main__ import _lines
from saccade_transformers.settings import TransformerSettings


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(f"SACCADE_TRANSFORMER_{name}", value)
    with pytest.raises(ValidationError) as caught:
        TransformerSettings()
    return explain(caught.value, "SACCADE_TRANSFORMER_")


def test_without_a_host_there_is_no_candidate_and_nothing_is_recorded() -> None:
    settings = TransformerSettings()
    assert settings.candidate_host == ""
    with _lines(settings) as lines:
        assert lines is None


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"CANDIDATE_SHARE": "0.1"}, "without a candidate; expected SACCADE_TRANSFORMER_CANDIDATE_HOST"),
        ({"AB_LOG": "ab.jsonl"}, "without a candidate"),
        ({"CANDIDATE_SHARE_FILE": "share"}, "without a candidate"),
        (
            {"CANDIDATE_HOST": "h:1", "CANDIDATE_SHARE": "0.1", "CANDIDATE_SHARE_FILE": "share"},
            "candidate_share is 0.1 and candidate_share_file 'share'; expected one of them",
        ),
        ({"CANDIDATE_HOST": "h:1", "CANDIDATE_SHARE": "10"}, "SACCADE_TRANSFORMER_CANDIDATE_SHARE='10': .* 1"),
        ({"CANDIDATE_HOST": "h:1", "CANDIDATE_SHARE": "nan"}, "SACCADE_TRANSFORMER_CANDIDATE_SHARE"),
        ({"CANDIDATE_HOST": "h:1", "CANDIDATE_NAME": "stable"}, "are both 'stable'; expected two names"),
        ({"CANDIDATE_HOST": "h:1", "CANDIDATE_NAME": "a b"}, "SACCADE_TRANSFORMER_CANDIDATE_NAME='a b'"),
        ({"CANDIDATE_HOST": "h:1", "STABLE_NAME": "a\r\nb"}, "SACCADE_TRANSFORMER_STABLE_NAME"),
        ({"CANDIDATE_HOST": "h:1", "STABLE_NAME": "a\n"}, "SACCADE_TRANSFORMER_STABLE_NAME"),
        ({"CANDIDATE_HOST": "h:1", "SPLIT_SALT": "x" * 65}, "SACCADE_TRANSFORMER_SPLIT_SALT"),
        ({"CANDIDATE_HOST": "h:1", "AB_LOG_MAX_BYTES": "10"}, "SACCADE_TRANSFORMER_AB_LOG_MAX_BYTES='10'"),
    ],
)
def test_what_contradicts_itself_ends_the_start_with_the_variable_to_change(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sentence: str
) -> None:
    assert re.search(sentence, refused(monkeypatch, **variables))


def test_a_record_that_cannot_be_written_ends_the_start_with_the_reason(tmp_path: Path) -> None:
    settings = TransformerSettings(candidate_host="h:1", ab_log=str(tmp_path / "absent" / "ab.jsonl"))
    said = r"SACCADE_TRANSFORMER_AB_LOG=.*: the file cannot be written: No such file"
    with pytest.raises(SystemExit, match=said), _lines(settings):
        pass
