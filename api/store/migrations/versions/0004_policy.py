"""What each hospital's agent tells of its policy."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("hospitals", sa.Column("policy", sa.JSON(), nullable=True))
