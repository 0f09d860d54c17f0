"""How errors and small answers are put to a client: as JSON over REST, as a status over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import grpc
from starlette.responses import Response

from saccade_serving.connection.failures import as_saccade_error
from saccade_serving.connection.operation import Reply, error_reply, json_reply
from saccade_serving.errors import SaccadeError

SERVER_NAME: Final = "saccade"
#: V2 extensions that every model has; a model may add its own (``ServedModel.extensions``).
EXTENSIONS: Final = ("binary_tensor_data", "parameters", "statistics")

#: Trailing metadata that tells our errors from the channel's own.
REASON_KEY: Final = "saccade-reason"

Context = Any  # grpc.aio.ServicerContext; grpcio carries no types


def json_response(content: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    """Answer with JSON."""
    return _response(json_reply(content, headers, status))


def error_response(error: SaccadeError) -> Response:
    """Answer with an error in the V2 form."""
    return _response(error_reply(error))


def _response(reply: Reply) -> Response:
    """What operations answer with, for a route that is none."""
    return Response(b"".join(reply.parts), reply.status, reply.headers)


def abort(context: Context, error: SaccadeError) -> Awaitable[None]:
    """End a gRPC call with the error's code and sentence; its reason and delay go into the trailing metadata."""
    trailing = [(REASON_KEY, error.reason)]
    if error.retry_after_s is not None:
        trailing.append(("retry-after", f"{error.retry_after_s:g}"))
    aborted: Awaitable[None] = context.abort(getattr(grpc.StatusCode, error.grpc_code), str(error), tuple(trailing))
    return aborted


async def guarded(context: Context, work: Callable[[], Any]) -> Any:
    """Run ``work`` for a gRPC call, answering its error."""
    try:
        return work()
    except Exception as error:
        await abort(context, as_saccade_error(error))
