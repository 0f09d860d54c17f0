"""The dispatcher on real sockets: it sends on time whatever servers do, and tells apart what they do."""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from http1_support import make_certificate
from loadtest_support import ROOT
from saccade_loadtest.load.arrivals import constant
from saccade_loadtest.load.frames import Album, read_photos
from saccade_loadtest.load.sources import Clients, Mix, ScheduledSource, Source, WaitingSource
from saccade_loadtest.record.recorder import Recorder
from saccade_loadtest.record.results import Run, Schedule, Target
from saccade_loadtest.sending.dialects import Dialect, Endpoint
from saccade_loadtest.sending.engine import Engine, Limits, Unreachable
from saccade_loadtest.sending.http1 import Connection, ConnectionLost, NoSocket, dechunk
from scripted_server import Scripted, serving
from servers.null_detector import answers

WIDTH, HEIGHT = 64, 48
RIGHT = answers(WIDTH, HEIGHT)[b"POST /detect"]
BODY = RIGHT.partition(b"\r\n\r\n")[2]


@pytest.fixture(scope="module")
def album() -> Album:
    return Album(read_photos(ROOT / "examples" / "images"), WIDTH, HEIGHT, scenes=2, noises=1)


def drive(
    album: Album,
    url: str,
    source: Source | None = None,
    limits: Limits | None = None,
    protocol: str = "jpeg",
    grpc_address: str = "",
    tls: ssl.SSLContext | None = None,
) -> tuple[Run, Engine, Counter[bool]]:
    """A run; by default 50 requests in a second."""
    endpoint = Endpoint(url, "detector", grpc=grpc_address, cache="bypass")
    run = Run("test", Target(url, "transformer", "m"), "open", Schedule("even", 50, 60))
    ended: Counter[bool] = Counter()
    engine = Engine(
        {protocol: Dialect(protocol, endpoint, album.pictures)},
        album.key,
        Mix({protocol: 1}),
        source or ScheduledSource(Clients(constant(50, 1), "even").shots()),
        Recorder(run, "worker"),
        limits or Limits(patience_s=20),
        lambda _, is_answered: ended.update([is_answered]),
        tls=tls,
    )
    engine.begin(time.monotonic())
    try:
        engine.run()
    finally:
        engine.close()
    return run, engine, ended


def url_of(server: Scripted, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{server.server_address[1]}"


@contextmanager
def silent_for(seconds: float) -> Iterator[Scripted]:
    """A server that answers nothing until so much time is over, then everything rightly."""
    released = threading.Event()

    def wait(_: int) -> tuple[Sequence[bytes], bool]:
        released.wait(60)
        return [RIGHT], False

    with serving(wait) as server:
        threading.Timer(seconds, released.set).start()
        yield server


def test_connections_are_used_again(album: Album) -> None:
    with serving(lambda _: ([RIGHT], False)) as server:
        run, _, ended = drive(album, url_of(server))
    total = run.measured()
    assert (total.sent, total.answered, total.failed) == (50, 50, 0)
    assert ended == {True: 50}
    assert server.connections < 50
    assert run.series["jpeg"].revisions["1"].answered == 50
    assert run.series["jpeg"].cache == {"bypass": 50}


def test_answers_may_come_in_pieces_of_any_size(album: Album) -> None:
    with serving(lambda _: ([RIGHT[at : at + 1] for at in range(len(RIGHT))], False)) as server:
        source = ScheduledSource(Clients(constant(5, 1), "even").shots())
        run, _, _ = drive(album, url_of(server), source)
    assert run.measured().answered == 5


def test_chunked_answers_and_answers_that_end_with_the_connection_are_read(album: Album) -> None:
    half = len(BODY) // 2
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n%x;x=y\r\n%b\r\n0\r\nTrailer: 1\r\n\r\n"
        % (
            half,
            BODY[:half],
            len(BODY) - half,
            BODY[half:],
        )
    )
    unframed = b"HTTP/1.0 200 OK\r\n\r\n" + BODY
    script = [([chunked[:70], chunked[70:]], False), ([unframed], True)]
    with serving(lambda number: script[number % 2]) as server:
        run, engine, _ = drive(album, url_of(server))
    assert run.measured().answered == 50, engine.samples


def test_a_server_that_says_close_gets_new_connections_and_loses_nothing(album: Album) -> None:
    closing = RIGHT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    with serving(lambda _: ([closing], True)) as server:
        run, _, _ = drive(album, url_of(server))
    assert run.measured().answered == 50
    assert server.connections == 50


@pytest.mark.parametrize(
    ("status", "kind"), [(503, "overloaded"), (504, "deadline"), (500, "http_500"), (418, "http_418")]
)
def test_refusals_are_counted_by_what_they_are(album: Album, status: int, kind: str) -> None:
    body = b'{"error": "no"}'
    refusal = b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
    with serving(lambda number: ([RIGHT if number % 2 else refusal], False)) as server:
        run, engine, ended = drive(album, url_of(server))
    assert run.measured().errors == {kind: 25}
    assert ended == {True: 25, False: 25}
    assert engine.samples == {f"jpeg: {kind}": '{"error": "no"}'}


def test_an_answer_of_200_with_the_wrong_content_is_a_failure(album: Album) -> None:
    wrong = RIGHT.replace(b'"width": 64', b'"width": 99')
    with serving(lambda _: ([wrong], False)) as server:
        run, engine, _ = drive(album, url_of(server))
    assert run.measured().errors == {"wrong_answer": 50}
    assert "99 x 48" in engine.samples["jpeg: wrong_answer"]


def test_an_answer_that_no_check_foresaw_is_a_failure_and_not_the_generators_end(album: Album) -> None:
    outcome = re.search(rb'"cache": ?("[a-z]+")', RIGHT)
    assert outcome is not None
    strange = RIGHT.replace(outcome[1], b"[" + b" " * (len(outcome[1]) - 2) + b"]")
    with serving(lambda _: ([strange], False)) as server:
        run, engine, _ = drive(album, url_of(server))
    assert run.measured().errors == {"wrong_answer": 50}
    assert "the answer cannot be read: TypeError" in engine.samples["jpeg: wrong_answer"]


def test_a_connection_that_breaks_in_the_middle_of_an_answer_is_a_failure_of_that_request_alone(album: Album) -> None:
    with serving(lambda number: ([RIGHT[:-9] if number % 5 == 0 else RIGHT], number % 5 == 0)) as server:
        run, _, _ = drive(album, url_of(server))
    total = run.measured()
    assert total.errors == {"connection": 10}
    assert total.answered == 40


def test_nobody_listening_is_a_failure_of_every_request(album: Album) -> None:
    with serving(lambda _: ([RIGHT], False)) as server:
        url = url_of(server)
    run, engine, _ = drive(album, url)
    assert run.measured().errors == {"connection": 50}
    assert "refused" in engine.samples["jpeg: connection"]


def test_a_server_that_does_not_answer_holds_nothing_back(album: Album) -> None:
    with silent_for(3.0) as server:
        run, _, _ = drive(album, url_of(server), limits=Limits(patience_s=60))
    total = run.measured()
    assert total.answered == 50
    # Everything was sent while no answer had come: the last one waited from its own moment, not from an answer.
    assert server.connections == 50
    assert 1.9e6 < total.latency.percentile_us(1) < total.latency.percentile_us(100)
    assert total.latency.percentile_us(100) >= 2.9e6


def test_without_an_answer_within_the_patience_a_request_is_a_timeout(album: Album) -> None:
    released = threading.Event()

    def script(number: int) -> tuple[Sequence[bytes], bool]:
        if number == 0:
            released.wait(60)
        return [RIGHT], False

    with serving(script) as server:
        run, _, _ = drive(album, url_of(server), limits=Limits(patience_s=2.0))
        released.set()
    assert run.measured().errors["timeout"] >= 1
    assert run.measured().answered + run.measured().failed == 50


def test_what_is_due_beyond_the_most_open_is_a_failure_of_the_server_that_holds_them(album: Album) -> None:
    with silent_for(3.0) as server:
        run, engine, ended = drive(album, url_of(server), limits=Limits(most_open=8, patience_s=60))
    total = run.measured()
    assert (total.due, total.not_sent, total.answered, total.unresolved) == (50, 0, 8, 0)
    assert total.errors == {"held_open": 42}
    assert "8 requests were under way" in engine.samples["jpeg: held_open"]
    assert run.workers[0].schedule_error.count == 8
    assert ended == {True: 8, False: 42}


def test_a_machine_without_sockets_is_no_failure_of_the_server(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter(range(10_000))

    def scarce(*arguments: Any) -> Connection:
        if next(made) >= 3:
            raise NoSocket("this machine gives no socket: Too many open files")
        return Connection(*arguments)

    with silent_for(1.5) as server:
        monkeypatch.setattr("saccade_loadtest.sending.engine.Connection", scarce)
        run, engine, ended = drive(album, url_of(server))
    total = run.measured()
    assert total.failed == 0
    assert total.not_sent > 40
    assert total.answered + total.not_sent == 50 == sum(ended.values())
    assert "this machine gives no socket" in engine.samples["jpeg: not sent"]


def test_users_who_wait_send_one_request_at_a_time(album: Album) -> None:
    with serving(lambda _: ([RIGHT], False)) as server:
        run, _, _ = drive(album, url_of(server), WaitingSource(3, 1.0))
    assert run.measured().answered > 10
    assert server.connections == 3


def test_users_beyond_what_may_be_open_try_again_after_a_moment_and_not_at_once(album: Album) -> None:
    with silent_for(1.5) as server:
        source = WaitingSource(20, 1.0)
        run, _, ended = drive(album, url_of(server), source, Limits(most_open=4, patience_s=60))
    assert ended[True] == 4
    # Sixteen users in a second, once at first and then every tenth of it at most.
    assert 16 <= run.measured().errors["held_open"] <= 16 * 10


def test_https_is_spoken_and_a_certificate_of_nobody_is_refused(album: Album, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(lambda _: ([RIGHT], False), context) as server:
        trusting = ssl.create_default_context(cafile=certificate)
        run, engine, _ = drive(album, url_of(server, "https"), tls=trusting)
        assert run.measured().answered == 50, engine.samples
        assert server.connections < 50
        run, engine, _ = drive(album, url_of(server, "https"))
    assert run.measured().errors == {"connection": 50}
    assert "CERTIFICATE_VERIFY_FAILED" in engine.samples["jpeg: connection"]


def test_a_name_without_an_address_is_said_at_once(album: Album) -> None:
    with pytest.raises(Unreachable, match="has no address"):
        drive(album, "http://no-such-host.invalid:80")


class GrpcAnswers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Answers ModelInfer with what a test says: a message, or a code with its reason."""

    def __init__(self, script: Callable[[int, Any], bytes]) -> None:
        self._script = script
        self._count = iter(range(1_000_000))
        self.cameras: set[str] = set()

    def service(self, handler_call_details: Any) -> Any:
        cameras = {value for name, value in handler_call_details.invocation_metadata if name == "x-camera-id"}
        self.cameras |= cameras

        def answer(_: bytes, context: Any) -> bytes:
            return self._script(next(self._count), context)

        return grpc.unary_unary_rpc_method_handler(answer, bytes, bytes)


def right_message() -> bytes:
    import numpy as np

    from saccade_serving.oip import grpc_codec
    from saccade_serving.oip.messages import InferResponse, Tensor

    outputs = [
        Tensor.of("num_detections", np.array([1], np.int32)),
        Tensor.of("boxes", np.array([[[1, 2, 3, 4]]], np.float32)),
        Tensor.of("scores", np.array([[0.5]], np.float32)),
        Tensor.of("class_ids", np.array([[0]], np.int32)),
        Tensor.of_bytes("labels", (1, 1), [b"person"]),
        Tensor.of_bytes("cache", (1,), [b"bypass"]),
    ]
    message = grpc_codec.encode_response(InferResponse("detector", model_version="4", outputs=outputs))
    return bytes(message.SerializeToString())


def test_grpc_calls_are_told_apart_as_http_answers_are(album: Album) -> None:
    from concurrent.futures import ThreadPoolExecutor

    message = right_message()

    def script(number: int, context: Any) -> bytes:
        if number % 5 == 1:
            context.set_trailing_metadata((("saccade-reason", "overloaded"),))
            context.abort(grpc.StatusCode.UNAVAILABLE, "full")
        if number % 5 == 2:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "odd")
        if number % 5 == 3:
            return message[:20]
        return message

    handler = GrpcAnswers(script)
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        run, _, ended = drive(album, "http://127.0.0.1:1", protocol="v2-grpc", grpc_address=f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()
    total = run.measured()
    assert total.errors == {"overloaded": 10, "grpc_invalid_argument": 10, "wrong_answer": 10}
    assert total.answered == 20
    assert ended == {True: 20, False: 30}
    assert run.series["v2-grpc"].revisions["4"].answered == 20
    assert len(handler.cameras) == 50


def test_grpc_without_a_server_is_a_failure_of_the_connection(album: Album) -> None:
    run, _, _ = drive(album, "http://127.0.0.1:1", protocol="v2-grpc", grpc_address="127.0.0.1:1")
    assert run.measured().errors == {"connection": 50}


@pytest.mark.parametrize("coded", [b"", b"5", b"5\r\nab", b"2\r\nab\r\n", b"2\r\nab\r\n0\r\n"])
def test_an_unfinished_chunked_body_is_none_yet(coded: bytes) -> None:
    assert dechunk(coded) is None


def test_a_chunk_of_no_size_is_no_http() -> None:
    assert dechunk(b"2\r\nab\r\n0\r\n\r\n") == b"ab"
    for digits in (b"-6", b"+2", b"0x2", b"1_0", b""):
        with pytest.raises(ConnectionLost, match="a chunk of size"):
            dechunk(digits + b"\r\nab\r\n0\r\n\r\n")
    with pytest.raises(ConnectionLost, match="a chunk of size"):
        dechunk(b"zz\r\nab\r\n")
