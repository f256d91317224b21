"""The simulated webhooks are faithful if Linq's own SDK subscribes to them, verifies them and knows every field."""

import hashlib
import hmac
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import get_args

import httpx
import linq.types
import pytest
from linq import AsyncLinqAPIV3, BadRequestError, ConflictError, NotFoundError
from linq.types import WebhookEventType
from pydantic import BaseModel
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.types import Receive, Scope, Send

from tests.official_sdk import strict_sdk
from worker.linq import webhooks as worker_webhooks
from worker.simulator.account import Account, utc_now
from worker.simulator.chats import Chat
from worker.simulator.server import serving
from worker.simulator.subscriptions import EVENT_TYPES, new_secret
from worker.simulator.webhooks import KINDS, make_event, signed
from worker.web.server import serving_app

LINE = "+14155550100"
OTHER_LINE = "+14155550101"
HOOK = "https://worker.example.com/webhooks/linq?version=2026-02-03"


@dataclass
class Receiver:
    """A program that takes webhooks, and answers what it is told to."""

    url: str = ""
    status: int = 204
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.got.append(({str(name, "ascii"): str(value, "ascii") for name, value in scope["headers"]}, body))
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def events(self) -> list[tuple[str, str]]:
        """What arrived: type and id of each event."""
        return [(headers["x-webhook-event"], headers["webhook-id"]) for headers, _ in self.got]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with serving_app(receiver, host="127.0.0.1", port=0) as url:
        receiver.url = f"{url}/webhooks/linq"
        yield receiver


@pytest.fixture
def account() -> Account:
    """In the machine's time: the SDK refuses an event that was signed at another one."""
    account = Account()
    account.put_card(LINE, "Acme", "Support", "https://example.com/a.png")
    account.put_chat(Chat(id="chat", from_number=LINE, last_outbound_at=utc_now()))
    account.put_chat(Chat(id="group", from_number=OTHER_LINE, is_group=True, recipients=("+15550001", "+15550002")))
    return account


@pytest.fixture
async def base_url(account: Account) -> AsyncIterator[str]:
    async with serving(account) as url:
        yield url


@pytest.fixture
async def sdk(base_url: str) -> AsyncIterator[AsyncLinqAPIV3]:
    async with strict_sdk(base_url) as client:
        yield client


@pytest.fixture
async def http(base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=base_url) as client:
        yield client


# subscriptions


async def test_the_sdk_subscribes_looks_changes_and_ends(sdk: AsyncLinqAPIV3) -> None:
    hooks = sdk.webhook_subscriptions
    made = await hooks.create(target_url=HOOK, subscribed_events=["message.sent", "chat.created"])
    assert len(b64decode(made.signing_secret.removeprefix("whsec_"), validate=True)) == 32
    assert (made.target_url, made.is_active, made.phone_numbers) == (HOOK, True, None)
    [listed] = (await hooks.list()).subscriptions
    assert listed.id == made.id
    assert "signing_secret" not in listed.model_dump(), "shown once"
    changed = await hooks.update(made.id, phone_numbers=[LINE], is_active=False, subscribed_events=["message.read"])
    seen = await hooks.retrieve(made.id)
    assert seen == changed
    assert (seen.phone_numbers, seen.is_active, seen.subscribed_events) == ([LINE], False, ["message.read"])
    assert (await hooks.update(made.id, phone_numbers=None, target_url=HOOK)).phone_numbers is None
    await hooks.delete(made.id)
    assert (await hooks.list()).subscriptions == []
    with pytest.raises(NotFoundError):
        await hooks.delete(made.id)


async def test_a_target_url_is_used_once(sdk: AsyncLinqAPIV3) -> None:
    hooks = sdk.webhook_subscriptions
    await hooks.create(target_url=HOOK, subscribed_events=["message.sent"])
    other = await hooks.create(target_url=f"{HOOK}&line=1", subscribed_events=["message.sent"])
    with pytest.raises(ConflictError):
        await hooks.create(target_url=HOOK, subscribed_events=["message.read"])
    with pytest.raises(ConflictError):
        await hooks.update(other.id, target_url=HOOK)


@pytest.mark.parametrize(
    "wrong",
    [
        {"target_url": "http://worker.example.com/hook"},
        {"target_url": "https://"},
        {"target_url": None},
        {"subscribed_events": ["message.sent", "message.vanished"]},
        {"subscribed_events": []},
        {"subscribed_events": "message.sent"},
        {"phone_numbers": ["4155550100"]},
    ],
)
async def test_what_linq_would_refuse_is_refused(
    sdk: AsyncLinqAPIV3, account: Account, wrong: dict[str, object]
) -> None:
    body = {"target_url": HOOK, "subscribed_events": ["message.sent"], **wrong}
    with pytest.raises(BadRequestError):
        await sdk.post("/v3/webhook-subscriptions", body=body, cast_to=object)
    assert account.subscriptions == {}


def test_the_event_types_are_those_of_the_sdk_and_all_that_the_worker_reads_can_be_sent() -> None:
    assert sorted(EVENT_TYPES) == sorted(get_args(WebhookEventType))
    assert KINDS == worker_webhooks.KINDS


# what is sent


def unknown_fields(value: object) -> Iterator[str]:
    """The fields that the SDK's models do not name."""
    if isinstance(value, BaseModel):
        yield from value.model_extra or ()
        for name in type(value).model_fields:
            yield from unknown_fields(getattr(value, name))
    elif isinstance(value, list):
        for item in value:
            yield from unknown_fields(item)


@pytest.mark.parametrize("chat_id", ["chat", "group"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_sdk_verifies_and_knows_each_event(account: Account, kind: str, chat_id: str) -> None:
    secret, now = new_secret(), utc_now()
    event = make_event(account, kind, chat_id=chat_id, at=now)
    headers, body = signed(event, secret, now)
    client = AsyncLinqAPIV3(api_key="none")
    unwrapped = client.webhooks.unwrap(body.decode(), headers=headers, key=secret)
    assert (unwrapped.event_type, unwrapped.event_id) == (kind, headers["webhook-id"])
    # The SDK takes the first model that fits. The one of this kind must fit too, and leave nothing over.
    name = kind.replace("_", " ").replace(".", " ").title().replace(" ", "")
    model: type[BaseModel] = getattr(linq.types, f"{name}WebhookEvent")
    typed = model.model_validate_json(body, strict=True)
    chat_fields_without_a_model = {"is_archived", "group_chat_icon"} if kind == "chat.created" else set()
    assert set(unknown_fields(typed)) == chat_fields_without_a_model


@pytest.mark.parametrize("kind", KINDS)
def test_the_worker_verifies_and_reads_each_event(account: Account, kind: str) -> None:
    secret, now = new_secret(), utc_now()
    headers, body = signed(make_event(account, kind, chat_id="chat", at=now), secret, now)
    worker_webhooks.verify([secret], headers, body)
    read_kind, event = worker_webhooks.read_event(body)
    assert read_kind == kind
    assert event is not None


def test_the_times_of_a_message_tell_its_state(account: Account) -> None:
    now = utc_now()
    states = {}
    for kind in ("message.sent", "message.received", "message.delivered", "message.read"):
        data = make_event(account, kind, chat_id="chat", at=now)["data"]
        assert isinstance(data, dict)
        times = tuple(data[name] is not None for name in ("sent_at", "delivered_at", "read_at"))
        states[kind] = (data["direction"], data["sender_handle"]["is_me"], *times)
    assert states == {
        "message.sent": ("outbound", True, True, False, False),
        "message.received": ("inbound", False, True, False, False),
        "message.delivered": ("outbound", True, True, True, False),
        "message.read": ("outbound", True, True, True, True),
    }


async def test_each_active_subscription_gets_the_events_that_it_wants(
    http: httpx.AsyncClient, account: Account, receiver: Receiver
) -> None:
    def subscribe(name: str, *kinds: str, lines: tuple[str, ...] = ()) -> str:
        return account.subscribe(f"{receiver.url}?{name}", kinds, lines).id

    all_lines, of_line = subscribe("all", "message.sent", "chat.created"), subscribe("a", "message.sent", lines=(LINE,))
    subscribe("b", "message.sent", lines=(OTHER_LINE,))
    subscribe("c", "message.read")
    account.change_subscription(subscribe("d", "message.sent"), is_active=False)
    receiver.status = 503
    answer = await http.post("/_simulator/events", json={"kind": "message.sent", "chat_id": "chat", "event_id": "e1"})
    assert [(one["subscription_id"], one["status"], one["event_id"]) for one in answer.json()["deliveries"]] == [
        (all_lines, 503, "e1"),
        (of_line, 503, "e1"),
    ]
    for headers, body in receiver.got:
        secret = account.subscriptions[headers["x-webhook-subscription-id"]].secret
        event = Webhook(secret).verify(body, headers)
        assert event["data"]["chat"]["id"] == "chat"
        signed_content = headers["x-webhook-timestamp"].encode() + b"." + body
        key = b64decode(secret.removeprefix("whsec_"))
        assert headers["x-webhook-signature"] == hmac.new(key, signed_content, hashlib.sha256).hexdigest()


async def test_a_receiver_that_is_down_is_told(http: httpx.AsyncClient, account: Account, refusing_port: int) -> None:
    account.subscribe(f"http://127.0.0.1:{refusing_port}/", ["chat.created"])
    answer = await http.post("/_simulator/events", json={"kind": "chat.created", "chat_id": "chat"})
    [delivery] = answer.json()["deliveries"]
    assert delivery["status"] is None
    assert delivery["error"].startswith("ConnectError")


async def test_events_come_twice_and_out_of_order(
    http: httpx.AsyncClient, account: Account, receiver: Receiver
) -> None:
    account.subscribe(receiver.url, KINDS)
    kinds = ["message.sent", "message.delivered", "message.read"]
    order = {"kind": kinds, "chat_id": "chat", "times": 2, "reversed": True, "at": "2026-03-10T09:30:00Z"}
    assert (await http.post("/_simulator/events", json=order)).status_code == 200
    assert [kind for kind, _ in receiver.events()] == [kind for kind in kinds[::-1] for _ in range(2)]
    assert len(set(receiver.events())) == 3, "the second one is the same event"
    events = [json.loads(body) for _, body in receiver.got]
    assert [event["created_at"][-3:] for event in events] == ["02Z", "02Z", "01Z", "01Z", "00Z", "00Z"]
    assert len({event["data"]["id"] for event in events}) == 1, "one message"


@pytest.mark.parametrize("broken", ["signature", "timestamp", "json", "large"])
async def test_an_event_is_broken_in_one_way_only(
    http: httpx.AsyncClient, account: Account, receiver: Receiver, broken: str
) -> None:
    secret = account.subscribe(receiver.url, ["chat.created"]).secret
    await http.post("/_simulator/events", json={"kind": "chat.created", "chat_id": "chat", "broken": broken})
    [(headers, body)] = receiver.got
    refusals = {"signature": "No matching signature", "timestamp": "too old"}
    if broken in refusals:
        with pytest.raises(WebhookVerificationError, match=refusals[broken]):
            Webhook(secret).verify(body, headers)
    else:
        Webhook(secret).verify(body, headers, json_parse=False)
    assert (len(body) > 2_000_000) == (broken == "large")
    if broken == "json":
        with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
            json.loads(body)
    else:
        json.loads(body)


@pytest.mark.parametrize(
    ("order", "complaint"),
    [
        ([], "a JSON object with kind, chat_id"),
        ({}, "kind: must be the name"),
        ({"kind": []}, "kind: must be the name"),
        ({"kind": "message.sunk"}, "kind: 'message.sunk' is none of message.sent"),
        ({"kind": "message.sent"}, "chat_id: this kind of event is about a chat"),
        ({"kind": "message.sent", "chat_id": "nobody"}, "chat_id: there is no chat 'nobody'"),
        ({"kind": "phone_number.assigned"}, "phone_number: this kind of event is about a line"),
        ({"kind": "contact_card.received", "phone_number": LINE}, "handle: say who"),
        ({"kind": "chat.created", "chat_id": 1}, "chat_id: must be text, not 1"),
        ({"kind": "chat.created", "chat_id": "chat", "times": 0}, "times: must be a whole number from 1"),
        ({"kind": "chat.created", "chat_id": "chat", "reversed": 1}, "reversed: must be true or false"),
        ({"kind": "chat.created", "chat_id": "chat", "delay_seconds": -1}, "delay_seconds: must be a number from 0"),
        ({"kind": "chat.created", "chat_id": "chat", "broken": "heart"}, "broken: must be one of signature"),
        ({"kind": "chat.created", "chat_id": "chat", "at": "noon"}, "at: must be a time such as"),
        ({"kind": "chat.created", "chat_id": "chat", "color": "red"}, "'color' is no part of an order"),
        (
            {"kind": "phone_number.status_updated", "phone_number": LINE, "new_status": "BAD"},
            "new_status: one of ACTIVE",
        ),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused_in_one_line(
    http: httpx.AsyncClient, account: Account, receiver: Receiver, order: object, complaint: str
) -> None:
    account.subscribe(receiver.url, KINDS)
    answer = await http.post("/_simulator/events", json=order)
    assert answer.status_code == 400
    assert complaint in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert receiver.got == []
