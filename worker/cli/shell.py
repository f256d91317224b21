"""What the commands share: the settings and logs they start with, signals, and how they end."""

import contextlib
import io
import signal
import sys
from collections.abc import Coroutine, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from worker.errors import UsageError, WorkerError
from worker.outcomes import Outcome

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from worker.account import Line
    from worker.linq.client import Linq
    from worker.logs import LogLevel
    from worker.rules.eligibility import LineTables
    from worker.settings import Settings

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
NoMigrate = Annotated[
    bool, typer.Option("--no-migrate", help="Do not bring the schema up to date first; fail if it is not.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; for scripts.")]

# Which attempts are meant; for the commands that look at attempts and the one that repeats them.
OfChat = Annotated[
    list[str] | None,
    typer.Option("--chat", metavar="ID", help="Of this chat; may be repeated, - reads ids from stdin, one a line."),
]
OfLine = Annotated[
    list[str] | None, typer.Option("--line", metavar="+NUMBER", help="Of chats on this line; may be repeated.")
]
WithOutcome = Annotated[list[Outcome] | None, typer.Option("--outcome", help="With this outcome; may be repeated.")]
WithCode = Annotated[
    list[int] | None,
    typer.Option("--code", min=0, max=999_999, metavar="N", help="With this error code of Linq's; may be repeated."),
]
OfRun = Annotated[
    str | None, typer.Option("--run", metavar="ID", help="Of this pass; the beginning of its id is enough.")
]

LAST_STEPS_SECONDS = 4.0
"""After SHARE_DRAIN_SECONDS, for all but the requests: with the default of 25 a command ends within 30 seconds."""


def read_settings(*, default_level: "LogLevel | None" = None) -> "Settings":
    """Read the settings and set up the logs that they ask for; `default_level` counts if LOG_LEVEL is not set."""
    import os

    from worker.logs import configure_logging
    from worker.settings import load, misspelt

    settings = load()
    level = default_level if default_level and "LOG_LEVEL" not in settings.model_fields_set else settings.LOG_LEVEL
    configure_logging(form=settings.LOG_FORMAT, level=level, colors=colors(), secrets=settings.secrets)
    for line in misspelt(os.environ):
        complain(line)
    return settings


def complain(text: str) -> None:
    """One or more lines on stderr. If it cannot be written to, the command goes on."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.writelines(f"share-worker: {line}\n" for line in text.splitlines())
        sys.stderr.flush()


def colors() -> bool:
    """Whether logs may be coloured: on a terminal, unless NO_COLOR (no-color.org) says otherwise."""
    import os

    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def quiet_on_a_terminal() -> "LogLevel | None":
    """The default log level of a command whose results a person reads: on a terminal only warnings."""
    return "warning" if sys.stderr.isatty() else None


def done(work: Coroutine[None, None, T]) -> T:
    """Run asynchronous work to its end, and return its result."""
    import asyncio

    return asyncio.run(work)


def finish(work: Coroutine[None, None, int]) -> NoReturn:
    """Run a command's work to its end, and exit with its code."""
    raise typer.Exit(done(work))


def only_prints() -> None:
    """For a command that only prints: a closed pipe (`| head`) ends it like `cat`.

    Characters that stdout cannot encode are escaped.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def stop_on_signals(drain_seconds: float | None = None, *, announces: bool = True) -> "asyncio.Event":
    """An event that SIGINT or SIGTERM sets; `announces`: a terminal is told that the command is ending.

    The second signal ends the process at once. So does the end of the drain, whatever is still busy: a database that
    hangs, a watchdog that does not answer. The ledger is true without these last steps.
    """
    import asyncio

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def heard(number: signal.Signals) -> None:
        if stop.is_set():
            _end_at_once("told to stop twice", 128 + number)
        stop.set()
        if announces and sys.stderr.isatty():
            complain("ending; what is under way is finished first (once more ends it at once)")
        if drain_seconds is not None:
            longest = drain_seconds + min(drain_seconds, LAST_STEPS_SECONDS)
            loop.call_later(longest, _end_at_once, f"told to stop {longest:g} s ago, and not done", 1)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, heard, number)
    return stop


def _end_at_once(why: str, code: int) -> NoReturn:
    import os

    complain(f"{why}; ending at once")
    os._exit(code)


def chat_ids(words: Sequence[str]) -> list[str]:
    """The ids that a command line names, each once, in the order given; `-` stands for ids on stdin, one a line.

    Raises:
        UsageError: stdin was named, and holds none, or something is not text.
    """
    found: dict[str, None] = {}
    for word in words:
        if word != "-":
            found[word] = None
            continue
        try:
            lines = [line.strip() for line in sys.stdin]
        except UnicodeDecodeError as error:
            msg = "the ids on stdin are not UTF-8 text; give one chat id a line"
            raise UsageError(msg) from error
        ids = [line for line in lines if line]
        if not ids:
            msg = "'-' stands for chat ids on stdin, but stdin is empty; give one chat id a line"
            raise UsageError(msg)
        found.update(dict.fromkeys(ids))
    for chat_id in found:
        if any("\ud800" <= letter <= "\udfff" or letter == "\0" for letter in chat_id):
            msg = f"the id {chat_id!r} is not UTF-8 text"
            raise UsageError(msg)
    return list(found)


def line_numbers(words: Sequence[str]) -> list[str]:
    """The phone numbers given with `--line`, in E.164.

    Raises:
        UsageError: one of them is not a phone number.
    """
    if not words:
        return []  # saves loading the numbering plans
    from worker.linq.phone_numbers import e164

    return [e164(word) for word in words]


def share_day(word: str, today: date) -> date:
    """The share day that a command line names: `today`, `yesterday` or a date.

    Raises:
        UsageError: it is none of these.
    """
    if word in {"today", "yesterday"}:
        return today - timedelta(days=word == "yesterday")
    try:
        return date.fromisoformat(word)
    except ValueError:
        msg = f"{word!r} is not a day; it must be today, yesterday, or a date such as {today}"
        raise UsageError(msg) from None


def confirm(question: str, *, yes: bool, has_dry_run: bool = True) -> bool:
    """Ask a person, on stderr; True at once with `--yes`. `has_dry_run`: the command has a `--dry-run` to propose.

    Raises:
        UsageError: stdin is not a terminal, and `--yes` was not given.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        alternative = ", or --dry-run to only look" if has_dry_run else ""
        msg = f"stdin is not a terminal, so the question cannot be answered; add --yes to go ahead{alternative}"
        raise UsageError(msg)
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def os_user() -> str:
    """Who runs the command, as the operating system knows it."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        import os

        return f"uid {os.getuid()}"


@contextlib.asynccontextmanager
async def opened_database(settings: "Settings", *, migrates: bool) -> "AsyncIterator[AsyncEngine]":
    """The database, with its schema brought up to date first if `migrates`; stderr says if that made a new file.

    Raises:
        DatabaseError: it cannot be used.
    """
    from worker import assembly, db

    file = db.sqlite_file(assembly.database_url(settings)) if migrates else None
    is_new = file is not None and not file.exists()
    async with assembly.database(settings, migrates=migrates) as engine:
        if is_new:
            complain(f"the ledger {file} did not exist; this command made an empty one (DATABASE_URL names it)")
        yield engine


async def lines_as_read(linq: "Linq") -> "LineTables":
    """The account's lines and cards as Linq says now, for a verdict that stores nothing.

    Raises:
        WorkerError: Linq did not say. Without the lines alone, they are judged as last seen, and stderr says so.
    """
    from worker.linq.answers import LinqError
    from worker.rules.eligibility import as_read

    try:
        activity = {card.phone_number: card.is_active for card in await linq.list_cards()}
    except LinqError as error:
        msg = f"the contact cards could not be read: {error}"
        raise WorkerError(msg) from error
    return as_read(activity, await read_lines(linq))


async def read_lines(linq: "Linq") -> "list[Line] | None":
    """The account's lines; None if Linq did not list them, which stderr says: then they are judged as last seen."""
    from worker.linq.answers import LinqError

    try:
        return await linq.phone_numbers()
    except LinqError as error:
        complain(f"the lines could not be read, so they are judged as last seen: {error}")
        return None
