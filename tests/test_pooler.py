"""Behind a pooler in transaction mode: every command works, and the pool's sessions stay as they were."""

import asyncio
import json
import signal
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import make_url

from tests.commands import Ended, finish, one_line, share_worker, start
from tests.poolers import SERVER_CONNECTIONS, pgbouncer
from tests.scene import Scene
from tests.test_sessions import STATE

pytestmark = pytest.mark.pooler


def done(ended: Ended) -> Ended:
    """A command that did its work."""
    assert (ended.code, ended.err) == (0, "")
    return ended


@pytest.fixture
def database_url(copied_postgresql: str) -> str:
    """These tests are about PostgreSQL."""
    return copied_postgresql


@pytest.fixture
def pooled(copied_postgresql: str) -> Iterator[str]:
    with pgbouncer(make_url(copied_postgresql)) as url:
        yield url


@pytest.fixture
def pooled_settings(settings: dict[str, str], pooled: str) -> dict[str, str]:
    """The settings of a command that reaches its database through the pooler."""
    return settings | {"DATABASE_URL": pooled, "LOG_LEVEL": "error"}


def states(pooled: str) -> list[dict[str, str]]:
    """What another client of the pool meets on each of its sessions."""
    clients = [psycopg.connect(pooled, prepare_threshold=None) for _ in range(SERVER_CONNECTIONS)]
    try:
        return [dict(client.execute(STATE).fetchall()) for client in clients]  # each transaction stays open
    finally:
        for client in clients:
            client.close()


async def test_two_passes_share_once_and_leave_the_pool_as_it_was(
    live: Scene, pooled: str, pooled_settings: dict[str, str]
) -> None:
    before = states(pooled)
    await live.add_chats(f"chat-{number:02}" for number in range(40))
    first = json.loads(done(await share_worker("run", "--json", **pooled_settings)).out)
    second = json.loads(done(await share_worker("run", "--json", **pooled_settings)).out)
    assert first["tally"]["shared"] == 40
    assert second["tally"]["skipped"] == {"already_today": 40}
    assert live.account.repeated_calls() == {}
    assert states(pooled) == before


async def test_four_passes_at_once_share_once(live: Scene, pooled: str, pooled_settings: dict[str, str]) -> None:
    before = states(pooled)
    await live.add_chats(f"chat-{number:03}" for number in range(120))
    processes = [await start("run", "--json", **pooled_settings) for _ in range(4)]
    ended = await asyncio.gather(*(finish(process) for process in processes))
    shared = [json.loads(done(end).out)["tally"]["shared"] for end in ended]
    assert sum(shared) == 120
    assert len(live.account.share_calls) == 120
    assert states(pooled) == before


@pytest.mark.parametrize(
    "words",
    [
        ("migrate",),
        ("check",),
        ("run", "--dry-run"),
        ("status",),
        ("attempts",),
        ("runs",),
        ("explain", "chat"),
        ("pause", "chat"),
        ("resume", "chat"),
        ("cards", "list"),
        ("prune", "--before", "2026-01-01", "--yes"),
        ("rerun", "--chat", "chat", "--force", "--dry-run"),
    ],
    ids=" ".join,
)
async def test_a_command_works_and_leaves_the_pool_as_it_was(
    live: Scene, pooled: str, pooled_settings: dict[str, str], words: tuple[str, ...]
) -> None:
    before = states(pooled)
    await live.add_chat("chat")
    done(await share_worker("run", **pooled_settings))
    for _ in range(2):
        done(await share_worker(*words, **pooled_settings))
    assert states(pooled) == before


async def test_serve_makes_its_pass_and_leaves_the_pool_as_it_was(
    live: Scene, pooled: str, pooled_settings: dict[str, str]
) -> None:
    before = states(pooled)
    await live.add_chat("chat")
    process = await start(
        "serve", "--now", **pooled_settings | {"LOG_LEVEL": "info"}, SHARE_SCHEDULE="0 0 * * *", HTTP_PORT="0"
    )
    assert process.stderr is not None
    seen: list[str] = []
    while "pass.ended" not in seen:
        line = await asyncio.wait_for(process.stderr.readline(), 30)
        seen.append(json.loads(line)["event"])
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    assert len(live.account.share_calls) == 1
    assert states(pooled) == before


async def test_a_url_with_options_that_the_pooler_refuses_is_told_what_to_do_instead(
    pooled: str, pooled_settings: dict[str, str]
) -> None:
    with_options = f"{pooled}?options=-csearch_path%3Dsharing"
    ended = await share_worker("status", **pooled_settings | {"DATABASE_URL": with_options})
    line = one_line(ended, 1)
    assert "the pooler refuses an option of DATABASE_URL" in line
    assert line.endswith("leave 'options' out of the URL, and name the schema in DATABASE_SCHEMA")
