"""The tables: the same on SQLite and PostgreSQL, in UTC, and kept equal to the migrations by a test.

`chats` is filled by the partner's own SQL, by files, the sync and webhooks; all other tables are the worker's own.
The primary key of `share_attempts` is what holds 'at most once per chat and day': the database refuses a second row,
whoever asks.
"""

import re
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Date,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    false,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import JSON, TypeEngine

SQLITE_TIME: Final = "%Y-%m-%d %H:%M:%S.%f"
"""How a time is written in SQLite: UTC, and in an order that sorts as text."""


_SPACE_BEFORE_ZONE: Final = re.compile(r" +(?=[+-]\d\d:?\d\d$)")


def read_time(written: str) -> datetime | None:
    """The moment that a partner's text names, in UTC: any ISO 8601, in UTC where it names no zone; None: no time."""
    try:
        moment = datetime.fromisoformat(_SPACE_BEFORE_ZONE.sub("", written))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def utc_text(written: bytes | None) -> str | None:
    """The moment that a partner's text names, as the worker would write it in SQLite."""
    moment = read_time(written.decode("utf-8", "replace")) if written is not None else None
    return moment.replace(tzinfo=None).isoformat(" ", "microseconds") if moment else None


def is_utf8(written: bytes | None) -> bool:
    """Whether a text of SQLite's, which it never looks at, can be read as one; of nothing (a join's) it cannot."""
    try:
        return written is not None and written.decode() is not None
    except UnicodeDecodeError:
        return False


def spelt(word: str) -> ColumnElement[str]:
    """One of our own words, as a literal of the statement instead of a parameter."""
    return literal_column(f"'{word}'", Text)


class UtcTime(TypeDecorator[datetime]):
    """A moment: `timestamptz` on PostgreSQL, text in UTC on SQLite; always aware, in UTC, in Python.

    In SQLite a partner may have written the text: what `read_time` cannot read is None.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str] | TypeEngine[datetime]:
        """Pick the column type of the database at hand."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Text())
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | str | None:
        """Write a moment; one without a zone is a mistake of the caller's and is refused."""
        if value is None:
            return None
        if value.tzinfo is None:
            msg = f"a time needs its zone, but {value!r} has none"
            raise ValueError(msg)
        moment = value.astimezone(UTC)
        return moment.strftime(SQLITE_TIME) if dialect.name == "sqlite" else moment

    def process_result_value(
        self,
        value: object | None,
        dialect: Dialect,  # noqa: ARG002 -- SQLAlchemy's signature
    ) -> datetime | None:
        """Read a moment, in UTC."""
        if value is None:
            return None
        return value.astimezone(UTC) if isinstance(value, datetime) else read_time(str(value))

    def coerce_compared_value(self, op: object, value: object) -> "UtcTime":  # noqa: ARG002 -- SQLAlchemy's signature
        """Let comparisons write the other side in the same way."""
        return self


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# Byte order on PostgreSQL: a walk by key compares ids some millions of times, and a locale's rules make that slow.
CHAT_ID: Final[TypeEngine[str]] = Text().with_variant(Text(collation="C"), "postgresql")

chats = Table(
    "chats",
    metadata,
    Column("id", CHAT_ID, primary_key=True, nullable=False),
    Column("from_number", Text, nullable=False),
    Column("service", Text),
    Column("is_group", Boolean, nullable=False, server_default=false()),
    Column("last_outbound_at", UtcTime),
    Column("last_inbound_at", UtcTime),
    Column("health_status", Text),
    Column("paused_at", UtcTime),
    Column("paused_reason", Text),
    Column("missing_at", UtcTime),
    Column("opted_out_at", UtcTime),
    Column("handle", Text),
    Column("card_received_at", UtcTime),
    Column("synced_at", UtcTime),
    Column("linq_updated_at", UtcTime),
    Column("health_updated_at", UtcTime),
    Column("created_at", UtcTime, nullable=False, server_default=func.current_timestamp()),
    Column("updated_at", UtcTime, nullable=False, server_default=func.current_timestamp()),
    Index(None, "from_number", "id"),
    Index(None, "handle"),
    sqlite_with_rowid=False,
)

contact_cards = Table(
    "contact_cards",
    metadata,
    Column("phone_number", Text, primary_key=True, nullable=False),
    Column("first_name", Text),
    Column("last_name", Text),
    Column("image_url", Text),
    Column("is_active", Boolean, nullable=False),
    Column("checked_at", UtcTime, nullable=False),
    sqlite_with_rowid=False,
)

lines = Table(
    "lines",
    metadata,
    Column("phone_number", Text, primary_key=True, nullable=False),
    Column("line_type", Text),
    Column("reputation", Text),
    Column("status", Text),
    Column("refused_at", UtcTime),
    Column("checked_at", UtcTime, nullable=False),
    Column("status_changed_at", UtcTime),
    sqlite_with_rowid=False,
)

sent_messages = Table(
    "sent_messages",
    metadata,
    Column("message_id", Text, primary_key=True, nullable=False),
    Column("chat_id", CHAT_ID),
    Column("sent_at", UtcTime),
    Column("failed_at", UtcTime),
    Column("before_at", UtcTime),
    Column("noted_at", UtcTime, nullable=False),
    Index(None, "chat_id"),
    Index(None, "noted_at"),
    sqlite_with_rowid=False,
)
"""Outbound messages that a webhook told as sent or failed, but not as delivered: these may still fail, or be delivered.

`before_at`: the chat's latest outbound message apart from these, to go back to. Rows are kept for some days.
"""

sources = Table(
    "sources",
    metadata,
    Column("name", Text, primary_key=True, nullable=False),
    Column("heard_at", UtcTime),
    Column("failed_at", UtcTime),
    Column("failure", Text),
    sqlite_with_rowid=False,
)
"""When facts about chats last came from the sync and from webhooks; see `worker.chats.sources`."""

notices = Table(
    "notices",
    metadata,
    Column("cause", Text, primary_key=True, nullable=False),
    Column("receiver", Text, primary_key=True, nullable=False),
    Column("since", UtcTime),
    Column("reason", Text, nullable=False),
    Column("found_at", UtcTime, nullable=False),
    Column("told_at", UtcTime),
    Column("claimed_by", Text),
    Column("claimed_at", UtcTime),
    sqlite_with_rowid=False,
)
"""What is in trouble, and which receiver of NOTIFY_URL was told; see `worker.notifications.notices`."""

WENT_WRONG: Final = text("(outcome = 'rejected' OR outcome = 'unknown' OR outcome = 'unsent')")
"""The attempts of `ix_share_attempts_went_wrong`; a query finds that index by the same words."""

share_attempts = Table(
    "share_attempts",
    metadata,
    Column("chat_id", CHAT_ID, primary_key=True, nullable=False),
    Column("share_day", Date, primary_key=True, nullable=False),
    Column("sequence", Integer, primary_key=True, nullable=False, autoincrement=False),
    Column("outcome", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("claimed_at", UtcTime, nullable=False),
    Column("finished_at", UtcTime),
    Column("http_status", Integer),
    Column("error_code", Integer),
    Column("error_message", Text),
    Column("trace_id", Text),
    Column("requested_by", Text),
    Column("reason", Text),
    Index("ix_share_attempts_run_id", "run_id"),
    # The chat before the outcome: of a day that has just begun PostgreSQL knows nothing, and takes this index for each
    # chat in place of the key. The outcome, so that a day is counted without a look at the table.
    Index("ix_share_attempts_share_day_chat_id", "share_day", "chat_id", "outcome"),
    # Tiny at all times: what is being called now. Stale claims are found in it without a look at history.
    Index(
        "ix_share_attempts_claimed",
        "claimed_at",
        postgresql_where=text("outcome = 'claimed'"),
        sqlite_where=text("outcome = 'claimed'"),
    ),
    # Few among many: found without a look at all that was shared.
    Index(
        "ix_share_attempts_went_wrong",
        "share_day",
        "chat_id",
        postgresql_where=WENT_WRONG,
        sqlite_where=WENT_WRONG,
    ),
    sqlite_with_rowid=False,
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("share_day", Date, nullable=False),
    Column("worker", Text, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("finished_at", UtcTime),
    Column("status", Text, nullable=False),
    Column("detail", Text),
    Column("tally", JSON().with_variant(JSONB(), "postgresql")),
    Index("ix_runs_started_at", "started_at"),
    Index("ix_runs_share_day", "share_day"),
    sqlite_with_rowid=False,
)
