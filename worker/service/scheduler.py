"""When passes are made: at the scheduled times, late if one was missed, again if one was stopped.

What is owed is decided from the clock and the table `runs`, not from a timer's memory: `Scheduler.turn` may be called
at any time and any number of times, and starts a pass only if one is owed and none runs. APScheduler calls it at each
scheduled time, and `look_around` every few seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from typing import Final

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.clock import Clock
from worker.ledger import runs
from worker.notifications.heartbeat import Heartbeat
from worker.notifications.notifier import Notifier
from worker.outcomes import PassResult, RunStatus, Trigger
from worker.rules.eligibility import Rules
from worker.rules.schedule import Schedule
from worker.service.metrics import Metrics

ON_TIME: Final = timedelta(seconds=60)
"""A pass that starts later than this after its time is late: the time was missed."""

LOOK_SECONDS: Final = 15
"""How often the scheduler checks whether something is owed that no timer reported."""

FIRST_PAUSE: Final = timedelta(minutes=1)
LONGEST_PAUSE: Final = timedelta(minutes=60)
"""The pause after a refused key, and the longest one if Linq names no time."""

MakePass = Callable[[Trigger], Awaitable[PassResult]]

log = structlog.get_logger(__name__)


class Scheduler:
    """Decides when a pass is owed, and makes one at a time."""

    def __init__(
        self,
        engine: AsyncEngine,
        schedule: Schedule,
        rules: Rules,
        *,
        make_pass: MakePass,
        clock: Clock,
        stop: asyncio.Event,
        metrics: Metrics,
        heartbeat: Heartbeat,
        notifier: Notifier | None = None,
    ) -> None:
        self._engine = engine
        self._schedule = schedule
        self._rules = rules
        self._make_pass = make_pass
        self._clock = clock
        self._stop = stop
        self._metrics = metrics
        self._heartbeat = heartbeat
        self._notifier = notifier
        self._handled: datetime | None = None
        """The latest scheduled time that needs nothing more; None if only the table `runs` knows."""
        self._yesterday_reported = False
        self._resume_at: datetime | None = None
        self._longest_wait = LONGEST_PAUSE
        self._stopped_at = clock.now()
        self._pauses = 0
        self._pass: asyncio.Task[None] | None = None
        self._pass_day: date | None = None
        self._turning = asyncio.Lock()

    @property
    def running(self) -> bool:
        """Whether a pass runs."""
        return self._pass is not None and not self._pass.done()

    @property
    def resume_at(self) -> datetime | None:
        """When a stopped pass is resumed; None if none is to be."""
        return self._resume_at

    async def turn(self) -> None:
        """Look at the clock, and start what is owed."""
        async with self._turning:
            if not self._stop.is_set():
                await self._look(self._clock.now())

    async def start_now(self) -> None:
        """Start a pass at once, whatever the schedule says; the scheduled times stay as they are."""
        async with self._turning:
            self._start(Trigger.COMMAND, self._rules.share_day(self._clock.now()))

    async def finished(self) -> None:
        """Wait for the pass that runs, if one does."""
        if self._pass is not None:
            await self._pass

    async def _look(self, now: datetime) -> None:
        self._metrics.next_fire(self._schedule.after(now))
        if not self._yesterday_reported:
            self._yesterday_reported = await self._report_yesterday(now)
        if self._handled is not None and self._handled - now > ON_TIME:
            self._handled = None  # the clock was stepped back, by more than it drifts
        fire = self._schedule.latest_on(self._rules.share_day(now), now)
        if fire is not None and (self._handled is None or fire > self._handled):
            await self._handle(fire, now)
        elif self._handled is None:
            self._handled = now
        elif self._resume_at is not None and not self.running:
            await self._resume(now)
        if self._notifier is not None and not self.running:
            self._notifier.look()

    async def _handle(self, fire: datetime, now: datetime) -> None:
        """A scheduled time has come, or was missed: start its pass, unless that needs none."""
        day = self._rules.share_day(now)
        if self.running:
            self._skip(fire, day)
            return
        try:
            trigger = await self._owed(fire, now)
        except SQLAlchemyError as error:
            self._metrics.scheduled("failed")
            log.error("schedule.failed", fire=fire.isoformat(), reason=db.describe(error, self._engine.url))
            return  # still owed: the next look tries again
        self._handled = fire
        if trigger is None:
            return
        if trigger is Trigger.CATCH_UP:
            self._metrics.scheduled("missed")
            log.warning("schedule.missed", fire=fire.isoformat(), late_seconds=round((now - fire).total_seconds()))
            self._notify(missed=fire, resume_at=now)
        self._resume_at, self._pauses = None, 0
        self._start(trigger, day)

    async def _owed(self, fire: datetime, now: datetime) -> Trigger | None:
        """Which pass a scheduled time still needs: none, the scheduled one, a late one, or the rest of one that began.

        Only a time that is late, or that this process has not seen coming, is looked up in the table `runs`.

        Raises:
            SQLAlchemyError: the database could not be asked.
        """
        late = now - fire > ON_TIME
        if not late and self._handled is not None:
            return Trigger.SCHEDULE
        day = self._rules.share_day(now)
        async with db.read(self._engine) as connection:
            if await runs.is_done(connection, day, started_after=fire):
                return None
            if await runs.has_been_served(connection, day, fire):
                return Trigger.RESUME  # by another worker, or by this one before a restart
            if late and self._handled is None and not await runs.has_run_before(connection, fire):
                log.info("schedule.waiting", reason="first start: nothing was missed", next=self._next(now))
                return None
        return Trigger.CATCH_UP if late else Trigger.SCHEDULE

    def _next(self, now: datetime) -> str | None:
        at = self._schedule.after(now)
        return at.isoformat() if at else None

    def _skip(self, fire: datetime, day: date) -> None:
        """A scheduled time came while a pass runs: it is skipped, unless that pass belongs to a day that is over."""
        if self._pass_day == day:
            self._handled = fire
            self._metrics.scheduled("skipped")
            log.warning("schedule.skipped", fire=fire.isoformat(), reason="the previous pass is still running")

    async def _resume(self, now: datetime) -> None:
        """Resume a stopped pass, if its pause is over, its day is not, and no other worker has finished it since."""
        resume_at = self._resume_at
        if resume_at is None or (now < resume_at and resume_at - now <= self._longest_wait):
            return
        self._resume_at = None
        day = self._rules.share_day(now)
        if self._pass_day != day:
            log.warning("schedule.abandoned", reason="the share day of the stopped pass is over")
            return
        try:
            async with db.read(self._engine) as connection:
                done = await runs.is_done(connection, day, finished_after=self._stopped_at)
                completed = await runs.last_completed(connection)
        except SQLAlchemyError:
            done = False  # the pass will report it
        if done:
            self._metrics.finished_elsewhere(completed)
        else:
            self._start(Trigger.RESUME, day)

    def _start(self, trigger: Trigger, day: date) -> None:
        self._metrics.scheduled("fired")
        log.info("schedule.fired", trigger=trigger.value)
        self._pass_day = day
        self._pass = asyncio.create_task(self._run(trigger))

    async def _run(self, trigger: Trigger) -> None:
        """Make a pass; whatever comes of it, the scheduler goes on."""
        self._metrics.pass_started()
        result: PassResult | None = None
        failure: str | None = None
        try:
            result = await self._heartbeat.around(self._make_pass(trigger), self._stop)
        except SQLAlchemyError as error:
            failure = db.describe(error, self._engine.url)
            log.error("schedule.failed", trigger=trigger.value, reason=failure)
        except Exception as error:
            failure = type(error).__name__
            log.exception("schedule.failed", trigger=trigger.value)
        self._plan_after(trigger, result)
        if not self._stop.is_set():
            self._notify(resume_at=self._resume_at, failure=failure)

    def _plan_after(self, trigger: Trigger, result: PassResult | None) -> None:
        """Count a pass that ended, None if it could not begin, and plan whether and when it is resumed."""
        self._stopped_at = self._clock.now()
        self._metrics.pass_ended(trigger, result)
        if result is not None and result.status is RunStatus.COMPLETED:
            self._pauses = 0
            if result.resume_at is not None and not self._stop.is_set():
                self._resume_later(result.resume_at, reason="a line that Linq refused rests until then")
            return
        if result is None or result.status is RunStatus.FAILED:
            self._metrics.scheduled("failed")
        if not self._stop.is_set():  # else the next worker resumes it
            self._plan_resumption(result)

    def _notify(
        self, *, resume_at: datetime | None = None, missed: datetime | None = None, failure: str | None = None
    ) -> None:
        if self._notifier is not None:
            self._notifier.begin(resume_at=resume_at, missed=missed, failure=failure)

    def _plan_resumption(self, result: PassResult | None) -> None:
        """Growing pauses, at least as long as Linq asks for; a refused key waits longest; never into another day."""
        self._pauses += 1
        pause = min(FIRST_PAUSE * 2 ** (self._pauses - 1), LONGEST_PAUSE)
        if result is not None and result.access_refused:
            pause = LONGEST_PAUSE
        if result is not None and result.retry_after is not None:
            pause = max(pause, timedelta(seconds=min(result.retry_after, 10**6)))
        self._resume_later(self._clock.now() + pause)

    def _resume_later(self, at: datetime, *, reason: str | None = None) -> None:
        """Plan to resume the pass, in SHARE_HOURS; never on another share day."""
        now = self._clock.now()
        at = self._rules.opening(at)
        if self._rules.share_day(at) != self._rules.share_day(now):
            log.warning("schedule.abandoned", reason="the share day ends before another try")
            return
        self._resume_at, self._longest_wait = at, at - now
        log.warning(
            "schedule.resuming", at=at.isoformat(), minutes=round((at - now).total_seconds() / 60, 1), reason=reason
        )

    async def _report_yesterday(self, now: datetime) -> bool:
        """On the first look: report a day before that had its time and no pass; it is too late to catch up on it.

        False: the database could not be asked.
        """
        day = self._rules.share_day(now) - timedelta(days=1)
        fire = self._schedule.latest_on(day, now)
        try:
            async with db.read(self._engine) as connection:
                self._metrics.completed(await runs.last_completed(connection))
                if fire is None or not await runs.has_run_before(connection, fire):
                    return True
                if await runs.has_run_on(connection, day):
                    return True
        except SQLAlchemyError:
            return False
        self._metrics.scheduled("missed")
        log.warning("schedule.missed", fire=fire.isoformat(), reason="its share day is over, so there is no late pass")
        self._notify(missed=fire)
        return True


class CrontabTrigger(BaseTrigger):  # type: ignore[misc] # APScheduler 3 has no types
    """Fires at the times of a `Schedule`: APScheduler's own cron trigger numbers the weekdays differently from cron."""

    __slots__ = ("_schedule",)

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        """The first time after the last one, or after now."""
        return self._schedule.after(previous or now)


def timers(scheduler: Scheduler, schedule: Schedule) -> AsyncIOScheduler:
    """APScheduler, set up to call `turn` at the scheduled times; a late call is made once."""
    timers = AsyncIOScheduler(timezone="UTC")
    trigger = CrontabTrigger(schedule)
    timers.add_job(scheduler.turn, trigger, max_instances=1, coalesce=True, misfire_grace_time=None)
    return timers


async def look_around(scheduler: Scheduler, clock: Clock, stop: asyncio.Event) -> None:
    """Call `turn` every few seconds by the monotonic clock, until told to stop.

    APScheduler's timers are set by the time of day: a machine that slept, or a clock that was stepped, may delay them
    for hours.
    """
    while not stop.is_set():
        try:
            await scheduler.turn()
        except Exception:
            log.exception("schedule.failed", reason="a look at the clock broke")
        await clock.sleep(LOOK_SECONDS)
