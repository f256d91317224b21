"""A server over real sockets that treats each connection as a test says, and keeps every byte that reached it."""

import asyncio
import contextlib
import json
import os
import re
import select
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from worker.linq.answers import LinqError
from worker.linq.client import Linq

KEY: Final = "planted-key-123"
SHARE: Final = "POST /v3/chats/chat/share_contact_card HTTP/1.1"
DONE: Final = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"
PATIENCE: Final = 5.0
"""Seconds until a test that hangs fails."""

REQUEST_LINE: Final = re.compile(rb"(?:GET|POST|PATCH) \S+ HTTP/1\.1")
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


@dataclass
class Visit:
    """The server's end of one connection: what it received, and what a script can do to it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytearray = field(default_factory=bytearray)

    @property
    def _socket(self) -> socket.socket:
        connected: socket.socket = self.writer.get_extra_info("socket")
        return connected

    @property
    def requests(self) -> list[str]:
        """The first line of each request that came."""
        return [line.decode() for line in REQUEST_LINE.findall(bytes(self.received))]

    async def request(self) -> bytes:
        """Read one whole request."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.received += head
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = await self.reader.readexactly(int(length[1]) if length else 0)
        self.received += body
        return head + body

    async def until_closed(self) -> None:
        """Read on until the client closes the connection."""
        while part := await self.reader.read(65536):
            self.received += part

    async def closed_within(self, seconds: float) -> bool:
        """Return True if the client closes the connection within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self.until_closed()
        except TimeoutError:
            return False
        return True

    def leave_unread(self) -> None:
        """Read nothing from the connection; only as the first step, and only without TLS."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()

    async def arrived(self) -> None:
        """Wait until the client's bytes are in the server's receive buffer."""
        await asyncio.to_thread(select.select, [self._socket.fileno()], [], [], PATIENCE)

    async def taste(self, count: int) -> None:
        """Read so many bytes of what arrived, and leave the rest unread."""
        await self.arrived()
        with socket.socket(fileno=os.dup(self._socket.fileno())) as same:
            self.received += same.recv(count)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def trickle(self, data: bytes, pause: float = 0.05) -> None:
        """Send byte after byte, until the client closes the connection."""
        for number in range(len(data)):
            self.send(data[number : number + 1])
            if await self.closed_within(pause):
                return

    async def close(self) -> None:
        """Close the connection in good order, once everything is sent."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def say_no_more(self) -> None:
        """Close the server's half of the connection, and read on."""
        self.writer.write_eof()
        transport = self.writer.transport
        if isinstance(transport, asyncio.ReadTransport) and not transport.is_reading():
            transport.resume_reading()

    def reset(self) -> None:
        """Cut the connection with a TCP reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.writer.transport.abort()


Script = Callable[[Visit], Awaitable[None]]


@dataclass
class RawServer:
    """A server that does what its script says on each connection, and reads what else comes until the client closes."""

    script: Script
    base_url: str = ""
    visits: list[Visit] = field(default_factory=list)
    most_at_once: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def port(self) -> int:
        return int(self.base_url.rpartition(":")[2])

    @property
    def received(self) -> bytes:
        return b"".join(bytes(visit.received) for visit in self.visits)

    @property
    def requests(self) -> list[str]:
        return [request for visit in self.visits for request in visit.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.most_at_once = max(self.most_at_once, len(self._tasks))
        visit = Visit(reader, writer)
        self.visits.append(visit)
        try:
            await self.script(visit)
            await visit.until_closed()
        except asyncio.IncompleteReadError as rest:
            visit.received += rest.partial
        except OSError:
            pass  # the client went away
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def quiet(self) -> None:
        """Return when every connection has ended; the clients must have been closed."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self._tasks)


@asynccontextmanager
async def raw_server(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """Serve on a free port of 127.0.0.1 until the block is left."""
    server = RawServer(script)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    server.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        listening.close()
        for visit in server.visits:
            visit.writer.transport.abort()
        await server.quiet()
        await listening.wait_closed()


async def attempt(share: Awaitable[int]) -> int | LinqError:
    """The status of a share, or the error that it ended in."""
    try:
        return await share
    except LinqError as error:
        return error


async def share_over(server: RawServer, seconds: float = PATIENCE) -> int | LinqError:
    """One share by a client of its own; afterwards everything that it sent has arrived."""
    async with Linq(KEY, base_url=server.base_url, timeout=seconds) as linq, asyncio.timeout(PATIENCE + 5):
        outcome = await attempt(linq.share("chat"))
    await server.quiet()
    return outcome


async def keep_alive(visit: Visit) -> None:
    """Answer every request on the connection with a 202."""
    while True:
        await visit.request()
        visit.send(DONE)


async def reset_unread(visit: Visit) -> None:
    visit.leave_unread()
    await visit.arrived()
    visit.reset()


async def reset_when_read(visit: Visit) -> None:
    await visit.request()
    visit.reset()


def breaks_off(told: bytes) -> Script:
    """A server that says this, and closes the connection."""

    async def script(visit: Visit) -> None:
        await visit.request()
        visit.send(told)
        await visit.close()

    return script


async def floods(visit: Visit) -> None:
    """A body without an end, as fast as it is taken."""
    await visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
    while not visit.reader.at_eof():
        visit.send(b"x" * 65536)
        await visit.writer.drain()


def answer(status: int, body: object = b"", **headers: str) -> bytes:
    """A complete HTTP answer; a body that is not bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "text/html" if content.startswith(b"<") else "application/json"
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def envelope(status: int, code: object, message: object = "What Linq says", **more: object) -> dict[str, object]:
    """Linq's error envelope."""
    return {
        "success": False,
        "error": {"status": status, "code": code, "message": message, **more},
        "trace_id": "trace-1",
    }
