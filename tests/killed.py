"""A pass in a process of its own, which kills itself at a chosen step: SIGKILL, so nothing of it runs any more.

Not one `finally`, no rollback, no last word to the server: what is left behind is what the kernel leaves.
The processes are forked from one that has everything imported, so that each costs some hundredths of a second.
"""

import asyncio
import contextvars
import os
import signal
from collections.abc import Callable
from ctypes import c_double
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing.context import ForkServerProcess
from typing import TypeVarTuple

import structlog

from tests.forked import FORKS
from worker import db
from worker.linq.client import Linq
from worker.outcomes import Trigger
from worker.rules.eligibility import Rules
from worker.sharing.limits import Limits
from worker.sharing.share_pass import run_pass

Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What a process is to do before it dies."""

    database_url: str
    base_url: str
    api_key: str
    rules: Rules
    limits: Limits
    starts_at: datetime
    """What its clock says; it moves only when it is slept on."""
    dies_at: int | None
    """The step of its event loop, counted from the first one of the pass, that it does not live to see."""


class Mortal(asyncio.SelectorEventLoop):
    """An event loop whose process is killed when it is asked for one step too many."""

    steps_left: int | None = None

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        self._age()
        return super().call_soon(callback, *args, context=context)

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        self._age()
        return super().call_soon_threadsafe(callback, *args, context=context)

    def _age(self) -> None:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                os.kill(os.getpid(), signal.SIGKILL)


class _Clock:
    """Its process's clock; how far it was moved is seen from outside."""

    def __init__(self, starts_at: datetime, slept: c_double) -> None:
        self._starts_at = starts_at
        self._slept = slept

    def now(self) -> datetime:
        return self._starts_at + timedelta(seconds=self._slept.value)

    def monotonic(self) -> float:
        return self._slept.value

    async def sleep(self, seconds: float) -> None:
        self._slept.value += seconds
        await asyncio.sleep(0)


def send(errand: Errand) -> tuple[ForkServerProcess, c_double]:
    """Start the process; with it, the seconds that its clock has moved so far."""
    slept = FORKS.RawValue(c_double, 0.0)  # without a lock: who dies may hold it
    process = FORKS.Process(target=_perform, args=(errand, slept), daemon=True)
    process.start()
    return process, slept


async def ended(process: ForkServerProcess) -> int:
    """Let the loop turn until the process is dead; return its exit code."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(process.sentinel, gone.set)
    await gone.wait()
    loop.remove_reader(process.sentinel)
    process.join()
    code = process.exitcode
    process.close()
    assert code is not None
    return code


def _perform(errand: Errand, slept: c_double) -> None:
    structlog.configure(processors=[_drop])
    with asyncio.Runner(loop_factory=Mortal) as runner:
        runner.run(_pass(errand, _Clock(errand.starts_at, slept)))


async def _pass(errand: Errand, clock: _Clock) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Mortal)
    linq = Linq(
        errand.api_key, base_url=errand.base_url, timeout=30, connections=errand.limits.concurrency, clock=clock
    )
    async with db.opened(db.parse_url(errand.database_url)) as engine, linq:
        loop.steps_left = errand.dies_at
        await run_pass(
            engine, linq, errand.rules, errand.limits, trigger=Trigger.COMMAND, clock=clock, stop=asyncio.Event()
        )


def _drop(_logger: object, _method: str, _event: object) -> str:
    raise structlog.DropEvent
