"""The simulator is faithful if the client that Linq publishes, which nobody here wrote, is content with it."""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta

import pytest
from linq import (
    APIStatusError,
    AsyncLinqAPIV3,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InternalServerError,
    LinqAPIV3,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)

from tests.official_sdk import strict_sdk
from worker.simulator.account import SIMULATED_KEY, Account, Line
from worker.simulator.chats import Chat, messages_of
from worker.simulator.faults import Fault
from worker.simulator.population import populate
from worker.simulator.server import serving

LINE = "+14155550100"
OTHER_LINE = "+14155550101"
EMPTY_LINE = "+14155550102"
NO_LINE = "+14155550199"
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


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
    """Two lines with an active card, one without; on the first line, one chat to share in."""
    account = Account(clock=clock)
    account.put_card(LINE, "Acme", "Support")
    account.put_card(OTHER_LINE, "Beta")
    account.put_line(Line(EMPTY_LINE))
    account.put_chat(chat("chat"))
    return account


@pytest.fixture
async def base_url(account: Account) -> AsyncIterator[str]:
    async with serving(account) as url:
        yield url


@pytest.fixture
async def linq(base_url: str) -> AsyncIterator[AsyncLinqAPIV3]:
    async with strict_sdk(base_url) as client:
        yield client


def chat(
    chat_id: str,
    *,
    from_number: str = LINE,
    service: str | None = "iMessage",
    last_outbound_at: datetime | None = NOON - timedelta(hours=1),
    health_status: str = "HEALTHY",
    recipients: tuple[str, ...] = (),
    is_group: bool = False,
    is_available: bool = True,
) -> Chat:
    return Chat(
        id=chat_id,
        from_number=from_number,
        service=service,
        last_outbound_at=last_outbound_at,
        last_inbound_at=NOON - timedelta(hours=2),
        health_status=health_status,
        recipients=recipients,
        is_group=is_group,
        is_available=is_available,
    )


async def refused(call: Awaitable[object], error: type[APIStatusError], code: int) -> APIStatusError:
    """The error that the SDK raises for the call, after a look at the whole envelope."""
    with pytest.raises(error) as caught:
        await call
    refusal = caught.value
    assert refusal.code == code
    envelope = refusal.response.json()
    assert set(envelope) == {"success", "error", "trace_id"}
    assert envelope["success"] is False
    assert envelope["error"]["status"] == refusal.status_code
    assert envelope["error"]["message"]
    assert refusal.doc_url == f"https://docs.linqapp.com/error/codes/{code // 1000}xxx/{code}/"
    assert re.fullmatch(r"[0-9a-f]{32}", envelope["trace_id"])
    return refusal


# Cards


async def test_a_created_card_is_active_and_retrieved_with_the_others(linq: AsyncLinqAPIV3) -> None:
    created = await linq.contact_card.create(
        phone_number=EMPTY_LINE, first_name="Gamma", last_name="Sales", image_url="https://example.com/gamma.jpg"
    )
    assert created.is_active
    assert (created.first_name, created.last_name, created.image_url) == (
        "Gamma",
        "Sales",
        "https://example.com/gamma.jpg",
    )
    every_card = (await linq.contact_card.retrieve()).contact_cards
    assert {card.phone_number: card.is_active for card in every_card} == {
        LINE: True,
        OTHER_LINE: True,
        EMPTY_LINE: True,
    }
    [own] = (await linq.contact_card.retrieve(phone_number=EMPTY_LINE)).contact_cards
    assert own.first_name == "Gamma"


async def test_a_card_is_inactive_until_it_has_been_applied(
    linq: AsyncLinqAPIV3, account: Account, clock: StoppedClock
) -> None:
    account.activation_delay = 90
    account.put_chat(chat("waiting", from_number=EMPTY_LINE))
    created = await linq.contact_card.create(phone_number=EMPTY_LINE, first_name="Gamma")
    assert not created.is_active
    await refused(linq.chats.share_contact_card("waiting"), NotFoundError, 2012)
    clock.now += timedelta(seconds=90)
    [card] = (await linq.contact_card.retrieve(phone_number=EMPTY_LINE)).contact_cards
    assert card.is_active
    await linq.chats.share_contact_card("waiting")
    assert account.calls_of("waiting")[-1].took_effect


async def test_an_update_keeps_what_it_does_not_name(linq: AsyncLinqAPIV3) -> None:
    updated = await linq.contact_card.update(phone_number=LINE, first_name="Acme Inc")
    assert (updated.first_name, updated.last_name, updated.is_active) == ("Acme Inc", "Support", True)


async def test_an_active_card_is_not_created_again(linq: AsyncLinqAPIV3) -> None:
    await refused(linq.contact_card.create(phone_number=LINE, first_name="Acme"), ConflictError, 2014)


async def test_a_card_that_is_missing_or_inactive_cannot_be_updated(linq: AsyncLinqAPIV3, account: Account) -> None:
    await refused(linq.contact_card.update(phone_number=EMPTY_LINE, first_name="Gamma"), NotFoundError, 2012)
    account.deactivate_card(OTHER_LINE)
    await refused(linq.contact_card.update(phone_number=OTHER_LINE, first_name="Beta"), NotFoundError, 2012)
    await linq.contact_card.create(phone_number=OTHER_LINE, first_name="Beta again")
    assert account.cards[OTHER_LINE].first_name == "Beta again"


async def test_the_card_of_a_line_without_one_is_not_found(linq: AsyncLinqAPIV3) -> None:
    await refused(linq.contact_card.retrieve(phone_number=EMPTY_LINE), NotFoundError, 2012)


@pytest.mark.parametrize("number", ["4155550100", "+0155550100", "+1415555010x", "+1 415 555 0100", "+"])
async def test_a_number_that_is_not_e164_is_refused_everywhere(linq: AsyncLinqAPIV3, number: str) -> None:
    await refused(linq.contact_card.retrieve(phone_number=number), BadRequestError, 1002)
    await refused(linq.contact_card.create(phone_number=number, first_name="Acme"), BadRequestError, 1002)
    await refused(linq.contact_card.update(phone_number=number, first_name="Acme"), BadRequestError, 1002)
    await refused(linq.chats.list_chats(from_=number), BadRequestError, 1002)


async def test_a_card_needs_a_first_name_and_a_line_of_the_account(linq: AsyncLinqAPIV3) -> None:
    await refused(linq.contact_card.create(phone_number=EMPTY_LINE, first_name=""), BadRequestError, 1005)
    await refused(linq.contact_card.create(phone_number=NO_LINE, first_name="Acme"), BadRequestError, 1005)


async def test_creating_and_updating_share_three_calls_per_line_in_ten_minutes(
    linq: AsyncLinqAPIV3, clock: StoppedClock
) -> None:
    await linq.contact_card.create(phone_number=EMPTY_LINE, first_name="Gamma")
    clock.now += timedelta(minutes=4, seconds=0.5)
    await linq.contact_card.update(phone_number=EMPTY_LINE, first_name="Delta")
    await refused(linq.contact_card.create(phone_number=EMPTY_LINE, first_name="Gamma"), ConflictError, 2014)
    refusal = await refused(linq.contact_card.update(phone_number=EMPTY_LINE, first_name="Eps"), RateLimitError, 1007)
    assert refusal.retry_after == math.ceil(6 * 60 - 0.5)
    assert refusal.response.headers["retry-after"] == "360"
    await linq.contact_card.update(phone_number=LINE, first_name="another line")
    clock.now += timedelta(minutes=6)
    assert (await linq.contact_card.update(phone_number=EMPTY_LINE, first_name="Eps")).first_name == "Eps"


@pytest.mark.parametrize(("status", "code"), [(500, 2022), (503, 4004)])
async def test_a_card_whose_setup_did_not_complete_is_inactive_and_can_be_created_again(
    linq: AsyncLinqAPIV3, account: Account, status: int, code: int
) -> None:
    account.add_fault(Fault("create_card", status=status, code=code, times=1))
    create = linq.contact_card.create
    await refused(create(phone_number=EMPTY_LINE, first_name="Gamma"), InternalServerError, code)
    [card] = (await linq.contact_card.retrieve(phone_number=EMPTY_LINE)).contact_cards
    assert not card.is_active
    assert (await create(phone_number=EMPTY_LINE, first_name="Gamma")).is_active


async def test_an_update_that_upstream_limited_leaves_the_card_inactive(linq: AsyncLinqAPIV3, account: Account) -> None:
    account.add_fault(Fault("update_card", status=503, code=4004, line=LINE))
    await refused(linq.contact_card.update(phone_number=LINE, first_name="Acme"), InternalServerError, 4004)
    [card] = (await linq.contact_card.retrieve(phone_number=LINE)).contact_cards
    assert not card.is_active
    await refused(linq.chats.share_contact_card("chat"), NotFoundError, 2012)


# Sharing


async def test_a_share_takes_effect_and_is_logged_once(linq: AsyncLinqAPIV3, account: Account) -> None:
    await linq.chats.share_contact_card("chat")
    [call] = account.share_calls
    assert (call.chat_id, call.at, call.status, call.took_effect, call.trace_id) == ("chat", NOON, 202, True, None)
    assert account.calls_of("chat") == [call]


@pytest.mark.parametrize("service", ["SMS", "RCS"])
async def test_a_share_outside_imessage_is_accepted_and_has_no_effect(
    linq: AsyncLinqAPIV3, account: Account, service: str
) -> None:
    account.put_chat(chat("green", service=service))
    await linq.chats.share_contact_card("green")
    [call] = account.calls_of("green")
    assert call.status == 202
    assert not call.took_effect


async def test_a_share_on_an_rcs_line_is_accepted_and_has_no_effect(linq: AsyncLinqAPIV3, account: Account) -> None:
    account.put_line(Line(LINE, line_type="RCS"))
    await linq.chats.share_contact_card("chat")
    [call] = account.share_calls
    assert (call.status, call.took_effect) == (202, False)


async def test_a_share_without_a_prior_outbound_message_is_accepted_and_has_no_effect(
    linq: AsyncLinqAPIV3, account: Account
) -> None:
    account.put_chat(chat("silent", last_outbound_at=None))
    await linq.chats.share_contact_card("silent")
    [call] = account.calls_of("silent")
    assert call.status == 202
    assert not call.took_effect


async def test_an_unknown_chat_and_a_line_without_active_card_are_told_apart_by_their_code(
    linq: AsyncLinqAPIV3, account: Account
) -> None:
    unknown = await refused(linq.chats.share_contact_card("nobody"), NotFoundError, 2001)
    account.put_chat(chat("cardless", from_number=EMPTY_LINE))
    await refused(linq.chats.share_contact_card("cardless"), NotFoundError, 2012)
    [call] = account.calls_of("nobody")
    assert (call.status, call.trace_id) == (404, unknown.response.json()["trace_id"])


async def test_one_share_per_chat_in_five_minutes(linq: AsyncLinqAPIV3, account: Account, clock: StoppedClock) -> None:
    account.put_chat(chat("another"))
    await linq.chats.share_contact_card("chat")
    clock.now += timedelta(seconds=100.25)
    refusal = await refused(linq.chats.share_contact_card("chat"), RateLimitError, 1007)
    assert refusal.retry_after == 200
    assert refusal.response.headers["retry-after"] == "200"
    await linq.chats.share_contact_card("another")
    clock.now += timedelta(seconds=199.75)
    await linq.chats.share_contact_card("chat")
    assert [call.status for call in account.calls_of("chat")] == [202, 429, 202]


async def test_an_opted_out_recipient_is_blocked_in_every_chat_until_they_write_again(
    linq: AsyncLinqAPIV3, account: Account
) -> None:
    recipient = ("+15552000001",)
    account.put_chat(chat("marked", recipients=recipient, health_status="OPTED_OUT"))
    account.put_chat(chat("not marked", from_number=OTHER_LINE, recipients=recipient))
    account.put_chat(chat("group", recipients=(*recipient, "+15552000002"), is_group=True))
    await refused(linq.chats.share_contact_card("marked"), PermissionDeniedError, 2024)
    await refused(linq.chats.share_contact_card("not marked"), PermissionDeniedError, 2024)
    assert (await linq.chats.retrieve("marked")).health_status.status == "OPTED_OUT"
    assert (await linq.chats.retrieve("not marked")).health_status.status == "HEALTHY"
    await linq.chats.share_contact_card("group")
    account.put_chat(chat("marked", recipients=recipient))
    await linq.chats.share_contact_card("marked")


async def test_a_line_chat_or_number_that_linq_refuses_is_named_by_its_code(
    linq: AsyncLinqAPIV3, account: Account
) -> None:
    share = linq.chats.share_contact_card
    account.block(account.chats["chat"].recipients[0])
    await refused(share("chat"), PermissionDeniedError, 2026)
    account.put_line(Line(LINE, is_refused=True))
    await refused(share("chat"), PermissionDeniedError, 2027)
    account.put_chat(chat("chat", is_available=False))
    await refused(share("chat"), ConflictError, 2013)
    account.put_chat(chat("chat"))
    account.put_line(Line(LINE))
    account.unblock(account.chats["chat"].recipients[0])
    await share("chat")


async def test_a_share_by_another_program_limits_the_chat_and_is_not_ours(
    linq: AsyncLinqAPIV3, account: Account, clock: StoppedClock
) -> None:
    account.share_elsewhere("chat")
    clock.now += timedelta(seconds=60)
    assert (await refused(linq.chats.share_contact_card("chat"), RateLimitError, 1007)).retry_after == 240
    assert [call.took_effect for call in account.share_calls] == [False]


async def test_the_checks_of_a_share_come_in_linqs_order(linq: AsyncLinqAPIV3, account: Account) -> None:
    account.put_chat(chat("everything wrong", from_number=EMPTY_LINE, health_status="OPTED_OUT"))
    share = linq.chats.share_contact_card
    stranger = linq.with_options(api_key="wrong").chats.share_contact_card
    await refused(stranger("nobody"), AuthenticationError, 2004)
    await refused(share("nobody"), NotFoundError, 2001)
    await refused(share("everything wrong"), NotFoundError, 2012)
    account.put_card(EMPTY_LINE)
    await refused(share("everything wrong"), PermissionDeniedError, 2024)
    await share("chat")
    account.put_chat(chat("chat", health_status="OPTED_OUT"))
    await refused(share("chat"), PermissionDeniedError, 2024)
    account.deactivate_card(LINE)
    await refused(share("chat"), NotFoundError, 2012)


@pytest.mark.parametrize("chat_id", ["a/b", "a b", "a%2Fb", "Grüße 🙂", "a?b#c&d", "share_contact_card"])
async def test_a_chat_id_is_opaque_text(linq: AsyncLinqAPIV3, account: Account, chat_id: str) -> None:
    account.put_chat(chat(chat_id))
    assert (await linq.chats.retrieve(chat_id)).id == chat_id
    await linq.chats.share_contact_card(chat_id)
    assert [call.took_effect for call in account.calls_of(chat_id)] == [True]
    assert [message.chat_id async for message in linq.chats.messages.list(chat_id)] == [chat_id] * 6


async def test_by_default_the_sdk_repeats_a_share_and_the_log_shows_it(base_url: str, account: Account) -> None:
    account.add_fault(Fault("share", status=500, takes_effect=True, times=1))
    async with AsyncLinqAPIV3(api_key=SIMULATED_KEY, base_url=base_url, max_retries=1) as linq:
        await refused(linq.chats.share_contact_card("chat"), RateLimitError, 1007)
    assert [(call.status, call.took_effect) for call in account.calls_of("chat")] == [(500, True), (429, False)]


# Every endpoint


async def test_every_endpoint_wants_the_key(linq: AsyncLinqAPIV3, account: Account) -> None:
    for stranger in (linq.with_options(api_key="wrong"), linq.with_options(api_key=SIMULATED_KEY + "x")):
        await each_refused(stranger, AuthenticationError, 2004)
    assert account.cards[LINE].first_name == "Acme"
    assert not any(call.took_effect for call in account.share_calls)


async def test_an_account_without_permission_is_refused_everywhere(linq: AsyncLinqAPIV3, account: Account) -> None:
    account.access_denied = True
    await each_refused(linq, PermissionDeniedError, 2005)
    assert not any(call.took_effect for call in account.share_calls)


async def test_an_internal_error_can_be_asked_for_everywhere(linq: AsyncLinqAPIV3, account: Account) -> None:
    account.add_fault(Fault("*", status=500))
    await each_refused(linq, InternalServerError, 3006)
    assert account.cards[LINE].first_name == "Acme"


async def each_refused(linq: AsyncLinqAPIV3, error: type[APIStatusError], code: int) -> None:
    await refused(linq.contact_card.retrieve(), error, code)
    await refused(linq.contact_card.create(phone_number=EMPTY_LINE, first_name="X"), error, code)
    await refused(linq.contact_card.update(phone_number=LINE, first_name="X"), error, code)
    await refused(linq.chats.share_contact_card("chat"), error, code)
    await refused(linq.chats.retrieve("chat"), error, code)
    await refused(linq.phone_numbers.list(), error, code)
    await refused(linq.chats.list_chats(), error, code)
    await refused(linq.chats.messages.list("chat"), error, code)


async def test_the_blocking_client_is_content_too(base_url: str) -> None:
    def share_and_read() -> tuple[int, str | None]:
        with LinqAPIV3(api_key=SIMULATED_KEY, base_url=base_url, max_retries=0) as linq:
            linq.chats.share_contact_card("chat")
            with pytest.raises(RateLimitError) as caught:
                linq.chats.share_contact_card("chat")
            return caught.value.retry_after or 0, linq.chats.retrieve("chat").service

    assert await asyncio.to_thread(share_and_read) == (300, "iMessage")


# Chats, messages, lines


async def test_paging_visits_every_chat_once_in_a_stable_order(linq: AsyncLinqAPIV3, account: Account) -> None:
    populate(account, chats=240)
    for limit in (7, 100):
        listed = [chat.id async for chat in linq.chats.list_chats(limit=limit)]
        assert listed == list(account.chats)
    assert account.requests["list_chats"] == math.ceil(241 / 7) + math.ceil(241 / 100)


async def test_a_page_holds_twenty_chats_unless_told_and_the_last_one_has_no_cursor(
    linq: AsyncLinqAPIV3, account: Account
) -> None:
    for number in range(39):
        account.put_chat(chat(f"chat {number}"))
    first = await linq.chats.list_chats()
    assert len(first.chats) == 20
    second = await linq.chats.list_chats(cursor=first.next_cursor or "")
    assert len(second.chats) == 20
    assert second.next_cursor is None


async def test_chats_are_filtered_by_line_and_by_participant(linq: AsyncLinqAPIV3, account: Account) -> None:
    for number in range(5):
        account.put_chat(chat(f"other {number}", from_number=OTHER_LINE, recipients=(f"+1555200000{number}",)))
    by_line = [chat.id async for chat in linq.chats.list_chats(from_=OTHER_LINE, limit=2)]
    assert by_line == [f"other {number}" for number in range(5)]
    by_participant = [chat.id async for chat in linq.chats.list_chats(to="+15552000003")]
    assert by_participant == ["other 3"]
    assert [chat async for chat in linq.chats.list_chats(from_=EMPTY_LINE)] == []


@pytest.mark.parametrize("limit", [0, -1, 101, 1000])
async def test_a_limit_outside_1_to_100_is_refused(linq: AsyncLinqAPIV3, limit: int) -> None:
    await refused(linq.chats.list_chats(limit=limit), BadRequestError, 1005)
    await refused(linq.chats.messages.list("chat", limit=limit), BadRequestError, 1005)


async def test_a_cursor_is_good_for_the_listing_it_came_from(linq: AsyncLinqAPIV3, account: Account) -> None:
    for number in range(3):
        account.put_chat(chat(f"chat {number}"))
    cursor = (await linq.chats.list_chats(limit=1)).next_cursor
    assert cursor is not None
    for wrong in ("20", "!", cursor + "x", "ÿ"):
        await refused(linq.chats.list_chats(cursor=wrong), BadRequestError, 1005)
    await refused(linq.chats.list_chats(cursor=cursor, from_=LINE), BadRequestError, 1005)
    await refused(linq.chats.messages.list("chat", cursor=cursor), BadRequestError, 1005)


async def test_paging_visits_every_message_newest_first(linq: AsyncLinqAPIV3, account: Account) -> None:
    long_chat = Chat(
        id="long",
        from_number=LINE,
        last_outbound_at=NOON - timedelta(days=3),
        last_inbound_at=NOON,
        inbound_count=40,
        outbound_count=2,
    )
    account.put_chat(long_chat)
    listed = [message async for message in linq.chats.messages.list("long", limit=9)]
    assert [message.id for message in listed] == [message.id for message in messages_of(long_chat)]
    assert len({message.id for message in listed}) == 42
    times = [message.created_at for message in listed]
    assert times == sorted(times, reverse=True)
    outbound = [m.created_at for m in listed if m.is_from_me and m.delivery_status != "failed"]
    assert outbound[0] == long_chat.last_outbound_at


async def test_a_chat_without_outbound_may_hold_a_failed_one(linq: AsyncLinqAPIV3, account: Account) -> None:
    account.put_chat(chat("failed", last_outbound_at=None))
    [newest, *older] = [message async for message in linq.chats.messages.list("failed")]
    assert (newest.is_from_me, newest.delivery_status) == (True, "failed")
    assert not any(message.is_from_me for message in older)


async def test_an_unknown_chat_is_not_found(linq: AsyncLinqAPIV3, account: Account) -> None:
    await refused(linq.chats.retrieve("nobody"), NotFoundError, 2001)
    await refused(linq.chats.messages.list("nobody"), NotFoundError, 2001)
    account.remove_chat("chat")
    await refused(linq.chats.retrieve("chat"), NotFoundError, 2001)
    assert [chat async for chat in linq.chats.list_chats()] == []


async def test_a_chats_own_line_is_its_active_handle_that_is_me(linq: AsyncLinqAPIV3, account: Account) -> None:
    populate(account, chats=60)
    seen: set[str | None] = set()
    former = 0
    async for chat in linq.chats.list_chats(limit=100):
        [own] = [handle for handle in chat.handles if handle.is_me and handle.status == "active"]
        assert own.handle == account.chats[chat.id].from_number
        former += len([handle for handle in chat.handles if handle.is_me and handle.status == "left"])
        seen.add(chat.service)
        assert len(chat.handles) >= (3 if chat.is_group else 2)
    assert seen == {"iMessage", "SMS", "RCS", None}
    assert former > 0


async def test_the_lines_are_listed_with_type_and_reputation(linq: AsyncLinqAPIV3, account: Account) -> None:
    account.put_line(Line(EMPTY_LINE, line_type="RCS", reputation="CRITICAL"))
    lines = (await linq.phone_numbers.list()).phone_numbers
    assert [(line.phone_number, line.line_type, line.reputation.status) for line in lines] == [
        (LINE, "iMessage", "HEALTHY"),
        (OTHER_LINE, "iMessage", "HEALTHY"),
        (EMPTY_LINE, "RCS", "CRITICAL"),
    ]
