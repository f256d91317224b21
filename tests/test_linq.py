"""The client of Linq's API: what it asks for, how it reads what comes back, what it repeats, what it keeps quiet."""

import asyncio
import gzip
import json
import math
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.conftest import START, HandClock
from tests.raw_server import DONE, KEY, PATIENCE, RawServer, Visit, answer, attempt, envelope, keep_alive, raw_server
from worker.account import Card, Line
from worker.errors import UsageError
from worker.linq.answers import (
    AccessRefused,
    CardInactive,
    ChatRefused,
    ErrorCode,
    LineRefused,
    LinqError,
    NeverSent,
    PerhapsDone,
    RateLimited,
    refusal,
)
from worker.linq.client import Linq
from worker.linq.connection import Connection
from worker.simulator.account import Account
from worker.simulator.account import Line as SimulatedLine
from worker.simulator.chats import Chat
from worker.simulator.faults import Fault
from worker.simulator.server import serving

LINE: Final = "+15550100001"
OTHER_LINE: Final = "+15550100002"
INTEGER_COLUMN: Final = 2**31 - 1
"""The largest code that the ledger's column holds on every database."""


@pytest.fixture
def account(clock: HandClock) -> Account:
    """An account with a line, its active card, and a chat that may be shared in."""
    account = Account(clock=clock.now, api_key=KEY)
    account.put_card(LINE, first_name="Acme", last_name="Support", image_url="https://example.com/logo.png")
    account.put_chat(Chat(id="chat", from_number=LINE, last_outbound_at=START - timedelta(hours=1)))
    return account


@pytest.fixture
async def linq(account: Account, clock: HandClock) -> AsyncIterator[Linq]:
    async with serving(account) as base_url, Linq(KEY, base_url=base_url, timeout=PATIENCE, clock=clock) as linq:
        yield linq


@pytest.mark.parametrize(
    ("written", "wrong"),
    [(None, "No such file or directory"), ("no certificate", "it holds no certificates in PEM form")],
)
async def test_certificates_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str | None, wrong: str
) -> None:
    file = tmp_path / "authorities.pem"
    if written is not None:
        file.write_text(written)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(UsageError, match=wrong) as refused:
        Linq(KEY, base_url="https://linq.example")
    assert str(file) in str(refused.value)
    assert KEY not in str(refused.value)


async def test_a_connection_that_has_no_certificates_speaks_no_https() -> None:
    """It would else send the key in the clear."""
    with pytest.raises(httpx.UnsupportedProtocol):
        await Connection(None, idle_seconds=1).open(httpx.URL("https://127.0.0.1:1/"), PATIENCE)


@asynccontextmanager
async def answering(clock: HandClock, *answers: bytes, connections: int = 1) -> AsyncIterator[tuple[Linq, RawServer]]:
    """A client of a server that gives these answers in turn, and the last one from then on."""
    left = list(answers)

    async def script(visit: Visit) -> None:
        while True:
            await visit.request()
            visit.send(left.pop(0) if len(left) > 1 else left[0])

    async with raw_server(script) as server:
        async with Linq(KEY, base_url=server.base_url, timeout=PATIENCE, connections=connections, clock=clock) as linq:
            yield linq, server
        await server.quiet()


async def refused(share: Awaitable[int]) -> LinqError:
    outcome = await attempt(share)
    assert isinstance(outcome, LinqError)
    return outcome


async def share_answered_by(clock: HandClock, reply: bytes) -> LinqError:
    """The error that a share ends in when this is the answer; it was asked for once."""
    async with answering(clock, reply) as (linq, server):
        error = await refused(linq.share("chat"))
    assert len(server.requests) == 1
    return error


# Each endpoint at its best, against the simulator


async def test_a_share_reaches_the_chat_once(linq: Linq, account: Account) -> None:
    assert await linq.share("chat") == 202
    assert [(call.chat_id, call.took_effect) for call in account.share_calls] == [("chat", True)]


async def test_every_card_of_the_account_comes_in_one_call(linq: Linq, account: Account) -> None:
    account.put_card(OTHER_LINE, first_name="Other", is_active=False)
    assert await linq.list_cards() == [
        Card(
            phone_number=LINE,
            first_name="Acme",
            last_name="Support",
            image_url="https://example.com/logo.png",
            is_active=True,
        ),
        Card(phone_number=OTHER_LINE, first_name="Other", last_name=None, image_url=None, is_active=False),
    ]
    assert account.requests == {"list_cards": 1}


async def test_an_account_without_cards_has_an_empty_list(linq: Linq, account: Account) -> None:
    account.remove_card(LINE)
    assert await linq.list_cards() == []


async def test_a_404_2012_to_the_list_of_cards_is_an_empty_list(linq: Linq, account: Account) -> None:
    account.add_fault(Fault(path="list_cards", status=404, code=2012))
    assert await linq.list_cards() == []


async def test_one_lines_card_is_found_active_or_not(linq: Linq, account: Account) -> None:
    account.put_card(OTHER_LINE, first_name="Other", is_active=False)
    found = await linq.find_card(OTHER_LINE)
    assert found == Card(phone_number=OTHER_LINE, first_name="Other", last_name=None, image_url=None, is_active=False)
    account.remove_card(OTHER_LINE)
    assert await linq.find_card(OTHER_LINE) is None


async def test_a_created_card_is_there_and_active(linq: Linq, account: Account) -> None:
    account.put_line(SimulatedLine(OTHER_LINE))
    card = await linq.create_card(
        OTHER_LINE, first_name="Zoë", last_name="O'Hara", image_url="https://example.com/z.png?a=1"
    )
    assert astuple(card) == (OTHER_LINE, "Zoë", "O'Hara", "https://example.com/z.png?a=1", True)
    assert card in await linq.list_cards()


async def test_a_card_is_created_with_a_first_name_only(linq: Linq, account: Account) -> None:
    account.put_line(SimulatedLine(OTHER_LINE))
    card = await linq.create_card(OTHER_LINE, first_name="Solo")
    assert astuple(card) == (OTHER_LINE, "Solo", None, None, True)


async def test_an_update_leaves_what_it_does_not_name(linq: Linq, account: Account) -> None:
    card = await linq.update_card(LINE, last_name="Sales")
    assert astuple(card) == (LINE, "Acme", "Sales", "https://example.com/logo.png", True)


async def test_a_second_card_for_a_line_is_refused(linq: Linq) -> None:
    with pytest.raises(ChatRefused) as caught:
        await linq.create_card(LINE, first_name="Acme")
    assert (caught.value.status, caught.value.code) == (409, 2014)


async def test_a_number_that_is_not_e164_is_refused(linq: Linq) -> None:
    with pytest.raises(ChatRefused) as caught:
        await linq.create_card("0555", first_name="Acme")
    assert (caught.value.status, caught.value.code) == (400, 1002)


async def test_an_update_of_a_line_without_an_active_card_is_told_apart(linq: Linq, account: Account) -> None:
    account.deactivate_card(LINE)
    with pytest.raises(CardInactive):
        await linq.update_card(LINE, first_name="Acme")


async def test_chats_come_page_by_page_each_once_and_in_order(linq: Linq, account: Account) -> None:
    ids = [f"chat-{number:03}" for number in range(250)]
    for number, chat_id in enumerate(ids):
        account.put_chat(Chat(id=chat_id, from_number=OTHER_LINE if number % 5 == 0 else LINE))
    assert [chat.id async for chat in linq.chats()] == ["chat", *ids]
    assert account.requests == {"list_chats": 3}


async def test_chats_of_a_line_are_only_its_own(linq: Linq, account: Account) -> None:
    ids = [f"chat-{number:03}" for number in range(250)]
    for number, chat_id in enumerate(ids):
        account.put_chat(Chat(id=chat_id, from_number=OTHER_LINE if number % 2 == 0 else LINE))
    chats = [chat async for chat in linq.chats(OTHER_LINE)]
    assert [chat.id for chat in chats] == ids[::2]
    assert {chat.line for chat in chats} == {OTHER_LINE}
    assert account.requests == {"list_chats": 2}


async def test_a_chat_is_read_with_all_that_the_worker_needs(linq: Linq, account: Account) -> None:
    account.put_chat(
        Chat(
            id="full",
            from_number=LINE,
            former_number="+15550100009",
            service="RCS",
            is_group=True,
            health_status="AT_RISK",
            created_at=START - timedelta(days=3),
            last_inbound_at=START - timedelta(hours=3),
        )
    )
    [_, chat] = [chat async for chat in linq.chats()]
    assert (chat.id, chat.line, chat.service, chat.is_group, chat.health_status) == (
        "full",
        LINE,
        "RCS",
        True,
        "AT_RISK",
    )
    assert chat.created_at == START - timedelta(days=3)
    assert chat.updated_at == START - timedelta(hours=3)


async def test_messages_come_page_by_page_and_tell_what_went_out(linq: Linq, account: Account) -> None:
    account.put_chat(
        Chat(
            id="long",
            from_number=LINE,
            last_outbound_at=START - timedelta(hours=1),
            last_inbound_at=START - timedelta(hours=2),
            outbound_count=130,
            inbound_count=90,
        )
    )
    messages = [message async for message in linq.messages("long")]
    assert len({message.id for message in messages}) == 220
    assert sum(message.is_outbound for message in messages) == 130
    assert max(message.created_at for message in messages if message.created_at) == START - timedelta(hours=1)
    assert account.requests == {"list_messages": 3}


async def test_a_message_that_failed_did_not_go_out(linq: Linq, account: Account) -> None:
    account.put_chat(Chat(id="failed", from_number=LINE, last_inbound_at=START - timedelta(hours=2)))
    messages = [message async for message in linq.messages("failed")]
    assert [message.is_outbound for message in messages if message.is_from_me] == [False]


async def test_every_line_of_the_account_is_listed(linq: Linq, account: Account) -> None:
    account.put_line(SimulatedLine(OTHER_LINE, line_type="RCS", reputation="CRITICAL"))
    assert await linq.phone_numbers() == [
        Line(phone_number=LINE, line_type="iMessage", reputation="HEALTHY"),
        Line(phone_number=OTHER_LINE, line_type="RCS", reputation="CRITICAL"),
    ]


# What goes over the wire


async def test_the_key_is_in_the_authorization_header_and_nowhere_else(clock: HandClock) -> None:
    async with answering(clock, DONE) as (linq, server):
        await linq.share("chat")
    assert f"\r\nAuthorization: Bearer {KEY}\r\n".encode() in server.received
    assert server.received.count(KEY.encode()) == 1


async def test_a_share_has_no_body(clock: HandClock) -> None:
    async with answering(clock, DONE) as (linq, server):
        await linq.share("chat")
    head, _, body = server.received.partition(b"\r\n\r\n")
    assert body == b""
    assert b"\r\ncontent-type:" not in head.lower()


async def test_what_is_not_given_is_not_sent(clock: HandClock) -> None:
    card = answer(200, {"phone_number": LINE})
    async with answering(clock, card) as (linq, server):
        await linq.create_card(LINE, first_name="Acme")
        await linq.update_card(LINE, image_url="https://example.com/x.png")
    created, updated = [
        json.loads(part[: part.rindex(b"}") + 1])
        for part in server.received.split(b"\r\n\r\n")
        if part.startswith(b"{")
    ]
    assert created == {"phone_number": LINE, "first_name": "Acme"}
    assert updated == {"image_url": "https://example.com/x.png"}
    assert server.received.count(b"\r\nContent-Type: application/json\r\n") == 2


async def test_the_plus_of_a_phone_number_is_sent_encoded(clock: HandClock) -> None:
    """A bare + in a query means a space."""
    page = answer(200, {"chats": [], "phone_number": LINE})
    async with answering(clock, page) as (linq, server):
        assert [chat async for chat in linq.chats(LINE)] == []
        await linq.update_card(LINE, first_name="Acme")
    assert server.requests == [
        "GET /v3/chats?limit=100&from=%2B15550100001 HTTP/1.1",
        "PATCH /v3/contact_card?phone_number=%2B15550100001 HTTP/1.1",
    ]


async def test_a_cursor_is_handed_back_as_it_came(clock: HandClock) -> None:
    pages = [answer(200, {"messages": [], "next_cursor": "a+b/c=&d e#"}), answer(200, {"messages": []})]
    async with answering(clock, *pages) as (linq, server):
        assert [message async for message in linq.messages("chat")] == []
    assert server.requests[1] == ("GET /v3/chats/chat/messages?limit=100&cursor=a%2Bb%2Fc%3D%26d%20e%23 HTTP/1.1")


ODD_IDS: Final = [
    "a/b",
    "ü",
    " ",
    "%2F",
    "%",
    "?x=1",
    "#",
    "a+b",
    "a&b=c",
    "a;b",
    '"quoted"',
    "line\nbreak",
    "tab\t",
    "😀",
    "a/../b",
    "a\\b",
    "...",
    ".",
    "..",
]


@pytest.mark.parametrize("chat_id", ODD_IDS)
async def test_a_share_reaches_the_chat_that_it_names_however_odd_its_id(
    chat_id: str, linq: Linq, account: Account
) -> None:
    account.put_chat(Chat(id=chat_id, from_number=LINE, last_outbound_at=START))
    assert await attempt(linq.share(chat_id)) == 202
    assert [(call.chat_id, call.took_effect) for call in account.share_calls] == [(chat_id, True)]


@pytest.mark.parametrize("chat_id", ODD_IDS)
async def test_messages_are_those_of_the_chat_that_is_named_however_odd_its_id(
    chat_id: str, linq: Linq, account: Account
) -> None:
    account.put_chat(Chat(id=chat_id, from_number=LINE, last_outbound_at=START, outbound_count=2))
    assert len([message async for message in linq.messages(chat_id)]) == 2


async def test_a_base_url_with_a_path_keeps_it(clock: HandClock) -> None:
    async with raw_server(keep_alive) as server:
        async with Linq(KEY, base_url=f"{server.base_url}/api/partner/", clock=clock) as linq:
            await linq.share("chat")
        await server.quiet()
    assert server.requests == ["POST /api/partner/v3/chats/chat/share_contact_card HTTP/1.1"]


async def test_no_cookie_is_kept(clock: HandClock) -> None:
    async with answering(clock, answer(202, b"", Set_Cookie="session=1; Path=/")) as (linq, server):
        await linq.share("first")
        await linq.share("second")
    assert len(server.requests) == 2
    assert b"cookie" not in server.received.lower()


async def test_shares_never_open_more_connections_than_allowed_and_use_them_again(clock: HandClock) -> None:
    waiting = asyncio.Semaphore(0)
    go = asyncio.Event()

    async def script(visit: Visit) -> None:
        while True:
            await visit.request()
            waiting.release()
            await go.wait()
            visit.send(DONE)

    async with raw_server(script) as server:
        async with Linq(KEY, base_url=server.base_url, timeout=PATIENCE, connections=3, clock=clock) as linq:
            shares = asyncio.gather(*(linq.share(f"chat-{number}") for number in range(10)))
            for _ in range(3):
                await waiting.acquire()
            assert len(server.requests) == 3
            go.set()
            assert await shares == [202] * 10
        await server.quiet()
    assert server.most_at_once == len(server.visits) == 3
    assert len(set(server.requests)) == len(server.requests) == 10


async def test_one_share_after_another_goes_over_one_connection(clock: HandClock) -> None:
    async with answering(clock, DONE, connections=20) as (linq, server):
        for number in range(10):
            await linq.share(f"chat-{number}")
    assert len(server.visits) == 1
    assert len(server.requests) == 10


async def test_an_error_leaves_its_connection_fit_for_the_next_share(clock: HandClock) -> None:
    async with answering(clock, answer(429, envelope(429, 1007)), DONE) as (linq, server):
        assert type(await refused(linq.share("first"))) is RateLimited
        assert await linq.share("second") == 202
    assert len(server.visits) == 1


async def test_an_error_too_large_to_read_does_not_answer_the_next_share(clock: HandClock) -> None:
    endless = answer(500, b"x" * 1_000_000 + DONE * 10)
    async with answering(clock, endless, DONE) as (linq, server):
        assert type(await refused(linq.share("first"))) is PerhapsDone
        assert await linq.share("second") == 202
    assert len(server.visits) == 2


async def test_an_error_that_is_compressed_though_nobody_asked_is_read_all_the_same(clock: HandClock) -> None:
    body = gzip.compress(json.dumps(envelope(404, 2012)).encode())
    error = await share_answered_by(clock, answer(404, body, Content_Encoding="gzip"))
    assert (type(error), error.message) == (CardInactive, "What Linq says")


# What each answer to a share means


IN_90_SECONDS: Final = (START + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT")
AN_HOUR_AGO: Final = (START - timedelta(hours=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, 1002, ChatRefused),
        (400, 1005, ChatRefused),
        (401, 2004, AccessRefused),
        (401, None, AccessRefused),
        (403, 2005, AccessRefused),
        (403, 2004, AccessRefused),
        (403, None, AccessRefused),
        (403, 2024, ChatRefused),
        (403, 2027, LineRefused),
        (404, 2027, ChatRefused),
        (403, 2999, ChatRefused),
        (404, 2001, ChatRefused),
        (404, 2012, CardInactive),
        (404, None, ChatRefused),
        (409, 2014, ChatRefused),
        (410, None, ChatRefused),
        (418, None, ChatRefused),
        (422, 1005, ChatRefused),
        (429, 1007, RateLimited),
        (429, None, RateLimited),
        (400, 2012, ChatRefused),
        (500, 3006, PerhapsDone),
        (500, 2012, PerhapsDone),
        (500, 2022, PerhapsDone),
        (501, None, PerhapsDone),
        (502, None, PerhapsDone),
        (503, 4004, PerhapsDone),
        (504, None, PerhapsDone),
        (599, 1, PerhapsDone),
        (300, None, PerhapsDone),
        (302, None, PerhapsDone),
        (304, None, PerhapsDone),
    ],
)
async def test_status_and_code_say_what_a_refused_share_means(
    status: int, code: int | None, kind: type[LinqError], clock: HandClock
) -> None:
    document = envelope(status, code)
    error = await share_answered_by(clock, answer(status, b"" if status == 304 else document))
    assert type(error) is kind
    assert (error.status, error.code) == (status, code)
    if status != 304:
        assert (error.message, error.trace_id) == ("What Linq says", "trace-1")
        assert str(error) == f"{status}{f'/{code}' if code else ''}: What Linq says (trace trace-1)"
    assert error.retry_after is None


@pytest.mark.parametrize(
    ("headers", "more", "seconds"),
    [
        ({"Retry_After": "30"}, {}, 30),
        ({"Retry_After": "30"}, {"retry_after": 99}, 30),
        ({"Retry_After": "0"}, {}, 0),
        ({"Retry_After": "1.5"}, {}, 1.5),
        ({"Retry_After": "-7"}, {}, 0),
        ({}, {"retry_after": 45}, 45),
        ({}, {"retry_after": "45"}, 45),
        ({"Retry_After": "soon"}, {"retry_after": 12.5}, 12.5),
        ({"Retry_After": IN_90_SECONDS}, {}, 90),
        ({"Retry_After": AN_HOUR_AGO}, {}, 0),
        ({"Retry_After": IN_90_SECONDS.replace("GMT", "-0000")}, {}, 90),
        ({}, {}, None),
        ({}, {"retry_after": None}, None),
        ({}, {"retry_after": "soon"}, None),
        ({}, {"retry_after": [30]}, None),
        ({"Retry_After": "soon"}, {}, None),
        ({"Retry_After": "inf"}, {}, None),
        ({"Retry_After": "nan"}, {}, None),
        ({"Retry_After": "Tue, 99 Foo 2026 99:99:99 GMT"}, {}, None),
        ({"Retry_After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, {}, None),
        ({"Retry_After": "Mon, 01 Jan 2026 00:00:00 +9999999999999999999"}, {}, None),
    ],
)
async def test_a_rate_limit_says_how_long_it_lasts_in_any_form_that_http_allows(
    headers: dict[str, str], more: dict[str, object], seconds: float | None, clock: HandClock
) -> None:
    error = await share_answered_by(clock, answer(429, envelope(429, 1007, **more), **headers))
    assert type(error) is RateLimited
    assert error.retry_after == seconds


async def test_a_503_keeps_its_retry_after_too(clock: HandClock) -> None:
    error = await share_answered_by(clock, answer(503, b"<html>Busy</html>", Retry_After="120"))
    assert type(error) is PerhapsDone
    assert error.retry_after == 120


async def test_a_rate_limit_without_linqs_envelope_is_one(clock: HandClock) -> None:
    error = await share_answered_by(clock, answer(429, b"<html>Slow down</html>", Retry_After="8"))
    assert type(error) is RateLimited
    assert (error.code, error.retry_after) == (None, 8)
    assert "Slow down" in str(error)


# Bodies that are not Linq's error


BODIES: Final[Mapping[str, bytes]] = {
    "an HTML page": b"<html>\n<head><title>Bad Gateway</title></head>\n<body>nginx</body></html>",
    "nothing": b"",
    "half a JSON document": b'{"success": false, "error": {"code": 20',
    "not UTF-8": b"\xff\xfe\xfd\x80abc",
    "a list": b"[1, 2]",
    "a number": b"42",
    "a string": b'"no"',
    "null": b"null",
    "NaN": b"NaN",
    "an object without an error": b'{"success": false}',
    "an error that is a string": b'{"error": "broken"}',
    "an error that is null": b'{"error": null}',
    "an error that is a list": b'{"error": [{"code": 2012}]}',
    "an empty error": b'{"error": {}}',
    "a code that is a list": b'{"error": {"code": [2012]}}',
    "a code that is true": b'{"error": {"code": true}}',
    "a code that is a fraction": b'{"error": {"code": 2012.5}}',
    "a code that is a word": b'{"error": {"code": "NO_CARD"}}',
    "a code of Arabic digits": '{"error": {"code": "٢٠١٢"}}'.encode(),
    "a message that is a number": b'{"error": {"message": 5}}',
    "a trace that is a number": b'{"error": {}, "trace_id": 5}',
    "depth": b"[" * 60_000,
    "depth within an error": b'{"error": ' + b'{"a":' * 10_000,
    "a number of many digits": b'{"error": {"code": ' + b"9" * 5_000 + b"}}",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(("status", "kind"), [(404, ChatRefused), (403, AccessRefused), (500, PerhapsDone)])
async def test_whatever_comes_with_an_error_it_is_read_as_one_without_a_code(
    status: int, kind: type[LinqError], body: bytes, clock: HandClock
) -> None:
    error = await share_answered_by(clock, answer(status, body))
    assert type(error) is kind
    assert (error.status, error.code) == (status, None)
    assert error.message
    assert str(error).startswith(f"{status}: ")
    assert str(error).isprintable()


async def test_an_html_page_is_quoted_with_its_beginning(clock: HandClock) -> None:
    error = await share_answered_by(clock, answer(502, BODIES["an HTML page"] + b"x" * 10_000))
    assert "<html> <head><title>Bad Gateway</title></head>" in str(error)
    assert "text/html" in str(error)
    assert len(str(error)) < 300


async def test_an_error_whose_body_is_cut_short_is_told_by_its_status(clock: HandClock) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        visit.send(answer(404, envelope(404, 2012))[:-20])
        await visit.close()

    async with raw_server(script) as server:
        async with Linq(KEY, base_url=server.base_url, timeout=PATIENCE, clock=clock) as linq:
            error = await refused(linq.share("chat"))
        await server.quiet()
    assert type(error) is ChatRefused
    assert (error.status, error.code) == (404, None)
    assert len(server.requests) == 1


async def test_a_code_that_is_a_numeric_string_is_that_number(clock: HandClock) -> None:
    error = await share_answered_by(clock, answer(404, envelope(404, "2012")))
    assert type(error) is CardInactive
    assert error.code == 2012


async def test_a_trace_id_within_the_error_is_found_too(clock: HandClock) -> None:
    error = await share_answered_by(clock, answer(500, {"error": {"code": 3006, "trace_id": "inner"}}))
    assert error.trace_id == "inner"


async def test_a_gigantic_message_is_cut(clock: HandClock) -> None:
    error = await share_answered_by(clock, answer(500, envelope(500, 3006, "long " * 10_000)))
    assert error.message.startswith("long long")
    assert error.message.endswith("…")
    assert len(error.message) == 500


async def test_a_gigantic_trace_id_is_cut(clock: HandClock) -> None:
    error = await share_answered_by(clock, answer(500, envelope(500, 3006) | {"trace_id": "t" * 5_000}))
    assert error.trace_id is not None
    assert len(error.trace_id) == 100


async def test_a_message_is_one_line_without_control_characters(clock: HandClock) -> None:
    message = "first\r\nsecond\x00\x1b[31mred\x1b[0m\u2028third\u202etfel\t end "
    error = await share_answered_by(clock, answer(500, envelope(500, 3006, message)))
    assert error.message == "first second [31mred [0m third tfel end"


async def test_a_message_with_half_an_emoji_can_be_written_down(clock: HandClock) -> None:
    error = await share_answered_by(clock, answer(500, envelope(500, 3006, "Sorry \ud83d")))
    assert error.message.encode().startswith(b"Sorry")


@pytest.mark.parametrize("message", ["", " ", "\n", "\x00\x1b", "\u200b"])
async def test_a_message_that_says_nothing_is_replaced_by_what_is_known(message: str, clock: HandClock) -> None:
    error = await share_answered_by(clock, answer(500, envelope(500, 3006, message)))
    assert "Reason" in error.message
    assert error.code == 3006


def test_an_error_without_an_answer_is_told_by_its_message_alone() -> None:
    assert str(NeverSent("no route")) == "no route"
    assert str(PerhapsDone("no answer", status=502)) == "502: no answer"


async def test_a_blank_trace_id_is_none(clock: HandClock) -> None:
    error = await share_answered_by(clock, answer(500, envelope(500, 3006) | {"trace_id": "\n"}))
    assert error.trace_id is None


@pytest.mark.parametrize("code", [10**12, -(10**12), 2**31, "999999999999", "9" * 5_000])
async def test_a_code_that_the_ledger_cannot_hold_is_none(code: object, clock: HandClock) -> None:
    error = await share_answered_by(clock, answer(500, envelope(500, code)))
    assert error.code is None


# What no error and no client shows: the key


async def test_the_client_does_not_show_its_key() -> None:
    linq = Linq(KEY, base_url="http://127.0.0.1:1")
    assert KEY not in repr(linq)
    assert KEY not in str(linq)
    assert "http://127.0.0.1:1" in repr(linq)


ECHOES: Final[Mapping[str, Callable[[str], bytes]]] = {
    "in Linq's message": lambda key: answer(401, envelope(401, 2004, f"Invalid token {key}")),
    "in the trace": lambda key: answer(500, envelope(500, 3006) | {"trace_id": key}),
    "in a debugging page": lambda key: answer(502, f"<pre>Authorization: Bearer {key}</pre>".encode()),
    "in the reason": lambda key: f"HTTP/1.1 500 {key}\r\nContent-Length: 0\r\n\r\n".encode(),
    "in the type": lambda key: f"HTTP/1.1 500 No\r\nContent-Type: x/{key}\r\nContent-Length: 0\r\n\r\n".encode(),
    "where no answer should be": lambda key: f"Bearer {key}\r\n\r\n".encode(),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
async def test_no_error_of_a_share_shows_the_key_even_if_the_server_does(
    echo: Callable[[str], bytes], clock: HandClock
) -> None:
    error = await share_answered_by(clock, echo(KEY))
    assert KEY not in f"{error} {error!r} {error.message} {error.trace_id}"


async def test_no_error_of_a_read_shows_the_key_even_if_the_server_does(clock: HandClock) -> None:
    async with answering(clock, answer(200, [KEY])) as (linq, _server):
        with pytest.raises(PerhapsDone) as caught:
            await linq.list_cards()
    assert KEY not in f"{caught.value} {caught.value!r}"


async def test_no_failed_connection_shows_the_key() -> None:
    async with Linq(KEY, base_url="http://linq.invalid", timeout=PATIENCE) as linq:
        error = await refused(linq.share("chat"))
    assert KEY not in "".join(traceback.format_exception(error)) + repr(error)


# Reading what Linq lists


async def list_cards(clock: HandClock, document: object) -> list[Card]:
    async with answering(clock, answer(200, document)) as (linq, _server):
        return await linq.list_cards()


@pytest.mark.parametrize("said", [None, "true", "yes", 1, 0, False, [], {}, "absent"])
async def test_a_card_is_active_only_if_linq_says_true(said: object, clock: HandClock) -> None:
    card = {"phone_number": LINE, "first_name": "Acme"} | ({} if said == "absent" else {"is_active": said})
    [read] = await list_cards(clock, {"contact_cards": [card]})
    assert read.is_active is False


async def test_a_card_is_read_whatever_else_it_holds(clock: HandClock) -> None:
    odd: list[object] = [
        {"phone_number": LINE, "is_active": True, "new_field": {"a": [1]}, "first_name": None, "image_url": 5},
        {"first_name": "no number"},
        {"phone_number": 15550100001},
        {"phone_number": ""},
        None,
        "card",
        [LINE],
    ]
    cards = await list_cards(clock, {"contact_cards": odd, "next_field": 1})
    assert [astuple(card) for card in cards] == [(LINE, None, None, None, True)]


async def test_a_name_cut_in_the_middle_of_an_emoji_can_still_be_written_down(clock: HandClock) -> None:
    """JavaScript counts an emoji as two; neither of our databases takes half of one, PostgreSQL no NUL either."""
    card = {"phone_number": LINE, "first_name": "Acme \ud83d", "last_name": "Sup\x00port", "is_active": True}
    [read] = await list_cards(clock, {"contact_cards": [card]})
    assert (read.first_name or "").encode().startswith(b"Acme")
    assert "\x00" not in (read.last_name or "")


async def list_chats(clock: HandClock, *chats: object) -> list[tuple[object, ...]]:
    async with answering(clock, answer(200, {"chats": chats})) as (linq, _server):
        return [astuple(chat) async for chat in linq.chats()]


async def test_a_chat_that_says_nothing_but_its_id_has_safe_defaults(clock: HandClock) -> None:
    assert await list_chats(clock, {"id": "bare"}) == [("bare", None, None, None, False, None, None, None, None)]


async def test_a_chat_is_read_whatever_else_it_holds(clock: HandClock) -> None:
    odd = {
        "id": "odd",
        "service": "Carrier Pigeon",
        "is_group": "yes",
        "handles": [None, "me", {"is_me": "true", "handle": "+1"}, {"is_me": True, "handle": LINE, "status": "active"}],
        "health_status": {"status": "BRAND_NEW", "since": 5},
        "created_at": "yesterday",
        "updated_at": 1_700_000_000,
        "a field of tomorrow": {"x": [None]},
    }
    assert await list_chats(clock, odd, {"service": "iMessage"}, None, "chat", {"id": 5}) == [
        ("odd", LINE, "+1", "Carrier Pigeon", False, "BRAND_NEW", None, None, None)
    ]


@pytest.mark.parametrize(
    ("handles", "line"),
    [
        ([{"handle": LINE, "is_me": True, "status": "active"}], LINE),
        ([{"handle": LINE, "is_me": True}], LINE),
        ([{"handle": LINE, "is_me": True, "status": None}], LINE),
        ([{"handle": "+1", "is_me": True, "status": "left"}, {"handle": LINE, "is_me": True}], LINE),
        ([{"handle": "+1", "is_me": True, "status": "removed"}], None),
        ([{"handle": "+1", "is_me": True, "status": "a new word"}], None),
        ([{"handle": "+1", "is_me": False}, {"handle": "+2"}], None),
        ([{"is_me": True}], None),
        ([{"handle": 5, "is_me": True}], None),
        ([], None),
        (None, None),
        ({"handle": LINE, "is_me": True}, None),
        ("+1", None),
    ],
)
async def test_the_line_of_a_chat_is_its_active_own_handle(handles: object, line: str | None, clock: HandClock) -> None:
    assert [chat[1] for chat in await list_chats(clock, {"id": "chat", "handles": handles})] == [line]


@pytest.mark.parametrize(
    ("told", "handle"),
    [
        ({"handles": [{"handle": LINE, "is_me": True}, {"handle": "+1", "is_me": False, "status": "active"}]}, "+1"),
        ({"handles": [{"handle": "ada@example.com"}, {"handle": LINE, "is_me": True}]}, "ada@example.com"),
        ({"handles": [{"handle": "+1"}, {"handle": "+2"}], "is_group": True}, None),
        ({"handles": [{"handle": "+1", "status": "left"}]}, None),
        ({"handles": [{"handle": "x" * 300}]}, None),
    ],
)
async def test_the_handle_of_a_direct_chat_is_the_other_side(
    told: dict[str, object], handle: str | None, clock: HandClock
) -> None:
    assert [chat[2] for chat in await list_chats(clock, {"id": "chat"} | told)] == [handle]


async def test_the_direct_chat_with_a_person_is_neither_a_group_nor_another_lines_nor_somebody_elses(
    linq: Linq, account: Account
) -> None:
    ann, bob = "+15550200001", "+15550200002"
    account.put_card(OTHER_LINE, first_name="Acme", last_name="Sales")
    account.put_chat(Chat(id="a group", from_number=LINE, is_group=True, recipients=(ann, bob)))
    account.put_chat(Chat(id="of the other line", from_number=OTHER_LINE, recipients=(ann,)))
    account.put_chat(Chat(id="with bob", from_number=LINE, recipients=(bob,)))
    assert await linq.find_direct_chat(LINE, ann) is None
    account.put_chat(Chat(id="with ann", from_number=LINE, recipients=(ann,)))
    found = await linq.find_direct_chat(LINE, ann)
    assert found is not None
    assert found.id == "with ann"


async def test_a_chat_that_linq_finds_and_does_not_describe_is_not_taken_for_missing(clock: HandClock) -> None:
    async with answering(clock, answer(200, {})) as (linq, _server):
        with pytest.raises(PerhapsDone, match="holds no chat"):
            await linq.find_chat("chat")


async def test_another_lines_card_in_the_answer_is_not_taken_for_the_one_asked_for(clock: HandClock) -> None:
    others = {"contact_cards": [{"phone_number": OTHER_LINE, "is_active": True}, {"first_name": "Nobody"}]}
    async with answering(clock, answer(200, others)) as (linq, _server):
        assert await linq.find_card(LINE) is None


async def test_a_subscription_for_all_lines_names_none(clock: HandClock) -> None:
    made = answer(201, {"id": "s", "signing_secret": "whsec_planted"})
    async with answering(clock, made) as (linq, server):
        await linq.subscribe("https://example.com/hook", ["message.sent"])
    assert b"phone_numbers" not in server.received


async def test_an_image_is_removed_only_where_that_is_asked_for(clock: HandClock) -> None:
    async with answering(clock, answer(200, {"phone_number": LINE})) as (linq, server):
        await linq.update_card(LINE, first_name="Acme", removes_image=True)
        await linq.update_card(LINE, first_name="Acme")
    assert server.received.count(b'"first_name"') == 2
    assert server.received.count(b'"image_url": null') == 1


async def test_a_chat_is_found_by_its_id_or_is_not_there(linq: Linq, account: Account) -> None:
    found = await linq.find_chat("chat")
    assert found is not None
    assert found.line == LINE
    assert await linq.find_chat("another") is None
    account.add_fault(Fault("get_chat", status=404, body="<html>", content_type="text/html"))
    with pytest.raises(ChatRefused):
        await linq.find_chat("another")


@pytest.mark.parametrize("health", [None, "HEALTHY", [], {}, {"status": None}, {"status": 1}])
async def test_a_health_that_is_not_told_is_not_known(health: object, clock: HandClock) -> None:
    [chat] = await list_chats(clock, {"id": "chat", "health_status": health})
    assert chat[5] is None


@pytest.fixture
def in_tokyo() -> Iterator[None]:
    """Lets the process live there: where a worker runs must not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-10T09:30:00Z", START),
        ("2026-03-10T09:30:00.000Z", START),
        ("2026-03-10T10:30:00+01:00", START),
        ("2026-03-10T09:30:00", START),
        ("", None),
        ("0", None),
        ("2026-13-40T99:99:99Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:00:00-14:00", None),
    ],
)
async def test_times_are_read_with_their_zone(text: str, moment: datetime | None, clock: HandClock) -> None:
    [chat] = await list_chats(clock, {"id": "chat", "created_at": text})
    assert chat[7] == moment


async def test_a_message_is_read_whatever_it_holds(clock: HandClock) -> None:
    odd: list[object] = [
        {},
        {"id": "new", "is_from_me": True, "delivery_status": "teleported", "sent_at": "2026-03-10T09:30:00Z"},
        {"id": "failed", "is_from_me": True, "delivery_status": "failed"},
        {"id": "theirs", "is_from_me": False, "delivery_status": "received"},
        {"id": "unclear", "is_from_me": "true"},
        {"id": 5, "created_at": 5, "is_from_me": None},
        None,
        "message",
    ]
    async with answering(clock, answer(200, {"messages": odd})) as (linq, _server):
        messages = [message async for message in linq.messages("chat")]
    outbound = {"": False, "new": True, "failed": False, "theirs": False, "unclear": False}
    assert [message.id for message in messages] == ["", "new", "failed", "theirs", "unclear", ""]
    assert {message.id: message.is_outbound for message in messages} == outbound
    assert [message.sent_at for message in messages if message.sent_at] == [START]


async def test_a_line_is_read_whatever_else_it_holds(clock: HandClock) -> None:
    odd: list[object] = [
        {"phone_number": LINE},
        {"phone_number": OTHER_LINE, "line_type": "Telex", "reputation": {"status": "SPLENDID"}, "new": 1},
        {"phone_number": "+15550100003", "line_type": 5, "reputation": "HEALTHY"},
        {"line_type": "iMessage"},
        None,
    ]
    async with answering(clock, answer(200, {"phone_numbers": odd})) as (linq, _server):
        lines = await linq.phone_numbers()
    assert [astuple(line) for line in lines] == [
        (LINE, None, None),
        (OTHER_LINE, "Telex", "SPLENDID"),
        ("+15550100003", None, None),
    ]


@pytest.mark.parametrize("document", [{}, {"contact_cards": None}, {"contact_cards": {}}, {"contact_cards": "none"}])
async def test_an_answer_without_the_list_asked_for_is_an_error_and_not_an_empty_list(
    document: object, clock: HandClock
) -> None:
    """Taken for an empty list, it would mark every card of the account as gone."""
    with pytest.raises(PerhapsDone, match="contact_cards"):
        await list_cards(clock, document)


@pytest.mark.parametrize(
    "body", [b"", b"<html>Login</html>", b'{"contact_cards": [', b"[]", b"null", b"5", b"\xff", b"[" * 60_000]
)
async def test_a_200_that_is_no_json_object_is_an_error_after_repeated_tries(body: bytes, clock: HandClock) -> None:
    async with answering(clock, answer(200, body)) as (linq, server):
        with pytest.raises(PerhapsDone) as caught:
            await linq.list_cards()
    assert caught.value.status == 200
    assert str(caught.value).isprintable()
    assert len(server.requests) == 4


async def test_a_card_written_with_an_answer_that_holds_none_is_perhaps_done(clock: HandClock) -> None:
    async with answering(clock, answer(200, {"success": True})) as (linq, server):
        with pytest.raises(PerhapsDone):
            await linq.create_card(LINE, first_name="Acme")
    assert len(server.requests) == 1


async def test_more_than_anybody_needs_is_not_read(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.linq.client.LARGEST_ANSWER", 100_000)
    with pytest.raises(PerhapsDone, match="broke off"):
        await list_cards(clock, {"contact_cards": [], "padding": "x" * 300_000})


@pytest.mark.parametrize("circle", [["a"], ["a", "b"], ["a", "b", "c"]])
async def test_pages_that_run_in_a_circle_end_with_an_error(circle: list[str], clock: HandClock) -> None:
    pages = [answer(200, {"chats": [{"id": cursor}], "next_cursor": cursor}) for cursor in [*circle, circle[0]]]
    async with answering(clock, *pages, answer(200, {"chats": []})) as (linq, server):
        with pytest.raises(PerhapsDone, match="circle"):
            _ = [chat.id async for chat in linq.chats()]
    assert len(server.requests) == len(circle) + 1


@pytest.mark.parametrize("cursor", [None, "", 0, 5, [], {"after": "x"}])
async def test_a_cursor_that_is_no_text_ends_the_list(cursor: object, clock: HandClock) -> None:
    async with answering(clock, answer(200, {"chats": [{"id": "only"}], "next_cursor": cursor})) as (linq, server):
        assert [chat.id async for chat in linq.chats()] == ["only"]
    assert len(server.requests) == 1


# What is repeated, and what is not


@pytest.mark.parametrize(
    "fault",
    [
        Fault(path="*", times=2, status=500),
        Fault(path="*", times=2, status=502, body="<html>Bad Gateway</html>", content_type="text/html"),
        Fault(path="*", times=2, status=503, code=4004),
        Fault(path="*", times=2, status=429),
        Fault(path="*", times=2, drop="before"),
        Fault(path="*", times=2, drop="before", reset=True),
        Fault(path="*", times=2, cut_short=True),
        Fault(path="*", times=2, body='{"contact_cards": ['),
    ],
    ids=["500", "502", "503", "429", "closed", "reset", "cut short", "half a document"],
)
async def test_a_read_is_repeated_until_it_succeeds_with_growing_pauses(
    fault: Fault, linq: Linq, account: Account, clock: HandClock
) -> None:
    account.add_fault(fault)
    [card] = await linq.list_cards()
    assert card.phone_number == LINE
    assert account.requests["list_cards"] == 3
    first, second = clock.slept
    assert 0.25 <= first <= 0.75
    assert 0.5 <= second <= 1.5


async def test_every_read_is_repeated(linq: Linq, account: Account, clock: HandClock) -> None:
    account.add_fault(Fault(path="*", status=500, times=1))
    await linq.phone_numbers()
    account.add_fault(Fault(path="*", status=500, times=1))
    assert [chat.id async for chat in linq.chats()] == ["chat"]
    account.add_fault(Fault(path="*", status=500, times=1))
    assert len([message async for message in linq.messages("chat")]) == 3
    assert account.requests == {"list_phone_numbers": 2, "list_chats": 2, "list_messages": 2}
    assert len(clock.slept) == 3


async def test_a_read_gives_up_after_four_tries(linq: Linq, account: Account, clock: HandClock) -> None:
    account.add_fault(Fault(path="*", status=500, message="Down"))
    with pytest.raises(PerhapsDone, match="Down"):
        await linq.list_cards()
    assert account.requests == {"list_cards": 4}
    assert len(clock.slept) == 3


async def test_a_read_without_a_connection_gives_up_after_four_tries(clock: HandClock) -> None:
    async with Linq(KEY, base_url="http://linq.invalid", timeout=PATIENCE, clock=clock) as linq:
        with pytest.raises(NeverSent):
            await linq.list_cards()
    assert len(clock.slept) == 3


async def test_a_read_waits_as_long_as_linq_says(linq: Linq, account: Account, clock: HandClock) -> None:
    account.add_fault(Fault(path="*", status=429, retry_after=7, times=1))
    account.add_fault(Fault(path="*", status=503, retry_after=60, times=1))
    await linq.list_cards()
    assert clock.slept == [7, 60]


async def test_a_read_waits_until_the_date_that_linq_names(clock: HandClock) -> None:
    pages = [
        answer(429, b"", Retry_After=IN_90_SECONDS.replace("09:31:30", "09:30:20")),
        answer(200, {"contact_cards": []}),
    ]
    async with answering(clock, *pages) as (linq, _server):
        assert await linq.list_cards() == []
    assert clock.slept == [20]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_read_does_not_wait_longer_than_a_minute(
    status: int, linq: Linq, account: Account, clock: HandClock
) -> None:
    account.add_fault(Fault(path="*", status=status, retry_after=61))
    with pytest.raises((RateLimited, PerhapsDone)) as caught:
        await linq.list_cards()
    assert caught.value.retry_after == 61
    assert account.requests == {"list_cards": 1}
    assert clock.slept == []


@pytest.mark.parametrize(
    ("status", "code"), [(400, 1002), (401, 2004), (403, 2005), (404, 2001), (409, 2014), (418, 1005)]
)
async def test_a_read_that_is_refused_is_not_repeated(
    status: int, code: int, linq: Linq, account: Account, clock: HandClock
) -> None:
    account.add_fault(Fault(path="*", status=status, code=code))
    with pytest.raises((ChatRefused, AccessRefused)) as caught:
        await linq.list_cards()
    assert (caught.value.status, caught.value.code) == (status, code)
    assert account.requests == {"list_cards": 1}
    assert clock.slept == []


FAULTS: Final = {
    "400": Fault(path="*", status=400),
    "408": Fault(path="*", status=408),
    "429": Fault(path="*", status=429),
    "429 at once": Fault(path="*", status=429, retry_after=0),
    "500": Fault(path="*", status=500),
    "502": Fault(path="*", status=502),
    "503": Fault(path="*", status=503, retry_after=1),
    "504": Fault(path="*", status=504),
    "closed before": Fault(path="*", drop="before"),
    "closed after": Fault(path="*", drop="after"),
    "reset": Fault(path="*", drop="before", reset=True),
    "redirected": Fault(path="*", status=307, redirect_to="http://127.0.0.1:1/elsewhere"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_share_is_never_repeated(fault: Fault, linq: Linq, account: Account, clock: HandClock) -> None:
    account.add_fault(fault)
    assert isinstance(await attempt(linq.share("chat")), LinqError)
    assert account.requests == {"share": 1}
    assert len(account.share_calls) == 1
    assert clock.slept == []


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_writing_a_card_is_never_repeated(fault: Fault, linq: Linq, account: Account, clock: HandClock) -> None:
    """Linq allows three writes in ten minutes."""
    account.add_fault(fault)
    for write in (linq.create_card(LINE, first_name="A"), linq.update_card(LINE, first_name="B")):
        with pytest.raises(LinqError):
            await write
    assert account.requests == {"create_card": 1, "update_card": 1}
    assert clock.slept == []


# Any answer at all

_json: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_details: Final = st.fixed_dictionaries(
    {}, optional={"code": _json, "message": _json, "retry_after": _json, "trace_id": _json, "status": _json}
)
_envelopes: Final = st.fixed_dictionaries({"error": _details | _json}, optional={"trace_id": _json})
_bodies: Final = st.binary() | _json.map(json.dumps).map(str.encode) | _envelopes.map(json.dumps).map(str.encode)
_waits: Final = (
    st.text()
    | st.floats().map(str)
    | st.builds(
        "{}, {} {} {} {}:{}:00 {}".format,
        st.sampled_from(["Mon", "Foo", ""]),
        st.integers(),
        st.sampled_from(["Jan", "Feb", "Foo"]),
        st.integers(),
        st.integers(-1, 99),
        st.integers(-1, 99),
        st.sampled_from(["GMT", "-0000", "+2500", ""]) | st.integers().map("{:+}".format),
    )
)
_headers: Final = st.fixed_dictionaries({}, optional={"retry-after": _waits, "content-type": st.text()})


@given(status=st.integers(100, 599), headers=_headers, reason=st.text(), body=_bodies)
@example(status=500, headers={}, reason="", body=b'{"error": {"code": 1e400}}')
@example(status=429, headers={}, reason="", body=b'{"error": {"retry_after": 1' + b"0" * 400 + b"}}")
@example(status=429, headers={"retry-after": "Mon, 01 Jan 99999999999 00:00:00 GMT"}, reason="", body=b"")
def test_any_answer_whatever_becomes_an_error_with_a_printable_line(
    status: int, headers: dict[str, str], reason: str, body: bytes
) -> None:
    error = refusal(status, headers, reason, body, datetime(2026, 3, 10, tzinfo=UTC))
    assert isinstance(error, LinqError)
    assert error.status == status
    assert 0 < len(error.message) <= 500
    assert str(error).isprintable()
    assert error.code is None or abs(error.code) <= INTEGER_COLUMN
    assert error.retry_after is None or (error.retry_after >= 0 and math.isfinite(error.retry_after))
    assert error.trace_id is None or (error.trace_id.isprintable() and 0 < len(error.trace_id) <= 100)


@given(body=_bodies, status=st.sampled_from([404, 403, 400, 409, 410, 451]))
def test_no_body_makes_a_refusal_an_unknown_outcome_or_a_limit(body: bytes, status: int) -> None:
    error = refusal(status, {}, "No", body, datetime(2026, 3, 10, tzinfo=UTC))
    assert isinstance(error, AccessRefused | ChatRefused | CardInactive)


@given(body=_bodies, status=st.integers(500, 599))
def test_no_body_makes_a_server_error_anything_but_perhaps_done(body: bytes, status: int) -> None:
    """Whatever it says about the card or the chat, a 5xx does not say that nothing was shared."""
    assert type(refusal(status, {}, "No", body, datetime(2026, 3, 10, tzinfo=UTC))) is PerhapsDone


def test_the_error_codes_are_linqs_numbers() -> None:
    """Elsewhere the tests and the simulator use the names, and would agree on a wrong number."""
    assert {code.name: int(code) for code in ErrorCode} == {
        "NOT_E164": 1002,
        "INVALID_PARAMETER": 1005,
        "RATE_LIMITED": 1007,
        "CHAT_NOT_FOUND": 2001,
        "UNAUTHORIZED": 2004,
        "ACCESS_DENIED": 2005,
        "NO_ACTIVE_CARD": 2012,
        "CHAT_UNAVAILABLE": 2013,
        "CARD_EXISTS": 2014,
        "CARD_NOT_COMPLETED": 2022,
        "OPTED_OUT": 2024,
        "HANDLE_BLOCKED": 2026,
        "LINE_REFUSED": 2027,
        "UPSTREAM_LIMITED": 4004,
    }
