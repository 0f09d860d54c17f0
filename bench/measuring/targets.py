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
from measuring.payload import Protocol
from measuring.processes import Server, ServerFailed, free_ports, get
from servers.noop import MODEL

BENCH: Final = Path(__file__).resolve().parents[1]
ROOT: Final = BENCH.parent
#: Importing kserve takes seconds, and all servers start at once.
_START_S: Final = 90.0
#: Servers that are scripts of ours, by the arguments of ``python``.
_MODULES: Final = {
    "bare": ["-m", "servers.bare"],
    "saccade": ["-m", "servers.saccade_noop"],
    "kserve": ["-m", "servers.kserve_noop"],
    "kserve-quiet": ["-m", "servers.kserve_noop", "--quiet"],
}
_SILENT: Final = {"bare"}  # no ready route


@dataclass(frozen=True, slots=True)
class Target:
    """A row: one model of one server by one protocol.

    Attributes:
        slow: takes most of a second for the large request, so that few of them are sent.
    """

    key: str
    label: str
    server: str
    protocol: Protocol
    model: str = MODEL
    slow: bool = False


TARGETS: Final = (
    Target("bare-rest", "bare asyncio HTTP/1.1", "bare", "rest"),
    Target("bare-grpc", "bare asyncio HTTP/2", "bare", "grpc"),
    Target("saccade-rest", "Saccade REST", "saccade", "rest"),
    Target("saccade-rest-batched", "Saccade REST + batcher", "saccade", "rest", "noop_batched"),
    Target("saccade-grpc", "Saccade gRPC", "saccade", "grpc"),
    Target("saccade-grpc-batched", "Saccade gRPC + batcher", "saccade", "grpc", "noop_batched"),
    Target("kserve-rest", "KServe REST", "kserve", "rest", slow=True),
    Target("kserve-grpc", "KServe gRPC", "kserve", "grpc"),
    Target("kserve-grpc-quiet", "KServe gRPC, logging off", "kserve-quiet", "grpc"),
    Target("triton-http", "Triton HTTP", "triton", "rest"),
    Target("triton-grpc", "Triton gRPC", "triton", "grpc"),
)
#: Protocol -> the row that latencies are counted from.
FLOORS: Final[Mapping[str, str]] = {"rest": "bare-rest", "grpc": "bare-grpc"}


def choose(only: Sequence[str]) -> list[Target]:
    """The rows asked for, by key or by server, and the floors they need; all without a choice.

    Raises:
        ValueError: there is no such row or server.
    """
    known = {target.key for target in TARGETS} | {target.server for target in TARGETS}
    if unknown := [name for name in only if name not in known]:
        raise ValueError(f"no server {', '.join(unknown)}; expected {', '.join(t.key for t in TARGETS)}")
    chosen = [target for target in TARGETS if not only or target.key in only or target.server in only]
    floors = {FLOORS[target.protocol] for target in chosen}
    return [target for target in TARGETS if target in chosen or target.key in floors]


@dataclass(frozen=True, slots=True)
class Running:
    """A server that was started.

    Attributes:
        identity: what it calls itself: name and version. Empty until it is ready.
    """

    server: Server
    ports: Mapping[Protocol, int]
    identity: str = ""


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
        The servers that are ready by name, and why others are not.
    """
    models: dict[str, list[str]] = {}
    for target in targets:
        models.setdefault(target.server, []).append(target.model)
    with ExitStack() as stack:
        started: dict[str, Running] = {}
        failed: dict[str, str] = {}
        for name in models:
            http_port, grpc_port = free_ports(2)
            try:
                command, environment = _command(name, scratch, http_port, grpc_port, say)
            except triton.Unavailable as why:
                failed[name] = str(why)
                continue
            server = stack.enter_context(Server(name, command, environment, BENCH, scratch / f"{name}.log"))
            started[name] = Running(server, {"rest": http_port, "grpc": grpc_port})
        for name, one in list(started.items()):
            say(f"starting {name}")
            rest = one.ports["rest"]
            paths = [] if name in _SILENT else [f"/v2/models/{model}/ready" for model in models[name]]
            try:
                one.server.wait_ready(one.ports.values(), {rest: paths} if paths else {}, _START_S)
            except ServerFailed as why:
                failed[name] = str(why)
                del started[name]
                continue
            if paths and (said := get(rest, "/v2")):
                content = json.loads(said)
                started[name] = replace(one, identity=f"{content['name']} {content['version']}")
        for one in started.values():
            stack.callback(one.server.terminate)  # all at once, before each is waited for
        yield started, failed


def _command(
    name: str, scratch: Path, http_port: int, grpc_port: int, say: Callable[[str], None]
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a server.

    Raises:
        triton.Unavailable: Triton cannot be had here.
    """
    if name == "triton":
        packages = triton.install(ROOT / ".tools" / "triton", ROOT / "requirements" / "bench.txt", say)
        return triton.set_up(packages, scratch / "triton", BENCH, http_port, grpc_port)
    return [sys.executable, *_MODULES[name], str(http_port), str(grpc_port)], {}
