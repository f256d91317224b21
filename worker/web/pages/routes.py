"""The addresses of the page: who may see them, what they show, and what is said where that fails.

No request changes anything: there are only GET and HEAD.
"""

import math
from collections.abc import Awaitable, Callable
from datetime import datetime
from http import HTTPStatus
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from worker.errors import DatabaseError, TooSlowError, UsageError
from worker.sharing.watch import PassProgress
from worker.web.pages import attempts, chats, overview, passes
from worker.web.pages.access import Access, Gate
from worker.web.pages.numbers import Numbers
from worker.web.pages.reader import PAGE_SECONDS, Reader
from worker.web.pages.render import CONTENT_TYPES, HEADERS, STATIC, WHOLE, Reading, View, respond

CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="share worker", charset="UTF-8"'}


Show = Callable[[Reading, Request], Awaitable[View]]


def page_routes(
    reader: Reader, gate: Gate, progress: PassProgress, resume_at: Callable[[], datetime | None]
) -> list[Route]:
    """All addresses of the page. `resume_at`: when a stopped pass is resumed, if one is to be."""

    async def show_overview(reading: Reading, _request: Request) -> View:
        return await overview.overview_view(reader, reading, progress, resume_at())

    async def show_attempts(reading: Reading, _request: Request) -> View:
        return await attempts.attempts_view(reader, reading)

    async def show_chats(reading: Reading, _request: Request) -> View:
        return await chats.chats_view(reader, reading)

    async def show_chat(reading: Reading, request: Request) -> View:
        return await chats.chat_view(reader, reading, request.path_params["chat_id"])

    async def show_passes(reading: Reading, _request: Request) -> View:
        return await passes.passes_view(reader, reading)

    async def show_pass(reading: Reading, request: Request) -> View:
        return await passes.pass_view(reader, reading, progress, request.path_params["run_id"])

    def route(path: str, show: Show) -> Route:
        async def answer(request: Request) -> Response:
            return await _answer(request, show, reader, gate)

        return Route(path, answer)

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if gate.judge(request) is Access.ABSENT or name not in STATIC:
            return _plain(HTTPStatus.NOT_FOUND)
        kept = {"Cache-Control": "public, max-age=31536000, immutable", "Content-Type": CONTENT_TYPES[name]}
        return Response(STATIC[name], headers=HEADERS | kept)

    return [
        route("/", show_overview),
        route("/attempts", show_attempts),
        route("/chats", show_chats),
        route("/chats/{chat_id:path}", show_chat),
        route("/passes", show_passes),
        route("/passes/{run_id}", show_pass),
        Route("/static/{name}", static),
    ]


async def _answer(request: Request, show: Show, reader: Reader, gate: Gate) -> Response:
    access = gate.judge(request)
    wants_whole = WHOLE in request.query_params.multi_items()
    if access is Access.ABSENT:
        return _plain(HTTPStatus.NOT_FOUND)
    if wants_whole and not gate.has_password:
        return PlainTextResponse("Whole phone numbers need STATUS_PASSWORD to be set.\n", 403, headers=HEADERS)
    if access is Access.SLOWED:
        wait = math.ceil(gate.seconds_to_wait(request))
        return _plain(HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": str(wait)})
    if access is Access.REFUSED or (wants_whole and access is not Access.FULL):
        return _plain(HTTPStatus.UNAUTHORIZED, CHALLENGE)
    lines = await reader.lines(PAGE_SECONDS if "line" in request.query_params else 0)
    reading = Reading(
        request=request,
        now=reader.clock.now(),
        zone=reader.rules.timezone,
        numbers=Numbers(wants_whole, [line.phone_number for line in lines.value or []]),
        may_show_numbers=gate.has_password,
    )
    try:
        view = await show(reading, request)
    except UsageError as error:
        view = _said(reading, HTTPStatus.NOT_FOUND, str(error))
    except TooSlowError:
        reason = "This needs longer than a page may take. Narrow it down, or ask on the command line."
        view = _said(reading, HTTPStatus.SERVICE_UNAVAILABLE, reason)
    except (SQLAlchemyError, DatabaseError, OSError) as error:
        view = _said(reading, HTTPStatus.SERVICE_UNAVAILABLE, reader.describe(error))
    return respond(view, reading)


def _said(reading: Reading, status: HTTPStatus, reason: str) -> View:
    """A page that says why there is nothing else on it."""
    reason = reading.numbers.text(reason)
    return View(
        template="said.html",
        title=status.phrase,
        command="share-worker status",
        context={"reason": reason},
        document={"error": reason},
        status=status,
    )


def _plain(status: HTTPStatus, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{status.phrase}\n", status, headers=HEADERS | (headers or {}))
