"""The tables of the coordinator's store, as they stand in the database.

What each column of a row means is in rows.py. They change by a migration only (decision
21): api/store/migrations/versions.
"""

from __future__ import annotations

import datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

ENDED = ("success", "failed", "cancelled")
"""The states that an order does not leave again."""

metadata = MetaData()


def utc_now() -> datetime.datetime:
    """The time as it stands in every table: UTC, without a zone."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


hospitals = Table(
    "hospitals",
    metadata,
    Column("user_id", Integer, primary_key=True, autoincrement=False),
    Column("name", String(200), nullable=False, unique=True),
    Column("identity", String(200)),
    Column("agent_version", String(50)),
    Column("last_seen", DateTime),
    Column("scoring", String(10)),
    Column("policy", JSON),
    Column("max_orders", Integer),
    Column("protocol", Integer),
    Column("oldest_protocol", Integer),
)

tokens = Table(
    "tokens",
    metadata,
    # Of the token, which is kept nowhere.
    Column("digest", String(64), primary_key=True),
    Column("role", String(20), nullable=False),
    Column("user_id", Integer),
    Column("created", DateTime, nullable=False),
    Column("revoked", DateTime),
)

orders = Table(
    "orders",
    metadata,
    Column("order_id", Integer, primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("initiator", Integer, nullable=False),
    Column("hospitals", JSON, nullable=False),
    Column("body", JSON, nullable=False),
    Column("document", Text, nullable=False, server_default=""),
    Column("state", String(20), nullable=False),
    Column("stop", JSON),
    Column("n_rows", JSON, nullable=False),
    Column("summary", JSON, nullable=False),
    Column("flow_run_id", String(36)),
    Column("rerun_of", Integer),
    Column("created", DateTime, nullable=False),
    Column("updated", DateTime, nullable=False),
    # With `body_digest`: the same request sent twice makes one order.
    Column("owner_key", String(64), unique=True),
    Column("body_digest", String(64)),
    Column("score_readers", String(10)),
    Column("stage", JSON),
    Column("schedule_id", Integer, index=True),
    Column("admitted", DateTime),
    Column("overtaken", Integer, nullable=False, server_default="0"),
    Column("asked", JSON),
    Column("runs", JSON),
    Column("runs_deleted", DateTime),
    Column("party", JSON),
)

# Sealed to the hospitals' keys: the coordinator can open none of them.
boxes = Table(
    "sealed_sql",
    metadata,
    Column("order_id", Integer, ForeignKey("orders.order_id"), primary_key=True),
    Column("user_id", Integer, primary_key=True),
    Column("box", LargeBinary, nullable=False),
    Column("commitment", String(64), nullable=False),
)

rounds = Table(
    "rounds",
    metadata,
    Column("order_id", Integer, ForeignKey("orders.order_id"), primary_key=True),
    Column("fold", Integer, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("loss", Float),
    Column("report", JSON, nullable=False),
    Column("recorded", DateTime, nullable=False),
)

round_files = Table(
    "round_files",
    metadata,
    Column("order_id", Integer, ForeignKey("orders.order_id"), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("kind", String(10), nullable=False),
    Column("clients", JSON, nullable=False),
    Column("sizes", JSON),
    Column("layers", JSON, nullable=False),
    Column("frame", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    # PostgreSQL's Integer ends at 2 GiB, and a setting may allow larger rounds.
    Column("n_bytes", BigInteger, nullable=False),
    Column("recorded", DateTime, nullable=False, index=True),
)

messages = Table(
    "messages",
    metadata,
    # The whole address is the key: whatever comes at the same time, no two messages
    # stand under one name.
    Column("run", Integer, primary_key=True),
    Column("topic", String(32), primary_key=True),
    Column("fold", Integer, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("sender", Integer, primary_key=True),
    Column("recipient", Integer, primary_key=True),
    # One of the two has the bytes; both are null once the coordinator's flow has used
    # them. A file's name stands below the folder of bodies.
    Column("body", LargeBinary),
    Column("file", String(100)),
    Column("size", BigInteger, nullable=False, server_default="0"),
    Column("digest", String(64), nullable=False),
)

page_sessions = Table(
    "page_sessions",
    metadata,
    # Of a session's secret, which stands in the visitor's cookie alone.
    Column("digest", String(64), primary_key=True),
    Column("began", DateTime, nullable=False),
    # Whose it is, where an identity provider has said so; else it has a token.
    Column("role", String(20)),
    Column("user_id", Integer),
)

schedules = Table(
    "schedules",
    metadata,
    Column("schedule_id", Integer, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("initiator", Integer, nullable=False),
    Column("hospitals", JSON, nullable=False),
    Column("body", JSON, nullable=False),
    Column("timing", JSON, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("created", DateTime, nullable=False),
    Column("updated", DateTime, nullable=False),
    Column("deleted", DateTime),  # its history stays
    Column("owner_key", String(64), unique=True),
    Column("body_digest", String(64)),
)

schedule_boxes = Table(
    "schedule_boxes",
    metadata,
    Column(
        "schedule_id",
        Integer,
        ForeignKey("schedules.schedule_id"),
        primary_key=True,
    ),
    Column("user_id", Integer, primary_key=True),
    Column("box", LargeBinary, nullable=False),
    Column("commitment", String(64), nullable=False),
)

firings = Table(
    "firings",
    metadata,
    Column("firing_id", Integer, primary_key=True),
    Column(
        "schedule_id",
        Integer,
        ForeignKey("schedules.schedule_id"),
        nullable=False,
    ),
    Column("scheduled", DateTime, nullable=False),
    Column("started", DateTime, nullable=False),
    Column("order_id", Integer, ForeignKey("orders.order_id")),
    Column("skipped", Text),
    # One order at the most for each time.
    UniqueConstraint("schedule_id", "scheduled"),
)
