"""The webhooks of Linq: what an event says, and how it is signed; sends nothing.

Knows the shapes of payload version 2026-02-03, after the models of the official SDK (`linq-python` 0.65). `make_event`
and `signed` are plain functions: a test or a benchmark needs no server for them.
"""

import hashlib
import hmac
import json
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal
from uuid import uuid4

from standardwebhooks import Webhook

from worker.simulator.account import REPUTATIONS, Account, Card, Line
from worker.simulator.api import chat_document, handle_document, health_document, time_text
from worker.simulator.chats import Chat, derived_id

API_VERSION: Final = "v3"
PAYLOAD_VERSION: Final = "2026-02-03"

STATUSES: Final = ("ACTIVE", "FLAGGED")


@dataclass(frozen=True, slots=True, kw_only=True)
class _About:
    """What an event is made of: what the account knows, and what was given."""

    account: Account
    at: datetime
    chat: Chat | None
    phone_number: str | None
    message_id: str | None
    sent_at: datetime | None
    service: str | None
    handle: str | None
    new_status: str
    new_reputation: str | None

    def its_chat(self) -> Chat:
        """The chat.

        Raises:
            ValueError: None was named.
        """
        if self.chat is None:
            raise ValueError("chat_id: this kind of event is about a chat")
        return self.chat

    def its_line(self) -> str:
        """The line.

        Raises:
            ValueError: None was named.
        """
        if self.phone_number is None:
            raise ValueError("phone_number: this kind of event is about a line")
        return self.phone_number


def make_event(
    account: Account,
    kind: str,
    *,
    chat_id: str | None = None,
    phone_number: str | None = None,
    at: datetime,
    message_id: str | None = None,
    event_id: str | None = None,
    sent_at: datetime | None = None,
    service: str | None = None,
    handle: str | None = None,
    new_status: str = "ACTIVE",
    new_reputation: str | None = None,
) -> dict[str, object]:
    """An event as Linq would send it; nothing of the account changes.

    Args:
        account: Whose chat, line and card the event describes.
        kind: One of `KINDS`.
        chat_id: The chat: for `message.*`, `chat.created`, and for `contact_card.received` in place of line and handle.
        phone_number: The line: for `phone_number.*` and `contact_card.*`. Without one, `contact_card.created` and its
            like leave the line out, as Linq may.
        at: When it happened, aware: the event's `created_at`, and the time in its data.
        message_id: The message; a new one if left out.
        event_id: The event; a new one if left out.
        sent_at: When the message was sent; `at` if left out.
        service: The message's service; the chat's if left out.
        handle: Who shared their card; the chat's recipient if left out.
        new_status: `ACTIVE` or `FLAGGED`, for `phone_number.status_updated`.
        new_reputation: For the same; the line's if left out.

    Raises:
        ValueError: The kind, the chat or a new_... is unknown, or the chat or line that the kind is about is missing.
    """
    if kind not in _DATA:
        raise ValueError(f"kind: {kind!r} is none of {', '.join(KINDS)}")
    if new_status not in STATUSES or new_reputation not in (None, *REPUTATIONS):
        raise ValueError(f"new_status: one of {', '.join(STATUSES)}; new_reputation: one of {', '.join(REPUTATIONS)}")
    line = line_of(account, chat_id=chat_id, phone_number=phone_number)
    about = _About(
        account=account,
        at=at,
        chat=None if chat_id is None else account.chats[chat_id],
        phone_number=line,
        message_id=message_id,
        sent_at=sent_at,
        service=service,
        handle=handle,
        new_status=new_status,
        new_reputation=new_reputation,
    )
    return {
        "api_version": API_VERSION,
        "webhook_version": PAYLOAD_VERSION,
        "event_type": kind,
        "event_id": event_id or str(uuid4()),
        "created_at": time_text(at),
        "trace_id": uuid4().hex,
        "partner_id": derived_id("partner"),
        "data": _DATA[kind](about),
    }


def line_of(account: Account, *, chat_id: str | None, phone_number: str | None) -> str | None:
    """The line that an event concerns: the one that is named, or the chat's.

    Raises:
        ValueError: There is no such chat.
    """
    if chat_id is not None and chat_id not in account.chats:
        raise ValueError(f"chat_id: there is no chat {chat_id!r}")
    return phone_number if phone_number is not None or chat_id is None else account.chats[chat_id].from_number


def signed(
    event: Mapping[str, object], secret: str, at: datetime, *, subscription_id: str = "", body: str | None = None
) -> tuple[dict[str, str], bytes]:
    """The headers and the body of an event that is sent at this time (aware): Standard Webhooks', and Linq's older.

    With a `body` of its own, that one is signed and sent in place of the event.
    """
    text = json.dumps(event) if body is None else body
    event_id, timestamp = str(event["event_id"]), str(int(at.timestamp()))
    key = b64decode(secret.removeprefix("whsec_"))
    headers = {
        "content-type": "application/json",
        "user-agent": "linq-simulator",
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": Webhook(secret).sign(event_id, at.astimezone(UTC), text),  # it takes any time for UTC
        "x-webhook-event": str(event["event_type"]),
        "x-webhook-subscription-id": subscription_id,
        "x-webhook-timestamp": timestamp,
        "x-webhook-signature": hmac.new(key, f"{timestamp}.{text}".encode(), hashlib.sha256).hexdigest(),
    }
    return headers, text.encode()


# What the events say: `data`, by their kind.


def _message(about: _About, *, is_outbound: bool, is_delivered: bool = False, is_read: bool = False) -> object:
    chat = about.its_chat()
    account, sent_at, at = about.account, about.sent_at or about.at, time_text(about.at)
    return {
        "id": about.message_id or str(uuid4()),
        "chat": {
            "id": chat.id,
            "is_group": chat.is_group,
            "owner_handle": handle_document(account, chat, chat.from_number),
            "health_status": health_document(chat),
        },
        "direction": "outbound" if is_outbound else "inbound",
        "sender_handle": handle_document(account, chat, chat.from_number if is_outbound else chat.recipients[0]),
        "service": about.service or chat.service or "iMessage",
        "sent_at": time_text(sent_at),
        "delivered_at": at if is_delivered else None,
        "read_at": at if is_read else None,
        "parts": [{"type": "text", "value": "Simulated message"}],
    }


def _failed_message(about: _About) -> object:
    chat = about.its_chat()
    return {
        "code": 4001,
        "failed_at": time_text(about.at),
        "chat_id": chat.id,
        "message_id": about.message_id or str(uuid4()),
        "service": about.service or chat.service or "iMessage",
        "reason": "Simulated failure",
    }


def _new_chat(about: _About) -> object:
    return chat_document(about.account, about.its_chat())


def _changed_card(about: _About, change: Literal["created", "updated", "deleted"]) -> object:
    """An account event: made by somebody on Linq's dashboard."""
    number = about.phone_number
    card = about.account.cards.get(number or "") or Card(number or "", "Acme")
    document: dict[str, object] = {
        "summary": f"Contact card {change}",
        "occurred_at": time_text(about.at),
        "actor": {"type": "team_member", "id": derived_id("member"), "name": "Ann", "email": "ann@example.com"},
        "origin": "dashboard",
        "contact_card": {
            "id": derived_id("card", card.phone_number),
            "first_name": card.first_name,
            "last_name": card.last_name,
            "image_url": card.image_url,
        },
    }
    if number is not None:
        document["phone_number"] = number
    if change == "updated":
        document["change"] = {"first_name": {"from": "Former", "to": card.first_name}}
    return document


def _received_card(about: _About) -> object:
    handle = about.handle or (about.chat.recipients[0] if about.chat is not None else None)
    if handle is None:
        raise ValueError("handle: say who shared their card, or in which chat (chat_id)")
    return {
        "owner_handle": about.its_line(),
        "sender_handle": handle,
        "first_name": "Ann",
        "last_name": "",
        "media_url": None,
    }


def _line_status(about: _About) -> object:
    number = about.its_line()
    line = about.account.lines.get(number) or Line(number)
    return {
        "phone_number": number,
        "previous_reputation": line.reputation,
        "previous_status": "ACTIVE",
        "new_reputation": about.new_reputation or line.reputation,
        "new_status": about.new_status,
        "changed_at": time_text(about.at),
    }


def _line_owner(about: _About) -> object:
    return {"phone_number": about.its_line(), "changed_at": time_text(about.at)}


_DATA: Final[Mapping[str, Callable[[_About], object]]] = {
    "message.sent": lambda about: _message(about, is_outbound=True),
    "message.delivered": lambda about: _message(about, is_outbound=True, is_delivered=True),
    "message.received": lambda about: _message(about, is_outbound=False),
    "message.read": lambda about: _message(about, is_outbound=True, is_delivered=True, is_read=True),
    "message.failed": _failed_message,
    "chat.created": _new_chat,
    "contact_card.created": lambda about: _changed_card(about, "created"),
    "contact_card.updated": lambda about: _changed_card(about, "updated"),
    "contact_card.deleted": lambda about: _changed_card(about, "deleted"),
    "contact_card.received": _received_card,
    "phone_number.status_updated": _line_status,
    "phone_number.assigned": _line_owner,
    "phone_number.released": _line_owner,
}

KINDS: Final = tuple(_DATA)
"""The events that can be sent."""
