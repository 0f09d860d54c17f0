"""Two models behind one name: A/B test and canary are the same split of cameras between two predictors.

Decides who answers a request, asks, and has the stable variant answer where the candidate cannot: a candidate must not
cost a camera its answer, unless it is late. A candidate that fails several times in a row gets no requests until it
has answered a trial, in the time that requests give; then it gets one, and all others once it has answered that. It is
left alone for longer each time it fails soon after it came back.
Knows no protocol and no boxes; who is counted and recorded where stands in ``ledger``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import DeadlineExceeded, InvalidRequest, PredictorUnavailable, SaccadeError, short
from saccade_serving.oip.messages import Parameters
from saccade_transformers.metrics import TransformerMetrics
from saccade_transformers.origin import NOBODY, Origin, read_origin
from saccade_transformers.predictor import PREDICT, is_fault, is_predictors
from saccade_transformers.share_file import follow_share
from saccade_transformers.split import is_candidates, place
from saccade_transformers.standing import Standing
from saccade_transformers.target import Known, Target

log = logging.getLogger("saccade.variants")

#: Chooses the variant, where the operator allows it; in answers it names the variant.
VARIANT_HEADER: Final = "x-saccade-variant"

#: Time a candidate has to say what its model expects: its requests wait for that, and shall not wait long.
_ASK_S: Final = 2.0
#: Who leaves after this time without an answer has found a candidate that hangs.
_PATIENCE_S: Final = 2.0
#: Requests that gave less than this many times what calls of the faster variant usually take were in a hurry.
_FAIR: Final = 2.0
_RETRY_S: Final = (0.1, 2.0)  # first and longest pause between trials of a candidate that is out of service

T = TypeVar("T")
TryOut = Callable[[Target, float | None], Awaitable[object]]
Ask = Callable[[Target, Known], Awaitable[T]]


@dataclass(slots=True)
class Assigned:
    """Who a request comes from, and who answers it. Stands in the exchange's notes.

    Attributes:
        origin: camera and user.
        target: asked first; once it is answered, who has answered it.
        key: the digest of the origin's key; empty where there is none, or but one variant.
        is_chosen: by the request's own header or version, and so no part of the experiment.
        fell_back: the candidate had it, and stable answers it because the candidate could not.
        items: the number of things in the answer.
    """

    origin: Origin
    target: Target
    key: str = ""
    is_chosen: bool = False
    fell_back: bool = False
    items: int = 0


class Variants:
    """The targets of one model: stable, and perhaps a candidate.

    Args:
        stable: answers what the candidate does not. Named, if there is a candidate.
        candidate: has its share of the cameras.
        share: the candidate's, 0 to 1.
        salt: the experiment's name: another one deals the cameras anew.
        by_header: a request may choose its variant with ``x-saccade-variant``.
        metrics: counts fallbacks.
        draw: makes the point, in [0, 1), of a request without camera and user.
        share_file: holds the share, if it is to change while this runs; ``share`` is then what it held at the start.
        clock: seconds, monotonic.
        pause: waits for so many seconds.
    """

    def __init__(
        self,
        stable: Target,
        candidate: Target | None = None,
        share: float = 0.0,
        salt: str = "",
        by_header: bool = False,
        metrics: TransformerMetrics | None = None,
        draw: Callable[[], float] = random.random,
        share_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.stable = stable
        self.candidate = candidate
        self.share = share
        self.salt = salt
        self._by_header = by_header
        self._metrics = metrics
        self._draw = draw
        self._share_file = share_file
        self._standing = Standing(clock=clock)
        self._pause = pause
        self._lost = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def targets(self) -> list[Target]:
        """All of them, stable first."""
        return [self.stable] if self.candidate is None else [self.stable, self.candidate]

    def versions(self) -> list[str]:
        """Model versions that can be asked for, stable's first."""
        found: dict[str, None] = {}
        for target in self.targets:
            if target.last is not None:
                found.update(dict.fromkeys(target.last.contract.versions))
        return list(found)

    def assign(self, parameters: Parameters, exchange: Exchange, version: str = "") -> Assigned:
        """Decide who answers a request, and note it in its exchange.

        Args:
            parameters: of the request.
            exchange: its headers count, too.
            version: the model version asked for; where only one variant has it, that one answers.

        Raises:
            InvalidRequest: camera, user or variant are not what they may be.
        """
        origin = read_origin(parameters, exchange.headers)
        if self.candidate is None:
            assigned = Assigned(origin, self.stable)
        elif (chosen := self._chosen(exchange, version)) is not None:
            assigned = Assigned(origin, chosen, is_chosen=True)
        else:
            key = ""
            if origin is NOBODY:
                point = self._draw()
            else:
                point, key = place(origin.key, self.salt)
            target = self.candidate if is_candidates(point, self.share) else self.stable
            assigned = Assigned(origin, target, key)
        exchange.notes = assigned
        if self.candidate is not None:
            exchange.answer_headers = {VARIANT_HEADER: assigned.target.name}
        return assigned

    async def answer(self, assigned: Assigned, exchange: Exchange, ask: Ask[T]) -> T:
        """Ask the assigned variant; where that is a candidate that cannot answer, ask stable.

        Raises:
            SaccadeError: of ``ask``, or of what the predictor says of its model.
        """
        if assigned.target is not self.candidate:
            return await ask(assigned.target, await assigned.target.known(exchange.remaining_s()))
        if self._standing.admits or assigned.is_chosen:
            try:
                return await self._ask_candidate(assigned.target, exchange, ask)
            except SaccadeError as error:
                # After a deadline nobody waits for stable, either.
                if assigned.is_chosen or not is_predictors(error) or isinstance(error, DeadlineExceeded):
                    raise
        else:
            self._standing.passed_by(exchange.remaining_s())
        self._fall_back(assigned, exchange)
        return await ask(self.stable, await self.stable.known(exchange.remaining_s()))

    def keep(self, try_out: TryOut) -> None:
        """From now on have a candidate that is out of service tried, and taken into service when it answers.

        Its share is that of the file from now on, where there is one.

        Args:
            try_out: sends it one image, and raises where it does not answer; in so many seconds, where told.
        """
        if self.candidate is not None:
            self._tasks.append(asyncio.create_task(self._keep(self.candidate, try_out)))
            if self._share_file is not None:
                self._tasks.append(asyncio.create_task(follow_share(self._share_file, self._give, self._pause)))

    async def close(self) -> None:
        """Close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for target in self.targets:
            await target.predictor.close()

    def _give(self, share: float) -> None:
        if share != self.share:
            log.info("candidate_share_changed", extra={"share": share, "before": self.share})
            self.share = share

    def _chosen(self, exchange: Exchange, version: str) -> Target | None:
        """The target that the request itself asks for, if it does."""
        if self._by_header and (name := exchange.headers.get(VARIANT_HEADER)) is not None:
            for target in self.targets:
                if target.name == name:
                    return target
            names = " or ".join(repr(target.name) for target in self.targets)
            raise InvalidRequest(f"header {VARIANT_HEADER} is {short(name)}; expected {names}")
        if version:
            having = [t for t in self.targets if t.last is not None and version in t.last.contract.versions]
            if len(having) == 1:
                return having[0]
        return None

    async def _ask_candidate(self, target: Target, exchange: Exchange, ask: Ask[T]) -> T:
        begun = time.monotonic()
        permit = self._standing.begins()
        try:
            answer = await ask(target, await _known(target, exchange))
        except SaccadeError as error:
            if is_fault(error):
                self._failed(permit, str(error), error.given_s if isinstance(error, DeadlineExceeded) else None)
            raise
        except asyncio.CancelledError:
            waited_s = time.monotonic() - begun
            if waited_s >= _PATIENCE_S:
                self._failed(permit, "clients leave before it answers", waited_s)
            raise
        finally:
            self._standing.ended(permit)
        # An answer of the cache says nothing of the candidate.
        if PREDICT in exchange.stages and self._standing.hears(permit):
            self._standing.succeeded()
        return answer

    def _failed(self, permit: int, why: str, given_s: float | None) -> None:
        if not self._standing.hears(permit):
            return
        usual = [target.predictor.usual_s for target in self.targets if target.predictor.usual_s is not None]
        if self._standing.failed(given_s, _FAIR * min(usual, default=0.0)) and self.candidate is not None:
            log.warning("candidate_out_of_service", extra={"variant": self.candidate.name, "why": why})
            self._lost.set()

    def _fall_back(self, assigned: Assigned, exchange: Exchange) -> None:
        if self._metrics is not None:
            self._metrics.variant_fallbacks.add((exchange.model, assigned.target.name))
        assigned.target = self.stable
        assigned.fell_back = True
        exchange.answer_headers = {VARIANT_HEADER: self.stable.name}

    async def _keep(self, candidate: Target, try_out: TryOut) -> None:
        while True:
            await self._bring_back(candidate, try_out)
            self._lost.clear()
            if self._standing.in_service:
                await self._lost.wait()

    async def _bring_back(self, candidate: Target, try_out: TryOut) -> None:
        pause_s, longest_s = _RETRY_S
        said = ""
        if self._standing.pause_s:
            await self._pause(self._standing.pause_s)
        while True:
            try:
                await try_out(candidate, self._standing.trial_s)
                break
            except Exception as error:  # whatever it is, the candidate does not answer yet
                if str(error) != said:
                    said = str(error)
                    log.warning("waiting_for_candidate", extra={"variant": candidate.name, "why": said})
            await self._pause(pause_s)
            pause_s = min(2 * pause_s, longest_s)
        self._standing.returned()
        log.info("candidate_in_service", extra={"variant": candidate.name, "share": self.share})


async def _known(target: Target, exchange: Exchange) -> Known:
    """What a candidate's model expects. One that does not say so soon counts as unreachable while there is time."""
    try:
        return await target.known(min(exchange.remaining_s(), _ASK_S))
    except DeadlineExceeded:
        if exchange.remaining_s() <= 0:
            raise
        raise PredictorUnavailable("the predictor does not say what its model expects") from None
