"""Places: how many orders a hospital takes at once, since when an order has its places,
and who decides first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("hospitals", sa.Column("max_orders", sa.Integer(), nullable=True))
    op.add_column("orders", sa.Column("admitted", sa.DateTime(), nullable=True))
    op.add_column(
        "orders",
        sa.Column("overtaken", sa.Integer(), nullable=False, server_default="0"),
    )
    op.add_column("orders", sa.Column("asked", sa.JSON(), nullable=True))
    op.add_column("orders", sa.Column("runs", sa.JSON(), nullable=True))
    # What was under way before there were places goes on: it counts as having them.
    op.execute(
        "UPDATE orders SET admitted = created WHERE kind IN ('train', 'statistics')"
    )
