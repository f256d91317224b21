"""What the page reads: slow questions through their latest answers, quick ones with a time limit."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from functools import partial
from typing import Final, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import db
from worker.clock import Clock
from worker.ledger import history
from worker.ledger.history import AnswerCount
from worker.questions.lines import LineState, line_states
from worker.questions.overview import Overview, read_overview
from worker.rules.eligibility import Rules, Verdict, count_verdicts
from worker.rules.schedule import Schedule
from worker.web.pages.figures import Figure, Latest

DAYS: Final = 30
"""Share days of the overview, today included."""

PATIENCE: Final = 0.15
"""Seconds that a page waits for an answer that is being asked for."""

PAGE_SECONDS: Final = 2.0
"""How long the database may work for one list."""

COUNT_SECONDS: Final = 60.0
"""How long the database may work for a count that is made beside the page."""

AT_ONCE: Final = 2
"""Connections that lists take at most, and as many for the quick figures; slow counts take one."""

PASSES_REMEMBERED: Final = 50

Days = dict[date, dict[str, int]]

T = TypeVar("T")


class Reader:
    """Asks the database for the page."""

    def __init__(
        self, engine: AsyncEngine, rules: Rules, schedule: Schedule, clock: Clock, *, has_webhooks: bool
    ) -> None:
        self.rules = rules
        self.schedule = schedule
        self.clock = clock
        self.has_webhooks = has_webhooks
        self._engine = engine
        self._quick = asyncio.Semaphore(AT_ONCE)
        self._slow = asyncio.Semaphore(1)
        self._listing = asyncio.Semaphore(AT_ONCE)
        self._overview = self._latest(
            partial(read_overview, rules=rules, schedule=schedule, has_webhooks=has_webhooks),
            self._quick,
            kept_seconds=1,
        )
        self._lines = self._latest(partial(line_states, rules=rules), self._quick, kept_seconds=5)
        self._verdicts = self._latest(partial(count_verdicts, rules=rules), self._slow, kept_seconds=5)
        self._today = self._latest(self._count_today, self._quick, kept_seconds=1)
        self._days_before = self._latest(self._count_days_before, self._slow, kept_seconds=300)
        self._answers: dict[str, Latest[list[AnswerCount]]] = {}

    async def overview(self) -> Figure[Overview]:
        """The passes and what is in trouble."""
        return await self._overview.get(PATIENCE)

    async def lines(self, patience: float = PATIENCE) -> Figure[list[LineState]]:
        """Every line with its card."""
        return await self._lines.get(patience)

    async def verdicts(self) -> Figure[dict[Verdict, int]]:
        """How many chats have each verdict."""
        return await self._verdicts.get(PATIENCE)

    async def today(self) -> Figure[Days]:
        """The attempts of this share day by outcome."""
        return await self._today.get(PATIENCE)

    async def days_before(self) -> Figure[Days]:
        """The attempts of the share days before this one by outcome."""
        return await self._days_before.get(PATIENCE)

    async def answers(self, run_id: str) -> Figure[list[AnswerCount]]:
        """A pass's attempts by outcome and Linq's answer."""
        if run_id not in self._answers:
            while len(self._answers) >= PASSES_REMEMBERED:
                await self._answers.pop(next(iter(self._answers))).finished()
            self._answers[run_id] = self._latest(partial(_answers_of, run_id=run_id), self._slow, kept_seconds=2)
        return await self._answers[run_id].get(PATIENCE)

    @asynccontextmanager
    async def listing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction for one list.

        Raises:
            TooSlowError: it takes longer than a page should.
        """
        async with self._listing, db.glance(self._engine, PAGE_SECONDS) as connection:
            yield connection

    def describe(self, error: BaseException) -> str:
        """What is wrong with the database, in one line."""
        return db.describe(error, self._engine.url) if isinstance(error, SQLAlchemyError) else str(error)

    async def finished(self) -> None:
        """End what is being asked."""
        for latest in (self._overview, self._lines, self._verdicts, self._today, self._days_before):
            await latest.finished()
        for answers in self._answers.values():
            await answers.finished()

    def _latest(self, ask: Callable[..., Awaitable[T]], slots: asyncio.Semaphore, *, kept_seconds: float) -> Latest[T]:
        async def asked(now: datetime) -> T:
            async with db.glance(self._engine, COUNT_SECONDS) as connection:
                return await ask(connection, now=now)

        return Latest(asked, self.describe, self.clock, slots=slots, kept_seconds=kept_seconds)

    async def _count_today(self, connection: AsyncConnection, *, now: datetime) -> Days:
        day = self.rules.share_day(now)
        return await history.outcomes_per_day(connection, day, day)

    async def _count_days_before(self, connection: AsyncConnection, *, now: datetime) -> Days:
        day = self.rules.share_day(now)
        return await history.outcomes_per_day(connection, day - timedelta(days=DAYS - 1), day - timedelta(days=1))


async def _answers_of(connection: AsyncConnection, *, run_id: str, now: datetime) -> list[AnswerCount]:  # noqa: ARG001 -- asked like the others
    return await history.count_answers(connection, run_id)
