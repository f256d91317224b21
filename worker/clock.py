"""Time, as an argument: what reads the time or waits is handed a clock, so that a test can hand it another one."""

import asyncio
import time
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, TypeVar

T = TypeVar("T")

CLOCK_ERROR: Final = timedelta(minutes=5)
"""A time up to this far ahead is taken: the clock that wrote it may be ahead of ours."""


class Clock(Protocol):
    """The time of day, the time passed, and waiting."""

    def now(self) -> datetime:
        """The time of day, aware, in UTC. It may be stepped, also backwards."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back, and may stand still while the machine sleeps."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The machine's time of day, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """The machine's monotonic clock, in seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds of the event loop's time."""
        await asyncio.sleep(seconds)


async def unless_stopped(stop: asyncio.Event, work: Coroutine[None, None, T]) -> T | None:
    """The result of the work, or None where `stop` was set first; the work is cancelled then."""
    task, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, stopped):
            each.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)
