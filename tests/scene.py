"""A small world to test in: a simulated account, a database, and the few moves that tests make in both at once."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from itertools import count
from typing import Protocol

from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.chats import facts
from worker.cli.demo import known_chat
from worker.clock import Clock
from worker.db.tables import chats as chats_table
from worker.db.tables import share_attempts
from worker.ledger.runs import close_run, open_run
from worker.linq.client import Linq
from worker.outcomes import Outcome, PassResult, RerunRequest, RunStatus, Trigger
from worker.rules.eligibility import Rules
from worker.sharing.candidates import Candidates
from worker.sharing.limits import Limits
from worker.sharing.rerun import Chosen, Plan, Selection, make_plan
from worker.sharing.share_pass import run_pass
from worker.sharing.watch import UNWATCHED, Watch
from worker.simulator.account import Account, Line
from worker.simulator.chats import Chat

LINE = "+15550100001"
BEFORE = "19700101T000000Z-before"
"""The id of the pass of `Scene.ran_yesterday`."""


class MovableClock(Clock, Protocol):
    def move(self, **span: float) -> None: ...


@dataclass(frozen=True)
class Attempt:
    """A row of the ledger."""

    chat_id: str
    share_day: date
    sequence: int
    outcome: Outcome
    run_id: str
    claimed_at: datetime
    finished_at: datetime | None
    http_status: int | None
    error_code: int | None
    error_message: str | None
    trace_id: str | None
    requested_by: str | None
    reason: str | None


@dataclass
class Scene:
    engine: AsyncEngine
    account: Account
    base_url: str
    clock: MovableClock
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def add_line(self, number: str = LINE, *, active: bool | None = True) -> None:
        """A line of the account; with an active card, an inactive one, or (None) without a card."""
        self.account.put_line(Line(number))
        if active is not None:
            self.account.put_card(number, first_name="Acme", last_name="Support")
            if not active:
                self.account.deactivate_card(number)

    async def add_chat(self, chat_id: str, **changes: str | bool | datetime | None) -> Chat:
        """A chat that is due, but for the changes; in the account and in the table."""
        (chat,) = await self.add_chats([chat_id], **changes)
        return chat

    async def add_chats(self, chat_ids: Iterable[str], **changes: str | bool | datetime | None) -> list[Chat]:
        """Chats that are due, but for the changes; in the account and, by one transaction, in the table."""
        usual = Chat(
            id="",
            from_number=LINE,
            last_outbound_at=self.clock.now() - timedelta(hours=2),
            created_at=self.clock.now() - timedelta(days=30),
        )
        added = [replace(usual, id=chat_id, **changes) for chat_id in chat_ids]  # type: ignore[arg-type] # fields of a chat
        for chat in added:
            self.account.put_chat(chat)
        await self.know(*added)
        return added

    async def know(self, *known: Chat) -> None:
        """Write chats of the account into the table."""
        async with db.write(self.engine) as connection:
            await facts.add_chats(connection, map(known_chat, known))

    async def ran_yesterday(self) -> None:
        """Leave a completed pass of the day before in the table: the next start of the service is not the first one."""
        at = self.clock.now() - timedelta(days=1)
        async with db.write(self.engine) as connection:
            await open_run(
                connection, run_id=BEFORE, trigger=Trigger.SCHEDULE, share_day=at.date(), worker="w:1", now=at
            )
            await close_run(connection, run_id=BEFORE, status=RunStatus.COMPLETED, detail=None, tally=None, now=at)

    async def change_chat(self, chat_id: str, **values: object) -> None:
        """Change a row of the table `chats`."""
        async with db.write(self.engine) as connection:
            await connection.execute(chats_table.update().where(chats_table.c.id == chat_id).values(**values))

    async def one_pass(
        self,
        *,
        rules: Rules | None = None,
        limits: Limits | None = None,
        trigger: Trigger = Trigger.COMMAND,
        seconds: float = 30,
        engine: AsyncEngine | None = None,
        candidates: Candidates | None = None,
        clock: Clock | None = None,
        watch: Watch = UNWATCHED,
    ) -> PassResult:
        """A pass of a worker of its own."""
        limits = limits or Limits(per_second=0)
        linq = Linq(
            self.account.api_key,
            base_url=self.base_url,
            timeout=seconds,
            connections=limits.concurrency,
            clock=clock or self.clock,
        )
        async with linq:
            return await run_pass(
                engine or self.engine,
                linq,
                rules or Rules(),
                limits,
                trigger=trigger,
                clock=clock or self.clock,
                stop=self.stop,
                candidates=candidates,
                watch=watch,
            )

    async def plan(
        self,
        selection: Selection,
        *,
        force: bool = False,
        rules: Rules | None = None,
        shown: int | None = None,
        clock: Clock | None = None,
    ) -> Plan:
        """What a rerun would do, by the cards as they were last stored."""
        async with db.read(self.engine) as connection:
            now = (clock or self.clock).now()
            return await make_plan(connection, rules or Rules(), selection, now, force=force, shown=shown)

    async def rerun(
        self,
        plan: Plan,
        *,
        force: bool = False,
        rules: Rules | None = None,
        limits: Limits | None = None,
        engine: AsyncEngine | None = None,
        clock: Clock | None = None,
    ) -> PassResult:
        """The rerun of a plan, by a worker of its own."""
        request = RerunRequest(by="ada", reason="a test")
        return await self.one_pass(
            rules=rules,
            limits=limits,
            trigger=Trigger.RERUN,
            engine=engine,
            candidates=Chosen(rules or Rules(), plan.sequences, force=force, rerun=request),
            clock=clock,
        )

    async def attempts(self, chat_id: str | None = None) -> list[Attempt]:
        """The ledger, in the order of its key."""
        columns = [share_attempts.c[name] for name in Attempt.__dataclass_fields__]
        statement = select(*columns).order_by(*share_attempts.primary_key)
        if chat_id is not None:
            statement = statement.where(share_attempts.c.chat_id == chat_id)
        async with db.read(self.engine) as connection:
            rows = (await connection.execute(statement)).mappings()
            return [Attempt(**{**row, "outcome": Outcome(row["outcome"])}) for row in rows]

    async def outcomes(self) -> dict[str, str]:
        """What became of each chat that has an attempt."""
        return {attempt.chat_id: attempt.outcome.value for attempt in await self.attempts()}

    def before_each_claim(self, act: Callable[[int], object]) -> None:
        """Do something each time that claims are about to be written; it is told how many times that was."""
        times = count(1)

        @event.listens_for(self.engine.sync_engine, "before_cursor_execute")
        def before(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
            if statement.startswith("INSERT INTO share_attempts"):
                act(next(times))

    def as_each_claim_commits(self, act: Callable[[int], object]) -> None:
        """Do something each time that claims are being committed, so before anything is sent for them."""
        engine = self.engine.sync_engine
        self.before_each_claim(lambda times: event.listen(engine, "commit", lambda _: act(times), once=True))

    def called(self) -> list[str]:
        """The chats for which the simulated Linq was called, in order."""
        return [call.chat_id for call in self.account.share_calls]


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn, and other processes work, until something holds."""
    while not condition():  # noqa: ASYNC110 -- the simulator's log has no event to wait for
        await asyncio.sleep(0.001)
