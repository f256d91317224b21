"""What is known of chats and of the account's contact cards, beyond what the partner's own SQL writes.

Facts that Linq tells during a pass are kept where the verdict finds them: that is how one answer stops the other calls
of a line, in this worker and in every other one.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Table, bindparam, delete, exists, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.account import Card
from worker.db.partner_values import as_text
from worker.db.tables import chats, contact_cards

BATCH: Final = 5_000


async def store_cards(connection: AsyncConnection, cards: Collection[Card], now: datetime) -> None:
    """Keep the account's cards as they were just read: all of them, and no others."""
    known = set((await connection.execute(select(contact_cards.c.phone_number))).scalars())
    # One at a time: a statement that names them all has room for some ten thousand.
    gone = [{"number": number} for number in sorted(known - {card.phone_number for card in cards})]
    if gone:
        await connection.execute(delete(contact_cards).where(contact_cards.c.phone_number == bindparam("number")), gone)
    await _upsert_cards(connection, cards, now)


async def store_card(connection: AsyncConnection, card: Card, now: datetime) -> None:
    """Keep one card as it was just read; the others stay as they are."""
    await _upsert_cards(connection, [card], now)


async def card_is_inactive(connection: AsyncConnection, chat_ids: Iterable[str], now: datetime) -> None:
    """Linq found no active card (2012) on the lines of these chats: none of theirs is due until it is active again."""
    lines = select(chats.c.from_number).where(chats.c.id.in_(list(chat_ids)))
    await connection.execute(
        update(contact_cards).where(contact_cards.c.phone_number.in_(lines)).values(is_active=False, checked_at=now)
    )


async def chat_is_missing(connection: AsyncConnection, chat_ids: Iterable[str], now: datetime) -> None:
    """Linq knows no such chats (2001)."""
    await connection.execute(update(chats).where(chats.c.id.in_(list(chat_ids))).values(missing_at=now, updated_at=now))


async def recipient_opted_out(connection: AsyncConnection, chat_ids: Iterable[str], now: datetime) -> None:
    """The recipients of these chats sent STOP or the like (2024)."""
    await connection.execute(
        update(chats).where(chats.c.id.in_(list(chat_ids))).values(health_status="OPTED_OUT", updated_at=now)
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
    upsert = _upsert(connection)
    rows = [asdict(chat) for chat in known]
    for start in range(0, len(rows), BATCH):
        await connection.execute(upsert(chats).on_conflict_do_nothing(), rows[start : start + BATCH])


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


def _upsert(connection: AsyncConnection) -> "Callable[[Table], postgresql.Insert | sqlite.Insert]":
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


async def _upsert_cards(connection: AsyncConnection, cards: Collection[Card], now: datetime) -> None:
    if not cards:
        return
    statement = _upsert(connection)(contact_cards)
    told = {
        name: statement.excluded[name] for name in ("first_name", "last_name", "image_url", "is_active", "checked_at")
    }
    # In the order of the key, so that two workers that store at once wait for each other instead of locking up.
    rows = [
        {
            "phone_number": card.phone_number,
            "first_name": card.first_name,
            "last_name": card.last_name,
            "image_url": card.image_url,
            "is_active": card.is_active,
            "checked_at": now,
        }
        for card in sorted(cards, key=lambda card: card.phone_number)
    ]
    await connection.execute(statement.on_conflict_do_update(index_elements=["phone_number"], set_=told), rows)
