"""What is measured: the rows of the table, and the servers they come from."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from measuring import triton
from measuring.environment import Unavailable, install
from measuring.payload import Protocol
from measuring.processes import Server, ServerFailed, free_port, get
from servers.noop import MODEL

BENCH: Final = Path(__file__).resolve().parents[1]
ROOT: Final = BENCH.parent
#: Importing kserve takes seconds, and all servers start at once.
_START_S: Final = 90.0
#: Products whose servers are scripts of ours.
_MODULES: Final = {"bare": "servers.bare", "saccade": "servers.saccade_noop", "kserve": "servers.kserve_noop"}
_SILENT: Final = {"bare"}  # no ready route
_TRITON: Final = "Triton's server (nvidia-pytriton and numpy, 75 MB)"


@dataclass(frozen=True, slots=True)
class Target:
    """A row: one model of one server by one protocol.

    Every row has a server process of its own. What one protocol's requests do to a process, such as the sizes of
    memory that its allocator keeps, would otherwise change the numbers of another's.

    Attributes:
        options: further arguments of the server's script.
        slow: takes most of a second for the large request, so that few of them are sent.
        own_ids: each of its requests has an id of its own (REST).
    """

    key: str
    label: str
    product: str
    protocol: Protocol
    model: str = MODEL
    options: tuple[str, ...] = ()
    slow: bool = False
    own_ids: bool = False


TARGETS: Final = (
    Target("bare-rest", "bare asyncio HTTP/1.1", "bare", "rest"),
    Target("bare-grpc", "bare asyncio HTTP/2", "bare", "grpc"),
    Target("saccade-rest", "Saccade REST", "saccade", "rest"),
    Target("saccade-rest-batched", "Saccade REST + batcher", "saccade", "rest", "noop_batched"),
    Target(
        "saccade-rest-batched-ids", "Saccade REST + batcher, own ids", "saccade", "rest", "noop_batched", own_ids=True
    ),
    Target("saccade-grpc", "Saccade gRPC", "saccade", "grpc"),
    Target("saccade-grpc-batched", "Saccade gRPC + batcher", "saccade", "grpc", "noop_batched"),
    Target("kserve-rest", "KServe REST", "kserve", "rest", slow=True),
    Target("kserve-grpc", "KServe gRPC", "kserve", "grpc"),
    Target("kserve-grpc-quiet", "KServe gRPC, logging off", "kserve", "grpc", options=("--quiet",)),
    Target("triton-http", "Triton HTTP", "triton", "rest"),
    Target("triton-grpc", "Triton gRPC", "triton", "grpc"),
)
#: Protocol -> the row that latencies are counted from.
FLOORS: Final[Mapping[str, str]] = {"rest": "bare-rest", "grpc": "bare-grpc"}


def choose(only: Sequence[str]) -> list[Target]:
    """The rows asked for, by key or by product, and the floors they need; all without a choice.

    Raises:
        ValueError: there is no such row or product.
    """
    known = {target.key for target in TARGETS} | {target.product for target in TARGETS}
    if unknown := [name for name in only if name not in known]:
        raise ValueError(f"no server {', '.join(unknown)}; expected {', '.join(t.key for t in TARGETS)}")
    chosen = [target for target in TARGETS if not only or target.key in only or target.product in only]
    floors = {FLOORS[target.protocol] for target in chosen}
    return [target for target in TARGETS if target in chosen or target.key in floors]


@dataclass(frozen=True, slots=True)
class Running:
    """A server that was started.

    Attributes:
        ports: REST and gRPC.
        identity: what it calls itself: name and version. Empty until it is ready.
    """

    server: Server
    ports: tuple[int, int]
    identity: str = ""

    def port(self, protocol: Protocol) -> int:
        """Where it serves a protocol."""
        return self.ports[0 if protocol == "rest" else 1]


@contextmanager
def running(
    targets: Iterable[Target], scratch: Path, say: Callable[[str], None]
) -> Iterator[tuple[dict[str, Running], dict[str, str]]]:
    """Start the servers of the targets, all at once; stop them at the end.

    Args:
        targets: the rows to be measured.
        scratch: an empty folder for logs and for Triton's repository.
        say: shows progress.

    Yields:
        The servers that are ready, and why others are not, by the target's key.
    """
    with ExitStack() as stack:
        started: dict[str, tuple[Target, Running]] = {}
        failed: dict[str, str] = {}
        unavailable: dict[str, str] = {}  # product -> why, so that it is tried once
        for target in targets:
            ports = free_port(), free_port()
            if target.product not in unavailable:
                try:
                    command, environment = _command(target, scratch, ports, say)
                except Unavailable as why:
                    unavailable[target.product] = str(why)
            if target.product in unavailable:
                failed[target.key] = unavailable[target.product]
                continue
            server = Server(target.label, command, environment, BENCH, scratch / f"{target.key}.log")
            stack.enter_context(server)
            started[target.key] = target, Running(server, ports)
        ready: dict[str, Running] = {}
        say(f"starting {len(started)} servers")
        for key, (target, one) in started.items():
            try:
                ready[key] = _await(target, one)
            except ServerFailed as why:
                failed[key] = str(why)
        for _, one in started.values():
            stack.callback(one.server.terminate)  # all at once, before each is waited for
        yield ready, failed


def _await(target: Target, one: Running) -> Running:
    """Wait until a server is ready; ask its name.

    Raises:
        ServerFailed: it is not, in time.
    """
    if target.product in _SILENT:
        one.server.wait_ready(one.ports, {}, _START_S)
        return one
    rest = one.port("rest")
    one.server.wait_ready(one.ports, {rest: [f"/v2/models/{target.model}/ready"]}, _START_S)
    content = json.loads(get(rest, "/v2") or b"{}")
    return replace(one, identity=f"{content.get('name', '?')} {content.get('version', '?')}")


def _command(
    target: Target, scratch: Path, ports: Sequence[int], say: Callable[[str], None]
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a server.

    Raises:
        Unavailable: Triton cannot be had here.
    """
    if target.product == "triton":
        lock = ROOT / "requirements" / "bench.txt"
        packages = install(ROOT / ".tools" / "triton", lock, "nvidia-pytriton and numpy (75 MB)", say)
        return triton.set_up(packages, scratch / target.key, BENCH, ports[0], ports[1])
    return [sys.executable, "-m", _MODULES[target.product], *target.options, *map(str, ports)], {}
