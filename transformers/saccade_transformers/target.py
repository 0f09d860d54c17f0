"""One predictor's model as something that can be asked: what it expects, and the task that reads its answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from saccade_serving.errors import PredictorUnavailable
from saccade_transformers.predictor import Predictor, PredictorContract
from saccade_transformers.tasks.task import Task

MakeTask = Callable[[PredictorContract], Task[Any, Any]]


class Known(NamedTuple):
    """What a predictor's model said of itself, and the task made of it."""

    contract: PredictorContract
    task: Task[Any, Any]


class Target:
    """A predictor and what is known of it.

    Args:
        predictor: asked.
        make_task: builds the task from what the predictor's model says of itself.
        name: of the variant it is; empty where there is but one.

    Attributes:
        last: what was known of it when it was last asked; None before.
    """

    def __init__(self, predictor: Predictor, make_task: MakeTask, name: str = "") -> None:
        self.predictor = predictor
        self.name = name
        self.last: Known | None = None
        self._make_task = make_task

    async def known(self, timeout_s: float) -> Known:
        """What the predictor's model expects now; asked once, then remembered.

        Raises:
            PredictorUnavailable: it cannot be reached, or its model does not fit this transformer.
            Overloaded, DeadlineExceeded: it cannot be asked now.
        """
        contract = await self.predictor.contract(timeout_s)
        if self.last is None or self.last.contract is not contract:
            try:
                self.last = Known(contract, self._make_task(contract))
            except Exception as error:
                self.predictor.forget()
                raise PredictorUnavailable(
                    f"the predictor's model {self.predictor.model!r} does not fit this transformer: {error}"
                ) from error
        return self.last
