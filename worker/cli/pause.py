"""The commands that stop and resume sharing in chats: `pause` and `resume`."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.app import app
from worker.cli.shell import (
    Json,
    Yes,
    chat_ids,
    confirm,
    done,
    finish,
    line_numbers,
    os_user,
    quiet_on_a_terminal,
    read_settings,
    stop_on_signals,
)
from worker.errors import PartlyDone, UsageError, WorkerError

if TYPE_CHECKING:
    from worker.chats.pause import PauseResult, PauseState
    from worker.settings import Settings

ChatIds = Annotated[
    list[str] | None, typer.Argument(metavar="CHAT_ID", help="The chats; '-' reads ids from stdin, one a line.")
]
AllOfLine = Annotated[
    str | None, typer.Option("--line", metavar="+NUMBER", help="All chats that this line has now, in place of ids.")
]


@app.command(epilog="Example: share-worker pause 0c6e2a2e-8f4b-4c1e-9f0a-2f6b7d1f3a55 --reason 'asked us to stop'")
def pause(
    ids: ChatIds = None,
    line: AllOfLine = None,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why; kept with the chat until it is resumed.")
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Stop sharing in chats, from now on, until they are resumed.

    In force at once, also for a pass that is running: only calls that have begun are finished. A chat that is paused
    already keeps its time, and its reason too unless --reason gives another one. With --line it asks first, and holds
    for the chats that the line has now, not for later ones.

    Exit code 0: done. 1: some ids are unknown; the others are done. 2: wrong usage.
    """
    _change("pause", ids or [], line, reason=(reason or "").strip() or None, yes=yes, as_json=json)


@app.command(epilog="Example: share-worker resume --line +15550100001 --yes")
def resume(
    ids: ChatIds = None,
    line: AllOfLine = None,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why; for the log, for the chat keeps none.")
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Share again in chats that were paused, whenever they are due.

    Says since when and why each was paused. With --line it asks first. A chat that was called today is not called again
    for it.

    Exit code 0: done. 1: some ids are unknown; the others are done. 2: wrong usage.
    """
    _change("resume", ids or [], line, reason=(reason or "").strip() or None, yes=yes, as_json=json)


def _change(verb: str, words: list[str], line: str | None, *, reason: str | None, yes: bool, as_json: bool) -> None:
    if bool(words) == bool(line):
        msg = f"say which chats to {verb}: their ids, - for ids on stdin, or --line +NUMBER; one of these"
        raise UsageError(msg)
    settings = read_settings(default_level=quiet_on_a_terminal())
    ids = chat_ids(words)
    if line is not None:
        line = done(_ask(settings, verb, line, yes=yes))
    finish(_work(settings, verb, ids, line, reason=reason, as_json=as_json))


async def _ask(settings: "Settings", verb: str, line: str, *, yes: bool) -> str:
    """The line in E.164, once a person has agreed to its number of chats."""
    from worker import assembly, db
    from worker.chats.pause import count_line

    (line,) = line_numbers([line])
    async with assembly.database(settings) as engine, db.read(engine) as connection:
        counts = await count_line(connection, line)
    if not counts.chats:
        msg = f"the table 'chats' has no chat of the line {line}; 'share-worker cards list' shows those that have some"
        raise WorkerError(msg)
    question = f"{verb.capitalize()} the {counts.chats:,} chats of {line} ({counts.paused:,} of them paused now)?"
    if not confirm(question, yes=yes, has_dry_run=False):
        msg = "nothing was changed"
        raise WorkerError(msg)
    return line


async def _work(
    settings: "Settings", verb: str, ids: list[str], line: str | None, *, reason: str | None, as_json: bool
) -> int:
    from functools import partial

    import structlog
    from sqlalchemy.exc import SQLAlchemyError

    from worker import assembly, db
    from worker.chats import pause
    from worker.clock import SystemClock

    now = SystemClock().now()
    change = partial(pause.pause, reason=reason, now=now) if verb == "pause" else partial(pause.resume, now=now)
    told: list[PauseResult] = []
    counts: Counter[pause.PauseState] = Counter()
    broken: SQLAlchemyError | None = None
    complete = False
    stop = stop_on_signals()
    async with assembly.database(settings) as engine:
        batches = pause.change_ids(engine, ids, change) if line is None else pause.change_line(engine, line, change)
        try:
            async for batch in batches:
                counts.update(one.state for one in batch)
                told += batch if line is None else []
                if stop.is_set():
                    break
            else:
                complete = True
        except SQLAlchemyError as error:
            broken = error
    event = "chats.paused" if verb == "pause" else "chats.resumed"
    told_of = {"line": line, "reason": reason, "by": os_user()} | {state.value: n for state, n in counts.items()}
    structlog.get_logger(__name__).info(event, **{name: value for name, value in told_of.items() if value is not None})
    _print(settings, told, counts, line=line, as_json=as_json)
    if broken is not None:
        msg = f"{db.describe(broken, engine.url)}; {sum(counts.values()):,} chats are done, the others are not"
        raise PartlyDone(msg) from broken
    if not complete:
        msg = f"it was told to stop; {sum(counts.values()):,} chats are done, the others are not"
        raise PartlyDone(msg)
    if unknown := counts[pause.PauseState.UNKNOWN]:
        others = "; the others are done" if unknown < len(ids) else ""
        msg = f"{unknown:,} of {len(ids):,} ids {'is' if unknown == 1 else 'are'} unknown{others}"
        raise PartlyDone(msg)
    return 0


def _print(
    settings: "Settings", told: list["PauseResult"], counts: "Counter[PauseState]", *, line: str | None, as_json: bool
) -> None:
    from worker.chats.pause import PauseState
    from worker.cli.output import printing
    from worker.cli.output.tables import print_columns
    from worker.text import exact, one_line

    found = {state: counts[state] for state in PauseState if counts[state]}
    if as_json:
        document: dict[str, object] = {state.value: count for state, count in found.items()}
        document |= {"chats": [asdict(one) for one in told]} if line is None else {"line": line}
        printing.print_json(document)
        return
    zone = settings.SHARE_TIMEZONE
    print_columns(
        ("chat", "now", "since", "reason"),
        (
            (
                one.chat_id,
                one.state.value,
                exact(one.since, zone) if one.since else "",
                one_line(one.reason or ""),
            )
            for one in told
        ),
    )
    rows = [(state.value, count, state.meaning) for state, count in found.items()]
    total = ("ids" if line is None else "chats", sum(found.values()), "")
    printing.print_lines(*([""] if told else []), *printing.count_lines([*rows, total]))
