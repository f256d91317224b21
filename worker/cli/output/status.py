"""The output of `share-worker status`: one screen for users, one document for machines."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import date, datetime, tzinfo
from typing import Final

from worker.cli.output.tables import column_lines, labelled, unicode_is_shown
from worker.ledger.history import Run
from worker.outcomes import FINISHED, Outcome, RunStatus
from worker.questions.lines import LineCards, RestingLine
from worker.questions.status import Status
from worker.rules.eligibility import Rules
from worker.text import chat_count, minute, one_line, roughly
from worker.wording.lines import resting_text

LINES_SHOWN: Final = 3
"""Lines without an active card that are named; the others are counted."""

BLOCKS: Final = "█▒░·"
LETTERS: Final = "#x?."
"""The marks of `FINISHED` in a bar: no colour, so they read in a pipe too; letters if stdout has no blocks."""

LONGEST_BAR: Final = 40
SHORTEST_BAR: Final = 8
DEFAULT_WIDTH: Final = 80
"""The width to fill if stdout is not a terminal."""


def status_lines(status: Status, rules: Rules, *, about: str, schedule: str, width: int | None) -> Iterator[str]:
    """The status for users; `about` names the worker and its database."""
    zone, now, last = rules.timezone, status.now, status.last_run
    running = [f"{run.id} on {run.worker}, for {roughly(now - run.started_at)}" for run in status.running]
    seen_at = f"; cards as seen {minute(status.cards.seen_at, zone)}" if status.cards.seen_at else ""
    settled = "; the next pass settles them" if status.stale_claims else ""
    fields = {
        "last pass": _last_pass(last, now, zone),
        "why": one_line(last.detail or "") if last and last.status != RunStatus.COMPLETED else "",
        "next pass": f"{_next_pass(status.next_scheduled, now, zone)} by this shell's '{schedule}', {zone}",
        "schedule": _off_schedule(status.off_schedule, zone),
        "hours": _hours(rules, now),
        "running": "; ".join(running) or "no pass",
        "today": f"{status.share_day}: {_outcomes(status.today)}",
        "due now": f"{status.due:,} of {status.chats:,} chats{seen_at}"
        if seen_at
        else f"not known before the first pass; 'share-worker check' asks Linq ({chat_count(status.chats)})",
        "stale": f"{status.stale_claims:,} claims of dead workers{settled}",
        "cards": _cards(status.cards),
        "resting": _resting(status.resting, zone),
    }
    yield about
    for name, value in fields.items():
        if value:
            yield from labelled(f"{name:<11}", value, width)
    yield ""
    yield from day_lines(status.days, width=width, marks=BLOCKS if unicode_is_shown(BLOCKS) else LETTERS)


def status_document(status: Status, **about: str) -> dict[str, object]:
    """The status for machines."""
    days = [{"share_day": day, **counts} for day, counts in status.days.items()]
    return about | asdict(status) | {"days": days, "today": status.today}


def day_lines(days: Mapping[date, Mapping[str, int]], *, width: int | None, marks: str = BLOCKS) -> Iterator[str]:
    """Each share day with its attempts by outcome and a bar in proportion; without the numbers if it is narrow."""
    head = ["share day", *(f"{mark} {outcome.value}" for mark, outcome in zip(marks, FINISHED, strict=True))]
    rows = [[str(day), *(f"{counts[outcome]:,}" for outcome in FINISHED)] for day, counts in days.items()]
    lines = list(column_lines(head, rows, right=head[1:]))
    if _room_beside(lines, width) < SHORTEST_BAR:
        lines = ["share day   " + " ".join(head[1:]), *map(str, days)]
    longest = max(SHORTEST_BAR, _room_beside(lines[1:], width))
    most = max(sum(counts[outcome] for outcome in FINISHED) for counts in days.values())
    yield lines[0]
    for line, counts in zip(lines[1:], days.values(), strict=True):
        bar = bar_of([counts[outcome] for outcome in FINISHED], most=most, length=longest, marks=marks)
        yield f"{line}  {bar}".rstrip()


def bar_of(counts: list[int], *, most: int, length: int, marks: str = BLOCKS) -> str:
    """The counts as one bar, which is as long as `length` if they add up to `most`. A count above 0 is always seen."""
    if not most:
        return ""
    cells = [max(1, round(count * length / most)) if count else 0 for count in counts]
    while sum(cells) > length and max(cells) > 1:
        cells[cells.index(max(cells))] -= 1
    return "".join(mark * repeated for mark, repeated in zip(marks, cells, strict=True))


def _room_beside(lines: list[str], width: int | None) -> int:
    """How long a bar beside these lines can be."""
    return min(LONGEST_BAR, (width or DEFAULT_WIDTH) - max(map(len, lines)) - 2)


def _last_pass(run: Run | None, now: datetime, zone: tzinfo) -> str:
    if run is None:
        return "none yet"
    ended = run.finished_at or run.started_at
    return f"{run.status} {minute(ended, zone)}, {roughly(now - ended)} ago: {run.id}"


def _next_pass(at: datetime | None, now: datetime, zone: tzinfo) -> str:
    return f"{minute(at, zone)}, in {roughly(at - now)}" if at else "never"


def _off_schedule(at: datetime | None, zone: tzinfo) -> str:
    if at is None:
        return ""
    return f"another one made the last scheduled pass, {minute(at, zone)}"


def _hours(rules: Rules, now: datetime) -> str:
    if rules.hours is None:
        return ""
    opening = rules.opening(now)
    state = "now" if opening == now else f"not now; next {minute(opening, rules.timezone)}"
    return f"shares only {rules.hours} ({rules.timezone}): {state}"


def _resting(resting: list[RestingLine], zone: tzinfo) -> str:
    lines = [f"{line.phone_number} ({chat_count(line.chats)}): {resting_text(line, zone)}" for line in resting]
    hidden = len(lines) - LINES_SHOWN
    return "; ".join(lines[:LINES_SHOWN]) + (f"; and {hidden:,} more lines" if hidden > 0 else "")


def _outcomes(counts: Mapping[str, int]) -> str:
    parts = [f"{count:,} {outcome}" for outcome, count in counts.items() if count and outcome != Outcome.CLAIMED]
    if counts.get(Outcome.CLAIMED):
        parts.append(f"{counts[Outcome.CLAIMED]:,} in flight")
    return ", ".join(parts) or "no attempt yet"


def _cards(cards: LineCards) -> str:
    if cards.seen_at is None:
        return "none seen yet; each pass reads them"
    text = f"{cards.active:,} of {cards.total:,} active"
    if not cards.without:
        return f"{text}; every line with chats has one"
    lines = [f"{line} ({chat_count(count)})" for line, count in cards.without.items()]
    hidden = len(lines) - LINES_SHOWN
    return f"{text}; no active one for {', '.join(lines[:LINES_SHOWN])}" + (
        f" and {hidden:,} more lines" if hidden > 0 else ""
    )
