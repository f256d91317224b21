"""The walk of a pass through its candidates: what is read ahead, what a claim is offered, and when to begin again.

The walk follows the key and keeps one window of ids in memory, however many chats there are. It decides nothing about
a chat: each claim asks the database again whether the chat is still due.
"""

from collections import deque
from datetime import datetime
from itertools import islice
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from worker.outcomes import Claim
from worker.sharing.candidates import Candidates

WINDOW: Final = 5_000
"""Upper bound on the ids that are read ahead."""

MOST_PER_SLOT: Final = 64
MOST_OFFERED: Final = 1_000
"""Upper bounds on the ids offered to one claim: per free slot, and in total."""

LAPS: Final = 3
"""How often a pass walks the table for chats that stay due: never sent, or locked by another worker."""

UNSENT_PAUSE_SECONDS: Final = 5.0
"""Before the next lap, if a request never left: the network may come back."""

LOCKED_PAUSE_SECONDS: Final = 0.2
"""Before the next lap, if another worker had locked rows: its claims will be committed by then."""


class Walk:
    """Where a pass is in its candidates."""

    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates
        self._ahead: deque[str] = deque()
        self._after: str | None = ""
        """The last id that was read; None at the end of the table."""
        self._lap = 1
        self._per_slot = 1
        """Ids offered per free slot: more while other workers have claimed some of them already."""
        self.stayed_due: str | None = None
        """Why chats that this lap passed stayed due; None if none did."""
        self._pause = LOCKED_PAUSE_SECONDS

    @property
    def has_next(self) -> bool:
        """True if there are ids to offer."""
        return bool(self._ahead)

    @property
    def at_end(self) -> bool:
        """True if this lap has offered all ids."""
        return self._after is None and not self._ahead

    async def read_ahead(self, connection: AsyncConnection, now: datetime) -> None:
        """Read the next window, which may be empty."""
        if self._after is not None:
            window = await self._candidates.read_ahead(connection, now, after=self._after, at_most=WINDOW)
            self._ahead.extend(window.ids)
            self._after = window.after

    def offer(self, slots: int) -> list[str]:
        """The next ids, for a claim that can fill so many free slots."""
        return list(islice(self._ahead, min(self._per_slot * slots, MOST_OFFERED)))

    def move_past(self, offered: list[str], claims: list[Claim], slots: int) -> None:
        """Drop the ids that a claim has decided: claimed, not due any more, or locked by another worker."""
        if not offered:
            return
        filled = len(claims) == slots
        decided = offered.index(claims[-1].chat_id) + 1 if filled else len(offered)
        for _ in range(decided):
            self._ahead.popleft()
        if len(claims) < min(slots, len(offered)):
            self._per_slot = min(2 * self._per_slot, MOST_PER_SLOT)
            self.stayed_due = self.stayed_due or "another worker was sharing with them"
        elif 4 * decided <= len(offered):
            self._per_slot = max(self._per_slot // 2, 1)

    def saw_unsent(self, why: str | None) -> None:
        """A chat that this lap passed stays due, because its request never left."""
        self.stayed_due, self._pause = why, UNSENT_PAUSE_SECONDS

    def start_lap(self) -> float | None:
        """Begin another lap for the chats that stayed due; return the seconds to wait first. None: there is no need."""
        if self.stayed_due is None or self._lap == LAPS:
            return None
        self._lap += 1
        self._after, self.stayed_due = "", None
        return self._pause
