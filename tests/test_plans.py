"""How the databases go about a pass: by the keys, whatever the size of the tables. They are asked themselves."""

import re
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bench import plans, world
from tests.conftest import START
from tests.due import claim_on
from worker.db import read, write
from worker.db.tables import metadata
from worker.ledger import attempts
from worker.ledger.attempts import Recorded
from worker.outcomes import Answer, Outcome
from worker.rules.eligibility import Rules
from worker.sharing.candidates import Due

DOCS = Path(__file__).parent.parent / "docs"
KNOWN = {index.name for table in metadata.tables.values() for index in table.indexes} | {
    str(table.primary_key.name) for table in metadata.tables.values()
}
WHOLE_TABLE = re.compile(r"Seq Scan on (chats|share_attempts)|^SCAN (chats|today|before|share_attempts)")

LOOK_UP = re.compile(r"(?:share_attempts (?:today|before) .*\n.*Cond: |SEARCH (?:today|before) USING )(.*)")


async def fill(engine: AsyncEngine) -> None:
    """Chats, and yesterday's attempts, which the database knows well, and today's, of which it knows nothing yet."""
    await world.add_chats(engine, 20_000, due=2_000, now=START)
    await world.add_history(engine, chats=15_000, days=1, now=START)
    await world.settle_down(engine)
    await world.add_chats(engine, 5_000, due=0, called=5_000, now=START)
    statement = text("INSERT INTO contact_cards (phone_number, is_active, checked_at) VALUES (:line, true, :at)")
    async with write(engine) as connection:
        for number in range(world.LINES):
            await connection.execute(statement, {"line": world.line(number), "at": START.isoformat(" ")})


def whole_tables(plan: list[list[str]]) -> list[str]:
    return [line for statement in plan for line in statement if WHOLE_TABLE.search(line)]


async def test_a_claim_and_its_record_read_no_table_from_end_to_end(engine: AsyncEngine) -> None:
    await fill(engine)
    due = Due(Rules())
    async with write(engine) as connection:
        ids = list((await due.read_ahead(connection, START, after="", at_most=40)).line_of)
        with plans.watched(connection) as claiming:
            claims = await claim_on(connection, ids, now=START, at_most=20)
        done = Answer(outcome=Outcome.SHARED, http_status=202)
        with plans.watched(connection) as recording:
            await attempts.record(
                connection, [Recorded(claim=claim, answer=done, finished_at=START) for claim in claims]
            )
    assert len(ids) == 40
    assert [claim.chat_id for claim in claims] == ids[:20]
    assert claiming
    assert recording
    assert whole_tables(claiming) == []
    assert whole_tables(recording) == []


async def test_a_claim_does_not_read_the_attempts_of_a_day_that_has_just_begun(engine: AsyncEngine) -> None:
    """The database takes them for few, and would read them all for each claim."""
    await fill(engine)
    due = Due(Rules())
    async with write(engine) as connection:
        ids = list((await due.read_ahead(connection, START, after="", at_most=40)).line_of)
        with plans.watched(connection) as claiming:
            await claim_on(connection, ids, now=START, at_most=20)
    told = "\n".join(line for statement in claiming for line in statement)
    looked_up = LOOK_UP.findall(told)
    assert len(looked_up) in {2, 4}  # SQLite asks once, PostgreSQL before and under the lock
    assert all("chat_id" in by and "share_day" in by for by in looked_up), told


async def test_the_walk_goes_by_the_key(engine: AsyncEngine) -> None:
    await fill(engine)
    async with read(engine) as connection:
        with plans.watched(connection) as walking:
            await Due(Rules()).read_ahead(connection, START, after="", at_most=40)
    end_of_span = walking[0]
    assert any("pk_chats" in line or "PRIMARY KEY" in line for line in end_of_span)
    assert not any("share_attempts" in line and "Seq Scan" in line for line in walking[1])


def test_the_plans_in_the_documents_use_indexes_that_there_are() -> None:
    kept = sorted((DOCS / "plans").glob("*.txt"))
    assert len(kept) == 8
    for file in kept:
        told = file.read_text()
        assert set(re.findall(r"\b(?:ix|pk)_\w+", told)) <= KNOWN, file.name
        assert not re.search(r"Seq Scan on share_attempts|^SCAN (today|before|share_attempts)", told, re.MULTILINE)


def test_the_page_on_performance_names_indexes_and_plans_that_there_are() -> None:
    page = (DOCS / "performance.md").read_text()
    assert set(re.findall(r"\b(?:ix|pk)_\w+", page)) <= KNOWN
    for marker in ("throughput", "scale", "resources", "together", "webhooks", "profile", "versions"):
        assert len(page.partition(f"<!-- {marker} -->")[2].partition(f"<!-- /{marker} -->")[0]) > 10, marker
