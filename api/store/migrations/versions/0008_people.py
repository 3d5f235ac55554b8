"""Sessions of people whom an identity provider has signed in: whose each is."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("page_sessions", sa.Column("role", sa.String(20), nullable=True))
    op.add_column("page_sessions", sa.Column("user_id", sa.Integer(), nullable=True))
