"""A simulated Linq that looks into the ledger at the moment of each call, and says afterwards what does not agree.

It reads over a connection of its own, so it sees what is committed and nothing else. What it finds wrong is a sentence
in `wrong`; an exception would only become an answer to the worker.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import combinations

from sqlalchemy import Engine, create_engine, select, update

from worker.db import parse_url
from worker.db.tables import share_attempts
from worker.outcomes import Outcome
from worker.simulator.account import Account, ShareCall, ShareEntry

NAME = "judge"
"""Of the judge's own session on PostgreSQL, which is no worker's."""

OPEN = (Outcome.CLAIMED, Outcome.UNKNOWN)
"""What a claim is while its call is made; `unknown`, where a worker whose clock runs ahead has settled it already."""

ANSWERED = (Outcome.SHARED, Outcome.REJECTED)
NOT_SHARED = (Outcome.REJECTED, Outcome.UNSENT)
FORCED = "forced"

Key = tuple[str, date, int, str, datetime]
"""What tells one claim from every other one, also from a later one in the same row."""


@dataclass(frozen=True)
class Row:
    """A row of the ledger, as far as the judge needs it."""

    chat_id: str
    share_day: date
    sequence: int
    run_id: str
    claimed_at: datetime
    outcome: Outcome
    requested_by: str | None
    reason: str | None
    http_status: int | None

    @property
    def forced(self) -> bool:
        """Whether an admin asked for it, whatever was before; the world writes so into the reason."""
        return self.reason == FORCED

    @property
    def claim(self) -> Key:
        """Its `Key`."""
        return self.chat_id, self.share_day, self.sequence, self.run_id, self.claimed_at


@dataclass(frozen=True)
class Witnessed:
    """A call, and the committed claim that it was made by."""

    entry: ShareEntry
    claim: Row
    others: frozenset[Key] = frozenset()
    """Claims of the chat that were open too, of a worker whose clock is a day apart: the call may have been theirs."""

    @property
    def call(self) -> ShareCall:
        return self.entry.call


def open_ledger(database_url: str) -> Engine:
    """A connection of the judge's own, where each statement is a transaction."""
    url = parse_url(database_url)
    if url.get_backend_name() == "sqlite":
        return create_engine(url.set(drivername="sqlite"), isolation_level="AUTOCOMMIT")
    named = {"application_name": NAME}
    server = url.set(drivername="postgresql+psycopg")
    return create_engine(server, isolation_level="AUTOCOMMIT", connect_args=named, pool_pre_ping=True)


class Judge(Account):
    """The account, with its eyes open."""

    def __init__(self, ledger: Engine, clock: Callable[[], datetime]) -> None:
        super().__init__(clock=clock)
        self.ledger = ledger
        self.witnessed: list[Witnessed] = []
        self.wrong: list[str] = []
        self.on_call: Callable[[int], None] = lambda _number: None
        """Told of each call that arrives, by its number, after it was judged."""
        self._used: dict[Key, int] = {}
        self._buried: set[Key] = set()

    def log_share(self, chat_id: str) -> ShareEntry:
        """Log a call, and look for the claim that allows it."""
        entry = super().log_share(chat_id)
        number = len(self.share_calls)
        rows = self.rows(chat_id)
        claims = [row for row in rows if row.outcome in OPEN and row.claim not in self._used]
        alive = [row for row in claims if row.claim not in self._buried]
        if alive:
            claim = max(alive, key=lambda row: (row.outcome is Outcome.CLAIMED, row.claimed_at))
            self._used[claim.claim] = number
            if claim.requested_by is not None and not claim.forced:
                today = [row for row in rows if row.share_day == claim.share_day and row.claim != claim.claim]
                self.wrong += [
                    f"{claim} called although there is {row}" for row in today if row.outcome not in NOT_SHARED
                ]
            others = {row.claim for row in rows if row.outcome in OPEN} - {claim.claim} - self._buried
            self.witnessed.append(Witnessed(entry, claim, frozenset(others)))
        elif not self._was_mistaken(entry, rows):
            what = f"only claims of dead workers {claims}" if claims else f"no claim of its own among {rows}"
            self.wrong.append(f"call {number}, for {chat_id}, had {what}")
        self.on_call(number)
        return entry

    def _was_mistaken(self, entry: ShareEntry, rows: list[Row]) -> bool:
        """Whether an earlier call was given this one's claim, and its own was answered since; if so, exchange them."""
        by_claim = {row.claim: row for row in rows}
        for place, earlier in enumerate(self.witnessed):
            theirs = [row for row in rows if row.claim in earlier.others and row.outcome in ANSWERED]
            unused = [row for row in theirs if row.claim not in self._used]
            mine = by_claim.get(earlier.claim.claim)
            if unused and mine is not None and mine.outcome in OPEN:
                self._used[unused[0].claim], self._used[mine.claim] = earlier.entry.number + 1, entry.number + 1
                self.witnessed[place] = Witnessed(earlier.entry, unused[0])
                self.witnessed.append(Witnessed(entry, earlier.claim))
                return True
        return False

    def rows(self, chat_id: str | None = None) -> list[Row]:
        """The ledger as it is committed now."""
        statement = select(*(share_attempts.c[name] for name in Row.__dataclass_fields__))
        if chat_id is not None:
            statement = statement.where(share_attempts.c.chat_id == chat_id)
        with self.ledger.connect() as connection:
            found = connection.execute(statement.order_by(*share_attempts.primary_key)).mappings()
            return [Row(**{**row, "outcome": Outcome(row["outcome"])}) for row in found]

    def bury(self) -> None:
        """Nobody is at work any more: whatever is claimed and was not called, must never be."""
        self._buried.update(row.claim for row in self.rows() if row.outcome in OPEN and row.claim not in self._used)

    def backdate(self, by: timedelta) -> None:
        """Make the claims of dead workers older, in the ledger as in the judge's own notes."""
        with self.ledger.connect() as connection:
            for row in self.rows():
                if row.outcome is Outcome.CLAIMED:
                    older = replace(row, claimed_at=row.claimed_at - by)
                    key = [
                        share_attempts.c[name] == getattr(row, name) for name in ("chat_id", "share_day", "sequence")
                    ]
                    connection.execute(update(share_attempts).where(*key).values(claimed_at=older.claimed_at))
                    if row.claim in self._used:
                        number = self._used[older.claim] = self._used.pop(row.claim)
                        self.witnessed = [
                            replace(each, claim=older) if each.entry.number == number - 1 else each
                            for each in self.witnessed
                        ]
                    else:
                        self._buried = self._buried - {row.claim} | {older.claim}

    # What must be true whenever nobody is at work.

    def disagreements(self) -> list[str]:
        """Where the ledger and the log of calls do not agree, call by call."""
        rows = {row.claim: row for row in self.rows()}
        found = list(self.wrong)
        found += self._repeated()
        for witnessed in self._told_apart(rows):
            row = rows.get(witnessed.claim.claim)
            if row is None:
                found.append(f"{witnessed.call} was made by {witnessed.claim}, of which the ledger knows nothing more")
            else:
                found += _said_otherwise(row, witnessed.call)
        found += [
            f"{row} says that Linq answered, and nobody called"
            for row in rows.values()
            if row.outcome in {Outcome.SHARED, Outcome.REJECTED} and row.claim not in self._used
        ]
        return found

    def _told_apart(self, rows: Mapping[Key, Row]) -> list[Witnessed]:
        """Each call with its claim. Two that were open at once are exchanged where that is what the ledger says."""
        told = list(self.witnessed)
        doubtful = [place for place, each in enumerate(told) if each.others]
        for one, other in combinations(doubtful, 2):
            first, second = told[one], told[other]
            if first.claim.claim in second.others and second.claim.claim in first.others:
                mine, theirs = rows.get(first.claim.claim), rows.get(second.claim.claim)
                if mine and theirs and not _said_otherwise(theirs, first.call) + _said_otherwise(mine, second.call):
                    told[one], told[other] = replace(first, claim=theirs), replace(second, claim=mine)
        return told

    def _repeated(self) -> list[str]:
        """Calls per chat and share day: one, and one more for each rerun that somebody asked for."""
        calls = Counter((each.claim.chat_id, each.claim.share_day, each.claim.requested_by) for each in self.witnessed)
        return [
            f"{chat_id} was called {n} times on {day} for {by or 'its one scheduled share'}"
            for (chat_id, day, by), n in calls.items()
            if n > 1
        ]


def _said_otherwise(row: Row, call: ShareCall) -> list[str]:
    status = call.status or 0
    agrees = {
        Outcome.SHARED: 200 <= status < 300 and row.http_status == status,
        Outcome.REJECTED: 400 <= status < 500 and row.http_status == status,
        Outcome.UNSENT: False,
        Outcome.UNKNOWN: True,
        Outcome.CLAIMED: True,
    }
    return [] if agrees[row.outcome] else [f"{row} does not agree with {call}"]
