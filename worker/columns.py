"""Aligned columns for people, however many rows: widths come from the first rows, and the rest streams."""

import itertools
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

MEASURED: Final = 1000
"""So many rows are looked at before the first one is printed."""

GAP: Final = "  "


def print_columns(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()) -> int:
    """Print rows under their head on stdout, and return how many there were; with no rows, nothing is printed.

    The columns named in `right` are flush right. On a terminal that is too narrow the last column is cut, so that each
    row stays one line; elsewhere nothing is ever cut.
    """
    wide = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    count = 0
    for line in column_lines(head, rows, right=right, wide=wide):
        sys.stdout.write(line + "\n")
        count += 1
    sys.stdout.flush()
    return max(0, count - 1)


def column_lines(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = (), wide: int | None = None
) -> Iterator[str]:
    """The head and the rows as lines, none longer than `wide`."""
    coming = iter(rows)
    first = list(itertools.islice(coming, MEASURED))
    if not first:
        return
    widths = [max(len(row[place]) for row in [head, *first]) for place in range(len(head))]
    flush_right = [name in right for name in head]
    for row in itertools.chain([head], first, coming):
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, flush_right, strict=True)
        ]
        line = GAP.join(cells).rstrip()
        yield line if wide is None or len(line) <= wide else line[: max(wide - 1, 1)] + "…"
