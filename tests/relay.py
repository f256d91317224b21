"""A TCP relay between a client and a server, which can refuse, cut and swallow: the network's own faults, for real."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@dataclass
class Relay:
    """Listens on a port of 127.0.0.1 and passes everything on, until it is told otherwise."""

    connect: Connect
    port: int = 0
    swallow_answer_to: bytes | None = None
    """After a client's packet that holds this: pass it on, wait for the answer, and cut the connection instead."""
    swallowed: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def accept(self) -> None:
        """Take connections (again)."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections, and cut those there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there, back = await self.connect()
            try:
                await self._pass_on(reader, writer, there, back)
            finally:
                back.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # the connection ends, which is all there is to do
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        back: asyncio.StreamWriter,
    ) -> None:
        cutting = False

        async def out() -> None:
            nonlocal cutting
            while data := await reader.read(65536):
                if self.swallow_answer_to and self.swallow_answer_to in data:
                    cutting, self.swallow_answer_to = True, None
                back.write(data)
                await back.drain()

        async def home() -> None:
            while data := await there.read(65536):
                if cutting:
                    self.swallowed.set()
                    return
                writer.write(data)
                await writer.drain()

        tasks = [asyncio.create_task(out()), asyncio.create_task(home())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def relaying(connect: Connect) -> AsyncIterator[Relay]:
    """A relay that takes connections, for the time of the block."""
    relay = Relay(connect)
    await relay.accept()
    try:
        yield relay
    finally:
        await relay.refuse()
        with contextlib.suppress(OSError):
            await asyncio.sleep(0)
