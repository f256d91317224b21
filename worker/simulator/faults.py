"""Misbehaviour that the simulator can be asked for: which requests, how often, how likely, and what happens to them.

Knows how a fault is described, read from JSON and chosen for a request; carrying it out on a connection is the
simulator's part. At most one fault strikes a request: the first one placed that applies.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass
from random import Random
from typing import Final, Literal, get_args

Operation = Literal[
    "share",
    "list_cards",
    "create_card",
    "update_card",
    "list_chats",
    "get_chat",
    "list_messages",
    "list_phone_numbers",
    "create_subscription",
    "list_subscriptions",
    "get_subscription",
    "update_subscription",
    "delete_subscription",
]
"""The calls of the API that the simulator answers."""

EVERY_OPERATION: Final = "*"

_CODES: Final = {400: 1005, 401: 2004, 403: 2005, 404: 2001, 409: 2014, 429: 1007, 503: 4004}
_INTERNAL_ERROR: Final = 3006
_SETUP_INCOMPLETE: Final = 2022
_UPSTREAM_LIMITED: Final = 4004

_PATHS: Final = (*get_args(Operation), EVERY_OPERATION)
_HEADER_TEXT: Final = re.compile(r"[\x20-\x7e]+")
_HTTP_URL: Final = re.compile(r"https?://[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of misbehaviour, and the requests that it strikes.

    Which requests: those of operation `path` (`"*"`: all of them) and, where given, of one chat and of one line. The
    first `after` of them pass, and of the rest each is struck with `probability`, `times` at most.

    What happens to a request that is struck; the parts combine, save where the constructor refuses it:

    - `status`: answered instead of the usual status. From 400 on it comes in Linq's error envelope with `code` (else
      one that suits the status), `message` and `retry_after` (seconds; else none).
    - `body`, `content_type`: the body as it is (HTML, half a JSON document, nothing), instead of the usual one.
    - `redirect_to`: `307` (or `status`) with this `Location`.
    - `delay_seconds`: how long the answer is held back. A client that hangs up meanwhile ends the wait.
    - `drop`: nothing is answered and the connection is closed, `"before"` or `"after"` the call took effect; with
      `reset` it is closed by a TCP reset instead of in good order.
    - `trickle_seconds`: the head is sent at once and the body byte by byte, with that pause before each.
    - `cut_short`: a longer body is announced than is sent, and then the connection is closed.

    Whether the call takes effect: not if the answer is an error, a redirect or a drop `"before"`, else yes, after the
    delay. With `takes_effect` it does whatever the answer, and before the delay: the share that happened although
    nobody heard of it. A call that the rules of the API refuse has no effect in either case.

    Two codes have an effect of their own on a card, after Linq's reference: `2022` and `4004` leave a card that was
    being created inactive, and `4004` leaves one that was being updated inactive.

    Raises:
        ValueError: The parts contradict each other, one of them is out of range, or nothing would happen.
    """

    path: str
    _: KW_ONLY
    chat_id: str | None = None
    line: str | None = None
    times: int | None = None
    after: int = 0
    probability: float = 1.0
    status: int | None = None
    code: int | None = None
    message: str | None = None
    retry_after: float | None = None
    body: str | bytes | None = None
    content_type: str | None = None
    delay_seconds: float = 0.0
    drop: Literal["before", "after"] | None = None
    reset: bool = False
    trickle_seconds: float = 0.0
    cut_short: bool = False
    takes_effect: bool = False
    redirect_to: str | None = None

    def __post_init__(self) -> None:
        for problem, present in self._problems().items():
            if present:
                raise ValueError(problem)

    @property
    def prevents_effect(self) -> bool:
        """Whether a call that it strikes does nothing on the account."""
        answers_otherwise = self.drop == "before" or self.redirect_to is not None or (self.status or 200) >= 300
        return answers_otherwise and not self.takes_effect

    @property
    def error_code(self) -> int:
        """Linq's code in the error envelope that it answers with."""
        return self.code or _CODES.get(self.status or 0, _INTERNAL_ERROR)

    def leaves_card_inactive(self, operation: Operation) -> bool:
        """Whether a card that this operation writes is stored and yet not active afterwards."""
        if self.body is not None or (self.status or 200) < 400:
            return False
        if operation == "create_card":
            return self.error_code in (_SETUP_INCOMPLETE, _UPSTREAM_LIMITED)
        return operation == "update_card" and self.error_code == _UPSTREAM_LIMITED

    @property
    def acts_first(self) -> bool:
        """Whether the call takes effect before the answer is held back, rather than after."""
        return self.takes_effect or self.drop == "after"

    def _problems(self) -> dict[str, bool]:
        seconds = (self.delay_seconds, self.trickle_seconds, self.retry_after or 0.0)
        answers = self.status is not None or self.body is not None or self.redirect_to is not None
        delivers = self.delay_seconds > 0 or self.trickle_seconds > 0 or self.cut_short
        headers = [text for text in (self.content_type,) if text is not None]
        return {
            f"path: {self.path!r} is none of {', '.join(_PATHS)}": self.path not in _PATHS,
            f"times: {self.times} is less than 1": self.times is not None and self.times < 1,
            f"after: {self.after} is less than 0": self.after < 0,
            f"probability: {self.probability} is not above 0 and at most 1": not 0 < self.probability <= 1,
            f"status: {self.status} is not from 200 to 599": not 200 <= (self.status or 200) <= 599,
            f"code: a status of 400 or more must go with it, not {self.status}": (
                self.code is not None and (self.status or 0) < 400
            ),
            "delay_seconds, trickle_seconds and retry_after must be finite and not negative": not all(
                math.isfinite(value) and value >= 0 for value in seconds
            ),
            f"drop: {self.drop!r} is neither 'before' nor 'after'": self.drop not in (None, "before", "after"),
            "drop: a dropped request has no answer to go with it": self.drop is not None
            and (answers or self.trickle_seconds > 0 or self.cut_short),
            "drop: 'before' says that the call takes no effect, takes_effect that it does": (
                self.drop == "before" and self.takes_effect
            ),
            "reset: goes with drop only": self.reset and self.drop is None,
            f"content_type: {self.content_type!r} is not printable ASCII": not all(
                _HEADER_TEXT.fullmatch(text) for text in headers
            ),
            f"redirect_to: {self.redirect_to!r} is not an http or https URL": self.redirect_to is not None
            and not _HTTP_URL.fullmatch(self.redirect_to),
            f"redirect_to: needs a status from 300 to 399, not {self.status}": self.redirect_to is not None
            and not 300 <= (self.status or 307) <= 399,
            "nothing would happen: give status, body, redirect_to, delay_seconds, drop, trickle_seconds or cut_short": (
                not answers and not delivers and self.drop is None
            ),
        }


_TEXT: Final = ("text", (str,))
_WHOLE: Final = ("a whole number", (int,))
_NUMBER: Final = ("a number", (int, float))
_FLAG: Final = ("true or false", (bool,))
_KINDS: Final[Mapping[str, tuple[str, tuple[type, ...]]]] = {
    "path": _TEXT,
    "chat_id": _TEXT,
    "line": _TEXT,
    "times": _WHOLE,
    "after": _WHOLE,
    "probability": _NUMBER,
    "status": _WHOLE,
    "code": _WHOLE,
    "message": _TEXT,
    "retry_after": _NUMBER,
    "body": _TEXT,
    "content_type": _TEXT,
    "delay_seconds": _NUMBER,
    "drop": _TEXT,
    "reset": _FLAG,
    "trickle_seconds": _NUMBER,
    "cut_short": _FLAG,
    "takes_effect": _FLAG,
    "redirect_to": _TEXT,
}


def fault_from_json(document: object) -> Fault:
    """The fault that a decoded JSON object describes, by the names of `Fault`'s fields; null is the same as left out.

    Raises:
        ValueError: It is no object, a name is unknown, a value has the wrong type, or `Fault` refuses it.
    """
    if not isinstance(document, dict):
        raise ValueError("a fault is a JSON object")
    given = {name: value for name, value in document.items() if value is not None}
    for name, value in given.items():
        if name not in _KINDS:
            raise ValueError(f"{name!r} is no part of a fault; these are: {', '.join(_KINDS)}")
        words, types = _KINDS[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ValueError(f"{name}: must be {words}, not {value!r}")
    if "path" not in given:
        raise ValueError(f"path: missing; it is one of {', '.join(_PATHS)}")
    return Fault(**given)


@dataclass(slots=True)
class _Placed:
    fault: Fault
    passed: int = 0
    struck: int = 0


class Faults:
    """The faults that are in force, each under a number, and how often each has struck.

    Args:
        seed: Makes the draws of `probability` repeatable.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = Random(seed)  # noqa: S311 - repeatable on purpose; nothing secret is drawn from it
        self._placed: dict[int, _Placed] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._placed)

    def add(self, fault: Fault) -> int:
        """Put a fault in force behind those already there; its number."""
        self._last_id += 1
        self._placed[self._last_id] = _Placed(fault)
        return self._last_id

    def remove(self, fault_id: int) -> None:
        """Take one fault away.

        Raises:
            KeyError: There is none with this number.
        """
        del self._placed[fault_id]

    def clear(self) -> None:
        """Take every fault away."""
        self._placed.clear()

    def strike(self, operation: Operation, *, chat_id: str, line: str | None) -> Fault | None:
        """The fault that this request meets, counted as having struck; None if it is to be answered as usual."""
        for placed in self._placed.values():
            fault = placed.fault
            if (
                fault.path not in (operation, EVERY_OPERATION)
                or (fault.chat_id is not None and fault.chat_id != chat_id)
                or (fault.line is not None and fault.line != line)
                or (fault.times is not None and placed.struck >= fault.times)
            ):
                continue
            if placed.passed < fault.after:
                placed.passed += 1
                continue
            if fault.probability < 1 and self._random.random() >= fault.probability:
                continue
            placed.struck += 1
            return fault
        return None

    def listing(self) -> list[dict[str, object]]:
        """Each fault as a JSON object: its number, how often it has struck, and the parts that were given."""
        return [
            {"id": fault_id, "struck": placed.struck}
            | {
                name: value.decode(errors="replace") if isinstance(value, bytes) else value
                for name, value in asdict(placed.fault).items()
                if value not in (None, False)
            }
            for fault_id, placed in self._placed.items()
        ]
