"""What every part of the benchmark stands on: the cores, PostgreSQL, a database a measurement, processes to measure."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from sqlalchemy import URL

from bench import machine, world
from bench.contenders import KEY
from worker import db

Kind = Literal["postgresql", "sqlite"]
KINDS: Final[tuple[Kind, ...]] = ("postgresql", "sqlite")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The cores and the PostgreSQL of one run of the benchmark."""

    client_core: int | None
    server_core: int | None
    server: URL
    quick: bool

    @contextlib.contextmanager
    def empty_database(self, kind: Kind) -> Iterator[str]:
        """A DATABASE_URL without tables, for the time of the block."""
        if kind == "sqlite":
            with tempfile.TemporaryDirectory(prefix="share-worker-bench-") as folder:
                yield f"sqlite:///{folder}/bench.db"
        else:
            with machine.new_database(self.server, "bench") as url:
                yield machine.plain(url)

    @contextlib.contextmanager
    def chats(
        self, kind: Kind, count: int, *, due: int, called: int = 0, history: tuple[int, int] = (0, 0)
    ) -> Iterator[str]:
        """A DATABASE_URL with so many chats, and shares of so many (chats, days) behind them."""
        with self.empty_database(kind) as url:
            asyncio.run(_build(url, count, due=due, called=called, history=history))
            yield url


@contextlib.contextmanager
def staged(*, quick: bool, pinned: bool = True) -> Iterator[Stage]:
    """A stage: a PostgreSQL on the servers' core, where one can be chosen. Not `pinned`, all go where there is room."""
    client_core, server_core = (pinned and machine.cores()) or (None, None)
    with machine.postgresql(server_core) as server:
        yield Stage(client_core=client_core, server_core=server_core, server=server, quick=quick)


async def _build(url: str, count: int, *, due: int, called: int, history: tuple[int, int]) -> None:
    now = datetime.now(UTC)
    async with db.opened(db.parse_url(url), create=True) as engine:
        await db.migrate(engine)
        await world.add_chats(engine, count, due=due, called=called, now=now)
        await world.add_history(engine, chats=history[0], days=history[1], now=now)
        await world.settle_down(engine)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command that was run: its output, the seconds it took, and the most memory it held."""

    output: str
    seconds: float
    peak_mb: float


def settings(base_url: str, database_url: str, **others: str) -> dict[str, str]:
    """The environment of a worker that is to go as fast as it can."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    ours = {"LINQ_API_KEY": KEY, "LINQ_BASE_URL": base_url, "DATABASE_URL": database_url}
    return kept | ours | {"SHARE_MAX_PER_SECOND": "0", "SHARE_CONCURRENCY": "50", "LOG_FORMAT": "json"} | others


def start(stage: Stage, words: list[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a command of the worker's on the client's core."""
    script = Path(sys.executable).with_name("share-worker")
    with machine.pinned_to(stage.client_core), tempfile.TemporaryDirectory() as folder:
        return subprocess.Popen(
            [str(script), *words],
            env=dict(environment),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def run(stage: Stage, words: list[str], environment: Mapping[str, str]) -> Ran:
    """Run a command of the worker's, and watch its memory."""
    began = time.perf_counter()
    process = start(stage, words, environment)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, machine.peak_mb(process.pid))
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    output = process.stdout.read() if process.stdout is not None else ""
    if process.returncode:
        msg = f"{words} ended with {process.returncode}: {output}"
        raise RuntimeError(msg)
    return Ran(output=output, seconds=seconds, peak_mb=peak)


def pass_seconds(output: str) -> tuple[datetime, datetime, int]:
    """When a pass began and ended, and how many it shared, from what `run --json` printed."""
    told = json.loads(output)
    return (
        datetime.fromisoformat(told["started_at"]),
        datetime.fromisoformat(told["finished_at"]),
        int(told["tally"]["shared"]),
    )
