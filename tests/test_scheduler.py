"""When passes are made: on time, late, again after a stop, and never twice; by a clock that the test moves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from tests.conftest import HandClock
from tests.scene import BEFORE, Scene, until
from worker import db
from worker.db.tables import runs
from worker.notifications.heartbeat import Heartbeat
from worker.outcomes import PassResult, RunStatus, Trigger
from worker.rules.eligibility import Rules
from worker.rules.schedule import Schedule
from worker.service.metrics import Metrics
from worker.service.scheduler import CrontabTrigger, Scheduler, look_around, timers
from worker.sharing.limits import Limits
from worker.simulator.account import Account
from worker.simulator.faults import Fault
from worker.simulator.server import serving

MORNING = datetime(2026, 3, 10, 9, 30, tzinfo=UTC)


@dataclass
class Keeper:
    """A scheduler with its scene, as one worker process has it in its memory."""

    scene: Scene
    scheduler: Scheduler
    metrics: Metrics
    clock: HandClock

    async def look(self) -> None:
        """One look at the clock, and the pass that comes of it, to its end."""
        await self.scheduler.turn()
        await self.scheduler.finished()

    async def wait(self, **span: float) -> None:
        """Let time pass, then look."""
        self.clock.move(**span)
        await self.look()

    async def passes(self) -> list[tuple[str, str]]:
        """What started each pass so far, and how it ended."""
        async with db.read(self.scene.engine) as connection:
            made = select(runs.c.trigger, runs.c.status).where(runs.c.id != BEFORE)
            rows = await connection.execute(made.order_by(runs.c.started_at))
            return [(trigger, status) for trigger, status in rows]

    def counted(self, event: str) -> float:
        """The metric of a schedule event."""
        value = self.metrics.registry.get_sample_value("share_worker_schedule_total", {"event": event})
        assert value is not None
        return value


MakeKeeper = Callable[..., Keeper]


@pytest.fixture
async def keep(engine: AsyncEngine) -> AsyncIterator[MakeKeeper]:
    """Makes schedulers on one scene; a second one is a worker that was started anew."""
    clock = HandClock(MORNING)
    account = Account(clock=clock.now)
    async with serving(account) as base_url:
        scene = Scene(engine=engine, account=account, base_url=base_url, clock=clock)
        scene.add_line()

        def make(expression: str = "0 10 * * *", zone: str = "UTC", heartbeat: str | None = None) -> Keeper:
            rules = Rules(timezone=ZoneInfo(zone))

            async def make_pass(trigger: Trigger) -> PassResult:
                return await scene.one_pass(rules=rules, limits=Limits(per_second=0, concurrency=1), trigger=trigger)

            metrics = Metrics(CollectorRegistry())
            scheduler = Scheduler(
                engine,
                Schedule(expression, rules.timezone),
                rules,
                make_pass=make_pass,
                clock=clock,
                stop=scene.stop,
                metrics=metrics,
                heartbeat=Heartbeat(heartbeat),
            )
            return Keeper(scene, scheduler, metrics, clock)

        yield make


# On time, and late


async def test_a_pass_is_made_when_its_time_comes_and_not_before(keep: MakeKeeper) -> None:
    keeper = keep()
    await keeper.scene.add_chat("chat")
    await keeper.look()
    await keeper.wait(minutes=29)
    assert await keeper.passes() == []
    await keeper.wait(minutes=1)
    assert await keeper.passes() == [("schedule", "completed")]
    assert keeper.scene.called() == ["chat"]
    for _ in range(20):
        await keeper.wait(minutes=30)
    assert len(await keeper.passes()) == 1
    assert (keeper.counted("fired"), keeper.counted("missed")) == (1, 0)


async def test_a_worker_that_was_down_at_the_time_makes_up_for_it_as_soon_as_it_is_back(keep: MakeKeeper) -> None:
    keep_before = keep()
    await keep_before.scene.add_chat("chat")
    await keep_before.scene.ran_yesterday()
    keep_before.clock.move(hours=3, minutes=30)
    keeper = keep()
    with capture_logs() as logs:
        await keeper.look()
    assert await keeper.passes() == [("catch_up", "completed")]
    (missed,) = [line for line in logs if line["event"] == "schedule.missed"]
    assert missed["late_seconds"] == 3 * 3600
    assert (keeper.counted("fired"), keeper.counted("missed")) == (1, 1)
    await keeper.wait(minutes=1)
    assert len(await keeper.passes()) == 1


async def test_a_first_start_waits_for_its_next_time_and_says_when_that_is(keep: MakeKeeper) -> None:
    keeper = keep()
    await keeper.scene.add_chat("chat")
    keeper.clock.move(hours=3)
    with capture_logs() as logs:
        await keeper.look()
    assert await keeper.passes() == []
    (waiting,) = [line for line in logs if line["event"] == "schedule.waiting"]
    assert waiting["next"] == "2026-03-11T10:00:00+00:00"
    await keeper.wait(hours=21, minutes=30)
    assert await keeper.passes() == [("schedule", "completed")]
    assert keeper.counted("missed") == 0


async def test_now_makes_a_pass_at_once_and_the_schedule_stays(keep: MakeKeeper) -> None:
    keeper = keep()
    await keeper.scene.add_chat("chat")
    await keeper.scheduler.start_now()
    await keeper.look()
    assert await keeper.passes() == [("command", "completed")]
    await keeper.wait(minutes=30)
    assert [trigger for trigger, _ in await keeper.passes()] == ["command", "schedule"]


async def test_a_worker_that_comes_back_after_its_pass_was_made_makes_no_other_one(keep: MakeKeeper) -> None:
    first = keep()
    await first.look()
    await first.wait(minutes=30)
    first.clock.move(hours=3)
    second = keep()
    await second.look()
    assert await second.passes() == [("schedule", "completed")]
    assert second.counted("missed") == 0


async def test_a_run_by_hand_after_the_time_counts_and_one_before_it_does_not(keep: MakeKeeper) -> None:
    before = keep()
    await before.scene.one_pass()
    before.clock.move(hours=1)
    first = keep()
    await first.look()
    assert await first.passes() == [("command", "completed"), ("catch_up", "completed")]


@pytest.mark.parametrize("is_first_pass_ever", [False, True])
async def test_a_run_by_hand_that_left_chats_does_not_count_but_the_first_pass_ever_missed_nothing(
    keep: MakeKeeper, is_first_pass_ever: bool
) -> None:
    keeper = keep()
    for number in range(4):
        await keeper.scene.add_chat(f"chat-{number}")
    if not is_first_pass_ever:
        await keeper.scene.ran_yesterday()
    keeper.clock.move(hours=1)
    await keeper.scene.one_pass(limits=Limits(per_second=0, at_most=2))
    await keeper.wait(seconds=1)
    made_up_for = [] if is_first_pass_ever else ["catch_up"]
    assert [trigger for trigger, _ in await keeper.passes()] == ["command", *made_up_for]
    assert len(keeper.scene.called()) == (2 if is_first_pass_ever else 4)


async def test_back_after_midnight_the_new_day_decides(keep: MakeKeeper) -> None:
    first = keep()
    await first.scene.add_chat("chat")
    await first.look()
    await first.wait(minutes=30)
    first.clock.move(days=1, hours=14, minutes=30)  # down all of the 11th, back at 0:30 of the 12th
    second = keep()
    with capture_logs() as logs:
        await second.look()
    assert len(await second.passes()) == 1
    (missed,) = [line for line in logs if line["event"] == "schedule.missed"]
    assert missed["fire"] == "2026-03-11T10:00:00+00:00"
    assert second.counted("missed") == 1
    await second.wait(hours=9, minutes=30)
    assert await second.passes() == [("schedule", "completed")] * 2


async def test_a_worker_that_is_new_has_missed_nothing(keep: MakeKeeper) -> None:
    keeper = keep("0 9 * * *")
    keeper.clock.time = datetime(2026, 3, 10, 0, 30, tzinfo=UTC)
    await keeper.look()
    assert keeper.counted("missed") == 0


async def test_a_worker_killed_in_its_pass_takes_it_up_again_when_it_is_back(keep: MakeKeeper) -> None:
    first = keep()
    await first.scene.add_chat("chat")
    await first.look()
    first.clock.move(minutes=30)
    first.scene.account.add_fault(Fault(path="list_cards", delay_seconds=30))
    await first.scheduler.turn()
    await until(lambda: first.scene.account.requests["list_cards"] == 1)
    first.scheduler._pass.cancel()  # type: ignore[union-attr] # it runs
    with pytest.raises(asyncio.CancelledError):
        await first.scheduler.finished()
    first.scene.account.clear_faults()
    first.clock.move(seconds=20)
    second = keep()
    await second.look()
    assert await second.passes() == [("schedule", "failed"), ("resume", "completed")]
    assert second.scene.called() == ["chat"]
    assert second.counted("missed") == 0


@pytest.mark.parametrize("hours", [1, 5])
async def test_a_machine_that_slept_makes_the_pass_late_and_once(keep: MakeKeeper, hours: int) -> None:
    keeper = keep("*/20 10-23 * * *")
    await keeper.look()
    await keeper.wait(hours=hours)
    assert await keeper.passes() == [("catch_up", "completed")]
    await keeper.wait(seconds=15)
    assert len(await keeper.passes()) == 1


async def test_a_clock_stepped_forward_and_back_makes_one_pass(keep: MakeKeeper) -> None:
    keeper = keep()
    await keeper.scene.add_chat("chat")
    await keeper.look()
    await keeper.wait(hours=2)
    await keeper.wait(hours=-2)
    await keeper.wait(hours=2)
    assert await keeper.passes() == [("catch_up", "completed")]
    assert keeper.scene.called() == ["chat"]


async def test_a_clock_put_right_by_seconds_at_the_scheduled_time_makes_one_pass(keep: MakeKeeper) -> None:
    keeper = keep()
    await keeper.look()
    await keeper.wait(minutes=30)
    await keeper.wait(seconds=-2)
    await keeper.wait(seconds=2)
    assert await keeper.passes() == [("schedule", "completed")]


async def test_a_clock_that_ran_days_ahead_for_a_while_costs_no_later_day(keep: MakeKeeper) -> None:
    keeper = keep()
    await keeper.look()
    await keeper.wait(days=3, minutes=30)
    await keeper.wait(days=-3)
    await keeper.scene.add_chat("chat")
    await keeper.wait(days=1)
    assert keeper.scene.called() == ["chat"], "the pass of the day that the clock had been through already"


async def test_a_new_worker_joins_the_pass_of_another_one_and_calls_nothing_missed(keep: MakeKeeper) -> None:
    first = keep()
    await first.scene.add_chat("chat")
    await first.look()
    first.clock.move(minutes=30)
    first.scene.account.add_fault(Fault(path="share", delay_seconds=0.2, times=1))
    await first.scheduler.turn()
    await until(lambda: len(first.scene.called()) == 1)
    first.clock.move(minutes=10)
    second = keep()
    with capture_logs() as logs:
        await second.scheduler.turn()
        await second.scheduler.finished()
    await first.scheduler.finished()
    assert sorted(await second.passes()) == [("resume", "completed"), ("schedule", "completed")]
    assert second.counted("missed") == 0
    assert "schedule.missed" not in [line["event"] for line in logs]
    assert second.scene.called() == ["chat"]


async def test_a_pass_that_ends_only_after_midnight_does_not_cost_the_new_day(keep: MakeKeeper) -> None:
    """A schedule at midnight, and more work than a day holds: the old pass still waits for its last answer."""
    keeper = keep("@daily")
    keeper.clock.time = datetime(2026, 3, 10, 23, 59, tzinfo=UTC)
    await keeper.scene.add_chat("chat", last_outbound_at=MORNING)
    await keeper.scene.ran_yesterday()
    keeper.scene.account.add_fault(Fault(path="share", delay_seconds=0.2, times=1))
    await keeper.scheduler.turn()
    await until(lambda: len(keeper.scene.called()) == 1)
    keeper.clock.move(seconds=65)
    await keeper.look()
    assert keeper.counted("skipped") == 0
    await keeper.wait(seconds=15)
    assert await keeper.passes() == [("catch_up", "completed"), ("schedule", "completed")]
    async with db.read(keeper.scene.engine) as connection:
        days = list((await connection.execute(select(runs.c.share_day).order_by(runs.c.started_at))).scalars())
    assert [day.day for day in days] == [9, 10, 11]


async def test_a_time_that_comes_while_a_pass_runs_is_skipped_and_said(keep: MakeKeeper) -> None:
    keeper = keep("0 10,11 * * *")
    await keeper.scene.add_chat("chat")
    await keeper.look()
    keeper.clock.move(minutes=30)
    keeper.scene.account.add_fault(Fault(path="share", delay_seconds=0.2, times=1))
    await keeper.scheduler.turn()
    await until(lambda: len(keeper.scene.called()) == 1)
    keeper.clock.move(hours=1)
    with capture_logs() as logs:
        await keeper.scheduler.turn()
    await keeper.scheduler.finished()
    assert [line["event"] for line in logs if line["event"].startswith("schedule")] == ["schedule.skipped"]
    assert keeper.counted("skipped") == 1
    await keeper.wait(minutes=1)
    assert await keeper.passes() == [("schedule", "completed")]


async def test_looks_at_the_same_moment_start_one_pass(keep: MakeKeeper) -> None:
    keeper = keep()
    await keeper.scene.add_chat("chat")
    await keeper.scene.ran_yesterday()
    keeper.clock.move(hours=2)
    await asyncio.gather(*(keeper.scheduler.turn() for _ in range(5)))
    await keeper.scheduler.finished()
    assert await keeper.passes() == [("catch_up", "completed")]


# Stopped, and taken up again


async def test_a_stopped_pass_is_resumed_after_growing_pauses_until_it_is_done(keep: MakeKeeper) -> None:
    keeper = keep()
    await keeper.scene.add_chat("chat")
    await keeper.look()
    fault = keeper.scene.account.add_fault(Fault(path="list_cards", status=503))
    await keeper.wait(minutes=30)
    pauses = []
    for _ in range(8):
        at = keeper.scheduler.resume_at
        assert at is not None
        pauses.append(round((at - keeper.clock.now()).total_seconds() / 60))
        await keeper.wait(seconds=(at - keeper.clock.now()).total_seconds() - 1)
        made = len(await keeper.passes())
        await keeper.wait(seconds=1)
        assert len(await keeper.passes()) == made + 1
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    keeper.scene.account.remove_fault(fault)
    await keeper.wait(hours=1)
    assert (await keeper.passes())[-1] == ("resume", "completed")
    assert keeper.scheduler.resume_at is None
    assert keeper.scene.called() == ["chat"]
    await keeper.wait(hours=1)
    assert (await keeper.passes())[-1] == ("resume", "completed")


async def test_a_refused_key_waits_longest(keep: MakeKeeper) -> None:
    keeper = keep()
    await keeper.look()
    keeper.scene.account.access_denied = True
    await keeper.wait(minutes=30)
    assert keeper.scheduler.resume_at == keeper.clock.now() + timedelta(minutes=60)


async def test_a_rate_limit_is_resumed_when_linq_allows_it(keep: MakeKeeper) -> None:
    keeper = keep()
    for number in range(3):
        await keeper.scene.add_chat(f"chat-{number}")
    await keeper.look()
    keeper.scene.account.add_fault(Fault(path="share", status=429, retry_after=5400))
    await keeper.wait(minutes=30)
    assert await keeper.passes() == [("schedule", "stopped")]
    assert keeper.scheduler.resume_at == keeper.clock.now() + timedelta(seconds=5400)


async def test_a_stopped_pass_is_not_carried_into_the_next_day(keep: MakeKeeper) -> None:
    keeper = keep("30 23 * * *")
    keeper.clock.time = datetime(2026, 3, 10, 23, 29, tzinfo=UTC)
    await keeper.scene.add_chat("chat", last_outbound_at=MORNING)
    await keeper.look()
    keeper.scene.account.access_denied = True
    with capture_logs() as logs:
        await keeper.wait(minutes=1)
    assert "schedule.abandoned" in [line["event"] for line in logs]
    assert keeper.scheduler.resume_at is None
    keeper.scene.account.access_denied = False
    await keeper.wait(hours=1)
    assert [status for _, status in await keeper.passes()] == ["failed"]
    await keeper.wait(hours=23)
    assert keeper.scene.called() == ["chat"]


async def test_another_worker_that_finished_the_work_spares_the_resumption(keep: MakeKeeper) -> None:
    keeper = keep()
    await keeper.scene.add_chat("chat")
    await keeper.look()
    fault = keeper.scene.account.add_fault(Fault(path="list_cards", status=500))
    await keeper.wait(minutes=30)
    keeper.scene.account.remove_fault(fault)
    keeper.clock.move(seconds=30)
    await keeper.scene.one_pass(trigger=Trigger.SCHEDULE)
    completed = keeper.clock.now()
    await keeper.wait(minutes=10)
    assert await keeper.passes() == [("schedule", "failed"), ("schedule", "completed")]
    sample = keeper.metrics.registry.get_sample_value
    assert sample("share_worker_last_completed_pass_timestamp_seconds") == completed.timestamp()
    assert sample("share_worker_chats", {"verdict": "due"}) == 0


async def test_told_to_stop_it_starts_nothing_more(keep: MakeKeeper) -> None:
    keeper = keep()
    await keeper.look()
    keeper.scene.stop.set()
    await keeper.wait(hours=2)
    assert await keeper.passes() == []


async def test_an_unreachable_database_is_a_failed_fire_and_still_owed(keep: MakeKeeper, engine: AsyncEngine) -> None:
    keeper = keep()
    await keeper.scene.add_chat("chat")
    await keeper.scene.ran_yesterday()
    async with db.write(engine) as connection:
        await connection.exec_driver_sql("ALTER TABLE runs RENAME TO runs_away")
    keeper.clock.move(hours=2)
    with capture_logs() as logs:
        await keeper.look()
    assert [line["event"] for line in logs] == ["schedule.failed"]
    assert keeper.counted("failed") == 1
    async with db.write(engine) as connection:
        await connection.exec_driver_sql("ALTER TABLE runs_away RENAME TO runs")
    await keeper.wait(seconds=15)
    assert await keeper.passes() == [("catch_up", "completed")]


async def test_a_pass_that_breaks_does_not_break_the_scheduler(keep: MakeKeeper) -> None:
    keeper = keep()
    await keeper.look()
    broken, keeper.scheduler._make_pass = keeper.scheduler._make_pass, _break
    await keeper.wait(minutes=30)
    assert keeper.counted("failed") == 1
    keeper.scheduler._make_pass = broken
    await keeper.wait(minutes=1)
    assert await keeper.passes() == [("resume", "completed")]


async def _break(_trigger: Trigger) -> PassResult:
    raise RuntimeError("a bug of ours")


# Weeks on end


@pytest.mark.parametrize(
    ("zone", "start"),
    [
        ("Europe/Berlin", datetime(2026, 3, 26, 0, 10, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 10, 29, 6, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 4, 1, 15, 10, tzinfo=UTC)),
    ],
)
async def test_seven_days_with_a_clock_change_in_between_share_once_a_day(
    keep: MakeKeeper, zone: str, start: datetime
) -> None:
    keeper = keep("30 2 * * *", zone)
    keeper.clock.time = start
    for number in range(3):
        await keeper.scene.add_chat(f"chat-{number}", last_outbound_at=start - timedelta(hours=1))
    await keeper.look()
    for _ in range(7 * 24 * 4):
        await keeper.wait(minutes=15)
    attempts = await keeper.scene.attempts()
    days = sorted({attempt.share_day for attempt in attempts})
    assert len(days) == 7
    assert days[-1] - days[0] == timedelta(days=6)
    assert len(attempts) == len(keeper.scene.called()) == 21
    passes = await keeper.passes()
    assert [status for _, status in passes] == ["completed"] * 7
    assert (keeper.counted("fired"), keeper.counted("skipped"), keeper.counted("failed")) == (7, 0, 0)


async def test_it_looks_around_by_itself_until_told_to_stop(keep: MakeKeeper) -> None:
    keeper = keep()
    await keeper.scene.add_chat("chat")

    class Patient(HandClock):
        """Lets a pass end before time goes on, and an hour later says stop."""

        async def sleep(self, seconds: float) -> None:
            await keeper.scheduler.finished()
            await keeper.clock.sleep(seconds)
            if len(keeper.clock.slept) == 240:
                keeper.scene.stop.set()

    await look_around(keeper.scheduler, Patient(), keeper.scene.stop)
    assert await keeper.passes() == [("schedule", "completed")]
    assert keeper.scene.called() == ["chat"]
    assert set(keeper.clock.slept) == {15}


async def test_a_look_that_breaks_is_not_the_last_one(keep: MakeKeeper) -> None:
    keeper = keep()
    looks = 0

    class Breaking:
        """Breaks at the first look, and says stop at the second."""

        async def turn(self) -> None:
            nonlocal looks
            looks += 1
            if looks == 1:
                raise RuntimeError("a bug of ours")
            keeper.scene.stop.set()

    with capture_logs() as logs:
        await look_around(Breaking(), keeper.clock, keeper.scene.stop)  # type: ignore[arg-type] # all that is asked of it
    assert looks == 2
    assert [line["event"] for line in logs] == ["schedule.failed"]


async def test_apscheduler_calls_at_each_time_of_the_schedule() -> None:
    """By the machine's own clock, as that is the one it goes by: a schedule that comes every few milliseconds."""

    class Soon:
        """Times that come at once, one after the other."""

        def after(self, moment: datetime) -> datetime:
            return moment + timedelta(milliseconds=5)

    turns = asyncio.Semaphore(0)

    class Counting:
        """Counts how often it was called."""

        async def turn(self) -> None:
            turns.release()

    clockwork = timers(Counting(), Soon())  # type: ignore[arg-type] # all that is asked of them
    clockwork.start()
    try:
        for _ in range(3):
            await turns.acquire()
    finally:
        clockwork.shutdown(wait=False)


def test_apscheduler_is_given_the_times_that_crontab_means() -> None:
    trigger = CrontabTrigger(Schedule("0 10 * * 1", ZoneInfo("Europe/Berlin")))
    first = trigger.get_next_fire_time(None, MORNING)
    assert first == datetime(2026, 3, 16, 9, tzinfo=UTC), "a Monday; APScheduler's own numbering says Tuesday"
    assert trigger.get_next_fire_time(first, MORNING) == datetime(2026, 3, 23, 9, tzinfo=UTC)


async def test_a_first_look_without_a_database_is_made_up_for(keep: MakeKeeper, engine: AsyncEngine) -> None:
    before = keep()
    await before.look()
    await before.wait(minutes=30)
    before.clock.move(days=1, hours=23)  # the 12th, before its time; nobody served on the 11th
    keeper = keep()
    async with db.write(engine) as connection:
        await connection.exec_driver_sql("ALTER TABLE runs RENAME TO runs_away")
    await keeper.look()
    assert keeper.counted("missed") == 0
    async with db.write(engine) as connection:
        await connection.exec_driver_sql("ALTER TABLE runs_away RENAME TO runs")
    await keeper.wait(seconds=15)
    assert keeper.counted("missed") == 1
    await keeper.wait(seconds=15)
    assert keeper.counted("missed") == 1


async def test_the_metrics_tell_of_the_last_completed_pass_also_after_a_restart(keep: MakeKeeper) -> None:
    first = keep()
    await first.look()
    await first.wait(minutes=30)
    name = "share_worker_last_completed_pass_timestamp_seconds"
    ended = datetime(2026, 3, 10, 10, tzinfo=UTC).timestamp()
    assert first.metrics.registry.get_sample_value(name) == ended
    second = keep()
    await second.wait(hours=1)
    assert second.metrics.registry.get_sample_value(name) == ended
    following = second.metrics.registry.get_sample_value("share_worker_next_fire_timestamp_seconds")
    assert following == ended + 86400


def test_the_statuses_of_a_run_are_those_of_the_tests() -> None:
    assert {status.value for status in RunStatus} == {"running", "completed", "stopped", "failed"}
