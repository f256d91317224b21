"""The output of `share-worker chats`: what an import did, a file of chats, a list of them. Rows are printed as read."""

import csv
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, tzinfo
from typing import Final, TextIO

from worker.chats.files import BadLine
from worker.chats.formats import FileFormat
from worker.chats.imports import Imported
from worker.cli.output.printing import count_lines
from worker.cli.output.tables import print_columns_of, unicode_is_shown
from worker.questions.chat_list import EXPORTED, ListedChat
from worker.text import minute, one_line

HEAD: Final = ("chat", "line", "last outbound", "verdict")
EXPENDABLE: Final = ("line", "last outbound")
"""Columns to leave out on a narrow terminal, the first one first."""

Progress = Callable[[int, int], None]
"""Is told how many bytes were read, and how many lines."""


async def print_table(chats: AsyncIterator[ListedChat], zone: tzinfo) -> int:
    """A table with timestamps in a zone; return how many rows it has."""

    async def rows() -> AsyncIterator[tuple[str, ...]]:
        async for chat in chats:
            when = minute(chat.last_outbound_at, zone) if chat.last_outbound_at else ""
            yield (one_line(chat.id), one_line(chat.from_number), when, chat.verdict)

    return await print_columns_of(HEAD, rows(), expendable=EXPENDABLE)


async def print_chats_json(chats: AsyncIterator[ListedChat]) -> None:
    """One JSON document, a chat a line; timestamps in UTC."""
    separator = ""
    sys.stdout.write('{"chats": [')
    async for chat in chats:
        line = json.dumps(asdict(chat), ensure_ascii=not unicode_is_shown(), default=_iso)
        sys.stdout.write(f"{separator}\n  {line}")
        separator = ","
    sys.stdout.write("\n]}\n" if separator else "]}\n")


async def write_chats(chats: AsyncIterator[Sequence[object]], stream: TextIO, form: FileFormat) -> int:
    """Write chats as a file that an import reads; return how many. Values are as they are, timestamps in UTC."""
    write = _csv_writer(stream) if form is FileFormat.CSV else _json_writer(stream)
    count = 0
    async for chat in chats:
        write(chat)
        count += 1
    return count


def imported_lines(done: Imported, *, dry_run: bool) -> Iterator[str]:
    """What an import did, for people; the counts add up to the lines of the file."""
    if dry_run:
        yield "Dry run: nothing is written."
        yield ""
    rows = [
        ("new", done.new, "not in the table before"),
        ("changed", done.changed, ""),
        ("unchanged", done.unchanged, "the table says the same, or something newer"),
    ]
    if done.repeated:
        rows.append(("repeated", done.repeated, "their id comes again soon after; the later line counts"))
    if done.bad:
        rows.append(("bad", done.bad, "not imported"))
    yield from count_lines([*rows, ("lines", done.lines, "")])


def imported_document(done: Imported, *, dry_run: bool) -> dict[str, object]:
    """What an import did, for machines."""
    counts = {name: getattr(done, name) for name in ("new", "changed", "unchanged", "repeated", "bad", "lines")}
    return {
        "dry_run": dry_run,
        "complete": done.complete,
        **counts,
        "reasons": dict(done.reasons.most_common()),
        "bad_lines": [asdict(line) for line in done.bad_lines],
        "ignored_columns": sorted(done.ignored),
    }


def bad_line_text(bad: BadLine) -> str:
    """A bad line for people."""
    return f"line {bad.line}: {bad.message}"


def more_bad_lines_text(done: Imported, shown: int) -> str:
    """What the bad lines that were not shown are, by reason."""
    rest = done.reasons.copy()
    rest.subtract(line.reason for line in done.bad_lines[:shown])
    reasons = "; ".join(f"{reason}: {count:,}" for reason, count in rest.most_common() if count)
    return f"and {done.bad - shown:,} more bad lines ({reasons})"


@contextmanager
def progress(total: int | None, *, shown: bool) -> Iterator[Progress]:
    """A bar on stderr while the block lasts, if `shown`. `total`: the file's bytes, where that is known."""
    if not shown:
        yield lambda _bytes, _lines: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Display

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Display(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as display:
        task = display.add_task("importing", total=total)
        yield lambda read, lines: display.update(task, completed=read, description=f"importing, {lines:,} lines")


def _csv_writer(stream: TextIO) -> Callable[[Sequence[object]], None]:
    plain = csv.writer(stream, lineterminator="\n")
    quoting = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writerow(EXPORTED)

    def write(chat: Sequence[object]) -> None:
        cells = [_cell(value) for value in chat]
        # Before Python 3.13 the csv module does not quote a carriage return by itself, yet reads it as a line's end.
        (quoting if any("\r" in cell for cell in cells) else plain).writerow(cells)

    return write


def _json_writer(stream: TextIO) -> Callable[[Sequence[object]], None]:
    encode = json.JSONEncoder(ensure_ascii=False, default=_iso).encode

    def write(chat: Sequence[object]) -> None:
        stream.write(f"{encode(dict(zip(EXPORTED, chat, strict=True)))}\n")

    return write


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case datetime():
            return _iso(value)
        case _:
            return str(value)


def _iso(value: object) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)
