"""Chats that are due, straight in the tables, and how the ledger claims them and records what came of it."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.db.tables import chats, contact_cards
from worker.ledger import attempts
from worker.ledger.attempts import Recorded
from worker.outcomes import Answer, Claim, Outcome
from worker.rules.eligibility import Rules
from worker.sharing.candidates import Due

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
LINE = "+15550100001"
RULES = Rules()


async def add_card(connection: AsyncConnection) -> None:
    """The line's card, active."""
    await connection.execute(insert(contact_cards).values(phone_number=LINE, is_active=True, checked_at=NOW))


async def add_chats(connection: AsyncConnection, *ids: str) -> None:
    """Chats of the line, which are due once it has its card."""
    usual = {"from_number": LINE, "service": "iMessage", "last_outbound_at": NOW - timedelta(hours=2)}
    await connection.execute(insert(chats), [usual | {"id": chat_id} for chat_id in ids])


async def claim_on(
    connection: AsyncConnection,
    among: list[str],
    *,
    run: str = "run",
    now: datetime = NOW,
    at_most: int = 100,
    rules: Rules = RULES,
) -> list[Claim]:
    """Claim in the transaction that is open, as the scheduled pass does."""
    return await attempts.claim(
        connection,
        partial(Due(rules).claimable, now),
        run_id=run,
        day=rules.share_day(now),
        now=now,
        among=among,
        at_most=at_most,
    )


def answered(claims: Iterable[Claim], outcome: Outcome, now: datetime = NOW) -> list[Recorded]:
    """What came of the calls for some claims: the same for all."""
    return [Recorded(claim=made, answer=Answer(outcome=outcome, http_status=202), finished_at=now) for made in claims]
