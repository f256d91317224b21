"""Who is due: one SQL expression that gives each chat its verdict, read by everything that needs to know.

The claim, the tally of skips, the dry run and every explanation evaluate this same expression, so they cannot
disagree. A verdict is the first rule, in the order of `Verdict`, that holds. In doubt a chat is not due: an answer
that was lost counts as a share, and an attempt from the future (a clock was stepped back) as one just made.

The expression holds no moment. A statement made of it is executed with the values of `moment(rules, now)`, so it is
built and compiled once and serves every claim of a pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
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
from worker.outcomes import NOT_CALLED, NOT_SHARED, Word


class Verdict(Word):
    """Whether a chat is due, or the first rule that says no; in the order in which the rules are evaluated."""

    PAUSED = "paused", "an admin paused the chat"
    MISSING = "missing", "Linq has no such chat"
    NOT_IMESSAGE = "not_imessage", "SMS, RCS or unknown: a share has no effect"
    NO_OUTBOUND = "no_outbound", "no outbound message is known yet"
    OPTED_OUT = "opted_out", "the recipient opted out"
    NO_CARD = "no_card", "the line has no contact card"
    CARD_INACTIVE = "card_inactive", "the line's contact card is not active"
    ALREADY_TODAY = "already_today", "shared, or perhaps shared, or refused on this share day"
    TOO_SOON = "too_soon", "SHARE_MIN_HOURS or SHARE_EVERY_DAYS is not over"
    CAP_REACHED = "cap_reached", "SHARE_MAX_PER_CHAT shares made"
    DORMANT = "dormant", "no outbound message in SHARE_ACTIVE_DAYS"
    GROUP_EXCLUDED = "group_excluded", "a group, and SHARE_INCLUDE_GROUPS is false"
    DUE = "due", "no rule says no"


_FENCE: Final = literal_column("0", Integer)
"""OFFSET 0 is an optimisation fence: PostgreSQL evaluates the subquery per row instead of hashing a day's attempts."""


LINQ_PAUSE: Final = timedelta(minutes=5)
"""Linq allows one share per chat in this time (Linq's reference of the share endpoint)."""


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


def moment(rules: Rules, now: datetime) -> dict[str, date | datetime]:
    """The values with which a statement made of these expressions is executed, for a moment."""
    day = rules.share_day(now)
    return {
        "moment_day": day,
        "moment_before_yesterday": day - timedelta(days=2),
        "moment_earliest": oldest_day_read(rules, now),
        "moment_interval": day - timedelta(days=rules.every_days),
        "moment_since": now - timedelta(hours=rules.min_hours),
        "moment_linq_pause": now - LINQ_PAUSE,
        "moment_active": now - timedelta(days=rules.active_days),
    }


def day_of(name: str) -> ColumnElement[date]:
    """A share day of `moment`, as a parameter."""
    return bindparam(f"moment_{name}", type_=Date)


def time_of(name: str) -> ColumnElement[datetime]:
    """A time of `moment`, as a parameter."""
    return bindparam(f"moment_{name}", type_=UtcTime())


def verdict(rules: Rules, cards: FromClause = contact_cards) -> ColumnElement[str]:
    """The verdict on a row of `source(cards)`."""
    return first_that_holds(rules_in_order(rules, cards), Verdict.DUE)


def rules_in_order(rules: Rules, cards: FromClause = contact_cards) -> list[tuple[Verdict, ColumnElement[bool]]]:
    """Each rule that the settings ask for, with the condition on a row of `source(cards)` under which it says no."""
    return [
        *chat_and_card_rules(cards),
        (Verdict.ALREADY_TODAY, _called_today()),
        (Verdict.TOO_SOON, _too_soon()),
        *settings_rules(rules),
    ]


def chat_and_card_rules(cards: FromClause) -> list[tuple[Verdict, ColumnElement[bool]]]:
    """The rules about the chat and its line's card: without these no share has an effect."""
    return [
        (Verdict.PAUSED, chats.c.paused_at.is_not(None)),
        (Verdict.MISSING, or_(chats.c.missing_at.is_not(None), no_id(chats.c.id))),
        (Verdict.NOT_IMESSAGE, func.lower(func.coalesce(chats.c.service, spelt(""))) != spelt("imessage")),
        (Verdict.NO_OUTBOUND, utc(chats.c.last_outbound_at).is_(None)),
        (Verdict.OPTED_OUT, func.upper(func.coalesce(chats.c.health_status, spelt(""))) == spelt("OPTED_OUT")),
        (Verdict.NO_CARD, cards.c.phone_number.is_(None)),
        (Verdict.CARD_INACTIVE, cards.c.is_active.is_not(True)),
    ]


def settings_rules(rules: Rules) -> list[tuple[Verdict, ColumnElement[bool]]]:
    """The rules that are in force only where a setting asks for them."""
    in_force: list[tuple[Verdict, ColumnElement[bool]]] = []
    if rules.max_per_chat:
        in_force.append((Verdict.CAP_REACHED, _shares(rules.max_per_chat) >= rules.max_per_chat))
    if rules.active_days:
        in_force.append((Verdict.DORMANT, utc(chats.c.last_outbound_at) < time_of("active")))
    if not rules.include_groups:
        in_force.append((Verdict.GROUP_EXCLUDED, chats.c.is_group.is_not(False)))
    return in_force


def first_that_holds(in_order: Sequence[tuple[StrEnum, ColumnElement[bool]]], otherwise: StrEnum) -> ColumnElement[str]:
    """The name of the first rule whose condition holds."""
    return case(*((condition, spelt(name)) for name, condition in in_order), else_=spelt(otherwise))


def source(cards: FromClause = contact_cards) -> FromClause:
    """Chats, each with its line's card where there is one: what a verdict is evaluated over."""
    return chats.outerjoin(cards, cards.c.phone_number == chats.c.from_number)


def as_cards(activity: Mapping[str, bool]) -> FromClause:
    """Cards that were read but not stored (line -> is its card active), in place of the table: for a dry run."""
    rows = list(activity.items())
    if not rows:
        return select(literal("", Text).label("phone_number"), false().label("is_active")).where(false()).cte("cards")
    return values(column("phone_number", Text), column("is_active", Boolean), name="cards").data(rows).cte("cards")


def due_ids(rules: Rules, cards: FromClause = contact_cards) -> Select[str]:
    """The ids of due chats, in the order of the key."""
    due = verdict(rules, cards) == spelt(Verdict.DUE)
    return select(chats.c.id).select_from(source(cards)).where(due).order_by(chats.c.id)


def due_among(rules: Rules) -> Select[str]:
    """The ids of the due ones among the ids of the parameter `among`, in the order of the key."""
    return due_ids(rules).where(is_one_of(chats.c.id, bindparam("among", type_=TextList())))


async def count_verdicts(
    connection: AsyncConnection,
    rules: Rules,
    now: datetime,
    *,
    without_run: str = "",
    cards: FromClause = contact_cards,
) -> dict[Verdict, int]:
    """How many chats have each verdict; chats that the run `without_run` attempted today are left out."""
    judged = select(verdict(rules, cards).label("verdict")).select_from(source(cards))
    if without_run:
        attempt = share_attempts.alias("of_the_run")
        judged = judged.where(
            ~exists().where(
                attempt.c.run_id == without_run,
                attempt.c.share_day == day_of("day"),
                attempt.c.chat_id == chats.c.id,
            )
        )
    judged = judged.where(chats.c.id >= "")  # holds for every chat; without it SQLite scans by the index on the line
    verdicts = judged.offset(_FENCE).subquery()
    counting = select(verdicts.c.verdict, func.count()).group_by(verdicts.c.verdict)
    result = await connection.execute(counting, moment(rules, now))
    counts = {Verdict(name): count for name, count in result}
    return {name: counts[name] for name in Verdict if name in counts}


def _called_today() -> ColumnElement[bool]:
    attempt = share_attempts.alias("today")
    return _exists_for_chat(
        attempt.c.chat_id == chats.c.id,
        attempt.c.share_day == day_of("day"),
        attempt.c.outcome != spelt(NOT_CALLED),
    )


def _too_soon() -> ColumnElement[bool]:
    """A request in the last hours, or a share in the last days; a claim of a clock that runs ahead counts as well."""
    attempt = share_attempts.alias("before")
    return _exists_for_chat(
        attempt.c.chat_id == chats.c.id,
        attempt.c.share_day >= day_of("earliest"),
        or_(
            and_(attempt.c.claimed_at > time_of("since"), attempt.c.outcome != spelt(NOT_CALLED)),
            and_(attempt.c.share_day > day_of("interval"), _uses_up(attempt.c.outcome)),
        ),
    )


def _exists_for_chat(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether there is such a row, by an index lookup for each chat.

    Without the fence PostgreSQL may read all of today's attempts first: it has no statistics of a day that has just
    begun, estimates few rows, and would read them again for every claim.
    """
    return select(literal_column("1")).where(*conditions).correlate(chats).offset(_FENCE).exists()


def _uses_up(outcome: ColumnElement[str]) -> ColumnElement[bool]:
    """True if an attempt with this outcome counts as a share, for the interval and the cap."""
    return outcome.not_in([spelt(word) for word in NOT_SHARED])


def oldest_day_read(rules: Rules, now: datetime) -> date:
    """The share day before which only the cap looks at attempts, now or at any later moment."""
    since = now - timedelta(hours=rules.min_hours)
    # Two days of slack: the claims may have been made when SHARE_TIMEZONE was another one.
    return min(
        since.astimezone(UTC).date() - timedelta(days=2), rules.share_day(now) - timedelta(days=rules.every_days)
    )


def _shares(enough: int) -> ColumnElement[int]:
    """How many shares the chat had, counted up to `enough`."""
    attempt = share_attempts.alias("ever")
    counted = (
        select(attempt.c.chat_id)
        .where(attempt.c.chat_id == chats.c.id, _uses_up(attempt.c.outcome))
        .limit(enough)
        .correlate(chats)
        .subquery()
    )
    return select(func.count()).select_from(counted).scalar_subquery()
