"""How the databases go about the worker's statements: their own plans, for the statements as the worker sends them."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPICursor, ExecutionContext
from sqlalchemy.ext.asyncio import AsyncConnection

from bench.world import LINES, line
from worker import db
from worker.account import Card
from worker.chats import facts
from worker.ledger import attempts
from worker.ledger.attempts import Recorded
from worker.outcomes import Answer, Outcome
from worker.rules.eligibility import Rules
from worker.sharing.candidates import Due

CHANGING: Final = (
    (re.compile(r"'\{[^']*,[^']*\}'::(text\[\]|cstring)"), r"'{...}'::\1"),
    (re.compile(r"'[0-9a-f]{8}-[0-9a-f-]{27}'"), "'<id>'"),
    (re.compile(r"'\d{4}-\d\d-\d\d[^']*'"), "'<moment>'"),
)
"""What differs from one plan to the next of the same statement."""


@contextlib.contextmanager
def watched(connection: AsyncConnection) -> Iterator[list[list[str]]]:
    """The plan of each statement that is sent over a connection during the block, line by line."""
    prefix = "EXPLAIN " if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
    found: list[list[str]] = []

    def explain(
        sent_by: Connection,
        _cursor: DBAPICursor,
        sql: str,
        parameters: Sequence[object] | Mapping[str, object] | list[Mapping[str, object]],
        _context: ExecutionContext | None,
        many: bool,
    ) -> None:
        cursor = sent_by.connection.cursor()
        cursor.execute(prefix + sql, parameters[0] if many else parameters)  # type: ignore[index,arg-type] # one or many
        found.append([_steady(str(row[-1])) for row in cursor.fetchall()])
        cursor.close()

    raw = connection.sync_connection
    if raw is None:
        msg = "the connection is closed"
        raise RuntimeError(msg)
    event.listen(raw, "before_cursor_execute", explain)
    try:
        yield found
    finally:
        event.remove(raw, "before_cursor_execute", explain)


async def of_a_pass(url: str) -> dict[str, list[str]]:
    """The plans of the walk, the claim, the record and the tally, as a pass over a database has them."""
    rules, now, run_id = Rules(), datetime.now(UTC), "run-of-the-plans"
    due = Due(rules)
    cards = [
        Card(phone_number=line(number), first_name="Acme", last_name=None, image_url=None, is_active=True)
        for number in range(LINES)
    ]
    plans: dict[str, list[str]] = {}
    async with db.opened(db.parse_url(url)) as engine:
        async with db.write(engine) as connection:
            await facts.store_cards(connection, cards, now)
        async with db.read(engine) as connection:
            with watched(connection) as found:
                window = await due.read_ahead(connection, now, after="", at_most=5_000)
            plans["walk"] = _joined(found)
        async with db.write(engine) as connection:
            with watched(connection) as found:
                claims = await attempts.claim(
                    connection,
                    partial(due.claimable, now),
                    run_id=run_id,
                    day=rules.share_day(now),
                    now=now,
                    among=list(window.line_of)[:100],
                    at_most=20,
                )
            plans["claim"] = _joined(found)
            answer = Answer(outcome=Outcome.SHARED, http_status=202)
            with watched(connection) as found:
                await attempts.record(
                    connection, [Recorded(claim=claim, answer=answer, finished_at=now) for claim in claims]
                )
            plans["record"] = _joined(found)
        async with db.read(engine) as connection:
            with watched(connection) as found:
                await due.remainder(connection, now, run_id=run_id)
            plans["tally"] = _joined(found)
    return plans


def _joined(found: list[list[str]]) -> list[str]:
    """The plans of several statements, an empty line between them."""
    return [told for number, plan in enumerate(found) for told in ([""] if number else []) + plan]


def _steady(told: str) -> str:
    for pattern, name in CHANGING:
        told = pattern.sub(name, told)
    return told.rstrip()
