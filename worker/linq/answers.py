"""What Linq's answers mean: the values in them, and one error for each thing that a caller does next.

    LinqError
    +-- AccessRefused   the key or its rights: stop, every other request would be refused too
    +-- ChatRefused     this request only: go on with the others
    +-- CardInactive    the line has no active card: skip the line's other chats
    +-- LineRefused     the line may do nothing new for now: skip the line's other chats
    +-- RateLimited     wait, for `retry_after` seconds where Linq says so
    +-- PerhapsDone     no answer says whether it was done: a share counts as made
    +-- NeverSent       the request provably never left: nothing was done

Any bytes can be read, HTML and truncated JSON included: they become one of these errors, or a safe default. No I/O.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import IntEnum
from typing import Final

from worker import account
from worker.account import Card, Line
from worker.text import one_line

Json = Mapping[str, object]

LONGEST_NUMBER: Final = 100
"""Characters. E.164 has at most 16; a much longer text would not fit into a database key."""

LONGEST_HANDLE: Final = 254
"""Characters of a phone number or an email address; a longer one is none."""

LONGEST_MESSAGE: Final = 500
"""Characters of an error message that are kept."""


class ErrorCode(IntEnum):
    """Linq's error codes that the worker reacts to (Linq's error reference, `error.code`)."""

    NOT_E164 = 1002
    INVALID_PARAMETER = 1005
    RATE_LIMITED = 1007
    CHAT_NOT_FOUND = 2001
    UNAUTHORIZED = 2004
    ACCESS_DENIED = 2005
    NO_ACTIVE_CARD = 2012
    CHAT_UNAVAILABLE = 2013
    CARD_EXISTS = 2014
    CARD_NOT_COMPLETED = 2022
    OPTED_OUT = 2024
    HANDLE_BLOCKED = account.HANDLE_BLOCKED
    LINE_REFUSED = 2027
    UPSTREAM_LIMITED = 4004


class LinqError(Exception):
    """The request failed, or may have failed.

    Attributes:
        message: what Linq said, or what happened; one line, no secrets.
        status: the HTTP status; None without an answer.
        code: Linq's `error.code`; None if the answer has none.
        trace_id: identifies the request to Linq's support.
        retry_after: seconds to wait before a retry; None if Linq did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: int | None = None,
        trace_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.trace_id = trace_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        """The message with status, code and trace id: `404/2012: Contact card not found (trace abc)`."""
        number = f"{self.status or ''}{f'/{self.code}' if self.code else ''}"
        return f"{number + ': ' if number else ''}{self.message}{f' (trace {self.trace_id})' if self.trace_id else ''}"


class AccessRefused(LinqError):  # noqa: N818 -- named for what happened; the base class says that it is an error
    """The key is not accepted (401/2004), or lacks a right (403/2005)."""


class ChatRefused(LinqError):  # noqa: N818 -- as above
    """This request was refused: unknown chat (2001), recipient opted out (2024), wrong parameter, any other 4xx."""


class CardInactive(LinqError):  # noqa: N818 -- as above
    """The line has no active contact card (404/2012)."""


class LineRefused(LinqError):  # noqa: N818 -- as above
    """The line may do nothing new for now (403/2027): sends, new chats, and shares as well."""


class RateLimited(LinqError):  # noqa: N818 -- as above
    """Too many requests (429/1007): in this chat (one share in five minutes), or of the account; Linq does not say."""


class PerhapsDone(LinqError):  # noqa: N818 -- as above
    """5xx, no answer in time, connection lost, an answer that is not HTTP: it may have been done."""


class NeverSent(LinqError):  # noqa: N818 -- as above
    """The request did not leave: name not resolved, connection refused or timed out, no TLS, no tunnel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """A chat as Linq describes it.

    `line` is the sending number of the account, E.164; None if Linq names none that is active in the chat. `handle` is
    the other side of a direct chat: a phone number or an email address; None in groups. `health_updated_at` is when
    the health became what it is.
    """

    id: str
    line: str | None
    handle: str | None
    service: str | None
    is_group: bool
    health_status: str | None
    health_updated_at: datetime | None
    created_at: datetime | None
    updated_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A message of a chat."""

    id: str
    created_at: datetime | None
    sent_at: datetime | None
    is_from_me: bool
    delivery_status: str | None

    @property
    def is_outbound(self) -> bool:
        """True if the line sent it and it did not fail (Linq's message reference, `delivery_status`)."""
        return self.is_from_me and self.delivery_status != "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Subscription:
    """A webhook subscription: where Linq sends which events.

    `lines` are the numbers whose events are sent; empty: those of all lines. `secret` signs what is sent; Linq tells it
    once, in the answer to the subscribing, and it is None ever after.
    """

    id: str
    target_url: str
    is_active: bool
    kinds: tuple[str, ...]
    lines: tuple[str, ...]
    created_at: datetime | None
    updated_at: datetime | None
    secret: str | None = field(default=None, repr=False)


def refusal(status: int, headers: Mapping[str, str], reason: str, body: bytes, now: datetime) -> LinqError:
    """The error for an answer other than 2xx. The status decides, together with `error.code` if there is one."""
    document = read_json(body)
    details = document.get("error") if isinstance(document, dict) else None
    code = message = trace_id = retry_after = None
    if isinstance(document, dict) and isinstance(details, dict):
        code = _error_code(details.get("code"))
        message = text_field(details, "message")
        trace_id = text_field(document, "trace_id") or text_field(details, "trace_id")
        retry_after = _seconds(details.get("retry_after"))
    message = one_line(message or "", LONGEST_MESSAGE)
    if not message:
        content_type = headers.get("content-type", "no content type").partition(";")[0]
        message = f"{reason or 'no reason given'}, with {excerpt(body)} ({content_type}) in place of Linq's error"
    header = _retry_after(headers.get("retry-after"), now)
    return _error_class(status, code)(
        one_line(message, LONGEST_MESSAGE),
        status=status,
        code=code,
        trace_id=one_line(trace_id or "", 100) or None,
        retry_after=header if header is not None else retry_after,
    )


def _error_class(status: int, code: int | None) -> type[LinqError]:
    if status == 429:
        return RateLimited
    if status == 401 or (status == 403 and code in _NO_ACCESS):
        return AccessRefused
    if (status, code) in _ABOUT_THE_LINE:
        return _ABOUT_THE_LINE[status, code]
    return ChatRefused if 400 <= status < 500 else PerhapsDone


_NO_ACCESS: Final = (None, ErrorCode.ACCESS_DENIED, ErrorCode.UNAUTHORIZED)

_ABOUT_THE_LINE: Final[Mapping[tuple[int, int | None], type[LinqError]]] = {
    (404, ErrorCode.NO_ACTIVE_CARD): CardInactive,
    (403, ErrorCode.LINE_REFUSED): LineRefused,
}


def _retry_after(value: str | None, now: datetime) -> float | None:
    """The header in seconds; HTTP allows a number or a date."""
    if value is None:
        return None
    seconds = _seconds(value)
    if seconds is not None:
        return seconds
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())


def _seconds(value: object) -> float | None:
    try:
        seconds = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _error_code(value: object) -> int | None:
    """A whole number that the ledger's column can hold, or None; Linq's codes have four digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if fits and isinstance(value, int) else None


def read_json(body: bytes) -> object:
    """A body parsed as JSON; None if it is not JSON, or nested too deeply to parse."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def read_list(answer: Json, name: str) -> list[Json]:
    """The objects in a list of an answer.

    Raises:
        PerhapsDone: the answer has no such list.
    """
    items = answer.get(name)
    if not isinstance(items, list):
        msg = f"Linq's answer holds no list {name!r} but {excerpt(json.dumps(items).encode())}"
        raise PerhapsDone(msg, status=200)
    return [item for item in items if isinstance(item, dict)]


def read_card(item: Json) -> Card | None:
    """A card; None without a number. Not active unless Linq says so."""
    number = text_field(item, "phone_number")
    if not number or len(number) > LONGEST_NUMBER:
        return None
    return Card(
        phone_number=number,
        first_name=text_field(item, "first_name"),
        last_name=text_field(item, "last_name"),
        image_url=text_field(item, "image_url"),
        is_active=item.get("is_active") is True,
    )


def read_chat(item: Json) -> Chat | None:
    """A chat; None without an id."""
    chat_id = text_field(item, "id")
    if not chat_id:
        return None
    handles = item.get("handles")
    active = [
        handle
        for handle in (handles if isinstance(handles, list) else [])
        if isinstance(handle, dict) and handle.get("status") in (None, "active")
    ]
    is_group = item.get("is_group") is True
    health = item.get("health_status")
    return Chat(
        id=chat_id,
        line=_first_handle(handle for handle in active if handle.get("is_me") is True),
        handle=None if is_group else _first_handle(handle for handle in active if handle.get("is_me") is not True),
        service=text_field(item, "service"),
        is_group=is_group,
        health_status=text_field(health, "status") if isinstance(health, dict) else None,
        health_updated_at=time_field(health, "updated_at") if isinstance(health, dict) else None,
        created_at=time_field(item, "created_at"),
        updated_at=time_field(item, "updated_at"),
    )


def _first_handle(handles: Iterable[Json]) -> str | None:
    texts = (text_field(handle, "handle") for handle in handles)
    return next((text for text in texts if text and len(text) <= LONGEST_HANDLE), None)


def read_message(item: Json) -> Message:
    """A message; None stands for what Linq left out."""
    return Message(
        id=text_field(item, "id") or "",
        created_at=time_field(item, "created_at"),
        sent_at=time_field(item, "sent_at"),
        is_from_me=item.get("is_from_me") is True,
        delivery_status=text_field(item, "delivery_status"),
    )


def read_line(item: Json) -> Line | None:
    """A line; None without a number."""
    number = text_field(item, "phone_number")
    reputation = item.get("reputation")
    status = text_field(reputation, "status") if isinstance(reputation, dict) else None
    return Line(phone_number=number, line_type=text_field(item, "line_type"), reputation=status) if number else None


def read_subscription(item: Json) -> Subscription | None:
    """A webhook subscription; None without an id. Not active unless Linq says so."""
    subscription_id = text_field(item, "id")
    if not subscription_id:
        return None
    return Subscription(
        id=subscription_id,
        target_url=text_field(item, "target_url") or "",
        is_active=item.get("is_active") is True,
        kinds=_texts(item, "subscribed_events"),
        lines=_texts(item, "phone_numbers"),
        created_at=time_field(item, "created_at"),
        updated_at=time_field(item, "updated_at"),
        secret=text_field(item, "signing_secret"),
    )


def _texts(item: Json, name: str) -> tuple[str, ...]:
    """The texts in a list; empty if there is no list."""
    values = item.get(name)
    texts = (text_field({name: value}, name) for value in (values if isinstance(values, list) else []))
    return tuple(text for text in texts if text)


def text_field(item: Json, name: str) -> str | None:
    """A text field, without what databases refuse: NUL and lone surrogates."""
    value = item.get(name)
    if not isinstance(value, str):
        return None
    return value.replace("\0", "").encode("utf-8", "ignore").decode() or None


def time_field(item: Json, name: str) -> datetime | None:
    """A time field, in UTC; without a zone it is in UTC."""
    value = text_field(item, name)
    try:
        moment = datetime.fromisoformat(value) if value else None
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC) if moment else None
    except (ValueError, OverflowError):  # not a timestamp, or outside the years of UTC
        return None


def excerpt(body: bytes) -> str:
    """The beginning of a body, quoted for an error message."""
    text = one_line(body[:200].decode("utf-8", "replace"), 80)
    return repr(text) if text else "nothing"
