"""Reads a file of chats line by line: CSV as spreadsheets write it, or JSON Lines. docs/chats.md says what is accepted.

A line that cannot be read costs no other line: in CSV, where a stray quote may swallow the lines after it, reading
goes on with the very next one. Memory stays flat: lines and records are bounded.
"""

import csv
import io
import json
import select
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TextIO

from worker.chats.formats import FileFormat
from worker.chats.rows import REQUIRED, BadValueError, column_named, shown
from worker.errors import UsageError, WorkerError

DELIMITERS: Final = ",;\t"

LONGEST_LINE: Final = 1_000_000
"""Characters."""

MOST_LINES: Final = 1_000
"""Lines of one CSV record: more come of a quote that was opened and never closed."""

HEAD_BYTES: Final = 4_096
"""Bytes that are looked at to tell what a file is."""

BUFFER_BYTES: Final = 65_536

POLL_SECONDS: Final = 0.2

_MAGIC: Final = {
    b"PK\x03\x04": "is a zip archive, such as an Excel workbook; save it as CSV first",
    b"\x1f\x8b": "is compressed; unpack it first: gunzip -c FILE | share-worker chats import -",
    b"SQLite format 3\0": "is a SQLite database; docs/chats.md has the SQL to fill the table from yours",
}


class StoppedReadingError(Exception):
    """The reader was told to stop while it waited for more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One chat of a file, as written. `line` is where it begins, counted from 1."""

    line: int
    values: dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadLine:
    """A line that cannot be imported: `reason` in general, `message` with what was found and what is expected."""

    line: int
    reason: str
    message: str


class ByteStream(io.RawIOBase):
    """The bytes of a file or a pipe. Waiting for more ends when `stopped` says so, with `StoppedReadingError`."""

    def __init__(self, raw: io.RawIOBase | io.BytesIO, name: str, stopped: Callable[[], bool] = lambda: False) -> None:
        self.name = name
        self.bytes_read = 0
        self._raw = raw
        self._stopped = stopped
        self._may_wait = _has_descriptor(raw)
        self._head = b""

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # what io calls it with
        """Read some bytes; 0 at the end.

        Raises:
            StoppedReadingError: there were none yet, and `stopped` said so.
            WorkerError: the file cannot be read.
        """
        some = self._head[: len(buffer)] or self._next(len(buffer))
        self._head = self._head[len(some) :]
        self.bytes_read += len(some)
        buffer[: len(some)] = some
        return len(some)

    def head(self) -> bytes:
        """The first bytes, which stay to be read; raises what `readinto` does."""
        while len(self._head) < HEAD_BYTES and (some := self._next(HEAD_BYTES)):
            self._head += some
        return self._head

    def _next(self, size: int) -> bytes:
        try:
            while self._may_wait and not select.select([self._raw], [], [], POLL_SECONDS)[0]:
                if self._stopped():
                    raise StoppedReadingError
            return self._raw.read(size) or b""
        except OSError as error:
            raise WorkerError(f"{self.name} cannot be read: {error.strerror}") from error


def read_records(stream: ByteStream, form: FileFormat | None) -> Iterator[Record | BadLine]:
    """The chats of a file, in order. `form` None: JSON Lines if its first character is a `{`, else CSV.

    Raises:
        UsageError: it is no text, or it is CSV without a header that names known columns.
        WorkerError, StoppedReadingError: see `ByteStream`.
    """
    text = _decoded(stream)
    if form is None:
        head = stream.head().decode(_encoding(stream.head()), "replace").lstrip()
        form = FileFormat.JSONL if head.startswith("{") else FileFormat.CSV
    yield from _read_csv(_Lines(text), stream.name) if form is FileFormat.CSV else _read_json(_Lines(text))


def _has_descriptor(raw: io.RawIOBase | io.BytesIO) -> bool:
    try:
        raw.fileno()
    except io.UnsupportedOperation:
        return False
    return True


def _decoded(stream: ByteStream) -> TextIO:
    """The file as text. What cannot be decoded is replaced, and refused where a value has it.

    Raises:
        UsageError: it holds NUL bytes, or begins as something else does.
    """
    head = stream.head()
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise UsageError(f"{stream.name} {what}")
    encoding = _encoding(head)
    if "\0" in head.decode(encoding, "replace"):
        msg = f"{stream.name} is not text; it must be CSV or JSON Lines, in UTF-8, or in UTF-16 with a byte order mark"
        raise UsageError(msg)
    return io.TextIOWrapper(io.BufferedReader(stream, BUFFER_BYTES), encoding, "replace", newline="")


def _encoding(head: bytes) -> str:
    return "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"


@dataclass(slots=True)
class _Lines:
    """The lines of a text. Those that a record took in vain can be given back."""

    text: TextIO
    taken: list[str | None] = field(default_factory=list)
    """The lines of the current record; None for one that is longer than LONGEST_LINE."""
    returned: deque[str | None] = field(default_factory=deque)
    before: int = 0
    """How many lines came before the current record."""

    @property
    def number(self) -> int:
        """Where the current record begins, counted from 1."""
        return self.before + 1

    def begin(self) -> None:
        """Begin another record."""
        self.before += len(self.taken)
        self.taken.clear()

    def keep_first(self) -> None:
        """Give back all lines of the current record but its first."""
        self.returned.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self.returned.popleft() if self.returned else self._read()
        if line == "":
            raise StopIteration
        self.taken.append(line)
        if line is None:
            raise BadValueError("longer than a line can be", f"longer than {LONGEST_LINE:,} characters")
        if len(self.taken) > MOST_LINES:
            raise BadValueError("a quote is not closed", f"a quote is not closed within {MOST_LINES:,} lines")
        return line

    def _read(self) -> str | None:
        line = self.text.readline(LONGEST_LINE)
        if len(line) < LONGEST_LINE or line.endswith(("\n", "\r")):
            return line
        while (rest := self.text.readline(LONGEST_LINE)) and not rest.endswith(("\n", "\r")):
            pass
        return None


def _read_csv(lines: _Lines, name: str) -> Iterator[Record | BadLine]:
    reader, columns = _header(lines, name)
    while True:
        lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines.keep_first()
            yield _bad_quotes(lines.number, error)
            continue
        except BadValueError as error:
            lines.keep_first()
            yield BadLine(line=lines.number, reason=error.reason, message=str(error))
            continue
        while len(cells) > len(columns) and not cells[-1].strip():
            cells.pop()
        if not any(map(str.strip, cells)):
            continue
        if len(cells) != len(columns):
            count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
            message = f"{count}, but the header has {len(columns)} columns"
            yield BadLine(line=lines.number, reason="more or fewer cells than the header", message=message)
            continue
        yield Record(line=lines.number, values=dict(zip(columns, cells, strict=True)))


def _bad_quotes(line: int, error: csv.Error) -> BadLine:
    if "field limit" in str(error):
        message = f"a cell has more than {csv.field_size_limit():,} characters"
        return BadLine(line=line, reason="a cell is too long", message=message)
    message = "the quotes do not match; inside of a quoted cell, a quote is written twice"
    return BadLine(line=line, reason="the quotes do not match", message=message)


def _header(lines: _Lines, name: str) -> tuple[Iterator[list[str]], Sequence[str]]:
    """A reader for what follows the header line, and the columns that the header names.

    Raises:
        UsageError: there is no header, or one that names unknown columns, or one twice, or not those that are required.
    """
    first = ""
    try:
        while not first.strip():
            lines.begin()
            first = next(lines)
        delimiter = next((letter for letter in first if letter in DELIMITERS), ",")
        (cells,) = csv.reader([first], delimiter=delimiter, strict=True)
    except StopIteration:
        raise UsageError(f"{name} is empty; its first line must name the columns: {', '.join(REQUIRED)}, ...") from None
    except (csv.Error, BadValueError):
        msg = f"the first line of {name} is no header; it must name the columns: {', '.join(REQUIRED)}, ..."
        raise UsageError(msg) from None
    while cells and not cells[-1].strip():
        cells.pop()
    columns = _known(cells, name)
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise UsageError(f"{name} has the column {twice} twice; remove one of them")
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        msg = f"the first line of {name} must name the columns, and lacks {' and '.join(missing)}"
        raise UsageError(msg)
    return csv.reader(lines, delimiter=delimiter, strict=True), columns


def _known(cells: Sequence[str], name: str) -> list[str]:
    columns = []
    unknown = []
    for cell in cells:
        try:
            columns.append(column_named(cell))
        except BadValueError as error:
            unknown.append(str(error))
    if unknown:
        named = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        many = "an unknown column" if len(unknown) == 1 else "unknown columns"
        msg = f"{name} has {many}: {named}; rename or remove {'it' if len(unknown) == 1 else 'them'}"
        raise UsageError(msg)
    return columns


def _read_json(lines: _Lines) -> Iterator[Record | BadLine]:
    while True:
        lines.begin()
        try:
            line = next(lines)
            if not line.strip():
                continue
            values = _object(line)
        except StopIteration:
            return
        except BadValueError as error:
            yield BadLine(line=lines.number, reason=error.reason, message=str(error))
            continue
        yield Record(line=lines.number, values=values)


def _object(line: str) -> dict[str, object]:
    """The JSON object of a line, with the columns' own names.

    Raises:
        BadValueError: it is none, or has a key that no column has.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise BadValueError("not JSON", f"{shown(line.strip())} is not a JSON object") from None
    if not isinstance(value, dict):
        raise BadValueError("not a JSON object", f"{shown(line.strip())} is not a JSON object")
    try:
        return {column_named(key): item for key, item in value.items()}
    except BadValueError as error:
        raise BadValueError("unknown column", f"unknown column {error}") from None
