"""The worker at work without a key: a simulated account, a sync of its chats into a SQLite file, and two passes."""

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.chats import facts
from worker.chats.sync import Synced, sync_chats
from worker.cli.output import passes
from worker.cli.output import sync as sync_output
from worker.cli.output.progress import progress
from worker.clock import SystemClock
from worker.errors import UsageError, WorkerError
from worker.linq.client import Linq
from worker.linq.read_pace import ReadPace
from worker.logs import configure_logging
from worker.outcomes import PassResult, Trigger
from worker.rules.eligibility import Rules
from worker.sharing.limits import Limits
from worker.sharing.share_pass import run_pass
from worker.simulator.account import Account
from worker.simulator.chats import Chat
from worker.simulator.faults import Fault
from worker.simulator.population import populate
from worker.simulator.server import serving

CHATS: Final = 400
LATENCY_SECONDS: Final = 0.05
"""What a call to the real API roughly takes, and long enough to see the progress."""

FILE_NAME: Final = "share-worker.db"


async def show(folder: Path | None, *, stop: asyncio.Event) -> int:
    """Run the demonstration; return the exit code.

    Raises:
        UsageError: the folder holds a database already.
        WorkerError: the folder cannot be used, or the simulator counted a chat twice.
    """
    configure_logging(form="auto", level="error")
    account = Account()
    populate(account, chats=CHATS)
    account.add_fault(Fault(path="share", delay_seconds=LATENCY_SECONDS))
    file = _new_file(folder)
    url = db.parse_url(f"sqlite:///{file}")
    with db.one_line_errors(url):
        async with db.opened(url, create=True) as engine, serving(account) as base_url:
            await db.migrate(engine)
            passes.print_lines(
                f"A simulated Linq answers on {base_url}; its account has {len(account.cards)} cards.",
                f"The table 'chats' in {file} is empty.",
                "",
                "First the chats are read from Linq.",
            )
            await _sync(engine, account, base_url, stop)
            if stop.is_set():
                return 1
            passes.print_lines("", "First pass: everyone who is due.")
            await _one_pass(engine, account, base_url, stop)
            if stop.is_set():
                return 1
            called = len(account.share_calls)
            passes.print_lines("", "Second pass, a moment later: the ledger knows who was called today.")
            await _one_pass(engine, account, base_url, stop)
    again = len(account.share_calls) - called
    passes.print_lines("", f"Linq counted {called} share calls after the first pass, and {again} in the second one.")
    if account.repeated_calls():
        msg = f"the simulated Linq was called twice for {len(account.repeated_calls())} chats; please report this"
        raise WorkerError(msg)
    passes.print_lines(*_what_next(file))
    return 0


def known_chats(account: Account) -> Iterator[facts.KnownChat]:
    """A simulated account's chats as a partner's table would hold them."""
    return map(known_chat, account.chats.values())


def known_chat(chat: Chat) -> facts.KnownChat:
    """A simulated chat as a row of a partner's table."""
    return facts.KnownChat(
        id=chat.id,
        from_number=chat.from_number,
        service=chat.service,
        is_group=chat.is_group,
        last_outbound_at=chat.last_outbound_at,
        last_inbound_at=chat.last_inbound_at,
        health_status=chat.health_status,
    )


async def _sync(engine: AsyncEngine, account: Account, base_url: str, stop: asyncio.Event) -> None:
    clock, done = SystemClock(), Synced()
    began = clock.monotonic()
    pace = ReadPace(0, clock)
    async with Linq(account.api_key, base_url=base_url, pace=pace) as linq:
        with sync_output.progress(done, 0, shown=sys.stderr.isatty()) as show:
            await sync_chats(engine, linq, done, concurrency=20, clock=clock, stop=stop, watch=show)
    passes.print_lines(*sync_output.synced_lines(done, requests=pace.reads, seconds=clock.monotonic() - began))


async def _one_pass(engine: AsyncEngine, account: Account, base_url: str, stop: asyncio.Event) -> PassResult:
    rules = Rules()
    async with Linq(account.api_key, base_url=base_url) as linq:
        with progress(shown=sys.stderr.isatty()) as watch:
            result = await run_pass(
                engine,
                linq,
                rules,
                Limits(per_second=0),
                trigger=Trigger.COMMAND,
                clock=SystemClock(),
                stop=stop,
                watch=watch,
            )
    passes.print_result(result, rules)
    return result


def _new_file(folder: Path | None) -> Path:
    try:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="share-worker-demo-"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"the folder {folder} cannot be made: {error.strerror}"
        raise WorkerError(msg) from error
    file = folder / FILE_NAME
    if file.exists():
        msg = f"{file} exists already; name another folder, or remove it first"
        raise UsageError(msg)
    return file


def _what_next(file: Path) -> list[str]:
    typed = sys.argv[0] if Path(sys.argv[0]).name == "share-worker" else "share-worker"
    return [
        "",
        "The ledger, one row for each attempt, is yours to look at:",
        f"  DATABASE_URL=sqlite:///{file} {typed} attempts",
        f"  DATABASE_URL=sqlite:///{file} {typed} status",
        "",
        "With a real key:",
        "  export LINQ_API_KEY=...",
        "  export DATABASE_URL=sqlite:///share-worker.db   # or postgresql://...",
        f"  {typed} chats sync      # makes the tables, and reads your chats from Linq",
        f"  {typed} check           # is everything there?",
        f"  {typed} run --dry-run   # who would be shared with, and why others not",
        f"  {typed} run             # one pass; or 'serve', for months",
    ]
