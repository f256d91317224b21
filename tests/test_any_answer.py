"""Any answer at all from Linq: the parsers raise only LinqError, and a pass ends with complete rows."""

import contextlib
import json
from dataclasses import asdict
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

from tests.examples import bounded
from tests.scene import LINE, Scene
from worker import db
from worker.account import Card, Line
from worker.db.tables import chats, contact_cards, runs, share_attempts
from worker.linq.answers import (
    Chat,
    Json,
    LinqError,
    Message,
    Subscription,
    read_card,
    read_chat,
    read_json,
    read_line,
    read_list,
    read_message,
    read_subscription,
)
from worker.outcomes import RunStatus
from worker.sharing.limits import Limits
from worker.simulator.faults import Fault

some = bounded(15)

_NAMES = """
    id phone_number first_name is_active handles is_me handle status service is_group health_status created_at sent_at
    is_from_me delivery_status reputation line_type error code message retry_after trace_id
    contact_cards chats messages phone_numbers subscriptions target_url subscribed_events signing_secret
"""
_names = st.sampled_from(sorted(_NAMES.split()))
_times = st.datetimes().map(datetime.isoformat) | st.sampled_from(
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-W11-2", "20260310T0930Z", "24:00"]
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | _times | st.just(LINE),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names | st.text(max_size=3), inner, max_size=6),
    max_leaves=20,
)
_bodies = st.binary(max_size=300) | _json.map(json.dumps).map(str.encode)


@settings(max_examples=300, deadline=None)
@given(body=_bodies)
@example(body=b"[" * 100_000)
@example(body=b'{"chats": [{"id": "c", "handles": [{"is_me": true}], "created_at": "0001-01-01T00:00:00+14:00"}]}')
def test_the_parsers_raise_nothing_but_a_linq_error_and_return_what_a_database_takes(body: bytes) -> None:
    document = read_json(body)
    objects: list[Json] = [document] if isinstance(document, dict) else []
    for name in ("contact_cards", "chats", "messages", "phone_numbers", "subscriptions"):
        if isinstance(document, dict):
            with contextlib.suppress(LinqError):
                objects += read_list(document, name)
    values: list[Card | Chat | Message | Line | Subscription | None] = []
    for item in objects:
        values += [read_card(item), read_chat(item), read_message(item), read_line(item), read_subscription(item)]
    for value in values:
        for part in asdict(value).values() if value is not None else ():
            if isinstance(part, str):
                assert "\0" not in part
                part.encode()
            if isinstance(part, datetime):
                part.astimezone(UTC)


async def start_over(scene: Scene) -> None:
    scene.clock.move(minutes=10)
    scene.account.clear_faults()
    scene.account.share_calls.clear()
    async with db.write(scene.engine) as connection:
        for table in (chats, contact_cards, share_attempts, runs):
            await connection.execute(delete(table))
    for chat_id in ("a", "b", "c"):
        await scene.add_chat(chat_id)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@some
@given(body=_bodies, status=st.sampled_from([200, 200, 200, 201, 400, 404, 429, 500]))
@example(body=json.dumps({"contact_cards": [{"phone_number": LINE, "is_active": True}] * 3}).encode(), status=200)
async def test_any_answer_to_the_cards_call_ends_in_a_pass_that_says_how(
    scene: Scene, body: bytes, status: int
) -> None:
    await start_over(scene)
    scene.account.add_fault(Fault(path="list_cards", status=status, body=body))
    result = await scene.one_pass(limits=Limits(per_second=0))
    assert result.status in {RunStatus.COMPLETED, RunStatus.FAILED}
    async with db.read(scene.engine) as connection:
        (row,) = (await connection.execute(select(runs))).all()
        cards = (await connection.execute(select(contact_cards))).all()
    assert (row.status, row.detail) == (result.status.value, result.detail)
    if result.status is RunStatus.FAILED:
        assert (scene.called(), cards) == ([], [])
    else:
        active = {card.phone_number for card in cards if card.is_active}
        assert sorted(scene.called()) == (["a", "b", "c"] if LINE in active else [])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@some
@given(
    bodies=st.lists(_bodies, min_size=3, max_size=3),
    statuses=st.lists(
        st.sampled_from([200, 202, 204, 300, 304, 400, 401, 403, 404, 409, 429, 500, 503, 599]), min_size=3, max_size=3
    ),
)
async def test_any_answer_to_a_share_is_one_whole_row(scene: Scene, bodies: list[bytes], statuses: list[int]) -> None:
    await start_over(scene)
    for chat_id, body, status in zip("abc", bodies, statuses, strict=True):
        bodiless = status in {204, 304}
        scene.account.add_fault(Fault(path="share", chat_id=chat_id, status=status, body=b"" if bodiless else body))
    result = await scene.one_pass(limits=Limits(per_second=0, concurrency=1))
    called = scene.called()
    assert called[:1] == ["a"]
    assert len(called) == len(set(called))
    assert len(called) == 3 or result.status is not RunStatus.COMPLETED
    attempts = await scene.attempts()
    assert [attempt.chat_id for attempt in attempts] == sorted(called)
    for attempt in attempts:
        status = dict(zip("abc", statuses, strict=True))[attempt.chat_id]
        expected = "shared" if status < 300 else "rejected" if 400 <= status < 500 else "unknown"
        assert (attempt.outcome.value, attempt.http_status) == (expected, status)
        assert attempt.finished_at is not None
        assert (attempt.error_message is None) == (expected == "shared")
        assert (attempt.error_message or "").isprintable()
    assert result.tally is not None
    counted = [result.tally["shared"], result.tally["rejected"], result.tally["unknown"], result.tally["left"]]
    assert sum(counted) + sum(result.tally["skipped"].values()) == 3
