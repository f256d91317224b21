"""A worker that lives through weeks in minutes: `serve` itself, on a clock that flies when nothing is at work.

It runs as a process of its own. At some hours of each day its clock stands still: it writes a line of JSON to stdout,
and the clock goes on when it reads a line from stdin. Everything else goes on meanwhile: the process is never stopped
in the middle of a transaction, and takes in webhooks. At midnight the line says what the process holds of the machine.
"""

import asyncio
import gc
import json
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy.sql.visitors import Visitable

from worker.service.scheduler import LOOK_SECONDS
from worker.service.serve import serve
from worker.settings import load

STRIDE: Final = timedelta(minutes=5)
"""How far the clock flies between two looks of the scheduler; to the next whole five minutes, so none comes late."""

MORNING, EVENING, MIDNIGHT = 9, 18, 0
"""The hours at which the clock stands still: before the pass, after it, and at the end of the day. All in UTC."""


class FastClock:
    """What a pass or a webhook sleeps takes no time; the scheduler's look waits for a pass, and then the time flies."""

    def __init__(self, start: datetime, days: int, stop: asyncio.Event) -> None:
        self.passes: list[dict[str, object]] = []
        self._now = self._looked_at = start
        self._days = days
        self._stop = stop
        self._passed = 0.0
        self._at_work = False
        self._url = ""
        self._holds: dict[str, float] = {}

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._passed

    async def sleep(self, seconds: float) -> None:
        if seconds != LOOK_SECONDS or "run_id" in structlog.contextvars.get_contextvars():  # or inside a pass
            self._go(timedelta(seconds=seconds))
            await asyncio.sleep(0)
            return
        while self._at_work:  # noqa: ASYNC110 -- the end of a pass is a line of the log, not an event
            await asyncio.sleep(0.005)
        before = self._looked_at
        self._go(STRIDE - (self._now - datetime.min.replace(tzinfo=UTC)) % STRIDE)
        self._looked_at = self._now
        for hour in (MORNING, EVENING, MIDNIGHT):
            if before < self._looked_at.replace(hour=hour, minute=0, second=0, microsecond=0) <= self._looked_at:
                try:
                    await self._stand_still(hour, before)
                except Exception:
                    self._stop.set()  # else nothing would look at the clock any more, and the parent wait for ever
                    raise
        await asyncio.sleep(0)

    def hear(self, _logger: object, _method: str, line: structlog.typing.EventDict) -> str:
        """Take what is to be known of the worker from the log, which goes nowhere else."""
        match line["event"]:
            case "serve.listening":
                self._url = line["url"]
            case "schedule.fired":
                self._at_work = True
                self.passes.append({"trigger": line["trigger"], "status": "failed"})
            case "pass.ended":
                self.passes[-1] |= {name: line[name] for name in ("status", "detail", "tally")}
                self._at_work = False
            case "schedule.failed":
                self._at_work = False
        raise structlog.DropEvent

    def _go(self, span: timedelta) -> None:
        self._now += span
        self._passed += span.total_seconds()

    async def _stand_still(self, hour: int, before: datetime) -> None:
        report: dict[str, object] = {"hour": hour, "now": self._now.isoformat(), "url": self._url}
        if hour == MIDNIGHT:
            self._days -= 1
            await self._come_to_rest()
            self._holds = measure()
            report["day"] = {"day": before.date().isoformat(), "passes": self.passes} | self._holds
            self.passes = []
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
        if not self._days or not await asyncio.to_thread(sys.stdin.readline):
            self._stop.set()

    async def _come_to_rest(self) -> None:
        """Let what was answered a moment ago end: until no more is held than a day ago, or for a second."""
        for _ in range(100):
            held = measure(collect=False)
            if all(held[name] <= self._holds.get(name, 0) for name in ("files", "tasks")):
                return
            await asyncio.sleep(0.01)


def measure(*, collect: bool = True) -> dict[str, float]:
    """What this process holds of the machine; `own` are the objects of the worker's classes."""
    opened = [str(link.readlink()) for link in list(Path("/proc/self/fd").iterdir()) if link.is_symlink()]
    held: dict[str, float] = {
        "files": len(opened),
        "sockets": sum(name.startswith("socket:") for name in opened),
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
    }
    if collect:
        gc.collect()
        status = Path("/proc/self/status").read_text()
        objects = gc.get_objects()
        held["rss_mb"] = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
        held["objects"] = len(objects)
        held["own"] = sum(is_own(type(each)) for each in objects)
    return held


def is_own(kind: type) -> bool:
    """Whether a class is the worker's; but for parts of SQL, of which SQLAlchemy keeps some with its statements."""
    return str(kind.__module__).partition(".")[0] == "worker" and not issubclass(kind, Visitable)


async def live(start: datetime, days: int) -> int:
    """Serve for so many days, by the settings in the environment."""
    stop = asyncio.Event()
    clock = FastClock(start, days, stop)
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, clock.hear])
    return await serve(load(), clock=clock, stop=stop, migrates=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(live(datetime.fromisoformat(sys.argv[1]), int(sys.argv[2]))))
