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
    true,
    values,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker import outcomes
from worker.account import HANDLE_BLOCKED, LINQ_PAUSE, Line
from worker.db.partner_values import no_id, utc
from worker.db.tables import UtcTime, chats, contact_cards, lines, share_attempts, spelt
from worker.db.text_list import TextList, is_one_of
from worker.outcomes import NOT_CALLED, NOT_SHARED, Word
from worker.rules.hours import Hours


class Verdict(Word):
    """Whether a chat is due, or the first rule that says no; in the order in which the rules are evaluated."""

    PAUSED = "paused", "an admin paused the chat"
    MISSING = "missing", "Linq has no such chat, or it cannot be used any more"
    NOT_IMESSAGE = "not_imessage", "SMS, RCS or unknown: a share has no effect"
    NO_OUTBOUND = "no_outbound", "no outbound message is known yet"
    OPTED_OUT = "opted_out", "the recipient opted out"
    NO_CARD = "no_card", "the line has no contact card"
    CARD_INACTIVE = "card_inactive", "the line's contact card is not active"
    LINE_RESTING = outcomes.LINE_RESTING, "the line rests: Linq refused or flagged it, or its reputation is low"
    ALREADY_TODAY = "already_today", "shared, or perhaps shared, or refused on this share day"
    TOO_SOON = "too_soon", "SHARE_MIN_HOURS or SHARE_EVERY_DAYS is not over, or the number is blocked"
    CAP_REACHED = "cap_reached", "SHARE_MAX_PER_CHAT shares made"
    DORMANT = "dormant", "no outbound message in SHARE_ACTIVE_DAYS"
    GROUP_EXCLUDED = "group_excluded", "a group, and SHARE_INCLUDE_GROUPS is false"
    NO_INBOUND = "no_inbound", "the recipient has not written, and SHARE_REQUIRE_INBOUND is true"
    CARD_EXCHANGED = "card_exchanged", "the recipient shared a card, and SHARE_STOP_WHEN_RECEIVED is true"
    DUE = "due", "no rule says no"


_FENCE: Final = literal_column("0", Integer)
"""OFFSET 0 is an optimisation fence: PostgreSQL evaluates the subquery per row instead of hashing a day's attempts."""


LINE_REST: Final = timedelta(hours=1)
"""How long a line rests after Linq refused it any new activity (403/2027)."""

FLAG_REST: Final = timedelta(days=7)
"""How long a line rests after a webhook told that it is FLAGGED, if none tells that this is over: events get lost."""

BLOCKED_PAUSE: Final = timedelta(days=7)
"""How long a chat is not asked for again after Linq said that the account blocked its number (403/2026)."""

WORST_FIRST: Final = ("CRITICAL", "AT_RISK")
"""The reputations of a line that SHARE_SKIP_LINES_AT can name (Linq's reference of `GET /v3/phone_numbers`)."""


@dataclass(frozen=True, kw_only=True)
class LineTables:
    """Where a verdict finds what is known of the lines: in the tables, or in values that were read a moment ago."""

    cards: FromClause = contact_cards
    lines: FromClause = lines


STORED: Final = LineTables()


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the settings say of who is due. Days are share days: dates in `timezone`."""

    timezone: tzinfo = UTC
    every_days: int = 1
    min_hours: float = 1
    max_per_chat: int = 0
    active_days: int = 0
    include_groups: bool = True
    skip_lines_at: str | None = "CRITICAL"
    """Lines of this reputation or a worse one rest; None: reputation does not matter."""
    require_inbound: bool = False
    stop_when_received: bool = False
    hours: Hours | None = None
    """The hours of `timezone` in which shares are made; None: at any time."""

    def share_day(self, now: datetime) -> date:
        """The share day that a moment belongs to."""
        return now.astimezone(self.timezone).date()

    def is_open(self, now: datetime) -> bool:
        """Whether a share may be made at a moment, by the hours of the day."""
        return self.hours is None or self.hours.contain(now, self.timezone)

    def opening(self, now: datetime) -> datetime:
        """The first moment from `now` on at which a share may be made, by the hours of the day."""
        return now if self.hours is None else self.hours.opening(now, self.timezone)


def moment(rules: Rules, now: datetime) -> dict[str, date | datetime]:
    """The values with which a statement made of these expressions is executed, for a moment."""
    day = rules.share_day(now)
    return {
        "moment_day": day,
        "moment_before_yesterday": day - timedelta(days=2),
        "moment_earliest": _earliest_day(rules, now),
        "moment_interval": day - timedelta(days=rules.every_days),
        "moment_since": now - timedelta(hours=rules.min_hours),
        "moment_linq_pause": now - LINQ_PAUSE,
        "moment_active": now - timedelta(days=rules.active_days),
        "moment_refused": now - LINE_REST,
        "moment_flagged": now - FLAG_REST,
        "moment_blocked": now - BLOCKED_PAUSE,
        "moment_blocked_day": _day_before(now - BLOCKED_PAUSE),
    }


def day_of(name: str) -> ColumnElement[date]:
    """A share day of `moment`, as a parameter."""
    return bindparam(f"moment_{name}", type_=Date)


def time_of(name: str) -> ColumnElement[datetime]:
    """A time of `moment`, as a parameter."""
    return bindparam(f"moment_{name}", type_=UtcTime())


@lru_cache(maxsize=8)  # to build one takes ten times as long as to ask a small table for it
def verdict(rules: Rules, known: LineTables = STORED) -> ColumnElement[str]:
    """The verdict on a row of `chats_with_lines(known)`."""
    return first_that_holds(rules_in_order(rules, known), Verdict.DUE)


def rules_in_order(rules: Rules, known: LineTables = STORED) -> list[tuple[Verdict, ColumnElement[bool]]]:
    """Each rule in force, with the condition on a row of `chats_with_lines(known)` under which it says no."""
    return [
        *chat_and_line_rules(rules, known),
        (Verdict.ALREADY_TODAY, _called_today()),
        (Verdict.TOO_SOON, or_(_too_soon(), _blocked())),
        *settings_rules(rules),
    ]


def chat_and_line_rules(rules: Rules, known: LineTables) -> list[tuple[Verdict, ColumnElement[bool]]]:
    """The rules about the chat, its line and the line's card: without these no share has an effect."""
    not_imessage = func.lower(func.coalesce(chats.c.service, spelt(""))) != spelt("imessage")
    return [
        (Verdict.PAUSED, chats.c.paused_at.is_not(None)),
        (Verdict.MISSING, or_(chats.c.missing_at.is_not(None), no_id(chats.c.id))),
        (Verdict.NOT_IMESSAGE, or_(not_imessage, _says(known.lines.c.line_type, "RCS"))),
        (Verdict.NO_OUTBOUND, utc(chats.c.last_outbound_at).is_(None)),
        (Verdict.OPTED_OUT, or_(_says(chats.c.health_status, "OPTED_OUT"), _opted_out())),
        (Verdict.NO_CARD, known.cards.c.phone_number.is_(None)),
        (Verdict.CARD_INACTIVE, known.cards.c.is_active.is_not(True)),
        (Verdict.LINE_RESTING, line_rests(rules, known.lines)),
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
    if rules.require_inbound:
        in_force.append((Verdict.NO_INBOUND, utc(chats.c.last_inbound_at).is_(None)))
    if rules.stop_when_received:
        in_force.append((Verdict.CARD_EXCHANGED, chats.c.card_received_at.is_not(None)))
    return in_force


def line_rests(rules: Rules, known_lines: FromClause = lines) -> ColumnElement[bool]:
    """True for a row of `lines` whose line rests; not true if nothing is known of the line."""
    refused = and_(known_lines.c.refused_at.is_not(None), known_lines.c.refused_at > time_of("refused"))
    is_recent = func.coalesce(known_lines.c.status_changed_at > time_of("flagged"), true())
    flagged = and_(_says(known_lines.c.status, "FLAGGED"), is_recent)
    if rules.skip_lines_at is None:
        return or_(refused, flagged)
    reputations = WORST_FIRST[: WORST_FIRST.index(rules.skip_lines_at) + 1]
    return or_(refused, flagged, *(_says(known_lines.c.reputation, word) for word in reputations))


def first_that_holds(in_order: Sequence[tuple[StrEnum, ColumnElement[bool]]], otherwise: StrEnum) -> ColumnElement[str]:
    """The name of the first rule whose condition holds."""
    return case(*((condition, spelt(name)) for name, condition in in_order), else_=spelt(otherwise))


def chats_with_lines(known: LineTables = STORED) -> FromClause:
    """Chats, each with its line and the line's card where they are known: what a verdict is evaluated over."""
    return with_lines(chats, known)


def with_lines(rows: FromClause, known: LineTables) -> FromClause:
    """Rows of a join that holds `chats`, with the line and its card."""
    for table in (known.cards, known.lines):
        rows = rows.outerjoin(table, table.c.phone_number == chats.c.from_number)
    return rows


def as_read(activity: Mapping[str, bool], fresh_lines: Sequence[Line] | None) -> LineTables:
    """What was just read of the lines, in place of the tables: for a dry run, which stores nothing.

    `activity`: for each line that has a card, whether that is active. `fresh_lines`: None if they could not be read.
    """
    rows = list(activity.items())
    cards = select(literal("", Text).label("phone_number"), false().label("is_active")).where(false()).cte("cards")
    if rows:
        cards = values(column("phone_number", Text), column("is_active", Boolean), name="cards").data(rows).cte("cards")
    if not fresh_lines:
        return LineTables(cards=cards)
    names = ("phone_number", "line_type", "reputation")
    fresh = (
        values(*(column(name, Text) for name in names), name="fresh")
        .data([(line.phone_number, line.line_type, line.reputation) for line in fresh_lines])
        .cte("fresh")
    )
    stored = lines.alias("stored")
    joined = fresh.outerjoin(stored, stored.c.phone_number == fresh.c.phone_number)
    columns = (*(fresh.c[name] for name in names), stored.c.status, stored.c.status_changed_at, stored.c.refused_at)
    return LineTables(cards=cards, lines=select(*columns).select_from(joined).cte("known_lines"))


def due_ids(rules: Rules, known: LineTables = STORED) -> Select[str]:
    """The ids of due chats, in the order of the key."""
    due = verdict(rules, known) == spelt(Verdict.DUE)
    return select(chats.c.id).select_from(chats_with_lines(known)).where(due).order_by(chats.c.id)


def due_among(rules: Rules) -> Select[str]:
    """The ids of the due ones among the ids of the parameter `among`, in the order of the key."""
    return due_ids(rules).where(is_one_of(chats.c.id, bindparam("among", type_=TextList())))


async def count_verdicts(
    connection: AsyncConnection,
    rules: Rules,
    now: datetime,
    *,
    without_run: str = "",
    known: LineTables = STORED,
) -> dict[Verdict, int]:
    """How many chats have each verdict; chats that the run `without_run` attempted today are left out."""
    judged = select(verdict(rules, known).label("verdict")).select_from(chats_with_lines(known))
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


def _blocked() -> ColumnElement[bool]:
    """Linq said within the week that the account blocked the number."""
    attempt = share_attempts.alias("blocked")
    return _exists_for_chat(
        attempt.c.chat_id == chats.c.id,
        attempt.c.share_day >= day_of("blocked_day"),
        attempt.c.error_code == literal_column(str(HANDLE_BLOCKED), Integer),
        attempt.c.claimed_at > time_of("blocked"),
    )


def _opted_out() -> ColumnElement[bool]:
    """Linq said so, and the recipient has not written since (any word but STOP and the like opts in again)."""
    since = chats.c.opted_out_at
    return and_(since.is_not(None), func.coalesce(utc(chats.c.last_inbound_at) <= since, true()))


def _says(text_column: ColumnElement[str | None], word: str) -> ColumnElement[bool]:
    """Whether a column holds one of Linq's words, in any case; false for NULL."""
    return func.upper(func.coalesce(text_column, spelt(""))) == spelt(word)


def oldest_day_read(rules: Rules, now: datetime) -> date:
    """The share day before which only the cap looks at attempts, now or at any later moment."""
    return min(_earliest_day(rules, now), _day_before(now - BLOCKED_PAUSE))


def _earliest_day(rules: Rules, now: datetime) -> date:
    """The first share day whose attempts can make it too soon."""
    return min(
        _day_before(now - timedelta(hours=rules.min_hours)), rules.share_day(now) - timedelta(days=rules.every_days)
    )


def _day_before(moment: datetime) -> date:
    """A share day before any that a claim of this moment can have: SHARE_TIMEZONE may have been another one then."""
    return moment.astimezone(UTC).date() - timedelta(days=2)


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
