"""The batching policy, case by case: arrivals in, batches out, under a virtual clock.

The table reads like documentation: each row is a sentence of Triton's, or ours where we differ, and what it means for
requests that come at given milliseconds to an engine that takes 10 ms for every batch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from saccade_serving.scheduling.policy import BatchingRules, decide
from saccade_serving.scheduling.queue import Entry, Queue, QueuePolicy
from saccade_serving.scheduling.scheduler import Scheduler
from virtual_clock import Arrival, play

BATCHER = "docs/user_guide/batcher.md"
PROTO = "model_config.proto"


@dataclass(frozen=True)
class Row:
    """One case.

    Attributes:
        says: the sentence.
        source: where it stands.
        arrivals: requests, numbered from 0.
        batches: start in ms, and the numbers of the requests, as expected.
        refused: number -> why and when, as expected.
    """

    says: str
    source: str
    arrivals: Sequence[Arrival]
    batches: Sequence[tuple[float, list[int]]]
    refused: dict[int, tuple[str, float]] = field(default_factory=dict)
    max_rows: int = 4
    preferred: tuple[int, ...] = ()
    delay_ms: float = 0.0
    default: QueuePolicy = field(default_factory=QueuePolicy)
    levels: int = 0
    default_level: int = 0
    policies: dict[int, QueuePolicy] = field(default_factory=dict)
    instances: int = 1


def at(*times: float, rows: int = 1) -> list[Arrival]:
    return [Arrival(time, rows) for time in times]


TABLE = {
    "no delay": Row(
        "By default the dynamic batcher will create batches as large as possible up to the maximum batch size and "
        "will not delay when forming batches.",
        BATCHER,
        at(0, 1, 2, 3, 4, 5),
        [(0, [0]), (10, [1, 2, 3, 4]), (20, [5])],
    ),
    "order": Row(
        "Requests are added to the batch in the order the requests were received.",
        BATCHER,
        [Arrival(0), Arrival(1, 2), Arrival(2, 1), Arrival(3, 2), Arrival(4, 1)],
        [(0, [0]), (10, [1, 2]), (20, [3, 4])],
    ),
    "a request that does not fit is not overtaken": Row(
        "Adding this request would make the batch larger than the maximum: send the pending batch.",
        "GetDynamicBatch",
        [Arrival(0), Arrival(1, 3), Arrival(2, 2), Arrival(3, 1)],
        [(0, [0]), (10, [1]), (20, [2, 3])],
    ),
    "the largest preferred size": Row(
        "If the dynamic batcher can form a batch of a preferred size(s) it will create a batch of the largest "
        "possible preferred size and send it for inferencing.",
        BATCHER,
        at(0, 1, 2, 3, 4, 5, 6),
        [(0, [0]), (10, [1, 2, 3, 4]), (20, [5, 6])],
        max_rows=8,
        preferred=(2, 4),
    ),
    "no preferred size": Row(
        "If the dynamic batcher cannot form a batch of a preferred size, it will send a batch of the largest size "
        "possible that is less than the maximum batch size allowed by the model.",
        BATCHER,
        at(0, 1, 2, 3),
        [(0, [0]), (10, [1, 2, 3])],
        max_rows=8,
        preferred=(4, 8),
    ),
    "a delay that fills": Row(
        "If a new request arrives during this delay and allows the dynamic batcher to form a batch of a maximum or "
        "preferred batch size, then that batch is sent immediately for inferencing.",
        BATCHER,
        at(0, 1, 2, 3),
        [(3, [0, 1, 2, 3])],
        delay_ms=5,
    ),
    "a delay that fills a preferred size": Row(
        "... a maximum or preferred batch size ...",
        BATCHER,
        at(0, 1, 30),
        [(1, [0, 1]), (35, [2])],
        max_rows=8,
        preferred=(2,),
        delay_ms=5,
    ),
    "a delay that expires": Row(
        "If the delay expires the dynamic batcher sends the batch as is, even though it is not a maximum or preferred "
        "size.",
        BATCHER,
        at(0, 2),
        [(5, [0, 1])],
        delay_ms=5,
    ),
    "the delay counts from the oldest": Row(
        "... will delay sending the batch as long as no request is delayed longer than the configured value.",
        BATCHER,
        at(0, 8, 9),
        [(5, [0]), (15, [1, 2])],
        delay_ms=5,
    ),
    "priorities": Row(
        "Requests with higher priority are allowed to bypass requests with lower priority. Requests at the same "
        "priority level are processed in order.",
        BATCHER,
        [Arrival(0), *(Arrival(1 + n, 2, priority) for n, priority in enumerate((3, 2, 1, 2)))],
        [(0, [0]), (10, [3, 2]), (20, [4, 1])],
        levels=3,
        default_level=2,
    ),
    "no priority": Row(
        "Inference requests that do not set a priority are scheduled using the default_priority_level property.",
        BATCHER,
        [Arrival(0), Arrival(1, 4, 2), Arrival(2, 4, 0), Arrival(3, 4, 99)],
        [(0, [0]), (10, [2]), (20, [3]), (30, [1])],
        levels=2,
        default_level=1,
    ),
    "the queue is full": Row(
        "The maximum queue size for holding requests. A request will be rejected immediately if it can't be enqueued "
        "because the queue is full.",
        PROTO,
        at(0, 1, 2, 3),
        [(0, [0]), (10, [1, 2])],
        {3: ("full", 3)},
        default=QueuePolicy(max_queue_size=2),
    ),
    "each level has room of its own": Row(
        "When priority_levels is defined, each priority level can have a different ModelQueuePolicy.",
        BATCHER,
        [Arrival(0), Arrival(1, 1, 2), Arrival(2, 1, 2), Arrival(3, 1, 1), Arrival(4, 1, 1)],
        [(0, [0]), (10, [3, 4, 1])],
        {2: ("full", 2)},
        levels=2,
        default_level=1,
        policies={2: QueuePolicy(max_queue_size=1)},
    ),
    "REJECT": Row(
        "REJECT: Reject the request and return error message accordingly.",
        PROTO,
        at(0, 1, 8),
        [(0, [0]), (10, [2])],
        {1: ("timeout", 6)},
        default=QueuePolicy(default_timeout_s=0.005),
    ),
    "DELAY": Row(
        "DELAY: Delay the request until all other requests at the same (or higher) priority levels that have not "
        "reached their timeouts are processed.",
        PROTO,
        [Arrival(0), Arrival(1, 4), Arrival(7, 4)],
        [(0, [0]), (10, [2]), (20, [1])],
        default=QueuePolicy("DELAY", default_timeout_s=0.005),
    ),
    "DELAY stays within its level": Row(
        "... at the same (or higher) priority levels ...",
        PROTO,
        [Arrival(0), Arrival(1, 4, 1), Arrival(2, 4, 2)],
        [(0, [0]), (10, [1]), (20, [2])],
        levels=2,
        default_level=1,
        default=QueuePolicy("DELAY", default_timeout_s=0.005),
    ),
    "a timeout of its own": Row(
        "Whether individual request can override the default timeout value. When true, individual requests can set a "
        "timeout that is less than the default timeout value but may not increase the timeout.",
        PROTO,
        [Arrival(0), Arrival(1, timeout=3), Arrival(1, timeout=300)],
        [(0, [0])],
        {1: ("timeout", 4), 2: ("timeout", 6)},
        default=QueuePolicy(default_timeout_s=0.005, allow_timeout_override=True),
    ),
    "no timeout of its own": Row(
        "... Whether individual request can override the default timeout value.",
        PROTO,
        [Arrival(0), Arrival(1, timeout=3)],
        [(0, [0])],
        {1: ("timeout", 6)},
        default=QueuePolicy(default_timeout_s=0.005),
    ),
    "several instances": Row(
        "The dynamically created batches are distributed to all model instances configured for the model.",
        BATCHER,
        at(0, 1, 2, 3, 4),
        [(0, [0]), (1, [1]), (10, [2, 3, 4])],
        instances=2,
    ),
    "max_batch_size 0": Row(
        "A model that does not support batching: each request is executed by itself.",
        "docs/user_guide/model_configuration.md",
        [Arrival(0), Arrival(1, 5), Arrival(2)],
        [(0, [0]), (10, [1]), (20, [2])],
        max_rows=0,
    ),
    "shapes (ours)": Row(
        "Only requests of the same shapes share a batch; those behind one of another shape join, and it is next. "
        "(Triton sends the batch as it is.)",
        "ours",
        [Arrival(0), *(Arrival(1 + n, shape=shape) for n, shape in enumerate("abab"))],
        [(0, [0]), (10, [1, 3]), (20, [2, 4])],
    ),
    "nobody waits for company while another shape waits (ours)": Row(
        "A delay ends when a request of another shape comes: the instance has something else to do.",
        "ours",
        [Arrival(0, shape="a"), Arrival(1, shape="b")],
        [(1, [0]), (11, [1])],
        delay_ms=5,
    ),
    "who has left takes no place": Row(
        "A request that is withdrawn is in no batch.",
        "ours",
        [Arrival(0), Arrival(1, leaves=5), Arrival(2), Arrival(3, 3)],
        [(0, [0]), (10, [2, 3])],
    ),
}


@pytest.mark.parametrize("name", list(TABLE))
def test_the_policy_does_what_the_sentence_says(name: str) -> None:
    row = TABLE[name]
    queue = Queue(row.default, row.levels, row.default_level, row.policies)
    rules = BatchingRules(row.max_rows, row.preferred, row.delay_ms / 1e3)
    story = play(Scheduler(queue, rules, [1] * row.instances), row.arrivals, lambda rows: 10.0)
    assert story.groups == [numbers for _, numbers in row.batches], row.says
    assert [when for when, _, _ in story.batches] == pytest.approx([when for when, _ in row.batches]), row.says
    assert {number: why for number, (why, _) in story.refused.items()} == {
        number: why for number, (why, _) in row.refused.items()
    }, row.says
    assert {number: when for number, (_, when) in story.refused.items()} == pytest.approx(
        {number: when for number, (_, when) in row.refused.items()}
    ), row.says
    assert not len(queue)


@pytest.mark.parametrize("seed", range(30))
def test_a_batch_is_never_too_large_never_mixed_and_never_out_of_order(seed: int) -> None:
    chance = random.Random(seed)
    most = chance.randint(1, 8)
    queue = Queue()
    entries = [
        Entry(number, chance.randint(1, most), signature=chance.choice("ab"))
        for number in range(chance.randint(1, 30))
    ]
    for entry in entries:
        queue.push(entry, 0.0)
    batch = list(decide(queue, 0.0, BatchingRules(most)).batch)
    assert batch[0] is entries[0]
    assert [entry.id for entry in batch] == sorted(entry.id for entry in batch)
    assert sum(entry.rows for entry in batch) <= most
    assert len({entry.signature for entry in batch}) == 1
    # Nobody of the same shapes was passed over.
    skipped = [entry for entry in entries[: batch[-1].id] if entry not in batch]
    assert all(entry.signature != batch[0].signature for entry in skipped)


@pytest.mark.parametrize("seed", range(20))
def test_under_any_rules_everybody_is_answered_or_refused_exactly_once(seed: int) -> None:
    chance = random.Random(seed)
    levels = chance.choice([0, 0, 1, 3])
    policy = QueuePolicy(
        chance.choice(["REJECT", "DELAY"]), chance.choice([0, 0.02]), chance.random() < 0.5, chance.choice([0, 20])
    )
    rules = BatchingRules(chance.choice([0, 1, 4, 8]), chance.choice([(), (2, 4)]), chance.choice([0, 0.003]))
    if rules.preferred and rules.max_rows < 4:
        rules = BatchingRules(rules.max_rows)
    queue = Queue(policy, levels, min(1, levels))
    arrivals = [
        Arrival(
            chance.uniform(0, 500),
            chance.randint(1, max(1, rules.max_rows)),
            chance.randint(0, 4),
            chance.choice("aab"),
            chance.choice([0, 5]),
            leaves=chance.choice([float("inf")] * 5 + [chance.uniform(0, 600)]),
        )
        for _ in range(400)
    ]
    story = play(
        Scheduler(queue, rules, [chance.randint(1, 3) for _ in range(chance.randint(1, 3))]), arrivals, lambda r: 4.0
    )
    assert not len(queue)
    assert not queue.rows
    ends = [*story.done, *story.refused, *story.left]
    assert sorted(ends) == list(range(len(arrivals)))
    computed = [number for _, _, numbers in story.batches for number in numbers]
    assert len(computed) == len(set(computed))
    assert set(story.done) <= set(computed) <= set(story.done) | story.left
