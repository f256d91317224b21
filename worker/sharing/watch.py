"""What is told of a pass while it runs: to a display, to the metrics, and once a minute to the log."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from worker.clock import Clock
from worker.outcomes import Answer, Outcome

LOG_SECONDS: Final = 60.0
"""Between two lines of progress in the log."""

log = structlog.get_logger(__name__)


def _ignore(*_values: object) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Called as a pass goes on."""

    due: Callable[[int], None] | None = None
    """With the number of chats that the pass will attempt, before the first one; None: do not count them."""
    answered: Callable[[Answer, float], None] = _ignore
    """With each answer once it is recorded, and the seconds that the request took."""


UNWATCHED: Final = Watch()


@dataclass(kw_only=True)
class PassProgress:
    """How far the pass of this process is, for those who look while it runs; without one, how far the last one came."""

    worker: str
    """This process, as `runs.worker` names it."""
    due: int | None = None
    """The chats that the pass will attempt; None: they were not counted yet."""
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    """The attempts that are recorded."""

    def begin(self) -> None:
        """A pass begins."""
        self.due = None
        self.outcomes.clear()

    def of(self, worker: str) -> tuple[int, int] | None:
        """The attempts recorded, and those to make in all; None if that is not known of a worker's pass."""
        if worker != self.worker or self.due is None:
            return None
        done = self.outcomes.total()
        return done, max(done, self.due)


class ProgressLog:
    """Counts answers, and writes a line into the log once a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started = self._written = clock.monotonic()
        self._outcomes: Counter[Outcome] = Counter()
        self.due: int | None = None
        """The chats that the pass will attempt, if they were counted."""

    def answered(self, answer: Answer) -> None:
        """Count an answer, and write the line if it is time."""
        self._outcomes[answer.outcome] += 1
        now = self._clock.monotonic()
        if now - self._written < LOG_SECONDS:
            return
        self._written = now
        done = self._outcomes.total()
        rate = done / (now - self._started)
        left = None if self.due is None else max(self.due - done, 0)
        log.info(
            "pass.progress",
            done=done,
            due=self.due,
            per_second=round(rate, 1),
            minutes_left=None if left is None else round(left / rate / 60, 1),
            **{outcome.value: count for outcome, count in self._outcomes.items()},
        )
