"""Which receivers of NOTIFY_URL were told what is in trouble.

Revision: 0006
Follows: 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"

TIME = sa.Text().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "notices",
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("since", TIME),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("found_at", TIME, nullable=False),
        sa.Column("told_at", TIME),
        sa.Column("claimed_by", sa.Text()),
        sa.Column("claimed_at", TIME),
        sa.PrimaryKeyConstraint("cause", "receiver", name="pk_notices"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("notices")
