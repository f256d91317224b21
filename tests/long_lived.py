"""A worker that lives through weeks in minutes: `serve` itself, on a clock that flies when nothing is at work.

It runs as a process of its own and is measured from inside at the end of each day: it writes a line of JSON to stdout,
and goes on when it reads a line from stdin.
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

from worker.service.serve import serve
from worker.settings import load

STRIDE: Final = timedelta(minutes=5)
"""How far the clock flies between two looks of the scheduler; to the next whole five minutes, so none comes late."""


class FastClock:
    """What a pass sleeps takes no time at all; everything else waits for the pass, and then the time flies."""

    def __init__(self, start: datetime, days: int, stop: asyncio.Event) -> None:
        self.passes: list[dict[str, object]] = []
        self._now = start
        self._days = days
        self._stop = stop
        self._passed = 0.0
        self._at_work = False

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._passed

    async def sleep(self, seconds: float) -> None:
        if "run_id" in structlog.contextvars.get_contextvars():  # inside a pass
            self._go(timedelta(seconds=seconds))
            await asyncio.sleep(0)
            return
        while self._at_work:  # noqa: ASYNC110 -- the end of a pass is a line of the log, not an event
            await asyncio.sleep(0.005)
        day = self._now.date()
        self._go(STRIDE - (self._now - datetime.min.replace(tzinfo=UTC)) % STRIDE)
        if self._now.date() != day:
            self._day_is_over(day.isoformat())
        await asyncio.sleep(0)

    def hear(self, _logger: object, _method: str, line: structlog.typing.EventDict) -> str:
        """Take what is to be known of the passes from the log, which goes nowhere else."""
        match line["event"]:
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

    def _day_is_over(self, day: str) -> None:
        self._days -= 1
        report = {"day": day, "passes": self.passes} | measure()
        self.passes = []
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
        if not self._days or not sys.stdin.readline():
            self._stop.set()


def measure() -> dict[str, float]:
    """What this process holds of the machine."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    opened = [str(link.readlink()) for link in list(Path("/proc/self/fd").iterdir()) if link.is_symlink()]
    return {
        "rss_mb": next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024,
        "files": len(opened),
        "sockets": sum(name.startswith("socket:") for name in opened),
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "objects": len(gc.get_objects()),
    }


async def live(start: datetime, days: int) -> int:
    """Serve for so many days, by the settings in the environment."""
    stop = asyncio.Event()
    clock = FastClock(start, days, stop)
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, clock.hear])
    return await serve(load(), clock=clock, stop=stop, migrates=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(live(datetime.fromisoformat(sys.argv[1]), int(sys.argv[2]))))
