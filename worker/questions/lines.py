"""The account's lines: which rest, why, and until when; and each line with its card."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.account import Card
from worker.chats import facts
from worker.db.tables import contact_cards, lines
from worker.rules.eligibility import FLAG_REST, LINE_REST, STORED, LineTables, Rules, line_rests, moment


@dataclass(frozen=True, kw_only=True, slots=True)
class RestingLine:
    """A line whose chats are `line_resting`."""

    phone_number: str
    why: str
    until: datetime | None
    """When the rest ends if Linq says nothing new; None: when Linq says better of the line."""
    chats: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LineState:
    """A line with what is known of its card."""

    phone_number: str
    name: str
    """The name on its card; empty without one."""
    is_active: bool | None
    """Whether its card is; None: it has none, as last seen."""
    resting: RestingLine | None
    chats: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LineCards:
    """The cards as last seen, and the lines without an active one."""

    total: int
    active: int
    seen_at: datetime | None
    without: dict[str, int]
    """The lines that have chats but no active card, with the number of their chats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedLine:
    """A line with its card, if it has one, and its number of chats; None if that is not known."""

    phone_number: str
    card: Card | None
    chats: int | None


async def line_states(connection: AsyncConnection, rules: Rules, now: datetime) -> list[LineState]:
    """Every line of the account and of the table, those that cannot share first, then by their number of chats."""
    chats_of = await facts.chats_per_line(connection)
    cards = {row.phone_number: row for row in await connection.execute(select(contact_cards))}
    known = set((await connection.execute(select(lines.c.phone_number))).scalars())
    resting = {line.phone_number: line for line in await resting_lines(connection, rules, now, chats_of)}
    states = [
        LineState(
            phone_number=number,
            name=" ".join(part for part in (card.first_name, card.last_name) if part) if card else "",
            is_active=card.is_active if card else None,
            resting=resting.get(number),
            chats=chats_of.get(number, 0),
        )
        for number in sorted(known | chats_of.keys() | cards.keys())
        for card in [cards.get(number)]
    ]
    return sorted(states, key=lambda line: (line.chats == 0, bool(line.is_active) and not line.resting, -line.chats))


def list_lines(cards: Collection[Card], chats_of: Mapping[str, int] | None) -> list[ListedLine]:
    """Every card, and every line that has chats but no card, in the order of the numbers."""
    counts = chats_of or {}
    lines = {
        card.phone_number: ListedLine(
            phone_number=card.phone_number,
            card=card,
            chats=None if chats_of is None else counts.get(card.phone_number, 0),
        )
        for card in cards
    }
    for line, count in counts.items():
        lines.setdefault(line, ListedLine(phone_number=line, card=None, chats=count))
    return [lines[number] for number in sorted(lines)]


async def line_cards(connection: AsyncConnection, chats_of: Mapping[str, int]) -> LineCards:
    """The account's cards as last seen. `chats_of`: how many chats each line has."""
    rows = (await connection.execute(select(contact_cards))).all()
    active = {row.phone_number for row in rows if row.is_active}
    return LineCards(
        total=len(rows),
        active=len(active),
        seen_at=max((row.checked_at for row in rows), default=None),
        without={line: count for line, count in sorted(chats_of.items()) if line not in active},
    )


async def resting_lines(
    connection: AsyncConnection,
    rules: Rules,
    now: datetime,
    chats_of: Mapping[str, int],
    *,
    known: LineTables = STORED,
) -> list[RestingLine]:
    """The lines that rest at a moment, in the order of their numbers. `chats_of`: how many chats each line has."""
    rests = select(known.lines).where(line_rests(rules, known.lines)).order_by(known.lines.c.phone_number)
    resting = []
    for row in (await connection.execute(rests, moment(rules, now))).mappings():
        until = row["refused_at"] + LINE_REST if row["refused_at"] else None
        why = "Linq refused it (403/2027)"
        if until is None or until <= now:
            why, until = f"its reputation is {row['reputation']}", None
            if str(row["status"] or "").upper() == "FLAGGED":
                why = "Linq flagged it"
                until = row["status_changed_at"] + FLAG_REST if row["status_changed_at"] else None
        number = row["phone_number"]
        resting.append(RestingLine(phone_number=number, why=why, until=until, chats=chats_of.get(number, 0)))
    return resting
