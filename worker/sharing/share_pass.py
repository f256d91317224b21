"""One pass over the chats: claim, commit, call, record, until nobody is due.

A pass belongs to one share day and ends with it. It calls nobody without a claim that is committed, keeps no
transaction open during a call, and repeats no call. What it holds in memory is the calls in flight and a window of the
walk, however many chats there are. Any number of passes may run at once, here or elsewhere: they share the work
through the ledger.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from datetime import date, datetime
from typing import TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.chats import facts
from worker.clock import Clock, unless_stopped
from worker.ledger import attempts, runs
from worker.linq.answers import AccessRefused, Card, LinqError
from worker.linq.client import Linq
from worker.outcomes import Outcome, PassResult, RunStatus, Tally, Trigger
from worker.rules.eligibility import Rules
from worker.sharing.calls import Calls, Watch
from worker.sharing.candidates import Candidates, Due
from worker.sharing.limits import Limits, Stop

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
    watch: Watch = lambda _answer, _seconds: None,
    candidates: Candidates | None = None,
) -> PassResult:
    """Share with everyone who is due, or with the given candidates; return what came of it.

    `watch` is told of each answer once it is recorded.

    1. Settle what dead workers left, write down that a pass begins.
    2. Fetch all cards and store them. Without them nobody is called.
    3. Claim, commit, call, record; until nobody is due, the day ends, Linq says stop, or `stop` is set.
    4. Count every candidate once, and write down how it ended.

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
        calls = Calls(
            engine, linq, rules, candidates, limits, run_id=run_id, day=day, clock=clock, stop=stop, watch=watch
        )
        tally: Tally | None = None
        refusal: LinqError | None = None
        try:
            cards = await unless_stopped(stop, linq.list_cards())
            if cards is not None:
                await _patiently(clock, stop, lambda: _store_cards(engine, cards, clock.now()))
                await calls.make()
            counted = await _patiently(clock, stop, lambda: _count(engine, candidates, run_id, calls.last_look))
            tally = counted
            status, detail = calls.ended(counted) if cards is not None else (RunStatus.STOPPED, "it was told to stop")
        except LinqError as error:
            refusal = error
            status, detail = RunStatus.FAILED, f"the contact cards could not be read: {error}"
        except SQLAlchemyError as error:
            status, detail = RunStatus.FAILED, db.describe(error, engine.url)
        finished_at = clock.now()
        try:
            await _patiently(
                clock,
                stop,
                lambda: _end(engine, run_id=run_id, status=status, detail=detail, tally=tally, now=finished_at),
            )
        except SQLAlchemyError as error:
            log.error("pass.unrecorded", reason=db.describe(error, engine.url))
        seconds = round((finished_at - started_at).total_seconds(), 3)
        say = log.info if status is RunStatus.COMPLETED else log.error
        say("pass.ended", status=status.value, detail=detail, seconds=seconds, tally=tally)
    halt = calls.brake.stop
    if refusal is not None:
        halt = Stop(
            reason=str(refusal), retry_after=refusal.retry_after, access_refused=isinstance(refusal, AccessRefused)
        )
    return PassResult(
        run_id=run_id,
        trigger=trigger,
        share_day=day,
        started_at=started_at,
        finished_at=finished_at,
        status=status,
        detail=detail,
        tally=tally,
        retry_after=halt.retry_after if halt else None,
        access_refused=halt.access_refused if halt else False,
        stale_claims=stale_claims,
    )


def _has_ended(worker: str) -> bool:
    """Whether a worker was a process of this host that is no more; of another host's nothing is known."""
    host, _, pid = worker.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it lives, and is someone else's
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


async def _store_cards(engine: AsyncEngine, cards: list[Card], now: datetime) -> None:
    async with db.write(engine) as connection:
        await facts.store_cards(connection, cards, now)
    log.info("cards.refreshed", cards=len(cards), active=sum(card.is_active for card in cards))


async def _count(engine: AsyncEngine, candidates: Candidates, run_id: str, now: datetime) -> Tally:
    """Each candidate once: by what this run's attempt came to, or else by why there was none."""
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


async def _end(
    engine: AsyncEngine,
    *,
    run_id: str,
    status: RunStatus,
    detail: str | None,
    tally: Tally | None,
    now: datetime,
) -> None:
    async with db.write(engine) as connection:
        await runs.close_run(connection, run_id=run_id, status=status, detail=detail, tally=tally, now=now)


async def _patiently(clock: Clock, stop: asyncio.Event, work: Callable[[], Awaitable[T]]) -> T:
    """Do a piece of database work, again and again while the database is away, as long as a pass waits for it.

    A pass that was told to stop does not wait: its answers are recorded or in the log by then.
    """
    began = clock.monotonic()
    while True:
        try:
            return await work()
        except SQLAlchemyError as error:
            waited = clock.monotonic() - began
            if stop.is_set() or not db.is_passing(error) or waited > db.PATIENCE_SECONDS:
                raise
            log.warning("database.lost", reason=str(type(error).__name__))
        await clock.sleep(db.PAUSE_SECONDS)
