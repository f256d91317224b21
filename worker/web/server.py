"""Serves an ASGI application in the caller's event loop, for the time of a block, and leaves that loop as it was.

Who connects is not trusted: the number of connections, the size of a request's head and the time it may take to arrive
are limited, so that nobody's idle or endless request keeps the worker's sockets or memory.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

CLOSING_SECONDS: Final = 1.0
"""How long the answers under way get to notice that the server is closing."""

MOST_CONNECTIONS: Final = 100
"""Open at once; more are closed as they come."""

REQUEST_SECONDS: Final = 10.0
"""How long a request may take to arrive, from the connection or the answer before it to its last byte."""

LARGEST_HEAD: Final = 16 * 1024
"""Bytes of a request's first line and headers."""


class _Impatient(H11Protocol):
    """uvicorn's connection, closed where the client takes too long to say what it wants, or there are too many."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state in {h11.DONE, h11.ERROR}:
            self._has_arrived()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is not h11.DONE:
            self._await_request()

    def _await_request(self) -> None:
        self._has_arrived()
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _has_arrived(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


@asynccontextmanager
async def serving_app(
    app: ASGIApp, *, host: str, port: int, protocol: type[asyncio.Protocol] | None = None, keep_alive: int = 5
) -> AsyncIterator[str]:
    """Serve until the block is left; gives the base URL, without a slash at its end. Port 0 takes a free one.

    On leaving, open connections are closed at once, answers under way included. `keep_alive` is in seconds. With a
    `protocol` of its own a caller does without the limits.

    Raises:
        OSError: the address is taken or not allowed; its `strerror` is a sentence that names it.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        http=protocol or _Impatient,
        h11_max_incomplete_event_size=None if protocol else LARGEST_HEAD,
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        log_config=None,
        log_level="error",
        access_log=False,
        timeout_keep_alive=keep_alive,
    )
    config.load()
    server = uvicorn.Server(config)
    # The two halves of uvicorn's own serve() without what lies between: its signal handlers, and a loop that looks ten
    # times a second whether it should end.
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    try:
        address, bound_port = listener.getsockname()[:2]
        yield f"http://[{address}]:{bound_port}" if ":" in address else f"http://{address}:{bound_port}"
    finally:
        await _close(server)


async def _close(server: uvicorn.Server) -> None:
    for listening in server.servers:
        listening.close()
    await asyncio.sleep(0)  # what was accepted a moment ago becomes a connection, so that it is closed too
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    await asyncio.sleep(0)  # the transports report their end, to idle connections too
    if server.server_state.tasks:
        _, late = await asyncio.wait(set(server.server_state.tasks), timeout=CLOSING_SECONDS)
        for task in late:
            task.cancel()
    for listening in server.servers:
        await listening.wait_closed()


def _listen(host: str, port: int) -> socket.socket:
    address = "127.0.0.1" if host == "localhost" else host
    # With the protocol named, asyncio turns Nagle's algorithm off on what it accepts; without, each answer takes 40 ms.
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener
