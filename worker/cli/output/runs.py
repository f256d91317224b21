"""Passes, and how it stands, for people and for machines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, tzinfo
from typing import Final

from worker.cli.output import bars
from worker.cli.output.passes import count_lines, tally_rows
from worker.cli.output.tables import column_lines, labelled, one_line, unicode_is_shown
from worker.ledger.history import Answers, LineCards, Run
from worker.outcomes import Outcome, RunStatus, Tally
from worker.questions.status import Overview
from worker.rules.eligibility import Rules
from worker.text import both, minute, roughly, span

COUNTED: Final = ("shared", "rejected", "unknown", "unsent", "left")
RUNS_HEAD: Final = ("run", "status", *COUNTED, "started", "took", "trigger", "share day")

LINES_SHOWN: Final = 3


def run_rows(runs: Sequence[Run], zone: tzinfo) -> Iterator[tuple[str, ...]]:
    """Passes as rows under `RUNS_HEAD`."""
    for run in runs:
        yield (
            run.id,
            run.status,
            *(f"{count:,}" if count is not None else "-" for count in _counts(run.tally).values()),
            minute(run.started_at, zone),
            _took(run) or "-",
            run.trigger,
            str(run.share_day),
        )


def run_lines(run: Run, answers: Sequence[Answers], zone: tzinfo, *, wide: int | None) -> Iterator[str]:
    """A pass in detail."""
    took = _took(run)
    told = {
        "trigger": run.trigger,
        "share day": str(run.share_day),
        "started": both(run.started_at, zone),
        "finished": f"{both(run.finished_at, zone)}, after {took}" if run.finished_at else "not yet",
        "status": run.status,
        "why": one_line(run.detail or ""),
        "worker": run.worker,
    }
    yield f"Pass {run.id}"
    for name, value in told.items():
        if value:
            yield from labelled(f"  {name:<9}  ", value, wide)
    if run.tally:
        yield ""
        yield from count_lines(tally_rows(run.tally))
    if answers:
        yield ""
        yield "In the ledger now, by Linq's answer:"
        rows = [(each.outcome, _answer(each), f"{each.count:,}") for each in answers]
        yield from (f"  {line}" for line in column_lines(("outcome", "answer", "attempts"), rows, right=["attempts"]))


def run_document(run: Run, answers: Sequence[Answers]) -> dict[str, object]:
    """A pass for machines."""
    return asdict(run) | {"answers": [asdict(each) for each in answers]}


def overview_lines(overview: Overview, rules: Rules, *, about: str, schedule: str, wide: int | None) -> Iterator[str]:
    """How it stands, for people; `about` says which worker and database."""
    zone, now = rules.timezone, overview.now
    last = overview.last_run
    told = {
        "last pass": _last_pass(last, now, zone),
        "why": one_line(last.detail or "") if last and last.status != RunStatus.COMPLETED else "",
        "next pass": _next_pass(overview.next_scheduled, now, zone) + f" by '{schedule}', {zone}",
        "running": "; ".join(
            f"{run.id} on {run.worker}, for {roughly(now - run.started_at)}" for run in overview.running
        )
        or "no pass",
        "today": f"{overview.share_day}: {_outcomes(overview.today)}",
        "due now": f"{overview.due:,} of {overview.chats:,} chats"
        + (f"; cards as seen {minute(overview.cards.seen_at, zone)}" if overview.cards.seen_at else ""),
        "stale": f"{overview.stale_claims:,} claims of dead workers"
        + ("; the next pass settles them" if overview.stale_claims else ""),
        "cards": _cards(overview.cards),
    }
    yield about
    for name, value in told.items():
        if value:
            yield from labelled(f"{name:<11}", value, wide)
    yield ""
    marks = bars.BLOCKS if unicode_is_shown(bars.BLOCKS) else bars.LETTERS
    yield from bars.day_lines(overview.days, wide=wide, marks=marks)


def overview_document(overview: Overview, **about: str) -> dict[str, object]:
    """How it stands, for machines."""
    return (
        about
        | asdict(overview)
        | {
            "days": [{"share_day": day, **counts} for day, counts in overview.days.items()],
            "today": overview.today,
        }
    )


def _counts(tally: Tally | None) -> dict[str, int | None]:
    counts: Mapping[str, object] = tally or {}
    return {name: count if isinstance(count := counts.get(name), int) else None for name in COUNTED}


def _took(run: Run) -> str:
    return span(run.finished_at - run.started_at) if run.finished_at else ""


def _answer(answers: Answers) -> str:
    told = (answers.http_status, answers.error_code)
    return "/".join(str(number) for number in told if number is not None) or "none"


def _last_pass(run: Run | None, now: datetime, zone: tzinfo) -> str:
    if run is None:
        return "none yet"
    ended = run.finished_at or run.started_at
    return f"{run.status} {minute(ended, zone)}, {roughly(now - ended)} ago: {run.id}"


def _next_pass(at: datetime | None, now: datetime, zone: tzinfo) -> str:
    return f"{minute(at, zone)}, in {roughly(at - now)}" if at else "never"


def _outcomes(counts: Mapping[str, int]) -> str:
    told = [f"{count:,} {outcome}" for outcome, count in counts.items() if count and outcome != Outcome.CLAIMED]
    if counts.get(Outcome.CLAIMED):
        told.append(f"{counts[Outcome.CLAIMED]:,} being called")
    return ", ".join(told) or "nobody called yet"


def _cards(cards: LineCards) -> str:
    if cards.seen_at is None:
        return "none seen yet; each pass reads them"
    text = f"{cards.active:,} of {cards.total:,} active"
    if not cards.without:
        return f"{text}; every line with chats has one"
    lines = [f"{line} ({count:,} chats)" for line, count in list(cards.without.items())[:LINES_SHOWN]]
    more = len(cards.without) - len(lines)
    return f"{text}; none for {', '.join(lines)}" + (f" and {more:,} lines more" if more else "")
