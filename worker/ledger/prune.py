"""Removes old attempts and runs, but never what a verdict or the scheduler still reads.

What they read is defined by `worker.rules.eligibility` and `worker.ledger.runs`; this module alone turns it into what
prune keeps:

- attempts from the day `latest_allowed` on: today's, and those that SHARE_EVERY_DAYS and SHARE_MIN_HOURS read;
- with SHARE_MAX_PER_CHAT every attempt that counts toward it, however old;
- claims, until a pass settles them;
- runs with status `running`, the last completed one, and the last one before the day: from these the service knows
  that it ran before.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, and_, bindparam, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import db
from worker.clock import Clock, unless_stopped
from worker.db.tables import runs, share_attempts
from worker.outcomes import NOT_SHARED, Outcome, RunStatus, Trigger
from worker.rules.eligibility import Rules, oldest_day_read

BATCH: Final = 1_000
"""Rows removed in one transaction."""

SHORTEST_PAUSE_SECONDS: Final = 0.02
LONGEST_PAUSE_SECONDS: Final = 1.0
"""The pause between two batches is as long as the last one took: a running pass gets its turn, on SQLite too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Old rows that stay."""

    what: str
    count: int
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PrunePlan:
    """The rows from before a share day: how many can go, and which stay and why."""

    before: date
    attempts: int
    runs: int
    oldest: date | None
    """The share day of the oldest attempt that can go."""
    kept: list[Kept]


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """The rows removed so far. `complete`: no row that can go is left."""

    attempts: int = 0
    runs: int = 0
    complete: bool = False


def latest_allowed(rules: Rules, now: datetime) -> date:
    """The latest day to prune before: with it, no verdict changes, now or later."""
    return oldest_day_read(rules, now)


async def make_plan(connection: AsyncConnection, rules: Rules, before: date) -> PrunePlan:
    """Count the rows from before a share day that can go, and those that stay."""
    old = select(share_attempts.c.outcome, func.count(), func.min(share_attempts.c.share_day)).where(
        share_attempts.c.share_day < before
    )
    counted = {
        Outcome(outcome): (count, oldest)
        for outcome, count, oldest in await connection.execute(old.group_by(share_attempts.c.outcome))
    }
    going = _outcomes_that_go(rules)
    counting = sum(count for outcome, (count, _) in counted.items() if outcome not in (*going, Outcome.CLAIMED))
    claims, _ = counted.get(Outcome.CLAIMED, (0, None))
    old_runs = (
        await connection.execute(select(func.count()).select_from(runs).where(runs.c.share_day < before))
    ).scalar_one()
    going_runs = (
        await connection.execute(select(func.count()).select_from(runs).where(_run_goes(before)))
    ).scalar_one()
    kept = [
        Kept(
            what="attempts", count=counting, why=f"they count toward SHARE_MAX_PER_CHAT, which is {rules.max_per_chat}"
        ),
        Kept(what="attempts", count=claims, why="claims without an answer; the next pass settles them"),
        Kept(what="runs", count=old_runs - going_runs, why="running, or the last ones, which 'serve' reads"),
    ]
    return PrunePlan(
        before=before,
        attempts=sum(counted[outcome][0] for outcome in going if outcome in counted),
        runs=going_runs,
        oldest=min((counted[outcome][1] for outcome in going if outcome in counted), default=None),
        kept=[rows for rows in kept if rows.count],
    )


async def remove(
    engine: AsyncEngine,
    rules: Rules,
    before: date,
    *,
    clock: Clock,
    stop: asyncio.Event,
    watch: Callable[[Removed], None] = lambda _removed: None,
) -> Removed:
    """Remove what can go from before a share day, in short transactions, until nothing is left or `stop` is set.

    `watch` gets the rows removed so far after each batch. Two prunes at once are safe: they share the work.

    Raises:
        SQLAlchemyError: the database failed; what `watch` got last is removed all the same.
    """
    gone = Removed()
    since = date.min
    while not stop.is_set():
        began = clock.monotonic()
        async with db.write(engine) as connection:
            day = await _oldest_day(connection, rules, since, before)
            attempts = await _remove_attempts(connection, rules, day) if day is not None else 0
            removed_runs = await _remove_runs(connection, before) if day is None else 0
        if day is None and not removed_runs:
            return replace(gone, complete=True)
        if day is not None:  # with nothing of that day left to lock, another prune is removing it
            since = day if attempts else day + timedelta(days=1)
        gone = replace(gone, attempts=gone.attempts + attempts, runs=gone.runs + removed_runs)
        watch(gone)
        pause = min(max(clock.monotonic() - began, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        await unless_stopped(stop, clock.sleep(pause))
    return gone


async def _oldest_day(connection: AsyncConnection, rules: Rules, since: date, before: date) -> date | None:
    """The first share day in a range with an attempt that can go."""
    oldest = select(func.min(share_attempts.c.share_day)).where(
        share_attempts.c.share_day >= since,
        share_attempts.c.share_day < before,
        share_attempts.c.outcome.in_(_outcomes_that_go(rules)),
    )
    day: date | None = (await connection.execute(oldest)).scalar_one()
    return day


async def _remove_attempts(connection: AsyncConnection, rules: Rules, day: date) -> int:
    removable = select(share_attempts.c.chat_id, share_attempts.c.sequence).where(
        share_attempts.c.share_day == day, share_attempts.c.outcome.in_(_outcomes_that_go(rules))
    )
    rows = await connection.execute(removable.limit(BATCH).with_for_update(skip_locked=True))
    keys = [{"of_chat": chat_id, "of_day": day, "of_sequence": sequence} for chat_id, sequence in rows]
    if keys:
        await connection.execute(_REMOVE_ATTEMPT, keys)
    return len(keys)


async def _remove_runs(connection: AsyncConnection, before: date) -> int:
    removable = select(runs.c.id).where(_run_goes(before)).limit(BATCH)
    ids = list((await connection.execute(removable.with_for_update(skip_locked=True))).scalars())
    if ids:
        await connection.execute(delete(runs).where(runs.c.id.in_(ids)))
    return len(ids)


def _outcomes_that_go(rules: Rules) -> list[Outcome]:
    """The outcomes of old attempts that no rule reads. An outcome that this version does not know stays."""
    settled = [outcome for outcome in Outcome if outcome is not Outcome.CLAIMED]
    return [outcome for outcome in settled if not rules.max_per_chat or outcome.value in NOT_SHARED]


def _run_goes(before: date) -> ColumnElement[bool]:
    """True for a row of `runs` that is old and that the scheduler does not read."""
    other = runs.alias("other")
    last_completed = (
        select(other.c.id)
        .where(other.c.status == RunStatus.COMPLETED.value, other.c.trigger != Trigger.RERUN.value)
        .order_by(other.c.finished_at.desc(), other.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    last_before = (
        select(other.c.id)
        .where(other.c.share_day < before)
        .order_by(other.c.started_at.desc(), other.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    return and_(
        runs.c.share_day < before,
        runs.c.status != RunStatus.RUNNING.value,
        runs.c.id != last_before,
        or_(runs.c.id != last_completed, last_completed.is_(None)),
    )


_REMOVE_ATTEMPT: Final = delete(share_attempts).where(
    share_attempts.c.chat_id == bindparam("of_chat"),
    share_attempts.c.share_day == bindparam("of_day"),
    share_attempts.c.sequence == bindparam("of_sequence"),
)
