"""Real processes and real signals on one database: killed, told to stop, several at once; the simulated Linq counts."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.commands import KEY, finish, share_worker, start
from tests.databases import sqlite_only
from tests.scene import Scene, until
from worker import db
from worker.clock import SystemClock
from worker.sharing.limits import UNPROVEN
from worker.simulator.account import Account
from worker.simulator.faults import Fault
from worker.simulator.population import populate
from worker.simulator.server import serving

CHATS = 600
ALLOWED = {"SHARE_MAX_PER_SECOND": "0", "SHARE_CONCURRENCY": "10"}


@pytest.fixture
async def crowd(engine: AsyncEngine) -> AsyncIterator[Scene]:
    """Some hundred chats, and a Linq that takes a moment for each share."""
    account = Account()
    populate(account, chats=CHATS)
    account.add_fault(Fault(path="share", delay_seconds=0.02))
    async with serving(account) as base_url:
        scene = Scene(engine=engine, account=account, base_url=base_url, clock=SystemClock())  # type: ignore[arg-type] # not moved
        await scene.know(*account.chats.values())
        yield scene


@pytest.fixture
def settings(crowd: Scene, database_url: str) -> dict[str, str]:
    return {"LINQ_API_KEY": KEY, "LINQ_BASE_URL": crowd.base_url, "DATABASE_URL": database_url} | ALLOWED


async def age_claims(scene: Scene) -> None:
    """Let the claims of killed workers grow old, in the ledger's own terms."""
    async with db.write(scene.engine) as connection:
        await connection.exec_driver_sql(
            "UPDATE share_attempts SET claimed_at = '2026-01-01 00:00:00.000000' WHERE outcome = 'claimed'"
        )


async def test_killed_in_the_middle_and_run_again_no_chat_is_called_twice(
    crowd: Scene, settings: dict[str, str]
) -> None:
    for calls in (60, 130, 200):
        process = await start("run", **settings)
        await until(lambda calls=calls: len(crowd.called()) >= calls)  # type: ignore[misc] # mypy cannot type a default
        process.kill()
        assert (await finish(process)).code == -signal.SIGKILL
    orphans = sum(outcome == "claimed" for outcome in (await crowd.outcomes()).values())
    assert 1 <= orphans <= 30, "no more than what was in flight at each kill"
    await age_claims(crowd)
    ended = await share_worker("run", "--json", **settings)
    assert ended.code == 0
    tally = json.loads(ended.out)["tally"]
    outcomes = await crowd.outcomes()
    called = crowd.called()
    assert Counter(called).most_common(1)[0][1] == 1
    assert set(called) <= set(outcomes), "every call had its claim"
    assert Counter(outcomes.values())["unknown"] == orphans
    assert all(chat_id in called for chat_id, outcome in outcomes.items() if outcome == "shared")
    not_due = sum(count for name, count in tally["skipped"].items() if name != "already_today")
    assert len(outcomes) + not_due == CHATS, "the ledger and the verdicts explain each chat"


async def test_four_runs_at_once_share_the_work(crowd: Scene, settings: dict[str, str]) -> None:
    processes = [await start("run", "--json", **settings) for _ in range(4)]
    ended = await asyncio.gather(*(finish(process) for process in processes))
    assert [one.code for one in ended] == [0, 0, 0, 0]
    tallies = [json.loads(one.out)["tally"] for one in ended]
    called = crowd.called()
    assert len(called) == len(set(called)) == sum(tally["shared"] for tally in tallies)
    assert set((await crowd.outcomes()).values()) == {"shared"}
    assert len({attempt.run_id for attempt in await crowd.attempts()}) >= 2
    assert all(tally["shared"] + sum(tally["skipped"].values()) == CHATS for tally in tallies)
    again = await share_worker("run", "--json", **settings)
    assert json.loads(again.out)["tally"]["shared"] == 0


@pytest.mark.parametrize(
    ("database_url", "number"), [("sqlite", signal.SIGINT), ("postgresql", signal.SIGTERM)], indirect=["database_url"]
)
async def test_a_signal_drains_the_calls_in_flight(
    crowd: Scene, settings: dict[str, str], number: signal.Signals
) -> None:
    process = await start("run", "--json", **settings)
    await until(lambda: len(crowd.called()) >= 40)
    process.send_signal(number)
    ended = await finish(process)
    assert ended.code == 1
    document = json.loads(ended.out)
    assert (document["status"], document["detail"]) == ("stopped", "it was told to stop")
    outcomes = await crowd.outcomes()
    assert set(outcomes.values()) == {"shared"}
    assert sorted(outcomes) == sorted(crowd.called())
    assert document["tally"]["shared"] == len(outcomes)
    assert document["tally"]["left"] > 0
    assert '"level": "error"' not in ended.err, "an end that was asked for is no error"
    assert "Traceback" not in ended.err


@sqlite_only
async def test_a_second_signal_ends_it_at_once_and_the_ledger_is_true(crowd: Scene, settings: dict[str, str]) -> None:
    crowd.account.clear_faults()
    crowd.account.add_fault(Fault(path="share", delay_seconds=60, takes_effect=True))
    process = await start("run", **settings)
    await until(lambda: len(crowd.called()) == UNPROVEN)
    process.send_signal(signal.SIGTERM)
    stderr = process.stderr
    assert stderr is not None
    while b"pass.stopping" not in await stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    ended = await finish(process)
    assert ended.code == 128 + signal.SIGTERM
    assert "ending at once" in ended.err
    assert await crowd.outcomes() == dict.fromkeys(crowd.called(), "claimed")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_whatever_holds_it_up_it_ends_soon_after_its_drain(
    crowd: Scene, settings: dict[str, str], database_url: str
) -> None:
    """A database that hangs: the server lives, the statement never ends."""
    process = await start("run", **settings | {"SHARE_DRAIN_SECONDS": "1"})
    await until(lambda: len(crowd.called()) >= 40)
    with psycopg.connect(database_url) as intruder:
        intruder.execute("LOCK TABLE share_attempts")
        process.send_signal(signal.SIGTERM)
        ended = await finish(process)
    assert ended.code == 1
    assert ended.err.endswith("share-worker: told to stop 2 s ago, and not done; ending at once\n")
    assert set(crowd.called()) <= set(await crowd.outcomes()), "every call had its claim"


@pytest.mark.parametrize("empty_database", ["sqlite"], indirect=True)
async def test_the_simulator_serves_until_it_is_told_to_stop_and_fills_a_table(empty_database: str) -> None:
    process = await start("simulator", "--port", "0", "--chats", "50", "--fill", DATABASE_URL=empty_database)
    out = process.stdout
    assert out is not None
    line = ""
    while "export LINQ_BASE_URL=" not in line:
        line = (await out.readline()).decode()
        assert line, "it ended before it served"
    values = dict(word.split("=") for word in line.split()[1:])
    ended = await share_worker("run", "--json", DATABASE_URL=empty_database, **values)
    assert ended.code == 0
    shared = json.loads(ended.out)["tally"]["shared"]
    assert shared > 20
    process.send_signal(signal.SIGINT)
    told = await finish(process)
    assert told.code == 0
    assert f"It got {shared} share requests; 0 chats were shared with twice in a day." in told.out
    refused = await share_worker("simulator", "--port", "0", "--chats", "60", "--fill", DATABASE_URL=empty_database)
    assert refused.code == 2
    assert "has 50 other chats; --fill is for an empty table" in refused.err
    again = await start("simulator", "--port", "0", "--chats", "50", "--fill", DATABASE_URL=empty_database)
    assert again.stdout is not None
    assert b"holds these 50 chats" in await again.stdout.readline()
    again.kill()
    await finish(again)


async def test_a_taken_port_is_said_in_one_line() -> None:
    async with serving(Account()) as base_url:
        port = base_url.rpartition(":")[2]
        ended = await share_worker("simulator", "--port", port, "--chats", "0")
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "in use" in line
