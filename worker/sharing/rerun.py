"""Sharing again on the same day, at an admin's word: which chats are chosen, and whether each may be claimed again.

A rerun is planned, shown, and then made as a pass of its own. The plan keeps for each chat the sequence number of its
next claim. Under the lock that every claim takes, the pass works that number out again, and claims only if it is the
same: nobody has claimed the chat since the plan. So what somebody else did in the meantime, another rerun included, is
never repeated: two admins at once make one request.
"""

import bisect
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import cached_property
from typing import Final

from sqlalchemy import ColumnElement, Select, and_, case, exists, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.db.tables import chats, share_attempts
from worker.outcomes import Outcome, RerunRequest
from worker.rules.again import Again, earlier_today, next_sequence, ruling_again
from worker.rules.eligibility import STORED, LineTables, Rules, chats_with_lines, day_of, moment, with_lines
from worker.sharing.candidates import Remainder, Window

BATCH: Final = 500
"""Ids asked for in one statement."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of today's attempts an admin means: a chat's latest attempt of the day must match every part given."""

    chat_ids: Sequence[str] = ()
    lines: Sequence[str] = ()
    outcomes: Sequence[Outcome] = ()
    codes: Sequence[int] = ()
    run_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A selected chat, its latest attempt today, and the ruling: `allowed`, or the rule that says no."""

    chat_id: str
    ruling: str
    outcome: str | None = None
    error_code: int | None = None


@dataclass(kw_only=True)
class Plan:
    """What a rerun would do, on a share day."""

    share_day: date
    sequences: dict[str, int] = field(default_factory=dict)
    """The chats that may be shared with again, each with the sequence of its next claim."""
    counts: Counter[str] = field(default_factory=Counter)
    """All selected chats, by ruling."""
    earlier: Counter[str] = field(default_factory=Counter)
    """Of the chats that may be shared with again, how many were `shared` with today, or perhaps (`unknown`)."""
    choices: list[Choice] = field(default_factory=list)
    """The selected chats that are to be shown."""


async def make_plan(
    connection: AsyncConnection,
    rules: Rules,
    selection: Selection,
    now: datetime,
    *,
    force: bool,
    shown: int | None,
    at_most: int | None = None,
    known: LineTables = STORED,
) -> Plan:
    """Find the selected chats, and rule on each. Keeps at most `shown` choices (None: all).

    No more than `at_most` chats are allowed, the first ones.
    """
    plan = Plan(share_day=rules.share_day(now))

    def add(choice: Choice, sequence: int, earlier: str = "") -> None:
        if choice.ruling == Again.ALLOWED and at_most is not None and len(plan.sequences) >= at_most:
            choice = replace(choice, ruling=Again.BEYOND_LIMIT.value)
        plan.counts[choice.ruling] += 1
        if choice.ruling == Again.ALLOWED:
            plan.sequences[choice.chat_id] = sequence
            plan.earlier[earlier] += bool(earlier)
        if shown is None or len(plan.choices) < shown:
            plan.choices.append(choice)

    ruling = ruling_again(rules, force=force, known=known)
    for ids in _batches(selection.chat_ids) if selection.chat_ids else [None]:
        not_selected = set(ids or ())
        statement = _selected(selection, ruling, known=known, among=ids)
        rows = await connection.stream(statement, moment(rules, now))
        async for chat_id, in_table, verdict, sequence, outcome, code, earlier in rows:
            not_selected.discard(chat_id)
            its_ruling = verdict if in_table is not None else Again.UNKNOWN_CHAT.value
            add(Choice(chat_id=chat_id, ruling=its_ruling, outcome=outcome, error_code=code), sequence, earlier)
        if not_selected:
            of_others = (
                select(chats.c.id, ruling.label("ruling"))
                .select_from(chats_with_lines(known))
                .where(chats.c.id.in_(not_selected))
            )
            rulings = {row.id: row.ruling for row in await connection.execute(of_others, moment(rules, now))}
            for chat_id in sorted(not_selected):
                its_ruling = rulings.get(chat_id, Again.UNKNOWN_CHAT.value)
                allowed = its_ruling == Again.ALLOWED
                add(Choice(chat_id=chat_id, ruling=Again.NOT_SELECTED.value if allowed else its_ruling), 0)
    return plan


@dataclass(frozen=True)
class Chosen:
    """The chats of a plan, as the candidates of a pass."""

    rules: Rules
    sequences: Mapping[str, int]
    """The plan's: chat id and sequence of its next claim."""
    force: bool
    rerun: RerunRequest

    async def read_ahead(self, connection: AsyncConnection, now: datetime, *, after: str, at_most: int) -> Window:
        """The next chats of the plan that may still be shared with."""
        start = bisect.bisect_right(self._ids, after)
        batch = self._ids[start : start + min(at_most, BATCH)]
        statement, values = self.claimable(now, batch)
        rows = await connection.execute(statement.add_columns(chats.c.from_number), values)
        line_of = {chat_id: line for chat_id, _, line in rows}
        return Window(line_of=line_of, after=batch[-1] if start + len(batch) < len(self._ids) else None)

    def claimable(self, now: datetime, among: Collection[str]) -> tuple[Select[str, int], Mapping[str, object]]:
        """Those that may be shared with, and that nobody attempted since the plan."""
        statement = (
            select(chats.c.id, next_sequence().label("sequence"))
            .select_from(chats_with_lines())
            .where(chats.c.id.in_(among), self._ruling(among) == Again.ALLOWED.value)
            .order_by(chats.c.id)
        )
        return statement, moment(self.rules, now)

    async def remainder(self, connection: AsyncConnection, now: datetime, *, run_id: str) -> Remainder:
        """The plan's chats that the run did not attempt; one that left the table in the meantime is unknown."""
        counts: Counter[str] = Counter()
        attempted = exists().where(share_attempts.c.run_id == run_id, share_attempts.c.chat_id == chats.c.id)
        for ids in _batches(self._ids):
            ruling = case((attempted, ""), else_=self._ruling(ids))
            statement = select(ruling).select_from(chats_with_lines()).where(chats.c.id.in_(ids))
            rulings = Counter((await connection.execute(statement, moment(self.rules, now))).scalars())
            counts[Again.UNKNOWN_CHAT] += len(ids) - rulings.total()
            counts += rulings
        left = counts.pop(Again.ALLOWED, 0)
        return Remainder(skipped={name: count for name, count in counts.items() if name and count}, left=left)

    @cached_property
    def _ids(self) -> list[str]:
        """In the order of the key: by code point, as SQLite and PostgreSQL's "C" collation sort."""
        return sorted(self.sequences)

    def _ruling(self, among: Collection[str]) -> ColumnElement[str]:
        """As when it was planned, and `called_since` for a chat that was attempted again since then."""
        ruling = ruling_again(self.rules, force=self.force)
        planned = case({chat_id: self.sequences[chat_id] for chat_id in among}, value=chats.c.id)
        called_since = and_(ruling == Again.ALLOWED.value, next_sequence() != planned)
        return case((called_since, Again.CALLED_SINCE.value), else_=ruling)


def _selected(
    selection: Selection, ruling: ColumnElement[str], *, known: LineTables, among: Sequence[str] | None
) -> Select[str, str | None, str, int, str, int | None, str]:
    """The latest attempt of the day in each chat, if it matches.

    With the chat's ruling, its next sequence, and whether it was shared with earlier today.
    """
    latest, later = share_attempts.alias("latest"), share_attempts.alias("later")
    attempt = (latest.c.outcome, latest.c.error_code)
    statement = (
        select(latest.c.chat_id, chats.c.id, ruling, next_sequence(), *attempt, earlier_today())
        .select_from(with_lines(latest.outerjoin(chats, chats.c.id == latest.c.chat_id), known))
        .where(
            latest.c.share_day == day_of("day"),
            ~exists().where(
                later.c.chat_id == latest.c.chat_id,
                later.c.share_day == latest.c.share_day,
                later.c.sequence > latest.c.sequence,
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


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
