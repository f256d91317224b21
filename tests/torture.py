"""Real workers on one database, killed with SIGKILL at random moments, some hundred times; a simulated Linq counts.

    python -m tests.torture --kills 400 --database both --seed 1

One to four `share-worker run` or `serve` at a time; all are killed, one after the other or at once, and others take
their place. A claim that a dead worker leaves is made older, as if its fifteen minutes were over, so that the next pass
settles it. At the end one pass is left in peace, and the ledger and Linq's log are held against each other. The exit
code is 1 if anything does not agree.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import insert, select

from tests.commands import environment, share_worker_process
from tests.databases import new_database
from tests.forked import Forked, fork
from tests.judge import Judge, open_ledger
from worker.cli.demo import known_chat
from worker.db.tables import chats, runs, share_attempts
from worker.ledger.attempts import STALE_AFTER
from worker.outcomes import Outcome
from worker.simulator.account import utc_now
from worker.simulator.faults import Fault
from worker.simulator.population import populate
from worker.simulator.server import serving

CONCURRENCY: Final = 10
CALLS_A_KILL: Final = 45
"""About so many chats are called for each kill, so that there is somebody left to call until the end."""
LIFE_SECONDS: Final = 30
"""A worker that was to die at a call, and makes none, is killed after so long."""


@dataclass
class Figures:
    """What came of it."""

    database: str
    chats: int
    kills: int = 0
    of_serve: int = 0
    at_work: int = 0
    """Kills that left at least one claim open."""
    most_open: int = 0
    """The most claims that one killed worker left."""
    calls: int = 0
    doubles: int = 0
    shared: int = 0
    unknown: int = 0
    unknown_uncalled: int = 0
    """Claims of killed workers that had not called yet."""
    left_out: int = 0
    seconds: float = 0
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The figures, for people."""
        return [
            f"{self.database}: {self.kills} kills ({self.of_serve} of serve, {self.at_work} with calls in flight)"
            f" in {self.seconds:.0f} s",
            f"  chats           {self.chats:>7,}",
            f"  calls           {self.calls:>7,}  as Linq counted them",
            f"  doubles         {self.doubles:>7,}  chats called twice",
            f"  shared          {self.shared:>7,}  in the ledger",
            f"  left unknown    {self.unknown:>7,}  perhaps called; {self.unknown_uncalled} of them were not",
            f"  left by a kill  {self.most_open:>7,}  claims at most; {CONCURRENCY} calls may be in flight",
            f"  left out        {self.left_out:>7,}  chats that were due and not attempted",
            *(f"  WRONG: {each}" for each in self.wrong),
        ]


@dataclass
class Victim:
    """A worker process, and when it is to die: after so many seconds, or calls of all workers."""

    process: Forked
    serves: bool
    log: Path
    seconds: float | None
    calls: int


class Torture:
    """One database, one simulated Linq, and the workers that come and go."""

    def __init__(
        self, judge: Judge, figures: Figures, *, database_url: str, base_url: str, logs: Path, seed: int
    ) -> None:
        self._judge = judge
        self._figures = figures
        self._logs = logs
        self._random = random.Random(seed)  # noqa: S311 -- repeatable on purpose
        self._arrived = asyncio.Event()
        judge.on_call = lambda _number: self._arrived.set()
        self._settings = {
            "LINQ_API_KEY": judge.api_key,
            "LINQ_BASE_URL": base_url,
            "DATABASE_URL": database_url,
            "SHARE_CONCURRENCY": str(CONCURRENCY),
            "SHARE_SCHEDULE": "* * * * *",
            "SHARE_TIMEZONE": noon_zone(utc_now()),
            "HTTP_PORT": "0",
            "LOG_FORMAT": "json",
        }

    async def round(self, at_most: int) -> None:
        """Some workers start, and all die."""
        victims = [await self._start() for _ in range(self._random.randint(1, min(4, at_most)))]
        before = len(self._judge.share_calls)
        try:
            if self._random.random() < 0.3:  # all at once, as when the machine dies
                await self._wait_for(victims[0], before)
                for victim in victims:
                    await self._kill(victim)
            else:
                await asyncio.gather(*(self._wait_and_kill(victim, before) for victim in victims))
        finally:
            for victim in victims:
                with suppress(ProcessLookupError):
                    victim.process.kill()
        await asyncio.sleep(0.05)  # what they sent last arrives
        self._count_what_is_left(victims)
        self._judge.bury()
        self._judge.backdate(STALE_AFTER + timedelta(minutes=1))
        self._figures.wrong += self._judge.disagreements()

    async def last_pass(self) -> None:
        """One pass that nobody disturbs; then everything must be explained."""
        figures, judge = self._figures, self._judge
        judge.clear_faults()
        ended = await share_worker_process("run", "--json", SHARE_MAX_PER_SECOND="0", **self._settings)
        if ended.code != 0:
            figures.wrong.append(f"the last pass ended with {ended.code}: {ended.err[-500:]}")
            return
        tally = json.loads(ended.out)["tally"]
        told = sum(tally["skipped"].values()) + sum(count for name, count in tally.items() if name != "skipped")
        if told != figures.chats:
            figures.wrong.append(f"the last pass counts {told} chats of {figures.chats}: {tally}")
        rows = judge.rows()
        called = {call.chat_id for call in judge.share_calls}
        attempted = {row.chat_id for row in rows if row.outcome is not Outcome.UNSENT}
        figures.calls = len(judge.share_calls)
        figures.doubles = figures.calls - len(called)
        figures.shared = sum(row.outcome is Outcome.SHARED for row in rows)
        unknown = [row.chat_id for row in rows if row.outcome is Outcome.UNKNOWN]
        figures.unknown = len(unknown)
        figures.unknown_uncalled = sum(chat_id not in called for chat_id in unknown)
        figures.left_out = len(_ought_to_be_called(judge) - attempted)
        figures.wrong += judge.disagreements()
        figures.wrong += [f"{row} is still open" for row in rows if row.outcome is Outcome.CLAIMED]
        if figures.doubles or figures.left_out or tally["left"] or tally["unsent"]:
            figures.wrong.append(f"{figures.doubles} doubles, {figures.left_out} left out, and the tally {tally}")

    async def _start(self) -> Victim:
        serves = self._random.random() < 0.4
        log = self._logs / f"{self._figures.kills}-{self._random.getrandbits(32):08x}.log"
        log.touch()  # it may be killed before it opens it
        pace = self._random.choice(("0", "100"))  # with one, an answer waits for the next claim to be recorded
        settings = environment(**self._settings, SHARE_MAX_PER_SECOND=pace)
        process = await fork(["serve" if serves else "run"], settings, log=log)
        starting = self._random.random() < 0.25
        seconds = self._random.uniform(0.1, 2) if starting else None
        return Victim(process, serves, log, seconds, calls=self._random.randint(1, 2 * CALLS_A_KILL))

    async def _wait_for(self, victim: Victim, before: int) -> None:
        if victim.seconds is not None:
            await asyncio.sleep(victim.seconds)
            return
        ended = asyncio.create_task(victim.process.wait())
        deadline = time.monotonic() + LIFE_SECONDS
        while len(self._judge.share_calls) < before + victim.calls and time.monotonic() < deadline and not ended.done():
            self._arrived.clear()
            arrived = asyncio.create_task(self._arrived.wait())
            await asyncio.wait((ended, arrived), timeout=1, return_when=asyncio.FIRST_COMPLETED)
            arrived.cancel()
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)
        await asyncio.sleep(self._random.uniform(0, 0.04))

    async def _wait_and_kill(self, victim: Victim, before: int) -> None:
        await self._wait_for(victim, before)
        await self._kill(victim)

    async def _kill(self, victim: Victim) -> None:
        with suppress(ProcessLookupError):
            victim.process.kill()
        code = await victim.process.wait()
        if code == -signal.SIGKILL:
            self._figures.kills += 1
            self._figures.of_serve += victim.serves
        elif code != 0 or victim.serves:
            self._figures.wrong.append(f"a worker ended by itself with {code}: {victim.log.read_text()[-500:]}")
        if "Traceback" in victim.log.read_text():
            self._figures.wrong.append(f"a traceback: {victim.log.read_text()[-1500:]}")

    def _count_what_is_left(self, victims: list[Victim]) -> None:
        """The claims that each dead worker left open: no more than its calls in flight."""
        for victim in victims:
            name = f"{socket.gethostname()}:{victim.process.pid}"
            statement = (
                select(share_attempts.c.chat_id)
                .join(runs, runs.c.id == share_attempts.c.run_id)
                .where(runs.c.worker == name, share_attempts.c.outcome == Outcome.CLAIMED.value)
            )
            with self._judge.ledger.connect() as connection:
                left = len(connection.execute(statement).all())
            self._figures.at_work += left > 0
            self._figures.most_open = max(self._figures.most_open, left)
            if left > CONCURRENCY:
                self._figures.wrong.append(f"a killed worker left {left} claims, with {CONCURRENCY} calls in flight")


async def torture(url: str, *, kind: str, kills: int, seed: int) -> Figures:
    """Kill so many workers on a database, and say what came of it."""
    began = time.monotonic()
    ended = await share_worker_process("migrate", DATABASE_URL=url)
    if ended.code != 0:
        raise RuntimeError(ended.err)
    ledger = open_ledger(url)
    judge = Judge(ledger, utc_now)
    populate(judge, chats=CALLS_A_KILL * kills + 200, seed=seed)
    figures = Figures(kind, chats=len(judge.chats))
    judge.add_fault(Fault(path="share", drop="after", probability=0.01))
    judge.add_fault(Fault(path="share", status=503, takes_effect=True, probability=0.01))
    judge.add_fault(Fault(path="share", delay_seconds=0.03))
    with ledger.connect() as connection:
        rows = [
            {name: getattr(known_chat(chat), name) for name in known_chat(chat).__dataclass_fields__}
            for chat in judge.chats.values()
        ]
        with connection.execution_options(isolation_level="SERIALIZABLE").begin():
            connection.execute(insert(chats), rows)
    async with serving(judge) as base_url:
        with tempfile.TemporaryDirectory(prefix="sw-torture-") as logs:
            work = Torture(judge, figures, database_url=url, base_url=base_url, logs=Path(logs), seed=seed)
            while figures.kills < kills and not figures.wrong:
                await work.round(kills - figures.kills)
            await work.last_pass()
    ledger.dispose()
    figures.seconds = time.monotonic() - began
    return figures


def noon_zone(now: datetime) -> str:
    """A time zone in which it is about noon: its share day does not end while this runs."""
    return f"Etc/GMT{now.astimezone(UTC).hour - 12:+d}"


def _ought_to_be_called(judge: Judge) -> set[str]:
    """The chats for which nothing speaks against a share, by what Linq knows of them."""
    active = {line for line, card in judge.cards.items() if judge.is_active(card)}
    return {
        chat.id
        for chat in judge.chats.values()
        if chat.service == "iMessage"
        and chat.last_outbound_at is not None
        and chat.health_status != "OPTED_OUT"
        and chat.from_number in active
    }


def main() -> int:
    """Read the command line, torture each database, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300, help="on each database (default: 300)")
    parser.add_argument("--seed", type=int, default=None, help="makes the choices repeatable; their timing is not")
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    told = parser.parse_args()
    seed = told.seed if told.seed is not None else random.SystemRandom().randrange(10**6)
    sys.stdout.write(f"seed {seed}, {os.cpu_count()} processors\n")
    wrong = 0
    for kind in ("sqlite", "postgresql") if told.database == "both" else (told.database,):
        with new_database(kind) as url:
            figures = asyncio.run(torture(url, kind=kind, kills=told.kills, seed=seed))
        sys.stdout.write("\n".join(figures.lines()) + "\n")
        sys.stdout.flush()
        wrong += len(figures.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
