"""What `share-worker status` looks at: how it stands, on one screen."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.ledger import history
from worker.ledger.history import LineCards, Run
from worker.outcomes import Outcome
from worker.rules.eligibility import Rules, Verdict, count_verdicts
from worker.rules.schedule import Schedule

DAYS: Final = 14
"""Share days that are looked back on, today included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """How it stands at a moment."""

    now: datetime
    share_day: date
    last_run: Run | None
    """The latest pass that is over."""
    running: list[Run]
    next_scheduled: datetime | None
    days: dict[date, dict[str, int]]
    """The last share days, oldest first, each with its attempts by outcome; today is the last one."""
    due: int
    chats: int
    stale_claims: int
    cards: LineCards

    @property
    def today(self) -> dict[str, int]:
        """Today's attempts by outcome."""
        return self.days[self.share_day]


async def look(engine: AsyncEngine, rules: Rules, schedule: Schedule, now: datetime) -> Overview:
    """Look at everything; who is due is asked of the cards as the last pass saw them."""
    today = rules.share_day(now)
    first = today - timedelta(days=DAYS - 1)
    async with db.read(engine) as connection:
        counted = await history.outcomes_per_day(connection, first, today)
        verdicts = await count_verdicts(connection, rules, now)
        return Overview(
            now=now,
            share_day=today,
            last_run=await history.last_ended_run(connection),
            running=await history.running_runs(connection),
            next_scheduled=schedule.after(now),
            days={
                day: {outcome.value: counted.get(day, {}).get(outcome.value, 0) for outcome in Outcome}
                for day in (first + timedelta(days=number) for number in range(DAYS))
            },
            due=verdicts.get(Verdict.DUE, 0),
            chats=sum(verdicts.values()),
            stale_claims=await history.stale_claims(connection, now),
            cards=await history.line_cards(connection),
        )
