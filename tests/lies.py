"""The true time, which only the judge keeps, and the clocks of workers, which may be wrong about it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

ARRIVAL = 20
"""Turns of the event loop in which a request that was written gets to the simulator, connecting included."""


class Time:
    """The true time; it moves when somebody sleeps on it. And how wrong the workers' clocks have been."""

    def __init__(self, start: datetime) -> None:
        self._start = start
        self._passed = 0.0
        self._elsewhere: Callable[[], float] = lambda: 0.0
        self._lies: list[tuple[datetime, datetime, timedelta]] = []
        self._told: dict[datetime, datetime] = {}

    def now(self) -> datetime:
        """The true time of day."""
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """The seconds that have passed."""
        return self._passed + self._elsewhere()

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self._passed += seconds

    @contextmanager
    def spent(self, elsewhere: Callable[[], float]) -> Iterator[None]:
        """For the time of the block, what another process sleeps passes here too."""
        self._elsewhere = elsewhere
        try:
            yield
        finally:
            self._passed, self._elsewhere = self.monotonic(), lambda: 0.0

    def lie(self, by: timedelta, since: datetime | None = None) -> None:
        """Note that a clock jumped by so much just now, or that one was in use since then which is wrong by so much."""
        self._lies.append((since or self.now(), self.now(), abs(by)))

    def lied(self, since: datetime, until: datetime) -> timedelta:
        """By how much clocks differed from each other, or from themselves, in a span; at most."""
        return sum((by for start, end, by in self._lies if start <= until and since <= end), timedelta())

    def tell(self, error: timedelta) -> datetime:
        """What a clock says that is wrong by so much."""
        said = self.now() + error
        self._told[said] = self.now()
        return said

    def when(self, said: datetime, error: timedelta) -> datetime:
        """The true time at which a clock said so; one that was not heard here is wrong by `error`."""
        return self._told.get(said, said - error)


class WorkerClock:
    """The clock of one worker."""

    def __init__(self, time: Time, error: Callable[[], timedelta], on_sleep: Callable[[], None]) -> None:
        self._time = time
        self._error = error
        self._on_sleep = on_sleep

    def now(self) -> datetime:
        """The time of day as this worker has it."""
        return self._time.tell(self._error())

    def monotonic(self) -> float:
        """The seconds that have passed."""
        return self._time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let time pass at once, as soon as what is on its way has arrived."""
        for _ in range(ARRIVAL):
            await asyncio.sleep(0)
        self._time.go(seconds)
        self._on_sleep()
        await asyncio.sleep(0)
