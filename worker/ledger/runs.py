"""The table `runs`: one row for each pass, and what the scheduler asks of them. A pass is a row of `runs`."""

from collections.abc import Collection, Iterable
from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy import and_, exists, false, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.db.tables import runs
from worker.outcomes import RunStatus, Tally, Trigger, waiting_in

LONGEST_PASS: Final = timedelta(days=2)
"""No pass lasts longer: it ends with its share day, and a day has 25 hours at most, when summer time ends."""


async def open_run(
    connection: AsyncConnection, *, run_id: str, trigger: Trigger, share_day: date, worker: str, now: datetime
) -> None:
    """Write down that a pass began."""
    await connection.execute(
        insert(runs).values(
            id=run_id,
            trigger=trigger.value,
            share_day=share_day,
            worker=worker,
            started_at=now,
            status=RunStatus.RUNNING.value,
        )
    )


async def close_run(
    connection: AsyncConnection,
    *,
    run_id: str,
    status: RunStatus,
    detail: str | None,
    tally: Tally | None,
    now: datetime,
) -> None:
    """Write down how a pass ended."""
    await connection.execute(
        update(runs).where(runs.c.id == run_id).values(status=status.value, detail=detail, tally=tally, finished_at=now)
    )


async def running_workers(connection: AsyncConnection) -> list[str]:
    """The workers of the runs that are marked as running."""
    return list(
        (await connection.execute(select(runs.c.worker).where(runs.c.status == RunStatus.RUNNING.value))).scalars()
    )


async def close_dead_runs(connection: AsyncConnection, *, workers: Collection[str], today: date, now: datetime) -> int:
    """Mark as failed the runs that cannot be running any more; return how many there were.

    Those are the ones of workers that ended or are about to begin another run, and those of days that are over.
    """
    result = await connection.execute(
        update(runs)
        .where(
            runs.c.status == RunStatus.RUNNING.value,
            or_(runs.c.worker.in_(workers), runs.c.share_day < today - timedelta(days=1)),
        )
        .values(
            status=RunStatus.FAILED.value,
            finished_at=now,
            detail="the worker ended without finishing the pass",
        )
    )
    return result.rowcount


async def is_done(
    connection: AsyncConnection,
    day: date,
    *,
    started_after: datetime | None = None,
    finished_after: datetime | None = None,
) -> bool:
    """Whether a pass of a day, begun or ended since then, left nobody waiting: any worker's, but no rerun's.

    Chats of a line that rests wait: the rest may end that day.
    """
    statement = select(runs.c.tally).where(
        runs.c.share_day == day, runs.c.status == RunStatus.COMPLETED.value, runs.c.trigger != Trigger.RERUN.value
    )
    if started_after is not None:
        statement = statement.where(runs.c.started_at >= started_after)
    if finished_after is not None:
        statement = statement.where(runs.c.finished_at >= finished_after)
    tallies: Iterable[Tally | None] = (await connection.execute(statement)).scalars()
    return any(tally is not None and not waiting_in(tally) for tally in tallies)


async def has_been_served(connection: AsyncConnection, day: date, fire: datetime) -> bool:
    """Whether any scheduler has begun a pass of the day since a scheduled time, whatever came of it."""
    by_hand = (Trigger.COMMAND.value, Trigger.RERUN.value)
    found = exists().where(runs.c.share_day == day, runs.c.started_at >= fire, runs.c.trigger.not_in(by_hand))
    return bool((await connection.execute(select(found))).scalar_one())


async def was_missed(connection: AsyncConnection, day: date, fire: datetime, *, is_over: bool) -> bool:
    """Whether no pass took place at a scheduled time of a day, and none was completed since; passes ran before that.

    A late pass says by its trigger that the time was missed. One that ran on over the time stands in for its pass; so
    does any pass of a day that is over.
    """
    since = and_(runs.c.started_at >= fire, runs.c.trigger != Trigger.RERUN.value)
    on_time = (Trigger.SCHEDULE.value, Trigger.RESUME.value)
    ran_on = and_(
        runs.c.started_at < fire,
        runs.c.started_at > fire - LONGEST_PASS,
        or_(runs.c.finished_at.is_(None), runs.c.finished_at >= fire),
    )
    of_the_day = runs.c.share_day == day if is_over else false()
    is_late = exists().where(since, runs.c.trigger == Trigger.CATCH_UP.value)
    is_served = exists().where(or_(and_(since, runs.c.trigger.in_(on_time)), ran_on, of_the_day))
    is_done = exists().where(since, runs.c.status == RunStatus.COMPLETED.value)
    late, served, done = (await connection.execute(select(is_late, is_served, is_done))).one()
    return not done and (late or not served) and await has_run_before(connection, fire)


async def last_completed(connection: AsyncConnection) -> datetime | None:
    """When the last completed pass ended."""
    ended = select(func.max(runs.c.finished_at)).where(
        runs.c.status == RunStatus.COMPLETED.value, runs.c.trigger != Trigger.RERUN.value
    )
    at: datetime | None = (await connection.execute(ended)).scalar_one()
    return at


async def has_run_on(connection: AsyncConnection, day: date) -> bool:
    """Whether any pass was begun for a day."""
    return bool((await connection.execute(select(exists().where(runs.c.share_day == day)))).scalar_one())


async def has_run_before(connection: AsyncConnection, moment: datetime) -> bool:
    """Whether any pass was begun before then: a worker that was never there has missed nothing."""
    return bool((await connection.execute(select(exists().where(runs.c.started_at < moment)))).scalar_one())
