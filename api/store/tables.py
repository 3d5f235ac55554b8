"""The tables of the coordinator's store, as they stand in the database. What each column of a row means is in rows.py.

They change by a migration only (decision 21): api/store/migrations/versions.
"""

from __future__ import annotations

import datetime

import sqlalchemy as sa

ENDED = ("success", "failed", "cancelled")
"""The states that an order does not leave again."""

metadata = sa.MetaData()


def utc_now() -> datetime.datetime:
    """The time as it stands in every table: UTC, without a zone."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


hospitals = sa.Table(
    "hospitals",
    metadata,
    sa.Column("user_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("identity", sa.String(200)),
    sa.Column("agent_version", sa.String(50)),
    sa.Column("last_seen", sa.DateTime),
    sa.Column("scoring", sa.String(10)),
    sa.Column("policy", sa.JSON),
    sa.Column("max_orders", sa.Integer),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),  # of the token, which is kept nowhere
    sa.Column("role", sa.String(20), nullable=False),
    sa.Column("user_id", sa.Integer),
    sa.Column("created", sa.DateTime, nullable=False),
    sa.Column("revoked", sa.DateTime),
)

orders = sa.Table(
    "orders",
    metadata,
    sa.Column("order_id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("initiator", sa.Integer, nullable=False),
    sa.Column("hospitals", sa.JSON, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("document", sa.Text, nullable=False, server_default=""),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("stop", sa.JSON),
    sa.Column("n_rows", sa.JSON, nullable=False),
    sa.Column("summary", sa.JSON, nullable=False),
    sa.Column("flow_run_id", sa.String(36)),
    sa.Column("rerun_of", sa.Integer),
    sa.Column("created", sa.DateTime, nullable=False),
    sa.Column("updated", sa.DateTime, nullable=False),
    sa.Column("owner_key", sa.String(64), unique=True),
    sa.Column("body_digest", sa.String(64)),
    sa.Column("score_readers", sa.String(10)),
    sa.Column("stage", sa.JSON),
    sa.Column("schedule_id", sa.Integer, index=True),
    sa.Column("admitted", sa.DateTime),
    sa.Column("overtaken", sa.Integer, nullable=False, server_default="0"),
    sa.Column("asked", sa.JSON),
    sa.Column("runs", sa.JSON),
)

boxes = sa.Table(
    "sealed_sql",
    metadata,
    sa.Column("order_id", sa.Integer, sa.ForeignKey("orders.order_id"), primary_key=True),
    sa.Column("user_id", sa.Integer, primary_key=True),
    sa.Column("box", sa.LargeBinary, nullable=False),
    sa.Column("commitment", sa.String(64), nullable=False),
)

rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("order_id", sa.Integer, sa.ForeignKey("orders.order_id"), primary_key=True),
    sa.Column("fold", sa.Integer, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("loss", sa.Float),
    sa.Column("report", sa.JSON, nullable=False),
    sa.Column("recorded", sa.DateTime, nullable=False),
)

round_files = sa.Table(
    "round_files",
    metadata,
    sa.Column("order_id", sa.Integer, sa.ForeignKey("orders.order_id"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String(10), nullable=False),
    sa.Column("clients", sa.JSON, nullable=False),
    sa.Column("sizes", sa.JSON),
    sa.Column("layers", sa.JSON, nullable=False),
    sa.Column("frame", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("n_bytes", sa.BigInteger, nullable=False),
    sa.Column("recorded", sa.DateTime, nullable=False, index=True),
)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("run", sa.Integer, primary_key=True),
    sa.Column("topic", sa.String(32), primary_key=True),
    sa.Column("fold", sa.Integer, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("sender", sa.Integer, primary_key=True),
    sa.Column("recipient", sa.Integer, primary_key=True),
    sa.Column("body", sa.LargeBinary),  # null once the coordinator's flow has used it
    sa.Column("digest", sa.String(64), nullable=False),
)

schedules = sa.Table(
    "schedules",
    metadata,
    sa.Column("schedule_id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("initiator", sa.Integer, nullable=False),
    sa.Column("hospitals", sa.JSON, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("timing", sa.JSON, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("created", sa.DateTime, nullable=False),
    sa.Column("updated", sa.DateTime, nullable=False),
    sa.Column("deleted", sa.DateTime),  # its history stays
    sa.Column("owner_key", sa.String(64), unique=True),
    sa.Column("body_digest", sa.String(64)),
)

schedule_boxes = sa.Table(
    "schedule_boxes",
    metadata,
    sa.Column("schedule_id", sa.Integer, sa.ForeignKey("schedules.schedule_id"), primary_key=True),
    sa.Column("user_id", sa.Integer, primary_key=True),
    sa.Column("box", sa.LargeBinary, nullable=False),
    sa.Column("commitment", sa.String(64), nullable=False),
)

firings = sa.Table(
    "firings",
    metadata,
    sa.Column("firing_id", sa.Integer, primary_key=True),
    sa.Column("schedule_id", sa.Integer, sa.ForeignKey("schedules.schedule_id"), nullable=False),
    sa.Column("scheduled", sa.DateTime, nullable=False),
    sa.Column("started", sa.DateTime, nullable=False),
    sa.Column("order_id", sa.Integer, sa.ForeignKey("orders.order_id")),
    sa.Column("skipped", sa.Text),
    sa.UniqueConstraint("schedule_id", "scheduled"),  # one order at the most for each time
)
