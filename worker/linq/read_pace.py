"""How fast many reads may be made: so many a second, and none while Linq's rate limit lasts.

For work that reads thousands of pages: a 429 to one of its reads makes all of them wait.
"""

from typing import Final

from worker.clock import Clock

LONGEST_WAIT: Final = 15 * 60.0
"""Seconds; a rate limit that lasts longer is not waited out."""

LONGEST_UNTOLD_WAIT: Final = 60.0
"""Seconds; the pauses grow up to this one where Linq names no time."""


class ReadPace:
    """No more than `per_second` reads a second, evenly spaced; 0 is no limit.

    Attributes:
        reads: how many reads were made, retries included.
    """

    def __init__(self, per_second: float, clock: Clock) -> None:
        self.reads = 0
        self._interval = 1 / per_second if per_second else 0.0
        self._clock = clock
        self._next = 0.0
        self._paused_until = 0.0
        self._pauses = 0
        self._waited = 0.0

    async def turn(self) -> None:
        """Wait until one more read may be made, and count it."""
        await self._end_of_pause()
        now = self._clock.monotonic()
        start = max(now, self._next)
        self._next = start + self._interval
        if start > now:
            await self._clock.sleep(start - now)
            await self._end_of_pause()
        self.reads += 1

    def limited(self, retry_after: float | None) -> bool:
        """Linq answered 429: let all reads wait, for `retry_after` seconds if Linq said so.

        False if it lasts too long: no read was answered for `LONGEST_WAIT` seconds.
        """
        now = self._clock.monotonic()
        if now >= self._paused_until:
            self._pauses += 1
        told = min(2.0 ** (self._pauses - 1), LONGEST_UNTOLD_WAIT) if retry_after is None else retry_after
        until = max(self._paused_until, now + told)
        self._waited += until - max(self._paused_until, now)
        self._paused_until = until
        return self._waited <= LONGEST_WAIT

    def answered(self) -> None:
        """Linq answered a read: its rate limit is over."""
        self._pauses, self._waited = 0, 0.0

    async def _end_of_pause(self) -> None:
        while (rest := self._paused_until - self._clock.monotonic()) > 0:
            await self._clock.sleep(rest)
