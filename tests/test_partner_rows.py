"""Whatever a partner has written into `chats`: no row ends a pass, each is in one count, and garbage is not shared."""

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.commands import KEY, share_worker
from tests.conftest import START
from tests.examples import bounded
from tests.scene import LINE, Scene
from worker import db
from worker.account import Card
from worker.chats.facts import chats_per_line
from worker.cli.output import check as output
from worker.db.partner_values import LONGEST_ID
from worker.db.tables import chats, read_time, share_attempts
from worker.outcomes import RunStatus
from worker.questions import check
from worker.rules.eligibility import Rules, as_read, count_verdicts

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
some = bounded(12)


def distinct(rows: Sequence[Row]) -> list[Row]:
    """Rows with ids that stay distinct as text."""
    return list({str(row[0]) if isinstance(row[0], int) else row[0]: row for row in rows}.values())


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@some
@given(rows=st.lists(_sqlite_rows, max_size=8).map(distinct), rules=st.sampled_from([ANY, RECENT]))
@example(rows=[(b"\xff\0", LINE, "iMessage", 0, GOOD), ("plain", LINE, "iMessage", 0, GOOD)], rules=ANY)
async def test_no_row_of_sqlite_ends_a_pass(scene: Scene, rows: list[Row], rules: Rules) -> None:
    await one_pass_with(scene, rules, *rows)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@some
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
    cards = as_read({LINE: True}, None)
    async with db.read(scene.engine) as connection:
        before = await count_verdicts(connection, RECENT, datetime(2026, 4, 8, 23, tzinfo=UTC), known=cards)
        after = await count_verdicts(connection, RECENT, datetime(2026, 4, 10, tzinfo=UTC), known=cards)
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


# Check finds it


def execute(engine: AsyncEngine, *statements: str) -> None:
    """Execute SQL of a partner's, past the worker's code."""
    if engine.dialect.name == "sqlite":
        with sqlite3.connect(str(engine.url.database)) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()
        return
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as postgresql:
        for statement in statements:
            postgresql.execute(statement)


def make_own_table(engine: AsyncEngine) -> None:
    """Put a partner's own table, without any key, in place of the worker's `chats`."""
    copy = "CREATE TABLE own AS SELECT * FROM chats"
    execute(engine, copy, "DROP TABLE chats", "ALTER TABLE own RENAME TO chats")


def card(number: str, *, active: bool = True) -> Card:
    return Card(phone_number=number, first_name="Acme", last_name=None, image_url=None, is_active=active)


async def check_chats(engine: AsyncEngine, now: datetime = START) -> list[str]:
    """What `check` says of the table `chats` and its rows, without the counts of due chats."""
    faults = await check.examine_table(engine)
    return [finding.found for finding in output.fault_findings([*faults, *await check.examine_rows(engine, now)])]


async def check_numbers(engine: AsyncEngine, *cards: Card) -> list[str]:
    """What `check` says of the lines that are no E.164 numbers, with these cards in the account."""
    async with db.read(engine) as connection:
        _, wrong = check.examine_lines(await chats_per_line(connection), cards)
    return [finding.found for finding in output.number_findings(wrong)]


async def test_check_has_nothing_to_say_of_rows_that_are_right(scene: Scene) -> None:
    write(
        scene.engine,
        ("7d9f2c1e-3b52-4a0e-9c55-0f6a2d8e4b71", LINE, "iMessage", False, GOOD),
        ("UPPER", LINE, "iMessage", False, "2026-03-10 09:33:00+00:00"),
        ("new", LINE, None, True, None),
    )
    assert await check_chats(scene.engine) == []
    assert await check_numbers(scene.engine) == []


async def test_check_finds_ids_that_linq_may_take_for_one_chat(scene: Scene) -> None:
    ids = ("abc", "ABC", "Abc", "x y", "other")
    write(scene.engine, *((chat_id, LINE, "iMessage", False, GOOD) for chat_id in ids))
    (similar,) = await check_chats(scene.engine)
    assert similar.startswith("1 id is in the table in several spellings, such as 'ABC' and 'abc'; to Linq they may be")
    write(scene.engine, (" x y", LINE, "iMessage", False, GOOD))
    similar, padded = await check_chats(scene.engine)
    assert similar.startswith("2 ids are in the table in several spellings, such as ' x y' and 'x y'; to Linq they may")
    assert padded == "1 row has an id with blanks around it, such as ' x y'; it must be Linq's id alone"


async def test_check_finds_times_that_have_not_come(scene: Scene) -> None:
    write(scene.engine, ("early", LINE, "iMessage", False, "2026-03-10 11:00:00+00:00"))
    execute(scene.engine, "UPDATE chats SET paused_at = '2027-01-01 00:00:00+00:00' WHERE id = 'early'")
    outbound, paused = await check_chats(scene.engine, START)
    assert outbound.startswith("1 row has a last_outbound_at in the future, such as '2026-03-10 11:00:00+00")
    assert outbound.endswith("; it must be a time that has passed, in UTC or with its offset")
    assert paused.startswith("1 row has a paused_at in the future, such as '2027-01-01 00:00:00+00")
    assert await check_chats(scene.engine, START + timedelta(days=365)) == []


async def test_check_finds_a_partners_own_table_without_a_key_and_ids_that_are_in_it_twice(scene: Scene) -> None:
    write(scene.engine, *((chat_id, LINE, "iMessage", False, GOOD) for chat_id in "abc"))
    make_own_table(scene.engine)
    (no_key,) = await check_chats(scene.engine)
    assert no_key.startswith("the table 'chats' has no primary key, and an id that is in it twice makes a pass fail: ")
    write(scene.engine, *((chat_id, LINE, "iMessage", False, GOOD) for chat_id in "aac"))
    _, duplicates = await check_chats(scene.engine)
    assert duplicates == "2 ids are in the table more than once, such as 'a'; keep one row of each"


async def test_what_check_says_of_a_table_without_a_key_mends_it(scene: Scene) -> None:
    make_own_table(scene.engine)
    (no_key,) = await check_chats(scene.engine)
    execute(scene.engine, no_key.partition("fail: ")[2])
    assert await check_chats(scene.engine) == []
    await scene.add_chat("chat")
    await scene.one_pass()
    assert scene.called() == ["chat"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_check_looks_at_the_worker_s_own_schema_and_names_it(scene: Scene) -> None:
    """A partner's own `chats`, without a key, stands in `public`."""
    execute(scene.engine, "DROP TABLE chats", "CREATE TABLE chats (id BIGINT)")
    async with db.opened(scene.engine.url, schema="sharing") as engine:
        await db.migrate(engine)
        assert await check.examine_table(engine) == []
        execute(engine, "ALTER TABLE sharing.chats DROP CONSTRAINT pk_chats")
        (fault,) = output.fault_findings(await check.examine_table(engine), db.schema_of(engine.sync_engine))
        execute(engine, fault.found.partition("fail: ")[2])
        assert await check.examine_table(engine) == []
    wrong = check.wrong_numbers({"14155550100": 1}, [])
    (number,) = output.number_findings(wrong, "sharing")
    assert "UPDATE \"sharing\".chats SET from_number = '+14155550100'" in number.found


async def test_check_names_the_columns_that_a_partners_own_table_lacks(scene: Scene) -> None:
    execute(scene.engine, "ALTER TABLE chats DROP COLUMN service", "ALTER TABLE chats DROP COLUMN missing_at")
    (finding,) = output.fault_findings(await check.examine_table(scene.engine))
    assert finding.found == "the table 'chats' must also have: service, missing_at"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("14155550100", "did you mean +14155550100, which has an active card? "),
        ("(415) 555-0100", "did you mean +14155550100, which has an active card? "),
        ("+1 415-555-0199", "did you mean +14155550199, which has a card that is not active? "),
        ("442079460958", "did you mean +442079460958? "),
        ("it's us", "it must be E.164, such as +14155550100"),
        ("", "it must be E.164, such as +14155550100"),
    ],
)
async def test_check_says_which_line_a_wrong_from_number_means(scene: Scene, written: str, said: str) -> None:
    cards = (card("+14155550100"), card("+14155550199", active=False))
    write(scene.engine, *((chat_id, written, "iMessage", False, GOOD) for chat_id in "ab"))
    (found,) = await check_numbers(scene.engine, *cards)
    assert found.startswith(f"from_number is {written!r} in 2 chats; {said}")
    before, _, update = found.partition("? ")
    if update:
        assert before
        execute(scene.engine, update)
        assert await check_numbers(scene.engine, *cards) == []


async def test_a_few_digits_are_not_taken_for_a_line(scene: Scene) -> None:
    write(scene.engine, ("chat", "0100", "iMessage", False, GOOD))
    (found,) = await check_numbers(scene.engine, card("+14155550100"))
    assert found == "from_number is '0100' in 1 chat; it must be E.164, such as +14155550100"


async def test_a_line_that_linq_lists_is_right_however_it_is_written(scene: Scene) -> None:
    write(scene.engine, ("chat", "12345", "iMessage", False, GOOD))
    assert await check_numbers(scene.engine, card("12345")) == []


async def test_a_table_full_of_wrong_numbers_is_said_in_a_few_lines(scene: Scene) -> None:
    write(scene.engine, *((f"chat-{number}", f"line {number}", "iMessage", False, GOOD) for number in range(25)))
    found = await check_numbers(scene.engine)
    assert len(found) == 21
    assert found[-1] == "from_number has 5 more values that are not E.164, in 5 chats"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_check_counts_what_sqlite_keeps_that_is_no_id_and_no_timestamp(scene: Scene) -> None:
    write(
        scene.engine,
        ("one", LINE, "iMessage", 0, "last\ntuesday"),
        ("", LINE, "iMessage", 0, 1773127815),
        ("x" * (LONGEST_ID + 1), LINE, "iMessage", 0, GOOD),
        (b"\xff", b"\xff", "iMessage", 0, b"\xff"),
        ("good", LINE, "iMessage", 0, GOOD),
        ("new", LINE, "iMessage", 0, None),
    )
    ids, times = await check_chats(scene.engine)
    assert ids.startswith(f"3 rows have an id that is not a text of 1 to {LONGEST_ID} characters, such as 'xxxx")
    assert times == (
        "3 rows have a last_outbound_at that is not a timestamp, such as 'last\\ntuesday'; "
        "it must be ISO 8601, such as 2026-03-10T09:00:00Z"
    )
    (number,) = await check_numbers(scene.engine)
    assert number.startswith("from_number is \"X'FF'\" in 1 chat; it must be E.164")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_check_names_endless_times(scene: Scene) -> None:
    write(scene.engine, ("one", LINE, "iMessage", False, "infinity"), ("two", LINE, "iMessage", False, "294276-12-31"))
    endless, future = await check_chats(scene.engine)
    assert endless.startswith("1 row has a last_outbound_at that is not a timestamp, such as 'infinity'; it must be")
    assert future.startswith("1 row has a last_outbound_at in the future, such as '294276-12-31 00:00:00")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_command_names_the_rows_that_can_never_be_due(scene: Scene, database_url: str) -> None:
    now = datetime.now(UTC).isoformat()
    write(
        scene.engine,
        ("one", LINE, "iMessage", 0, "last tuesday"),
        ("", LINE, "iMessage", 0, now),
        ("good", LINE, "iMessage", 0, now),
        ("typed", LINE.removeprefix("+"), "iMessage", 0, now),
    )
    ended = await share_worker("check", LINQ_API_KEY=KEY, LINQ_BASE_URL=scene.base_url, DATABASE_URL=database_url)
    assert ended.code == 1
    assert f"ok    card      {LINE} (Acme Support): active, 3 chats\n" in ended.out
    assert "ok    chats     1 of 4 are due now; 1 missing, 1 no_outbound, 1 no_card\n" in ended.out
    assert (
        "FAIL  chats     1 row has a last_outbound_at that is not a timestamp, such as 'last tuesday'; it" in ended.out
    )
    assert (
        f"FAIL  chats     1 row has an id that is not a text of 1 to {LONGEST_ID} characters, such as ''" in ended.out
    )
    assert f"from_number is '{LINE[1:]}' in 1 chat; did you mean {LINE}, which has an active card?" in ended.out
    assert "contact card" not in ended.out, "the fault is in the table, not in the account"
    listed = await share_worker(
        "cards", "list", LINQ_API_KEY=KEY, LINQ_BASE_URL=scene.base_url, DATABASE_URL=database_url
    )
    assert f"\nfrom_number is '{LINE[1:]}' in 1 chat; did you mean {LINE}, which has an active card?" in listed.out
    assert "cards create" not in listed.out, "Linq would refuse it"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("written", UNREADABLE)
async def test_explain_reads_a_time_that_names_none(scene: Scene, database_url: str, written: object) -> None:
    write(scene.engine, ("one", LINE, "iMessage", 0, written))
    ended = await share_worker("explain", "one", LINQ_API_KEY=KEY, DATABASE_URL=database_url)
    assert ended.code == 0
    assert "no outbound message is known yet" in ended.out


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_explain_reads_an_endless_time(scene: Scene, database_url: str) -> None:
    write(scene.engine, ("one", LINE, "iMessage", False, "infinity"))
    ended = await share_worker("explain", "one", LINQ_API_KEY=KEY, DATABASE_URL=database_url)
    assert ended.code == 0
    assert "no outbound message is known yet" in ended.out
