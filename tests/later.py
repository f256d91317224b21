"""Minutes that go by between two commands: for the ledger, and for the simulated Linq."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from tests.scene import Scene
from worker import db


class Later:
    """The machine's clock, and so much later: for a Linq that has seen its five minutes go by."""

    def __init__(self) -> None:
        self.by = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.by


def zone_where_it_is_noon() -> str:
    """A time zone in which no test is in the middle of two share days."""
    hours = 12 - datetime.now(UTC).hour
    return f"Etc/GMT{-hours:+d}" if hours else "UTC"


async def ten_minutes_later(scene: Scene, linq_clock: Later) -> None:
    """Let Linq's clock run ahead, and what the ledger holds be as much older."""
    linq_clock.by += timedelta(minutes=10)
    async with db.write(scene.engine) as connection:
        for column in ("claimed_at", "finished_at"):
            earlier = (
                f"{column} - interval '10 minutes'"
                if scene.engine.dialect.name == "postgresql"
                else f"strftime('%Y-%m-%d %H:%M:%f000', {column}, '-10 minutes')"
            )
            await connection.execute(text(f"UPDATE share_attempts SET {column} = {earlier}"))  # noqa: S608 -- fixed names
