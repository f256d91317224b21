"""Answers to slow questions, kept for a while and asked for again only while somebody looks.

A page shows the latest answer and when it was given. A question that takes long is asked the less often, so that the
page never costs more than a small part of the database's time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Generic, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from worker.clock import Clock
from worker.errors import DatabaseError

PART_OF_TIME: Final = 30
"""An answer that took a second is kept for so many."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Figure(Generic[T]):
    """The latest answer; `value` is None before the first one."""

    value: T | None = None
    at: datetime | None = None
    """When it was asked."""
    failure: str | None = None
    """Why the latest try gave no answer; the value is an older one then."""


class Latest(Generic[T]):
    """One question, and its latest answer."""

    def __init__(
        self,
        ask: Callable[[datetime], Awaitable[T]],
        describe: Callable[[BaseException], str],
        clock: Clock,
        *,
        slots: asyncio.Semaphore,
        kept_seconds: float,
    ) -> None:
        self._ask = ask
        self._describe = describe
        self._clock = clock
        self._slots = slots
        self._kept_seconds = kept_seconds
        self._kept_until = clock.monotonic()
        self._figure: Figure[T] = Figure()
        self._asking: asyncio.Task[None] | None = None

    async def get(self, patience: float) -> Figure[T]:
        """The latest answer. If it is old, it is asked for again, and waited for at most `patience` seconds."""
        if self._asking is None and self._clock.monotonic() >= self._kept_until:
            self._asking = asyncio.create_task(self._renew())
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=patience)
        return self._figure

    async def finished(self) -> None:
        """End what is being asked."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def _renew(self) -> None:
        took = 0.0
        try:
            async with self._slots:
                now, began = self._clock.now(), self._clock.monotonic()
                value = await self._ask(now)
                took = self._clock.monotonic() - began
            self._figure = Figure(value=value, at=now)
        except (SQLAlchemyError, DatabaseError, OSError) as error:
            self._figure = replace(self._figure, failure=self._describe(error))
        except Exception as error:
            log.exception("page.broke")
            failure = f"a bug of the worker: {type(error).__name__}; its log says more"
            self._figure = replace(self._figure, failure=failure)
        finally:
            self._kept_until = self._clock.monotonic() + max(self._kept_seconds, PART_OF_TIME * took)
            self._asking = None
