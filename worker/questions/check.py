"""The questions behind `share-worker check`: what would make the next pass fail, or leave chats out.

Each question about `chats` is one scan, or needs no more than the table's keys: with a million chats it takes seconds.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Label,
    and_,
    case,
    false,
    func,
    inspect,
    literal_column,
    or_,
    select,
    true,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import db
from worker.account import Card
from worker.clock import CLOCK_ERROR
from worker.db.engine import schema_of
from worker.db.partner_values import as_text, no_id, utc
from worker.db.tables import chats
from worker.errors import UsageError
from worker.linq.client import Linq
from worker.linq.phone_numbers import e164
from worker.rules.eligibility import STORED, LineTables, Rules, due_ids, moment

TIMESTAMPS: Final = ("last_outbound_at", "last_inbound_at", "paused_at", "missing_at")
"""The columns of `chats` whose timestamps are looked at."""

BLANKS: Final = " \t\r\n"

SHORTEST_PART: Final = 7
"""From this many digits on, a number that a line ends with is taken for that line without its country code."""

LOOKED_UP: Final = 5
"""Due chats that Linq is asked for."""

MOST_JUDGED: Final = 20_000
"""Different values of `from_number` that are judged: more than an account has lines, and done within a second."""


class FaultKind(StrEnum):
    """What can be wrong with the table `chats`, or with rows of it."""

    MISSING_COLUMNS = "missing_columns"
    NO_KEY = "no_key"
    DUPLICATE_IDS = "duplicate_ids"
    SIMILAR_IDS = "similar_ids"
    PADDED_IDS = "padded_ids"
    UNUSABLE_IDS = "unusable_ids"
    NOT_A_TIMESTAMP = "not_a_timestamp"
    IN_THE_FUTURE = "in_the_future"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A fault of the table `chats`: how many rows have it (or ids, or columns), with an example from the table."""

    kind: FaultKind
    count: int = 0
    column: str = ""
    examples: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class WrongNumber:
    """A `from_number` that is not E.164, with the number that was probably meant."""

    written: str
    chats: int
    meant: str | None
    meant_card: Card | None
    """The card of the line that was probably meant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LineUse:
    """A line of the account or of `chats`: its card, and how many chats it sends for."""

    phone_number: str
    card: Card | None
    chats: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LookedUp:
    """What Linq says of some due chats."""

    asked: int
    unknown: Sequence[str]
    """Those that Linq does not have."""
    elsewhere: Sequence[tuple[str, str, str]]
    """Those that another line sends for: the chat, its `from_number`, and the line that Linq names."""


async def some_due(
    connection: AsyncConnection, rules: Rules, now: datetime, *, known: LineTables = STORED
) -> dict[str, str]:
    """A few of the chats that are due, with the line of each."""
    due = due_ids(rules, known).add_columns(as_text(chats.c.from_number).label("line")).limit(LOOKED_UP)
    return {row.id: row.line for row in await connection.execute(due, moment(rules, now))}


async def look_up(linq: Linq, line_of: Mapping[str, str]) -> LookedUp:
    """What Linq says of some chats; `line_of` is the `from_number` of each.

    Raises:
        LinqError: Linq did not say.
    """
    found = {chat_id: await linq.find_chat(chat_id) for chat_id in line_of}
    theirs = {chat_id: chat.line for chat_id, chat in found.items() if chat is not None}
    return LookedUp(
        asked=len(found),
        unknown=[chat_id for chat_id in found if chat_id not in theirs],
        elsewhere=[
            (chat_id, line_of[chat_id], line) for chat_id, line in theirs.items() if line and line != line_of[chat_id]
        ],
    )


async def unfilled_columns(connection: AsyncConnection, rules: Rules) -> list[tuple[str, str]]:
    """The settings in force that look at a column of `chats` which no row fills, each with the column."""
    looked_at = (
        (rules.require_inbound, "SHARE_REQUIRE_INBOUND", chats.c.last_inbound_at),
        (rules.stop_when_received, "SHARE_STOP_WHEN_RECEIVED", chats.c.card_received_at),
    )
    unfilled = []
    for in_force, setting, column in looked_at:
        filled = select(chats.c.id).where(column.is_not(None)).limit(1)
        if in_force and (await connection.execute(filled)).first() is None:
            unfilled.append((setting, column.name))
    return unfilled


def examine_lines(chats_of: Mapping[str, int], cards: Iterable[Card] | None) -> tuple[list[LineUse], list[WrongNumber]]:
    """The lines with their cards, in the order of their numbers, and what stands for a line but is not E.164.

    A line that has a card is never wrong: Linq knows it. Without cards, only the wrong numbers are looked for.
    `chats_of`: how many chats each line has.
    """
    card_of = {card.phone_number: card for card in cards or ()}
    wrong = wrong_numbers(chats_of, card_of.values())
    if cards is None:
        return [], wrong
    lines = sorted((card_of.keys() | chats_of.keys()) - {number.written for number in wrong})
    return [LineUse(phone_number=line, card=card_of.get(line), chats=chats_of.get(line, 0)) for line in lines], wrong


def wrong_numbers(chats_of: Mapping[str, int], cards: Iterable[Card]) -> list[WrongNumber]:
    """What stands for a line but is not E.164, of some lines with the number of their chats."""
    card_of = {card.phone_number: card for card in cards}
    without_card = sorted(chats_of.keys() - card_of.keys())
    unfit = [number for number in without_card[:MOST_JUDGED] if not _is_e164(number)]
    return [_wrong_number(number, chats_of[number], card_of) for number in unfit]


async def examine_table(engine: AsyncEngine) -> list[Fault]:
    """The faults of the table itself: the partner may have made it in place of the worker's own."""
    async with db.read(engine) as connection:
        missing, has_key = await connection.run_sync(_columns_and_key)
        if missing:
            return [Fault(kind=FaultKind.MISSING_COLUMNS, count=len(missing), examples=missing)]
        if has_key:
            return []
        duplicates = await _count_groups(connection, FaultKind.DUPLICATE_IDS, chats.c.id, func.count() > 1)
        return [Fault(kind=FaultKind.NO_KEY), *duplicates]


async def examine_rows(engine: AsyncEngine, now: datetime) -> list[Fault]:
    """The faults of rows: ids and timestamps that keep a chat from its share, or let it be shared with twice."""
    trimmed = func.trim(chats.c.id, BLANKS)
    conditions: list[tuple[FaultKind, str, ColumnElement[bool]]] = [
        (FaultKind.UNUSABLE_IDS, "id", or_(chats.c.id.is_(None), no_id(chats.c.id))),
        (FaultKind.PADDED_IDS, "id", and_(chats.c.id != trimmed, ~no_id(chats.c.id))),
    ]
    for name in TIMESTAMPS:
        column = chats.c[name]
        # The first comparison is of texts on SQLite, and spares nearly all rows the second one, which must parse them.
        ahead = and_(column > now - timedelta(days=2), utc(column) > now + CLOCK_ERROR)
        conditions.append((FaultKind.NOT_A_TIMESTAMP, name, and_(column.is_not(None), utc(column).is_(None))))
        conditions.append((FaultKind.IN_THE_FUTURE, name, ahead))
    # OFFSET 0 is a fence: each condition is evaluated once a row, though it is both counted and asked for its example.
    # In a CASE SQLite evaluates the second half of an AND or OR only if it must; elsewhere always.
    judged = select(
        *(chats.c[name] for name in ("id", *TIMESTAMPS)),
        (chats.c.id != func.lower(trimmed)).label("not_plain"),
        *(
            case((condition, true()), else_=false()).label(f"is_{number}")
            for number, (_, _, condition) in enumerate(conditions)
        ),
    )
    rows = judged.offset(literal_column("0", Integer)).subquery()
    counts: list[Label[int] | Label[str]] = [func.count().filter(rows.c.not_plain).label("not_plain")]
    for number, (_, name, _) in enumerate(conditions):
        counts.append(func.count().filter(rows.c[f"is_{number}"]).label(f"count_{number}"))
        counts.append(func.max(as_text(rows.c[name])).filter(rows.c[f"is_{number}"]).label(f"example_{number}"))
    async with db.read(engine) as connection:
        row = (await connection.execute(select(*counts))).mappings().one()
        similar = []
        if row["not_plain"]:  # without such an id no two are similar; and to group a million ids takes a while
            differ = func.min(chats.c.id) != func.max(chats.c.id)
            similar = await _count_groups(connection, FaultKind.SIMILAR_IDS, func.lower(trimmed), differ)
    faults = [
        Fault(kind=kind, count=row[f"count_{number}"], column=name, examples=[row[f"example_{number}"] or ""])
        for number, (kind, name, _) in enumerate(conditions)
        if row[f"count_{number}"]
    ]
    return [*similar, *faults]


async def _count_groups(
    connection: AsyncConnection,
    kind: FaultKind,
    key: ColumnElement[str],
    having: ColumnElement[bool],
) -> list[Fault]:
    """Count the groups of rows with the same key that are a fault; the first one is the example."""
    groups = (
        select(as_text(func.min(chats.c.id)).label("least"), as_text(func.max(chats.c.id)).label("greatest"))
        .group_by(key)
        .having(having)
        .subquery()
    )
    statement = select(func.count().over(), groups.c.least, groups.c.greatest).order_by(groups.c.least).limit(1)
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        return []
    count, least, greatest = row
    examples = [least or ""] if least == greatest else [least or "", greatest or ""]
    return [Fault(kind=kind, count=count, column="id", examples=examples)]


def _columns_and_key(connection: Connection) -> tuple[list[str], bool]:
    """The columns that `chats` lacks, and whether the database keeps its ids from being there twice."""
    inspector, schema = inspect(connection), schema_of(connection)
    present = {column["name"] for column in inspector.get_columns(chats.name, schema)}
    missing = [column.name for column in chats.c if column.name not in present]
    keys = [
        inspector.get_pk_constraint(chats.name, schema)["constrained_columns"],
        *(constraint["column_names"] for constraint in inspector.get_unique_constraints(chats.name, schema)),
        *(
            index["column_names"]
            for index in inspector.get_indexes(chats.name, schema)
            if index["unique"] and not index.get("dialect_options", {}).get("postgresql_where")
        ),
    ]
    return missing, ["id"] in keys


def _is_e164(number: str) -> bool:
    try:
        return e164(number) == number
    except UsageError:
        return False


def _wrong_number(written: str, count: int, card_of: Mapping[str, Card]) -> WrongNumber:
    """Guess the number that was meant: a line with a card that ends with these digits, or these digits with a `+`."""
    digits = re.sub(r"\D", "", written).lstrip("0")
    lines = [line for line in card_of if len(digits) >= SHORTEST_PART and line.endswith(digits)]
    if len(lines) == 1:
        return WrongNumber(written=written, chats=count, meant=lines[0], meant_card=card_of[lines[0]])
    meant = f"+{digits}" if re.fullmatch(r"[\s+().\-\d]+", written) and _is_e164(f"+{digits}") else None
    return WrongNumber(written=written, chats=count, meant=meant, meant_card=None)
