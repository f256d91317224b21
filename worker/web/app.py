"""The worker's own HTTP side: is it alive, is it ready, its metrics, and Linq's webhooks. Nothing personal is shown.

The page of `worker.web.pages` comes beside these, with rules of its own.
Every answer, errors included, has the same headers, and no error says more than its status.
"""

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Unready = Callable[[], Awaitable[list[str]]]
"""Says why the worker cannot do its work at the moment; an empty list where it can."""


def make_app(
    *, unready: Unready, registry: CollectorRegistry, webhooks: Sequence[Route] = (), pages: Sequence[Route] = ()
) -> Starlette:
    """`/livez`, `/readyz` and `/metrics`; a route for webhooks if there is a secret for them; and the page."""

    async def livez(_request: Request) -> Response:
        """That this is answered at all says that the loop turns."""
        return JSONResponse({"alive": True}, headers=HEADERS)

    async def readyz(_request: Request) -> Response:
        reasons = await unready()
        return JSONResponse(
            {"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200, headers=HEADERS
        )

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), headers=HEADERS | {"Content-Type": CONTENT_TYPE_LATEST})

    probes = [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]
    routes = [*probes, *webhooks, *pages]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refused, Exception: _broken})


async def _refused(_request: Request, error: Exception) -> Response:
    """404 and 405, in a word."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    allowed = error.headers if isinstance(error, HTTPException) else None
    return PlainTextResponse(f"{HTTPStatus(status).phrase}\n", status, headers=HEADERS | dict(allowed or {}))


async def _broken(_request: Request, _error: Exception) -> Response:
    """A bug of ours: the log has it, the page does not."""
    return PlainTextResponse("Internal Server Error\n", 500, headers=HEADERS)
