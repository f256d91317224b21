"""The command line, as a person or a cron job meets it: what it prints, where, and how it exits."""

import json
import re
import sqlite3
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.commands import KEY, Ended, one_line, seen, share_worker
from tests.databases import sqlite_only
from tests.scene import LINE, Scene
from worker import __version__, db
from worker.errors import DatabaseError
from worker.simulator.faults import Fault

OTHER = "+15550100002"
NOBODY = "http://127.0.0.1:9"
COMMANDS = [
    *("run", "serve", "rerun"),
    *("explain", "attempts", "runs", "status"),
    *("pause", "resume", "chats", "cards", "webhooks", "prune"),
    *("check", "migrate", "simulator", "demo"),
]
UNDER_CARDS = ["list", "create", "update"]
UNDER_WEBHOOKS = ["subscribe", "list", "delete"]


# help


HELP = [
    *(["--help"], ["-h"]),
    *([name, "--help"] for name in COMMANDS),
    *(["cards", name, "-h"] for name in UNDER_CARDS),
    *(["webhooks", name, "-h"] for name in UNDER_WEBHOOKS),
]


@pytest.mark.parametrize("words", HELP)
async def test_help_teaches_with_an_example(words: list[str]) -> None:
    ended = await share_worker(*words)
    assert ended.code == 0
    assert ended.err == ""
    assert "Usage: " in ended.out
    assert "share-worker" in ended.out.partition("Usage: ")[2]
    if len(words) > 1:
        assert f"share-worker {' '.join(words[:-1])}" in " ".join(ended.out.partition("Example: ")[2].split())


async def test_the_first_help_names_every_command() -> None:
    ended = await share_worker("--help")
    assert re.findall(r"│ (\w+)  +[A-Z]", ended.out) == COMMANDS


async def test_version() -> None:
    assert await share_worker("--version") == Ended(0, f"share-worker {__version__}\n", "")


@pytest.mark.parametrize("words", [["rnu"], ["run", "--dryrun"], ["run", "--limit", "0"], ["run", "--limit", "many"]])
async def test_a_wrong_command_line_exits_with_2(words: list[str]) -> None:
    ended = await share_worker(*words)
    assert ended.code == 2
    assert "Traceback" not in ended.err
    assert next(word for word in reversed(words) if not word.isalnum() or word == "rnu") in ended.err


# run


async def test_run_shares_and_says_how_it_went(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("chat")
    await live.add_chat("sms", service="SMS")
    ended = await share_worker("run", **settings)
    assert ended.code == 0
    assert re.search(r"^Pass \S+, share day \d{4}-\d\d-\d\d \(UTC\): completed in \d", ended.out)
    assert re.search(r"^  shared +1  Linq accepted the share$", ended.out, re.MULTILINE)
    assert re.search(r"^  not_imessage +1  SMS, RCS or unknown", ended.out, re.MULTILINE)
    assert re.search(r"^  chats +2$", ended.out, re.MULTILINE)
    assert live.called() == ["chat"]
    again = await share_worker("run", **settings)
    assert re.search(r"^  already_today +1 ", again.out, re.MULTILINE)
    assert live.called() == ["chat"]


@sqlite_only
async def test_on_a_terminal_a_line_counts_the_answers_as_they_come(live: Scene, settings: dict[str, str]) -> None:
    for number in range(3):
        await live.add_chat(f"chat-{number}")
    live.account.add_fault(Fault(path="share", chat_id="chat-1", status=400, code=1005))
    watched = await seen("run", **settings)
    assert watched.code == 0
    assert re.search(r"[23]/3", watched.err), "how far it is, of the due ones"
    assert "1 x rejected 400/1005 Simulated" in watched.err
    await live.add_chat("chat-3")
    assert "100%" not in (await share_worker("run", **settings)).err, "a file wants no line that is written anew"


@sqlite_only
async def test_run_logs_json_lines_with_the_fields_of_each_attempt(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("chat")
    await live.add_chat("bad")
    live.account.add_fault(Fault(path="share", chat_id="bad", status=400, code=1005))
    ended = await share_worker("run", **settings)
    events = [json.loads(line) for line in ended.err.splitlines()]
    assert [event["event"] for event in events if event["event"].startswith("pass")] == ["pass.started", "pass.ended"]
    recorded = {event["chat_id"]: event for event in events if event["event"] == "share.recorded"}
    assert recorded["chat"]["outcome"] == "shared"
    assert recorded["chat"]["level"] == "info"
    assert recorded["bad"]["level"] == "info", "single rejected chats are normal"
    bad = {name: recorded["bad"][name] for name in ("outcome", "status", "code")}
    assert bad == {"outcome": "rejected", "status": 400, "code": 1005}
    (refused,) = live.account.calls_of("bad")
    assert recorded["bad"]["trace_id"] == refused.trace_id
    assert len({event["run_id"] for event in events}) == 1


@sqlite_only
async def test_run_json_is_one_document_for_machines(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("chat")
    ended = await share_worker("run", "--json", **settings)
    document = json.loads(ended.out)
    assert document["status"] == "completed"
    assert document["trigger"] == "command"
    assert document["tally"]["shared"] == 1
    assert datetime.fromisoformat(document["started_at"]).utcoffset() == timedelta(0)


@sqlite_only
async def test_a_dry_run_with_a_limit_counts_as_it_says(live: Scene, settings: dict[str, str]) -> None:
    for number in range(5):
        await live.add_chat(f"chat-{number}")
    ended = await share_worker("run", "--dry-run", "--limit", "3", **settings)
    assert re.search(r"^  due +3  would be shared with$", ended.out, re.MULTILINE)
    assert re.search(r"^  left +2  due, but beyond --limit$", ended.out, re.MULTILINE)
    assert re.search(r"^  chats +5$", ended.out, re.MULTILINE)
    document = json.loads((await share_worker("run", "--dry-run", "--limit", "3", "--json", **settings)).out)
    assert (document["due"], document["left"], document["chats"]) == (["chat-0", "chat-1", "chat-2"], 2, 5)
    closed = earlier_hours()
    outside = await share_worker("run", "--dry-run", **settings, SHARE_HOURS=closed)
    assert f"It is outside of SHARE_HOURS, {closed}: a pass shares with nobody before " in outside.out
    refused = await share_worker("run", **settings, SHARE_HOURS=closed)
    assert refused.code == 1
    assert f"why: it is outside of SHARE_HOURS, {closed} (UTC), which begin " in refused.out
    assert live.called() == []


def earlier_hours() -> str:
    """Hours that are over, or far from now."""
    hour = (datetime.now(UTC).hour + 12) % 23
    return f"{hour:02}:00-{hour + 1:02}:00"


@sqlite_only
async def test_run_quiet_says_nothing_when_all_went_well(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("chat")
    assert await share_worker("run", "--quiet", **settings) == Ended(0, "", "")
    assert live.called() == ["chat"]


@sqlite_only
async def test_run_quiet_does_not_speak_of_single_rejected_chats(live: Scene, settings: dict[str, str]) -> None:
    for chat_id in ("chat", "gone"):
        await live.add_chat(chat_id)
    live.account.add_fault(Fault(path="share", chat_id="gone", status=404, code=2001))
    assert await share_worker("run", "--quiet", **settings) == Ended(0, "", "")
    assert sorted(live.called()) == ["chat", "gone"]
    live.account.clear_faults()
    await live.add_chat("other")
    assert "share.recorded" in (await share_worker("run", "--quiet", **settings, LOG_LEVEL="info")).err


@sqlite_only
async def test_run_quiet_speaks_when_it_did_not(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("chat")
    live.account.add_fault(Fault(path="share", status=401, code=2004))
    ended = await share_worker("run", "--quiet", **settings)
    assert ended.code == 1
    assert "why: Linq refused the key: 401/2004" in ended.out


async def test_run_limit_calls_no_more_than_asked(live: Scene, settings: dict[str, str]) -> None:
    for number in range(5):
        await live.add_chat(f"chat-{number}")
    ended = await share_worker("run", "--limit", "2", **settings)
    assert ended.code == 0
    assert sorted(live.called()) == ["chat-0", "chat-1"]
    assert re.search(r"^  left +3  due, but not attempted$", ended.out, re.MULTILINE)


@sqlite_only
async def test_run_exits_with_1_when_it_could_not_complete(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("chat")
    live.account.access_denied = True
    ended = await share_worker("run", **settings)
    assert ended.code == 1
    assert "why: the contact cards could not be read: Linq refused the key: 403/2005" in ended.out
    assert live.called() == []


@sqlite_only
async def test_run_makes_the_database_first_unless_told_not_to(live: Scene, tmp_path: Path) -> None:
    file = tmp_path / "fresh.db"
    settings = {
        "LINQ_API_KEY": KEY,
        "LINQ_BASE_URL": live.base_url,
        "DATABASE_URL": f"sqlite:///{file}",
    }
    refused = one_line(await share_worker("run", "--no-migrate", **settings), 1)
    assert "'share-worker migrate' makes it" in refused
    assert not file.exists()
    ended = await share_worker("run", **settings)
    assert ended.code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


# run --dry-run


async def test_a_dry_run_calls_nobody_and_writes_nothing(
    live: Scene, settings: dict[str, str], database_url: str
) -> None:
    await live.add_chats(f"chat-{number:02}" for number in range(30))
    await live.add_chat("sms", service="SMS")
    live.add_line(OTHER, active=False)
    await live.add_chat("other", from_number=OTHER)

    async def rows() -> list[object]:
        async with db.read(live.engine) as connection:
            return [
                (await connection.execute(text(f"SELECT * FROM {table}"))).all()  # noqa: S608 -- the tables' own names
                for table in ("chats", "contact_cards", "share_attempts", "runs")
            ]

    before = await rows()
    ended = await share_worker("run", "--dry-run", **settings)
    assert ended.code == 0
    assert await rows() == before
    assert live.called() == []
    assert re.search(r"^  due +30  would be shared with$", ended.out, re.MULTILINE)
    assert re.search(r"^  card_inactive +1 ", ended.out, re.MULTILINE)
    assert re.search(r"^  chats +32$", ended.out, re.MULTILINE)
    assert "  chat-00\n" in ended.out
    assert "and 10 more" in ended.out
    document = json.loads((await share_worker("run", "--dry-run", "--json", **settings)).out)
    assert document["due"] == [f"chat-{number:02}" for number in range(30)]
    assert document["skipped"] == {"card_inactive": 1, "not_imessage": 1}
    assert document["chats"] == 32
    assert database_url


async def test_a_dry_run_predicts_the_run(live: Scene, settings: dict[str, str]) -> None:
    from worker.simulator.population import populate  # noqa: PLC0415 -- one test's need

    populate(live.account, chats=120)
    await live.know(*live.account.chats.values())
    settings |= {"SHARE_MAX_PER_SECOND": "0"}
    foretold = json.loads((await share_worker("run", "--dry-run", "--json", **settings)).out)
    told = json.loads((await share_worker("run", "--json", **settings)).out)
    assert sorted(live.called()) == foretold["due"]
    assert told["tally"]["skipped"] == foretold["skipped"]


# what can be wrong around it


@pytest.mark.parametrize(
    ("changes", "code", "sign"),
    [
        ({"LINQ_API_KEY": ""}, 2, "LINQ_API_KEY is not set"),
        ({"SHARE_CONCURRENCY": "many"}, 2, "SHARE_CONCURRENCY is 'many'; it must be a whole number"),
        ({"SHARE_TIMEZONE": "Europe/Berlim"}, 2, "did you mean Europe/Berlin?"),
        ({"LINQ_BASE_URL": "http://linq.example"}, 2, "plain http would send the key for anyone to read"),
        ({"DATABASE_URL": "mysql://root:planted@db/x"}, 2, "must begin with sqlite:/// or postgresql://"),
        ({"DATABASE_URL": "postgresql://u:planted@127.0.0.1:9/db"}, 1, "cannot be reached"),
        ({"DATABASE_URL": "sqlite:////nowhere/at/all.db"}, 1, "cannot be made: No such file or directory"),
        ({"DATABASE_URL": "sqlite:////proc/version"}, 1, "the database sqlite:////proc/version"),
    ],
)
async def test_what_is_wrong_is_said_in_one_line(changes: dict[str, str], code: int, sign: str) -> None:
    settings = {"LINQ_API_KEY": "planted-key", "LINQ_BASE_URL": NOBODY, "DATABASE_URL": "sqlite:///x.db"}
    line = one_line(await share_worker("run", **settings | changes), code)
    assert sign in line
    assert "planted" not in line


@sqlite_only
async def test_two_wrong_settings_are_two_lines(live: Scene) -> None:
    ended = await share_worker(
        "run", LINQ_API_KEY=KEY, SHARE_CONCURRENCY="0", LOG_LEVEL="loud", LINQ_BASE_URL=live.base_url
    )
    assert ended.code == 2
    assert [line.split()[1] for line in ended.err.splitlines()] == ["SHARE_CONCURRENCY", "LOG_LEVEL"]


async def test_a_misspelt_setting_is_pointed_out() -> None:
    ended = await share_worker("migrate", SHARE_CONCURENCY="3")
    assert ended.err == (
        "share-worker: SHARE_CONCURENCY is not a setting and is ignored; did you mean SHARE_CONCURRENCY?\n"
    )


@sqlite_only
async def test_a_schema_newer_than_the_code_is_left_alone(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("chat")
    async with db.write(live.engine) as connection:
        await connection.execute(text("UPDATE share_worker_version SET version_num = '9999'"))
    for words in (["run"], ["run", "--dry-run"], ["migrate"]):
        assert "run a newer share-worker" in one_line(await share_worker(*words, **settings), 1)
    assert live.called() == []


async def test_a_read_only_sqlite_file_is_said_in_one_line(sqlite_template: Path, tmp_path: Path) -> None:
    """Root may write any file, so SQLite itself is told to refuse."""
    file = tmp_path / "fixed.db"
    file.write_bytes(sqlite_template.read_bytes())
    url = db.parse_url(f"sqlite:///{file}")

    async def change() -> None:
        with db.one_line_errors(url):
            async with db.opened(url) as engine, db.write(engine) as connection:
                await connection.execute(text("PRAGMA query_only = ON"))
                await connection.execute(text("DELETE FROM chats"))

    with pytest.raises(DatabaseError, match="may only be read: check the owner and mode"):
        await change()


async def test_a_locked_sqlite_file_is_said_in_one_line(
    sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "locked.db"
    file.write_bytes(sqlite_template.read_bytes())
    intruder = sqlite3.connect(file, isolation_level=None)
    intruder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr("worker.db.engine.BUSY_SECONDS", 0.05)
    url = db.parse_url(f"sqlite:///{file}")
    with pytest.raises(DatabaseError, match="is locked by another process"), db.one_line_errors(url):
        async with db.opened(url) as engine, db.write(engine):
            pass
    intruder.execute("ROLLBACK")
    intruder.close()


# migrate


async def test_migrate_says_what_it_did(empty_database: str) -> None:
    first = await share_worker("migrate", DATABASE_URL=empty_database)
    second = await share_worker("migrate", DATABASE_URL=empty_database)
    assert (first.code, second.code) == (0, 0)
    assert first.out.endswith(f"is now at revision {db.HEAD}.\n")
    assert second.out.endswith(f"was already at revision {db.HEAD}.\n")


# check


@sqlite_only
async def test_check_says_line_by_line_that_all_is_well(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("chat")
    await live.add_chat("sms", service="SMS")
    ended = await share_worker("check", **settings)
    assert ended.code == 0
    lines = [line.split(maxsplit=2) for line in ended.out.splitlines() if line]
    assert [line[:2] for line in lines] == [
        ["ok", "settings"],
        ["ok", "key"],
        ["ok", "database"],
        ["ok", "card"],
        ["ok", "chats"],
        ["ok", "chats"],
        ["All", "is"],
    ]
    assert lines[3][2] == f"{LINE} (Acme Support): active, 2 chats"
    assert lines[4][2] == "1 of 2 are due now; 1 not_imessage"
    assert lines[5][2] == "Linq has the due chat that was looked up"
    assert live.called() == []


@sqlite_only
async def test_check_finds_what_keeps_chats_from_their_share(live: Scene, settings: dict[str, str]) -> None:
    live.add_line(OTHER, active=False)
    await live.add_chat("inactive", from_number=OTHER)
    await live.add_chat("cardless", from_number="+15550100003")
    ended = await share_worker("check", **settings)
    assert ended.code == 1
    assert f"FAIL  card      {OTHER} (Acme Support): not active, so no share for its 1 chat" in ended.out
    assert "FAIL  card      +15550100003: has no contact card" in ended.out
    assert ended.out.endswith("2 of these need attention.\n")
    document = json.loads((await share_worker("check", "--json", **settings)).out)
    assert document["ok"] is False
    assert [finding["state"] for finding in document["findings"]].count("FAIL") == 2


@sqlite_only
@pytest.mark.parametrize(
    ("changes", "sign"),
    [
        ({"LINQ_API_KEY": "planted-wrong"}, "FAIL  key       "),
        ({"LINQ_API_KEY": ""}, "FAIL  key       LINQ_API_KEY is not set"),
        ({"LINQ_BASE_URL": NOBODY}, "did not list the cards: ConnectError"),
        ({"DATABASE_URL": "postgresql://u:planted@127.0.0.1:9/db"}, "FAIL  database  the database postgresql://u:***@"),
        ({"DATABASE_URL": "sqlite:///none.db"}, "FAIL  database  the database file none.db does not exist"),
    ],
)
async def test_check_goes_on_after_what_is_wrong(
    settings: dict[str, str], changes: dict[str, str], sign: str, tmp_path: Path
) -> None:
    ended = await share_worker("check", **settings | changes)
    assert ended.code == 1
    assert sign in ended.out
    assert "planted" not in ended.out + ended.err
    assert len(ended.out.splitlines()) >= 4
    assert not (tmp_path / "none.db").exists()
