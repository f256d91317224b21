"""Shares per second, and the client's CPU: every contender, in rounds, each in a process of its own."""

import json
import statistics
import subprocess
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench import machine
from bench.measure import ENTRIES
from bench.stage import Stage

IN_FLIGHT: Final = 50
LATENCIES: Final = {0: (0.0, 0.0), 50: (0.050, 0.020)}
"""Milliseconds as they are called -> the API's latency and jitter, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The medians of one contender at one latency."""

    per_second: float
    cpu_per_1000: float
    peak_mb: float


Speeds = dict[tuple[str, int], Speed]


def measure(stage: Stage, *, rounds: int, names: Sequence[str] = tuple(ENTRIES)) -> Speeds:
    """Let all take turns, round after round, so that what disturbs the machine disturbs them alike; take medians."""
    found: defaultdict[tuple[str, int], list[Speed]] = defaultdict(list)
    for latency, (seconds, jitter) in LATENCIES.items():
        with machine.fake_api(stage.server_core, latency=seconds, jitter=jitter) as base_url:
            for number in range(rounds):
                for name in names:
                    speed = _one(stage, name, base_url, _shares(stage, name, latency))
                    found[name, latency].append(speed)
                    _say(f"{latency} ms, round {number + 1}: {name} {speed.per_second:,.0f}/s")
    return {
        key: Speed(
            per_second=statistics.median(speed.per_second for speed in speeds),
            cpu_per_1000=statistics.median(speed.cpu_per_1000 for speed in speeds),
            peak_mb=max(speed.peak_mb for speed in speeds),
        )
        for key, speeds in found.items()
    }


def _shares(stage: Stage, name: str, latency: int) -> int:
    entry = ENTRIES[name]
    usual = entry.at_50_ms if latency else entry.at_0_ms
    return max(usual // 4, 40) if stage.quick else usual


def _one(stage: Stage, name: str, base_url: str, shares: int) -> Speed:
    if name.startswith("ours-"):
        kind = "sqlite" if name == "ours-sqlite" else "postgresql"
        with stage.chats(kind, shares + IN_FLIGHT, due=shares + IN_FLIGHT) as url:  # type: ignore[arg-type] # one of two
            return _measured(stage, name, base_url, shares, url)
    with stage.empty_database("postgresql") as url:
        return _measured(stage, name, base_url, shares, url)


def _measured(stage: Stage, name: str, base_url: str, shares: int, url: str) -> Speed:
    command = [sys.executable, "-m", "bench.measure", name, "--base-url", base_url, "--database", url]
    command += ["--shares", str(shares), "--in-flight", str(IN_FLIGHT)]
    if stage.client_core is not None:
        command += ["--core", str(stage.client_core)]
    called_so_far(base_url)
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    if ended.returncode:
        msg = f"{name} failed:\n{ended.stderr[-2000:]}"
        raise RuntimeError(msg)
    calls, chats = called_so_far(base_url)
    warmed_up = 1 if name == "sdk-loop" else IN_FLIGHT
    if not calls == chats == shares + warmed_up:
        msg = f"{name} was to call {shares + warmed_up} chats once, but made {calls} calls in {chats} chats"
        raise RuntimeError(msg)
    reading = json.loads(ended.stdout.splitlines()[-1])
    return Speed(
        per_second=shares / reading["seconds"],
        cpu_per_1000=1000 * reading["cpu"] / shares,
        peak_mb=reading["peak_mb"],
    )


def called_so_far(base_url: str) -> tuple[int, int]:
    """How many share calls the fake API got since the last question, and in how many chats."""
    with urllib.request.urlopen(f"{base_url}/bench/calls") as answer:  # noqa: S310 -- our own server on 127.0.0.1
        told = json.load(answer)
    return told["calls"], told["chats"]


def _say(line: str) -> None:
    sys.stderr.write(f"bench: {line}\n")
