"""A month of a worker's life in minutes: does it hold more of the machine at the end than at the beginning?

    python -m tests.soak --days 30 --chats 20000 --database both

One real process (`tests.long_lived`) serves a pass a day. Around it, each day, chats are added and written to, a card
changes, Linq misbehaves, and now and then the database's sessions are cut. Its memory, open files, sockets, tasks and
threads are printed day by day; the exit code is 1 if they grow, or if Linq was called twice in a chat and day.
No webhooks flow in it.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Final, Literal, TypedDict

import psycopg
from sqlalchemy import Connection, Engine, bindparam, insert, update

from tests.commands import ROOT, environment, share_worker_process
from tests.databases import end_the_workers, new_database
from tests.judge import Judge, open_ledger
from worker.cli.demo import known_chat
from worker.db.tables import chats
from worker.simulator.account import ShareCall
from worker.simulator.chats import Chat
from worker.simulator.faults import Fault
from worker.simulator.population import populate
from worker.simulator.server import serving

START: Final = datetime(2026, 3, 1, 6, tzinfo=UTC)
WRITTEN_TO: Final = 0.12
"""The part of the chats that a message is sent to, each day."""
NEW: Final = 0.01
MEGABYTES: Final = 4.0
"""By so much the memory may differ without growing: what an allocator keeps is not flat to the byte."""
OBJECTS: Final = 5_000
Amount = Literal["rss_mb", "objects"]
Level = Literal["files", "sockets", "tasks", "threads"]
LEVELS: Final[tuple[Level, ...]] = ("files", "sockets", "tasks", "threads")


class Made(TypedDict):
    """A pass, as the worker told of it."""

    trigger: str
    status: str


class Day(TypedDict):
    """A day as the worker measured it at its end."""

    day: str
    passes: list[Made]
    rss_mb: float
    files: int
    sockets: int
    tasks: int
    threads: int
    objects: int


@dataclass
class Month:
    """Days as they were measured, and what is wrong with them."""

    database: str
    days: list[Day]
    calls: int
    wrong: list[str]


class Life:
    """What goes on around the worker."""

    def __init__(self, judge: Judge, database_url: str, seed: int) -> None:
        self.now = START
        self.judge = judge
        self._random = random.Random(seed)  # noqa: S311 -- repeatable on purpose
        self._database_url = database_url
        self._ids: list[str] = []
        self._cut_at = 0
        judge.on_call = self._on_call

    def begin(self, count: int) -> None:
        """Let an account of so many chats be known."""
        populate(self.judge, chats=count)
        self._know(list(self.judge.chats.values()))

    def a_day(self, number: int) -> None:
        """What is new on the day that begins."""
        judge, choose = self.judge, self._random
        self.now = START.replace(hour=10) + timedelta(days=number)
        known = [judge.chats[chat_id] for chat_id in choose.sample(self._ids, int(WRITTEN_TO * len(self._ids)))]
        for chat in known:
            judge.put_chat(replace(chat, last_outbound_at=self.now - timedelta(hours=1)))
        statement = update(chats).where(chats.c.id == bindparam("chat")).values(last_outbound_at=bindparam("at"))
        with _transaction(judge.ledger) as connection:
            connection.execute(statement, [{"chat": chat.id, "at": self.now - timedelta(hours=1)} for chat in known])
        lines = list(judge.cards)
        self._know(
            [
                Chat(id=f"new-{number}-{n}", from_number=lines[0], last_outbound_at=self.now - timedelta(hours=2))
                for n in range(max(1, int(NEW * len(self._ids))))
            ]
        )
        judge.put_card(lines[0], is_active=number % 6 != 2)
        judge.clear_faults()
        judge.add_fault(Fault(path="list_cards", status=500, times=1))
        if number % 2:
            judge.add_fault(Fault(path="share", delay_seconds=5, takes_effect=True, after=20, times=1))
        judge.add_fault(Fault(path="share", status=429, retry_after=60, after=10, times=2))
        judge.add_fault(Fault(path="share", drop="after", probability=0.004))
        judge.add_fault(Fault(path="share", status=503, probability=0.004))
        if number % 5 == 4:
            judge.add_fault(Fault(path="share", status=401, after=30, times=1))
        self._cut_at = len(judge.share_calls) + 50 if number % 7 == 3 else 0

    def _on_call(self, number: int) -> None:
        if number == self._cut_at and self._database_url.startswith("postgresql"):
            with psycopg.connect(self._database_url, autocommit=True) as connection:
                end_the_workers(connection)

    def _know(self, new: list[Chat]) -> None:
        for chat in new:
            self.judge.put_chat(chat)
        self._ids += [chat.id for chat in new]
        names = known_chat(new[0]).__dataclass_fields__
        rows = [{name: getattr(known_chat(chat), name) for name in names} for chat in new]
        with _transaction(self.judge.ledger) as connection:
            connection.execute(insert(chats), rows)


def _transaction(ledger: Engine) -> AbstractContextManager[Connection]:
    """One transaction for many rows."""
    return ledger.execution_options(isolation_level="SERIALIZABLE").begin()


async def soak(database_url: str, *, kind: str, days: int, count: int, seed: int, say: Callable[[str], None]) -> Month:
    """Let a worker live, and measure it at the end of each day."""
    migrated = await share_worker_process("migrate", DATABASE_URL=database_url)
    if migrated.code != 0:
        raise RuntimeError(migrated.err)
    ledger = open_ledger(database_url)
    judge = Judge(ledger, lambda: life.now)
    life = Life(judge, database_url, seed)
    life.begin(count)
    month = Month(kind, [], calls=0, wrong=[])
    say(f"{kind}, {count:,} chats")
    say("day         calls shared unknown other passes  RSS MB files sockets tasks threads  objects seconds")
    async with serving(judge) as base_url:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.long_lived", START.isoformat(), str(days)),
            env=environment(
                LINQ_API_KEY=judge.api_key,
                LINQ_BASE_URL=base_url,
                DATABASE_URL=database_url,
                SHARE_ACTIVE_DAYS="2",
                SHARE_MAX_PER_SECOND="0",
                SHARE_REQUEST_TIMEOUT="1",
                HTTP_PORT="0",
            ),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(days):
            before, began = len(judge.share_calls), time.monotonic()
            life.a_day(number)
            if number:
                process.stdin.write(b"go\n")
                await process.stdin.drain()
            line = await process.stdout.readline()
            if not line:
                break
            day: Day = json.loads(line)
            calls = judge.share_calls[before:]
            month.wrong += [f"{chat} was called {n} times on {day['day']}" for chat, n in _twice(calls).items()]
            if not any(made["status"] == "completed" for made in day["passes"]):
                month.wrong.append(f"no pass was completed on {day['day']}: {day['passes']}")
            month.days.append(day)
            say(_row(day, [call.status for call in calls], time.monotonic() - began))
        _, err = await process.communicate()
    if process.returncode != 0 or err or len(month.days) < days:
        month.wrong.append(f"the worker ended with {process.returncode}: {err.decode()[-1500:]}")
    month.calls = len(judge.share_calls)
    month.wrong += judge.disagreements()
    month.wrong += growth(month.days)
    ledger.dispose()
    return month


def growth(days: Sequence[Day]) -> list[str]:
    """What is higher at the end than it was when the worker had warmed up: after a sixth of its days, or two."""
    if len(days) < 4:
        return []
    warm = max(1, len(days) // 6)
    early, late = days[warm : len(days) // 2 + 1], days[-max(2, len(days) // 6) :]
    found = [
        f"{name} grew from at most {max(day[name] for day in early):g} to {min(day[name] for day in late):g}"
        for name in LEVELS
        if min(day[name] for day in late) > max(day[name] for day in early)
    ]
    amounts: tuple[tuple[Amount, float], ...] = (("rss_mb", MEGABYTES), ("objects", OBJECTS))
    for amount, allowed in amounts:
        first, last = median(day[amount] for day in early), median(day[amount] for day in late)
        if last - first > allowed:
            found.append(f"{amount} grew from {first:,.1f} to {last:,.1f}")
    return found


def _twice(calls: Sequence[ShareCall]) -> dict[str, int]:
    return {chat: n for chat, n in Counter(call.chat_id for call in calls).items() if n > 1}


def _row(day: Day, statuses: Sequence[int | None], seconds: float) -> str:
    shared = sum(status is not None and status < 300 for status in statuses)
    unknown = sum(status is None or status >= 500 for status in statuses)
    passes = day["passes"]
    return (
        f"{day['day']} {len(statuses):>6,} {shared:>6,} {unknown:>7} {len(statuses) - shared - unknown:>5}"
        f" {len(passes):>6} {day['rss_mb']:>7.1f} {day['files']:>5} {day['sockets']:>7} {day['tasks']:>5}"
        f" {day['threads']:>7} {day['objects']:>8,} {seconds:>7.1f}"
    )


def main() -> int:
    """Read the command line, soak a worker on each database, and print its days."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--chats", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    told = parser.parse_args()

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    wrong = []
    for kind in ("sqlite", "postgresql") if told.database == "both" else (told.database,):
        with new_database(kind) as url:
            month = asyncio.run(soak(url, kind=kind, days=told.days, count=told.chats, seed=told.seed, say=say))
        for each in month.wrong:
            say(f"  WRONG: {each}")
        say(f"{kind}: {month.calls:,} calls in {len(month.days)} days, {'grew' if month.wrong else 'flat'}")
        wrong += month.wrong
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
