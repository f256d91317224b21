"""Job queues on PostgreSQL, given the same work: a job a chat, put in in bulk, its call made, its end recorded."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

from bench.contenders import Plan, Reading, aiohttp_session, httpx_clients, timed

Call = Callable[[int], Awaitable[None]]


@contextlib.asynccontextmanager
async def _with_httpx(plan: Plan) -> AsyncIterator[Call]:
    """Httpx at its fastest; a slot has its client for itself."""
    free = asyncio.Queue[int]()
    for slot in range(plan.in_flight):
        free.put_nowait(slot)
    async with httpx_clients(plan) as call:

        async def call_in_a_slot(number: int) -> None:
            slot = await free.get()
            try:
                await call(slot, number)
            finally:
                free.put_nowait(slot)

        yield call_in_a_slot


@contextlib.asynccontextmanager
async def _with_aiohttp(plan: Plan) -> AsyncIterator[Call]:
    async with aiohttp_session(plan) as call:
        yield lambda number: call(0, number)


async def procrastinate_with_httpx(plan: Plan, reading: Reading) -> None:
    """Procrastinate: jobs deferred in bulk, run by one worker, their end recorded."""
    import procrastinate

    connector = procrastinate.PsycopgConnector(conninfo=plan.database, min_size=10, max_size=20)
    app = procrastinate.App(connector=connector)
    async with app.open_async(), _with_httpx(plan) as call:
        await app.schema_manager.apply_schema_async()

        async def share(number: int) -> None:
            await call(number)

        task = app.task(share, name="share")

        async def work(first: int, count: int) -> None:
            await task.batch_defer_async(*({"number": first + number} for number in range(count)))
            await app.run_worker_async(
                concurrency=plan.in_flight, wait=False, listen_notify=False, install_signal_handlers=False
            )

        await work(plan.shares, plan.in_flight)
        with timed(reading):
            await work(0, plan.shares)


async def pgqueuer_with_httpx(plan: Plan, reading: Reading) -> None:
    """PGQueuer with httpx."""
    async with _with_httpx(plan) as call:
        await _pgqueuer(plan, reading, call)


async def pgqueuer_with_aiohttp(plan: Plan, reading: Reading) -> None:
    """PGQueuer with aiohttp."""
    async with _with_aiohttp(plan) as call:
        await _pgqueuer(plan, reading, call)


async def _pgqueuer(plan: Plan, reading: Reading, call: Call) -> None:
    import asyncpg
    import pgqueuer
    from pgqueuer.domain.types import QueueExecutionMode

    async with asyncpg.create_pool(plan.database, min_size=4, max_size=10) as pool:
        queries = pgqueuer.Queries.from_asyncpg_pool(pool)
        await queries.install()

        async def share(job: pgqueuer.Job) -> None:
            await call(int(job.payload or b"0"))

        async def work(first: int, count: int) -> None:
            payloads = [str(first + number).encode() for number in range(count)]
            await queries.enqueue(["share"] * count, payloads, [0] * count)
            manager = pgqueuer.QueueManager(queries)
            manager.entrypoint("share")(share)
            await manager.run(
                mode=QueueExecutionMode.drain,
                batch_size=plan.in_flight // 2,
                max_concurrent_tasks=plan.in_flight,
                dequeue_timeout=timedelta(seconds=1),
            )

        await work(plan.shares, plan.in_flight)
        with timed(reading):
            await work(0, plan.shares)
