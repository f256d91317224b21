"""Aligned columns for people, however many rows: widths come from the first rows, and the rest streams."""

import itertools
import shutil
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

MEASURED: Final = 1000
"""So many rows are looked at before the first one is printed."""

GAP: Final = "  "


def print_columns(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()) -> int:
    """Print rows under their head on stdout, and return how many there were; with no rows, nothing is printed.

    The columns named in `right` are flush right. On a terminal that is too narrow the last column is cut, so that each
    row stays one line; elsewhere nothing is ever cut.
    """
    count = 0
    for line in column_lines(head, rows, right=right, wide=terminal_width()):
        sys.stdout.write(line + "\n")
        count += 1
    sys.stdout.flush()
    return max(0, count - 1)


async def print_columns_of(
    head: Sequence[str], rows: AsyncIterator[Sequence[str]], *, right: Collection[str] = ()
) -> int:
    """Print rows as `print_columns` does, while they still come in."""
    first: list[Sequence[str]] = []
    written = 0
    laid_out: Callable[[Sequence[str]], str] | None = None
    async for row in rows:
        if laid_out is None:
            first.append(row)
            if len(first) < MEASURED:
                continue
            laid_out = _layout(head, first, right=right, wide=terminal_width())
            sys.stdout.writelines(f"{laid_out(one)}\n" for one in (head, *first))
            written = len(first)
        else:
            sys.stdout.write(f"{laid_out(row)}\n")
            written += 1
    if laid_out is None:
        return print_columns(head, first, right=right)
    sys.stdout.flush()
    return written


def column_lines(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = (), wide: int | None = None
) -> Iterator[str]:
    """The head and the rows as lines, none longer than `wide`."""
    coming = iter(rows)
    first = list(itertools.islice(coming, MEASURED))
    if not first:
        return
    yield from map(_layout(head, first, right=right, wide=wide), itertools.chain([head], first, coming))


def labelled(label: str, text: str, wide: int | None = None) -> list[str]:
    """A label and a text beside it, which goes on below itself where it is longer than `wide`."""
    if wide is None or len(label) + len(text) <= wide:
        return [label + text]
    room = max(wide, len(label) + len(label) // 2)
    return textwrap.wrap(text, room, initial_indent=label, subsequent_indent=" " * len(label), break_long_words=False)


def terminal_width() -> int | None:
    """How many columns stdout has; None where it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def unicode_is_shown(text: str = "…█") -> bool:
    """Whether stdout can write some text that is not plain ASCII."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def one_line(text: str) -> str:
    """A text from outside as part of a line: no line breaks, and nothing that steers a terminal."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _layout(
    head: Sequence[str], first: Sequence[Sequence[str]], *, right: Collection[str], wide: int | None
) -> Callable[[Sequence[str]], str]:
    """How a row becomes a line, with columns as wide as the head and the first rows need."""
    widths = [max(_columns_of(row[place]) for row in [head, *first]) for place in range(len(head))]
    flush_right = [name in right for name in head]
    ellipsis = "…" if unicode_is_shown() else "~"

    def laid_out(row: Sequence[str]) -> str:
        cells = []
        for cell, many, is_right in zip(row, widths, flush_right, strict=True):
            rest = " " * (many - _columns_of(cell))
            cells.append(rest + cell if is_right else cell + rest)
        line = GAP.join(cells).rstrip()
        return line if wide is None or _columns_of(line) <= wide else _cut(line, max(wide - 1, 1)) + ellipsis

    return laid_out


def _columns_of(text: str) -> int:
    """How many columns of a terminal a text takes: Chinese letters and emoji take two each, accents may take none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _cut(text: str, wide: int) -> str:
    """As much of a text as so many columns hold."""
    from rich.cells import set_cell_size

    return set_cell_size(text, wide)
