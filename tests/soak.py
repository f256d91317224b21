"""A month of a worker's life in minutes: does it hold more of the machine at the end than at the beginning?

    python -m tests.soak --days 30 --chats 20000 --database both

One real process (`tests.long_lived`) serves a pass a day. Around it, each day, chats are added and written to, a card
changes, a line is flagged, Linq misbehaves, and now and then the database's sessions are cut. The partner writes
half of the messages and a third of the new chats into the table; only webhooks (`tests.postman`) tell of the rest, in
the morning, in the middle of the pass and in the evening: some twice, some in the wrong order, some forged.

Its memory, open files, sockets, tasks, threads and objects are printed day by day. The exit code is 1 if they grow, if
Linq was called twice in a chat and day, if a webhook was answered otherwise than docs/webhooks.md says, or if the table
or the calls are not what the webhooks lead to. The first eight days warm it up: fewer than twelve say little of growth.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from statistics import median
from typing import Final, Literal, NotRequired, TypedDict

import psycopg
from sqlalchemy import Connection, Engine, bindparam, insert, select, update

from tests.commands import ROOT, environment, share_worker_process
from tests.databases import end_the_workers, new_database
from tests.judge import Judge, open_ledger
from tests.long_lived import EVENING, MIDNIGHT, MORNING
from tests.postman import STATUSES, Letter, Postman
from worker.cli.demo import known_chat
from worker.db.tables import chats
from worker.simulator.account import ShareCall
from worker.simulator.chats import Chat
from worker.simulator.faults import Fault
from worker.simulator.population import populate
from worker.simulator.server import serving
from worker.simulator.subscriptions import new_secret
from worker.simulator.webhooks import make_event

START: Final = datetime(2026, 3, 1, 6, tzinfo=UTC)
WRITTEN_TO: Final = 0.12
"""The part of the chats that a message is sent to, each day."""
ANSWERED: Final = 0.04
"""The part of the chats in which the recipient writes while the pass runs."""
NEW: Final = 0.01
TWICE, REVERSED = 0.1, 0.25
"""The part of a chat's events that come twice, and in the wrong order."""
IN_THE_PASS: Final = 20
"""The call of the day at which webhooks begin to come."""
MEGABYTES: Final = 4.0
"""By so much the memory may differ without growing: what an allocator keeps is not flat to the byte."""
PAGE_CACHES: Final = 10.0
"""And by so much more on SQLite, whose five connections fill a cache of 2 MB each as the file grows."""
OBJECTS: Final = 5_000
MOST_SHOWN: Final = 20
"""Things that are wrong."""
Amount = Literal["rss_mb", "objects"]
Level = Literal["files", "sockets", "tasks", "threads", "own"]
LEVELS: Final[Mapping[Level, int]] = {"files": 4, "sockets": 2, "tasks": 0, "threads": 2, "own": 4}
"""By how much each may differ without growing: two connections, to Linq or to the database, which a pool opens late."""


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
    own: int


class Report(TypedDict):
    """What the worker says when its clock stands still."""

    hour: int
    now: str
    url: str
    day: NotRequired[Day]


@dataclass
class Month:
    """Days as they were measured, and what is wrong with them."""

    database: str
    days: list[Day]
    calls: int
    webhooks: Counter[str]
    wrong: list[str]


class Life:
    """What goes on around the worker."""

    def __init__(self, judge: Judge, postman: Postman, database_url: str, seed: int) -> None:
        self.now = START
        self.judge = judge
        self.wrong: list[str] = []
        self._postman = postman
        self._random = random.Random(seed)  # noqa: S311 -- repeatable on purpose
        self._database_url = database_url
        self._ids: list[str] = []
        self._before = 0
        self._cut_at = 0
        self._heard_of: list[str] = []
        """Chats that the partner never wrote into the table, and that are due today."""
        self._is_flagged = False
        self._arriving: asyncio.Task[None] | None = None
        self._letters_in_the_pass: list[Letter] = []
        judge.on_call = self._on_call

    def begin(self, count: int) -> None:
        """Let an account of so many chats be known."""
        populate(self.judge, chats=count)
        self._know(list(self.judge.chats.values()))
        self._steady, self._moody = list(self.judge.cards)[:2]

    async def morning(self, number: int) -> None:
        """What is new before the pass."""
        self._before = len(self.judge.share_calls)
        written_to = [self.judge.chats[chat_id] for chat_id in self._sample(WRITTEN_TO)]
        half = len(written_to) // 2
        self._partner_writes(written_to[:half])
        events = [self._message(chat, fails=n % 8 == 7) for n, chat in enumerate(written_to[half:])]
        events += self._new_chats(number)
        events += [[self._event("contact_card.received", chat_id=chat.id)] for chat in written_to[:5]]
        events += self._line_and_card(number)
        self._place_faults(number)
        await self._postman.deliver(self._letters(events))
        answered = [self.judge.chats[chat_id] for chat_id in self._sample(ANSWERED)]
        for chat in answered:
            self.judge.put_chat(replace(chat, last_inbound_at=self.now))
        self._letters_in_the_pass = self._letters(
            [self._event("message.received", chat_id=chat.id)] for chat in answered
        )

    async def evening(self) -> None:
        """What is new after the pass."""
        if self._arriving is None:
            self.wrong.append(
                f"{self.now:%Y-%m-%d}: the pass made too few calls for webhooks to come in the middle of it"
            )
        else:
            await self._arriving
            self._arriving = None
        events = [[self._event("contact_card.updated", phone_number=self._moody)]]
        if self._is_flagged:
            events.append([self._event("phone_number.status_updated", phone_number=self._moody)])
        read = [self.judge.chats[chat_id] for chat_id in self._sample(ANSWERED)]
        events += [
            [self._event("message.read", chat_id=chat.id, sent_at=chat.last_outbound_at)]
            for chat in read
            if chat.last_outbound_at
        ]
        await self._postman.deliver(self._letters(events))

    def calls_of_the_day(self) -> list[ShareCall]:
        """The calls since the morning; what is wrong with them is added to `wrong`."""
        calls = self.judge.share_calls[self._before :]
        counts = Counter(call.chat_id for call in calls)
        day = f"{self.now - timedelta(days=1):%Y-%m-%d}"
        self.wrong += [f"{chat} was called {n} times on {day}" for chat, n in counts.items() if n > 1]
        self.wrong += [
            f"{chat}, heard of by webhook, was not called on {day}" for chat in self._heard_of if not counts[chat]
        ]
        if self._is_flagged:
            on_line = [call.chat_id for call in calls if self.judge.chats[call.chat_id].from_number == self._moody]
            self.wrong += [f"{chat} was called on {day}, although its line is flagged" for chat in on_line]
        return calls

    def check_table(self) -> None:
        """Add to `wrong` the chats whose messages the table has otherwise than the account."""
        statement = select(chats.c.id, chats.c.last_outbound_at, chats.c.last_inbound_at)
        with self.judge.ledger.connect() as connection:
            rows = {row.id: (row.last_outbound_at, row.last_inbound_at) for row in connection.execute(statement)}
        account = {chat.id: (chat.last_outbound_at, chat.last_inbound_at) for chat in self.judge.chats.values()}
        for chat_id in sorted(rows.keys() | account.keys()):
            if rows.get(chat_id) != account.get(chat_id):
                self.wrong.append(f"{chat_id}: the table has {rows.get(chat_id)}, the account {account.get(chat_id)}")

    def _partner_writes(self, written_to: list[Chat]) -> None:
        at = self.now - timedelta(hours=1)
        for chat in written_to:
            self.judge.put_chat(replace(chat, last_outbound_at=at))
        statement = update(chats).where(chats.c.id == bindparam("chat")).values(last_outbound_at=bindparam("at"))
        with _transaction(self.judge.ledger) as connection:
            connection.execute(statement, [{"chat": chat.id, "at": at} for chat in written_to])

    def _message(self, chat: Chat, *, fails: bool = False) -> list[dict[str, object]]:
        """A message that is sent, and delivered or not."""
        sent_at = self.now - timedelta(minutes=30)
        if not fails:
            self.judge.put_chat(replace(chat, last_outbound_at=sent_at))
        message_id = f"{chat.id}-{sent_at:%Y%m%d}"
        return [
            self._event(kind, chat_id=chat.id, message_id=message_id, sent_at=sent_at)
            for kind in ("message.sent", "message.failed" if fails else "message.delivered")
        ]

    def _new_chats(self, number: int) -> list[list[dict[str, object]]]:
        """New chats: the partner adds a third, `chat.created` tells of the second third, only a message of the last."""
        new = [
            Chat(id=f"new-{number}-{n}", from_number=self._steady, last_outbound_at=self.now - timedelta(minutes=30))
            for n in range(max(3, int(NEW * len(self._ids))))
        ]
        self._know(new[::3])
        for chat in chain(new[1::3], new[2::3]):
            self.judge.put_chat(chat)
        self._heard_of = [chat.id for chat in chain(new[1::3], new[2::3])]
        self._ids += self._heard_of
        made = [[self._event("chat.created", chat_id=chat.id), *self._message(chat)[:1]] for chat in new[1::3]]
        return made + [self._message(chat)[1:] for chat in new[2::3]]

    def _line_and_card(self, number: int) -> list[list[dict[str, object]]]:
        """A card that changes, and a line that is flagged; on other days an old word of a flag comes too late."""
        line = self._moody
        self.judge.put_card(line, is_active=number % 6 != 2)
        self._is_flagged = number % 5 == 1
        earlier = self.now - timedelta(hours=2 if not self._is_flagged else 0)
        flagged = self._event("phone_number.status_updated", phone_number=line, new_status="FLAGGED", at=earlier)
        active = self._event(
            "phone_number.status_updated",
            phone_number=line,
            at=earlier + timedelta(hours=-1 if self._is_flagged else 1),
        )
        return [[self._event("contact_card.updated", phone_number=line)], [active, flagged]]

    def _place_faults(self, number: int) -> None:
        judge = self.judge
        judge.clear_faults()
        judge.add_fault(Fault(path="list_cards", status=500, times=1))
        judge.add_fault(Fault(path="get_chat", status=500, times=8))
        if number % 2:
            judge.add_fault(Fault(path="share", delay_seconds=5, takes_effect=True, after=20, times=1))
        judge.add_fault(Fault(path="share", status=429, retry_after=60, after=10, times=2))
        judge.add_fault(Fault(path="share", drop="after", probability=0.004))
        judge.add_fault(Fault(path="share", status=503, probability=0.004))
        if number % 5 == 4:
            judge.add_fault(Fault(path="share", status=401, after=30, times=1))
        self._cut_at = self._before + 50 if number % 7 == 3 else 0

    def _on_call(self, number: int) -> None:
        if number == self._before + IN_THE_PASS:
            self._arriving = asyncio.create_task(self._postman.deliver(self._letters_in_the_pass))
        if number == self._cut_at and self._database_url.startswith("postgresql"):
            with psycopg.connect(self._database_url, autocommit=True) as connection:
                end_the_workers(connection)

    def _event(
        self, kind: str, *, at: datetime | None = None, sent_at: datetime | None = None, **about: str
    ) -> dict[str, object]:
        return make_event(self.judge, kind, at=at or self.now, sent_at=sent_at, **about)

    def _letters(self, events: Iterable[list[dict[str, object]]]) -> list[Letter]:
        """Events about one thing after the other, as they are delivered; and some that somebody forged, or broke."""
        choose, letters = self._random, []
        for about_one in events:
            if choose.random() < REVERSED:
                about_one.reverse()
            for event in about_one:
                letters += [Letter(event=event)] * (2 if choose.random() < TWICE else 1)
        chat_id = self._ids[0]
        forged = self._event("message.sent", chat_id=chat_id, at=self.now - timedelta(seconds=1))
        letters += [Letter(event=forged, broken=broken) for broken in STATUSES if broken]
        return letters

    def _sample(self, part: float) -> list[str]:
        return self._random.sample(self._ids, int(part * len(self._ids)))

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
    secret = new_secret()
    ledger, postman = open_ledger(database_url), Postman(secret)
    judge = Judge(ledger, lambda: life.now)
    life = Life(judge, postman, database_url, seed)
    life.begin(count)
    month = Month(kind, [], calls=0, webhooks=postman.delivered, wrong=[])
    say(f"{kind}, {count:,} chats")
    say(
        "day         calls shared unknown other webhooks passes RSS MB files sockets tasks threads objects  own seconds"
    )
    async with serving(judge) as base_url:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.long_lived", START.isoformat(), str(days)),
            env=environment(
                LINQ_API_KEY=judge.api_key,
                LINQ_BASE_URL=base_url,
                LINQ_WEBHOOK_SECRET=secret,
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
        began, delivered = time.monotonic(), 0
        while len(month.days) < days and (line := await process.stdout.readline()):
            report: Report = json.loads(line)
            life.now, postman.url = datetime.fromisoformat(report["now"]), report["url"]
            if report["hour"] == MORNING:
                await life.morning(len(month.days))
            elif report["hour"] == EVENING:
                await life.evening()
                if len(month.days) == days - 1:
                    counted = await postman.counted()
                    if counted != postman.delivered:
                        month.wrong.append(f"the worker counted {counted}, and was sent {postman.delivered}")
            elif report["hour"] == MIDNIGHT:
                day = report["day"]
                month.days.append(day)
                if not any(made["status"] == "completed" for made in day["passes"]):
                    month.wrong.append(f"no pass was completed on {day['day']}: {day['passes']}")
                statuses = [call.status for call in life.calls_of_the_day()]
                say(_row(day, statuses, postman.delivered.total() - delivered, time.monotonic() - began))
                began, delivered = time.monotonic(), postman.delivered.total()
            if len(month.days) < days:
                process.stdin.write(b"go\n")
                await process.stdin.drain()
        _, err = await process.communicate()
    if process.returncode != 0 or err or len(month.days) < days:
        month.wrong.append(f"the worker ended with {process.returncode}: {err.decode()[-1500:]}")
    month.calls = len(judge.share_calls)
    megabytes = MEGABYTES + (PAGE_CACHES if kind == "sqlite" else 0)
    life.check_table()
    month.wrong += [*life.wrong, *postman.wrong, *judge.disagreements(), *growth(month.days, megabytes)]
    ledger.dispose()
    return month


def growth(days: Sequence[Day], megabytes: float = MEGABYTES) -> list[str]:
    """What is higher at the end than it was when the worker had warmed up: after a sixth of its days, or two."""
    if len(days) < 4:
        return []
    warm = max(1, len(days) // 6)
    early, late = days[warm : len(days) // 2 + 1], days[-max(2, len(days) // 6) :]
    found = [
        f"{name} grew from at most {max(day[name] for day in early):g} to {min(day[name] for day in late):g}"
        for name, allowed in LEVELS.items()
        if min(day[name] for day in late) > max(day[name] for day in early) + allowed
    ]
    amounts: tuple[tuple[Amount, float], ...] = (("rss_mb", megabytes), ("objects", OBJECTS))
    for amount, limit in amounts:
        first, last = median(day[amount] for day in early), median(day[amount] for day in late)
        if last - first > limit:
            found.append(f"{amount} grew from {first:,.1f} to {last:,.1f}")
    return found


def _row(day: Day, statuses: Sequence[int | None], webhooks: int, seconds: float) -> str:
    shared = sum(status is not None and status < 300 for status in statuses)
    unknown = sum(status is None or status >= 500 for status in statuses)
    passes = day["passes"]
    return (
        f"{day['day']} {len(statuses):>6,} {shared:>6,} {unknown:>7} {len(statuses) - shared - unknown:>5}"
        f" {webhooks:>8,} {len(passes):>6} {day['rss_mb']:>6.1f} {day['files']:>5} {day['sockets']:>7}"
        f" {day['tasks']:>5} {day['threads']:>7} {day['objects']:>7,} {day['own']:>4} {seconds:>7.1f}"
    )


def _ruling(month: Month) -> str:
    return f"{len(month.wrong)} wrong" if month.wrong else "flat, and nothing wrong"


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
        for each in month.wrong[:MOST_SHOWN]:
            say(f"  WRONG: {each}")
        webhooks = ", ".join(f"{n:,} {result}" for result, n in sorted(month.webhooks.items()))
        say(f"{kind}: {month.calls:,} calls in {len(month.days)} days; webhooks: {webhooks}; {_ruling(month)}")
        wrong += month.wrong
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
