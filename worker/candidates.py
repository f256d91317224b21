"""Whom a pass may call: those who are due, or those whom an admin chose.

A pass reads its candidates ahead, and claims some of them by a statement that decides again, in the database, whether
each may still be called. What a pass counts as skipped and left at its end is said by the same source.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import Integer, Select, literal
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.eligibility import Rules, Verdict, count_verdicts, due_ids

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


class Candidates(Protocol):
    """A source of chats to call."""

    @property
    def request(self) -> Request | None:
        """Who asked; None for the scheduled calls."""
        ...

    async def read_ahead(self, connection: AsyncConnection, now: datetime, *, after: str, at_most: int) -> Window:
        """The next candidates after an id."""
        ...

    def claimable(self, now: datetime, among: Collection[str]) -> Select[str, int]:
        """Those of some chats that may be called at `now`: the id, and the sequence that the claim is to have."""
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
        """The next due chats in the order of their ids."""
        ids = list((await connection.execute(due_ids(self.rules, now, after=after).limit(at_most))).scalars())
        return Window(ids=ids, after=ids[-1] if len(ids) == at_most else None)

    def claimable(self, now: datetime, among: Collection[str]) -> Select[str, int]:
        """Those of some chats that are due, for the day's scheduled call."""
        return due_ids(self.rules, now, among=among).add_columns(literal(SCHEDULED, Integer).label("sequence"))

    async def remainder(self, connection: AsyncConnection, now: datetime, *, run_id: str) -> Remainder:
        """Every other chat of the table, by its verdict."""
        verdicts = await count_verdicts(connection, self.rules, now, without_run=run_id)
        left = verdicts.pop(Verdict.DUE, 0)
        return Remainder(skipped={name.value: count for name, count in verdicts.items()}, left=left)
