"""A client of several equal servers: spreads calls, sets failing servers aside, repeats a failed call once.

Composes clients of one server each, REST or gRPC; what to do is ``balance``'s decision. With one server it repeats,
and nothing else. The servers must serve the same models. A name with several addresses counts as one server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from saccade_serving.client.balance import Balance
from saccade_serving.client.client import ConnectionFailed, Refused, V2Client
from saccade_serving.client.remaining import restated
from saccade_serving.metrics import Counter
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata

Result = TypeVar("Result")
#: Refusals that say something of the server rather than of the request. A broken one is quick to answer 500: with the
#: fewest open calls it would draw nearly all of them.
_SETS_ASIDE: Final = (500, 503)
#: Likewise where the request names no version, so that any server that has the model would answer.
_LACKS_MODEL: Final = 404
#: Asks one server, in the seconds given.
Ask = Callable[[V2Client, float], Awaitable[Result]]


class Balanced:
    """Speaks V2 with several servers as with one.

    Args:
        clients: one for each server.
        retries: counts second tries by ``reason``: ``connection``, ``overloaded``, ``no_model``.
        hedges: counts second requests beside a slow first one by ``outcome``: ``won``, ``lost``, ``failed``.
        hedge_after_s: time without an answer after which another server is asked too; 0 for never.
        balance: decides; of our own if omitted.
    """

    def __init__(
        self,
        clients: Sequence[V2Client],
        retries: Counter,
        hedges: Counter,
        hedge_after_s: float = 0.0,
        balance: Balance | None = None,
    ) -> None:
        self.balance = balance or Balance(len(clients))
        self._clients = clients
        self._retries, self._hedges = retries, hedges
        self._hedge_after_s = hedge_after_s if len(clients) > 1 else 0.0

    async def infer(
        self, request: InferRequest, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> InferResponse:
        """Send one inference request, at most twice; see ``V2Client``. The second states the time left then."""
        first = True

        def ask(client: V2Client, left_s: float) -> Awaitable[InferResponse]:
            nonlocal first
            if first:
                first = False
                return client.infer(request, left_s, headers)
            again, again_headers = restated(request, headers, left_s)
            return client.infer(again, left_s, again_headers)

        named = bool(request.model_version)
        if self._hedge_after_s:
            return await self._hedged(ask, timeout_s, named)
        return await self._repeated(ask, timeout_s, named)

    async def metadata(self, model: str, timeout_s: float) -> ModelMetadata:
        """Ask what the model's tensors are; see ``V2Client``."""
        return await self._repeated(lambda client, left_s: client.metadata(model, left_s), timeout_s)

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model answers requests on any of the servers."""
        if len(self._clients) == 1:
            return await self._clients[0].is_ready(model, timeout_s)
        return any(await asyncio.gather(*(client.is_ready(model, timeout_s) for client in self._clients)))

    async def close(self) -> None:
        """Close all clients."""
        for client in self._clients:
            await client.close()

    async def _repeated(self, ask: Ask[Result], timeout_s: float, named: bool = False) -> Result:
        """Ask one server; if that fails in a way that allows it, ask once more.

        Args:
            ask: asks a server.
            timeout_s: for both.
            named: whether a version is named that a server may rightly not have.
        """
        deadline = time.monotonic() + timeout_s
        index = self.balance.choose() or 0
        try:
            return await self._once(index, ask, timeout_s, named)
        except (ConnectionFailed, Refused) as error:
            return await self._again(error, index, ask, deadline, named)

    async def _again(self, error: Exception, index: int, ask: Ask[Result], deadline: float, named: bool) -> Result:
        """Ask once more after an error, or raise it."""
        another = self.balance.choose(besides=index)
        retry = self.balance.retry(error, deadline - time.monotonic(), another is not None, named)
        if retry is None:
            raise error
        self._retries.add((retry.reason,))
        if retry.wait_s:
            await asyncio.sleep(retry.wait_s)
            another = self.balance.choose()
        return await self._once(index if another is None else another, ask, deadline - time.monotonic(), named)

    async def _hedged(self, ask: Ask[Result], timeout_s: float, named: bool) -> Result:
        """Ask one server; if it has not answered after a while, another one too. The first good answer counts."""
        deadline = time.monotonic() + timeout_s
        index = self.balance.choose() or 0
        calls = [asyncio.ensure_future(self._once(index, ask, timeout_s, named))]
        try:
            done, _ = await asyncio.wait(calls, timeout=self._hedge_after_s)
            if done:
                try:
                    return calls[0].result()
                except (ConnectionFailed, Refused) as error:
                    return await self._again(error, index, ask, deadline, named)
            another = self.balance.choose(besides=index)
            left_s = deadline - time.monotonic()
            if another is None or left_s <= self.balance.expected_s:
                return await calls[0]
            calls.append(asyncio.ensure_future(self._once(another, ask, left_s, named)))
            return await self._first_of(*calls)
        finally:
            for call in calls:
                call.cancel()
            # Only when they have ended, nothing reads the request's memory any more.
            await asyncio.wait(calls)
            for call in calls:
                if not call.cancelled():
                    call.exception()  # seen: not to be reported as forgotten

    async def _first_of(self, first: asyncio.Future[Result], second: asyncio.Future[Result]) -> Result:
        pending = {first, second}
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for call in done:
                if call.exception() is None:
                    self._hedges.add(("won" if call is second else "lost",))
                    return call.result()
        self._hedges.add(("failed",))
        return first.result()

    async def _once(self, index: int, ask: Ask[Result], timeout_s: float, named: bool) -> Result:
        """Ask one server once, and tell the balance how it went."""
        balance = self.balance
        began = balance.begin(index)
        succeeded: bool | None = None
        gave_result = False
        try:
            result = await ask(self._clients[index], timeout_s)
            succeeded = gave_result = True
            return result
        except ConnectionFailed:
            succeeded = False
            raise
        except Refused as error:
            succeeded = error.status not in _SETS_ASIDE and (named or error.status != _LACKS_MODEL)
            raise
        finally:
            balance.end(index, began, succeeded, gave_result)
