"""Which models of the repository are served, and how that changes while others are: Triton's three control modes.

``none``: what is there at the start, for ever. ``poll``: what is there, looked at every few seconds; a change is taken
up when two looks in a row have seen the same, so that no half-copied file is loaded. ``explicit``: what is asked for.
Whatever fails is told in the repository index and leaves what was served as it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

from saccade_predictor.loader import Loader
from saccade_predictor.model import PredictorModel, reason_of
from saccade_predictor.modelconfig import json_as_text
from saccade_predictor.repository import ModelDirectory, RepositoryError, list_models
from saccade_predictor.unavailability import Reason
from saccade_serving.connection.control import Mode
from saccade_serving.errors import InvalidRequest, ModelNotFound, short

log = logging.getLogger("saccade.lifecycle")

UNLOADED: Final = "unloaded"
NOT_LOADED: Final = "not loaded"
#: Nobody is told of the disk more often than this.
LOOK_AGAIN_S: Final = 1.0


class Lifecycle:
    """Loads and unloads the models of one repository; a ``ModelControl``.

    Args:
        repository: the directory.
        only: the one model that may be served; None: all.
        mode: how models change.
        key: what a control call has to show.
        poll_s: time between two looks at the repository, in ``poll``.
        make: makes the model of a directory, not loaded yet.
        add: called when a model is ready to be found.
        remove: called with the name when a model shall not be found any more.
        count: told every change: the model's name, and what came of it.
    """

    def __init__(
        self,
        repository: Path,
        only: str | None,
        mode: Mode,
        key: str,
        poll_s: float,
        make: Callable[[ModelDirectory], PredictorModel],
        add: Callable[[PredictorModel], None],
        remove: Callable[[str], None],
        count: Callable[[str, str], None] = lambda name, outcome: None,
    ) -> None:
        self.mode: Mode = mode
        self.key = key
        self._repository = repository
        self._only = only
        self._poll_s = poll_s
        self._make = make
        self._add = add
        self._remove = remove
        self._count = count
        self._served: dict[str, PredictorModel] = {}
        self._changing: dict[str, PredictorModel] = {}  # that are loaded for the first time, or unloaded
        self._states: dict[str, tuple[str, str]] = {}  # of models that are not served: state and reason
        self._failed: dict[str, dict[str, Reason]] = {}  # of these, versions that could not be loaded
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._work: set[asyncio.Task[None]] = set()
        self._taken_up: dict[str, str] = {}
        self._following: dict[str, asyncio.Task[None]] = {}  # changes that were found, by model
        self._loader = Loader()  # for looks at the disk, which are not to wait for loads
        self._looking: asyncio.Task[list[ModelDirectory]] | None = None
        self._look_again_at = 0.0

    def begin(self, names: set[str] | None = None) -> list[PredictorModel]:
        """Make the models to start with, which the server prepares.

        Args:
            names: of them; None: all there are.

        Raises:
            RepositoryError: the repository cannot be read, or has no model of that name.
        """
        found = {directory.name: directory for directory in self._list()}
        for name in sorted((names or set()) - found.keys()):
            raise RepositoryError(f"there is no model {name!r} to load (found: {', '.join(found) or 'none'})")
        for name, directory in found.items():
            if names is None or name in names:
                self._taken_up[name] = _fingerprint(directory)
                self._served[name] = self._make(directory)
        return list(self._served.values())

    def served(self) -> list[PredictorModel]:
        """The models that can be found."""
        return list(self._served.values())

    async def look(self) -> None:
        """Look at the repository for the index, once for all who ask within a second; not where nothing changes."""
        if self.mode == "none" or time.monotonic() < self._look_again_at:
            return
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        try:
            await asyncio.shield(self._looking)
        except RepositoryError as error:
            log.warning("repository_not_read", extra={"why": str(error)})
        self._look_again_at = time.monotonic() + LOOK_AGAIN_S

    def unserved(self) -> list[dict[str, str]]:
        """Entries of the repository index for the models that are on disk and not served."""
        return [
            {"name": name, "version": "", "state": state, "reason": reason}
            for name, (state, reason) in self._states.items()
        ]

    def unavailable(self) -> list[tuple[str, str, Reason]]:
        """Models and versions that should be served and cannot be, with the kind of reason."""
        found = {**self._failed, **{model.name: model.unavailable() for model in self.served()}}
        return [(name, version, reason) for name, failed in found.items() for version, reason in failed.items()]

    async def load(self, name: str, config: str | None = None) -> None:
        """Serve what the repository holds of a model now; what has not changed goes on as it is.

        Raises:
            ModelNotFound: the repository holds no such model.
            InvalidRequest: it cannot be loaded; the sentence says why.
        """
        directories = {directory.name: directory for directory in await self._look()}
        directory = directories.get(name)
        if directory is None:
            raise _not_there(name, directories)
        try:
            if config is not None:
                directory = replace(directory, config=await asyncio.to_thread(json_as_text, config, name))
            await self._finished(self._load(directory))
        except InvalidRequest:
            raise
        except Exception as error:
            reason = reason_of(error)
            log.error("model_failed", extra={"model": name, "why": reason}, exc_info=_unexpected(error))
            raise InvalidRequest(f"model {name!r} could not be loaded: {reason}") from None

    async def unload(self, name: str) -> None:
        """Stop to serve a model; returns when what it has is answered and its memory free.

        One that is being loaded or unloaded is waited for; one that is not served is unloaded already.

        Raises:
            ModelNotFound: there is no such model.
        """
        if name not in self._served:
            await self.look()
        if name not in self._served and name not in self._states:
            raise _not_there(name, [*self._served, *self._states])
        await self._finished(self._unload(name))

    async def watch(self) -> None:
        """In ``poll``, follow the repository until cancelled."""
        before: dict[str, str] | None = None
        while self.mode == "poll":
            await asyncio.sleep(self._poll_s)
            try:
                directories = await self._look()
                now = await self._loader.run(partial(_fingerprints, directories))
            except RepositoryError as error:
                log.warning("repository_not_read", extra={"why": str(error)})
                continue
            except Exception:
                log.exception("repository_not_read")
                continue
            changed = [
                found
                for found in directories
                if before is not None
                and now[found.name] == before.get(found.name)
                and now[found.name] != self._taken_up.get(found.name)
            ]
            gone = [] if before is None else [name for name in self._taken_up if name not in now | before]
            before = now
            # Each model by itself: one that takes long holds up no other.
            for found in changed:
                if found.name not in self._following:
                    self._follow(found.name, self._take_up(found, now[found.name]))
            for name in gone:
                if name not in self._following:
                    del self._taken_up[name]
                    self._follow(name, self._unload(name))

    def _follow(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._following[name] = asyncio.get_running_loop().create_task(self._finished(work))

        def ended(_task: asyncio.Task[None]) -> None:
            del self._following[name]

        task.add_done_callback(ended)

    async def close(self) -> None:
        """End what is going on."""
        changing = list(self._changing.values())
        for task in (*self._following.values(), *self._work):
            task.cancel()
        await asyncio.gather(*self._following.values(), *self._work, return_exceptions=True)
        for model in changing:
            await model.close()

    @property
    def is_looking(self) -> bool:
        """Whether a look at the disk has not come back yet."""
        return self._loader.busy > 0

    async def _take_up(self, directory: ModelDirectory, fingerprint: str) -> None:
        """Load a change that was found; what fails is not tried again until it changes again."""
        self._taken_up[directory.name] = fingerprint
        try:
            await self._load(directory)
        except Exception as error:
            extra = {"model": directory.name, "why": reason_of(error)}
            log.error("model_failed", extra=extra, exc_info=_unexpected(error))

    async def _finished(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for a change. Who asked for it may go; it is finished all the same."""
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._ended)
        await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody may

    async def _load(self, directory: ModelDirectory) -> None:
        name = directory.name
        async with self._lock(name):
            try:
                changed = await self._change(directory)
            except Exception:
                self._count(name, "failed")
                raise
            self._count(name, "loaded" if changed else "unchanged")

    async def _change(self, directory: ModelDirectory) -> bool:
        """Load a model, or what has changed of it; returns whether anything has."""
        name = directory.name
        model = self._served.get(name)
        if model is not None:
            changed = await model.update(directory)
            if changed:
                log.info("model_changed", extra={"model": name, "versions": model.versions()})
            return changed
        model = self._changing[name] = self._make(directory)
        self._states[name] = "LOADING", ""
        try:
            await model.update(directory)
        except BaseException as error:
            self._states[name] = "UNAVAILABLE", reason_of(error)
            self._failed[name] = model.unavailable()
            await model.retire()
            raise
        finally:
            del self._changing[name]
        self._served[name] = model
        self._states.pop(name, None)
        self._failed.pop(name, None)
        self._add(model)
        log.info("model_ready", extra={"model": name, "versions": model.versions()})
        return True

    async def _unload(self, name: str) -> None:
        async with self._lock(name):
            self._failed.pop(name, None)  # nobody wants it any more
            model = self._served.pop(name, None)
            if model is None:
                return  # it has been unloaded meanwhile, or never was loaded
            self._remove(name)
            self._states[name] = "UNLOADING", ""
            self._changing[name] = model
            try:
                await model.retire()
            finally:
                del self._changing[name]
                self._states[name] = "UNAVAILABLE", UNLOADED
            self._count(name, "unloaded")
            log.info("model_unloaded", extra={"model": name})

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    async def _look(self) -> list[ModelDirectory]:
        """The models on disk; of the others nothing is told any more."""
        directories = await self._loader.run(self._list)
        names = {directory.name for directory in directories}
        for name in self._states.keys() - names - self._changing.keys():
            del self._states[name]
            self._failed.pop(name, None)
        for name in names - self._served.keys() - self._states.keys():
            self._states[name] = "UNAVAILABLE", NOT_LOADED
        return directories

    def _list(self) -> list[ModelDirectory]:
        return list_models(self._repository, self._only)


def _not_there(name: str, known: Iterable[str]) -> ModelNotFound:
    error = ModelNotFound(name)
    error.args = (f"the repository has no model {short(name)}; it has: {', '.join(known) or 'none'}",)
    return error


def _fingerprints(directories: Sequence[ModelDirectory]) -> dict[str, str]:
    return {directory.name: _fingerprint(directory) for directory in directories}


def _fingerprint(directory: ModelDirectory) -> str:
    """Of the whole model; of one that cannot be read, why."""
    try:
        return directory.fingerprint()
    except (RepositoryError, OSError) as error:
        return f"unreadable: {error}"


def _unexpected(error: BaseException) -> BaseException | None:
    return None if isinstance(error, ValueError) else error
