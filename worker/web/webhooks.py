"""`POST /webhooks/linq`: takes Linq's events in. Refuses what Linq did not sign, and says no more than a status.

A 2xx means that what the event says is written. Linq repeats after a 5xx, for up to half an hour, and after no other
answer. What is refused leaves no trace but a count.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from worker.linq.webhooks import KINDS, Event, ForgedError, UnavailableError, read_event, verify

PATH: Final = "/webhooks/linq"

LARGEST_BODY: Final = 1 << 20
"""Bytes; Linq's events have some thousands."""

OTHER: Final = "other"
"""How events of kinds that do not concern the worker are counted."""

Take = Callable[[Event], Awaitable[None]]
Count = Callable[[str, str, float], None]
"""With the kind of event, its result, and the seconds that it took."""


def webhook_route(secrets: Sequence[str], take: Take, count: Count, headers: dict[str, str]) -> Route:
    """The route: `take` writes what an event says, and raises `UnavailableError` if it cannot."""

    async def receive(request: Request) -> Response:
        began = time.perf_counter()
        kind, result, status = await _received(request, secrets, take)
        count(kind if kind in KINDS else OTHER, result, time.perf_counter() - began)
        return Response(status_code=status, headers=headers)

    return Route(PATH, receive, methods=["POST"])


async def _received(request: Request, secrets: Sequence[str], take: Take) -> tuple[str, str, int]:
    """The kind of event, its result for the metric, and the status to answer."""
    try:
        body = await _body(request)
        if body is None:
            return OTHER, "refused", 413
        verify(secrets, request.headers, body)
    except (ForgedError, ClientDisconnect):
        return OTHER, "refused", 401
    try:
        kind, event = read_event(body)
    except ForgedError:
        return OTHER, "refused", 400
    if event is None:
        return kind, "ignored", 204
    try:
        await take(event)
    except UnavailableError:
        return kind, "failed", 503
    return kind, "written", 204


async def _body(request: Request) -> bytes | None:
    """The body; None if it is too large."""
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > LARGEST_BODY:
            return None
    return bytes(parts)
