"""What Linq's account holds, as values that every part of the worker uses: lines, and their contact cards.

A module of the bottom, standard library only: `worker.linq` reads these values from answers, `worker.chats` stores
them, `worker.questions` shows them. Here is also what both the rules and the reading of answers know of Linq.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

LINQ_PAUSE: Final = timedelta(minutes=5)
"""Linq allows one share per chat in this time (Linq's reference of the share endpoint)."""

HANDLE_BLOCKED: Final = 2026
"""Linq's error code when the account blocked a chat's number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A contact card of the account: the name and photo that iMessage shows for a line (E.164)."""

    phone_number: str
    first_name: str | None
    last_name: str | None
    image_url: str | None
    is_active: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A phone number of the account. `reputation`: HEALTHY, AT_RISK, CRITICAL, or a word that Linq has added since."""

    phone_number: str
    line_type: str | None
    reputation: str | None
