"""The passes, newest first, and one of them in detail."""

from dataclasses import asdict
from datetime import datetime
from typing import Final

from worker.ledger import history
from worker.ledger.history import Run
from worker.outcomes import DUE_COUNTS, RunStatus
from worker.questions.suggest import the_run
from worker.sharing.watch import PassProgress
from worker.web.pages import query
from worker.web.pages.reader import Reader
from worker.web.pages.render import Reading, View
from worker.wording.passes import counted_answer, due_counts, run_document, tally_rows, took

ROWS: Final = 30

REFRESHED_SECONDS: Final = 5


async def passes_view(reader: Reader, reading: Reading) -> View:
    """The page at `/passes`."""
    before = _key(reading)
    rows: list[Run] = []
    if not reading.errors:
        async with reader.listing() as connection:
            rows = await history.latest_runs(connection, ROWS + 1, before=before)
    older = None
    if len(rows) > ROWS:
        last = rows[ROWS - 1]
        older = reading.link("/passes", before=f"{last.started_at.isoformat()}/{last.id}")
    rows = rows[:ROWS]
    return View(
        template="passes.html",
        title="Passes",
        command=f"share-worker runs --limit {ROWS}",
        context={
            "rows": [(run, due_counts(run).values(), took(run), reading.numbers.text(run.detail)) for run in rows],
            "names": DUE_COUNTS,
            "older": older,
            "newest": reading.link("/passes") if before else None,
        },
        document={"runs": [run_values(run, reading) for run in rows], "older": older, "errors": reading.errors},
        status=400 if reading.errors else 200,
        refreshed_seconds=None if before else REFRESHED_SECONDS,
    )


async def pass_view(reader: Reader, reading: Reading, progress: PassProgress, beginning: str) -> View:
    """The page at `/passes/ID`; the beginning of the id is enough.

    Raises:
        UsageError: no pass has it, or several begin so.
    """
    async with reader.listing() as connection:
        run = await the_run(connection, beginning)
    answers = await reader.answers(run.id)
    recorded = sum(counted.count for counted in answers.value or [])
    done, due = (run.status == RunStatus.RUNNING and progress.of(run.worker)) or (recorded, None)
    return View(
        template="pass.html",
        title=f"Pass {run.id}",
        command=f"share-worker runs {run.id}",
        context={
            "run": run,
            "detail": reading.numbers.text(run.detail),
            "took": took(run),
            "tally": tally_rows(run.tally) if run.tally else [],
            "answers": [(counted, counted_answer(counted)) for counted in answers.value or []],
            "answers_known": answers.value is not None,
            "failure": answers.failure,
            "done": done,
            "due": due,
        },
        document=run_document(run, answers.value or []) | {"detail": reading.numbers.text(run.detail) or None},
        refreshed_seconds=REFRESHED_SECONDS if run.status == RunStatus.RUNNING or answers.value is None else None,
    )


def run_values(run: Run, reading: Reading) -> dict[str, object]:
    """A row of `runs` for machines, with phone numbers as they are shown."""
    return asdict(run) | {"detail": reading.numbers.text(run.detail) or None}


def _key(reading: Reading) -> tuple[datetime, str] | None:
    """The pass before which the page goes on."""
    written = query.word(reading, "before")
    if written is None:
        return None
    started_at, _, run_id = written.partition("/")
    try:
        moment = datetime.fromisoformat(started_at)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        reading.errors.append("before is not the end of a page")
        return None
    return moment, run_id
