"""The command `check`: everything that the next pass needs, looked at before it is needed."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.app import app
from worker.cli.shell import Json, finish, read_settings
from worker.errors import UsageError, WorkerError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from worker.account import Card, Line
    from worker.cli.output.check import Finding
    from worker.linq.client import Linq
    from worker.notifications.receivers import Receiver
    from worker.rules.eligibility import Rules
    from worker.settings import Settings

NOTHING_TO_NOTIFY = "NOTIFY_URL is not set, so there is nobody to send a test to; set it to an Apprise URL"


@app.command(epilog="Example: share-worker check")
def check(
    notify: Annotated[
        bool, typer.Option("--notify", help="Send a test message to each URL of NOTIFY_URL as well.")
    ] = False,
    json: Json = False,
) -> None:
    """Look at everything the next pass needs, and say line by line how it stands. Writes nothing, shares with nobody.

    Settings, hours, database and schema, Linq's key, each line and its card, how many chats are due, and whether Linq
    has a few of these. Exit code 1 if something is wrong, or a test message was not accepted.
    """
    finish(_check(read_settings(), notifies=notify, as_json=json))


@dataclass(frozen=True, kw_only=True)
class _Account:
    """Linq's side, if it accepts the key."""

    linq: "Linq"
    cards: "Sequence[Card]"
    lines: "Sequence[Line]"


async def _check(settings: "Settings", *, notifies: bool, as_json: bool) -> int:
    from worker import assembly
    from worker.cli.output import check as output
    from worker.cli.output import printing
    from worker.clock import SystemClock
    from worker.linq.answers import LinqError
    from worker.rules.times import first_pass
    from worker.settings import KEY_MISSING

    clock = SystemClock()
    linq = assembly.linq(settings, clock) if settings.LINQ_API_KEY else None
    receivers = assembly.receivers(settings)
    if notifies and not receivers:
        raise UsageError(NOTHING_TO_NOTIFY)
    findings: list[output.Finding] = []

    def add(*added: output.Finding) -> None:
        findings.extend(added)
        if not as_json:
            printing.print_lines(*map(output.finding_line, added))

    pace = f"{settings.SHARE_MAX_PER_SECOND:g} a second" if settings.SHARE_MAX_PER_SECOND else "no limit a second"
    sound = f"share days in {settings.SHARE_TIMEZONE}, {settings.SHARE_CONCURRENCY} requests in flight, {pace}"
    add(output.Finding(state="ok", about="settings", found=sound))
    rules, now = assembly.rules(settings), clock.now()
    add(*output.hours_findings(rules, first_pass(rules, assembly.schedule(settings), now), now))
    async with contextlib.AsyncExitStack() as opened:
        account = None
        if linq is not None:
            await opened.enter_async_context(linq)
            try:
                account = _Account(linq=linq, cards=await linq.list_cards(), lines=await linq.phone_numbers())
                add(output.key_finding(settings.LINQ_BASE_URL, linq.proxy, None))
            except LinqError as error:
                add(output.key_finding(settings.LINQ_BASE_URL, linq.proxy, error))
        else:
            add(output.Finding(state="FAIL", about="key", found=KEY_MISSING))
        try:
            async with assembly.engine(settings) as engine:
                async for finding in _database_findings(engine, rules, account, now):
                    add(finding)
        except WorkerError as error:
            add(output.Finding(state="FAIL", about="database", found=str(error)))
    if receivers:
        add(*output.receiver_findings(receivers, await _test(receivers) if notifies else None))
    wrong_count = sum(finding.state == "FAIL" for finding in findings)
    if as_json:
        printing.print_json({"ok": not wrong_count, "findings": [asdict(finding) for finding in findings]})
    else:
        printing.print_lines("", f"{wrong_count} of these need attention." if wrong_count else "All is well.")
    return 1 if wrong_count else 0


async def _test(receivers: "Sequence[Receiver]") -> list[str | None]:
    """Send each receiver a test message; None for those that accepted it, else why not."""
    import asyncio

    from worker.notifications.message import TEST
    from worker.notifications.receivers import deliver

    return await asyncio.gather(*(deliver(receiver, TEST) for receiver in receivers))


async def _database_findings(
    engine: "AsyncEngine", rules: "Rules", account: _Account | None, now: datetime
) -> "AsyncIterator[Finding]":
    """What `check` finds in the database; `account` is None if Linq did not list its cards and lines.

    Raises:
        SchemaError: the schema is not the one that this version needs.
    """
    from worker import db
    from worker.chats import facts
    from worker.cli.output import check as output
    from worker.questions import check
    from worker.questions.lines import resting_lines
    from worker.questions.privileges import examine_privileges
    from worker.rules.eligibility import STORED, as_read, count_verdicts

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
    known = STORED  # what the last pass saw
    if account is not None:
        known = as_read({card.phone_number: card.is_active for card in account.cards}, account.lines)
    async with db.read(engine) as connection:
        chats_of = await facts.chats_per_line(connection)
        resting = await resting_lines(connection, rules, now, chats_of, known=known)
        counts = await count_verdicts(connection, rules, now, known=known)
        due = await check.some_due(connection, rules, now, known=known)
        unfilled = await check.unfilled_columns(connection, rules)
    lines, wrong = check.examine_lines(chats_of, account.cards if account else None)
    for finding in (
        *output.line_findings(lines),
        *output.resting_findings(resting, rules.timezone),
        output.due_finding(counts),
        *(await _looked_up(account.linq, due) if account else ()),
        *(output.unfilled_findings(unfilled) if counts else ()),
        *output.number_findings(wrong, schema),
        *output.fault_findings(await check.examine_rows(engine, now), schema),
    ):
        yield finding


async def _looked_up(linq: "Linq", due: dict[str, str]) -> "list[Finding]":
    """Whether Linq has some due chats: a key of another account has none of them."""
    from worker.cli.output import check as output
    from worker.linq.answers import LinqError
    from worker.questions.check import look_up

    try:
        return list(output.looked_up_findings(await look_up(linq, due)))
    except LinqError as error:
        found = f"the due chats could not be looked up at Linq: {error}"
        return [output.Finding(state="FAIL", about="chats", found=found)]
