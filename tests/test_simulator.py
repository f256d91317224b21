"""The simulator misbehaves exactly as it is asked to, and its share log tells what really happened."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest

from worker.simulator.account import SIMULATED_KEY, Account, ApiError, ShareCall
from worker.simulator.chats import Chat
from worker.simulator.faults import Fault, fault_from_json
from worker.simulator.population import populate
from worker.simulator.server import Simulator, serving

LINE: Final = "+14155550100"
OTHER_LINE: Final = "+14155550101"
NOON: Final = datetime(2026, 3, 2, 12, tzinfo=UTC)
KEY: Final = {"Authorization": f"Bearer {SIMULATED_KEY}"}
SHARE: Final = "/v3/chats/chat/share_contact_card"
FOREVER: Final = 600.0
"""Seconds that no test waits: an answer held back for so long ends by somebody hanging up."""


class StoppedClock:
    """Tells the time it was last set to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def account(clock: StoppedClock) -> Account:
    """Two lines with an active card and a chat to share in on each."""
    account = Account(clock=clock)
    for line, chat_id in ((LINE, "chat"), (OTHER_LINE, "other")):
        account.put_card(line)
        account.put_chat(Chat(id=chat_id, from_number=line, last_outbound_at=NOON - timedelta(hours=1)))
    return account


@pytest.fixture
async def base_url(account: Account) -> AsyncIterator[str]:
    async with serving(account) as url:
        yield url


@pytest.fixture
async def http(base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=base_url, headers=KEY, timeout=5) as client:
        yield client


def only_call(account: Account, chat_id: str = "chat") -> ShareCall:
    [call] = account.calls_of(chat_id)
    return call


async def raw_share(base_url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which the share request was written, and nothing read yet."""
    address = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"POST {SHARE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SIMULATED_KEY}\r\n\r\n".encode())
    await writer.drain()
    return reader, writer


async def logged(account: Account, count: int) -> None:
    """Return as soon as so many shares have arrived."""
    async with asyncio.timeout(5):
        while len(account.share_calls) < count:  # noqa: ASYNC110 - the log has no event to wait for
            await asyncio.sleep(0.001)


# What the SDK cannot send


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v3"),
        ("GET", "/v3/chats/chat/messages/1"),
        ("POST", "/v3/chats/chat/share_contact_card/"),
        ("GET", SHARE),
        ("DELETE", "/v3/contact_card"),
        ("POST", "/api/partner/v3/contact_card"),
    ],
)
async def test_an_unknown_endpoint_is_refused_in_the_error_envelope(
    http: httpx.AsyncClient, account: Account, method: str, path: str
) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == 404
    assert answer.json()["success"] is False
    assert answer.json()["trace_id"]
    assert account.share_calls == []
    stranger = await http.request(method, path, headers={"Authorization": "Bearer wrong"})
    assert stranger.json()["error"]["code"] == 2004


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer x", f"Basic {SIMULATED_KEY}", SIMULATED_KEY])
async def test_a_share_without_the_key_is_refused_and_logged(
    http: httpx.AsyncClient, account: Account, authorization: str
) -> None:
    answer = await http.post(SHARE, headers={"Authorization": authorization})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, 2004)
    assert (only_call(account).status, only_call(account).took_effect) == (401, False)


async def test_a_plus_that_is_not_encoded_makes_another_number(http: httpx.AsyncClient) -> None:
    assert (await http.get(f"/v3/contact_card?phone_number={LINE}")).json()["error"]["code"] == 1002
    assert (await http.get(f"/v3/contact_card?phone_number=%2B{LINE[1:]}")).status_code == 200
    assert (await http.get("/v3/contact_card?phone_number=")).json()["error"]["code"] == 1002
    assert (await http.get("/v3/chats?cursor=")).json()["error"]["code"] == 1005


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", 1003),
        ("[]", 1003),
        ('{"first_name": ', 1003),
        ('{"first_name": "Acme"}', 1002),
        ('{"phone_number": "+14155550102"}', 1005),
        ('{"phone_number": "+14155550102", "first_name": 7}', 1005),
        ('{"phone_number": "+14155550102", "first_name": "Acme", "last_name": []}', 1005),
    ],
)
async def test_a_card_that_is_not_described_properly_is_not_created(
    http: httpx.AsyncClient, account: Account, body: str, code: int
) -> None:
    answer = await http.post("/v3/contact_card", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert set(account.cards) == {LINE, OTHER_LINE}


async def test_answers_on_one_connection_come_without_delay(http: httpx.AsyncClient, account: Account) -> None:
    began = time.monotonic()
    for _ in range(50):
        await http.get("/v3/phone_numbers")
    assert time.monotonic() - began < 1, "with Nagle's algorithm on, it takes 40 ms an answer"
    assert account.requests["list_phone_numbers"] == 50


async def test_shares_at_the_same_time_are_each_logged_once(http: httpx.AsyncClient, account: Account) -> None:
    populate(account, chats=100)
    paths = [f"/v3/chats/{chat_id}/share_contact_card" for chat_id in account.chats]
    answers = await asyncio.gather(*(http.post(path) for path in paths))
    assert sorted(call.chat_id for call in account.share_calls) == sorted(account.chats)
    assert sum(answer.is_success for answer in answers) == sum(call.status == 202 for call in account.share_calls)
    assert account.repeated_calls() == {}


# Lost answers


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("drop", ["before", "after"])
async def test_a_dropped_share_is_logged_without_status_and_with_the_effect_it_had(
    http: httpx.AsyncClient, account: Account, caplog: pytest.LogCaptureFixture, drop: str, reset: bool
) -> None:
    account.add_fault(fault_from_json({"path": "share", "drop": drop, "reset": reset}))
    with pytest.raises(httpx.ReadError if reset else httpx.RemoteProtocolError):
        await http.post(SHARE)
    assert only_call(account) == ShareCall("chat", NOON, status=None, took_effect=drop == "after")
    account.clear_faults()
    assert (await http.get("/v3/phone_numbers")).status_code == 200
    assert [record.message for record in caplog.records if record.name.startswith("uvicorn")] == []


async def test_a_reset_connection_ends_in_a_tcp_reset_and_a_dropped_one_in_order(
    base_url: str, account: Account
) -> None:
    account.add_fault(Fault("share", drop="before", times=1))
    account.add_fault(Fault("share", drop="before", reset=True))
    reader, writer = await raw_share(base_url)
    assert await reader.read() == b""
    writer.close()
    reader, writer = await raw_share(base_url)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_a_client_that_gives_up_waiting_has_called_all_the_same(
    http: httpx.AsyncClient, account: Account
) -> None:
    account.add_fault(Fault("share", chat_id="chat", delay_seconds=FOREVER, takes_effect=True))
    account.add_fault(Fault("share", chat_id="other", delay_seconds=FOREVER))
    for chat_id in ("chat", "other"):
        with pytest.raises(httpx.ReadTimeout):
            await http.post(f"/v3/chats/{chat_id}/share_contact_card", timeout=0.05)
    await http.get("/v3/phone_numbers")  # by its answer, the simulator has seen the others hang up
    assert only_call(account) == ShareCall("chat", NOON, status=None, took_effect=True)
    assert only_call(account, "other") == ShareCall("other", NOON, status=None, took_effect=False)


async def test_a_share_is_in_the_log_while_its_answer_is_held_back(base_url: str, account: Account) -> None:
    account.add_fault(Fault("share", delay_seconds=FOREVER))
    _, writer = await raw_share(base_url)
    await logged(account, 1)
    assert only_call(account).status is None
    writer.close()


async def test_a_late_answer_is_the_usual_one(http: httpx.AsyncClient, account: Account) -> None:
    account.add_fault(Fault("share", delay_seconds=0.02))
    began = time.monotonic()
    assert (await http.post(SHARE)).status_code == 202
    assert time.monotonic() - began >= 0.02
    assert only_call(account) == ShareCall("chat", NOON, status=202, took_effect=True)


async def test_an_error_can_hide_a_share_that_happened(http: httpx.AsyncClient, account: Account) -> None:
    account.add_fault(Fault("share", status=504, times=1))
    account.add_fault(Fault("share", status=504, takes_effect=True))
    assert (await http.post(SHARE)).status_code == 504
    assert (await http.post(SHARE)).status_code == 504
    assert [(call.status, call.took_effect) for call in account.calls_of("chat")] == [(504, False), (504, True)]
    account.clear_faults()
    assert (await http.post(SHARE)).json()["error"]["code"] == 1007, "the hidden share started the five minutes"


async def test_a_share_that_the_rules_refuse_has_no_effect_whatever_the_fault_says(
    http: httpx.AsyncClient, account: Account
) -> None:
    account.deactivate_card(LINE)
    account.add_fault(Fault("share", status=500, takes_effect=True))
    assert (await http.post(SHARE)).status_code == 500
    assert not only_call(account).took_effect


# Answers that no API should give


async def test_a_proxys_html_replaces_the_answer(http: httpx.AsyncClient, account: Account) -> None:
    page = "<html><body>502 Bad Gateway</body></html>"
    account.add_fault(Fault("share", status=502, body=page, content_type="text/html", retry_after=1.2))
    answer = await http.post(SHARE)
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (502, page, "text/html")
    assert answer.headers["retry-after"] == "2"
    assert only_call(account) == ShareCall("chat", NOON, status=502, took_effect=False, trace_id=None)


async def test_half_a_json_document_and_nothing_at_all_are_sent_as_they_are(
    http: httpx.AsyncClient, account: Account
) -> None:
    account.add_fault(Fault("list_cards", body='{"contact_cards": [{"pho', times=1))
    account.add_fault(Fault("list_cards", body=b"\xff", times=1))
    account.add_fault(Fault("*", body=""))
    answers = [await http.get("/v3/contact_card") for _ in range(3)]
    assert [answer.content for answer in answers] == [b'{"contact_cards": [{"pho', b"\xff", b""]
    assert {answer.status_code for answer in answers} == {200}
    assert (await http.post(SHARE)).content == b""
    assert only_call(account) == ShareCall("chat", NOON, status=202, took_effect=True)


async def test_any_2xx_can_be_the_success_of_a_share(http: httpx.AsyncClient, account: Account) -> None:
    account.add_fault(Fault("share", status=204))
    answer = await http.post(SHARE)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers
    assert only_call(account).took_effect


async def test_an_error_comes_with_code_message_and_wait_as_asked(http: httpx.AsyncClient, account: Account) -> None:
    account.add_fault(Fault("share", status=429, code=1007, message="Slow down", retry_after=2.5))
    answer = await http.post(SHARE)
    assert answer.headers["retry-after"] == "3"
    error = answer.json()["error"]
    assert (error["status"], error["code"], error["message"], error["retry_after"]) == (429, 1007, "Slow down", 3)
    assert only_call(account).trace_id == answer.json()["trace_id"]


async def test_a_redirect_leads_elsewhere_and_has_no_effect(http: httpx.AsyncClient, account: Account) -> None:
    account.add_fault(Fault("share", redirect_to="http://127.0.0.1:9/elsewhere"))
    answer = await http.post(SHARE)
    assert (answer.status_code, answer.headers["location"]) == (307, "http://127.0.0.1:9/elsewhere")
    assert only_call(account) == ShareCall("chat", NOON, status=307, took_effect=False)


async def test_a_body_cut_short_announces_more_than_it_sends(base_url: str, account: Account) -> None:
    account.add_fault(Fault("share", cut_short=True))
    reader, writer = await raw_share(base_url)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert f"content-length: {len(body) + 1}".encode() in head
    assert body == b'{"success": true}'
    async with httpx.AsyncClient(base_url=base_url, headers=KEY) as http:
        account.add_fault(Fault("list_chats", cut_short=True))
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
            await http.get("/v3/chats")


async def test_a_trickled_body_arrives_byte_by_byte_after_its_head(base_url: str, account: Account) -> None:
    account.add_fault(Fault("share", trickle_seconds=0.001, times=1))
    account.add_fault(Fault("share", trickle_seconds=FOREVER))
    async with httpx.AsyncClient(base_url=base_url, headers=KEY) as http:
        async with http.stream("POST", SHARE) as answer:
            pieces = [piece async for piece in answer.aiter_raw()]
        assert b"".join(pieces) == b'{"success": true}'
        assert len(pieces) > 1
    reader, writer = await raw_share(base_url)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 429 ")
    assert account.share_calls[-1].status == 429
    writer.close()


# Which requests a fault strikes


async def test_a_fault_strikes_after_some_requests_and_so_many_times(http: httpx.AsyncClient, account: Account) -> None:
    account.add_fault(Fault("list_phone_numbers", status=500, after=2, times=3))
    statuses = [(await http.get("/v3/phone_numbers")).status_code for _ in range(7)]
    assert statuses == [200, 200, 500, 500, 500, 200, 200]


async def test_a_fault_strikes_its_operation_chat_and_line_only(http: httpx.AsyncClient, account: Account) -> None:
    account.add_fault(Fault("share", chat_id="chat", status=500))
    account.add_fault(Fault("*", line=OTHER_LINE, status=502))

    async def status(method: str, path: str, **params: str) -> int:
        body = {"phone_number": OTHER_LINE, "first_name": "Acme"} if method == "POST" else None
        return (await http.request(method, path, params=params, json=body)).status_code

    assert await status("POST", SHARE) == 500
    assert await status("GET", "/v3/chats/chat") == 200
    assert await status("POST", "/v3/chats/other/share_contact_card") == 502
    assert await status("GET", "/v3/chats/other/messages") == 502
    assert await status("GET", "/v3/chats", **{"from": OTHER_LINE}) == 502
    assert await status("GET", "/v3/chats") == 200
    assert await status("GET", "/v3/contact_card", phone_number=OTHER_LINE) == 502
    assert await status("GET", "/v3/contact_card", phone_number=LINE) == 200
    assert await status("POST", "/v3/contact_card") == 502


async def test_of_several_faults_the_first_placed_strikes(http: httpx.AsyncClient, account: Account) -> None:
    first = account.add_fault(Fault("*", status=501))
    account.add_fault(Fault("list_chats", status=502))
    assert (await http.get("/v3/chats")).status_code == 501
    account.remove_fault(first)
    assert (await http.get("/v3/chats")).status_code == 502
    account.clear_faults()
    assert (await http.get("/v3/chats")).status_code == 200


def test_a_fault_with_a_probability_strikes_the_same_requests_for_the_same_seed() -> None:
    def struck(seed: int) -> list[bool]:
        account = Account(seed=seed)
        account.add_fault(Fault("share", status=500, probability=0.3))
        return [account.faults.strike("share", chat_id="chat", line=None) is not None for _ in range(1000)]

    assert struck(1) == struck(1)
    assert struck(1) != struck(2)
    assert 250 < sum(struck(1)) < 350


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ({"path": "shares", "status": 500}, "path: 'shares'"),
        ({"status": 500}, "path: missing"),
        ({"path": "share"}, "nothing would happen"),
        ({"path": "share", "times": 3}, "nothing would happen"),
        ({"path": "share", "status": 99}, "status: 99"),
        ({"path": "share", "status": True}, "status: must be a whole number, not True"),
        ({"path": "share", "status": "500"}, "status: must be a whole number, not '500'"),
        ({"path": "share", "status": 500, "times": 0}, "times: 0"),
        ({"path": "share", "status": 500, "after": -1}, "after: -1"),
        ({"path": "share", "status": 500, "probability": 0}, "probability: 0"),
        ({"path": "share", "status": 500, "probability": 1.5}, "probability: 1.5"),
        ({"path": "share", "status": 200, "code": 2012}, "code: a status of 400 or more"),
        ({"path": "share", "delay_seconds": -1}, "delay_seconds"),
        ({"path": "share", "delay_seconds": float("nan")}, "delay_seconds"),
        ({"path": "share", "drop": "later"}, "drop: 'later'"),
        ({"path": "share", "drop": "after", "status": 500}, "drop: a dropped request has no answer"),
        ({"path": "share", "drop": "before", "takes_effect": True}, "drop: 'before' says"),
        ({"path": "share", "status": 500, "reset": True}, "reset: goes with drop only"),
        ({"path": "share", "body": "x", "content_type": "a\r\nb"}, "content_type"),
        ({"path": "share", "redirect_to": "elsewhere"}, "redirect_to: 'elsewhere'"),
        ({"path": "share", "redirect_to": "http://x/", "status": 200}, "redirect_to: needs a status"),
        ({"path": "share", "status": 500, "colour": "red"}, "'colour' is no part of a fault"),
        ([], "a fault is a JSON object"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_in_one_line(parts: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        fault_from_json(parts)
    assert "\n" not in str(caught.value)


# The control endpoints


async def test_faults_are_placed_listed_and_removed_over_http_without_a_key(base_url: str) -> None:
    async with httpx.AsyncClient(base_url=base_url) as http:
        placed = await http.post("/_simulator/faults", json={"path": "share", "status": 503, "chat_id": "chat"})
        assert (placed.status_code, placed.json()) == (201, {"id": 1})
        await http.post("/_simulator/faults", json={"path": "*", "drop": "after", "times": None})
        assert (await http.post(SHARE, headers=KEY)).status_code == 503
        assert (await http.get("/_simulator/faults")).json() == {
            "faults": [
                {"id": 1, "struck": 1, "path": "share", "status": 503, "chat_id": "chat", "probability": 1.0},
                {"id": 2, "struck": 0, "path": "*", "drop": "after", "probability": 1.0},
            ]
        }
        left = await http.delete("/_simulator/faults", params={"id": 1})
        assert [fault["id"] for fault in left.json()["faults"]] == [2]
        assert (await http.delete("/_simulator/faults", params={"id": 1})).status_code == 404
        assert (await http.delete("/_simulator/faults", params={"id": "x"})).status_code == 404
        assert (await http.delete("/_simulator/faults")).json() == {"faults": []}


async def test_a_card_is_made_inactive_and_active_again_by_another_process(
    http: httpx.AsyncClient, account: Account
) -> None:
    told = {"phone_number": LINE, "is_active": False}
    assert (await http.post("/_simulator/cards", json=told)).json() == told
    assert (await http.post(SHARE)).json()["error"]["code"] == 2012
    assert (await http.post("/_simulator/cards", json=told | {"is_active": True})).status_code == 200
    assert (await http.post(SHARE)).status_code == 202


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({"phone_number": "+15550100099", "is_active": True}, 404),
        ({"phone_number": LINE, "is_active": "no"}, 400),
        ({"phone_number": LINE, "is_active": 1}, 400),
        ({"phone_number": LINE}, 400),
        ([], 400),
    ],
)
async def test_a_card_that_is_not_there_or_not_described_is_left_alone(
    http: httpx.AsyncClient, account: Account, told: object, status: int
) -> None:
    before = dict(account.cards)
    answer = await http.post("/_simulator/cards", json=told)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert account.cards == before


@pytest.mark.parametrize(
    ("path", "change", "code"),
    [
        ("lines", {"phone_number": LINE, "is_refused": True}, 2027),
        ("chats", {"id": "chat", "is_available": False}, 2013),
        ("chats", {"id": "chat", "is_blocked": True}, 2026),
        ("chats", {"id": "chat", "shared_elsewhere": True}, 1007),
    ],
)
async def test_another_process_makes_linq_refuse_a_line_or_a_chat(
    http: httpx.AsyncClient, path: str, change: dict[str, object], code: int
) -> None:
    assert (await http.post(f"/_simulator/{path}", json=change)).status_code == 200
    assert (await http.post(SHARE)).json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("path", "change", "complaint"),
    [
        ("lines", {"phone_number": LINE, "reputation": "BAD"}, 'one of ["HEALTHY", "AT_RISK", "CRITICAL"], not "BAD"'),
        ("lines", {"phone_number": LINE, "color": "red"}, "line_type, reputation, is_refused, not color"),
        ("lines", {"phone_number": "+15550100099", "is_refused": True}, "there is no line '+15550100099'"),
        ("chats", {"id": "nobody", "is_blocked": True}, "there is no chat 'nobody'"),
        ("chats", {"id": "chat", "shared_elsewhere": False}, "must be one of [true], not false"),
    ],
)
async def test_a_change_that_makes_no_sense_is_refused_in_one_line(
    http: httpx.AsyncClient, path: str, change: dict[str, object], complaint: str
) -> None:
    answer = await http.post(f"/_simulator/{path}", json=change)
    assert answer.status_code in (400, 404)
    assert complaint in answer.json()["error"]
    assert (await http.post(SHARE)).status_code == 202


@pytest.mark.parametrize("body", ["", "{", '{"path": "share"}', '{"path": "share", "status": "x"}', "[1]", "\xff"])
async def test_bad_fault_json_is_refused_with_one_line(http: httpx.AsyncClient, account: Account, body: str) -> None:
    answer = await http.post("/_simulator/faults", content=body.encode("latin-1"))
    assert answer.status_code == 400
    assert "\n" not in answer.json()["error"]
    assert len(account.faults) == 0


async def test_the_share_log_is_read_over_http_with_its_totals(
    http: httpx.AsyncClient, account: Account, clock: StoppedClock
) -> None:
    clock.now = datetime(2026, 3, 2, 23, 50, tzinfo=UTC)
    await http.post(SHARE)
    await http.post("/v3/chats/other/share_contact_card")
    clock.now += timedelta(minutes=5)
    await http.post(SHARE)
    clock.now += timedelta(minutes=6)
    await http.post("/v3/chats/other/share_contact_card")
    shares = (await http.get("/_simulator/shares")).json()
    assert {name: shares[name] for name in ("calls", "took_effect", "chats")} == {
        "calls": 4,
        "took_effect": 4,
        "chats": 2,
    }
    assert shares["repeated_in_a_utc_day"] == [{"chat_id": "chat", "day": "2026-03-02", "calls": 2}]
    assert shares["log"][0] == {
        "chat_id": "chat",
        "at": "2026-03-02T23:50:00Z",
        "status": 202,
        "took_effect": True,
        "trace_id": None,
    }
    of_one = (await http.get("/_simulator/shares", params={"chat_id": "other"})).json()["log"]
    assert [call["at"] for call in of_one] == ["2026-03-02T23:50:00Z", "2026-03-03T00:01:00Z"]


async def test_the_state_counts_what_the_account_holds_and_was_asked(http: httpx.AsyncClient, account: Account) -> None:
    account.deactivate_card(OTHER_LINE)
    await http.get("/v3/contact_card")
    await http.get("/v3/contact_card")
    await http.post(SHARE)
    await http.get("/v4")
    state = (await http.get("/_simulator/state")).json()
    assert state["shares"]["calls"] == 1
    assert {name: state[name] for name in ("lines", "cards", "active_cards", "chats", "faults", "requests")} == {
        "lines": 2,
        "cards": 2,
        "active_cards": 1,
        "chats": 2,
        "faults": 0,
        "requests": {"list_cards": 2, "share": 1, "unknown": 1},
    }


async def test_a_reset_forgets_the_calls_and_keeps_the_chats(http: httpx.AsyncClient, account: Account) -> None:
    account.add_fault(Fault("share", chat_id="other", delay_seconds=0.03))
    under_way = asyncio.create_task(http.post("/v3/chats/other/share_contact_card"))
    await logged(account, 1)
    await http.post(SHARE)
    assert (await http.post("/_simulator/reset")).json() == {"reset": True}
    assert (account.share_calls, account.requests, len(account.faults)) == ([], {}, 0)
    assert len(account.chats) == 2
    assert (await http.post(SHARE)).status_code == 202, "the five minutes were forgotten too"
    assert (await under_way).status_code == 202
    assert [call.chat_id for call in account.share_calls] == ["chat"], "a call from before is not in the new log"


# Serving


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.com", ""])  # noqa: S104 - refused
async def test_only_loopback_is_served(account: Account, host: str) -> None:
    with pytest.raises(ValueError, match="no loopback address"):
        async with serving(account, host=host):
            pass


async def test_a_port_that_is_taken_is_named_in_the_error(account: Account, base_url: str) -> None:
    port = urlsplit(base_url).port
    assert port is not None
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
        async with serving(account, port=port):
            pass
    with pytest.raises(ValueError, match="port: 65536"):
        async with serving(account, port=65536):
            pass


async def test_it_closes_at_once_and_leaves_nothing_behind(account: Account) -> None:
    before = asyncio.all_tasks()
    account.add_fault(Fault("share", delay_seconds=FOREVER, takes_effect=True))
    began = time.monotonic()
    async with serving(account) as url:
        async with httpx.AsyncClient(base_url=url, headers=KEY) as http:
            await http.get("/v3/phone_numbers")
        waiting = [await raw_share(url) for _ in range(3)]
        await logged(account, 3)
    assert time.monotonic() - began < 0.5
    for reader, writer in waiting:
        assert await reader.read() == b"", "the connection was closed without an answer"
        writer.close()
    assert asyncio.all_tasks() == before
    port = urlsplit(url).port
    assert port is not None
    async with serving(account, port=port) as again:
        assert again == url
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_localhost_and_ipv6_loopback_are_served_too(account: Account) -> None:
    for host in ("localhost", "::1"):
        async with serving(account, host=host) as url, httpx.AsyncClient(base_url=url, headers=KEY) as http:
            assert (await http.get("/v3/phone_numbers")).status_code == 200


async def test_without_its_server_a_drop_is_refused_rather_than_answered(account: Account) -> None:
    account.add_fault(Fault("share", drop="after"))
    transport = httpx.ASGITransport(Simulator(account))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=KEY) as http:
        with pytest.raises(RuntimeError, match="only under serving"):
            await http.post(SHARE)


def test_the_key_is_not_in_the_accounts_repr() -> None:
    assert "hidden" not in repr(Account(api_key="hidden"))


# The population


def test_twenty_chats_are_enough_for_every_kind(clock: StoppedClock) -> None:
    account = Account(clock=clock)
    populate(account, chats=20)
    chats = list(account.chats.values())
    assert len(chats) == 20
    assert {chat.service for chat in chats} == {"iMessage", "SMS", "RCS", None}
    assert any(chat.last_outbound_at is None for chat in chats)
    assert any(chat.is_group and len(chat.recipients) > 1 for chat in chats)
    assert any(chat.health_status == "OPTED_OUT" for chat in chats)
    assert any(chat.last_outbound_at and chat.last_outbound_at < NOON - timedelta(days=30) for chat in chats)
    cards = {chat.from_number: account.cards.get(chat.from_number) for chat in chats}
    assert {card and account.is_active(card) for card in cards.values()} == {True, False, None}


def test_most_chats_of_a_large_population_can_be_shared_in(clock: StoppedClock) -> None:
    account = Account(clock=clock)
    populate(account, chats=5000)
    for chat_id in account.chats:
        with suppress(ApiError):
            account.share(account.log_share(chat_id))
    assert 0.75 < sum(call.took_effect for call in account.share_calls) / 5000 < 0.9
    assert all(chat.updated_at < NOON for chat in account.chats.values())
    assert len(account.lines) > 3


def test_the_same_seed_and_time_give_the_same_population(clock: StoppedClock) -> None:
    def population(seed: int) -> dict[str, Chat]:
        account = Account(clock=clock)
        populate(account, chats=50, seed=seed)
        return account.chats

    assert population(1) == population(1)
    assert population(1).keys() != population(2).keys()


@pytest.mark.parametrize(("chats", "lines"), [(-1, None), (10, 2), (10, 101)])
def test_an_impossible_population_is_refused(chats: int, lines: int | None) -> None:
    with pytest.raises(ValueError, match=r"chats|lines"):
        populate(Account(), chats=chats, lines=lines)


def test_a_chat_cannot_move_to_another_line(account: Account) -> None:
    with pytest.raises(ValueError, match="cannot move"):
        account.put_chat(Chat(id="chat", from_number=OTHER_LINE))
