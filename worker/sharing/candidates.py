"""The candidates of a pass: the chats that are due, or those that an admin chose.

A pass reads candidates ahead, and claims some of them by a statement that decides again, in the database, whether each
may still be claimed. At its end it counts those that it skipped, and those that it left.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final, Protocol

from sqlalchemy import Integer, Select, Text, bindparam, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.db.tables import chats
from worker.outcomes import RerunRequest
from worker.rules.eligibility import Rules, Verdict, count_verdicts, due_among, due_ids, moment

SPAN: Final = 50_000
"""How many chats one statement judges as a pass walks the table."""

SCHEDULED: Final = 0
"""The sequence of the day's one scheduled claim; reruns take the next numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Some candidates in the key's order, and the id after which to read on; None at the end."""

    line_of: dict[str, str]
    """Their ids, each with the chat's line."""
    after: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Remainder:
    """The candidates that a run did not attempt: skipped, by the rule that said no, or left."""

    skipped: dict[str, int]
    left: int


class Candidates(Protocol):
    """The chats that a pass may share with."""

    @property
    def rerun(self) -> RerunRequest | None:
        """Who asked for a rerun; None for the scheduled shares."""
        ...

    async def read_ahead(self, connection: AsyncConnection, now: datetime, *, after: str, at_most: int) -> Window:
        """Some of the next candidates after an id; the window may be empty before the end of the walk."""
        ...

    def claimable(self, now: datetime, among: Collection[str]) -> tuple[Select[str, int], Mapping[str, object]]:
        """A statement for the id and sequence of those that may be claimed at `now`, by id; and its values."""
        ...

    async def remainder(self, connection: AsyncConnection, now: datetime, *, run_id: str) -> Remainder:
        """Count those that a run did not attempt."""
        ...


@dataclass(frozen=True)
class Due:
    """Every chat that is due."""

    rules: Rules
    rerun: None = None

    async def read_ahead(self, connection: AsyncConnection, now: datetime, *, after: str, at_most: int) -> Window:
        """The due chats among the next `SPAN`, or the first of them.

        The end of the span is looked up first. If PostgreSQL is simply asked for the next due chats, it prefers to
        judge the whole table and to sort it, again for each window.
        """
        until: str | None = (await connection.execute(_END_OF_SPAN, {"after": after})).scalar_one_or_none()
        values = {**moment(self.rules, now), "after": after, "until": until, "at_most": at_most}
        statement = self._due_after if until is None else self._due_between
        rows = (await connection.execute(statement, values)).all()
        return Window(
            line_of={row.id: row.from_number for row in rows}, after=rows[-1].id if len(rows) == at_most else until
        )

    def claimable(self, now: datetime, among: Collection[str]) -> tuple[Select[str, int], Mapping[str, object]]:
        """Those that are due, for the day's scheduled claim."""
        return self._due_among, {**moment(self.rules, now), "among": among}

    async def remainder(self, connection: AsyncConnection, now: datetime, *, run_id: str) -> Remainder:
        """Every other chat of the table, by its verdict."""
        verdicts = await count_verdicts(connection, self.rules, now, without_run=run_id)
        left = verdicts.pop(Verdict.DUE, 0)
        return Remainder(skipped={name.value: count for name, count in verdicts.items()}, left=left)

    # Built once: a pass executes each of these hundreds of times.

    @cached_property
    def _due_after(self) -> Select[str, str]:
        due = due_ids(self.rules).add_columns(chats.c.from_number)
        return due.where(chats.c.id > bindparam("after", type_=Text)).limit(bindparam("at_most"))

    @cached_property
    def _due_between(self) -> Select[str, str]:
        return self._due_after.where(chats.c.id <= bindparam("until", type_=Text))

    @cached_property
    def _due_among(self) -> Select[str, int]:
        return due_among(self.rules).add_columns(_SCHEDULED.label("sequence"))


_SCHEDULED: Final = literal_column(str(SCHEDULED), Integer)

_END_OF_SPAN: Final = (
    select(chats.c.id).where(chats.c.id > bindparam("after")).order_by(chats.c.id).offset(SPAN - 1).limit(1)
)
"""The last chat of the span; no row if fewer are left."""
