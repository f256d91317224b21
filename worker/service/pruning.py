"""SHARE_KEEP_DAYS under `serve`: after a pass, what the ledger no longer needs is removed."""

import asyncio
from datetime import datetime, timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.chats import events
from worker.clock import Clock
from worker.ledger import prune
from worker.rules.eligibility import Rules

log = structlog.get_logger(__name__)


class Pruning:
    """Removes attempts and runs from before the last `keep_days` share days; 0 keeps all.

    And, if the service takes in webhooks, the messages that can fail no more.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        rules: Rules,
        keep_days: int,
        *,
        clock: Clock,
        stop: asyncio.Event,
        has_webhooks: bool = False,
    ) -> None:
        self._engine = engine
        self._rules = rules
        self._keep_days = keep_days
        self._has_webhooks = has_webhooks
        self._clock = clock
        self._stop = stop
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin to remove, unless the last time is not over yet."""
        if (self._keep_days or self._has_webhooks) and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._remove())

    async def finished(self) -> None:
        """Wait for the end of what was begun; told to stop, that is soon."""
        if self._task is not None:
            await self._task

    async def _remove(self) -> None:
        now = self._clock.now()
        try:
            if self._has_webhooks:
                async with db.write(self._engine) as connection:
                    await events.forget_old(connection, now)
            if self._keep_days:
                await self._prune(now)
        except SQLAlchemyError as error:
            log.warning("ledger.unpruned", reason=db.describe(error, self._engine.url))

    async def _prune(self, now: datetime) -> None:
        oldest_kept = self._rules.share_day(now) - timedelta(days=self._keep_days)
        before = min(oldest_kept, prune.latest_allowed(self._rules, now))
        gone = await prune.remove(self._engine, self._rules, before, clock=self._clock, stop=self._stop)
        if gone.attempts or gone.runs:
            log.info("ledger.pruned", before=before.isoformat(), attempts=gone.attempts, runs=gone.runs)
