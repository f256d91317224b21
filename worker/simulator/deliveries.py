"""Sends webhooks to the subscriptions of a simulated account, in order or not, whole or broken, as it is asked to.

Unlike Linq, it sends each event once, whatever is answered, and redirects lead nowhere.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, get_args
from uuid import uuid4

import httpx

from worker.simulator.account import Account
from worker.simulator.subscriptions import Subscription, new_secret
from worker.simulator.webhooks import line_of, make_event, signed

ANSWER_SECONDS: Final = 10.0
"""How long Linq waits for an answer."""

STALE: Final = timedelta(minutes=10)
"""How far the timestamp of a stale event lies in the past; receivers accept five minutes."""

LARGE: Final = 2 * 1024 * 1024
"""Characters that are added to a large event."""

MOST_TIMES: Final = 1000
LONGEST_DELAY: Final = 60.0

Broken = Literal["signature", "timestamp", "json", "large"]
"""What can be wrong with an event: signed with another secret, signed too long ago, cut in half, too large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which events to send, and how.

    Attributes:
        kinds: The events, each a second after the one before it; those about messages are about one message.
        times: How often each is sent, with the same `event_id`.
        is_reversed: The latest event is sent first.
        delay_seconds: The time until the first is sent.
        broken: What is wrong with each of them.
        at: When the first event happened; if left out, the last one happens now.
        sent_at: When the message was sent; the time of each event if left out.
        about: The chat, the line and the other arguments of `make_event`.
    """

    kinds: tuple[str, ...]
    times: int = 1
    is_reversed: bool = False
    delay_seconds: float = 0.0
    broken: Broken | None = None
    at: datetime | None = None
    sent_at: datetime | None = None
    about: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An event that was sent to a subscription: the status of the answer, or why there is none."""

    subscription_id: str
    target_url: str
    event_id: str
    event_type: str
    status: int | None
    error: str | None = None


async def deliver(account: Account, order: Order) -> list[dict[str, object]]:
    """Send what was ordered to each active subscription that wants it, one after the other; each delivery.

    Raises:
        ValueError: `make_event` has something against the order; nothing was sent.
    """
    events = _events(account, order)
    line = line_of(account, chat_id=order.about.get("chat_id"), phone_number=order.about.get("phone_number"))
    await asyncio.sleep(order.delay_seconds)
    deliveries = []
    # Without the proxy of the environment: most targets are on this machine.
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False) as client:
        for event in events:
            for one in [*account.subscriptions.values()]:
                if one.wants(str(event["event_type"]), line):
                    deliveries += [
                        asdict(await _send(client, event, one, account.clock(), order.broken))
                        for _ in range(order.times)
                    ]
    return deliveries


def _events(account: Account, order: Order) -> list[dict[str, object]]:
    """The events in the order of their sending."""
    first = order.at or account.clock() - timedelta(seconds=len(order.kinds) - 1)
    about = {"message_id": str(uuid4()), **order.about}
    events = [
        make_event(account, kind, at=first + timedelta(seconds=number), sent_at=order.sent_at, **about)
        for number, kind in enumerate(order.kinds)
    ]
    return events[::-1] if order.is_reversed else events


async def _send(
    client: httpx.AsyncClient,
    event: Mapping[str, object],
    subscription: Subscription,
    at: datetime,
    broken: Broken | None,
) -> Delivery:
    body = json.dumps({**event, "padding": "x" * LARGE} if broken == "large" else event)
    headers, content = signed(
        event,
        new_secret() if broken == "signature" else subscription.secret,
        at - STALE if broken == "timestamp" else at,
        subscription_id=subscription.id,
        body=body[: len(body) // 2] if broken == "json" else body,
    )
    status = error = None
    try:
        status = (await client.post(subscription.target_url, headers=headers, content=content)).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as failure:
        error = f"{type(failure).__name__}: {failure}".rstrip(": ")
    return Delivery(
        subscription_id=subscription.id,
        target_url=subscription.target_url,
        event_id=str(event["event_id"]),
        event_type=str(event["event_type"]),
        status=status,
        error=error,
    )


_ABOUT: Final = (
    *("chat_id", "phone_number", "message_id", "event_id"),
    *("service", "handle", "new_status", "new_reputation"),
)
ORDER_FIELDS: Final = ("kind", *_ABOUT, "at", "sent_at", "times", "reversed", "delay_seconds", "broken")
"""The names in an order as a JSON object."""


def order_from_json(document: object) -> Order:
    """The order that a decoded JSON object describes; null is the same as left out. `kind` is a name, or a list.

    Raises:
        ValueError: It is no object, a name is unknown, or a value has the wrong type or is out of range.
    """
    if not isinstance(document, dict):
        raise ValueError(f"events are ordered by a JSON object with {', '.join(ORDER_FIELDS)}")
    given = {str(name): value for name, value in document.items() if value is not None}
    if unknown := [name for name in given if name not in ORDER_FIELDS]:
        raise ValueError(f"{unknown[0]!r} is no part of an order; these are: {', '.join(ORDER_FIELDS)}")
    kind = given.get("kind")
    listed = kind if isinstance(kind, list) else [kind]
    kinds = tuple(name for name in listed if isinstance(name, str))
    if not kinds or len(kinds) < len(listed):
        raise ValueError("kind: must be the name of an event, or a list of them")
    about = {name: value for name, value in given.items() if name in _ABOUT}
    if wrong := [name for name, value in about.items() if not isinstance(value, str)]:
        raise ValueError(f"{wrong[0]}: must be text, not {about[wrong[0]]!r}")
    if "event_id" in about and len(kinds) > 1:
        raise ValueError("event_id: goes with one kind only")
    return Order(
        kinds=kinds,
        times=_times(given.get("times", 1)),
        is_reversed=_flag(given.get("reversed", False)),
        delay_seconds=_delay(given.get("delay_seconds", 0)),
        broken=_broken(given.get("broken")),
        at=_moment("at", given.get("at")),
        sent_at=_moment("sent_at", given.get("sent_at")),
        about=about,
    )


def _times(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_TIMES:
        raise ValueError(f"times: must be a whole number from 1 to {MOST_TIMES}, not {value!r}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"reversed: must be true or false, not {value!r}")
    return value


def _delay(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= LONGEST_DELAY:
        raise ValueError(f"delay_seconds: must be a number from 0 to {LONGEST_DELAY:g}, not {value!r}")
    return float(value)


def _broken(value: object) -> Broken | None:
    match value:
        case None | "signature" | "timestamp" | "json" | "large":
            return value
        case _:
            raise ValueError(f"broken: must be one of {', '.join(get_args(Broken))}, not {value!r}")


def _moment(name: str, value: object) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None:
        raise ValueError(f"{name}: must be a time such as 2026-03-10T09:30:00Z, not {value!r}")
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
