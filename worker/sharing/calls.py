"""The calls of one pass: claim, commit, call, record, as long as somebody is due and nothing speaks against it.

Nobody is called without a claim whose commit was seen. No transaction is open during a call, no call is repeated, and
no claim is called once it has gone stale. An answer stays in hand until the ledger has it, also while the database is
away. In memory are the calls in flight and a window of the walk, however many chats there are.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import db
from worker.chats import facts
from worker.clock import Clock
from worker.ledger import attempts
from worker.ledger.attempts import Recorded
from worker.linq.answers import CardInactive, ErrorCode, LinqError, NeverSent, PerhapsDone
from worker.linq.client import Linq
from worker.outcomes import Answer, Claim, Outcome, RunStatus, Tally
from worker.rules.eligibility import Rules
from worker.sharing.candidates import Candidates
from worker.sharing.limits import Brake, Limits, Pace
from worker.writes import Writes

Watch = Callable[[Answer, float], None]
"""Told of each answer once it is recorded, with the seconds that the call took."""

log = structlog.get_logger(__name__)

FRESH_SECONDS: Final = 60.0
"""A claim older than this is given back instead of called: the worker was frozen, and others may have moved on."""

WINDOW: Final = 5_000
"""How many candidates the walk reads ahead."""

FARTHEST: Final = 64
MOST_OFFERED: Final = 1_000
"""The most candidates that a claim is offered for each call that is wanted, and for all of them."""

LAPS: Final = 3
"""How often the walk is made for chats that stay due: their request never left, or another worker held their row."""

UNSENT_PAUSE_SECONDS: Final = 5.0
"""Before the next lap, where a request never left: the network may come back."""

HELD_PAUSE_SECONDS: Final = 0.2
"""Before the next lap, where another worker held rows: its claims will be committed by then."""

QUIET_ROUNDS: Final = 20
"""Rounds of the event loop in which no call ends, before the answers in hand are recorded."""

QUICK_MILLISECONDS: Final = 20.0
"""Where calls take longer, they do not end in the same moment, and one quiet round is enough."""

UNCONFIRMED: Final = "the claim's commit was not confirmed, so nothing was sent"
RECORD_SECONDS: Final = 5.0
"""The part of the drain that is kept for the ledger, after the calls."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Finished:
    """A call that is over: what to write down, and what Linq's error was, if any."""

    recorded: Recorded
    error: LinqError | None
    milliseconds: float


class Calls:
    """The calls of one pass: what is in flight, what came back and is not yet recorded, and where the walk is."""

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
    ) -> None:
        self._engine = engine
        self._writes = Writes(engine)
        self._linq = linq
        self._rules = rules
        self._source = candidates
        self._limits = limits
        self._run_id = run_id
        self._day = day
        self._clock = clock
        self._stop = stop
        self._watch = watch
        self.brake = Brake(limits.concurrency)
        self.last_look = clock.now()
        """The last moment of the pass that belongs to its share day."""
        self._pace = Pace(limits.per_second)
        self._news = asyncio.Event()
        self._in_flight: dict[asyncio.Task[None], Claim] = {}
        self._finished: list[_Finished] = []
        self._untold: asyncio.Queue[_Finished] = asyncio.Queue()
        """Calls that the ledger has, and the log not yet."""
        self._candidates: deque[str] = deque()
        self._after: str | None = ""
        """Where the walk is: the last id it read; None at the end of the table."""
        self._lap = 1
        self._stayed_due: str | None = None
        """Why chats that this lap came by stayed due; None if none did."""
        self._lap_pause = HELD_PAUSE_SECONDS
        self._claimed = 0
        self._reach = 1
        """What a claim is offered for each call that is wanted: more where others have taken some already."""
        self._not_before = 0.0
        self._lost_since: float | None = None
        self._unconfirmed: list[Claim] = []
        """Claims whose commit may have come through, though the word of it did not."""
        self._stop_seen: float | None = None

    async def make(self) -> None:
        """Claim, call and record until there is a reason to end, and nothing in flight.

        Raises:
            SQLAlchemyError: the database failed for good; answers that could not be recorded are in the log.
        """
        listener = asyncio.create_task(self._hear_stop())
        teller = asyncio.create_task(self._tell_as_they_come())
        try:
            while True:
                self._news.clear()
                await self._let_answers_gather()
                wanted = await self._claims_wanted()
                unwritten = bool(self._finished or self._unconfirmed)
                if (unwritten or wanted) and self._clock.monotonic() >= self._not_before:
                    await self._turn(wanted)
                elif unwritten or self._in_flight or not (self._over() or self._walked()):
                    await self._wait()
                else:
                    return
        except SQLAlchemyError:
            await self._hang_up()
            raise
        finally:
            for task in (listener, teller, *self._in_flight):
                task.cancel()
            await asyncio.gather(listener, teller, *self._in_flight, return_exceptions=True)
            while not self._untold.empty():
                self._tell(self._untold.get_nowait())
            await self._writes.aclose()

    def ended(self, tally: Tally) -> tuple[RunStatus, str | None]:
        """How the calls ended: completed, or stopped and why. A stop that left nobody waiting is none."""
        stayed = tally["unsent"] + tally["left"]
        if self.brake.stop is not None:
            return RunStatus.STOPPED, self.brake.stop.reason
        if not stayed or (self._limit_reached() and not tally["unsent"]):
            return RunStatus.COMPLETED, None
        reason = self._reason() or (self._stayed_due and f"{stayed} chats stay due: {self._stayed_due}")
        return (RunStatus.STOPPED, reason) if reason else (RunStatus.COMPLETED, None)

    def _reason(self) -> str | None:
        """Why no more calls may be made; None: they may."""
        if self._stop.is_set():
            return "it was told to stop"
        if self.brake.stop is not None:
            return self.brake.stop.reason
        now = self._clock.now()
        if self._rules.share_day(now) != self._day:
            return f"its share day, {self._day}, is over"
        self.last_look = now
        return None

    def _limit_reached(self) -> bool:
        return self._limits.at_most is not None and self._claimed >= self._limits.at_most

    def _over(self) -> bool:
        return self._reason() is not None or self._limit_reached()

    def _walked(self) -> bool:
        return self._after is None and not self._candidates

    async def _claims_wanted(self) -> int:
        """How many calls could start now, with the candidates for them read."""
        if self._over():
            return 0
        now = self._clock.monotonic()
        wanted = self.brake.slots(now) - len(self._in_flight)
        free = self._pace.free(now)
        if free is not None:
            wanted = min(wanted, free)
        if self._limits.at_most is not None:
            wanted = min(wanted, self._limits.at_most - self._claimed)
        if wanted < 1:
            return 0
        if self._walked() and self._stayed_due and self._lap < LAPS and not self._in_flight and not self._finished:
            self._lap += 1
            self._after, self._stayed_due = "", None
            self._not_before = now + self._lap_pause
        while not self._candidates and self._after is not None and self._clock.monotonic() >= self._not_before:
            if self._over():
                return 0
            await self._look(self._after)
        return wanted if self._candidates else 0

    async def _look(self, after: str) -> None:
        """Read the walk's next window: the ids of candidates after the last one seen."""
        try:
            async with db.read(self._engine) as connection:
                window = await self._source.read_ahead(connection, self._clock.now(), after=after, at_most=WINDOW)
        except SQLAlchemyError as error:
            self._database_failed(error)
            return
        self._candidates.extend(window.ids)
        self._after = window.after

    async def _let_answers_gather(self) -> None:
        """Wait while each round of the event loop ends more calls: one transaction will do for all of their answers."""
        quiet = 0
        while self._finished and quiet < (QUIET_ROUNDS if self._finished[-1].milliseconds < QUICK_MILLISECONDS else 1):
            seen = len(self._finished)
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._finished) == seen else 0

    async def _turn(self, wanted: int) -> None:
        """One transaction: record what came back, claim for the free slots. Once it is committed, call for each."""
        finished, self._finished = self._finished, []
        among = list(islice(self._candidates, min(self._reach * wanted, MOST_OFFERED)))
        claims: list[Claim] = []
        try:
            async with self._writes.one() as connection:
                now = self._clock.now()
                await attempts.release(
                    connection,
                    self._unconfirmed,
                    why=UNCONFIRMED,
                    now=now,
                )
                await _keep_facts(connection, finished, now)
                answers = [call.recorded for call in finished]
                if self._rules.share_day(now) == self._day:
                    claims = await attempts.claim(
                        connection,
                        self._source,
                        run_id=self._run_id,
                        day=self._day,
                        now=now,
                        among=among,
                        at_most=wanted,
                        answers=answers,
                    )
                else:
                    await attempts.record(connection, answers)
        except SQLAlchemyError as error:
            # The commit may have come through: record the answers again, and give the claims back instead of calling.
            self._finished = finished + self._finished
            self._unconfirmed += claims
            self._database_failed(error)
            return
        if self._unconfirmed:
            log.warning("claims.returned", chats=len(self._unconfirmed))
        self._unconfirmed, self._lost_since = [], None
        self._keep_in_mind(finished)
        self._pass_over(among, claims, wanted)
        started = self._clock.monotonic()
        self._pace.take(len(claims), started)
        self._claimed += len(claims)
        for claim in claims:
            task = asyncio.create_task(self._call(claim, started))
            self._in_flight[task] = claim
            task.add_done_callback(self._hung_up)

    def _pass_over(self, among: list[str], claims: list[Claim], wanted: int) -> None:
        """Drop the candidates that were claimed, or found not due any more, or held by another worker at the moment."""
        looked_at = among.index(claims[-1].chat_id) + 1 if claims and len(claims) == wanted else len(among)
        for _ in range(looked_at):
            self._candidates.popleft()
        if len(claims) < min(wanted, len(among)):
            self._reach = min(2 * self._reach, FARTHEST)
            self._stayed_due = self._stayed_due or "another worker held them"
        elif among and 4 * looked_at <= len(among):
            self._reach = max(self._reach // 2, 1)

    async def _call(self, claim: Claim, claimed: float) -> None:
        """Call share for a claim, once, unless the claim has gone stale; take down what came of it."""
        started = self._clock.monotonic()
        error: LinqError | None = None

        def gone_stale() -> str | None:
            age = max((self._clock.now() - claim.claimed_at).total_seconds(), self._clock.monotonic() - claimed)
            return f"the worker was held up for {age:.0f} s between claim and call" if age > FRESH_SECONDS else None

        try:
            status = await self._linq.share(claim.chat_id, veto=gone_stale)
        except LinqError as refusal:
            error = refusal
        except asyncio.CancelledError:
            error = PerhapsDone("the worker had to end before Linq answered")
        except Exception as bug:
            log.exception("share.broke", chat_id=claim.chat_id)
            error = PerhapsDone(f"the worker broke during the call: {type(bug).__name__}")
        answer = Answer(outcome=Outcome.SHARED, http_status=status) if error is None else _answer(error)
        ended = self._clock.monotonic()
        self._finished.append(
            _Finished(
                recorded=Recorded(claim=claim, answer=answer, finished_at=self._clock.now()),
                error=error,
                milliseconds=round(1000 * (ended - started), 1),
            )
        )
        self.brake.saw(error, ended)

    def _hung_up(self, task: asyncio.Task[None]) -> None:
        claim = self._in_flight.pop(task)
        if task.cancelled():  # before its first step: once begun, a call ends with an answer
            answer = Answer(outcome=Outcome.UNSENT, error_message="the worker had to end before the request began")
            recorded = Recorded(claim=claim, answer=answer, finished_at=self._clock.now())
            self._finished.append(_Finished(recorded=recorded, error=None, milliseconds=0.0))
        self._news.set()

    def _keep_in_mind(self, recorded: list[_Finished]) -> None:
        """Note what the ledger has now: whoever stays due, and what there is to tell."""
        for call in recorded:
            answer = call.recorded.answer
            if answer.outcome is Outcome.UNSENT:
                self._stayed_due, self._lap_pause = answer.error_message, UNSENT_PAUSE_SECONDS
            self._untold.put_nowait(call)

    async def _tell_as_they_come(self) -> None:
        """Tell one call in each round of the event loop: while the database works on a turn there is time for it."""
        while True:
            self._tell(await self._untold.get())
            await asyncio.sleep(0)

    def _tell(self, call: _Finished) -> None:
        """Say what was recorded: to the log, and to whoever watches."""
        answer = call.recorded.answer
        say = log.info if answer.outcome is Outcome.SHARED else log.warning
        say(
            "share.recorded",
            chat_id=call.recorded.claim.chat_id,
            outcome=answer.outcome.value,
            status=answer.http_status,
            code=answer.error_code,
            error=answer.error_message,
            trace_id=answer.trace_id,
            ms=call.milliseconds,
        )
        self._watch(answer, call.milliseconds / 1000)

    def _database_failed(self, error: SQLAlchemyError) -> None:
        """Note a failure that may pass; raise one that will not, or that has lasted too long."""
        now = self._clock.monotonic()
        if self._lost_since is None:
            self._lost_since = now
        patience = db.PATIENCE_SECONDS
        if self._stop_seen is not None:
            patience = min(patience, self._stop_seen + self._limits.drain_seconds - self._lost_since)
        if not db.is_passing(error) or now - self._lost_since >= patience:
            raise error
        self._not_before = now + db.PAUSE_SECONDS
        log.warning(
            "database.lost",
            reason=db.describe(error, self._engine.url),
            answers_in_hand=len(self._finished),
        )

    async def _hang_up(self) -> None:
        """The ledger is out of reach: wait for the calls in flight, and leave all answers in the log."""
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
        """Wait for news, or until time itself brings something: a claim, a try of the database, the drain's end."""
        now = self._clock.monotonic()
        moments = [self._not_before - now] if self._not_before > now else []
        if not self._over():
            moments += [pause for pause in (self.brake.paused(now), self._pace.wait(now)) if pause > 0]
        if self._stop_seen is not None and self._in_flight:
            drain = self._limits.drain_seconds
            cut = self._stop_seen + max(drain - RECORD_SECONDS, drain / 2) - now
            if cut <= 0:
                for task in self._in_flight:
                    task.cancel()
            else:
                moments.append(cut)
        if not moments:
            await self._news.wait()
            return
        news, timer = (
            asyncio.create_task(self._news.wait()),
            asyncio.create_task(self._clock.sleep(min(moments))),
        )
        try:
            await asyncio.wait((news, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            timer.cancel()
            await asyncio.gather(news, timer, return_exceptions=True)


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
    """Keep what Linq's refusals tell about lines and chats, where the verdict reads it."""

    def about(concerned: Callable[[LinqError], bool]) -> list[str]:
        return [call.recorded.claim.chat_id for call in finished if call.error is not None and concerned(call.error)]

    if inactive := about(lambda error: isinstance(error, CardInactive)):
        await facts.card_is_inactive(connection, inactive, now)
    if missing := about(lambda error: error.code == ErrorCode.CHAT_NOT_FOUND and error.status == 404):
        await facts.chat_is_missing(connection, missing, now)
    if opted_out := about(lambda error: error.code == ErrorCode.OPTED_OUT and error.status == 403):
        await facts.recipient_opted_out(connection, opted_out, now)
