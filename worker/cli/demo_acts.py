"""The demonstration's acts: what is done to the workers, and what the ledger says came of it. Prints nothing."""

import asyncio
import sys
from asyncio.subprocess import Process
from collections import Counter
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.chats.sync import Synced, sync_chats
from worker.cli.demo_workers import Workplace, completed, kill, working
from worker.cli.output import sync as sync_output
from worker.cli.output.progress import progress
from worker.clock import SystemClock
from worker.errors import WorkerError
from worker.ledger import attempts, history
from worker.linq.client import Linq
from worker.linq.read_pace import ReadPace
from worker.outcomes import Outcome, PassResult, Trigger
from worker.rules.eligibility import Rules
from worker.sharing.limits import Limits
from worker.sharing.share_pass import run_pass
from worker.simulator.account import Account
from worker.simulator.faults import Fault

LATENCY_SECONDS: Final = 0.05
"""What a request to the real API roughly takes, and long enough to be killed in."""

KILLED_AFTER: Final = 40
"""The worker is killed when Linq has counted so many of its requests."""

LOSING_PASS: Final = 40
LOST_AFTER: Final = 10
"""Of so many requests, the one after so many others is not answered."""

PER_SECOND: Final = "60"
"""Requests a second of each of two workers at once: slow enough that both take part, whichever starts first."""

LOOK_SECONDS: Final = 0.005

RUNS: Final = 10
"""More than the passes of a demonstration."""

Outcomes = Counter[Outcome]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Where the acts take place."""

    engine: AsyncEngine
    account: Account
    workplace: Workplace
    stop: asyncio.Event


def answer_slowly(account: Account, first: Fault | None = None) -> None:
    """Let the simulated Linq take its time for each share, but for those that another fault strikes first."""
    account.clear_faults()
    if first is not None:
        account.add_fault(first)
    account.add_fault(Fault(path="share", delay_seconds=LATENCY_SECONDS))


async def sync(scene: Scene) -> tuple[Synced, int, float]:
    """Read the chats from Linq; what came of it, the requests and the seconds that it took."""
    clock, done = SystemClock(), Synced()
    began = clock.monotonic()
    pace = ReadPace(0, clock)
    async with Linq(scene.account.api_key, base_url=scene.workplace.base_url, pace=pace) as linq:
        with sync_output.progress(done, 0, shown=sys.stderr.isatty()) as show:
            await sync_chats(scene.engine, linq, done, concurrency=20, clock=clock, stop=scene.stop, watch=show)
    return done, pace.reads, clock.monotonic() - began


async def one_pass(scene: Scene, *, at_most: int | None = None) -> PassResult:
    """A pass in this process."""
    async with Linq(scene.account.api_key, base_url=scene.workplace.base_url) as linq:
        with progress(shown=sys.stderr.isatty()) as watch:
            return await run_pass(
                scene.engine,
                linq,
                Rules(),
                Limits(per_second=0, at_most=at_most),
                trigger=Trigger.COMMAND,
                clock=SystemClock(),
                stop=scene.stop,
                watch=watch,
            )


async def kill_one(scene: Scene) -> Outcomes:
    """Start a worker, and kill it in the middle of its pass."""
    answer_slowly(scene.account)
    calls = scene.account.share_calls
    enough = len(calls) + KILLED_AFTER
    async with working(scene.workplace) as process:
        while len(calls) < enough and process.returncode is None:  # noqa: ASYNC110 -- a list has no event
            await asyncio.sleep(LOOK_SECONDS)
        if process.returncode is not None:
            await completed(process)
        kill(process)
    return (await _of_process(scene.engine, process))[1]


async def lose_one(scene: Scene) -> tuple[Outcomes, str]:
    """Let a worker make a pass in which one share is counted and not answered; also the id of that chat.

    Raises:
        WorkerError: the worker did not complete its pass, or the ledger has no lost answer.
    """
    answer_slowly(scene.account, Fault(path="share", drop="after", after=LOST_AFTER, times=1))
    async with working(scene.workplace, "--limit", str(LOSING_PASS)) as process:
        await completed(process)
    run_id, outcomes = await _of_process(scene.engine, process)
    lost = history.AttemptFilter(run_id=run_id, outcomes=[Outcome.UNKNOWN])
    async for attempt in history.attempts(scene.engine, lost):
        return outcomes, attempt.chat_id
    msg = "the answer that the demo lost is not in the ledger as unknown; please report this"
    raise WorkerError(msg)


async def race_two(scene: Scene) -> tuple[Outcomes, Outcomes]:
    """Start two workers at once, and wait for both.

    Raises:
        WorkerError: one of them did not complete its pass.
    """
    answer_slowly(scene.account)
    slowly = {"SHARE_MAX_PER_SECOND": PER_SECOND}
    async with working(scene.workplace, **slowly) as one, working(scene.workplace, **slowly) as other:
        await asyncio.gather(completed(one), completed(other))
    return (await _of_process(scene.engine, one))[1], (await _of_process(scene.engine, other))[1]


async def outcomes_of(scene: Scene, result: PassResult) -> Outcomes:
    """What the ledger has of a pass."""
    async with db.read(scene.engine) as connection:
        return Counter(await attempts.outcomes_of(connection, result.run_id))


def called_twice(account: Account) -> int:
    """How many chats the simulated Linq was asked to share with more than once."""
    return sum(count > 1 for count in Counter(call.chat_id for call in account.share_calls).values())


async def _of_process(engine: AsyncEngine, process: Process) -> tuple[str, Outcomes]:
    """A worker process's pass, by its id, and what the ledger has of it."""
    async with db.read(engine) as connection:
        for run in await history.latest_runs(connection, RUNS):
            if run.worker.endswith(f":{process.pid}"):
                return run.id, Counter(await attempts.outcomes_of(connection, run.id))
    msg = f"the ledger has no pass of the worker process {process.pid}; please report this"
    raise WorkerError(msg)
