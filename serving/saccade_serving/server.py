"""The server of both services: KServe's ``ModelServer`` with our infer routes, gRPC service and life cycle.

KServe's flags, its v1 and list routes and its metrics stay. Replaced are: the V2 infer path (codecs), the gRPC
service (KServe's knows no versions and maps errors to the wrong codes), logging per request, and signal handling
(KServe's and uvicorn's close the listener at once; here a drain finishes what was accepted).

Life cycle: bind, listen, prepare models (readiness turns true), serve; SIGTERM or SIGINT: readiness turns false,
requests are answered until none has come for ``drain_quiet_s``, listeners close, models close, exit 0.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import kserve.model_server
from kserve.metrics import EXPLAIN_HIST_TIME, POST_HIST_TIME, PRE_HIST_TIME, PREDICT_HIST_TIME
from prometheus_client import REGISTRY
from starlette.types import ASGIApp

from saccade_serving import __version__
from saccade_serving.application import build_application
from saccade_serving.connection.control import ModelControl, admin_application
from saccade_serving.connection.front import Front
from saccade_serving.connection.gate import Gate
from saccade_serving.connection.grpc_port import GrpcPort
from saccade_serving.connection.infer import Infer
from saccade_serving.connection.information import InformationRoutes
from saccade_serving.connection.operation import Operation, Router
from saccade_serving.errors import SaccadeError
from saccade_serving.listener import HttpListener, bind
from saccade_serving.memory.arena import Arena
from saccade_serving.metrics import Metrics
from saccade_serving.model import ServedModel
from saccade_serving.scrapes import FIRST_REQUEST_S, metrics_application
from saccade_serving.settings import ServiceSettings, describe
from saccade_serving.tracing import start_tracing

log = logging.getLogger("saccade.server")

#: KServe's own histograms; ours of the same names are filled without its cost per observation.
_KSERVE_HISTOGRAMS: Final = (PRE_HIST_TIME, PREDICT_HIST_TIME, POST_HIST_TIME, EXPLAIN_HIST_TIME)
#: Time a connection may be idle.
KEEP_ALIVE_S: Final = 120
_LAG_INTERVAL_S: Final = 0.5
#: Time a model has to close, once nothing is in flight any more or the grace is over.
_CLOSE_S: Final = 5.0

_OWN_LOGS: Final = "ignored: logs are set by LOG_LEVEL, LOG_FORMAT and REQUEST_LOG"
#: What ``--help`` says of KServe's flags where it is not what KServe does with them.
_HELP: Final[Mapping[str, str]] = {
    "workers": "ignored: one process serves",
    "max_threads": "ignored: gRPC is served by the event loop",
    "max_asyncio_workers": "ignored: models do not run in asyncio's threads",
    "enable_latency_logging": _OWN_LOGS,
    "configure_logging": _OWN_LOGS,
    "log_config_file": _OWN_LOGS,
    "access_log_format": _OWN_LOGS,
    "protocol": "ignored: use --predictor_protocol",
    "predictor_request_retries": "ignored: a request is sent again only where a kept connection was closed meanwhile",
    "enable_docs_url": "Serve /docs and /openapi.json.",
    "grpc_max_receive_message_length": "Largest gRPC message received, in bytes (default: MAX_REQUEST_BYTES).",
    "grpc_max_send_message_length": "Largest gRPC message sent, in bytes (default: no limit).",
    "timeout_keep_alive": "Seconds for which an idle connection is kept.",
}


def argument_parser(
    service: str, settings: type[ServiceSettings], told: Mapping[str, str] | None = None, **defaults: Any
) -> argparse.ArgumentParser:
    """KServe's command line with our description, and our environment variables in ``--help``.

    Args:
        service: the command's name.
        settings: the service's settings.
        told: help texts of flags that differ between the services, by the flag's name.
        defaults: of flags.
    """
    parser = argparse.ArgumentParser(
        prog=service,
        parents=[copy.deepcopy(kserve.model_server.parser)],  # else its flags would change with ours
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",
        description=f"Saccade {__version__}: {service}. The flags are KServe's.",
        epilog=f"environment variables:\n{describe(settings)}",
    )
    parser.add_argument("--version", action="version", version=__version__)
    # None tells that a flag was not given: then ours hold, not KServe's 8 MiB.
    parser.set_defaults(grpc_max_receive_message_length=None, grpc_max_send_message_length=None)
    # Knative's queue-proxy keeps idle connections for 90 s; closed before that from this side, a request that is just
    # being sent on one is lost.
    parser.set_defaults(timeout_keep_alive=KEEP_ALIVE_S, enable_docs_url=True, **defaults)
    texts = {**_HELP, **(told or {})}
    for action in parser._actions:
        action.help = text = texts.get(action.dest, action.help or "")
        if not text.startswith("ignored") and action.nargs != 0 and action.default and "default" not in text:
            action.help = f"{text} (default: %(default)s)"
    return parser


class SaccadeServer(kserve.ModelServer):
    """Serves models over REST and gRPC.

    Args:
        arguments: parsed KServe flags.
        settings: the service's settings.
        metrics: the service's metrics.
        operations: builds the service's own POST routes, given the gate their requests pass.
        arena: where request bodies lie; one of its own if omitted.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        settings: ServiceSettings,
        metrics: Metrics,
        operations: Callable[[Gate], Sequence[Operation]] = lambda gate: (),
        arena: Arena | None = None,
    ) -> None:
        super().__init__(
            http_port=arguments.http_port,
            grpc_port=arguments.grpc_port,
            workers=1,
            enable_grpc=arguments.enable_grpc,
            enable_docs_url=arguments.enable_docs_url,
            enable_latency_logging=False,
            access_log_format=arguments.access_log_format,
            event_loop=arguments.event_loop,
            timeout_keep_alive=arguments.timeout_keep_alive,
            ssl_certfile=arguments.ssl_certfile,
            ssl_keyfile=arguments.ssl_keyfile,
        )
        if arguments.workers != 1:
            # KServe's controller passes --workers=<containerConcurrency> to custom transformers.
            log.warning("workers_ignored", extra={"asked": arguments.workers, "used": 1})
        self.settings = settings
        self.metrics = metrics
        if arena is None:
            arena = Arena(settings.max_inflight_bytes, peer_share=settings.max_peer_share)
        self.gate = Gate(self.registered_models.get_models(), settings, metrics, arena)
        self._operations = [Infer(self.gate), *operations(self.gate)]
        receive, send = arguments.grpc_max_receive_message_length, arguments.grpc_max_send_message_length
        self._grpc_limits = (settings.max_request_bytes if receive is None else receive, -1 if send is None else send)
        self._admin_port = 0
        self._stopping = asyncio.Event()
        self._failed = False
        self._end = 0.0  # when the grace is over, on the loop's clock; set at the signal

    def start(self, models: Sequence[ServedModel], control: ModelControl | None = None, admin_port: int = 0) -> None:
        """Serve until a signal. Returns after a clean shutdown.

        Args:
            models: prepared first.
            control: changes the models that are served.
            admin_port: where control calls need no key, on the loopback address; 0: nowhere.

        Raises:
            SystemExit: 1 if a port cannot be bound or no model could be prepared.
        """
        if self.settings.tracing:
            self.gate.tracing = start_tracing(self.settings.service)
        self.gate.control = control
        self._admin_port = admin_port
        for model in models:
            self.add(model)
        with asyncio.Runner(loop_factory=_loop_factory(self.event_loop)) as runner:
            runner.run(self._run(models))
        if self._failed:
            raise SystemExit(1)

    def add(self, model: ServedModel) -> None:
        """Serve a model from now on."""
        model.tracing = self.gate.tracing
        self.register_model(model)

    def remove(self, name: str) -> None:
        """Find a model no more; what it has is still its to answer."""
        self.registered_models.models.pop(name, None)

    def stop(self, sig: int) -> None:
        """Begin the drain; a second signal ends the process at once."""
        if self._stopping.is_set():
            log.warning("stopped_at_once", extra={"signal": sig})
            os._exit(128 + sig)
        log.info("draining", extra={"signal": sig, "inflight": len(self.gate.open)})
        self.gate.draining = True
        self._stopping.set()

    async def _run(self, models: Sequence[ServedModel]) -> None:
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self.stop, sig)
        for histogram in _KSERVE_HISTOGRAMS:
            with contextlib.suppress(KeyError):
                REGISTRY.unregister(histogram)
        REGISTRY.register(self.metrics)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(REGISTRY.unregister, self.metrics)
            if self.gate.tracing is not None:
                stack.push_async_callback(asyncio.to_thread, self.gate.tracing.close)
            stack.push_async_callback(self._close_models)
            try:
                front = await self._listen(stack)
            except OSError as error:
                log.error("cannot_listen", extra={"why": str(error)})
                self._failed = True
                return
            control = self.gate.control
            tasks = [
                asyncio.create_task(self._prepare(models, control)),
                *([asyncio.create_task(control.watch())] if control is not None else []),
                asyncio.create_task(self._watch_loop_lag()),
            ]
            await self._stopping.wait()
            self._end = loop.time() + self.settings.drain_grace_s
            await self._drain(front)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        log.info("stopped")

    async def _listen(self, stack: contextlib.AsyncExitStack) -> Front:
        settings = self.settings
        listener = bind(settings.host, self.http_port, "--http_port")
        stack.callback(listener.close)
        if settings.metrics_port:
            setting = f"{settings.model_config.get('env_prefix', '')}METRICS_PORT"
            await self._listen_beside(stack, settings.host, settings.metrics_port, setting, metrics_application())
        if self._admin_port:
            setting = f"{settings.model_config.get('env_prefix', '')}ADMIN_PORT"
            index = InformationRoutes(self.gate, self.metrics.statistics).index
            await self._listen_beside(
                stack, "127.0.0.1", self._admin_port, setting, admin_application(self.gate, index)
            )
        stops: list[Callable[[float], Awaitable[None]]] = []

        async def stop() -> None:
            # Together: what one still accepts while only the other is stopped would find nobody to answer it.
            remaining_s = self._remaining_s()
            await asyncio.gather(*(stop(remaining_s) for stop in stops))

        stack.push_async_callback(stop)
        front = Front(self.gate, Router(self._operations), self.timeout_keep_alive)
        rest = HttpListener(
            build_application(self, self.gate, self._operations),
            listener,
            front,
            timeout_keep_alive=self.timeout_keep_alive,
            ssl_certfile=self.ssl_certfile,
            ssl_keyfile=self.ssl_keyfile,
        )
        if self.enable_grpc:
            grpc = GrpcPort(self.gate, *self._grpc_limits)
            await grpc.start(settings.host, self.grpc_port)
            stops.append(grpc.stop)
        await rest.start()
        stops.append(rest.stop)
        log.info(
            "listening",
            extra={
                "rest": f"{settings.host}:{self.http_port}",
                "grpc": f"{settings.host}:{self.grpc_port}" if self.enable_grpc else "off",
                "metrics": settings.metrics_port or "off",
            },
        )
        return front

    async def _listen_beside(
        self, stack: contextlib.AsyncExitStack, host: str, port: int, setting: str, app: ASGIApp
    ) -> None:
        """Serve an application on a port of its own until all else has ended."""
        listener = bind(host, port, setting)
        stack.callback(listener.close)
        front = Front(self.gate, Router([]), FIRST_REQUEST_S)
        beside = HttpListener(app, listener, front, timeout_keep_alive=KEEP_ALIVE_S)
        await beside.start()
        stack.push_async_callback(beside.stop, 1.0)

    async def _prepare(self, models: Sequence[ServedModel], control: ModelControl | None) -> None:
        """Prepare all models; without a single one, and none to come, the service has no purpose and ends."""
        results = await asyncio.gather(*(model.prepare() for model in models), return_exceptions=True)
        for model, result in zip(models, results, strict=True):
            if isinstance(result, BaseException):
                model.not_ready_because = "it could not be loaded; the server's log has the cause"
                log.error(
                    "model_failed",
                    extra={"model": model.name, "why": str(result)},
                    exc_info=_unexpected(result),
                )
            else:
                log.info("model_ready", extra={"model": model.name, "versions": model.versions()})
        if not any(model.ready for model in models) and (control is None or control.mode == "none"):
            self._failed = True
            self._stopping.set()

    async def _drain(self, front: Front) -> None:
        """Wait until nothing is in flight and no work has come for ``drain_quiet_s``; at most the grace.

        Probes and other ordinary requests are answered, too, but do not prolong it: they never cease to come.
        """
        if self._failed:
            return
        loop = asyncio.get_running_loop()
        self.gate.last_seen = max(self.gate.last_seen, time.monotonic())
        while loop.time() < self._end:
            quiet_in_s = self.gate.last_seen + self.settings.drain_quiet_s - time.monotonic()
            if not self.gate.open and quiet_in_s <= 0 and not front.ordinary_inflight:
                loop.call_at(self._end, self.gate.abort)  # what is accepted until the listeners are closed
                return
            await asyncio.sleep(max(0.01, min(quiet_in_s, 0.1)))
        log.warning("drain_grace_over", extra={"inflight": len(self.gate.open)})
        self.gate.abort()

    def _remaining_s(self) -> float:
        """What is left of the grace, and a second for the answers of what is ended with it."""
        return max(0.0, self._end - asyncio.get_running_loop().time()) + 1.0

    async def _close_models(self) -> None:
        """Close what is served, and what is coming or going."""
        control = self.gate.control
        if control is not None:
            try:
                await asyncio.wait_for(control.close(), _CLOSE_S)
            except TimeoutError:
                log.error("close_timed_out", extra={"model": "", "after_s": _CLOSE_S})
        for model in list(self.registered_models.models.values()):
            await self._close(model)

    async def _close(self, model: ServedModel) -> None:
        """Close a model; an engine that hangs must not keep the process from ending."""
        try:
            await asyncio.wait_for(model.close(), _CLOSE_S)
        except TimeoutError:
            log.error("close_timed_out", extra={"model": model.name, "after_s": _CLOSE_S})

    async def _watch_loop_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_INTERVAL_S
            await asyncio.sleep(_LAG_INTERVAL_S)
            self.metrics.loop_lag.observe(max(0.0, loop.time() - due))


def _loop_factory(event_loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop where it is installed and not switched off."""
    if event_loop != "asyncio" and sys.platform == "linux":
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return factory
    return None


def _unexpected(error: BaseException) -> BaseException | None:
    """Errors whose message is not enough: anything but our own and the operator's."""
    return None if isinstance(error, (ValueError, OSError, SaccadeError)) else error
