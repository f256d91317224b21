"""The command line: parse, assemble, call one function, print, choose the exit code.

Each command imports what it needs when it runs, so that `--help` and `--version` answer at once. Results go to stdout,
logs and progress to stderr. Exit codes: 0 done, 1 not completed, 2 a wrong command line or setting.
"""

import asyncio
import itertools
import signal
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from worker import __version__
from worker.errors import UsageError, WorkerError

if TYPE_CHECKING:
    from worker.settings import Settings
    from worker.simulator.account import Account
    from worker.simulator.chats import Chat

DUE_SHOWN = 20
"""How many of the chats that would be called a dry run lists for people."""

app = typer.Typer(
    name="share-worker",
    help="Shares Linq contact cards into iMessage chats: at most once per chat per day, with a ledger.",
    epilog="Start with 'share-worker demo': it needs no key and no settings. Settings: the environment, or .env.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
NoMigrate = Annotated[
    bool, typer.Option("--no-migrate", help="Do not bring the schema up to date first; fail if it is not.")
]


def main() -> None:
    """Run the command line; what ends a command early becomes one line and an exit code."""
    try:
        app()
    except WorkerError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"share-worker: {line}\n")
        sys.exit(error.exit_code)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"share-worker {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: share-worker run --dry-run")
def run(
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Call nobody and write nothing; say who would be called, and why others not."),
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Call at most N chats.")] = None,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless something went wrong.")] = False,
    no_migrate: NoMigrate = False,
) -> None:
    """Make one pass: share with every chat that is due, now.

    Reads the chats from the table 'chats' of DATABASE_URL, and Linq's key from LINQ_API_KEY. Safe to run as often as
    you like, also at the same time: a chat is called at most once per share day. Ctrl-C or SIGTERM ends it cleanly:
    calls in flight are finished and recorded.

    Exit code 0: everyone who was due was attempted. 1: the pass was stopped or failed, and says why. 2: wrong usage.
    """
    settings = _settings(calm=quiet or sys.stderr.isatty())
    if dry_run:
        _run(_dry_run(settings, limit=limit, as_json=json))
    _run(_pass(settings, limit=limit, as_json=json, quiet=quiet, migrates=not no_migrate))


@app.command(epilog="Example: SHARE_SCHEDULE='0 10 * * *' SHARE_TIMEZONE=Europe/Berlin share-worker serve")
def serve(no_migrate: NoMigrate = False) -> None:
    """Run for months: make a pass at each time of SHARE_SCHEDULE, in SHARE_TIMEZONE.

    A time that was missed today is made up for at once; a pass that was stopped is taken up again, after growing
    pauses, until the day ends. Any number of processes may serve one PostgreSQL: they share the work.

    Answers on HTTP_HOST and HTTP_PORT: /livez, /readyz, /metrics. SIGTERM or Ctrl-C ends it after the calls in flight.
    """
    _run(_serve(_settings(), migrates=not no_migrate))


@app.command(epilog="Example: DATABASE_URL=postgresql://worker@db/linq share-worker migrate")
def migrate() -> None:
    """Bring the database's tables up to date. Makes the SQLite file if there is none; safe to run twice at once."""
    _run(_migrate(_settings()))


@app.command(epilog="Example: share-worker check")
def check(json: Json = False) -> None:
    """Look at everything the next pass needs, and say line by line how it stands. Writes nothing, calls nobody.

    Settings, database and schema, Linq's key, each line's card, how many chats are due. Exit code 1 if something is
    wrong.
    """
    _run(_check(_settings(), as_json=json))


@app.command(epilog="Example: share-worker simulator --port 8090 --chats 1000 --fill")
def simulator(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 takes a free one.")] = 8090,
    chats: Annotated[int, typer.Option(min=0, max=1_000_000, help="How many chats the simulated account has.")] = 1000,
    fill: Annotated[
        bool,
        typer.Option("--fill", help="Also write these chats into the table 'chats' of DATABASE_URL, if it is empty."),
    ] = False,
    latency: Annotated[int, typer.Option(min=0, max=60_000, metavar="MS", help="Milliseconds before each answer.")] = 0,
) -> None:
    """Serve a stand-in for Linq's API on this machine, to try the worker against. Ends with Ctrl-C.

    Follows Linq's rules (cards, opt-outs, one share per chat in five minutes), counts the share calls, and can be told
    to misbehave: see docs/simulator.md. Nothing it does leaves this machine.
    """
    _run(_simulator(_settings() if fill else None, port=port, chats=chats, latency=latency))


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
    _run(_demo(folder))


def _settings(*, calm: bool = False) -> "Settings":
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


def _run(work: Coroutine[None, None, int]) -> NoReturn:
    """Run a command's work to its end, and exit with its code."""
    raise typer.Exit(asyncio.run(work))


def _stop_on_signals() -> asyncio.Event:
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


async def _pass(settings: "Settings", *, limit: int | None, as_json: bool, quiet: bool, migrates: bool) -> int:
    from worker import database, report
    from worker.clock import SystemClock
    from worker.ledger import RunStatus, Trigger
    from worker.share_pass import run_pass

    clock = SystemClock()
    stop = _stop_on_signals()
    url = settings.database
    linq = settings.linq(clock)
    with database.one_line_errors(url):
        async with database.opened(url, create=migrates) as engine, linq:
            if migrates:
                await database.migrate(engine)
            else:
                await database.require_current_schema(engine)
            with report.progress(shown=sys.stderr.isatty() and not quiet) as watch:
                making = run_pass(
                    engine,
                    linq,
                    settings.rules,
                    settings.limits(limit),
                    trigger=Trigger.COMMAND,
                    clock=clock,
                    stop=stop,
                    watch=watch,
                )
                result = await settings.heartbeat().around(making, stop)
    completed = result.status is RunStatus.COMPLETED
    if as_json:
        report.print_json(report.result_document(result))
    elif not (quiet and completed):
        report.print_result(result, settings.rules)
    return 0 if completed else 1


async def _serve(settings: "Settings", *, migrates: bool) -> int:
    from worker import database
    from worker.clock import SystemClock
    from worker.serve import serve as serve_until

    url = settings.database
    with database.one_line_errors(url):
        return await serve_until(settings, clock=SystemClock(), stop=_stop_on_signals(), migrates=migrates)


async def _dry_run(settings: "Settings", *, limit: int | None, as_json: bool) -> int:
    from worker import database, report
    from worker.clock import SystemClock
    from worker.eligibility import as_cards, count_verdicts, due_ids
    from worker.linq_answers import LinqError

    clock = SystemClock()
    now, rules = clock.now(), settings.rules
    url = settings.database
    linq = settings.linq(clock)
    with database.one_line_errors(url):
        async with database.opened(url) as engine, linq:
            await database.require_current_schema(engine)
            try:
                cards = as_cards({card.phone_number: card.is_active for card in await linq.list_cards()})
            except LinqError as error:
                msg = f"the contact cards could not be read: {error}"
                raise WorkerError(msg) from error
            async with database.read(engine) as connection:
                counts = await count_verdicts(connection, rules, now, cards=cards)
                shown = limit if limit is not None or as_json else DUE_SHOWN
                due = list((await connection.execute(due_ids(rules, now, cards=cards).limit(shown))).scalars())
    if as_json:
        skipped = {name.value: count for name, count in counts.items() if name.value != "due"}
        report.print_json(
            {"share_day": rules.share_day(now), "due": due, "skipped": skipped, "chats": sum(counts.values())}
        )
    else:
        report.print_dry_run(counts, due, rules, now)
    return 0


async def _migrate(settings: "Settings") -> int:
    from worker import database, report

    url = settings.database
    with database.one_line_errors(url):
        async with database.opened(url, create=True) as engine:
            changed = await database.migrate(engine)
    state = "is now" if changed else "was already"
    report.print_lines(f"The schema of {database.shown(url)} {state} at revision {database.HEAD}.")
    return 0


async def _check(settings: "Settings", *, as_json: bool) -> int:
    from dataclasses import asdict

    from worker import database, doctor, report
    from worker.clock import SystemClock
    from worker.settings import KEY_MISSING

    clock = SystemClock()
    findings = []

    def found(finding: doctor.Finding) -> None:
        findings.append(finding)
        if not as_json:
            report.print_lines(f"{finding.state:<4}  {finding.about:<8}  {finding.found}")

    pace = f"{settings.SHARE_MAX_PER_SECOND:g} a second" if settings.SHARE_MAX_PER_SECOND else "no limit a second"
    sound = f"share days in {settings.SHARE_TIMEZONE}, {settings.SHARE_CONCURRENCY} calls in flight, {pace}"
    found(doctor.Finding(state="ok", about="settings", found=sound))
    cards = None
    if settings.LINQ_API_KEY is None:
        found(doctor.Finding(state="FAIL", about="key", found=KEY_MISSING))
    else:
        async with settings.linq(clock) as linq:
            finding, cards = await doctor.examine_account(linq, settings.LINQ_BASE_URL)
        found(finding)
    url = settings.database
    try:
        with database.one_line_errors(url):
            async with database.opened(url) as engine:
                reachable = await doctor.examine_database(engine)
                found(reachable)
                if reachable.state == "ok":
                    if cards is not None:
                        async for finding in doctor.examine_cards(engine, cards):
                            found(finding)
                    found(await doctor.examine_chats(engine, settings.rules, cards, clock))
    except WorkerError as error:
        found(doctor.Finding(state="FAIL", about="database", found=str(error)))
    wrong = sum(finding.state == "FAIL" for finding in findings)
    if as_json:
        report.print_json({"ok": not wrong, "findings": [asdict(finding) for finding in findings]})
    else:
        report.print_lines("", f"{wrong} of these need attention." if wrong else "All is well.")
    return 1 if wrong else 0


async def _demo(folder: Path | None) -> int:
    from worker.demo import show

    return await show(folder, stop=_stop_on_signals())


def _some(account: "Account") -> "Iterator[Chat]":
    """A few chats of a simulated account, to know it by: the same number of chats makes the same ones."""
    return itertools.islice(account.chats.values(), 3)


async def _simulator(settings: "Settings | None", *, port: int, chats: int, latency: int) -> int:
    from worker import database, report
    from worker.chats import add_chats, count_chats, has_chat
    from worker.demo import known_chats
    from worker.simulator.account import Account
    from worker.simulator.faults import Fault
    from worker.simulator.population import populate
    from worker.simulator.server import serving

    stop = _stop_on_signals()
    account = Account()
    populate(account, chats=chats)
    if latency:
        account.add_fault(Fault(path="*", delay_seconds=latency / 1000))
    if settings is not None:
        url = settings.database
        with database.one_line_errors(url):
            async with database.opened(url, create=True) as engine:
                await database.migrate(engine)
                async with database.write(engine) as connection:
                    present = await count_chats(connection)
                    ours = [await has_chat(connection, chat.id) for chat in _some(account)]
                    if present and not (present == chats and all(ours)):
                        msg = f"{database.shown(url)} has {present:,} other chats; --fill is for an empty table"
                        raise UsageError(msg)
                    await add_chats(connection, known_chats(account))
        report.print_lines(f"The table 'chats' of {database.shown(url)} holds these {chats:,} chats.")
    try:
        async with serving(account, port=port) as base_url:
            report.print_lines(
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
    report.print_lines(
        f"It was called {calls:,} times to share; for {len(account.repeated_calls()):,} chats twice in a day."
    )
    return 0
