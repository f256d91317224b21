"""Reads the ledger and the table `runs` for reports. Nothing here writes or decides anything.

Attempts are streamed, newest first, one share day at a time: each day is read by its index, and the database never
sorts more than one day.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import ColumnElement, Select, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import db
from worker.db.tables import WENT_WRONG, chats, runs, share_attempts
from worker.ledger.attempts import is_stale
from worker.outcomes import Outcome, RunStatus, Tally, Trigger


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A row of the ledger."""

    chat_id: str
    share_day: date
    sequence: int
    outcome: str
    run_id: str
    claimed_at: datetime
    finished_at: datetime | None
    http_status: int | None
    error_code: int | None
    error_message: str | None
    trace_id: str | None
    requested_by: str | None
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptFilter:
    """Which attempts to read: those that match every field given. `since` and `until` are share days, both included."""

    chat_ids: Sequence[str] = ()
    lines: Sequence[str] = ()
    since: date | None = None
    until: date | None = None
    outcomes: Sequence[Outcome] = ()
    codes: Sequence[int] = ()
    run_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A row of `runs`: one pass."""

    id: str
    trigger: str
    share_day: date
    worker: str
    started_at: datetime
    finished_at: datetime | None
    status: str
    detail: str | None
    tally: Tally | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerCount:
    """How many attempts of a pass got the same answer."""

    outcome: str
    http_status: int | None
    error_code: int | None
    count: int


async def attempts(engine: AsyncEngine, wanted: AttemptFilter, *, at_most: int | None = None) -> AsyncIterator[Attempt]:
    """The matching attempts, newest first."""
    left = at_most
    if wanted.chat_ids or wanted.run_id is not None:
        async for attempt in _stream(engine, _newest_first(wanted), left):
            yield attempt
        return
    day = await _day_before(engine, wanted, None)
    while day is not None and left != 0:
        statement = _newest_first(wanted).where(share_attempts.c.share_day == day)
        async for attempt in _stream(engine, statement, left):
            left = None if left is None else left - 1
            yield attempt
        day = await _day_before(engine, wanted, day)


AttemptKey = tuple[date, str, int]
"""The key of an attempt, in the order of a page: share day, chat, sequence."""


async def attempts_page(
    connection: AsyncConnection, wanted: AttemptFilter, at_most: int, *, before: AttemptKey | None = None
) -> list[Attempt]:
    """The matching attempts that come before a key, the latest share day first; read by an index, never sorted."""
    columns = share_attempts.c
    key = (columns.share_day, columns.chat_id, columns.sequence)
    statement = _columns().where(*_conditions(wanted)).order_by(*(part.desc() for part in key)).limit(at_most)
    if wanted.outcomes and not {Outcome.SHARED, Outcome.CLAIMED}.intersection(wanted.outcomes):
        statement = statement.where(WENT_WRONG)
    if before is not None:
        statement = statement.where(tuple_(*key) < before)
    return [Attempt(**row) for row in (await connection.execute(statement)).mappings()]


async def latest_attempts(connection: AsyncConnection, chat_id: str, at_most: int) -> list[Attempt]:
    """A chat's last attempts, newest first."""
    statement = _newest_first(AttemptFilter(chat_ids=[chat_id])).limit(at_most)
    return [Attempt(**row) for row in (await connection.execute(statement)).mappings()]


async def latest_runs(
    connection: AsyncConnection, at_most: int, *, before: tuple[datetime, str] | None = None
) -> list[Run]:
    """The last passes, newest first; `before`: only those that began before the pass with this start and id."""
    earlier = [] if before is None else [tuple_(runs.c.started_at, runs.c.id) < before]
    return await _newest_runs(connection, at_most, *earlier)


async def last_ended_run(connection: AsyncConnection) -> Run | None:
    """The latest pass that has ended."""
    latest = await _newest_runs(connection, 1, runs.c.status != RunStatus.RUNNING.value)
    return latest[0] if latest else None


async def passes_ended(connection: AsyncConnection, at_most: int) -> list[Run]:
    """The last passes that have ended, newest first; an admin's reruns are left out."""
    return await _newest_runs(
        connection, at_most, runs.c.status != RunStatus.RUNNING.value, runs.c.trigger != Trigger.RERUN.value
    )


async def last_scheduled_run(connection: AsyncConnection) -> Run | None:
    """The latest pass that began at a scheduled time."""
    latest = await _newest_runs(connection, 1, runs.c.trigger == Trigger.SCHEDULE.value)
    return latest[0] if latest else None


async def running_runs(connection: AsyncConnection) -> list[Run]:
    """The passes with status `running`, oldest first."""
    return await _runs(
        connection, select(runs).where(runs.c.status == RunStatus.RUNNING.value).order_by(runs.c.started_at)
    )


async def runs_beginning_with(connection: AsyncConnection, beginning: str, at_most: int) -> list[Run]:
    """The pass with this id, or else the passes whose id begins with it, newest first."""
    exact = await _runs(connection, select(runs).where(runs.c.id == beginning))
    if exact or not beginning:
        return exact
    matching = select(runs).where(runs.c.id.startswith(beginning, autoescape=True))
    return await _runs(connection, matching.order_by(runs.c.started_at.desc()).limit(at_most))


async def count_answers(connection: AsyncConnection, run_id: str) -> list[AnswerCount]:
    """A pass's attempts by outcome and Linq's answer, the most frequent first."""
    answer = (share_attempts.c.outcome, share_attempts.c.http_status, share_attempts.c.error_code)
    count = func.count().label("count")
    statement = select(*answer, count).where(share_attempts.c.run_id == run_id).group_by(*answer)
    rows = await connection.execute(statement.order_by(count.desc(), *answer))
    return [AnswerCount(**row) for row in rows.mappings()]


async def outcomes_per_day(connection: AsyncConnection, since: date, until: date) -> dict[date, dict[str, int]]:
    """Attempts by share day and outcome; days without attempts are left out."""
    statement = (
        select(share_attempts.c.share_day, share_attempts.c.outcome, func.count())
        .where(share_attempts.c.share_day.between(since, until))
        .group_by(share_attempts.c.share_day, share_attempts.c.outcome)
    )
    counts: dict[date, dict[str, int]] = {}
    for day, outcome, count in await connection.execute(statement):
        counts.setdefault(day, {})[outcome] = count
    return counts


async def count_stale_claims(connection: AsyncConnection, now: datetime) -> int:
    """Count the claims of dead workers; the next pass settles them."""
    statement = select(func.count()).where(is_stale(now))
    return int((await connection.execute(statement)).scalar_one())


def _newest_first(wanted: AttemptFilter) -> Select[*tuple[object, ...]]:
    columns = share_attempts.c
    order = (columns.share_day.desc(), columns.claimed_at.desc(), columns.chat_id, columns.sequence.desc())
    return _columns().where(*_conditions(wanted)).order_by(*order)


def _columns() -> Select[*tuple[object, ...]]:
    return select(*(share_attempts.c[name] for name in Attempt.__dataclass_fields__))


def _conditions(wanted: AttemptFilter) -> list[ColumnElement[bool]]:
    columns = share_attempts.c
    conditions: list[ColumnElement[bool]] = []
    if wanted.chat_ids:
        conditions.append(columns.chat_id.in_(wanted.chat_ids))
    if wanted.lines:
        conditions.append(columns.chat_id.in_(select(chats.c.id).where(chats.c.from_number.in_(wanted.lines))))
    if wanted.since is not None:
        conditions.append(columns.share_day >= wanted.since)
    if wanted.until is not None:
        conditions.append(columns.share_day <= wanted.until)
    if wanted.outcomes:
        conditions.append(columns.outcome.in_([outcome.value for outcome in wanted.outcomes]))
    if wanted.codes:
        conditions.append(columns.error_code.in_(wanted.codes))
    if wanted.run_id is not None:
        conditions.append(columns.run_id == wanted.run_id)
    return conditions


async def _stream(
    engine: AsyncEngine, statement: Select[*tuple[object, ...]], at_most: int | None
) -> AsyncIterator[Attempt]:
    async for row in db.stream(engine, statement.limit(at_most)):
        yield Attempt(**row)


async def _day_before(engine: AsyncEngine, wanted: AttemptFilter, day: date | None) -> date | None:
    """The last share day with attempts before `day` that the filter allows: one index lookup."""
    latest = select(func.max(share_attempts.c.share_day))
    if day is not None:
        latest = latest.where(share_attempts.c.share_day < day)
    if wanted.until is not None:
        latest = latest.where(share_attempts.c.share_day <= wanted.until)
    if wanted.since is not None:
        latest = latest.where(share_attempts.c.share_day >= wanted.since)
    async with db.read(engine) as connection:
        day_before: date | None = (await connection.execute(latest)).scalar()
        return day_before


async def _newest_runs(connection: AsyncConnection, at_most: int, *conditions: ColumnElement[bool]) -> list[Run]:
    newest_first = select(runs).where(*conditions).order_by(runs.c.started_at.desc(), runs.c.id.desc())
    return await _runs(connection, newest_first.limit(at_most))


async def _runs(connection: AsyncConnection, statement: Select[*tuple[object, ...]]) -> list[Run]:
    return [Run(**row) for row in (await connection.execute(statement)).mappings()]
