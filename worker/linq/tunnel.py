"""Opens a connection through an HTTP proxy (CONNECT), with TLS to the server inside it.

All that leaves before the tunnel stands is the CONNECT request, so every failure in this module means that no byte of
any other request has left. Each is a `ConnectionError` or another `OSError` that says what the proxy did.
"""

import asyncio
import ssl
from http import HTTPStatus
from typing import Final, cast

import h11

from worker import __version__
from worker.proxy import Proxy, bracketed
from worker.text import one_line

LARGEST_HEAD: Final = 64 * 1024
"""Bytes of a proxy's answer that are read before it is given up."""


async def connect_through(
    proxy: Proxy,
    host: str,
    port: int,
    protocol: asyncio.Protocol,
    *,
    tls: ssl.SSLContext | None,
) -> None:
    """Connect a protocol to a server through a proxy; return once `protocol.connection_made` was called.

    1. Connect to the proxy.
    2. Ask it for a tunnel, and wait until it answers 2xx.
    3. Agree on TLS with the server inside the tunnel, unless `tls` is None.

    Raises:
        OSError: one of these failed; the message names the proxy without its password.
    """
    loop = asyncio.get_running_loop()
    try:
        transport, asking = await loop.create_connection(_Asking, proxy.host, proxy.port, happy_eyeballs_delay=0.25)
    except OSError as error:
        msg = f"the proxy {proxy} cannot be reached: {error}"
        raise ConnectionError(msg) from error
    try:
        await asking.ask(f"{bracketed(host)}:{port}", proxy)
        if tls is not None:
            inside = await loop.start_tls(transport, protocol, tls, server_hostname=host)
        else:
            inside = transport
            inside.set_protocol(protocol)
        if inside is None or inside.is_closing():
            msg = f"the proxy {proxy} closed the tunnel at once"
            raise ConnectionError(msg)
    except BaseException:
        transport.abort()
        raise
    protocol.connection_made(inside)
    if tls is None:
        inside.resume_reading()


class _Asking(asyncio.Protocol):
    """Asks a proxy for a tunnel, and reads its answer and not a byte more."""

    def __init__(self) -> None:
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=LARGEST_HEAD)
        self._answer: asyncio.Future[h11.Response] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # asyncio makes no other kind for a stream

    async def ask(self, server: str, proxy: Proxy) -> None:
        """Return when the tunnel stands.

        Raises:
            ConnectionError: the proxy refused it, closed the connection, or did not answer in HTTP.
        """
        headers = [("Host", server), ("User-Agent", f"linq-share-worker/{__version__}")]
        if proxy.authorization is not None:
            headers.append(("Proxy-Authorization", proxy.authorization))
        request = h11.Request(method="CONNECT", target=server, headers=headers)
        self._transport.write((self._parser.send(request) or b"") + (self._parser.send(h11.EndOfMessage()) or b""))
        try:
            answer = await self._answer
        except OSError as error:
            msg = f"the proxy {proxy} opened no tunnel: {_without_login(str(error), proxy)}"
            raise ConnectionError(msg) from error
        if not 200 <= answer.status_code < 300:
            msg = f"the proxy {proxy} opened no tunnel: it answered {_described(answer, proxy)}"
            raise ConnectionError(msg)
        if self._parser.trailing_data[0]:
            msg = f"the proxy {proxy} opened no tunnel: more came than its answer"
            raise ConnectionError(msg)

    def data_received(self, data: bytes) -> None:
        if self._answer.done():
            return
        try:
            self._parser.receive_data(data)
            event = self._parser.next_event()
            while isinstance(event, h11.InformationalResponse):
                event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            self._fail(ConnectionError(f"it did not answer in HTTP: {error}"))
            return
        if isinstance(event, h11.Response):
            self._transport.pause_reading()  # what follows is for the protocol inside the tunnel
            self._answer.set_result(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("it closed the connection"))

    def _fail(self, error: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)
            self._answer.exception()  # asyncio would complain of an error that a cancelled call never reads


def _described(answer: h11.Response, proxy: Proxy) -> str:
    """The status and its reason, and what to do about a 407."""
    reason = one_line(_without_login(answer.reason.decode("latin-1"), proxy), 80)
    if answer.status_code != HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return f"{answer.status_code} {reason}".rstrip()
    problem = "it wants a user and password" if proxy.authorization is None else "check its user and password"
    return f"{answer.status_code} {reason}".rstrip() + f" ({problem})"


def _without_login(text: str, proxy: Proxy) -> str:
    """Foreign text, in case the proxy repeats its user and password in it."""
    return text if proxy.authorization is None else text.replace(proxy.authorization.removeprefix("Basic "), "***")
