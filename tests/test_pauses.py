"""`pause` and `resume`, as an admin meets them: by id, from stdin, for a whole line, beside a running pass."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial

import pytest
from sqlalchemy import Text, cast, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.commands import KEY, answered, fed, finish, one_line, share_worker, start
from tests.conftest import HandClock
from tests.databases import sqlite_only
from tests.scene import LINE, Scene, until
from worker import db
from worker.chats import pause
from worker.chats.pause import PauseState
from worker.clock import SystemClock
from worker.db.tables import chats
from worker.simulator.account import Account
from worker.simulator.faults import Fault
from worker.simulator.server import serving

OTHER = "+15550100002"
CHATS = 120
CROWD = 60_000


async def paused(scene: Scene) -> dict[str, tuple[datetime | None, str | None]]:
    """Since when and why each chat of the table is paused."""
    async with db.read(scene.engine) as connection:
        rows = await connection.execute(select(chats.c.id, chats.c.paused_at, chats.c.paused_reason))
        return {chat_id: (since, reason) for chat_id, since, reason in rows}


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


async def test_a_paused_chat_is_left_alone_until_it_is_resumed(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("annoyed")
    await live.add_chat("fine")
    ended = await share_worker("pause", "annoyed", "--reason", "asked us to stop", **settings)
    assert ended.code == 0
    since, reason = (await paused(live))["annoyed"]
    assert since is not None
    assert reason == "asked us to stop"
    line = words(ended.out)[1]
    assert line == ["annoyed", "paused", *f"{since:%Y-%m-%d %H:%M:%S}+00 asked us to stop".split()]
    run = json.loads((await share_worker("run", "--json", **settings)).out)
    assert run["tally"]["skipped"] == {"paused": 1}
    assert live.called() == ["fine"]
    resumed = await share_worker("resume", "annoyed", **settings)
    assert resumed.code == 0
    assert words(resumed.out)[1] == ["annoyed", "resumed", *line[2:]], "it says what is forgotten"
    assert (await paused(live))["annoyed"] == (None, None)
    await share_worker("run", **settings)
    assert live.called() == ["fine", "annoyed"]


@sqlite_only
async def test_each_id_is_told_and_unknown_ones_cost_the_exit_code_only(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("new")
    await live.add_chat("old")
    await live.change_chat("old", paused_at=live.clock.now())
    ended = await share_worker("pause", "old", "nobody", "new", "new", **settings)
    assert ended.code == 1
    assert [line[:2] for line in words(ended.out)[1:4]] == [
        ["old", "already_paused"],
        ["nobody", "unknown"],
        ["new", "paused"],
    ]
    assert [line[:2] for line in words(ended.out)[5:]] == [
        ["paused", "1"],
        ["already_paused", "1"],
        ["unknown", "1"],
        ["ids", "3"],
    ]
    assert "share-worker: 1 of 3 ids is unknown; the others are done" in ended.err
    assert (await paused(live))["new"][0] is not None
    resumed = await share_worker("resume", "new", "nobody", "old", "--json", **settings)
    assert resumed.code == 1
    document = json.loads(resumed.out)
    assert [(chat["chat_id"], chat["state"]) for chat in document["chats"]] == [
        ("new", "resumed"),
        ("nobody", "unknown"),
        ("old", "resumed"),
    ]
    assert (document["resumed"], document["unknown"]) == (2, 1)


async def test_a_second_pause_keeps_the_time_and_the_reason_unless_it_gives_one(scene: Scene, clock: HandClock) -> None:
    await scene.add_chat("chat")
    first = clock.now()
    for minutes, given, kept in ((0, "complaint", "complaint"), (5, None, "complaint"), (5, "lawyer", "lawyer")):
        clock.move(minutes=minutes)
        async with db.write(scene.engine) as connection:
            (told,) = await pause.pause(connection, ["chat"], reason=given, now=clock.now())
        assert (told.since, told.reason) == (first, kept)
        assert (await paused(scene))["chat"] == (first, kept)
        async with db.read(scene.engine) as connection:
            changed = (await connection.execute(select(chats.c.updated_at))).scalar_one()
        assert changed == (clock.now() if given else first)
    assert told.state is PauseState.ALREADY_PAUSED


@sqlite_only
async def test_ids_come_from_stdin_by_the_thousand(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("known")
    ids = [f"nobody-{number:05}" for number in range(2500)]
    ids.insert(1700, "known")
    ended = await fed("\n".join([*ids, "", " known "]).encode(), "pause", "-", **settings)
    assert ended.code == 1
    told = words(ended.out)
    assert [line[0] for line in told[1:2502]] == ids
    assert told[-1] == ["ids", "2,501"]
    assert (await paused(live))["known"][0] is not None
    assert "stdin is empty; give one chat id a line" in one_line(await fed(b"\n \n", "resume", "-", **settings), 2)
    assert "not UTF-8 text" in one_line(await fed(b"\xff\xfe\n", "resume", "-", **settings), 2)


@sqlite_only
async def test_a_whole_line_is_asked_about_first(live: Scene, settings: dict[str, str]) -> None:
    live.add_line(OTHER)
    for number in range(3):
        await live.add_chat(f"ours-{number}")
    await live.add_chat("theirs", from_number=OTHER)
    await live.change_chat("ours-1", paused_at=live.clock.now())
    nobody = one_line(await fed(b"y\n", "pause", "--line", LINE, **settings), 2)
    assert nobody.endswith("add --yes to go ahead"), "a pipe is not a person"
    declined = await answered("n", "pause", "--line", LINE, **settings)
    assert f"Pause the 3 chats of {LINE} (1 of them paused now)? [y/N]" in declined.err
    assert declined.code == 1
    assert sum(since is not None for since, _ in (await paused(live)).values()) == 1
    agreed = await answered("y", "pause", "--line", "+1 (555) 010-0001", "--reason", "moving", **settings)
    assert agreed.code == 0
    assert [line[:2] for line in words(agreed.out)] == [["paused", "2"], ["already_paused", "1"], ["chats", "3"]]
    assert {chat for chat, (since, _) in (await paused(live)).items() if since} == {"ours-0", "ours-1", "ours-2"}
    await live.add_chat("ours-later")
    assert (await paused(live))["ours-later"] == (None, None), "it holds for the chats of the moment"
    document = json.loads((await share_worker("resume", "--line", LINE, "--yes", "--json", **settings)).out)
    assert document == {"resumed": 3, "not_paused": 1, "line": LINE}


async def test_a_line_is_changed_to_its_end_however_many_chats_it_has(
    scene: Scene, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pause, "BATCH", 4)
    for number in range(9):
        await scene.add_chat(f"chat-{number}")
    now = clock.now()

    change = partial(pause.pause, reason=None, now=now)
    sizes = [len(batch) async for batch in pause.change_line(scene.engine, LINE, change)]
    assert sizes == [4, 4, 1]
    assert all(since == now for since, _ in (await paused(scene)).values())


@sqlite_only
@pytest.mark.parametrize(
    ("words", "code", "sign"),
    [
        (["pause", "--line", "5550100009", "--yes"], 2, "'5550100009' has no country code"),
        (["pause", "--line", OTHER, "--yes"], 1, f"the table 'chats' has no chat of the line {OTHER}"),
    ],
)
async def test_what_is_wrong_is_said_in_one_line(
    live: Scene, settings: dict[str, str], words: list[str], code: int, sign: str
) -> None:
    await live.add_chat("chat")
    assert sign in one_line(await share_worker(*words, **settings), code)
    assert await paused(live) == {"chat": (None, None)}


@pytest.mark.parametrize("words", [["pause"], ["resume", "chat", "--line", LINE]])
async def test_it_must_be_said_which_chats_in_one_way(words: list[str]) -> None:
    line = one_line(await share_worker(*words), 2)
    assert line.endswith(
        f"say which chats to {words[0]}: their ids, - for ids on stdin, or --line +NUMBER; one of these"
    )


@sqlite_only
async def test_it_is_logged_who_paused_what_and_why(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("chat")
    ended = await share_worker("pause", "--line", LINE, "--yes", "--reason", "moving", **settings)
    (event,) = (json.loads(line) for line in ended.err.splitlines())
    assert (event["event"], event["reason"], event["paused"]) == ("chats.paused", "moving", 1)
    assert event["by"]
    assert LINE not in ended.err, "numbers are masked in logs"


@pytest.fixture
async def slow(engine: AsyncEngine) -> AsyncIterator[Scene]:
    """Chats that are all due, and a Linq that takes its time for each share."""
    account = Account()
    account.add_fault(Fault(path="share", delay_seconds=0.03))
    async with serving(account) as base_url:
        scene = Scene(engine=engine, account=account, base_url=base_url, clock=SystemClock())  # type: ignore[arg-type] # not moved
        scene.add_line()
        await scene.add_chats(f"chat-{number:03}" for number in range(CHATS))
        yield scene


async def test_a_pause_is_in_force_at_once_for_a_pass_that_runs(slow: Scene, database_url: str) -> None:
    settings = {
        "LINQ_API_KEY": KEY,
        "LINQ_BASE_URL": slow.base_url,
        "DATABASE_URL": database_url,
        "SHARE_CONCURRENCY": "1",
        "SHARE_MAX_PER_SECOND": "0",
    }
    process = await start("run", "--json", **settings)
    await until(lambda: len(slow.called()) >= 5)
    ids = sorted(f"chat-{number:03}" for number in range(CHATS))
    ended = await fed("\n".join(ids).encode(), "pause", "-", **settings)
    called_by_then = len(slow.called())
    assert ended.code == 0
    run = json.loads((await finish(process)).out)
    paused_at = next(since for since, _ in (await paused(slow)).values())
    assert paused_at is not None
    assert len(slow.called()) <= called_by_then + 1, "only the call that had its claim by then"
    assert run["status"] == "completed"
    assert run["tally"]["shared"] == len(slow.called()) < CHATS
    assert run["tally"]["shared"] + run["tally"]["skipped"]["paused"] == CHATS


@sqlite_only
async def test_a_signal_ends_it_between_two_batches_and_it_says_how_far_it_came(
    live: Scene, settings: dict[str, str]
) -> None:
    numbers = select(literal(0).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < CROWD - 1))
    values = select(literal("chat-") + cast(numbers.c.n, Text), literal(LINE))
    async with db.write(live.engine) as connection:
        await connection.execute(insert(chats).from_select(["id", "from_number"], values))

    async def count_paused() -> int:
        async with db.read(live.engine) as connection:
            return (await pause.count_line(connection, LINE)).paused

    process = await start("pause", "--line", LINE, "--yes", **settings)
    while not await count_paused():  # noqa: ASYNC110 -- another process gives no event to wait for
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    ended = await finish(process)
    done = await count_paused()
    assert 0 < done < CROWD
    assert ended.code == 1
    assert words(ended.out) == [["paused", f"{done:,}", *PauseState.PAUSED.meaning.split()], ["chats", f"{done:,}"]]
    assert f"share-worker: it was told to stop; {done:,} chats are done, the others are not\n" in ended.err
