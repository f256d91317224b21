"""`POST /webhooks/linq`, as Linq meets it: signed events over real HTTP, and what they leave in the tables."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Final

import httpx
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from tests.databases import sqlite_only
from tests.scene import LINE, Scene
from worker import db
from worker.chats.sources import Source, read_sources
from worker.clock import SystemClock
from worker.db.tables import chats, contact_cards, lines
from worker.linq.client import Linq
from worker.service.inbox import Inbox
from worker.service.metrics import Metrics
from worker.simulator.account import Line
from worker.web.app import HEADERS, make_app
from worker.web.server import serving_app
from worker.web.webhooks import LARGEST_BODY, webhook_route

SECRET: Final = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes....").decode()
OLD_SECRET: Final = "whsec_" + base64.b64encode(b"another secret, the old one.....").decode()
PERSON: Final = "+15557770001"


def handle(number: str, *, is_me: bool) -> dict[str, object]:
    return {"id": "h", "handle": number, "service": "iMessage", "is_me": is_me, "joined_at": "2026-01-01T00:00:00Z"}


def event(kind: str, data: dict[str, object], at: datetime | None = None) -> dict[str, object]:
    return {
        "api_version": "v3",
        "webhook_version": "2026-02-03",
        "event_type": kind,
        "event_id": f"{kind}-{json.dumps(data, sort_keys=True, default=str)}"[:60],
        "created_at": (at or datetime.now(UTC)).isoformat(),
        "trace_id": "t",
        "partner_id": "p",
        "data": data,
    }


def message(kind: str, at: datetime, *, chat_id: str = "chat", health: str = "HEALTHY") -> dict[str, object]:
    is_inbound = kind == "message.received"
    data: dict[str, object] = {
        "id": f"m-{at.timestamp()}",
        "chat": {
            "id": chat_id,
            "is_group": False,
            "owner_handle": handle(LINE, is_me=True),
            "health_status": {"status": health, "updated_at": at.isoformat(), "doc_url": "https://docs"},
        },
        "direction": "inbound" if is_inbound else "outbound",
        "service": "iMessage",
        "sent_at": at.isoformat(),
        "sender_handle": handle(PERSON if is_inbound else LINE, is_me=not is_inbound),
        "parts": [],
        "a field of tomorrow": [None],
    }
    return event(kind, data, at)


class Sender:
    """Sends what Linq would send."""

    def __init__(self, client: httpx.AsyncClient, metrics: Metrics) -> None:
        self.client = client
        self._metrics = metrics

    async def __call__(
        self, document: dict[str, object] | bytes, *, secret: str = SECRET, at: datetime | None = None
    ) -> int:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        at = at or datetime.now(UTC)
        headers = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": Webhook(secret).sign("msg_1", at, body.decode("utf-8", "replace")),
        }
        return (await self.client.post("/webhooks/linq", content=body, headers=headers)).status_code

    def counted(self, kind: str, result: str) -> float:
        labels = {"kind": kind, "result": result}
        return self._metrics.registry.get_sample_value("share_worker_webhooks_total", labels) or 0.0


@pytest.fixture
def linq(live: Scene) -> Scene:
    return live


@pytest.fixture
async def send(linq: Scene) -> AsyncIterator[Sender]:
    metrics = Metrics(CollectorRegistry())

    async def unready() -> list[str]:
        return []

    async with Linq(linq.account.api_key, base_url=linq.base_url, timeout=2) as client:
        inbox = Inbox(linq.engine, client, SystemClock())
        route = webhook_route([SECRET, OLD_SECRET], inbox.take, metrics.webhook, HEADERS)
        app = make_app(unready=unready, registry=metrics.registry, webhooks=[route])
        async with serving_app(app, host="127.0.0.1", port=0) as url, httpx.AsyncClient(base_url=url) as http:
            yield Sender(http, metrics)
            await inbox.finished()


async def row(scene: Scene, chat_id: str = "chat") -> dict[str, object]:
    async with db.read(scene.engine) as connection:
        found = await connection.execute(select(chats).where(chats.c.id == chat_id))
        return dict(found.mappings().one())


def seconds_ago(seconds: float) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=seconds)


# Who is let in


@sqlite_only
async def test_what_linq_did_not_sign_is_refused_and_leaves_no_trace_but_a_count(linq: Scene, send: Sender) -> None:
    await linq.add_chat("chat", last_outbound_at=None)
    document = message("message.sent", seconds_ago(5))
    wrong = "whsec_" + base64.b64encode(b"a secret that somebody guessed..").decode()
    with capture_logs() as logs:
        assert await send(document, secret=wrong) == 401
        assert await send(document, at=seconds_ago(301)) == 401
        assert await send(document, at=seconds_ago(-301)) == 401
        assert (await send.client.post("/webhooks/linq", json=document)).status_code == 401
        headers = {"webhook-id": "x", "webhook-timestamp": "soon", "webhook-signature": "v1"}
        assert (await send.client.post("/webhooks/linq", json=document, headers=headers)).status_code == 401
        assert (await send.client.get("/webhooks/linq")).status_code == 405
    assert logs == []
    assert (await row(linq))["last_outbound_at"] is None
    assert send.counted("other", "refused") == 5
    assert await send(document, secret=OLD_SECRET) == 204, "while it is rotated, both are in force"


@sqlite_only
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"event_type": 5}', 400),
        (b"\xff\xfe", 401),
        (b'"' + b"x" * LARGEST_BODY + b'"', 413),
        (b'{"event_type": "message.sent"}', 204),
        (b'{"event_type": "message.sent", "created_at": "2026-01-01T00:00:00Z", "data": {"chat": []}}', 204),
        (b'{"event_type": "poll.sent", "created_at": "2026-01-01T00:00:00Z", "data": {}}', 204),
        (b'{"event_type": "brand.new", "data": null}', 204),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_a_body_that_is_none_is_refused_and_an_event_that_does_not_concern_us_is_not(
    send: Sender, body: bytes, status: int
) -> None:
    assert await send(body) == status


# What is written


async def test_messages_change_the_chat_before_linq_is_answered(linq: Scene, send: Sender) -> None:
    await linq.add_chat("chat", last_outbound_at=None)
    sent, received = seconds_ago(20), seconds_ago(10)
    assert await send(message("message.sent", sent)) == 204
    assert (await row(linq))["last_outbound_at"] == sent
    assert await send(message("message.received", received, health="OPTED_OUT")) == 204
    chat = await row(linq)
    assert (chat["last_inbound_at"], chat["handle"]) == (received, PERSON)
    assert (chat["health_status"], chat["opted_out_at"]) == ("OPTED_OUT", received)
    failed = event("message.failed", {"code": 4001, "failed_at": seconds_ago(1).isoformat(), "message_id": "m-1"})
    failed["data"]["message_id"] = f"m-{sent.timestamp()}"  # type: ignore[index] # a dict
    assert await send(failed) == 204
    assert (await row(linq))["last_outbound_at"] is None
    assert send.counted("message.sent", "written") == 1
    async with db.read(linq.engine) as connection:
        heard_at = (await read_sources(connection))[Source.WEBHOOKS].heard_at
    assert heard_at is not None
    assert heard_at > sent


async def test_a_chat_first_heard_of_is_added_as_linq_has_it(linq: Scene, send: Sender) -> None:
    chat = await linq.add_chat("chat", service="SMS")
    async with db.write(linq.engine) as connection:
        await connection.execute(chats.delete())
    at = seconds_ago(5)
    assert await send(message("message.delivered", at)) == 204
    new = await row(linq)
    assert (new["service"], new["last_outbound_at"], new["from_number"]) == ("SMS", at, LINE)
    assert new["handle"] == chat.recipients[0]
    assert await send(message("message.sent", at, chat_id="nobody")) == 204, "Linq has no such chat"
    linq.account.api_key = "another"
    assert await send(message("message.sent", at, chat_id="later")) == 503, "Linq cannot be asked now"


@sqlite_only
async def test_cards_and_lines_are_read_again_when_linq_says_that_they_changed(linq: Scene, send: Sender) -> None:
    linq.account.put_line(Line("+15550100009"))
    for kind in ("contact_card.updated", "phone_number.assigned"):
        assert await send(event(kind, {"phone_number": LINE, "changed_at": seconds_ago(1).isoformat()})) == 204
    async with db.read(linq.engine) as connection:
        assert set((await connection.execute(select(lines.c.phone_number))).scalars()) == {LINE, "+15550100009"}
        assert set((await connection.execute(select(contact_cards.c.phone_number))).scalars()) == {LINE}
    flagged: dict[str, object] = {"phone_number": LINE, "new_reputation": "AT_RISK", "new_status": "FLAGGED"}
    changed_at = datetime.now(UTC).isoformat()
    assert await send(event("phone_number.status_updated", flagged | {"changed_at": changed_at})) == 204
    async with db.read(linq.engine) as connection:
        statement = select(lines.c.status).where(lines.c.phone_number == LINE)
        assert (await connection.execute(statement)).scalar_one() == "FLAGGED"


@sqlite_only
async def test_a_card_that_was_received_finds_its_chat_even_if_the_table_knows_no_person(
    linq: Scene, send: Sender
) -> None:
    chat = await linq.add_chat("chat")
    at = seconds_ago(5)
    data: dict[str, object] = {"owner_handle": LINE, "sender_handle": chat.recipients[0], "first_name": "Ann"}
    assert await send(event("contact_card.received", data, at)) == 204
    found = await row(linq)
    assert (found["card_received_at"], found["handle"]) == (at, chat.recipients[0])


@sqlite_only
async def test_hundreds_at_once_are_all_written(linq: Scene, send: Sender) -> None:
    for number in range(40):
        await linq.add_chat(f"chat-{number}", last_outbound_at=None)
    times = [seconds_ago(1000 - number) for number in range(400)]
    slots = asyncio.Semaphore(50)

    async def one(number: int) -> int:
        async with slots:
            return await send(message("message.delivered", times[number], chat_id=f"chat-{number % 40}"))

    assert set(await asyncio.gather(*map(one, range(400)))) == {204}
    assert [(await row(linq, f"chat-{number}"))["last_outbound_at"] for number in range(40)] == times[-40:]


async def test_while_the_database_is_away_linq_is_asked_to_send_it_again(linq: Scene, send: Sender) -> None:
    await linq.add_chat("chat", last_outbound_at=None)
    document = message("message.sent", seconds_ago(5))
    async with db.write(linq.engine) as connection:
        await connection.exec_driver_sql("ALTER TABLE sent_messages RENAME TO away")
    assert await send(document) == 503
    assert send.counted("message.sent", "failed") == 1
    async with db.write(linq.engine) as connection:
        await connection.exec_driver_sql("ALTER TABLE away RENAME TO sent_messages")
    assert await send(document) == 204
    assert (await row(linq))["last_outbound_at"] is not None
