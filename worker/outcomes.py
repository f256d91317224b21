"""The ledger's words: what becomes of an attempt and of a pass. Standard library only, so that all may use them."""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Final, Literal, Self, TypedDict, get_args


class Word(StrEnum):
    """A word of a table or of JSON, with its meaning for people: `NAME = "word", "what it means"`."""

    _value_: str
    meaning: str

    def __new__(cls, word: str, meaning: str = "") -> Self:
        """The member, which is its word."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        return member


class Outcome(Word):
    """What became of an attempt."""

    CLAIMED = "claimed", "a request is in flight"
    SHARED = "shared", "Linq accepted the share"
    REJECTED = "rejected", "Linq refused; not due again today"
    UNKNOWN = "unknown", "no answer arrived; counts as shared"
    UNSENT = "unsent", "the request never left; stays due today"


NOT_CALLED: Final = Outcome.UNSENT
"""The only outcome after which a chat stays due on its share day."""

NOT_SHARED: Final = (Outcome.UNSENT, Outcome.REJECTED)
"""Outcomes that use up neither the interval (SHARE_EVERY_DAYS) nor the cap (SHARE_MAX_PER_CHAT)."""

FINISHED: Final = (Outcome.SHARED, Outcome.REJECTED, Outcome.UNKNOWN, Outcome.UNSENT)
"""What may have become of an attempt that is not in flight any more; in the order of all tables and bars."""

PERHAPS_SHARED: Final = (Outcome.SHARED, Outcome.UNKNOWN)


@dataclass(frozen=True, kw_only=True, slots=True)
class RerunRequest:
    """Who asked for a rerun, and why; the ledger keeps it with each attempt."""

    by: str
    reason: str | None


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


KEY_REFUSED: Final = "Linq refused the key"
TOLD_TO_STOP: Final = "it was told to stop"
OUTSIDE_HOURS: Final = "it is outside of SHARE_HOURS"
"""Why a pass ended, in words that are looked for in `runs.detail`."""


def is_trouble(status: str, detail: str | None) -> bool:
    """Whether the end of a pass needs attention: it failed, or was stopped by more than a signal or SHARE_HOURS."""
    if status == RunStatus.STOPPED:
        return not (detail or "").startswith((TOLD_TO_STOP, OUTSIDE_HOURS))
    return status == RunStatus.FAILED


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """The right to send one share request for a chat, held by one run."""

    chat_id: str
    share_day: date
    sequence: int
    run_id: str
    claimed_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of a share request: the outcome, and what Linq answered, if it did."""

    outcome: Outcome
    http_status: int | None = None
    error_code: int | None = None
    error_message: str | None = None
    trace_id: str | None = None


class Tally(TypedDict, total=False):
    """What a pass did, as `runs.tally` keeps it: each chat of the table is counted exactly once."""

    shared: int
    rejected: int
    unknown: int
    unsent: int
    left: int
    """Due, but not attempted, because the pass ended first."""
    skipped: dict[str, int]
    """Not due, by verdict."""


DueCount = Literal["shared", "rejected", "unknown", "unsent", "left"]

DUE_COUNTS: Final[tuple[DueCount, ...]] = get_args(DueCount)
"""The counts of a tally that make up the chats that were due, in the order of all tables."""


def due_in(tally: Tally) -> int:
    """How many chats of a tally were due."""
    return sum(tally[name] for name in DUE_COUNTS)


def chats_in(tally: Tally) -> int:
    """How many chats a tally counts."""
    return due_in(tally) + sum(tally["skipped"].values())


LINE_RESTING: Final = "line_resting"
"""The verdict on a chat that may become due again on the same day, with nothing but time."""


def waiting_in(tally: Tally) -> int:
    """How many chats of a tally another pass of the same day may share with."""
    return tally["left"] + tally["skipped"].get(LINE_RESTING, 0)


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """How a pass ended. `tally` is None if it failed before the chats were counted."""

    run_id: str
    trigger: Trigger
    share_day: date
    started_at: datetime
    finished_at: datetime
    status: RunStatus
    detail: str | None
    tally: Tally | None
    retry_after: float | None = None
    """Seconds after which Linq allows another try, if it said so."""
    resume_at: datetime | None = None
    """When more chats can be shared with on the share day: a line's rest is over, or SHARE_HOURS begin."""
    access_refused: bool = False
    stale_claims: int = 0
    """Claims of dead workers that were settled as it began."""
