"""The index of round files, who may read an order's scores, and how far hospitals let
orders be scored.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column(
        "hospitals", sa.Column("scoring", sa.String(length=10), nullable=True)
    )
    op.add_column(
        "orders", sa.Column("score_readers", sa.String(length=10), nullable=True)
    )
    op.create_table(
        "round_files",
        sa.Column("order_id", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("clients", sa.JSON(), nullable=False),
        sa.Column("sizes", sa.JSON(), nullable=True),
        sa.Column("layers", sa.JSON(), nullable=False),
        sa.Column("frame", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("recorded", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["order_id"],
            ["orders.order_id"],
        ),
        sa.PrimaryKeyConstraint("order_id", "round"),
    )
    op.create_index("ix_round_files_recorded", "round_files", ["recorded"])
