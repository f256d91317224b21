"""What `share-worker check` looks at, one finding a line: can the next pass do its work?"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.chats import facts
from worker.clock import Clock
from worker.db.partner_values import LONGEST_ID, count_unfit
from worker.errors import WorkerError
from worker.linq.answers import Card, LinqError, one_line
from worker.linq.client import Linq
from worker.rules.eligibility import Rules, Verdict, as_cards, count_verdicts

State = Literal["ok", "note", "FAIL"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: how it stands, what was looked at, and what was found or is to be done."""

    state: State
    about: str
    found: str


async def examine_database(engine: AsyncEngine) -> Finding:
    """Whether the database can be reached and its schema is the one this version needs."""
    name = db.shown(engine.url)
    try:
        await db.require_current_schema(engine)
    except WorkerError as error:
        return Finding(state="FAIL", about="database", found=str(error))
    except SQLAlchemyError as error:
        return Finding(state="FAIL", about="database", found=db.describe(error, engine.url))
    return Finding(state="ok", about="database", found=f"{name}, schema at revision {db.HEAD}")


async def examine_account(linq: Linq, base_url: str) -> tuple[Finding, list[Card] | None]:
    """Whether Linq takes the key, and the account's cards."""
    try:
        cards = await linq.list_cards()
    except LinqError as error:
        return Finding(state="FAIL", about="key", found=f"{base_url} did not list the cards: {error}"), None
    return Finding(state="ok", about="key", found=f"accepted by {base_url}"), cards


async def examine_cards(engine: AsyncEngine, cards: list[Card]) -> AsyncIterator[Finding]:
    """Each card, active or not, and each line that has chats but no card."""
    async with db.read(engine) as connection:
        chats_of = await facts.chats_per_line(connection)
    for card in sorted(cards, key=lambda card: card.phone_number):
        depend = chats_of.pop(card.phone_number, 0)
        name = " ".join(part for part in (card.first_name, card.last_name) if part) or "no name"
        about = f"{card.phone_number} ({name})"
        if card.is_active:
            yield Finding(state="ok", about="card", found=f"{about}: active, {depend:,} chats")
        elif depend:
            yield Finding(
                state="FAIL", about="card", found=f"{about}: not active, so {depend:,} chats are not shared with"
            )
        else:
            yield Finding(state="note", about="card", found=f"{about}: not active; no chat depends on it")
    for line, depend in sorted(chats_of.items()):
        yield Finding(
            state="FAIL", about="card", found=f"{line}: has no contact card, so {depend:,} chats are not shared with"
        )


async def examine_chats(engine: AsyncEngine, rules: Rules, cards: list[Card] | None, clock: Clock) -> Finding:
    """How many chats are due now, by the cards just read, or else by those that the last pass saw."""
    activity = {} if cards is None else {card.phone_number: card.is_active for card in cards}
    async with db.read(engine) as connection:
        if cards is None:
            counts = await count_verdicts(connection, rules, clock.now())
        else:
            counts = await count_verdicts(connection, rules, clock.now(), cards=as_cards(activity))
    total = sum(counts.values())
    if not total:
        return Finding(state="note", about="chats", found="the table 'chats' is empty: nobody to share with yet")
    others = ", ".join(f"{count:,} {name.value}" for name, count in counts.items() if name is not Verdict.DUE)
    return Finding(
        state="ok",
        about="chats",
        found=f"{counts.get(Verdict.DUE, 0):,} of {total:,} are due now{f'; {others}' if others else ''}",
    )


async def examine_rows(engine: AsyncEngine) -> AsyncIterator[Finding]:
    """Rows of `chats` that are never shared with because of how they are written."""
    async with db.read(engine) as connection:
        unfit = await count_unfit(connection)
    if unfit.times:
        written = one_line(unfit.written or "", 40)
        found = f"{unfit.times:,} have a last_outbound_at that names no time, such as {written!r}; write ISO 8601"
        yield Finding(state="FAIL", about="chats", found=found)
    if unfit.ids:
        found = f"{unfit.ids:,} have an id that is no text of 1 to {LONGEST_ID} characters; write Linq's chat id"
        yield Finding(state="FAIL", about="chats", found=found)
