"""A model of the repository behind the V2 routes: which of its versions are served, and how that changes.

A change loads and warms what is new beside what is served, then puts it in its place between two requests; what was
served before answers what it has and is freed. A change that fails changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Final

from saccade_predictor.batchingconfig import ModelConfigError
from saccade_predictor.repository import ModelDirectory, RepositoryError
from saccade_predictor.unavailability import Reason, classify
from saccade_predictor.version import Loadable, Surroundings, Version
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import ModelNotFound, Overloaded, SaccadeError
from saccade_serving.model import ModelConfiguration, ServedModel
from saccade_serving.oip.messages import InferRequest, ModelMetadata

log = logging.getLogger("saccade.model")

_MAX_REASON_CHARS: Final = 500

#: Finds the versions of a model that shall be served, ascending; blocking.
Find = Callable[[ModelDirectory], Sequence[Loadable]]


class PredictorModel(ServedModel):
    """Serves one model directory.

    Args:
        directory: where the model lies.
        find: finds the versions that shall be served.
        shared: arena, metrics and limits.
    """

    extensions: ClassVar[tuple[str, ...]] = ("classification", "model_configuration")

    def __init__(self, directory: ModelDirectory, find: Find, shared: Surroundings) -> None:
        super().__init__(directory.name)
        self._directory = directory
        self._find = find
        self._shared = shared
        self._versions: dict[str, Version] = {}
        self._newest: Version | None = None
        self._changing = asyncio.Lock()
        self._retiring: dict[asyncio.Task[None], Version] = {}
        self._unserved: dict[str, tuple[str, str]] = {}
        self._failed: dict[str, Reason] = {}  # versions of the last change that cannot be served

    async def prepare(self) -> None:
        """Load all versions, warm each up, then be ready."""
        await self.update(self._directory)

    async def update(self, directory: ModelDirectory) -> bool:
        """Serve the versions that are on disk now; those that have not changed go on as they are.

        Args:
            directory: the model's, where its configuration may be another than the file's.

        Returns:
            Whether anything changed.

        Raises:
            Exception: it could not be done; what was served before goes on. ``unserved`` tells the reason.
        """
        async with self._changing:
            self._unserved = {}
            changing, fresh = "", list[Version]()
            served: dict[str, Version] = {}
            missing: dict[str, tuple[str, str]] = {}
            try:
                for found in await self._shared.loader.run(lambda: self._find(directory)):
                    if found.missing:
                        missing[found.version] = "UNAVAILABLE", found.missing
                        continue
                    changing = found.version
                    known = self._versions.get(changing)
                    if known is None or known.fingerprint != found.fingerprint or known.batcher.dead:
                        self._unserved = {changing: ("LOADING", "")}
                        known = await self._open(found, fresh)
                    served[changing] = known
            except BaseException as error:
                self._unserved = {changing: ("UNAVAILABLE", reason_of(error))}
                self._failed = {changing: classify(error)}
                for version in fresh:
                    self._let_go(version)
                raise
            self._unserved = missing
            self._failed = dict.fromkeys(missing, "files")
            before, self._versions = self._versions, served
            self._newest = next(reversed(served.values()))
            self.ready, self.must_restart = True, False  # every engine that is served has just worked
            for version in before.values():
                if served.get(version.version) is not version:
                    self._let_go(version)
            return bool(fresh) or before.keys() != served.keys()

    async def retire(self) -> None:
        """Answer what it has, then free its engines. Nobody finds it any more."""
        async with self._changing:
            self._withdraw_versions()
        while self._retiring:
            await asyncio.wait(self._retiring)

    async def close(self) -> None:
        """Answer what runs, then free the engines."""
        leaving = [*self._versions.values(), *self._retiring.values()]
        for task in list(self._retiring):
            task.cancel()
        self._versions, self._newest, self.ready = {}, None, False
        await asyncio.gather(*self._retiring, return_exceptions=True)
        for version in leaving:
            await version.close()

    def versions(self) -> list[str]:
        """Loaded versions, ascending."""
        return list(self._versions)

    def loaded(self) -> list[Version]:
        """All loaded versions."""
        return list(self._versions.values())

    @property
    def inflight(self) -> int:
        """Requests its versions have, also those that are on their way out."""
        return sum(version.inflight for version in (*self._versions.values(), *self._retiring.values()))

    def unserved(self) -> dict[str, tuple[str, str]]:
        """The version that is being loaded, or that the last change failed for, and versions that are not there."""
        return dict(self._unserved)

    def unavailable(self) -> dict[str, Reason]:
        """Versions that should be served and cannot be, by the kind of reason; "" is the model as a whole."""
        broken: dict[str, Reason] = {version.version: "engine" for version in self.loaded() if version.batcher.dead}
        return {**self._failed, **broken}

    def metadata(self, version: str = "") -> ModelMetadata:
        """Tensors as a client sends and gets them, the batch dimension as -1."""
        metadata = self._select(version).metadata
        return metadata if version else replace(metadata, versions=self.versions())

    def config(self, version: str = "") -> ModelConfiguration:
        """Triton's model configuration, as it is served."""
        return self._select(version).configuration

    def labels(self, output: str, version: str = "") -> Sequence[str]:
        """Class names of an output, from its ``label_filename``."""
        return self._select(version).labels.get(output, ())

    def admit(self, version: str, exchange: Exchange) -> None:
        """With an SLO: refuse what could not be answered in time before its body is received."""
        self._select(version).admit(exchange)

    def timeout_is_deadline(self, version: str) -> bool:
        """Not where the queue policy delays a request whose time is over."""
        return not self._select(version).delays

    def start_infer(self, request: InferRequest, exchange: Exchange) -> None:
        """Check the request against the model and queue it; its rows end the exchange."""
        self._select(request.model_version).start_infer(request, exchange)

    def _select(self, version: str) -> Version:
        if self._newest is None:
            raise Overloaded(f"model {self.name!r} is not ready: {self.not_ready_because}")
        if not version:
            return self._newest
        chosen = self._versions.get(version)
        if chosen is None:
            raise ModelNotFound(self.name, version, self.versions())
        return chosen

    async def _open(self, found: Loadable, fresh: list[Version]) -> Version:
        """Load a version and warm it up; from the moment it is loaded it is among the ``fresh``."""
        file = await self._shared.loader.run(found.open, lambda unwanted: unwanted.engine.close())
        version = Version(self.name, file, found.fingerprint, self._shared, lambda: self.tracing, self._break)
        fresh.append(version)
        await version.warm_up()
        return version

    def _withdraw_versions(self) -> None:
        versions, self._versions, self._newest, self.ready = self._versions, {}, None, False
        for version in versions.values():
            self._let_go(version)

    def _let_go(self, version: Version) -> None:
        """Have a version answer what it has and go, while others are served."""
        task = asyncio.get_running_loop().create_task(version.retire())
        self._retiring[task] = version
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        version = self._retiring.pop(task)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("not_freed", extra={"model": self.name, "version": version.version}, exc_info=error)
        log.info("version_unloaded", extra={"model": self.name, "version": version.version})

    def _break(self, version: Version) -> None:
        """An engine that is served hangs for good: nothing but a new process helps."""
        if version not in self._versions.values():
            return
        self.ready = False
        self.not_ready_because = f"the engine of version {version.version} does not answer any more"
        self.must_restart = True


def reason_of(error: BaseException) -> str:
    """What an operator is told of a model that could not be loaded: our own sentences, and nothing else."""
    if isinstance(error, RepositoryError | ModelConfigError | SaccadeError | ValueError):
        text = " ".join(str(error).split())
        return text if len(text) <= _MAX_REASON_CHARS else text[:_MAX_REASON_CHARS] + "..."
    if isinstance(error, OSError) and error.strerror:
        return f"its files cannot be read: {error.strerror}"
    return "it could not be loaded; the server's log has the cause"
