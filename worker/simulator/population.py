"""Fills a simulated account with chats of every kind: the same ones for the same number, seed and time.

Each reason for which a chat is shared or passed over occurs from 20 chats on: services, groups, opt-outs, chats long
silent or never written to, lines whose card is inactive or missing. The proportions are guesses at a working account.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count, islice
from random import Random
from typing import Final, Literal
from uuid import UUID

from worker.simulator.account import Account, Line
from worker.simulator.chats import Chat

FEWEST_LINES: Final = 3
"""One with an active card, one whose card is inactive, one without a card."""

MOST_LINES: Final = 100
"""As many as one area code has numbers that are set aside for fiction (555-0100 to 555-0199)."""

Kind = Literal[
    "usual",
    "group",
    "sms",
    "rcs",
    "service_unknown",
    "no_outbound",
    "opted_out",
    "silent",
    "card_inactive",
    "no_card",
]

WEIGHTS: Final[Mapping[Kind, float]] = {
    "usual": 70,  # iMessage, written to within the last days
    "group": 6,
    "no_outbound": 4,
    "sms": 7,
    "opted_out": 1.5,
    "card_inactive": 1,
    "no_card": 1.5,
    "rcs": 3,
    "service_unknown": 2,
    "silent": 4,  # last written to weeks or months ago
}
"""How many chats there are of each kind, relative to each other; of each, one comes before the rest is drawn."""

_SERVICES: Final[Mapping[Kind, str | None]] = {"sms": "SMS", "rcs": "RCS", "service_unknown": None}


def populate(account: Account, *, chats: int, lines: int | None = None, seed: int = 0) -> None:
    """Add lines, cards and chats to an account.

    The last two lines are those whose card is inactive and missing. Times lie before the account's clock's now.

    Args:
        account: What to fill.
        chats: How many chats to add.
        lines: How many lines; left out, it grows mildly with the chats, from 3 to 20.
        seed: Another seed gives other chats.

    Raises:
        ValueError: `chats` is negative, or `lines` is not from `FEWEST_LINES` to `MOST_LINES`.
    """
    if lines is None:
        lines = min(max(FEWEST_LINES, round(chats**0.25)), 20) if chats > 0 else FEWEST_LINES
    if chats < 0:
        raise ValueError(f"chats: {chats} is less than 0")
    if not FEWEST_LINES <= lines <= MOST_LINES:
        raise ValueError(f"lines: {lines} is not from {FEWEST_LINES} to {MOST_LINES}")
    random = Random(seed)  # noqa: S311 - repeatable on purpose; nothing secret is drawn from it
    numbers = _add_lines(account, lines)
    builder = _Builder(random, account.clock(), numbers, _recipients())
    kinds = [*islice(WEIGHTS, chats)]
    kinds += random.choices(list(WEIGHTS), weights=list(WEIGHTS.values()), k=chats - len(kinds))
    random.shuffle(kinds)
    for kind in kinds:
        account.put_chat(builder.chat(kind))


def _add_lines(account: Account, lines: int) -> list[str]:
    numbers = [f"+1415555{100 + number:04}" for number in range(lines)]
    for number in numbers:
        account.put_line(Line(number))
    if lines > FEWEST_LINES:
        account.put_line(Line(numbers[1], reputation="AT_RISK"))
    for position, number in enumerate(numbers[:-1], start=1):
        account.put_card(number, "Acme", f"Support {position}", is_active=number != numbers[-2])
    return numbers


def _recipients() -> Iterator[str]:
    """Numbers in area code 555, which is assigned to nobody."""
    return (f"+1555{number}" for number in count(2_000_000))


@dataclass(frozen=True, slots=True)
class _Builder:
    random: Random
    now: datetime
    lines: list[str]
    recipients: Iterator[str]

    def chat(self, kind: Kind) -> Chat:
        """A chat of this kind."""
        draw = self.random.random
        days = 30 + 170 * draw() if kind == "silent" else 14 * draw() ** 2
        outbound = self.now - timedelta(days=days)
        inbound = outbound + timedelta(hours=(draw() - 0.5) * 24 * min(days, 1)) if draw() < 0.8 else None
        no_outbound = kind == "no_outbound"
        healthy = "AT_RISK" if draw() < 0.03 else "HEALTHY"
        is_group = kind == "group"
        return Chat(
            id=str(UUID(int=self.random.getrandbits(128), version=4)),
            from_number=self._line(kind),
            service=_SERVICES.get(kind, "iMessage"),
            is_group=is_group,
            last_outbound_at=None if no_outbound else outbound,
            last_inbound_at=outbound if no_outbound else inbound,
            health_status="OPTED_OUT" if kind == "opted_out" else healthy,
            recipients=tuple(islice(self.recipients, 2 + int(3 * draw()) if is_group else 1)),
            created_at=outbound - timedelta(days=2 + 200 * draw()),
            former_number=self.lines[-1] if is_group else None,
            outbound_count=1 + int(8 * draw()),
            inbound_count=1 + int(8 * draw()),
        )

    def _line(self, kind: Kind) -> str:
        if kind == "card_inactive":
            return self.lines[-2]
        if kind == "no_card":
            return self.lines[-1]
        return self.random.choice(self.lines[:-2])
