"""A pass and a dry run over ten thousand to a million chats, a thousand of them due; and with a long ledger behind."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from bench import machine
from bench.stage import KINDS, Kind, Stage, pass_seconds, run, settings

DUE: Final = 1_000


@dataclass(frozen=True, kw_only=True)
class World:
    """A size of the tables."""

    kind: Kind
    chats: int
    history: tuple[int, int] = (0, 0)
    """So many chats were shared with on each of so many days before today."""

    @property
    def called(self) -> int:
        """A fifth of the chats was called earlier today."""
        return self.chats // 5

    @property
    def attempts(self) -> int:
        """Rows of the ledger before the pass."""
        return self.called + self.history[0] * self.history[1]


@dataclass(frozen=True, kw_only=True)
class Size:
    """What was measured in one world: whole commands, and the pass in one of them."""

    world: World
    pass_seconds: float
    run_seconds: float
    dry_run_seconds: float
    peak_mb: float
    dry_run_peak_mb: float
    ledger_mb: float


def worlds(*, quick: bool, history: bool) -> list[World]:
    """The sizes to measure."""
    counts = (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000)
    found = [World(kind=kind, chats=count) for kind in KINDS for count in counts]
    if not quick:
        found.append(World(kind="sqlite", chats=1_000_000, history=(100_000, 20)))
    if history:
        found.append(World(kind="postgresql", chats=1_000_000, history=(200_000, 100)))
    return found


def measure(stage: Stage, sizes: Sequence[World]) -> list[Size]:
    """Each world: built, looked at by a dry run, and passed over, by commands as a user gives them."""
    found: list[Size] = []
    with machine.fake_api(stage.server_core) as base_url:
        for world in sizes:
            sys.stderr.write(f"bench: {world.kind}, {world.chats:,} chats, {world.attempts:,} attempts\n")
            with stage.chats(
                world.kind, world.chats, due=DUE, called=world.called, history=world.history
            ) as database_url:
                environment = settings(base_url, database_url)
                looked = run(stage, ["run", "--dry-run", "--json"], environment)
                passed = run(stage, ["run", "--json"], environment)
                began, ended, shared = pass_seconds(passed.output)
                due = len(json.loads(looked.output)["due"])
                if not shared == due == DUE:
                    msg = f"{DUE} were due in {world}, but {due} were seen and {shared} shared"
                    raise RuntimeError(msg)
                found.append(
                    Size(
                        world=world,
                        pass_seconds=(ended - began).total_seconds(),
                        run_seconds=passed.seconds,
                        dry_run_seconds=looked.seconds,
                        peak_mb=passed.peak_mb,
                        dry_run_peak_mb=looked.peak_mb,
                        ledger_mb=_ledger_mb(database_url),
                    )
                )
    return found


def _ledger_mb(url: str) -> float:
    """The database file on SQLite; the table of attempts with its indexes on PostgreSQL."""
    if url.startswith("sqlite"):
        file = Path(url.removeprefix("sqlite:///"))
        return sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*")) / 2**20
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_total_relation_size('share_attempts')").fetchone()
    return int(row[0]) / 2**20 if row else 0.0
