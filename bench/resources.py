"""What the commands cost to start, what an idle `serve` holds, and what four processes are worth."""

import itertools
import os
import statistics
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import psycopg

from bench import machine
from bench.stage import KINDS, Kind, Stage, pass_seconds, run, settings, staged, start

WARM_UP: Final = timedelta(seconds=1)
"""In which processes that begin together still load, connect, and read the cards."""


DEFAULT_RATE: Final = {"SHARE_MAX_PER_SECOND": "20", "SHARE_CONCURRENCY": "20"}


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a `serve` takes, over some time."""

    memory_mb: float
    """Resident, shared libraries included."""
    cpu_percent: float
    """Of one core."""


@dataclass(frozen=True, kw_only=True)
class Together:
    """One process and four of them, on one PostgreSQL."""

    one_per_second: float
    four_per_second: float

    @property
    def ratio(self) -> float:
        """How many times as fast four are."""
        return self.four_per_second / self.one_per_second


def start_up(stage: Stage) -> dict[str, float]:
    """Seconds that commands take which have nothing to do; medians."""
    rounds = 3 if stage.quick else 9
    found: dict[str, float] = {}
    with machine.fake_api(stage.server_core) as base_url:
        for words in (["--version"], ["--help"]):
            environment = settings(base_url, "sqlite:///unused.db")
            run(stage, words, environment)
            seconds = [run(stage, words, environment).seconds for _ in range(rounds)]
            found[f"share-worker {words[0]}"] = statistics.median(seconds)
        for kind in KINDS:
            with stage.chats(kind, 100, due=0) as url:
                environment = settings(base_url, url)
                run(stage, ["run"], environment)
                seconds = [run(stage, ["run"], environment).seconds for _ in range(rounds)]
                found[f"share-worker run, nothing due, {kind}"] = statistics.median(seconds)
    return found


def idle_serve(stage: Stage, kind: Kind) -> Served:
    """A `serve` with nothing to do for years, once it has settled."""
    with machine.fake_api(stage.server_core) as base_url, stage.chats(kind, 10_000, due=0) as url:
        return _served(stage, ["serve"], settings(base_url, url))


def serve_at_default_rate(stage: Stage, kind: Kind) -> Served:
    """A `serve` in the middle of a pass, at the default limits and an API of 50 ms: the median of its rounds' CPU."""
    rounds = []
    for _ in range(1 if stage.quick else 3):
        with (
            machine.fake_api(stage.server_core, latency=0.050, jitter=0.020) as base_url,
            stage.chats(kind, 10_000, due=10_000) as url,
        ):
            rounds.append(_served(stage, ["serve", "--now"], settings(base_url, url, **DEFAULT_RATE)))
    return sorted(rounds, key=lambda served: served.cpu_percent)[len(rounds) // 2]


def _served(stage: Stage, words: list[str], environment: dict[str, str]) -> Served:
    seconds = 10 if stage.quick else 60
    environment |= {"HTTP_PORT": str(machine.free_port()), "SHARE_SCHEDULE": "0 0 29 2 *"}
    process = start(stage, words, environment)
    try:
        time.sleep(8)
        before = _cpu_seconds(process.pid)
        time.sleep(seconds)
        used = _cpu_seconds(process.pid) - before
        memory = machine.memory_mb(process.pid)
    finally:
        process.terminate()
        process.communicate()
    return Served(memory_mb=memory, cpu_percent=100 * used / seconds)


def together(stage: Stage) -> dict[str, Together]:
    """Passes at an API of 50 ms, 20 calls in flight in each process; one, and four at the same time, by their place."""
    found = {"on one core": _together(stage)}
    if stage.client_core is not None:
        with staged(quick=stage.quick, pinned=False) as free:
            found["on both cores, and so are the API and PostgreSQL"] = _together(free)
    return found


def _together(stage: Stage) -> Together:
    shares, rounds = (800, 1) if stage.quick else (3_000, 3)
    speeds: dict[int, list[float]] = {1: [], 4: []}
    with machine.fake_api(stage.server_core, latency=0.050, jitter=0.020) as base_url:
        for _, processes in itertools.product(range(rounds), speeds):
            with stage.chats("postgresql", shares * processes, due=shares * processes) as url:
                environment = settings(base_url, url, SHARE_CONCURRENCY="20")
                workers = [start(stage, ["run", "--json"], environment) for _ in range(processes)]
                passes = [pass_seconds(worker.communicate()[0]) for worker in workers]
                speeds[processes].append(_speed(url, passes))
            shared = sum(count for _, _, count in passes)
            if shared != shares * processes:
                msg = f"{processes} processes were to share {shares * processes}, and shared {shared}"
                raise RuntimeError(msg)
    return Together(one_per_second=statistics.median(speeds[1]), four_per_second=statistics.median(speeds[4]))


def _speed(url: str, passes: list[tuple[datetime, datetime, int]]) -> float:
    """Shares per second while all were at work: from a second after the last one's beginning to the first one's end."""
    began, ended = max(began for began, _, _ in passes) + WARM_UP, min(ended for _, ended, _ in passes)
    with psycopg.connect(url) as connection:
        counted = connection.execute(
            "SELECT count(*) FROM share_attempts WHERE finished_at BETWEEN %s AND %s", (began, ended)
        ).fetchone()
    return (counted[0] if counted else 0) / (ended - began).total_seconds()


def _cpu_seconds(process: int) -> float:
    with open(f"/proc/{process}/stat") as file:  # noqa: PTH123 -- a file of the kernel's
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
