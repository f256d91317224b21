"""One pass over the chats: claim, commit, call, record, until no chat is due.

A pass belongs to one share day and ends with it. It sends no request without a committed claim, keeps no transaction
open during one, and repeats none. Any number of passes may run at once, here or elsewhere: they divide the work
through the ledger.
"""

import asyncio
import math
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.account import Card, Line
from worker.chats import facts
from worker.clock import Clock, unless_stopped
from worker.ledger import attempts, runs
from worker.linq.answers import AccessRefused, LinqError
from worker.linq.client import Linq
from worker.outcomes import (
    KEY_REFUSED,
    TOLD_TO_STOP,
    Outcome,
    PassResult,
    RunStatus,
    Tally,
    Trigger,
    chats_in,
    is_trouble,
    waiting_in,
)
from worker.rules.eligibility import LINE_REST, Rules
from worker.sharing.calls import ShareLoop
from worker.sharing.candidates import Candidates, Due
from worker.sharing.limits import Limits, Stop
from worker.sharing.watch import UNWATCHED, Watch

T = TypeVar("T")

log = structlog.get_logger(__name__)


async def run_pass(
    engine: AsyncEngine,
    linq: Linq,
    rules: Rules,
    limits: Limits,
    *,
    trigger: Trigger,
    clock: Clock,
    stop: asyncio.Event,
    watch: Watch = UNWATCHED,
    candidates: Candidates | None = None,
) -> PassResult:
    """Share with every chat that is due, or with the given candidates; return what came of it.

    1. Settle what dead workers left, and write down that a pass begins.
    2. Fetch all cards and lines, and store them. Without the cards no request is made.
    3. Record, claim, commit, call; until no chat is due, the day or SHARE_HOURS end, Linq says stop, or `stop` is set.
    4. Count every candidate once, and write down how the pass ended.

    Raises:
        SQLAlchemyError: the database failed before anything was claimed.
    """
    started_at = clock.now()
    day = rules.share_day(started_at)
    run_id = f"{started_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    with structlog.contextvars.bound_contextvars(run_id=run_id):
        stale_claims = await _begin(engine, run_id=run_id, trigger=trigger, day=day, now=started_at)
        log.info("pass.started", trigger=trigger.value, share_day=day.isoformat())
        candidates = candidates or Due(rules)
        loop = ShareLoop(
            engine,
            linq,
            rules,
            candidates,
            limits,
            run_id=run_id,
            day=day,
            clock=clock,
            stop=stop,
            watch=watch,
            resumed=trigger is Trigger.RESUME,
        )
        ending = await _share(engine, linq, candidates, loop, run_id=run_id, clock=clock, stop=stop)
        finished_at = clock.now()
        await _record_end(engine, ending, run_id=run_id, clock=clock, stop=stop, now=finished_at)
        if ending.tally is not None and not chats_in(ending.tally):
            log.warning("chats.none", reason="the table 'chats' is empty: there is nobody to share with")
        seconds = round((finished_at - started_at).total_seconds(), 3)
        write = log.error if is_trouble(ending.status, ending.detail) else log.info
        write("pass.ended", status=ending.status.value, detail=ending.detail, seconds=seconds, tally=ending.tally)
    return PassResult(
        run_id=run_id,
        trigger=trigger,
        share_day=day,
        started_at=started_at,
        finished_at=finished_at,
        status=ending.status,
        detail=ending.detail,
        tally=ending.tally,
        retry_after=ending.halt.retry_after if ending.halt else None,
        resume_at=ending.resume_at,
        access_refused=ending.halt.access_refused if ending.halt else False,
        stale_claims=stale_claims,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ending:
    """How a pass ended, and what Linq demanded of the next try."""

    status: RunStatus
    detail: str | None
    tally: Tally | None = None
    halt: Stop | None = None
    resume_at: datetime | None = None


async def _share(
    engine: AsyncEngine,
    linq: Linq,
    candidates: Candidates,
    loop: ShareLoop,
    *,
    run_id: str,
    clock: Clock,
    stop: asyncio.Event,
) -> _Ending:
    """Steps 2 to 4, up to the count."""
    try:
        cards = await unless_stopped(stop, linq.list_cards())
    except LinqError as error:
        is_key = isinstance(error, AccessRefused)
        reason = f"{KEY_REFUSED}: {error}" if is_key else str(error)
        halt = Stop(reason=reason, retry_after=error.retry_after, access_refused=is_key)
        return _Ending(status=RunStatus.FAILED, detail=f"the contact cards could not be read: {reason}", halt=halt)
    account_lines = None if cards is None else await _read_lines(linq, stop)
    try:
        if cards is not None:
            refused = await _patiently(
                engine, clock, stop, lambda: _store_account(engine, cards, account_lines, clock.now())
            )
            loop.lines.refused(refused)
            await loop.count_due()
            await loop.run()
        tally = await _patiently(engine, clock, stop, lambda: _count(engine, candidates, run_id, loop.last_look))
        status, detail = loop.ended(tally) if cards is not None else (RunStatus.STOPPED, TOLD_TO_STOP)
        resume_at = None
        if status is RunStatus.COMPLETED and waiting_in(tally):
            resume_at = await _patiently(engine, clock, stop, lambda: _end_of_rest(engine, clock.now()))
    except SQLAlchemyError as error:
        return _Ending(status=RunStatus.FAILED, detail=db.describe(error, engine.url), halt=loop.brake.stop)
    return _Ending(status=status, detail=detail, tally=tally, halt=loop.brake.stop, resume_at=resume_at)


async def _read_lines(linq: Linq, stop: asyncio.Event) -> list[Line] | None:
    """The account's lines; None if they could not be read: then the pass goes on with what is known of them."""
    try:
        return await unless_stopped(stop, linq.phone_numbers())
    except LinqError as error:
        log.warning("lines.unread", reason=f"the lines could not be read, so they are judged as last seen: {error}")
        return None


def _has_ended(worker: str) -> bool:
    """True if the worker ran on this host and its process is gone."""
    host, _, pid = worker.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it lives, under another user
    return False


def worker_name() -> str:
    """This process, as `runs.worker` names it: host:pid."""
    return f"{socket.gethostname()}:{os.getpid()}"


async def _begin(engine: AsyncEngine, *, run_id: str, trigger: Trigger, day: date, now: datetime) -> int:
    worker = worker_name()
    async with db.write(engine) as connection:
        stale = await attempts.settle_stale(connection, now)
        ended = [worker, *filter(_has_ended, await runs.running_workers(connection))]
        dead = await runs.close_dead_runs(connection, workers=ended, today=day, now=now)
        await runs.open_run(connection, run_id=run_id, trigger=trigger, share_day=day, worker=worker, now=now)
    if stale or dead:
        log.warning("stale.settled", claims=stale, runs=dead)
    return stale


async def _store_account(
    engine: AsyncEngine, cards: list[Card], account_lines: list[Line] | None, now: datetime
) -> dict[str, datetime]:
    """Keep the cards and lines; return the lines that Linq refused, and when."""
    async with db.write(engine) as connection:
        await facts.store_cards(connection, cards, now)
        if account_lines is not None:
            await facts.store_lines(connection, account_lines, now)
        refused = await facts.refused_lines(connection)
    log.info("cards.refreshed", cards=len(cards), active=sum(card.is_active for card in cards))
    return refused


async def _end_of_rest(engine: AsyncEngine, now: datetime) -> datetime | None:
    """When the first of the lines that Linq refused may be asked for again; None if none rests for that reason."""
    async with db.read(engine) as connection:
        refused = await facts.refused_lines(connection)
    return min((at + LINE_REST for at in refused.values() if at + LINE_REST > now), default=None)


async def _count(engine: AsyncEngine, candidates: Candidates, run_id: str, now: datetime) -> Tally:
    """Count each candidate once: by the outcome of this run's attempt, or else by why there was none."""
    async with db.read(engine) as connection:
        outcomes = await attempts.outcomes_of(connection, run_id)
        others = await candidates.remainder(connection, now, run_id=run_id)
    return Tally(
        shared=outcomes.get(Outcome.SHARED, 0),
        rejected=outcomes.get(Outcome.REJECTED, 0),
        unknown=outcomes.get(Outcome.UNKNOWN, 0) + outcomes.get(Outcome.CLAIMED, 0),
        unsent=outcomes.get(Outcome.UNSENT, 0),
        left=others.left,
        skipped=others.skipped,
    )


async def _record_end(
    engine: AsyncEngine, ending: _Ending, *, run_id: str, clock: Clock, stop: asyncio.Event, now: datetime
) -> None:
    async def close() -> None:
        async with db.write(engine) as connection:
            await runs.close_run(
                connection, run_id=run_id, status=ending.status, detail=ending.detail, tally=ending.tally, now=now
            )

    try:
        await _patiently(engine, clock, stop, close)
    except SQLAlchemyError as error:
        log.error("pass.unrecorded", reason=db.describe(error, engine.url))


async def _patiently(engine: AsyncEngine, clock: Clock, stop: asyncio.Event, work: Callable[[], Awaitable[T]]) -> T:
    """Do a piece of database work, and try again during an outage, for as long as a pass waits.

    A pass that was told to stop does not wait: its answers are recorded or in the log by then.
    """
    outage = db.Outage(engine.url)
    while True:
        try:
            result = await work()
        except SQLAlchemyError as error:
            now = clock.monotonic()
            outage.failed(error, now, deadline=now if stop.is_set() else math.inf)
        else:
            outage.ended(clock.monotonic())
            return result
        await clock.sleep(db.PAUSE_SECONDS)
