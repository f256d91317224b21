"""Each fault of the network, at the cards call and at the heartbeat, over real sockets: what a pass makes of it."""

import asyncio
import json
import ssl
from datetime import UTC, datetime

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from tests.databases import sqlite_only
from tests.raw_server import (
    Script,
    Visit,
    answer,
    breaks_off,
    envelope,
    floods,
    keep_alive,
    raw_server,
    reset_unread,
    reset_when_read,
)
from tests.scene import LINE, Scene
from worker import db
from worker.db.tables import contact_cards, runs
from worker.linq.client import READ_TRIES
from worker.notifications import heartbeat
from worker.notifications.heartbeat import Heartbeat
from worker.outcomes import PassResult, RunStatus, Trigger
from worker.simulator.faults import Fault

CARDS = {"contact_cards": [{"phone_number": LINE, "first_name": "Acme", "is_active": True}]}


def says(told: bytes) -> Script:
    """A server that gives one answer to everything."""

    async def script(visit: Visit) -> None:
        while True:
            await visit.request()
            visit.send(told)

    return script


async def trickles(visit: Visit) -> None:
    """A head at once, and a body that does not end in time."""
    await visit.request()
    whole = answer(200, CARDS)
    head, _, body = whole.partition(b"\r\n\r\n")
    visit.send(head + b"\r\n\r\n")
    await visit.trickle(body)


async def no_pass_without_cards(scene: Scene, word: str, seconds: float = 5) -> PassResult:
    """A pass that fails before it claims, says why, writes nothing down but that, and calls nobody."""
    await scene.add_chat("chat")
    result = await scene.one_pass(seconds=seconds)
    assert result.status is RunStatus.FAILED
    assert result.detail is not None
    assert result.detail.startswith("the contact cards could not be read: ")
    assert word in result.detail
    assert result.detail.isprintable()
    assert await scene.attempts() == []
    async with db.read(scene.engine) as connection:
        row = (await connection.execute(select(runs))).one()
        cards = (await connection.execute(select(contact_cards))).all()
    assert (row.status, row.detail, row.tally, cards) == ("failed", result.detail, None, [])
    return result


# The cards call


@sqlite_only
@pytest.mark.parametrize(
    ("script", "word", "tries"),
    [
        (reset_unread, "ReadError", READ_TRIES),
        (reset_when_read, "ReadError", READ_TRIES),
        (Visit.until_closed, "no answer within 0.6 s", READ_TRIES),
        (trickles, "Linq's answer broke off", READ_TRIES),
        (breaks_off(b""), "RemoteProtocolError", READ_TRIES),
        (breaks_off(answer(200, CARDS)[:-9]), "Linq's answer broke off", READ_TRIES),
        (breaks_off(answer(200, CARDS).replace(b"Length: ", b"Length: 9")), "Linq's answer broke off", READ_TRIES),
        (says(answer(200, json.dumps(CARDS).encode()[:-3])), "is not a JSON object but", READ_TRIES),
        (says(answer(200, b"<html>Welcome</html>")), "is not a JSON object but '<html>", READ_TRIES),
        (says(answer(200, {"contact_cards": None})), "holds no list 'contact_cards'", 1),
        (says(answer(502, b"<h1>Bad gateway</h1>")), "502: Reason, with '<h1>Bad gateway", READ_TRIES),
        (says(answer(500, envelope(500, 3006))), "500/3006: What Linq says (trace trace-1)", READ_TRIES),
        (says(answer(503, envelope(503, 4004))), "503/4004", READ_TRIES),
        (says(answer(400, envelope(400, 1002))), "400/1002", 1),
        (says(answer(401, envelope(401, 2004))), "401/2004", 1),
        (says(answer(403, envelope(403, 2005))), "403/2005", 1),
        (says(answer(404, envelope(404, 2001))), "404/2001", 1),
        (says(answer(409, envelope(409, 2014))), "409/2014", 1),
        (says(answer(418, b"teapot")), "418", 1),
        (says(answer(429, envelope(429, 1007), Retry_After="20")), "429/1007", READ_TRIES),
        (says(answer(429, envelope(429, 1007), Retry_After="3600")), "429/1007", 1),
        (says(answer(302, b"", Location="http://127.0.0.1:9/")), "302", READ_TRIES),
    ],
)
async def test_without_an_answer_to_the_cards_call_nobody_is_called(
    scene: Scene, script: Script, word: str, tries: int
) -> None:
    async with raw_server(script) as server:
        scene.base_url = server.base_url
        slow = script in {Visit.until_closed, trickles}
        await no_pass_without_cards(scene, word, seconds=0.6 if slow else 5)
    assert len(server.requests) == tries or script is Visit.until_closed or script is reset_unread
    assert scene.called() == []


@sqlite_only
async def test_a_refused_connection_to_the_cards_is_said(scene: Scene, refusing_port: int) -> None:
    scene.base_url = f"http://127.0.0.1:{refusing_port}"
    await no_pass_without_cards(scene, "ConnectError")


@sqlite_only
async def test_a_server_with_a_certificate_that_nobody_vouches_for_is_told_nothing(
    scene: Scene, self_signed: ssl.SSLContext
) -> None:
    async with raw_server(keep_alive, self_signed) as server:
        scene.base_url = server.base_url
        await no_pass_without_cards(scene, "CERTIFICATE_VERIFY_FAILED")
    assert server.visits == []


@sqlite_only
async def test_more_cards_than_a_statement_holds_are_stored_and_forgotten_again(scene: Scene) -> None:
    """SQLite takes some thirty thousand values in a statement."""
    await scene.add_chat("chat")
    many = [{"phone_number": f"+1{number:010}", "is_active": True} for number in range(33_000)]
    fault = scene.account.add_fault(Fault(path="list_cards", status=200, body=json.dumps({"contact_cards": many})))
    assert (await scene.one_pass()).status is RunStatus.COMPLETED
    scene.account.remove_fault(fault)
    assert (await scene.one_pass()).status is RunStatus.COMPLETED
    async with db.read(scene.engine) as connection:
        assert list((await connection.execute(select(contact_cards.c.phone_number))).scalars()) == [LINE]
    assert scene.called() == ["chat"]


async def test_a_card_whose_number_can_be_none_is_left_out(scene: Scene) -> None:
    await scene.add_chat("chat")
    odd = [{"phone_number": "+" + "1" * 10_000, "is_active": True}, *CARDS["contact_cards"]]
    scene.account.add_fault(Fault(path="list_cards", status=200, body=json.dumps({"contact_cards": odd})))
    assert (await scene.one_pass()).status is RunStatus.COMPLETED
    assert scene.called() == ["chat"]


# The heartbeat: whatever the watchdog does, it is one line at the most


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (reset_unread, "ReadError"),
        (reset_when_read, "ReadError"),
        (Visit.until_closed, "TimeoutError"),
        (breaks_off(b""), "RemoteProtocolError"),
        (breaks_off(b"HTTP/1.1 2"), "RemoteProtocolError"),
        (says(answer(404, b"<html>")), "it answered 404"),
        (says(answer(500, envelope(500, 1))), "it answered 500"),
        (says(answer(302, b"", Location="http://127.0.0.1:9/")), "it answered 302"),
        (says(answer(200, b"<html>OK</html>")), None),
        (says(answer(200, b'{"ok": tr')), None),
        (trickles, None),
        (floods, None),
        (breaks_off(answer(200, b"OK").replace(b"Length: 2", b"Length: 99")), None),
    ],
)
async def test_whatever_the_watchdog_does_a_pass_is_made_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, script: Script, reason: str | None
) -> None:
    if script is Visit.until_closed:
        monkeypatch.setattr(heartbeat, "SECONDS", 0.5)
    async with raw_server(script) as server:
        with capture_logs() as logs:
            assert await told(f"{server.base_url}/planted-token") is RESULT
    signals = ["start", "success"]
    assert [line["signal"] for line in logs if line["event"] == "heartbeat.failed"] == (signals if reason else [])
    assert {line["reason"] for line in logs} == ({reason} if reason else set())
    assert "planted" not in str(logs)
    lines = ["POST /planted-token/start HTTP/1.1", "POST /planted-token HTTP/1.1"]
    assert server.requests == lines or script in {reset_unread, Visit.until_closed}  # those leave them unread


async def test_a_watchdog_that_refuses_connections_is_a_line(refusing_port: int) -> None:
    with capture_logs() as logs:
        assert await told(f"http://127.0.0.1:{refusing_port}/planted-token") is RESULT
    assert [line["reason"] for line in logs] == ["ConnectError", "ConnectError"]


async def test_a_watchdog_with_a_certificate_that_nobody_vouches_for_is_told_nothing(
    self_signed: ssl.SSLContext,
) -> None:
    async with raw_server(keep_alive, self_signed) as server:
        with capture_logs() as logs:
            assert await told(f"{server.base_url}/planted-token") is RESULT
    assert [line["reason"] for line in logs] == ["ConnectError", "ConnectError"]
    assert server.visits == []


_WHEN = datetime(2026, 3, 10, tzinfo=UTC)
RESULT = PassResult(
    run_id="run",
    trigger=Trigger.COMMAND,
    share_day=_WHEN.date(),
    started_at=_WHEN,
    finished_at=_WHEN,
    status=RunStatus.COMPLETED,
    detail=None,
    tally=None,
)


async def told(url: str) -> PassResult:
    """A pass of which a watchdog is told."""

    async def make() -> PassResult:
        return RESULT

    async with asyncio.timeout(8):
        return await Heartbeat(url).around(make(), asyncio.Event())
