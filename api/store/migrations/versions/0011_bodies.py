"""Large messages stand in files: the row has the name, and every message's size."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("messages", sa.Column("file", sa.String(100), nullable=True))
    size = sa.Column("size", sa.BigInteger(), nullable=False, server_default="0")
    op.add_column("messages", size)
    # Of orders under way, too: how much room a sender has left is counted by it.
    op.execute("UPDATE messages SET size = length(body) WHERE body IS NOT NULL")
