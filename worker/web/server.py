"""Serves an ASGI application in the caller's event loop, for the time of a block; the loop and its signals stay ours.

The number of connections, the size of a request's head and the idle time of a connection are limited. A client that
sends its request slowly is left to a reverse proxy: docs/webhooks.md says how to put one in front.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import uvicorn
from starlette.types import ASGIApp

CLOSING_SECONDS: Final = 1.0
"""How long requests in progress may take to notice that the server is closing."""

MOST_CONNECTIONS: Final = 100
"""Open at once; a request on a further one is answered 503."""

LARGEST_HEAD: Final = 16 * 1024
"""Bytes of a request's first line and headers."""


@asynccontextmanager
async def serving_app(
    app: ASGIApp, *, host: str, port: int, protocol: type[asyncio.Protocol] | None = None, keep_alive: int = 5
) -> AsyncIterator[str]:
    """Serve until the block is left; gives the base URL, without a slash at its end. Port 0 takes a free one.

    On leaving, open connections are closed at once, requests in progress included. `keep_alive`: seconds that an idle
    connection stays open. A caller with a `protocol` of its own has no limits.

    Raises:
        OSError: the address is taken or not allowed; its `strerror` is a sentence that names it.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        http=protocol or "h11",
        h11_max_incomplete_event_size=None if protocol else LARGEST_HEAD,
        limit_concurrency=None if protocol else MOST_CONNECTIONS,
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
    server.lifespan = config.lifespan_class(config)
    # Its serve() would take over the process's signals.
    await server.startup(sockets=[listener])
    try:
        address, bound_port = listener.getsockname()[:2]
        yield f"http://[{address}]:{bound_port}" if ":" in address else f"http://{address}:{bound_port}"
    finally:
        await _close(server)


async def _close(server: uvicorn.Server) -> None:
    for listening in server.servers:
        listening.close()
    await asyncio.sleep(0)  # a socket accepted a moment ago becomes a connection, and is closed too
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    await asyncio.sleep(0)  # the transports report their end
    if server.server_state.tasks:
        _, late = await asyncio.wait(set(server.server_state.tasks), timeout=CLOSING_SECONDS)
        for task in late:
            task.cancel()
    for listening in server.servers:
        await listening.wait_closed()


def _listen(host: str, port: int) -> socket.socket:
    address = "127.0.0.1" if host == "localhost" else host
    # With IPPROTO_TCP named, asyncio turns Nagle's algorithm off on accepted sockets; else each answer takes 40 ms.
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener
