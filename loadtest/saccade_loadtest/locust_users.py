"""Locust users: a user is a camera, which sends its frames at their moments whatever becomes of the answers.

For ``locustfile.py``. The number of users, the spawn rate, shapes, the web page, ``--master`` and ``--worker`` are
Locust's own. A camera's frames are sent and timed by a generator process beside Locust (``locust_bridge``). With
``--loop closed`` a user waits for each answer instead; the record says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

import gevent
from locust import LoadTestShape, User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from saccade_loadtest.commands import options
from saccade_loadtest.load import scenarios
from saccade_loadtest.locust_bridge import FINISH, RECORD, Bridge, Judge, failing, options_of

#: Seconds of a shape where no run time is given.
_SHAPE_S = 300.0
_bridges: dict[int, Bridge] = {}
_judges: dict[int, Judge] = {}


class CameraUser(User):
    """A camera. Subclasses name their protocol."""

    abstract = True
    protocol: ClassVar[str] = ""
    _camera: int | None = None

    def on_start(self) -> None:
        """The camera is switched on."""
        bridge = _bridges.get(id(self.environment))
        if bridge is not None:
            self._camera = bridge.switch_on(self.protocol)

    def on_stop(self) -> None:
        """The camera is switched off."""
        bridge = _bridges.get(id(self.environment))
        if bridge is not None and self._camera is not None:
            bridge.switch_off(self._camera)

    @task
    def be_on(self) -> None:
        """Nothing: the generator sends the frames."""
        gevent.sleep(1.0)


class V2BinaryUser(CameraUser):
    """V2 over REST, binary."""

    protocol = "v2-binary"


class V2JsonUser(CameraUser):
    """V2 over REST, JSON."""

    protocol = "v2-json"


class V2GrpcUser(CameraUser):
    """V2 over gRPC; needs ``--grpc-address``."""

    protocol = "v2-grpc"


class JpegUser(CameraUser):
    """A raw JPEG to ``/detect``."""

    protocol = "jpeg"


class V1User(CameraUser):
    """KServe's v1."""

    protocol = "v1"


class ProfileShape(LoadTestShape):
    """Users over time as the scenarios' rates are: ``SACCADE_SHAPE`` names one, Locust's users are its highest."""

    abstract = True
    use_common_options = True
    name: ClassVar[str] = "constant"

    def tick(self) -> tuple[int, float] | None:
        """How many users there shall be now."""
        assert self.runner is not None
        given = options_of(self.runner.environment)
        duration_s = float(given.run_time or _SHAPE_S)
        at_s = float(self.get_run_time())  # type: ignore[no-untyped-call]  # Locust's
        if at_s >= duration_s:
            return None
        profile = scenarios.shape(self.name, float(given.num_users or 1), duration_s)
        return max(1, round(profile.rate_at(at_s))), 100.0


def shape_from_environment() -> type[ProfileShape] | None:
    """The shape that ``SACCADE_SHAPE`` names; None where it names none: Locust's own users and spawn rate count.

    Raises:
        BadSchedule: there is no such shape.
    """
    name = os.environ.get("SACCADE_SHAPE", "")
    if not name:
        return None
    scenarios.shape(name, 1.0, 1.0)
    made: type[ProfileShape] = type(f"{name.capitalize()}Shape", (ProfileShape,), {"name": name, "abstract": False})
    return made


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # Locust's events have no types
def add_options(parser: LocustArgumentParser) -> None:
    """What there is beside Locust's own options."""
    parser.add_argument("--model", default="", help="Model; may be left out where one is served")
    parser.add_argument("--grpc-address", dest="grpc", default="", help="Host and port of gRPC")
    parser.add_argument("--fps", type=float, default=10.0, help="Frames per second of each user, who is a camera")
    parser.add_argument("--static", type=float, default=0.0, help="Share of the cameras whose scene stands still")
    parser.add_argument("--cache", choices=["use", "bypass", "refresh"], default="bypass", help="The frame cache")
    parser.add_argument("--loop", choices=["open", "closed"], default="open", help="closed: users wait for answers")
    parser.add_argument("--warmup", type=float, default=5.0, help="Seconds that do not count")
    parser.add_argument("--patience", type=float, default=10.0, help="Seconds after which a request is a failure")
    parser.add_argument("--header", default="", help="NAME: VALUE with each request; several in lines")
    parser.add_argument("--size", default="640x480", help="Of the pictures: WIDTHxHEIGHT")
    parser.add_argument("--pictures", default=str(options.PHOTOS), help="Folder of photos", include_in_web_ui=False)
    parser.add_argument("--trace", default="", help="Trace (CSV): users play its cameras", include_in_web_ui=False)
    parser.add_argument("--slo", default="", help="SLO file to judge by", include_in_web_ui=False)
    parser.add_argument("--out", default="loadtest-out", help="Folder for the report", include_in_web_ui=False)


@events.init.add_listener  # type: ignore[untyped-decorator]  # Locust's events have no types
def connect(environment: Environment, **_: Any) -> None:
    """Let Locust's beginning and end be the generator's."""
    runner = environment.runner
    key = id(environment)
    if runner is None:
        return
    if not options_of(environment).grpc and len(environment.user_classes) > 1:
        # Locust runs all classes that it finds; this one could not send anything.
        environment.user_classes[:] = [one for one in environment.user_classes if one is not V2GrpcUser]
    if not isinstance(runner, WorkerRunner):
        failing(environment, lambda: _judges.update({key: Judge(environment)}))
    if isinstance(runner, MasterRunner):

        def take(msg: Any, **_: Any) -> None:
            if (judge := _judges.get(key)) is not None:
                judge.take(msg.node_id, msg.data)

        runner.register_message(RECORD, take)
    if isinstance(runner, WorkerRunner):
        runner.register_message(FINISH, lambda environment, msg: _send_record(environment), concurrent=True)
    # Timers count from when gevent's loop last looked at the clock, which is before all the imports on a busy machine:
    # the run time would be seconds short.
    gevent.get_hub().loop.update_now()


@events.test_start.add_listener  # type: ignore[untyped-decorator]  # Locust's events have no types
def begin(environment: Environment, **_: Any) -> None:
    """A run begins."""
    key = id(environment)
    if (judge := _judges.get(key)) is not None:
        judge.start()
    if not isinstance(environment.runner, MasterRunner):
        bridge = Bridge(environment, options_of(environment).loop == "closed")
        _bridges[key] = bridge
        failing(environment, bridge.start)


@events.test_stop.add_listener  # type: ignore[untyped-decorator]  # Locust's events have no types
def end(environment: Environment, **_: Any) -> None:
    """A run ends: workers send their records, who judges waits for them."""
    key, runner = id(environment), environment.runner
    judge = _judges.get(key)
    if isinstance(runner, WorkerRunner):
        _send_record(environment)
    if judge is None or runner is None:
        return
    judge.end()
    if (bridge := _bridges.pop(key, None)) is not None:
        judge.take(bridge.name, bridge.finish())
    if isinstance(runner, MasterRunner):
        judge.ask_and_wait(options_of(environment).patience)
    failing(environment, _setting_exit_code(environment, judge))


@events.quitting.add_listener  # type: ignore[untyped-decorator]  # Locust's events have no types
def stop_before_quitting(environment: Environment, **_: Any) -> None:
    """Locust takes its exit code before it stops a run: so the run is stopped here, while the workers still listen."""
    runner = environment.runner
    if runner is not None and not isinstance(runner, WorkerRunner):
        runner.stop()


def _send_record(environment: Environment) -> None:
    """A worker's run ends, once, whoever says so first."""
    bridge = _bridges.pop(id(environment), None)
    if bridge is not None and isinstance(environment.runner, WorkerRunner):
        environment.runner.send_message(RECORD, bridge.finish())


def _setting_exit_code(environment: Environment, judge: Judge) -> Callable[[], None]:
    def act() -> None:
        environment.process_exit_code = judge.conclude()  # of several runs on the web page, the last one's

    return act
