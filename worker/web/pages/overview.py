"""The overview: how it stands, trouble first."""

import asyncio
from dataclasses import asdict
from datetime import datetime
from typing import Final

from worker.chats.sources import Source
from worker.outcomes import FINISHED
from worker.questions.lines import LineState
from worker.questions.overview import Overview, State
from worker.questions.status import every_day
from worker.questions.troubles import ABOUT_PASSES, Trouble
from worker.rules.eligibility import Verdict
from worker.sharing.watch import PassProgress
from worker.web.pages.charts import HEIGHT, STEP, day_bars
from worker.web.pages.figures import Figure
from worker.web.pages.passes import run_values
from worker.web.pages.reader import DAYS, Reader
from worker.web.pages.render import Reading, View
from worker.wording.lines import resting_text

REFRESHED_SECONDS: Final = 5
REFRESHED_FIRST_SECONDS: Final = 1
"""As long as figures are missing."""

LINES_SHOWN: Final = 50
"""Lines of the overview; those that cannot share come first."""


async def overview_view(reader: Reader, reading: Reading, progress: PassProgress, resume_at: datetime | None) -> View:
    """The page at `/`."""
    figure, lines, verdicts, today, before = await asyncio.gather(
        reader.overview(), reader.lines(), reader.verdicts(), reader.today(), reader.days_before()
    )
    day = reader.rules.share_day(reading.now)
    days = every_day((before.value or {}) | (today.value or {}), day, DAYS)
    bars = day_bars(days)
    failures = [each.failure for each in (figure, lines, verdicts, today, before) if each.failure]
    seen = figure.value
    state = State.UNKNOWN if figure.failure else State.READING if seen is None else seen.state
    is_whole = all(each.value is not None for each in (figure, lines, verdicts, today, before))
    context = {
        "state": state,
        "failure": failures[0] if failures else None,
        "seen": seen,
        "troubles": [_trouble_row(trouble, reading) for trouble in seen.troubles] if seen else [],
        "about_passes": ABOUT_PASSES,
        "running": _running(seen, progress),
        "resume_at": resume_at,
        "schedule": reader.schedule.expression,
        "hours": reader.rules.hours,
        "day": day,
        "today": days[day] if today.value is not None else None,
        "bars": bars,
        "most": max(bar.total for bar in bars),
        "chart": {"width": DAYS * STEP, "height": HEIGHT, "outcomes": FINISHED},
        "days_known": before.value is not None,
        "verdicts": _verdict_rows(verdicts),
        "lines": [(line, _resting(line, reading)) for line in (lines.value or [])[:LINES_SHOWN]],
        "lines_hidden": max(len(lines.value or []) - LINES_SHOWN, 0),
        "lines_known": lines.value is not None,
        "has_webhooks": reader.has_webhooks,
        "Source": Source,
    }
    return View(
        template="overview.html",
        title="Overview",
        command="share-worker status",
        context=context,
        document=_passes_document(reading, state, seen)
        | {
            "days": [{"share_day": each, **counts} for each, counts in days.items()],
            "verdicts": None if verdicts.value is None else {"at": verdicts.at, "chats": verdicts.value},
            "lines": None if lines.value is None else [_line_document(line, reading) for line in lines.value],
        },
        status=503 if state is State.UNKNOWN and seen is None and figure.failure else 200,
        refreshed_seconds=REFRESHED_SECONDS if is_whole else REFRESHED_FIRST_SECONDS,
    )


def _trouble_row(trouble: Trouble, reading: Reading) -> dict[str, object]:
    return {
        "kind": trouble.kind.value,
        "line": trouble.line and reading.numbers.line(trouble.line),
        "reason": reading.numbers.text(trouble.reason),
        "since": trouble.since,
        "next_try": trouble.next_try,
        "chats": trouble.chats,
        "look": trouble.look,
    }


def _running(seen: Overview | None, progress: PassProgress) -> list[dict[str, object]]:
    """The passes that run; of this process's own one, also how many chats it will attempt."""
    rows: list[dict[str, object]] = []
    for run in seen.running if seen else []:
        done, due = progress.of(run.worker) or (seen.attempted[run.id] if seen else 0, None)
        rows.append({"run": run, "done": done, "due": due})
    return rows


def _verdict_rows(verdicts: Figure[dict[Verdict, int]]) -> dict[str, object]:
    counts = verdicts.value
    if counts is None:
        return {"known": False}
    not_due = {name: count for name, count in counts.items() if name is not Verdict.DUE}
    most = max([*not_due.values(), 1])
    rows = sorted(not_due.items(), key=lambda row: -row[1])
    return {
        "known": True,
        "at": verdicts.at,
        "due": counts.get(Verdict.DUE, 0),
        "total": sum(counts.values()),
        "rows": [(name, count, max(round(count / most * 100, 1), 0.5)) for name, count in rows],
    }


def _resting(line: LineState, reading: Reading) -> str:
    return resting_text(line.resting, reading.zone) if line.resting else ""


def _passes_document(reading: Reading, state: State, seen: Overview | None) -> dict[str, object]:
    about: dict[str, object] = {"now": reading.now, "timezone": str(reading.zone), "state": state.value}
    if seen is None:
        return about
    return about | {
        "troubles": [_trouble_row(trouble, reading) for trouble in seen.troubles],
        "last_pass": seen.last_run and run_values(seen.last_run, reading),
        "running": [run_values(run, reading) | {"attempted": seen.attempted[run.id]} for run in seen.running],
        "next_scheduled": seen.next_scheduled,
        "stale_claims": seen.stale_claims,
        "sources": {source.value: asdict(known) for source, known in seen.sources.items()},
    }


def _line_document(line: LineState, reading: Reading) -> dict[str, object]:
    return {
        "line": reading.numbers.line(line.phone_number),
        "name": line.name,
        "is_active": line.is_active,
        "resting": _resting(line, reading) or None,
        "chats": line.chats,
    }
