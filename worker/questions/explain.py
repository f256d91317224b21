"""Why a chat is due or not, when it is due next, and what the ledger holds of it.

Whether a rule holds is always asked of the one expression in `worker.rules.eligibility`, for future moments as well.
The values that the rules look at (the chat's row, its card, its attempts) are only returned beside the answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy import Label, RowMapping, Select, Text, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.account import HANDLE_BLOCKED
from worker.db.partner_values import as_text, utc
from worker.db.tables import UtcTime, chats, contact_cards, lines, share_attempts
from worker.ledger.history import Attempt, latest_attempts
from worker.outcomes import NOT_CALLED, NOT_SHARED
from worker.rules.eligibility import (
    BLOCKED_PAUSE,
    LINE_REST,
    Rules,
    Verdict,
    chats_with_lines,
    moment,
    rules_in_order,
    verdict,
)
from worker.rules.schedule import Schedule
from worker.rules.times import beginning_of, first_pass

ATTEMPTS_SHOWN: Final = 10

PASSING: Final = (Verdict.LINE_RESTING, Verdict.ALREADY_TODAY, Verdict.TOO_SOON)
"""The rules that may stop holding as time passes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptHistory:
    """The ledger's attempts of a chat, summed up."""

    outcomes: dict[str, int]
    last_called_at: datetime | None
    """The last attempt whose request was, or may have been, sent."""
    last_called_day: date | None
    last_shared_day: date | None
    """The share day of the last attempt that was, or may have been, a share."""
    last_blocked_at: datetime | None
    """The last attempt that Linq refused because the account blocked the number (2026)."""

    @property
    def shares(self) -> int:
        """The attempts that were, or may have been, a share."""
        return sum(count for outcome, count in self.outcomes.items() if outcome not in NOT_SHARED)


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleState:
    """Whether a rule holds for one chat."""

    rule: Verdict
    holds: bool | None
    """True: the rule forbids a share. None: the settings turn the rule off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NextDue:
    """When a chat is due next, if nothing else changes."""

    at: datetime | None
    """None: not as long as one of `unless` holds."""
    scheduled: datetime | None
    """The first scheduled time from `at` on."""
    unless: list[Verdict]
    """Without `at`: the rules that must stop holding first, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The verdict on a chat at one moment, with its rules in order."""

    verdict: Verdict
    rules: list[RuleState]
    next_due: NextDue


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """All that is known of a chat.

    `chat` and `judgement` are None for a chat that left the table and is in the ledger only.
    """

    chat_id: str
    now: datetime
    share_day: date
    chat: Mapping[str, object] | None
    unreadable: Mapping[str, str]
    """The timestamps of `chat` that cannot be parsed, as they are written; they are None in `chat`."""
    card: Mapping[str, object] | None
    line: Mapping[str, object] | None
    """What is known of the line, apart from its card."""
    judgement: Judgement | None
    history: AttemptHistory
    attempts: list[Attempt]
    """The latest attempts, newest first."""


async def explain(
    connection: AsyncConnection, rules: Rules, schedule: Schedule, chat_id: str, now: datetime
) -> Explanation | None:
    """Explain a chat at a moment; None if neither the table nor the ledger has it."""
    history = await _read_history(connection, chat_id)
    chat = await _row(connection, _READ.where(chats.c.id == chat_id))
    if chat is None and not history.outcomes:
        return None
    card, line, judgement, unreadable = None, None, None, {}
    if chat is not None:
        written = await _row(connection, _WRITTEN.where(chats.c.id == chat_id)) or {}
        unreadable = {name: str(text) for name, text in written.items() if text is not None and chat[name] is None}
        card, line = [
            await _row(connection, table.select().where(table.c.phone_number == chat["from_number"]))
            for table in (contact_cards, lines)
        ]
        refused_at = line["refused_at"] if line else None
        judgement = await _judge(
            connection,
            rules,
            schedule=schedule,
            chat_id=chat_id,
            now=now,
            later=moments_to_ask(
                rules, history, now, line_refused_at=refused_at if isinstance(refused_at, datetime) else None
            ),
        )
    return Explanation(
        chat_id=chat_id,
        now=now,
        share_day=rules.share_day(now),
        chat=chat,
        unreadable=unreadable,
        card=card,
        line=line,
        judgement=judgement,
        history=history,
        attempts=await latest_attempts(connection, chat_id, ATTEMPTS_SHOWN),
    )


async def _judge(
    connection: AsyncConnection,
    rules: Rules,
    *,
    schedule: Schedule,
    chat_id: str,
    now: datetime,
    later: list[datetime],
) -> Judgement:
    """The verdict now, and the first of the moments `now` and `later` at which the chat is due."""
    present, holds = await _ask(connection, rules, chat_id, now)
    latest, at = present, None
    for moment_ in (now, *later):
        opening = rules.opening(moment_)
        latest, _ = await _ask(connection, rules, chat_id, opening)
        if latest is Verdict.DUE:
            at = opening
            break
    lasting = [rule for rule in Verdict if rule is latest or (holds.get(rule) and rule not in PASSING)]
    return Judgement(
        verdict=present,
        rules=[RuleState(rule=rule, holds=holds.get(rule)) for rule in Verdict if rule is not Verdict.DUE],
        next_due=NextDue(
            at=at,
            scheduled=first_pass(rules, schedule, at) if at else None,
            unless=[] if at else lasting,
        ),
    )


async def _ask(
    connection: AsyncConnection, rules: Rules, chat_id: str, at: datetime
) -> tuple[Verdict, dict[Verdict, bool]]:
    """The verdict on a chat at a moment, and for each rule in force whether it holds then."""
    conditions = {rule: condition.label(rule.value) for rule, condition in rules_in_order(rules)}
    statement = select(verdict(rules).label("verdict"), *conditions.values()).select_from(chats_with_lines())
    row = (await connection.execute(statement.where(chats.c.id == chat_id), moment(rules, at))).mappings().one()
    return Verdict(row["verdict"]), {rule: bool(row[rule.value]) for rule in conditions}


def moments_to_ask(
    rules: Rules, history: AttemptHistory, now: datetime, *, line_refused_at: datetime | None = None
) -> list[datetime]:
    """The moments after `now` at which a chat may become due as time passes, in order; no rule is decided here.

    These are the ends of the intervals after its last call and its last share, of its line's rest, and of the week
    after its number was blocked; and the beginnings of share days.
    """
    days = [rules.share_day(now) + timedelta(days=1)]
    if history.last_called_day is not None:
        days.append(history.last_called_day + timedelta(days=1))
    if history.last_shared_day is not None:
        days.append(history.last_shared_day + timedelta(days=rules.every_days))
    moments = {beginning_of(day, rules) for day in days}
    if history.last_called_at is not None:
        moments.add(history.last_called_at + timedelta(hours=rules.min_hours))
    if history.last_blocked_at is not None:
        moments.add(history.last_blocked_at + BLOCKED_PAUSE)
    if line_refused_at is not None:
        moments.add(line_refused_at + LINE_REST)
    return sorted(at for at in moments if at > now)


async def _row(connection: AsyncConnection, statement: Select[*tuple[object, ...]]) -> dict[str, object] | None:
    row: RowMapping | None = (await connection.execute(statement)).mappings().one_or_none()
    return None if row is None else {str(name): value for name, value in row.items()}


def _as_the_rules_read_them() -> list[Label[str] | Label[datetime] | Label[bool]]:
    """The columns of `chats`, in a form that can be read whatever a partner wrote into them."""
    columns: list[Label[str] | Label[datetime] | Label[bool]] = []
    for column in chats.c:
        if isinstance(column.type, UtcTime):
            columns.append(utc(column).label(column.name))
        elif isinstance(column.type, Text):
            columns.append(as_text(column).label(column.name))
        else:
            columns.append(column.is_not(False).label(column.name))
    return columns


_READ: Final = select(*_as_the_rules_read_them())
_WRITTEN: Final = select(
    *(as_text(column).label(column.name) for column in chats.c if isinstance(column.type, UtcTime))
)


async def _read_history(connection: AsyncConnection, chat_id: str) -> AttemptHistory:
    attempt = share_attempts.c
    statement = (
        select(attempt.outcome, func.count(), func.max(attempt.claimed_at), func.max(attempt.share_day))
        .where(attempt.chat_id == chat_id)
        .group_by(attempt.outcome)
        .order_by(attempt.outcome)
    )
    rows = [tuple(row) for row in await connection.execute(statement)]
    called = [(at, day) for outcome, _, at, day in rows if outcome != NOT_CALLED]
    blocked = select(func.max(attempt.claimed_at)).where(
        attempt.chat_id == chat_id, attempt.error_code == HANDLE_BLOCKED
    )
    return AttemptHistory(
        outcomes={outcome: count for outcome, count, *_ in rows},
        last_called_at=max((at for at, _ in called), default=None),
        last_called_day=max((day for _, day in called), default=None),
        last_blocked_at=(await connection.execute(blocked)).scalar_one(),
        last_shared_day=max((day for outcome, *_, day in rows if outcome not in NOT_SHARED), default=None),
    )
