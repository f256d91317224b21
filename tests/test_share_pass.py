"""The pass, over real HTTP and on both databases: who is called, what is written down, how Linq's answers change it."""

import asyncio
import os
import socket
import sys
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection, event, select
from structlog.testing import capture_logs

from tests.conftest import HandClock
from tests.databases import sqlite_only
from tests.lies import Time, WorkerClock
from tests.past import Past
from tests.relay import relaying
from tests.scene import LINE, Scene, until
from worker import db
from worker.clock import SystemClock
from worker.db.tables import chats, contact_cards, runs
from worker.linq.client import Linq, Veto
from worker.outcomes import Outcome, RunStatus, Trigger
from worker.rules.eligibility import Rules
from worker.rules.hours import Hours
from worker.sharing.limits import Limits
from worker.sharing.watch import Watch
from worker.simulator.account import Line as SimulatedLine
from worker.simulator.faults import Fault
from worker.simulator.population import populate

OTHER = "+15550100002"
ONE_AT_A_TIME = Limits(per_second=0, concurrency=1)


async def add_chats(scene: Scene, count: int, prefix: str = "chat", **changes: str | datetime) -> list[str]:
    ids = [f"{prefix}-{number:03}" for number in range(count)]
    await scene.add_chats(ids, **changes)
    return ids


async def chat_row(scene: Scene, chat_id: str) -> dict[str, object]:
    async with db.read(scene.engine) as connection:
        return dict((await connection.execute(select(chats).where(chats.c.id == chat_id))).mappings().one())


# Who is called, and what is written down


async def test_everyone_who_is_due_is_called_once_and_written_down(scene: Scene) -> None:
    ids = await add_chats(scene, 45)
    result = await scene.one_pass()
    assert sorted(scene.called()) == ids
    attempts = await scene.attempts()
    assert [attempt.chat_id for attempt in attempts] == ids
    assert {(attempt.outcome, attempt.http_status, attempt.sequence) for attempt in attempts} == {("shared", 202, 0)}
    assert {attempt.run_id for attempt in attempts} == {result.run_id}
    assert result.status is RunStatus.COMPLETED
    assert result.tally == {"shared": 45, "rejected": 0, "unknown": 0, "unsent": 0, "left": 0, "skipped": {}}


async def test_a_second_pass_on_the_same_day_calls_nobody(scene: Scene) -> None:
    await scene.add_chat("chat")
    await scene.one_pass()
    scene.clock.move(hours=3)
    result = await scene.one_pass()
    assert scene.called() == ["chat"]
    assert result.tally is not None
    assert result.tally["skipped"] == {"already_today": 1}


async def test_the_next_day_everyone_is_called_again(scene: Scene) -> None:
    await scene.add_chat("chat")
    for _ in range(3):
        await scene.one_pass()
        scene.clock.move(days=1)
    assert scene.called() == ["chat"] * 3
    assert [attempt.share_day.day for attempt in await scene.attempts()] == [10, 11, 12]


async def test_the_share_day_is_that_of_the_time_zone(scene: Scene) -> None:
    """At 9:30 UTC it is the evening of the 10th in Tokyo; six hours later the 11th has begun there."""
    await scene.add_chat("chat")
    tokyo = Rules(timezone=ZoneInfo("Asia/Tokyo"))
    first = await scene.one_pass(rules=tokyo)
    scene.clock.move(hours=6)
    second = await scene.one_pass(rules=tokyo)
    assert [first.share_day, second.share_day] == [date(2026, 3, 10), date(2026, 3, 11)]
    assert scene.called() == ["chat", "chat"]


async def test_every_chat_of_every_kind_is_in_exactly_one_count(scene: Scene) -> None:
    populate(scene.account, chats=400)
    await scene.know(*scene.account.chats.values())
    result = await scene.one_pass()
    tally = result.tally
    assert tally is not None
    assert tally["shared"] + sum(tally["skipped"].values()) == 400
    assert set(tally["skipped"]) == {"not_imessage", "no_outbound", "opted_out", "no_card", "card_inactive"}
    assert Counter(scene.called()).most_common(1)[0][1] == 1
    assert len(scene.called()) == tally["shared"] == sum(call.took_effect for call in scene.account.share_calls)


async def test_more_chats_than_a_window_of_the_walk_are_all_called(scene: Scene) -> None:
    populate(scene.account, chats=1_300)
    await scene.know(*scene.account.chats.values())
    result = await scene.one_pass(limits=Limits(per_second=0, concurrency=50))
    assert result.tally is not None
    assert result.tally["shared"] == len(set(scene.called())) == len(scene.called()) > 1_000


@pytest.mark.parametrize("concurrency", [20, 3], ids=["all at once", "in two turns"])
async def test_a_limit_ends_the_pass_and_says_how_many_are_left(scene: Scene, concurrency: int) -> None:
    ids = await add_chats(scene, 12)
    result = await scene.one_pass(limits=Limits(per_second=0, concurrency=concurrency, at_most=5))
    assert sorted(scene.called()) == ids[:5]
    assert result.status is RunStatus.COMPLETED
    assert result.tally is not None
    assert (result.tally["shared"], result.tally["left"]) == (5, 7)


async def test_no_more_calls_are_in_flight_than_allowed(scene: Scene) -> None:
    await add_chats(scene, 30)
    scene.account.add_fault(Fault(path="share", delay_seconds=0.02))
    together: list[int] = []

    async def look() -> None:
        while True:
            together.append(sum(call.status is None for call in scene.account.share_calls))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    await scene.one_pass(limits=Limits(per_second=0, concurrency=4))
    looking.cancel()
    assert max(together) == 4


async def test_no_more_calls_start_in_a_second_than_allowed(scene: Scene) -> None:
    await add_chats(scene, 25)
    await scene.one_pass(limits=Limits(per_second=10, concurrency=20))
    times = sorted(attempt.claimed_at for attempt in await scene.attempts())
    assert len(times) == len(scene.called()) == 25
    assert all(later - first >= timedelta(seconds=1) for first, later in zip(times, times[10:], strict=False))


@sqlite_only
@pytest.mark.parametrize(
    ("per_second", "seconds"),
    [
        (0, {"a-1": 0, "a-2": 1, "a-3": 2, "b-1": 0, "b-2": 1}),
        (2, {"a-1": 0, "a-2": 1, "a-3": 2, "b-1": 0.5, "b-2": 1.5}),
    ],
    ids=["of lines only", "of lines and of all"],
)
async def test_a_line_has_no_more_calls_in_a_second_than_allowed_while_another_goes_on(
    scene: Scene, per_second: float, seconds: dict[str, float]
) -> None:
    other = "+15550100002"
    scene.add_line(other)
    await scene.add_chats(["a-1", "a-2", "a-3"])
    await scene.add_chats(["b-1", "b-2"], from_number=other)
    result = await scene.one_pass(limits=Limits(per_second=per_second, per_second_per_line=1))
    after = {
        attempt.chat_id: (attempt.claimed_at - result.started_at).total_seconds() for attempt in await scene.attempts()
    }
    assert after == pytest.approx(seconds)


async def _transactions(scene: Scene, *, per_second: float) -> list[str]:
    """What each transaction of a pass over four chats wrote of the ledger: a claim, a record, or both."""
    begun: list[str] = []
    committed: list[str] = []
    engine = scene.engine.sync_engine

    def executed(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        words = {"INSERT INTO share_attempts": "claim", "UPDATE share_attempts": "record"}
        begun.extend(word for beginning, word in words.items() if statement.startswith(beginning))

    def commits(_connection: object) -> None:
        committed.append(" and ".join(begun))
        begun.clear()

    await add_chats(scene, 4)
    time = Time(scene.clock.now())
    event.listen(engine, "before_cursor_execute", executed)
    event.listen(engine, "commit", commits)
    clock = WorkerClock(time, timedelta, lambda: None)  # lets no time pass before an answer has arrived
    result = await scene.one_pass(limits=Limits(per_second=per_second), clock=clock)
    assert result.tally is not None
    assert result.tally["shared"] == 4
    settled, *written = filter(None, committed)
    assert settled == "record"  # the claims of dead workers, before the first claim
    return written


async def test_an_answer_is_recorded_with_the_next_claim_where_that_is_near(scene: Scene) -> None:
    written = await _transactions(scene, per_second=20)
    assert written == ["claim", *["record and claim"] * 3, "record"]


async def test_an_answer_does_not_wait_for_a_claim_that_is_far(scene: Scene) -> None:
    written = await _transactions(scene, per_second=1)
    assert written == ["claim", "record"] * 4


async def test_a_run_row_tells_what_the_pass_did(scene: Scene) -> None:
    await add_chats(scene, 3)
    await scene.add_chat("sms", service="SMS")
    result = await scene.one_pass(trigger=Trigger.SCHEDULE)
    async with db.read(scene.engine) as connection:
        row = (await connection.execute(select(runs))).one()
    assert (row.id, row.trigger, row.status, row.detail) == (result.run_id, "schedule", "completed", None)
    assert (row.share_day, row.started_at) == (date(2026, 3, 10), result.started_at)
    assert row.worker == f"{socket.gethostname()}:{os.getpid()}"
    assert row.tally == result.tally
    assert row.tally["skipped"] == {"not_imessage": 1}


async def test_a_pass_that_met_no_trouble_depends_on_nothing(scene: Scene) -> None:
    result = await scene.one_pass()
    assert (result.access_refused, result.retry_after, result.stale_claims) == (False, None, 0)


async def test_a_pass_settles_the_claims_of_dead_workers_and_says_how_many(scene: Scene) -> None:
    past = Past(scene.engine, UTC)
    for chat_id in ("one", "two"):
        await past.attempt(chat_id, scene.clock.now() - timedelta(minutes=16), Outcome.CLAIMED)
    with capture_logs() as logs:
        result = await scene.one_pass()
    (settled,) = [line for line in logs if line["event"] == "stale.settled"]
    assert (settled["claims"], settled["runs"], settled["log_level"]) == (2, 0, "warning")
    assert result.stale_claims == 2
    assert await scene.outcomes() == {"one": "unknown", "two": "unknown"}


async def test_a_database_that_will_not_get_well_by_itself_is_not_waited_for(scene: Scene) -> None:
    async with db.write(scene.engine) as connection:
        await connection.run_sync(contact_cards.drop)
    result = await scene.one_pass()
    assert result.status is RunStatus.FAILED
    assert result.detail is not None
    assert "contact_cards" in result.detail
    assert result.finished_at == result.started_at


async def test_the_runs_of_processes_that_are_no_more_are_closed_and_of_others_nothing_is_known(scene: Scene) -> None:
    gone = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await gone.wait()
    here = socket.gethostname()
    workers = {
        "of this process, before": f"{here}:{os.getpid()}",
        "of a process that is gone": f"{here}:{gone.pid}",
        "of one that lives": f"{here}:{os.getppid()}",
        "of another host": f"elsewhere:{gone.pid}",
        "of nobody knows whom": f"{here}:worker",
    }
    past = Past(scene.engine, UTC)
    for name, worker in workers.items():
        await past.run(name, scene.clock.now(), worker=worker, status="running", finished_at=None, tally=None)
    await scene.one_pass()
    async with db.read(scene.engine) as connection:
        rows = (await connection.execute(select(runs.c.id, runs.c.status).where(runs.c.id.in_(workers)))).all()
    assert dict(rows) == {
        "of this process, before": "failed",
        "of a process that is gone": "failed",
        "of one that lives": "running",
        "of another host": "running",
        "of nobody knows whom": "running",
    }


# The cards come first


async def test_the_cards_are_read_in_one_call_and_stored_before_anyone_is_called(scene: Scene) -> None:
    scene.add_line(OTHER, active=False)
    await scene.add_chat("chat")
    await scene.add_chat("other", from_number=OTHER)
    result = await scene.one_pass()
    assert scene.account.requests["list_cards"] == 1
    async with db.read(scene.engine) as connection:
        stored = (await connection.execute(select(contact_cards))).all()
    assert {(row.phone_number, row.first_name, row.is_active) for row in stored} == {
        (LINE, "Acme", True),
        (OTHER, "Acme", False),
    }
    assert scene.called() == ["chat"]
    assert result.tally is not None
    assert result.tally["skipped"] == {"card_inactive": 1}


async def test_a_card_that_is_gone_at_linq_counts_no_longer(scene: Scene) -> None:
    await scene.add_chat("chat")
    await scene.one_pass()
    scene.account.remove_card(LINE)
    scene.clock.move(days=1)
    result = await scene.one_pass()
    assert scene.called() == ["chat"]
    assert result.tally is not None
    assert result.tally["skipped"] == {"no_card": 1}


@sqlite_only
@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (Fault(path="list_cards", status=500), "500/3006"),
        (Fault(path="list_cards", status=401, code=2004), "401/2004"),
        (Fault(path="list_cards", status=502, body="<h1>Bad gateway</h1>", content_type="text/html"), "502"),
        (Fault(path="list_cards", status=200, body='{"contact_cards": [{'), "not a JSON object"),
        (Fault(path="list_cards", status=200, body="{}"), "no list 'contact_cards'"),
        (Fault(path="list_cards", drop="before"), "RemoteProtocolError"),
        (Fault(path="list_cards", status=200, cut_short=True), "broke off"),
    ],
)
async def test_without_the_cards_nobody_is_called(scene: Scene, fault: Fault, word: str) -> None:
    await scene.add_chat("chat")
    scene.account.add_fault(fault)
    result = await scene.one_pass()
    assert result.status is RunStatus.FAILED
    assert result.detail is not None
    assert word in result.detail
    assert scene.called() == []
    assert await scene.attempts() == []
    scene.account.clear_faults()
    assert (await scene.one_pass()).status is RunStatus.COMPLETED
    assert scene.called() == ["chat"]


@pytest.mark.parametrize(
    ("fault", "retry_after", "refused"),
    [
        (Fault(path="list_cards", status=429, retry_after=120), 120, False),
        (Fault(path="list_cards", status=401, code=2004), None, True),
        (Fault(path="list_cards", status=500), None, False),
    ],
)
async def test_a_pass_that_got_no_cards_says_what_the_next_one_depends_on(
    scene: Scene, fault: Fault, retry_after: float | None, refused: bool
) -> None:
    scene.account.add_fault(fault)
    result = await scene.one_pass()
    assert (result.status, result.retry_after, result.access_refused) == (RunStatus.FAILED, retry_after, refused)


async def test_only_a_pass_that_did_not_complete_ends_as_an_error_in_the_log(scene: Scene) -> None:
    with capture_logs() as logs:
        await scene.one_pass()
        scene.account.add_fault(Fault(path="list_cards", status=500))
        await scene.one_pass()
    ends = [line for line in logs if line["event"] == "pass.ended"]
    assert [(line["status"], line["log_level"]) for line in ends] == [("completed", "info"), ("failed", "error")]


# What Linq's answers come to


ANSWERS: Final[list[tuple[Fault, str, int | None, int | None]]] = [
    (Fault(path="share", status=200), "shared", 200, None),
    (Fault(path="share", status=204, body=""), "shared", 204, None),
    (Fault(path="share", status=202, body="<html>"), "shared", 202, None),
    (Fault(path="share", cut_short=True), "shared", 202, None),
    (Fault(path="share", status=400, code=1005), "rejected", 400, 1005),
    (Fault(path="share", status=404, code=2001), "rejected", 404, 2001),
    (Fault(path="share", status=409, code=2014), "rejected", 409, 2014),
    (Fault(path="share", status=418, body="teapot"), "rejected", 418, None),
    (Fault(path="share", status=429, code=1007, retry_after=120), "rejected", 429, 1007),
    (Fault(path="share", status=500, code=3006), "unknown", 500, 3006),
    (Fault(path="share", status=500, code=3006, takes_effect=True), "unknown", 500, 3006),
    (Fault(path="share", status=502, body="<h1>Bad</h1>", content_type="text/html"), "unknown", 502, None),
    (Fault(path="share", status=503, code=4004), "unknown", 503, 4004),
    (Fault(path="share", redirect_to="http://127.0.0.1:9/"), "unknown", 307, None),
    (Fault(path="share", drop="before"), "unknown", None, None),
    (Fault(path="share", drop="after"), "unknown", None, None),
    (Fault(path="share", drop="after", reset=True), "unknown", None, None),
    (Fault(path="share", delay_seconds=30, takes_effect=True), "unknown", None, None),
]


@pytest.mark.parametrize(
    ("database_url", "fault", "outcome", "status", "code"),
    [("sqlite", *answer) for answer in ANSWERS] + [("postgresql", *answer) for answer in ANSWERS[::5]],
    indirect=["database_url"],
)
async def test_each_answer_has_its_outcome_and_is_never_asked_for_twice(
    scene: Scene, fault: Fault, outcome: str, status: int | None, code: int | None
) -> None:
    await scene.add_chat("chat")
    scene.account.add_fault(fault)
    await scene.one_pass(seconds=0.3 if fault.delay_seconds else 30)
    scene.account.clear_faults()
    scene.clock.move(hours=6)
    await scene.one_pass()
    (attempt,) = await scene.attempts()
    assert (attempt.outcome, attempt.http_status, attempt.error_code) == (outcome, status, code)
    assert attempt.finished_at is not None
    assert (attempt.error_message is None) == (outcome == "shared")
    assert scene.called() == ["chat"], "one call, also with a second pass on the same day"


async def test_a_refusal_keeps_the_trace_id_for_linqs_support(scene: Scene) -> None:
    await scene.add_chat("chat")
    scene.account.add_fault(Fault(path="share", status=400, code=1005, message="no such\nthing"))
    await scene.one_pass()
    (attempt,) = await scene.attempts()
    assert attempt.trace_id == scene.account.share_calls[0].trace_id is not None
    assert attempt.error_message == "no such thing"


async def test_what_never_left_stays_due_and_is_tried_again_in_the_same_pass(scene: Scene) -> None:
    ids = await add_chats(scene, 6)
    upstream = scene.base_url.rpartition(":")[2]
    async with relaying(lambda: asyncio.open_connection("127.0.0.1", int(upstream))) as relay:
        scene.base_url = f"http://127.0.0.1:{relay.port}"
        waits = 0

        async def let_in_again(seconds: float) -> None:
            nonlocal waits
            waits += 1
            await relay.accept()
            await HandClock.sleep(scene.clock, seconds)  # type: ignore[arg-type] # the scene's clock is one

        cards_are_read = asyncio.Event()

        @event.listens_for(scene.engine.sync_engine, "commit")
        def on_commit(_connection: object) -> None:
            if scene.account.requests["list_cards"] == 1 and not cards_are_read.is_set():
                cards_are_read.set()
                closing.append(asyncio.get_running_loop().create_task(relay.refuse()))

        closing: list[asyncio.Task[None]] = []
        scene.clock.sleep = let_in_again  # type: ignore[method-assign] # the moment at which the network comes back
        result = await scene.one_pass(limits=Limits(per_second=0, concurrency=6))
    assert waits >= 1
    assert result.status is RunStatus.COMPLETED
    assert sorted(scene.called()) == ids
    assert result.tally is not None
    assert result.tally["shared"] == 6


async def test_with_linq_unreachable_everyone_stays_due(scene: Scene) -> None:
    ids = await add_chats(scene, 30)
    upstream = int(scene.base_url.rpartition(":")[2])
    async with relaying(lambda: asyncio.open_connection("127.0.0.1", upstream)) as relay:
        direct, scene.base_url = scene.base_url, f"http://127.0.0.1:{relay.port}"
        closing: list[asyncio.Task[None]] = []

        @event.listens_for(scene.engine.sync_engine, "commit")
        def on_commit(_connection: object) -> None:
            if scene.account.requests["list_phone_numbers"] == 1 and not closing:
                closing.append(asyncio.get_running_loop().create_task(relay.refuse()))

        result = await scene.one_pass(limits=Limits(per_second=0, concurrency=5))
        event.remove(scene.engine.sync_engine, "commit", on_commit)
    assert result.status is RunStatus.STOPPED
    assert result.detail is not None
    assert "requests in a row got no answer of Linq's" in result.detail
    assert result.tally is not None
    assert result.tally["unsent"] + result.tally["left"] + result.tally["unknown"] == 30
    assert result.tally["unsent"] >= 8
    assert set((await scene.outcomes()).values()) <= {"unsent", "unknown"}
    scene.base_url = direct
    await scene.one_pass()
    lost = [chat_id for chat_id, outcome in (await scene.outcomes()).items() if outcome == "unknown"]
    assert sorted(scene.called() + lost) == ids


# How answers change the rest of the pass


async def test_2012_turns_away_from_the_line_and_goes_on_with_the_others(scene: Scene) -> None:
    scene.add_line(OTHER)
    await add_chats(scene, 5, "a")
    await add_chats(scene, 5, "b", from_number=OTHER)
    scene.account.add_fault(Fault(path="share", line=LINE, status=404, code=2012))
    result = await scene.one_pass(limits=ONE_AT_A_TIME)
    assert scene.called() == ["a-000", *(f"b-{number:03}" for number in range(5))]
    assert result.status is RunStatus.COMPLETED
    assert result.tally is not None
    assert (result.tally["shared"], result.tally["rejected"]) == (5, 1)
    assert result.tally["skipped"] == {"card_inactive": 4}


async def test_2001_marks_the_chat_as_missing_and_leaves_it_alone_from_then_on(scene: Scene) -> None:
    await scene.add_chat("chat")
    await scene.add_chat("gone")
    scene.account.remove_chat("gone")
    await scene.one_pass(limits=ONE_AT_A_TIME)
    assert (await chat_row(scene, "gone"))["missing_at"] == scene.clock.now()
    assert (await chat_row(scene, "chat"))["missing_at"] is None
    scene.clock.move(days=1)
    result = await scene.one_pass()
    assert scene.called() == ["chat", "gone", "chat"]
    assert result.tally is not None
    assert result.tally["skipped"] == {"missing": 1}


async def test_2024_marks_the_chat_as_opted_out(scene: Scene) -> None:
    chat = await scene.add_chat("chat")
    scene.account.put_chat(type(chat)(id=chat.id, from_number=chat.from_number, health_status="OPTED_OUT"))
    await scene.one_pass()
    row = await chat_row(scene, "chat")
    assert (row["opted_out_at"], row["health_status"]) == (scene.clock.now(), "HEALTHY")
    scene.clock.move(days=1)
    result = await scene.one_pass()
    assert scene.called() == ["chat"]
    assert result.tally is not None
    assert result.tally["skipped"] == {"opted_out": 1}


async def test_an_inbound_message_after_2024_ends_the_opt_out(scene: Scene) -> None:
    await scene.add_chat("chat")
    fault = scene.account.add_fault(Fault(path="share", status=403, code=2024))
    await scene.one_pass()
    scene.account.remove_fault(fault)
    scene.clock.move(days=1)
    await scene.change_chat("chat", last_inbound_at=scene.clock.now())
    await scene.one_pass()
    assert await scene.outcomes() == {"chat": "shared"}


async def test_2013_marks_the_chat_as_missing_until_it_is_cleared(scene: Scene) -> None:
    await scene.add_chat("chat")
    scene.account.add_fault(Fault(path="share", status=409, code=2013, times=1))
    await scene.one_pass()
    scene.clock.move(days=1)
    result = await scene.one_pass()
    assert result.tally is not None
    assert result.tally["skipped"] == {"missing": 1}


async def test_a_blocked_number_is_asked_for_again_after_a_week(scene: Scene) -> None:
    await scene.add_chat("chat")
    scene.account.add_fault(Fault(path="share", status=403, code=2026, times=1))
    await scene.one_pass()
    for _ in range(6):
        scene.clock.move(days=1)
        result = await scene.one_pass()
        assert result.tally is not None
        assert result.tally["skipped"] == {"too_soon": 1}
    scene.clock.move(days=1)
    await scene.one_pass()
    assert scene.called() == ["chat", "chat"]
    assert await scene.outcomes() == {"chat": "shared"}


async def test_a_line_that_linq_refuses_costs_one_chat_its_day_and_rests_for_an_hour(scene: Scene) -> None:
    await add_chats(scene, 12)
    scene.account.add_fault(Fault(path="share", line=LINE, status=403, code=2027, times=2))
    first = await scene.one_pass(limits=ONE_AT_A_TIME)
    assert first.tally is not None
    assert (first.tally["rejected"], first.tally["skipped"]) == (1, {"line_resting": 11})
    assert first.resume_at == first.started_at + timedelta(hours=1)
    scene.clock.move(minutes=60)
    second = await scene.one_pass(limits=Limits(per_second=0, concurrency=20))
    assert second.tally is not None
    assert (second.tally["rejected"], second.tally["skipped"]["line_resting"]) == (1, 11), (
        "one probe, and it rests again"
    )
    scene.clock.move(minutes=60)
    third = await scene.one_pass(limits=Limits(per_second=0, concurrency=20))
    assert third.tally is not None
    assert third.tally["shared"] == 10
    assert third.resume_at is None


async def test_a_wrong_account_costs_few_chats_their_day_and_is_no_success(scene: Scene) -> None:
    ids = await add_chats(scene, 40)
    fault = scene.account.add_fault(Fault(path="share", status=404, code=2001))
    result = await scene.one_pass(limits=Limits(per_second=0, concurrency=20))
    assert result.status is RunStatus.STOPPED
    assert result.detail is not None
    assert "LINQ_API_KEY" in result.detail
    assert len(scene.called()) == 10
    await scene.one_pass(limits=Limits(per_second=0, concurrency=20), trigger=Trigger.RESUME)
    assert len(scene.called()) == 13, "a resumed pass tries one at a time, and few"
    scene.account.remove_fault(fault)
    await scene.one_pass(trigger=Trigger.RESUME)
    assert len(scene.called()) == len(ids)


async def test_not_one_share_of_several_is_no_success(scene: Scene) -> None:
    await add_chats(scene, 3)
    scene.account.add_fault(Fault(path="share", status=403, code=2024))
    result = await scene.one_pass()
    assert result.status is RunStatus.STOPPED
    assert result.detail is not None
    assert "not one of 3 shares went through: 3 x 403/2024" in result.detail


async def test_chats_that_somebody_else_shared_with_do_not_hold_up_the_others(scene: Scene) -> None:
    ids = await add_chats(scene, 120)
    for chat_id in ids[:25]:
        scene.account.add_fault(Fault(path="share", chat_id=chat_id, status=429, retry_after=300))
    result = await scene.one_pass(limits=Limits(per_second=0, concurrency=20))
    assert result.tally is not None
    assert (result.tally["shared"], result.tally["rejected"]) == (95, 25)
    assert scene.clock.now() == result.started_at, "no time was spent on waiting"


async def test_a_limited_account_costs_few_chats_their_day_and_says_until_when_it_waits(scene: Scene) -> None:
    await add_chats(scene, 30)
    scene.account.add_fault(Fault(path="share", times=4, status=429, retry_after=120))
    with capture_logs() as logs:
        result = await scene.one_pass(limits=ONE_AT_A_TIME)
    assert result.tally is not None
    assert (result.tally["shared"], result.tally["rejected"]) == (26, 4)
    (waiting,) = [line for line in logs if line["event"] == "pass.waiting"]
    assert waiting["seconds"] == 120
    assert waiting["until"] == (result.started_at + timedelta(seconds=120)).isoformat()


async def test_outside_of_its_hours_a_pass_shares_with_nobody(scene: Scene) -> None:
    """The clock of the tests stands at 9:30."""
    await add_chats(scene, 2)
    result = await scene.one_pass(rules=Rules(hours=Hours.parse("10:00-21:00")))
    assert result.status is RunStatus.STOPPED
    assert result.detail is not None
    assert "SHARE_HOURS" in result.detail
    assert scene.called() == []
    scene.clock.move(minutes=30)
    await scene.one_pass(rules=Rules(hours=Hours.parse("10:00-21:00")))
    assert len(scene.called()) == 2


async def test_lines_at_a_low_reputation_rest_and_rcs_lines_are_no_imessage(scene: Scene) -> None:
    await add_chats(scene, 1)
    scene.account.put_line(SimulatedLine(LINE, reputation="CRITICAL"))
    result = await scene.one_pass()
    assert result.tally is not None
    assert result.tally["skipped"] == {"line_resting": 1}
    assert result.resume_at is None
    scene.account.put_line(SimulatedLine(LINE, line_type="RCS"))
    result = await scene.one_pass()
    assert result.tally is not None
    assert result.tally["skipped"] == {"not_imessage": 1}
    scene.account.put_line(SimulatedLine(LINE, reputation="AT_RISK"))
    await scene.one_pass()
    assert len(scene.called()) == 1


async def test_lines_that_cannot_be_read_do_not_stop_the_pass(scene: Scene) -> None:
    await add_chats(scene, 1)
    scene.account.add_fault(Fault(path="list_phone_numbers", status=500))
    with capture_logs() as logs:
        await scene.one_pass()
    assert len(scene.called()) == 1
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["lines.unread"]


@pytest.mark.parametrize(("status", "code"), [(401, 2004), (403, 2005)])
async def test_a_refused_key_stops_the_pass_and_the_others_keep_their_day(scene: Scene, status: int, code: int) -> None:
    ids = await add_chats(scene, 8)
    fault = scene.account.add_fault(Fault(path="share", after=2, status=status, code=code))
    result = await scene.one_pass(limits=ONE_AT_A_TIME)
    assert result.status is RunStatus.STOPPED
    assert result.access_refused
    assert result.detail is not None
    assert f"{status}/{code}" in result.detail
    assert scene.called() == ids[:3]
    assert result.tally is not None
    assert (result.tally["shared"], result.tally["rejected"], result.tally["left"]) == (2, 1, 5)
    scene.account.remove_fault(fault)
    await scene.one_pass()
    assert sorted(scene.called()) == ids


async def test_a_single_429_is_about_its_chat_only(scene: Scene) -> None:
    """Somebody else shared in this chat a minute ago; Linq allows that once in five minutes, for each chat."""
    ids = await add_chats(scene, 6)
    scene.account.add_fault(Fault(path="share", chat_id=ids[2], status=429, retry_after=240))
    result = await scene.one_pass(limits=ONE_AT_A_TIME)
    assert sorted(scene.called()) == ids
    assert scene.clock.now() == result.started_at, "no time was spent on waiting"
    assert (await scene.outcomes())[ids[2]] == "rejected"


async def test_a_rate_limit_of_more_than_fifteen_minutes_stops_the_pass(scene: Scene) -> None:
    ids = await add_chats(scene, 8)
    scene.account.add_fault(Fault(path="share", after=2, status=429, retry_after=3600))
    result = await scene.one_pass(limits=ONE_AT_A_TIME)
    assert result.status is RunStatus.STOPPED
    assert result.retry_after == 3600
    assert scene.called() == ids[:3]


async def test_ten_failures_in_a_row_stop_the_pass(scene: Scene) -> None:
    ids = await add_chats(scene, 25)
    scene.account.add_fault(Fault(path="share", after=3, status=503, code=4004))
    result = await scene.one_pass(limits=ONE_AT_A_TIME)
    assert result.status is RunStatus.STOPPED
    assert scene.called() == ids[:13]
    assert result.tally is not None
    assert (result.tally["shared"], result.tally["unknown"], result.tally["left"]) == (3, 10, 12)


async def test_nine_failures_in_a_row_do_not_stop_the_pass(scene: Scene) -> None:
    ids = await add_chats(scene, 25)
    scene.account.add_fault(Fault(path="share", after=3, times=9, drop="before"))
    result = await scene.one_pass(limits=ONE_AT_A_TIME)
    assert result.status is RunStatus.COMPLETED
    assert scene.called() == ids


# Time


async def test_a_pass_ends_with_its_share_day(scene: Scene) -> None:
    scene.clock.move(hours=14, minutes=29, seconds=30)  # half a minute before midnight
    ids = await add_chats(scene, 12, last_outbound_at=datetime(2026, 3, 10, tzinfo=UTC))
    result = await scene.one_pass(limits=Limits(per_second=0.1, concurrency=1))
    assert result.status is RunStatus.STOPPED
    assert result.detail == "its share day, 2026-03-10, is over"
    assert scene.called() == ids[:3]
    assert result.tally is not None
    assert (result.tally["shared"], result.tally["left"]) == (3, 9)
    following = await scene.one_pass()
    assert following.share_day == date(2026, 3, 11)
    assert sorted(scene.called()) == ids, "the first three were called minutes ago, so not again just after midnight"
    assert following.tally is not None
    assert following.tally["skipped"] == {"too_soon": 3}


async def test_midnight_between_the_decision_and_the_claim_makes_no_claim_for_another_day(scene: Scene) -> None:
    scene.clock.move(hours=14, minutes=29, seconds=59)
    await add_chats(scene, 3, last_outbound_at=datetime(2026, 3, 10, tzinfo=UTC))
    writes = 0

    @event.listens_for(scene.engine.sync_engine, "begin")
    def strike_twelve(connection: Connection) -> None:
        nonlocal writes
        writes += "begin_statement" in connection.get_execution_options()
        if writes == 3:  # the run's row and the cards came before
            scene.clock.move(seconds=2)

    result = await scene.one_pass()
    assert result.detail == "its share day, 2026-03-10, is over"
    assert scene.called() == []
    assert await scene.attempts() == []


async def test_the_log_tells_each_call_once_and_before_the_pass_has_ended(scene: Scene) -> None:
    ids = await add_chats(scene, 60)
    with capture_logs() as logs:
        await scene.one_pass(limits=Limits(per_second=0, concurrency=60))  # so that all answers are recorded at once
    told = [log for log in logs if log["event"] in {"share.recorded", "pass.ended"}]
    assert sorted(log["chat_id"] for log in told[:-1]) == ids
    assert told[-1]["event"] == "pass.ended"


@sqlite_only
async def test_a_request_is_told_with_the_time_that_it_took(scene: Scene) -> None:
    await scene.add_chat("chat")
    scene.account.add_fault(Fault(path="share", delay_seconds=0.1))
    watched: list[tuple[Outcome, float]] = []
    watch = Watch(answered=lambda answer, seconds: watched.append((answer.outcome, seconds)))
    with capture_logs() as logs:
        going = asyncio.create_task(scene.one_pass(watch=watch))
        await until(lambda: scene.called() == ["chat"])
        scene.clock.move(seconds=1.23456)
        await going
    (recorded,) = [line for line in logs if line["event"] == "share.recorded"]
    assert recorded["ms"] == 1234.6
    assert watched == [(Outcome.SHARED, 1.2346)]


@sqlite_only
async def test_a_long_pass_tells_once_a_minute_how_far_it_is(scene: Scene) -> None:
    await scene.add_chats(f"chat-{number:03}" for number in range(70))
    due: list[int] = []
    clock = WorkerClock(Time(scene.clock.now()), timedelta, lambda: None)
    limits = Limits(per_second=1, at_most=66)
    with capture_logs() as logs:
        await scene.one_pass(limits=limits, clock=clock, watch=Watch(due=due.append))
    assert due == [66]
    (progress,) = [line for line in logs if line["event"] == "pass.progress"]
    assert (progress["done"], progress["due"], progress["shared"]) == (61, 66, 61)
    assert (progress["per_second"], progress["minutes_left"]) == (1.0, 0.1)


@sqlite_only
async def test_the_log_warns_of_what_nobody_knows_or_nobody_got_and_not_of_refusals(scene: Scene) -> None:
    await scene.add_chats(["lost", "refused", "shared", "unsent"])
    scene.account.add_fault(Fault(path="share", chat_id="lost", status=502))
    scene.account.add_fault(Fault(path="share", chat_id="refused", status=403, code=2024))
    scene.as_each_claim_commits(lambda number: scene.clock.move(seconds=61 if number == 4 else 0))
    with capture_logs() as logs:
        await scene.one_pass(limits=Limits(per_second=0, concurrency=1, at_most=4))
    levels = {line["chat_id"]: line["log_level"] for line in logs if line["event"] == "share.recorded"}
    assert levels == {"lost": "warning", "refused": "info", "shared": "info", "unsent": "warning"}


@sqlite_only
async def test_a_line_that_linq_refuses_is_logged_with_the_end_of_its_rest(scene: Scene) -> None:
    await scene.add_chat("chat")
    scene.account.add_fault(Fault(path="share", status=403, code=2027))
    with capture_logs() as logs:
        result = await scene.one_pass()
    (refused,) = [line for line in logs if line["event"] == "line.refused"]
    assert refused["until"] == (result.started_at + timedelta(hours=1)).isoformat()


@pytest.mark.parametrize(("seconds", "called"), [(59, True), (61, False)])
async def test_a_worker_that_was_frozen_between_claim_and_call_gives_the_claim_back(
    scene: Scene, seconds: float, called: bool
) -> None:
    await scene.add_chat("chat")
    scene.as_each_claim_commits(lambda times: scene.clock.move(seconds=seconds if times == 1 else 0))
    await scene.one_pass()
    (attempt,) = await scene.attempts()
    assert attempt.outcome is Outcome.SHARED
    frozen_for = scene.account.share_calls[0].at - attempt.claimed_at
    assert (frozen_for == timedelta(seconds=seconds)) is called
    assert frozen_for <= timedelta(minutes=1), "a stale claim was given back and made anew before the call"


async def test_a_worker_that_must_end_before_its_requests_begin_gives_the_claims_back(scene: Scene) -> None:
    await add_chats(scene, 2)
    scene.as_each_claim_commits(lambda _: scene.stop.set())
    await scene.one_pass(limits=Limits(drain_seconds=0))
    assert scene.called() == []
    why = "the worker had to end before the request began"
    assert {(one.outcome, one.error_message) for one in await scene.attempts()} == {("unsent", why)}
    scene.stop.clear()
    await scene.one_pass()
    assert len(scene.called()) == 2


async def test_a_pass_that_could_not_send_some_requests_says_that_their_chats_stay_due(scene: Scene) -> None:
    await add_chats(scene, 2)
    scene.as_each_claim_commits(lambda _: scene.clock.move(seconds=61))
    result = await scene.one_pass()
    assert scene.called() == []
    assert result.tally is not None
    assert result.tally["unsent"] == 2
    why = "the worker was held up for 61 s between claim and request"
    assert (result.status, result.detail) == (RunStatus.STOPPED, f"2 chats stay due: {why}")


async def test_a_worker_that_was_frozen_while_it_connected_gives_the_claim_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that sleeps in the middle of a connection's making: the claim was fresh when the call began."""
    ids = await add_chats(scene, 2)
    scene.base_url = scene.base_url.replace("127.0.0.1", "localhost")
    loop = asyncio.get_running_loop()
    resolve, lookups = loop.getaddrinfo, 0

    async def sleep_in_the_second_lookup(*where: object, **options: object) -> object:
        nonlocal lookups
        lookups += 1
        if lookups == 2:  # the first one was for the cards, whose connection one of the two calls takes
            await until(lambda: len(scene.called()) == 1)
            scene.clock.move(seconds=61)
        return await resolve(*where, **options)  # type: ignore[arg-type] # passed on as it came

    monkeypatch.setattr(loop, "getaddrinfo", sleep_in_the_second_lookup)
    await scene.one_pass(limits=Limits(per_second=0, concurrency=2))
    assert lookups >= 2
    assert sorted(scene.called()) == ids
    claimed_at = {attempt.chat_id: attempt.claimed_at for attempt in await scene.attempts()}
    ages = [call.at - claimed_at[call.chat_id] for call in scene.account.share_calls]
    assert max(ages) <= timedelta(minutes=1), "the stale claim was given back and made anew before the call"


async def test_a_clock_set_back_over_midnight_makes_no_second_call(scene: Scene) -> None:
    await scene.add_chat("chat")
    scene.clock.move(hours=15)  # 0:30 of the 11th
    await scene.one_pass()
    scene.clock.move(hours=-1)  # 23:30 of the 10th
    result = await scene.one_pass()
    assert scene.called() == ["chat"]
    assert result.tally is not None
    assert result.tally["skipped"] == {"too_soon": 1}


async def test_the_claims_of_a_dead_worker_are_settled_by_the_next_pass(scene: Scene) -> None:
    await scene.add_chat("chat")
    await scene.add_chat("dead")
    await scene.one_pass(limits=Limits(per_second=0, at_most=1))
    async with db.write(scene.engine) as connection:
        await connection.exec_driver_sql("UPDATE share_attempts SET outcome = 'claimed'")
    scene.clock.move(minutes=20)
    await scene.one_pass()
    assert await scene.outcomes() == {"chat": "unknown", "dead": "shared"}
    assert scene.called() == ["chat", "dead"]


# Stopping


async def test_told_to_stop_it_finishes_and_records_what_is_in_flight_and_claims_no_more(scene: Scene) -> None:
    await add_chats(scene, 30)
    scene.account.add_fault(Fault(path="share", delay_seconds=0.05))
    scene.clock = SystemClock()  # type: ignore[assignment] # the drain takes real time
    await scene.change_chat("chat-000", last_outbound_at=datetime(2026, 1, 1, tzinfo=UTC))
    going = asyncio.create_task(scene.one_pass(limits=Limits(per_second=0, concurrency=4)))
    await until(lambda: len(scene.called()) >= 6)
    scene.stop.set()
    result = await going
    assert result.status is RunStatus.STOPPED
    assert result.detail == "it was told to stop"
    outcomes = await scene.outcomes()
    assert set(outcomes.values()) == {"shared"}
    assert sorted(outcomes) == sorted(scene.called())
    assert len(outcomes) <= 10
    assert result.tally is not None
    assert result.tally["shared"] + result.tally["left"] == 30


@pytest.mark.parametrize(
    ("drain", "cut_after"), [(25, 20), (8, 4), (0, 0)], ids=["all but 5 s", "half of a short one", "none"]
)
async def test_calls_that_outlast_the_drain_are_cut_and_count_as_made(
    scene: Scene, drain: float, cut_after: float
) -> None:
    """The rest of the drain is kept for recording them."""
    await add_chats(scene, 10)
    scene.account.add_fault(Fault(path="share", delay_seconds=20, takes_effect=True))
    limits = Limits(per_second=0, concurrency=3, drain_seconds=drain)
    going = asyncio.create_task(scene.one_pass(limits=limits))
    await until(lambda: len(scene.called()) == 3)
    began = scene.clock.now()
    scene.stop.set()
    result = await going
    assert scene.clock.now() - began == timedelta(seconds=cut_after)
    assert result.tally is not None
    assert (result.tally["unknown"], result.tally["left"]) == (3, 7)
    assert {attempt.error_message for attempt in await scene.attempts()} == {
        "the worker had to end before Linq answered"
    }
    scene.account.clear_faults()
    scene.stop.clear()
    await scene.one_pass()
    assert len(scene.called()) == len(set(scene.called())) == 10


async def test_told_to_stop_before_it_began_it_calls_nobody(scene: Scene) -> None:
    await scene.add_chat("chat")
    scene.stop.set()
    result = await scene.one_pass()
    assert result.status is RunStatus.STOPPED
    assert scene.called() == []
    assert await scene.attempts() == []


# Several at once


async def test_a_chat_paused_while_the_pass_runs_is_not_called(scene: Scene) -> None:
    ids = await add_chats(scene, 40)
    scene.account.add_fault(Fault(path="share", delay_seconds=0.01))
    going = asyncio.create_task(scene.one_pass(limits=Limits(per_second=0, concurrency=2)))
    await until(lambda: len(scene.called()) >= 2)
    await scene.change_chat(ids[-1], paused_at=scene.clock.now())
    result = await going
    assert ids[-1] not in scene.called()
    assert result.tally is not None
    assert (result.tally["shared"], result.tally["skipped"]) == (39, {"paused": 1})


async def test_what_is_not_due_any_more_is_passed_over_in_leaps(scene: Scene) -> None:
    ids = await add_chats(scene, 150)
    scene.account.add_fault(Fault(path="share", delay_seconds=0.2))
    going = asyncio.create_task(scene.one_pass(limits=ONE_AT_A_TIME))
    await until(lambda: len(scene.called()) == 1)
    async with db.write(scene.engine) as connection:
        await connection.execute(chats.update().where(chats.c.id != ids[0]).values(paused_at=scene.clock.now()))
    transactions = 0

    @event.listens_for(scene.engine.sync_engine, "commit")
    def count(_connection: Connection) -> None:
        nonlocal transactions
        transactions += 1

    result = await going
    assert result.tally is not None
    assert (result.tally["shared"], result.tally["skipped"]) == (1, {"paused": 149})
    assert transactions < 30


async def test_passes_at_once_share_the_work_and_call_nobody_twice(scene: Scene, database_url: str) -> None:
    ids = await add_chats(scene, 120)
    scene.account.add_fault(Fault(path="share", delay_seconds=0.01))

    async def worker() -> dict[str, int]:
        async with db.opened(db.parse_url(database_url)) as own:
            result = await scene.one_pass(engine=own, limits=Limits(per_second=0, concurrency=5))
        assert result.status is RunStatus.COMPLETED
        assert result.tally is not None
        return {"shared": result.tally["shared"], **result.tally["skipped"]}

    tallies = await asyncio.gather(*(worker() for _ in range(4)))
    assert sorted(scene.called()) == ids
    assert sum(tally["shared"] for tally in tallies) == 120
    assert all(sum(tally.values()) == 120 for tally in tallies)
    assert sum(tally["shared"] > 0 for tally in tallies) >= 2


async def test_a_bug_during_a_request_counts_as_perhaps_shared(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await add_chats(scene, 1)
    share = Linq.share

    async def share_and_break(linq: Linq, chat_id: str, *, veto: Veto | None = None) -> int:
        await share(linq, chat_id, veto=veto)
        raise TypeError  # only a bug of ours raises anything but a LinqError

    monkeypatch.setattr(Linq, "share", share_and_break)
    with capture_logs() as logs:
        first = await scene.one_pass()
    assert first.tally is not None
    assert first.tally["unknown"] == 1
    assert [log["chat_id"] for log in logs if log["event"] == "share.broke"] == scene.called()
    (attempt,) = await scene.attempts()
    assert attempt.outcome == "unknown"
    assert attempt.error_message == "the worker broke during the request: TypeError"
    await scene.one_pass()
    assert len(scene.called()) == 1, "the request had left, so the chat is not shared with again that day"
