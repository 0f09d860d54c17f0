"""Versions that come and go while requests do: beside one another, without a failed request, and leaving nothing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fakes import FakeEngine, answer_of, eventually, settle
from saccade_predictor import metrics as metrics_module
from saccade_predictor.engines.engine import LeasedOutputs
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.model import PredictorModel
from saccade_predictor.modelconfig import parse
from saccade_predictor.repository import ModelDirectory
from saccade_predictor.version import Loadable, LoadedEngine, Surroundings
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import InvalidRequest, ModelNotFound, Overloaded
from saccade_serving.memory.arena import Arena
from saccade_serving.oip.messages import InferRequest, InferResponse, Tensor

CONFIG = (
    'backend: "onnxruntime" max_batch_size: 4 dynamic_batching {}\n'
    'input [{ name: "x" data_type: TYPE_FP32 dims: [ 2 ] }] output [{ name: "y" data_type: TYPE_FP32 dims: [ 2 ] }]\n'
)


class Disk:
    """A model's versions, each with an engine that the test answers for."""

    def __init__(self, hang_limit_s: float = 30.0) -> None:
        self.config = parse(CONFIG, "m")[0]
        self.versions: dict[str, str] = {}  # fingerprints
        self.broken: dict[str, Exception] = {}
        self.opened: list[tuple[str, FakeEngine]] = []
        self.metrics = PredictorMetrics()
        self.arena = Arena(2**20, poison=True)
        self.model = PredictorModel(
            ModelDirectory("m", Path("nowhere")), self._find, Surroundings(self.metrics, self.arena, 10, hang_limit_s)
        )

    def _find(self, _directory: ModelDirectory) -> list[Loadable]:
        if "" in self.broken:
            raise self.broken[""]

        def opening(version: str) -> Callable[[], LoadedEngine]:
            def opened() -> LoadedEngine:
                if version in self.broken:
                    raise self.broken[version]
                engine = FakeEngine()
                self.opened.append((version, engine))
                return LoadedEngine(version, self.config, engine)

            return opened

        return [Loadable(version, mark, opening(version)) for version, mark in self.versions.items()]

    async def change(self, **versions: str) -> None:
        """Have these versions on disk, and take them up; engines answer their warm-up."""
        self.versions = {name.removeprefix("v"): mark for name, mark in versions.items()}
        known = len(self.opened)
        task = asyncio.create_task(self.model.prepare())

        def step() -> bool:
            for _, engine in self.opened[known:]:
                engine.finish_all()
            return task.done()

        await eventually(step, "the change is made")
        await task

    def engine(self, number: int = -1) -> FakeEngine:
        return self.opened[number][1]

    def ask(self, version: str = "") -> asyncio.Task[InferResponse]:
        tensor = Tensor.of("x", np.ones((1, 2), np.float32))
        request = InferRequest("m", [tensor], version)
        return asyncio.create_task(answer_of(self.model, request, Exchange.begin("rest", {}, 30)))


async def test_what_has_not_changed_goes_on_with_its_engine() -> None:
    disk = Disk()
    await disk.change(v1="a")
    await disk.change(v1="a", v2="b")
    assert disk.model.versions() == ["1", "2"]
    assert [version for version, _ in disk.opened] == ["1", "2"]
    assert not disk.engine(0).closed
    await disk.model.close()


async def test_a_new_version_takes_over_while_the_old_one_computes_and_nobody_fails() -> None:
    disk = Disk()
    await disk.change(v1="a")
    old = disk.ask()
    await eventually(lambda: disk.engine(0).open, "version 1 computes")
    waiting = [disk.ask(), disk.ask()]
    await settle()
    await disk.change(v2="b")
    new = disk.ask()
    await eventually(lambda: disk.engine(1).open, "version 2 computes")
    disk.engine(1).finish_all()
    assert (await new).model_version == "2"
    assert not disk.engine(0).closed, "it has three requests"

    def step() -> bool:
        disk.engine(0).finish_all()
        return all(task.done() for task in (old, *waiting))

    await eventually(step, "version 1 answers what it has")
    assert {(await task).model_version for task in (old, *waiting)} == {"1"}
    await eventually(lambda: disk.engine(0).closed, "version 1 is freed")
    assert disk.arena.leases == 0
    await disk.model.close()


async def test_a_version_that_is_replaced_is_asked_no_more() -> None:
    disk = Disk()
    await disk.change(v1="a")
    await disk.change(v1="b")
    await eventually(lambda: disk.engine(0).closed, "the old one is freed")
    asked = disk.ask("1")
    await eventually(lambda: disk.engine(1).open, "the new one computes")
    disk.engine(1).finish_all()
    assert (await asked).model_version == "1"
    await disk.model.close()


@pytest.mark.parametrize("failing", ["", "2"])
async def test_a_change_that_fails_changes_nothing_and_says_why(failing: str) -> None:
    disk = Disk()
    await disk.change(v1="a")
    disk.broken[failing] = ValueError("made of cheese")
    with pytest.raises(ValueError, match="cheese"):
        await disk.change(v1="b", v2="b")
    assert disk.model.ready
    assert disk.model.versions() == ["1"]
    assert disk.model.unserved() == {failing: ("UNAVAILABLE", "made of cheese")}
    assert disk.model.unavailable() == {failing: "load"}
    assert not disk.engine(0).closed
    if failing:
        await eventually(lambda: disk.engine(1).closed, "the new version 1 is not kept without version 2")
    disk.broken.clear()
    await disk.change(v1="a", v2="b")
    assert disk.model.unserved() == {}
    assert disk.model.unavailable() == {}
    await disk.model.close()


async def test_an_engine_that_cannot_run_its_model_changes_nothing() -> None:
    disk = Disk()
    await disk.change(v1="a")
    disk.versions = {"2": "b"}
    task = asyncio.create_task(disk.model.prepare())
    await eventually(lambda: len(disk.opened) == 2 and disk.engine(1).open, "the warm-up of version 2")
    disk.engine(1).open[0].fail(RuntimeError("no kernel"))
    await asyncio.wait([task])
    assert task.exception() is not None
    assert disk.model.versions() == ["1"]
    assert "failed on this batch" in disk.model.unserved()["2"][1]
    assert disk.model.unavailable() == {"2": "warmup"}
    await eventually(lambda: disk.engine(1).closed, "it is freed")
    await disk.model.close()


async def test_retiring_waits_for_an_answer_that_still_lies_in_the_engines_memory() -> None:
    disk = Disk()
    await disk.change(v1="a")
    asked = disk.ask()
    await eventually(lambda: disk.engine().open, "it computes")
    freed: list[bool] = []
    outputs = LeasedOutputs({"y": np.ones((1, 2), np.float32)}, lambda: freed.append(True))
    disk.engine().open[0].finish(outputs)
    answer = await asked
    retiring = asyncio.create_task(disk.model.retire())
    await settle()
    assert not disk.engine().closed, "the answer is still being sent"
    assert answer.release is not None
    answer.release()
    answer.release()
    await asyncio.wait_for(retiring, 5)
    assert freed == [True]
    assert disk.engine().closed


async def test_retiring_waits_for_clients_that_leave_and_for_none_beyond() -> None:
    disk = Disk()
    await disk.change(v1="a")
    asked = disk.ask()
    await eventually(lambda: disk.engine().open, "it computes")
    retiring = asyncio.create_task(disk.model.retire())
    await settle()
    with pytest.raises(Overloaded, match="not ready"):
        await disk.ask()
    asked.cancel()
    await settle()
    assert not disk.engine().closed, "the engine still reads"
    disk.engine().finish_all()
    await asyncio.wait_for(retiring, 5)
    assert disk.engine().closed
    assert disk.arena.leases == 0


async def test_closing_does_not_wait_for_who_retires() -> None:
    disk = Disk()
    await disk.change(v1="a")
    running, waiting = disk.ask(), disk.ask()
    await eventually(lambda: disk.engine().open, "it computes")
    await disk.change(v2="b")
    closing = asyncio.create_task(disk.model.close())
    await settle()
    disk.engine(0).finish_all()
    await asyncio.wait_for(closing, 5)
    results = await asyncio.gather(running, waiting, return_exceptions=True)
    assert [engine.closed for _, engine in disk.opened] == [True, True]
    assert all(isinstance(result, InferResponse | Overloaded) for result in results)


async def test_a_version_that_was_asked_for_by_number_and_is_gone_is_not_found() -> None:
    disk = Disk()
    await disk.change(v1="a")
    await disk.change(v2="b")
    with pytest.raises(ModelNotFound, match="available: 2"):
        await disk.ask("1")
    await disk.model.close()


async def test_nothing_keeps_a_version_that_is_gone() -> None:
    disk = Disk()
    await disk.change(v1="a")
    gone = weakref.ref(disk.model.loaded()[0])
    for _ in range(3):  # so that whatever remembers requests does
        asked = disk.ask()
        await eventually(lambda: disk.engine().open, "it computes")
        disk.engine().finish_all()
        await asked
    await disk.change(v2="b")
    await eventually(lambda: disk.engine(0).closed, "it is freed")
    await settle()
    gc.collect()
    assert gone() is None
    await disk.model.close()


async def test_the_counts_of_versions_that_are_gone_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "FORGET_AFTER_S", 0.0)
    disk = Disk()
    for version in range(1, 30):
        await disk.change(**{f"v{version}": "a"})
        asked = disk.ask()
        await eventually(lambda: disk.engine().open, "it computes")
        disk.engine().finish_all()
        await asked
    await eventually(lambda: all(engine.closed for _, engine in disk.opened[:-1]), "the old ones are freed")
    await settle()
    versions = {labels for labels, _ in disk.metrics.batch_size.rows()}
    assert versions == {("m", "29")}
    assert disk.metrics.statistics.of("m", "29").execution_count == 1
    await disk.model.close()


async def test_a_request_that_is_refused_leaves_a_retiring_version_free_to_go() -> None:
    disk = Disk()
    await disk.change(v1="a")
    wrong = InferRequest("m", [Tensor.of("z", np.ones((1, 2), np.float32))])
    with pytest.raises(InvalidRequest):
        await answer_of(disk.model, wrong, Exchange.begin("rest", {}, 30))
    await asyncio.wait_for(disk.model.retire(), 5)
    assert disk.engine().closed


async def test_an_outgoing_version_that_hangs_is_let_go_and_its_successor_goes_on() -> None:
    disk = Disk(hang_limit_s=0.2)
    await disk.change(v1="a")
    asked = disk.ask()
    await eventually(lambda: disk.engine().open, "it computes, and will not end")
    asked.cancel()
    await disk.change(v2="b")
    await eventually(lambda: disk.engine(0).closed, "it is given up")
    assert disk.model.ready
    assert not disk.model.must_restart
    await asyncio.wait_for(disk.model.retire(), 5)


async def test_a_version_whose_engine_is_dead_is_loaded_anew_although_nothing_changed() -> None:
    disk = Disk()
    await disk.change(v1="a")
    [version] = disk.model.loaded()
    version.batcher.dead = True
    disk.model._break(version)
    assert disk.model.must_restart
    assert disk.model.unavailable() == {"1": "engine"}
    await disk.change(v1="a")
    assert disk.model.unavailable() == {}
    assert [name for name, _ in disk.opened] == ["1", "1"]
    assert disk.model.ready
    assert not disk.model.must_restart, "what is served now works"
    asked = disk.ask()
    await eventually(lambda: disk.engine().open, "the new one computes")
    disk.engine().finish_all()
    assert (await asked).model_version == "1"
    await disk.model.close()


async def test_a_version_that_comes_back_keeps_its_counts_for_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "FORGET_AFTER_S", 3600.0)
    disk = Disk()
    await disk.change(v1="a")
    await disk.change(v2="b")
    await eventually(lambda: disk.engine(0).closed, "version 1 is freed")
    first = disk.metrics._going["m", "1"]
    await disk.change(v1="a")
    assert first.cancelled(), "it is back"
    await eventually(lambda: disk.engine(1).closed, "version 2 is freed")
    await disk.change(v2="b")
    await eventually(lambda: disk.engine(2).closed, "and gone again")
    assert not disk.metrics._going["m", "1"].cancelled()
    assert ("m", "2") not in disk.metrics._going
    await disk.model.close()
    for timer in disk.metrics._going.values():
        timer.cancel()


async def test_a_warm_up_takes_no_room_from_clients_and_waits_for_its_own() -> None:
    disk = Disk()
    held = disk.arena.lease(disk.arena.limit_bytes)
    await disk.change(v1="a")
    assert disk.model.ready, "the arena is full of requests, and it was warmed up all the same"
    held.release()
    await disk.model.close()
