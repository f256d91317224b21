"""The command line: parse, assemble, call one function, print, choose the exit code.

Each command imports what it needs when it runs, so that `--help` and `--version` answer at once. Results go to stdout,
logs and progress to stderr. Exit codes: 0 done, 1 not completed, 2 a wrong command line or setting.
"""

import contextlib
import errno
import os
import sys
from typing import TextIO

import typer
from typer.exceptions import TyperException

from worker.cli import cards, chats, check, history, passes, pause, prune, rerun, restore, setup, sync, webhooks
from worker.cli.app import app
from worker.cli.shell import complain
from worker.errors import PartlyDone, UsageError, WorkerError

__all__ = [
    "app",
    "cards",
    "chats",
    "check",
    "history",
    "main",
    "passes",
    "pause",
    "prune",
    "rerun",
    "restore",
    "setup",
    "sync",
    "webhooks",
]


def main() -> None:
    """Run the command line; an error that ends a command early becomes one line and an exit code."""
    _open_standard_streams()
    try:
        _require_text(sys.argv[1:])
        code = app(prog_name="share-worker", standalone_mode=False)
        sys.stdout.flush()
    except WorkerError as error:
        complain(str(error))
        if not isinstance(error, PartlyDone):
            _print_error_document(str(error))
        code = error.exit_code
    except TyperException as error:
        complain(_usage_error(error))
        _print_error_document(_usage_error(error))
        code = error.exit_code
    except typer.Abort:
        code = 1
    except OSError as error:
        _give_up(sys.stdout)
        if error.errno == errno.EPIPE:
            code = 1
        elif error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG} and error.filename is None:
            complain(f"the output cannot be written: {error.strerror}")
            code = 1
        else:
            raise
    try:
        sys.stderr.flush()
    except OSError:
        _give_up(sys.stderr)
    sys.exit(code)


def _print_error_document(error: str) -> None:
    """For `--json`, whose reader expects a document whatever happens."""
    if "--json" in sys.argv[1:]:
        from worker.cli.output.printing import print_json

        with contextlib.suppress(OSError):
            print_json({"error": error})
            sys.stdout.flush()


def _open_standard_streams() -> None:
    """Open what the caller has closed: Python has None in its place, and a file or socket of ours would get its number.

    What is written to it is lost; a pass is made all the same.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, os.fdopen(opened, "w" if number else "r"))


def _give_up(stream: TextIO) -> None:
    """Lose what a stream still holds: Python would try to write it once more as it ends, and fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _usage_error(error: TyperException) -> str:
    """One line about a wrong command line, with the command that explains the right one."""
    said = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    path = getattr(getattr(error, "ctx", None), "command_path", "share-worker")
    return f"{said[:1].lower()}{said[1:]}; see '{path} --help'"


def _require_text(words: list[str]) -> None:
    """Refuse bytes that are not UTF-8: Python lets them through, and no database takes them.

    Raises:
        UsageError: a word holds such bytes.
    """
    for word in words:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            msg = f"{word!r} on the command line is not UTF-8 text"
            raise UsageError(msg)
