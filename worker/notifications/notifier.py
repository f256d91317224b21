"""Tells people what is in trouble, once, and once when it is well again; NOTIFY_URL says whom.

What was told is kept in the table `notices`, so neither a restart, nor the next `run` of a cron job, nor another
replica tells it again. A message that could not be sent is tried again: by `serve` after growing pauses, else by the
next process. Nothing here raises an error, or holds anything up for longer than `CHECK_SECONDS`.

Without the database nothing can be kept: then a pass that fails is told once by each process.
"""

import asyncio
import contextlib
import secrets as random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.clock import Clock
from worker.ledger import history
from worker.ledger.history import Run
from worker.notifications.message import LONGEST_REASON, compose, without_numbers
from worker.notifications.notices import Notice, add_notices, claim, read_notices, release, settle
from worker.notifications.receivers import Message, Receiver, deliver
from worker.outcomes import RunStatus
from worker.questions.troubles import ABOUT_PASSES, Trouble, TroubleKind, is_well, missed_time, read_troubles
from worker.rules.eligibility import Rules
from worker.rules.schedule import Schedule
from worker.rules.times import first_pass
from worker.text import one_line

CHECK_SECONDS: Final = 20.0
"""The longest that a check may take, the sending included."""

LAST_SECONDS: Final = 3.0
"""How long a check may go on when the worker is told to stop."""

IDLE_SECONDS: Final = 3600.0
"""How often `serve` looks between passes, for webhooks that went silent. A database that sleeps is not woken often."""

ON_TIME: Final = timedelta(minutes=1)
"""A resumption that is this long overdue is no longer told as the next try."""

FIRST_PAUSE: Final = 60.0
"""Seconds before a message that could not be sent is tried again; then twice as long each time, up to IDLE_SECONDS."""

Counted = Callable[[str], None]
"""Counts what became of a message: `sent` or `failed`."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Whom:
    """Who is told, and how a message reads."""

    receivers: Sequence[Receiver]
    rules: Rules
    source: str
    """Names the worker and its database, without a password."""
    secrets: Collection[str] = field(default=(), repr=False)


class Notifier:
    """Looks for what is new in trouble or well again, and tells it; one check at a time."""

    def __init__(
        self,
        engine: AsyncEngine,
        whom: Whom,
        *,
        schedule: Schedule | None,
        has_webhooks: bool,
        clock: Clock,
        counted: Counted | None = None,
    ) -> None:
        self._engine = engine
        self._whom = whom
        self._schedule = schedule
        self._has_webhooks = has_webhooks
        self._clock = clock
        self._counted = counted
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._resume_at: datetime | None = None
        self._missed: datetime | None = None
        """A scheduled time that the scheduler found missed, until that is in the table."""
        self._failure: Trouble | None = None
        """A pass that could not even begin, for want of the database; until a pass is completed."""
        self._told_failure: set[str] = set()
        self._next_look = clock.monotonic()
        self._pause = FIRST_PAUSE

    def look(self) -> None:
        """Begin a check if it is time for one, and none is under way."""
        is_idle = self._task is None or self._task.done()
        if is_idle and self._clock.monotonic() >= self._next_look:
            self.begin(resume_at=self._resume_at)

    def begin(
        self,
        *,
        resume_at: datetime | None = None,
        missed: datetime | None = None,
        failure: str | None = None,
    ) -> None:
        """Begin a check; one that is under way is followed by another one.

        Args:
            resume_at: when a stopped pass is resumed.
            missed: a scheduled time that was missed, whether or not a late pass completes before the check.
            failure: why a pass could not even begin.
        """
        if not self._whom.receivers:
            return
        self._again = True
        self._resume_at = resume_at
        self._missed = missed or self._missed
        if failure is not None:
            self._failure = self._failure or failed_pass(failure, self._clock.now())
            self._failure = replace(self._failure, next_try=resume_at or self._following())
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._checks())

    async def finished(self) -> None:
        """Wait for the check that is under way, for some seconds."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=LAST_SECONDS)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _checks(self) -> None:
        while self._again:
            self._again = False
            await self.check()

    async def check(self) -> None:
        """Look once, and tell what is new."""
        if not self._whom.receivers:
            return
        accepted = False
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                accepted = await self._check(self._clock.now())
        except TimeoutError:
            log.warning("notify.failed", reason=f"not done within {CHECK_SECONDS:g} s")
        except SQLAlchemyError as error:
            log.warning("notify.failed", reason=db.describe(error, self._engine.url))
        except Exception:
            log.exception("notify.failed", reason="the check broke")
        pause = IDLE_SECONDS if accepted else self._pause
        self._pause = FIRST_PAUSE if accepted else min(2 * self._pause, IDLE_SECONDS)
        self._next_look = self._clock.monotonic() + pause

    async def _check(self, now: datetime) -> bool:
        """True if nothing is left to be told.

        Raises:
            SQLAlchemyError: the database could not be read or written.
        """
        accepted = await self._tell_failure() if self._failure is not None else True
        async with db.read(self._engine) as connection:
            troubles = await read_troubles(
                connection,
                self._whom.rules,
                self._schedule,
                now,
                has_webhooks=self._has_webhooks,
            )
            notices = await read_notices(connection)
            ended = await history.passes_ended(connection, 10)
        completed = next((run for run in ended if run.status == RunStatus.COMPLETED), None)
        missed = self._missed
        if missed is not None and not any(trouble.kind is TroubleKind.MISSED for trouble in troubles):
            troubles.append(missed_time(missed, self._following()))
        told_well = self._failure_is_over(completed)
        if self._resume_at is not None and now - self._resume_at < ON_TIME:
            troubles = [
                replace(trouble, next_try=self._resume_at) if trouble.kind in ABOUT_PASSES else trouble
                for trouble in troubles
            ]
        by = random.token_hex(8)
        claimed = await self._claim(troubles, notices, told_well or {}, by=by, now=now)
        self._missed = None if self._missed == missed else self._missed
        if told_well is not None:
            self._failure = None
            self._told_failure = set()
        sending = []
        for receiver in self._whom.receivers:
            of_it = [notice for notice in claimed if notice.receiver == receiver.name]
            if of_it:
                sending.append(self._tell(receiver, of_it, troubles, completed, by=by))
        return all([*await asyncio.gather(*sending), accepted])

    def _following(self) -> datetime | None:
        return first_pass(self._whom.rules, self._schedule, self._clock.now()) if self._schedule else None

    def _failure_is_over(self, completed: Run | None) -> dict[str, Notice] | None:
        """The good news after a pass that could not begin, by receiver; None as long as no pass was completed."""
        failure = self._failure
        if failure is None or failure.since is None or completed is None or completed.started_at < failure.since:
            return None
        return {
            name: Notice(
                cause=failure.cause,
                receiver=name,
                since=failure.since,
                reason=self._safe(failure.reason),
                found_at=failure.since,
                told_at=failure.since,
                claimed_by=None,
                claimed_at=None,
            )
            for name in self._told_failure
        }

    async def _claim(
        self,
        troubles: Sequence[Trouble],
        notices: Sequence[Notice],
        told_well: dict[str, Notice],
        *,
        by: str,
        now: datetime,
    ) -> list[Notice]:
        """Take on what is to be told, as the table has it; nothing is written if nothing is."""
        causes = {trouble.cause for trouble in troubles}
        names = [receiver.name for receiver in self._whom.receivers]
        known = {(notice.cause, notice.receiver) for notice in notices}
        found = [self._notice(trouble, name, now) for trouble in troubles for name in names]
        # A pass that could not begin was told without the table: what comes of it now is known to its receivers.
        found = [replace(notice, told_at=now) if self._knows(notice) else notice for notice in found]
        missing = [notice for notice in [*found, *told_well.values()] if (notice.cause, notice.receiver) not in known]

        def is_wanted(notice: Notice) -> bool:
            if notice.receiver not in names or not notice.is_free(now):
                return False
            if notice.cause in causes:
                return notice.told_at is None
            return is_well(
                notice.cause, troubles, has_schedule=self._schedule is not None, has_webhooks=self._has_webhooks
            )

        if not missing and not any(map(is_wanted, notices)):
            return []
        async with db.write(self._engine) as connection:
            await add_notices(connection, missing)
            wanted = [notice for notice in await read_notices(connection) if is_wanted(notice)]
            return [notice for notice in wanted if await claim(connection, notice, by=by, now=now)]

    def _knows(self, notice: Notice) -> bool:
        return notice.cause == TroubleKind.PASS and notice.receiver in self._told_failure

    def _notice(self, trouble: Trouble, receiver: str, now: datetime) -> Notice:
        return Notice(
            cause=trouble.cause,
            receiver=receiver,
            since=trouble.since,
            reason=self._safe(trouble.reason),
            found_at=now,
            told_at=None,
            claimed_by=None,
            claimed_at=None,
        )

    def _safe(self, reason: str) -> str:
        return without_numbers(one_line(reason, LONGEST_REASON), self._whom.secrets)

    async def _tell(
        self,
        receiver: Receiver,
        claimed: Sequence[Notice],
        troubles: Sequence[Trouble],
        completed: Run | None,
        *,
        by: str,
    ) -> bool:
        causes = {notice.cause for notice in claimed}
        new = [trouble for trouble in troubles if trouble.cause in causes]
        well = [notice for notice in claimed if notice.cause not in {trouble.cause for trouble in new}]
        message = compose(
            new,
            well,
            zone=self._whom.rules.timezone,
            source=self._whom.source,
            completed=completed,
            secrets=self._whom.secrets,
        )
        kinds = [trouble.kind.value for trouble in new]
        good = [notice.cause.partition(":")[0] for notice in well]
        accepted = await send(receiver, message, self._counted, troubles=kinds, well=good)
        try:
            async with db.write(self._engine) as connection:
                if accepted:
                    told, over = [trouble.cause for trouble in new], [notice.cause for notice in well]
                    await settle(connection, by=by, receiver=receiver.name, told=told, well=over, now=self._clock.now())
                else:
                    await release(connection, by=by, receiver=receiver.name)
        except SQLAlchemyError as error:
            log.warning("notify.failed", receiver=receiver.name, reason=db.describe(error, self._engine.url))
            return False
        return accepted

    async def _tell_failure(self) -> bool:
        """Tell of a pass that could not begin those who do not know yet."""
        failure = self._failure
        if failure is None:
            return True
        untold = [receiver for receiver in self._whom.receivers if receiver.name not in self._told_failure]
        accepted = await tell_failure(replace(self._whom, receivers=untold), failure, self._counted)
        self._told_failure.update(accepted)
        return len(accepted) == len(untold)


def failed_pass(reason: str, now: datetime) -> Trouble:
    """A pass that could not even begin."""
    return Trouble(
        kind=TroubleKind.PASS, since=now, reason=f"the pass failed: {reason}", look="share-worker check", next_try=None
    )


async def tell_failure(whom: Whom, failure: Trouble, counted: Counted | None = None) -> list[str]:
    """Tell of a failure that no database keeps; return the names of the receivers who accepted."""
    message = compose([failure], [], zone=whom.rules.timezone, source=whom.source, secrets=whom.secrets)
    kinds = [failure.kind.value]
    sending = (send(receiver, message, counted, troubles=kinds, well=[]) for receiver in whom.receivers)
    accepted = await asyncio.gather(*sending)
    return [receiver.name for receiver, yes in zip(whom.receivers, accepted, strict=True) if yes]


async def send(
    receiver: Receiver, message: Message, counted: Counted | None, *, troubles: Collection[str], well: Collection[str]
) -> bool:
    """Send a message and say in the log what came of it; True if it was accepted."""
    reason = await deliver(receiver, message)
    if counted is not None:
        counted("sent" if reason is None else "failed")
    about = {"receiver": receiver.name, "troubles": sorted(set(troubles)), "well": sorted(set(well))}
    if reason is None:
        log.info("notify.sent", **about)
    else:
        log.warning("notify.failed", **about, reason=reason)
    return reason is None
