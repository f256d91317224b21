"""The judge of the crash tests sees what it is there to see."""

from collections.abc import AsyncIterator, Iterator
from datetime import date, datetime, timedelta

import httpx
import pytest
from sqlalchemy import insert, update

from tests.conftest import START
from tests.judge import Judge, open_ledger
from worker.db.tables import share_attempts
from worker.simulator.chats import Chat
from worker.simulator.server import serving

LINE = "+15550100001"
CLAIM = {"chat_id": "chat", "share_day": date(2026, 3, 10), "sequence": 0, "run_id": "run", "claimed_at": START}


@pytest.fixture
def judge(database_url: str) -> Iterator[Judge]:
    ledger = open_ledger(database_url)
    judge = Judge(ledger, lambda: START)
    judge.put_card(LINE)
    judge.put_chat(Chat(id="chat", from_number=LINE, last_outbound_at=START))
    yield judge
    ledger.dispose()


@pytest.fixture
async def linq(judge: Judge) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {judge.api_key}"}
    async with serving(judge) as base_url, httpx.AsyncClient(base_url=base_url, headers=headers) as client:
        yield client


async def call(linq: httpx.AsyncClient) -> None:
    await linq.post("/v3/chats/chat/share_contact_card")


def write(judge: Judge, outcome: str, **changes: str | int | date | datetime | None) -> None:
    with judge.ledger.connect() as connection:
        connection.execute(insert(share_attempts).values(**(CLAIM | changes), outcome=outcome))


def become(judge: Judge, outcome: str, status: int | None = None) -> None:
    with judge.ledger.connect() as connection:
        connection.execute(update(share_attempts).values(outcome=outcome, http_status=status))


async def test_a_call_with_a_claim_that_is_recorded_is_in_order(judge: Judge, linq: httpx.AsyncClient) -> None:
    write(judge, "claimed")
    await call(linq)
    become(judge, "shared", 202)
    assert judge.disagreements() == []


ANOTHER_DAY: dict[str, str | int | date | datetime | None] = {
    "share_day": date(2026, 3, 9),
    "run_id": "a day behind",
    "claimed_at": START - timedelta(days=1),
}
"""The claim of a worker whose clock is wrong by more than SHARE_MIN_HOURS, made at the same moment."""


def record(judge: Judge, run_id: str, outcome: str, status: int) -> None:
    with judge.ledger.connect() as connection:
        row = update(share_attempts).where(share_attempts.c.run_id == run_id)
        connection.execute(row.values(outcome=outcome, http_status=status))


@pytest.mark.parametrize("first", ["run", "a day behind"])
@pytest.mark.parametrize("at_once", [True, False], ids=["both open", "one answered"])
async def test_two_claims_that_are_open_at_once_are_told_apart_by_their_answers(
    judge: Judge, linq: httpx.AsyncClient, first: str, at_once: bool
) -> None:
    write(judge, "claimed")
    write(judge, "claimed", **ANOTHER_DAY)
    await call(linq)  # is answered 202, and the second one 429
    if not at_once:
        record(judge, first, "shared", 202)
    await call(linq)
    record(judge, first, "shared", 202)
    record(judge, ({"run", "a day behind"} - {first}).pop(), "rejected", 429)
    assert judge.disagreements() == []


async def test_a_call_beside_a_claim_that_was_never_used_is_still_seen(judge: Judge, linq: httpx.AsyncClient) -> None:
    write(judge, "claimed")
    write(judge, "claimed", **ANOTHER_DAY)
    await call(linq)
    record(judge, "run", "shared", 202)
    record(judge, "a day behind", "unsent", 0)
    await call(linq)
    (found,) = judge.disagreements()
    assert "no claim of its own" in found


async def test_a_call_without_a_claim_is_seen(judge: Judge, linq: httpx.AsyncClient) -> None:
    await call(linq)
    (found,) = judge.disagreements()
    assert "no claim of its own" in found


async def test_a_claim_that_is_not_committed_yet_is_none(judge: Judge, linq: httpx.AsyncClient) -> None:
    other = judge.ledger.execution_options(isolation_level="SERIALIZABLE")
    with other.begin() as connection:
        connection.execute(insert(share_attempts).values(**CLAIM, outcome="claimed"))
        await call(linq)
    (found,) = judge.disagreements()
    assert "no claim of its own" in found


async def test_a_second_call_by_the_same_claim_is_seen(judge: Judge, linq: httpx.AsyncClient) -> None:
    write(judge, "claimed")
    await call(linq)
    await call(linq)
    (found,) = judge.disagreements()
    assert found.startswith("call 2, for chat")


async def test_two_calls_on_one_day_are_seen_though_each_had_a_claim(judge: Judge, linq: httpx.AsyncClient) -> None:
    write(judge, "claimed")
    await call(linq)
    write(judge, "claimed", sequence=1)
    await call(linq)
    assert any("was called 2 times on 2026-03-10" in found for found in judge.disagreements())


async def test_a_rerun_that_an_admin_asked_for_is_no_repetition(judge: Judge, linq: httpx.AsyncClient) -> None:
    write(judge, "claimed")
    await call(linq)
    become(judge, "rejected", 429)
    write(judge, "claimed", sequence=1, requested_by="ada")
    await call(linq)
    assert not any("times on" in found for found in judge.disagreements())


async def test_an_unforced_rerun_after_a_share_is_seen(judge: Judge, linq: httpx.AsyncClient) -> None:
    write(judge, "shared", http_status=202)
    write(judge, "claimed", sequence=1, requested_by="ada")
    await call(linq)
    assert any("called although there is" in found for found in judge.disagreements())


async def test_a_call_by_a_dead_workers_claim_is_seen(judge: Judge, linq: httpx.AsyncClient) -> None:
    write(judge, "claimed")
    judge.bury()
    await call(linq)
    (found,) = judge.disagreements()
    assert "only claims of dead workers" in found


@pytest.mark.parametrize(("outcome", "status"), [("unsent", None), ("rejected", 404), ("shared", 200)])
async def test_a_ledger_that_says_otherwise_than_linq_is_seen(
    judge: Judge, linq: httpx.AsyncClient, outcome: str, status: int | None
) -> None:
    write(judge, "claimed")
    await call(linq)
    become(judge, outcome, status)
    (found,) = judge.disagreements()
    assert "does not agree with" in found


@pytest.mark.parametrize("outcome", ["shared", "rejected"])
async def test_an_answer_that_nobody_asked_for_is_seen(judge: Judge, outcome: str) -> None:
    write(judge, outcome)
    (found,) = judge.disagreements()
    assert "nobody called" in found


async def test_an_unknown_that_was_not_called_is_in_order(judge: Judge) -> None:
    write(judge, "unknown")
    write(judge, "unsent", sequence=1)
    assert judge.disagreements() == []
