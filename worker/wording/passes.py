"""A pass in words: its counts, and Linq's answers to it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from worker.ledger.history import AnswerCount, Run
from worker.outcomes import DUE_COUNTS, Outcome, Tally
from worker.rules.again import meaning
from worker.text import span

Row = tuple[str, int, str]
"""A name, a count, and what it means."""


def tally_rows(tally: Tally) -> list[Row]:
    """A tally as rows that add up to all chats."""
    outcomes = {
        Outcome.SHARED: tally["shared"],
        Outcome.REJECTED: tally["rejected"],
        Outcome.UNKNOWN: tally["unknown"],
        Outcome.UNSENT: tally["unsent"],
    }
    rows: list[Row] = [
        (name.value, count, name.meaning) for name, count in outcomes.items() if count or name is Outcome.SHARED
    ]
    if tally["left"]:
        rows.append(("left", tally["left"], "due, but not attempted"))
    rows += [(name, count, meaning(name)) for name, count in tally["skipped"].items()]
    return [*rows, ("chats", sum(count for _, count, _ in rows), "")]


def due_counts(run: Run) -> dict[str, int | None]:
    """What became of the chats that were due; None where the pass did not count them."""
    counts: Mapping[str, object] = run.tally or {}
    return {name: count if isinstance(count := counts.get(name), int) else None for name in DUE_COUNTS}


def took(run: Run) -> str:
    """How long a pass took; empty if it has not ended."""
    return span(run.finished_at - run.started_at) if run.finished_at else ""


def run_document(run: Run, answers: Sequence[AnswerCount]) -> dict[str, object]:
    """One pass for machines."""
    return asdict(run) | {"answers": [asdict(counted) for counted in answers]}


def counted_answer(counted: AnswerCount) -> str:
    """Linq's status and code: `404/2012`, `200`, or `none`."""
    numbers = (counted.http_status, counted.error_code)
    return "/".join(str(number) for number in numbers if number is not None) or "none"
