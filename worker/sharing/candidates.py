"""Whom a pass may call: those who are due, or those whom an admin chose.

A pass reads its candidates ahead, and claims some of them by a statement that decides again, in the database, whether
each may still be called. What a pass counts as skipped and left at its end is said by the same source.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Protocol

from sqlalchemy import Integer, Select, Text, bindparam, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.db.tables import chats
from worker.rules.eligibility import Rules, Verdict, count_verdicts, due_among, due_ids, moment

SPAN = 50_000
"""How many chats are judged by one statement as a pass walks the table."""

SCHEDULED = 0
"""The sequence of the day's one scheduled call; reruns take the next numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Who asked for calls beyond the scheduled ones, and why; the ledger keeps it with each attempt."""

    by: str
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Some candidates in the key's order, and the id after which to read on; None at the end."""

    ids: list[str]
    after: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Remainder:
    """The candidates that a run did not attempt: skipped, by the rule that said so, or left."""

    skipped: dict[str, int]
    left: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Which of some chats may be called: a statement, and the values to execute it with."""

    statement: Select[str, int]
    """The id, and the sequence that the claim is to have; in the order of the ids."""
    values: Mapping[str, object] = field(default_factory=dict)
    repeated: bool = False
    """Whether it is the same statement each time, whatever the moment and the chats."""


class Candidates(Protocol):
    """A source of chats to call."""

    @property
    def request(self) -> Request | None:
        """Who asked; None for the scheduled calls."""
        ...

    async def read_ahead(self, connection: AsyncConnection, now: datetime, *, after: str, at_most: int) -> Window:
        """Some of the next candidates after an id: none, too, where the window does not end the walk."""
        ...

    def claimable(self, now: datetime, among: Collection[str]) -> Question:
        """Those of some chats that may be called at `now`."""
        ...

    async def remainder(self, connection: AsyncConnection, now: datetime, *, run_id: str) -> Remainder:
        """Count those that a run did not attempt."""
        ...


@dataclass(frozen=True)
class Due:
    """Everyone who is due."""

    rules: Rules
    request: None = None

    async def read_ahead(self, connection: AsyncConnection, now: datetime, *, after: str, at_most: int) -> Window:
        """The due ones of the next `SPAN` chats, or the first of them.

        Where the span ends is looked up first. Asked simply for the next due ones, PostgreSQL prefers to judge the
        whole table and to sort it, again for each window.
        """
        until: str | None = (await connection.execute(_END_OF_SPAN, {"after": after})).scalar_one_or_none()
        values = {**moment(self.rules, now), "after": after, "until": until, "at_most": at_most}
        statement = self._due_after if until is None else self._due_between
        ids = list((await connection.execute(statement, values)).scalars())
        return Window(ids=ids, after=ids[-1] if len(ids) == at_most else until)

    def claimable(self, now: datetime, among: Collection[str]) -> Question:
        """Those of some chats that are due, for the day's scheduled call."""
        values = {**moment(self.rules, now), "among": among}
        return Question(statement=self._due_among, values=values, repeated=True)

    async def remainder(self, connection: AsyncConnection, now: datetime, *, run_id: str) -> Remainder:
        """Every other chat of the table, by its verdict."""
        verdicts = await count_verdicts(connection, self.rules, now, without_run=run_id)
        left = verdicts.pop(Verdict.DUE, 0)
        return Remainder(skipped={name.value: count for name, count in verdicts.items()}, left=left)

    @cached_property
    def _due_after(self) -> Select[str]:
        return due_ids(self.rules, None, after=bindparam("after", type_=Text)).limit(bindparam("at_most"))

    @cached_property
    def _due_between(self) -> Select[str]:
        return self._due_after.where(chats.c.id <= bindparam("until", type_=Text))

    @cached_property
    def _due_among(self) -> Select[str, int]:
        return due_among(self.rules).add_columns(_SCHEDULED.label("sequence"))


_SCHEDULED = literal_column(str(SCHEDULED), Integer)

_END_OF_SPAN = select(chats.c.id).where(chats.c.id > bindparam("after")).order_by(chats.c.id).offset(SPAN - 1).limit(1)
"""The last chat of the span; nothing where there are not so many any more."""
