"""A client for the part of Linq's Partner API that the worker needs; knows no database and no schedule.

`share` sends its request once: no layer retries it or follows a redirect. A failure is `NeverSent` only if it came
before the first byte of the request left; every other failure is `PerhapsDone`. Reads are retried. What answers mean is
in `worker.linq.answers`.
"""

import asyncio
import json
import os
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
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
    LONGEST_MESSAGE,
    CardInactive,
    Chat,
    ChatRefused,
    ErrorCode,
    Json,
    Message,
    NeverSent,
    PerhapsDone,
    RateLimited,
    Subscription,
    excerpt,
    read_card,
    read_chat,
    read_json,
    read_line,
    read_list,
    read_message,
    read_subscription,
    refusal,
)
from worker.linq.connection import Connection
from worker.linq.read_pace import ReadPace
from worker.proxy import Proxy
from worker.text import one_line

REQUEST_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 10.0
KEEPALIVE_SECONDS: Final = 4.0
"""Idle connections are closed before common servers close them (5 s or more): they might lose a request meanwhile."""
READ_TRIES: Final = 4
READ_BACKOFF_SECONDS: Final = 0.5
READ_PATIENCE_SECONDS: Final = 60.0
"""The longest Retry-After for which a read waits and tries again."""
PAGE_SIZE: Final = 100
SUBSCRIPTIONS: Final = "/v3/webhook-subscriptions"
LARGEST_ANSWER: Final = 32 * 1024 * 1024
LARGEST_ERROR: Final = 64 * 1024

NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)
"""What `Connection.open` raises, and `Connection.send` never does (proved over sockets, directly and through a proxy).
Other transports for httpx use these classes differently, and must not be used in its place."""

Veto = Callable[[], str | None]
"""Asked when the connection stands: a reason not to send the request after all, or None."""


class Linq:
    """A client for one account; open it with `async with`.

    Requests go over up to `connections` connections, each of which serves one request at a time, through `proxy` if
    there is one. Each request ends within `timeout` seconds, connecting included, however slowly the answer trickles.
    Reads keep to `pace` if there is one, and then wait out Linq's rate limit.

    Raises:
        UsageError: `SSL_CERT_FILE` names no file of certificates.
    """

    def __init__(
        self,
        api_key: str,
        *,
        base_url: str,
        timeout: float = REQUEST_SECONDS,
        connections: int = 20,
        clock: Clock | None = None,
        proxy: Proxy | None = None,
        pace: ReadPace | None = None,
    ) -> None:
        self.proxy = proxy
        self._pace = pace
        self._url = httpx.URL(base_url.rstrip("/"))  # parsed once: that costs a tenth of a request
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
        # Copied for each request without a body, such as a share: building one costs an eighth of a request.
        methods = ("GET", "POST", "DELETE")
        self._bodiless = {name: httpx.Request(name, self._url, headers=self._headers) for name in methods}
        self._connect_seconds = min(CONNECT_SECONDS, timeout / 3)  # name, connection, tunnel and TLS together
        self._tls = _trusted() if self._url.scheme == "https" else None
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[Connection] = []
        self._opened: list[Connection] = []

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
        for connection in self._opened:
            await connection.aclose()

    async def share(self, chat_id: str, *, veto: Veto | None = None) -> int:
        """Share in a chat, once; return the status of Linq's 2xx.

        Sends at most one request. Only `NeverSent` means that none was sent; `veto` is asked last, when the connection
        stands and not a byte has left.

        Raises:
            LinqError: Linq refused, failed or did not answer; its class says whether the share may have been made.
        """
        path = f"/v3/chats/{_path_part(chat_id)}/share_contact_card"
        status, _ = await self._exchange("POST", path, veto=veto)
        return status

    async def list_cards(self) -> list[Card]:
        """Every contact card of the account, in one request. A card is not active unless Linq says so.

        Raises:
            LinqError: Linq refused, failed or did not answer, retries included.
        """
        try:
            answer = await self._read("/v3/contact_card")
        except CardInactive:
            return []
        return [card for item in read_list(answer, "contact_cards") if (card := read_card(item)) is not None]

    async def find_card(self, phone_number: str) -> Card | None:
        """A line's contact card, active or not; None without one.

        Raises:
            LinqError: Linq refused, failed or did not answer, retries included.
        """
        try:
            answer = await self._read(f"/v3/contact_card?phone_number={quote(phone_number, safe='')}")
        except CardInactive:
            return None
        cards = [read_card(item) for item in read_list(answer, "contact_cards")]
        return next((card for card in cards if card is not None and card.phone_number == phone_number), None)

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
            LinqError: Linq refused for another reason, failed or did not answer.
        """
        fields = {
            "phone_number": phone_number,
            "first_name": first_name,
            "last_name": last_name,
            "image_url": image_url,
        }
        return _written_card(await self._request_json("POST", "/v3/contact_card", body=_without_none(fields)))

    async def update_card(
        self,
        phone_number: str,
        *,
        first_name: str | None = None,
        last_name: str | None = None,
        image_url: str | None = None,
        removes_image: bool = False,
    ) -> Card:
        """Change a line's active card; None leaves a field as it is. After a 503 the card is not active.

        To remove the image, null is sent for its URL: integrators do so, Linq's reference does not say that it works.

        Raises:
            CardInactive: 404/2012, there is no active one.
            LinqError: Linq refused for another reason, failed or did not answer, as for `create_card`.
        """
        fields = {"first_name": first_name, "last_name": last_name, "image_url": image_url}
        path = f"/v3/contact_card?phone_number={quote(phone_number, safe='')}"
        body = {**_without_none(fields), **({"image_url": None} if removes_image else {})}
        return _written_card(await self._request_json("PATCH", path, body=body))

    async def chats(self, line: str | None = None) -> AsyncIterator[Chat]:
        """The chats of a line, or of every line, a page at a time.

        Raises:
            LinqError: Linq refused, failed or did not answer, retries included.
        """
        async for page in self.chat_pages(line):
            for chat in page:
                yield chat

    async def find_direct_chat(self, line: str, handle: str) -> Chat | None:
        """The direct chat of a line with a person (phone number or email address); None if there is none.

        Raises:
            LinqError: Linq refused, failed or did not answer, retries included.
        """
        async for page in self.chat_pages(line, handle):
            for chat in page:
                if not chat.is_group and chat.line == line:
                    return chat
        return None

    async def chat_pages(self, line: str | None = None, handle: str | None = None) -> AsyncGenerator[list[Chat]]:
        """The pages of the chats of a line, or of every line, and with a person, or with anybody; in Linq's order.

        Raises:
            LinqError: Linq refused, failed or did not answer, retries included.
        """
        of_line = f"&from={quote(line, safe='')}" if line else ""
        with_person = f"&to={quote(handle, safe='')}" if handle else ""
        async for items in self._pages(f"/v3/chats?limit={PAGE_SIZE}{of_line}{with_person}", "chats"):
            yield [chat for item in items if (chat := read_chat(item)) is not None]

    async def find_chat(self, chat_id: str) -> Chat | None:
        """A chat; None if Linq says that there is none with this id (404/2001).

        Raises:
            LinqError: Linq refused, failed or did not answer, retries included.
        """
        try:
            answer = await self._read(f"/v3/chats/{_path_part(chat_id)}")
        except ChatRefused as error:
            if (error.status, error.code) != (404, ErrorCode.CHAT_NOT_FOUND):
                raise
            return None
        if (chat := read_chat(answer)) is None:
            raise PerhapsDone("Linq's answer holds no chat", status=200)
        return chat

    async def messages(self, chat_id: str) -> AsyncIterator[Message]:
        """The messages of a chat, a page at a time, in Linq's order.

        Raises:
            LinqError: Linq refused, failed or did not answer, retries included.
        """
        async for page in self.message_pages(chat_id):
            for message in page:
                yield message

    async def message_pages(self, chat_id: str) -> AsyncGenerator[list[Message]]:
        """The pages of the messages of a chat, in Linq's order.

        Raises:
            LinqError: Linq refused, failed or did not answer, retries included.
        """
        path = f"/v3/chats/{_path_part(chat_id)}/messages?limit={PAGE_SIZE}"
        async for items in self._pages(path, "messages"):
            yield [read_message(item) for item in items]

    async def phone_numbers(self) -> list[Line]:
        """The account's lines.

        Raises:
            LinqError: Linq refused, failed or did not answer, retries included.
        """
        answer = await self._read("/v3/phone_numbers")
        return [line for item in read_list(answer, "phone_numbers") if (line := read_line(item)) is not None]

    async def subscribe(self, target_url: str, kinds: Sequence[str], lines: Sequence[str] = ()) -> Subscription:
        """Let Linq send events of these kinds to a URL: those of some lines, or of all. The answer holds the secret.

        Raises:
            ChatRefused: Linq refuses the URL, an event or a number; a URL can be used once per account.
            PerhapsDone: the secret did not arrive, and Linq does not tell it again.
            LinqError: Linq refused for another reason, failed or did not answer.
        """
        fields = {"target_url": target_url, "subscribed_events": list(kinds)}
        body = {**fields, **({"phone_numbers": list(lines)} if lines else {})}
        status, answer = await self._exchange("POST", SUBSCRIPTIONS, body=body)
        document = read_json(answer)
        subscription = read_subscription(document) if isinstance(document, dict) else None
        if subscription is None or subscription.secret is None:  # the answer is not quoted: it may hold the secret
            msg = "Linq's answer holds no subscription with a signing secret"
            raise PerhapsDone(msg, status=status)
        return subscription

    async def subscriptions(self) -> list[Subscription]:
        """The account's webhook subscriptions.

        Raises:
            LinqError: Linq refused, failed or did not answer, retries included.
        """
        items = read_list(await self._read(SUBSCRIPTIONS), "subscriptions")
        return [subscription for item in items if (subscription := read_subscription(item)) is not None]

    async def unsubscribe(self, subscription_id: str) -> None:
        """Delete a webhook subscription. Its secret signs nothing any more.

        Raises:
            ChatRefused: 404, there is none with this id.
            LinqError: Linq refused for another reason, failed or did not answer.
        """
        await self._exchange("DELETE", f"{SUBSCRIPTIONS}/{_path_part(subscription_id)}")

    async def _pages(self, path: str, name: str) -> AsyncIterator[list[Json]]:
        cursor: str | None = None
        seen: set[str] = set()
        while True:
            answer = await self._read(path + (f"&cursor={quote(cursor, safe='')}" if cursor else ""))
            yield read_list(answer, name)
            following = answer.get("next_cursor")
            cursor = following if isinstance(following, str) else None
            if not cursor:
                return
            if cursor in seen:
                msg = f"Linq's pages of {name} run in a circle (cursor {cursor!r} came twice)"
                raise PerhapsDone(msg)
            seen.add(cursor)

    async def _read(self, path: str) -> Json:
        """GET, with retries where they can help: after a backoff with jitter, or after what `Retry-After` says."""
        tries = 0
        while True:
            if self._pace is not None:
                await self._pace.turn()
            try:
                answer = await self._request_json("GET", path)
            except (NeverSent, PerhapsDone, RateLimited) as error:
                pause = error.retry_after
                if self._pace is not None and isinstance(error, RateLimited):
                    if self._pace.limited(pause):
                        continue
                    raise
                tries += 1
                if pause is None:
                    pause = READ_BACKOFF_SECONDS * 2 ** (tries - 1) * random.uniform(0.5, 1.5)  # noqa: S311 -- jitter
                if tries == READ_TRIES or pause > READ_PATIENCE_SECONDS:
                    raise
            else:
                if self._pace is not None:
                    self._pace.answered()
                return answer
            await self._clock.sleep(pause)

    async def _request_json(self, method: str, path: str, *, body: Json | None = None) -> Json:
        """Send one request; return the JSON object in the answer."""
        status, answer = await self._exchange(method, path, body=body)
        document = read_json(answer)
        if not isinstance(document, dict):
            msg = f"Linq's answer to {method} {path.partition('?')[0]} is not a JSON object but {excerpt(answer)}"
            raise PerhapsDone(msg, status=status)
        return document

    async def _exchange(
        self, method: str, path: str, *, body: Json | None = None, veto: Veto | None = None
    ) -> tuple[int, bytes]:
        """Send one request, once; return the status and the body of a 2xx, and raise what anything else means.

        1. Connect. Not a byte of the request has left: a failure is `NeverSent`, and so is a veto.
        2. Send the request, and wait for the head of the answer. From here on a failure is `PerhapsDone`.
        3. Read the body. A body that is cut short, or too large, does not change what the status says.
        """
        request = self._request(method, path, body)
        async with self._borrowed_connection() as connection:
            deadline = asyncio.get_running_loop().time() + self._timeout
            await self._connect(connection, deadline)
            if veto is not None and (reason := veto()) is not None:
                raise NeverSent(reason)
            response = await self._send(connection, request, deadline)
            answer, is_complete = await self._read_body(response, deadline, limit=_limit(method))
        status, answer = response.status_code, answer.replace(self._key.encode(), b"***")
        if 200 <= status < 300:
            if method == "GET" and not is_complete:
                raise PerhapsDone("Linq's answer broke off", status=status)
            return status, answer
        headers = {name: self._without_key(value) for name, value in response.headers.items()}
        raise refusal(status, headers, self._without_key(response.reason_phrase), answer, self._clock.now())

    @asynccontextmanager
    async def _borrowed_connection(self) -> AsyncIterator[Connection]:
        """An idle connection, or a new one, for one request at a time."""
        async with self._slots:
            connection = self._idle.pop() if self._idle else self._new_connection()
            try:
                yield connection
            finally:
                self._idle.append(connection)

    def _new_connection(self) -> Connection:
        connection = Connection(self._tls, idle_seconds=KEEPALIVE_SECONDS, proxy=self.proxy)
        self._opened.append(connection)
        return connection

    async def _connect(self, connection: Connection, deadline: float) -> None:
        """Have a connection to the server; the request stays here.

        Raises:
            NeverSent: there is none.
            PerhapsDone: an error that is not one of `NEVER_SENT`: in doubt, a request counts as sent.
        """
        try:
            async with asyncio.timeout_at(deadline):
                await connection.open(self._url, self._connect_seconds)
        except NEVER_SENT as error:
            raise NeverSent(self._described(error)) from error
        except Exception as error:
            raise PerhapsDone(self._described(error)) from error

    async def _send(self, connection: Connection, request: httpx.Request, deadline: float) -> httpx.Response:
        """Send the request, once; return the answer, of which the head has come.

        Raises:
            PerhapsDone: no answer came, whatever the reason.
        """
        try:
            async with asyncio.timeout_at(deadline):
                return await connection.send(request)
        except Exception as error:
            raise PerhapsDone(self._described(error)) from error

    async def _read_body(self, response: httpx.Response, deadline: float, *, limit: int) -> tuple[bytes, bool]:
        """As much of the body as comes in time and is allowed, and whether that is all of it."""
        body = bytearray()
        try:
            async with asyncio.timeout_at(deadline):
                async for part in _body_parts(response):
                    body += part
                    if len(body) > limit:
                        return bytes(body), False
        except Exception:  # noqa: BLE001 -- the status has come, and stands whatever becomes of the body
            return bytes(body), False
        finally:
            await response.aclose()
        return bytes(body), True

    def _request(self, method: str, path: str, body: Json | None) -> httpx.Request:
        """A request as the connection takes it: the path, ready for the wire, is its extension `target`."""
        extensions: dict[str, object] = {"target": self._base_path + path.encode("ascii")}
        if body is None:
            request = copy(self._bodiless[method])
            request.extensions = extensions
            return request
        headers = httpx.Headers(self._headers)
        headers["Content-Type"] = "application/json"
        return httpx.Request(
            method, self._url, headers=headers, content=json.dumps(body).encode(), extensions=extensions
        )

    def _described(self, error: Exception) -> str:
        """An error of the connection in one line: `ConnectError: Connection refused`."""
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout:g} s"
        name, text = type(error).__name__, self._without_key(str(error))
        return one_line(f"{name}: {text}" if text else name, LONGEST_MESSAGE)

    def _without_key(self, text: str) -> str:
        """Foreign text, in case the server repeats the key in it."""
        return text.replace(self._key, "***")


def _trusted() -> ssl.SSLContext:
    """The certificate authorities to trust: certifi's, or those that OpenSSL's variables name.

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


def _limit(method: str) -> int:
    """The largest body that is read, in bytes: of other requests than reads only errors matter."""
    return LARGEST_ANSWER if method == "GET" else LARGEST_ERROR


def _body_parts(response: httpx.Response) -> AsyncIterable[bytes]:
    """The body as it comes; decoded if the server encoded it, though asked not to."""
    if "Content-Encoding" in response.headers:
        return response.aiter_bytes()
    return cast("httpx.AsyncByteStream", response.stream)  # our own connection's


def _without_none(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


def _written_card(answer: Json) -> Card:
    card = read_card(answer)
    if card is None:
        raise PerhapsDone("Linq's answer holds no card", status=200)
    return card


def _path_part(text: str) -> str:
    """A text as one segment of a path; '.' and '..' too, which URLs would otherwise resolve."""
    return "%2E" * len(text) if text in {".", ".."} else quote(text, safe="")
