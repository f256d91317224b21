"""Finds what an id means, and suggests others for an unknown one: by index lookups, a million chats cost as ten do."""

import difflib
from collections.abc import Collection, Iterable
from typing import Final

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.db.tables import chats, runs, share_attempts
from worker.errors import UsageError
from worker.ledger.history import Run, runs_beginning_with

SUGGESTIONS: Final = 3
"""The most ids that are suggested."""

ALIKE_SHOWN: Final = 5
"""How many passes are named where the beginning of an id fits several."""

NEIGHBOURS: Final = 20
"""Ids compared on each side of the unknown one: in key order, these share the longest prefix with it."""

RECENT_RUNS: Final = 1_000

LEAST_SIMILARITY: Final = 0.8
"""The least similarity (0 to 1, as difflib has it) of a suggestion. Two random UUIDs rarely pass 0.5."""

SHORTEST_PREFIX: Final = 4
"""From this length on, ids that begin with what was typed are suggested, however unlike they are otherwise."""

UUID_LETTERS: Final = "0123456789abcdef-"
"""Letters that a typing error may have replaced, besides those that the id has elsewhere."""

LONGEST_TYPED: Final = 64
"""Typing errors are looked for in ids up to this length; a UUID has 36."""


async def similar_chat_ids(connection: AsyncConnection, unknown_id: str) -> list[str]:
    """Up to three chat ids similar to an unknown one, the most similar first, from `chats` and from the ledger."""
    spellings = list(dict.fromkeys([unknown_id, unknown_id.lower(), unknown_id.upper()]))
    similar: set[str] = set()
    for column in (chats.c.id, share_attempts.c.chat_id):
        typing_errors = one_typing_error_away(unknown_id) | one_typing_error_away(unknown_id.lower())
        similar.update(await _existing(connection, column, typing_errors))
        for spelling in spellings:
            similar.update(await _neighbours(connection, column, spelling))
    return most_similar(unknown_id, similar)


async def similar_run_ids(connection: AsyncConnection, unknown_id: str) -> list[str]:
    """Up to three ids of recent passes similar to an unknown one, the most similar first."""
    recent = select(runs.c.id).order_by(runs.c.started_at.desc()).limit(RECENT_RUNS)
    return most_similar(unknown_id, (await connection.execute(recent)).scalars())


def one_typing_error_away(word: str) -> set[str]:
    """All words that one typing error makes of a word: a letter wrong, missing or too many, or two swapped."""
    if not word or len(word) > LONGEST_TYPED:
        return set()
    letters = sorted(set(UUID_LETTERS) | set(word))
    halves = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    wrong = {left + letter + right[1:] for left, right in halves if right for letter in letters}
    missing = {left + letter + right for left, right in halves for letter in letters}
    too_many = {left + right[1:] for left, right in halves if right}
    swapped = {left + right[1] + right[0] + right[2:] for left, right in halves if len(right) > 1}
    return (wrong | missing | too_many | swapped) - {word}


def most_similar(unknown_id: str, ids: Iterable[str]) -> list[str]:
    """The ids most similar to an unknown one: first those that begin with it, then by similarity."""
    typed = unknown_id.casefold()
    ranked = []
    for candidate in ids:
        similarity = difflib.SequenceMatcher(None, typed, candidate.casefold()).ratio()
        begins = len(typed) >= SHORTEST_PREFIX and candidate.casefold().startswith(typed)
        if begins or similarity >= LEAST_SIMILARITY:
            ranked.append((not begins, -similarity, candidate))
    return [candidate for *_, candidate in sorted(ranked)[:SUGGESTIONS]]


async def _existing(connection: AsyncConnection, column: ColumnElement[str], ids: Collection[str]) -> list[str]:
    return list((await connection.execute(select(column).where(column.in_(ids)).distinct())).scalars())


async def _neighbours(connection: AsyncConnection, column: ColumnElement[str], word: str) -> list[str]:
    before = select(column).where(column < word).order_by(column.desc()).distinct().limit(NEIGHBOURS)
    after = select(column).where(column >= word).order_by(column).distinct().limit(NEIGHBOURS)
    ids_before = list((await connection.execute(before)).scalars())
    return [*ids_before, *(await connection.execute(after)).scalars()]


async def the_run(connection: AsyncConnection, beginning: str) -> Run:
    """The one pass whose id begins so.

    Raises:
        UsageError: there is none, or more than one.
    """
    alike = await runs_beginning_with(connection, beginning, ALIKE_SHOWN + 1)
    if not alike:
        raise UsageError(there_is_no("pass", beginning, await similar_run_ids(connection, beginning)))
    if len(alike) > 1:
        named = ", ".join(run.id for run in alike[:ALIKE_SHOWN]) + (", ..." if len(alike) > ALIKE_SHOWN else "")
        msg = f"several passes begin with {beginning!r}: {named}"
        raise UsageError(msg)
    return alike[0]


def there_is_no(what: str, named: str, near: list[str]) -> str:
    """That nothing has this id, with those that are similar."""
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"there is no {what} {named!r}{hint}"
