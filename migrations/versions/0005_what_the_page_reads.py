"""What the page of `serve` reads: chats by handle and by line, attempts that went wrong, when each source was heard.

Revision: 0005
Follows: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

TIME = sa.Text().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
WENT_WRONG = sa.text("(outcome = 'rejected' OR outcome = 'unknown' OR outcome = 'unsent')")


def upgrade() -> None:
    op.create_table(
        "sources",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("heard_at", TIME),
        sa.Column("failed_at", TIME),
        sa.Column("failure", sa.Text()),
        sa.PrimaryKeyConstraint("name", name="pk_sources"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_chats_handle", "chats", ["handle"])
    op.create_index("ix_chats_from_number_id", "chats", ["from_number", "id"])
    op.drop_index("ix_chats_from_number", "chats")
    op.create_index(
        "ix_share_attempts_went_wrong",
        "share_attempts",
        ["share_day", "chat_id"],
        postgresql_where=WENT_WRONG,
        sqlite_where=WENT_WRONG,
    )


def downgrade() -> None:
    op.drop_index("ix_share_attempts_went_wrong", "share_attempts")
    op.create_index("ix_chats_from_number", "chats", ["from_number"])
    op.drop_index("ix_chats_from_number_id", "chats")
    op.drop_index("ix_chats_handle", "chats")
    op.drop_table("sources")
