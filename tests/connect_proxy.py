"""A proxy that understands CONNECT, over real sockets: a script for `raw_server`, which keeps what it was asked."""

import asyncio
import contextlib
import re
from typing import Final

from tests.raw_server import RawServer, Script, Visit

CONNECT: Final = re.compile(rb"CONNECT (\S+):(\d+) HTTP/1\.1\r\n")
ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def tunnel(visit: Visit) -> None:
    """Do what a good proxy does: connect to the server, say 200, and pass everything on, resets included."""
    await _tunnel(visit, None)


def tunnel_to(port: int) -> Script:
    """A proxy to which every name is a server on this machine: it is the proxy that resolves names."""

    async def script(visit: Visit) -> None:
        await _tunnel(visit, port)

    return script


def relay_to(port: int) -> Script:
    """Pass everything on to a server on this machine: with TLS on the listening side, its https front."""

    async def script(visit: Visit) -> None:
        await _pass_on(visit, *await asyncio.open_connection("127.0.0.1", port))

    return script


def asked(proxy: RawServer) -> list[str]:
    """The server that each connection asked the proxy for."""
    return [
        f"{match[1].decode()}:{match[2].decode()}"
        for visit in proxy.visits
        if (match := CONNECT.match(visit.received)) is not None
    ]


async def _tunnel(visit: Visit, port: int | None) -> None:
    match = CONNECT.match(await visit.request())
    assert match is not None
    host = match[1].decode().strip("[]") if port is None else "127.0.0.1"
    connecting = asyncio.ensure_future(asyncio.open_connection(host, port or int(match[2])))
    leaving = asyncio.ensure_future(visit.until_closed())
    await asyncio.wait({connecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
    if leaving.done():
        connecting.cancel()
        await asyncio.wait({connecting})
        return
    leaving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await leaving
    try:
        reader, writer = connecting.result()
    except OSError:
        visit.send(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        return
    visit.send(ESTABLISHED)
    await _pass_on(visit, reader, writer)


async def _pass_on(visit: Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on in both directions until the client closes; the server's end and resets reach the client."""
    server = Visit(reader, writer)

    async def out() -> None:
        try:
            while data := await visit.reader.read(65536):
                visit.received += data
                server.send(data)
                await writer.drain()
        except ConnectionError:
            server.reset()

    async def home() -> None:
        try:
            while data := await reader.read(65536):
                visit.send(data)
                await visit.writer.drain()
        except ConnectionError:
            visit.reset()
        else:
            if visit.writer.can_write_eof():
                visit.say_no_more()
            else:
                await visit.close()

    going_home = asyncio.create_task(home())
    try:
        await out()
    finally:
        going_home.cancel()
        await asyncio.gather(going_home, return_exceptions=True)
        await server.close()
