"""The simulator's own endpoints, under `/_simulator`: place and remove faults, read the share log, start afresh.

For other processes and for curl; they ask for no key, which is why the simulator is served on loopback only.

    GET    /_simulator/faults          the faults in force, with how often each has struck
    POST   /_simulator/faults          place one: a JSON object with the fields of `Fault`; answers its id
    DELETE /_simulator/faults[?id=1]   remove one, or all
    POST   /_simulator/cards           make a line's card active or not: {"phone_number": ..., "is_active": false}
    POST   /_simulator/lines           change a line: {"phone_number": ...} and any of LINE_FIELDS
    POST   /_simulator/chats           change a chat: {"id": ...} and any of CHAT_FIELDS
    POST   /_simulator/events          send webhooks: {"kind": ...} and any of ORDER_FIELDS; answers the deliveries
    GET    /_simulator/shares          the share log and its totals [?chat_id=...: of one chat]
    GET    /_simulator/state           what the account holds, and how often each operation was called
    POST   /_simulator/reset           forget log, limits, counts and faults; lines, cards, chats and subscriptions stay
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from worker.simulator.account import LINE_TYPES, REPUTATIONS, Account, Line, ShareCall
from worker.simulator.deliveries import deliver, order_from_json
from worker.simulator.faults import fault_from_json

CONTROLS_PATH: Final = "_simulator"
"""The first part of the path of every control endpoint."""

BASE: Final = f"/{CONTROLS_PATH}"

LINE_FIELDS: Final = {"line_type": LINE_TYPES, "reputation": REPUTATIONS, "is_refused": (True, False)}
CHAT_FIELDS: Final = {"is_available": (True, False), "is_blocked": (True, False), "shared_elsewhere": (True,)}
"""What may be changed over HTTP, and to which values. `shared_elsewhere`: another program shared there just now."""


def controls(account: Account) -> Starlette:
    """The control endpoints of an account, as an ASGI application."""

    async def set_card(request: Request) -> JSONResponse:
        try:
            number, changes = _changes(await request.body(), "phone_number", {"is_active": (True, False)})
        except ValueError as error:
            return _refusal(400, str(error))
        if number not in account.cards:
            return _refusal(404, f"phone_number: no line {number!r} has a card")
        if changes.get("is_active", True):
            account.activate_card(number)
        else:
            account.deactivate_card(number)
        return JSONResponse({"phone_number": number} | changes)

    async def set_line(request: Request) -> JSONResponse:
        try:
            number, changes = _changes(await request.body(), "phone_number", LINE_FIELDS)
        except ValueError as error:
            return _refusal(400, str(error))
        if number not in account.lines:
            return _refusal(404, f"phone_number: there is no line {number!r}")
        account.put_line(Line(**asdict(account.lines[number]) | changes))
        return JSONResponse(asdict(account.lines[number]))

    async def set_chat(request: Request) -> JSONResponse:
        try:
            chat_id, changes = _changes(await request.body(), "id", CHAT_FIELDS)
        except ValueError as error:
            return _refusal(400, str(error))
        if chat_id not in account.chats:
            return _refusal(404, f"id: there is no chat {chat_id!r}")
        chat = account.chats[chat_id]
        account.put_chat(replace(chat, is_available=bool(changes.get("is_available", chat.is_available))))
        if "is_blocked" in changes:
            change_block = account.block if changes["is_blocked"] else account.unblock
            change_block(chat.recipients[0])
        if "shared_elsewhere" in changes:
            account.share_elsewhere(chat_id)
        return JSONResponse({"id": chat_id} | changes)

    async def send_events(request: Request) -> JSONResponse:
        try:
            deliveries = await deliver(account, order_from_json(json.loads(await request.body())))
        except ValueError as error:
            return _refusal(400, str(error))
        return JSONResponse({"deliveries": deliveries})

    async def list_shares(request: Request) -> JSONResponse:
        chat_id = request.query_params.get("chat_id")
        calls = account.share_calls if chat_id is None else account.calls_of(chat_id)
        return JSONResponse(share_totals(account) | {"log": _log(calls)})

    async def show_state(_request: Request) -> JSONResponse:
        cards = list(account.cards.values())
        state = {
            "lines": len(account.lines),
            "cards": len(cards),
            "active_cards": sum(account.is_active(card) for card in cards),
            "chats": len(account.chats),
            "subscriptions": len(account.subscriptions),
            "faults": len(account.faults),
            "requests": dict(account.requests),
            "shares": share_totals(account),
        }
        return JSONResponse(state)

    async def reset(_request: Request) -> JSONResponse:
        account.reset()
        return JSONResponse({"reset": True})

    return Starlette(
        routes=[
            *_fault_routes(account),
            Route(f"{BASE}/cards", set_card, methods=["POST"]),
            Route(f"{BASE}/lines", set_line, methods=["POST"]),
            Route(f"{BASE}/chats", set_chat, methods=["POST"]),
            Route(f"{BASE}/events", send_events, methods=["POST"]),
            Route(f"{BASE}/shares", list_shares, methods=["GET"]),
            Route(f"{BASE}/state", show_state, methods=["GET"]),
            Route(f"{BASE}/reset", reset, methods=["POST"]),
        ]
    )


def _fault_routes(account: Account) -> list[Route]:
    async def list_faults(_request: Request) -> JSONResponse:
        return JSONResponse({"faults": account.faults.listing()})

    async def add_fault(request: Request) -> JSONResponse:
        try:
            fault = fault_from_json(json.loads(await request.body()))
        except ValueError as error:
            return _refusal(400, str(error))
        return JSONResponse({"id": account.add_fault(fault)}, status_code=201)

    async def remove_faults(request: Request) -> JSONResponse:
        given = request.query_params.get("id")
        if given is None:
            account.clear_faults()
        else:
            try:
                account.remove_fault(int(given))
            except (ValueError, KeyError):
                return _refusal(404, f"id: no fault has the number {given!r}")
        return JSONResponse({"faults": account.faults.listing()})

    return [
        Route(f"{BASE}/faults", list_faults, methods=["GET"]),
        Route(f"{BASE}/faults", add_fault, methods=["POST"]),
        Route(f"{BASE}/faults", remove_faults, methods=["DELETE"]),
    ]


def _changes(body: bytes, key: str, allowed: Mapping[str, Sequence[str | bool]]) -> tuple[str, dict[str, str | bool]]:
    """What a request names by `key`, and the changes that it asks for.

    Raises:
        ValueError: it is no JSON object, names nothing, asks for no change, or for one that is not allowed.
    """
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    fields = f"{key} and one or more of {', '.join(allowed)}"
    if not isinstance(document, dict) or not isinstance(document.get(key), str):
        raise ValueError(f"must be a JSON object with {fields}")
    named = document.pop(key)
    if not document or not document.keys() <= allowed.keys():
        raise ValueError(f"must hold {fields}, not {', '.join(map(str, document)) or 'nothing else'}")
    for name, value in document.items():
        if not any(value is one or (isinstance(value, str) and value == one) for one in allowed[name]):
            raise ValueError(f"{name}: must be one of {json.dumps(allowed[name])}, not {json.dumps(value)}")
    return named, document


def share_totals(account: Account) -> dict[str, object]:
    """The share log in numbers, and each chat that was called more than once in one UTC day."""
    calls = account.share_calls
    return {
        "calls": len(calls),
        "took_effect": sum(call.took_effect for call in calls),
        "chats": len({call.chat_id for call in calls}),
        "repeated_in_a_utc_day": [
            {"chat_id": chat_id, "day": day.isoformat(), "calls": count}
            for (chat_id, day), count in account.repeated_calls().items()
        ],
    }


def _log(calls: Sequence[ShareCall]) -> list[dict[str, object]]:
    return [
        {
            "chat_id": call.chat_id,
            "at": call.at.isoformat().replace("+00:00", "Z"),
            "status": call.status,
            "took_effect": call.took_effect,
            "trace_id": call.trace_id,
        }
        for call in calls
    ]


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)
