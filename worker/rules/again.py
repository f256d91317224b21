"""Who may be called again on the same share day, at an admin's word: one SQL expression, the verdict's sibling.

The rules of the verdict about chat, card and settings come first; those about earlier requests are replaced by the ones
below. A rerun evaluates this expression when it plans, when it shows, and again in each claim.
"""

from sqlalchemy import ColumnElement, case, exists, func, select

from worker.db.tables import chats, share_attempts, spelt
from worker.outcomes import NOT_CALLED, PERHAPS_SHARED, Outcome, Word
from worker.rules.eligibility import (
    STORED,
    LineTables,
    Rules,
    Verdict,
    chat_and_line_rules,
    day_of,
    first_that_holds,
    settings_rules,
    time_of,
)


class Again(Word):
    """Whether a chat that was attempted today may be shared with again, or the first rule that says no."""

    NOT_ATTEMPTED = "not_attempted", "not attempted today; 'share-worker run' shares when it is due"
    BEING_CALLED = "being_called", "a request is in flight"
    JUST_CALLED = "just_called", "attempted a moment ago; Linq allows one share per chat in five minutes"
    NEEDS_FORCE = "needs_force", "shared today, or perhaps shared; only with --force"
    CALLED_SINCE = "called_since", "attempted again by somebody else in the meantime"
    UNKNOWN_CHAT = "unknown_chat", "not in the table 'chats'"
    BEYOND_LIMIT = "beyond_limit", "may be shared with again, but --limit asks for fewer"
    NOT_SELECTED = "not_selected", "its latest attempt does not match the other options"
    ALLOWED = "allowed", "may be shared with again"


def meaning(ruling: str) -> str:
    """A verdict, or a ruling on a rerun, in a few words."""
    return Verdict(ruling).meaning if ruling in set(Verdict) else Again(ruling).meaning


def ruling_again(rules: Rules, *, force: bool, known: LineTables = STORED) -> ColumnElement[str]:
    """A `Verdict` or an `Again`, the first that holds, for a row of `chats_with_lines`, with `moment`'s values."""
    in_order: list[tuple[Verdict | Again, ColumnElement[bool]]] = [
        *chat_and_line_rules(rules, known),
        *settings_rules(rules),
        (Again.NOT_ATTEMPTED, ~_attempted_today()),
        (Again.BEING_CALLED, _attempted_today("claimed")),
        (Again.JUST_CALLED, _just_called()),
    ]
    if not force:
        in_order.append((Again.NEEDS_FORCE, _attempted_today(*PERHAPS_SHARED)))
    return first_that_holds(in_order, Again.ALLOWED)


def next_sequence() -> ColumnElement[int]:
    """The sequence of a chat's next claim today: after all that were called, or in the place of one that was not."""
    attempt = share_attempts.alias("called")
    last = select(func.max(attempt.c.sequence)).where(
        attempt.c.chat_id == chats.c.id, attempt.c.share_day == day_of("day"), attempt.c.outcome != spelt(NOT_CALLED)
    )
    return func.coalesce(last.correlate(chats).scalar_subquery() + 1, 0)


def earlier_today() -> ColumnElement[str]:
    """What a chat had today already: `shared`; `unknown`, if it was perhaps shared; or neither: empty."""
    return case(
        (_attempted_today(Outcome.SHARED), spelt(Outcome.SHARED)),
        (_attempted_today(*PERHAPS_SHARED), spelt(Outcome.UNKNOWN)),
        else_=spelt(""),
    )


def _attempted_today(*outcomes: str) -> ColumnElement[bool]:
    """Whether there is an attempt today: any, or one with one of these outcomes."""
    attempt = share_attempts.alias("attempted")
    attempted = exists().where(attempt.c.chat_id == chats.c.id, attempt.c.share_day == day_of("day"))
    return attempted.where(attempt.c.outcome.in_([spelt(word) for word in outcomes])) if outcomes else attempted


def _just_called() -> ColumnElement[bool]:
    """A request that Linq may have seen in the last minutes; yesterday's too, and one by a clock that runs ahead."""
    attempt = share_attempts.alias("recent")
    return exists().where(
        attempt.c.chat_id == chats.c.id,
        attempt.c.share_day >= day_of("before_yesterday"),
        attempt.c.outcome != spelt(NOT_CALLED),
        func.coalesce(attempt.c.finished_at, attempt.c.claimed_at) > time_of("linq_pause"),
    )
