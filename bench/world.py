"""Tables to measure on: chats and history, made inside the database, so that a million take seconds."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.db.tables import SQLITE_TIME

LINES: Final = 10
"""How many lines the chats are spread over; the fake API has a card for each."""


def line(number: int) -> str:
    """The phone number of a line, as the fake API names it."""
    return f"+1555010{number:04}"


async def add_chats(engine: AsyncEngine, count: int, *, due: int, called: int = 0, now: datetime) -> None:
    """So many chats, their ids UUIDs, as Linq's are, in no order of the table's.

    `due` of them are due; `called` would be, but were called today, an hour and a half ago; the others are SMS, and a
    tenth of them has no outbound message.
    """
    postgresql = engine.dialect.name == "postgresql"
    interval, others = max(1, count // max(due, 1)), count - due
    each = max(1, count // called) if called else 0
    is_due = f"(n % {interval} = 0 AND n / {interval} <= {due})" if due else "(1 = 0)"
    is_called = f"(n % {each} = {each // 2})" if called and called < others else ("(1 = 1)" if called else "(1 = 0)")
    async with engine.begin() as connection:  # no deadline: a million take longer than the worker's writes may
        await connection.execute(
            text(f"""
            INSERT INTO chats (id, from_number, service, is_group, last_outbound_at, health_status)
            {_numbers(engine, count)}
            SELECT {_uuid(engine)}, '+1555010' || {_four_digits(engine, f"n % {LINES}")},
                   CASE WHEN {is_due} OR {is_called} OR n % 10 = 0 THEN 'iMessage' ELSE 'SMS' END, {_false(engine)},
                   CASE WHEN {is_due} OR {is_called} OR n % 10 > 0 THEN {_time(engine, now - timedelta(days=2))} END,
                   CASE WHEN {is_due} THEN 'HEALTHY' WHEN {is_called} THEN 'AT_RISK' END
            FROM numbers {"" if postgresql else "ORDER BY 1"}
        """)
        )
        if called:
            called_chats = "FROM chats WHERE health_status = 'AT_RISK'"
            await connection.execute(text(_shares(engine, now - timedelta(minutes=90), called_chats, day=now)))


async def add_history(engine: AsyncEngine, *, chats: int, days: int, now: datetime) -> None:
    """Shares of the days before today: in each of so many chats, one a day; a transaction a day."""
    for days_ago in range(days, 0, -1):
        async with engine.begin() as connection:  # no deadline: a million take longer than the worker's writes may
            at = now - timedelta(days=days_ago)
            served = f"FROM (SELECT id FROM chats ORDER BY id LIMIT {chats}) AS served"
            await connection.execute(text(_shares(engine, at, served, day=at)))


async def settle_down(engine: AsyncEngine) -> None:
    """Let PostgreSQL do now what it would do in time: statistics, and what a bulk load leaves to be cleaned up."""
    if engine.dialect.name != "postgresql":
        return
    async with engine.connect() as connection:
        raw = await connection.execution_options(isolation_level="AUTOCOMMIT")
        for command in ("VACUUM ANALYZE", "CHECKPOINT"):
            await raw.execute(text(command))


def _shares(engine: AsyncEngine, at: datetime, source: str, *, day: datetime) -> str:
    """Shares at a moment, of the share day of another one: shortly after midnight, an hour ago was yesterday."""
    return f"""
        INSERT INTO share_attempts (chat_id, share_day, sequence, outcome, run_id, claimed_at, finished_at, http_status)
        SELECT id, '{day:%Y-%m-%d}', 0, 'shared', 'run-of-{day:%Y-%m-%d}', {_time(engine, at)}, {_time(engine, at)}, 202
        {source}
    """


def _numbers(engine: AsyncEngine, count: int) -> str:
    if engine.dialect.name == "postgresql":
        return f"WITH numbers AS (SELECT generate_series(1, {count}) AS n)"
    return f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})"


def _uuid(engine: AsyncEngine) -> str:
    if engine.dialect.name == "postgresql":
        return "gen_random_uuid()::text"
    parts = " || '-' || ".join(f"hex(randomblob({length}))" for length in (4, 2, 2, 2, 6))
    return f"lower({parts})"


def _four_digits(engine: AsyncEngine, number: str) -> str:
    return f"lpad(({number})::text, 4, '0')" if engine.dialect.name == "postgresql" else f"printf('%04d', {number})"


def _false(engine: AsyncEngine) -> str:
    return "false" if engine.dialect.name == "postgresql" else "0"


def _time(engine: AsyncEngine, at: datetime) -> str:
    return f"'{at.strftime(SQLITE_TIME)}{'+00' if engine.dialect.name == 'postgresql' else ''}'" + (
        "::timestamptz" if engine.dialect.name == "postgresql" else ""
    )
