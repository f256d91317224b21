"""Whatever a partner has written into `chats`: no row ends a pass, each is in one count, and garbage is not shared."""

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.commands import KEY, share_worker
from tests.conftest import START
from tests.scene import LINE, Scene
from worker import db
from worker.db.partner_values import LONGEST_ID, Unfit, count_unfit
from worker.db.tables import chats, read_time, share_attempts
from worker.outcomes import RunStatus
from worker.rules.eligibility import Rules, as_cards, count_verdicts

GOOD = "2026-03-10 07:00:00"
ANY = Rules()
RECENT = Rules(active_days=30)

Row = tuple[object, ...]
INSERT = "INSERT INTO chats (id, from_number, service, is_group, last_outbound_at) VALUES (?, ?, ?, ?, ?)"


def write(engine: AsyncEngine, *rows: Row) -> None:
    """Write rows (id, from_number, service, is_group, last_outbound_at) as a partner does, past the worker's code."""
    if engine.dialect.name == "sqlite":
        with sqlite3.connect(str(engine.url.database)) as connection:
            connection.executemany(INSERT, rows)
        connection.close()
        return
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as postgresql:
        for row in rows:
            postgresql.execute(INSERT.replace("?", "%s"), row)


async def empty(scene: Scene) -> None:
    """Begin anew: nothing known, nothing called, and Linq's limit of one call in five minutes over."""
    scene.clock.move(minutes=6)
    async with db.write(scene.engine) as connection:
        await connection.execute(delete(chats))
        await connection.execute(delete(share_attempts))
    scene.account.share_calls.clear()


async def one_pass_with(scene: Scene, rules: Rules, *rows: Row) -> list[str]:
    """A pass over these rows and two good ones; those of the given ones that were called.

    The pass completes, the good ones are shared, everyone is counted once, and calls and ledger agree.
    """
    await empty(scene)
    await scene.add_chat(" first")
    await scene.add_chat("\U0010ffff last")
    write(scene.engine, *rows)
    result = await scene.one_pass(rules=rules)
    assert (result.status, result.detail) == (RunStatus.COMPLETED, None)
    tally = result.tally
    assert tally is not None
    assert tally["left"] == tally["unsent"] == tally["unknown"] == 0
    assert tally["shared"] + tally["rejected"] + sum(tally["skipped"].values()) == len(rows) + 2
    called = scene.called()
    assert len(called) == len(set(called))
    outcomes = await scene.outcomes()
    assert sorted(outcomes) == sorted(called)
    assert outcomes[" first"] == outcomes["\U0010ffff last"] == "shared"
    return [chat_id for chat_id in called if chat_id not in {" first", "\U0010ffff last"}]


# Any row at all

_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
_ids = st.sampled_from(
    ["", "..", ".", "/", "'", '"; DROP TABLE chats; --', "a\nb", "a b", "%2E%2E", "é😀", "?x=1#y", "\u202e", "x" * 499]
)
_services = st.sampled_from(["iMessage", "IMESSAGE", "imessage ", "SMS", "", None]) | _texts
_moments = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))]))
_sqlite_times = (
    st.sampled_from(
        [
            "",
            " ",
            "now",
            "yesterday",
            "12:00",
            "2026-02-31",
            "0",
            "-1",
            "infinity",
            "2026-03-10T25:00:00Z",
            "2026-W11-2",
        ]
    )
    | _texts
    | _moments.map(datetime.isoformat)
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False)
    | st.binary(max_size=12)
    | st.none()
)
_sqlite_rows = st.tuples(
    _ids | _texts | st.text(max_size=9).filter(str.isprintable) | st.binary(max_size=9) | st.integers(0, 2**62),
    st.just(LINE) | _texts | st.binary(max_size=9),
    _services | st.binary(max_size=9) | st.integers(0, 9),
    st.sampled_from([0, 1, 2, -1, "yes", "true", "", b"\1"]),
    _sqlite_times,
)
_postgresql_rows = st.tuples(
    _ids | _texts,
    st.just(LINE) | _texts,
    _services,
    st.booleans(),
    st.none() | st.sampled_from(["infinity", "-infinity", "4713-01-01 BC", "294276-12-31"]) | _moments,
)
bounded = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def distinct(rows: Sequence[Row]) -> list[Row]:
    """Rows with ids that stay distinct as text."""
    return list({str(row[0]) if isinstance(row[0], int) else row[0]: row for row in rows}.values())


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@bounded
@given(rows=st.lists(_sqlite_rows, max_size=8).map(distinct), rules=st.sampled_from([ANY, RECENT]))
@example(rows=[(b"\xff\0", LINE, "iMessage", 0, GOOD), ("plain", LINE, "iMessage", 0, GOOD)], rules=ANY)
async def test_no_row_of_sqlite_ends_a_pass(scene: Scene, rows: list[Row], rules: Rules) -> None:
    await one_pass_with(scene, rules, *rows)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@bounded
@given(rows=st.lists(_postgresql_rows, max_size=8).map(distinct), rules=st.sampled_from([ANY, RECENT]))
async def test_no_row_of_postgresql_ends_a_pass(scene: Scene, rows: list[Row], rules: Rules) -> None:
    await one_pass_with(scene, rules, *rows)


# Ids


@pytest.mark.parametrize("chat_id", ["..", "'", "a\nb", "é😀", "?x=1#y", "%2E", "a/b/c", "x" * LONGEST_ID])
async def test_an_odd_id_is_called_under_its_own_name(scene: Scene, chat_id: str) -> None:
    assert await one_pass_with(scene, ANY, (chat_id, LINE, "iMessage", False, GOOD)) == [chat_id]


@pytest.mark.parametrize("chat_id", ["", "x" * (LONGEST_ID + 1), "x" * 100_000])
async def test_what_can_be_no_id_is_a_missing_chat(scene: Scene, chat_id: str) -> None:
    assert await one_pass_with(scene, ANY, (chat_id, LINE, "iMessage", False, GOOD)) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("value", ["x'00ff'", "x'616263'", "CAST(x'61ff62' AS TEXT)", "CAST(x'ff' AS TEXT)"])
async def test_what_sqlite_keeps_that_is_no_text_is_a_missing_chat(scene: Scene, value: str) -> None:
    await scene.add_chat("chat")
    with sqlite3.connect(str(scene.engine.url.database)) as connection:
        connection.execute(
            f"INSERT INTO chats (id, from_number, service, last_outbound_at) VALUES ({value}, ?, 'iMessage', ?)",  # noqa: S608 -- a test's constant
            (LINE, GOOD),
        )
    connection.close()
    result = await scene.one_pass()
    assert result.tally is not None
    assert (result.tally["shared"], result.tally["skipped"]) == (1, {"missing": 1})


# Times


READABLE = [
    "2026-03-10 07:30:15",
    "2026-03-10T07:30:15Z",
    "2026-03-10T09:30:15+02:00",
    "2026-03-10T09:30:15+0200",
    "2026-03-10 09:30:15 +02:00",
    "2026-03-10 07:30:15.123456789",
    "20260310T073015Z",
    "2026-03-10",
    "2026-W11-2",
]
UNREADABLE = ["", "yesterday", "now", "12:00", "1773127815", 1773127815, 2461110.8, "2026-13-01", "03/10/2026", b"\xff"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("rules", [ANY, RECENT], ids=["any", "recent"])
async def test_in_sqlite_a_time_that_cannot_be_read_is_no_outbound_message(scene: Scene, rules: Rules) -> None:
    """Nothing else is known of it, so in doubt nobody is called; what can be read counts as what it says."""
    readable = [(f"r{number:02}", LINE, "iMessage", 0, written) for number, written in enumerate(READABLE)]
    unreadable = [(f"u{number:02}", LINE, "iMessage", 0, written) for number, written in enumerate(UNREADABLE)]
    called = await one_pass_with(scene, rules, *readable, *unreadable)
    assert called == [row[0] for row in readable]
    async with db.read(scene.engine) as connection:
        rows = await connection.execute(select(chats.c.last_outbound_at).where(chats.c.id.like("u%")))
        assert set(rows.scalars()) == {None}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_in_sqlite_each_form_of_a_time_is_judged_by_what_it_says(scene: Scene) -> None:
    """All of them name a moment of that day: until thirty days later the chat is active, a day after that dormant."""
    rows = [(f"r{number:02}", LINE, "iMessage", 0, written) for number, written in enumerate(READABLE)]
    write(scene.engine, *rows)
    cards = as_cards({LINE: True})
    async with db.read(scene.engine) as connection:
        before = await count_verdicts(connection, RECENT, datetime(2026, 4, 8, 23, tzinfo=UTC), cards=cards)
        after = await count_verdicts(connection, RECENT, datetime(2026, 4, 10, tzinfo=UTC), cards=cards)
    assert before == {"due": len(rows)}
    assert after == {"dormant": len(rows)}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("rules", [ANY, RECENT], ids=["any", "recent"])
async def test_in_postgresql_an_endless_time_is_no_outbound_message(scene: Scene, rules: Rules) -> None:
    rows = [(written, LINE, "iMessage", False, written) for written in ("infinity", "-infinity")]
    assert await one_pass_with(scene, rules, *rows) == []


def test_every_time_that_the_worker_writes_it_can_read() -> None:
    for moment in (START, datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)):
        assert read_time(moment.isoformat()) == moment


@given(st.text() | _moments.map(datetime.isoformat))
def test_any_text_is_a_time_or_none(written: str) -> None:
    moment = read_time(written)
    assert moment is None or moment.tzinfo is UTC


# Groups


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("is_group", "called"), [(0, ["x"]), (1, []), (2, []), ("true", []), ("no", []), ("", [])])
async def test_where_groups_are_excluded_only_what_says_no_is_none(
    scene: Scene, is_group: object, called: list[str]
) -> None:
    rules = Rules(include_groups=False)
    assert await one_pass_with(scene, rules, ("x", LINE, "iMessage", is_group, GOOD)) == called


# It is said


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_rows_that_can_never_be_due_are_counted_and_no_others(scene: Scene) -> None:
    write(
        scene.engine,
        ("one", LINE, "iMessage", 0, "last tuesday"),
        ("", LINE, "iMessage", 0, 1773127815),
        ("x" * (LONGEST_ID + 1), LINE, "iMessage", 0, GOOD),
        (b"blob", LINE, "iMessage", 0, None),
        ("good", LINE, "iMessage", 0, GOOD),
        ("new", LINE, "iMessage", 0, None),
    )
    async with db.read(scene.engine) as connection:
        assert await count_unfit(connection) == Unfit(ids=3, times=2, written="last tuesday")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_check_names_the_rows_that_can_never_be_due(scene: Scene, database_url: str) -> None:
    now = datetime.now(UTC).isoformat()
    write(
        scene.engine,
        ("one", LINE, "iMessage", 0, "last\ntuesday"),
        ("two", LINE, "iMessage", 0, 1773127815),
        ("", LINE, "iMessage", 0, now),
        ("good", LINE, "iMessage", 0, now),
    )
    ended = await share_worker("check", LINQ_API_KEY=KEY, LINQ_BASE_URL=scene.base_url, DATABASE_URL=database_url)
    assert ended.code == 1
    assert "ok    chats     1 of 4 are due now; 1 missing, 2 no_outbound" in ended.out
    assert "FAIL  chats     2 have a last_outbound_at that names no time, such as 'last tuesday'; write" in ended.out
    assert f"FAIL  chats     1 have an id that is no text of 1 to {LONGEST_ID} characters; write Linq's" in ended.out


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_check_names_endless_times(scene: Scene, database_url: str) -> None:
    write(scene.engine, ("one", LINE, "iMessage", False, "infinity"))
    ended = await share_worker("check", LINQ_API_KEY=KEY, LINQ_BASE_URL=scene.base_url, DATABASE_URL=database_url)
    assert "FAIL  chats     1 have a last_outbound_at that names no time, such as 'infinity'" in ended.out


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("written", UNREADABLE[:-1])
async def test_explain_reads_a_time_that_names_none(scene: Scene, database_url: str, written: object) -> None:
    write(scene.engine, ("one", LINE, "iMessage", 0, written))
    ended = await share_worker("explain", "one", LINQ_API_KEY=KEY, DATABASE_URL=database_url)
    assert ended.code == 0
    assert "no outbound message" in ended.out


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_explain_reads_an_endless_time(scene: Scene, database_url: str) -> None:
    write(scene.engine, ("one", LINE, "iMessage", False, "infinity"))
    ended = await share_worker("explain", "one", LINQ_API_KEY=KEY, DATABASE_URL=database_url)
    assert ended.code == 0
    assert "no outbound message" in ended.out
