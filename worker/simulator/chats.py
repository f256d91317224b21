"""A simulated chat, and its messages: derived from the chat whenever they are asked for, so that a million chats fit.

Nothing here changes anything or knows the account; what is derived is the same every time.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid5

_LONG_AGO: Final = datetime(2025, 1, 1, tzinfo=UTC)
_NAMESPACE: Final = UUID("6f0e2c4a-8b1d-4c7e-9a53-d1f7b2e40c68")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A chat as Linq holds it; the fields that a partner keeps in its own table have that table's names.

    Times are aware and in UTC. `last_outbound_at` is None for a chat without an outbound message (one that failed is
    none). Linq refuses a chat that is not `is_available` (2013). `recipients` left empty stands for one recipient with
    a number of its own. `former_number` is a line that has left the chat: Linq lists it among the handles, as `is_me`
    too. The messages are not stored: `messages_of` derives `outbound_count` and `inbound_count` of them from the times.
    """

    id: str
    from_number: str
    service: str | None = "iMessage"
    is_group: bool = False
    last_outbound_at: datetime | None = None
    last_inbound_at: datetime | None = None
    health_status: str = "HEALTHY"
    is_available: bool = True
    recipients: tuple[str, ...] = ()
    created_at: datetime = _LONG_AGO
    former_number: str | None = None
    outbound_count: int = 3
    inbound_count: int = 3

    def __post_init__(self) -> None:
        if not self.recipients:
            own = f"+1555{zlib.crc32(self.id.encode(errors='replace')) % 10_000_000:07}"
            object.__setattr__(self, "recipients", (own,))

    @property
    def updated_at(self) -> datetime:
        """The latest of its times."""
        return max(t for t in (self.created_at, self.last_outbound_at, self.last_inbound_at) if t is not None)


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a chat; `delivery_status` in Linq's words (`delivered`, `received`, `failed`, ...)."""

    id: str
    chat_id: str
    created_at: datetime
    is_from_me: bool
    delivery_status: str
    text: str


def messages_of(chat: Chat) -> list[Message]:
    """The messages of a chat, newest first.

    A chat without an outbound message holds one that failed, after everything received: `is_from_me` is not enough.
    """
    messages = [
        *_derive(chat, "outbound", chat.last_outbound_at, chat.outbound_count, "delivered"),
        *_derive(chat, "inbound", chat.last_inbound_at, chat.inbound_count, "received"),
    ]
    if chat.last_outbound_at is None:
        messages += _derive(chat, "failed", chat.last_inbound_at, 1, "failed")
    return sorted(messages, key=lambda message: (message.created_at, message.is_from_me), reverse=True)


def _derive(chat: Chat, kind: str, latest: datetime | None, count: int, delivery_status: str) -> Iterator[Message]:
    if latest is None:
        return
    pause = max(latest - chat.created_at, timedelta()) / max(count, 1)
    for number in range(count):
        yield Message(
            id=derived_id(chat.id, kind, number),
            chat_id=chat.id,
            created_at=latest - number * pause,
            is_from_me=kind != "inbound",
            delivery_status=delivery_status,
            text=f"Simulated {kind} message",
        )


def derived_id(*names: object) -> str:
    """A UUID that is always the same for these names: ids of things that are worked out rather than stored."""
    return str(uuid5(_NAMESPACE, "/".join(map(str, names))))
