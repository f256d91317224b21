"""The index of a day's attempts leads to the chat too, so that whichever index is taken finds a chat's attempt at once.

With the day and the outcome alone, PostgreSQL takes that index for each chat on a day that its statistics do not know
yet, and reads the whole day for it.

Revision: 0002
Follows: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.drop_index("ix_share_attempts_share_day_outcome", "share_attempts")
    op.create_index("ix_share_attempts_share_day_chat_id", "share_attempts", ["share_day", "chat_id", "outcome"])


def downgrade() -> None:
    op.drop_index("ix_share_attempts_share_day_chat_id", "share_attempts")
    op.create_index("ix_share_attempts_share_day_outcome", "share_attempts", ["share_day", "outcome"])
