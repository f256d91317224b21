"""What the commands share: the settings and logs they start with, signals, and how they end."""

import asyncio
import re
import signal
import sys
from collections.abc import Coroutine, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from worker.errors import UsageError, WorkerError

if TYPE_CHECKING:
    from worker.linq import Linq
    from worker.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
NoMigrate = Annotated[
    bool, typer.Option("--no-migrate", help="Do not bring the schema up to date first; fail if it is not.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; for scripts.")]


def read_settings(*, calm: bool = False) -> "Settings":
    """Read the settings and set up the logs that they ask for; `calm` means only trouble, unless LOG_LEVEL is set."""
    import os

    from worker.settings import load, misspelt
    from worker.telemetry import configure_logging

    settings = load()
    level = "warning" if calm and "LOG_LEVEL" not in settings.model_fields_set else settings.LOG_LEVEL
    configure_logging(form=settings.LOG_FORMAT, level=level, secrets=settings.secrets)
    for line in misspelt(os.environ):
        sys.stderr.write(f"share-worker: {line}\n")
    return settings


def finish(work: Coroutine[None, None, int]) -> NoReturn:
    """Run a command's work to its end, and exit with its code."""
    raise typer.Exit(asyncio.run(work))


def stop_on_signals() -> asyncio.Event:
    """An event that SIGINT or SIGTERM sets. The second one ends the process at once: the ledger is true without it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def heard(number: signal.Signals) -> None:
        if stop.is_set():
            sys.stderr.write("share-worker: told to stop twice; ending at once\n")
            sys.stderr.flush()
            _exit_at_once(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, heard, number)
    return stop


def _exit_at_once(code: int) -> NoReturn:
    import os

    os._exit(code)


def chat_ids(words: Sequence[str]) -> list[str]:
    """The ids that a command line names, each once, in the order given; `-` stands for ids on stdin, one a line.

    Raises:
        UsageError: stdin was named, and holds none, or is not text.
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
    return list(found)


def lines(words: Sequence[str]) -> list[str]:
    """The lines that a command line names, E.164.

    Raises:
        UsageError: one is no such number.
    """
    for word in words:
        if not re.fullmatch(r"\+[1-9]\d{6,14}", word):
            msg = f"{word!r} is no line; a line is a phone number with + and country code, such as +15550100001"
            raise UsageError(msg)
    return list(words)


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


def confirm(question: str, *, yes: bool) -> bool:
    """Ask a person, on stderr; True at once with `--yes`.

    Raises:
        UsageError: nobody is there to answer, and `--yes` was not given.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        msg = "nobody is there to ask; add --yes to go ahead without asking, or --dry-run to only look"
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
    from worker.linq_answers import LinqError

    try:
        return {card.phone_number: card.is_active for card in await linq.list_cards()}
    except LinqError as error:
        msg = f"the contact cards could not be read: {error}"
        raise WorkerError(msg) from error
