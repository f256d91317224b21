"""How the worker stands, in one word and with its reasons: what the page shows first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.chats.sources import Source, SourceState, read_sources
from worker.db.tables import share_attempts
from worker.ledger import history
from worker.ledger.history import Run
from worker.outcomes import Word
from worker.questions.troubles import ABOUT_PASSES, Trouble, read_troubles
from worker.rules.eligibility import Rules
from worker.rules.schedule import Schedule
from worker.rules.times import first_pass


class State(Word):
    """How the worker stands."""

    TROUBLE = "trouble", "shares are not made as they should be"
    ATTENTION = "attention", "shares are made, but something needs a look"
    WAITING = "waiting", "no pass was made yet"
    WELL = "well", "all is well"
    READING = "reading", "the first figures are being read"
    UNKNOWN = "unknown", "the database has not answered"


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """The passes and what is in trouble, at one moment."""

    now: datetime
    state: State
    troubles: list[Trouble]
    last_run: Run | None
    """The latest pass that has ended."""
    running: list[Run]
    attempted: dict[str, int]
    """The attempts so far of each pass that runs, by its id."""
    next_scheduled: datetime | None
    stale_claims: int
    sources: dict[Source, SourceState]


async def read_overview(
    connection: AsyncConnection, rules: Rules, schedule: Schedule, now: datetime, *, has_webhooks: bool
) -> Overview:
    """Read the overview in one transaction."""
    troubles = await read_troubles(connection, rules, schedule, now, has_webhooks=has_webhooks)
    last_run = await history.last_ended_run(connection)
    running = await history.running_runs(connection)
    return Overview(
        now=now,
        state=_state(troubles, has_run=bool(last_run or running)),
        troubles=troubles,
        last_run=last_run,
        running=running,
        attempted={run.id: await _count_attempts(connection, run.id) for run in running},
        next_scheduled=first_pass(rules, schedule, now),
        stale_claims=await history.count_stale_claims(connection, now),
        sources=await read_sources(connection),
    )


def _state(troubles: Sequence[Trouble], *, has_run: bool) -> State:
    if any(trouble.kind in ABOUT_PASSES for trouble in troubles):
        return State.TROUBLE
    if troubles:
        return State.ATTENTION
    return State.WELL if has_run else State.WAITING


async def _count_attempts(connection: AsyncConnection, run_id: str) -> int:
    statement = select(func.count()).where(share_attempts.c.run_id == run_id)
    return int((await connection.execute(statement)).scalar_one())
