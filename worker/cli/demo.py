"""The worker at work without a key, and under attack; a simulated Linq counts who is shared with.

Six acts on one share day, in one SQLite file: a sync, a first pass with a part of the chats, a worker that is killed,
an answer that is lost, two workers at once, and a last look for anybody left.
"""

import asyncio
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker import db
from worker.chats import facts
from worker.cli import demo_acts as acts
from worker.cli.demo_workers import Workplace
from worker.cli.output import passes, printing
from worker.cli.output import sync as sync_output
from worker.cli.shell import complain
from worker.clock import unless_stopped
from worker.errors import UsageError, WorkerError
from worker.ledger.attempts import STALE_AFTER
from worker.logs import configure_logging
from worker.outcomes import Outcome, Tally, due_in
from worker.rules.eligibility import Rules, Verdict
from worker.simulator.account import Account
from worker.simulator.chats import Chat
from worker.simulator.population import populate
from worker.simulator.server import serving
from worker.text import chat_count, roughly

CHATS: Final = 400

FIRST_PASS: Final = 100
"""The first pass shares with so many chats, and leaves the others to the next acts."""

FILE_NAME: Final = "share-worker.db"


async def show(folder: Path | None, *, stop: asyncio.Event) -> int:
    """Run the demonstration until `stop` is set; return the exit code.

    If it does not come to its end, it removes its files.

    Raises:
        UsageError: the folder holds a database already.
        WorkerError: the folder cannot be used, the simulator cannot be served, a worker failed, or a chat was shared
            with twice.
    """
    configure_logging(form="auto", level="error")
    account = Account()
    populate(account, chats=CHATS)
    files = _new_files(folder)
    try:
        shown = await unless_stopped(stop, _show_all(account, files.database, stop))
    except BaseException:
        files.remove()
        raise
    if shown is None:
        files.remove()
        complain(f"the demo was stopped; its workers are ended, and {files.removed} is removed")
        return 1
    printing.print_lines("", *_result_lines(account, shown))
    if twice := acts.called_twice(account):
        msg = f"{chat_count(twice)} of the demo got two requests to share; please report this, with {files.database}"
        raise WorkerError(msg)
    printing.print_lines("Nobody was shared with twice.", *_what_next(files, shown.lost_chat))
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Files:
    """What the demonstration leaves behind."""

    database: Path
    made_folder: bool
    """True if the database's folder did not exist before."""

    @property
    def removed(self) -> Path:
        """What `remove` removes, for people."""
        return self.database.parent if self.made_folder else self.database

    def remove(self) -> None:
        """Remove the database, and its folder if that was made for it."""
        with suppress(OSError):
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.database}{suffix}").unlink(missing_ok=True)
            if self.made_folder:
                self.database.parent.rmdir()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """What the acts came to: how many chats were due at first, and what the ledger has of them."""

    due: int
    outcomes: acts.Outcomes
    lost_chat: str


async def _show_all(account: Account, database: Path, stop: asyncio.Event) -> _Shown:
    database_url = f"sqlite:///{database}"
    url = db.parse_url(database_url)
    with _empty_folder(database.parent) as empty, db.one_line_errors(url):
        async with db.opened(url, create=True) as engine, AsyncExitStack() as stack:
            await db.migrate(engine)
            try:
                base_url = await stack.enter_async_context(serving(account))
            except OSError as error:
                msg = f"the simulated Linq {error.strerror}"
                raise WorkerError(msg) from error
            workplace = Workplace(
                database_url=database_url, base_url=base_url, api_key=account.api_key, folder=Path(empty)
            )
            return await _play(acts.Scene(engine=engine, account=account, workplace=workplace, stop=stop))


async def _play(scene: acts.Scene) -> _Shown:
    say = printing.print_lines
    say(
        f"A simulated Linq answers on {scene.workplace.base_url}; nothing leaves this machine.",
        "The worker shares a contact card into its chats, at most once per chat per day. Linq counts each request.",
        "",
        "1. Sync: the chats are read from Linq into an empty table.",
    )
    done, requests, seconds = await acts.sync(scene)
    say(*sync_output.synced_lines(done, requests=requests, seconds=seconds))

    say("", f"2. First pass: share with {FIRST_PASS} of the chats that are due.")
    first = await acts.one_pass(scene, at_most=FIRST_PASS)
    passes.print_result(first, Rules())

    say("", "3. Crash: a worker is killed (kill -9) in the middle of its pass.")
    killed = await acts.kill_one(scene)
    say(
        f"   It had shared with {chat_count(killed[Outcome.SHARED])}, and {killed[Outcome.CLAIMED]:,} more requests"
        " were on their way.",
        "   Nobody can know whether those arrived, so these chats are not tried again today.",
    )

    say("", "4. Lost answer: Linq counts a request, but the connection breaks before it answers.")
    lost, lost_chat = await acts.lose_one(scene)
    say(
        f"   The worker shared with {chat_count(lost[Outcome.SHARED])}. The one without an answer is 'unknown', and not"
        " tried again today."
    )

    say("", "5. Two at once: two workers start on the same table.")
    one, other = await acts.race_two(scene)
    say(f"   One shared with {chat_count(one[Outcome.SHARED])}, the other with {other[Outcome.SHARED]:,} others.")

    say("", "6. Last pass: is anybody left?")
    last = await acts.one_pass(scene)
    last_outcomes = await acts.outcomes_of(scene, last)
    say(f"   {last_outcomes.total() or 'Nobody'}: {_already(last.tally):,} chats had their turn today.")

    outcomes = await acts.outcomes_of(scene, first) + killed + lost + one + other + last_outcomes
    return _Shown(due=due_in(first.tally) if first.tally else 0, outcomes=outcomes, lost_chat=lost_chat)


def _already(tally: Tally | None) -> int:
    return 0 if tally is None else tally["skipped"].get(Verdict.ALREADY_TODAY.value, 0)


def _result_lines(account: Account, shown: _Shown) -> Iterator[str]:
    """Linq's count beside the ledger's."""
    notes = {
        Outcome.CLAIMED: f" (the killed worker's; 'unknown' after {roughly(STALE_AFTER)})",
        Outcome.UNKNOWN: " (the lost answer)",
    }
    counts = (f"{count:,} {outcome.value}{notes.get(outcome, '')}" for outcome, count in shown.outcomes.most_common())
    yield f"{shown.due:,} chats were due. In the ledger: {', '.join(counts)}."
    requests, called = len(account.share_calls), len({call.chat_id for call in account.share_calls})
    yield f"Linq's own count: {requests:,} requests to share, in {called:,} different chats."
    if missed := shown.outcomes.total() - called:
        yield f"The killed worker's last {missed:,} never arrived: a missed day is harmless, a second share is not."


def _empty_folder(parent: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder to start workers in, removed after use.

    Raises:
        WorkerError: it cannot be made.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="workers-", dir=parent)
    except OSError as error:
        msg = f"the folder {parent} cannot be written: {error.strerror}"
        raise WorkerError(msg) from error


def _new_files(folder: Path | None) -> _Files:
    """Where the database will be; its folder is made if there is none.

    Raises:
        UsageError: the folder holds a database already, or its name cannot be part of a SQLite URL.
        WorkerError: the folder cannot be made.
    """
    if folder is not None and "?" in str(folder):
        msg = f"the folder {folder} has a '?' in its name, which a DATABASE_URL cannot hold; name another folder"
        raise UsageError(msg)
    try:
        if folder is None:
            return _Files(database=Path(tempfile.mkdtemp(prefix="share-worker-demo-")) / FILE_NAME, made_folder=True)
        folder = folder.absolute()
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"the folder {folder or 'of the demo'} cannot be made: {error.strerror}"
        raise WorkerError(msg) from error
    file = folder / FILE_NAME
    if file.exists():
        msg = f"{file} exists already; name another folder, or remove it first"
        raise UsageError(msg)
    return _Files(database=file, made_folder=made)


def _what_next(files: _Files, lost_chat: str) -> list[str]:
    typed = shlex.quote(sys.argv[0]) if Path(sys.argv[0]).name == "share-worker" else "share-worker"
    database_url = shlex.quote(f"sqlite:///{files.database}")
    return [
        "",
        f"The ledger is left for you in {files.database}; to look at it:",
        f"  export DATABASE_URL={database_url}",
        f"  {typed} status",
        f"  {typed} attempts",
        f"  {typed} explain {lost_chat}   # the chat whose answer was lost",
        f"  rm -r {shlex.quote(str(files.removed))}   # removes it",
        "",
        "With a real key:",
        "  export LINQ_API_KEY=...",
        "  export DATABASE_URL=sqlite:///share-worker.db   # or postgresql://...",
        f"  {typed} chats sync      # makes the tables, and reads your chats from Linq",
        f"  {typed} check           # is everything there?",
        f"  {typed} run --dry-run   # who would be shared with, and why others not",
        f"  {typed} run             # one pass; or 'serve', for months",
    ]
