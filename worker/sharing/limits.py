"""How fast, and how many at once: the limits a pass keeps to, and what it makes of Linq's answers to its calls.

`Pace` holds `SHARE_MAX_PER_SECOND`. `Brake` watches the answers and says how many calls may be in flight now, or that
the pass must stop. Neither waits, calls or reads a clock: they are told the time, in monotonic seconds, and asked.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from worker.linq.answers import AccessRefused, ChatRefused, LinqError, NeverSent, PerhapsDone, RateLimited

FAILURES_IN_A_ROW: Final = 10
"""So many 5xx, timeouts and failed connections in a row, and Linq is taken to be down."""

LONGEST_WAIT: Final = 15 * 60.0
"""Seconds; a rate limit that lasts longer ends the pass."""

UNTOLD_WAIT: Final = 60.0
"""Seconds to wait for a rate limit that names no time."""

CHAT_LIMIT: Final = 5 * 60.0
"""Linq allows one share per chat in five minutes; a longer Retry-After cannot be about one chat."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How hard a pass may push, and how long it may take to stop."""

    concurrency: int = 20
    per_second: float = 20
    drain_seconds: float = 25
    at_most: int | None = None
    """Chats to claim in all; None: every due one."""


class Pace:
    """No more than so many calls in any one second; 0 is no limit. Below 1, no more than one in a longer span."""

    def __init__(self, per_second: float) -> None:
        self._at_most = max(1, int(per_second))
        self._span = max(1.0, 1 / per_second) if per_second else 0.0
        self._taken: deque[float] = deque()

    def free(self, now: float) -> int | None:
        """How many calls may start at `now` (monotonic seconds); None: as many as you like."""
        if not self._span:
            return None
        while self._taken and self._taken[0] + self._span <= now:
            self._taken.popleft()
        return self._at_most - len(self._taken)

    def wait(self, now: float) -> float:
        """Seconds until one more call may start."""
        return 0.0 if self.free(now) != 0 else self._taken[0] + self._span - now

    def take(self, calls: int, now: float) -> None:
        """Count calls that start at `now`."""
        if self._span:
            self._taken.extend([now] * calls)


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Why a pass must end; and the seconds after which another try makes sense, where Linq named them."""

    reason: str
    retry_after: float | None = None
    access_refused: bool = False


class Brake:
    """Turns Linq's answers, in the order they come, into how many calls may be in flight.

    A rate limit that is about one chat leaves the others alone; one that is about the account (a second 429 in a row,
    or one that lasts longer than a chat's can) pauses the pass, which then feels its way with one call until an answer
    is another one.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._failures = 0
        self._limited = 0
        self._pauses = 0
        self._waited = 0.0
        self._paused_until = -math.inf
        self._feeling = False
        self.stop: Stop | None = None

    def slots(self, now: float) -> int:
        """How many calls may be in flight at `now`."""
        if self.stop is not None or self.paused(now):
            return 0
        return 1 if self._feeling else self._concurrency

    def paused(self, now: float) -> float:
        """Seconds from `now` in which no call may start."""
        return max(0.0, self._paused_until - now)

    def saw(self, error: LinqError | None, now: float) -> None:
        """Take in the answer of one call: None for a share that was done."""
        if isinstance(error, AccessRefused):
            self.stop = self.stop or Stop(reason=f"Linq refused the key: {error}", access_refused=True)
        elif isinstance(error, RateLimited):
            self._failures = 0
            self._saw_limit(error, now)
        elif isinstance(error, PerhapsDone | NeverSent) or (isinstance(error, ChatRefused) and error.code is None):
            self._failures += 1
            if self._failures >= FAILURES_IN_A_ROW:
                reason = f"{self._failures} calls in a row got no answer of Linq's, the last one: {error}"
                self.stop = self.stop or Stop(reason=reason)
        else:
            self._failures = self._limited = self._pauses = 0
            self._waited = 0.0
            self._feeling = False

    def _saw_limit(self, error: RateLimited, now: float) -> None:
        self._limited += 1
        told = error.retry_after
        if self._limited == 1 and (told is None or told <= CHAT_LIMIT):
            return  # most likely about this one chat
        if not self.paused(now):
            self._pauses += 1
        # Growing, so that a limit which names no time to speak of does not cost one chat a second its day.
        wait = max(UNTOLD_WAIT if told is None else told, 2.0**self._pauses)
        until = now + wait
        paused_until = max(now, self._paused_until)
        if until > paused_until:
            self._waited += until - paused_until
            self._paused_until = until
        self._feeling = True
        if self._waited > LONGEST_WAIT:
            reason = f"Linq's rate limit lasts longer than {LONGEST_WAIT / 60:g} minutes: {error}"
            self.stop = self.stop or Stop(reason=reason, retry_after=wait)
