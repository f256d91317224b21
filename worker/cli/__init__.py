"""The command line: parse, assemble, call one function, print, choose the exit code.

Each command imports what it needs when it runs, so that `--help` and `--version` answer at once. Results go to stdout,
logs and progress to stderr. Exit codes: 0 done, 1 not completed, 2 a wrong command line or setting.
"""

import sys

from worker.cli import cards, chats, history, passes, prune, rerun, setup
from worker.cli.app import app
from worker.errors import UsageError, WorkerError

__all__ = ["app", "cards", "chats", "history", "main", "passes", "prune", "rerun", "setup"]


def main() -> None:
    """Run the command line; what ends a command early becomes one line and an exit code."""
    try:
        _require_text(sys.argv[1:])
        app()
    except WorkerError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"share-worker: {line}\n")
        sys.exit(error.exit_code)


def _require_text(words: list[str]) -> None:
    """Refuse bytes that are no UTF-8: Python lets them through, and no database takes them.

    Raises:
        UsageError: a word holds some.
    """
    for word in words:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            msg = f"{word!r} on the command line is not UTF-8 text"
            raise UsageError(msg)
