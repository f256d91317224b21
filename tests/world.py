"""A world that tries to make the worker call twice: chats, cards, clocks that lie, crashes, and a judge.

`tests/test_machine.py` lets Hypothesis choose the moves; here they are carried out, in an event loop that lives as long
as one example. The simulated Linq is served in that loop, over real HTTP, and keeps the true time. In the middle of a
pass, at a call or a commit that was chosen before, a `Strike` comes.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Literal
from unittest import mock

from sqlalchemy import event, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from tests import killed
from tests.judge import FORCED, Judge, Row, Witnessed, open_ledger
from tests.lies import Time, WorkerClock
from tests.trouble import Near, Reach, reaching
from worker import db
from worker.account import LINQ_PAUSE
from worker.chats.events import apply_events
from worker.chats.sync import Synced, sync_chats
from worker.db import faults
from worker.db.tables import chats
from worker.linq.client import Linq
from worker.linq.webhooks import MessageEvent
from worker.outcomes import Outcome, PassResult, RerunRequest, RunStatus, Trigger
from worker.rules.eligibility import Rules, chats_with_lines, moment, verdict
from worker.sharing.calls import FRESH_SECONDS
from worker.sharing.limits import Limits
from worker.sharing.rerun import Chosen, Selection, make_plan
from worker.sharing.share_pass import run_pass
from worker.simulator.account import Line
from worker.simulator.chats import Chat
from worker.simulator.faults import Fault
from worker.simulator.server import serving

LINES: Final = ("+15550100001", "+15550100002")
FRESH: Final = timedelta(seconds=FRESH_SECONDS)
PATIENCE: Final = 0.15
"""Seconds that a worker waits for an answer, where one is held back."""

BUSY_SECONDS: Final = faults.BUSY_SECONDS
LITTLE_PATIENCE: Final = 0.2
"""Seconds that a locked SQLite file is waited for, where it is locked on purpose."""

Event = Literal[
    "jump", "freeze", "second", "away", "cut", "unsaid", "stop", "cancel", "card", "pause", "migrate", "facts", "kill"
]
TROUBLE: Final[frozenset[Event]] = frozenset({"away", "cut", "unsaid"})
"""Events after which a pass may fail, or leave claims that it could not finish."""


@dataclass(frozen=True)
class Strike:
    """What happens in the middle of a pass, at its n-th call or commit; by how much, in the event's own terms."""

    at: Literal["call", "commit"]
    number: int
    event: Event
    by: float = 0


@dataclass(frozen=True)
class Work:
    """What a worker is told to do."""

    rules: Rules
    limits: Limits
    rerun: Chosen | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    events: frozenset[Event] = frozenset()
    """What strikes meanwhile."""


@dataclass
class Armed:
    """A strike that waits for its moment."""

    strike: Strike
    come: Callable[[], None]
    seen: int = 0


class World:
    """An account and a database, and the moves in both."""

    def __init__(self, database_url: str, start: datetime, min_hours: float) -> None:
        self.min_hours = min_hours
        self.time = Time(start)
        self.error = timedelta()
        """How wrong the clock of the first worker is now."""
        self.ledger = open_ledger(database_url)
        self.judge = Judge(self.ledger, self.time.now)
        self.judge.on_call = self._on_call
        self.wrong: list[str] = []
        self._database_url = database_url
        self._begun: dict[int, datetime] = {}
        """When the claim of a call was made, in true time."""
        self._reruns = 0
        self._paused: set[str] = set()
        self._chats: dict[str, Chat] = {}
        """As the table has them; Linq may have forgotten some."""
        self._armed: list[Armed] = []
        self._sleeps_left = 0
        self._background: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Begin, with two lines whose cards are active."""
        self.reach: Reach = await self._stack.enter_async_context(reaching(self._database_url))
        self.base_url = await self._stack.enter_async_context(serving(self.judge))
        for line in LINES:
            self.judge.put_line(Line(line))
            self.judge.put_card(line)

    async def close(self) -> None:
        """End."""
        await self._stack.aclose()
        self.ledger.dispose()

    # Moves between passes

    def add_chat(self, chat: Chat) -> None:
        """A chat, at Linq and in the table."""
        self.judge.put_chat(chat)
        self._chats[chat.id] = chat
        values = {
            name: getattr(chat, name) for name in ("id", "from_number", "service", "is_group", "last_outbound_at")
        }
        with self.ledger.connect() as connection:
            connection.execute(insert(chats).values(**values, health_status=chat.health_status))

    def change_chat(self, chat_id: str, **values: object) -> None:
        """Change a row of the table, as an admin or the partner's own SQL does."""
        with self.ledger.connect() as connection:
            connection.execute(update(chats).where(chats.c.id == chat_id).values(**values))

    def outbound(self, chat_id: str) -> None:
        """A message is sent in a chat."""
        chat = self._chats[chat_id] = replace(self._chats[chat_id], last_outbound_at=self.time.now())
        if chat_id in self.judge.chats:
            self.judge.put_chat(chat)
        self.change_chat(chat_id, last_outbound_at=chat.last_outbound_at)

    def pause(self, chat_id: str, *, on: bool) -> None:
        """An admin stops sharing in a chat, or lets it be shared again."""
        self.change_chat(chat_id, paused_at=self.time.now() if on else None)
        (self._paused.add if on else self._paused.discard)(chat_id)

    def set_card(self, line: str, state: Literal["active", "inactive", "none"]) -> None:
        """Change a line's card at Linq."""
        self.judge.put_card(line, is_active=state == "active")
        if state == "none":
            self.judge.remove_card(line)

    def jump(self, by: timedelta) -> None:
        """The first worker's clock is stepped."""
        self.error += by
        self.time.lie(by)

    async def migrate(self) -> None:
        """Somebody runs `migrate`."""
        async with db.opened(db.parse_url(self._database_url)) as engine:
            await db.migrate(engine)

    async def facts_come_in(self) -> None:
        """Webhooks tell of every chat, twice and the newest first; then a sync reads the account."""
        now = self.time.now()
        told = [
            MessageEvent(
                chat_id=chat.id,
                message_id=f"{chat.id}-{at}",
                at=at,
                is_outbound=at != now,
                has_arrived=True,
                is_group=chat.is_group,
                sender=None,
                health_status=chat.health_status,
                health_updated_at=chat.created_at,
            )
            for chat in list(self.judge.chats.values())
            for at in (now, chat.last_outbound_at, now)
            if at is not None
        ]
        clock = WorkerClock(self.time, lambda: self.error, lambda: None)
        linq = Linq(self.judge.api_key, base_url=self.base_url, clock=clock)
        async with db.opened(db.parse_url(self._database_url)) as engine, linq:
            with suppress(SQLAlchemyError):  # a trouble of the database may come at the same time
                async with db.write(engine) as connection:
                    await apply_events(connection, told, clock.now())
                await sync_chats(engine, linq, Synced(), concurrency=3, clock=clock, stop=asyncio.Event())

    # Passes

    async def make_pass(
        self,
        rules: Rules,
        limits: Limits,
        *,
        fault: Fault | None = None,
        strikes: Sequence[Strike] = (),
        rerun: Chosen | None = None,
    ) -> PassResult | None:
        """A pass of the first worker, with what goes wrong in it; None where it did not come to an end of its own."""
        events = {strike.event for strike in strikes}
        if fault is not None:
            self.judge.add_fault(fault)
        if "freeze" in events:
            limits = replace(limits, concurrency=1)  # so that nothing is on its way when time stands still
        work = Work(rules, limits, rerun, events=frozenset(events))
        result: PassResult | None = None
        with mock.patch("worker.db.engine.BUSY_SECONDS", LITTLE_PATIENCE if events & TROUBLE else BUSY_SECONDS):
            making = asyncio.create_task(self._do_work(work, lambda: self.error))
            self._armed = [Armed(strike, partial(self._come, strike, making, work)) for strike in strikes]
            try:
                result = await making
            except asyncio.CancelledError:
                assert "cancel" in events
            except SQLAlchemyError:
                assert events & TROUBLE, "a pass without trouble of the database ends well"
            self._armed.clear()
            await self.reach.give_back()
            await asyncio.gather(*self._background)
            self._background.clear()
        await self._settle_down()
        if result is not None:
            self._check_result(result, alone=not events & {"second", *TROUBLE})
        return result

    async def plan_rerun(self, rules: Rules, selection: Selection, *, force: bool) -> Chosen:
        """What an admin asks for, by what the ledger says now."""
        self._reruns += 1
        async with (
            db.opened(db.parse_url(self._database_url)) as engine,
            db.read(engine) as connection,
        ):
            plan = await make_plan(connection, rules, selection, self.time.tell(self.error), force=force, shown=0)
        request = RerunRequest(by=f"rerun {self._reruns}", reason=FORCED if force else None)
        return Chosen(rules, plan.sequences, force=force, rerun=request)

    async def kill_pass(self, rules: Rules, limits: Limits, *, dies_at: int | None, at_call: int | None) -> None:
        """A pass in a process that is killed: at a step of its own, or when it has made so many calls."""
        errand = killed.Errand(
            database_url=self.reach.url,
            base_url=self.base_url,
            api_key=self.judge.api_key,
            rules=rules,
            limits=limits,
            starts_at=self.time.tell(self.error),
            dies_at=dies_at,
        )
        process, slept = killed.send(errand)
        if at_call is not None and (pid := process.pid) is not None:
            self._armed = [Armed(Strike("call", at_call, "kill"), lambda: os.kill(pid, signal.SIGKILL))]
        with self.time.spent(lambda: slept.value):
            code = await killed.ended(process)
            assert code in {0, -signal.SIGKILL}, f"the process ended with {code}"
            self._armed.clear()
            await self._settle_down()

    async def _do_work(self, work: Work, error: Callable[[], timedelta]) -> PassResult:
        """One worker, as a process of its own has it: its engine, its client, its clock."""
        clock = WorkerClock(self.time, error, self._on_sleep)
        held_back = any(fault["path"] == "share" and "delay_seconds" in fault for fault in self.judge.faults.listing())
        linq = Linq(
            self.judge.api_key,
            base_url=self.base_url,
            timeout=PATIENCE if held_back else 30,
            connections=work.limits.concurrency,
            clock=clock,
        )
        async with db.opened(db.parse_url(self.reach.url)) as engine, linq:

            @event.listens_for(engine.sync_engine, "commit")
            def on_commit(_connection: object) -> None:
                self._count("commit")

            return await run_pass(
                engine,
                linq,
                work.rules,
                work.limits,
                trigger=Trigger.RERUN if work.rerun else Trigger.COMMAND,
                clock=clock,
                stop=work.stop,
                candidates=work.rerun,
            )

    # What strikes in the middle of one

    def _count(self, what: Literal["call", "commit"]) -> None:
        for armed in self._armed:
            if armed.strike.at == what:
                armed.seen += 1
                if armed.seen == armed.strike.number:
                    armed.come()

    def _on_call(self, number: int) -> None:
        """A call has arrived at Linq."""
        if self.judge.witnessed and self.judge.witnessed[-1].entry.number == number - 1:
            claim = self.judge.witnessed[-1].claim
            self._begun[number - 1] = self.time.when(claim.claimed_at, self.error)
        self._count("call")

    def _on_sleep(self) -> None:
        if self._sleeps_left:
            self._sleeps_left -= 1
            if not self._sleeps_left:
                self._do(self.reach.give_back())

    def _do(self, work: Coroutine[None, None, None]) -> None:
        self._background.append(asyncio.create_task(work))

    def _come(self, strike: Strike, making: "asyncio.Task[PassResult]", work: Work) -> None:
        in_a_file = isinstance(self.reach, Near)
        match strike.event:
            case "jump":
                self.jump(timedelta(seconds=strike.by))
            case "freeze":
                if "second" in work.events:
                    self.time.lie(timedelta(seconds=strike.by))  # the other one's calls may be on their way
                self.time.go(strike.by)
            case "second":
                self._do(self._second(work, timedelta(seconds=strike.by)))
            case "cut" if not in_a_file:
                self.reach.cut()
            case "unsaid" if not in_a_file:
                self.reach.lose_word_of_commit()
            case "away" | "cut" | "unsaid":
                self._sleeps_left = max(1, int(strike.by))
                self._do(self.reach.lose())
            case "stop":
                work.stop.set()
            case "cancel":
                making.cancel()
            case "card":
                self.set_card(LINES[0], "inactive")
            case "pause":
                self._do(asyncio.to_thread(self.pause, min(self.judge.chats), on=True))
            case "migrate" | "facts":
                self._do(self.migrate() if strike.event == "migrate" else self.facts_come_in())

    async def _second(self, work: Work, differs_by: timedelta) -> None:
        """Another worker on another machine, told to do the same; its clock differs."""
        since, error = self.time.now(), self.error + differs_by
        try:
            result = await self._do_work(replace(work, stop=asyncio.Event()), lambda: error)
        except SQLAlchemyError:
            assert work.events & TROUBLE
        else:
            self._check_result(result, alone=False)
        self.time.lie(differs_by, since)

    async def _settle_down(self) -> None:
        """Wait until everything that workers sent, living or dead, has arrived; then nobody is at work."""
        await self.reach.give_back()
        self._sleeps_left = 0
        await self.reach.quiet()
        for _ in range(2):  # what a dead client sent lies before this in the server's queue
            host, _, port = self.base_url.removeprefix("http://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /_simulator/faults HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            await reader.read()
            writer.close()
            await writer.wait_closed()
        self.judge.clear_faults()
        self.judge.bury()

    # What must be true

    def _check_result(self, result: PassResult, *, alone: bool) -> None:
        """A pass that ended says what it did, and leaves no claim open."""
        rows = self.judge.rows()
        mine = [row for row in rows if row.run_id == result.run_id]
        if result.status is not RunStatus.FAILED:
            self.wrong += [
                f"{result.run_id} ended {result.status} and left {row}"
                for row in mine
                if row.outcome is Outcome.CLAIMED
            ]
        if result.tally is None or not alone:
            return
        tally = result.tally
        for outcome in (Outcome.SHARED, Outcome.REJECTED, Outcome.UNKNOWN, Outcome.UNSENT):
            counted = sum(row.outcome is outcome for row in mine)
            if tally[outcome.value] != counted:  # type: ignore[literal-required]
                self.wrong.append(f"{result.run_id} counts {tally}, the ledger has {counted} {outcome}")
        with self.ledger.connect() as connection:
            known = connection.execute(select(func.count()).select_from(chats)).scalar_one()
        if result.trigger is Trigger.RERUN:
            return
        counted = sum(tally["skipped"].values()) + sum(
            tally[name] for name in ("shared", "rejected", "unknown", "unsent", "left")
        )
        if counted != known:
            self.wrong.append(f"{result.run_id} counts {counted} of {known} chats: {tally}")

    def violations(self) -> list[str]:
        """All that is wrong now; nothing, as long as the promise holds."""
        return [*self.wrong, *self.judge.disagreements(), *self._too_close_by_their_clocks(), *self._too_close()]

    def _too_close_by_their_clocks(self) -> list[str]:
        """By the workers' own clocks, claims of a chat are SHARE_MIN_HOURS apart, whatever these clocks say."""
        last: dict[str, Row] = {}
        found = []
        for row in sorted(self.judge.rows(), key=lambda row: row.claimed_at):
            if row.outcome is Outcome.UNSENT or row.requested_by is not None:
                continue
            before = last.get(row.chat_id)
            if before is not None and row.claimed_at - before.claimed_at < timedelta(hours=self.min_hours):
                found.append(f"claims of one chat are too close: {before}, {row}")
            last[row.chat_id] = row
        return found

    def _too_close(self) -> list[str]:
        """By the true time, calls of a chat are as far apart, but for the age of a claim and the clocks' lies.

        A rerun waits for as long as Linq wants, and no longer.
        """
        found = []
        last: dict[str, Witnessed] = {}
        for each in self.judge.witnessed:
            began = self._begun[each.entry.number]
            age = each.call.at - began
            if age > FRESH + self.time.lied(began, each.call.at):
                found.append(f"{each} was called {age} after its claim")
            before = last.get(each.call.chat_id)
            last[each.call.chat_id] = each
            if before is None:
                continue
            apart = each.call.at - before.call.at
            lied = self.time.lied(min(began, self._begun[before.entry.number]), each.call.at)
            least = timedelta(hours=self.min_hours) - FRESH if each.claim.requested_by is None else LINQ_PAUSE
            if apart < least - lied:
                found.append(f"two calls within {apart}, with clocks off by {lied}: {before}, {each}")
        return found

    async def unexplained(self, rules: Rules, *, called_since: int) -> list[str]:
        """Chats that an undisturbed pass did not call, and whose verdict is not true by what the world knows itself."""
        now = self.time.tell(self.error)
        called = {call.chat_id for call in self.judge.share_calls[called_since:]}
        statement = select(chats.c.id, verdict(rules)).select_from(chats_with_lines())
        async with (
            db.opened(db.parse_url(self._database_url)) as engine,
            db.read(engine) as connection,
        ):
            found = await connection.execute(statement, moment(rules, now))
            verdicts: dict[str, str] = {chat_id: name for chat_id, name in found}  # noqa: C416 -- rows are no plain pairs
        rows = self.judge.rows()
        return [
            f"{chat_id} was not called and is said to be {name}: {[row for row in rows if row.chat_id == chat_id]}"
            for chat_id, name in verdicts.items()
            if chat_id not in called
            and not self._is_true(name, chat_id, rules, now, [row for row in rows if row.chat_id == chat_id])
        ]

    def _is_true(self, said: str, chat_id: str, rules: Rules, now: datetime, rows: list[Row]) -> bool:
        """Whether a verdict holds, by the facts as they were made."""
        chat = self._chats[chat_id]
        told = {call.status for call in self.judge.calls_of(chat_id)}
        card = self.judge.cards.get(chat.from_number)
        today = rules.share_day(now)
        called = [row for row in rows if row.outcome is not Outcome.UNSENT]
        shared = [row for row in called if row.outcome is not Outcome.REJECTED]
        sent = chat.last_outbound_at
        facts = {
            "paused": chat_id in self._paused,
            "missing": 404 in told or chat_id not in self.judge.chats,
            "not_imessage": chat.service != "iMessage",
            "no_outbound": sent is None,
            "opted_out": 403 in told,
            "no_card": card is None,
            "card_inactive": card is not None and not self.judge.is_active(card),
            "already_today": any(row.share_day == today for row in called),
            "too_soon": any(now - row.claimed_at < timedelta(hours=rules.min_hours) for row in called)
            or any(row.share_day > today - timedelta(days=rules.every_days) for row in shared),
            "cap_reached": 0 < rules.max_per_chat <= len(shared),
            "dormant": bool(rules.active_days) and sent is not None and sent < now - timedelta(days=rules.active_days),
            "group_excluded": chat.is_group and not rules.include_groups,
            "due": False,
        }
        return facts[said]
