"""Metrics: the names everyone shares, each request counted once, nothing of a client's text in a label."""

from __future__ import annotations

import pytest

from integration_support import MODEL, Address, RpcAnswer, ask_all, eventually, v2_grpc

COMMON_METRICS = [
    "saccade_requests_total",
    "saccade_request_seconds",
    "saccade_inflight_requests",
    "saccade_rejected_requests_total",
    "saccade_loop_lag_seconds",
    "saccade_network_bytes_total",
    "request_preprocess_seconds",
    "request_predict_seconds",
    "request_postprocess_seconds",
]
PREDICTOR_METRICS = [
    "saccade_batch_size",
    "saccade_queue_depth",
    "saccade_queue_age_seconds",
    "saccade_engine_busy_seconds_total",
]
TRANSFORMER_METRICS = ["saccade_predictor_seconds", "saccade_candidates_full_total"]


class TestMetrics:
    def test_every_name_of_the_design_is_there(self, transformer: Address, predictor: Address) -> None:
        for address, own in ((transformer, TRANSFORMER_METRICS), (predictor, PREDICTOR_METRICS)):
            text = address.scrape().text
            for name in (*COMMON_METRICS, *own):
                assert f"# TYPE {name} " in text, name
                assert f"# HELP {name} " in text, name

    def test_the_rest_port_serves_the_same(self, transformer: Address) -> None:
        answered = transformer.http("/metrics")
        assert answered.headers["content-type"].startswith("text/plain")
        assert b"saccade_requests_total" in answered.body

    def test_one_request_by_each_protocol_is_counted_once(
        self, transformer: Address, predictor: Address, photos: dict[str, bytes]
    ) -> None:
        def settled() -> bool:
            return all(one.scrape().total("saccade_inflight_requests") == 0 for one in (transformer, predictor))

        eventually("nothing is in flight", settled)
        before, predictor_before = transformer.scrape(), predictor.scrape()
        image = photos["coffee.jpg"]
        check = {"rest": 200, "v1": 200, "detect": 200, "grpc": "OK"}
        for route, answered in ask_all(transformer, image).items():
            assert (answered.code if isinstance(answered, RpcAnswer) else answered.status) == check[route]
        assert transformer.http("/detect", b"text").status == 415
        eventually("all are counted", settled)
        after, predictor_after = transformer.scrape(), predictor.scrape()

        def grew(name: str, **labels: str) -> float:
            return after.total(name, **labels) - before.total(name, **labels)

        for route, code in check.items():
            assert grew("saccade_requests_total", protocol=route, code=str(code), model=MODEL) == 1
        assert grew("saccade_requests_total", protocol="detect", code="415") == 1
        assert grew("saccade_rejected_requests_total", reason="unsupported_media", model=MODEL) == 1
        assert grew("saccade_requests_total") == 5
        for stage, count in (("total", 5), ("decode", 5), ("receive", 4), ("postprocess", 4)):
            assert grew("saccade_request_seconds_count", stage=stage) == count, stage
        assert grew("saccade_request_seconds_bucket", stage="total", le="+Inf") == 5
        assert grew("saccade_network_bytes_total", direction="received") > 4 * len(image)
        assert grew("saccade_network_bytes_total", direction="sent") > 100
        assert grew("saccade_predictor_seconds_count", model=MODEL) == 4
        assert grew("request_predict_seconds_count", model_name=MODEL) == 4
        assert grew("request_preprocess_seconds_count", model_name=MODEL) == 5
        assert after.total("saccade_inflight_requests") == 0

        def predictor_grew(name: str, **labels: str) -> float:
            return predictor_after.total(name, **labels) - predictor_before.total(name, **labels)

        assert predictor_grew("saccade_requests_total", protocol="rest", code="200", model=MODEL) == 4
        assert predictor_grew("saccade_batch_size_sum", model=MODEL, version="1") == 4
        assert predictor_grew("saccade_engine_busy_seconds_total", model=MODEL, version="1") > 0
        parts = ("receive", "queue", "compute", "output")
        for stage in ("total", *parts):
            assert predictor_grew("saccade_request_seconds_count", stage=stage, version="1") == 4, stage
        seconds = {stage: predictor_grew("saccade_request_seconds_sum", stage=stage) for stage in ("total", *parts)}
        assert sum(seconds[stage] for stage in parts) == pytest.approx(seconds["total"])
        assert all(seconds[stage] > 0 for stage in parts)
        assert predictor_grew("request_predict_seconds_count", model_name=MODEL) == 4
        assert predictor_after.total("saccade_queue_depth") == predictor_after.total("saccade_queue_age_seconds") == 0

    def test_what_clients_send_never_becomes_a_label(self, transformer: Address) -> None:
        transformer.http("/v2/models/evil-name/infer", b"{}")
        transformer.rpc("ModelInfer", v2_grpc(b"x", model="evil-name"))
        transformer.http("/evil-path", b"{}")
        text = transformer.scrape().text
        assert "evil" not in text
        assert transformer.scrape().label_values("saccade_requests_total", "model") <= {"", MODEL}

    def test_the_event_loop_is_watched(self, transformer: Address) -> None:
        def ticks() -> float:
            return transformer.scrape().total("saccade_loop_lag_seconds_count")

        first = ticks()
        eventually("the loop's lag is measured again", lambda: ticks() > first)
