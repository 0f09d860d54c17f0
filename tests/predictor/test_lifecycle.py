"""Models that are loaded and unloaded while others serve: Triton's three modes over a real repository on disk."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import onnx_graphs as graphs
from fakes import answer_of, eventually, settle
from saccade_predictor.lifecycle import Lifecycle
from saccade_predictor.loading import find_versions
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.model import PredictorModel
from saccade_predictor.repository import ModelDirectory, RepositoryError
from saccade_predictor.version import Loadable, Surroundings
from saccade_serving.connection.control import Mode
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import InvalidRequest, ModelNotFound
from saccade_serving.memory.arena import Arena
from saccade_serving.oip.messages import InferRequest, Tensor

POLL_S = 0.02


class House:
    """A repository, and the models that are served from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.arena = Arena(64 * 2**20, poison=True)
        self.found: dict[str, PredictorModel] = {}
        self.counted: Counter[tuple[str, str]] = Counter()
        self.looks = 0
        self.lifecycle = self.make("explicit")
        self.watching: asyncio.Task[None] | None = None

    def make(self, mode: Mode, only: str | None = None) -> Lifecycle:
        shared = Surroundings(PredictorMetrics(), self.arena, 10)

        def find(directory: ModelDirectory) -> list[Loadable]:
            self.looks += 1
            return find_versions(directory, 1)

        def add(model: PredictorModel) -> None:
            self.found[model.name] = model

        def remove(name: str) -> None:
            self.found.pop(name, None)

        self.lifecycle = Lifecycle(
            self.root,
            only,
            mode,
            "",
            POLL_S,
            lambda directory: PredictorModel(directory, find, shared),
            add,
            remove,
            lambda name, outcome: self.counted.update([(name, outcome)]),
        )
        return self.lifecycle

    async def start(self, mode: Mode, names: set[str] | None = None) -> None:
        for model in self.make(mode).begin(names):
            self.found[model.name] = model
            await model.prepare()
        self.watching = asyncio.create_task(self.lifecycle.watch())

    async def end(self) -> None:
        if self.watching is not None:
            self.watching.cancel()
            await asyncio.wait([self.watching])
        await self.lifecycle.close()
        for model in self.found.values():
            await model.close()
        assert self.arena.leases == 0

    def put(self, name: str, version: int = 1, *, doubles: bool = False, config: str | None = None) -> None:
        path = self.root / name / str(version) / "model.onnx"
        (graphs.doubling if doubles else graphs.identity)(path)
        if config is not None:
            (self.root / name / "config.pbtxt").write_text(config)

    async def ask(self, name: str) -> tuple[str, float]:
        """Version and value of an answer to 1."""
        request = InferRequest(name, [Tensor.of("x", np.ones((1, 2), np.float32))])
        answer = await answer_of(self.found[name], request, Exchange.begin("rest", {}, 30))
        return answer.model_version, float(answer.output("y").array[0, 0])

    async def states(self) -> dict[str, tuple[str, str]]:
        self.lifecycle._look_again_at = 0.0
        await self.lifecycle.look()
        return {entry["name"]: (entry["state"], entry["reason"]) for entry in self.lifecycle.unserved()}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    await house.end()


async def settled(house: House, looks: int = 4) -> None:
    """Let the repository be looked at a few more times."""
    seen = 0
    read = house.lifecycle._list

    def counted() -> list[ModelDirectory]:
        nonlocal seen
        seen += 1
        return read()

    house.lifecycle._list = counted  # type: ignore[method-assign]
    await eventually(lambda: seen >= looks, "the repository is looked at")


class TestExplicit:
    async def test_nothing_is_loaded_at_the_start_but_what_is_named(self, house: House) -> None:
        house.put("a")
        house.put("b")
        await house.start("explicit", {"a"})
        assert list(house.found) == ["a"]
        assert await house.states() == {"b": ("UNAVAILABLE", "not loaded")}

    def test_a_name_to_start_with_that_is_not_there_is_an_error(self, house: House) -> None:
        house.put("a")
        with pytest.raises(RepositoryError, match=r"no model 'c' to load \(found: a\)"):
            house.make("explicit").begin({"c"})

    async def test_a_model_is_loaded_and_unloaded(self, house: House) -> None:
        house.put("a")
        await house.start("explicit", set())
        await house.lifecycle.load("a")
        assert await house.ask("a") == ("1", 1.0)
        assert await house.states() == {}
        await house.lifecycle.unload("a")
        assert house.found == {}
        assert await house.states() == {"a": ("UNAVAILABLE", "unloaded")}
        await house.lifecycle.load("a")
        assert await house.ask("a") == ("1", 1.0)

    async def test_loading_again_takes_up_what_has_changed_and_nothing_else(self, house: House) -> None:
        house.put("a")
        await house.start("explicit", {"a"})
        served = house.found["a"].loaded()[0]
        await house.lifecycle.load("a")
        assert house.found["a"].loaded() == [served]
        house.put("a", 2, doubles=True)
        await house.lifecycle.load("a")
        assert await house.ask("a") == ("2", 2.0)
        shutil.rmtree(house.root / "a" / "2")
        await house.lifecycle.load("a")
        assert await house.ask("a") == ("1", 1.0)

    async def test_a_configuration_in_the_request_stands_for_the_file_until_the_next_load(self, house: House) -> None:
        house.put("a", config='backend: "onnxruntime" max_batch_size: 2')
        await house.start("explicit", {"a"})
        await house.lifecycle.load(
            "a", '{"backend": "onnxruntime", "max_batch_size": 3, "versionPolicy": {"all": {}}}'
        )
        assert house.found["a"].config().json["max_batch_size"] == 3
        await house.lifecycle.load("a")
        assert house.found["a"].config().json["max_batch_size"] == 2

    @pytest.mark.parametrize("config", ["[1]", "{", '{"max_batch_sice": 1}', '{"backend": "python"}'])
    async def test_a_configuration_that_cannot_be_read_changes_nothing(self, house: House, config: str) -> None:
        house.put("a")
        await house.start("explicit", {"a"})
        with pytest.raises(InvalidRequest, match=r"model .a. could not be loaded: a/config\.pbtxt: "):
            await house.lifecycle.load("a", config)
        assert await house.ask("a") == ("1", 1.0)

    @pytest.mark.parametrize("name", ["c", "..", "../x", "a/1", ""])
    async def test_only_models_of_the_repository_can_be_loaded(self, house: House, name: str) -> None:
        house.put("a")
        await house.start("explicit", set())
        with pytest.raises(ModelNotFound, match=r"has no model .*; it has: a"):
            await house.lifecycle.load(name)
        with pytest.raises(ModelNotFound):
            await house.lifecycle.unload(name)

    async def test_what_cannot_be_loaded_says_why_and_leaves_the_others_alone(self, house: House) -> None:
        house.put("a")
        house.put("broken")
        (house.root / "broken" / "1" / "model.onnx").write_bytes(b"cheese" * 50)
        await house.start("explicit", {"a"})
        with pytest.raises(
            InvalidRequest, match=r"'broken' could not be loaded: model\.onnx cannot be loaded by ONNX"
        ):
            await house.lifecycle.load("broken")
        state, reason = (await house.states())["broken"]
        assert state == "UNAVAILABLE"
        assert "model.onnx cannot be loaded" in reason
        assert house.lifecycle.unavailable() == [("broken", "1", "load")]
        assert str(house.root) not in reason
        assert list(house.found) == ["a"]
        house.put("broken")
        await house.lifecycle.load("broken")
        assert await house.ask("broken") == ("1", 1.0)
        assert house.lifecycle.unavailable() == []
        await house.lifecycle.load("broken")
        await house.lifecycle.unload("broken")
        assert house.counted == Counter(("broken", one) for one in ("failed", "loaded", "unchanged", "unloaded"))

    async def test_a_broken_new_version_leaves_the_old_one_serving(self, house: House) -> None:
        house.put("a")
        await house.start("explicit", {"a"})
        house.put("a", 2)
        (house.root / "a" / "2" / "model.onnx").write_bytes(b"")
        with pytest.raises(InvalidRequest):
            await house.lifecycle.load("a")
        assert await house.ask("a") == ("1", 1.0)
        assert list(house.found["a"].unserved()) == ["2"]
        assert house.lifecycle.unavailable() == [("a", "2", "load")]

    @pytest.mark.parametrize("given_up", ["unloaded", "removed"])
    async def test_what_could_not_be_loaded_is_missed_until_nobody_wants_it(self, house: House, given_up: str) -> None:
        house.put("a", config="max_batch_size: [")
        await house.start("explicit", set())
        assert await house.states() == {"a": ("UNAVAILABLE", "not loaded")}
        assert house.lifecycle.unavailable() == [], "nobody has asked for it"
        with pytest.raises(InvalidRequest, match="line 1"):
            await house.lifecycle.load("a")
        assert house.lifecycle.unavailable() == [("a", "", "config")]
        if given_up == "unloaded":
            await house.lifecycle.unload("a")
        else:
            shutil.rmtree(house.root / "a")
            assert await house.states() == {}
        assert house.lifecycle.unavailable() == []

    async def test_who_asked_may_leave_and_the_load_goes_on(self, house: House) -> None:
        house.put("a")
        await house.start("explicit", set())
        asking = asyncio.create_task(house.lifecycle.load("a"))
        await eventually(lambda: house.looks, "it is being loaded")
        asking.cancel()
        await asyncio.wait([asking])
        await eventually(lambda: "a" in house.found, "it is loaded")

    async def test_loads_and_unloads_at_once_end_in_one_state(self, house: House) -> None:
        house.put("a")
        await house.start("explicit", {"a"})
        calls = [house.lifecycle.unload("a") if n % 2 else house.lifecycle.load("a") for n in range(12)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(result is None or isinstance(result, ModelNotFound) for result in results)
        await house.lifecycle.load("a")
        assert await house.ask("a") == ("1", 1.0)
        assert house.lifecycle._changing == {}
        assert len(house.lifecycle._locks) == 0

    async def test_a_model_that_is_gone_from_the_disk_is_not_told_of(self, house: House) -> None:
        house.put("a")
        await house.start("explicit", {"a"})
        await house.lifecycle.unload("a")
        shutil.rmtree(house.root / "a")
        assert await house.states() == {}

    async def test_unloading_what_is_not_served_is_done_already(self, house: House) -> None:
        house.put("a")
        await house.start("explicit", set())
        await house.lifecycle.unload("a")
        loading = asyncio.create_task(house.lifecycle.load("a"))
        await eventually(lambda: house.lifecycle._changing, "it is being loaded")
        await house.lifecycle.unload("a")
        await loading
        assert house.found == {}
        assert await house.states() == {"a": ("UNAVAILABLE", "unloaded")}

    async def test_a_second_unload_waits_for_the_first(self, house: House) -> None:
        house.put("a")
        await house.start("explicit", {"a"})
        await asyncio.gather(house.lifecycle.unload("a"), house.lifecycle.unload("a"))
        assert house.counted["a", "unloaded"] == 1

    async def test_names_that_no_client_could_write_are_no_models(self, house: House) -> None:
        house.put("a")
        house.put("b\udcff")
        house.put("c\n")
        await house.start("explicit", set())
        assert list(await house.states()) == ["a"]

    async def test_the_index_outlives_the_repository(self, house: House) -> None:
        house.put("a")
        await house.start("explicit", {"a"})
        away = house.root.with_name("away")
        house.root.rename(away)
        assert await house.states() == {}
        away.rename(house.root)

    async def test_the_disk_is_read_once_for_all_who_ask_for_the_index(self, house: House) -> None:
        house.put("a")
        await house.start("explicit", set())
        reads = 0
        read = house.lifecycle._list

        def counted() -> list[ModelDirectory]:
            nonlocal reads
            reads += 1
            return read()

        house.lifecycle._list = counted  # type: ignore[method-assign]
        await asyncio.gather(*(house.lifecycle.look() for _ in range(50)))
        await house.lifecycle.look()
        assert reads == 1


class TestPoll:
    async def test_a_new_version_takes_over(self, house: House) -> None:
        house.put("a")
        await house.start("poll")
        house.put("a", 2, doubles=True)
        await eventually(lambda: house.found["a"].versions() == ["2"], "version 2 is served")
        assert await house.ask("a") == ("2", 2.0)

    async def test_a_version_that_is_removed_goes(self, house: House) -> None:
        house.put("a")
        house.put("a", 2)
        await house.start("poll")
        shutil.rmtree(house.root / "a" / "2")
        await eventually(lambda: house.found["a"].versions() == ["1"], "version 1 is served")

    async def test_models_come_and_go(self, house: House) -> None:
        house.put("a")
        await house.start("poll")
        house.put("b")
        await eventually(lambda: "b" in house.found, "b is served")
        shutil.rmtree(house.root / "a")
        await eventually(lambda: "a" not in house.found, "a is not served")
        assert await house.ask("b") == ("1", 1.0)
        await eventually(lambda: not house.lifecycle._changing, "a is freed")
        assert await house.states() == {}

    async def test_one_that_takes_long_holds_up_no_other(self, house: House) -> None:
        house.put("a")
        await house.start("poll")
        held, opened = threading.Event(), threading.Event()
        house.put("slow")
        find = house.lifecycle._make

        def make(directory: ModelDirectory) -> PredictorModel:
            model = find(directory)
            if directory.name == "slow":
                inner = model._find

                def blocked(directory: ModelDirectory) -> Sequence[Loadable]:
                    opened.set()
                    held.wait(10)
                    return inner(directory)

                model._find = blocked
            return model

        house.lifecycle._make = make
        await eventually(opened.is_set, "the slow one is being loaded")
        house.put("b")
        await eventually(lambda: "b" in house.found, "b is served meanwhile")
        assert "slow" not in house.found
        held.set()
        await eventually(lambda: "slow" in house.found, "in the end it is served, too")

    async def test_a_changed_configuration_is_taken_up(self, house: House) -> None:
        house.put("a", config='backend: "onnxruntime" max_batch_size: 2')
        await house.start("poll")
        (house.root / "a" / "config.pbtxt").write_text('backend: "onnxruntime" max_batch_size: 3')
        await eventually(lambda: house.found["a"].config().json["max_batch_size"] == 3, "it is served with 3")

    async def test_what_still_changes_is_not_loaded(self, house: House) -> None:
        house.put("a")
        await house.start("poll")
        looks = house.looks
        growing = house.root / "a" / "2" / "model.onnx"
        growing.parent.mkdir()
        read = house.lifecycle._list
        sizes, copying = 0, threading.Lock()

        def grown() -> list[ModelDirectory]:
            nonlocal sizes
            with copying:
                if house.lifecycle._list is grown:
                    sizes += 1
                    growing.write_bytes(b"x" * sizes)
            return read()

        house.lifecycle._list = grown  # type: ignore[method-assign]
        await eventually(lambda: sizes > 6, "it has been looked at a few times")
        assert house.looks == looks, "never tried"
        with copying:  # a look that has begun writes before this or not at all
            house.lifecycle._list = read  # type: ignore[method-assign]
            graphs.doubling(growing)
        await eventually(lambda: house.found["a"].versions() == ["2"], "complete, it is loaded")

    async def test_what_fails_is_tried_once_for_each_change(self, house: House) -> None:
        house.put("a")
        await house.start("poll")
        house.put("a", 2)
        broken = house.root / "a" / "2" / "model.onnx"
        broken.write_bytes(b"cheese")
        await eventually(lambda: list(house.found["a"].unserved()) == ["2"], "it fails")
        looks = house.looks
        await settled(house)
        assert house.looks == looks
        assert await house.ask("a") == ("1", 1.0)
        graphs.doubling(broken)
        await eventually(lambda: house.found["a"].versions() == ["2"], "mended, it is served")

    async def test_a_repository_that_cannot_be_read_for_a_while_unloads_nothing(
        self, house: House, caplog: pytest.LogCaptureFixture
    ) -> None:
        house.put("a")
        await house.start("poll")
        away = house.root.with_name("away")
        house.root.rename(away)
        await eventually(lambda: "repository_not_read" in caplog.text, "a warning")
        await settle()
        assert await house.ask("a") == ("1", 1.0)
        away.rename(house.root)

    async def test_a_model_that_is_away_for_one_look_stays(self, house: House) -> None:
        house.put("a")
        house.make("poll")
        for model in house.lifecycle.begin():
            house.found[model.name] = model
            await model.prepare()
        away = house.root.with_name("away")
        (house.root / "a").rename(away)
        read, looks = house.lifecycle._list, 0

        def back_after_the_first() -> list[ModelDirectory]:
            nonlocal looks
            looks += 1
            if looks == 2:
                away.rename(house.root / "a")
            return read()

        house.lifecycle._list = back_after_the_first  # type: ignore[method-assign]
        house.watching = asyncio.create_task(house.lifecycle.watch())
        await eventually(lambda: looks > 4, "the repository is looked at")
        assert house.counted == Counter()
        assert await house.ask("a") == ("1", 1.0)

    async def test_an_empty_repository_fills_up(self, house: House) -> None:
        await house.start("poll")
        house.put("a")
        await eventually(lambda: "a" in house.found, "a is served")


async def test_without_a_mode_nothing_changes(house: House) -> None:
    house.put("a")
    await house.start("none")
    assert house.watching is not None
    await asyncio.wait_for(house.watching, 5)
    house.put("b")
    assert await house.states() == {}, "nobody looks"


async def test_stopping_ends_a_load_that_goes_on(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.put("a")
    await house.start("explicit", set())
    held = asyncio.Event()
    update = PredictorModel.update

    async def slow(self: PredictorModel, directory: ModelDirectory) -> bool:
        changed = await update(self, directory)
        await held.wait()
        return changed

    monkeypatch.setattr(PredictorModel, "update", slow)
    loading = asyncio.create_task(house.lifecycle.load("a"))
    await eventually(lambda: any(model.ready for model in house.lifecycle._changing.values()), "it has loaded")
    await asyncio.wait_for(house.lifecycle.close(), 10)
    await asyncio.wait([loading])
    assert house.found == {}


def fingerprints(directory: ModelDirectory, change: Callable[[], object]) -> tuple[dict[int, str], dict[int, str]]:
    before = directory.fingerprints()
    change()
    return before, directory.fingerprints()


class TestFingerprints:
    def test_only_the_changed_version_changes(self, tmp_path: Path) -> None:
        for version in (1, 2):
            graphs.identity(tmp_path / str(version) / "model.onnx")
        before, after = fingerprints(
            ModelDirectory("m", tmp_path), lambda: (tmp_path / "2" / "model.onnx").write_bytes(b"new")
        )
        assert before[1] == after[1]
        assert before[2] != after[2]

    @pytest.mark.parametrize("name", ["config.pbtxt", "labels.txt", "warmup/x.raw"])
    def test_what_versions_share_changes_all(self, tmp_path: Path, name: str) -> None:
        for version in (1, 2):
            graphs.identity(tmp_path / str(version) / "model.onnx")
        (tmp_path / "warmup").mkdir()
        before, after = fingerprints(ModelDirectory("m", tmp_path), lambda: (tmp_path / name).write_text("new"))
        assert before[1] != after[1]
        assert before[2] != after[2]

    def test_a_link_that_is_switched_changes(self, tmp_path: Path) -> None:
        """As a mounted ConfigMap or Secret is."""
        for name in ("one", "two"):
            graphs.identity(tmp_path / name / "model.onnx")
        model = tmp_path / "m"
        model.mkdir()
        (model / "1").symlink_to(tmp_path / "one")

        def switch() -> None:
            (model / "1").unlink()
            (model / "1").symlink_to(tmp_path / "two")

        before, after = fingerprints(ModelDirectory("m", model), switch)
        assert before[1] != after[1]

    def test_a_folder_that_links_to_itself_is_refused(self, tmp_path: Path) -> None:
        graphs.identity(tmp_path / "1" / "model.onnx")
        for number in range(3):
            (tmp_path / f"again{number}").symlink_to(tmp_path)
        with pytest.raises(RepositoryError, match=r"has more than 10000 files|cannot be read"):
            ModelDirectory("m", tmp_path).fingerprints()
