"""When the runs of an ended order were deleted in Prefect, of which the newest are kept."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("orders", sa.Column("runs_deleted", sa.DateTime(), nullable=True))
