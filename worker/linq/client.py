"""A client of Linq's Partner API, as far as the worker needs it; nothing about databases, days or who is due.

`share` sends its request once: no layer below repeats it or follows a redirect, and whatever fails is `PerhapsDone`,
unless it is one of the few errors that can only come before a byte of the request has left. Reads are repeated. What
answers mean is in `worker.linq.answers`.
"""

import asyncio
import json
import os
import random
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AsyncExitStack
from copy import copy
from types import TracebackType
from typing import Final, Self, cast
from urllib.parse import quote

import httpx

from worker import __version__
from worker.account import Card, Line
from worker.clock import Clock, SystemClock
from worker.errors import UsageError
from worker.linq.answers import (
    CardInactive,
    Chat,
    Json,
    LinqError,
    Message,
    NeverSent,
    PerhapsDone,
    RateLimited,
    excerpt,
    read_card,
    read_chat,
    read_json,
    read_line,
    read_list,
    read_message,
    refusal,
)
from worker.linq.connection import Connection
from worker.text import one_line

BASE_URL: Final = "https://api.linqapp.com/api/partner"
REQUEST_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 10.0
KEEPALIVE_SECONDS: Final = 4.0
"""Idle connections are given up before common servers close them (5 s and more): a closing one may swallow a call."""
READ_TRIES: Final = 4
READ_BACKOFF_SECONDS: Final = 0.5
READ_PATIENCE_SECONDS: Final = 60.0
"""The longest Retry-After that a read waits for by itself."""
PAGE_SIZE: Final = 100
LARGEST_ANSWER: Final = 32 * 1024 * 1024
LARGEST_ERROR: Final = 64 * 1024

NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)
"""What `worker.linq.connection` raises before the request could leave, and never after (proved over
sockets). Another transport may use these classes otherwise; one that does must not be put in its place."""

Veto = Callable[[], str | None]
"""A reason not to send a request after all, or None."""


class Linq:
    """A client for one account; open it with `async with`.

    Calls go over up to `connections` connections, each of which serves one call at a time. Each call ends within
    `timeout` seconds, connecting included, however slowly it trickles.

    Raises:
        UsageError: `SSL_CERT_FILE` names no file of certificates.
    """

    def __init__(
        self,
        api_key: str,
        *,
        base_url: str = BASE_URL,
        timeout: float = REQUEST_SECONDS,
        connections: int = 20,
        clock: Clock | None = None,
    ) -> None:
        self._url = httpx.URL(base_url.rstrip("/"))  # taken apart once: that costs a tenth of a call
        self._base_path = self._url.raw_path.rstrip(b"/")
        self._timeout = timeout
        self._clock = clock or SystemClock()
        self._key = api_key
        self._headers = httpx.Headers(
            {
                "Authorization": f"Bearer {api_key}",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": f"linq-share-worker/{__version__}",
            }
        )
        # Copied for each request without a body, as a share is: to make one anew costs an eighth of a call.
        self._bodiless = {name: httpx.Request(name, self._url, headers=self._headers) for name in ("GET", "POST")}
        connect = min(CONNECT_SECONDS, timeout / 3)  # name, connection and TLS together stay within the deadline
        self._extensions = {"timeout": {"connect": connect, "read": timeout, "write": timeout, "pool": timeout}}
        self._tls = _trusted() if self._url.scheme == "https" else None
        self._free = asyncio.Semaphore(connections)
        self._idle: list[Connection] = []
        self._opened = AsyncExitStack()

    def __repr__(self) -> str:
        """Without the key."""
        return f"Linq(base_url={str(self._url)!r})"

    async def __aenter__(self) -> Self:
        """Nothing connects before the first call."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._opened.aclose()

    async def share(self, chat_id: str, *, veto: Veto | None = None) -> int:
        """Call share for a chat, once; return the status of Linq's 2xx.

        At most once per call of this function: `NeverSent` alone means that it did not happen. `veto` has the last
        word, when the connection is there and not a byte has left.

        Raises:
            LinqError: any of the six.
        """
        path = f"/v3/chats/{_path_part(chat_id)}/share_contact_card"
        status, _ = await self._exchange("POST", path, veto=veto)
        return status

    async def list_cards(self) -> list[Card]:
        """Every contact card of the account, in one call. Where Linq does not say that a card is active, it is not.

        Raises:
            LinqError: any of the six, after repeated tries where those can help.
        """
        try:
            answer = await self._read("/v3/contact_card")
        except CardInactive:
            return []
        return [card for item in read_list(answer, "contact_cards") if (card := read_card(item)) is not None]

    async def find_card(self, phone_number: str) -> Card | None:
        """A line's contact card, active or not; None where Linq has none.

        Raises:
            LinqError: any of the six, after repeated tries where those can help.
        """
        try:
            answer = await self._read(f"/v3/contact_card?phone_number={quote(phone_number, safe='')}")
        except CardInactive:
            return None
        told = [read_card(item) for item in read_list(answer, "contact_cards")]
        return next((card for card in told if card is not None and card.phone_number == phone_number), None)

    async def create_card(
        self,
        phone_number: str,
        *,
        first_name: str,
        last_name: str | None = None,
        image_url: str | None = None,
    ) -> Card:
        """Create a line's card. Linq allows three creations and updates per line in ten minutes.

        Raises:
            ChatRefused: 409/2014, an active card exists; 400/1002, not E.164.
            PerhapsDone: 500/2022 or 503/4004, it did not complete; call again later.
            LinqError: any other of the six.
        """
        wanted = {
            "phone_number": phone_number,
            "first_name": first_name,
            "last_name": last_name,
            "image_url": image_url,
        }
        body = {name: value for name, value in wanted.items() if value is not None}
        return _told_card(await self._call("POST", "/v3/contact_card", body=body))

    async def update_card(
        self,
        phone_number: str,
        *,
        first_name: str | None = None,
        last_name: str | None = None,
        image_url: str | None = None,
    ) -> Card:
        """Change a line's active card; what is None stays as it is. After a 503 the card is left not active.

        Raises:
            CardInactive: 404/2012, there is no active one.
            LinqError: any other of the six, as for `create_card`.
        """
        wanted = {"first_name": first_name, "last_name": last_name, "image_url": image_url}
        body = {name: value for name, value in wanted.items() if value is not None}
        path = f"/v3/contact_card?phone_number={quote(phone_number, safe='')}"
        return _told_card(await self._call("PATCH", path, body=body))

    async def chats(self, line: str | None = None) -> AsyncIterator[Chat]:
        """The chats of a line, or of every line, a page at a time.

        Raises:
            LinqError: any of the six, after repeated tries where those can help.
        """
        narrowed = f"&from={quote(line, safe='')}" if line else ""
        async for item in self._pages(f"/v3/chats?limit={PAGE_SIZE}{narrowed}", "chats"):
            if (chat := read_chat(item)) is not None:
                yield chat

    async def messages(self, chat_id: str) -> AsyncIterator[Message]:
        """The messages of a chat, a page at a time, in Linq's order.

        Raises:
            LinqError: any of the six, after repeated tries where those can help.
        """
        path = f"/v3/chats/{_path_part(chat_id)}/messages?limit={PAGE_SIZE}"
        async for item in self._pages(path, "messages"):
            yield read_message(item)

    async def phone_numbers(self) -> list[Line]:
        """The account's lines.

        Raises:
            LinqError: any of the six, after repeated tries where those can help.
        """
        answer = await self._read("/v3/phone_numbers")
        return [line for item in read_list(answer, "phone_numbers") if (line := read_line(item)) is not None]

    async def _pages(self, path: str, name: str) -> AsyncIterator[Json]:
        cursor: str | None = None
        seen: set[str] = set()
        while True:
            answer = await self._read(path + (f"&cursor={quote(cursor, safe='')}" if cursor else ""))
            for item in read_list(answer, name):
                yield item
            told = answer.get("next_cursor")
            cursor = told if isinstance(told, str) else None
            if not cursor:
                return
            if cursor in seen:
                msg = f"Linq's pages of {name} run in a circle (cursor {cursor!r} came twice)"
                raise PerhapsDone(msg)
            seen.add(cursor)

    async def _read(self, path: str) -> Json:
        """GET, tried again where that does no harm and may help: backoff with jitter, or what `Retry-After` says."""
        tries = 0
        while True:
            tries += 1
            try:
                return await self._call("GET", path)
            except (NeverSent, PerhapsDone, RateLimited) as error:
                pause = error.retry_after
                if pause is None:
                    pause = READ_BACKOFF_SECONDS * 2 ** (tries - 1) * random.uniform(0.5, 1.5)  # noqa: S311 -- jitter
                if tries == READ_TRIES or pause > READ_PATIENCE_SECONDS:
                    raise
            await self._clock.sleep(pause)

    async def _call(self, method: str, path: str, *, body: Json | None = None) -> Json:
        """One request whose answer matters: the JSON object that came."""
        status, answer = await self._exchange(method, path, body=body)
        told = read_json(answer)
        if not isinstance(told, dict):
            msg = f"Linq's answer to {method} {path.partition('?')[0]} is not a JSON object but {excerpt(answer)}"
            raise PerhapsDone(msg, status=status)
        return told

    async def _exchange(
        self, method: str, path: str, *, body: Json | None = None, veto: Veto | None = None
    ) -> tuple[int, bytes]:
        """Send one request, once; return the status and the body of a 2xx, and raise what anything else means.

        A body that is cut short, or too large, does not unsay the status before it.
        """
        request = self._request(method, path, body, veto)
        response: httpx.Response | None = None
        received = bytearray()
        complete = False
        async with self._free:
            connection = await self._take_connection()
            try:
                async with asyncio.timeout(self._timeout):
                    response = await connection.handle_async_request(request)
                    limit = LARGEST_ANSWER if method == "GET" else LARGEST_ERROR
                    async for part in _body(response):
                        received += part
                        if len(received) > limit:
                            break
                    else:
                        complete = True
            except NeverSent:
                raise
            except Exception as error:  # what is not known to be 'never sent' is 'perhaps done'
                if response is None:
                    raise self._no_answer(error) from error
            finally:
                if response is not None:
                    await response.aclose()
                self._idle.append(connection)
        status, answer = response.status_code, bytes(received).replace(self._key.encode(), b"***")
        if 200 <= status < 300:
            if method == "GET" and not complete:
                raise PerhapsDone("Linq's answer broke off", status=status)
            return status, answer
        headers = {name: self._without_key(value) for name, value in response.headers.items()}
        raise refusal(status, headers, self._without_key(response.reason_phrase), answer, self._clock.now())

    def _request(self, method: str, path: str, body: Json | None, veto: Veto | None) -> httpx.Request:
        """A request as the connection takes it: the path, ready for the wire, is its extension `target`."""
        extensions: dict[str, object] = self._extensions | {"target": self._base_path + path.encode("ascii")}
        if veto is not None:
            extensions["before_send"] = _asking(veto)
        if body is None:
            request = copy(self._bodiless[method])
            request.extensions = extensions
            return request
        headers = httpx.Headers(self._headers)
        headers["Content-Type"] = "application/json"
        return httpx.Request(
            method, self._url, headers=headers, content=json.dumps(body).encode(), extensions=extensions
        )

    def _no_answer(self, error: Exception) -> LinqError:
        name, text = type(error).__name__, self._without_key(str(error))
        said = one_line(f"{name}: {text}" if text else name)
        if isinstance(error, NEVER_SENT):
            return NeverSent(said)
        return PerhapsDone(f"no answer within {self._timeout:g} s" if isinstance(error, TimeoutError) else said)

    def _without_key(self, text: str) -> str:
        """A text from outside, in case that the server repeats the key in it."""
        return text.replace(self._key, "***")

    async def _take_connection(self) -> Connection:
        """An idle connection, or a new one."""
        if self._idle:
            return self._idle.pop()
        return await self._opened.enter_async_context(Connection(self._tls, idle_seconds=KEEPALIVE_SECONDS))


def _trusted() -> ssl.SSLContext:
    """Whom to believe that they are Linq: the usual authorities, or those that OpenSSL's variables name.

    Raises:
        UsageError: `SSL_CERT_FILE` names no file of certificates.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one too
        if not (file := os.environ.get("SSL_CERT_FILE")):
            raise
        reason = "it holds no certificates in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        msg = f"SSL_CERT_FILE is {file!r}: {reason}; name a file of certificates, or unset it"
        raise UsageError(msg) from error


def _asking(veto: Veto) -> Callable[[], None]:
    """For the connection, which calls it before the first byte leaves."""

    def ask() -> None:
        if (reason := veto()) is not None:
            raise NeverSent(reason)

    return ask


def _body(response: httpx.Response) -> AsyncIterable[bytes]:
    """The body as it comes; decoded where the server encoded it, though it was asked not to."""
    if "Content-Encoding" in response.headers:
        return response.aiter_bytes()
    return cast("httpx.AsyncByteStream", response.stream)  # our own connection's


def _told_card(answer: Json) -> Card:
    card = read_card(answer)
    if card is None:
        raise PerhapsDone("Linq's answer holds no card", status=200)
    return card


def _path_part(text: str) -> str:
    """A text as one part of a path; also '.' and '..', which a URL would otherwise take for directions."""
    return "%2E" * len(text) if text in {".", ".."} else quote(text, safe="")
