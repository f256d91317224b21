"""What Linq's account holds, as values that every part of the worker uses: lines, and their contact cards.

A module of the bottom, standard library only: `worker.linq` reads these values from answers, `worker.chats` stores
them, `worker.questions` shows them.
"""

from dataclasses import dataclass


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
