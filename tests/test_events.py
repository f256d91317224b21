"""What webhooks tell, written into the tables: the newest fact wins, in any order, and however often it comes."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.conftest import START, HandClock
from tests.databases import sqlite_only
from tests.examples import bounded
from tests.scene import LINE
from worker import db
from worker.chats.events import KEPT, apply_events, forget_old, take_card, take_line
from worker.db.tables import chats, lines, sent_messages
from worker.linq.answers import Chat
from worker.linq.webhooks import CardReceived, ChatCreated, ChatEvent, LineChanged, MessageEvent, MessageFailed

some = bounded(40)

HOUR = timedelta(hours=1)
NOW = START + 100 * HOUR
PERSON = "+15557770001"
FACTS = [
    *("id", "from_number", "service", "is_group", "last_outbound_at", "last_inbound_at", "health_status"),
    *("health_updated_at", "opted_out_at", "missing_at", "handle", "card_received_at", "synced_at", "linq_updated_at"),
]


def described(chat_id: str) -> Chat:
    """A chat as Linq has it, long before all events."""
    return Chat(
        id=chat_id,
        line=LINE,
        handle=PERSON,
        service="iMessage",
        is_group=False,
        health_status="HEALTHY",
        health_updated_at=START,
        created_at=START,
        updated_at=START,
    )


def message(
    what: str, hours: float, message_id: str = "m", *, chat_id: str = "chat", health: tuple[str, float] = ("HEALTHY", 0)
) -> MessageEvent:
    """A message that was sent so many hours after START: `sent`, `delivered`, or `received`."""
    return MessageEvent(
        chat_id=chat_id,
        message_id=message_id,
        at=START + hours * HOUR,
        is_outbound=what != "received",
        has_arrived=what == "delivered",
        is_group=False,
        sender=PERSON if what == "received" else LINE,
        health_status=health[0],
        health_updated_at=START + health[1] * HOUR,
    )


def failed(message_id: str = "m", chat_id: str | None = "chat") -> MessageFailed:
    return MessageFailed(message_id=message_id, chat_id=chat_id, at=NOW)


async def start_over(engine: AsyncEngine, **row: object) -> None:
    """One known chat, of which nothing but the given values is known."""
    async with db.write(engine) as connection:
        for table in (chats, sent_messages, lines):
            await connection.execute(delete(table))
        usual = {"id": "chat", "from_number": LINE, "updated_at": START, "created_at": START}
        await connection.execute(insert(chats).values(usual | row))


async def told(engine: AsyncEngine, *events: ChatEvent) -> set[str]:
    """Events that come one after the other."""
    unknown: set[str] = set()
    for event in events:
        async with db.write(engine) as connection:
            unknown |= await apply_events(connection, [event], NOW)
    return unknown


async def table(engine: AsyncEngine) -> list[dict[str, object]]:
    async with db.read(engine) as connection:
        rows = await connection.execute(select(*(chats.c[name] for name in FACTS)).order_by(chats.c.id))
        return [dict(row) for row in rows.mappings()]


async def fact(engine: AsyncEngine, name: str, chat_id: str = "chat") -> object:
    return next(row[name] for row in await table(engine) if row["id"] == chat_id)


# Messages


async def test_the_latest_message_of_each_direction_counts(engine: AsyncEngine) -> None:
    await start_over(engine)
    await told(engine, message("sent", 5), message("delivered", 3, "m2"), message("received", 4, "m3"))
    assert await fact(engine, "last_outbound_at") == START + 5 * HOUR
    assert await fact(engine, "last_inbound_at") == START + 4 * HOUR
    assert await fact(engine, "handle") == PERSON
    assert await fact(engine, "service") is None, "a message's transport is not the chat's"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("chat_id", ["chat", None])
async def test_a_message_that_failed_is_taken_back(
    engine: AsyncEngine, order: tuple[int, int], chat_id: str | None
) -> None:
    events: list[ChatEvent] = [message("sent", 5, "m2"), failed("m2", chat_id)]
    await start_over(engine)
    await told(engine, *(events[number] for number in order))
    assert await fact(engine, "last_outbound_at") is None, "only this message made it known"
    await start_over(engine, last_outbound_at=START + HOUR)
    await told(engine, message("sent", 3, "m1"), *(events[number] for number in order))
    assert await fact(engine, "last_outbound_at") == START + 3 * HOUR
    await told(engine, failed("m1", chat_id))
    assert await fact(engine, "last_outbound_at") == START + HOUR, "what the partner wrote"


async def test_a_message_that_arrived_has_not_failed_whatever_else_comes(engine: AsyncEngine) -> None:
    await start_over(engine)
    await told(engine, message("sent", 5), failed(), message("delivered", 5), failed(), message("sent", 5))
    assert await fact(engine, "last_outbound_at") == START + 5 * HOUR


async def test_what_somebody_else_wrote_since_is_not_taken_back(engine: AsyncEngine) -> None:
    await start_over(engine)
    await told(engine, message("sent", 5))
    async with db.write(engine) as connection:
        await connection.execute(chats.update().values(last_outbound_at=START + 6 * HOUR))
    await told(engine, failed())
    assert await fact(engine, "last_outbound_at") == START + 6 * HOUR


async def test_a_message_from_the_future_says_nothing_and_one_in_the_table_is_replaced(engine: AsyncEngine) -> None:
    await start_over(engine)
    await told(engine, message("received", 101), message("delivered", 102))
    assert (await fact(engine, "last_inbound_at"), await fact(engine, "last_outbound_at")) == (None, None)
    await start_over(engine, last_inbound_at=START + 200 * HOUR, last_outbound_at=START + 200 * HOUR)
    await told(engine, message("received", 1), message("sent", 2))
    assert (await fact(engine, "last_inbound_at"), await fact(engine, "last_outbound_at")) == (
        START + HOUR,
        START + 2 * HOUR,
    )


@sqlite_only
async def test_messages_are_not_remembered_for_ever(engine: AsyncEngine) -> None:
    await start_over(engine)
    await told(engine, message("sent", 5))
    async with db.write(engine) as connection:
        assert await forget_old(connection, NOW + KEPT) == 0
        assert await forget_old(connection, NOW + KEPT + HOUR) == 1
    await told(engine, failed())
    assert await fact(engine, "last_outbound_at") == START + 5 * HOUR


# Chats


async def test_an_unknown_chat_is_added_only_as_linq_describes_it(engine: AsyncEngine) -> None:
    await start_over(engine)
    event = message("received", 5, chat_id="new")
    assert await told(engine, event, message("sent", 6)) == {"new"}
    async with db.write(engine) as connection:
        assert await apply_events(connection, [event], NOW, {"new": described("new")}) == set()
    new = (await table(engine))[1]
    assert (new["service"], new["handle"], new["last_inbound_at"]) == ("iMessage", PERSON, START + 5 * HOUR)
    assert (new["synced_at"], new["linq_updated_at"]) == (None, None), "its messages were not read"
    await told(engine, ChatCreated(chat=described("newest"), at=NOW))
    assert await fact(engine, "service", "newest") == "iMessage"


async def test_an_opt_out_comes_and_goes_with_the_chats_health(engine: AsyncEngine) -> None:
    await start_over(engine)
    stop = message("received", 5, health=("OPTED_OUT", 5))
    back = message("received", 7, "m2", health=("HEALTHY", 7))
    await told(engine, stop)
    assert (await fact(engine, "health_status"), await fact(engine, "opted_out_at")) == ("OPTED_OUT", START + 5 * HOUR)
    await told(engine, back, stop)
    assert (await fact(engine, "health_status"), await fact(engine, "opted_out_at")) == ("HEALTHY", None)


async def test_what_a_partner_wrote_stays_until_linqs_health_changes(engine: AsyncEngine) -> None:
    await start_over(engine, health_status="OPTED_OUT", updated_at=START + 4 * HOUR)
    await told(engine, message("received", 5, health=("HEALTHY", 3)))
    assert await fact(engine, "health_status") == "OPTED_OUT"
    await told(engine, message("received", 6, health=("HEALTHY", 5.5)))
    assert await fact(engine, "health_status") == "HEALTHY"


async def test_a_later_message_brings_a_missing_chat_back(engine: AsyncEngine) -> None:
    await start_over(engine, missing_at=START + 5 * HOUR)
    await told(engine, message("delivered", 4))
    assert await fact(engine, "missing_at") == START + 5 * HOUR
    await told(engine, message("delivered", 6))
    assert await fact(engine, "missing_at") is None


# Cards and lines


async def test_a_card_that_was_received_is_noted_at_the_direct_chat_of_that_line_and_person(
    engine: AsyncEngine,
) -> None:
    await start_over(engine, handle="Ann@Example.com")
    async with db.write(engine) as connection:
        others = [("group", LINE, True), ("elsewhere", "+15550100002", False)]
        for chat_id, line, is_group in others:
            row = {"id": chat_id, "from_number": line, "is_group": is_group, "handle": "ann@example.com"}
            await connection.execute(insert(chats).values(row))
        for hours in (5, 9, 7):
            event = CardReceived(line=LINE, sender="ann@example.com", at=START + hours * HOUR)
            assert await take_card(connection, event) == 1
        assert await take_card(connection, CardReceived(line=LINE, sender="bob@example.com", at=START)) == 0
    received = {row["id"]: row["card_received_at"] for row in await table(engine)}
    assert received == {"chat": START + 9 * HOUR, "group": None, "elsewhere": None}


async def test_a_lines_newest_status_wins_and_a_reputation_that_was_read_later_stays(engine: AsyncEngine) -> None:
    await start_over(engine)

    def changed(hours: float, reputation: str, status: str) -> LineChanged:
        return LineChanged(phone_number=LINE, reputation=reputation, status=status, at=START + hours * HOUR)

    async with db.write(engine) as connection:
        newest = changed(5, "AT_RISK", "FLAGGED")
        for event in (newest, changed(3, "HEALTHY", "ACTIVE"), newest):
            await take_line(connection, event)
        row = (await connection.execute(select(lines))).mappings().one()
        assert (row["reputation"], row["status"]) == ("AT_RISK", "FLAGGED")
        await connection.execute(lines.update().values(reputation="CRITICAL", checked_at=START + 8 * HOUR))
        await take_line(connection, changed(7, "HEALTHY", "ACTIVE"))
        row = (await connection.execute(select(lines))).mappings().one()
        assert (row["reputation"], row["status"]) == ("CRITICAL", "ACTIVE")


# Any order


_hours = st.integers(1, 6)
_messages = st.builds(
    message,
    st.sampled_from(["sent", "delivered", "received"]),
    _hours,
    st.sampled_from(["m1", "m2", "m3"]),
    chat_id=st.sampled_from(["chat", "new"]),
    health=st.tuples(st.sampled_from(["HEALTHY", "AT_RISK", "OPTED_OUT"]), _hours).map(lambda pair: pair),
)


def coherent(events: Sequence[ChatEvent]) -> list[ChatEvent]:
    """As Linq would have them: a message has one chat, direction and time, and one health began at one moment."""
    first: dict[str, MessageEvent] = {}
    health: dict[tuple[str, datetime | None], str | None] = {}
    kept: list[ChatEvent] = []
    for event in events:
        if isinstance(event, MessageEvent):
            known = first.setdefault(event.message_id, event)
            if (known.chat_id, known.at, known.is_outbound) != (event.chat_id, event.at, event.is_outbound):
                continue
            if health.setdefault((event.chat_id, event.health_updated_at), event.health_status) != event.health_status:
                continue
        kept.append(event)
    return [
        event
        for event in kept
        if not isinstance(event, MessageFailed) or first.get(event.message_id, message("sent", 1)).is_outbound
    ]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@some
@given(
    events=st.lists(
        st.one_of(_messages, st.builds(failed, st.sampled_from(["m1", "m2", "m3"]), st.none())), min_size=1, max_size=9
    ).map(coherent),
    known=st.sampled_from(
        [
            {},
            {"last_outbound_at": START + 2 * HOUR, "last_inbound_at": START + 3 * HOUR, "service": "iMessage"},
            {"opted_out_at": START + 3 * HOUR, "missing_at": START + 4 * HOUR},
            {"health_status": "OPTED_OUT", "updated_at": START + 3 * HOUR},
        ]
    ),
    random=st.randoms(use_true_random=False),
)
async def test_any_order_and_repetition_ends_in_the_same_table(
    engine: AsyncEngine, clock: HandClock, events: list[ChatEvent], known: dict[str, object], random: Random
) -> None:
    del clock
    ends = []
    for shuffled in (False, True):
        await start_over(engine, **known)
        left = [*events, *(random.choices(events, k=3) if events else [])] if shuffled else list(events)
        if shuffled:
            random.shuffle(left)
        while left:
            size = random.randint(1, 4) if shuffled else 1
            batch, left = left[:size], left[size:]
            async with db.write(engine) as connection:
                await apply_events(connection, batch, NOW, {"new": described("new")})
        ends.append(await table(engine))
    assert ends[0] == ends[1]
