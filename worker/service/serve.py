"""The long-running worker: the scheduler, its timers and the HTTP side, put together in one event loop."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import ASGIApp

from worker import assembly, db
from worker.clock import Clock, unless_stopped
from worker.errors import UsageError, WorkerError
from worker.outcomes import Answer, PassResult, Trigger
from worker.rules.eligibility import Rules
from worker.rules.schedule import Schedule
from worker.rules.times import first_pass
from worker.service.inbox import Inbox
from worker.service.metrics import Metrics
from worker.service.pruning import Pruning
from worker.service.readiness import Readiness
from worker.service.scheduler import Scheduler, look_around, timers
from worker.settings import Settings
from worker.sharing.share_pass import run_pass, worker_name
from worker.sharing.watch import PassProgress, Watch
from worker.web.app import HEADERS, make_app
from worker.web.pages.access import Gate
from worker.web.pages.reader import Reader
from worker.web.pages.routes import page_routes
from worker.web.server import serving_app
from worker.web.webhooks import webhook_route

DATABASE_PAUSE_SECONDS: Final = 5.0
"""Between two tries of a database that cannot be reached yet when the worker starts."""

log = structlog.get_logger(__name__)


async def serve(settings: Settings, *, clock: Clock, stop: asyncio.Event, migrates: bool, now: bool = False) -> int:
    """Make passes at the scheduled times until told to stop, with `now` also one at once; return the exit code.

    1. Answer on HTTP: alive, but not ready.
    2. Bring the schema up to date, waiting for the database as long as it takes.
    3. Catch up on a missed time, then keep to the schedule.
    4. Told to stop: start nothing more, let the running pass drain, end.

    Raises:
        WorkerError: the address is taken, the key is missing, or the database's schema cannot be used.
        UsageError: no time of the schedule falls into SHARE_HOURS, or leads to them that day.
    """
    schedule, rules = assembly.schedule(settings), assembly.rules(settings)
    following = _require_first_pass(rules, schedule, clock.now())
    metrics = Metrics(CollectorRegistry())
    linq, heartbeat = assembly.linq(settings, clock), assembly.heartbeat(settings)
    whom = assembly.whom(settings, assembly.receivers(settings))
    async with assembly.engine(settings, create=migrates) as engine, linq:
        pruning = Pruning(
            engine,
            rules,
            settings.SHARE_KEEP_DAYS,
            has_webhooks=bool(settings.webhook_secrets),
            clock=clock,
            stop=stop,
        )

        progress = PassProgress(worker=worker_name())

        async def make_pass(trigger: Trigger) -> PassResult:
            progress.begin()
            await assembly.sync_before_pass(settings, engine, clock, stop)
            result = await run_pass(
                engine,
                linq,
                rules,
                assembly.limits(settings),
                trigger=trigger,
                clock=clock,
                stop=stop,
                watch=_watch(metrics, progress),
            )
            pruning.begin()
            return result

        notifier = assembly.notifier(settings, engine, whom, clock, schedule=schedule, counted=metrics.notified)
        scheduler = Scheduler(
            engine,
            schedule,
            rules,
            make_pass=make_pass,
            clock=clock,
            stop=stop,
            metrics=metrics,
            heartbeat=heartbeat,
            notifier=notifier,
        )
        clockwork = timers(scheduler, schedule)
        readiness = Readiness(engine, clock)

        async def unready() -> list[str]:
            reasons = list(await readiness.trouble(busy=scheduler.running))
            if stop.is_set():
                reasons.append("the worker is stopping")
            elif not clockwork.running:
                reasons.append("the scheduler is not running")
            return reasons

        reader = Reader(engine, rules, schedule, clock, has_webhooks=bool(settings.webhook_secrets))
        gate = Gate(settings.HTTP_HOST, settings.status_password, clock)
        pages = page_routes(reader, gate, progress, lambda: scheduler.resume_at)
        inbox = Inbox(engine, linq, clock)
        webhooks = (
            [webhook_route(settings.webhook_secrets, inbox.take, metrics.webhook, HEADERS)]
            if settings.webhook_secrets
            else []
        )
        app = make_app(unready=unready, registry=metrics.registry, webhooks=webhooks, pages=pages)
        async with _listening(app, settings) as base_url:
            log.info("serve.listening", url=base_url, webhooks=bool(webhooks), page=gate.is_there)
            if not await _prepare(engine, clock=clock, stop=stop, migrates=migrates):
                return 0
            clockwork.start()
            log.info(
                "serve.started",
                schedule=schedule.expression,
                timezone=str(schedule.timezone),
                hours=str(rules.hours) if rules.hours else None,
                next=following.isoformat(),
            )
            if now:
                await scheduler.start_now()
            looking = asyncio.create_task(look_around(scheduler, clock, stop))
            await stop.wait()
            clockwork.shutdown(wait=False)
            looking.cancel()
            await scheduler.finished()
            await notifier.finished()
            await pruning.finished()
            await inbox.finished()
            await reader.finished()
            with contextlib.suppress(asyncio.CancelledError):
                await looking
    log.info("serve.ended")
    return 0


@asynccontextmanager
async def _listening(app: ASGIApp, settings: Settings) -> AsyncIterator[str]:
    """Answer on HTTP for the time of the block; gives the base URL.

    Raises:
        WorkerError: the address is taken, or not allowed.
    """
    async with AsyncExitStack() as stack:
        try:
            base_url = await stack.enter_async_context(
                serving_app(app, host=settings.HTTP_HOST, port=settings.HTTP_PORT)
            )
        except OSError as error:
            msg = f"HTTP_HOST and HTTP_PORT: {error.strerror}"
            raise WorkerError(msg) from error
        yield base_url


def _watch(metrics: Metrics, progress: PassProgress) -> Watch:
    """Tells the metrics and the page how a pass goes on."""

    def note_due(chats: int) -> None:
        metrics.due(chats)
        progress.due = chats

    def note_answer(answer: Answer, seconds: float) -> None:
        metrics.answered(answer, seconds)
        progress.outcomes[answer.outcome] += 1

    return Watch(due=note_due, answered=note_answer)


def _require_first_pass(rules: Rules, schedule: Schedule, now: datetime) -> datetime:
    """When the first scheduled pass shares.

    Raises:
        UsageError: it shares at no time at all.
    """
    following = first_pass(rules, schedule, now)
    if following is None:
        msg = f"SHARE_SCHEDULE {schedule.expression!r} leads to no pass in SHARE_HOURS {rules.hours}; change one"
        raise UsageError(msg)
    return following


async def _prepare(engine: AsyncEngine, *, clock: Clock, stop: asyncio.Event, migrates: bool) -> bool:
    """Bring the schema up to date, or check that it is; False if told to stop before the database could be reached."""
    outage = db.Outage(engine.url)
    while not stop.is_set():
        try:
            await db.prepare(engine, migrates=migrates)
        except SQLAlchemyError as error:
            outage.failed(error, clock.monotonic(), patience=math.inf)
        else:
            outage.ended(clock.monotonic())
            return True
        await unless_stopped(stop, clock.sleep(DATABASE_PAUSE_SECONDS))
    return False
