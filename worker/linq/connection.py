"""One connection to a server, kept alive: a transport for httpx, on asyncio and llhttp (Node's parser, by httptools).

httpx's own transport does the same at six times the CPU, and cannot say whether a server spoke out of turn. The
errors are httpx's, with the meaning that it gives them: `UnsupportedProtocol`, `ConnectError` and `ConnectTimeout` come
before there is a connection, and no other error does. So no byte of the request can have left where they are raised.
Nothing is repeated: a request is written once, in one piece, or not at all.
"""

import asyncio
import contextlib
import select
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Final, cast

import httptools
import httpx

LARGEST_HEAD: Final = 100 * 1024
READ_AHEAD: Final = 256 * 1024
"""Bytes taken from the socket before they are asked for."""


class Connection(httpx.AsyncBaseTransport):
    """A transport that keeps one connection and serves one request at a time; opened when it is first needed.

    A connection is used again within `idle_seconds`, if the last answer ended in good order and nothing came since.
    With `tls` it speaks https and nothing else, without it http.
    """

    def __init__(self, tls: ssl.SSLContext | None, *, idle_seconds: float) -> None:
        self._tls = tls
        self._idle_seconds = idle_seconds
        self._wire: _Wire | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, once; return the answer as soon as its head is there.

        The request's extension `before_send` is called when the connection is there and not a byte has left: the
        request is not sent if it raises.

        Raises:
            httpx.UnsupportedProtocol: the URL is not http, or not https where there is TLS.
            httpx.ConnectError: there is no such host, nobody listens, or TLS was not agreed.
            httpx.ConnectTimeout: no connection in time.
            httpx.ReadError: the connection broke; the request may have arrived.
            httpx.RemoteProtocolError: the connection was closed, or what came is not HTTP; the same.
            httpx.LocalProtocolError: the request's target or a header would garble it; nothing was written.
        """
        body = await request.aread()
        if self._wire is None or not self._wire.is_fit(self._idle_seconds):
            await self.aclose()
            self._wire = await _connect(request, self._tls)
        wire = self._wire
        if (before_send := request.extensions.get("before_send")) is not None:
            before_send()
        try:
            wire.send(request, body)
            await wire.head()
        except BaseException:  # a cancelled call too: what comes later must not pass for the next one's answer
            wire.abort()
            raise
        return httpx.Response(
            wire.status, headers=wire.headers, stream=_Body(wire), extensions={"reason_phrase": wire.reason}
        )

    async def aclose(self) -> None:
        """Close the connection."""
        if self._wire is not None:
            self._wire.abort()
            await self._wire.closed.wait()


class _Wire(asyncio.Protocol):
    """An open connection, and the answer that is awaited on it: what has come of it, as the parser tells.

    The parser calls the methods that begin with `on_`.
    """

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self._transport: asyncio.Transport
        self._poll: select.poll
        self._parser = httptools.HttpResponseParser(self)
        self._awaits = False
        """A request was written, and its answer is not over."""
        self._usable = True
        """Another request may follow: nothing came but answers, whole, to what was asked."""
        self._ended = False
        self._error: httpx.TransportError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._free_since = self._loop.time()
        self._expect()

    def _expect(self) -> None:
        """Forget the last answer."""
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        self._has_head = self._is_whole = False
        self._parts: list[bytes] = []
        self._unread = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # create_connection makes no other kind
        peer: socket.socket = transport.get_extra_info("socket")
        self._poll = select.poll()
        self._poll.register(peer, select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if not self._awaits:
            self._usable = False
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._usable = False
        except httptools.HttpParserError as error:
            self._fail(str(error))
        if not self._has_head:
            self._head_size += len(data)
            if self._head_size > LARGEST_HEAD:
                self._fail("the head of the answer has no end")
        elif self._unread > READ_AHEAD:
            self._transport.pause_reading()
        self._wake()

    def on_message_begin(self) -> None:
        if self._is_whole:
            self._usable = False  # nobody asked for this one
        else:
            self._expect()

    def on_status(self, reason: bytes) -> None:
        if not self._has_head:
            self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._has_head or self._error is not None:
            return
        self.status = self._parser.get_status_code()
        names = {name.lower(): value for name, value in self.headers}
        coding = names.get(b"transfer-encoding", b"chunked")
        if self._parser.get_http_version() not in {"1.0", "1.1"} or self.status < 100 or coding.lower() != b"chunked":
            self._fail(f"no answer in HTTP/1.1: {self.status}")
        elif self.status == 101 or self.status >= 200:  # before it, others may announce it
            self._has_head = True

    def on_body(self, data: bytes) -> None:
        if not self._is_whole:
            self._parts.append(data)
            self._unread += len(data)

    def on_message_complete(self) -> None:
        if self._has_head and not self._is_whole:
            self._is_whole = True
            self._usable = self._usable and self._parser.should_keep_alive()

    def eof_received(self) -> None:
        self._ended = True
        names = {name.lower() for name, _ in self.headers}
        if self._has_head and not names & {b"content-length", b"transfer-encoding"}:
            self._is_whole = True  # such an answer goes on until the connection ends
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        if exc is not None:
            self._error = self._error or httpx.ReadError(str(exc))
        self.closed.set()
        self._wake()

    def _fail(self, why: str) -> None:
        self._usable = False
        if not self._is_whole:
            self._error = self._error or httpx.RemoteProtocolError(why)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def _more(self) -> None:
        """Return when more has come.

        Raises:
            httpx.TransportError: no more will come.
        """
        if self._error is not None:
            raise self._error
        if self._ended:
            msg = "Server disconnected without sending a response."
            raise httpx.RemoteProtocolError(msg)
        self._reader = self._loop.create_future()
        await self._reader

    def is_fit(self, idle_seconds: float) -> bool:
        """Whether another request may be sent: the last answer is over, and nothing came after it, not even an end."""
        return (
            self._usable
            and not self._awaits
            and not self._ended
            and self._loop.time() - self._free_since < idle_seconds
            and not self._has_news()
        )

    def _has_news(self) -> bool:
        """Whether the socket holds bytes, or an end, that the event loop has not come to yet."""
        with contextlib.suppress(OSError):
            return bool(self._poll.poll(0))
        return True

    def send(self, request: httpx.Request, body: bytes) -> None:
        """Write the request, in one piece.

        Raises:
            httpx.LocalProtocolError: its head would be none; nothing was written.
        """
        target = request.extensions.get("target") or request.url.raw_path
        lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), target)]
        lines += [b"%b: %b" % header for header in request.headers.raw]
        head = b"\r\n".join(lines)
        if b" " in target or b"\0" in head or not head.count(b"\r") == head.count(b"\n") == len(lines) - 1:
            msg = "a request's target or header has a character that it may not have"
            raise httpx.LocalProtocolError(msg)
        self._awaits = True
        self._expect()
        self._transport.write(b"%b\r\n\r\n%b" % (head, body))

    async def head(self) -> None:
        """Return when the head of the answer is there: `status`, `reason` and `headers`."""
        while not self._has_head:
            await self._more()

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the answer, as it comes; after it the connection is free again, or of no more use."""
        while True:
            if self._parts:
                data = b"".join(self._parts)
                self._parts, self._unread = [], 0
                self._transport.resume_reading()
                yield data
            elif self._is_whole:
                break
            else:
                await self._more()
        if not self._usable:
            self.abort()
            return
        self._awaits = False
        self._free_since = self._loop.time()

    def leave(self) -> None:
        """Give up the rest of an answer, and the connection with it, unless the answer is over."""
        if self._awaits:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self._ended = True
        self._transport.abort()


class _Body(httpx.AsyncByteStream):
    """The body of an answer, for httpx."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._wire.body()

    async def aclose(self) -> None:
        self._wire.leave()


async def _connect(request: httpx.Request, tls: ssl.SSLContext | None) -> _Wire:
    url = request.url
    if url.scheme != ("https" if tls else "http") or not url.host:
        msg = f"Request URL has an unsupported protocol '{url.scheme}://'."
        raise httpx.UnsupportedProtocol(msg)
    connecting = asyncio.get_running_loop().create_connection(
        _Wire,
        url.raw_host.decode("ascii"),
        url.port or (443 if tls else 80),
        ssl=tls,
        happy_eyeballs_delay=0.25,
    )
    try:
        async with asyncio.timeout(request.extensions["timeout"]["connect"]):
            _, wire = await connecting
    except TimeoutError as error:
        raise httpx.ConnectTimeout(str(error)) from error
    except OSError as error:
        raise httpx.ConnectError(str(error)) from error
    return wire
