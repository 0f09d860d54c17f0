"""Who waits for a model: priority levels, each with its queue policy, in Triton's sense.

Pure: entries in, entries out, the time is handed in. What an entry carries for its owner is never looked at. Every
operation costs the same however many wait: who is taken or leaves is only marked, and swept up when its turn comes.

Source of the meanings: Triton, docs/user_guide/batcher.md, and ModelQueuePolicy in model_config.proto.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

#: What becomes of a request whose time in the queue is over: refused, or put behind all others of its level.
TimeoutAction: TypeAlias = Literal["REJECT", "DELAY"]

_NEVER: Final = math.inf
#: So many marked entries a line keeps without being swept.
_SPARE: Final = 64


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How the requests of one priority level wait; the names are Triton's, in seconds.

    Attributes:
        default_timeout_s: after which ``timeout_action`` is taken; 0 is never.
        allow_timeout_override: whether a request's own timeout may shorten that.
        max_queue_size: requests that may wait; 0 is no limit.
    """

    timeout_action: TimeoutAction = "REJECT"
    default_timeout_s: float = 0.0
    allow_timeout_override: bool = False
    max_queue_size: int = 0

    def timeout_s(self, own_s: float) -> float:
        """How long a request may wait; 0 is for ever.

        Triton lets a request's timeout only shorten the default, so that without a default it has no effect on the
        queue (``PolicyQueue::Enqueue``); the request's deadline holds all the same.

        Args:
            own_s: the request's parameter ``timeout``; 0 is none.
        """
        if self.allow_timeout_override and 0 < own_s < self.default_timeout_s:
            return own_s
        return self.default_timeout_s


class QueueFull(Exception):
    """No room for another request at its priority level.

    Attributes:
        waiting: requests that wait there.
    """

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} requests are waiting, which is the limit")
        self.waiting = waiting


@dataclass(slots=True, eq=False)
class Entry:
    """One request in the queue.

    Attributes:
        id: unique in the queue.
        rows: inferences it asks for.
        deadline: after which nobody waits for its answer.
        signature: only requests with equal ones share a batch.
        priority: as the client sent it; 0 is the default level.
        timeout_s: the request's own queue timeout; 0 is none.
        owned: what the owner of the queue keeps with it.
        enqueued: when it was pushed.
    """

    id: int
    rows: int
    deadline: float = _NEVER
    signature: Hashable = ()
    priority: int = 0
    timeout_s: float = 0.0
    owned: Any = None
    enqueued: float = 0.0
    _line: _Line | None = field(default=None, repr=False)  # where it stands; None once it is out


class _Line:
    """Entries in the order they came, and by signature."""

    __slots__ = ("_by_signature", "_order", "live", "rows")

    def __init__(self) -> None:
        self._order: deque[Entry] = deque()
        self._by_signature: dict[Hashable, deque[Entry]] = {}
        self.live = self.rows = 0

    def append(self, entry: Entry) -> None:
        entry._line = self
        self.live += 1
        self.rows += entry.rows
        self._order.append(entry)
        alike = self._by_signature.get(entry.signature)
        if alike is None:
            alike = self._by_signature[entry.signature] = deque()
        alike.append(entry)

    def remove(self, entry: Entry) -> None:
        """Mark it; swept up later."""
        entry._line = None
        self.live -= 1
        self.rows -= entry.rows
        if not self.live:
            self._order.clear()
            self._by_signature.clear()
        elif len(self._order) > 2 * self.live + _SPARE:
            self._sweep()

    def first(self) -> Entry | None:
        order = self._order
        while order and order[0]._line is not self:
            order.popleft()
        return order[0] if order else None

    def alike(self, signature: Hashable) -> Iterator[Entry]:
        """Those with a signature, in order."""
        found = self._by_signature.get(signature)
        if found is None:
            return
        while found and found[0]._line is not self:
            found.popleft()
        if not found:
            del self._by_signature[signature]
            return
        for entry in found:
            if entry._line is self:
                yield entry

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entry in self._order if entry._line is self)

    def _sweep(self) -> None:
        left = list(self)
        self._order.clear()
        self._by_signature.clear()
        self.live = self.rows = 0
        for entry in left:
            self.append(entry)


class _Level:
    """One priority level: who has waited for less than the timeout, and behind them who has been delayed."""

    __slots__ = ("delayed", "fresh", "policy", "timeouts")

    def __init__(self, policy: QueuePolicy) -> None:
        self.policy = policy
        self.fresh = _Line()
        self.delayed = _Line()
        self.timeouts: list[tuple[float, int, Entry]] = []  # a heap; entries that are out are swept up later

    def __len__(self) -> int:
        return self.fresh.live + self.delayed.live

    def sweep(self) -> None:
        """Drop what has left from the top, and everything that has left once it is most of the heap."""
        timeouts = self.timeouts
        while timeouts and timeouts[0][2]._line is not self.fresh:
            heapq.heappop(timeouts)
        if len(timeouts) > 2 * self.fresh.live + _SPARE:
            timeouts[:] = [item for item in timeouts if item[2]._line is self.fresh]
            heapq.heapify(timeouts)


class Queue:
    """All requests that wait for one model.

    Args:
        default: policy of the levels that have none of their own.
        levels: number of priority levels, 1 the highest; 0 is a single one, whatever priority is sent.
        default_level: of requests that send none, or one that does not exist.
        policies: by level.

    Attributes:
        rows: of all that wait.
    """

    def __init__(
        self,
        default: QueuePolicy | None = None,
        levels: int = 0,
        default_level: int = 0,
        policies: Mapping[int, QueuePolicy] | None = None,
    ) -> None:
        default = default or QueuePolicy()
        own = policies or {}
        self._default_level = default_level
        self._levels = [_Level(own.get(number, default)) for number in range(1, levels + 1)] or [_Level(default)]
        self._lines = [line for level in self._levels for line in (level.fresh, level.delayed)]
        self._by_id: dict[int, tuple[Entry, int]] = {}
        self._numbers = itertools.count()
        self.rows = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Entry]:
        """All, in the order they are to be served."""
        return itertools.chain.from_iterable(self._lines)

    def level_of(self, priority: int) -> int:
        """Index of the level of a priority that was sent, 0 the highest."""
        if len(self._levels) == 1:
            return 0
        chosen = priority if 0 < priority <= len(self._levels) else self._default_level
        return chosen - 1

    def push(self, entry: Entry, now: float) -> None:
        """Let a request wait.

        Raises:
            QueueFull: its level has no room. It was not put into the queue.
        """
        index = self.level_of(entry.priority)
        level = self._levels[index]
        policy = level.policy
        if policy.max_queue_size and len(level) >= policy.max_queue_size:
            raise QueueFull(len(level))
        entry.enqueued = now
        self._by_id[entry.id] = entry, index
        self.rows += entry.rows
        level.fresh.append(entry)
        timeout_s = policy.timeout_s(entry.timeout_s)
        if timeout_s:
            heapq.heappush(level.timeouts, (now + timeout_s, next(self._numbers), entry))

    def remove(self, entry: Entry) -> None:
        """Take a request out: it is served, refused or withdrawn."""
        line = entry._line
        assert line is not None
        line.remove(entry)
        del self._by_id[entry.id]
        self.rows -= entry.rows

    def withdraw(self, entry_id: int) -> Entry | None:
        """Take a request out by its id; None if it does not wait."""
        found = self._by_id.get(entry_id)
        if found is None:
            return None
        self.remove(found[0])
        return found[0]

    def drain(self) -> list[Entry]:
        """Take everybody out, in the order they were to be served."""
        entries = list(self)
        for entry in entries:
            self.remove(entry)
        return entries

    def expire(self, now: float) -> list[Entry]:
        """Apply the timeouts that have passed.

        Returns:
            Those to be refused, taken out. Those to be delayed stay, behind all others of their level.
        """
        refused = []
        for level in self._levels:
            level.sweep()
            timeouts = level.timeouts
            while timeouts and timeouts[0][0] <= now:
                entry = heapq.heappop(timeouts)[2]
                if entry._line is level.fresh:
                    if level.policy.timeout_action == "REJECT":
                        self.remove(entry)
                        refused.append(entry)
                    else:
                        level.fresh.remove(entry)
                        level.delayed.append(entry)
                level.sweep()
        return refused

    def next_timeout(self) -> float:
        """When ``expire`` has something to do again; infinity for never."""
        for level in self._levels:
            level.sweep()
        return min((level.timeouts[0][0] for level in self._levels if level.timeouts), default=_NEVER)

    def first(self) -> Entry | None:
        """Who is served next."""
        for line in self._lines:
            if line.live and (entry := line.first()) is not None:
                return entry
        return None

    def alike(self, signature: Hashable) -> Iterator[Entry]:
        """Who may share a batch, in the order they are to be served. Do not change the queue meanwhile."""
        for line in self._lines:
            if line.live:
                yield from line.alike(signature)

    def oldest(self) -> float:
        """When the one who has waited longest came; infinity without one. Changes nothing: any thread may ask."""
        for _ in range(8):
            try:
                return min(
                    (entry.enqueued for line in self._lines for entry in itertools.islice(line, 1)), default=_NEVER
                )
            except RuntimeError:  # the queue was changed meanwhile, in its own thread
                continue
        return _NEVER

    def rows_before(self, priority: int) -> int:
        """Rows that would be served before a request of this priority that comes now."""
        if len(self._levels) == 1:
            return self.rows
        index = self.level_of(priority)
        return sum([line.rows for line in self._lines[: 2 * index + 2]])
