"""Lines with their reputation, and more facts about chats: opt-outs with a date, the other side, what was synced when.

Release 0.1 wrote `OPTED_OUT` into `health_status` after a 403/2024, and nothing ever ended it. Where the ledger shows
that refusal, it becomes a date that a later inbound message ends; a `health_status` of the partner's own stays.

Revision: 0003
Follows: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

TIME = sa.Text().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")

NEW_COLUMNS = {
    "opted_out_at": TIME,
    "handle": sa.Text(),
    "card_received_at": TIME,
    "synced_at": TIME,
    "linq_updated_at": TIME,
}


def upgrade() -> None:
    for name, kind in NEW_COLUMNS.items():
        op.add_column("chats", sa.Column(name, kind))
    op.create_table(
        "lines",
        sa.Column("phone_number", sa.Text(), nullable=False),
        sa.Column("line_type", sa.Text()),
        sa.Column("reputation", sa.Text()),
        sa.Column("status", sa.Text()),
        sa.Column("refused_at", TIME),
        sa.Column("checked_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("phone_number", name="pk_lines"),
        sqlite_with_rowid=False,
    )
    chats = sa.table("chats", *(sa.column(name) for name in ("id", "health_status", "opted_out_at")))
    attempts = sa.table(
        "share_attempts", *(sa.column(name) for name in ("chat_id", "http_status", "error_code", "claimed_at"))
    )
    refused_at = (
        sa.select(sa.func.max(attempts.c.claimed_at))
        .where(attempts.c.chat_id == chats.c.id, attempts.c.http_status == 403, attempts.c.error_code == 2024)
        .scalar_subquery()
    )
    op.execute(
        sa.update(chats)
        .where(chats.c.health_status == "OPTED_OUT", refused_at.is_not(None))
        .values(opted_out_at=refused_at, health_status=None)
    )


def downgrade() -> None:
    chats = sa.table("chats", sa.column("health_status"), sa.column("opted_out_at"))
    op.execute(sa.update(chats).where(chats.c.opted_out_at.is_not(None)).values(health_status="OPTED_OUT"))
    op.drop_table("lines")
    for name in reversed(NEW_COLUMNS):
        op.drop_column("chats", name)
