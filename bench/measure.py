"""One measurement in a process of its own: `python -m bench.measure NAME ...` prints what it read, as JSON."""

import argparse
import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from typing import Final

from bench import contenders, machine, queues
from bench.contenders import Contender, Plan, Reading


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A contender in the table: what it is called, what it runs, and on how many shares in a round."""

    title: str
    run: Contender
    at_0_ms: int = 4_000
    at_50_ms: int = 4_000
    ours: bool = False


ENTRIES: Final = {
    "sdk-loop": Entry(title="official SDK in a for-loop", run=contenders.sdk_in_a_loop, at_0_ms=1_500, at_50_ms=60),
    "sdk-async": Entry(title="official async SDK, 50 slots", run=contenders.sdk_async, at_0_ms=1_500, at_50_ms=1_500),
    "sdk-aiohttp": Entry(title="the same on its aiohttp transport", run=contenders.sdk_async_on_aiohttp),
    "httpx-one": Entry(
        title="one httpx client, default limits", run=contenders.httpx_one_client, at_0_ms=1_500, at_50_ms=1_500
    ),
    "httpx-many": Entry(title="50 httpx clients of one connection", run=contenders.httpx_many_clients),
    "aiohttp": Entry(title="bare aiohttp, no database", run=contenders.aiohttp_bare, at_0_ms=10_000),
    "procrastinate": Entry(
        title="Procrastinate, httpx, PostgreSQL", run=queues.procrastinate_with_httpx, at_0_ms=500, at_50_ms=500
    ),
    "pgqueuer-httpx": Entry(title="PGQueuer, httpx, PostgreSQL", run=queues.pgqueuer_with_httpx, at_0_ms=2_000),
    "pgqueuer-aiohttp": Entry(title="PGQueuer, aiohttp, PostgreSQL", run=queues.pgqueuer_with_aiohttp),
    "our-client": Entry(title="share-worker's client alone", run=contenders.our_client, ours=True),
    "ours-postgresql": Entry(title="share-worker, PostgreSQL", run=contenders.our_pass, ours=True),
    "ours-sqlite": Entry(title="share-worker, SQLite", run=contenders.our_pass, ours=True),
}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description="Measure one contender.")
    parser.add_argument("name", choices=ENTRIES)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--shares", type=int, required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    parser.add_argument("--database")
    parser.add_argument("--core", type=int)
    options = parser.parse_args()
    machine.pin_to(options.core)
    plan = Plan(
        base_url=options.base_url, shares=options.shares, in_flight=options.in_flight, database=options.database
    )
    reading = Reading()
    asyncio.run(_measured(options.name, plan, reading))
    json.dump(asdict(reading), sys.stdout)


async def _measured(name: str, plan: Plan, reading: Reading) -> None:
    await ENTRIES[name].run(plan, reading)


if __name__ == "__main__":
    main()
