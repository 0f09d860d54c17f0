"""``GET /metrics``: rendered in a thread of its own, one scrape at a time, so that no scrape holds up the event loop.

The forms are the Prometheus client's: plain text, OpenMetrics for who accepts it, compressed for who accepts that.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from prometheus_client import REGISTRY, make_wsgi_app
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

#: Time a connection to the metrics port has until its first request.
FIRST_REQUEST_S: Final = 10.0

_rendering: Final = ThreadPoolExecutor(1, "saccade-scrape")
_render: Final[Any] = make_wsgi_app(REGISTRY)


async def scrape(request: Request) -> Response:
    """Answer with all metrics of the process."""
    asked = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/metrics",
        "QUERY_STRING": request.url.query,
        "HTTP_ACCEPT": request.headers.get("accept", ""),
        "HTTP_ACCEPT_ENCODING": request.headers.get("accept-encoding", ""),
    }
    headers: dict[str, str] = {}

    def start(_status: str, fields: list[tuple[str, str]]) -> None:
        headers.update(fields)

    (body,) = await asyncio.get_running_loop().run_in_executor(_rendering, _render, asked, start)
    return Response(body, headers=headers)


def metrics_application() -> ASGIApp:
    """What the metrics port serves, which is nothing else."""
    return Starlette(routes=[Route("/metrics", scrape)], exception_handlers={404: _not_here})


async def _not_here(request: Request, _error: Exception) -> Response:
    text = f"{request.method} {request.url.path[:200]} is not served here; expected GET /metrics"
    return JSONResponse({"error": text}, 404)
