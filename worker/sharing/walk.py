"""The walk of a pass through its candidates: what is read ahead, what a claim is offered, and when to begin again.

The walk follows the key and keeps one window of ids in memory, however many chats there are. It decides nothing about
a chat: each claim asks the database again whether the chat is still due.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from worker.outcomes import Claim
from worker.sharing.candidates import Candidates

WINDOW: Final = 5_000
"""Upper bound on the ids that are read ahead at once."""

MOST_AHEAD: Final = 2 * WINDOW
"""Upper bound on the ids in memory: where some must wait for their line, others are looked for behind them."""

GOLDEN: Final = (5**0.5 - 1) / 2
"""Multiples of it, without their whole part, are spread evenly, however many there are."""

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
        self._ahead: dict[str, str] = {}
        """The ids that were read, with the line of each, in the key's order."""
        self._probes = 0
        self._after: str | None = ""
        """The last id that was read; None at the end of the table."""
        self._lap = 1
        self._per_slot = 1
        """Ids offered per free slot: more while other workers have claimed some of them already."""
        self.stayed_due: str | None = None
        """Why chats that this lap passed stayed due; None if none did."""
        self._pause = LOCKED_PAUSE_SECONDS

    @property
    def lines_ahead(self) -> set[str]:
        """The lines of the chats that were read and not claimed yet."""
        return set(self._ahead.values())

    @property
    def can_read(self) -> bool:
        """True if there is more to read, and room for it."""
        return self._after is not None and len(self._ahead) <= MOST_AHEAD - WINDOW

    @property
    def at_end(self) -> bool:
        """True if this lap has offered all ids."""
        return self._after is None and not self._ahead

    async def read_ahead(self, connection: AsyncConnection, now: datetime) -> None:
        """Read the next window, which may be empty."""
        if self._after is not None:
            window = await self._candidates.read_ahead(connection, now, after=self._after, at_most=WINDOW)
            self._ahead.update(window.line_of)
            self._after = window.after

    def offer(
        self, slots: int, *, free: Callable[[str], float] | None = None, probing: bool = False
    ) -> Mapping[str, str]:
        """The next ids, each with its line, for a claim that can fill so many free slots.

        `free` says how many requests of a line may start now; None: any number. While `probing`, they are taken from
        somewhere else each time: what refuses the chats at one place of the table may not concern the others.
        """
        at_most = min(self._per_slot * slots, MOST_OFFERED)
        start = 0
        if probing and at_most:
            start = int(self._probes * GOLDEN % 1 * len(self._ahead))
        following = islice(self._ahead.items(), start, None)
        if free is None:
            return dict(islice(following, at_most))
        offered: dict[str, str] = {}
        of_line: Counter[str] = Counter()
        for chat_id, line in following:
            if len(offered) >= at_most:
                break
            if of_line[line] < free(line):
                offered[chat_id] = line
                of_line[line] += 1
        return offered

    def move_past(self, offered: Mapping[str, str], claims: list[Claim], slots: int) -> None:
        """Drop the ids that a claim has decided: claimed, not due any more, or locked by another worker."""
        if not offered:
            return
        self._probes += 1
        ids = list(offered)
        filled = len(claims) == slots
        decided = ids.index(claims[-1].chat_id) + 1 if filled else len(ids)
        for chat_id in ids[:decided]:
            del self._ahead[chat_id]
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
