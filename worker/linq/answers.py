"""What Linq's answers mean: the values it describes, and one error for each thing that a caller does next.

    LinqError
    +-- AccessRefused   the key or its rights: stop, no other call will fare better
    +-- ChatRefused     this request only; the others are not concerned
    +-- CardInactive    the line has no active card: leave the line's other chats
    +-- RateLimited     wait, as long as `retry_after` says where it does
    +-- PerhapsDone     no answer that says whether it was done: for a share this counts as a call
    +-- NeverSent       the request provably never left: nothing was done

Whatever comes is read, HTML and half a JSON document too: to one of these, or to a safe default. Nothing here does I/O.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import IntEnum
from typing import Final

Json = Mapping[str, object]

LONGEST_NUMBER: Final = 100
"""Characters; E.164 has 16, and what is far longer would not fit into a key."""


class ErrorCode(IntEnum):
    """Linq's error codes that the worker reacts to (Linq's error reference, `error.code`)."""

    NOT_E164 = 1002
    INVALID_PARAMETER = 1005
    RATE_LIMITED = 1007
    CHAT_NOT_FOUND = 2001
    UNAUTHORIZED = 2004
    ACCESS_DENIED = 2005
    NO_ACTIVE_CARD = 2012
    CARD_EXISTS = 2014
    CARD_NOT_COMPLETED = 2022
    OPTED_OUT = 2024
    UPSTREAM_LIMITED = 4004


class LinqError(Exception):
    """Linq did not do, or perhaps did not do, what it was asked for.

    Attributes:
        message: what Linq said, or what happened; one line, without secrets.
        status: the HTTP status; None where no answer came.
        code: Linq's `error.code`; None where the answer was not Linq's own.
        trace_id: what Linq's support asks for.
        retry_after: seconds to wait before another try, where Linq said so.
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
        """The message with what identifies it: `404/2012: Contact card not found (trace abc)`."""
        number = f"{self.status or ''}{f'/{self.code}' if self.code else ''}"
        return f"{number + ': ' if number else ''}{self.message}{f' (trace {self.trace_id})' if self.trace_id else ''}"


class AccessRefused(LinqError):  # noqa: N818 -- named for what happened; the base says that it is an error
    """The key is not accepted (401/2004), or may not do this (403/2005)."""


class ChatRefused(LinqError):  # noqa: N818 -- as above
    """This request was refused: unknown chat (2001), recipient opted out (2024), wrong parameter, any other 4xx."""


class CardInactive(LinqError):  # noqa: N818 -- as above
    """The line has no active contact card (404/2012)."""


class RateLimited(LinqError):  # noqa: N818 -- as above
    """Too many requests (429/1007): in this chat (one share in five minutes), or of the account; Linq does not say."""


class PerhapsDone(LinqError):  # noqa: N818 -- as above
    """5xx, no answer in time, a connection lost, an answer that is not HTTP: it may have been done."""


class NeverSent(LinqError):  # noqa: N818 -- as above
    """The request did not leave: name not resolved, connection refused, no connection in time, TLS not agreed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A contact card of the account: the name and photo that iMessage shows for a line (E.164)."""

    phone_number: str
    first_name: str | None
    last_name: str | None
    image_url: str | None
    is_active: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """A chat as Linq describes it. `line` is the sending number of the account, E.164; None where Linq names none."""

    id: str
    line: str | None
    service: str | None
    is_group: bool
    health_status: str | None
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
        """Whether it went out: from the line, and not failed (Linq's message reference, `delivery_status`)."""
        return self.is_from_me and self.delivery_status != "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A phone number of the account. `reputation`: HEALTHY, AT_RISK, CRITICAL, or a word that Linq has added since."""

    phone_number: str
    line_type: str | None
    reputation: str | None


def refusal(status: int, headers: Mapping[str, str], reason: str, body: bytes, now: datetime) -> LinqError:
    """The error that an answer other than 2xx means. The status decides, and `error.code` where Linq gave one."""
    told = read_json(body)
    details = told.get("error") if isinstance(told, dict) else None
    code = message = trace_id = wait = None
    if isinstance(told, dict) and isinstance(details, dict):
        code = _whole(details.get("code"))
        message = _text(details, "message")
        trace_id = _text(told, "trace_id") or _text(details, "trace_id")
        wait = _seconds(details.get("retry_after"))
    message = one_line(message or "")
    if not message:
        kind = headers.get("content-type", "no content type").partition(";")[0]
        message = f"{reason or 'no reason given'}, with {excerpt(body)} ({kind}) in place of Linq's error"
    kind_of: type[LinqError]
    match status, code:
        case 429, _:
            kind_of = RateLimited
        case 401, _:
            kind_of = AccessRefused
        case 403, (None | ErrorCode.ACCESS_DENIED | ErrorCode.UNAUTHORIZED):
            kind_of = AccessRefused
        case 404, ErrorCode.NO_ACTIVE_CARD:
            kind_of = CardInactive
        case _ if 400 <= status < 500:
            kind_of = ChatRefused
        case _:
            kind_of = PerhapsDone
    header = _retry_after(headers.get("retry-after"), now)
    return kind_of(
        one_line(message),
        status=status,
        code=code,
        trace_id=one_line(trace_id or "", 100) or None,
        retry_after=header if header is not None else wait,
    )


def _retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds, from either form that HTTP allows: a number, or a date."""
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


def _whole(value: object) -> int | None:
    """An error code: a whole number that the ledger's column can hold; Linq's have four digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if fits and isinstance(value, int) else None


def read_json(body: bytes) -> object:
    """What a body says, if it is JSON; None where it is not, or nests too deep to be read."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def read_list(answer: Json, name: str) -> list[Json]:
    """The objects of a list that an answer holds.

    Raises:
        PerhapsDone: it holds no such list.
    """
    found = answer.get(name)
    if not isinstance(found, list):
        msg = f"Linq's answer holds no list {name!r} but {excerpt(json.dumps(found).encode())}"
        raise PerhapsDone(msg, status=200)
    return [item for item in found if isinstance(item, dict)]


def read_card(item: Json) -> Card | None:
    """A card; None for one without a number. Where Linq does not say that it is active, it is not."""
    number = _text(item, "phone_number")
    if not number or len(number) > LONGEST_NUMBER:
        return None
    return Card(
        phone_number=number,
        first_name=_text(item, "first_name"),
        last_name=_text(item, "last_name"),
        image_url=_text(item, "image_url"),
        is_active=item.get("is_active") is True,
    )


def read_chat(item: Json) -> Chat | None:
    """A chat; None for one without an id."""
    chat_id = _text(item, "id")
    if not chat_id:
        return None
    handles = item.get("handles")
    mine = [
        handle
        for handle in (handles if isinstance(handles, list) else [])
        if isinstance(handle, dict) and handle.get("is_me") is True and handle.get("status") in (None, "active")
    ]
    health = item.get("health_status")
    return Chat(
        id=chat_id,
        line=_text(mine[0], "handle") if mine else None,
        service=_text(item, "service"),
        is_group=item.get("is_group") is True,
        health_status=_text(health, "status") if isinstance(health, dict) else None,
        created_at=_time(item, "created_at"),
        updated_at=_time(item, "updated_at"),
    )


def read_message(item: Json) -> Message:
    """A message of a list; what Linq leaves out is not known."""
    return Message(
        id=_text(item, "id") or "",
        created_at=_time(item, "created_at"),
        sent_at=_time(item, "sent_at"),
        is_from_me=item.get("is_from_me") is True,
        delivery_status=_text(item, "delivery_status"),
    )


def read_line(item: Json) -> Line | None:
    """A line of a list; None for one without a number."""
    number = _text(item, "phone_number")
    reputation = item.get("reputation")
    status = _text(reputation, "status") if isinstance(reputation, dict) else None
    return Line(phone_number=number, line_type=_text(item, "line_type"), reputation=status) if number else None


def _text(item: Json, name: str) -> str | None:
    """A text of an answer, without what no database takes: NUL, and halves of characters."""
    value = item.get(name)
    if not isinstance(value, str):
        return None
    return value.replace("\0", "").encode("utf-8", "ignore").decode() or None


def _time(item: Json, name: str) -> datetime | None:
    value = _text(item, name)
    try:
        moment = datetime.fromisoformat(value) if value else None
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC) if moment else None
    except (ValueError, OverflowError):  # no time at all, or one that UTC has no year for
        return None


def excerpt(body: bytes) -> str:
    """The beginning of a body, for a message."""
    text = one_line(body[:200].decode("utf-8", "replace"), 80)
    return repr(text) if text else "nothing"


def one_line(text: str, longest: int = 500) -> str:
    """Foreign text made fit for a log and a table: one line, printable, not too long."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[: longest * 2]).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
