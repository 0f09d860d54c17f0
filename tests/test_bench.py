"""The bench measures what it says: requests, statistics, processes, clients against bare servers, one small run."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import hard_limit
import replay
import shadow
from batching import WrongAnswers, check
from fakes import settle
from integration_support import eventually
from measuring import (
    batching_table,
    ceiling,
    contenders,
    goals,
    grpc_client,
    limit_table,
    machine,
    onnx_models,
    open_loop,
    path_table,
    payload,
    proxy,
    rest_client,
    table,
    traced,
    triton,
)
from measuring.ceiling import Step
from measuring.contenders import ALONE, CONTENDERS, Running
from measuring.cpu import cpu_s, with_descendants
from measuring.environment import Unavailable, install
from measuring.memory import allow_files, ask, idle_connections, open_files, rss_bytes
from measuring.open_loop import Traffic
from measuring.plan import DEFAULT, QUICK, requests_for
from measuring.processes import Server, ServerFailed, free_port
from measuring.samples import ClientError, Load, Sample
from measuring.summary import Row, percentile, summarise
from measuring.targets import BENCH, TARGETS, choose
from queue_proxy import need_program
from saccade_serving.oip import binary_codec, grpc_codec, proto
from saccade_serving.scheduling.policy import BatchingRules
from saccade_serving.scheduling.profile import LatencyProfile
from saccade_serving.scheduling.queue import Queue
from saccade_serving.scheduling.scheduler import Scheduler
from saccade_serving.scheduling.trace import Recorded, encode
from servers.bare import Http1, Http2
from servers.noop import first_byte
from servers.onnx_session import Counts, open_session

ROOT = Path(__file__).resolve().parents[1]
SOON_S = 60.0


def target(key: str) -> Any:
    return next(one for one in TARGETS if one.key == key)


def sample(cpu_ms: float, *latencies_ms: float) -> Sample:
    """A sample whose every request cost ``cpu_ms``, answered one after the other."""
    count = len(latencies_ms)
    return Sample([ms / 1e3 for ms in latencies_ms], sum(latencies_ms) / 1e3, cpu_ms * count / 1e3, count / 1e3)


# requests


@pytest.mark.parametrize("size", payload.SHAPES)
def test_both_protocols_send_the_same_tensor(size: str) -> None:
    body, json_length = payload.rest_body(size)
    by_rest = binary_codec.decode_request("noop", "", body, json_length)
    message = proto.ModelInferRequest.FromString(payload.grpc_request("noop", size))
    by_grpc = grpc_codec.decode_request(message)
    for request in (by_rest, by_grpc):
        (tensor,) = request.inputs
        assert (tensor.name, tensor.datatype, tensor.shape) == ("image", "UINT8", payload.SHAPES[size])
        assert first_byte(tensor.array).tolist() == [payload.ELEMENT]


def test_the_sizes_are_what_they_are_called() -> None:
    assert payload.request_bytes("353B")["rest"] == 353
    assert payload.request_bytes("1.2MB")["grpc"] > 640 * 640 * 3 == 1_228_800


def test_the_request_head_describes_its_body() -> None:
    head, _, body = payload.rest_request("noop_batched", "353B").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v2/models/noop_batched/infer HTTP/1.1\r\n")
    assert b"\r\nContent-Length: 353" in head
    assert len(body) == 353


@pytest.mark.parametrize("size", payload.SHAPES)
def test_requests_with_ids_of_their_own_differ_in_nothing_else(size: str) -> None:
    template = payload.rest_request("noop", size, own_id=True)
    made, shared = payload.numbered(template, [7, 12_345_678])
    first, second = (begin + bytes(shared) for begin in made)
    assert len(first) == len(second) == len(template)
    assert first != second
    assert first.replace(b"00000007", b"12345678") == second
    head, _, body = first.partition(b"\r\n\r\n")
    assert b"\r\nX-Request-Id: 00000007" in head
    assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head
    equal = payload.rest_request("noop", size).partition(b"\r\n\r\n")[2]
    if size == "353B":
        assert len(body) == len(equal) == 353
    _, json_length = payload.rest_body(size, "00000007")
    request = binary_codec.decode_request("noop", "", body, json_length)
    assert request.id == "00000007"
    assert first_byte(request.inputs[0].array).tolist() == [payload.ELEMENT]


def test_further_headers_stand_in_the_head() -> None:
    head = payload.rest_request("noop", "353B", headers={"X-Deadline-Ms": "30000"}).partition(b"\r\n\r\n")[0]
    assert head.endswith(b"\r\nX-Deadline-Ms: 30000")


def test_an_answer_is_right_in_either_form_and_wrong_when_it_is_empty() -> None:
    assert payload.is_right(payload.grpc_answer())
    assert payload.is_right(b'{"data":[7.0]}')
    assert not payload.is_right(b'{"outputs":[{"parameters":{"binary_data_size":0}}]}')


def test_the_work_is_one_byte_in_and_one_number_out() -> None:
    answer = first_byte(np.full((1, 4, 4, 3), 9, np.uint8))
    assert answer.dtype == np.float32
    assert answer.shape == (1,)
    assert answer.tolist() == [9.0]


# statistics


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.5, 2), (0.75, 3), (0.76, 4), (1.0, 4)])
def test_a_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([4, 1, 3, 2], share) == expected


def summary() -> list[Row]:
    """Two rounds of Saccade, one of the others, at 8 connections and at 1."""
    samples = {
        ("bare-rest", "353B", 1): [sample(0.01, 0.1, 0.1)],
        ("saccade-rest-batched", "353B", 1): [sample(0.4, 0.5, 0.7, 0.6), sample(0.2, 1.0)],
        ("kserve-grpc", "353B", 1): [sample(0.6, 1.0)],
        ("saccade-rest-batched", "353B", 8): [sample(0.1, 0.5)],
        ("kserve-grpc", "353B", 8): [sample(1.0, 1.0)],
        ("triton-http", "353B", 8): [sample(0.1, 1.0)],
    }
    return summarise(samples, choose([]))


def row(rows: Sequence[Row], key: str, connections: int) -> Row:
    return next(one for one in rows if (one.target, one.connections) == (key, connections))


def test_a_row_has_the_medians_of_its_rounds_and_the_ratios_of_its_load() -> None:
    found = row(summary(), "saccade-rest-batched", 1)
    assert found.requests == 4
    assert found.cpu_ms_rounds == pytest.approx([0.4, 0.2])
    assert found.cpu_ms == pytest.approx(0.3)
    assert found.p50_ms == pytest.approx((0.6 + 1.0) / 2)
    assert found.p99_ms == pytest.approx(1.0)
    assert found.added_p50_ms == pytest.approx(0.8 - 0.1)
    assert found.times_kserve_grpc == pytest.approx(0.3 / 0.6)
    assert found.times_triton_http is None


def test_rows_come_by_load_and_then_in_the_order_of_the_servers() -> None:
    assert [(one.connections, one.target) for one in summary()] == [
        (1, "bare-rest"),
        (1, "saccade-rest-batched"),
        (1, "kserve-grpc"),
        (8, "saccade-rest-batched"),
        (8, "kserve-grpc"),
        (8, "triton-http"),
    ]


def test_a_goal_is_reached_missed_or_not_measured() -> None:
    judged = {goal.what: goal for goal in goals.judge(summary()) if goal.row == "Saccade REST + batcher"}
    assert judged["CPU, 353 B, as a share of stock KServe gRPC"].reached is True
    assert judged["CPU, 353 B, as a share of Triton HTTP"].reached is False
    assert judged["added latency, 353 B, 1 connection (ms)"].reached is False
    assert judged["throughput, 1.2 MB, as a multiple of Triton HTTP"].reached is None
    assert goals.Goal("speed", "any", 3, 3.5, at_least=True).reached is True


def test_goals_are_judged_for_rest_with_equal_requests_and_with_different_ones() -> None:
    assert {goal.row for goal in goals.judge(summary())} == set(goals.ROWS)
    assert [target(key).protocol for key in goals.ROWS.values()] == ["rest", "rest"]
    assert [target(key).own_ids for key in goals.ROWS.values()] == [False, True]


def test_the_notes_are_about_the_rows_there_are() -> None:
    assert table.notes(choose(["kserve", "saccade-rest"])) == []
    (ids,) = table.notes(choose(["saccade-rest-batched-ids"]))
    assert ids.startswith("own ids: ")
    assert len(table.notes(choose(["saccade"]))) == 2


def test_the_table_shows_every_row_of_its_size_and_a_dash_for_what_is_unknown() -> None:
    console = table.console()
    with console.capture() as capture:
        console.print(table.results(summary(), "353B"))
        console.print(table.goals(goals.judge(summary())))
    text = capture.get()
    for label in ("bare asyncio HTTP/1.1", "Saccade REST + batcher", "KServe gRPC", "Triton HTTP"):
        assert label in text
    assert " - " in text
    assert "throughput" not in text, "a goal without a measurement"


def test_a_quick_run_judges_no_goal() -> None:
    assert DEFAULT.judges
    assert not QUICK.judges
    assert not QUICK.changed(["353B"], None, 10).judges
    console = table.console()
    with console.capture() as capture:
        console.print(table.goals(goals.judge(summary()), enough=False))
    text = capture.get()
    assert text.count("too few requests to judge") == sum(one.measured is not None for one in goals.judge(summary()))
    assert " yes " not in text
    assert " no " not in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.0312, "0.031"), (-0.5, "-0.500"), (4.444, "4.44"), (44.44, "44.4"), (741, "741")],
)
def test_numbers_have_three_digits(value: float | None, shown: str) -> None:
    assert table.number(value) == shown


# the path


def server(limit_per_s: float, cpu_ms: float) -> Callable[[float], Step]:
    """A server that costs so much per request, and answers no more than so many."""

    def offer(rate: float) -> Step:
        answered = min(rate, limit_per_s)
        return Step(rate, answered, answered * cpu_ms / 1e3, 1.0, 2.0)

    return offer


@pytest.mark.parametrize("guess", [300, 600, 700, 900, 2000])
def test_a_climb_finds_the_rate_at_the_share_from_any_guess(guess: float) -> None:
    steps = ceiling.climb(guess, server(1e9, cpu_ms=1))
    rates = [step.offered_per_s for step in steps]
    assert rates == sorted(rates)
    found = ceiling.read(steps)
    assert found.reached
    assert found.per_s == pytest.approx(700)
    assert found.at.cpu_share == pytest.approx(0.7, abs=0.04)


def test_a_climb_that_something_else_ends_gives_a_lower_bound() -> None:
    found = ceiling.read(ceiling.climb(700, server(560, cpu_ms=1)))
    assert not found.reached
    assert 525 <= found.per_s <= 560
    assert found.at.kept_up


def test_a_step_that_was_disturbed_is_tried_again() -> None:
    disturbed = iter([True, False])

    def offer(rate: float) -> Step:
        return server(100 if next(disturbed, False) else 1e9, cpu_ms=1)(rate)

    assert ceiling.read(ceiling.climb(700, offer)).reached


def test_the_median_is_of_the_rounds_that_reached_the_share() -> None:
    whole, bounded = ceiling.climb(700, server(1e9, cpu_ms=1)), ceiling.climb(700, server(560, cpu_ms=1))
    faster = ceiling.climb(900, server(1e9, cpu_ms=0.8))
    of_three, of_two, of_one = (
        ceiling.median_of(one) for one in ([bounded, faster, whole], [bounded, faster], [bounded])
    )
    assert of_three is not None
    assert of_three.per_s == pytest.approx(700)
    assert of_two is not None
    assert of_two.per_s == pytest.approx(875)
    assert of_one is not None
    assert not of_one.reached
    assert ceiling.median_of([]) is None


def test_a_climb_ends_where_nothing_is_under_the_share() -> None:
    assert ceiling.climb(100, lambda rate: Step(rate, rate, 0.9, 1, 1)) == []


def way_sample(**changes: float) -> path_table.WaySample:
    measured = Sample([0.001, 0.003], 0.004, 0.002, 0.001, proxy_cpu_s=0.006, sent_bytes=2200, received_bytes=600)
    return path_table.WaySample(measured, counted_requests=4, counted_received=4000, counted_sent=40)


def test_a_way_has_its_medians_per_image() -> None:
    way = path_table.summarise("proxy", [way_sample()])
    assert way.images == 2
    assert way.server_cpu_ms == pytest.approx(1)
    assert way.proxy_cpu_ms == pytest.approx(3)
    assert (way.wire_sent, way.wire_received, way.body_received, way.body_sent) == (1100, 300, 1000, 10)
    assert way.per_second == pytest.approx(500)
    assert path_table.summarise("direct", [way_sample()]).proxy_cpu_ms is None


def test_the_tables_of_the_path_show_what_there_is() -> None:
    console = table.console()
    steps = ceiling.climb(700, server(1e9, cpu_ms=1))
    found = path_table.tables(
        [path_table.summarise("proxy", [way_sample()])],
        8,
        ceiling.read(steps),
        [steps],
        [path_table.Idle(2000, 100 * 2**20, 108 * 2**20)],
    )
    with console.capture() as capture:
        for one in found:
            console.print(one)
    text = capture.get()
    for shown in ("queue-proxy -> server", "1,100", "700", "4.10"):
        assert shown in text
    assert path_table.tables([], 8, None, [], []) == []


def test_the_queue_proxy_is_done_without_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queue_proxy.PROGRAM", tmp_path / "queue")
    with pytest.raises(proxy.Unavailable, match="make tools"), proxy.in_front_of(1, tmp_path / "log"):
        pass


async def test_idle_connections_have_asked_and_can_ask_again() -> None:
    server, port = await serve(Http1)
    request = payload.rest_request("noop", "353B")

    def hold() -> int:
        before = open_files(os.getpid())
        with idle_connections(port, 5, request) as opened:
            for one in opened:
                ask(one, request)
            return open_files(os.getpid()) - before

    async with server:
        assert await asyncio.to_thread(hold) == 10, "both ends are ours"


def test_memory_and_files_of_a_process_are_read() -> None:
    assert rss_bytes(os.getpid()) > 2**20
    allow_files(10)
    with pytest.raises(OSError, match="ulimit -Hn"):
        allow_files(2**31)


# what is measured


def test_a_choice_brings_the_floor_that_latencies_are_counted_from() -> None:
    assert [one.key for one in choose(["saccade-rest"])] == ["bare-rest", "saccade-rest"]
    assert [one.key for one in choose(["triton"])] == ["bare-rest", "bare-grpc", "triton-http", "triton-grpc"]
    assert choose([]) == list(TARGETS)
    with pytest.raises(ValueError, match="no server tritn; expected bare-rest, "):
        choose(["tritn"])


def test_a_slow_server_gets_few_large_requests_once() -> None:
    slow, quick = target("kserve-rest"), target("saccade-rest")
    assert requests_for(DEFAULT, slow, "1.2MB", 8, number=0).measured == 8
    assert requests_for(DEFAULT, slow, "1.2MB", 8, number=1).measured == 0
    assert requests_for(DEFAULT, slow, "353B", 8, number=1) == requests_for(DEFAULT, quick, "353B", 8, number=1)


def test_every_connection_sends_at_least_two_requests() -> None:
    assert requests_for(QUICK.changed(None, None, 3), target("saccade-rest"), "353B", 32, 0).measured == 64


def test_the_machine_is_described_without_its_name() -> None:
    described = machine.describe()
    assert described["cores"] >= 1
    assert described["versions"]["kserve"]
    assert os.uname().nodename not in json.dumps(described) or len(os.uname().nodename) < 4


def test_the_load_tells_the_bench_from_the_others() -> None:
    now = iter([0.0, 10.0])
    own = iter([1.0, 6.0])
    load = machine.Load(lambda: next(own), clock=lambda: next(now))
    load.note()
    report = load.report()
    assert report["cores_used_by_bench"] == 0.5
    assert report["cores_used_by_others"] >= 0
    assert len(report["load_averages"]) == 2


# processes


def test_descendants_are_found_through_generations_and_odd_names(tmp_path: Path) -> None:
    for pid, name, parent in ((1, "init", 0), (7, "a) R 1 (b", 5), (5, "server", 1), (9, "stub", 7), (6, "other", 1)):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} ({name}) S {parent} 0 0")
    (tmp_path / "self").mkdir()
    assert with_descendants(5, tmp_path) == [5, 7, 9]


def test_the_cpu_time_of_a_process_grows_with_its_work() -> None:
    before = cpu_s(os.getpid())
    sum(range(300_000))
    assert cpu_s(os.getpid()) > before > 0


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    code = "import sys; print('cannot find the model'); sys.exit(3)"
    server = Server("it", [sys.executable, "-c", code], {}, tmp_path, tmp_path / "log")
    with server, pytest.raises(ServerFailed, match="it ended with 3: cannot find the model"):
        server.wait_ready([free_port()], {}, SOON_S)


def test_a_server_that_ignores_sigterm_is_ended_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("measuring.processes._STOP_S", 0.2)
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print('up', flush=True);"
        "time.sleep(600)"
    )
    with Server("it", [sys.executable, "-c", code], {}, tmp_path, tmp_path / "log") as server:
        eventually("it is up", lambda: (tmp_path / "log").read_text() == "up\n")
        family = with_descendants(server.pid)
        assert len(family) == 2
    eventually("all have ended", lambda: not any(is_alive(pid) for pid in family))


def test_triton_is_refused_with_a_reason_where_its_wheel_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no Python backend for Python 3"):
        triton.set_up(tmp_path, tmp_path / "scratch", ROOT / "bench", 1, 2)


# recorded traffic


def recorded(at_s: float, code: str = "200", total_s: float = 0.05, model: str = "m") -> Recorded:
    return Recorded(at_s, model, "1", 1, 30.0, total_s, code)


TRAFFIC = [
    *[recorded(number / 100) for number in range(100)],
    recorded(1.001, "503", 0.001),
    recorded(1.002, "499", 0.001),
    recorded(1.003, "500", 0.02),
    recorded(1.004, "400", 0.001),
    recorded(1.005, total_s=0.2),
]


def test_what_came_of_recorded_traffic_stands_beside_what_would_have_come_of_it() -> None:
    before = traced.recorded(TRAFFIC, slo_s=0.1)
    assert (before.came, before.seconds, before.good, before.refused, before.left, before.failed) == (
        104,
        1.005,
        100,
        1,
        1,
        1,
    )
    assert len(before.times) == 101
    profile = LatencyProfile({1: 0.008, 8: 0.012})
    scheduler = Scheduler(Queue(), BatchingRules(8, slo_s=0.1), (1,), profile)
    after = traced.replayed(TRAFFIC, scheduler, LatencyProfile({1: 0.008, 8: 0.012}), 0.1, 1.0)
    assert (after.came, after.refused, after.left, after.failed) == (104, 0, 1, 0)
    assert len(after.times) == after.good == 103
    assert min(after.times) == pytest.approx(0.008)


def test_replayed_faster_there_is_too_much_and_the_slo_is_kept_all_the_same() -> None:
    profile = LatencyProfile({1: 0.05})
    after = traced.replayed(TRAFFIC, Scheduler(Queue(), BatchingRules(1, slo_s=0.1), (1,), profile), profile, 0.1, 4)
    assert after.seconds == pytest.approx(1.005 / 4)
    assert after.refused > 50
    assert max(after.times) <= 0.1


def test_a_profile_is_rows_and_milliseconds() -> None:
    assert traced.profile("1:8,32:22.5") == {1: 0.008, 32: 0.0225}
    for wrong in ("", "8", "1:x", "0:8", "1:0", "1:nan", "1:8;2:9"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected rows:milliseconds"):
            traced.profile(wrong)


@pytest.mark.parametrize("wrong", ["--speed=0", "--speed=nan", "--slo-ms=-1", "--instances=0", "--instances=1.5"])
def test_a_number_that_cannot_be_is_refused_on_the_command_line(wrong: str) -> None:
    parser = argparse.ArgumentParser()
    traced.add_arguments(parser, {1: 0.008})
    with pytest.raises(SystemExit):
        parser.parse_args([wrong])


@pytest.mark.parametrize(
    ("lines", "model", "says"),
    [
        (
            [recorded(0.0), recorded(0.1, model="n")],
            [],
            "models with requests in it: 'm', 'n'; choose one with --model",
        ),
        ([recorded(0.0)], ["--model", "x"], "no requests of model 'x'; models in it: 'm'"),
        ([recorded(0.0, "400")], [], "no requests"),
        ([], [], "no requests"),
    ],
)
def test_a_trace_without_the_models_requests_is_refused_with_what_it_has(
    lines: list[Recorded], model: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trace"
    file.write_bytes(b"".join(encode(*one) for one in lines))
    parser = argparse.ArgumentParser()
    traced.add_arguments(parser, {1: 0.008})
    assert traced.run(parser.parse_args(["--trace", str(file), *model])) == 2
    assert capsys.readouterr().err == f"{file}: {says}\n"


def test_a_recorded_file_is_replayed_by_the_command(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    file.write_bytes(b"".join(encode(*one) for one in [*TRAFFIC, recorded(0.5, model="n")]))
    given = ["--trace", str(file), "--model", "m", "--slo-ms", "100", "--instances", "2", "--speed", "2"]
    done = subprocess.run(
        command(*given, script="replay.py"), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "101 (97.1%)" in done.stdout
    assert "SLO 100 ms, 2 instance(s), arrivals 2 times as fast" in done.stdout
    file.write_text("at,rows\n1,2\n")
    done = subprocess.run(
        command("--trace", str(file), script="replay.py"), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"{file}: line 1 is not JSON; expected an object with at_us, model")


# clients


async def serve(protocol: Callable[[], asyncio.BaseProtocol]) -> tuple[contextlib.AsyncExitStack, int]:
    """Listen; returns what has to be left in the end, and the port. Then connections are closed, too."""
    opened: list[asyncio.Transport] = []

    def made() -> asyncio.BaseProtocol:
        one = protocol()
        begin = one.connection_made

        def connection_made(transport: Any) -> None:
            opened.append(transport)
            begin(transport)

        one.connection_made = connection_made  # type: ignore[method-assign]
        return one

    async def close() -> None:
        await settle()
        for transport in opened:
            transport.abort()
        await settle()

    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    stack = contextlib.AsyncExitStack()
    stack.push_async_callback(close)
    await stack.enter_async_context(server)
    return stack, int(server.sockets[0].getsockname()[1])


def load_on(port: int, protocol: payload.Protocol, size: str, connections: int) -> Load:
    request = payload.request(protocol, "noop", size)
    return Load(protocol, port, os.getpid(), request, connections, 0, 20, limit_s=SOON_S, timeout_s=SOON_S)


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("size", payload.SHAPES)
@pytest.mark.parametrize(("protocol", "bare"), [("rest", Http1), ("grpc", Http2)])
async def test_the_client_and_the_bare_server_understand_each_other(
    protocol: payload.Protocol, bare: Callable[[], asyncio.BaseProtocol], size: str, connections: int
) -> None:
    server, port = await serve(bare)

    def send() -> list[int]:
        load = load_on(port, protocol, size, connections)
        opened: Any = rest_client.connect(load) if protocol == "rest" else grpc_client.connect(load)
        with opened as client:
            return [len(client.send(count, SOON_S).latencies_s) for count in (20, 2)]

    async with server:
        assert await asyncio.to_thread(send) == [20, 2]


async def test_requests_are_sent_at_the_rate_that_is_asked_for() -> None:
    server, port = await serve(Http1)

    def send() -> Any:
        with rest_client.connect(load_on(port, "rest", "353B", 4)) as client:
            return client.send_at(200, 0.5)

    async with server:
        batch = await asyncio.to_thread(send)
    assert 0.4 < batch.wall_s < SOON_S
    assert 1 <= len(batch.latencies_s) <= 100
    assert batch.sent_bytes == len(batch.latencies_s) * len(payload.rest_request("noop", "353B"))
    assert batch.received_bytes > 0


async def test_requests_that_were_due_while_no_connection_was_idle_count_from_then() -> None:
    class Late(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self._transport = transport

        def data_received(self, _data: bytes) -> None:
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + payload.RIGHT_ANSWERS[0]
            asyncio.get_running_loop().call_later(0.05, self._transport.write, answer)

    server, port = await serve(Late)

    def send() -> Any:
        with rest_client.connect(load_on(port, "rest", "353B", 1)) as client:
            return client.send_at(1000, 0.2)

    async with server:
        batch = await asyncio.to_thread(send)
    assert len(batch.latencies_s) <= 5, "fewer than were due"
    assert batch.latencies_s[-1] > 0.09, "it waited for the others first"


async def test_no_request_is_begun_after_the_time_limit() -> None:
    server, port = await serve(Http1)

    def send() -> int:
        with rest_client.connect(load_on(port, "rest", "353B", 2)) as client:
            return len(client.send(1000, limit_s=0).latencies_s)

    async with server:
        assert await asyncio.to_thread(send) == 2


async def test_a_connection_that_is_closed_while_nothing_is_asked_on_it_is_no_error_until_something_is() -> None:
    class Brief(asyncio.Protocol):
        answered = 0

        def connection_made(self, transport: Any) -> None:
            self._transport = transport

        def data_received(self, _data: bytes) -> None:
            Brief.answered += 1
            # The second answer comes long after the first connection has been closed.
            asyncio.get_running_loop().call_later(0.2 * (Brief.answered - 1), self._answer)

        def _answer(self) -> None:
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + payload.RIGHT_ANSWERS[0])
            asyncio.get_running_loop().call_later(0.05, self._transport.close)

    server, port = await serve(Brief)

    def send() -> int:
        with rest_client.connect(load_on(port, "rest", "353B", 2)) as client:
            first = client.send(2, SOON_S)
            with pytest.raises(ClientError, match="closed the connection"):
                client.send(2, SOON_S)
            return len(first.latencies_s)

    async with server:
        assert await asyncio.to_thread(send) == 2


async def test_answers_of_another_model_are_right_when_they_are_long_enough() -> None:
    server, port = await serve(Http1)

    def send(answer_bytes: int) -> int:
        with rest_client.connect(
            dataclasses.replace(load_on(port, "rest", "353B", 1), answer_bytes=answer_bytes)
        ) as to:
            return len(to.send(3, SOON_S).latencies_s)

    async with server:
        assert await asyncio.to_thread(send, 4) == 3
        with pytest.raises(ClientError, match="a wrong answer"):
            await asyncio.to_thread(send, 4000)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "a wrong answer"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\n\x00\x00\xe0\x40", "a wrong answer: .*503"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "without Content-Length"),
        (b"", "closed the connection"),
    ],
)
async def test_a_wrong_answer_ends_the_measurement(answer: bytes, why: str) -> None:
    class Wrong(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self._transport = transport

        def data_received(self, _data: bytes) -> None:
            self._transport.write(answer)
            if not answer:
                self._transport.close()

    server, port = await serve(Wrong)

    def send() -> None:
        with rest_client.connect(load_on(port, "rest", "353B", 1)) as client:
            client.send(1, SOON_S)

    async with server:
        with pytest.raises(ClientError, match=why):
            await asyncio.to_thread(send)


# clients that do not wait


async def told_by(protocol: Callable[[], asyncio.BaseProtocol], due_s: Sequence[float], **changes: Any) -> Any:
    server, port = await serve(protocol)
    traffic = Traffic(port, payload.rest_request("noop", "353B"), due_s, **changes)
    async with server:
        return await asyncio.to_thread(open_loop.send, traffic)


class Silent(asyncio.Protocol):
    """Accepts and never answers."""


async def test_every_request_goes_out_at_its_moment_whether_or_not_answers_come() -> None:
    told = await told_by(Silent, [0.01 * number for number in range(20)], limit_s=0.3)
    assert told.outcomes == {open_loop.LEFT: 20}
    assert len(told.late_s) == told.most_open == 20
    assert told.wall_s >= 0.19 + 0.3


async def test_requests_share_connections_and_those_before_the_time_do_not_count() -> None:
    made: list[None] = []

    def counted() -> asyncio.BaseProtocol:
        made.append(None)
        return Http1()

    due_s = [0.05 * number for number in range(10)]
    told = await told_by(counted, due_s, limit_s=SOON_S, uncounted_s=0.2)
    assert told.outcomes == {open_loop.IN_TIME: 6}
    assert len(told.latencies_s) == len(told.late_s) == 6
    assert len(made) < 10


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "200 by the server"),
        (b'HTTP/1.1 503 Busy\r\nContent-Length: 12\r\n\r\n{"error": ""}', "503 by the server"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nfull\n", "503 by the queue-proxy"),
        (b"HTTP/1.1 200 OK\r\n\r\n", open_loop.CLOSED),
        (b"", open_loop.CLOSED),
    ],
)
async def test_who_refused_a_request_is_told(answer: bytes, ended: str) -> None:
    class Refuses(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self._transport = transport

        def data_received(self, _data: bytes) -> None:
            self._transport.write(answer)
            if not answer:
                self._transport.close()

    told = await told_by(Refuses, [0.0, 0.01], limit_s=SOON_S)
    assert told.outcomes == {ended: 2}
    assert not told.latencies_s


def test_arrivals_by_chance_have_the_rate_and_are_the_same_for_a_seed() -> None:
    due_s = list(open_loop.poisson(500, 10, seed=3))
    assert due_s == sorted(due_s) == list(open_loop.poisson(500, 10, seed=3))
    assert len(due_s) == pytest.approx(5000, rel=0.1)
    assert due_s[-1] < 10


# real time


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, None),
        ({0.5: {"goodput": 985.0}}, "goodput at 0.5x"),
        ({4.0: {"goodput": 1800.0}}, "goodput at 1x, 2x and 4x"),
        ({2.0: {"p99_ms": 100.2}}, "p99 of the answered"),
        ({0.01: {"p50_ms": 10.4}}, "p50 is at most"),
    ],
)
def test_loads_in_real_time_are_judged_each_by_its_own(
    change: dict[float, dict[str, Any]], broken: str | None
) -> None:
    lines = [
        dataclasses.replace(
            replay.Line("real time", load, offered, good, good, 0.0, 9.5, 99.0), **change.get(load, {})
        )
        for load, offered, good in (
            (0.01, 20.0, 20.0),
            (0.5, 1000.0, 1000.0),
            (1.0, 2000.0, 1930.0),
            (2.0, 4000.0, 1930.0),
            (4.0, 8000.0, 1930.0),
        )
    ]
    held = replay.verdicts_in_real_time(lines, 2000.0)
    assert [what for what, holds in held.items() if not holds] == [what for what in held if broken and broken in what]
    assert len(held) == 4
    assert sum(held.values()) == (4 if broken is None else 3)


# the hard limit


def at_limit(number: int, name: str, limit: int, goodput: float, **changes: Any) -> limit_table.Measured:
    outcomes = {"in time": goodput, "503 by the server": 3.0, "503 by the queue-proxy": 2.0, "left at the limit": 1.0}
    figures: dict[str, Any] = {"due": 400.0, "sent": 400.0, "p50_ms": 1.0, "p99_ms": 2.0, "late_p99_ms": 2.0}
    figures |= {"most_open": 9, "client_cores": 0.1, "server_cores": 0.1, "proxy_cores": 0.1}
    return limit_table.Measured(number, 1.5, name, limit, goodput=goodput, outcomes=outcomes, **figures | changes)


def rounds_at(*derived: float, **changes: Any) -> list[limit_table.Measured]:
    """Rounds whose goodput without a limit is 300, 270, 300 and so on."""
    return [
        at_limit(number, name, limit, goodput, **changes)
        for number, goodput in enumerate(derived)
        for name, limit, goodput in (("derived", 240, goodput), ("none", 0, 270.0 if number % 2 else 300.0))
    ]


def test_a_limit_is_compared_with_none_within_each_round() -> None:
    free, derived = limit_table.summarise(rounds_at(294, 270, 300))
    assert (free.name, free.ratio, free.goodput) == ("none", 1.0, 300)
    assert free.spread == pytest.approx(30 / 300)
    assert derived.ratio == 1.0
    assert (derived.refused, derived.proxy, derived.left) == (3, 2, 1)
    assert (
        "up to 10.0%, with the same requests; too much to judge by" in limit_table.notes(rounds_at(294, 270, 300))[-1]
    )
    assert "too much" not in limit_table.notes(rounds_at(300))[-1]


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (rounds_at(294, 270, 300), [True, True]),
        (rounds_at(288, 260, 300), [False, True]),
        (rounds_at(294, 270, 300, sent=380.0), [True, False]),
        (rounds_at(294, 270, 300, late_p99_ms=80.0), [True, False]),
    ],
)
def test_the_derived_limit_is_judged_and_so_are_the_clients(
    found: list[limit_table.Measured], holds: list[bool]
) -> None:
    assert list(limit_table.verdicts(limit_table.summarise(found), found).values()) == holds


def test_a_quick_run_shows_what_a_small_hard_limit_does_behind_the_queue_proxy(tmp_path: Path) -> None:
    need_program()
    file = tmp_path / "hard_limit.json"
    # It may have to wait for the queue-proxies of others.
    run = command("--quick", "--output", str(file), script="hard_limit.py")
    ended = subprocess.run(run, capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    if "is not measured" in ended.stdout:
        pytest.skip(ended.stdout.strip())
    content = json.loads(file.read_text())
    assert content["bench"] == "hard_limit"
    assert content["holds"] == {}
    goodput = {line["name"]: line["goodput"] for line in content["lines"]}
    assert list(goodput) == ["none", "derived", "(d + 1) B* 1.25", "B*"]
    assert goodput["B*"] < 0.7 * goodput["derived"]
    for one in content["measured"]:
        assert one["goodput"] > 0
        assert sum(one["outcomes"].values()) == pytest.approx(one["due"])


def test_without_a_queue_proxy_the_hard_limit_is_not_measured_and_the_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("queue_proxy.PROGRAM", tmp_path / "queue")
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert hard_limit.main(["--quick", "--output", str(tmp_path / "file.json")]) == 0
    assert "make tools" in capsys.readouterr().out
    assert not (tmp_path / "file.json").exists()


# shadow


def test_noise_is_what_halves_of_equal_rounds_differ_by() -> None:
    assert shadow.noise_ms([[1.0, 2.0, 3.0]] * 8, 0.99) == 0
    assert shadow.noise_ms([[10.0]] * 15 + [[500.0]], 0.99) == 0, "one round that was disturbed"
    assert shadow.noise_ms([[10.0]] * 8 + [[14.0]] * 8, 0.99) == 4


def test_an_arm_is_held_against_both_arms_without_a_shadow() -> None:
    def arm(key: str, settings: dict[str, str], *rounds: float) -> shadow.Arm:
        return shadow.Arm(key, key, settings, [[value] * 10 for value in rounds], {"compared": 1} if settings else {})

    found = [arm("off", {}, 10, 12), arm("again", {}, 10, 12), arm("on", {"X": "1"}, 11, 30)]
    off, _, on = shadow.lines(found, judged=True)
    assert (off["p99"]["difference_ms"], off["p99"]["within_noise"]) == (0, True)
    assert (on["p99"]["ms"], on["p99"]["difference_ms"], on["p99"]["within_noise"]) == (20.5, 9.5, False)
    assert on["p99"]["all_ms"] == 30
    assert on["shadow"] == {"compared": 1}
    assert shadow.lines(found, judged=False)[2]["p99"]["within_noise"] is None


# the command


def command(*arguments: str, script: str = "dataplane.py") -> list[str]:
    return [sys.executable, str(ROOT / "bench" / script), *arguments]


def test_a_quick_run_of_saccade_writes_its_measurements(tmp_path: Path) -> None:
    file = tmp_path / "results" / "dataplane.json"
    ended = subprocess.run(
        command(
            "--quick", "--only", "saccade-rest", "--connections", "1", "2", "--requests", "4", "--output", str(file)
        ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Saccade REST" in ended.stdout
    content = json.loads(file.read_text())
    assert content["bench"] == "dataplane"
    assert all(goal["reached"] is None for goal in content["goals"])
    assert content["skipped"] == {}
    assert content["rounds"] == 1
    assert content["machine"]["cores"] >= 1
    assert content["servers"]["saccade-rest"].startswith("saccade ")
    assert content["load"]["load_averages"]
    assert [(one["target"], one["size"], one["connections"]) for one in content["results"]] == [
        (key, size, connections)
        for size in ("353B", "1.2MB")
        for connections in (1, 2)
        for key in ("bare-rest", "saccade-rest")
    ]
    for one in content["results"]:
        assert one["requests"] == 4
        assert one["cpu_ms"] > 0
        assert 0 < one["p50_ms"] <= one["p99_ms"]
        assert one["per_second"] > 0
        assert one["times_triton_http"] is None


def test_a_quick_run_of_the_path_writes_its_measurements(tmp_path: Path) -> None:
    file = tmp_path / "path.json"
    # It may have to wait for the queue-proxies of others.
    path = command("--quick", "--output", str(file), script="path.py")
    ended = subprocess.run(path, capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for shown in ("client -> server", "Ceiling of one process", "Idle connections"):
        assert shown in ended.stdout
    content = json.loads(file.read_text())
    assert content["bench"] == "path"
    assert set(content["skipped"]) <= {"proxy"}
    assert "proxy" in content["skipped"] or "queue-proxy -> server" in ended.stdout
    for way in content["ways"]:
        assert way["images"] == 100
        assert way["server_cpu_ms"] > 0
        assert (way["proxy_cpu_ms"] is None) == (way["key"] == "direct")
        # The head and the rest of the JSON come to well under a kilobyte.
        assert 640 * 640 * 3 < way["body_received"] < way["wire_sent"] < 640 * 640 * 3 + 1000
        assert 0 < way["body_sent"] < way["wire_received"] < 1000
    assert content["ceiling"]["median"]["per_s"] > 0
    assert content["idle"]["bytes_per_connection"] is not None
    assert content["load"]["cores_used_by_bench"] > 0


def test_a_quick_run_of_batching_checks_the_answers_and_writes_its_measurements(tmp_path: Path) -> None:
    file = tmp_path / "batching.json"
    arguments = ("--quick", "--only", "saccade", "--models", "head", "--clients", "1", "4", "--seconds", "0.3")
    batching = command(*arguments, "--max-batch", "4", "--output", str(file), script="batching.py")
    ended = subprocess.run(batching, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for shown in ("ONNX Runtime alone", "Saccade, dynamic batching", "27.3 M parameters"):
        assert shown in ended.stdout
    content = json.loads(file.read_text())
    assert content["bench"] == "batching"
    assert content["skipped"] == {"head": {}}
    assert [one["rows"] for one in content["engine"]] == [1, 2, 4]
    assert [(one["contender"], one["clients"]) for one in content["results"]] == [
        (key, clients) for clients in (1, 4) for key in ("saccade-batching", "saccade-alone")
    ]
    for one in content["results"]:
        assert one["images"] >= one["clients"]
        assert one["cpu_ms"] > 0
        assert 0 < one["p50_ms"] <= one["p99_ms"]
        assert one["mean_batch"] > 1 if (one["contender"], one["clients"]) == ("saccade-batching", 4) else True
        assert one["mean_batch"] == 1 if one["contender"] == "saccade-alone" else True


@pytest.mark.parametrize("model", onnx_models.MODELS, ids=lambda model: model.key)
def test_the_models_of_the_batching_bench_are_the_same_each_time(model: onnx_models.Model, tmp_path: Path) -> None:
    for name in ("one", "other"):
        onnx_models.build(model, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    session = open_session(tmp_path / "one", 1)
    rows = model.rows(2)
    assert rows[0].nbytes == model.row_bytes
    [answer] = session.run(None, {onnx_models.INPUT: rows})
    assert answer.shape == (2, model.outputs)
    assert np.isfinite(answer).all()
    assert not np.allclose(answer[0], answer[1]), "what is asked makes a difference"


@contextlib.contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """A server whose answers are made from the bodies; yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_args: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


def test_a_server_that_answers_wrongly_is_not_measured() -> None:
    model = onnx_models.Model("head", "", "FP32", (2,), 2, 0, 0)
    contender = next(one for one in CONTENDERS if one.key == "litserve")
    rows = model.rows(3)
    with answering(lambda body: body) as port:
        running = Running(cast(Server, None), port, lambda: (0, 0))
        check(contender, running, model, rows, rows)
        with pytest.raises(WrongAnswers, match="row 0 is answered otherwise"):
            check(contender, running, model, rows, rows + 1)
        with pytest.raises(WrongAnswers, match="row 0 is answered otherwise"):
            check(contender, running, dataclasses.replace(model, outputs=3), rows, np.zeros((3, 3), np.float32))


def test_rows_of_the_batching_bench_compare_images_per_second() -> None:
    def taken(images: int, batches: int) -> batching_table.Taken:
        return batching_table.Taken(Sample([0.01] * images, 2.0, images / 100, images / 1000), batches, images)

    model = onnx_models.MODELS[0]
    samples = {
        ("saccade-batching", model.key, 8): [taken(40, 10), taken(60, 10), taken(80, 20)],
        (ALONE, model.key, 8): [taken(20, 20)],
        ("litserve", model.key, 8): [taken(120, 30)],
    }
    rows = batching_table.summarise(samples, [model])
    assert [row.contender for row in rows] == ["saccade-batching", ALONE, "litserve"]
    own = rows[0]
    assert (own.per_second, own.images, own.mean_batch) == (30, 180, 4.5)
    assert own.cpu_ms == pytest.approx(10)
    assert own.times == {ALONE: 3.0, "litserve": 0.5}
    console = table.console()
    with console.capture() as captured:
        console.print(batching_table.results(rows, model, {"mlserver": "no such wheel"}))
    assert "MLServer, batching, 5 ms: not here: no such wheel" in captured.get()


def test_batches_are_counted_where_another_process_can_read_them(tmp_path: Path) -> None:
    writer, reader = Counts(tmp_path / "counts"), Counts(tmp_path / "counts")
    writer.add(4)
    writer.add(1)
    assert reader.read() == (2, 5)


def test_the_peers_of_the_batching_bench_are_asked_for_the_same_rows() -> None:
    model = onnx_models.MODELS[1]
    rows = model.rows(1)
    sent = {one.product: contenders.request(one, model, rows) for one in CONTENDERS}
    assert all(rows.tobytes() in one for one in sent.values())
    assert sent["mlserver"].endswith(rows.tobytes())
    message = proto.ModelInferRequest.FromString(sent["mlserver"])
    assert message.raw_input_contents[0][:4] == model.row_bytes.to_bytes(4, "little")
    head, _, body = sent["litserve"].partition(b"\r\n\r\n")
    assert body == rows.tobytes()
    assert f"Content-Length: {len(body)}".encode() in head


def test_a_peer_that_cannot_be_installed_is_refused_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    lock = tmp_path / "lock.txt"
    lock.write_text(f"a-peer==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(Unavailable, match=r"a peer cannot be installed: .*a-peer==1\.0"):
        install(tmp_path / "environment", lock, "a peer", lambda _text: None)


def test_a_quick_run_of_the_client_writes_its_measurements(tmp_path: Path) -> None:
    file = tmp_path / "client.json"
    ended = subprocess.run(
        command("--quick", "--output", str(file), script="client.py"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "blocking socket" in ended.stdout
    content = json.loads(file.read_text())
    assert content["bench"] == "client"
    found = {(one["size"], one["at_once"], one["way"]) for one in content["results"]}
    libraries = {(size, at, way) for size in ("0.5MB", "1.2MB") for at in (1, 8) for way in ("Saccade", "aiohttp")}
    assert libraries < found
    for one in content["results"]:
        assert 0 < one["least_cpu_ms"] <= one["cpu_ms"]
        assert len(one["cpu_ms_of_rounds"]) == content["rounds"]
        assert one["times_baseline"] == 1 or one["way"] != "aiohttp"


def test_an_unknown_server_is_refused_before_anything_starts() -> None:
    ended = subprocess.run(command("--only", "torchserve"), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "no server torchserve" in ended.stderr


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("script", ["dataplane.py", "path.py"])
def test_an_interrupted_run_leaves_no_process_and_no_file(tmp_path: Path, script: str, sig: signal.Signals) -> None:
    file = tmp_path / "results.json"
    # Far more than the time allows: the signal always comes in the middle.
    arguments = ["--only", "saccade-rest", "--requests", "100000"] if script == "dataplane.py" else []
    started = command(*arguments, "--output", str(file), script=script)
    with subprocess.Popen(started, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("round 1" in line for line in process.stderr)
        family = with_descendants(process.pid)
        assert len(family) >= 3, "a client and servers"
        process.send_signal(sig)
        _, errors = process.communicate(timeout=SOON_S)
    assert process.returncode == 130
    assert "nothing was written" in errors
    eventually("all have ended", lambda: not any(is_alive(pid) for pid in family))
    assert not file.exists()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be noticed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("replay", "yes goodput never falls"),
        ("scheduler", "3 priorities"),
        ("metrics", "counting a request"),
        ("shadow", "5% mirrored"),
    ],
)
def test_the_benches_of_the_scheduler_run_and_write_what_they_print(script: str, says: str, tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    plot = ["--plot", str(tmp_path / "curves.png")] if script == "replay" else []
    done = subprocess.run(
        [sys.executable, str(BENCH / f"{script}.py"), "--quick", "--output", str(output), *plot],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert says in done.stdout
    assert "NO " not in done.stdout
    written = json.loads(output.read_text())
    assert written["bench"] == script
    assert written["lines"]
    if plot:
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_bench_that_python_lost_the_interruption_of_ends_with_its_next_step() -> None:
    """A KeyboardInterrupt out of the finalizer of an ``io`` object is dropped without a word."""
    program = """
import io, os, signal
from measuring.stopping import end_as_ctrl_c_does
from measuring.table import Progress

class Answer(io.RawIOBase):
    def close(self):
        os.kill(os.getpid(), signal.SIGTERM)
        super().close()

end_as_ctrl_c_does()
progress = Progress(0)
answer = Answer()
del answer
print("lost")
try:
    progress.step("round 2", "saccade")
except KeyboardInterrupt:
    print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=BENCH, capture_output=True, text=True, timeout=SOON_S)
    assert done.stdout.split() == ["lost", "stopped"], done.stderr
