"""The ledger's words: what becomes of an attempt and of a pass. Standard library only, so that all may use them."""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Final, TypedDict


class Outcome(StrEnum):
    """What became of an attempt."""

    CLAIMED = "claimed"
    SHARED = "shared"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    UNSENT = "unsent"

    @property
    def meaning(self) -> str:
        """The outcome in a few words, for people."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    Outcome.CLAIMED: "being called now",
    Outcome.SHARED: "Linq took the share",
    Outcome.REJECTED: "Linq said no; not called again today",
    Outcome.UNKNOWN: "no answer tells; counts as called",
    Outcome.UNSENT: "the request never left; stays due today",
}


class Trigger(StrEnum):
    """What started a pass."""

    SCHEDULE = "schedule"
    CATCH_UP = "catch_up"
    RESUME = "resume"
    COMMAND = "command"
    RERUN = "rerun"


class RunStatus(StrEnum):
    """How a pass stands, or ended."""

    RUNNING = "running"
    COMPLETED = "completed"
    """Every chat that was due was attempted."""
    STOPPED = "stopped"
    """It ended before that, on purpose: a signal, Linq down or refusing, the end of the day."""
    FAILED = "failed"
    """It could not do its work: no cards, no database."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """The right to call share once for a chat, held by one run."""

    chat_id: str
    share_day: date
    sequence: int
    run_id: str
    claimed_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of a call: the outcome, and what Linq said where it said something."""

    outcome: Outcome
    http_status: int | None = None
    error_code: int | None = None
    error_message: str | None = None
    trace_id: str | None = None


class Tally(TypedDict, total=False):
    """What a pass did, as `runs.tally` keeps it: each chat of the table is in exactly one number."""

    shared: int
    rejected: int
    unknown: int
    unsent: int
    left: int
    """Due, but not attempted, because the pass ended first."""
    skipped: dict[str, int]
    """By verdict: not due."""


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """How a pass ended. `tally` is None where it failed before it knew."""

    run_id: str
    trigger: Trigger
    share_day: date
    started_at: datetime
    finished_at: datetime
    status: RunStatus
    detail: str | None
    tally: Tally | None
    retry_after: float | None = None
    """Seconds after which another try makes sense, where Linq named them."""
    access_refused: bool = False
    stale_claims: int = 0
    """Claims of dead workers that were settled as it began."""
