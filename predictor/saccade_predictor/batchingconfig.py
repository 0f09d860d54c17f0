"""What ``config.pbtxt`` says of the way requests wait and share batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from saccade_serving.scheduling.policy import BatchingRules
from saccade_serving.scheduling.queue import Queue, QueuePolicy

#: Every level is a queue of its own.
MAX_PRIORITY_LEVELS: Final = 1024
#: Ten minutes, the longest that Knative lets a request take.
MAX_SLO_MS: Final = 600_000.0


class ModelConfigError(ValueError):
    """A configuration that cannot be served as it stands.

    Attributes:
        model: name of the model's directory.
        field: the field, or the line, that is wrong.
    """

    def __init__(self, model: str, field: str, found: object, expected: str) -> None:
        self.model, self.field = model, field
        super().__init__(f"{model}/config.pbtxt: {field} is {found}; expected {expected}")


@dataclass(frozen=True, slots=True)
class DynamicBatching:
    """How requests wait for one another; the names are Triton's.

    Attributes:
        preferred_batch_size: ascending.
        max_queue_delay_microseconds: how long an idle instance may wait for a batch to fill.
        preserve_ordering: answers leave in the order the requests came.
        priority_levels: 1 is the highest; 0 for a single queue.
        default_priority_level: of requests without a priority.
        default_queue_policy: of levels without a policy of their own.
        priority_queue_policy: by level.
    """

    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = 0
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    default_queue_policy: QueuePolicy = field(default_factory=QueuePolicy)
    priority_queue_policy: Mapping[int, QueuePolicy] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def may_delay(self) -> bool:
        """Whether a request can wait on although its own timeout is over."""
        policies = (self.default_queue_policy, *self.priority_queue_policy.values())
        return any(policy.timeout_action == "DELAY" and policy.allow_timeout_override for policy in policies)


def read_batching(proto: Any, model: str) -> DynamicBatching | None:
    """Read ``dynamic_batching``; None where a model has none.

    Args:
        proto: the model's ``ModelConfig``.
        model: its name, for errors.

    Raises:
        ModelConfigError: the values contradict each other. Triton refuses the same.
    """
    if not proto.HasField("dynamic_batching"):
        return None
    given = proto.dynamic_batching
    preferred = sorted(set(given.preferred_batch_size))
    if preferred and not 1 <= preferred[0] <= preferred[-1] <= proto.max_batch_size:
        expected = f"sizes of 1 to {proto.max_batch_size}, the max_batch_size"
        raise ModelConfigError(model, "dynamic_batching.preferred_batch_size", preferred, expected)
    levels, default_level = given.priority_levels, given.default_priority_level
    if levels > MAX_PRIORITY_LEVELS:
        expected = f"at most {MAX_PRIORITY_LEVELS}"
        raise ModelConfigError(model, "dynamic_batching.priority_levels", levels, expected)
    if levels and not 1 <= default_level <= levels:
        expected = f"1 to {levels}, the priority_levels"
        raise ModelConfigError(model, "dynamic_batching.default_priority_level", default_level, expected)
    policies = {level: _read_policy(policy) for level, policy in given.priority_queue_policy.items()}
    if any(not 1 <= level <= levels for level in policies):
        expected = f"levels of 1 to {levels}, the priority_levels"
        raise ModelConfigError(model, "dynamic_batching.priority_queue_policy", sorted(policies), expected)
    default = _read_policy(given.default_queue_policy)
    if given.preserve_ordering:
        # Triton refuses both, too: order and overtaking exclude each other.
        if levels > 1:
            raise ModelConfigError(model, "dynamic_batching.priority_levels", levels, "one with preserve_ordering")
        if "DELAY" in (default.timeout_action, *(policy.timeout_action for policy in policies.values())):
            raise ModelConfigError(model, "queue policy timeout_action", "DELAY", "REJECT with preserve_ordering")
    return DynamicBatching(
        preferred_batch_size=tuple(preferred),
        max_queue_delay_microseconds=given.max_queue_delay_microseconds,
        preserve_ordering=given.preserve_ordering,
        priority_levels=levels,
        default_priority_level=default_level,
        default_queue_policy=default,
        priority_queue_policy=MappingProxyType(policies),
    )


def _read_policy(policy: Any) -> QueuePolicy:
    return QueuePolicy(
        timeout_action="DELAY" if policy.timeout_action == policy.DELAY else "REJECT",
        default_timeout_s=policy.default_timeout_microseconds / 1e6,
        allow_timeout_override=policy.allow_timeout_override,
        max_queue_size=policy.max_queue_size,
    )


def read_slo(parameters: Mapping[str, str], max_batch_size: int, model: str) -> float:
    """Read ``parameters.slo_ms``; 0 where it is not given.

    Raises:
        ModelConfigError: it is no time, or the model has no batches.
    """
    text = parameters.get("slo_ms")
    if text is None:
        return 0.0
    try:
        slo_ms = float(text)
    except ValueError:
        slo_ms = math.nan
    if not 0 < slo_ms <= MAX_SLO_MS:
        expected = f"milliseconds above 0, at most {MAX_SLO_MS:g}"
        raise ModelConfigError(model, "parameters.slo_ms", repr(text), expected)
    if not max_batch_size:
        raise ModelConfigError(model, "parameters.slo_ms", repr(text), "none without a max_batch_size")
    return slo_ms


def make_queue(batching: DynamicBatching | None, max_queue_size: int) -> Queue:
    """The queue of a model.

    Args:
        batching: the model's; None for one that runs every request alone.
        max_queue_size: requests that may wait at a level whose policy sets no limit.
    """
    batching = batching or DynamicBatching()

    def bounded(policy: QueuePolicy) -> QueuePolicy:
        return replace(policy, max_queue_size=policy.max_queue_size or max_queue_size)

    return Queue(
        bounded(batching.default_queue_policy),
        batching.priority_levels,
        batching.default_priority_level,
        {level: bounded(policy) for level, policy in batching.priority_queue_policy.items()},
    )


def make_rules(batching: DynamicBatching | None, max_batch_size: int, slo_ms: float) -> BatchingRules:
    """How requests of a model are grouped.

    Args:
        batching: the model's; without it Triton runs requests one by one, each with the rows it brought.
        max_batch_size: 0 for a model without batches.
        slo_ms: 0 for none.
    """
    if batching is None:
        return BatchingRules(min(max_batch_size, 1), slo_s=slo_ms / 1e3)
    delay_s = batching.max_queue_delay_microseconds / 1e6
    return BatchingRules(max_batch_size, batching.preferred_batch_size, delay_s, slo_ms / 1e3)
