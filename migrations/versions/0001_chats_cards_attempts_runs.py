"""The four tables: chats, contact_cards, share_attempts, runs.

Revision: 0001
Follows: nothing
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

# Written out here, not taken from worker.db.tables: a migration must stay what it was when the tables move on.
TIME = sa.Text().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
CHAT_ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
NOW = sa.func.current_timestamp()


def upgrade() -> None:
    op.create_table(
        "chats",
        sa.Column("id", CHAT_ID, nullable=False),
        sa.Column("from_number", sa.Text(), nullable=False),
        sa.Column("service", sa.Text()),
        sa.Column("is_group", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("last_outbound_at", TIME),
        sa.Column("last_inbound_at", TIME),
        sa.Column("health_status", sa.Text()),
        sa.Column("paused_at", TIME),
        sa.Column("paused_reason", sa.Text()),
        sa.Column("missing_at", TIME),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("updated_at", TIME, nullable=False, server_default=NOW),
        sa.PrimaryKeyConstraint("id", name="pk_chats"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_chats_from_number", "chats", ["from_number"])
    op.create_table(
        "contact_cards",
        sa.Column("phone_number", sa.Text(), nullable=False),
        sa.Column("first_name", sa.Text()),
        sa.Column("last_name", sa.Text()),
        sa.Column("image_url", sa.Text()),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("checked_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("phone_number", name="pk_contact_cards"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "share_attempts",
        sa.Column("chat_id", CHAT_ID, nullable=False),
        sa.Column("share_day", sa.Date(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("claimed_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.Column("http_status", sa.Integer()),
        sa.Column("error_code", sa.Integer()),
        sa.Column("error_message", sa.Text()),
        sa.Column("trace_id", sa.Text()),
        sa.Column("requested_by", sa.Text()),
        sa.Column("reason", sa.Text()),
        # The promise itself: one scheduled call (sequence 0) in a chat on a day, whoever tries a second one.
        sa.PrimaryKeyConstraint("chat_id", "share_day", "sequence", name="pk_share_attempts"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_share_attempts_run_id", "share_attempts", ["run_id"])
    op.create_index("ix_share_attempts_share_day_outcome", "share_attempts", ["share_day", "outcome"])
    op.create_index(
        "ix_share_attempts_claimed",
        "share_attempts",
        ["claimed_at"],
        postgresql_where=sa.text("outcome = 'claimed'"),
        sqlite_where=sa.text("outcome = 'claimed'"),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("share_day", sa.Date(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text()),
        sa.Column("tally", JSON),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_runs_started_at", "runs", ["started_at"])
    op.create_index("ix_runs_share_day", "runs", ["share_day"])


def downgrade() -> None:
    op.drop_table("runs")
    op.drop_table("share_attempts")
    op.drop_table("contact_cards")
    op.drop_table("chats")
