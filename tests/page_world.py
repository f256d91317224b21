"""A worker's month for the page to show: lines, cards, chats of every verdict, thirty days of attempts and passes."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from prometheus_client import CollectorRegistry
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.conftest import HandClock
from worker import db
from worker.chats.sources import Source, note_heard
from worker.db.tables import chats, contact_cards, lines, runs, share_attempts
from worker.rules.eligibility import Rules
from worker.rules.schedule import Schedule
from worker.sharing.watch import PassProgress
from worker.web.app import make_app
from worker.web.pages.access import Gate
from worker.web.pages.reader import Reader
from worker.web.pages.routes import page_routes
from worker.web.server import serving_app

NOW: Final = datetime(2026, 3, 10, 10, 20, tzinfo=UTC)
ZONE: Final = ZoneInfo("Europe/Berlin")
RULES: Final = Rules(timezone=ZONE)
SCHEDULE: Final = Schedule("0 10 * * *", ZONE)
PASSWORD: Final = "planted-page-password"
SUPPORT, SALES, EVENTS, NEWS = "+14155550101", "+14155550102", "+14155550103", "+14155550104"
NAMES: Final = {SUPPORT: "Acme Support", SALES: "Acme Sales", EVENTS: "Acme Events"}
WORKER: Final = "worker-1:7"
REFUSED: Final = "A card of +14155550101 was shared in this chat a moment ago"


@dataclass(frozen=True, kw_only=True)
class Served:
    """The page, served."""

    url: str
    clock: HandClock
    progress: PassProgress


@asynccontextmanager
async def served(
    engine: AsyncEngine, *, host: str = "127.0.0.1", password: str | None = None, has_webhooks: bool = True
) -> AsyncIterator[Served]:
    """Serve the page on loopback, as a worker that was told to listen on `host`."""
    clock = HandClock(NOW)
    reader = Reader(engine, RULES, SCHEDULE, clock, has_webhooks=has_webhooks)
    progress = PassProgress(worker=WORKER)
    pages = page_routes(reader, Gate(host, password, clock), progress, lambda: None)

    async def unready() -> list[str]:
        return []

    app = make_app(unready=unready, registry=CollectorRegistry(), pages=pages)
    async with serving_app(app, host="127.0.0.1", port=0) as url:
        yield Served(url=url, clock=clock, progress=progress)
        await reader.finished()


async def fill(engine: AsyncEngine, *, number: int = 400, days: int = 30) -> None:
    """Fill an empty database; always with the same."""
    random = Random(22)  # noqa: S311 -- the same each time
    rows = [_chat(random, index) for index in range(number)]
    shared_with = [row["id"] for row in rows if row["from_number"] in {SUPPORT, SALES} and row["service"] == "iMessage"]
    async with db.write(engine) as connection:
        await connection.execute(
            insert(contact_cards),
            [
                {
                    "phone_number": line,
                    "first_name": name.partition(" ")[0],
                    "last_name": name.partition(" ")[2],
                    "is_active": line != EVENTS,
                    "checked_at": NOW - timedelta(hours=1),
                }
                for line, name in NAMES.items()
            ],
        )
        await connection.execute(
            insert(lines),
            [
                {"phone_number": line, "reputation": "HEALTHY", "checked_at": NOW - timedelta(hours=1)}
                for line in (SUPPORT, SALES, EVENTS, NEWS)
            ],
        )
        await connection.execute(insert(chats), rows)
        for back in reversed(range(days)):
            attempts, run = _day(random, NOW.astimezone(ZONE).date() - timedelta(days=back), shared_with, total=number)
            await connection.execute(insert(share_attempts), attempts)
            await connection.execute(insert(runs), run)
    await note_heard(engine, Source.SYNC, NOW - timedelta(hours=1, minutes=24))
    await note_heard(engine, Source.WEBHOOKS, NOW - timedelta(minutes=2))


def chat_id(index: int) -> str:
    """The id of a chat of this world."""
    return str(UUID(int=Random(index).getrandbits(128), version=4))  # noqa: S311 -- the same each time


def _chat(random: Random, index: int) -> dict[str, object]:
    line = random.choices([SUPPORT, SALES, EVENTS, NEWS], weights=[60, 30, 6, 4])[0]
    drawn = random.random()
    return {
        "id": chat_id(index),
        "from_number": line,
        "service": "SMS" if drawn < 0.1 else None if drawn < 0.12 else "iMessage",
        "is_group": False,
        "handle": f"+1212555{index:04}",
        "last_outbound_at": None if 0.12 < drawn < 0.17 else NOW - timedelta(hours=random.randint(1, 900)),
        "last_inbound_at": NOW - timedelta(days=2),
        "health_status": "OPTED_OUT" if 0.17 < drawn < 0.19 else "HEALTHY",
        "opted_out_at": NOW - timedelta(days=1) if 0.17 < drawn < 0.19 else None,
        "paused_at": NOW - timedelta(days=5) if 0.19 < drawn < 0.2 else None,
        "paused_reason": "asked by phone" if 0.19 < drawn < 0.2 else None,
        "missing_at": None,
        "synced_at": NOW - timedelta(hours=2),
        "created_at": NOW - timedelta(days=60),
        "updated_at": NOW - timedelta(hours=2),
    }


def _day(
    random: Random, day: date, ids: list[object], *, total: int
) -> tuple[list[dict[str, object]], dict[str, object]]:
    began = datetime(day.year, day.month, day.day, 10, tzinfo=ZONE).astimezone(UTC)
    run_id = f"{began:%Y%m%dT%H%M%SZ}-{day.toordinal() % 4096:06x}"
    if day == (NOW - timedelta(days=12)).date():
        ids = ids[: len(ids) // 4]
    drawn = [ids[index] for index in sorted(random.sample(range(len(ids)), round(len(ids) * random.uniform(0.8, 1))))]
    rows = [_attempt(random, str(each), day, run_id, began + timedelta(seconds=n / 20)) for n, each in enumerate(drawn)]
    counts = Counter(str(row["outcome"]) for row in rows)
    is_stopped = len(rows) < len(ids) * 0.5 or day == (NOW - timedelta(days=12)).date()
    tally: dict[str, object] = {name: counts[name] for name in ("shared", "rejected", "unknown", "unsent")}
    not_due = total - len(rows)
    run: dict[str, object] = {
        "id": run_id,
        "trigger": "schedule",
        "share_day": day,
        "worker": WORKER,
        "started_at": began,
        "finished_at": began + timedelta(seconds=len(rows) / 20 + 1),
        "status": "stopped" if is_stopped else "completed",
        "detail": "10 requests in a row got no answer of Linq's, the last one: 503" if is_stopped else None,
        "tally": tally | {"left": not_due if is_stopped else 0, "skipped": {} if is_stopped else {"no_card": not_due}},
    }
    return rows, run


def _attempt(random: Random, chat: str, day: date, run_id: str, at: datetime) -> dict[str, object]:
    drawn = random.random()
    outcome = "rejected" if drawn < 0.03 else "unknown" if drawn < 0.045 else "shared"
    return {
        "chat_id": chat,
        "share_day": day,
        "sequence": 0,
        "outcome": outcome,
        "run_id": run_id,
        "claimed_at": at,
        "finished_at": at + timedelta(milliseconds=random.randint(40, 300)),
        "http_status": {"shared": 202, "rejected": 429}.get(outcome),
        "error_code": 1007 if outcome == "rejected" else None,
        "error_message": {"rejected": REFUSED, "unknown": "no answer within 30 s"}.get(outcome),
        "trace_id": f"{random.getrandbits(64):016x}" if outcome != "unknown" else None,
    }


def running_pass() -> dict[str, object]:
    """The row of a pass that began a minute ago."""
    return {
        "id": "20260310T101900Z-0000aa",
        "trigger": "command",
        "share_day": NOW.astimezone(ZONE).date(),
        "worker": WORKER,
        "started_at": NOW - timedelta(minutes=1),
        "status": "running",
    }
