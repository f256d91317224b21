"""Why a chat is due or not, and when it will be: each rule with the fact it looked at, and what the ledger remembers.

Whether a rule holds is always asked of the one expression in `worker.rules.eligibility`, for future moments as well.
The facts are only shown beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from sqlalchemy import Column, Label, RowMapping, Select, Text, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.db.partner_values import utc
from worker.db.tables import UtcTime, chats, contact_cards, share_attempts
from worker.ledger.history import Attempt, latest_attempts
from worker.outcomes import NOT_CALLED, NOT_SHARED
from worker.rules.eligibility import Rules, Verdict, moment, rules_in_order, source, verdict
from worker.rules.schedule import Schedule
from worker.text import exact, minute, no_time

ATTEMPTS_SHOWN: Final = 10

PASSING: Final = (Verdict.ALREADY_TODAY, Verdict.TOO_SOON)
"""The rules that stop holding by themselves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """What the ledger holds of a chat, as numbers."""

    outcomes: dict[str, int]
    last_called_at: datetime | None
    """The last call, or what may have been one."""
    last_called_day: date | None
    last_shared_day: date | None
    """The share day of the last share, or of what may have been one."""

    @property
    def shares(self) -> int:
        """The shares, with those that may have been one."""
        return sum(count for outcome, count in self.outcomes.items() if outcome not in NOT_SHARED)


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleState:
    """A rule, and how it stands for one chat."""

    rule: Verdict
    holds: bool | None
    """Whether it says no; None for a rule that the settings do not ask for."""
    fact: str
    """What it looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NextDue:
    """When a chat is due next, if nothing else changes."""

    at: datetime | None
    """None: not on any day to come."""
    scheduled: datetime | None
    """The first time of the schedule from then on."""
    unless: list[Verdict]
    """With no `at`: the rules that must change first, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The verdict on a chat at a moment, with its rules in order."""

    verdict: Verdict
    rules: list[RuleState]
    next_due: NextDue


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """All that is known of a chat. `chat` is None for one that only the ledger remembers; it has no judgement."""

    chat_id: str
    now: datetime
    share_day: date
    chat: Mapping[str, object] | None
    unreadable: Mapping[str, str]
    """The columns of `chat` whose text names no time, which are None there."""
    card: Mapping[str, object] | None
    judgement: Judgement | None
    calls: Calls
    attempts: list[Attempt]


async def explain(
    connection: AsyncConnection, rules: Rules, schedule: Schedule, chat_id: str, now: datetime
) -> Explanation | None:
    """Everything about a chat at a moment; None where neither the table nor the ledger knows it."""
    calls = await _calls(connection, chat_id)
    chat = await _row(connection, _READ.where(chats.c.id == chat_id))
    written = await _row(connection, _WRITTEN.where(chats.c.id == chat_id)) or {}
    if chat is None and not calls.outcomes:
        return None
    attempts = await latest_attempts(connection, chat_id, ATTEMPTS_SHOWN)
    card, judgement, unreadable = None, None, {}
    if chat is not None:
        unreadable = {name: str(text) for name, text in written.items() if text is not None and chat[name] is None}
        card = await _row(connection, contact_cards.select().where(contact_cards.c.phone_number == chat["from_number"]))
        facts = _facts(
            chat, card, unreadable=unreadable, calls=calls, attempts=attempts, rules=rules, today=rules.share_day(now)
        )
        judgement = await _judge(
            connection, rules, schedule=schedule, chat_id=chat_id, now=now, calls=calls, facts=facts
        )
    return Explanation(
        chat_id=chat_id,
        now=now,
        share_day=rules.share_day(now),
        chat=chat,
        unreadable=unreadable,
        card=card,
        judgement=judgement,
        calls=calls,
        attempts=attempts,
    )


async def _judge(
    connection: AsyncConnection,
    rules: Rules,
    *,
    schedule: Schedule,
    chat_id: str,
    now: datetime,
    calls: Calls,
    facts: Mapping[Verdict, str],
) -> Judgement:
    in_force = rules_in_order(rules)
    moments = [now, *moments_to_ask(rules, calls, now)]
    conditions = select(*(condition.label(rule.value) for rule, condition in in_force))
    of_chat = conditions.select_from(source()).where(chats.c.id == chat_id)
    row = (await connection.execute(of_chat, moment(rules, now))).mappings().one()
    holds = {rule: bool(row[rule.value]) for rule, _ in in_force}
    verdicts = await _verdicts_at(connection, rules, chat_id, moments)
    at = next((at for at, told in zip(moments, verdicts, strict=True) if told is Verdict.DUE), None)
    last = verdicts[-1]
    return Judgement(
        verdict=verdicts[0],
        rules=[
            RuleState(rule=rule, holds=holds.get(rule), fact=facts[rule]) for rule in Verdict if rule is not Verdict.DUE
        ],
        next_due=NextDue(
            at=at,
            scheduled=schedule.after(at - timedelta(microseconds=1)) if at else None,
            unless=[]
            if at
            else [rule for rule in Verdict if rule is last or (holds.get(rule) and rule not in PASSING)],
        ),
    )


async def _verdicts_at(
    connection: AsyncConnection, rules: Rules, chat_id: str, moments: Sequence[datetime]
) -> list[Verdict]:
    """The verdict on a chat at each moment."""
    statement = select(verdict(rules)).select_from(source()).where(chats.c.id == chat_id)
    return [Verdict((await connection.execute(statement, moment(rules, at))).scalar_one()) for at in moments]


def moments_to_ask(rules: Rules, calls: Calls, now: datetime) -> list[datetime]:
    """The moments after `now` at which a chat's verdict may turn to due by itself, in order; no rule is decided here.

    Those are the ends of the intervals after its last call and share, and the beginnings of share days.
    """
    days = [rules.share_day(now) + timedelta(days=1)]
    if calls.last_called_day is not None:
        days.append(calls.last_called_day + timedelta(days=1))
    if calls.last_shared_day is not None:
        days.append(calls.last_shared_day + timedelta(days=rules.every_days))
    moments = {beginning(day, rules) for day in days}
    if calls.last_called_at is not None:
        moments.add(calls.last_called_at + timedelta(hours=rules.min_hours))
    return sorted(moment for moment in moments if moment > now)


def beginning(day: date, rules: Rules) -> datetime:
    """The first moment of a share day, in UTC; where daylight saving skips midnight, the end of the gap."""
    return datetime(day.year, day.month, day.day, tzinfo=rules.timezone).astimezone(UTC)


async def _row(connection: AsyncConnection, statement: Select[*tuple[object, ...]]) -> dict[str, object] | None:
    row: RowMapping | None = (await connection.execute(statement)).mappings().one_or_none()
    return None if row is None else {str(name): value for name, value in row.items()}


def _as_the_rules_read(column: Column[object]) -> Column[object] | Label[datetime] | Label[bool]:
    if isinstance(column.type, UtcTime):
        return utc(column).label(column.name)
    return column.is_not(False).label(column.name) if column is chats.c.is_group else column


# Whatever a partner wrote into the row; and its times as they were written, for those that name none.
_READ: Final = select(*map(_as_the_rules_read, chats.c))
_WRITTEN: Final = select(
    *(cast(column, Text).label(column.name) for column in chats.c if isinstance(column.type, UtcTime))
)


async def _calls(connection: AsyncConnection, chat_id: str) -> Calls:
    attempt = share_attempts.c
    statement = (
        select(attempt.outcome, func.count(), func.max(attempt.claimed_at), func.max(attempt.share_day))
        .where(attempt.chat_id == chat_id)
        .group_by(attempt.outcome)
        .order_by(attempt.outcome)
    )
    rows = [tuple(row) for row in await connection.execute(statement)]
    called = [(at, day) for outcome, _, at, day in rows if outcome != NOT_CALLED]
    return Calls(
        outcomes={outcome: count for outcome, count, *_ in rows},
        last_called_at=max((at for at, _ in called), default=None),
        last_called_day=max((day for _, day in called), default=None),
        last_shared_day=max((day for outcome, *_, day in rows if outcome not in NOT_SHARED), default=None),
    )


def _facts(
    chat: Mapping[str, object],
    card: Mapping[str, object] | None,
    *,
    unreadable: Mapping[str, str],
    calls: Calls,
    attempts: Sequence[Attempt],
    rules: Rules,
    today: date,
) -> dict[Verdict, str]:
    """What each rule looks at, in words."""

    def when(name: str, otherwise: str) -> str:
        moment = chat[name]
        if name in unreadable:
            return no_time(unreadable[name])
        return exact(moment, rules.timezone) if isinstance(moment, datetime) else otherwise

    paused = when("paused_at", "not paused")
    if chat["paused_reason"] and (chat["paused_at"] or "paused_at" in unreadable):
        paused = f"{paused}: {chat['paused_reason']}"
    outbound = when("last_outbound_at", "no outbound message")
    of_today = [
        f"{attempt.outcome} {exact(attempt.claimed_at, rules.timezone)}"
        for attempt in attempts
        if attempt.share_day == today
    ]
    cap = f"SHARE_MAX_PER_CHAT is {rules.max_per_chat}" if rules.max_per_chat else "no SHARE_MAX_PER_CHAT"
    active = f"SHARE_ACTIVE_DAYS is {rules.active_days}" if rules.active_days else "no SHARE_ACTIVE_DAYS"
    group = "a group" if chat["is_group"] else "not a group"
    return {
        Verdict.PAUSED: paused,
        Verdict.MISSING: when("missing_at", "not missing"),
        Verdict.NOT_IMESSAGE: str(chat["service"] or "service not known"),
        Verdict.NO_OUTBOUND: outbound,
        Verdict.OPTED_OUT: str(chat["health_status"] or "health not known"),
        Verdict.NO_CARD: f"{chat['from_number']} {'has a card' if card else 'has no card'}",
        Verdict.CARD_INACTIVE: ("active" if card["is_active"] else "not active") if card else "no card",
        Verdict.ALREADY_TODAY: ", ".join(of_today) or f"no attempt on {today}",
        Verdict.TOO_SOON: _last(calls, rules),
        Verdict.CAP_REACHED: f"{calls.shares} shares; {cap}",
        Verdict.DORMANT: f"{outbound}; {active}",
        Verdict.GROUP_EXCLUDED: f"{group}; SHARE_INCLUDE_GROUPS is {str(rules.include_groups).lower()}",
    }


def _last(calls: Calls, rules: Rules) -> str:
    if calls.last_called_at is None:
        return "never called"
    called = f"last call {minute(calls.last_called_at, rules.timezone)}"
    return f"{called}, last share {calls.last_shared_day}" if calls.last_shared_day else f"{called}, no share yet"
