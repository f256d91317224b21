"""The ledger: which chat was called when, by which pass, and what came of it.

Claim, record and release each put rows of `share_attempts` into another state, in a transaction of the caller's. The
table's key (chat, share day, sequence) refuses the second claim of a day, whatever the code, the clocks or the number
of workers; and no one may call without a claim that is committed. Nothing here knows of HTTP.

    (no row) --claim--> claimed --record--> shared | rejected | unknown
                          |  ^
                   release|  |claim
                          v  |
                         unsent
    claimed, for 15 minutes: its worker is dead --settle--> unknown
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    JSON,
    ColumnElement,
    Date,
    Integer,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    cast,
    column,
    func,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert

from worker import prepared
from worker.db.tables import UtcTime, chats, share_attempts, spelt
from worker.outcomes import Answer, Claim, Outcome
from worker.sharing.candidates import Candidates

STALE_AFTER: Final = timedelta(minutes=15)
"""The age at which a claim belongs to a dead worker. Far more than the longest call, so that it hurts no live one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """An answer on its way into the ledger."""

    claim: Claim
    answer: Answer
    finished_at: datetime


async def claim(
    connection: AsyncConnection,
    candidates: Candidates,
    *,
    run_id: str,
    day: date,
    now: datetime,
    among: Collection[str],
    at_most: int,
    answers: Sequence[Recorded] = (),
) -> list[Claim]:
    """Claim up to `at_most` chats of `among` that may be called at `now`, on a share day; return the claims.

    The `answers` of earlier calls, to chats that are not in `among`, are recorded before: whatever comes of the claim,
    and on PostgreSQL without a statement of their own.

    The caller commits, and calls only then. Which chats are claimed is decided by the database, in this order:

    1. On PostgreSQL the rows of the candidates are locked; those that another worker holds are passed over. SQLite's
       write lock, which the transaction holds already, does the same for all rows.
    2. Under the lock it is asked again who may be called, by a statement that sees every claim committed before it. So
       two workers whose clocks disagree about the date cannot both find the chat due.
    3. The key refuses a second row for the chat, day and sequence. One that is `unsent` is claimed anew, in its place.
    """
    if not among or at_most < 1:
        await record(connection, answers)
        return []
    asked = candidates.claimable(now, among)
    if connection.dialect.name == "postgresql":
        locking = _locking(asked.statement, records=bool(answers))
        limited = {**asked.values, "claim_at_most": at_most, **(_in_one_value(answers) if answers else {})}
        locked = await prepared.fetch(connection, locking, limited, repeated=asked.repeated)
        ids = [chat_id for chat_id, _ in locked]
        if not ids:
            return []
        asked = candidates.claimable(now, ids)
    else:
        await record(connection, answers)
    request = candidates.request
    values = {
        "claim_day": day,
        "claim_run_id": run_id,
        "claim_now": now,
        "claim_requested_by": request.by if request else None,
        "claim_reason": request.reason if request else None,
        "claim_at_most": at_most,
    }
    claiming = _claiming(asked.statement, connection.dialect.name)
    claimed = await prepared.fetch(connection, claiming, {**asked.values, **values}, repeated=asked.repeated)
    return [
        Claim(chat_id=chat_id, share_day=day, sequence=sequence, run_id=run_id, claimed_at=now)
        for chat_id, sequence in sorted(claimed)
    ]


async def record(connection: AsyncConnection, answers: Sequence[Recorded]) -> None:
    """Write down what came of calls. Doing it twice does no harm: a commit whose word was lost may be repeated.

    An answer that comes so late that its claim was settled as `unknown` replaces that: the run that called knows
    better.
    """
    if not answers:
        return
    if connection.dialect.name == "postgresql":
        await prepared.execute(connection, _RECORD_ALL, _in_one_value(answers))
    else:
        await connection.execute(_RECORD, [_recorded_row(answer) for answer in answers])


async def release(connection: AsyncConnection, claims: Collection[Claim], *, why: str, now: datetime) -> None:
    """Give back claims for which nothing was sent: their chats stay due. One that never got into the table is none."""
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
            error_message="no answer was recorded: the worker ended, or lost its database, during the call",
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


# Spelled out in the statement: PostgreSQL uses the partial index on 'claimed' only where it sees the word.
_CLAIMED: Final = spelt(Outcome.CLAIMED)

_NO_ANSWER: Final = {name: null() for name in ("finished_at", "http_status", "error_code", "error_message", "trace_id")}


@lru_cache(maxsize=8)
def _locking(chosen: Select[str, int], *, records: bool) -> Select[str, int]:
    """The statement that locks the rows of chats that may be called, as many as are wanted; it may also record."""
    locking = chosen.limit(bindparam("claim_at_most")).with_for_update(of=chats, skip_locked=True)
    return locking.add_cte(_RECORD_ALL.cte("recorded")) if records else locking


@lru_cache(maxsize=8)
def _claiming(chosen: Select[str, int], dialect: str) -> ReturningInsert[str, int]:
    """The statement that puts claims into the table, as many as are wanted, and returns them."""
    mark = {
        "outcome": _CLAIMED,
        "run_id": bindparam("claim_run_id", type_=Text),
        "claimed_at": bindparam("claim_now", type_=UtcTime()),
        "requested_by": bindparam("claim_requested_by", type_=Text),
        "reason": bindparam("claim_reason", type_=Text),
    }
    row = chosen.limit(bindparam("claim_at_most")).subquery()
    upsert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    # SQLite cannot parse ON CONFLICT after a SELECT that has no WHERE.
    statement = upsert(share_attempts).from_select(
        ["chat_id", "sequence", "share_day", *mark],
        select(row.c.id, row.c.sequence, bindparam("claim_day", type_=Date), *mark.values()).where(true()),
    )
    statement = statement.on_conflict_do_update(
        index_elements=["chat_id", "share_day", "sequence"],
        set_=mark | _NO_ANSWER,
        where=share_attempts.c.outcome == spelt(Outcome.UNSENT),
    )
    return statement.returning(share_attempts.c.chat_id, share_attempts.c.sequence)


# What no answer replaces. Not turned round (claimed or unknown): PostgreSQL would look for those, among all of history.
_FINAL: Final = (Outcome.SHARED, Outcome.REJECTED, Outcome.UNSENT)

_CLAIM_KEY: Final = {
    "claim_chat_id": share_attempts.c.chat_id,
    "claim_share_day": share_attempts.c.share_day,
    "claim_sequence": share_attempts.c.sequence,
}
_CLAIM_COLUMNS: Final = _CLAIM_KEY | {
    "claim_run_id": share_attempts.c.run_id,
    "claim_claimed_at": share_attempts.c.claimed_at,
}
_ANSWER_COLUMNS: Final = {
    "answer_outcome": share_attempts.c.outcome,
    "answer_finished_at": share_attempts.c.finished_at,
    "answer_http_status": share_attempts.c.http_status,
    "answer_error_code": share_attempts.c.error_code,
    "answer_error_message": share_attempts.c.error_message,
    "answer_trace_id": share_attempts.c.trace_id,
}


def _recording(value_of: Callable[[str], ColumnElement[Any]]) -> Update:
    """The update that records an answer, if its claim is still the one in the table; the values by their names."""
    return (
        update(share_attempts)
        .where(
            *(column == value_of(name) for name, column in _CLAIM_KEY.items()),
            # Spelt so that no index fits: by that of the runs each answer would look at all calls of its run.
            share_attempts.c.run_id + spelt("") == value_of("claim_run_id"),
            share_attempts.c.claimed_at == value_of("claim_claimed_at"),
            *(share_attempts.c.outcome != spelt(outcome) for outcome in _FINAL),
        )
        .values({column: value_of(name) for name, column in _ANSWER_COLUMNS.items()})
    )


def _all_at_once() -> Update:
    """One statement for any number of answers, which are the rows of one JSON value."""
    columns = [column(name, kept.type) for name, kept in (_CLAIM_COLUMNS | _ANSWER_COLUMNS).items()]
    given = cast(bindparam("answers", type_=Text), JSON)
    rows = func.json_to_recordset(given).table_valued(*columns).render_derived(name="given", with_types=True)
    # Told how many there are, and that twice. PostgreSQL takes any JSON for a hundred rows, a limit for a tenth of what
    # it limits, and ten look-ups for longer than a short ledger read whole: which it would go on with as that grows.
    limit = bindparam("answers_in_all", type_=Integer)
    some = select(*rows.c).limit(limit).subquery("some")
    answers = select(*some.c).limit(limit).subquery("answers")
    return _recording(lambda name: answers.c[name])


_RECORD: Final = _recording(bindparam)
_RECORD_ALL: Final = _all_at_once()


def _in_one_value(answers: Sequence[Recorded]) -> dict[str, object]:
    rows = [_recorded_row(answer) for answer in answers]
    return {"answers": json.dumps(rows, default=_iso), "answers_in_all": len(rows)}


def _iso(moment: date) -> str:
    return moment.isoformat()


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
