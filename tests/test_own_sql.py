"""The partner's own SQL of docs/chats.md, run as it stands beside tables of theirs; and a pass over what it wrote."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.commands import ROOT
from tests.scene import LINE, Scene
from worker import db
from worker.db.tables import chats
from worker.outcomes import RunStatus

OTHER = "+15550100002"
PARTNERS = """
CREATE TABLE conversations (id INTEGER PRIMARY KEY, linq_chat_id TEXT UNIQUE, our_number TEXT NOT NULL, channel TEXT,
    is_group BOOLEAN NOT NULL DEFAULT false, opted_out BOOLEAN NOT NULL DEFAULT false);
CREATE TABLE messages (conversation_id INTEGER NOT NULL REFERENCES conversations, direction TEXT NOT NULL,
    sent_at TIMESTAMPTZ NOT NULL);
INSERT INTO conversations VALUES (1, 'both', '+15550100001', 'IMESSAGE', false, false),
    (2, 'silent', '+15550100001', 'iMessage', false, false), (3, 'text', '+15550100001', 'sms', false, false),
    (4, 'group', '+15550100001', 'iMessage', true, false), (5, 'stopped', '+15550100001', 'iMessage', false, true),
    (6, 'unclear', '+15550100001', NULL, false, false), (7, NULL, '+15550100001', 'iMessage', false, false);
INSERT INTO messages SELECT id, 'outbound', '2026-03-09T07:00:00+02:00' FROM conversations WHERE id <> 2;
INSERT INTO messages VALUES (1, 'outbound', '2026-03-08T07:00:00Z'), (1, 'inbound', '2026-03-09T06:30:00.250Z');
"""


def of_the_docs(dialect: str) -> str:
    """The upsert for a database, as docs/chats.md has it."""
    text = (ROOT / "docs" / "chats.md").read_text()
    part = text.partition({"postgresql": "\n### PostgreSQL\n", "sqlite": "\n### SQLite\n"}[dialect])[2]
    return part.partition("```sql\n")[2].partition("```")[0]


def execute(engine: AsyncEngine, script: str) -> None:
    """Execute SQL as the partner does: with a client of their own, past the worker's code."""
    if engine.dialect.name == "sqlite":
        with closing(sqlite3.connect(str(engine.url.database))) as connection:
            connection.executescript(script)
        return
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as postgresql:
        postgresql.execute(script)


async def rows(engine: AsyncEngine, *columns: str) -> dict[str, Sequence[object]]:
    async with db.read(engine) as connection:
        found = await connection.execute(select(chats.c.id, *(chats.c[name] for name in columns)))
        return {chat_id: values for chat_id, *values in found}


async def test_the_upsert_brings_every_fact_from_the_partners_tables_and_a_pass_reads_them(scene: Scene) -> None:
    upsert = of_the_docs(scene.engine.dialect.name)
    execute(scene.engine, PARTNERS + upsert)
    for chat_id in ("both", "silent", "text", "group", "stopped", "unclear"):
        chat = await scene.add_chat(chat_id)  # in the account; the row in the table stays as it is
        assert chat.from_number == LINE
    told = await rows(scene.engine, "service", "is_group", "health_status", "last_outbound_at", "last_inbound_at")
    at_five = scene.clock.now().replace(day=9, hour=5, minute=0)
    assert told == {
        "both": ["IMESSAGE", False, None, at_five, at_five + timedelta(hours=1, minutes=30, milliseconds=250)],
        "silent": ["iMessage", False, None, None, None],
        "text": ["sms", False, None, at_five, None],
        "group": ["iMessage", True, None, at_five, None],
        "stopped": ["iMessage", False, "OPTED_OUT", at_five, None],
        "unclear": [None, False, None, at_five, None],
    }
    result = await scene.one_pass()
    assert sorted(scene.called()) == ["both", "group"]
    assert result.tally is not None
    assert result.tally["skipped"] == {"not_imessage": 2, "no_outbound": 1, "opted_out": 1}


async def test_the_upsert_again_writes_only_what_has_changed_and_takes_no_time_back(scene: Scene) -> None:
    upsert = of_the_docs(scene.engine.dialect.name)
    execute(scene.engine, PARTNERS + upsert)
    now = scene.clock.now()
    await scene.change_chat("both", last_outbound_at=now, last_inbound_at=now, paused_at=now)
    for chat_id in ("both", "text", "silent"):
        await scene.change_chat(chat_id, updated_at=now)
    execute(
        scene.engine,
        f"UPDATE conversations SET our_number = '{OTHER}' WHERE id = 3;"  # noqa: S608 -- a test's constant
        "UPDATE conversations SET opted_out = false WHERE id = 5;"
        "INSERT INTO messages VALUES (4, 'outbound', '2026-03-10T07:00:00Z');" + upsert,
    )
    told = await rows(scene.engine, "from_number", "health_status", "last_outbound_at", "last_inbound_at", "updated_at")
    assert told["both"] == [LINE, None, now, now, now]
    assert (await rows(scene.engine, "paused_at"))["both"] == [now]
    assert told["silent"][-1] == now, "nothing was written"
    assert told["text"][0] == OTHER
    assert told["text"][-1] != now
    assert told["stopped"][1] is None
    assert told["group"][2] == scene.clock.now().replace(hour=7, minute=0)


ODD = [
    "INSERT INTO chats (id, from_number, service, last_outbound_at) VALUES ('odd', '+15550100001', '', '{good}')",
    "INSERT INTO chats (id, from_number, service, last_outbound_at) VALUES ('odd', '', 'imessage', '{good}')",
    "INSERT INTO chats (id, from_number, service, last_outbound_at, health_status, handle)"
    " VALUES ('odd', '+15550100001', 'IMESSAGE', '{good}', 'opted_out', '=1+1')",
]
ODD_TIMES = ["", "yesterday", "infinity", "9999-99-99", "\N{REPLACEMENT CHARACTER}", "-1"]
OTHER_TIMES = ("last_inbound_at", "paused_at", "missing_at", "opted_out_at", "card_received_at", "synced_at")


async def a_pass_over(scene: Scene, statement: str) -> None:
    execute(scene.engine, statement.format(good="2026-03-10 07:00:00+00:00") + ";")
    await scene.add_chat("good")
    result = await scene.one_pass()
    assert (result.status, result.detail) == (RunStatus.COMPLETED, None)
    assert (await scene.outcomes())["good"] == "shared"


@pytest.mark.parametrize("statement", ODD)
async def test_odd_words_in_a_row_cost_no_other_chat_its_share(scene: Scene, statement: str) -> None:
    await a_pass_over(scene, statement)
    assert scene.called() == ["good"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "written", [*(f"'{time}'" for time in ODD_TIMES), "x'ff'", "CAST(x'ff' AS TEXT)", "17731278.5"]
)
async def test_odd_times_in_any_column_cost_no_other_chat_its_share(scene: Scene, written: str) -> None:
    columns = ", ".join(OTHER_TIMES)
    for number, column in enumerate(OTHER_TIMES):
        execute(
            scene.engine,
            f"INSERT INTO chats (id, from_number, service, last_outbound_at, {column})"  # noqa: S608 -- a test's constants
            f" VALUES ('odd-{number}', '{LINE}', 'iMessage', {written}, {written})",
        )
    values = ", ".join([written] * len(OTHER_TIMES))
    await a_pass_over(
        scene,
        f"INSERT INTO chats (id, from_number, service, last_outbound_at, {columns})"  # noqa: S608 -- a test's constants
        f" VALUES ('odd', '{LINE}', 'iMessage', '{{good}}', {values})",
    )
