"""Looking back through the real command line: `explain`, `attempts`, `runs`, `status`; without a key."""

import asyncio
import csv
import io
import json
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.commands import Ended, one_line, share_worker, start
from tests.databases import sqlite_only
from tests.past import RUN, Past
from tests.scene import LINE
from worker import __version__, db
from worker.account import Card
from worker.chats import facts
from worker.db.tables import chats as chats_table
from worker.outcomes import Outcome
from worker.rules.eligibility import Verdict

OTHER = "+15550100002"
HOUR = timedelta(hours=1)
NOW = datetime.now(UTC)
DAYS = [NOW - timedelta(days=back) for back in range(4)]
GOOD, REFUSED, GONE = "aaaa-good", "bbbb-refused", "cccc-gone"


def zone_where_it_is_noon() -> ZoneInfo:
    """In which no test is in the middle of two share days."""
    hours = 12 - NOW.hour
    return ZoneInfo(f"Etc/GMT{-hours:+d}" if hours else "UTC")


ZONE = zone_where_it_is_noon()


@pytest.fixture
async def past(engine: AsyncEngine) -> Past:
    """Three chats that were called yesterday; one shared today and again, one refused, one that left the table."""
    past = Past(engine, ZONE)
    cards = [
        Card(phone_number=LINE, first_name="Acme", last_name="Support", image_url=None, is_active=True),
        Card(phone_number=OTHER, first_name="Acme", last_name="Sales", image_url=None, is_active=False),
    ]
    async with db.write(engine) as connection:
        await facts.store_cards(connection, cards, NOW - HOUR)
        rows = [
            {"id": chat_id, "from_number": line, "service": "iMessage", "last_outbound_at": NOW - 2 * HOUR}
            for chat_id, line in ((GOOD, LINE), (REFUSED, OTHER), (GONE, LINE), ("dddd-new", LINE))
        ]
        await connection.execute(chats_table.insert(), rows)
        await connection.execute(delete(chats_table).where(chats_table.c.id == GONE))
    refused = {"http_status": 404, "error_code": 2012, "error_message": "No active card\nfor it", "trace_id": "trace-7"}
    await past.run("20260309T090000Z-ffffff", DAYS[1])
    await past.run(RUN, NOW - HOUR)
    for chat_id in (GOOD, GONE):
        await past.attempt(chat_id, DAYS[1], http_status=202, run_id="20260309T090000Z-ffffff")
    await past.attempt(REFUSED, DAYS[1], Outcome.UNKNOWN, run_id="20260309T090000Z-ffffff", error_message="=1+1")
    await past.attempt(GOOD, NOW - HOUR, http_status=202)
    await past.attempt(REFUSED, NOW - HOUR / 2, Outcome.REJECTED, **refused)
    await past.attempt(GOOD, NOW - HOUR / 4, sequence=1, http_status=202, requested_by="ada", reason="she asked")
    return past


@pytest.fixture
def settings(past: Past, database_url: str) -> dict[str, str]:
    return {"DATABASE_URL": database_url, "SHARE_TIMEZONE": str(ZONE)}


def local(moment: datetime) -> str:
    return f"{moment.astimezone(ZONE):%Y-%m-%d %H:%M}"


# explain


@sqlite_only
async def test_explain_tells_all_about_a_chat(settings: dict[str, str]) -> None:
    ended = await share_worker("explain", GOOD, **settings)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == f"Chat {GOOD}"
    assert f"  from_number        {LINE}" in lines
    assert f"Card of {LINE}, as last seen" in lines
    assert "  is_active          yes" in lines
    assert f"  already_today: {Verdict.ALREADY_TODAY.meaning}" in lines
    marked = [line for line in lines if line.startswith(">")]
    assert [line.split()[1:3] for line in marked] == [["already_today", "yes"]]
    assert re.search(r"^  opted_out +- +health_status is not known; opted_out_at is empty$", ended.out, re.MULTILINE)
    tomorrow = NOW.astimezone(ZONE).date() + timedelta(days=1)
    assert re.search(rf"^Next due +from {tomorrow} 00:00:00", ended.out, re.MULTILINE)
    assert re.search(rf"^Scheduled +{tomorrow} 10:00:00", ended.out, re.MULTILINE)
    assert "Attempts: 3 shared, newest first" in lines
    assert "    rerun 1 by ada (she asked)" in lines


@sqlite_only
async def test_explain_names_linqs_answer_and_what_must_change(settings: dict[str, str]) -> None:
    ended = await share_worker("explain", REFUSED, **settings)
    assert re.search(r"^> +card_inactive +yes +the card is not active$", ended.out, re.MULTILINE)
    assert "Next due   not until its line's contact card is active (card_inactive)\n" in ended.out
    assert re.search(r"rejected  404/2012  took 0\.2 s$", ended.out, re.MULTILINE)
    assert "    said: No active card for it\n" in ended.out
    assert "    trace trace-7\n" in ended.out


@sqlite_only
async def test_explain_json_is_one_document(settings: dict[str, str]) -> None:
    document = json.loads((await share_worker("explain", REFUSED, "--json", **settings)).out)
    assert document["verdict"] == "card_inactive"
    assert document["next_due"] == {"at": None, "scheduled": None, "unless": ["card_inactive"]}
    assert [rule["rule"] for rule in document["rules"] if rule["holds"]] == [
        "card_inactive",
        "already_today",
        "too_soon",
    ]
    assert document["card"]["phone_number"] == OTHER
    assert [attempt["outcome"] for attempt in document["attempts"]] == ["rejected", "unknown"]
    assert document["attempts"][0]["trace_id"] == "trace-7"


@sqlite_only
async def test_explain_remembers_a_chat_that_left_the_table(settings: dict[str, str]) -> None:
    ended = await share_worker("explain", GONE, **settings)
    assert ended.code == 0
    assert "  Not in the table 'chats', so it is not shared with; the ledger has its history.\n" in ended.out
    assert "Attempts: 1 shared, newest first" in ended.out
    assert "Verdict" not in ended.out


async def test_explain_of_an_unknown_id_names_the_one_that_was_meant(settings: dict[str, str]) -> None:
    assert one_line(await share_worker("explain", "AAAA-godo", **settings), 2) == (
        f"share-worker: there is no chat 'AAAA-godo'; did you mean {GOOD}?"
    )
    assert one_line(await share_worker("explain", "cccc", **settings), 2).endswith(f"did you mean {GONE}?")


async def test_explain_shows_what_stands_in_a_times_place_and_names_none(
    engine: AsyncEngine, settings: dict[str, str]
) -> None:
    """SQLite takes whatever text a partner's SQL writes, PostgreSQL its own endless times."""
    written = "last week" if engine.dialect.name == "sqlite" else "-infinity"
    async with db.write(engine) as connection:
        await connection.execute(
            text(
                "INSERT INTO chats (id, from_number, service, last_outbound_at) VALUES ('odd', '+1', 'iMessage', :at)"
            ),
            {"at": written},
        )
        await connection.execute(
            text("INSERT INTO chats (id, from_number, paused_at) VALUES ('stopped', '+1', :at)"), {"at": written}
        )
    ended = await share_worker("explain", "odd", **settings)
    assert (ended.code, ended.err) == (0, "")
    assert "  is_group           no\n" in ended.out
    assert f"  last_outbound_at   '{written}' is not a timestamp\n" in ended.out
    assert re.search(rf"^> +no_outbound +yes +'{written}' is not a timestamp$", ended.out, re.MULTILINE)
    document = json.loads((await share_worker("explain", "stopped", "--json", **settings)).out)
    assert document["verdict"] == "paused"
    assert document["chat"]["paused_at"] is None
    assert document["unreadable"] == {"paused_at": written}


# attempts


@sqlite_only
async def test_attempts_are_a_table_newest_first(settings: dict[str, str]) -> None:
    ended = await share_worker("attempts", **settings)
    assert (ended.code, ended.err) == (0, "")
    head, *rows = ended.out.splitlines()
    assert head.split() == ["claimed", "chat", "outcome", "answer", "note"]
    assert [row.split()[2:4] for row in rows[:3]] == [[GOOD, "shared"], [REFUSED, "rejected"], [GOOD, "shared"]]
    assert len(rows) == 6
    assert rows[0].startswith(local(NOW - HOUR / 4))
    assert rows[0].endswith("  rerun 1 by ada (she asked)")
    assert re.search(r"rejected +404/2012 +No active card for it$", rows[1])


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--chat", GOOD, "--chat", GONE, "--day", "yesterday", "--run", "20260309"], [GONE, GOOD]),
        (["--line", f"{OTHER[:2]} ({OTHER[2:5]}) {OTHER[5:]}", "--code", "2012"], [REFUSED]),
        (["--line", OTHER, "--outcome", "unknown", "--outcome", "rejected", "--code", "2012"], [REFUSED]),
        (["--since", "yesterday", "--until", "today", "--limit", "2"], [GOOD, REFUSED]),
    ],
)
async def test_attempts_are_filtered_by_all_options_given(
    settings: dict[str, str], words: list[str], found: list[str]
) -> None:
    ended = await share_worker("attempts", *words, "--json", **settings)
    assert ended.code == 0, ended.err
    assert sorted(attempt["chat_id"] for attempt in json.loads(ended.out)["attempts"]) == sorted(found)


@sqlite_only
async def test_no_attempt_matches_is_said_beside_an_empty_result(settings: dict[str, str]) -> None:
    assert await share_worker("attempts", "--day", "2020-01-01", **settings) == Ended(
        0, "", "share-worker: no attempt matches\n"
    )
    ended = await share_worker("attempts", "--day", "2020-01-01", "--json", **settings)
    assert json.loads(ended.out) == {"attempts": []}


@sqlite_only
async def test_csv_has_a_head_and_no_formulas(settings: dict[str, str]) -> None:
    ended = await share_worker("attempts", "--day", "yesterday", "--csv", **settings)
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert len(rows) == 3
    assert list(rows[0])[:5] == ["chat_id", "share_day", "sequence", "outcome", "run_id"]
    assert {row["error_message"] for row in rows} == {"", "'=1+1"}
    assert {datetime.fromisoformat(row["claimed_at"]).utcoffset() for row in rows} == {timedelta(0)}


@sqlite_only
async def test_a_reader_that_goes_away_ends_attempts_without_a_word(
    engine: AsyncEngine, settings: dict[str, str]
) -> None:
    async with db.write(engine) as connection:
        numbers = "generate_series(1, 9000) AS n(i)"
        if engine.dialect.name == "sqlite":
            numbers = "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) SELECT i FROM n)"
        await connection.execute(
            text(
                "INSERT INTO share_attempts (chat_id, share_day, sequence, outcome, run_id, claimed_at)"  # noqa: S608 -- fixed names
                f" SELECT 'many-' || i, '2026-01-01', 0, 'shared', 'run', '2026-01-01 10:00:00+00:00' FROM {numbers}"
            )
        )
    process = await start("attempts", **settings)
    assert (await process.stdout.readline()).startswith(b"claimed")
    process.stdout._transport.close()  # type: ignore[attr-defined] # what `| head -1` does
    assert await process.stderr.read() == b""
    assert await process.wait() == -signal.SIGPIPE


@pytest.mark.parametrize(
    ("words", "sign"),
    [
        (
            ["attempts", "--day", "tomorrowish"],
            "'tomorrowish' is not a day; it must be today, yesterday, or a date such as",
        ),
        (
            ["attempts", "--since", "2026-02-02", "--until", "2026-02-01"],
            "--since 2026-02-02 is after --until 2026-02-01",
        ),
        (["attempts", "--day", "today", "--until", "today"], "--day is one share day"),
        (["attempts", "--line", "5550100001"], "'5550100001' has no country code"),
        (["explain", "caf\udce9"], "'caf\\udce9' on the command line is not UTF-8 text"),
    ],
)
async def test_what_cannot_be_meant_is_said_in_one_line(words: list[str], sign: str) -> None:
    assert sign in one_line(await share_worker(*words, DATABASE_URL="sqlite:///not-even-looked-for.db"), 2)


# runs


@sqlite_only
async def test_runs_are_listed_newest_first_with_their_counts(past: Past, settings: dict[str, str]) -> None:
    await past.run("20260310T100000Z-000000", NOW, status="running", finished_at=None, tally=None)
    ended = await share_worker("runs", **settings)
    head, *rows = ended.out.splitlines()
    assert head.split() == (
        [
            "run",
            "status",
            "shared",
            "rejected",
            "unknown",
            "unsent",
            "left",
            "started",
            "took",
            "trigger",
            "share",
            "day",
        ]
    )
    assert [row.split()[:7] for row in rows] == [
        ["20260310T100000Z-000000", "running", "-", "-", "-", "-", "-"],
        [RUN, "completed", "3", "1", "0", "0", "0"],
        ["20260309T090000Z-ffffff", "completed", "3", "1", "0", "0", "0"],
    ]
    assert local(NOW - HOUR) in rows[1]
    assert "90.0 s  schedule" in rows[1]
    document = json.loads((await share_worker("runs", "--limit", "1", "--json", **settings)).out)
    assert [run["status"] for run in document["runs"]] == ["running"]


async def test_a_run_in_detail_counts_its_attempts_by_answer(settings: dict[str, str]) -> None:
    ended = await share_worker("runs", RUN[:11], **settings)
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"Pass {RUN}\n")
    assert re.search(r"^  no_card +2  the line has no contact card$", ended.out, re.MULTILINE)
    assert re.search(r"^  chats +6$", ended.out, re.MULTILINE)
    assert re.search(r"^  shared +202 +2$", ended.out, re.MULTILINE)
    assert re.search(r"^  rejected +404/2012 +1$", ended.out, re.MULTILINE)
    document = json.loads((await share_worker("runs", RUN, "--json", **settings)).out)
    assert document["answers"][1] == {"outcome": "rejected", "http_status": 404, "error_code": 2012, "count": 1}


async def test_a_run_that_is_not_there_or_not_the_only_one_is_said_in_one_line(settings: dict[str, str]) -> None:
    missing = one_line(await share_worker("runs", RUN[:-1] + "x", **settings), 2)
    assert missing == f"share-worker: there is no pass '{RUN[:-1]}x'; did you mean {RUN}?"
    several = one_line(await share_worker("attempts", "--run", "202603", **settings), 2)
    assert several == f"share-worker: several passes begin with '202603': {RUN}, 20260309T090000Z-ffffff"


# status


@sqlite_only
async def test_status_is_one_screen(past: Past, settings: dict[str, str]) -> None:
    await past.attempt("eeee-dead", NOW - HOUR, Outcome.CLAIMED)
    await past.run("20260310T100000Z-000000", NOW, status="running", finished_at=None, tally=None)
    ended = await share_worker("status", SHARE_SCHEDULE="30 8 * * *", **settings)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert len(lines) <= 25, "one more than on a calm day"
    assert all(len(line) <= 80 for line in lines[1:])
    assert lines[0].startswith(f"share-worker {__version__}, schema {db.HEAD}, ")
    told = {line[:11].strip(): line[11:] for line in lines[1:9]}
    assert told["last pass"].startswith("completed ")
    assert told["last pass"].endswith(f": {RUN}")
    tomorrow = NOW.astimezone(ZONE).date() + timedelta(days=1)
    assert re.fullmatch(
        rf"{tomorrow} 08:30\S+, in \d+ h by this shell's '30 8 \* \* \*', {re.escape(str(ZONE))}", told["next pass"]
    )
    another = NOW.astimezone(ZONE)
    assert told["schedule"] == f"another one made the last scheduled pass, {another:%Y-%m-%d %H:%M%z}"[:-2]
    assert told["running"].startswith("20260310T100000Z-000000 on host:77, for ")
    assert told["today"] == f"{NOW.astimezone(ZONE).date()}: 2 shared, 1 rejected, 1 in flight"
    assert told["due now"].startswith("1 of 3 chats; cards as seen ")
    assert told["stale"] == "1 claims of dead workers; the next pass settles them"
    assert told["cards"] == f"1 of 2 active; no active one for {OTHER} (1 chat)"
    days = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d ", line)]
    assert len(days) == 14
    assert re.search(r" 2 +1 +0 +0  █+▒+$", days[-1])
    assert re.search(r" 2 +0 +1 +0  █+░+$", days[-2])


async def test_status_json_is_one_document(settings: dict[str, str]) -> None:
    document = json.loads((await share_worker("status", "--json", **settings)).out)
    assert document["today"] == {"claimed": 0, "shared": 2, "rejected": 1, "unknown": 0, "unsent": 0}
    assert document["due"] == 1
    assert document["last_run"]["id"] == RUN
    assert document["cards"]["without"] == {OTHER: 1}
    assert len(document["days"]) == 14
    assert document["schema"] == db.HEAD


async def test_status_of_a_database_that_saw_nothing_yet(database_url: str) -> None:
    ended = await share_worker("status", DATABASE_URL=database_url, PYTHONIOENCODING="ascii")
    assert ended.code == 0, ended.err
    assert ended.out.isascii()
    assert re.search(r"^last pass +none yet$", ended.out, re.MULTILINE)
    assert re.search(r"^due now +not known before the first pass; .*0 chats", ended.out, re.MULTILINE)


# what they leave alone


@pytest.mark.parametrize("words", [["explain", "x"], ["status"]])
async def test_an_empty_database_is_left_empty(empty_database: str, words: list[str]) -> None:
    file = Path(empty_database.removeprefix("sqlite:///"))
    line = one_line(await share_worker(*words, DATABASE_URL=empty_database), 1)
    assert "run 'share-worker migrate'" in line or "'share-worker migrate' makes it" in line
    assert not file.exists()


async def test_nothing_is_written_by_looking(engine: AsyncEngine, settings: dict[str, str]) -> None:
    async def rows() -> list[object]:
        async with db.read(engine) as connection:
            return [
                (await connection.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2"))).all()  # noqa: S608 -- the tables' own names
                for table in ("chats", "contact_cards", "share_attempts", "runs")
            ]

    before = await rows()
    ended = await asyncio.gather(
        *(share_worker(*words, **settings) for words in (["explain", GOOD], ["attempts"], ["runs", RUN], ["status"]))
    )
    assert [one.code for one in ended] == [0, 0, 0, 0]
    assert await rows() == before
