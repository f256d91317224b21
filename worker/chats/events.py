"""Writes what webhooks tell into the tables: fact by fact the newest wins, in any order, however often.

A chat's rows are locked, compared with the events, and changed where those are newer, many events in one transaction.
The ledger and pauses are never touched.

An outbound message that is only known as sent may still fail, and then it is taken back: `sent_messages` holds those,
with the chat's latest outbound message apart from them. One that was delivered or read has not failed, whatever comes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import bindparam, case, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.chats.merge import ReadChat, StoredChat, differing, health_changes, later, locked, new_row, write_changes
from worker.clock import CLOCK_ERROR
from worker.db.inserts import insert_into
from worker.db.tables import chats, lines, sent_messages
from worker.db.text_list import TextList, is_one_of
from worker.linq.answers import Chat
from worker.linq.webhooks import CardReceived, ChatCreated, ChatEvent, LineChanged, MessageEvent, MessageFailed

KEPT: Final = timedelta(days=7)
"""How long a message that was sent, and not delivered, may still be taken back."""


COLUMNS: Final = (
    *("service", "is_group", "last_inbound_at", "health_status", "health_updated_at"),
    *("missing_at", "opted_out_at", "handle"),
)
"""What an event may change in a row of `chats`, besides `last_outbound_at`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sent:
    """A row of `sent_messages`."""

    message_id: str
    chat_id: str | None
    sent_at: datetime | None
    failed_at: datetime | None
    before_at: datetime | None


@dataclass(kw_only=True)
class _Chat:
    """A chat while events are taken: its row, what that is to become, and its messages that may still fail."""

    row: StoredChat
    updated: StoredChat
    other_outbound_at: datetime | None
    """The latest outbound message apart from those that may still fail."""
    sent: dict[str, datetime]

    def values(self) -> dict[str, object]:
        """What the row is to hold in the columns that an event may change."""
        outbound = max(filter(None, (self.other_outbound_at, *self.sent.values())), default=None)
        return {name: getattr(self.updated, name) for name in COLUMNS} | {"last_outbound_at": outbound}


async def apply_events(
    connection: AsyncConnection, events: Sequence[ChatEvent], now: datetime, described: Mapping[str, Chat] | None = None
) -> set[str]:
    """Write what the events say of chats; return the ids of chats that the table does not have.

    `described`: chats as Linq describes them, to be added if an event is about one of them. Of an unknown chat that is
    not described, nothing is written.
    """
    ids = {event.chat_id for event in events if event.chat_id is not None}
    message_ids = {event.message_id for event in events if not isinstance(event, ChatCreated)}
    noted = await _noted(connection, ids, message_ids)
    if others := {each.chat_id for each in noted.values() if each.chat_id is not None} - ids:
        noted |= await _noted(connection, others, ())
        ids |= others
    rows = await locked(connection, ids)
    created = {event.chat.id: event.chat for event in events if isinstance(event, ChatCreated)}
    rows |= await _add(connection, {**(described or {}), **created}, ids - rows.keys(), now)
    taken = _Taken(rows, noted, now)
    for event in events:
        taken.take(event)
    await taken.write(connection)
    return {event.chat_id for event in events if event.chat_id is not None and event.chat_id not in rows}


class _Taken:
    """Events, taken in one after the other."""

    def __init__(self, rows: Mapping[str, StoredChat], noted: Mapping[str, _Sent], now: datetime) -> None:
        self._now = now
        self._latest_possible = now + CLOCK_ERROR
        self._noted = noted
        self._chats = {chat_id: _chat(row, chat_id, noted) for chat_id, row in rows.items()}
        self._failed = {each.message_id: each for each in noted.values() if each.failed_at is not None}
        self._arrived: set[str] = set()

    def take(self, event: ChatEvent) -> None:
        """Take in an event; one from the future, or about an unknown chat, says nothing."""
        if isinstance(event, MessageFailed):
            self._take_failure(event)
        elif event.chat_id in self._chats and event.at <= self._latest_possible:
            if isinstance(event, MessageEvent):
                self._take_message(self._chats[event.chat_id], event)
            else:
                _take_description(self._chats[event.chat_id], event)

    def _take_failure(self, event: MessageFailed) -> None:
        known = self._noted.get(event.message_id)
        self._failed[event.message_id] = _Sent(
            message_id=event.message_id,
            chat_id=event.chat_id or (known.chat_id if known else None),
            sent_at=None,
            failed_at=event.at,
            before_at=None,
        )
        for chat in self._chats.values():
            chat.sent.pop(event.message_id, None)

    def _take_message(self, chat: _Chat, event: MessageEvent) -> None:
        """A message that was sent, delivered, read or received."""
        updated = chat.updated
        if not event.is_outbound:
            updated = replace(updated, last_inbound_at=later(updated.last_inbound_at, event.at, self._latest_possible))
        elif event.has_arrived:
            chat.sent.pop(event.message_id, None)
            self._arrived.add(event.message_id)
            chat.other_outbound_at = later(chat.other_outbound_at, event.at, self._latest_possible)
        elif event.message_id not in self._failed:
            chat.sent[event.message_id] = event.at
            if chat.other_outbound_at is not None and chat.other_outbound_at > self._latest_possible:
                chat.other_outbound_at = None
        if event.is_group is not None:
            updated = replace(updated, is_group=event.is_group)
        if updated.handle is None and not updated.is_group and not event.is_outbound:
            updated = replace(updated, handle=event.sender)
        if updated.missing_at is not None and event.at > updated.missing_at:
            updated = replace(updated, missing_at=None)
        chat.updated = _with_health(updated, event.health_status, event.health_updated_at, event.at)

    async def write(self, connection: AsyncConnection) -> None:
        """Write what changed, in the order of the keys."""
        changed: dict[str, dict[str, object]] = {}
        notes = {name: note for name, note in self._failed.items() if name not in self._arrived}
        for chat_id, chat in sorted(self._chats.items()):
            values = differing(chat.row, chat.values())
            if values.keys() & {"health_status", "missing_at"}:
                values["updated_at"] = self._now
            if values:
                changed[chat_id] = values
            for message_id, sent_at in chat.sent.items():
                notes[message_id] = _Sent(
                    message_id=message_id,
                    chat_id=chat_id,
                    sent_at=sent_at,
                    failed_at=None,
                    before_at=chat.other_outbound_at,
                )
        await write_changes(connection, changed)
        await self._write_notes(
            connection, [note for note in notes.values() if note != self._noted.get(note.message_id)]
        )

    async def _write_notes(self, connection: AsyncConnection, notes: Sequence[_Sent]) -> None:
        if notes:
            statement = insert_into(connection, sent_messages)
            setting = {name: statement.excluded[name] for name in ("chat_id", "sent_at", "failed_at", "before_at")}
            in_order = sorted(notes, key=lambda note: note.message_id)
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["message_id"], set_=setting),
                [asdict(note) | {"noted_at": self._now} for note in in_order],
            )
        if arrived := sorted(self._arrived & self._noted.keys()):
            await connection.execute(delete(sent_messages).where(sent_messages.c.message_id.in_(arrived)))


def _chat(row: StoredChat, chat_id: str, noted: Mapping[str, _Sent]) -> _Chat:
    pending = [each for each in noted.values() if each.chat_id == chat_id and each.failed_at is None]
    sent = {each.message_id: each.sent_at for each in pending if each.sent_at is not None}
    other = row.last_outbound_at
    if sent and other == max(sent.values()):  # else somebody else has written the column since
        other = pending[0].before_at
    return _Chat(row=row, updated=row, other_outbound_at=other, sent=sent)


def _take_description(chat: _Chat, event: ChatCreated) -> None:
    """A chat as Linq described it when it was made: what the table does not know yet."""
    told, updated = event.chat, chat.updated
    updated = replace(
        updated,
        service=updated.service or told.service,
        handle=None if updated.is_group else updated.handle or told.handle,
    )
    chat.updated = _with_health(updated, told.health_status, told.health_updated_at, event.at)


def _with_health(row: StoredChat, word: str | None, since: datetime | None, at: datetime) -> StoredChat:
    found = health_changes(row, word, since, at)
    return replace(row, **found) if found else row  # type: ignore[arg-type] # its own columns


async def _noted(connection: AsyncConnection, ids: Iterable[str], message_ids: Iterable[str]) -> dict[str, _Sent]:
    """The messages of these chats that may still fail, or have failed; and these messages themselves."""
    found = await connection.execute(_NOTED, {"ids": list(ids), "message_ids": list(message_ids)})
    return {row["message_id"]: _Sent(**row) for row in found.mappings()}


async def _add(
    connection: AsyncConnection, described: Mapping[str, Chat], ids: Iterable[str], now: datetime
) -> dict[str, StoredChat]:
    """Add chats that the table does not have, and lock their rows."""
    rows = [
        values | {"synced_at": None, "created_at": now}
        for chat_id in sorted(set(ids) & described.keys())
        if (values := new_row(ReadChat(chat=described[chat_id], newest=None, asked_at=now), now))
    ]
    if not rows:
        return {}
    await connection.execute(insert_into(connection, chats).on_conflict_do_nothing(), rows)
    return await locked(connection, [str(row["id"]) for row in rows])


async def take_card(connection: AsyncConnection, event: CardReceived) -> int:
    """Somebody shared their own card with a line: note it at their direct chat; return how many chats that are."""
    direct = (chats.c.from_number == event.line, func.lower(chats.c.handle) == event.sender.lower())
    of_chat = select(chats.c.id).where(*direct, chats.c.is_group.is_(False))
    ids = list((await connection.execute(of_chat.order_by(chats.c.id).with_for_update())).scalars())
    is_newer = or_(chats.c.card_received_at.is_(None), chats.c.card_received_at < event.at)
    noting = update(chats).where(is_one_of(chats.c.id, bindparam("ids", type_=TextList())), is_newer)
    await connection.execute(noting.values(card_received_at=event.at), {"ids": ids})
    return len(ids)


async def take_line(connection: AsyncConnection, event: LineChanged) -> None:
    """A line's status and reputation, unless something newer is known of them."""
    statement = insert_into(connection, lines).values(
        phone_number=event.phone_number,
        reputation=event.reputation,
        status=event.status,
        checked_at=event.at,
        status_changed_at=event.at,
    )
    told = statement.excluded
    is_newer = or_(lines.c.status_changed_at.is_(None), lines.c.status_changed_at < told.status_changed_at)
    setting = {
        "status": told.status,
        "status_changed_at": told.status_changed_at,
        "reputation": case((lines.c.checked_at > told.checked_at, lines.c.reputation), else_=told.reputation),
    }
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["phone_number"], set_=setting, where=is_newer)
    )


async def forget_old(connection: AsyncConnection, now: datetime) -> int:
    """Forget messages that were sent so long ago that they will not fail any more; return how many."""
    return (await connection.execute(delete(sent_messages).where(sent_messages.c.noted_at < now - KEPT))).rowcount


_NOTED: Final = select(
    *(sent_messages.c[name] for name in ("message_id", "chat_id", "sent_at", "failed_at", "before_at"))
).where(
    or_(
        is_one_of(sent_messages.c.chat_id, bindparam("ids", type_=TextList())),
        is_one_of(sent_messages.c.message_id, bindparam("message_ids", type_=TextList())),
    )
)
