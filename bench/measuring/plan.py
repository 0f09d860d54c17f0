"""How much is measured: sizes, connections, rounds and requests, bounded in count and in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from measuring.payload import SHAPES
from measuring.targets import Target

_LARGE: Final = "1.2MB"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does.

    Attributes:
        requests: per server, load and round, by size; at least two for each connection.
        rounds: each measures every server under every load once.
        limit_s: after which no further request of one measurement is begun.
        budget_s: after which no further load is begun, and medians are of the rounds there are.
        judges: enough is measured to say whether a goal is reached.
    """

    sizes: Sequence[str]
    connections: Sequence[int]
    requests: Mapping[str, int]
    rounds: int
    limit_s: float
    budget_s: float
    judges: bool = True

    def changed(self, sizes: Sequence[str] | None, connections: Sequence[int] | None, requests: int | None) -> Plan:
        """The same with what a person asked for."""
        return replace(
            self,
            sizes=sizes or self.sizes,
            connections=connections or self.connections,
            requests=dict.fromkeys(SHAPES, requests) if requests else self.requests,
        )


@dataclass(frozen=True, slots=True)
class Count:
    """Requests of one measurement; none where it is left out."""

    warmup: int
    measured: int


#: What every server gets before anything is measured: enough for whatever a process does once.
FIRST: Final = Count(0, 300)
DEFAULT: Final = Plan(tuple(SHAPES), (1, 8, 32), {"353B": 2000, _LARGE: 64}, rounds=5, limit_s=4, budget_s=600)
QUICK: Final = Plan(tuple(SHAPES), (1, 8), {"353B": 100, _LARGE: 16}, rounds=1, limit_s=2, budget_s=45, judges=False)


def requests_for(plan: Plan, target: Target, size: str, connections: int, number: int) -> Count:
    """How many requests a server gets in round ``number`` (from 0).

    A slow server gets one large request per connection, at least two, in the first round only and without warm-up.
    """
    if target.slow and size == _LARGE:
        return Count(0, max(2, connections) if number == 0 else 0)
    return Count(2 * connections, max(plan.requests[size], 2 * connections))
