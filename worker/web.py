"""The worker's own HTTP side: is it alive, is it ready, and its metrics. Nothing personal; nothing can be changed."""

from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

Unready = Callable[[], Awaitable[list[str]]]
"""Says why the worker cannot do its work at the moment; an empty list where it can."""


def make_app(*, unready: Unready, registry: CollectorRegistry) -> Starlette:
    """The three pages: `/livez`, `/readyz`, `/metrics`."""

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

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)])
