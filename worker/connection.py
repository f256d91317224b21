"""One connection to a server, kept alive: a transport for httpx, on asyncio and h11.

httpx's own transport does the same at three times the CPU, and cannot say whether a server spoke out of turn. The
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

import h11
import httpx

LARGEST_HEAD: Final = 100 * 1024
READ_AHEAD: Final = 256 * 1024
"""Bytes taken from the socket before they are asked for."""


class Connection(httpx.AsyncBaseTransport):
    """A transport that keeps one connection and serves one request at a time; opened when it is first needed.

    A connection is used again within `idle_seconds`, if the last answer ended in good order and nothing came since.
    """

    def __init__(self, tls: ssl.SSLContext, *, idle_seconds: float) -> None:
        self._tls = tls
        self._idle_seconds = idle_seconds
        self._wire: _Wire | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, once; return the answer as soon as its head is there.

        The request's extension `before_send` is called when the connection is there and not a byte has left: the
        request is not sent if it raises.

        Raises:
            httpx.UnsupportedProtocol: the URL is neither http nor https.
            httpx.ConnectError: there is no such host, nobody listens, or TLS was not agreed.
            httpx.ConnectTimeout: no connection in time.
            httpx.ReadError: the connection broke; the request may have arrived.
            httpx.RemoteProtocolError: the connection was closed, or what came is not HTTP; the same.
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
            head = await wire.head()
        except BaseException:  # a cancelled call too: what comes later must not pass for the next one's answer
            wire.abort()
            raise
        return httpx.Response(
            head.status_code,
            headers=head.headers.raw_items(),
            stream=_Body(wire),
            extensions={"reason_phrase": bytes(head.reason)},
        )

    async def aclose(self) -> None:
        """Close the connection."""
        if self._wire is not None:
            self._wire.abort()
            await self._wire.closed.wait()


class _Wire(asyncio.Protocol):
    """An open connection: the bytes that came, and what HTTP makes of them."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self._transport: asyncio.Transport
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=LARGEST_HEAD)
        self._received = bytearray()
        self._ended = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._free_since = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # create_connection makes no other kind

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > READ_AHEAD:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended, self._error = True, exc
        self.closed.set()
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def is_fit(self, idle_seconds: float) -> bool:
        """Whether another request may be sent: the last answer is over, and nothing came after it, not even an end."""
        return (
            self._http.our_state is h11.IDLE
            and not self._received
            and not self._ended
            and self._loop.time() - self._free_since < idle_seconds
            and not _has_news(self._transport)
        )

    def send(self, request: httpx.Request, body: bytes) -> None:
        """Write the request, in one piece."""
        message = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
        parts = [self._http.send(message), self._http.send(h11.Data(data=body)), self._http.send(h11.EndOfMessage())]
        self._transport.write(b"".join(part for part in parts if part))

    async def head(self) -> h11.Response | h11.InformationalResponse:
        """The head of the answer; what announces one is passed over."""
        while True:
            event = await self._event()
            if isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse) and event.status_code == 101
            ):
                return event

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the answer, as it comes; after it the connection is free again, or of no more use."""
        while not isinstance(event := await self._event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)
        surplus, _ = self._http.trailing_data
        if surplus or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            self.abort()
            return
        self._http.start_next_cycle()
        self._free_since = self._loop.time()

    def leave(self) -> None:
        """Give up the rest of an answer, and the connection with it, unless the answer is over."""
        if self._http.our_state is not h11.IDLE:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self._ended = True
        self._transport.abort()

    async def _event(self) -> h11.Event:
        while True:
            try:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self._read())
                    continue
            except h11.RemoteProtocolError as error:
                raise httpx.RemoteProtocolError(str(error)) from error
            if isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                msg = "Server disconnected without sending a response."
                raise httpx.RemoteProtocolError(msg)
            return cast("h11.Event", event)

    async def _read(self) -> bytes:
        """What came, at least a byte; nothing at the end."""
        while not self._received:
            if self._error is not None:
                raise httpx.ReadError(str(self._error)) from self._error
            if self._ended:
                return b""
            self._reader = self._loop.create_future()
            await self._reader
        data = bytes(self._received)
        self._received.clear()
        self._transport.resume_reading()
        return data


class _Body(httpx.AsyncByteStream):
    """The body of an answer, for httpx."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._wire.body()

    async def aclose(self) -> None:
        self._wire.leave()


async def _connect(request: httpx.Request, tls: ssl.SSLContext) -> _Wire:
    url = request.url
    if url.scheme not in {"http", "https"} or not url.host:
        msg = f"Request URL has an unsupported protocol '{url.scheme}://'."
        raise httpx.UnsupportedProtocol(msg)
    secure = url.scheme == "https"
    connecting = asyncio.get_running_loop().create_connection(
        _Wire,
        url.raw_host.decode("ascii"),
        url.port or (443 if secure else 80),
        ssl=tls if secure else None,
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


def _has_news(transport: asyncio.Transport) -> bool:
    """Whether the socket holds bytes, or an end, that the event loop has not come to yet."""
    peer: socket.socket = transport.get_extra_info("socket")
    poll = select.poll()
    poll.register(peer, select.POLLIN)
    with contextlib.suppress(OSError):
        return bool(poll.poll(0))
    return True
