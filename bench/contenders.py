"""What is measured: the worker, and what one would otherwise run. Each makes share calls, 50 at a time.

All do the same work: one POST a chat over kept connections, each warmed up before the clock starts, no retries, no
logging but the worker's own. Those with a database keep a record of each call in it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from bench import machine

KEY: Final = "bench-key-that-is-long-enough"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do: how many calls, where."""

    base_url: str
    shares: int
    in_flight: int
    database: str | None = None
    """A DATABASE_URL: with chats for the worker, without any table for the queues."""

    def path(self, number: int) -> str:
        """The path of one chat's share call."""
        return f"/v3/chats/{self.chat(number)}/share_contact_card"

    def chat(self, number: int) -> str:
        """A chat id, as long as Linq's."""
        return f"00000000-0000-4000-8000-{number:012}"


@dataclass(kw_only=True)
class Reading:
    """What was measured: seconds by the wall's clock, seconds of CPU, and the process's greatest memory so far."""

    seconds: float = 0.0
    cpu: float = 0.0
    peak_mb: float = 0.0
    notes: dict[str, float] = field(default_factory=dict)


Contender = Callable[[Plan, Reading], Awaitable[None]]


@contextlib.contextmanager
def timed(reading: Reading) -> Iterator[None]:
    """Measure the block."""
    seconds, cpu = time.perf_counter(), time.process_time()
    yield
    reading.seconds, reading.cpu = time.perf_counter() - seconds, time.process_time() - cpu
    reading.peak_mb = machine.peak_mb()


async def in_slots(plan: Plan, reading: Reading, call: Callable[[int, int], Awaitable[None]]) -> None:
    """Make the calls in `in_flight` slots, each slot one after the other; first one a slot, to warm up."""

    async def work(slot: int, numbers: Iterator[int]) -> None:
        for number in numbers:
            await call(slot, number)

    await asyncio.gather(*(call(slot, plan.shares + slot) for slot in range(plan.in_flight)))
    numbers = iter(range(plan.shares))
    with timed(reading):
        await asyncio.gather(*(work(slot, numbers) for slot in range(plan.in_flight)))


async def sdk_in_a_loop(plan: Plan, reading: Reading) -> None:
    """The official SDK, one call after the other."""
    import linq

    with linq.LinqAPIV3(api_key=KEY, base_url=plan.base_url, max_retries=0) as client:
        client.chats.share_contact_card(plan.chat(plan.shares))
        with timed(reading):
            for number in range(plan.shares):
                client.chats.share_contact_card(plan.chat(number))


async def sdk_async(plan: Plan, reading: Reading) -> None:
    """The official async SDK as it comes."""
    import linq

    async with linq.AsyncLinqAPIV3(api_key=KEY, base_url=plan.base_url, max_retries=0) as client:

        async def call(_slot: int, number: int) -> None:
            await client.chats.share_contact_card(plan.chat(number))

        await in_slots(plan, reading, call)


async def sdk_async_on_aiohttp(plan: Plan, reading: Reading) -> None:
    """The official async SDK with the aiohttp transport that it offers."""
    import linq

    async with linq.AsyncLinqAPIV3(
        api_key=KEY, base_url=plan.base_url, max_retries=0, http_client=linq.DefaultAioHttpClient()
    ) as client:

        async def call(_slot: int, number: int) -> None:
            await client.chats.share_contact_card(plan.chat(number))

        await in_slots(plan, reading, call)


async def httpx_one_client(plan: Plan, reading: Reading) -> None:
    """One httpx.AsyncClient with its default limits."""
    import httpx

    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=plan.base_url, headers=headers, timeout=30) as client:

        async def call(_slot: int, number: int) -> None:
            (await client.post(plan.path(number))).raise_for_status()

        await in_slots(plan, reading, call)


@contextlib.asynccontextmanager
async def httpx_clients(plan: Plan) -> "AsyncIterator[Callable[[int, int], Awaitable[None]]]":
    """50 httpx clients of one connection each: httpx at its fastest."""
    import httpx

    headers = {"Authorization": f"Bearer {KEY}"}
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    context = httpx.create_ssl_context()
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=plan.base_url, headers=headers, timeout=30, limits=limits, verify=context)
            )
            for _ in range(plan.in_flight)
        ]

        async def call(slot: int, number: int) -> None:
            (await clients[slot].post(plan.path(number))).raise_for_status()

        yield call


async def httpx_many_clients(plan: Plan, reading: Reading) -> None:
    """50 httpx clients of one connection each: the transport that the worker uses, without a database."""
    async with httpx_clients(plan) as call:
        await in_slots(plan, reading, call)


@contextlib.asynccontextmanager
async def aiohttp_session(plan: Plan) -> "AsyncIterator[Callable[[int, int], Awaitable[None]]]":
    import aiohttp

    headers = {"Authorization": f"Bearer {KEY}"}
    connector = aiohttp.TCPConnector(limit=plan.in_flight)
    async with aiohttp.ClientSession(plan.base_url, headers=headers, connector=connector) as session:

        async def call(_slot: int, number: int) -> None:
            async with session.post(plan.path(number)) as response:
                await response.read()
                response.raise_for_status()

        yield call


async def aiohttp_bare(plan: Plan, reading: Reading) -> None:
    """A bare aiohttp session, no database."""
    async with aiohttp_session(plan) as call:
        await in_slots(plan, reading, call)


async def our_client(plan: Plan, reading: Reading) -> None:
    """The worker's own API client alone: no database, no claim, no record."""
    from worker.linq.client import Linq

    async with Linq(KEY, base_url=plan.base_url, connections=plan.in_flight) as linq:

        async def call(_slot: int, number: int) -> None:
            await linq.share(plan.chat(number))

        await in_slots(plan, reading, call)


async def our_pass(plan: Plan, reading: Reading) -> None:
    """A whole pass of the worker: cards, claims, calls, records, tally; with its logs, as JSON."""
    from worker import db
    from worker.clock import SystemClock
    from worker.linq.client import Linq
    from worker.logs import configure_logging
    from worker.outcomes import PassResult, Trigger
    from worker.rules.eligibility import Rules
    from worker.sharing.limits import Limits
    from worker.sharing.share_pass import run_pass

    configure_logging(form="json", level="info", secrets=[KEY])
    clock = SystemClock()
    linq = Linq(KEY, base_url=plan.base_url, connections=plan.in_flight, clock=clock)
    async with db.opened(db.parse_url(plan.database or "")) as engine, linq:

        async def one_pass(at_most: int | None) -> PassResult:
            limits = Limits(concurrency=plan.in_flight, per_second=0, at_most=at_most)
            return await run_pass(
                engine, linq, Rules(), limits, trigger=Trigger.COMMAND, clock=clock, stop=asyncio.Event()
            )

        await one_pass(plan.in_flight)
        with timed(reading):
            result = await one_pass(None)
        if result.tally is None or result.tally["shared"] != plan.shares:
            msg = f"the pass was to share {plan.shares}: {result}"
            raise RuntimeError(msg)
