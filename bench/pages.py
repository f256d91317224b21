"""How fast the page answers with a million chats and a long ledger behind it."""

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from statistics import median
from typing import Final

import httpx
from prometheus_client import CollectorRegistry
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.scale import World
from bench.stage import Stage
from worker import db
from worker.clock import SystemClock
from worker.db.tables import chats, runs
from worker.rules.eligibility import Rules
from worker.rules.schedule import Schedule
from worker.sharing.watch import PassProgress
from worker.web.app import make_app
from worker.web.pages.access import Gate
from worker.web.pages.reader import Reader
from worker.web.pages.routes import page_routes
from worker.web.server import serving_app

TIMES: Final = 20
"""How often each view is asked for."""

OVERVIEWS: Final = ("overview, the first time", "overview")


@dataclass(frozen=True, kw_only=True)
class Answered:
    """How long one view took in one world, in milliseconds."""

    world: World
    view: str
    half: float
    slowest: float


def worlds(*, quick: bool, history: bool) -> list[World]:
    """The sizes to measure."""
    if quick:
        return [World(kind=kind, chats=100_000, history=(20_000, 5)) for kind in ("postgresql", "sqlite")]
    long = (200_000, 100) if history else (100_000, 20)
    return [
        World(kind="postgresql", chats=1_000_000, history=long),
        World(kind="sqlite", chats=1_000_000, history=(100_000, 20)),
    ]


def measure(stage: Stage, sizes: Sequence[World]) -> list[Answered]:
    """Every view in every world."""
    found: list[Answered] = []
    for world in sizes:
        sys.stderr.write(f"bench: page, {world.kind}, {world.chats:,} chats, {world.attempts:,} attempts\n")
        with stage.chats(world.kind, world.chats, due=1_000, called=world.called, history=world.history) as url:
            found += asyncio.run(_ask(url, world))
    return found


async def _ask(url: str, world: World) -> list[Answered]:
    async with db.opened(db.parse_url(url)) as engine:
        views = await _views(engine)
        clock = SystemClock()
        reader = Reader(engine, Rules(), Schedule("@daily", UTC), clock, has_webhooks=True)
        pages = page_routes(reader, Gate("127.0.0.1", None, clock), PassProgress(worker=""), lambda: None)

        async def unready() -> list[str]:
            return []

        app = make_app(unready=unready, registry=CollectorRegistry(), pages=pages)
        async with (
            serving_app(app, host="127.0.0.1", port=0) as base_url,
            httpx.AsyncClient(base_url=base_url, timeout=60) as client,
        ):
            first = await _milliseconds(client, "/")
            found = [Answered(world=world, view=OVERVIEWS[0], half=first, slowest=first)]
            for view, path in {OVERVIEWS[1]: "/", **views}.items():
                took = [await _milliseconds(client, path) for _ in range(TIMES)]
                found.append(Answered(world=world, view=view, half=median(took), slowest=max(took)))
            await reader.finished()
    return found


async def _views(engine: AsyncEngine) -> dict[str, str]:
    """The views that are measured, with their addresses; some of yesterday's attempts become rejected ones."""
    async with engine.begin() as connection:
        ids = list((await connection.execute(select(chats.c.id).order_by(chats.c.id).limit(200))).scalars())
        day = (await connection.execute(text("SELECT max(share_day) FROM share_attempts"))).scalar_one()
        listed = ", ".join(f"'{chat_id}'" for chat_id in ids)
        await connection.execute(
            text(
                "UPDATE share_attempts SET outcome = 'rejected', http_status = 403, error_code = 2024 "
                f"WHERE chat_id IN ({listed}) AND share_day < '{day}'"
            )
        )
        await connection.execute(text(f"UPDATE chats SET paused_at = CURRENT_TIMESTAMP WHERE id = '{ids[0]}'"))
        run = (await connection.execute(select(runs.c.id).limit(1))).scalar()
    found = {
        "attempts, the newest": "/attempts",
        "attempts, far back": f"/attempts?before={day}/0/{ids[100]}",
        "attempts, rejected": "/attempts?outcome=rejected",
        "chats": "/chats",
        "chats that are due": "/chats?verdict=due",
        "chats of a rare verdict": "/chats?verdict=opted_out",
        "chats of a line": "/chats?line=%2B15550100003",
        "a search by id": f"/chats?q={ids[150][:8]}",
        "one chat": f"/chats/{ids[150]}",
        "passes": "/passes",
    }
    return found | ({"one pass": f"/passes/{run}"} if run else {})


async def _milliseconds(client: httpx.AsyncClient, path: str) -> float:
    began = time.perf_counter()
    answer = await client.get(path)
    took = (time.perf_counter() - began) * 1000
    if answer.status_code != 200:
        msg = f"{path} was answered {answer.status_code}: {answer.text[:300]}"
        raise RuntimeError(msg)
    return took
