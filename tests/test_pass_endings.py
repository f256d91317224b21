"""What a pass is said to have ended with: completed, or stopped and why."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, timedelta

import psycopg
import pytest

from tests.conftest import HandClock
from tests.databases import sqlite_only
from tests.past import Past
from tests.scene import Scene, until
from worker.outcomes import PassResult, RunStatus, Tally
from worker.rules.eligibility import Rules
from worker.sharing.limits import Limits
from worker.simulator.faults import Fault

FROZEN = "the worker was held up for 61 s between claim and request"


def one_by_one(at_most: int | None = None) -> Limits:
    return Limits(per_second=0, concurrency=1, at_most=at_most)


def counts(result: PassResult) -> Tally:
    assert result.tally is not None
    return result.tally


def stop_at(scene: Scene, claim: int) -> Callable[[int], None]:
    """Tell the worker to stop as this claim is committed."""

    def act(number: int) -> None:
        if number == claim:
            scene.stop.set()

    return act


def freeze_at(scene: Scene, *claims: int) -> Callable[[int], None]:
    """Hold the worker up for a minute between these claims and their requests, which are not sent then."""

    def act(number: int) -> None:
        if number in claims:
            scene.clock.move(seconds=61)

    return act


@sqlite_only
async def test_two_refusals_are_a_completed_pass(scene: Scene) -> None:
    await scene.add_chats(["a", "b"])
    scene.account.add_fault(Fault(path="share", status=403, code=2024))
    result = await scene.one_pass()
    assert (result.status, result.detail) == (RunStatus.COMPLETED, None)


@sqlite_only
async def test_lost_answers_and_refusals_together_are_no_success(scene: Scene) -> None:
    await scene.add_chats(["a", "b", "c"])
    scene.account.add_fault(Fault(path="share", chat_id="a", status=403, code=2024))
    scene.account.add_fault(Fault(path="share", status=502))
    result = await scene.one_pass()
    assert counts(result)["unknown"] == 2
    assert result.status is RunStatus.STOPPED
    said = "2 x 502/3006 Simulated fault, 1 x 403/2024 Simulated fault"
    assert result.detail == f"not one of 3 shares went through: {said}"


@sqlite_only
async def test_one_share_among_refusals_is_a_completed_pass(scene: Scene) -> None:
    await scene.add_chats(["a", "b", "c", "d"])
    for chat_id in "abc":
        scene.account.add_fault(Fault(path="share", chat_id=chat_id, status=403, code=2024))
    result = await scene.one_pass()
    assert (result.status, result.detail) == (RunStatus.COMPLETED, None)
    assert (counts(result)["shared"], counts(result)["rejected"]) == (1, 3)


@sqlite_only
async def test_a_pass_that_made_what_its_limit_allows_is_complete_though_told_to_stop(scene: Scene) -> None:
    await scene.add_chats(["a", "b"])
    scene.as_each_claim_commits(stop_at(scene, 1))
    result = await scene.one_pass(limits=one_by_one(at_most=1))
    assert (counts(result)["shared"], counts(result)["left"]) == (1, 1)
    assert (result.status, result.detail) == (RunStatus.COMPLETED, None)


@sqlite_only
async def test_a_pass_that_was_told_to_stop_as_it_had_shared_with_everyone_is_complete(scene: Scene) -> None:
    await scene.add_chats(["a", "b"])
    scene.as_each_claim_commits(stop_at(scene, 2))
    result = await scene.one_pass(limits=one_by_one())
    assert counts(result)["shared"] == 2
    assert (result.status, result.detail) == (RunStatus.COMPLETED, None)


@sqlite_only
async def test_a_pass_whose_limit_was_spent_on_a_request_that_never_left_is_not_complete(scene: Scene) -> None:
    await scene.add_chats(["a", "b"])
    scene.as_each_claim_commits(freeze_at(scene, 1))
    result = await scene.one_pass(limits=one_by_one(at_most=1))
    assert (counts(result)["unsent"], counts(result)["left"]) == (1, 1)
    assert (result.status, result.detail) == (RunStatus.STOPPED, f"2 chats stay due: {FROZEN}")


@sqlite_only
async def test_one_chat_that_stays_due_is_one(scene: Scene) -> None:
    await scene.add_chat("a")
    scene.as_each_claim_commits(freeze_at(scene, 1, 2, 3))
    result = await scene.one_pass()
    assert (result.status, result.detail) == (RunStatus.STOPPED, f"1 chat stays due: {FROZEN}")


@sqlite_only
async def test_a_chat_whose_request_never_left_is_tried_three_times_seconds_apart(
    scene: Scene, clock: HandClock
) -> None:
    await scene.add_chat("a")
    claims: list[int] = []
    scene.before_each_claim(claims.append)
    scene.as_each_claim_commits(freeze_at(scene, 1, 2, 3, 4))
    await scene.one_pass()
    assert claims == [1, 2, 3]
    assert clock.slept == pytest.approx([5, 5])


@pytest.fixture
async def locked(scene: Scene, database_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """Three chats, and what another program does that holds the row of the second one."""
    await scene.add_chats(["a", "b", "c"])
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("SELECT * FROM chats WHERE id = 'b' FOR UPDATE")
        yield other


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_chat_that_another_worker_let_go_again_is_shared_with_by_the_next_lap(
    scene: Scene, clock: HandClock, locked: psycopg.AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def let_go(seconds: float) -> None:
        await locked.rollback()
        await HandClock.sleep(clock, seconds)

    monkeypatch.setattr(clock, "sleep", let_go)
    result = await scene.one_pass()
    assert sorted(scene.called()) == ["a", "b", "c"]
    assert (result.status, result.detail) == (RunStatus.COMPLETED, None)


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_chat_that_another_worker_holds_stays_due_and_the_pass_says_so(scene: Scene, clock: HandClock) -> None:
    result = await scene.one_pass()
    assert sorted(scene.called()) == ["a", "c"]
    assert (result.status, result.detail) == (
        RunStatus.STOPPED,
        "1 chat stays due: another worker was sharing with them",
    )
    assert clock.slept == pytest.approx([0.2, 0.2])


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_what_another_worker_holds_does_not_matter_to_a_pass_that_met_its_limit(scene: Scene) -> None:
    result = await scene.one_pass(limits=Limits(per_second=0, at_most=2))
    assert sorted(scene.called()) == ["a", "c"]
    assert (result.status, result.detail) == (RunStatus.COMPLETED, None)


@sqlite_only
async def test_that_chats_stay_due_is_said_before_that_no_share_went_through(scene: Scene) -> None:
    await scene.add_chats(["a", "b", "c", "d"])
    scene.account.add_fault(Fault(path="share", status=403, code=2024))
    scene.as_each_claim_commits(freeze_at(scene, 4, 5, 6))  # those of d
    result = await scene.one_pass(limits=one_by_one())
    assert counts(result)["rejected"] == 3
    assert result.detail == f"1 chat stays due: {FROZEN}"


@sqlite_only
async def test_that_it_was_told_to_stop_is_said_before_why_chats_stay_due(scene: Scene) -> None:
    await scene.add_chats(["a", "b", "c"])
    scene.as_each_claim_commits(freeze_at(scene, 1))
    scene.as_each_claim_commits(stop_at(scene, 2))
    result = await scene.one_pass(limits=one_by_one())
    assert (result.status, result.detail) == (RunStatus.STOPPED, "it was told to stop")


@sqlite_only
async def test_a_chat_that_became_due_behind_the_walk_makes_no_stopped_pass(scene: Scene) -> None:
    """The next pass takes it; nothing went wrong."""
    await scene.add_chat("b")
    scene.account.add_fault(Fault(path="share", delay_seconds=0.1))
    going = asyncio.create_task(scene.one_pass())
    await until(lambda: scene.called() == ["b"])
    await scene.add_chat("a")
    result = await going
    assert (counts(result)["shared"], counts(result)["left"]) == (1, 1)
    assert (result.status, result.detail) == (RunStatus.COMPLETED, None)


@sqlite_only
async def test_chats_are_counted_as_they_stood_when_the_pass_last_looked(scene: Scene) -> None:
    """Chat a is due half a minute after the pass began, and half a minute before it ended."""
    await scene.add_chats(["a", "b"])
    hours_before = scene.clock.now() - timedelta(hours=12)
    await Past(scene.engine, UTC).attempt("a", hours_before + timedelta(seconds=30))
    scene.as_each_claim_commits(lambda _: scene.clock.move(seconds=59))
    result = await scene.one_pass(rules=Rules(min_hours=12))
    assert scene.called() == ["b"]
    assert (counts(result)["left"], counts(result)["skipped"]) == (1, {})
