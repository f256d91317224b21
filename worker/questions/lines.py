"""Which lines rest, why, and until when: shown by `status`, `cards list` and `check`."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.chats import facts
from worker.rules.eligibility import FLAG_REST, LINE_REST, STORED, LineTables, Rules, line_rests, moment


@dataclass(frozen=True, kw_only=True, slots=True)
class RestingLine:
    """A line whose chats are `line_resting`."""

    phone_number: str
    why: str
    until: datetime | None
    """When the rest ends if Linq says nothing new; None: when Linq says better of the line."""
    chats: int


async def resting_lines(
    connection: AsyncConnection, rules: Rules, now: datetime, *, known: LineTables = STORED
) -> list[RestingLine]:
    """The lines that rest at a moment, in the order of their numbers."""
    rests = select(known.lines).where(line_rests(rules, known.lines)).order_by(known.lines.c.phone_number)
    rows = (await connection.execute(rests, moment(rules, now))).mappings().all()
    if not rows:
        return []
    chats_of = await facts.chats_per_line(connection)
    resting = []
    for row in rows:
        until = row["refused_at"] + LINE_REST if row["refused_at"] else None
        why = "Linq refused it (403/2027)"
        if until is None or until <= now:
            why, until = f"its reputation is {row['reputation']}", None
            if str(row["status"] or "").upper() == "FLAGGED":
                why = "Linq flagged it"
                until = row["status_changed_at"] + FLAG_REST if row["status_changed_at"] else None
        number = row["phone_number"]
        resting.append(RestingLine(phone_number=number, why=why, until=until, chats=chats_of.get(number, 0)))
    return resting
