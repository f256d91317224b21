"""The command that shares again on the same day: `rerun`."""

import sys
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
    Yes,
    chat_ids,
    confirm,
    done,
    finish,
    line_numbers,
    lines_as_read,
    os_user,
    quiet_on_a_terminal,
    read_settings,
    share_day,
    stop_on_signals,
)
from worker.errors import PartlyDone, UsageError, WorkerError
from worker.text import chat_count

if TYPE_CHECKING:
    from worker.outcomes import RerunRequest
    from worker.settings import Settings
    from worker.sharing.rerun import Plan, Selection

CHOICES_SHOWN = 20
"""How many of the selected chats are shown one by one."""


@app.command(epilog="Example: share-worker rerun --outcome rejected --code 2012 --reason 'card was inactive'")
def rerun(
    *,
    chat: OfChat = None,
    outcome: WithOutcome = None,
    code: WithCode = None,
    line: OfLine = None,
    run: OfRun = None,
    day: Annotated[
        str, typer.Option(metavar="DAY", help="The share day; only the current one can be repeated.")
    ] = "today",
    force: Annotated[
        bool,
        typer.Option("--force", help="Also share again with chats that were shared with today, or perhaps were."),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, max=10**9, metavar="N", help="Share with at most N chats, the first ones.")
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; kept in the ledger.")] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Who asks; kept in the ledger. If not given, the user of this machine."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Share again, today, with chats that were attempted already: the only way to do so.

    First shows with which chats it would share, and why not with the others, and asks. All options given must fit. It
    never shares with a chat in which a share has no effect (SMS, no outbound message, opted out, paused, no active
    card), nor with one that was attempted in the last five minutes. Two reruns at once send one request.

    Exit code 0: all that are allowed were attempted. 1: it was stopped or failed, or none of the chats is allowed. 2:
    wrong usage.
    """
    from worker.cli.output.passes import plan_document
    from worker.cli.output.printing import print_json
    from worker.sharing.rerun import Selection

    if not (chat or outcome or code or line or run):
        msg = "say which attempts to rerun: --chat, --outcome, --code, --line or --run; see share-worker rerun --help"
        raise UsageError(msg)
    selection = Selection(
        chat_ids=chat_ids(chat or []),
        lines=line_numbers(line or []),
        outcomes=outcome or [],
        codes=code or [],
        run_id=run,
    )
    settings = read_settings(default_level=quiet_on_a_terminal())
    _require_today(settings, day)
    plan = done(_plan(settings, selection, force=force, limit=limit, show=dry_run, as_json=json))
    count = len(plan.sequences)
    if not dry_run and not count and json:
        print_json(plan_document(plan))  # a document, whatever becomes of the command
    if dry_run or not plan.counts:
        raise typer.Exit
    if not count:
        msg = "none of these chats may be shared with again"
        raise PartlyDone(msg)
    again = sum(plan.earlier.values())
    warning = f", {again:,} of them shared with today already, or perhaps" if again else ""
    if not confirm(f"Share again with {chat_count(count)}{warning}?", yes=yes):
        msg = "nothing was shared"
        raise WorkerError(msg)
    _require_today(settings, plan.share_day.isoformat())
    finish(_rerun(settings, plan, _request(by, reason), force=force, as_json=json))


def _require_today(settings: "Settings", word: str) -> None:
    """Refuse any share day but the current one.

    Raises:
        UsageError: it is another day; the message says what happens to its chats.
    """
    from worker import assembly
    from worker.clock import SystemClock

    today = assembly.rules(settings).share_day(SystemClock().now())
    day = share_day(word, today)
    if day == today:
        return
    if day > today:
        msg = f"the share day {day} has not begun; today is {today} in {settings.SHARE_TIMEZONE}"
        raise UsageError(msg)
    msg = (
        f"the share day {day} is over, and a share now would count for {today} ({settings.SHARE_TIMEZONE}); "
        f"its chats are due again by themselves: see 'share-worker run --dry-run', then 'share-worker run'"
    )
    raise UsageError(msg)


def _request(by: str | None, reason: str | None) -> "RerunRequest":
    from worker.outcomes import RerunRequest

    return RerunRequest(by=by or os_user(), reason=reason)


async def _plan(
    settings: "Settings", selection: "Selection", *, force: bool, limit: int | None, show: bool, as_json: bool
) -> "Plan":
    """Look at what is selected, by the account's cards as they are now, and show it. Writes nothing.

    Raises:
        UsageError: no pass, or more than one, begins with the selection's `run_id`.
    """
    from dataclasses import replace

    from worker import assembly, db
    from worker.cli.output import passes, printing
    from worker.clock import SystemClock
    from worker.questions.suggest import the_run
    from worker.sharing.rerun import make_plan

    clock = SystemClock()
    now, rules = clock.now(), assembly.rules(settings)
    linq = assembly.linq(settings, clock)
    listed = show and as_json
    async with assembly.database(settings) as engine, linq:
        known = await lines_as_read(linq)
        async with db.read(engine) as connection:
            if selection.run_id is not None:
                selection = replace(selection, run_id=(await the_run(connection, selection.run_id)).id)
            plan = await make_plan(
                connection,
                rules,
                selection,
                now,
                force=force,
                at_most=limit,
                shown=None if listed else CHOICES_SHOWN,
                known=known,
            )
    if listed:
        printing.print_json(passes.plan_document(plan))
    else:
        out = sys.stderr if as_json else sys.stdout
        out.writelines(f"{line}\n" for line in passes.plan_lines(plan, rules))
        out.flush()
    return plan


async def _rerun(settings: "Settings", plan: "Plan", request: "RerunRequest", *, force: bool, as_json: bool) -> int:
    """Make the pass over the plan's chats."""
    from worker import assembly
    from worker.cli.output import passes, printing
    from worker.cli.output.progress import progress
    from worker.clock import SystemClock
    from worker.outcomes import RunStatus, Trigger
    from worker.sharing.rerun import Chosen
    from worker.sharing.share_pass import run_pass

    clock = SystemClock()
    stop = stop_on_signals(settings.SHARE_DRAIN_SECONDS)
    async with assembly.engine(settings) as engine, assembly.linq(settings, clock) as linq:
        with progress(shown=sys.stderr.isatty()) as watch:
            result = await run_pass(
                engine,
                linq,
                assembly.rules(settings),
                assembly.limits(settings),
                trigger=Trigger.RERUN,
                clock=clock,
                stop=stop,
                watch=watch,
                candidates=Chosen(assembly.rules(settings), plan.sequences, force=force, rerun=request),
            )
    if as_json:
        printing.print_json(passes.result_document(result))
    else:
        printing.print_lines("")
        passes.print_result(result, assembly.rules(settings))
    return 0 if result.status is RunStatus.COMPLETED else 1
