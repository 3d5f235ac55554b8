"""What each hospital tells of its policy, in place of its scoring level alone; its agent tells it when it connects."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("hospitals") as hospitals:
        hospitals.drop_column("scoring")
        hospitals.add_column(sa.Column("policy", sa.JSON(), nullable=True))
