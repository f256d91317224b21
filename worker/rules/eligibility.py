"""Who is due: one SQL expression that gives each chat its verdict, read by everything that needs to know.

The claim, the tally of skips, the dry run and every explanation evaluate this same expression, so they cannot
disagree. A verdict is the first rule, in the order of `Verdict`, that holds. In doubt a chat is not due: an answer
that was lost counts as a share, and an attempt from the future (a clock was stepped back) as one just made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
from functools import lru_cache
from typing import Final

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Date,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    case,
    column,
    exists,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    values,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.db.partner_values import no_id, utc
from worker.db.tables import UtcTime, chats, contact_cards, share_attempts, spelt
from worker.db.text_list import TextList, is_one_of


class Verdict(StrEnum):
    """Whether a chat is due, or the first rule that says no; in the order in which the rules are asked."""

    PAUSED = "paused"
    MISSING = "missing"
    NOT_IMESSAGE = "not_imessage"
    NO_OUTBOUND = "no_outbound"
    OPTED_OUT = "opted_out"
    NO_CARD = "no_card"
    CARD_INACTIVE = "card_inactive"
    ALREADY_TODAY = "already_today"
    TOO_SOON = "too_soon"
    CAP_REACHED = "cap_reached"
    DORMANT = "dormant"
    GROUP_EXCLUDED = "group_excluded"
    DUE = "due"

    @property
    def meaning(self) -> str:
        """The verdict in a few words, for people."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    Verdict.PAUSED: "an admin paused the chat",
    Verdict.MISSING: "Linq knows no such chat",
    Verdict.NOT_IMESSAGE: "SMS, RCS or unknown: a share has no effect",
    Verdict.NO_OUTBOUND: "no outbound message is known yet",
    Verdict.OPTED_OUT: "the recipient opted out",
    Verdict.NO_CARD: "the line has no contact card",
    Verdict.CARD_INACTIVE: "the line's contact card is not active",
    Verdict.ALREADY_TODAY: "called, or perhaps called, on this share day",
    Verdict.TOO_SOON: "SHARE_MIN_HOURS or SHARE_EVERY_DAYS not over",
    Verdict.CAP_REACHED: "SHARE_MAX_PER_CHAT shares made",
    Verdict.DORMANT: "no outbound message in SHARE_ACTIVE_DAYS",
    Verdict.GROUP_EXCLUDED: "a group, and SHARE_INCLUDE_GROUPS is false",
    Verdict.DUE: "nothing speaks against a share now",
}


class Again(StrEnum):
    """Whether a chat that was attempted today may be called again at an admin's word, or what says no.

    The rules of `Verdict` about chat, card and settings come before these; those about earlier calls are replaced.
    """

    NOT_ATTEMPTED = "not_attempted"
    BEING_CALLED = "being_called"
    JUST_CALLED = "just_called"
    NEEDS_FORCE = "needs_force"
    CALLED_SINCE = "called_since"
    UNKNOWN_CHAT = "unknown_chat"
    NOT_SELECTED = "not_selected"
    ALLOWED = "allowed"

    @property
    def meaning(self) -> str:
        """The ruling in a few words, for people."""
        return _AGAIN_MEANINGS[self]


_AGAIN_MEANINGS: Final = {
    Again.NOT_ATTEMPTED: "not attempted today; 'share-worker run' calls it when it is due",
    Again.BEING_CALLED: "being called now",
    Again.JUST_CALLED: "called a moment ago; Linq takes one share per chat in five minutes",
    Again.NEEDS_FORCE: "shared today, or perhaps shared; only with --force",
    Again.CALLED_SINCE: "somebody else called it again in the meantime",
    Again.UNKNOWN_CHAT: "not in the table 'chats'",
    Again.NOT_SELECTED: "its latest attempt does not fit the other options",
    Again.ALLOWED: "may be called again",
}


def meaning(ruling: str) -> str:
    """A verdict, or a ruling on a rerun, in a few words."""
    return Verdict(ruling).meaning if ruling in set(Verdict) else Again(ruling).meaning


LINQ_PAUSE: Final = timedelta(minutes=5)
"""Linq takes one share per chat in this time (Linq's reference of the share call)."""

_FENCE: Final = literal_column("0", Integer)
"""As an OFFSET: what is inside is worked out by itself, once a row, whatever the database would think of otherwise."""

NOT_CALLED: Final = "unsent"
NOT_SHARED: Final = ("unsent", "rejected")
"""Outcomes that use up neither the interval (SHARE_EVERY_DAYS) nor the cap."""
PERHAPS_SHARED: Final = ("shared", "unknown")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the settings say of who is due. Days are share days: dates in `timezone`."""

    timezone: tzinfo = UTC
    every_days: int = 1
    min_hours: float = 1
    max_per_chat: int = 0
    active_days: int = 0
    include_groups: bool = True

    def share_day(self, now: datetime) -> date:
        """The share day that a moment belongs to."""
        return now.astimezone(self.timezone).date()


@lru_cache(maxsize=1)  # a claim asks twice for its moment
def moment(rules: Rules, now: datetime) -> Mapping[str, date | datetime]:
    """The values of a moment, for a statement that was made for any moment (`now` is None there) and is used again."""
    day = rules.share_day(now)
    return {
        "moment_day": day,
        "moment_since": now - timedelta(hours=rules.min_hours),
        "moment_interval": day - timedelta(days=rules.every_days),
        "moment_earliest": oldest_day_read(rules, now),
        "moment_active": now - timedelta(days=rules.active_days),
    }


def rules_in_order(
    rules: Rules, now: datetime | None, cards: FromClause = contact_cards
) -> list[tuple[Verdict, ColumnElement[bool]]]:
    """Each rule that is in force, with the condition on a row of `chats` (see `source`) under which it says no."""
    return [*_of_chat_and_card(cards), *_of_calls(rules, now), *_of_choice(rules, now)]


def verdict(rules: Rules, now: datetime | None, cards: FromClause = contact_cards) -> ColumnElement[str]:
    """The verdict on a row of `chats`, which the statement joins with `cards` (see `source`), at a moment.

    With None for `now`, it is for any moment: the statement is executed with `moment(rules, now)`, and cannot without.
    """
    return _first(rules_in_order(rules, now, cards), Verdict.DUE)


def ruling_again(rules: Rules, now: datetime, *, force: bool, cards: FromClause = contact_cards) -> ColumnElement[str]:
    """Whether a chat may be called again today: a `Verdict` or an `Again`, the first that holds; over `source`."""
    day = rules.share_day(now)
    found: list[tuple[Verdict | Again, ColumnElement[bool]]] = [
        *_of_chat_and_card(cards),
        *_of_choice(rules, now),
        (Again.NOT_ATTEMPTED, ~_attempted_on(day)),
        (Again.BEING_CALLED, _attempted_on(day, "claimed")),
        (Again.JUST_CALLED, _just_called(day, now)),
    ]
    if not force:
        found.append((Again.NEEDS_FORCE, _attempted_on(day, *PERHAPS_SHARED)))
    return _first(found, Again.ALLOWED)


def next_sequence(day: date) -> ColumnElement[int]:
    """The sequence of a chat's next call on a day: after all that were called, in the place of one that was not."""
    attempt = share_attempts.alias("called")
    last = select(func.max(attempt.c.sequence)).where(
        attempt.c.chat_id == chats.c.id, attempt.c.share_day == day, attempt.c.outcome != spelt(NOT_CALLED)
    )
    return func.coalesce(last.correlate(chats).scalar_subquery() + 1, 0)


def _of_chat_and_card(cards: FromClause) -> list[tuple[Verdict, ColumnElement[bool]]]:
    """What no share can do without."""
    return [
        (Verdict.PAUSED, chats.c.paused_at.is_not(None)),
        (Verdict.MISSING, or_(chats.c.missing_at.is_not(None), no_id(chats.c.id))),
        (Verdict.NOT_IMESSAGE, func.lower(func.coalesce(chats.c.service, spelt(""))) != spelt("imessage")),
        (Verdict.NO_OUTBOUND, utc(chats.c.last_outbound_at).is_(None)),
        (Verdict.OPTED_OUT, func.upper(func.coalesce(chats.c.health_status, spelt(""))) == spelt("OPTED_OUT")),
        (Verdict.NO_CARD, cards.c.phone_number.is_(None)),
        (Verdict.CARD_INACTIVE, cards.c.is_active.is_not(True)),
    ]


def _of_calls(rules: Rules, now: datetime | None) -> list[tuple[Verdict, ColumnElement[bool]]]:
    """What earlier calls forbid the scheduled one."""
    return [(Verdict.ALREADY_TODAY, _called_today(rules, now)), (Verdict.TOO_SOON, _too_soon(rules, now))]


def _of_choice(rules: Rules, now: datetime | None) -> list[tuple[Verdict, ColumnElement[bool]]]:
    """What the settings forbid, where they do."""
    found: list[tuple[Verdict, ColumnElement[bool]]] = []
    if rules.max_per_chat:
        found.append((Verdict.CAP_REACHED, _shares(rules.max_per_chat) >= rules.max_per_chat))
    if rules.active_days:
        found.append((Verdict.DORMANT, utc(chats.c.last_outbound_at) < _time("active", rules, now)))
    if not rules.include_groups:
        found.append((Verdict.GROUP_EXCLUDED, chats.c.is_group.is_not(False)))
    return found


def _first(
    found: Sequence[tuple[Verdict | Again, ColumnElement[bool]]], otherwise: Verdict | Again
) -> ColumnElement[str]:
    return case(*((condition, spelt(name)) for name, condition in found), else_=spelt(otherwise))


def source(cards: FromClause = contact_cards) -> FromClause:
    """Chats, each with its line's card where there is one: what a verdict is evaluated over."""
    return chats.outerjoin(cards, cards.c.phone_number == chats.c.from_number)


def as_cards(activity: Mapping[str, bool]) -> FromClause:
    """Cards that were read but not stored (line -> is its card active), in place of the table: for a dry run."""
    rows = list(activity.items())
    if not rows:
        return select(literal("", Text).label("phone_number"), false().label("is_active")).where(false()).cte("cards")
    return values(column("phone_number", Text), column("is_active", Boolean), name="cards").data(rows).cte("cards")


def due_ids(
    rules: Rules, now: datetime | None, *, after: str | ColumnElement[str] = "", cards: FromClause = contact_cards
) -> Select[str]:
    """The ids of due chats after an id, in the order of the key."""
    return _due(rules, now, cards).where(chats.c.id > after)


def due_among(rules: Rules) -> Select[str]:
    """The ids of the due ones of some chats (the value `among`), in the order of the key, at any moment."""
    listed = is_one_of(chats.c.id, bindparam("among", type_=TextList()))
    return _due(rules, None, contact_cards).where(listed)


async def count_verdicts(
    connection: AsyncConnection,
    rules: Rules,
    now: datetime,
    *,
    without_run: str = "",
    cards: FromClause = contact_cards,
) -> dict[Verdict, int]:
    """How many chats have each verdict; chats that the run `without_run` attempted today are left out."""
    judged = select(verdict(rules, now, cards).label("verdict")).select_from(source(cards))
    if without_run:
        attempt = share_attempts.alias("of_the_run")
        judged = judged.where(
            ~exists().where(
                attempt.c.run_id == without_run,
                attempt.c.share_day == rules.share_day(now),
                attempt.c.chat_id == chats.c.id,
            )
        )
    judged = judged.where(chats.c.id >= "")  # all of them; but SQLite would read the table by the index of its lines
    found = judged.offset(_FENCE).subquery()
    result = await connection.execute(select(found.c.verdict, func.count()).group_by(found.c.verdict))
    counts = {Verdict(name): count for name, count in result}
    return {name: counts[name] for name in Verdict if name in counts}


def _due(rules: Rules, now: datetime | None, cards: FromClause) -> Select[str]:
    due = verdict(rules, now, cards) == spelt(Verdict.DUE)
    return select(chats.c.id).select_from(source(cards)).where(due).order_by(chats.c.id)


def _called_today(rules: Rules, now: datetime | None) -> ColumnElement[bool]:
    attempt = share_attempts.alias("today")
    return _any(
        attempt.c.chat_id == chats.c.id,
        attempt.c.share_day == _day("day", rules, now),
        attempt.c.outcome != spelt(NOT_CALLED),
    )


def _any(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether there is such a row, to be looked for by the key, for one chat at a time.

    Without the OFFSET PostgreSQL may read all of today's attempts first instead: it knows nothing of a day that has
    just begun, takes them for few, and would read them again for every claim.
    """
    return select(literal_column("1")).where(*conditions).correlate(chats).offset(_FENCE).exists()


def _attempted_on(day: date, *outcomes: str) -> ColumnElement[bool]:
    """Whether there is an attempt on a day: any, or one with such an outcome."""
    attempt = share_attempts.alias("attempted")
    found = exists().where(attempt.c.chat_id == chats.c.id, attempt.c.share_day == day)
    return found.where(attempt.c.outcome.in_(outcomes)) if outcomes else found


def _just_called(day: date, now: datetime) -> ColumnElement[bool]:
    """A call that Linq may have seen in the last minutes; yesterday's too, and those of a clock that runs ahead."""
    attempt = share_attempts.alias("recent")
    return exists().where(
        attempt.c.chat_id == chats.c.id,
        attempt.c.share_day >= day - timedelta(days=2),
        attempt.c.outcome != spelt(NOT_CALLED),
        func.coalesce(attempt.c.finished_at, attempt.c.claimed_at) > now - LINQ_PAUSE,
    )


def _too_soon(rules: Rules, now: datetime | None) -> ColumnElement[bool]:
    """A call in the last hours, or a share in the last days; a claim of a clock that runs ahead counts as well."""
    attempt = share_attempts.alias("before")
    return _any(
        attempt.c.chat_id == chats.c.id,
        attempt.c.share_day >= _day("earliest", rules, now),
        or_(
            and_(attempt.c.claimed_at > _time("since", rules, now), attempt.c.outcome != spelt(NOT_CALLED)),
            and_(attempt.c.share_day > _day("interval", rules, now), _uses_up(attempt.c.outcome)),
        ),
    )


def _uses_up(outcome: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a call with this outcome counts as a share, for the interval and the cap."""
    return outcome.not_in([spelt(word) for word in NOT_SHARED])


def oldest_day_read(rules: Rules, now: datetime) -> date:
    """The share day before which only the cap looks at attempts, now or at any later moment."""
    since = now - timedelta(hours=rules.min_hours)
    # Two days of slack: the claims may have been made when SHARE_TIMEZONE was another one.
    return min(
        since.astimezone(UTC).date() - timedelta(days=2), rules.share_day(now) - timedelta(days=rules.every_days)
    )


def _shares(enough: int) -> ColumnElement[int]:
    """How many shares the chat had, counted as far as is needed."""
    attempt = share_attempts.alias("ever")
    some = (
        select(attempt.c.chat_id)
        .where(attempt.c.chat_id == chats.c.id, _uses_up(attempt.c.outcome))
        .limit(enough)
        .correlate(chats)
        .subquery()
    )
    return select(func.count()).select_from(some).scalar_subquery()


def _day(name: str, rules: Rules, now: datetime | None) -> ColumnElement[date]:
    key = f"moment_{name}"
    return bindparam(key, type_=Date) if now is None else literal(moment(rules, now)[key], Date)


def _time(name: str, rules: Rules, now: datetime | None) -> ColumnElement[datetime]:
    key = f"moment_{name}"
    return bindparam(key, type_=UtcTime()) if now is None else literal(moment(rules, now)[key], UtcTime())
