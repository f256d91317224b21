"""How fast `serve` takes webhooks in, while a pass of its own runs at the default of 20 requests a second."""

import asyncio
import base64
import json
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine
from standardwebhooks import Webhook

from bench import machine
from bench.stage import KINDS, Stage, settings, staged, start
from worker import db
from worker.db.tables import chats, share_attempts
from worker.web.webhooks import PATH

PER_SECOND: Final = 500
CONNECTIONS: Final = 40
CHATS: Final = 5_000
SECRET: Final = "whsec_" + base64.b64encode(b"a secret of the benchmark's only").decode()
KINDS_OF_EVENT: Final = ("message.sent", "message.delivered", "message.received")
"""Three events of one message each, in this order."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """How long webhooks took from the moment that each was due, in milliseconds."""

    half: float
    most: float
    """99 % took less."""
    refused: int
    shares_per_second: float
    """What the pass did meanwhile."""


def measure(stage: Stage) -> dict[str, Taken]:
    """By kind of database; everything is where there is room: sender, worker, API, PostgreSQL."""
    with staged(quick=stage.quick, pinned=False) as free:
        found: dict[str, Taken] = {}
        for kind in KINDS:
            with (
                machine.fake_api(None, latency=0.050, jitter=0.020) as base_url,
                free.chats(kind, CHATS, due=CHATS) as url,
            ):
                port = machine.free_port()
                environment = settings(
                    base_url,
                    url,
                    HTTP_PORT=str(port),
                    SHARE_SCHEDULE="0 0 29 2 *",
                    SHARE_MAX_PER_SECOND="20",
                    LINQ_WEBHOOK_SECRET=SECRET,
                    LOG_LEVEL="warning",
                )
                process = start(free, ["serve", "--now"], environment)
                try:
                    found[kind] = asyncio.run(_send(url, port, seconds=5 if stage.quick else 20))
                finally:
                    process.terminate()
                    process.communicate()
        return found


async def _send(url: str, port: int, *, seconds: int) -> Taken:
    async with db.opened(db.parse_url(url)) as engine:
        async with db.read(engine) as connection:
            ids = list((await connection.execute(select(chats.c.id).limit(1_000))).scalars())
        for _ in range(60):
            if await _shares(engine):
                break
            await asyncio.sleep(0.5)
        else:
            msg = "the pass did not begin within half a minute"
            raise RuntimeError(msg)
        before = await _shares(engine)
        waits, refused = await _load(ids, port, PER_SECOND * seconds)
        shares = await _shares(engine) - before
    waits.sort()
    return Taken(
        half=1_000 * waits[len(waits) // 2],
        most=1_000 * waits[int(len(waits) * 0.99)],
        refused=refused,
        shares_per_second=shares / seconds,
    )


async def _load(ids: list[str], port: int, events: int) -> tuple[list[float], int]:
    """Send events at a steady rate, whether the ones before were answered or not; their seconds, and those refused."""
    waiting: deque[tuple[int, float]] = deque()
    news = asyncio.Semaphore(0)
    waits: list[float] = []
    refused = 0

    async def connection() -> None:
        nonlocal refused
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            await news.acquire()
            if not waiting:
                writer.close()
                return
            number, due = waiting.popleft()
            writer.write(_request(number, ids[number // 3 % len(ids)]))
            answer = await reader.readuntil(b"\r\n\r\n")
            waits.append(time.perf_counter() - due)
            refused += not answer.startswith(b"HTTP/1.1 204 ")

    connections = [asyncio.create_task(connection()) for _ in range(CONNECTIONS)]
    began = time.perf_counter()
    for number in range(events):
        due = began + number / PER_SECOND
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        waiting.append((number, due))
        news.release()
    for _ in connections:
        news.release()
    await asyncio.gather(*connections)
    return waits, refused


def _request(number: int, chat_id: str) -> bytes:
    now = datetime.now(UTC)
    kind = KINDS_OF_EVENT[number % 3]
    is_inbound = kind == "message.received"
    chat = {
        "id": chat_id,
        "is_group": False,
        "health_status": {"status": "HEALTHY", "updated_at": "2026-01-01T00:00:00Z"},
    }
    data = {
        "id": f"message-{number // 3}-{is_inbound}",
        "chat": chat,
        "direction": "inbound" if is_inbound else "outbound",
        "sent_at": now.isoformat(),
        "sender_handle": {"handle": "+15557770001"},
        "parts": [{"type": "text", "value": "as long as a message is, more or less " * 3}],
    }
    body = json.dumps({"event_type": kind, "created_at": now.isoformat(), "data": data})
    head = {
        "host": "localhost",
        "content-length": len(body),
        "webhook-id": f"event-{number}",
        "webhook-timestamp": int(now.timestamp()),
        "webhook-signature": Webhook(SECRET).sign(f"event-{number}", now, body),
    }
    lines = [f"POST {PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", body]
    return "\r\n".join(lines).encode()


async def _shares(engine: AsyncEngine) -> int:
    async with db.read(engine) as connection:
        return (await connection.execute(select(func.count()).select_from(share_attempts))).scalar_one()
