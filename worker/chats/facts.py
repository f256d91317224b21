"""What is known of chats, and of the account's lines and their cards, beyond what the partner's own SQL writes.

Facts that Linq tells during a pass are kept where the verdict finds them: that is how one answer stops the other calls
of a line, in this worker and in every other one.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Table, bindparam, delete, exists, func, literal, null, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.account import Card, Line
from worker.db.inserts import insert_into
from worker.db.partner_values import as_text
from worker.db.tables import chats, contact_cards, lines

BATCH: Final = 5_000


async def store_cards(connection: AsyncConnection, cards: Collection[Card], now: datetime) -> None:
    """Keep the account's cards as they were just read: all of them, and no others."""
    await _delete_others(connection, contact_cards, {card.phone_number for card in cards})
    await _upsert_cards(connection, cards, now)


async def store_card(connection: AsyncConnection, card: Card, now: datetime) -> None:
    """Keep one card as it was just read; the others stay as they are."""
    await _upsert_cards(connection, [card], now)


async def store_lines(connection: AsyncConnection, account_lines: Collection[Line], now: datetime) -> None:
    """Keep the account's lines as they were just read: all of them, and no others.

    What Linq says of a line elsewhere stays: `refused_at` and `status`.
    """
    await _delete_others(connection, lines, {line.phone_number for line in account_lines})
    await _upsert_by_number(connection, lines, [asdict(line) for line in account_lines], now)


async def card_is_inactive(connection: AsyncConnection, chat_ids: Iterable[str], now: datetime) -> None:
    """Linq found no active card (2012) on the lines of these chats: none of theirs is due until it is active again."""
    of_chats = select(chats.c.from_number).where(chats.c.id.in_(list(chat_ids)))
    await connection.execute(
        update(contact_cards).where(contact_cards.c.phone_number.in_(of_chats)).values(is_active=False, checked_at=now)
    )


async def line_is_refused(connection: AsyncConnection, chat_ids: Iterable[str], now: datetime) -> None:
    """Linq lets the lines of these chats do nothing new (2027): they rest for a while."""
    of_chats = select(chats.c.from_number).where(chats.c.id.in_(list(chat_ids))).distinct().subquery()
    times = [literal(now, lines.c.refused_at.type), literal(now, lines.c.checked_at.type)]
    statement = insert_into(connection, lines).from_select(
        ["phone_number", "refused_at", "checked_at"], select(of_chats.c.from_number, *times).where(true())
    )
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["phone_number"], set_={"refused_at": now, "checked_at": now})
    )


async def line_is_accepted(connection: AsyncConnection, chat_ids: Iterable[str]) -> None:
    """Linq did what the lines of these chats asked for: they are refused no longer."""
    of_chats = select(chats.c.from_number).where(chats.c.id.in_(list(chat_ids)))
    await connection.execute(
        update(lines)
        .where(lines.c.refused_at.is_not(None), lines.c.phone_number.in_(of_chats))
        .values(refused_at=null())
    )


async def refused_lines(connection: AsyncConnection) -> dict[str, datetime]:
    """The lines that Linq refused and has not accepted since, and when it refused them last."""
    statement = select(lines.c.phone_number, lines.c.refused_at).where(lines.c.refused_at.is_not(None))
    return {number: at for number, at in await connection.execute(statement) if at is not None}


async def chat_is_missing(connection: AsyncConnection, chat_ids: Iterable[str], now: datetime) -> None:
    """Linq knows no such chats (2001), or they cannot be used any more (2013)."""
    await connection.execute(update(chats).where(chats.c.id.in_(list(chat_ids))).values(missing_at=now, updated_at=now))


async def recipient_opted_out(connection: AsyncConnection, chat_ids: Iterable[str], now: datetime) -> None:
    """The recipients of these chats sent STOP or the like (2024); it is over when they write again."""
    await connection.execute(
        update(chats).where(chats.c.id.in_(list(chat_ids))).values(opted_out_at=now, updated_at=now)
    )


async def count_chats(connection: AsyncConnection) -> int:
    """How many chats the table holds."""
    counted = await connection.execute(select(func.count()).select_from(chats))
    return int(counted.scalar_one())


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownChat:
    """What a row of `chats` says before the worker has ever seen the chat."""

    id: str
    from_number: str
    service: str | None
    is_group: bool
    last_outbound_at: datetime | None
    last_inbound_at: datetime | None
    health_status: str | None


async def add_chats(connection: AsyncConnection, known: Iterable[KnownChat]) -> None:
    """Add chats that the table does not have yet; those that it has stay as they are."""
    rows = [asdict(chat) for chat in known]
    for start in range(0, len(rows), BATCH):
        await connection.execute(insert_into(connection, chats).on_conflict_do_nothing(), rows[start : start + BATCH])


async def has_chat(connection: AsyncConnection, chat_id: str) -> bool:
    """Whether the table has a chat."""
    return bool((await connection.execute(select(exists().where(chats.c.id == chat_id)))).scalar_one())


async def chats_per_line(connection: AsyncConnection) -> dict[str, int]:
    """How many chats each line has, whatever a partner wrote for a line."""
    rows = await connection.execute(select(as_text(chats.c.from_number), func.count()).group_by(chats.c.from_number))
    counts: Counter[str] = Counter()
    for line, count in rows:
        counts[line or ""] += count  # SQLite keeps the same letters as text and as a blob
    return counts


async def _delete_others(connection: AsyncConnection, table: Table, numbers: Collection[str]) -> None:
    known = set((await connection.execute(select(table.c.phone_number))).scalars())
    # One at a time: a statement that names them all has room for some ten thousand.
    gone = [{"number": number} for number in sorted(known - set(numbers))]
    if gone:
        await connection.execute(delete(table).where(table.c.phone_number == bindparam("number")), gone)


async def _upsert_cards(connection: AsyncConnection, cards: Collection[Card], now: datetime) -> None:
    await _upsert_by_number(connection, contact_cards, [asdict(card) for card in cards], now)


async def _upsert_by_number(
    connection: AsyncConnection, table: Table, rows: Collection[dict[str, object]], now: datetime
) -> None:
    """Insert or update rows that were just read from Linq."""
    if not rows:
        return
    statement = insert_into(connection, table)
    columns = next(iter(rows)).keys() | {"checked_at"}
    read = {name: statement.excluded[name] for name in sorted(columns - {"phone_number"})}
    # In the order of the key, so that two workers that store at once wait for each other instead of locking up.
    in_order = sorted(rows, key=lambda row: str(row["phone_number"]))
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["phone_number"], set_=read),
        [row | {"checked_at": now} for row in in_order],
    )
