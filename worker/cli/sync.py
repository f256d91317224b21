"""The command `chats sync`."""

import contextlib
import sys
from typing import TYPE_CHECKING

from worker.cli.chats import chats
from worker.cli.shell import (
    Json,
    NoMigrate,
    OfLine,
    finish,
    line_numbers,
    opened_database,
    quiet_on_a_terminal,
    read_settings,
    stop_on_signals,
)
from worker.errors import PartlyDone, WorkerError

if TYPE_CHECKING:
    from worker.settings import Settings


@chats.command(epilog="Example: share-worker chats sync")
def sync(line: OfLine = None, json: Json = False, no_migrate: NoMigrate = False) -> None:
    """Read every chat from Linq: add the new ones to the table, bring the others up to date.

    Messages are read only of chats that are new or have changed, so that the first sync takes long, and the next one
    about a request for each hundred chats. It keeps to SHARE_CONCURRENCY and SHARE_MAX_PER_SECOND. A chat that Linq has
    no more becomes missing, but only after everything was read. What the table knows from a newer source stays, and so
    do pauses.

    Ctrl-C ends it; what was read stays, and the next sync goes on where it was.

    Exit code 0: everything was read. 1: it was ended, or failed, and says why. 2: wrong usage.
    """
    wanted = line_numbers(line or [])
    finish(_sync(read_settings(default_level=quiet_on_a_terminal()), wanted, as_json=json, migrates=not no_migrate))


async def _sync(settings: "Settings", wanted: list[str], *, as_json: bool, migrates: bool) -> int:
    from sqlalchemy.exc import SQLAlchemyError

    from worker import assembly, db
    from worker.chats.facts import count_chats
    from worker.chats.sync import Synced, sync_chats
    from worker.cli.output import printing
    from worker.cli.output import sync as output
    from worker.clock import SystemClock

    clock, stop = SystemClock(), stop_on_signals()
    pace = assembly.read_pace(settings, clock)
    linq = assembly.linq(settings, clock, pace)
    done = Synced()
    began = clock.monotonic()
    async with opened_database(settings, migrates=migrates) as engine, linq:
        async with db.read(engine) as connection:
            total = await count_chats(connection)
        # `done.reason` says what the database said.
        with output.progress(done, total, shown=sys.stderr.isatty()) as show, contextlib.suppress(SQLAlchemyError):
            await sync_chats(
                engine,
                linq,
                done,
                lines=wanted,
                concurrency=settings.SHARE_CONCURRENCY,
                clock=clock,
                stop=stop,
                watch=show,
            )
    seconds = clock.monotonic() - began
    has_result = bool(done.chats or done.complete)
    if has_result:
        if as_json:
            printing.print_json(output.synced_document(done, requests=pace.reads, seconds=seconds))
        else:
            printing.print_lines(*output.synced_lines(done, requests=pace.reads, seconds=seconds))
    if not done.complete:
        rest = "; what was read is in, the next sync goes on from there" if done.chats else ""
        msg = f"the sync is not complete: {done.reason}{rest}"
        raise PartlyDone(msg) if has_result else WorkerError(msg)
    return 0
