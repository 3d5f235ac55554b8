"""Hospitals: which protocol numbers their agents have said that they speak."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    # Empty until an agent says it: those of the versions before have no word for it.
    op.add_column("hospitals", sa.Column("protocol", sa.Integer(), nullable=True))
    op.add_column(
        "hospitals", sa.Column("oldest_protocol", sa.Integer(), nullable=True)
    )
