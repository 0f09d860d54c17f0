"""The dashboards' queries, asked of a real Prometheus that scrapes the real pair: they show something."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm_support import CHART, only, render
from integration_support import HOST, INFER, Service, eventually, v2_binary
from measuring.processes import free_port
from promtool import need

#: Queries of these dashboards on the pair have series, but for what is not there without Kubernetes, GPUs and Redis.
SHOWN = ("overview", "batching", "cache")
ELSEWHERE = (
    "kn_",
    "DCGM_",
    "saccade_cache_redis_",
    "saccade_cache_rejected_values",
    "saccade_gpu_",
    "saccade_arena_locked",
)
#: What counts events that did not happen has no series until one does.
UNSEEN = (
    "saccade_cache_audit_failures_total",
    "saccade_cache_cameras_switched_off_total",
    "saccade_candidates_full_total",
    "saccade_model_changes_total",
    "saccade_predictor_retries_total",
)
VALUES = CHART / "ci" / "production-aws-values.yaml"
NAMES = {"$namespace": "vision", "$inferenceservice": "gate-detector", "$__rate_interval": "30s"}


class Prometheus:
    """A Prometheus that scrapes often, with the chart's rules."""

    def __init__(self, folder: Path, targets: dict[str, int]) -> None:
        self.port = free_port()
        self._log = (folder / "prometheus.log").open("wb")
        rules = only(render(VALUES), "PrometheusRule")["spec"]
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
        scraped = [
            {
                "targets": [f"{HOST}:{port}"],
                "labels": {
                    "namespace": "vision",
                    "inferenceservice": "gate-detector",
                    "component": component,
                    "revision": f"gate-detector-{component}-00001",
                    "pod": f"gate-detector-{component}-00001-a",
                },
            }
            for component, port in targets.items()
        ]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "pair", "static_configs": scraped}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self._process = subprocess.Popen(
            [
                need("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={HOST}:{self.port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def answers(self) -> bool:
        assert self._process.poll() is None, Path(self._log.name).read_text(encoding="utf-8")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/-/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The series of a query now; says what Prometheus says where it is none."""
        asked = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/api/v1/query?{asked}", timeout=30) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        return result

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)
        self._log.close()


def queries(name: str) -> list[str]:
    """The queries of a dashboard with its variables chosen."""
    text = (CHART / "files" / "dashboards" / f"{name}.json").read_text(encoding="utf-8")
    found = []
    for panel in json.loads(text)["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for variable, value in NAMES.items():
                expression = expression.replace(variable, value)
            found.append(expression)
    return found


@pytest.fixture
def watched(
    start: Callable[..., Service], photos: dict[str, bytes], tmp_path: Path
) -> Iterator[tuple[Prometheus, Callable[[], None]]]:
    """A Prometheus beside a pair with a cache, and a way to send it some of everything."""
    predictor = start("predictor")
    transformer = start(
        "transformer",
        f"--predictor_host={HOST}:{predictor.address.rest}",
        CACHE="local",
        CACHE_AUDIT_SHARE="1",
    )
    prometheus = Prometheus(
        tmp_path, {"predictor": predictor.address.metrics, "transformer": transformer.address.metrics}
    )

    def send() -> None:
        for image in photos.values():
            for camera in ("", "gate"):
                body, headers = v2_binary(image, **({"camera_id": camera} if camera else {}))
                assert transformer.address.http(INFER, body, headers).status == 200
        assert transformer.address.http("/detect", b"no image").status == 415
        assert predictor.address.http(INFER, b"{}").status == 400

    try:
        eventually("Prometheus answers", prometheus.answers)
        yield prometheus, send
    finally:
        prometheus.close()


def test_what_a_reader_opens_first_shows_something(watched: tuple[Prometheus, Callable[[], None]]) -> None:
    prometheus, send = watched
    expected = {
        expression
        for name in SHOWN
        for expression in queries(name)
        if not any(one in expression for one in (*ELSEWHERE, *UNSEEN))
    }
    assert len(expected) > 40

    silent = set(expected)

    def shown() -> bool:
        send()
        silent.difference_update([one for one in silent if prometheus.ask(one)])
        return not silent

    try:
        eventually("every query has a series", shown, within_s=90)
    except AssertionError:
        pytest.fail("nothing to see: " + "\n".join(sorted(silent)), pytrace=False)
    for name in ("overview", "batching", "cache", "canary", "gpu"):
        for expression in queries(name):
            prometheus.ask(expression)  # no vectors that do not match, no error


def test_shares_are_shares(watched: tuple[Prometheus, Callable[[], None]]) -> None:
    prometheus, send = watched
    [faults] = [one for one in queries("overview") if one.startswith("(sum (rate(saccade_requests_total")]
    cached = next(one for one in queries("overview") if 'outcome=~"exact|near|coalesced"' in one)

    def shown() -> bool:
        send()
        return bool(prometheus.ask(faults)) and bool(prometheus.ask(cached))

    eventually("both are there", shown, within_s=120)
    assert float(prometheus.ask(faults)[0]["value"][1]) == 0.0, "a wrong image is no fault of the service"
    assert 0.0 <= float(prometheus.ask(cached)[0]["value"][1]) <= 1.0
