"""The simulator: Linq's Partner API over real HTTP on loopback, in front of a simulated account.

Takes requests apart, hands them to `worker.simulator.api` for their answer, and delivers that, or fails to in the way a
`Fault` asks for: late, in pieces, never. A share request is logged before anything can go wrong with it. Serves plain
ASGI under uvicorn, in the caller's event loop, and leaves that loop as it was.
"""

import asyncio
import math
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qsl, unquote

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from worker.simulator.account import Account, ApiError
from worker.simulator.api import JSON_TYPE, Answer, ApiRequest, answer_error, perform
from worker.simulator.controls import CONTROLS_PATH, controls
from worker.simulator.faults import Fault, Operation
from worker.simulator.subscriptions import is_loopback
from worker.web.server import serving_app

KEEP_ALIVE_SECONDS: Final = 75
"""Long enough that no client finds its idle connection closed: such an accident would look like a fault asked for."""

_ENDPOINTS: Final[Mapping[str, Operation]] = {
    "POST /v3/chats/{id}/share_contact_card": "share",
    "GET /v3/contact_card": "list_cards",
    "POST /v3/contact_card": "create_card",
    "PATCH /v3/contact_card": "update_card",
    "GET /v3/chats": "list_chats",
    "GET /v3/chats/{id}": "get_chat",
    "GET /v3/chats/{id}/messages": "list_messages",
    "GET /v3/phone_numbers": "list_phone_numbers",
    "POST /v3/webhook-subscriptions": "create_subscription",
    "GET /v3/webhook-subscriptions": "list_subscriptions",
    "GET /v3/webhook-subscriptions/{id}": "get_subscription",
    "PUT /v3/webhook-subscriptions/{id}": "update_subscription",
    "DELETE /v3/webhook-subscriptions/{id}": "delete_subscription",
}
_WITH_BODY: Final = ("create_card", "update_card", "create_subscription", "update_subscription")
_TRANSPORT: Final = "simulator.transport"
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


@asynccontextmanager
async def serving(account: Account, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve the account until the block is left; gives the base URL, without a slash at its end.

    Port 0 takes a free one. On leaving, open connections are closed at once, answers under way included.

    Raises:
        ValueError: `host` is no loopback address (the control endpoints ask for no key), or `port` no port.
        OSError: The port is taken or not allowed; its `strerror` is a sentence that names it.
    """
    if not is_loopback(host):
        raise ValueError(f"host: {host!r} is no loopback address, such as 127.0.0.1")
    if not 0 <= port <= 65535:
        raise ValueError(f"port: {port} is not from 0 to 65535")
    app = Simulator(account)
    async with serving_app(app, host=host, port=port, protocol=_Protocol, keep_alive=KEEP_ALIVE_SECONDS) as base_url:
        yield base_url


class _Protocol(H11Protocol):
    """uvicorn's HTTP protocol, which also lets the app see the connection: a fault may have to close it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.app_state = {**self.app_state, _TRANSPORT: transport}


class Simulator:
    """The simulated API as an ASGI application, its control endpoints included."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._controls = controls(account)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI asks for it."""
        if scope["type"] != "http":
            raise RuntimeError(f"the simulator speaks http, not {scope['type']}")
        # The path as it was sent: decoded, a chat id with a slash in it would look like two parts.
        segments = scope["raw_path"].decode("ascii").split("/")
        if segments[1:2] == [CONTROLS_PATH]:
            await self._controls(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        operation = _operation(scope["method"], segments)
        if operation is None:
            await exchange.send(self._unknown_path(exchange))
            return
        await self._call(exchange, operation, unquote(segments[3]) if len(segments) > 3 else "")

    def _unknown_path(self, exchange: "_Exchange") -> Answer:
        self._account.requests["unknown"] += 1
        try:
            self._account.authorize(exchange.header(b"authorization"))
        except ApiError as error:
            return answer_error(error)
        # No error page covers it; not 2001, which a client would read as a chat that is gone.
        return answer_error(ApiError(404, 1005, "No such endpoint"))

    async def _call(self, exchange: "_Exchange", operation: Operation, named: str) -> None:
        """Answer a call; `named` is the id in its path, or empty."""
        account = self._account
        account.requests[operation] += 1
        body = await exchange.body() if operation in _WITH_BODY else b""
        if body is None:
            return
        is_about_subscription = operation.endswith("_subscription")
        chat_id, subscription_id = ("", named) if is_about_subscription else (named, "")
        entry = account.log_share(chat_id) if operation == "share" else None
        authorization = exchange.header(b"authorization")
        request = ApiRequest(operation, chat_id, exchange.query(), body, authorization, entry, subscription_id)
        fault = None
        if account.faults:
            fault = account.faults.strike(operation, chat_id=chat_id, line=request.line(account))
        if fault is not None:
            await self._misbehave(exchange, request, fault)
            return
        answer = perform(account, request)
        if entry is not None:
            entry.answered(answer.status, answer.trace_id)
        await exchange.send(answer)

    async def _misbehave(self, exchange: "_Exchange", request: ApiRequest, fault: Fault) -> None:
        if not fault.acts_first and await exchange.hung_up_within(fault.delay_seconds):
            return
        usual = self._perform_under(fault, request)
        if fault.acts_first and await exchange.hung_up_within(fault.delay_seconds):
            return
        if fault.drop is not None:
            await exchange.drop(reset=fault.reset)
            return
        answer = _faulty(fault, usual)
        if request.entry is not None:
            request.entry.answered(answer.status, answer.trace_id)
        await exchange.send_in_pieces(answer, pause=fault.trickle_seconds, cut_short=fault.cut_short)

    def _perform_under(self, fault: Fault, request: ApiRequest) -> Answer | None:
        """Let the call happen unless the fault prevents it; the answer that it would get if it does."""
        leaves_card_inactive = fault.leaves_card_inactive(request.operation)
        if fault.prevents_effect and not leaves_card_inactive:
            return None
        usual = perform(self._account, request)
        line = request.line(self._account)
        if leaves_card_inactive and usual.status < 300 and line is not None:
            self._account.deactivate_card(line)
        return usual


def _operation(method: str, segments: list[str]) -> Operation | None:
    """What the request asks for, by its method and its path, cut at the slashes: `["", "v3", ...]`."""
    names = segments[1:]
    if names[:2] in (["v3", "chats"], ["v3", "webhook-subscriptions"]) and len(names) > 2:
        names[2] = "{id}"
    return _ENDPOINTS.get(f"{method} /{'/'.join(names)}")


def _faulty(fault: Fault, usual: Answer | None) -> Answer:
    """The answer that a fault makes of the usual one."""
    if fault.redirect_to is not None:
        return Answer(fault.status or 307, headers=((b"location", fault.redirect_to.encode()),))
    if fault.body is None and (fault.status or 200) >= 400:
        message = fault.message or "Simulated fault"
        return answer_error(ApiError(fault.status or 500, fault.error_code, message, fault.retry_after))
    answer = usual or Answer(fault.status or 200)
    if fault.status is not None:
        answer = replace(answer, status=fault.status)
    if fault.body is not None:
        body = fault.body.encode(errors="replace") if isinstance(fault.body, str) else fault.body
        answer = replace(answer, body=body, content_type=JSON_TYPE, headers=(), trace_id=None)
    if fault.content_type is not None:
        answer = replace(answer, content_type=fault.content_type.encode())
    if fault.retry_after is not None:
        answer = replace(answer, headers=((b"retry-after", str(math.ceil(fault.retry_after)).encode()),))
    return answer


class _Exchange:
    """One request and the ways to answer it, or not to."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send

    def header(self, name: bytes) -> str | None:
        """A header of the request, by its name in lower case."""
        for key, value in self._scope["headers"]:
            if key == name:
                return str(value, "latin-1")
        return None

    def query(self) -> dict[str, str]:
        """The query's parameters; of one given twice, the last. An unencoded `+` is a space, as everywhere."""
        return dict(parse_qsl(self._scope["query_string"].decode("latin-1"), keep_blank_values=True))

    async def body(self) -> bytes | None:
        """The request's body; None if the client hung up before its end."""
        body = bytearray()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False):
                return bytes(body)

    async def hung_up_within(self, seconds: float) -> bool:
        """Wait so long, or until the client hangs up; whether it did."""
        if seconds <= 0:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._end()
        except TimeoutError:
            return False
        return True

    async def send(self, answer: Answer) -> None:
        """Answer."""
        await self._start(answer, len(answer.body))
        await self._send({"type": "http.response.body", "body": answer.body})

    async def send_in_pieces(self, answer: Answer, *, pause: float, cut_short: bool) -> None:
        """Answer with `pause` seconds before each byte of the body, or without an end."""
        if answer.status in (204, 304):
            answer = replace(answer, body=b"")  # these two have none by definition
        await self._start(answer, len(answer.body) + cut_short)
        pieces = [answer.body] if pause <= 0 else [answer.body[i : i + 1] for i in range(len(answer.body))]
        for piece in pieces:
            if await self.hung_up_within(pause):
                return
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        if cut_short:
            self._transport().close()  # after what was written
            await self._end()
        else:
            await self._send({"type": "http.response.body", "body": b""})

    async def drop(self, *, reset: bool) -> None:
        """Close the connection with nothing answered."""
        transport = self._transport()
        if reset:
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
        await self._end()

    async def _start(self, answer: Answer, length: int) -> None:
        headers = [*answer.headers]
        if answer.status not in (204, 304):
            headers += [(b"content-type", answer.content_type), (b"content-length", str(length).encode())]
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})

    async def _end(self) -> None:
        """Wait for the end of the connection; a server told of it does not make up an answer of its own."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _transport(self) -> asyncio.Transport:
        transport = self._scope.get("state", {}).get(_TRANSPORT)
        if not isinstance(transport, asyncio.Transport):
            raise RuntimeError("only under serving() can the simulator close a connection")
        return transport
