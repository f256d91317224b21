"""A Linq account that exists only here: its lines, cards and chats, and the log of every share call.

Knows the rules by which Linq accepts or refuses a call, after its API reference, its error pages and the official SDK;
knows no HTTP. What a call may do and what it did is decided here and nowhere else, so `Account.share_calls` can be the
judge of a worker: every share request that arrived is in it once, whether or not it was answered.
"""

import math
import re
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Final
from uuid import uuid4

from worker.simulator.chats import Chat
from worker.simulator.faults import Fault, Faults
from worker.simulator.subscriptions import EVENT_TYPES, Subscription, is_target, new_secret

SIMULATED_KEY: Final = "simulated-key"
"""The account's API key unless another one is given; it opens nothing but the simulator."""

SHARE_WINDOW: Final = timedelta(minutes=5)
"""At most one share per chat in this time (API reference of the share endpoint)."""

CARD_WRITES: Final = 3
"""How often per line, in `CARD_WRITE_WINDOW`, a card may be created or updated (API reference of both endpoints)."""

CARD_WRITE_WINDOW: Final = timedelta(minutes=10)
"""The time in which `CARD_WRITES` are counted."""

SERVICES_WITHOUT_CARDS: Final = frozenset({"SMS", "RCS"})

LINE_TYPES: Final = ("iMessage", "RCS")
REPUTATIONS: Final = ("HEALTHY", "AT_RISK", "CRITICAL")
"""Sharing has no effect in chats of these services, and is answered as if it had (guide 'Contact cards')."""

_E164: Final = re.compile(r"\+[1-9][0-9]{1,14}")


class ApiError(Exception):
    """The account refuses a call, with what Linq's error envelope says about it.

    Args:
        status: The HTTP status.
        code: Linq's error code, by which the reasons behind one status are told apart.
        message: One sentence for a person.
        retry_after: Seconds until the call may be repeated; given with status 429.
    """

    def __init__(self, status: int, code: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = None if retry_after is None else math.ceil(retry_after)


@dataclass(frozen=True, slots=True)
class Line:
    """A phone number of the account, E.164; while it `is_refused`, it may do nothing new (2027)."""

    phone_number: str
    line_type: str = "iMessage"
    reputation: str = "HEALTHY"
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """The contact card of a line; active from `active_from` (UTC) on, or not at all if that is None."""

    phone_number: str
    first_name: str
    last_name: str | None = None
    image_url: str | None = None
    active_from: datetime | None = None


@dataclass(frozen=True, slots=True)
class ShareCall:
    """A share request that arrived.

    Attributes:
        chat_id: The chat it named, known to the account or not.
        at: When it arrived (UTC, by the account's clock).
        status: The status that it was answered with; None while it is not, and for good when the connection was dropped
            or the client hung up first.
        took_effect: Whether the recipient was shown the card. False also for an accepted call in an SMS or RCS chat, or
            in one without an outbound message.
        trace_id: The one of the error envelope it was answered with, else None.
    """

    chat_id: str
    at: datetime
    status: int | None = None
    took_effect: bool = False
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class ShareEntry:
    """The place of a share request in the log that was kept when it arrived; a reset starts another log."""

    log: list[ShareCall]
    number: int

    @property
    def call(self) -> ShareCall:
        """What the log says about the request now."""
        return self.log[self.number]

    def answered(self, status: int, trace_id: str | None) -> None:
        """Complete the entry by what the request is being answered with."""
        self.log[self.number] = replace(self.call, status=status, trace_id=trace_id)


def utc_now() -> datetime:
    """The machine's time of day, aware, in UTC."""
    return datetime.now(UTC)


def check_e164(phone_number: object) -> str:
    """The number itself if it is E.164 with its `+`.

    Raises:
        ApiError: It is not (Linq's error page 1002).
    """
    if not isinstance(phone_number, str) or not _E164.fullmatch(phone_number):
        raise ApiError(400, 1002, "Phone number must be in E.164 format")
    return phone_number


def _known_events(names: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in EVENT_TYPES]
    if unknown or not names:
        raise ApiError(400, 1005, f"Invalid parameter value: subscribed_events {', '.join(unknown) or 'is empty'}")
    return tuple(dict.fromkeys(names))


@dataclass(slots=True)
class Account:
    """The account: what it holds, the calls it accepts, and the log of those that share.

    Args:
        clock: Tells the time of day, aware, in UTC; every window and every logged time comes from it.
        api_key: The one key that opens the account.
        access_denied: While true, the key may do nothing: every call gets 403 with code 2005.
        activation_delay: Seconds from the creation of a card until it is active.
        seed: Makes faults with a probability repeatable.
    """

    clock: Callable[[], datetime] = utc_now
    api_key: str = field(default=SIMULATED_KEY, repr=False)
    access_denied: bool = False
    activation_delay: float = 0.0
    seed: int = 0
    lines: dict[str, Line] = field(default_factory=dict, init=False, repr=False)
    cards: dict[str, Card] = field(default_factory=dict, init=False, repr=False)
    chats: dict[str, Chat] = field(default_factory=dict, init=False, repr=False)
    subscriptions: dict[str, Subscription] = field(default_factory=dict, init=False, repr=False)
    share_calls: list[ShareCall] = field(default_factory=list, init=False, repr=False)
    requests: Counter[str] = field(default_factory=Counter, init=False, repr=False)
    faults: Faults = field(init=False, repr=False)
    _calls_of: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False)
    _last_share: dict[str, datetime] = field(default_factory=dict, init=False, repr=False)
    _card_writes: dict[str, deque[datetime]] = field(default_factory=dict, init=False, repr=False)
    _chat_ids: list[str] = field(default_factory=list, init=False, repr=False)
    _chat_ids_of: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False)
    _opted_out: set[str] = field(default_factory=set, init=False, repr=False)
    _blocked: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        self.faults = Faults(self.seed)

    # What it holds: set up by whoever runs the simulator, without the API's checks and limits.

    def put_line(self, line: Line) -> None:
        """Add a line, or replace the one with its number."""
        self.lines[line.phone_number] = line

    def put_card(
        self,
        phone_number: str,
        first_name: str = "Acme",
        last_name: str | None = None,
        image_url: str | None = None,
        *,
        is_active: bool = True,
    ) -> None:
        """Give a line a card, in place of any that it has; the line is added if the account lacks it."""
        self.lines.setdefault(phone_number, Line(phone_number))
        active_from = self.clock() if is_active else None
        self.cards[phone_number] = Card(phone_number, first_name, last_name, image_url, active_from)

    def deactivate_card(self, phone_number: str) -> None:
        """Make a line's card inactive.

        Raises:
            KeyError: The line has no card.
        """
        self.cards[phone_number] = replace(self.cards[phone_number], active_from=None)

    def activate_card(self, phone_number: str) -> None:
        """Make a line's card active, from now on.

        Raises:
            KeyError: The line has no card.
        """
        self.cards[phone_number] = replace(self.cards[phone_number], active_from=self.clock())

    def remove_card(self, phone_number: str) -> None:
        """Take a line's card away.

        Raises:
            KeyError: The line has no card.
        """
        del self.cards[phone_number]

    def put_chat(self, chat: Chat) -> None:
        """Add a chat at the end of the list, or replace the one with its id where that stands.

        A 1:1 chat with health `OPTED_OUT` opts its recipient out, in all chats and on all lines, as Linq does (the
        SDK's `HealthStatus`); replacing it by one with another health opts the recipient in again. Groups are never
        blocked. The line is added if the account lacks it.

        Raises:
            ValueError: The chat is there already, on another line.
        """
        known = self.chats.get(chat.id)
        if known is None:
            self._chat_ids.append(chat.id)
            self._chat_ids_of.setdefault(chat.from_number, []).append(chat.id)
        elif known.from_number != chat.from_number:
            raise ValueError(f"chat {chat.id}: is on line {known.from_number} and cannot move to {chat.from_number}")
        self.lines.setdefault(chat.from_number, Line(chat.from_number))
        self.chats[chat.id] = chat
        if not chat.is_group and chat.health_status == "OPTED_OUT":
            self._opted_out.add(chat.recipients[0])
        elif known is not None and known.health_status == "OPTED_OUT":
            self._opted_out.discard(known.recipients[0])

    def block(self, handle: str) -> None:
        """Block a person's number: in direct chats with them Linq refuses what is sent (2026)."""
        self._blocked.add(handle)

    def unblock(self, handle: str) -> None:
        """Take a block away, if there is one."""
        self._blocked.discard(handle)

    def share_elsewhere(self, chat_id: str) -> None:
        """Share in a chat as another program of the partner's would: the limit of the chat counts it, the log does not.

        Raises:
            KeyError: There is no such chat.
        """
        self._last_share[self.chats[chat_id].id] = self.clock()

    def remove_chat(self, chat_id: str) -> None:
        """Take a chat away: Linq no longer knows it.

        Raises:
            KeyError: There is no such chat.
        """
        chat = self.chats.pop(chat_id)
        self._chat_ids.remove(chat_id)
        self._chat_ids_of[chat.from_number].remove(chat_id)

    # Its misbehaviour.

    def add_fault(self, fault: Fault) -> int:
        """Put a fault in force behind those already there; the number to remove it by."""
        return self.faults.add(fault)

    def remove_fault(self, fault_id: int) -> None:
        """Take one fault away.

        Raises:
            KeyError: There is none with this number.
        """
        self.faults.remove(fault_id)

    def clear_faults(self) -> None:
        """Take every fault away."""
        self.faults.clear()

    # Its log.

    def calls_of(self, chat_id: str) -> list[ShareCall]:
        """The share requests that named this chat, in the order of their arrival."""
        return [self.share_calls[number] for number in self._calls_of.get(chat_id, ())]

    def repeated_calls(self) -> dict[tuple[str, date], int]:
        """Chat and UTC day of every chat called more than once in that day, and how often it was."""
        counts = Counter((call.chat_id, call.at.date()) for call in self.share_calls)
        return {chat_and_day: count for chat_and_day, count in counts.items() if count > 1}

    def reset(self) -> None:
        """Forget what was done to it: log, limits, counts and faults. Lines, cards, chats and subscriptions stay."""
        self.share_calls = []  # not cleared: requests on their way still complete their entries in the old one
        self.requests.clear()
        self.faults.clear()
        self._calls_of.clear()
        self._last_share.clear()
        self._card_writes.clear()

    # The calls it accepts. Each raises ApiError where Linq would refuse.

    def authorize(self, authorization: str | None) -> None:
        """Check the `Authorization` header, which Linq does before anything else.

        Raises:
            ApiError: 2004, no or another key; 2005, the key may not do this.
        """
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or key.strip() != self.api_key:
            raise ApiError(401, 2004, "Unauthorized - missing or invalid authentication token")
        if self.access_denied:
            raise ApiError(403, 2005, "Access denied")

    def is_active(self, card: Card) -> bool:
        """Whether the card is active now."""
        return card.active_from is not None and card.active_from <= self.clock()

    def find_cards(self, phone_number: str | None) -> list[Card]:
        """Every card, or the one of a line.

        Raises:
            ApiError: 2012, the line has none.
        """
        if phone_number is None:
            return list(self.cards.values())
        if phone_number not in self.cards:
            raise ApiError(404, 2012, "Contact card not found")
        return [self.cards[phone_number]]

    def create_card(self, phone_number: str, first_name: str, last_name: str | None, image_url: str | None) -> Card:
        """Set a line's card up; it is active after `activation_delay`.

        Raises:
            ApiError: 1005, no line of this account (the code is a guess: no page names one); 1007, too many writes;
                2014, an active card exists.
        """
        if phone_number not in self.lines:
            raise ApiError(400, 1005, "Invalid parameter value: phone_number is not assigned to this account")
        self._spend_card_write(phone_number)
        known = self.cards.get(phone_number)
        if known is not None and self.is_active(known):
            raise ApiError(409, 2014, "Contact card already exists")
        active_from = self.clock() + timedelta(seconds=self.activation_delay)
        card = Card(phone_number, first_name, last_name, image_url, active_from)
        self.cards[phone_number] = card
        return card

    def update_card(
        self,
        phone_number: str,
        first_name: str | None,
        last_name: str | None,
        image_url: str | None,
        *,
        removes_image: bool = False,
    ) -> Card:
        """Change the parts of a line's active card that are given; None leaves a part as it is.

        That null removes the image is what integrators see; Linq's reference does not name it.

        Raises:
            ApiError: 1007, too many writes; 2012, the line has no active card.
        """
        self._spend_card_write(phone_number)
        card = self._active_card(phone_number)
        card = replace(
            card,
            first_name=card.first_name if first_name is None else first_name,
            last_name=card.last_name if last_name is None else last_name,
            image_url=None if removes_image else card.image_url if image_url is None else image_url,
        )
        self.cards[phone_number] = card
        return card

    def find_chat(self, chat_id: str) -> Chat:
        """The chat with this id.

        Raises:
            ApiError: 2001, there is none.
        """
        chat = self.chats.get(chat_id)
        if chat is None:
            raise ApiError(404, 2001, "Chat not found")
        return chat

    def find_chats(self, *, from_number: str | None, to: str | None, offset: int, limit: int) -> list[Chat]:
        """At most `limit` chats from the `offset`-th on: of one line, with one participant, or of all."""
        ids = self._chat_ids if from_number is None else self._chat_ids_of.get(from_number, [])
        if to is None:
            return [self.chats[chat_id] for chat_id in ids[offset : offset + limit]]
        chats = map(self.chats.__getitem__, ids)
        return list(islice((c for c in chats if to == c.from_number or to in c.recipients), offset, offset + limit))

    def subscribe(
        self, target_url: str, subscribed_events: Sequence[str], phone_numbers: Sequence[str] = ()
    ) -> Subscription:
        """Send events of these types from now on; without phone numbers, those of every line.

        Raises:
            ApiError: 400, no https URL, no event or an unknown one; 409, the URL has a subscription. That and the code
                1005 are guesses: no page names them.
        """
        now = self.clock()
        subscription = Subscription(
            id=str(uuid4()),
            target_url=self._free_target(target_url),
            subscribed_events=_known_events(subscribed_events),
            phone_numbers=tuple(phone_numbers),
            created_at=now,
            updated_at=now,
            secret=new_secret(),
        )
        self.subscriptions[subscription.id] = subscription
        return subscription

    def find_subscription(self, subscription_id: str) -> Subscription:
        """The subscription with this id.

        Raises:
            ApiError: 404, there is none. The code 1005 is a guess: no page names one.
        """
        if subscription_id not in self.subscriptions:
            raise ApiError(404, 1005, "Webhook subscription not found")
        return self.subscriptions[subscription_id]

    def change_subscription(
        self,
        subscription_id: str,
        *,
        target_url: str | None = None,
        subscribed_events: Sequence[str] | None = None,
        phone_numbers: Sequence[str] | None = None,
        is_active: bool | None = None,
    ) -> Subscription:
        """Change the parts of a subscription that are given; its secret stays.

        Raises:
            ApiError: 404, there is none; otherwise as for `subscribe`.
        """
        known = self.find_subscription(subscription_id)
        url_stays = target_url is None or target_url == known.target_url
        changed = replace(
            known,
            target_url=known.target_url if url_stays or target_url is None else self._free_target(target_url),
            subscribed_events=known.subscribed_events
            if subscribed_events is None
            else _known_events(subscribed_events),
            phone_numbers=known.phone_numbers if phone_numbers is None else tuple(phone_numbers),
            is_active=known.is_active if is_active is None else is_active,
            updated_at=self.clock(),
        )
        self.subscriptions[subscription_id] = changed
        return changed

    def unsubscribe(self, subscription_id: str) -> None:
        """Take a subscription away.

        Raises:
            ApiError: 404, there is none.
        """
        del self.subscriptions[self.find_subscription(subscription_id).id]

    def log_share(self, chat_id: str) -> ShareEntry:
        """Log a share request on its arrival, before anything can happen to it."""
        entry = ShareEntry(self.share_calls, len(self.share_calls))
        self.share_calls.append(ShareCall(chat_id, self.clock()))
        self._calls_of.setdefault(chat_id, []).append(entry.number)
        return entry

    def share(self, entry: ShareEntry) -> None:
        """Let a logged share request take effect, if the recipient's side allows for one.

        Raises:
            ApiError: In the order of the checks: 2001, no such chat; 2013, the chat cannot be used any more; 2027, the
                line may do nothing new; 2012, it has no active card; 2024, the recipient opted out; 2026, the account
                blocked them; 1007, a share took effect in this chat less than `SHARE_WINDOW` ago.
        """
        chat = self.find_chat(entry.call.chat_id)
        line = self.lines[chat.from_number]
        if not chat.is_available:
            raise ApiError(409, 2013, "Chat unavailable")
        if line.is_refused:
            raise ApiError(403, 2027, "Phone number is temporarily ineligible for new activity")
        self._active_card(chat.from_number)
        if not chat.is_group and chat.recipients[0] in self._opted_out:
            raise ApiError(403, 2024, "Recipient has opted out of receiving messages")
        if not chat.is_group and chat.recipients[0] in self._blocked:
            raise ApiError(403, 2026, "Recipient handle is blocked by this account")
        now = self.clock()
        last = self._last_share.get(chat.id)
        if last is not None and now - last < SHARE_WINDOW:
            raise ApiError(429, 1007, "Rate limit exceeded", (last + SHARE_WINDOW - now).total_seconds())
        reaches = chat.service not in SERVICES_WITHOUT_CARDS and line.line_type not in SERVICES_WITHOUT_CARDS
        if reaches and chat.last_outbound_at is not None:
            self._last_share[chat.id] = now
            entry.log[entry.number] = replace(entry.call, took_effect=True)

    def _free_target(self, url: str) -> str:
        if not is_target(url):
            raise ApiError(400, 1005, "Invalid parameter value: target_url must be an HTTPS URL")
        if any(known.target_url == url for known in self.subscriptions.values()):
            raise ApiError(409, 1005, "A webhook subscription with this target_url already exists")
        return url

    def _active_card(self, phone_number: str) -> Card:
        card = self.cards.get(phone_number)
        if card is None or not self.is_active(card):
            raise ApiError(404, 2012, "Contact card not found")
        return card

    def _spend_card_write(self, phone_number: str) -> None:
        now = self.clock()
        writes = self._card_writes.setdefault(phone_number, deque())
        while writes and now - writes[0] >= CARD_WRITE_WINDOW:
            writes.popleft()
        if len(writes) >= CARD_WRITES:
            raise ApiError(429, 1007, "Rate limit exceeded", (writes[0] + CARD_WRITE_WINDOW - now).total_seconds())
        writes.append(now)
