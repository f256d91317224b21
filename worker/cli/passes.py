"""The commands that make passes: `run` and `serve`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.app import app
from worker.cli.shell import (
    Json,
    NoMigrate,
    complain,
    finish,
    lines_as_read,
    opened_database,
    quiet_on_a_terminal,
    read_settings,
    stop_on_signals,
)

if TYPE_CHECKING:
    import asyncio

    from sqlalchemy.ext.asyncio import AsyncEngine

    from worker.clock import Clock
    from worker.linq.client import Linq
    from worker.notifications.heartbeat import Heartbeat
    from worker.outcomes import PassResult
    from worker.settings import Settings

DUE_SHOWN = 20
"""How many of the chats that are due a dry run lists for people."""


@app.command(epilog="Example: share-worker run --dry-run")
def run(
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Share with nobody, write nothing; say who is due, and why the others are not."),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, max=10**9, metavar="N", help="Share with at most N chats.")
    ] = None,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless something went wrong.")] = False,
    no_migrate: NoMigrate = False,
) -> None:
    """Make one pass: share with every chat that is due, now.

    Reads the chats from the table 'chats' of DATABASE_URL, and Linq's key from LINQ_API_KEY. Safe to run as often as
    you like, also at the same time: each chat gets at most one share per share day. Ctrl-C or SIGTERM ends it cleanly:
    requests in flight are finished and recorded.

    Exit code 0: everyone who was due was attempted, or N of them with --limit; chats of a line that rests wait. 1: the
    pass was stopped or failed, and says why. 2: wrong usage.
    """
    settings = read_settings(default_level="error" if quiet else quiet_on_a_terminal())
    if dry_run:
        finish(_dry_run(settings, limit=limit, as_json=json))
    finish(_pass(settings, limit=limit, as_json=json, quiet=quiet, migrates=not no_migrate))


@app.command(epilog="Example: SHARE_SCHEDULE='0 10 * * *' SHARE_TIMEZONE=Europe/Berlin share-worker serve")
def serve(
    now: Annotated[bool, typer.Option("--now", help="Make a pass at once, and then keep to the schedule.")] = False,
    no_migrate: NoMigrate = False,
) -> None:
    """Run for months: make a pass at each time of SHARE_SCHEDULE, in SHARE_TIMEZONE.

    The first start waits for the next time. Later, a time that was missed today is made up for at once; a pass that
    was stopped is taken up again, after growing pauses, until the day ends. Any number of processes may serve one
    PostgreSQL: they share the work.

    Answers on HTTP_HOST and HTTP_PORT: a page for people at /, and /livez, /readyz, /metrics; with LINQ_WEBHOOK_SECRET
    also /webhooks/linq. SIGTERM or Ctrl-C ends it after the requests in flight.
    """
    finish(_serve(read_settings(), migrates=not no_migrate, now=now))


async def _pass(settings: "Settings", *, limit: int | None, as_json: bool, quiet: bool, migrates: bool) -> int:
    from worker import assembly
    from worker.clock import SystemClock, unless_stopped
    from worker.errors import DatabaseError
    from worker.notifications.notifier import failed_pass, tell_failure
    from worker.outcomes import RunStatus

    clock = SystemClock()
    stop = stop_on_signals(settings.SHARE_DRAIN_SECONDS)
    linq, heartbeat = assembly.linq(settings, clock), assembly.heartbeat(settings)
    whom = assembly.whom(settings, assembly.receivers(settings))
    try:
        async with opened_database(settings, migrates=migrates) as engine, linq:
            result = await _make_pass(
                settings, engine, linq, heartbeat=heartbeat, clock=clock, stop=stop, limit=limit, quiet=quiet
            )
            try:
                _print_result(settings, result, as_json=as_json, quiet=quiet)
            finally:
                if not stop.is_set():
                    await unless_stopped(stop, assembly.notifier(settings, engine, whom, clock).check())
    except DatabaseError as error:
        if not stop.is_set():
            await unless_stopped(stop, tell_failure(whom, failed_pass(str(error), clock.now())))
        raise
    return 0 if result.status is RunStatus.COMPLETED else 1


async def _make_pass(
    settings: "Settings",
    engine: "AsyncEngine",
    linq: "Linq",
    *,
    heartbeat: "Heartbeat",
    clock: "Clock",
    stop: "asyncio.Event",
    limit: int | None,
    quiet: bool,
) -> "PassResult":
    from worker import assembly
    from worker.cli.output.progress import progress
    from worker.outcomes import Trigger
    from worker.sharing.share_pass import run_pass

    failed = await assembly.sync_before_pass(settings, engine, clock, stop)
    if failed is not None and not stop.is_set():
        complain(f"the chats were not brought up to date: {failed}; the pass goes on with the table as it is")
    with progress(shown=sys.stderr.isatty() and not quiet) as watch:
        making = run_pass(
            engine,
            linq,
            assembly.rules(settings),
            assembly.limits(settings, limit),
            trigger=Trigger.COMMAND,
            clock=clock,
            stop=stop,
            watch=watch,
        )
        return await heartbeat.around(making, stop)


def _print_result(settings: "Settings", result: "PassResult", *, as_json: bool, quiet: bool) -> None:
    from worker import assembly
    from worker.cli.output import passes, printing
    from worker.outcomes import RunStatus, chats_in

    if result.tally is not None and not chats_in(result.tally):
        complain(
            "the table 'chats' is empty, so there is nobody to share with; 'share-worker chats sync' fills it from Linq"
        )
    if as_json:
        printing.print_json(passes.result_document(result))
    elif not (quiet and result.status is RunStatus.COMPLETED):
        passes.print_result(result, assembly.rules(settings))


async def _serve(settings: "Settings", *, migrates: bool, now: bool) -> int:
    from worker.clock import SystemClock
    from worker.service.serve import serve as serve_until

    stop = stop_on_signals(settings.SHARE_DRAIN_SECONDS)
    return await serve_until(settings, clock=SystemClock(), stop=stop, migrates=migrates, now=now)


async def _dry_run(settings: "Settings", *, limit: int | None, as_json: bool) -> int:
    from worker import assembly, db
    from worker.cli.output import passes, printing
    from worker.clock import SystemClock
    from worker.rules.eligibility import Verdict, count_verdicts, due_ids, moment

    clock = SystemClock()
    now, rules = clock.now(), assembly.rules(settings)
    linq = assembly.linq(settings, clock)
    async with assembly.database(settings) as engine, linq:
        known = await lines_as_read(linq)
        async with db.read(engine) as connection:
            counts = await count_verdicts(connection, rules, now, known=known)
            shown = limit if limit is not None or as_json else DUE_SHOWN
            due = list((await connection.execute(due_ids(rules, known).limit(shown), moment(rules, now))).scalars())
    if as_json:
        skipped = {name.value: count for name, count in counts.items() if name is not Verdict.DUE}
        printing.print_json(
            {
                "share_day": rules.share_day(now),
                "due": due,
                "left": counts.get(Verdict.DUE, 0) - len(due),
                "skipped": skipped,
                "chats": sum(counts.values()),
                "open": rules.is_open(now),
            }
        )
    else:
        passes.print_dry_run(counts, due, rules, now, limit=limit)
    return 0
