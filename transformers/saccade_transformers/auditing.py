"""Checks near hits: infers a share of them all the same, beside the requests, and compares with what was answered."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from saccade_serving.connection.exchange import Exchange
from saccade_transformers.beside import BEHIND_S
from saccade_transformers.cache.cache import FrameCache
from saccade_transformers.cache.frames import Frame, Hit, Kept
from saccade_transformers.cache.perceptual import Look
from saccade_transformers.image.letterbox import Letterbox
from saccade_transformers.target import Known, Target
from saccade_transformers.tasks.task import Options
from saccade_transformers.workers import ImageWorkers

log = logging.getLogger("saccade.cache")

#: Audits at the same time; a hit that is drawn while there are so many is not audited.
MOST_AT_ONCE: Final = 2
_TIMEOUT_S: Final = 10.0


class Auditor:
    """Audits near hits of one cache.

    Args:
        cache: told the outcomes.
        workers: threads in which large answers are read.
    """

    def __init__(self, cache: FrameCache, workers: ImageWorkers) -> None:
        self._cache = cache
        self._workers = workers
        self._audits: set[asyncio.Task[None]] = set()

    def audit(
        self,
        frame: Frame,
        look: Look,
        tensor: NDArray[np.uint8],
        mapping: Letterbox,
        hit: Hit,
        target: Target,
        known: Known,
        options: Options,
    ) -> None:
        """Begin to audit a hit, unless there is enough to do.

        Args:
            frame: that was answered.
            look: of it.
            tensor: the model's input for it.
            mapping: of the tensor.
            hit: what it was answered with.
            target: the predictor that would have been asked.
            known: what it expects.
            options: the request's.
        """
        if len(self._audits) >= MOST_AT_ONCE:
            return
        work = self._audit(frame, look, tensor, mapping, hit, target, known, options)
        task = asyncio.get_running_loop().create_task(work)
        self._audits.add(task)
        task.add_done_callback(self._audits.discard)

    async def close(self) -> None:
        """End all audits."""
        audits = list(self._audits)
        for audit in audits:
            audit.cancel()
        await asyncio.gather(*audits, return_exceptions=True)

    async def _audit(
        self,
        frame: Frame,
        look: Look,
        tensor: NDArray[np.uint8],
        mapping: Letterbox,
        hit: Hit,
        target: Target,
        known: Known,
        options: Options,
    ) -> None:
        await asyncio.sleep(BEHIND_S)
        try:
            exchange = Exchange.begin("audit", {}, _TIMEOUT_S)
            outputs, version = await target.predictor.infer(
                tensor, known.contract, {}, exchange, version=frame.scope.version
            )
            if version != hit.kept.version:  # another model's answer says nothing of this one's
                self._cache.audit_failed()
                return
            rows = {name: array[0] for name, array in outputs.items() if array.ndim and len(array) == 1}

            def read() -> tuple[Any, float]:
                fresh = known.task.to_image(known.task.read(rows, options), mapping)
                return fresh, known.task.agreement(hit.kept.answer, fresh)

            fresh, agreement = await self._workers.run(read)
        except Exception as error:  # of whatever kind: the request has been answered
            self._cache.audit_failed()
            log.info("audit_failed", extra={"why": str(error)[:500]})
            return
        await self._cache.audited(frame, agreement)
        kept = Kept(fresh, known.task, mapping.image_size, version, frame.came)
        await self._cache.keep(frame, look, kept, is_given=False)
