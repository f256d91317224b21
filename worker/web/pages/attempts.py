"""The ledger's attempts, with the filters of `share-worker attempts`, paged by key."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from worker.ledger import history
from worker.ledger.history import Attempt, AttemptFilter, AttemptKey
from worker.outcomes import Outcome
from worker.questions.suggest import the_run
from worker.web.pages import query
from worker.web.pages.reader import Reader
from worker.web.pages.render import Reading, View
from worker.wording.attempts import answer, document, rerun

ROWS: Final = 50


async def attempts_view(reader: Reader, reading: Reading) -> View:
    """The page at `/attempts`.

    Raises:
        TooSlowError: the filter needs too long.
        UsageError: no pass has the id that is given.
    """
    line, run_id, chat = (query.word(reading, name) for name in ("line", "run", "chat"))
    first, last = query.day(reading, "since"), query.day(reading, "until")
    outcomes = query.words(reading, "outcome", Outcome)
    codes = query.numbers(reading, "code")
    before = _key(reading)
    wanted = AttemptFilter(
        chat_ids=[chat] if chat else [],
        lines=reading.numbers.lines_named(line) if line else [],
        since=first,
        until=last,
        outcomes=outcomes,
        codes=codes,
        run_id=run_id,
    )
    rows: list[Attempt] = []
    if not reading.errors:
        async with reader.listing() as connection:
            if run_id is not None:
                wanted = await _of_the_pass(connection, wanted, run_id)
            rows = await history.attempts_page(connection, wanted, ROWS + 1, before=before)
    following = rows[ROWS - 1] if len(rows) > ROWS else None
    rows = rows[:ROWS]
    given = {
        "since": first,
        "until": last,
        "outcome": [outcome.value for outcome in outcomes],
        "code": codes,
        "line": line,
        "run": run_id,
        "chat": chat,
    }
    older = reading.link("/attempts", **given, before=_key_text(following)) if following else None
    shown = reading.numbers
    return View(
        template="attempts.html",
        title="Attempts",
        command=_command(given),
        context={
            "rows": [(row, answer(row), shown.text(rerun(row)), shown.text(row.error_message)) for row in rows],
            "given": given,
            "outcomes": list(Outcome),
            "lines": shown.names(),
            "older": older,
            "newest": reading.link("/attempts", **given) if before else None,
        },
        document={
            "attempts": [
                document(row) | {"error_message": row.error_message and shown.text(row.error_message)} for row in rows
            ],
            "older": older,
            "errors": reading.errors,
        },
        status=400 if reading.errors else 200,
    )


async def _of_the_pass(connection: AsyncConnection, wanted: AttemptFilter, run_id: str) -> AttemptFilter:
    """The filter for one pass: its share day leads to its attempts by an index in the order of the page."""
    run = await the_run(connection, run_id)
    return replace(
        wanted,
        run_id=run.id,
        since=max(wanted.since or run.share_day, run.share_day),
        until=min(wanted.until or date.max, run.share_day + timedelta(days=1)),
    )


def _key_text(attempt: Attempt) -> str:
    return f"{attempt.share_day}/{attempt.sequence}/{attempt.chat_id}"


def _key(reading: Reading) -> AttemptKey | None:
    """The key after which the page goes on, as `_key_text` wrote it."""
    written = query.word(reading, "before")
    if written is None:
        return None
    day, _, rest = written.partition("/")
    sequence, _, chat_id = rest.partition("/")
    try:
        return date.fromisoformat(day), chat_id, int(sequence)
    except ValueError:
        reading.errors.append("before is not the end of a page")
        return None


def _command(given: Mapping[str, object]) -> str:
    words = ["share-worker", "attempts"]
    for name, value in given.items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                words += [f"--{name}", str(item)]
    return shlex.join([*words, "--limit", str(ROWS)])
