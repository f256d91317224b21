"""The command that removes old history: `prune`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.app import app
from worker.cli.shell import Json, Yes, confirm, done, finish, read_settings, stop_on_signals
from worker.errors import PartlyDone, UsageError, WorkerError

if TYPE_CHECKING:
    from worker.ledger.prune import PrunePlan, Removed
    from worker.settings import Settings


@app.command(epilog="Example: share-worker prune --before 2026-01-01 --dry-run")
def prune(
    before: Annotated[str, typer.Option(metavar="DATE", help="Remove what is of share days before this one.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Remove old attempts and runs, and never what the rules still need: no verdict changes by it.

    Says first what it would remove, what it keeps and why, and asks. Always kept: today, what SHARE_EVERY_DAYS and
    SHARE_MIN_HOURS look at, and with SHARE_MAX_PER_CHAT every attempt that counts toward it. Run it with the settings
    of the service. A rule that is made stricter later finds only what was left.

    Works in short transactions beside a running pass. Ctrl-C ends it between two of them; run it again for the rest.

    Exit code 0: all of it is gone. 1: it was ended, or failed, and says how far it came. 2: wrong usage.
    """
    settings = read_settings(default_level="warning")
    day = _allowed(settings, before)
    plan = done(_plan(settings, day))
    nothing = not (plan.attempts or plan.runs)
    if dry_run or not json:
        _print_plan(settings, plan, as_json=json)
    if dry_run:
        raise typer.Exit
    if nothing and not json:
        sys.stdout.write("Nothing to remove.\n")
        raise typer.Exit
    if not nothing and not confirm(f"Remove {_amount(plan)}?", yes=yes):
        msg = "nothing was removed"
        raise WorkerError(msg)
    finish(_remove(settings, plan, as_json=json))


def _allowed(settings: "Settings", word: str) -> date:
    """The share day that is meant, if the rules can do without what is before it.

    Raises:
        UsageError: they cannot, or it is no date.
    """
    from worker import assembly
    from worker.clock import SystemClock
    from worker.ledger.prune import latest_allowed

    try:
        day = date.fromisoformat(word)
    except ValueError:
        msg = f"--before is {word!r}, but may be a date such as 2026-01-31"
        raise UsageError(msg) from None
    latest = latest_allowed(assembly.rules(settings), SystemClock().now())
    if day > latest:
        msg = f"--before is {day}, but may be {latest} at the latest; {_rules(settings)} need what is later"
        raise UsageError(msg)
    return day


def _amount(of: "PrunePlan | Removed") -> str:
    attempts = f"{of.attempts:,} {'attempt' if of.attempts == 1 else 'attempts'}"
    return f"{attempts} and {of.runs:,} {'run' if of.runs == 1 else 'runs'}"


def _rules(settings: "Settings") -> str:
    return f"SHARE_EVERY_DAYS={settings.SHARE_EVERY_DAYS}, SHARE_MIN_HOURS={settings.SHARE_MIN_HOURS:g}"


async def _plan(settings: "Settings", before: date) -> "PrunePlan":
    from worker import assembly, db
    from worker.ledger.prune import make_plan

    async with assembly.database(settings) as engine, db.read(engine) as connection:
        return await make_plan(connection, assembly.rules(settings), before)


def _print_plan(settings: "Settings", plan: "PrunePlan", *, as_json: bool) -> None:
    from worker.cli.output import printing

    if as_json:
        printing.print_json(asdict(plan))
        return
    rules = f"{_rules(settings)}, SHARE_MAX_PER_CHAT={settings.SHARE_MAX_PER_CHAT}"
    oldest = f"the oldest of {plan.oldest}" if plan.oldest else "none is so old"
    rows = [
        ("attempts", plan.attempts, f"can go; {oldest}"),
        ("runs", plan.runs, "can go"),
        *((f"{one.what} kept", one.count, one.why) for one in plan.kept),
    ]
    printing.print_lines(
        f"Before share day {plan.before}, by {rules} (the service must have the same):", *printing.count_lines(rows)
    )


async def _remove(settings: "Settings", plan: "PrunePlan", *, as_json: bool) -> int:
    from sqlalchemy.exc import SQLAlchemyError

    from worker import assembly, db
    from worker.cli.output import printing
    from worker.clock import SystemClock
    from worker.ledger.prune import Removed, remove

    stop = stop_on_signals()
    gone = Removed()
    broken: SQLAlchemyError | None = None

    def watch(removed: Removed) -> None:
        nonlocal gone
        gone = removed
        show(removed)

    async with assembly.engine(settings) as engine:
        with _progress(plan, shown=sys.stderr.isatty()) as show:
            try:
                gone = await remove(
                    engine, assembly.rules(settings), plan.before, clock=SystemClock(), stop=stop, watch=watch
                )
            except SQLAlchemyError as error:
                broken = error
    if as_json:
        printing.print_json({"before": plan.before, **asdict(gone), "kept": [asdict(one) for one in plan.kept]})
    else:
        printing.print_lines(f"Removed {_amount(gone)}.")
    if broken is not None:
        raise PartlyDone(f"{db.describe(broken, engine.url)}; run it again for the rest") from broken
    if not gone.complete:
        msg = "it was told to stop before all was gone; run it again for the rest"
        raise PartlyDone(msg)
    return 0


@contextmanager
def _progress(plan: "PrunePlan", *, shown: bool) -> Iterator[Callable[["Removed"], None]]:
    """A bar on stderr while the block lasts, where a person watches."""
    if not shown:
        yield lambda _removed: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("removing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as display:
        task = display.add_task("removing", total=plan.attempts + plan.runs)
        yield lambda removed: display.update(task, completed=removed.attempts + removed.runs)
