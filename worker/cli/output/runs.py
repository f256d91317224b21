"""The output of `share-worker runs`: the list of passes, and one pass in detail."""

from collections.abc import Iterator, Sequence
from datetime import tzinfo
from typing import Final

from worker.cli.output.printing import count_lines
from worker.cli.output.tables import column_lines, labelled, print_columns
from worker.ledger.history import AnswerCount, Run
from worker.outcomes import DUE_COUNTS
from worker.text import both, minute, one_line
from worker.wording.passes import counted_answer, due_counts, tally_rows, took

HEAD: Final = ("run", "status", *DUE_COUNTS, "started", "took", "trigger", "share day")
EXPENDABLE: Final = ("share day", "trigger", "took", "started", "unsent", "unknown", "left", "rejected")
"""Columns to leave out on a narrow terminal, the first one first; a run's id begins with its start in UTC."""


def print_runs(runs: Sequence[Run], zone: tzinfo) -> int:
    """A table of passes; return how many rows it has."""
    return print_columns(HEAD, _rows(runs, zone), right=[*DUE_COUNTS, "took"], expendable=EXPENDABLE)


def run_lines(run: Run, answers: Sequence[AnswerCount], zone: tzinfo, *, width: int | None) -> Iterator[str]:
    """One pass in detail, for users."""
    length = took(run)
    fields = {
        "trigger": run.trigger,
        "share day": str(run.share_day),
        "started": both(run.started_at, zone),
        "finished": f"{both(run.finished_at, zone)}, after {length}" if run.finished_at else "not yet",
        "status": run.status,
        "why": one_line(run.detail or ""),
        "worker": run.worker,
    }
    yield f"Pass {run.id}"
    for name, value in fields.items():
        if value:
            yield from labelled(f"  {name:<9}  ", value, width)
    if run.tally:
        yield ""
        yield from count_lines(tally_rows(run.tally))
    if answers:
        yield ""
        yield "In the ledger now, by Linq's answer:"
        rows = [(counted.outcome, counted_answer(counted), f"{counted.count:,}") for counted in answers]
        yield from (f"  {line}" for line in column_lines(("outcome", "answer", "attempts"), rows, right=["attempts"]))


def _rows(runs: Sequence[Run], zone: tzinfo) -> Iterator[tuple[str, ...]]:
    for run in runs:
        yield (
            run.id,
            run.status,
            *(f"{count:,}" if count is not None else "-" for count in due_counts(run).values()),
            minute(run.started_at, zone),
            took(run) or "-",
            run.trigger,
            str(run.share_day),
        )
