"""Brings what was read from Linq into the table `chats`: fact by fact the newest wins, whoever wrote it.

The rows are locked, compared with what was read, and changed where that is newer, in one short transaction. Of messages
the later time stays. The other facts of a row stay if the row was changed after Linq was asked: by a webhook, a pass,
an admin or the partner. `paused_at` and `paused_reason` are never touched.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import ColumnElement, Result, Select, bindparam, case, func, null, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.chats.newest import Newest
from worker.clock import CLOCK_ERROR
from worker.db.inserts import insert_into
from worker.db.partner_values import LONGEST_ID, as_text, as_time, no_id, utc
from worker.db.tables import UtcTime, chats, share_attempts
from worker.db.text_list import TextList, is_one_of
from worker.linq.answers import Chat, ErrorCode

OPTED_OUT: Final = "OPTED_OUT"

UNREMARKABLE: Final = {"linq_updated_at", "health_updated_at"}
"""Columns that only the merge itself reads: a row in which nothing else changed counts as unchanged."""

_IDS: Final = bindparam("ids", type_=TextList())


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadChat:
    """A chat as Linq described it, and its newest messages; `newest` is None if they could not be read.

    Attributes:
        asked_at: when Linq was asked, so what it told may be older than what came in after that.
    """

    chat: Chat
    newest: Newest | None
    asked_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredChat:
    """A row of the table, as far as a sync looks at it. A time that cannot be read is None."""

    from_number: str
    service: str | None = None
    is_group: bool = False
    last_outbound_at: datetime | None = None
    last_inbound_at: datetime | None = None
    health_status: str | None = None
    missing_at: datetime | None = None
    opted_out_at: datetime | None = None
    handle: str | None = None
    synced_at: datetime | None = None
    linq_updated_at: datetime | None = None
    health_updated_at: datetime | None = None
    updated_at: datetime | None = None
    unavailable_at: datetime | None = None
    """When Linq last answered that the chat cannot be used any more (2013), of a chat that is missing."""


class Merged(StrEnum):
    """What became of a chat that was read."""

    NEW = "new"
    CHANGED = "changed"
    BACK = "back"
    """Changed: it was missing before."""
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    """Nothing to add: no line of the account is active in it, or its id is unusable."""


async def stored(connection: AsyncConnection, ids: Collection[str]) -> dict[str, StoredChat]:
    """The rows of these chats."""
    return _rows(await connection.execute(_READING, {"ids": ids}))


async def locked(connection: AsyncConnection, ids: Collection[str]) -> dict[str, StoredChat]:
    """The rows of these chats, locked in the order of the ids: so two that lock at once cannot deadlock."""
    return _rows(await connection.execute(_LOCKING, {"ids": list(ids)}))


async def merge(
    connection: AsyncConnection, read: Iterable[ReadChat], *, started: datetime, now: datetime
) -> dict[str, Merged]:
    """Add chats that were read, or bring their rows up to date; each chat comes once.

    `started` is when the sync began: it becomes `synced_at`, by which the sync knows what it has seen.
    """
    in_order = sorted(read, key=lambda each: each.chat.id)  # so that two that write at once cannot deadlock
    known = await locked(connection, [each.chat.id for each in in_order])
    outcomes: dict[str, Merged] = {}
    added: list[dict[str, object]] = []
    changed: dict[str, dict[str, object]] = {}
    for each in in_order:
        chat_id, row = each.chat.id, known.get(each.chat.id)
        if row is None:
            values = new_row(each, started)
            outcomes[chat_id] = Merged.NEW if values else Merged.SKIPPED
            added += [values] if values else []
            continue
        values = changes(row, each, now)
        outcomes[chat_id] = _outcome(values)
        if row.synced_at is None or row.synced_at < started:
            values["synced_at"] = started
        if values:
            changed[chat_id] = values
    if added:
        await connection.execute(insert_into(connection, chats).on_conflict_do_nothing(), added)
    await write_changes(connection, changed)
    return outcomes


async def write_changes(connection: AsyncConnection, changed: Mapping[str, Mapping[str, object]]) -> None:
    """Give chats the values of their columns that changed, those with the same columns in one statement."""
    alike: defaultdict[tuple[str, ...], list[dict[str, object]]] = defaultdict(list)
    for chat_id, values in changed.items():
        alike[tuple(sorted(values))].append({"of_id": chat_id, **values})
    for names, rows in alike.items():
        changing = update(chats).where(chats.c.id == bindparam("of_id"))
        await connection.execute(changing.values({name: bindparam(name) for name in names}), rows)


def new_row(read: ReadChat, started: datetime) -> dict[str, object]:
    """The row of a chat that the table does not have; empty if the table cannot hold it."""
    chat = read.chat
    if chat.line is None or len(chat.id) > LONGEST_ID:
        return {}
    row = StoredChat(from_number=chat.line)
    found = changes(row, read, read.asked_at)
    names = [each.name for each in fields(StoredChat) if each.name != "unavailable_at"]
    return (
        {"id": chat.id}
        | {name: found.get(name, getattr(row, name)) for name in names}
        | {
            "synced_at": started,
            "updated_at": read.asked_at,
        }
    )


def changes(row: StoredChat, read: ReadChat, now: datetime) -> dict[str, object]:
    """The columns of a row that what was read changes, with their new values."""
    latest_possible = now + CLOCK_ERROR
    newest = read.newest or Newest()
    values: dict[str, object] = {
        "last_outbound_at": later(row.last_outbound_at, newest.outbound, latest_possible),
        "last_inbound_at": later(row.last_inbound_at, newest.inbound, latest_possible),
    }
    if _is_newer(row, read, latest_possible):
        chat = read.chat
        values |= {
            "from_number": chat.line or row.from_number,
            "service": _respelt(row.service, chat.service),
            "is_group": chat.is_group,
            "handle": None if chat.is_group else chat.handle or row.handle,
            "missing_at": _missing_at(row, chat),
            **health_changes(row, chat.health_status, chat.health_updated_at, read.asked_at),
        }
        if read.newest is not None:
            values["linq_updated_at"] = chat.updated_at
        values = differing(row, values)
        if values.keys() - UNREMARKABLE:
            values["updated_at"] = read.asked_at
    return differing(row, values)


async def mark_missing(
    connection: AsyncConnection, ids: Collection[str], *, asked_at: datetime, started: datetime, now: datetime
) -> int:
    """Linq knows no such chats any more; return how many rows say so now. One that was changed since stays."""
    marking = (
        update(chats)
        .where(is_one_of(chats.c.id, _IDS), chats.c.missing_at.is_(None), _is_before(chats.c.updated_at, "asked_at"))
        .values(missing_at=now, updated_at=now, synced_at=started)
    )
    values = {"ids": ids, "asked_at": asked_at, "latest_possible": now + CLOCK_ERROR}
    return (await connection.execute(marking, values)).rowcount


async def unseen(
    connection: AsyncConnection, lines: Collection[str], *, started: datetime, now: datetime, at_most: int
) -> tuple[list[str], int]:
    """The ids of chats that the sync has not seen and that are not missing, and how many there are in all.

    Those come first that the sync saw longest ago.

    `lines`: only chats of these; empty: of all. Rows that came in, or were changed, after the sync began are left out.
    """
    statement = (
        select(chats.c.id, func.count().over())
        .where(
            chats.c.missing_at.is_(None),
            ~no_id(chats.c.id),
            or_(chats.c.synced_at.is_(None), chats.c.synced_at < _time("started")),
            _is_before(chats.c.created_at, "started"),
            _is_before(chats.c.updated_at, "started"),
        )
        .order_by(chats.c.synced_at.nulls_first(), chats.c.id)
        .limit(at_most)
    )
    if lines:
        statement = statement.where(chats.c.from_number.in_(lines))
    values = {"started": started, "latest_possible": now + CLOCK_ERROR}
    found = (await connection.execute(statement, values)).all()
    return [chat_id for chat_id, _ in found], found[0][1] if found else 0


def _is_newer(row: StoredChat, read: ReadChat, latest_possible: datetime) -> bool:
    """Whether what was read is newer than what the row says; a row's time in the future says nothing."""
    if row.updated_at is not None and read.asked_at < row.updated_at <= latest_possible:
        return False
    told = read.chat.updated_at
    return told is None or row.linq_updated_at is None or told >= row.linq_updated_at


def later(known: datetime | None, read: datetime | None, latest_possible: datetime) -> datetime | None:
    """The later of two times; one in the future says nothing."""
    if read is None:
        return known
    return read if known is None or known > latest_possible else max(known, read)


def _respelt(known: str | None, read: str | None) -> str | None:
    """Linq's word, in the table's own spelling where only that differs; what Linq leaves out stays."""
    return known if read is None or (known or "").lower() == read.lower() else read


def _missing_at(row: StoredChat, chat: Chat) -> datetime | None:
    """A chat that Linq lists is not missing, unless Linq said that it cannot be used, and it is as it was then."""
    if row.unavailable_at is not None and (chat.updated_at is None or chat.updated_at <= row.unavailable_at):
        return row.missing_at
    return None


def health_changes(row: StoredChat, word: str | None, since: datetime | None, asked_at: datetime) -> dict[str, object]:
    """The health, since when it is so, and since when the recipient is opted out.

    Only a health that is newer than the known one is taken. It ends an opt-out if it is newer than that too: a chat
    that reads HEALTHY may be blocked by an opt-out elsewhere. What a partner wrote stays until Linq's health changes.
    """
    if word is None:
        return {}
    at, known_at = since or asked_at, row.health_updated_at
    if known_at is not None and row.health_status is not None and at <= known_at:
        return {}
    is_opted_out = word.upper() == OPTED_OUT
    if (row.health_status or "").upper() == OPTED_OUT and not is_opted_out and known_at is None:
        written_at = row.opted_out_at or row.updated_at
        if since is None or (written_at is not None and since < written_at):
            return {}
    found: dict[str, object] = {"health_status": _respelt(row.health_status, word), "health_updated_at": at}
    if is_opted_out:
        return found | {"opted_out_at": max(filter(None, (row.opted_out_at, at)))}
    if row.opted_out_at is not None and since is not None and since >= row.opted_out_at:
        found["opted_out_at"] = None
    return found


def differing(row: StoredChat, values: Mapping[str, object]) -> dict[str, object]:
    """Those of the values that the row does not have."""
    return {name: value for name, value in values.items() if value != getattr(row, name)}


def _outcome(changed: Mapping[str, object]) -> Merged:
    if "missing_at" in changed:
        return Merged.BACK
    return Merged.CHANGED if changed.keys() - UNREMARKABLE else Merged.UNCHANGED


def _time(name: str) -> ColumnElement[datetime]:
    return bindparam(name, type_=UtcTime())


def _is_before(column: ColumnElement[datetime], name: str) -> ColumnElement[bool]:
    """Whether a time of a row lies before a moment; one that cannot be read, or is in the future, says nothing."""
    at = utc(column)
    return or_(at.is_(None), at < _time(name), at > _time("latest_possible"))


def _reading() -> Select[*tuple[object, ...]]:
    """The rows of the chats of the parameter `ids`, with the columns of `StoredChat`."""
    unavailable_at = (
        select(func.max(share_attempts.c.finished_at))
        .where(share_attempts.c.chat_id == chats.c.id, share_attempts.c.error_code == ErrorCode.CHAT_UNAVAILABLE.value)
        .correlate(chats)
        .scalar_subquery()
    )
    texts = (as_text(chats.c[name]).label(name) for name in ("id", "from_number", "service", "health_status", "handle"))
    times = (as_time(chats.c[name]).label(name) for name in _TIMES)
    return select(
        *texts,
        *times,
        chats.c.is_group.is_not(False).label("is_group"),
        case((chats.c.missing_at.is_not(None), unavailable_at), else_=null()).label("unavailable_at"),
    ).where(is_one_of(chats.c.id, _IDS))


_TIMES: Final = (
    *("last_outbound_at", "last_inbound_at", "missing_at", "opted_out_at"),
    *("synced_at", "linq_updated_at", "health_updated_at", "updated_at"),
)
_READING: Final = _reading()
_LOCKING: Final = _READING.order_by(chats.c.id).with_for_update(of=chats)


def _rows(result: Result[*tuple[object, ...]]) -> dict[str, StoredChat]:
    rows = [dict(row) for row in result.mappings()]
    return {row.pop("id"): StoredChat(**row) for row in rows}
