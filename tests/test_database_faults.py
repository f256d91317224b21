"""The database goes away, refuses or lies in a pass: no call without a committed claim, no answer lost."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import event, make_url, select
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from tests.conftest import HandClock
from tests.databases import end_the_workers
from tests.relay import Relay, relaying
from tests.scene import LINE, Scene, until
from worker import db
from worker.db.tables import runs
from worker.outcomes import Outcome, RunStatus
from worker.rules.eligibility import Rules
from worker.sharing.candidates import Due, Window
from worker.sharing.limits import Limits
from worker.simulator.account import Account
from worker.simulator.faults import Fault
from worker.simulator.server import serving

ids = [f"chat-{number:02}" for number in range(24)]


async def agree(scene: Scene) -> None:
    """Ledger and Linq agree, call by call: nobody twice, nobody without a claim, no word without a call."""
    called = scene.called()
    assert len(called) == len(set(called))
    outcomes = await scene.outcomes()
    for chat_id, outcome in outcomes.items():
        assert (chat_id in called) == (outcome != "unsent"), f"{chat_id} is {outcome}"
    assert set(called) <= set(outcomes)


class Far:
    """A PostgreSQL database behind a relay that can lose the connection."""

    def __init__(self, relay: Relay, near: str) -> None:
        self.relay = relay
        self.near = near

    def cut(self) -> None:
        """End every connection of the worker from the server's side, as a restart does."""
        with psycopg.connect(self.near, autocommit=True) as connection:
            end_the_workers(connection)


@pytest.fixture
async def far(copied_postgresql: str, clock: HandClock) -> AsyncIterator[tuple[Scene, Far]]:
    """A scene whose database is reached over a relay."""
    url = make_url(copied_postgresql)
    folder = url.query.get("host")
    if folder:
        socket = f"{folder}/.s.PGSQL.{url.port or 5432}"
        connect = lambda: asyncio.open_unix_connection(socket)  # noqa: E731 -- one expression, twice
    else:
        connect = lambda: asyncio.open_connection(url.host, url.port or 5432)  # noqa: E731 -- as above
    account = Account(clock=clock.now)
    async with relaying(connect) as relay, serving(account) as base_url:
        through = url.set(host="127.0.0.1", port=relay.port, query={"sslmode": "disable"})
        parsed = db.parse_url(through.render_as_string(hide_password=False))
        async with db.opened(parsed) as engine:
            scene = Scene(engine=engine, account=account, base_url=base_url, clock=clock)
            scene.add_line()
            for chat_id in ids:
                await scene.add_chat(chat_id)
            yield scene, Far(relay, copied_postgresql)


async def test_a_restart_of_the_database_in_the_middle_costs_nobody_the_day(far: tuple[Scene, Far]) -> None:
    scene, postgresql = far
    scene.account.add_fault(Fault(path="share", delay_seconds=0.02))
    going = asyncio.create_task(scene.one_pass(limits=Limits(per_second=0, concurrency=4)))
    for seen in (5, 11, 17):
        await until(lambda seen=seen: len(scene.called()) >= seen)  # type: ignore[misc] # mypy cannot type a default
        postgresql.cut()
    result = await going
    assert result.status is RunStatus.COMPLETED
    assert sorted(scene.called()) == ids
    assert set((await scene.outcomes()).values()) == {"shared"}


async def test_answers_are_kept_while_the_database_is_away_and_recorded_when_it_is_back(
    far: tuple[Scene, Far],
) -> None:
    scene, postgresql = far
    scene.account.add_fault(Fault(path="share", delay_seconds=0.02))
    going = asyncio.create_task(scene.one_pass(limits=Limits(per_second=0, concurrency=4)))
    await until(lambda: len(scene.called()) >= 6)
    await postgresql.relay.refuse()
    await until(lambda: all(call.status for call in scene.account.share_calls))
    called_by_then = len(scene.called())
    await asyncio.sleep(0.05)
    assert len(scene.called()) == called_by_then, "no claim can be committed, so nobody is called"
    await postgresql.relay.accept()
    result = await going
    assert result.status is RunStatus.COMPLETED
    assert sorted(scene.called()) == ids
    assert set((await scene.outcomes()).values()) == {"shared"}
    assert scene.clock.now() > result.started_at, "it waited between its tries"


async def test_a_claim_whose_commit_was_not_confirmed_is_not_called_but_given_back(far: tuple[Scene, Far]) -> None:
    """The server committed, and the connection broke before it could say so."""
    scene, postgresql = far

    def arm(times: int) -> None:
        if times == 2:
            postgresql.relay.swallow_answer_to = b"COMMIT"

    scene.before_each_claim(arm)
    with capture_logs() as logs:
        result = await scene.one_pass(limits=Limits(per_second=0, concurrency=4))
    assert postgresql.relay.swallowed.is_set()
    (returned,) = [line for line in logs if line["event"] == "claims.returned"]
    assert returned["chats"] >= 1
    assert result.status is RunStatus.COMPLETED
    await agree(scene)
    assert sorted(scene.called()) == ids, "given back, they were due again and were called in the same pass"


async def test_a_claim_whose_commit_was_not_confirmed_is_given_back_by_a_pass_that_is_told_to_stop(
    far: tuple[Scene, Far],
) -> None:
    scene, postgresql = far

    def arm(_times: int) -> None:
        postgresql.relay.swallow_answer_to = b"COMMIT"
        scene.stop.set()

    scene.before_each_claim(arm)
    result = await scene.one_pass(limits=Limits(per_second=0, concurrency=4))
    assert postgresql.relay.swallowed.is_set()
    assert (result.status, result.detail) == (RunStatus.STOPPED, "it was told to stop")
    assert scene.called() == []
    assert await scene.outcomes() == dict.fromkeys(ids[:4], "unsent"), "left open, they would not be due for the day"
    assert result.tally is not None
    assert (result.tally["unsent"], result.tally["left"], result.tally["unknown"]) == (4, 20, 0)


async def test_an_answer_whose_commit_was_not_confirmed_is_recorded_again(far: tuple[Scene, Far]) -> None:
    scene, postgresql = far
    records = 0

    @event.listens_for(scene.engine.sync_engine, "before_cursor_execute")
    def arm(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        nonlocal records
        if "UPDATE share_attempts SET outcome" in statement and "claimed_at =" in statement:
            records += 1
            if records == 2:
                postgresql.relay.swallow_answer_to = b"COMMIT"

    result = await scene.one_pass(limits=Limits(per_second=0, concurrency=4))
    assert postgresql.relay.swallowed.is_set()
    assert result.tally is not None
    assert result.tally["shared"] == 24
    await agree(scene)


async def test_a_database_that_stays_away_ends_the_pass_and_leaves_the_answers_in_the_log(
    far: tuple[Scene, Far],
) -> None:
    scene, postgresql = far
    scene.account.add_fault(Fault(path="share", delay_seconds=0.02))
    with capture_logs() as logs:
        going = asyncio.create_task(scene.one_pass(limits=Limits(per_second=0, concurrency=4)))
        await until(lambda: len(scene.called()) >= 6)
        await postgresql.relay.refuse()
        result = await going
    assert result.status is RunStatus.FAILED
    assert result.detail is not None
    assert "cannot be reached" in result.detail
    assert scene.clock.now() - result.started_at >= HandClock.now(scene.clock) - result.started_at  # type: ignore[arg-type] # the scene's clock is one
    unrecorded = {line["chat_id"]: line["outcome"] for line in logs if line["event"] == "share.unrecorded"}
    await postgresql.relay.accept()
    outcomes = await scene.outcomes()
    assert unrecorded
    assert {chat_id for chat_id, outcome in outcomes.items() if outcome == "claimed"} == set(unrecorded)
    assert set(unrecorded.values()) == {"shared"}
    scene.clock.move(minutes=20)
    scene.account.clear_faults()
    await scene.one_pass()
    assert sorted(scene.called()) == ids
    outcomes = await scene.outcomes()
    assert {outcomes[chat_id] for chat_id in unrecorded} == {"unknown"}


@dataclass(frozen=True, kw_only=True)
class _Interrupted(Due):
    """The due chats, with something happening each time before the walk reads more of them."""

    before: Callable[[], Awaitable[None]]

    async def read_ahead(self, connection: AsyncConnection, now: datetime, *, after: str, at_most: int) -> Window:
        await self.before()
        return await super().read_ahead(connection, now, after=after, at_most=at_most)


async def test_a_database_that_is_lost_as_the_walk_reads_is_waited_for(far: tuple[Scene, Far]) -> None:
    scene, postgresql = far
    reads = count(1)

    async def lose_it_twice() -> None:
        if next(reads) <= 2:
            await postgresql.relay.refuse()
            await postgresql.relay.accept()

    with capture_logs() as logs:
        result = await scene.one_pass(candidates=_Interrupted(Rules(), before=lose_it_twice))
    assert result.status is RunStatus.COMPLETED
    assert sorted(scene.called()) == ids
    assert scene.clock.now() - result.started_at == timedelta(seconds=2), "it waited between its tries"
    assert [line["event"] for line in logs if line["event"].startswith("database.")] == [
        "database.lost",
        "database.back",
    ]


async def test_a_database_that_stays_away_as_the_walk_reads_ends_the_pass(far: tuple[Scene, Far]) -> None:
    scene, postgresql = far
    result = await scene.one_pass(candidates=_Interrupted(Rules(), before=postgresql.relay.refuse))
    assert result.status is RunStatus.FAILED
    assert result.detail is not None
    assert "cannot be reached" in result.detail
    assert scene.clock.now() - result.started_at >= timedelta(minutes=5)
    assert scene.called() == []


async def test_told_to_stop_it_does_not_wait_for_a_database_that_is_away(far: tuple[Scene, Far]) -> None:
    scene, postgresql = far
    scene.account.add_fault(Fault(path="share", delay_seconds=0.02))
    going = asyncio.create_task(scene.one_pass(limits=Limits(per_second=0, concurrency=4)))
    await until(lambda: len(scene.called()) >= 6)
    await postgresql.relay.refuse()
    scene.stop.set()
    result = await going
    assert result.status is RunStatus.FAILED
    assert (scene.clock.now() - result.started_at).total_seconds() <= Limits().drain_seconds + 2
    await postgresql.relay.accept()
    called = scene.called()
    assert set(called) <= set(await scene.outcomes())
    assert len(called) == len(set(called))


async def test_a_database_that_hangs_is_one_that_went_away(
    far: tuple[Scene, Far], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table lock of somebody else's: the server lives, the statement never ends."""
    scene, postgresql = far
    monkeypatch.setattr("worker.db.engine.WRITE_SECONDS", 0.3)
    going = asyncio.create_task(scene.one_pass(limits=Limits(per_second=0, concurrency=4)))
    await until(lambda: len(scene.called()) >= 6)
    with psycopg.connect(postgresql.near) as intruder, capture_logs() as logs:
        intruder.execute("LOCK TABLE share_attempts")
        await until(lambda: any(line["event"] == "database.lost" for line in logs))
        intruder.rollback()
    result = await going
    assert result.status is RunStatus.COMPLETED
    assert sorted(scene.called()) == ids
    await agree(scene)


async def test_a_locked_sqlite_file_is_waited_for(
    sqlite_template: Path, tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.db.engine.BUSY_SECONDS", 0.05)
    file = tmp_path / "worker.db"
    file.write_bytes(sqlite_template.read_bytes())
    account = Account(clock=clock.now)
    async with serving(account) as base_url, db.opened(db.parse_url(f"sqlite:///{file}")) as engine:
        scene = Scene(engine=engine, account=account, base_url=base_url, clock=clock)
        scene.add_line()
        for chat_id in ids:
            await scene.add_chat(chat_id)
        # While all four calls in flight take their time, the pass leaves the file alone: the intruder gets its lock.
        scene.account.add_fault(Fault(path="share", after=6, times=4, delay_seconds=1))
        going = asyncio.create_task(scene.one_pass(limits=Limits(per_second=0, concurrency=4)))
        await until(lambda: len(scene.called()) >= 6)
        intruder = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        await asyncio.to_thread(intruder.execute, "BEGIN IMMEDIATE")
        called = len(scene.called())
        await until(lambda: clock.slept != [])
        intruder.execute("ROLLBACK")
        intruder.close()
        result = await going
        assert called < 24
        assert result.status is RunStatus.COMPLETED
        await agree(scene)
        assert sorted(scene.called()) == ids


async def test_a_full_disk_ends_the_pass_in_one_line_and_calls_nobody_without_a_claim(
    sqlite_template: Path, tmp_path: Path, clock: HandClock
) -> None:
    file = tmp_path / "worker.db"
    file.write_bytes(sqlite_template.read_bytes())
    account = Account(clock=clock.now)
    async with serving(account) as base_url, db.opened(db.parse_url(f"sqlite:///{file}")) as engine:
        scene = Scene(engine=engine, account=account, base_url=base_url, clock=clock)
        scene.add_line()
        await scene.add_chats(f"chat-{number:03}" for number in range(300))

        @event.listens_for(engine.sync_engine, "begin")
        def no_more_room(connection: object) -> None:
            if len(scene.called()) >= 20:
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar()  # type: ignore[attr-defined] # a Connection
                connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")  # type: ignore[attr-defined] # a Connection

        result = await scene.one_pass(limits=Limits(per_second=0, concurrency=4))
        assert result.status is RunStatus.FAILED
        assert result.detail is not None
        assert result.detail.endswith("cannot grow: the disk is full")
        assert "\n" not in result.detail
        called = scene.called()
        assert 20 <= len(called) < 300
        claimed = {attempt.chat_id for attempt in await scene.attempts()}
        assert set(called) <= claimed
        assert len(called) == len(set(called))


async def test_a_pass_that_died_is_marked_as_failed_by_the_next_one_of_the_same_worker(scene: Scene) -> None:
    await scene.add_chat("chat")
    scene.account.add_fault(Fault(path="share", delay_seconds=20))
    going = asyncio.create_task(scene.one_pass())
    await until(lambda: len(scene.called()) == 1)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    scene.account.clear_faults()
    scene.clock.move(minutes=16)
    await scene.one_pass()
    async with db.read(scene.engine) as connection:
        rows = (await connection.execute(select(runs.c.status, runs.c.detail).order_by(runs.c.started_at))).all()
    assert [tuple(row) for row in rows] == [
        ("failed", "the worker ended without finishing the pass"),
        ("completed", None),
    ]
    (attempt,) = await scene.attempts()
    assert attempt.outcome is Outcome.UNKNOWN
    assert scene.called() == ["chat"]
    assert LINE
