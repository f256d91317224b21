"""What the commands share: the settings and logs they start with, signals, and how they end."""

import gc
import io
import signal
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from worker.errors import UsageError, WorkerError

if TYPE_CHECKING:
    import asyncio

    from worker.linq.client import Linq
    from worker.logs import LogLevel
    from worker.settings import Settings

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
NoMigrate = Annotated[
    bool, typer.Option("--no-migrate", help="Do not bring the schema up to date first; fail if it is not.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; for scripts.")]

LAST_WORDS_SECONDS = 4.0
"""After SHARE_DRAIN_SECONDS, for what is not the calls: with the default of 25 it ends within 30 seconds."""


def read_settings(*, least: "LogLevel | None" = None) -> "Settings":
    """Read the settings and set up the logs that they ask for; `least` is the level where LOG_LEVEL is not set."""
    import os

    with loading():
        _import_without_rich()
        from worker.logs import configure_logging
        from worker.settings import load, misspelt

    settings = load()
    level = least if least and "LOG_LEVEL" not in settings.model_fields_set else settings.LOG_LEVEL
    configure_logging(form=settings.LOG_FORMAT, level=level, colors=colors(), secrets=settings.secrets)
    for line in misspelt(os.environ):
        sys.stderr.write(f"share-worker: {line}\n")
    return settings


@contextmanager
def loading() -> Iterator[None]:
    """Keep the garbage collector from what the block imports: it stays, and is 100,000 objects to look through.

    A tenth of a command's start, and as much of a pass.
    """
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # once in a process: whatever else is alive by then would stay too
            gc.freeze()
        gc.enable()


def _import_without_rich() -> None:
    """Import structlog and httpx as if rich and pygments were not there.

    Where those are, both load them at once, for tracebacks in colour and a command line that nobody here calls: a tenth
    of a command's start, and 5 MB of a worker's memory. Whoever needs rich may import it afterwards.
    """
    from importlib import import_module

    spared = {"rich", "pygments"} - sys.modules.keys()
    for name in spared:
        sys.modules[name] = None  # type: ignore[assignment] # Python's own way to make an import fail
    try:
        for name in ("httpx", "structlog"):
            import_module(name)
    finally:
        for name in spared:
            del sys.modules[name]


def colors() -> bool:
    """Whether logs may be coloured: on a terminal, unless NO_COLOR (no-color.org) says otherwise."""
    import os

    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def watched() -> "LogLevel | None":
    """The level for a command whose results a person reads, where one watches: only trouble."""
    return "warning" if sys.stderr.isatty() else None


def done(work: Coroutine[None, None, T]) -> T:
    """Do a piece of asynchronous work to its end, and return its result."""
    import asyncio

    return asyncio.run(work)


def finish(work: Coroutine[None, None, int]) -> NoReturn:
    """Run a command's work to its end, and exit with its code."""
    raise typer.Exit(done(work))


def only_prints() -> None:
    """For a command that leaves nothing behind but its output: end like `cat` when nobody reads on, `| head` for one.

    Letters that stdout cannot write are spelt out, instead of ending the command.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def stop_on_signals(drain_seconds: float | None = None) -> "asyncio.Event":
    """An event that SIGINT or SIGTERM sets.

    The second signal ends the process at once, and so does, a moment after `drain_seconds`, whatever holds it up: a
    database that hangs, a watchdog that does not answer. The ledger is true without its last words.
    """
    import asyncio

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def heard(number: signal.Signals) -> None:
        if stop.is_set():
            _end_at_once("told to stop twice", 128 + number)
        stop.set()
        if drain_seconds is not None:
            longest = drain_seconds + min(drain_seconds, LAST_WORDS_SECONDS)
            loop.call_later(longest, _end_at_once, f"told to stop {longest:g} s ago, and not done", 1)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, heard, number)
    return stop


def _end_at_once(why: str, code: int) -> NoReturn:
    import os

    sys.stderr.write(f"share-worker: {why}; ending at once\n")
    sys.stderr.flush()
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
        told = [line for line in lines if line]
        if not told:
            msg = "'-' stands for chat ids on stdin, but nothing came; give one chat id a line"
            raise UsageError(msg)
        found.update(dict.fromkeys(told))
    for chat_id in found:
        if any("\ud800" <= letter <= "\udfff" or letter == "\0" for letter in chat_id):
            msg = f"the id {chat_id!r} is not UTF-8 text"
            raise UsageError(msg)
    return list(found)


def lines(words: Sequence[str]) -> list[str]:
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
        msg = f"{word!r} is no day; it may be today, yesterday, or a date such as {today}"
        raise UsageError(msg) from None


def confirm(question: str, *, yes: bool, looks: bool = True) -> bool:
    """Ask a person, on stderr; True at once with `--yes`. `looks` says that the command has a `--dry-run`.

    Raises:
        UsageError: nobody is there to answer, and `--yes` was not given.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        msg = f"nobody is there to ask; add --yes to go ahead without asking{', or --dry-run to only look' * looks}"
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


async def card_activity(linq: "Linq") -> dict[str, bool]:
    """Each line of the account that has a card, and whether that is active, as Linq says now.

    Raises:
        WorkerError: Linq did not say.
    """
    from worker.linq.answers import LinqError

    try:
        return {card.phone_number: card.is_active for card in await linq.list_cards()}
    except LinqError as error:
        msg = f"the contact cards could not be read: {error}"
        raise WorkerError(msg) from error
