"""Calling again on the same day: whom a rerun may call, and that it makes one call however many ask for it."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Date, bindparam, text

from tests.conftest import HandClock
from tests.scene import LINE, Scene
from worker import db
from worker.db.tables import UtcTime, chats
from worker.outcomes import Outcome, RunStatus
from worker.rules.again import Again
from worker.rules.eligibility import Rules, Verdict
from worker.sharing.limits import REJECTIONS_IN_A_ROW, Limits
from worker.sharing.rerun import Choice, Plan, Selection
from worker.simulator.chats import Chat
from worker.simulator.faults import Fault

OTHER = "+15550100002"
EVERYONE = Selection(outcomes=[Outcome.SHARED, Outcome.REJECTED, Outcome.UNKNOWN, Outcome.UNSENT])


async def rejected(scene: Scene, *chat_ids: str) -> None:
    """Chats whose call of today was refused, six minutes ago."""
    for chat_id in chat_ids:
        await scene.add_chat(chat_id)
    code, status = (1005, 400) if len(chat_ids) < REJECTIONS_IN_A_ROW else (2026, 403)
    scene.account.add_fault(Fault(path="share", status=status, code=code, times=len(chat_ids)))
    assert (await _tally(scene))["rejected"] == len(chat_ids)
    scene.clock.move(minutes=6)


async def unknown(scene: Scene, *chat_ids: str) -> None:
    """Chats for which the answer of today was lost, six minutes ago."""
    for chat_id in chat_ids:
        await scene.add_chat(chat_id)
    scene.account.add_fault(Fault(path="share", drop="after", times=len(chat_ids)))
    assert (await _tally(scene))["unknown"] == len(chat_ids)
    scene.clock.move(minutes=6)


async def unsent(scene: Scene, *chat_ids: str) -> None:
    """Chats whose request of today never left, an hour and a half ago."""
    await scene.one_pass()
    for chat_id in chat_ids:
        await scene.add_chat(chat_id)
    await attempted(scene, "unsent")


async def attempted(scene: Scene, outcome: str, *, minutes: int = 90) -> None:
    """Give each chat of the table an attempt of so long ago, without a call; a pass before it has read the cards."""
    statement = text(
        "INSERT INTO share_attempts (chat_id, share_day, sequence, outcome, run_id, claimed_at)"
        " SELECT id, :day, 0, :outcome, 'before', :then FROM chats"
    ).bindparams(bindparam("day", type_=Date()), bindparam("then", type_=UtcTime()))
    then = scene.clock.now() - timedelta(minutes=minutes)
    async with db.write(scene.engine) as connection:
        await connection.execute(statement, {"day": then.date(), "then": then, "outcome": outcome})


async def _tally(scene: Scene) -> dict[str, object]:
    result = await scene.one_pass()
    assert result.tally is not None
    return dict(result.tally)


def rulings(plan: Plan) -> dict[str, str]:
    return {choice.chat_id: choice.ruling for choice in plan.choices}


# Who may be called again


async def test_a_rejected_chat_is_called_again_as_a_new_row_that_says_who_and_why(scene: Scene) -> None:
    await rejected(scene, "chat")
    plan = await scene.plan(Selection(outcomes=[Outcome.REJECTED]))
    assert plan.choices == [Choice(chat_id="chat", ruling=Again.ALLOWED, outcome="rejected", error_code=1005)]
    result = await scene.rerun(plan)
    assert (result.status, result.tally) == (
        RunStatus.COMPLETED,
        {"shared": 1, "rejected": 0, "unknown": 0, "unsent": 0, "left": 0, "skipped": {}},
    )
    first, second = await scene.attempts("chat")
    assert (first.sequence, first.outcome, first.requested_by) == (0, Outcome.REJECTED, None)
    assert (second.sequence, second.outcome, second.run_id) == (1, Outcome.SHARED, result.run_id)
    assert (second.requested_by, second.reason) == ("ada", "a test")
    assert scene.called() == ["chat", "chat"]


async def test_the_calls_of_a_day_are_numbered_from_its_first_one_whatever_was_called_the_day_before(
    scene: Scene,
) -> None:
    await rejected(scene, "chat")
    await scene.rerun(await scene.plan(EVERYONE))
    scene.clock.move(days=1)
    await rejected(scene, "chat")
    assert (await scene.plan(EVERYONE)).sequences == {"chat": 1}


async def test_linqs_five_minutes_are_respected_from_the_answer_on(scene: Scene) -> None:
    await rejected(scene, "chat")
    scene.clock.move(minutes=-1, seconds=-1)
    assert rulings(await scene.plan(EVERYONE)) == {"chat": Again.JUST_CALLED}
    scene.clock.move(seconds=1)
    assert rulings(await scene.plan(EVERYONE)) == {"chat": Again.ALLOWED}


async def test_a_call_of_a_clock_that_runs_ahead_counts_as_just_made(scene: Scene) -> None:
    await rejected(scene, "chat")
    scene.clock.move(minutes=-30)
    assert rulings(await scene.plan(EVERYONE)) == {"chat": Again.JUST_CALLED}


async def test_a_chat_that_perhaps_was_shared_with_needs_force(scene: Scene) -> None:
    await unknown(scene, "lost")
    await scene.add_chat("done")
    await scene.one_pass()
    scene.clock.move(minutes=6)
    assert rulings(await scene.plan(EVERYONE)) == {"done": Again.NEEDS_FORCE, "lost": Again.NEEDS_FORCE}
    timid = await scene.rerun(await scene.plan(EVERYONE, force=True), force=False)
    assert timid.tally is not None
    assert timid.tally["skipped"] == {"needs_force": 2}
    bold = await scene.rerun(await scene.plan(EVERYONE, force=True), force=True)
    assert bold.tally is not None
    assert bold.tally["shared"] == 2
    assert Counter(scene.called()) == {"lost": 2, "done": 2}


async def test_a_share_earlier_today_needs_force_whatever_came_after_it(scene: Scene) -> None:
    await scene.add_chat("chat")
    await scene.one_pass()
    scene.clock.move(minutes=6)
    scene.account.add_fault(Fault(path="share", status=400, code=1005, times=1))
    await scene.rerun(await scene.plan(EVERYONE, force=True), force=True)
    scene.clock.move(minutes=6)
    plan = await scene.plan(Selection(outcomes=[Outcome.REJECTED]))
    assert plan.choices == [Choice(chat_id="chat", ruling=Again.NEEDS_FORCE, outcome="rejected", error_code=1005)]


@pytest.mark.parametrize(
    ("change", "rules", "verdict"),
    [
        ({"paused_at": datetime(2026, 3, 10, tzinfo=UTC)}, Rules(), Verdict.PAUSED),
        ({"missing_at": datetime(2026, 3, 10, tzinfo=UTC)}, Rules(), Verdict.MISSING),
        ({"service": "SMS"}, Rules(), Verdict.NOT_IMESSAGE),
        ({"last_outbound_at": None}, Rules(), Verdict.NO_OUTBOUND),
        ({"health_status": "OPTED_OUT"}, Rules(), Verdict.OPTED_OUT),
        ({"from_number": OTHER}, Rules(), Verdict.NO_CARD),
        ({}, Rules(max_per_chat=1), Verdict.CAP_REACHED),
        ({"last_outbound_at": datetime(2026, 1, 1, tzinfo=UTC)}, Rules(active_days=30), Verdict.DORMANT),
        ({"is_group": True}, Rules(include_groups=False), Verdict.GROUP_EXCLUDED),
    ],
)
async def test_one_that_is_not_eligible_is_not_called_even_with_force(
    scene: Scene, change: dict[str, object], rules: Rules, verdict: Verdict
) -> None:
    await unknown(scene, "chat")
    sound = await scene.plan(EVERYONE, force=True)
    assert sound.sequences == {"chat": 1}
    if change:
        await scene.change_chat("chat", **change)
    assert rulings(await scene.plan(EVERYONE, force=True, rules=rules)) == {"chat": verdict}
    late = await scene.rerun(sound, force=True, rules=rules)
    assert late.tally is not None
    assert late.tally["skipped"] == {verdict: 1}, "nor where it changed after the admin looked"
    assert scene.called() == ["chat"]


async def test_an_inactive_card_forbids_it_until_it_is_active_again(scene: Scene) -> None:
    await scene.add_chat("chat")
    scene.account.deactivate_card(LINE)
    scene.account.add_fault(Fault(path="list_cards", body=_ACTIVE, times=1))
    await scene.one_pass()
    scene.clock.move(minutes=6)
    selection = Selection(codes=[2012])
    assert rulings(await scene.plan(selection, force=True)) == {"chat": Verdict.CARD_INACTIVE}
    scene.account.put_card(LINE)
    await scene.one_pass()
    plan = await scene.plan(selection)
    assert plan.sequences == {"chat": 1}
    await scene.rerun(plan)
    assert [attempt.outcome for attempt in await scene.attempts("chat")] == [Outcome.REJECTED, Outcome.SHARED]


_ACTIVE = f'{{"contact_cards": [{{"phone_number": "{LINE}", "is_active": true}}]}}'


async def test_a_chat_that_was_not_attempted_today_is_left_to_the_pass(scene: Scene) -> None:
    await rejected(scene, "yesterday")
    scene.clock.move(days=1)
    await scene.add_chat("new")
    plan = await scene.plan(Selection(chat_ids=["new", "yesterday"]), force=True)
    assert rulings(plan) == {"new": Again.NOT_ATTEMPTED, "yesterday": Again.NOT_ATTEMPTED}
    assert plan.sequences == {}


# Who is selected


async def test_chats_are_selected_by_their_latest_attempt(scene: Scene) -> None:
    scene.add_line(OTHER)
    await rejected(scene, "a", "b")
    first = (await scene.attempts("a"))[0].run_id
    await scene.add_chat("c", from_number=OTHER)
    await scene.one_pass()
    scene.clock.move(minutes=6)
    second = (await scene.attempts("c"))[0].run_id
    await scene.rerun(await scene.plan(Selection(chat_ids=["b"])))
    scene.clock.move(minutes=6)

    async def selected(selection: Selection) -> list[str]:
        return [choice.chat_id for choice in (await scene.plan(selection)).choices]

    assert await selected(Selection(outcomes=[Outcome.REJECTED])) == ["a"]
    assert await selected(Selection(outcomes=[Outcome.SHARED])) == ["b", "c"]
    assert await selected(Selection(codes=[1005])) == ["a"]
    assert await selected(Selection(lines=[OTHER])) == ["c"]
    assert await selected(Selection(run_id=first)) == ["a"]
    assert await selected(Selection(run_id=second)) == ["c"]
    assert await selected(Selection(lines=[LINE], outcomes=[Outcome.SHARED])) == ["b"]


async def test_named_chats_that_are_not_selected_are_told_with_the_reason(scene: Scene) -> None:
    await rejected(scene, "refused", "gone")
    await scene.add_chat("new")
    async with db.write(scene.engine) as connection:
        await connection.execute(text("DELETE FROM chats WHERE id = 'gone'"))
    named = ["refused", "new", "gone", "never"]
    plan = await scene.plan(Selection(chat_ids=named, outcomes=[Outcome.UNKNOWN]))
    assert rulings(plan) == {
        "refused": Again.NOT_SELECTED,
        "new": Again.NOT_ATTEMPTED,
        "gone": Again.UNKNOWN_CHAT,
        "never": Again.UNKNOWN_CHAT,
    }
    assert rulings(await scene.plan(Selection(chat_ids=named)))["refused"] == Again.ALLOWED
    assert rulings(await scene.plan(Selection(codes=[1005]))) == {
        "refused": Again.ALLOWED,
        "gone": Again.UNKNOWN_CHAT,
    }


async def test_all_are_counted_though_few_are_shown(scene: Scene) -> None:
    await rejected(scene, *(f"chat-{number:03}" for number in range(30)))
    plan = await scene.plan(EVERYONE, shown=5)
    assert (len(plan.choices), plan.counts, len(plan.sequences)) == (5, {"allowed": 30}, 30)


async def test_a_plan_larger_than_a_window_is_made_to_its_end(scene: Scene) -> None:
    ids = [f"chat-{number:04}" for number in range(1100)]
    for chat_id in ids:
        scene.account.put_chat(Chat(id=chat_id, from_number=LINE, last_outbound_at=scene.clock.now()))
    await scene.one_pass()
    await scene.know(*scene.account.chats.values())
    await attempted(scene, "rejected")
    plan = await scene.plan(EVERYONE)
    async with db.write(scene.engine) as connection:
        paused = chats.update().where(chats.c.id.in_(ids[100:800])).values(paused_at=scene.clock.now())
        await connection.execute(paused)
    result = await scene.rerun(plan)
    assert result.tally is not None
    assert (result.tally["shared"], result.tally["skipped"]) == (400, {"paused": 700})
    assert sorted(scene.called()) == ids[:100] + ids[800:]


# One call, however many ask


async def test_two_admins_at_once_make_one_call(scene: Scene, database_url: str) -> None:
    ids = [f"chat-{number:02}" for number in range(24)]
    await unknown(scene, *ids[:8])
    await rejected(scene, *ids[8:])
    plans = [await scene.plan(EVERYONE, force=True) for _ in range(2)]
    async with db.opened(db.parse_url(database_url)) as other:
        results = await asyncio.gather(
            scene.rerun(plans[0], force=True, limits=Limits(concurrency=3, per_second=0)),
            scene.rerun(plans[1], force=True, limits=Limits(concurrency=3, per_second=0), engine=other),
        )
    assert Counter(scene.called()) == dict.fromkeys(ids, 2), "the one of the pass, and one more"
    shared = 0
    for result in results:
        assert result.status is RunStatus.COMPLETED
        assert result.tally is not None
        shared += result.tally["shared"]
    assert shared == len(ids)


async def test_what_was_called_since_the_admin_looked_is_not_called_again(scene: Scene) -> None:
    await unknown(scene, "chat")
    plan = await scene.plan(EVERYONE, force=True)
    await scene.rerun(plan, force=True)
    scene.clock.move(minutes=20)
    late = await scene.rerun(plan, force=True)
    assert late.tally is not None
    assert late.tally["skipped"] == {"called_since": 1}
    assert scene.called() == ["chat", "chat"]


async def test_nor_by_an_admin_whose_clock_is_late(scene: Scene) -> None:
    await unknown(scene, "chat")
    slow = HandClock(scene.clock.now() - timedelta(minutes=40))
    plan = await scene.plan(EVERYONE, force=True)
    await scene.rerun(plan, force=True)
    slow.move(hours=2)
    assert (await scene.rerun(plan, force=True, clock=slow)).tally == {
        "shared": 0,
        "rejected": 0,
        "unknown": 0,
        "unsent": 0,
        "left": 0,
        "skipped": {"called_since": 1},
    }
    assert scene.called() == ["chat", "chat"]


async def test_a_request_that_never_left_is_rerun_in_its_place(scene: Scene) -> None:
    await unsent(scene, "chat")
    result = await scene.rerun(await scene.plan(Selection(outcomes=[Outcome.UNSENT])))
    (attempt,) = await scene.attempts("chat")
    assert (attempt.sequence, attempt.outcome, attempt.run_id) == (0, Outcome.SHARED, result.run_id)
    assert (attempt.requested_by, attempt.reason) == ("ada", "a test")
    assert scene.called() == ["chat"]


async def test_a_request_that_never_left_waits_for_no_five_minutes(scene: Scene) -> None:
    await scene.one_pass()
    await scene.add_chat("chat")
    await attempted(scene, "unsent", minutes=1)
    assert rulings(await scene.plan(EVERYONE)) == {"chat": Again.ALLOWED}


async def test_a_pass_and_a_rerun_at_once_make_one_call(scene: Scene, database_url: str) -> None:
    ids = [f"chat-{number:02}" for number in range(20)]
    await unsent(scene, *ids)
    plan = await scene.plan(EVERYONE)
    assert len(plan.sequences) == len(ids)
    slowly = Limits(concurrency=3, per_second=0)
    async with db.opened(db.parse_url(database_url)) as other:
        await asyncio.gather(scene.rerun(plan, limits=slowly), scene.one_pass(limits=slowly, engine=other))
    assert sorted(scene.called()) == ids
    assert [(attempt.sequence, attempt.outcome) for attempt in await scene.attempts()] == [(0, "shared")] * len(ids)


async def test_a_rerun_ends_with_its_share_day(scene: Scene) -> None:
    await rejected(scene, "chat")
    plan = await scene.plan(EVERYONE)
    scene.clock.move(days=1)
    result = await scene.rerun(plan)
    assert result.tally is not None
    assert (result.tally["shared"], result.tally["skipped"]) == (0, {"not_attempted": 1})
    assert scene.called() == ["chat"]


async def test_a_refused_key_stops_a_rerun_and_the_others_are_left(scene: Scene) -> None:
    await rejected(scene, "a", "b", "c")
    plan = await scene.plan(EVERYONE)
    scene.account.add_fault(Fault(path="share", status=401, code=2004))
    result = await scene.rerun(plan, limits=Limits(concurrency=1, per_second=0))
    assert result.status is RunStatus.STOPPED
    assert result.tally is not None
    assert (result.tally["rejected"], result.tally["left"]) == (1, 2)
