"""The loop of one pass: record what came back, claim for the free slots, commit, call; until there is a reason to end.

A request is sent only for a claim whose commit was confirmed. No transaction is open while it is under way, it is never
repeated, and a claim that has gone stale is given back instead. An answer stays in memory until the ledger has it, also
while the database is away. In memory are the requests in flight and a window of the walk, however many chats there are.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import db
from worker.chats import facts
from worker.clock import Clock
from worker.ledger import attempts
from worker.ledger.attempts import Recorded
from worker.linq.answers import CardInactive, ErrorCode, LineRefused, LinqError, NeverSent, PerhapsDone
from worker.linq.client import Linq
from worker.outcomes import OUTSIDE_HOURS, TOLD_TO_STOP, Answer, Claim, Outcome, RunStatus, Tally
from worker.rules.eligibility import LINE_REST, Rules
from worker.sharing.candidates import Candidates
from worker.sharing.limits import Brake, Limits, LineLimits, Pace
from worker.sharing.walk import Walk
from worker.sharing.watch import ProgressLog, Watch
from worker.text import chat_count, minute

log = structlog.get_logger(__name__)

FRESH_SECONDS: Final = 60.0
"""A claim older than this is given back instead of called: the worker was frozen, and others may have moved on."""

UNCONFIRMED: Final = "the claim's commit was not confirmed, so nothing was sent"

SEVERAL: Final = 3
"""A pass that attempted so many chats, and not one share went through, is no success."""

RECORD_SECONDS: Final = 5.0
"""The part of the drain that is kept for recording, after the requests."""

NEAR_SECONDS: Final = 0.25
"""An answer waits so long for the next claim, to be recorded in its transaction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Finished:
    """A request that is over: what to record, and Linq's error, if any."""

    recorded: Recorded
    line: str
    error: LinqError | None
    milliseconds: float
    line_accepted: bool
    """True if the share shows that Linq no longer refuses the chat's line."""


class ShareLoop:
    """Shares with a pass's candidates: the requests in flight, and the answers that are not recorded yet."""

    def __init__(
        self,
        engine: AsyncEngine,
        linq: Linq,
        rules: Rules,
        candidates: Candidates,
        limits: Limits,
        *,
        run_id: str,
        day: date,
        clock: Clock,
        stop: asyncio.Event,
        watch: Watch,
        resumed: bool = False,
    ) -> None:
        self._engine = engine
        self._linq = linq
        self._rules = rules
        self._candidates = candidates
        self._limits = limits
        self._run_id = run_id
        self._day = day
        self._clock = clock
        self._stop = stop
        self._watch = watch
        self._progress = ProgressLog(clock)
        self.brake = Brake(limits.concurrency, resumed=resumed)
        self.lines = LineLimits(limits.per_second_per_line)
        self.last_look = clock.now()
        """The last moment of the pass that belongs to its share day."""
        self._pace = Pace(limits.per_second)
        self._walk = Walk(candidates)
        self._claimed = 0
        self._in_flight: dict[asyncio.Task[None], tuple[Claim, str]] = {}
        """The claim of each request, and the line of its chat."""
        self._refusals: Counter[str] = Counter()
        self._finished: list[_Finished] = []
        self._unconfirmed: list[Claim] = []
        """Claims whose commit may have succeeded although no confirmation arrived."""
        self._news = asyncio.Event()
        self._not_before = 0.0
        """Monotonic time before which neither the database nor the table is tried again."""
        self._outage = db.Outage(engine.url)
        self._stop_seen: float | None = None

    async def count_due(self) -> None:
        """Tell the watcher how many chats will be attempted, if it asks.

        Raises:
            SQLAlchemyError: the database failed.
        """
        if self._watch.due is None:
            return
        async with db.read(self._engine) as connection:
            remainder = await self._candidates.remainder(connection, self._clock.now(), run_id=self._run_id)
        at_most = self._limits.at_most
        self._progress.due = remainder.left if at_most is None else min(remainder.left, at_most)
        self._watch.due(self._progress.due)

    async def run(self) -> None:
        """Share until there is a reason to end, and nothing is in flight or unrecorded.

        Raises:
            SQLAlchemyError: the database failed for good; answers that could not be recorded are in the log.
        """
        listener = asyncio.create_task(self._hear_stop())
        try:
            while True:
                self._news.clear()
                await self._read_ahead()
                slots = self._free_slots()
                offered = self._offer(slots)
                if offered or (self._has_unrecorded() and not self._claim_is_near()):
                    if self._clock.monotonic() >= self._not_before:
                        await self._turn(offered, slots)
                        continue
                elif not self._in_flight and not self._has_unrecorded() and (self._is_over() or self._walk.at_end):
                    return
                await self._wait()
        except SQLAlchemyError:
            await self._give_up()
            raise
        finally:
            for task in (listener, *self._in_flight):
                task.cancel()
            await asyncio.gather(listener, *self._in_flight, return_exceptions=True)

    async def _turn(self, offered: Mapping[str, str], slots: int) -> None:
        """One transaction: record what came back, and claim for the free slots. Call only once it is committed."""
        finished, self._finished = self._finished, []
        claims: list[Claim] = []
        try:
            async with db.write(self._engine) as connection:
                now = self._clock.now()
                await attempts.release(connection, self._unconfirmed, why=UNCONFIRMED, now=now)
                await _keep_facts(connection, finished, now)
                await attempts.record(connection, [call.recorded for call in finished])
                if self._rules.share_day(now) == self._day and self._rules.is_open(now):
                    claims = await attempts.claim(
                        connection,
                        lambda ids: self._candidates.claimable(now, ids),
                        among=offered,
                        at_most=slots,
                        run_id=self._run_id,
                        day=self._day,
                        now=now,
                        rerun=self._candidates.rerun,
                    )
        except SQLAlchemyError as error:
            # The commit may have succeeded: record the answers again, and give the claims back instead of calling.
            self._finished = finished + self._finished
            self._unconfirmed += claims
            self._database_failed(error)
            return
        if self._unconfirmed:
            log.warning("claims.returned", chats=len(self._unconfirmed))
        self._unconfirmed = []
        self._outage.ended(self._clock.monotonic())
        for call in finished:
            self._report(call)
        self._walk.move_past(offered, claims, slots)
        self._call_all(claims, offered)

    def _call_all(self, claims: list[Claim], line_of: Mapping[str, str]) -> None:
        started = self._clock.monotonic()
        self._pace.take(len(claims), started)
        self._claimed += len(claims)
        for claim in claims:
            line = line_of[claim.chat_id]
            self.lines.started(line, started)
            task = asyncio.create_task(self._call(claim, line, started, phase=self.brake.phase))
            self._in_flight[task] = (claim, line)
            task.add_done_callback(self._task_done)

    async def _call(self, claim: Claim, line: str, committed: float, *, phase: int) -> None:
        """Send the share request of a claim, once, unless the claim has gone stale; keep what came of it."""
        started = self._clock.monotonic()
        error: LinqError | None = None

        def gone_stale() -> str | None:
            age = max((self._clock.now() - claim.claimed_at).total_seconds(), self._clock.monotonic() - committed)
            return f"the worker was held up for {age:.0f} s between claim and request" if age > FRESH_SECONDS else None

        try:
            status = await self._linq.share(claim.chat_id, veto=gone_stale)
        except LinqError as refusal:
            error = refusal
        except asyncio.CancelledError:
            error = PerhapsDone("the worker had to end before Linq answered")
        except Exception as bug:
            log.exception("share.broke", chat_id=claim.chat_id)
            error = PerhapsDone(f"the worker broke during the request: {type(bug).__name__}")
        answer = Answer(outcome=Outcome.SHARED, http_status=status) if error is None else _answer(error)
        ended = self._clock.monotonic()
        self._finished.append(
            _Finished(
                recorded=Recorded(claim=claim, answer=answer, finished_at=self._clock.now()),
                line=line,
                error=error,
                milliseconds=round(1000 * (ended - started), 1),
                line_accepted=self.lines.ended(line, shared=error is None),
            )
        )
        self._tell_brake(error, phase=phase, now=ended)

    def _tell_brake(self, error: LinqError | None, *, phase: int, now: float) -> None:
        paused = self.brake.paused(now)
        self.brake.saw(error, phase=phase, now=now)
        pause = self.brake.paused(now)
        if pause > paused and self.brake.stop is None:
            until = self._clock.now() + timedelta(seconds=pause)
            reason = f"Linq's rate limit holds for every chat: {error}"
            log.warning("pass.waiting", seconds=round(pause, 1), until=until.isoformat(), reason=reason)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        claim, line = self._in_flight.pop(task)
        if task.cancelled():  # before its first step: once begun, a request ends with an answer
            answer = Answer(outcome=Outcome.UNSENT, error_message="the worker had to end before the request began")
            recorded = Recorded(claim=claim, answer=answer, finished_at=self._clock.now())
            self.lines.ended(line, shared=False)
            self._finished.append(
                _Finished(recorded=recorded, line=line, error=None, milliseconds=0.0, line_accepted=False)
            )
        self._news.set()

    def _report(self, call: _Finished) -> None:
        """Tell the walk, the log and the watcher about an answer that the ledger has."""
        answer = call.recorded.answer
        if answer.outcome is Outcome.UNSENT:
            self._walk.saw_unsent(answer.error_message)
        elif answer.outcome is not Outcome.SHARED:
            self._refusals[_in_short(call.error)] += 1
        write = log.info if answer.outcome in (Outcome.SHARED, Outcome.REJECTED) else log.warning
        write(
            "share.recorded",
            chat_id=call.recorded.claim.chat_id,
            outcome=answer.outcome.value,
            status=answer.http_status,
            code=answer.error_code,
            error=answer.error_message,
            trace_id=answer.trace_id,
            ms=call.milliseconds,
        )
        if isinstance(call.error, LineRefused):
            until = call.recorded.finished_at + LINE_REST
            log.warning("line.refused", line=call.line, until=until.isoformat(), reason=str(call.error))
        self._progress.answered(answer)
        self._watch.answered(answer, call.milliseconds / 1000)

    async def _read_ahead(self) -> None:
        """Read until there is a chat to offer or the end of the table; begin another lap where chats stayed due."""
        if self._is_over():
            return
        if self._walk.at_end and not self._in_flight and not self._has_unrecorded():
            pause = self._walk.start_lap()
            if pause is not None:
                self._not_before = self._clock.monotonic() + pause
        while self._walk.can_read and not self._offer(1):
            if self._clock.monotonic() < self._not_before or self._is_over():
                return
            try:
                async with db.read(self._engine) as connection:
                    await self._walk.read_ahead(connection, self._clock.now())
            except SQLAlchemyError as error:
                self._database_failed(error)

    def _offer(self, slots: int) -> Mapping[str, str]:
        """Chats for a claim that can fill so many free slots, each with its line."""
        now = self._clock.monotonic()
        free = (lambda line: self.lines.free(line, now)) if self.lines.any_in_force else None
        return self._walk.offer(slots, free=free, probing=self.brake.probing)

    def _free_slots(self) -> int:
        """How many requests could start now."""
        if self._is_over():
            return 0
        now = self._clock.monotonic()
        slots = self.brake.slots(now) - len(self._in_flight)
        free = self._pace.free(now)
        if free is not None:
            slots = min(slots, free)
        if self._limits.at_most is not None:
            slots = min(slots, self._limits.at_most - self._claimed)
        return max(slots, 0)

    def _has_unrecorded(self) -> bool:
        return bool(self._finished or self._unconfirmed)

    def _claim_is_near(self) -> bool:
        """True if the pace allows the next claim in a moment: its transaction can take the answers along."""
        wait = self._pace.wait(self._clock.monotonic())
        return 0 < wait <= NEAR_SECONDS and not self._walk.at_end and not self._is_over()

    def _is_over(self) -> bool:
        """True if no more requests may start."""
        return self._reason_to_stop() is not None or self._limit_reached()

    def _limit_reached(self) -> bool:
        return self._limits.at_most is not None and self._claimed >= self._limits.at_most

    def _reason_to_stop(self) -> str | None:
        if self._stop.is_set():
            return TOLD_TO_STOP
        if self.brake.stop is not None:
            return self.brake.stop.reason
        now = self._clock.now()
        if self._rules.share_day(now) != self._day:
            return f"its share day, {self._day}, is over"
        if not self._rules.is_open(now):
            opening = minute(self._rules.opening(now), self._rules.timezone)
            return f"{OUTSIDE_HOURS}, {self._rules.hours} ({self._rules.timezone}), which begin {opening}"
        self.last_look = now
        return None

    def ended(self, tally: Tally) -> tuple[RunStatus, str | None]:
        """How the pass ended: completed, or stopped and why. A stop that left no chat due counts as completed."""
        stayed = tally["unsent"] + tally["left"]
        attempted = tally["shared"] + tally["rejected"] + tally["unknown"]
        if self.brake.stop is not None:
            return RunStatus.STOPPED, self.brake.stop.reason
        limited = self._limit_reached() and not tally["unsent"]
        reason = self._reason_to_stop() if stayed and not limited else None
        if reason is None and stayed and not limited and self._walk.stayed_due is not None:
            reason = f"{chat_count(stayed)} {'stays' if stayed == 1 else 'stay'} due: {self._walk.stayed_due}"
        if reason is None and attempted >= SEVERAL and not tally["shared"]:
            refusals = ", ".join(f"{count:,} x {said}" for said, count in self._refusals.most_common(SEVERAL))
            reason = f"not one of {attempted:,} shares went through: {refusals}"
        return (RunStatus.STOPPED, reason) if reason else (RunStatus.COMPLETED, None)

    def _database_failed(self, error: SQLAlchemyError) -> None:
        """Wait before the next try, if another one makes sense.

        Raises:
            SQLAlchemyError: it does not.
        """
        now = self._clock.monotonic()
        deadline = math.inf if self._stop_seen is None else self._stop_seen + self._limits.drain_seconds
        self._outage.failed(error, now, deadline=deadline, answers_in_hand=len(self._finished))
        self._not_before = now + db.PAUSE_SECONDS

    async def _give_up(self) -> None:
        """The ledger is out of reach: wait for the requests in flight, and leave all answers in the log."""
        while self._in_flight:
            self._news.clear()
            await self._wait()
        for call in self._finished:
            claim, answer = call.recorded.claim, call.recorded.answer
            log.error(
                "share.unrecorded",
                chat_id=claim.chat_id,
                share_day=claim.share_day.isoformat(),
                outcome=answer.outcome.value,
                status=answer.http_status,
                code=answer.error_code,
                trace_id=answer.trace_id,
            )

    async def _hear_stop(self) -> None:
        await self._stop.wait()
        self._stop_seen = self._clock.monotonic()
        log.info("pass.stopping", in_flight=len(self._in_flight))
        self._news.set()

    async def _wait(self) -> None:
        """Wait for news, or for the time of the next claim, the next try of the database, or the end of the drain."""
        now = self._clock.monotonic()
        pauses = [self._not_before - now, self._drain_left(now)]
        if not self._is_over():
            pauses += [self.brake.paused(now), self._pace.wait(now)]
            if self.lines.any_in_force:
                pauses.append(self.lines.wait(self._walk.lines_ahead, now))
        timer = min((pause for pause in pauses if pause > 0), default=None)
        news = asyncio.create_task(self._news.wait())
        tasks: list[asyncio.Task[object]] = [news]
        if timer is not None:
            tasks.append(asyncio.create_task(self._clock.sleep(timer)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _drain_left(self, now: float) -> float:
        """Seconds that the requests in flight still have; 0 unless stopping. Cancels them when their time is over."""
        if self._stop_seen is None or not self._in_flight:
            return 0.0
        drain = self._limits.drain_seconds
        left = self._stop_seen + max(drain - RECORD_SECONDS, drain / 2) - now
        if left <= 0:
            for task in self._in_flight:
                task.cancel()
        return max(left, 0.0)


def _in_short(error: LinqError | None) -> str:
    """A rejection or a lost answer without what is different each time, to be counted."""
    if error is None:
        return "no answer"
    number = "/".join(str(part) for part in (error.status, error.code) if part)
    return f"{number} {error.message}".strip()


def _answer(error: LinqError) -> Answer:
    """The outcome that an error means: never sent, perhaps done, or refused."""
    if isinstance(error, NeverSent):
        outcome = Outcome.UNSENT
    elif isinstance(error, PerhapsDone):
        outcome = Outcome.UNKNOWN
    else:
        outcome = Outcome.REJECTED
    return Answer(
        outcome=outcome,
        http_status=error.status,
        error_code=error.code,
        error_message=error.message,
        trace_id=error.trace_id,
    )


async def _keep_facts(connection: AsyncConnection, finished: list[_Finished], now: datetime) -> None:
    """Keep what Linq's answers say about lines and chats, where the verdict reads it."""

    def chat_ids(concerned: Callable[[LinqError], bool]) -> list[str]:
        return [call.recorded.claim.chat_id for call in finished if call.error and concerned(call.error)]

    if inactive := chat_ids(lambda error: isinstance(error, CardInactive)):
        await facts.card_is_inactive(connection, inactive, now)
    if refused := chat_ids(lambda error: isinstance(error, LineRefused)):
        await facts.line_is_refused(connection, refused, now)
    if accepted := [call.recorded.claim.chat_id for call in finished if call.line_accepted]:
        await facts.line_is_accepted(connection, accepted)
    if missing := chat_ids(lambda error: (error.status, error.code) in _MISSING):
        await facts.chat_is_missing(connection, missing, now)
    if opted_out := chat_ids(lambda error: (error.status, error.code) == _OPTED_OUT):
        await facts.recipient_opted_out(connection, opted_out, now)


_MISSING: Final = ((404, ErrorCode.CHAT_NOT_FOUND), (409, ErrorCode.CHAT_UNAVAILABLE))
_OPTED_OUT: Final = (403, ErrorCode.OPTED_OUT)
