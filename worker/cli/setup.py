"""The commands around the passes: `migrate` and `check` before the first one, `simulator` and `demo` to try it all."""

import itertools
from collections.abc import AsyncIterator, Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.app import app
from worker.cli.shell import Json, finish, read_settings, stop_on_signals
from worker.errors import UsageError, WorkerError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from worker.account import Card
    from worker.cli.output.check import Finding
    from worker.rules.eligibility import Rules
    from worker.settings import Settings
    from worker.simulator.account import Account
    from worker.simulator.chats import Chat


@app.command(epilog="Example: DATABASE_URL=postgresql://worker@db/linq share-worker migrate")
def migrate() -> None:
    """Bring the database's tables up to date. Makes the SQLite file if there is none; safe to run twice at once."""
    finish(_migrate(read_settings()))


@app.command(epilog="Example: share-worker check")
def check(json: Json = False) -> None:
    """Look at everything the next pass needs, and say line by line how it stands. Writes nothing, calls nobody.

    Settings, database and schema, Linq's key, each line's card, how many chats are due. Exit code 1 if something is
    wrong.
    """
    finish(_check(read_settings(), as_json=json))


@app.command(epilog="Example: share-worker simulator --port 8090 --chats 1000 --fill")
def simulator(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 takes a free one.")] = 8090,
    chats: Annotated[int, typer.Option(min=0, max=1_000_000, help="How many chats the simulated account has.")] = 1000,
    fill: Annotated[
        bool,
        typer.Option("--fill", help="Also write these chats into the table 'chats' of DATABASE_URL, if it is empty."),
    ] = False,
    latency: Annotated[int, typer.Option(min=0, max=60_000, metavar="MS", help="Milliseconds before each answer.")] = 0,
    activation: Annotated[
        int, typer.Option(min=0, max=3600, metavar="SECONDS", help="How long a card that is created stays inactive.")
    ] = 0,
) -> None:
    """Serve a stand-in for Linq's API on this machine, to try the worker against. Ends with Ctrl-C.

    Follows Linq's rules (cards, opt-outs, one share per chat in five minutes), counts the share calls, and can be told
    to misbehave: see docs/simulator.md. Nothing it does leaves this machine.
    """
    settings = read_settings() if fill else None
    finish(_simulator(settings, port=port, chats=chats, latency=latency, activation=activation))


@app.command(epilog="Example: share-worker demo --folder ./share-worker-demo")
def demo(
    folder: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Where to put the database; a new temporary folder if not given."),
    ] = None,
) -> None:
    """Show the whole worker at work, in seconds: no key, no settings, nothing leaves this machine.

    Starts a simulated Linq, makes a SQLite database with chats of every kind, and makes two passes: the first shares
    with everyone who is due, the second one with nobody.
    """
    finish(_demo(folder))


async def _migrate(settings: "Settings") -> int:
    from worker import assembly, db
    from worker.cli.output import passes

    async with assembly.engine(settings, create=True) as engine:
        changed = await db.migrate(engine)
    state = "is now" if changed else "was already"
    passes.print_lines(f"The schema of {db.shown(assembly.database_url(settings))} {state} at revision {db.HEAD}.")
    return 0


async def _check(settings: "Settings", *, as_json: bool) -> int:
    from dataclasses import asdict

    from worker import assembly
    from worker.cli.output import check as output
    from worker.cli.output import passes
    from worker.clock import SystemClock
    from worker.linq.answers import LinqError
    from worker.settings import KEY_MISSING

    clock = SystemClock()
    linq = assembly.linq(settings, clock) if settings.LINQ_API_KEY else None
    findings: list[output.Finding] = []

    def add(*added: output.Finding) -> None:
        findings.extend(added)
        if not as_json:
            passes.print_lines(*map(output.finding_line, added))

    pace = f"{settings.SHARE_MAX_PER_SECOND:g} a second" if settings.SHARE_MAX_PER_SECOND else "no limit a second"
    sound = f"share days in {settings.SHARE_TIMEZONE}, {settings.SHARE_CONCURRENCY} calls in flight, {pace}"
    add(output.Finding(state="ok", about="settings", found=sound))
    cards = None
    if linq is None:
        add(output.Finding(state="FAIL", about="key", found=KEY_MISSING))
    else:
        try:
            async with linq:
                cards = await linq.list_cards()
            add(output.key_finding(settings.LINQ_BASE_URL, linq.proxy, None))
        except LinqError as error:
            add(output.key_finding(settings.LINQ_BASE_URL, linq.proxy, error))
    try:
        async with assembly.engine(settings) as engine:
            async for finding in _database_findings(engine, assembly.rules(settings), cards, clock.now()):
                add(finding)
    except WorkerError as error:
        add(output.Finding(state="FAIL", about="database", found=str(error)))
    wrong_count = sum(finding.state == "FAIL" for finding in findings)
    if as_json:
        passes.print_json({"ok": not wrong_count, "findings": [asdict(finding) for finding in findings]})
    else:
        passes.print_lines("", f"{wrong_count} of these need attention." if wrong_count else "All is well.")
    return 1 if wrong_count else 0


async def _database_findings(
    engine: "AsyncEngine", rules: "Rules", cards: "Collection[Card] | None", now: datetime
) -> "AsyncIterator[Finding]":
    """What `check` finds in the database; `cards` are the account's, None if Linq did not list them.

    Raises:
        SchemaError: the schema is not the one that this version needs.
    """
    from worker import db
    from worker.cli.output import check as output
    from worker.questions import check
    from worker.questions.privileges import examine_privileges

    privileges = await examine_privileges(engine)
    may_look = privileges is None or privileges.may_look
    if may_look:
        await db.prepare(engine, migrates=False)
        found = f"{db.shown(engine.url)}, schema at revision {db.HEAD}"
        yield output.Finding(state="ok", about="database", found=found)
    if privileges is not None:
        for finding in output.privilege_findings(privileges):
            yield finding
    if not may_look:
        return
    schema = db.schema_of(engine.sync_engine)
    faults = await check.examine_table(engine)
    for finding in output.fault_findings(faults, schema):
        yield finding
    if any(fault.kind is check.FaultKind.MISSING_COLUMNS for fault in faults):
        return
    lines, wrong = await check.examine_lines(engine, cards)
    for finding in output.line_findings(lines):
        yield finding
    yield output.due_finding(await check.count_due(engine, rules, cards, now))
    for finding in (
        *output.number_findings(wrong, schema),
        *output.fault_findings(await check.examine_rows(engine, now), schema),
    ):
        yield finding


async def _demo(folder: Path | None) -> int:
    from worker.cli.demo import show

    return await show(folder, stop=stop_on_signals())


def _some(account: "Account") -> "Iterator[Chat]":
    """A few chats of a simulated account, to know it by: the same number of chats makes the same ones."""
    return itertools.islice(account.chats.values(), 3)


async def _simulator(settings: "Settings | None", *, port: int, chats: int, latency: int, activation: int) -> int:
    from worker import assembly, db
    from worker.chats.facts import add_chats, count_chats, has_chat
    from worker.cli.demo import known_chats
    from worker.cli.output import passes
    from worker.simulator.account import Account
    from worker.simulator.faults import Fault
    from worker.simulator.population import populate
    from worker.simulator.server import serving

    stop = stop_on_signals()
    account = Account(activation_delay=activation)
    populate(account, chats=chats)
    if latency:
        account.add_fault(Fault(path="*", delay_seconds=latency / 1000))
    if settings is not None:
        async with assembly.engine(settings, create=True) as engine:
            await db.migrate(engine)
            async with db.write(engine) as connection:
                present = await count_chats(connection)
                ours = [await has_chat(connection, chat.id) for chat in _some(account)]
                if present and not (present == chats and all(ours)):
                    msg = f"{db.shown(engine.url)} has {present:,} other chats; --fill is for an empty table"
                    raise UsageError(msg)
                await add_chats(connection, known_chats(account))
        passes.print_lines(f"The table 'chats' of {db.shown(engine.url)} holds these {chats:,} chats.")
    try:
        async with serving(account, port=port) as base_url:
            passes.print_lines(
                f"A simulated Linq with {chats:,} chats answers on {base_url}. Try the worker against it:",
                f"  export LINQ_BASE_URL={base_url} LINQ_API_KEY={account.api_key}",
                "  share-worker check",
                f"What it was asked to share: curl {base_url}/_simulator/shares. Ctrl-C ends it.",
            )
            await stop.wait()
    except OSError as error:
        msg = f"the simulator {error.strerror}"
        raise WorkerError(msg) from error
    calls = len(account.share_calls)
    passes.print_lines(
        f"It was called {calls:,} times to share; for {len(account.repeated_calls()):,} chats twice in a day."
    )
    return 0
