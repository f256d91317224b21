"""Linq's webhooks: which events concern the worker, whether a request is really from Linq, and what it says.

Source of the shapes: the models of the official SDK (`linq-python` 0.65), payload version 2026-02-03.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from standardwebhooks import Webhook, WebhookVerificationError

from worker.linq.answers import Chat, Json, read_chat, read_json, text_field, time_field

PAYLOAD_VERSION: Final = "2026-02-03"
"""Chosen by `?version=` in the URL of a subscription."""

KINDS: Final = (
    *("message.sent", "message.delivered", "message.received", "message.read", "message.failed"),
    "chat.created",
    *("contact_card.created", "contact_card.updated", "contact_card.deleted", "contact_card.received"),
    *("phone_number.status_updated", "phone_number.assigned", "phone_number.released"),
)
"""The events that concern the worker."""

TIMESTAMP_SECONDS: Final = 5 * 60
"""An older request is refused, or somebody could repeat one that was overheard. `standardwebhooks` has the same."""


class ForgedError(Exception):
    """The request is not from Linq, or too old, or its body is none of Linq's; the message says which."""


class UnavailableError(Exception):
    """What the event says cannot be written now; Linq is to send it again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageEvent:
    """A message was sent, delivered or read (outbound), or received.

    Attributes:
        at: when it was sent; where Linq leaves that out, when what happened to it happened.
        has_arrived: it was delivered or read, so it did not fail.
        sender: who sent it, a phone number or an email address.
        health_updated_at: since when the chat has this health.
    """

    chat_id: str
    message_id: str
    at: datetime
    is_outbound: bool
    has_arrived: bool
    is_group: bool | None
    sender: str | None
    health_status: str | None
    health_updated_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageFailed:
    """A message could not be delivered; Linq does not always name its chat."""

    message_id: str
    chat_id: str | None
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatCreated:
    """A chat was made."""

    chat: Chat
    at: datetime

    @property
    def chat_id(self) -> str:
        """The chat's id."""
        return self.chat.id


@dataclass(frozen=True, kw_only=True, slots=True)
class CardReceived:
    """A person (phone number or email address) shared their own card with a line."""

    line: str
    sender: str
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class LineChanged:
    """A line has another status or reputation."""

    phone_number: str
    reputation: str | None
    status: str | None
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class AccountChanged:
    """The account's lines or cards changed: they must be read again."""


ChatEvent = MessageEvent | MessageFailed | ChatCreated
Event = ChatEvent | CardReceived | LineChanged | AccountChanged


def verify(secrets: Sequence[str], headers: Mapping[str, str], body: bytes) -> None:
    """Check the signature of a request (Standard Webhooks) against the secrets in force, and its age.

    Raises:
        ForgedError: it is not signed with one of them, or too old.
    """
    for secret in secrets:
        try:
            Webhook(secret).verify(body, dict(headers), json_parse=False)
        except (WebhookVerificationError, ValueError):
            continue  # ValueError: headers or a body that are no text, or no base64
        return
    msg = "no signature of a secret in force, or older than five minutes"
    raise ForgedError(msg)


def read_event(body: bytes) -> tuple[str, Event | None]:
    """The kind of event, and what it says; None if it does not concern the worker, or lacks what would.

    Raises:
        ForgedError: the body is no event at all.
    """
    envelope = read_json(body)
    kind = envelope.get("event_type") if isinstance(envelope, Mapping) else None
    if not isinstance(envelope, Mapping) or not isinstance(kind, str):
        msg = "the body is no event of Linq's"
        raise ForgedError(msg)
    data = envelope.get("data")
    at = time_field(envelope, "created_at")
    if kind not in KINDS or not isinstance(data, Mapping) or at is None:
        return kind, None
    reader = _READERS.get(kind.partition(".")[0], _account)
    return kind, _READERS.get(kind, reader)(kind, data, at)


def _message(kind: str, data: Json, at: datetime) -> MessageEvent | None:
    chat = data.get("chat")
    message_id = text_field(data, "id")
    if not isinstance(chat, Mapping) or not (chat_id := text_field(chat, "id")) or not message_id:
        return None
    health = chat.get("health_status")
    health = health if isinstance(health, Mapping) else {}
    sender = data.get("sender_handle")
    is_group = chat.get("is_group")
    times = (time_field(data, name) for name in ("sent_at", "delivered_at", "read_at"))
    return MessageEvent(
        chat_id=chat_id,
        message_id=message_id,
        at=next(filter(None, times), at),
        is_outbound=data.get("direction") == "outbound",
        has_arrived=kind in ("message.delivered", "message.read"),
        is_group=is_group if isinstance(is_group, bool) else None,
        sender=text_field(sender, "handle") if isinstance(sender, Mapping) else None,
        health_status=text_field(health, "status"),
        health_updated_at=time_field(health, "updated_at"),
    )


def _message_failed(_kind: str, data: Json, at: datetime) -> MessageFailed | None:
    message_id = text_field(data, "message_id")
    if not message_id:
        return None
    failed_at = time_field(data, "failed_at")
    return MessageFailed(message_id=message_id, chat_id=text_field(data, "chat_id"), at=failed_at or at)


def _card_received(_kind: str, data: Json, at: datetime) -> CardReceived | None:
    line, sender = text_field(data, "owner_handle"), text_field(data, "sender_handle")
    return CardReceived(line=line, sender=sender, at=at) if line and sender else None


def _line_changed(_kind: str, data: Json, at: datetime) -> LineChanged | None:
    number = text_field(data, "phone_number")
    if not number:
        return None
    return LineChanged(
        phone_number=number,
        reputation=text_field(data, "new_reputation"),
        status=text_field(data, "new_status"),
        at=time_field(data, "changed_at") or at,
    )


def _chat_created(_kind: str, data: Json, at: datetime) -> ChatCreated | None:
    chat = read_chat(data)
    return ChatCreated(chat=chat, at=at) if chat else None


def _account(_kind: str, _data: Json, _at: datetime) -> AccountChanged:
    return AccountChanged()


_READERS: Final[Mapping[str, Callable[[str, Json, datetime], Event | None]]] = {
    "message": _message,
    "message.failed": _message_failed,
    "chat.created": _chat_created,
    "contact_card.received": _card_received,
    "phone_number.status_updated": _line_changed,
}
"""By the kind of event, or else by the part before its dot; all others are about the account."""
