"""Which outputs a response carries: those the request asked for, in its order, or all."""

from __future__ import annotations

from collections.abc import Sequence

from saccade_serving.oip.messages import InferRequest, InferResponse, Tensor


def select_outputs(request: InferRequest, response: InferResponse) -> Sequence[Tensor]:
    """Filter and order a response's outputs by what the request asked for.

    Returns:
        The requested outputs in the request's order; all outputs when it asked for none by name.

    Raises:
        UnknownTensor: a requested output is not in the response (direction ``output``).
    """
    if not request.outputs:
        return response.outputs
    return [response.output(requested.name) for requested in request.outputs]
