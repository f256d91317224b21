"""Calling again on the same day, at an admin's word: who is chosen, whether each may be called, and the claims for it.

A rerun is planned, shown, and then made as a pass of its own. The plan keeps for each chat the sequence that its next
call would have; a claim is made only if that is still so, under the lock that every claim takes. So what somebody else
did since the admin looked, another rerun included, is never repeated: two admins at once make one call.
"""

import bisect
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import Final

from sqlalchemy import ColumnElement, FromClause, Select, and_, case, exists, false, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.db.tables import chats, contact_cards, share_attempts
from worker.outcomes import Outcome
from worker.rules.eligibility import Again, Rules, next_sequence, ruling_again, source
from worker.sharing.candidates import Question, Remainder, Request, Window

BATCH: Final = 500
"""Ids asked for in one statement."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of today's attempts an admin means: those whose chat's latest attempt of the day fits every part given."""

    chat_ids: Sequence[str] = ()
    lines: Sequence[str] = ()
    outcomes: Sequence[Outcome] = ()
    codes: Sequence[int] = ()
    run_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A chat that was selected, its latest attempt today, and whether it may be called again (`allowed`) or why not."""

    chat_id: str
    ruling: str
    outcome: str | None = None
    error_code: int | None = None


@dataclass(kw_only=True)
class Plan:
    """What a rerun would do, on a share day."""

    share_day: date
    sequences: dict[str, int] = field(default_factory=dict)
    """The chats that may be called, each with the sequence that its call is to have."""
    counts: Counter[str] = field(default_factory=Counter)
    """All selected chats, by ruling."""
    choices: list[Choice] = field(default_factory=list)
    """The selected chats, as far as they are to be shown."""


async def make_plan(
    connection: AsyncConnection,
    rules: Rules,
    selection: Selection,
    now: datetime,
    *,
    force: bool,
    shown: int | None,
    cards: FromClause = contact_cards,
) -> Plan:
    """Look who is selected, and whether each may be called again. Keeps at most `shown` choices (None: all)."""
    plan = Plan(share_day=rules.share_day(now))

    def add(choice: Choice, sequence: int) -> None:
        plan.counts[choice.ruling] += 1
        if choice.ruling == Again.ALLOWED:
            plan.sequences[choice.chat_id] = sequence
        if shown is None or len(plan.choices) < shown:
            plan.choices.append(choice)

    for ids in _batches(selection.chat_ids) if selection.chat_ids else [None]:
        rest = set(ids or ())
        statement = _selected(rules, selection, now, force=force, cards=cards, among=ids)
        async for chat_id, known, ruling, sequence, outcome, code in await connection.stream(statement):
            rest.discard(chat_id)
            told = ruling if known is not None else Again.UNKNOWN_CHAT.value
            add(Choice(chat_id=chat_id, ruling=told, outcome=outcome, error_code=code), sequence)
        if rest:
            rulings = await _rulings(connection, rules, sorted(rest), now, force=force, cards=cards)
            for chat_id in sorted(rest):
                told = rulings.get(chat_id, Again.UNKNOWN_CHAT.value)
                add(Choice(chat_id=chat_id, ruling=Again.NOT_SELECTED if told == Again.ALLOWED else told), 0)
    return plan


@dataclass(frozen=True)
class Chosen:
    """The chats of a plan, as the candidates of a pass."""

    rules: Rules
    sequences: Mapping[str, int]
    """The plan's: chat and sequence of its next call."""
    force: bool
    request: Request

    async def read_ahead(self, connection: AsyncConnection, now: datetime, *, after: str, at_most: int) -> Window:
        """The next chats of the plan that may still be called."""
        start = bisect.bisect_right(self._ids, after)
        some = self._ids[start : start + min(at_most, BATCH)]
        rows = await connection.execute(self.claimable(now, some).statement)
        return Window(ids=list(rows.scalars()), after=some[-1] if start + len(some) < len(self._ids) else None)

    def claimable(self, now: datetime, among: Collection[str]) -> Question:
        """Those that may be called, and were not called by anybody since the plan."""
        following = next_sequence(self.rules.share_day(now)).label("sequence")
        return Question(
            statement=select(chats.c.id, following)
            .select_from(source())
            .where(chats.c.id.in_(among), self._ruling(now, among) == Again.ALLOWED.value)
            .order_by(chats.c.id)
        )

    async def remainder(self, connection: AsyncConnection, now: datetime, *, run_id: str) -> Remainder:
        """The plan's chats that the run did not attempt; one that left the table in the meantime is unknown."""
        counts: Counter[str] = Counter()
        attempted = exists().where(share_attempts.c.run_id == run_id, share_attempts.c.chat_id == chats.c.id)
        for ids in _batches(self._ids):
            ruling = case((attempted, ""), else_=self._ruling(now, ids))
            rows = (await connection.execute(select(ruling).select_from(source()).where(chats.c.id.in_(ids)))).scalars()
            found = Counter(rows)
            counts[Again.UNKNOWN_CHAT] += len(ids) - found.total()
            counts += found
        left = counts.pop(Again.ALLOWED, 0)
        return Remainder(skipped={name: count for name, count in counts.items() if name and count}, left=left)

    @cached_property
    def _ids(self) -> list[str]:
        """In the order of the key: by code point, as SQLite's and PostgreSQL's "C" order have it."""
        return sorted(self.sequences)

    def _ruling(self, now: datetime, among: Collection[str]) -> ColumnElement[str]:
        of_sequence: defaultdict[int, list[str]] = defaultdict(list)
        for chat_id in among:
            of_sequence[self.sequences[chat_id]].append(chat_id)
        following = next_sequence(self.rules.share_day(now))
        as_planned = or_(
            false(), *(and_(chats.c.id.in_(ids), following == planned) for planned, ids in of_sequence.items())
        )
        ruling = ruling_again(self.rules, now, force=self.force)
        return case((and_(ruling == Again.ALLOWED.value, ~as_planned), Again.CALLED_SINCE.value), else_=ruling)


def _selected(
    rules: Rules,
    selection: Selection,
    now: datetime,
    *,
    force: bool,
    cards: FromClause,
    among: Sequence[str] | None,
) -> Select[str, str | None, str, int, str, int | None]:
    """The latest attempt of the day in each chat, where it fits; with the chat's ruling and next sequence."""
    day = rules.share_day(now)
    latest, later = share_attempts.alias("latest"), share_attempts.alias("later")
    statement = (
        select(
            latest.c.chat_id,
            chats.c.id,
            ruling_again(rules, now, force=force, cards=cards),
            next_sequence(day),
            latest.c.outcome,
            latest.c.error_code,
        )
        .select_from(
            latest.outerjoin(chats, chats.c.id == latest.c.chat_id).outerjoin(
                cards, cards.c.phone_number == chats.c.from_number
            )
        )
        .where(
            latest.c.share_day == day,
            ~exists().where(
                later.c.chat_id == latest.c.chat_id, later.c.share_day == day, later.c.sequence > latest.c.sequence
            ),
        )
        .order_by(latest.c.chat_id)
    )
    if among is not None:
        statement = statement.where(latest.c.chat_id.in_(among))
    if selection.lines:
        statement = statement.where(chats.c.from_number.in_(selection.lines))
    if selection.outcomes:
        statement = statement.where(latest.c.outcome.in_([outcome.value for outcome in selection.outcomes]))
    if selection.codes:
        statement = statement.where(latest.c.error_code.in_(selection.codes))
    if selection.run_id is not None:
        statement = statement.where(latest.c.run_id == selection.run_id)
    return statement


async def _rulings(
    connection: AsyncConnection,
    rules: Rules,
    ids: Collection[str],
    now: datetime,
    *,
    force: bool,
    cards: FromClause,
) -> dict[str, str]:
    """The ruling on each of some chats that the table has."""
    ruling = ruling_again(rules, now, force=force, cards=cards)
    rows = await connection.execute(select(chats.c.id, ruling).select_from(source(cards)).where(chats.c.id.in_(ids)))
    return {chat_id: told for chat_id, told in rows}  # noqa: C416 -- rows are no plain pairs


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
