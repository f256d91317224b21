"""Ids that were perhaps meant: found by the key among a million, never by reading them all."""

import difflib
from collections.abc import Collection, Iterable
from typing import Final

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.db.tables import chats, runs, share_attempts

SHOWN: Final = 3

NEIGHBOURS: Final = 20
"""Ids looked at on each side of the one given: in the key's order, those with the longest common beginning."""

RECENT_RUNS: Final = 1_000

ALIKE: Final = 0.8
"""How alike (0 to 1, as difflib has it) an id must be to be suggested. Two random UUIDs rarely pass 0.5."""

BEGINNING: Final = 4
"""So many characters are enough to suggest the ids that begin with them."""

TYPED: Final = "0123456789abcdef-"
"""What a slip of the finger may have put in, besides what the id has elsewhere: UUIDs are made of it."""

LONGEST_TYPED: Final = 64
"""Slips are looked for in ids up to this length; a UUID has 36."""


async def near_chat_ids(connection: AsyncConnection, meant: str) -> list[str]:
    """Up to three chat ids like one that was not found, best first; those of the table and those of the ledger."""
    spelt = list(dict.fromkeys([meant, meant.lower(), meant.upper()]))
    found: set[str] = set()
    for column in (chats.c.id, share_attempts.c.chat_id):
        found.update(await _among(connection, column, one_slip_away(meant) | one_slip_away(meant.lower())))
        for spelling in spelt:
            found.update(await _around(connection, column, spelling))
    return best(meant, found)


async def near_run_ids(connection: AsyncConnection, meant: str) -> list[str]:
    """Up to three ids of recent passes like one that was not found, best first."""
    recent = select(runs.c.id).order_by(runs.c.started_at.desc()).limit(RECENT_RUNS)
    return best(meant, (await connection.execute(recent)).scalars())


def one_slip_away(word: str) -> set[str]:
    """Everything that one slip of the finger makes of a word: a letter wrong, missing or too many, or two swapped."""
    if not word or len(word) > LONGEST_TYPED:
        return set()
    letters = sorted(set(TYPED) | set(word))
    halves = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    wrong = {left + letter + right[1:] for left, right in halves if right for letter in letters}
    missing = {left + letter + right for left, right in halves for letter in letters}
    too_many = {left + right[1:] for left, right in halves if right}
    swapped = {left + right[1] + right[0] + right[2:] for left, right in halves if len(right) > 1}
    return (wrong | missing | too_many | swapped) - {word}


def best(meant: str, ids: Iterable[str]) -> list[str]:
    """Those that are most like the one meant: whatever it is the beginning of, then by likeness."""
    wanted = meant.casefold()
    graded = []
    for one in ids:
        likeness = difflib.SequenceMatcher(None, wanted, one.casefold()).ratio()
        begins = len(wanted) >= BEGINNING and one.casefold().startswith(wanted)
        if begins or likeness >= ALIKE:
            graded.append((not begins, -likeness, one))
    return [one for *_, one in sorted(graded)[:SHOWN]]


async def _among(connection: AsyncConnection, column: ColumnElement[str], ids: Collection[str]) -> list[str]:
    return list((await connection.execute(select(column).where(column.in_(ids)).distinct())).scalars())


async def _around(connection: AsyncConnection, column: ColumnElement[str], word: str) -> list[str]:
    before = select(column).where(column < word).order_by(column.desc()).distinct().limit(NEIGHBOURS)
    after = select(column).where(column >= word).order_by(column).distinct().limit(NEIGHBOURS)
    found = list((await connection.execute(before)).scalars())
    return [*found, *(await connection.execute(after)).scalars()]
