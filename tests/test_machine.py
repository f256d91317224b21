"""The whole pass against everything at once: Hypothesis makes the moves, the simulated Linq is the judge.

After each move, on both databases: nobody was called twice on a share day, nor twice within SHARE_MIN_HOURS; every call
had a committed claim of its own at the moment it arrived; the ledger and Linq's log agree call by call; and whoever was
not called has a verdict that is true.

`make torture` runs it for longer: TORTURE_EXAMPLES is how many examples are tried on each database.
"""

import asyncio
import functools
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.world import LINES, Event, Strike, World
from worker.outcomes import Outcome, RunStatus
from worker.rules.eligibility import Rules
from worker.sharing.limits import Limits
from worker.sharing.rerun import Selection
from worker.simulator.chats import Chat
from worker.simulator.faults import Fault

EXAMPLES = int(os.environ.get("TORTURE_EXAMPLES", "15"))
DEEP = "TORTURE_EXAMPLES" in os.environ
PARTS = 4
"""The tour of all troubles in so many tests, for as many processes to share."""

NIGHTS = (
    date(2026, 3, 10),
    date(2026, 3, 7),  # New York loses an hour in the night that follows
    date(2026, 3, 28),  # Berlin does
    date(2026, 10, 24),  # Berlin has an hour twice
    date(2026, 10, 31),  # New York does
)
ZONES = tuple(map(ZoneInfo, ("UTC", "Europe/Berlin", "America/New_York", "Pacific/Kiritimati")))
MINUTES = (1, 16, 61, 61, 180, 600, 1380, 1440, 1500, 1500, 4320)
MIDNIGHT = -1
"""Stands for as many minutes as it takes until the next share day has begun, and one more."""
EVENING = -2
"""Stands for as many as it takes until some minutes before that."""
LATE = time(23, 50)

spans = st.sampled_from((*MINUTES, *[MIDNIGHT] * 4, *[EVENING] * 3))
jumps = st.sampled_from(MINUTES[1:] + tuple(-minutes for minutes in MINUTES[1:])).map(
    lambda minutes: timedelta(minutes=minutes)
)
changes = st.sampled_from(
    (
        *("new chat", "new chat", "new chat", "outbound message", "paused", "unpaused", "unpaused", "forgotten"),
        *("active", "active", "active", "inactive", "none", "clock jumps", "clock jumps", "migrate", "facts"),
    )
)
HOW_LINQ_MISBEHAVES: tuple[dict[str, Any], ...] = (
    {"drop": "after"},
    {"drop": "after", "reset": True},
    {"drop": "before"},
    {"status": 500, "takes_effect": True},
    {"status": 503},
    {"status": 429, "retry_after": 90},
    {"status": 404, "code": 2001},
    {"status": 404, "code": 2012},
    {"status": 403, "code": 2024},
    {"status": 401, "code": 2004},
    {"status": 200},
    {"cut_short": True},
    {"redirect_to": "http://127.0.0.1:9/"},
    {"delay_seconds": 30, "takes_effect": True},
)
share_faults = st.builds(
    lambda how, after, times: Fault(path="share", after=after, times=times, **how),
    st.sampled_from(HOW_LINQ_MISBEHAVES),
    st.integers(0, 3),
    st.integers(1, 12),
)
card_faults = st.sampled_from((Fault(path="list_cards", status=500, times=2), Fault(path="list_cards", status=401)))
faults = st.one_of(share_faults, share_faults, share_faults, card_faults)
SECONDS = (30, 59, 61, 1000, 3600, 7200, 90000)
EVENTS: dict[Event, tuple[float, ...]] = {
    "jump": (*SECONDS, *(-by for by in SECONDS)),
    "freeze": SECONDS,
    "second": (0, 61, 7200, 90000, -61, -7200, -90000),
    "away": (1, 2),
    "cut": (0,),
    "unsaid": (0,),
    "stop": (0,),
    "cancel": (0,),
    "card": (0,),
    "pause": (0,),
    "migrate": (0,),
    "facts": (0,),
}
strikes = st.builds(
    lambda at, number, event, by: Strike(at, number, event, EVENTS[event][by % len(EVENTS[event])]),
    st.sampled_from(("call", "commit", "commit")),
    st.sampled_from((2, 3, 4, 4, 4, 5, 5, 6, 7)),  # a pass's fourth commit is its first claim's
    st.sampled_from((*EVENTS, "freeze", "freeze", "second", "cut", "cut", "unsaid", "unsaid", "cancel")),
    st.integers(0, 13),
)
SELECTIONS = (
    Selection(lines=LINES),
    Selection(outcomes=(Outcome.REJECTED, Outcome.UNSENT)),
    Selection(outcomes=(Outcome.SHARED, Outcome.UNKNOWN)),
    Selection(chat_ids=("chat-0", "chat-1")),
)
limits = st.builds(
    Limits,
    per_second=st.sampled_from((0, 20)),
    concurrency=st.integers(1, 5),
    at_most=st.sampled_from((None, None, None, 1, 3)),
)


Kind = Literal[
    "in peace",
    "linq misbehaves",
    "struck",
    "struck, and linq misbehaves",
    "killed at a step",
    "killed at a call",
    "rerun",
    "struck rerun",
]


@dataclass(frozen=True, kw_only=True)
class Move:
    """A pass, and what goes wrong in it."""

    kind: Kind
    limits: Limits
    fault: Fault
    strikes: list[Strike]
    step: int
    call: int
    selection: Selection
    force: bool
    every_days: int
    max_per_chat: int
    active_days: int


moves = st.builds(
    Move,
    kind=st.sampled_from((*get_args(Kind), "struck", "struck", "linq misbehaves", "struck rerun")),
    limits=limits,
    fault=faults,
    strikes=st.lists(strikes, min_size=1, max_size=2),
    step=st.integers(150, 400),
    call=st.integers(1, 6),
    selection=st.sampled_from(SELECTIONS),
    force=st.booleans(),
    every_days=st.sampled_from((1, 1, 1, 3)),
    max_per_chat=st.sampled_from((0, 0, 0, 2)),
    active_days=st.sampled_from((0, 0, 0, 2)),
)


class Torture(RuleBasedStateMachine):
    """One world, and the moves in it."""

    def __init__(self, database_url: str) -> None:
        super().__init__()
        self.database_url = database_url
        self.runner = asyncio.Runner()
        self.world: World | None = None
        self.made = 0

    @initialize(
        night=st.sampled_from(NIGHTS),
        before=st.sampled_from((10, 70, 870)),
        minutes=st.sampled_from((6, 60, 60, 1200)),
        zone=st.sampled_from(ZONES),
        chats=st.integers(4, 10),
    )
    def begin(self, night: date, before: int, minutes: int, zone: ZoneInfo, chats: int) -> None:
        """It is an evening, or the morning before it: so many minutes before midnight."""
        self.zone, self.min_hours = zone, minutes / 60
        midnight = datetime.combine(night + timedelta(days=1), time(), tzinfo=zone).astimezone(UTC)
        self.world = World(self.database_url, midnight - timedelta(minutes=before), self.min_hours)
        self.runner.run(self.world.open())
        for _ in range(chats):
            self.a_new_chat(LINES[0], "iMessage", is_group=False, written=True)

    def ruled(self, every_days: int = 1, max_per_chat: int = 0, active_days: int = 0, *, groups: bool = True) -> Rules:
        return Rules(
            timezone=self.zone,
            min_hours=self.min_hours,
            every_days=every_days,
            max_per_chat=max_per_chat,
            active_days=active_days,
            include_groups=groups,
        )

    def wait(self, minutes: int) -> None:
        """Let time pass until the worker's clock has moved on so far."""
        world = self.there
        if minutes > 0:
            world.time.go(minutes * 60)
            return
        now = (world.time.now() + world.error).astimezone(self.zone)
        today, tomorrow = now.date(), now.date() + timedelta(days=1)
        if minutes == MIDNIGHT:
            moment = datetime.combine(tomorrow, time(0, 1), tzinfo=self.zone)
        else:
            moment = datetime.combine(today if now.time() < LATE else tomorrow, LATE, tzinfo=self.zone)
        world.time.go((moment.astimezone(UTC) - now.astimezone(UTC)).total_seconds())

    @property
    def there(self) -> World:
        assert self.world is not None
        return self.world

    # Moves

    def a_new_chat(self, line: str, service: str, *, is_group: bool, written: bool) -> None:
        now = self.there.time.now()
        chat = Chat(
            id=f"chat-{self.made}",
            from_number=line,
            service=service,
            is_group=is_group,
            last_outbound_at=now - timedelta(hours=2) if written else None,
            created_at=now - timedelta(days=30),
        )
        self.there.add_chat(chat)
        self.made += 1

    def change(self, change: str, number: int, by: timedelta) -> None:
        world, chat_id, line = self.there, f"chat-{number % self.made}", LINES[number % 2]
        match change:
            case "new chat":
                self.a_new_chat(line, "SMS" if number == 0 else "iMessage", is_group=number < 3, written=number != 9)
            case "outbound message":
                world.outbound(chat_id)
            case "paused" | "unpaused":
                world.pause(chat_id, on=change == "paused")
            case "forgotten" if chat_id in world.judge.chats:
                world.judge.remove_chat(chat_id)
            case "active" | "inactive" | "none":
                world.set_card(line, change)
            case "clock jumps":
                world.jump(by)
            case "migrate":
                self.runner.run(world.migrate())
            case "facts":
                self.runner.run(world.facts_come_in())

    @rule(changed=st.lists(st.tuples(changes, st.integers(0, 9), jumps), max_size=2), later=spans, move=moves)
    def a_pass(self, changed: list[tuple[str, int, timedelta]], later: int, move: Move) -> None:
        """Something changes, time passes, and a pass is made: in peace, or not."""
        world = self.there
        for change, number, by in changed:
            self.change(change, number, by)
        self.wait(later)
        rules = self.ruled(move.every_days, move.max_per_chat, move.active_days)
        match move.kind:
            case "in peace":
                self.in_peace(groups=move.force)
            case "linq misbehaves":
                self.runner.run(world.make_pass(rules, move.limits, fault=move.fault))
            case "struck":
                self.runner.run(world.make_pass(rules, move.limits, strikes=move.strikes))
            case "struck, and linq misbehaves":
                self.runner.run(world.make_pass(rules, move.limits, fault=move.fault, strikes=move.strikes))
            case "killed at a step":
                self.runner.run(world.kill_pass(rules, move.limits, dies_at=move.step, at_call=None))
            case "killed at a call":
                self.runner.run(world.kill_pass(rules, move.limits, dies_at=None, at_call=move.call))
            case "rerun" | "struck rerun":
                rerun = self.runner.run(world.plan_rerun(rules, move.selection, force=move.force))
                strikes = move.strikes if move.kind == "struck rerun" else []
                self.runner.run(world.make_pass(rules, move.limits, strikes=strikes, rerun=rerun))

    def in_peace(self, *, groups: bool) -> None:
        """A pass that nobody disturbs leaves nobody due, and whoever was not called has a verdict that is true."""
        world, rules = self.there, self.ruled(groups=groups)
        before = len(world.judge.share_calls)
        result = self.runner.run(world.make_pass(rules, Limits(per_second=0, concurrency=3)))
        assert result is not None
        if result.status is not RunStatus.COMPLETED:  # a rate limit was waited for, past midnight
            assert result.detail is not None
            assert result.detail.endswith("is over"), result
            return
        assert result.tally is not None
        assert (result.tally["left"], result.tally["unsent"], result.tally["unknown"]) == (0, 0, 0)
        assert self.runner.run(world.unexplained(rules, called_since=before)) == []

    # What holds

    @invariant()
    def the_promise_is_kept(self) -> None:
        if self.world is not None:
            assert self.world.violations() == []

    def teardown(self) -> None:
        try:
            if self.world is not None:
                self.wait(16)
                self.in_peace(groups=True)
                self.the_promise_is_kept()
        finally:
            if self.world is not None:
                self.runner.run(self.world.close())
            self.runner.close()


CALM = Move(
    kind="in peace",
    limits=Limits(per_second=0, concurrency=3),
    fault=Fault(path="share", status=503),
    strikes=[],
    step=0,
    call=0,
    selection=SELECTIONS[0],
    force=True,
    every_days=1,
    max_per_chat=0,
    active_days=0,
)


PLACES: tuple[tuple[Literal["call", "commit"], int], ...] = (("commit", 4), ("commit", 5), ("call", 2))
"""Where a pass is struck: at its first claim's commit, at the first with answers, between two calls."""


def troubles() -> Iterator[Move]:
    """A pass with each misbehaviour of Linq, each event at each of its places, each kind of death, each rerun."""
    for how in HOW_LINQ_MISBEHAVES:
        yield replace(CALM, kind="linq misbehaves", fault=Fault(path="share", after=1, times=2, **how))
    for event, sizes in EVENTS.items():
        for by in {min(sizes), max(sizes), sizes[-1]}:
            for at, number in PLACES:
                strike = Strike(at, number, event, by)
                yield replace(CALM, kind="struck", strikes=[strike])
                if event in {"cut", "unsaid", "second", "freeze"} and at == "commit":
                    yield replace(CALM, kind="struck rerun", strikes=[strike], selection=SELECTIONS[3])
    yield replace(CALM, kind="killed at a call", call=2)
    yield from (replace(CALM, kind="killed at a step", step=step) for step in (200, 260, 320))
    for selection in SELECTIONS:
        yield from (replace(CALM, kind="rerun", selection=selection, force=force) for force in (False, True))


def tour(new_database: Callable[[], str], part: int) -> int:
    """Each trouble in a story of its own: before midnight, between passes in peace; how many stories there were."""
    stories = list(enumerate(troubles()))[part::PARTS]
    for number, move in stories:
        passes = [(EVENING, move), (1, CALM), (MIDNIGHT, CALM)]
        if move.kind in {"rerun", "struck rerun"}:  # of calls that were made before
            passes = [(1, CALM), (16, move), *passes[1:]]
        machine = Torture(new_database())
        try:
            machine.begin(night=NIGHTS[0], before=70, minutes=60, zone=ZONES[number % 3], chats=6)
            for later, each in passes:
                machine.a_pass(changed=[], later=later, move=each)
                machine.the_promise_is_kept()
        except AssertionError as error:
            error.add_note(f"in the story of {move}")
            raise
        finally:
            machine.teardown()
    return len(stories)


def torture(new_database: Callable[[], str]) -> None:
    run_state_machine_as_test(
        lambda: Torture(new_database()),  # type: ignore[arg-type] # whatever makes a machine will do
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=50 if DEEP else 12,
            derandomize=not DEEP,
            database=None,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink) if DEEP else (Phase.generate,),
        ),
    )


@pytest.fixture(autouse=True)
def _one_set_of_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """To read them takes longer than a pass, and plain HTTP on this machine needs none."""
    monkeypatch.setattr(httpx, "create_ssl_context", functools.cache(httpx.create_ssl_context))


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Each call gives the URL of an empty database."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        made = itertools.count()

        def fresh() -> str:
            file = tmp_path / f"worker-{next(made)}.db"
            shutil.copy(template, file)
            return f"sqlite:///{file}"

        return fresh
    url: str = request.getfixturevalue("copied_postgresql")

    def emptied() -> str:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("TRUNCATE chats, contact_cards, share_attempts, runs")
        return url

    return emptied


@pytest.mark.timeout(0 if DEEP else 600)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_promise_is_kept_in_each_trouble(new_database: Callable[[], str], part: int) -> None:
    assert tour(new_database, part) > (len(HOW_LINQ_MISBEHAVES) + len(EVENTS)) // PARTS


@pytest.mark.timeout(0 if DEEP else 600)
@pytest.mark.parametrize("new_database", ["sqlite", "postgresql"] if DEEP else ["postgresql"], indirect=True)
def test_the_promise_is_kept_whatever_happens(new_database: Callable[[], str]) -> None:
    torture(new_database)
