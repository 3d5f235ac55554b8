"""Who takes part in an order that has started with who was there; null in every other."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("orders", sa.Column("party", sa.JSON(), nullable=True))
