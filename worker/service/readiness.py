"""What `/readyz` says of the database, without a query for each time it is asked.

A probe may ask every second. A database that suspends when idle must stay asleep between passes, so a good answer is
kept for long while no pass runs. A bad one is looked at again after a second.
"""

import asyncio
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.clock import Clock
from worker.errors import SchemaError

IDLE_SECONDS: Final = 3600.0
BUSY_SECONDS: Final = 5.0
"""How long a good answer is kept: while no pass runs, and while one does."""

BAD_SECONDS: Final = 1.0
"""How long a bad answer is kept."""

ANSWER_SECONDS: Final = 3.0
"""How long the database may take."""


class Readiness:
    """The last look at the database, and when it has to be looked at again."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._trouble: list[str] = []
        self._looked_at: float | None = None

    async def trouble(self, *, busy: bool) -> list[str]:
        """Why the worker cannot use its database; empty if it can. `busy`: a pass runs."""
        longest = BAD_SECONDS if self._trouble else BUSY_SECONDS if busy else IDLE_SECONDS
        now = self._clock.monotonic()
        if self._looked_at is None or now - self._looked_at >= longest:
            self._trouble = await self._look()
            self._looked_at = now
        return self._trouble

    async def _look(self) -> list[str]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await db.require_current_schema(self._engine)
        except SchemaError as error:
            return [str(error)]
        except SQLAlchemyError as error:
            return [db.describe(error, self._engine.url)]
        except TimeoutError:
            return [f"the database did not answer within {ANSWER_SECONDS:g} s"]
        return []
