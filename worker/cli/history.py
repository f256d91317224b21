"""The commands that look back: `explain`, `attempts`, `runs`, `status`. They write nothing and need no key."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.app import app
from worker.cli.shell import (
    Json,
    OfChat,
    OfLine,
    OfRun,
    WithCode,
    WithOutcome,
    chat_ids,
    complain,
    finish,
    line_numbers,
    only_prints,
    read_settings,
    share_day,
)
from worker.errors import UsageError

if TYPE_CHECKING:
    from datetime import date

    from sqlalchemy.ext.asyncio import AsyncEngine

    from worker.ledger.history import AttemptFilter
    from worker.settings import Settings

CHATS_ASKED = 10_000
"""How many chats one command may ask for: they all go into one statement."""


@app.command(epilog="Example: share-worker explain 7d9f2c1e-3b52-4a0e-9c55-0f6a2d8e4b71")
def explain(
    chat_id: Annotated[str, typer.Argument(metavar="CHAT_ID", help="Linq's id of the chat.")],
    json: Json = False,
) -> None:
    """Say all about one chat: what is known, each rule and whether it holds, when it is due next, its last attempts.

    The cards are those that the last pass saw. A chat that left the table is explained from the ledger. Of an id that
    nobody knows it names similar ones, and exits with 2.
    """
    settings = read_settings()
    only_prints()
    finish(_look(settings, lambda engine: _explain(settings, engine, chat_id.strip(), as_json=json)))


@app.command(
    epilog="Example: share-worker attempts --day yesterday --outcome rejected --code 2012 --csv",
)
def attempts(
    *,
    chat: OfChat = None,
    line: OfLine = None,
    day: Annotated[
        str | None, typer.Option(metavar="D", help="Of this share day: today, yesterday, or YYYY-MM-DD.")
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="D", help="Of this share day and later.")] = None,
    until: Annotated[str | None, typer.Option(metavar="D", help="Of this share day and earlier.")] = None,
    outcome: WithOutcome = None,
    code: WithCode = None,
    run: OfRun = None,
    limit: Annotated[int | None, typer.Option(min=1, max=10**9, metavar="N", help="At most N, the newest.")] = None,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a head, times in UTC.")] = False,
) -> None:
    """List attempts from the ledger, newest first. All options given must fit. Streams, however many there are.

    Share days and times are in SHARE_TIMEZONE; in JSON and CSV times are in UTC. In CSV a text that a spreadsheet would
    take for a formula has an apostrophe before it; JSON has it as it is.
    """
    from worker import assembly
    from worker.clock import SystemClock
    from worker.ledger.history import AttemptFilter

    if json and csv:
        msg = "--json and --csv are two forms; give one of them"
        raise UsageError(msg)
    if day is not None and (since is not None or until is not None):
        msg = "--day is one share day, --since and --until are a range; give the one or the other"
        raise UsageError(msg)
    asked = chat_ids(chat or [])
    if len(asked) > CHATS_ASKED:
        msg = f"{len(asked):,} chats are too many for one command; it takes {CHATS_ASKED:,}"
        raise UsageError(msg)
    settings = read_settings()
    today = assembly.rules(settings).share_day(SystemClock().now())
    first, last = _day(day or since, today), _day(day or until, today)
    if first is not None and last is not None and first > last:
        msg = f"--since {first} is after --until {last}"
        raise UsageError(msg)
    wanted = AttemptFilter(
        chat_ids=asked,
        lines=line_numbers(line or []),
        since=first,
        until=last,
        outcomes=outcome or [],
        codes=code or [],
        run_id=run,
    )
    only_prints()
    form = "json" if json else "csv" if csv else "table"
    finish(_look(settings, lambda engine: _attempts(settings, engine, wanted, limit=limit, form=form)))


@app.command(epilog="Example: share-worker runs 20260310T090000Z")
def runs(
    run: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One pass in detail; the beginning of its id is enough.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10**9, metavar="N", help="At most N passes, the newest.")] = 20,
    json: Json = False,
) -> None:
    """List the passes, newest first, or show one of them in detail: its counts, and its attempts by Linq's answer.

    Of an id that nobody knows it names similar ones, and exits with 2.
    """
    settings = read_settings()
    only_prints()
    if run is not None:
        finish(_look(settings, lambda engine: _one_run(settings, engine, run.strip(), as_json=json)))
    finish(_look(settings, lambda engine: _runs(settings, engine, limit, as_json=json)))


@app.command(epilog="Example: share-worker status")
def status(json: Json = False) -> None:
    """Show on one screen how it stands: passes, today, who is due, stale claims, cards, and the last 14 share days.

    Who is due is asked of the cards that the last pass saw; with a million chats that takes some seconds.
    """
    settings = read_settings()
    only_prints()
    finish(_look(settings, lambda engine: _status(settings, engine, as_json=json)))


async def _look(settings: "Settings", work: "Callable[[AsyncEngine], Awaitable[None]]") -> int:
    """Open the database for some work that only reads, if its schema is the one this version needs."""
    from worker import assembly

    async with assembly.database(settings) as engine:
        await work(engine)
    return 0


def _day(word: str | None, today: "date") -> "date | None":
    return None if word is None else share_day(word, today)


async def _explain(settings: "Settings", engine: "AsyncEngine", chat_id: str, *, as_json: bool) -> None:
    from worker import assembly, db
    from worker.cli.output import explain, printing
    from worker.cli.output.tables import terminal_width
    from worker.clock import SystemClock
    from worker.questions.explain import explain as explained_by
    from worker.questions.suggest import similar_chat_ids, there_is_no
    from worker.wording.explain import explanation_document

    rules = assembly.rules(settings)
    async with db.read(engine) as connection:
        explained = await explained_by(connection, rules, assembly.schedule(settings), chat_id, SystemClock().now())
        near = [] if explained else await similar_chat_ids(connection, chat_id)
    if explained is None:
        raise UsageError(there_is_no("chat", chat_id, near))
    if as_json:
        printing.print_json(explanation_document(explained, rules))
    else:
        printing.print_lines(*explain.explanation_lines(explained, rules, width=terminal_width()))


async def _attempts(
    settings: "Settings", engine: "AsyncEngine", wanted: "AttemptFilter", *, limit: int | None, form: str
) -> None:
    from dataclasses import replace

    from worker import db
    from worker.cli.output import attempts
    from worker.ledger import history
    from worker.questions.suggest import the_run

    if wanted.run_id is not None:
        async with db.read(engine) as connection:
            wanted = replace(wanted, run_id=(await the_run(connection, wanted.run_id)).id)
    found = history.attempts(engine, wanted, at_most=limit)
    if form == "json":
        await attempts.print_attempts_json(found)
    elif form == "csv":
        await attempts.print_csv(found)
    elif not await attempts.print_table(found, settings.SHARE_TIMEZONE):
        complain("no attempt matches")


async def _runs(settings: "Settings", engine: "AsyncEngine", limit: int, *, as_json: bool) -> None:
    from dataclasses import asdict

    from worker import db
    from worker.cli.output import printing
    from worker.cli.output.runs import print_runs
    from worker.ledger import history

    async with db.read(engine) as connection:
        found = await history.latest_runs(connection, limit)
    if as_json:
        printing.print_json({"runs": [asdict(run) for run in found]})
    elif not print_runs(found, settings.SHARE_TIMEZONE):
        complain("no pass was made yet")


async def _one_run(settings: "Settings", engine: "AsyncEngine", beginning: str, *, as_json: bool) -> None:
    from worker import db
    from worker.cli.output import printing, runs
    from worker.cli.output.tables import terminal_width
    from worker.ledger import history
    from worker.questions.suggest import the_run
    from worker.wording.passes import run_document

    async with db.read(engine) as connection:
        run = await the_run(connection, beginning)
        answers = await history.count_answers(connection, run.id)
    if as_json:
        printing.print_json(run_document(run, answers))
    else:
        printing.print_lines(*runs.run_lines(run, answers, settings.SHARE_TIMEZONE, width=terminal_width()))


async def _status(settings: "Settings", engine: "AsyncEngine", *, as_json: bool) -> None:
    from worker import __version__, assembly, db
    from worker.cli.output import printing
    from worker.cli.output.status import status_document, status_lines
    from worker.cli.output.tables import terminal_width
    from worker.clock import SystemClock
    from worker.questions.status import read_status

    rules, place = assembly.rules(settings), db.shown(engine.url)
    seen = await read_status(engine, rules, assembly.schedule(settings), SystemClock().now())
    if as_json:
        document = status_document(
            seen,
            version=__version__,
            schema=db.HEAD,
            database=place,
            schedule=settings.SHARE_SCHEDULE,
            timezone=str(rules.timezone),
        )
        printing.print_json(document)
        return
    about = f"share-worker {__version__}, schema {db.HEAD}, {place}"
    lines = status_lines(seen, rules, about=about, schedule=settings.SHARE_SCHEDULE, width=terminal_width())
    printing.print_lines(*lines)
