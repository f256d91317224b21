"""Share days as bars, one line a day, each outcome with a mark of its own: no colour, so it reads in a pipe as well."""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Final

from worker.cli.output.tables import column_lines
from worker.outcomes import Outcome

OUTCOMES: Final = (Outcome.SHARED, Outcome.REJECTED, Outcome.UNKNOWN, Outcome.UNSENT)

BLOCKS: Final = "█▒░·"
LETTERS: Final = "#x?."
"""The marks of these outcomes; letters where blocks cannot be written."""

LONGEST: Final = 40
SHORTEST: Final = 8
ELSEWHERE: Final = 80
"""The width to fill where there is no terminal."""


def day_lines(days: Mapping[date, Mapping[str, int]], *, wide: int | None, marks: str = BLOCKS) -> Iterator[str]:
    """Each day with its attempts by outcome, and a bar as long as there were many; only the bar where it is narrow."""
    heads = ["share day", *(f"{mark} {outcome.value}" for mark, outcome in zip(marks, OUTCOMES, strict=True))]
    rows = [[str(day), *(f"{counts[outcome]:,}" for outcome in OUTCOMES)] for day, counts in days.items()]
    lines = list(column_lines(heads, rows, right=heads[1:]))
    if _room(lines, wide) < SHORTEST:
        lines = ["share day   " + " ".join(heads[1:]), *map(str, days)]
    longest = max(SHORTEST, _room(lines[1:], wide))
    most = max(sum(counts[outcome] for outcome in OUTCOMES) for counts in days.values())
    yield lines[0]
    for line, counts in zip(lines[1:], days.values(), strict=True):
        told = bar([counts[outcome] for outcome in OUTCOMES], most=most, wide=longest, marks=marks)
        yield f"{line}  {told}".rstrip()


def bar(counts: list[int], *, most: int, wide: int, marks: str = BLOCKS) -> str:
    """Some counts as one bar; `most` is as long as `wide`. What is not 0 is always seen."""
    if not most:
        return ""
    cells = [max(1, round(count * wide / most)) if count else 0 for count in counts]
    while sum(cells) > wide and max(cells) > 1:
        cells[cells.index(max(cells))] -= 1
    return "".join(mark * many for mark, many in zip(marks, cells, strict=True))


def _room(lines: list[str], wide: int | None) -> int:
    """How long a bar beside these lines may be."""
    return min(LONGEST, (wide or ELSEWHERE) - max(map(len, lines)) - 2)
