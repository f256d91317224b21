"""What needs somebody's attention now: judged from the database alone, for notifications and for the page.

A trouble stays until it is well, and well is what the worker saw, not what time passed: a pass was completed, Linq
accepted the line again, the card is active, an event came.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from worker.chats import facts
from worker.chats.sources import Source, read_sources
from worker.ledger import history, runs
from worker.ledger.history import Run
from worker.outcomes import KEY_REFUSED, RunStatus, Tally, is_trouble
from worker.questions.lines import line_cards, resting_lines
from worker.questions.status import STARTS_WITHIN
from worker.rules.eligibility import LINE_REST, Rules
from worker.rules.schedule import Schedule
from worker.rules.times import first_pass

SILENT_AFTER: Final = timedelta(hours=24)
"""Webhooks are silent when no event came for this long, and one came before."""

PASSES_LOOKED_AT: Final = 50
"""Passes among which the first one in trouble is looked for."""

DAYS_LOOKED_BACK: Final = 31
"""Days among which the last scheduled time is looked for."""

MOST_LINES: Final = 100
"""Lines that are judged, those with the most chats first: a table of typing errors has thousands of 'lines'."""


class TroubleKind(StrEnum):
    """What can be in trouble."""

    PASS = "pass"  # noqa: S105 -- a pass of the worker
    KEY = "key"
    MISSED = "missed"
    LINE = "line"
    CARD = "card"
    WEBHOOKS = "webhooks"


ABOUT_PASSES: Final = (TroubleKind.PASS, TroubleKind.KEY, TroubleKind.MISSED)
"""The troubles that keep all chats from their shares."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """Something that needs attention."""

    kind: TroubleKind
    line: str | None = None
    """The phone number that a LINE or CARD is about, as the table has it."""
    since: datetime | None
    """Since when, as far as is known."""
    reason: str
    """What happened, in one line; it may quote Linq, or the database."""
    look: str
    """The command that tells more."""
    chats: int | None = None
    """The chats that are affected: those that the pass left, or those of the line."""
    tally: Tally | None = None
    """What the last pass did, if the trouble is about passes."""
    next_try: datetime | None = None
    """When the worker tries again by itself; None: that is not known here."""

    @property
    def cause(self) -> str:
        """Identifies it: `pass`, `line:+14155550100`. Two troubles at once have different ones."""
        return self.kind.value if self.line is None else f"{self.kind.value}:{self.line}"


async def read_troubles(
    connection: AsyncConnection,
    rules: Rules,
    schedule: Schedule | None,
    now: datetime,
    *,
    has_webhooks: bool,
) -> list[Trouble]:
    """What is in trouble at a moment, the passes first.

    Args:
        connection: of the database.
        rules: who is due, and the hours.
        schedule: whose times can be missed; None where passes are started from outside.
        now: the moment.
        has_webhooks: whether LINQ_WEBHOOK_SECRET is set, so that events are expected.
    """
    following = first_pass(rules, schedule, now) if schedule else None
    troubles = _of_passes(await history.passes_ended(connection, PASSES_LOOKED_AT), following)
    if schedule is not None:
        fire = _last_time(rules, schedule, now - STARTS_WITHIN)
        day = rules.share_day(fire) if fire else None
        if fire and day and await runs.was_missed(connection, day, fire, is_over=day < rules.share_day(now)):
            troubles.append(missed_time(fire, following))
    troubles += await _of_lines(connection, rules, now)
    if has_webhooks:
        heard_at = (await read_sources(connection))[Source.WEBHOOKS].heard_at
        if heard_at is not None and now - heard_at > SILENT_AFTER:
            troubles.append(_silent(heard_at))
    return troubles


def is_well(cause: str, troubles: Iterable[Trouble], *, has_schedule: bool, has_webhooks: bool) -> bool:
    """Whether a cause is in trouble no more; False too where `read_troubles`, asked like this, cannot know.

    While the key is refused, nothing is known of passes but that; a missed time is made up for by a completed pass.
    """
    unwell_or_unknown = {trouble.cause for trouble in troubles}
    if TroubleKind.KEY in unwell_or_unknown:
        unwell_or_unknown.add(TroubleKind.PASS)
    if TroubleKind.PASS in unwell_or_unknown:
        unwell_or_unknown.add(TroubleKind.MISSED)
    if not has_schedule:
        unwell_or_unknown.add(TroubleKind.MISSED)
    if not has_webhooks:
        unwell_or_unknown.add(TroubleKind.WEBHOOKS)
    return cause not in unwell_or_unknown


def _of_passes(ended: list[Run], following: datetime | None) -> list[Trouble]:
    """What ended badly and was not followed by a completed pass: the last pass, or the key. `ended`: the newest first.

    The first one since then tells since when; the last one why. A refused key is one trouble, not two; it is accepted
    again once a later pass has read the cards.
    """
    in_order = sorted(ended, key=lambda run: (_end(run), run.started_at, run.status == RunStatus.COMPLETED))
    completed = max((number for number, run in enumerate(in_order) if run.status == RunStatus.COMPLETED), default=-1)
    since = in_order[completed + 1 :]
    bad = [run for run in since if is_trouble(run.status, run.detail)]
    of_key = [run for run in bad if KEY_REFUSED in (run.detail or "")]
    others = [run for run in bad if run not in of_key]
    troubles = []
    if of_key and not any(run.tally for run in since[since.index(of_key[-1]) + 1 :]):
        troubles.append(_ended_badly(TroubleKind.KEY, of_key, following))
    if others and others[-1] is bad[-1]:
        troubles.append(_ended_badly(TroubleKind.PASS, others, following))
    return troubles


def _ended_badly(kind: TroubleKind, bad: list[Run], following: datetime | None) -> Trouble:
    last = bad[-1]
    return Trouble(
        kind=kind,
        since=_end(bad[0]),
        reason=f"the pass {'was stopped' if last.status == RunStatus.STOPPED else 'failed'}: {last.detail}",
        look="share-worker check" if kind is TroubleKind.KEY else f"share-worker runs {last.id}",
        chats=last.tally["left"] if last.tally else None,
        tally=last.tally,
        next_try=following,
    )


def _end(run: Run) -> datetime:
    return run.finished_at or run.started_at


def _last_time(rules: Rules, schedule: Schedule, until: datetime) -> datetime | None:
    today = rules.share_day(until)
    days = (today - timedelta(days=number) for number in range(DAYS_LOOKED_BACK))
    return next((fire for day in days if (fire := schedule.latest_on(day, until))), None)


def missed_time(fire: datetime, next_try: datetime | None) -> Trouble:
    """A scheduled time at which no pass began."""
    return Trouble(
        kind=TroubleKind.MISSED,
        since=fire,
        reason="no pass began at the scheduled time",
        look="share-worker status",
        next_try=next_try,
    )


async def _of_lines(connection: AsyncConnection, rules: Rules, now: datetime) -> list[Trouble]:
    """Lines that Linq refused or that rest, and lines without an active card; all of them with chats."""
    troubles = []
    chats_of = await facts.chats_per_line(connection)
    resting = {line.phone_number: line for line in await resting_lines(connection, rules, now, chats_of)}
    refused = await facts.refused_lines(connection)
    for number in _most_used(chats_of, resting.keys() | refused.keys()):
        line = resting.get(number)
        until = refused[number] + LINE_REST if number in refused else line.until if line else None
        troubles.append(
            Trouble(
                kind=TroubleKind.LINE,
                line=number,
                since=refused.get(number),
                reason=line.why if line else "Linq refused it (403/2027), and has accepted nothing of it since",
                look="share-worker status",
                chats=chats_of[number],
                next_try=until if until is not None and until > now else None,
            )
        )
    cards = await line_cards(connection, chats_of)
    if cards.seen_at is None and await runs.last_completed(connection) is None:
        return troubles  # nobody has asked for the cards yet
    troubles += (
        Trouble(
            kind=TroubleKind.CARD,
            line=number,
            since=None,
            reason="it has no active contact card, so its chats get no share",
            look="share-worker cards list",
            chats=cards.without[number],
        )
        for number in _most_used(cards.without, cards.without)
    )
    return troubles


def _most_used(chats_of: dict[str, int], numbers: Iterable[str]) -> Iterator[str]:
    with_chats = [number for number in numbers if number and chats_of.get(number)]
    yield from sorted(with_chats, key=lambda number: (-chats_of[number], number))[:MOST_LINES]


def _silent(heard_at: datetime) -> Trouble:
    return Trouble(
        kind=TroubleKind.WEBHOOKS,
        since=heard_at,
        reason="no event of Linq's webhooks came since then",
        look="share-worker webhooks list",
    )
