"""One connection to a server, kept alive: for httpx's requests, on asyncio and llhttp (Node's parser, by httptools).

httpx's own transport needs six times the CPU, and cannot say whether a server sent data without being asked. The
errors are httpx's, with httpx's meaning: `open` raises `UnsupportedProtocol`, `ConnectError` and `ConnectTimeout`, and
`send` raises others. So no byte of a request can have left where one of the three is raised. Nothing is repeated: a
request is written once, in one piece, or not at all.
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

from worker.linq.tunnel import connect_through
from worker.proxy import Proxy

LARGEST_HEAD: Final = 100 * 1024
READ_AHEAD: Final = 256 * 1024
"""Bytes that are read from the socket before the caller asks for them."""


class Connection:
    """Keeps one connection to a server and serves one request at a time.

    A connection is used again within `idle_seconds` if the last answer ended in good order and nothing came since.
    With `tls` it speaks https only, without it http only. Through a `proxy` it speaks inside a tunnel.
    """

    def __init__(
        self,
        tls: ssl.SSLContext | None,
        *,
        idle_seconds: float,
        proxy: Proxy | None = None,
    ) -> None:
        self._tls = tls
        self._idle_seconds = idle_seconds
        self._proxy = proxy
        self._wire: _Wire | None = None

    async def open(self, url: httpx.URL, seconds: float) -> None:
        """Connect to the server of a URL, unless the last connection can be used again. No request leaves.

        Raises:
            httpx.UnsupportedProtocol: the URL is not http, or not https where there is TLS.
            httpx.ConnectError: name not resolved, connection refused, no tunnel through the proxy, or no TLS.
            httpx.ConnectTimeout: no connection within `seconds`.
        """
        if self._wire is not None and self._wire.is_fit(self._idle_seconds):
            return
        await self.aclose()
        self._wire = await self._connect(url, seconds)

    async def send(self, request: httpx.Request) -> httpx.Response:
        """Send a request over the open connection, once; return the answer as soon as its head is there.

        Raises:
            httpx.ReadError: the connection broke; the request may have arrived.
            httpx.RemoteProtocolError: the connection was closed, or what came is not HTTP; the same.
            httpx.LocalProtocolError: the connection is not open, or the request's target or a header would garble the
                request; nothing was written.
        """
        wire = self._wire
        if wire is None:
            msg = "the connection is not open"
            raise httpx.LocalProtocolError(msg)
        try:
            wire.send(request)
            await wire.head()
        except BaseException:  # also for a cancelled request: a late answer must not pass for the next one's
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

    async def _connect(self, url: httpx.URL, seconds: float) -> "_Wire":
        if url.scheme != ("https" if self._tls else "http") or not url.host:
            msg = f"Request URL has an unsupported protocol '{url.scheme}://'."
            raise httpx.UnsupportedProtocol(msg)
        host, port = url.raw_host.decode("ascii"), url.port or (443 if self._tls else 80)
        wire = _Wire()
        try:
            async with asyncio.timeout(seconds):
                if self._proxy is None:
                    await asyncio.get_running_loop().create_connection(
                        lambda: wire, host, port, ssl=self._tls, happy_eyeballs_delay=0.25
                    )
                else:
                    await connect_through(self._proxy, host, port, wire, tls=self._tls)
        except TimeoutError as error:
            through = f"through the proxy {self._proxy}" if self._proxy else ""
            raise httpx.ConnectTimeout(str(error) or through) from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        return wire


class _Wire(asyncio.Protocol):
    """An open connection, and as much as has come of the answer to the last request.

    asyncio calls `connection_made` and the like; the parser calls the methods that begin with `on_`.
    """

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self._transport: asyncio.Transport
        self._poll: select.poll
        self._parser = httptools.HttpResponseParser(self)
        self._awaits = False
        """A request was written, and its answer is not complete."""
        self._usable = True
        """Another request may follow: all that came were complete answers to requests."""
        self._ended = False
        self._error: httpx.TransportError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._free_since = self._loop.time()
        self._expect()

    def _expect(self) -> None:
        """Make ready for the next answer."""
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        self._has_head = self._is_whole = False
        self._parts: list[bytes] = []
        self._unread = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # asyncio makes no other kind for a stream
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
            self._usable = False  # an answer without a request
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
        elif self.status == 101 or self.status >= 200:  # other 1xx come before the answer
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
            self._is_whole = True  # such a body ends with the connection
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
        """Wait for more data.

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
        """True if another request may be sent: the last answer is complete, and nothing came after it, not even EOF."""
        return (
            self._usable
            and not self._awaits
            and not self._ended
            and self._loop.time() - self._free_since < idle_seconds
            and not self._has_news()
        )

    def _has_news(self) -> bool:
        """True if the socket holds bytes, or EOF, that the event loop has not read yet."""
        with contextlib.suppress(OSError):
            return bool(self._poll.poll(0))
        return True

    def send(self, request: httpx.Request) -> None:
        """Write a request, in one piece.

        Raises:
            httpx.LocalProtocolError: its target or a header would garble it; nothing was written.
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
        self._transport.write(b"%b\r\n\r\n%b" % (head, request.content))

    async def head(self) -> None:
        """Wait until the head of the answer is there: `status`, `reason` and `headers`."""
        while not self._has_head:
            await self._more()

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the answer, as it comes. After it the connection is idle again, or closed."""
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
        """Close the connection if the answer is not complete: the rest of it is not wanted."""
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
