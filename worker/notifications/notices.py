"""The table `notices`: what is in trouble, and which receiver was told of it; one row for each of both.

A row is there from the moment a trouble is found until its receiver has been told that it is well again. Whoever
claims a row sends its message: the claim is one UPDATE that only one worker's can win. A claim that is not settled,
because the worker died or lost the database, is free again after `LEASE`: then the message may come twice, but it is
not lost.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.db.inserts import insert_into
from worker.db.tables import notices

LEASE: Final = timedelta(minutes=5)
"""After this a claim belongs to a dead worker; longer than any sending takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """What one receiver has to be told, or was told, of one trouble."""

    cause: str
    receiver: str
    since: datetime | None
    reason: str
    found_at: datetime
    told_at: datetime | None
    """When the receiver was told of the trouble; None: not yet."""
    claimed_by: str | None
    claimed_at: datetime | None

    def is_free(self, now: datetime) -> bool:
        """Whether nobody is sending it; a claim from the future is one of before the clock was stepped back."""
        return self.claimed_at is None or abs(now - self.claimed_at) > LEASE


async def read_notices(connection: AsyncConnection) -> list[Notice]:
    """All rows, in the order of the key."""
    rows = await connection.execute(select(notices).order_by(notices.c.cause, notices.c.receiver))
    return [Notice(**row) for row in rows.mappings()]


async def add_notices(connection: AsyncConnection, found: Collection[Notice]) -> None:
    """Add the rows that are not there yet."""
    # In the order of the key, so that two workers that add at once wait for each other instead of locking up.
    for notice in sorted(found, key=lambda notice: (notice.cause, notice.receiver)):
        row = {name: getattr(notice, name) for name in Notice.__dataclass_fields__}
        await connection.execute(insert_into(connection, notices).values(row).on_conflict_do_nothing())


async def claim(connection: AsyncConnection, notice: Notice, *, by: str, now: datetime) -> bool:
    """Take on to send what a row asks for, as it was just read; False if another worker was quicker."""
    claiming = update(notices).where(
        notices.c.cause == notice.cause,
        notices.c.receiver == notice.receiver,
        notices.c.claimed_by.is_not_distinct_from(notice.claimed_by),
        notices.c.told_at.is_(None) if notice.told_at is None else notices.c.told_at.is_not(None),
    )
    return (await connection.execute(claiming.values(claimed_by=by, claimed_at=now))).rowcount == 1


async def settle(
    connection: AsyncConnection, *, by: str, receiver: str, told: Collection[str], well: Collection[str], now: datetime
) -> None:
    """The receiver accepted the message: it was told of some causes, and that others are well again."""
    of_ours = (notices.c.claimed_by == by, notices.c.receiver == receiver)
    await connection.execute(
        update(notices).where(*of_ours, notices.c.cause.in_(told)).values(told_at=now, claimed_by=None, claimed_at=None)
    )
    await connection.execute(delete(notices).where(*of_ours, notices.c.cause.in_(well)))


async def release(connection: AsyncConnection, *, by: str, receiver: str) -> None:
    """The receiver did not accept the message: the next check tries again."""
    await connection.execute(
        update(notices)
        .where(notices.c.claimed_by == by, notices.c.receiver == receiver)
        .values(claimed_by=None, claimed_at=None)
    )
