"""`chats sync`: what is read from Linq, with how many requests; who is missing; what an older fact never replaces."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, insert, select
from structlog.testing import capture_logs

from tests.commands import one_line, seen, share_worker
from tests.conftest import START, HandClock
from tests.databases import sqlite_only
from tests.scene import LINE, Scene
from worker import db
from worker.chats import sync
from worker.chats.merge import ReadChat, StoredChat, changes
from worker.chats.newest import Newest, newest_messages
from worker.chats.sources import Source, SourceState, read_sources
from worker.chats.sync import Synced, counts, sync_chats
from worker.db.tables import chats as chats_table
from worker.db.tables import share_attempts
from worker.linq import answers, client
from worker.linq.client import Linq
from worker.linq.read_pace import ReadPace
from worker.simulator.chats import Chat
from worker.simulator.faults import Fault

OTHER = "+15550100002"
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


async def synced(
    scene: Scene,
    *lines: str,
    per_second: float = 0,
    at_each: Callable[[], None] = lambda: None,
    stop: asyncio.Event | None = None,
) -> Synced:
    """A sync, a minute after whatever was before."""
    scene.clock.move(minutes=1)
    done = Synced()
    linq = Linq(
        scene.account.api_key, base_url=scene.base_url, clock=scene.clock, pace=ReadPace(per_second, scene.clock)
    )
    async with linq:
        await sync_chats(
            scene.engine,
            linq,
            done,
            lines=lines,
            concurrency=20,
            clock=scene.clock,
            stop=stop or asyncio.Event(),
            watch=at_each,
        )
    return done


def put(scene: Scene, *ids: str, **changed: object) -> None:
    """Chats of the account that the table does not have."""
    usual = Chat(
        id="",
        from_number=LINE,
        created_at=START - timedelta(days=30),
        last_outbound_at=START - 2 * HOUR,
        last_inbound_at=START - 3 * HOUR,
    )
    for chat_id in ids:
        scene.account.put_chat(replace(usual, id=chat_id, **({"recipients": ()} | changed)))  # type: ignore[arg-type] # its fields


def numbered(count: int) -> list[str]:
    return [f"chat-{number:04}" for number in range(count)]


async def row(scene: Scene, chat_id: str, *names: str) -> list[object]:
    async with db.read(scene.engine) as connection:
        found = await connection.execute(
            select(*(chats_table.c[name] for name in names)).where(chats_table.c.id == chat_id)
        )
        return list(found.one())


async def ids(scene: Scene, *, missing: bool = False) -> list[str]:
    statement = select(chats_table.c.id).order_by(chats_table.c.id)
    if missing:
        statement = statement.where(chats_table.c.missing_at.is_not(None))
    async with db.read(scene.engine) as connection:
        return list((await connection.execute(statement)).scalars())


def requests(scene: Scene) -> dict[str, int]:
    """What Linq was asked since the last call."""
    asked = {name: count for name, count in scene.account.requests.items() if count}
    scene.account.requests.clear()
    return asked


async def sync_state(scene: Scene) -> SourceState:
    async with db.read(scene.engine) as connection:
        return (await read_sources(connection))[Source.SYNC]


# What is read


async def test_a_sync_brings_every_fact_of_a_chat(scene: Scene) -> None:
    put(scene, "direct", recipients=("+15551230001",), service="SMS", health_status="AT_RISK")
    put(scene, "group", is_group=True, former_number=OTHER)
    put(scene, "silent", last_outbound_at=None)
    put(scene, "out", health_status="OPTED_OUT")
    done = await synced(scene)
    assert (done.complete, done.new, done.chats) == (True, 4, 4)
    facts = ("from_number", "service", "is_group", "handle", "health_status", "last_outbound_at", "last_inbound_at")
    sent, received = START - 2 * HOUR, START - 3 * HOUR
    assert await row(scene, "direct", *facts) == [LINE, "SMS", False, "+15551230001", "AT_RISK", sent, received]
    assert await row(scene, "group", *facts) == [LINE, "iMessage", True, None, "HEALTHY", sent, received]
    assert await row(scene, "silent", "last_outbound_at", "last_inbound_at") == [None, received]
    assert await row(scene, "out", "health_status", "opted_out_at") == ["OPTED_OUT", sent]
    assert await row(scene, "out", "synced_at", "linq_updated_at", "missing_at") == [scene.clock.now(), sent, None]


async def test_a_thousand_unchanged_chats_cost_ten_requests_and_a_look(scene: Scene) -> None:
    put(scene, *numbered(1000))
    assert (await synced(scene)).new == 1000
    assert requests(scene) == {"list_chats": 11, "list_messages": 1000}
    done = await synced(scene)
    assert requests(scene) == {"list_chats": 11}
    assert counts(done) == counts(Synced(unchanged=1000))


async def test_only_a_chat_that_changed_has_its_messages_read(scene: Scene) -> None:
    put(scene, "one", "two", "three")
    await synced(scene)
    requests(scene)
    put(scene, "two", last_outbound_at=START)
    done = await synced(scene)
    assert requests(scene) == {"list_chats": 2, "list_messages": 1}
    assert (done.changed, done.unchanged) == (1, 2)
    assert await row(scene, "two", "last_outbound_at") == [START]


@sqlite_only
async def test_only_the_lines_that_are_asked_for_are_read_and_judged(scene: Scene) -> None:
    put(scene, "ours")
    put(scene, "theirs", from_number=OTHER)
    await scene.know(
        *(replace(scene.account.chats["ours"], id=f"gone-{line}", from_number=line) for line in (LINE, OTHER))
    )
    done = await synced(scene, LINE)
    assert (done.new, await ids(scene)) == (1, [f"gone-{LINE}", f"gone-{OTHER}", "ours"])
    assert await ids(scene, missing=True) == [f"gone-{LINE}"]


# Ended and taken up again


@pytest.mark.parametrize("how", ["stopped", "cut"])
async def test_an_ended_sync_goes_on_where_it_was(scene: Scene, how: str) -> None:
    put(scene, *numbered(350))
    stop = asyncio.Event()
    sync: asyncio.Task[Synced] | None = None

    def end() -> None:
        if scene.account.requests["list_chats"] == 3:
            stop.set() if how == "stopped" or sync is None else sync.cancel()

    sync = asyncio.create_task(synced(scene, at_each=end, stop=stop))
    if how == "stopped":
        done = await sync
        assert (done.complete, done.reason, done.new) == (False, "it was told to stop", 200)
    else:
        with pytest.raises(asyncio.CancelledError):
            await sync
    assert len(await ids(scene)) == 200
    requests(scene)
    done = await synced(scene)
    assert (done.new, done.unchanged, done.complete) == (150, 200, True)
    assert requests(scene) == {"list_chats": 5, "list_messages": 150}


@sqlite_only
async def test_a_page_that_fails_for_good_ends_the_sync_and_loses_nothing(scene: Scene) -> None:
    put(scene, *numbered(250))
    await scene.know(replace(scene.account.chats["chat-0000"], id="gone"))
    scene.account.add_fault(Fault("list_chats", after=2, status=500))
    with capture_logs() as events:
        done = await synced(scene)
    assert (done.complete, done.new, await ids(scene, missing=True)) == (False, 200, [])
    assert (done.reason or "").startswith("a page of chats could not be read: 500/3006")
    assert [event["event"] for event in events if event["event"].startswith("sync.")] == ["sync.started", "sync.failed"]
    failed = await sync_state(scene)
    assert (failed.heard_at, failed.failed_at, failed.failure) == (None, scene.clock.now(), done.reason)
    scene.account.clear_faults()
    done = await synced(scene)
    assert (done.new, done.unchanged, done.missing) == (50, 200, 1)
    assert await sync_state(scene) == SourceState(heard_at=scene.clock.now())


@sqlite_only
async def test_a_chat_whose_messages_cannot_be_read_is_read_next_time(scene: Scene) -> None:
    put(scene, *numbered(30))
    await scene.know(replace(scene.account.chats["chat-0000"], id="gone"))
    fault = scene.account.add_fault(Fault("list_messages", chat_id="chat-0007", status=500))
    done = await synced(scene)
    assert (done.complete, done.new, done.failed, done.chats) == (False, 29, 1, 30)
    assert await row(scene, "chat-0007", "last_outbound_at") == [None]
    assert await ids(scene, missing=True) == []
    scene.account.remove_fault(fault)
    done = await synced(scene)
    assert (done.complete, done.changed, done.unchanged, done.missing) == (True, 1, 29, 1)
    assert await row(scene, "chat-0007", "last_outbound_at") == [START - 2 * HOUR]


@sqlite_only
async def test_ten_failures_in_a_row_end_the_sync(scene: Scene) -> None:
    put(scene, *numbered(100))
    scene.account.add_fault(Fault("list_messages", status=503))
    done = await synced(scene)
    assert (done.reason or "").startswith("10 reads in a row failed, the last one: 503/4004")
    assert requests(scene)["list_messages"] < 150, "those that wait are not sent any more"


@sqlite_only
async def test_a_database_that_fails_ends_the_sync_in_one_line(live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("chat")
    async with db.write(live.engine) as connection:
        await connection.exec_driver_sql("ALTER TABLE share_attempts RENAME TO away")
    ended = await share_worker("chats", "sync", **settings)
    assert ended.code == 1
    assert "share_attempts" in ended.err.splitlines()[-1]
    assert ended.err.splitlines()[-1].startswith("share-worker: the sync is not complete: the database ")


async def test_errors_now_and_then_do_no_harm(scene: Scene) -> None:
    put(scene, *numbered(300))
    scene.account.add_fault(Fault("*", status=500, probability=0.02))
    assert counts(await synced(scene)) == counts(Synced(new=300))


# How fast


@sqlite_only
async def test_a_sync_keeps_to_its_rate(scene: Scene) -> None:
    put(scene, *numbered(100))
    began = scene.clock.monotonic()
    assert (await synced(scene, per_second=10)).complete
    assert scene.clock.monotonic() - began - 60 > 10, "a page, its messages, and the look"


@sqlite_only
async def test_all_reads_wait_for_what_a_rate_limit_says(scene: Scene) -> None:
    put(scene, *numbered(100))
    clock = scene.clock
    assert isinstance(clock, HandClock)
    scene.account.add_fault(Fault("list_messages", status=429, retry_after=300, times=2))
    done = await synced(scene)
    assert (done.complete, done.new) == (True, 100)
    assert 300 <= sum(clock.slept) < 700, "once for all that were on their way"


@sqlite_only
async def test_a_rate_limit_that_lasts_ends_the_sync(scene: Scene) -> None:
    put(scene, *numbered(100))
    scene.account.add_fault(Fault("list_messages", status=429, retry_after=400))
    done = await synced(scene)
    assert "429/1007" in (done.reason or "")
    assert not done.complete


# Who is missing


async def test_a_vanished_chat_is_missing_until_it_is_back(scene: Scene) -> None:
    put(scene, *numbered(12))
    await synced(scene)
    await scene.change_chat("chat-0003", paused_at=START, paused_reason="asked to")
    kept = scene.account.chats["chat-0003"]
    scene.account.remove_chat("chat-0003")
    done = await synced(scene)
    assert (done.missing, done.unchanged, await ids(scene, missing=True)) == (1, 11, ["chat-0003"])
    assert (await synced(scene)).missing == 0
    scene.account.put_chat(kept)
    done = await synced(scene)
    assert (done.back, done.changed, await ids(scene, missing=True)) == (1, 1, [])
    assert await row(scene, "chat-0003", "paused_at", "paused_reason") == [START, "asked to"]
    async with db.read(scene.engine) as connection:
        assert (await connection.execute(select(func.count()).select_from(share_attempts))).scalar_one() == 0


@sqlite_only
async def test_only_what_linq_has_no_more_is_missing(scene: Scene) -> None:
    """A chat that is not listed is asked for; a 500 or a page of HTML in answer is no 'not found'."""
    put(scene, *numbered(3))
    await scene.know(*(replace(scene.account.chats["chat-0000"], id=f"gone-{number}") for number in range(2)))
    scene.account.add_fault(Fault("get_chat", chat_id="gone-0", status=404, body="<html>", content_type="text/html"))
    done = await synced(scene)
    assert (done.complete, done.failed, await ids(scene, missing=True)) == (False, 1, ["gone-1"])


@sqlite_only
async def test_one_sync_asks_for_so_many_only_and_counts_the_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "MOST_CONFIRMED", 2)
    put(scene, *numbered(3))
    await scene.know(*(replace(scene.account.chats["chat-0000"], id=f"gone-{number}") for number in range(5)))
    left = [await synced(scene) for _ in range(4)]
    assert [(done.missing, done.unconfirmed) for done in left] == [(2, 3), (2, 1), (1, 0), (0, 0)]
    assert await ids(scene, missing=True) == [f"gone-{number}" for number in range(5)]


@sqlite_only
async def test_rows_that_came_in_meanwhile_are_not_judged(scene: Scene) -> None:
    put(scene, *numbered(3))
    writing: list[asyncio.Task[None]] = []

    async def partner() -> None:
        async with db.write(scene.engine) as connection:
            await connection.execute(
                insert(chats_table).values(
                    id="just-now", from_number=LINE, created_at=scene.clock.now() + SECOND, updated_at=START
                )
            )

    def once() -> None:
        if not writing:
            writing.append(asyncio.create_task(partner()))

    assert (await synced(scene, at_each=once)).missing == 0
    assert "just-now" in await ids(scene)
    assert (await synced(scene)).missing == 1


@sqlite_only
async def test_with_the_key_of_another_account_no_chat_is_missing(scene: Scene) -> None:
    put(scene, *numbered(10))
    await synced(scene)
    for chat_id in numbered(10):
        scene.account.remove_chat(chat_id)
    put(scene, "another")
    done = await synced(scene)
    assert "key may be that of another account" in (done.reason or "")
    assert await ids(scene, missing=True) == []


async def test_a_chat_that_cannot_be_used_stays_missing_until_it_changes(scene: Scene) -> None:
    chat = await scene.add_chat("stuck")
    scene.account.add_fault(Fault("share", status=409, code=2013, times=1))
    await scene.one_pass()
    await scene.change_chat("stuck", missing_at=scene.clock.now())
    await synced(scene)
    assert await ids(scene, missing=True) == ["stuck"]
    scene.account.put_chat(replace(chat, last_inbound_at=scene.clock.now()))
    await synced(scene)
    assert await ids(scene, missing=True) == []


# Chats that change while pages are read


def to_the_front(scene: Scene, chat_id: str) -> None:
    """What an account that lists the latest chats first would do when this one changes."""
    order = scene.account._chat_ids
    order.remove(chat_id)
    order.insert(0, chat_id)


@pytest.mark.parametrize("known", [True, False])
async def test_a_chat_that_moves_to_a_page_that_was_read_is_not_lost(scene: Scene, known: bool) -> None:
    put(scene, *numbered(250))
    if known:
        await scene.know(scene.account.chats["chat-0240"])
    moved: list[str] = []

    def move() -> None:
        if scene.account.requests["list_messages"] == 100 and not moved:
            moved.append("chat-0240")
            put(scene, "chat-0240", last_outbound_at=START)
            to_the_front(scene, "chat-0240")

    done = await synced(scene, at_each=move)
    assert moved
    assert (done.chats, done.new + known, done.complete) == (250, 250, True)
    assert await row(scene, "chat-0240", "last_outbound_at", "missing_at") == [START, None]


async def test_a_chat_that_a_shifted_page_hides_is_asked_for(scene: Scene) -> None:
    put(scene, *numbered(250))
    await synced(scene)
    requests(scene)
    put(scene, "chat-0100", last_outbound_at=START)
    removed: list[str] = []

    def remove() -> None:
        if not removed:
            removed.append("chat-0001")
            scene.account.remove_chat("chat-0001")

    done = await synced(scene, at_each=remove)
    assert (done.chats, done.changed) == (250, 1)
    assert await row(scene, "chat-0100", "last_outbound_at") == [START]


# The newest messages


def message(minutes: int, *, mine: bool = True, status: str = "delivered") -> answers.Message:
    at = START - timedelta(minutes=minutes)
    return answers.Message(id="", created_at=at, sent_at=None, is_from_me=mine, delivery_status=status)


def run_of(*minutes: int) -> list[answers.Message]:
    """Outbound messages, one for each of these minutes before START."""
    return [message(each) for each in minutes]


async def read_pages(
    pages: Sequence[Sequence[answers.Message]], known: Newest | None = None, until: datetime | None = None
) -> tuple[Newest, int]:
    """The newest messages of these pages, and how many pages were read."""
    read = 0

    async def served() -> AsyncIterator[Sequence[answers.Message]]:
        nonlocal read
        for page in pages:
            read += 1
            yield page

    return await newest_messages(served(), known or Newest(), until), read


def ago(minutes: int) -> datetime:
    return START - timedelta(minutes=minutes)


async def test_reading_ends_as_soon_as_both_are_found() -> None:
    pages = [run_of(*range(1, 11)), [message(11, mine=False)], run_of(12)]
    assert await read_pages(pages) == (Newest(outbound=ago(1), inbound=ago(11)), 2)


async def test_a_failed_message_is_no_outbound_one() -> None:
    received = [message(minutes, mine=False) for minutes in range(2, 12)]
    pages = [[message(1, status="failed"), *received], run_of(20), run_of(21)]
    assert await read_pages(pages) == (Newest(outbound=ago(20), inbound=ago(2)), 2)


@pytest.mark.parametrize(
    "minutes", [range(20, 10, -1), [11, 12, 13, 14, 15, 17, 16, 18, 19, 20], [11, 12], [11] * 10], ids=str
)
async def test_in_any_other_order_every_page_is_read(minutes: Sequence[int]) -> None:
    pages = [[message(30, mine=False), *run_of(*minutes)], [], run_of(1)]
    assert await read_pages(pages) == (Newest(outbound=ago(1), inbound=ago(30)), 3)


async def test_what_is_older_than_what_is_known_is_not_read() -> None:
    pages = [run_of(*range(1, 11)), run_of(12)]
    assert (await read_pages(pages, Newest(inbound=ago(10))))[1] == 1
    assert (await read_pages(pages, Newest(inbound=ago(11))))[1] == 2
    assert (await read_pages(pages, until=START + timedelta(days=7)))[1] == 1
    assert (await read_pages(pages, until=START))[1] == 2, "a message may be recovered late"


# What an older fact never replaces

TIMES = st.one_of(st.none(), st.integers(-50, 50).map(lambda minutes: START + timedelta(minutes=minutes)))
WORDS = st.sampled_from([None, "HEALTHY", "AT_RISK", "OPTED_OUT"])
ROWS = st.builds(
    StoredChat,
    from_number=st.sampled_from([LINE, OTHER]),
    service=st.sampled_from([None, "imessage", "SMS"]),
    is_group=st.booleans(),
    health_status=WORDS,
    handle=st.sampled_from([None, "+1555"]),
    **dict.fromkeys(
        (
            "last_outbound_at",
            "last_inbound_at",
            "missing_at",
            "opted_out_at",
            "synced_at",
            "linq_updated_at",
            "updated_at",
            "unavailable_at",
        ),
        TIMES,
    ),
)
CHATS = st.builds(
    answers.Chat,
    id=st.just("chat"),
    line=st.sampled_from([None, LINE, OTHER]),
    handle=st.sampled_from([None, "+1555", "+1556"]),
    service=st.sampled_from([None, "iMessage", "SMS"]),
    is_group=st.booleans(),
    health_status=WORDS,
    health_updated_at=TIMES,
    created_at=TIMES,
    updated_at=TIMES,
)
NEWEST = st.builds(Newest, outbound=TIMES, inbound=TIMES)
READ = st.builds(ReadChat, chat=CHATS, newest=st.one_of(st.none(), NEWEST), asked_at=TIMES.filter(bool))
NOW = START + timedelta(minutes=60)


def applied(known: StoredChat, read: ReadChat, now: datetime = NOW) -> StoredChat:
    """The row as it is after what was read."""
    return replace(known, **changes(known, read, now))  # type: ignore[arg-type] # its columns


@given(known=ROWS, read=READ)
def test_what_is_read_is_taken_once_and_no_time_of_a_message_goes_back(known: StoredChat, read: ReadChat) -> None:
    after = applied(known, read)
    assert changes(after, read, NOW) == {}
    for name in ("last_outbound_at", "last_inbound_at"):
        before, since = getattr(known, name), getattr(after, name)
        assert before is None or (since is not None and since >= before)


@given(known=ROWS.filter(lambda known: known.updated_at is not None), read=READ)
def test_what_changed_after_linq_was_asked_stays(known: StoredChat, read: ReadChat) -> None:
    assert known.updated_at is not None
    changed = changes(known, replace(read, asked_at=known.updated_at - SECOND), NOW)
    assert changed.keys() <= {"last_outbound_at", "last_inbound_at"}


@given(known=ROWS, read=READ)
def test_an_opt_out_ends_only_by_a_health_that_is_newer(known: StoredChat, read: ReadChat) -> None:
    after = applied(known, read)
    if known.opted_out_at is not None and after.opted_out_at is None:
        assert read.chat.health_updated_at is not None
        assert read.chat.health_updated_at >= known.opted_out_at
        assert read.chat.health_status not in {None, "OPTED_OUT"}


def read_at(minutes: int, **told: object) -> ReadChat:
    """A chat as Linq describes it, asked so many minutes after START."""
    chat = answers.Chat(
        id="chat",
        line=LINE,
        handle="+1555",
        service="iMessage",
        is_group=False,
        health_status="HEALTHY",
        health_updated_at=START,
        created_at=START,
        updated_at=START,
    )
    chat = replace(chat, **told)  # type: ignore[arg-type] # its fields
    return ReadChat(chat=chat, newest=Newest(), asked_at=START + timedelta(minutes=minutes))


OUT = StoredChat(from_number=LINE, opted_out_at=START + HOUR, updated_at=START + HOUR)


@pytest.mark.parametrize(
    ("known", "word", "since", "expected"),
    [
        (OUT, "HEALTHY", START, OUT.opted_out_at),
        (OUT, "HEALTHY", None, OUT.opted_out_at),
        (OUT, "HEALTHY", START + 2 * HOUR, None),
        (OUT, "BRAND_NEW", START + 2 * HOUR, None),
        (OUT, None, START + 2 * HOUR, OUT.opted_out_at),
        (OUT, "OPTED_OUT", START, OUT.opted_out_at),
        (replace(OUT, opted_out_at=None), "OPTED_OUT", START, START),
        (replace(OUT, opted_out_at=None), "OPTED_OUT", None, START + 3 * HOUR),
        # The inbound message may be the one that said STOP: as long as Linq says so, health_status does too.
        (replace(OUT, last_inbound_at=START + 2 * HOUR), "OPTED_OUT", START + HOUR, START + HOUR),
    ],
)
def test_since_when_a_recipient_is_opted_out(
    known: StoredChat, word: str | None, since: datetime | None, expected: datetime | None
) -> None:
    read = read_at(180, health_status=word, health_updated_at=since)
    assert applied(known, read, NOW + 3 * HOUR).opted_out_at == expected


def test_an_opt_out_that_a_partner_wrote_ends_only_by_a_health_that_is_newer_than_the_row() -> None:
    known = StoredChat(from_number=LINE, health_status="opted_out", updated_at=START + HOUR)
    assert "health_status" not in changes(known, read_at(120), NOW + HOUR)
    newer = read_at(120, health_updated_at=START + 2 * HOUR)
    assert changes(known, newer, NOW + HOUR)["health_status"] == "HEALTHY"


def test_a_chat_without_an_active_line_keeps_the_line_of_the_table() -> None:
    known = StoredChat(from_number=OTHER, service="IMESSAGE")
    changed = changes(known, read_at(1, line=None), NOW)
    assert not changed.keys() & {"from_number", "service"}, "nor is Linq's word rewritten where only the case differs"


# The command


@sqlite_only
async def test_the_command_says_what_it_did(live: Scene, settings: dict[str, str]) -> None:
    put(live, "one", "two")
    await live.know(replace(live.account.chats["one"], id="gone"))
    ended = await share_worker("chats", "sync", "--json", **settings)
    document = json.loads(ended.out)
    assert (ended.code, document.pop("seconds") >= 0) == (0, True)
    assert document == {"complete": True, "reason": None, "requests": 5} | counts(Synced(new=2, missing=1))
    ended = await share_worker("chats", "sync", **settings)
    lines = [line.split()[:2] for line in ended.out.splitlines()[2:]]
    assert lines == [["new", "0"], ["changed", "0"], ["unchanged", "2"], ["chats", "2"]]
    ended = await seen("chats", "sync", "--line", LINE, **settings)
    assert "syncing, 2 chats" in ended.err


@sqlite_only
@pytest.mark.parametrize(
    ("changed", "sign"),
    [
        ({"LINQ_API_KEY": "another"}, "Linq refused the key: 401/2004"),
        ({"LINQ_BASE_URL": "http://127.0.0.1:9"}, "a page of chats could not be read: ConnectError"),
    ],
)
async def test_a_sync_that_reads_nothing_says_why_in_one_line(
    live: Scene, settings: dict[str, str], changed: dict[str, str], sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_BACKOFF_SECONDS", 0.001)
    put(live, "one")
    ended = await share_worker("chats", "sync", **settings | changed)
    *events, line = ended.err.splitlines()
    assert sign in one_line(replace(ended, err=line), 1)
    assert [json.loads(event)["event"] for event in events] == ["sync.started", "sync.failed"]


# Before a pass


@sqlite_only
async def test_a_run_reads_the_chats_first_if_it_is_to(live: Scene, settings: dict[str, str]) -> None:
    now = live.clock.now()
    put(live, "one", "two", created_at=now - 5 * HOUR, last_outbound_at=now - HOUR, last_inbound_at=None)
    ended = await share_worker("run", **settings)
    assert "the table 'chats' is empty" in ended.err
    assert "'share-worker chats sync' fills it from Linq" in ended.err
    ended = await share_worker("run", "--dry-run", SYNC_BEFORE_PASS="true", **settings)
    assert (ended.code, await ids(live)) == (0, [])
    ended = await share_worker("run", SYNC_BEFORE_PASS="true", **settings)
    assert (ended.code, sorted(live.called())) == (0, ["one", "two"])


@sqlite_only
async def test_a_sync_that_fails_does_not_stop_the_pass(
    live: Scene, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_BACKOFF_SECONDS", 0.001)
    await live.add_chat("known")
    live.account.add_fault(Fault("list_chats", status=500))
    ended = await share_worker("run", SYNC_BEFORE_PASS="true", **settings)
    assert (ended.code, live.called()) == (0, ["known"])
    assert "share-worker: the chats were not brought up to date: a page of chats could not be read: 500" in ended.err


@sqlite_only
async def test_a_sync_that_breaks_is_said_and_stops_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "merge", None)
    put(scene, "one")
    async with Linq(scene.account.api_key, base_url=scene.base_url, clock=scene.clock) as linq:
        with capture_logs() as events:
            failed = await sync.sync_before_pass(
                scene.engine, linq, concurrency=1, clock=scene.clock, stop=asyncio.Event()
            )
    assert failed == "the sync broke: TypeError"
    assert [event["event"] for event in events] == ["sync.started", "sync.failed"]
