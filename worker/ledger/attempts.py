"""The ledger: which chat was shared with when, by which pass, and what came of it. Nothing here knows HTTP.

Claim, record and release each move rows of `share_attempts` to another outcome, in a transaction of the caller's. The
table's key (chat, share day, sequence) refuses the second claim of a day, whatever the code, the clocks or the number
of workers; and a request is sent only for a claim whose commit was confirmed.

    (no row) --claim--> claimed --record--> shared | rejected | unknown
                          |  ^
                   release|  |claim
                          v  |
                         unsent
    claimed for 15 minutes: its worker is dead --settle--> unknown
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Date,
    Select,
    Text,
    and_,
    bindparam,
    func,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert

from worker.db.tables import UtcTime, chats, share_attempts, spelt
from worker.outcomes import Answer, Claim, Outcome, RerunRequest

STALE_AFTER: Final = timedelta(minutes=15)
"""The age at which a claim belongs to a dead worker; far longer than the longest request of a live one."""

Claimable = Callable[[Collection[str]], tuple[Select[str, int], Mapping[str, object]]]
"""Given some ids, a statement for the id and sequence of each chat that may be claimed, and the statement's values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """An answer on its way into the ledger."""

    claim: Claim
    answer: Answer
    finished_at: datetime


async def claim(
    connection: AsyncConnection,
    claimable: Claimable,
    *,
    among: Collection[str],
    at_most: int,
    run_id: str,
    day: date,
    now: datetime,
    rerun: RerunRequest | None = None,
) -> list[Claim]:
    """Claim up to `at_most` of the chats `among` for a share day; return the claims. `rerun`: who asked for a rerun.

    The caller commits, and sends requests only once the commit is confirmed. The database decides which chats are
    claimed, in this order:

    1. On PostgreSQL the rows of the candidates are locked; rows that another worker has locked are skipped. On SQLite
       the transaction holds the write lock already, which does the same for all rows.
    2. Under the lock `claimable` is asked again, by a statement that sees every claim committed before it. So two
       workers whose clocks disagree about the date cannot both find the chat due.
    3. The key refuses a second row for the chat, day and sequence. An `unsent` row is claimed anew, in its place.
    """
    if not among or at_most < 1:
        return []
    statement, values = claimable(among)
    if connection.dialect.name == "postgresql":
        locked = await connection.execute(_locking(statement), {**values, "claim_at_most": at_most})
        ids = [chat_id for chat_id, _ in locked]
        if not ids:
            return []
        statement, values = claimable(ids)
    claim_values = {
        "claim_day": day,
        "claim_run_id": run_id,
        "claim_now": now,
        "claim_requested_by": rerun.by if rerun else None,
        "claim_reason": rerun.reason if rerun else None,
        "claim_at_most": at_most,
    }
    claiming = _claiming(statement, connection.dialect.name)
    claimed = (await connection.execute(claiming, {**values, **claim_values})).all()
    return [
        Claim(chat_id=chat_id, share_day=day, sequence=sequence, run_id=run_id, claimed_at=now)
        for chat_id, sequence in sorted(claimed)
    ]


async def record(connection: AsyncConnection, answers: Sequence[Recorded]) -> None:
    """Write down what came of requests. Doing it twice is harmless: an unconfirmed commit may be repeated.

    An answer that arrives after its claim was settled as `unknown` replaces that: the run that sent the request knows
    better.
    """
    if answers:
        await connection.execute(_RECORD, [_recorded_row(recorded) for recorded in answers])


async def release(connection: AsyncConnection, claims: Collection[Claim], *, why: str, now: datetime) -> None:
    """Give back claims for which nothing was sent: their chats stay due. Uncommitted claims are ignored."""
    answer = Answer(outcome=Outcome.UNSENT, error_message=why)
    await record(connection, [Recorded(claim=claim, answer=answer, finished_at=now) for claim in claims])


def is_stale(now: datetime) -> ColumnElement[bool]:
    """Whether a row of `share_attempts` is the claim of a dead worker."""
    return and_(share_attempts.c.outcome == _CLAIMED, share_attempts.c.claimed_at < now - STALE_AFTER)


async def settle_stale(connection: AsyncConnection, now: datetime) -> int:
    """Turn the claims of dead workers into `unknown`; return how many there were."""
    result = await connection.execute(
        update(share_attempts)
        .where(is_stale(now))
        .values(
            outcome=Outcome.UNKNOWN.value,
            finished_at=now,
            error_message="no answer was recorded: the worker ended, or lost its database, during the request",
        )
    )
    return result.rowcount


async def outcomes_of(connection: AsyncConnection, run_id: str) -> dict[Outcome, int]:
    """How many attempts of a run have each outcome."""
    result = await connection.execute(
        select(share_attempts.c.outcome, func.count())
        .where(share_attempts.c.run_id == run_id)
        .group_by(share_attempts.c.outcome)
    )
    return {Outcome(outcome): count for outcome, count in result}


# Literal in the statement: PostgreSQL uses the partial index on 'claimed' only if it sees the word.
_CLAIMED: Final = spelt(Outcome.CLAIMED)

_NO_ANSWER: Final = {name: null() for name in ("finished_at", "http_status", "error_code", "error_message", "trace_id")}


@lru_cache(maxsize=8)
def _locking(statement: Select[str, int]) -> Select[str, int]:
    """Locks the rows of chats that may be claimed, skipping those that are locked."""
    return statement.limit(bindparam("claim_at_most")).with_for_update(of=chats, skip_locked=True)


@lru_cache(maxsize=8)
def _claiming(statement: Select[str, int], dialect: str) -> ReturningInsert[str, int]:
    """Inserts the claims, and returns their ids and sequences."""
    mark = {
        "outcome": _CLAIMED,
        "run_id": bindparam("claim_run_id", type_=Text),
        "claimed_at": bindparam("claim_now", type_=UtcTime()),
        "requested_by": bindparam("claim_requested_by", type_=Text),
        "reason": bindparam("claim_reason", type_=Text),
    }
    row = statement.limit(bindparam("claim_at_most")).subquery()
    upsert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    # SQLite cannot parse ON CONFLICT after a SELECT that has no WHERE.
    insertion = upsert(share_attempts).from_select(
        ["chat_id", "sequence", "share_day", *mark],
        select(row.c.id, row.c.sequence, bindparam("claim_day", type_=Date), *mark.values()).where(true()),
    )
    insertion = insertion.on_conflict_do_update(
        index_elements=["chat_id", "share_day", "sequence"],
        set_=mark | _NO_ANSWER,
        where=share_attempts.c.outcome == spelt(Outcome.UNSENT),
    )
    return insertion.returning(share_attempts.c.chat_id, share_attempts.c.sequence)


# Final outcomes. Written as NOT IN: with IN ('claimed', 'unknown') PostgreSQL would scan the history for them.
_FINAL: Final = [spelt(outcome) for outcome in (Outcome.SHARED, Outcome.REJECTED, Outcome.UNSENT)]

_RECORD: Final = (
    update(share_attempts)
    .where(
        share_attempts.c.chat_id == bindparam("claim_chat_id"),
        share_attempts.c.share_day == bindparam("claim_share_day"),
        share_attempts.c.sequence == bindparam("claim_sequence"),
        share_attempts.c.run_id == bindparam("claim_run_id"),
        share_attempts.c.claimed_at == bindparam("claim_claimed_at"),
        share_attempts.c.outcome.not_in(_FINAL),
    )
    .values(
        outcome=bindparam("answer_outcome"),
        finished_at=bindparam("answer_finished_at"),
        http_status=bindparam("answer_http_status"),
        error_code=bindparam("answer_error_code"),
        error_message=bindparam("answer_error_message"),
        trace_id=bindparam("answer_trace_id"),
    )
)
"""Records an answer if its claim is still the one in the table."""


def _recorded_row(recorded: Recorded) -> dict[str, object]:
    claim, answer = recorded.claim, recorded.answer
    return {
        "claim_chat_id": claim.chat_id,
        "claim_share_day": claim.share_day,
        "claim_sequence": claim.sequence,
        "claim_run_id": claim.run_id,
        "claim_claimed_at": claim.claimed_at,
        "answer_outcome": answer.outcome.value,
        "answer_finished_at": recorded.finished_at,
        "answer_http_status": answer.http_status,
        "answer_error_code": answer.error_code,
        "answer_error_message": answer.error_message,
        "answer_trace_id": answer.trace_id,
    }
