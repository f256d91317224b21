"""What the simulated account answers to each call of the Linq Partner API: parameters in, status and JSON out.

Knows the shapes of Linq's requests, answers and error envelope, after the API reference and the models of the official
SDK (`linq-python` 0.65). Knows no connection: how an answer reaches the client, or does not, is the simulator's part.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import uuid4

from worker.simulator.account import Account, ApiError, Card, Line, ShareEntry, check_e164
from worker.simulator.chats import Chat, Message, derived_id, messages_of
from worker.simulator.faults import Operation
from worker.simulator.subscriptions import Subscription

DEFAULT_PAGE: Final = 20
LONGEST_PAGE: Final = 100

JSON_TYPE: Final = b"application/json"

_DOCS: Final = "https://docs.linqapp.com"


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A call of the API, taken apart.

    `chat_id` and `subscription_id` are empty where the path names none; `body` is as it arrived; `entry` is a share's
    place in the log, which no other operation has.
    """

    operation: Operation
    chat_id: str
    query: Mapping[str, str]
    body: bytes
    authorization: str | None
    entry: ShareEntry | None = None
    subscription_id: str = ""

    def line(self, account: Account) -> str | None:
        """The line that the call is about, as far as it names one: its chat's, its card's, or the one it filters by."""
        if self.chat_id:
            chat = account.chats.get(self.chat_id)
            return None if chat is None else chat.from_number
        if self.operation == "create_card":
            try:
                number = self.json_body().get("phone_number")
            except ApiError:
                return None
            return number if isinstance(number, str) else None
        return self.query.get("phone_number", self.query.get("from"))

    def json_body(self) -> dict[str, object]:
        """The body, which must be a JSON object.

        Raises:
            ApiError: It is not (Linq's error page 1003).
        """
        try:
            document = json.loads(self.body)
        except ValueError:  # not JSON, or not UTF-8
            document = None
        if not isinstance(document, dict):
            raise ApiError(400, 1003, "Invalid request body")
        return document


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the client; `trace_id` repeats the one in the body of an error."""

    status: int
    body: bytes = b""
    content_type: bytes = JSON_TYPE
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())
    trace_id: str | None = None


def answer_json(status: int, document: object) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, json.dumps(document).encode())


def answer_error(error: ApiError) -> Answer:
    """Linq's error envelope with a trace id of its own; a 429 also says in its header when to come back."""
    details: dict[str, object] = {
        "status": error.status,
        "code": error.code,
        "message": error.message,
        "doc_url": f"{_DOCS}/error/codes/{error.code // 1000}xxx/{error.code}/",
    }
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if error.retry_after is not None:
        details["retry_after"] = error.retry_after
        headers = ((b"retry-after", str(error.retry_after).encode()),)
    trace_id = uuid4().hex
    document = {"success": False, "error": details, "trace_id": trace_id}
    return Answer(error.status, json.dumps(document).encode(), headers=headers, trace_id=trace_id)


def perform(account: Account, request: ApiRequest) -> Answer:
    """Do what the call asks for, by the account's rules, and give Linq's answer to it."""
    try:
        account.authorize(request.authorization)
        return _OPERATIONS[request.operation](account, request)
    except ApiError as error:
        return answer_error(error)


def _share(account: Account, request: ApiRequest) -> Answer:
    if request.entry is None:
        raise TypeError("a share is performed after it was logged: give the request its entry")
    account.share(request.entry)
    return _SHARED


def _list_cards(account: Account, request: ApiRequest) -> Answer:
    number = request.query.get("phone_number")
    cards = account.find_cards(None if number is None else check_e164(number))
    return answer_json(200, {"contact_cards": [_card(account, card) for card in cards]})


def _create_card(account: Account, request: ApiRequest) -> Answer:
    fields = request.json_body()
    number = check_e164(fields.get("phone_number"))
    names = _card_fields(fields)
    if names["first_name"] is None:
        raise ApiError(400, 1005, "Invalid parameter value: first_name is required")
    card = account.create_card(number, names["first_name"], names["last_name"], names["image_url"])
    return answer_json(200, _card(account, card))


def _update_card(account: Account, request: ApiRequest) -> Answer:
    number = check_e164(request.query.get("phone_number"))
    fields = request.json_body()
    removes_image = "image_url" in fields and fields["image_url"] is None
    card = account.update_card(number, **_card_fields(fields), removes_image=removes_image)
    return answer_json(200, _card(account, card))


def _list_chats(account: Account, request: ApiRequest) -> Answer:
    from_number = request.query.get("from")
    if from_number is not None:
        check_e164(from_number)
    to = request.query.get("to")
    limit, offset = _page(request, f"chats {from_number} {to}")
    found = account.find_chats(from_number=from_number, to=to, offset=offset, limit=limit + 1)
    chats = [chat_document(account, chat) for chat in found[:limit]]
    cursor = _cursor(f"chats {from_number} {to}", offset + limit) if len(found) > limit else None
    return answer_json(200, {"chats": chats, "next_cursor": cursor})


def _get_chat(account: Account, request: ApiRequest) -> Answer:
    return answer_json(200, chat_document(account, account.find_chat(request.chat_id)))


def _list_messages(account: Account, request: ApiRequest) -> Answer:
    chat = account.find_chat(request.chat_id)
    listing = f"messages {chat.id}"
    limit, offset = _page(request, listing)
    found = messages_of(chat)[offset : offset + limit + 1]
    messages = [_message(chat, message) for message in found[:limit]]
    cursor = _cursor(listing, offset + limit) if len(found) > limit else None
    return answer_json(200, {"messages": messages, "next_cursor": cursor})


def _list_phone_numbers(account: Account, _request: ApiRequest) -> Answer:
    return answer_json(200, {"phone_numbers": [_line(line) for line in account.lines.values()]})


def _create_subscription(account: Account, request: ApiRequest) -> Answer:
    fields = _subscription_fields(request.json_body())
    if fields.target_url is None or fields.subscribed_events is None:
        raise ApiError(400, 1005, "Invalid parameter value: target_url and subscribed_events are required")
    made = account.subscribe(fields.target_url, fields.subscribed_events, fields.phone_numbers or ())
    return answer_json(201, _subscription(made) | {"signing_secret": made.secret})


def _list_subscriptions(account: Account, _request: ApiRequest) -> Answer:
    return answer_json(200, {"subscriptions": [_subscription(one) for one in account.subscriptions.values()]})


def _get_subscription(account: Account, request: ApiRequest) -> Answer:
    return answer_json(200, _subscription(account.find_subscription(request.subscription_id)))


def _update_subscription(account: Account, request: ApiRequest) -> Answer:
    account.find_subscription(request.subscription_id)
    fields = _subscription_fields(request.json_body())
    changed = account.change_subscription(
        request.subscription_id,
        target_url=fields.target_url,
        subscribed_events=fields.subscribed_events,
        phone_numbers=fields.phone_numbers,
        is_active=fields.is_active,
    )
    return answer_json(200, _subscription(changed))


def _delete_subscription(account: Account, request: ApiRequest) -> Answer:
    account.unsubscribe(request.subscription_id)
    return Answer(204)


_OPERATIONS: Final[Mapping[Operation, Callable[[Account, ApiRequest], Answer]]] = {
    "share": _share,
    "list_cards": _list_cards,
    "create_card": _create_card,
    "update_card": _update_card,
    "list_chats": _list_chats,
    "get_chat": _get_chat,
    "list_messages": _list_messages,
    "list_phone_numbers": _list_phone_numbers,
    "create_subscription": _create_subscription,
    "list_subscriptions": _list_subscriptions,
    "get_subscription": _get_subscription,
    "update_subscription": _update_subscription,
    "delete_subscription": _delete_subscription,
}
# Linq's reference shows no answer to a share that worked, only that it is a success; a client must not read the body.
_SHARED: Final = answer_json(202, {"success": True})


def _card_fields(fields: Mapping[str, object]) -> dict[str, str | None]:
    """The parts of a card that may be set; for null, None."""
    names: dict[str, str | None] = {}
    for name in ("first_name", "last_name", "image_url"):
        value = fields.get(name)
        if value is not None and (not isinstance(value, str) or (name == "first_name" and not value.strip())):
            raise ApiError(400, 1005, f"Invalid parameter value: {name}")
        names[name] = value
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class _SubscriptionFields:
    """What a request says of a subscription; None is not given. No `phone_numbers` at all: those of every line."""

    target_url: str | None
    subscribed_events: tuple[str, ...] | None
    phone_numbers: tuple[str, ...] | None
    is_active: bool | None


def _subscription_fields(fields: Mapping[str, object]) -> _SubscriptionFields:
    url, is_active = fields.get("target_url"), fields.get("is_active")
    if not isinstance(url, str | None) or not isinstance(is_active, bool | None):
        raise ApiError(400, 1005, "Invalid parameter value: target_url or is_active")
    events, numbers = _texts(fields, "subscribed_events"), _texts(fields, "phone_numbers")
    if "phone_numbers" in fields and numbers is None:
        numbers = ()  # null takes the filter away
    return _SubscriptionFields(
        target_url=url,
        subscribed_events=events,
        phone_numbers=None if numbers is None else tuple(map(check_e164, numbers)),
        is_active=is_active,
    )


def _texts(fields: Mapping[str, object], name: str) -> tuple[str, ...] | None:
    values = fields.get(name)
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ApiError(400, 1005, f"Invalid parameter value: {name} must be a list of texts")
    return tuple(values)


def _page(request: ApiRequest, listing: str) -> tuple[int, int]:
    """The page asked for, as its length and the number of entries before it."""
    limit = request.query.get("limit", str(DEFAULT_PAGE))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 3 and 1 <= int(limit) <= LONGEST_PAGE):
        raise ApiError(400, 1005, f"Invalid parameter value: limit must be between 1 and {LONGEST_PAGE}")
    cursor = request.query.get("cursor")
    if cursor is None:
        return int(limit), 0
    try:
        offset = int(urlsafe_b64decode(cursor.encode()).decode().rpartition(" ")[2])
    except ValueError:
        offset = 0
    if offset < 1 or cursor != _cursor(listing, offset):
        raise ApiError(400, 1005, "Invalid parameter value: cursor")
    return int(limit), offset


def _cursor(listing: str, offset: int) -> str:
    """Linq's own example of a cursor is a bare offset; ours is opaque and good for one listing, so nobody counts."""
    return urlsafe_b64encode(f"{listing} {offset}".encode()).decode()


def _card(account: Account, card: Card) -> dict[str, object]:
    document: dict[str, object] = {"phone_number": card.phone_number, "first_name": card.first_name}
    if card.last_name is not None:
        document["last_name"] = card.last_name
    if card.image_url is not None:
        document["image_url"] = card.image_url
    return document | {"is_active": account.is_active(card)}


def chat_document(account: Account, chat: Chat) -> dict[str, object]:
    """A chat as Linq describes it."""
    handles = [
        handle_document(account, chat, chat.from_number),
        *(handle_document(account, chat, who) for who in chat.recipients),
    ]
    if chat.former_number is not None:
        handles.insert(0, handle_document(account, chat, chat.former_number))
    return {
        "id": chat.id,
        "created_at": time_text(chat.created_at),
        "updated_at": time_text(chat.updated_at),
        "display_name": ", ".join(chat.recipients),
        "service": chat.service,
        "is_group": chat.is_group,
        "is_archived": False,
        "handles": handles,
        "health_status": health_document(chat),
        "group_chat_icon": None,
    }


def health_document(chat: Chat) -> dict[str, object]:
    """A chat's health as Linq describes it."""
    return {
        "status": chat.health_status,
        "updated_at": time_text(chat.updated_at),
        "doc_url": f"{_DOCS}/channel/imessage/guides/chats/chat-health#{chat.health_status.lower()}",
    }


def handle_document(account: Account, chat: Chat, handle: str) -> dict[str, object]:
    """One side of a chat as Linq describes it."""
    is_me = handle in (chat.from_number, chat.former_number)
    left = handle == chat.former_number
    document: dict[str, object] = {
        "id": derived_id(chat.id, "handle", handle),
        "handle": handle,
        # Never null, unlike a chat's own (SDK: ChatHandle).
        "service": chat.service or "iMessage",
        "is_me": is_me,
        "status": "left" if left else "active",
        "joined_at": time_text(chat.created_at),
        "left_at": time_text(chat.created_at) if left else None,
    }
    line = account.lines.get(handle) if is_me else None
    return document if line is None else document | {"line_type": line.line_type}


def _message(chat: Chat, message: Message) -> dict[str, object]:
    at = time_text(message.created_at)
    delivered = message.delivery_status == "delivered"
    sender = chat.from_number if message.is_from_me else chat.recipients[0]
    return {
        "id": message.id,
        "chat_id": message.chat_id,
        "created_at": at,
        "updated_at": at,
        "sent_at": None if message.delivery_status == "failed" else at,
        "delivered_at": at if delivered else None,
        "read_at": None,
        "is_from_me": message.is_from_me,
        "delivery_status": message.delivery_status,
        "is_delivered": delivered,
        "is_read": False,
        "service": chat.service,
        "from": sender,
        "parts": [{"type": "text", "value": message.text, "reactions": None}],
    }


def _line(line: Line) -> dict[str, object]:
    return {
        "id": derived_id("line", line.phone_number),
        "phone_number": line.phone_number,
        "line_type": line.line_type,
        "reputation": {
            "status": line.reputation,
            "doc_url": f"{_DOCS}/channel/imessage/guides/phone-numbers/phone-reputation#{line.reputation.lower()}",
        },
        "forwarding_number": None,
    }


def _subscription(subscription: Subscription) -> dict[str, object]:
    """Without its secret, which only the answer to its creation holds."""
    return {
        "id": subscription.id,
        "target_url": subscription.target_url,
        "subscribed_events": list(subscription.subscribed_events),
        "phone_numbers": list(subscription.phone_numbers) or None,
        "is_active": subscription.is_active,
        "created_at": time_text(subscription.created_at),
        "updated_at": time_text(subscription.updated_at),
    }


def time_text(at: datetime) -> str:
    """A time as Linq writes it."""
    return at.isoformat().replace("+00:00", "Z")
