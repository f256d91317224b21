"""Removing what the ledger no longer needs: old attempts and runs, and never what a verdict or the schedule looks at.

What is needed is said here and nowhere else, by the rules of `worker.rules.eligibility` and the questions of
`worker.ledger.runs`:

- attempts since `latest_allowed`: today's, and those that SHARE_EVERY_DAYS and SHARE_MIN_HOURS look at;
- with SHARE_MAX_PER_CHAT every attempt that counts toward it, however old;
- claims, until a pass has settled them;
- runs that are marked as running, the last one that was completed, and the last one before the day: by that the
  service knows that it was there before.
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
"""So many rows are removed in one transaction."""

SHORTEST_PAUSE_SECONDS: Final = 0.02
LONGEST_PAUSE_SECONDS: Final = 1.0
"""Between two batches, as long as the last one took: a running pass gets its turn, on SQLite too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Old rows that stay."""

    what: str
    count: int
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is older than a share day: how much of it can go, and what stays."""

    before: date
    attempts: int
    runs: int
    oldest: date | None
    """The share day of the oldest attempt that can go."""
    kept: list[Kept]


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What is gone. `complete`: nothing that can go is left."""

    attempts: int = 0
    runs: int = 0
    complete: bool = False


def latest_allowed(rules: Rules, now: datetime) -> date:
    """The latest share day up to which (itself not included) attempts can go without a change of any verdict."""
    return oldest_day_read(rules, now)


async def make_plan(connection: AsyncConnection, rules: Rules, before: date) -> Plan:
    """Count what can go from before a share day, and what stays."""
    old = select(share_attempts.c.outcome, func.count(), func.min(share_attempts.c.share_day)).where(
        share_attempts.c.share_day < before
    )
    found = {
        Outcome(outcome): (count, oldest)
        for outcome, count, oldest in await connection.execute(old.group_by(share_attempts.c.outcome))
    }
    going = _outcomes_that_go(rules)
    counting = sum(count for outcome, (count, _) in found.items() if outcome not in (*going, Outcome.CLAIMED))
    claims, _ = found.get(Outcome.CLAIMED, (0, None))
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
        Kept(what="runs", count=old_runs - going_runs, why="running, or the last ones, which 'serve' looks for"),
    ]
    return Plan(
        before=before,
        attempts=sum(found[outcome][0] for outcome in going if outcome in found),
        runs=going_runs,
        oldest=min((found[outcome][1] for outcome in going if outcome in found), default=None),
        kept=[one for one in kept if one.count],
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
    """Remove what can go from before a share day, in short transactions, until all is gone or `stop` is set.

    `watch` is told of what is gone so far, after each batch. Two at once are safe: they share the work.

    Raises:
        SQLAlchemyError: the database failed; what `watch` was told of is gone all the same.
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
        if day is not None:  # where nothing of a day is left to take, another prune holds it
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
    some = select(share_attempts.c.chat_id, share_attempts.c.sequence).where(
        share_attempts.c.share_day == day, share_attempts.c.outcome.in_(_outcomes_that_go(rules))
    )
    rows = await connection.execute(some.limit(BATCH).with_for_update(skip_locked=True))
    keys = [{"of_chat": chat_id, "of_day": day, "of_sequence": sequence} for chat_id, sequence in rows]
    if keys:
        await connection.execute(_REMOVE_ATTEMPT, keys)
    return len(keys)


async def _remove_runs(connection: AsyncConnection, before: date) -> int:
    some = select(runs.c.id).where(_run_goes(before)).limit(BATCH)
    ids = list((await connection.execute(some.with_for_update(skip_locked=True))).scalars())
    if ids:
        await connection.execute(delete(runs).where(runs.c.id.in_(ids)))
    return len(ids)


def _outcomes_that_go(rules: Rules) -> list[Outcome]:
    """The outcomes of old attempts that nothing looks at; a word that this version does not know is not among them."""
    settled = [outcome for outcome in Outcome if outcome is not Outcome.CLAIMED]
    return [outcome for outcome in settled if not rules.max_per_chat or outcome.value in NOT_SHARED]


def _run_goes(before: date) -> ColumnElement[bool]:
    """Whether a row of `runs` is old, and none of those that the service looks for."""
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
