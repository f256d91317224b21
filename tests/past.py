"""A past to look back on: rows of the ledger and of `runs`, written as they are, without making the passes."""

from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.db.tables import runs, share_attempts
from worker.outcomes import Outcome, RunStatus, Trigger

RUN = "20260310T090000Z-a1b2c3"


@dataclass(frozen=True)
class Past:
    """Writes what is to have happened; share days are dates in `zone`."""

    engine: AsyncEngine
    zone: tzinfo

    async def attempt(
        self, chat_id: str, claimed_at: datetime, outcome: Outcome = Outcome.SHARED, **changes: object
    ) -> None:
        """An attempt that took 200 ms."""
        row: dict[str, object] = {
            "chat_id": chat_id,
            "share_day": claimed_at.astimezone(self.zone).date(),
            "sequence": 0,
            "outcome": outcome.value,
            "run_id": RUN,
            "claimed_at": claimed_at,
            "finished_at": None if outcome is Outcome.CLAIMED else claimed_at + timedelta(milliseconds=200),
        }
        async with db.write(self.engine) as connection:
            await connection.execute(insert(share_attempts).values(row | changes))

    async def run(self, run_id: str, started_at: datetime, **changes: object) -> None:
        """A pass that took 90 s and shared with three."""
        row: dict[str, object] = {
            "id": run_id,
            "trigger": Trigger.SCHEDULE.value,
            "share_day": started_at.astimezone(self.zone).date(),
            "worker": "host:77",
            "started_at": started_at,
            "finished_at": started_at + timedelta(seconds=90),
            "status": RunStatus.COMPLETED.value,
            "tally": {"shared": 3, "rejected": 1, "unknown": 0, "unsent": 0, "left": 0, "skipped": {"no_card": 2}},
        }
        async with db.write(self.engine) as connection:
            await connection.execute(insert(runs).values(row | changes))
