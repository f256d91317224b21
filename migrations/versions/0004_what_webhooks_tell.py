"""What webhooks tell: when a chat's health and a line's status changed, and messages that may still fail.

Revision: 0004
Follows: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

TIME = sa.Text().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
CHAT_ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("chats", sa.Column("health_updated_at", TIME))
    op.add_column("lines", sa.Column("status_changed_at", TIME))
    op.create_table(
        "sent_messages",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("chat_id", CHAT_ID),
        sa.Column("sent_at", TIME),
        sa.Column("failed_at", TIME),
        sa.Column("before_at", TIME),
        sa.Column("noted_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("message_id", name="pk_sent_messages"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_sent_messages_chat_id", "sent_messages", ["chat_id"])
    op.create_index("ix_sent_messages_noted_at", "sent_messages", ["noted_at"])


def downgrade() -> None:
    op.drop_table("sent_messages")
    op.drop_column("lines", "status_changed_at")
    op.drop_column("chats", "health_updated_at")
