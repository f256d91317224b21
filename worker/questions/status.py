"""The figures behind `share-worker status`: the last passes, today, and what is due."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.chats import facts
from worker.ledger import history
from worker.ledger.history import Run
from worker.outcomes import Outcome
from worker.questions.lines import LineCards, RestingLine, line_cards, resting_lines
from worker.rules.eligibility import Rules, Verdict, count_verdicts
from worker.rules.schedule import Schedule
from worker.rules.times import first_pass

DAYS: Final = 14
"""Share days counted, today included."""

STARTS_WITHIN: Final = timedelta(minutes=15)
"""After its scheduled time, however long the database took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """The state of the worker and its chats at one moment."""

    now: datetime
    share_day: date
    last_run: Run | None
    """The latest pass that has ended."""
    running: list[Run]
    next_scheduled: datetime | None
    """When the next scheduled pass shares: at its time, or when SHARE_HOURS begin that day."""
    off_schedule: datetime | None
    """When the last scheduled pass began, if that is no time of this schedule: `serve` has another one."""
    days: dict[date, dict[str, int]]
    """Attempts by outcome on each of the last share days, oldest first; the last one is today."""
    due: int
    chats: int
    stale_claims: int
    cards: LineCards
    resting: list[RestingLine]

    @property
    def today(self) -> dict[str, int]:
        """Today's attempts by outcome."""
        return self.days[self.share_day]


async def read_status(engine: AsyncEngine, rules: Rules, schedule: Schedule, now: datetime) -> Status:
    """Read the status in one transaction. Who is due is judged by the cards that the last pass saw."""
    today = rules.share_day(now)
    first = today - timedelta(days=DAYS - 1)
    off_schedule = None
    async with db.read(engine) as connection:
        counted = await history.outcomes_per_day(connection, first, today)
        verdicts = await count_verdicts(connection, rules, now)
        chats_of = await facts.chats_per_line(connection)
        scheduled = await history.last_scheduled_run(connection)
        if scheduled is not None and not _is_time_of(schedule, scheduled.started_at):
            off_schedule = scheduled.started_at
        return Status(
            now=now,
            share_day=today,
            last_run=await history.last_ended_run(connection),
            running=await history.running_runs(connection),
            next_scheduled=first_pass(rules, schedule, now),
            off_schedule=off_schedule,
            days=every_day(counted, today, DAYS),
            due=verdicts.get(Verdict.DUE, 0),
            chats=sum(verdicts.values()),
            stale_claims=await history.count_stale_claims(connection, now),
            cards=await line_cards(connection, chats_of),
            resting=await resting_lines(connection, rules, now, chats_of),
        )


def every_day(counted: Mapping[date, Mapping[str, int]], last: date, number: int) -> dict[date, dict[str, int]]:
    """So many share days up to the last one, oldest first, each with all outcomes, also those that did not occur."""
    days = (last - timedelta(days=back) for back in reversed(range(number)))
    return {day: {outcome.value: counted.get(day, {}).get(outcome.value, 0) for outcome in Outcome} for day in days}


def _is_time_of(schedule: Schedule, started_at: datetime) -> bool:
    fire = schedule.after(started_at - STARTS_WITHIN)
    return fire is not None and fire <= started_at
