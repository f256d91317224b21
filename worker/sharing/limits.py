"""How fast, and how many at once: the limits a pass keeps to, and what it makes of Linq's answers to its requests.

`Pace` holds SHARE_MAX_PER_SECOND, `LineLimits` what holds for a line. `Brake` watches the answers and says how many
requests may be in flight now, or that the pass must stop. None of them waits, sends or reads a clock: they are given
the time, in monotonic seconds, and asked.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from worker.account import LINQ_PAUSE
from worker.linq.answers import (
    AccessRefused,
    CardInactive,
    ChatRefused,
    ErrorCode,
    LineRefused,
    LinqError,
    NeverSent,
    PerhapsDone,
    RateLimited,
)
from worker.outcomes import KEY_REFUSED

FAILURES_IN_A_ROW: Final = 10
"""So many 5xx, timeouts and failed connections in a row, and Linq is taken to be down."""

REJECTIONS_IN_A_ROW: Final = 10
"""So many rejections in a row with one code that is not about a line or a recipient: the fault is taken to be ours."""

REJECTED_PROBES: Final = 3
"""The same for a resumed pass, which sends one request at a time until a share goes through."""

UNPROVEN: Final = 5
"""The most requests in flight before the first share of a pass goes through."""

LIMITED_PROBES: Final = 3
"""So many requests, one at a time, that say 429 too, and the limit is taken to be the account's."""

LONGEST_WAIT: Final = 15 * 60.0
"""Seconds; a rate limit that lasts longer ends the pass."""

UNTOLD_WAIT: Final = 60.0
"""Seconds to wait for a rate limit that names no time."""

SHORTEST_WAIT: Final = 2.0
"""Seconds to wait for one that names no time to speak of."""

CHAT_LIMIT: Final = LINQ_PAUSE.total_seconds()
"""Seconds; a longer Retry-After cannot be about one chat."""

BURST_SECONDS: Final = 0.05
"""Requests of so long a time may start at once; and one that is late by no more is made up for."""

ABOUT_THE_RECIPIENT: Final = (ErrorCode.OPTED_OUT, ErrorCode.HANDLE_BLOCKED)

WHAT_TO_LOOK_AT: Final = {
    ErrorCode.CHAT_NOT_FOUND: "is LINQ_API_KEY of the account that has these chats? 'share-worker check' shows its"
    " lines; 'share-worker chats restore --missing' takes back what was marked as missing",
    ErrorCode.CHAT_UNAVAILABLE: "is the account in order? 'share-worker chats restore --missing' takes back what was"
    " marked as missing",
}
"""By Linq's code; for any other one, see `ASK_LINQ`."""

ASK_LINQ: Final = "what Linq refuses to all is not about a chat: ask Linq's support, with the trace id"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How hard a pass may push, and how long it may take to stop."""

    concurrency: int = 20
    per_second: float = 20
    per_second_per_line: float = 0
    drain_seconds: float = 25
    at_most: int | None = None
    """Chats to claim in all; None: every due one."""


class Pace:
    """No more than so many requests in any one second, spread over it; 0 is no limit.

    At 20 a second that is one each 50 ms. Above, as many as belong to `BURST_SECONDS` may start at once. Below 1, no
    more than one in a longer span. One that starts a little late, as after a commit, does not delay those behind it.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._at_once = max(1, int(per_second * BURST_SECONDS))
        self._most = max(1, int(per_second))
        self._span = max(1.0, 1 / per_second) if per_second else 0.0
        """Seconds in which no more than `_most` may start."""
        self._taken: deque[float] = deque()
        self._next = 0.0
        """When the next one is to start, if all are evenly spaced."""

    def free(self, now: float) -> int | None:
        """How many requests may start at `now` (monotonic seconds); None: as many as you like."""
        if not self._span:
            return None
        while self._taken and self._taken[0] + self._span <= now:
            self._taken.popleft()
        return min(self._at_once, self._most - len(self._taken)) if now >= self._next else 0

    def wait(self, now: float) -> float:
        """Seconds until one more request may start."""
        if self.free(now) != 0:
            return 0.0
        room = self._taken[0] + self._span if len(self._taken) >= self._most else now
        return max(self._next, room) - now

    def take(self, requests: int, now: float) -> None:
        """Count requests that start at `now`."""
        if self._span:
            planned = self._next if now - self._next <= BURST_SECONDS else now
            self._next = planned + requests / self._per_second
            self._taken.extend([now] * requests)


class LineLimits:
    """What holds for each line: SHARE_MAX_PER_SECOND_PER_LINE, and one request at a time if Linq refused the line.

    A line that Linq refused (403/2027) is asked for again after its rest: by one request, until a share goes through.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._paces: dict[str, Pace] = {}
        self._refused: set[str] = set()
        self._probed: set[str] = set()
        """Lines of `_refused` with a request in flight."""

    @property
    def any_in_force(self) -> bool:
        """Whether any line has a limit."""
        return bool(self._per_second or self._refused)

    def refused(self, lines: Iterable[str]) -> None:
        """Linq refused these lines, and has accepted nothing of theirs since."""
        self._refused.update(lines)

    def free(self, line: str, now: float) -> float:
        """How many requests of a line may start at `now` (monotonic seconds)."""
        probes = math.inf
        if line in self._refused:
            probes = 0 if line in self._probed else 1
        pace = self._paces.get(line)
        free = pace.free(now) if pace else None
        return min(probes, 1 if self._per_second and free is None else math.inf if free is None else free)

    def wait(self, lines: Iterable[str], now: float) -> float:
        """Seconds until one of these lines may have a request; 0 if none has to wait for the time."""
        waits = [pace.wait(now) for line in lines if line not in self._probed and (pace := self._paces.get(line))]
        return min((wait for wait in waits if wait > 0), default=0.0)

    def started(self, line: str, now: float) -> None:
        """Count a request that starts at `now`."""
        if self._per_second:
            self._paces.setdefault(line, Pace(self._per_second)).take(1, now)
        if line in self._refused:
            self._probed.add(line)

    def ended(self, line: str, *, shared: bool) -> bool:
        """Take in the end of a request; True if it shows that Linq no longer refuses the line."""
        self._probed.discard(line)
        if not shared or line not in self._refused:
            return False
        self._refused.discard(line)
        return True


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Why a pass must end; and the seconds after which another try makes sense, where Linq named them."""

    reason: str
    retry_after: float | None = None
    access_refused: bool = False


class Brake:
    """Turns Linq's answers, in the order they come, into how many requests may be in flight.

    - A 429 may be about its chat: somebody else has just shared there. The pass goes on with one request at a time
      until Linq answers with something else. Only when these requests get a 429 too is it the account's limit, and the
      pass waits. After the wait, again one at a time.
    - Rejections in a row with one and the same code are not about the chats: they stop the pass. So do lost answers in
      a row, and a refused key.
    - Before the first share goes through, few requests are in flight; in a resumed pass, one.
    """

    def __init__(self, concurrency: int, *, resumed: bool = False) -> None:
        self._concurrency = concurrency
        self._resumed = resumed
        self._has_shared = False
        self._failures = 0
        self._rejections = 0
        self._rejection: tuple[int | None, int | None] | None = None
        """Status and code of the rejections in a row."""
        self._limited = False
        """True from a 429 on, until Linq takes, or refuses for another reason, a request that started after it."""
        self.phase = 0
        """Counts how often probing began; an answer to a request of an earlier phase tells nothing new of a limit."""
        self._limited_probes: list[float] = []
        """The Retry-After of each request that got a 429 while probing."""
        self._last_wait = 0.0
        self._waited = 0.0
        self._paused_until = -math.inf
        self.stop: Stop | None = None

    @property
    def probing(self) -> bool:
        """Whether one request at a time finds out what is the matter."""
        return self._limited or (self._resumed and not self._has_shared)

    def slots(self, now: float) -> int:
        """How many requests may be in flight at `now`."""
        if self.stop is not None or self.paused(now):
            return 0
        if self.probing:
            return 1
        slots = self._concurrency if self._has_shared else min(self._concurrency, UNPROVEN)
        return min(slots, REJECTIONS_IN_A_ROW - self._rejections) if self._rejections else slots

    def paused(self, now: float) -> float:
        """Seconds from `now` in which no request may start."""
        return max(0.0, self._paused_until - now)

    def saw(self, error: LinqError | None, *, phase: int, now: float) -> None:
        """Take in what came of a request that started in a phase: None for a share that was done."""
        if isinstance(error, AccessRefused):
            self._end(f"{KEY_REFUSED}: {error}", access_refused=True)
        elif isinstance(error, RateLimited):
            self._failures = 0
            self._saw_limit(error, phase, now)
        elif isinstance(error, PerhapsDone | NeverSent) or (isinstance(error, ChatRefused) and error.code is None):
            self._failures += 1
            if self._failures >= FAILURES_IN_A_ROW:
                self._end(f"{self._failures} requests in a row got no answer of Linq's, the last one: {error}")
        else:
            self._failures = 0
            self._has_shared = self._has_shared or error is None
            if self._limited and phase == self.phase:
                self._limited = False
                self._last_wait = self._waited = 0.0
            self._saw_answer(error)

    def _saw_answer(self, error: LinqError | None) -> None:
        """Count rejections in a row that are about neither the line nor the recipient."""
        if error is None or isinstance(error, CardInactive | LineRefused) or error.code in ABOUT_THE_RECIPIENT:
            self._rejections, self._rejection = 0, None
            return
        kind = (error.status, error.code)
        self._rejections = self._rejections + 1 if kind == self._rejection else 1
        self._rejection = kind
        most = REJECTED_PROBES if self._resumed and not self._has_shared else REJECTIONS_IN_A_ROW
        if self._rejections >= most:
            code = ErrorCode(error.code) if error.code in set(ErrorCode) else None
            advice = WHAT_TO_LOOK_AT.get(code, ASK_LINQ) if code else ASK_LINQ
            self._end(f"Linq refused {self._rejections} chats in a row with {error}; {advice}")

    def _saw_limit(self, error: RateLimited, phase: int, now: float) -> None:
        asked = UNTOLD_WAIT if error.retry_after is None else error.retry_after
        if self._limited and phase != self.phase:
            return  # as old as the first 429, or sent before the pause
        if asked <= CHAT_LIMIT:
            if not self._limited:
                self._probe()
                return
            self._limited_probes.append(asked)
            if not self._last_wait and len(self._limited_probes) < LIMITED_PROBES:
                return
            asked = min(self._limited_probes)  # of several chats' own limits, the one that ends first
        # Growing, so that a limit which lasts costs few chats their day.
        self._last_wait = max(asked, 2 * self._last_wait, SHORTEST_WAIT)
        self._waited += self._last_wait
        self._paused_until = now + self._last_wait
        self._probe()
        if self._waited > LONGEST_WAIT:
            reason = f"Linq's rate limit lasts longer than {LONGEST_WAIT / 60:g} minutes: {error}"
            self._end(reason, retry_after=asked)

    def _probe(self) -> None:
        """From now on, one request at a time finds out whether the limit is the account's."""
        self._limited, self._limited_probes = True, []
        self.phase += 1

    def _end(self, reason: str, *, retry_after: float | None = None, access_refused: bool = False) -> None:
        self.stop = self.stop or Stop(reason=reason, retry_after=retry_after, access_refused=access_refused)
