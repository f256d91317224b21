"""The watch over planted secrets itself, and the one place it cannot see: what is written into the database."""

import sqlite3
from pathlib import Path

import psycopg
import pytest
import structlog
from structlog.testing import capture_logs

from tests.commands import KEY, share_worker
from tests.leaks import MEANT, PASSWORD, WatchedLogCapture, judge, leak
from tests.raw_server import Visit, answer, envelope, raw_server
from tests.scene import Scene
from worker.simulator.faults import Fault


def report(printed: str, outcome: str = "passed") -> pytest.TestReport:
    sections = [("Captured stdout call", printed)]
    return pytest.TestReport("test", ("", 0, ""), {}, outcome, None, "call", sections)  # type: ignore[arg-type] # a word


@pytest.mark.parametrize(
    "printed", [f"Bearer {KEY}", f"postgresql://u:{PASSWORD}@h/d", "https://hc.example/planted-id"]
)
def test_a_test_that_prints_a_secret_fails(printed: str) -> None:
    judged = report(f"some lines\n{printed}\nmore lines")
    judge(judged)
    assert judged.failed


@pytest.mark.parametrize("printed", ["", "pass.ended status=completed", MEANT])
def test_a_test_that_prints_none_passes(printed: str) -> None:
    judged = report(printed)
    judge(judged)
    assert judged.passed


def test_what_a_test_catches_of_the_log_is_seen() -> None:
    with capture_logs():
        structlog.get_logger().warning("something", key=f"a {KEY} b")
    assert leak(*map(str, WatchedLogCapture.seen)) is not None
    WatchedLogCapture.seen.clear()


async def rows(database_url: str) -> str:
    """Everything that the database holds: on SQLite the files, byte by byte, and on PostgreSQL all rows."""
    if database_url.startswith("sqlite"):
        file = Path(database_url.removeprefix("sqlite:///"))
        with sqlite3.connect(file) as connection:
            told = "\n".join(connection.iterdump())
        connection.close()
        return told + "".join(each.read_bytes().decode("latin-1") for each in file.parent.glob(f"{file.name}*"))
    told = ""
    with psycopg.connect(database_url) as postgresql:
        for table in ("chats", "contact_cards", "share_attempts", "runs"):
            told += str(postgresql.execute(f"SELECT * FROM {table}").fetchall())  # noqa: S608 -- the tables' own names
    return told


async def test_no_secret_is_written_into_the_database_whatever_linq_repeats(scene: Scene, database_url: str) -> None:
    """A server that repeats the key in everything it says, refused passes, failed ones, and a watchdog out of reach."""
    key = KEY
    settings = {
        "LINQ_API_KEY": key,
        "LINQ_BASE_URL": scene.base_url,
        "DATABASE_URL": database_url,
        "HEARTBEAT_URL": "http://127.0.0.1:9/planted-token",
        "LOG_LEVEL": "debug",
    }
    told = f"Bearer {key} is not welcome"
    for number, status in enumerate((400, 404, 409, 429, 500)):
        await scene.add_chat(f"chat-{number}")
        scene.account.add_fault(Fault(path="share", chat_id=f"chat-{number}", status=status, message=told))
    await scene.add_chat("html")
    scene.account.add_fault(
        Fault(path="share", chat_id="html", status=502, body=f"<h1>{told}</h1>", content_type=f"text/{key}")
    )
    assert (await share_worker("run", **settings)).code == 1, "not one share went through"
    assert len(await scene.attempts()) == 6
    assert any("***" in (attempt.error_message or "") for attempt in await scene.attempts())

    async def repeats(visit: Visit) -> None:
        while True:
            await visit.request()
            visit.send(answer(401, envelope(401, 2004, told, trace_id=key), X_Key=key))

    async with raw_server(repeats) as server:
        refused = await share_worker("run", **settings | {"LINQ_BASE_URL": server.base_url})
        await share_worker("check", **settings | {"LINQ_BASE_URL": server.base_url})
    assert refused.code == 1
    assert "***" in refused.out
    held = await rows(database_url)
    assert "***" in held
    assert leak(held) is None
