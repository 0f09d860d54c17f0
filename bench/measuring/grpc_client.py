"""The client of all gRPC servers: grpcio's blocking channel, serialised messages, a thread per connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import grpc

from measuring.payload import GRPC_METHOD, is_right
from measuring.samples import Batch, ClientError, Load

#: Without a pool of its own, every channel to one address would share one connection.
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]

Call = Callable[..., bytes]


class GrpcClient:
    """Open channels to one server; made by ``connect``."""

    def __init__(self, load: Load, calls: Sequence[Call]) -> None:
        self._load, self._calls = load, calls

    def send(self, count: int, limit_s: float) -> Batch:
        """Send ``count`` requests, fewer if ``limit_s`` is over before; await the answers.

        Raises:
            ClientError: a wrong answer, or one that did not come in time.
        """
        latencies: list[float] = []
        errors: list[str] = []
        left = iter(range(count))  # next() of it is atomic
        begun, cpu_before = time.perf_counter(), time.process_time()

        def work(call: Call) -> None:
            while next(left, None) is not None and not errors:
                started = time.perf_counter()
                try:
                    answer = call(self._load.request, timeout=self._load.timeout_s)
                except grpc.RpcError as error:
                    errors.append(f"{error.code()}: {error.details()}")
                    return
                now = time.perf_counter()
                latencies.append(now - started)
                if not is_right(answer, self._load.answer_bytes):
                    errors.append(f"a wrong answer: {answer[:300]!r}")
                if now - begun > limit_s:
                    return

        threads = [threading.Thread(target=work, args=(call,), daemon=True) for call in self._calls[:count]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise ClientError(errors[0])
        return Batch(latencies, time.perf_counter() - begun, time.process_time() - cpu_before)


@contextmanager
def connect(load: Load) -> Iterator[GrpcClient]:
    """Open the load's channels, close them at the end."""
    with ExitStack() as stack:
        calls = []
        for _ in range(load.connections):
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{load.port}", _OPTIONS))
            calls.append(channel.unary_unary(GRPC_METHOD, request_serializer=None, response_deserializer=None))
        yield GrpcClient(load, calls)
