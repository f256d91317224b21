"""Aligned columns for users, however many rows: widths come from the first rows, and the rest is streamed.

Nothing is cut unless stdout is a terminal. On one that is too narrow, first the last column is cut, down to
`SHORTEST_CUT`; then the columns that a table calls expendable are left out, and a last line names them.
"""

import itertools
import shutil
import sys
import textwrap
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

MEASURED: Final = 1000
"""Rows that are measured before the first one is printed."""

GAP: Final = "  "

SHORTEST_CUT: Final = 12
"""The last column is not cut shorter than this as long as another column can be left out."""

Row = Sequence[str]


def print_columns(
    head: Row, rows: Iterable[Row], *, right: Collection[str] = (), expendable: Sequence[str] = ()
) -> int:
    """Print rows under their head on stdout, and return how many there were; with no rows, print nothing.

    The columns named in `right` are flush right. Those named in `expendable` are left out on a narrow terminal, the
    first one first.
    """
    coming = iter(rows)
    first = list(itertools.islice(coming, MEASURED))
    if not first:
        return 0
    layout = _layout(head, first, right=right, expendable=expendable, width=terminal_width())
    sys.stdout.write(f"{layout.line(head)}\n")
    count = 0
    for row in itertools.chain(first, coming):
        sys.stdout.write(f"{layout.line(row)}\n")
        count += 1
    _print_left_out(layout)
    return count


async def print_columns_of(
    head: Row, rows: AsyncIterator[Row], *, right: Collection[str] = (), expendable: Sequence[str] = ()
) -> int:
    """Print rows as `print_columns` does, while they still come in."""
    first: list[Row] = []
    layout: _Layout | None = None
    count = 0
    async for row in rows:
        count += 1
        if layout is not None:
            sys.stdout.write(f"{layout.line(row)}\n")
            continue
        first.append(row)
        if count == MEASURED:
            layout = _layout(head, first, right=right, expendable=expendable, width=terminal_width())
            sys.stdout.writelines(f"{layout.line(measured)}\n" for measured in (head, *first))
    if layout is None:
        return print_columns(head, first, right=right, expendable=expendable)
    _print_left_out(layout)
    return count


def column_lines(
    head: Row,
    rows: Sequence[Row],
    *,
    right: Collection[str] = (),
    expendable: Sequence[str] = (),
    width: int | None = None,
) -> Iterator[str]:
    """The head and the rows as lines, none longer than `width`, with a last line for columns that were left out."""
    if not rows:
        return
    layout = _layout(head, rows[:MEASURED], right=right, expendable=expendable, width=width)
    yield from map(layout.line, [head, *rows])
    yield from layout.left_out_lines()


def labelled(label: str, text: str, width: int | None = None) -> list[str]:
    """A label with a text beside it, wrapped beside the label if it is longer than `width`."""
    if width is None or len(label) + len(text) <= width:
        return [label + text]
    room = max(width, len(label) + len(label) // 2)
    return textwrap.wrap(text, room, initial_indent=label, subsequent_indent=" " * len(label), break_long_words=False)


def terminal_width() -> int | None:
    """How many columns stdout has; None if it is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def unicode_is_shown(text: str = "…█") -> bool:
    """True if stdout can encode a text that is not ASCII."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How a row becomes a line."""

    places: Sequence[int]
    """The columns that are shown."""
    widths: Sequence[int]
    flush_right: Sequence[bool]
    left_out: Sequence[str]
    width: int | None
    ellipsis: str

    def line(self, row: Row) -> str:
        cells = []
        for place in self.places:
            padding = " " * (self.widths[place] - _columns_of(row[place]))
            cells.append(padding + row[place] if self.flush_right[place] else row[place] + padding)
        line = GAP.join(cells).rstrip()
        if self.width is None or _columns_of(line) <= self.width:
            return line
        return _cut(line, max(self.width - 1, 1)) + self.ellipsis

    def left_out_lines(self) -> list[str]:
        if not self.left_out:
            return []
        text = f"columns left out: {', '.join(self.left_out)}; widen the terminal or use --json"
        return textwrap.wrap(text, max(self.width or len(text), 1))


def _layout(
    head: Row, first: Sequence[Row], *, right: Collection[str], expendable: Sequence[str], width: int | None
) -> _Layout:
    """Columns as wide as the head and the first rows need, and as many of them as fit."""
    widths = [max(_columns_of(row[place]) for row in [head, *first]) for place in range(len(head))]
    places = list(range(len(head)))
    left_out = []
    for name in expendable:
        if width is None or _least_width(places, widths) <= width:
            break
        places.remove(head.index(name))
        left_out.append(name)
    return _Layout(
        places=places,
        widths=widths,
        flush_right=[name in right for name in head],
        left_out=left_out,
        width=width,
        ellipsis="…" if unicode_is_shown() else "~",
    )


def _least_width(places: Sequence[int], widths: Sequence[int]) -> int:
    """The width that these columns need, if the table's last column is cut as far as it can be."""
    last = len(widths) - 1
    needed = [min(widths[place], SHORTEST_CUT) if place == last else widths[place] for place in places]
    return sum(needed) + len(GAP) * (len(needed) - 1)


def _print_left_out(layout: _Layout) -> None:
    sys.stdout.writelines(f"{line}\n" for line in layout.left_out_lines())
    sys.stdout.flush()


def _columns_of(text: str) -> int:
    """How many terminal columns a text takes: Chinese letters and emoji take two each, combining accents none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _cut(text: str, width: int) -> str:
    """As much of a text as fits into a width."""
    from rich.cells import set_cell_size

    return set_cell_size(text, width)
