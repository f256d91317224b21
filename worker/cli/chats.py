"""The group of commands `chats`, and of these `chats import`, `chats export` and `chats list`."""

import contextlib
import io
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from worker.chats.formats import FileFormat, format_of_name
from worker.cli.app import app
from worker.cli.shell import (
    Json,
    OfLine,
    complain,
    finish,
    line_numbers,
    only_prints,
    os_user,
    quiet_on_a_terminal,
    read_settings,
    stop_on_signals,
)
from worker.errors import PartlyDone, UsageError, WorkerError

if TYPE_CHECKING:
    from worker.chats.imports import Imported
    from worker.questions.chat_list import ChatFilter
    from worker.rules.eligibility import Verdict
    from worker.settings import Settings

BAD_SHOWN = 20
"""How many bad lines are named; the others are counted by reason."""

chats = typer.Typer(
    name="chats",
    help="Fill the table of chats from Linq or a file, write it to one, list it with verdicts.",
    epilog="Example: share-worker chats import chats.csv --dry-run",
    no_args_is_help=True,
)
app.add_typer(chats)

Form = Annotated[
    FileFormat | None,
    typer.Option("--format", help="The form of the file, where its name (.csv, .jsonl, .ndjson) does not say it."),
]


@chats.command(name="import", epilog="Example: share-worker chats import chats.csv --dry-run")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file of CSV or JSON Lines; '-' reads stdin.")],
    form: Form = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file, and only say what would change.")] = False,
    json: Json = False,
) -> None:
    """Add the chats of a file to the table, and bring those that it has up to date.

    The columns: id and from_number, which are required, service, is_group, last_outbound_at, last_inbound_at,
    health_status, handle. What the file has no column for stays as it is; an empty cell says that it is not known. Of
    two times of a message the later one is kept. The file may be as large as you like. docs/chats.md tells more.

    Ctrl-C ends it between two batches: what is in stays in, and to import the same file again does no harm.

    Exit code 0: all lines are in. 1: some lines are bad, the others are in; or it was ended, or failed, and says how
    far it came. 2: wrong usage, or the file's header is wrong; nothing is in.
    """
    settings = read_settings(default_level=quiet_on_a_terminal())
    with _opened(file, form) as opened:
        finish(_import(settings, opened, dry_run=dry_run, as_json=json))


@chats.command(epilog="Example: share-worker chats export chats.csv")
def export(
    file: Annotated[
        str, typer.Argument(metavar="[FILE]", help="The file to write, in place of one that exists; '-' is stdout.")
    ] = "-",
    form: Form = None,
) -> None:
    """Write all chats to a file that an import can read, in the order of their ids. Without a file: CSV on stdout.

    All columns are written, in UTF-8, with times in UTC. An import ignores those that only the worker and its admins
    write, such as paused_at. Values are as they are, also those that a spreadsheet would take for a formula.
    """
    settings = read_settings()
    if file == "-":
        only_prints()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        finish(_export(settings, None, form or FileFormat.CSV))
    form = form or format_of_name(file)
    if form is None:
        raise UsageError(_unknown_form(file))
    finish(_export(settings, Path(file), form))


@chats.command(name="list", epilog="Example: share-worker chats list --verdict no_outbound --line +15550100001")
def list_(
    verdict: Annotated[
        list[str] | None,
        typer.Option("--verdict", metavar="V", help="With this verdict, such as due; may be repeated."),
    ] = None,
    line: OfLine = None,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Only those with ids after this one.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, max=10**9, metavar="N", help="At most N chats.")] = None,
    json: Json = False,
) -> None:
    """List chats in the order of their ids, with the verdict of each: due, or the first rule that says no.

    The cards are those that the last pass saw. All options given must fit. Streams, however many there are. Times are
    in SHARE_TIMEZONE, in JSON in UTC.
    """
    from worker.questions.chat_list import ChatFilter

    wanted = ChatFilter(
        verdicts=[_verdict(word) for word in verdict or []], lines=line_numbers(line or []), after=after
    )
    settings = read_settings()
    only_prints()
    finish(_list(settings, wanted, limit=limit, as_json=json))


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A file that is open for reading."""

    raw: io.RawIOBase | io.BytesIO
    name: str
    size: int | None
    """In bytes; None if it is no regular file."""
    form: FileFormat | None
    """None: its first character tells."""


@contextlib.contextmanager
def _opened(file: str, form: FileFormat | None) -> Iterator[_Opened]:
    """A file, or stdin for `-`, for the time of the block.

    Raises:
        UsageError: it cannot be read, or its name says nothing of its form.
    """
    if file == "-":
        stdin = sys.stdin.buffer.raw if isinstance(sys.stdin.buffer, io.BufferedReader) else sys.stdin.buffer
        yield _Opened(raw=stdin, name="stdin", size=None, form=form)  # type: ignore[arg-type] # tests have a BytesIO
        return
    form = form or format_of_name(file)
    try:
        raw = Path(file).open("rb", buffering=0)  # noqa: SIM115 -- closed below
    except (OSError, ValueError) as error:
        why = "is a directory" if isinstance(error, IsADirectoryError) else _why(error)
        msg = f"{file} {why if why.startswith('is ') else f'cannot be read: {why}'}"
        raise UsageError(msg) from error
    with raw:
        about = os.fstat(raw.fileno())
        is_file = stat.S_ISREG(about.st_mode)
        if form is None and is_file:
            raise UsageError(_unknown_form(file))
        yield _Opened(raw=raw, name=file, size=about.st_size if is_file else None, form=form)


def _unknown_form(file: str) -> str:
    return f"the name {file} does not say what form the file has; add --format csv or --format jsonl"


def _why(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


async def _import(settings: "Settings", file: _Opened, *, dry_run: bool, as_json: bool) -> int:
    import structlog
    from sqlalchemy.exc import SQLAlchemyError

    from worker import assembly, db
    from worker.chats.files import ByteStream, read_records
    from worker.chats.imports import Imported, import_chats
    from worker.cli.output import chats as output
    from worker.cli.output import printing
    from worker.clock import SystemClock

    stop = stop_on_signals()
    stream = ByteStream(file.raw, file.name, stop.is_set)
    done = Imported()
    broken: WorkerError | None = None
    shown = 0
    async with assembly.database(settings) as engine:
        with output.progress(file.size, shown=sys.stderr.isatty()) as show:

            def watch() -> None:
                nonlocal shown
                for bad in done.bad_lines[shown:BAD_SHOWN]:
                    complain(output.bad_line_text(bad))
                    shown += 1
                show(stream.bytes_read, done.lines)

            try:
                await import_chats(
                    engine,
                    read_records(stream, file.form),
                    done,
                    now=SystemClock().now(),
                    dry_run=dry_run,
                    stop=stop,
                    watch=watch,
                )
            except SQLAlchemyError as error:
                broken = WorkerError(db.describe(error, engine.url))
            except UsageError:
                raise
            except WorkerError as error:
                broken = error
    if done.bad > shown:
        complain(output.more_bad_lines_text(done, shown))
    if done.ignored:
        complain(f"ignored, as only the worker and its admins write them: {', '.join(sorted(done.ignored))}")
    if not dry_run:
        counts = {name: getattr(done, name) for name in ("new", "changed", "unchanged", "repeated", "bad")}
        structlog.get_logger(__name__).info("chats.imported", by=os_user(), complete=done.complete, **counts)
    if as_json:
        printing.print_json(output.imported_document(done, dry_run=dry_run))
    else:
        printing.print_lines(*output.imported_lines(done, dry_run=dry_run))
    return _judged(done, broken, dry_run=dry_run)


def _judged(done: "Imported", broken: WorkerError | None, *, dry_run: bool) -> int:
    """The exit code of an import.

    Raises:
        PartlyDone: not every line is in.
    """
    good = f"{done.imported:,} good lines {'would be' if dry_run else 'are'} in"
    if broken is not None:
        raise PartlyDone(f"{broken}; {good}, the rest is not; import the file again") from broken
    if not done.complete:
        msg = f"it was told to stop; {good}, the rest is not; import the file again"
        raise PartlyDone(msg)
    if done.bad:
        bad = f"{done.bad:,} of {done.lines:,} lines {'is' if done.bad == 1 else 'are'} bad"
        msg = f"{bad}; the others {'could be imported' if dry_run else 'are in'}"
        raise PartlyDone(msg)
    return 0


async def _export(settings: "Settings", file: Path | None, form: FileFormat) -> int:
    from worker import assembly
    from worker.cli.output import printing
    from worker.cli.output.chats import write_chats
    from worker.questions.chat_list import all_chats

    async with assembly.database(settings) as engine:
        if file is None:
            await write_chats(all_chats(engine), sys.stdout, form)
            return 0
        with _written(file) as stream:
            count = await write_chats(all_chats(engine), stream, form)
    printing.print_lines(f"Exported {count:,} chats to {file}.")
    return 0


@contextlib.contextmanager
def _written(file: Path) -> Iterator[TextIO]:
    """A file to write, for its owner's eyes only; it takes its place when the block ends without an error.

    Raises:
        WorkerError: it cannot be written.
    """
    draft = None
    try:
        if file.exists() and not file.is_file():  # a device or a pipe, or a directory, which is refused
            with file.open("w", encoding="utf-8", newline="\n") as stream:
                yield stream
            return
        file = file.resolve()
        draft = file.with_name(f".{file.name}.{os.getpid()}.part")
        draft.touch(0o600, exist_ok=False)
        with draft.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
        draft.replace(file)
    except (OSError, ValueError) as error:
        raise WorkerError(f"{file} cannot be written: {_why(error)}") from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


def _verdict(word: str) -> "Verdict":
    from worker.rules.eligibility import Verdict

    try:
        return Verdict(word.lower())
    except ValueError:
        msg = f"{word!r} is not a verdict; it must be one of {', '.join(name.value for name in Verdict)}"
        raise UsageError(msg) from None


async def _list(settings: "Settings", wanted: "ChatFilter", *, limit: int | None, as_json: bool) -> int:
    from worker import assembly
    from worker.cli.output import chats as output
    from worker.clock import SystemClock
    from worker.questions.chat_list import list_chats

    async with assembly.database(settings) as engine:
        found = list_chats(engine, assembly.rules(settings), wanted, SystemClock().now(), at_most=limit)
        if as_json:
            await output.print_chats_json(found)
        elif not await output.print_table(found, settings.SHARE_TIMEZONE):
            complain("no chat matches")
    return 0
