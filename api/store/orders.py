"""The coordinator's store: every SQL statement of the coordinator is here.

SQLite by default, PostgreSQL by URL. It holds who takes part, what was ordered and how far it is, and the exchange's
messages, and which round files there are. It never holds a row, a gradient, a model, or an SQL text in clear.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import hmac
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError

from api.store.disk import Disk, is_full
from api.store.places import PLACED, PlaceStore, who_decides
from api.store.schedules import ScheduleStore
from api.store.tables import (
    ENDED,
    boxes,
    firings,
    hospitals,
    messages,
    orders,
    round_files,
    rounds,
    tokens,
    utc_now,
)
from protocol.errors import (
    BadRequest,
    Conflict,
    ConsiliumError,
    NotFound,
    OrderStopped,
    OrderWaits,
    Unavailable,
)
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE, canonical

BUSY_MILLISECONDS = 10_000
BOXES = ("predictions", "values")
"""Messages that outlive their order: what a hospital has sealed to the one-time key of who asked."""


@dataclass(frozen=True)
class RoundEntry:
    """A round file as the index knows it.

    kind: open (each client's gradient) or sealed (triangular factors). `sizes` are the clients' row counts, in their
    order; None where nobody said. `layers`: how many values a client has in each. `frame` is drawn once by `secrets`.
    """

    order_id: int
    round: int
    kind: str
    clients: list[int]
    sizes: list[int] | None
    layers: dict[str, int]
    frame: str
    digest: str
    n_bytes: int
    recorded: datetime.datetime


@dataclass(frozen=True)
class Prepared:
    """What belongs to a new order: its document, and each hospital's sealed SQL with its commitment."""

    document: str
    boxes: Mapping[int, tuple[bytes, str]]


@dataclass(frozen=True)
class Firing:
    """One time at which a schedule falls due, in UTC."""

    schedule_id: int
    scheduled: datetime.datetime


@dataclass(frozen=True)
class Once:
    """An Idempotency-Key of one caller, and the request that it was used for; both as digests.

    The request's is keyed with the Idempotency-Key, which is not kept: a plain one would let guesses at the SQL be
    checked.
    """

    owner_key: str
    body_digest: str

    @staticmethod
    def of(caller: Caller, idempotency_key: str | None, request: Any) -> Once | None:
        if idempotency_key is None:
            return None
        own = f"{caller.role}/{caller.user_id}/{idempotency_key}".encode()
        digest = hmac.new(own, canonical(request).encode(), "sha256").hexdigest()
        return Once(hashlib.sha256(own).hexdigest(), digest)


@dataclass(frozen=True)
class Caller:
    """Who a token belongs to. role: operator, hospital (its user), agent, or coordinator (its own flows)."""

    role: str
    user_id: int | None


def token_digest(token: str) -> str:
    """SHA-256; a token has 256 random bits, so there is nothing to guess and no need for a slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


class Store(ScheduleStore, PlaceStore):
    """All reads and writes of the coordinator. Every method is one transaction."""

    def __init__(self, url: str, disk: Disk | None = None) -> None:
        """With a `disk`, what finds it full raises Unavailable (code disk), and no order is made while it is short.

        BadRequest (code CONSILIUM_STORE_URL) for an address of no database.
        """
        self._disk = disk
        try:
            self._engine = sa.create_engine(url, pool_pre_ping=True)
        except (sa.exc.ArgumentError, ImportError):
            raise BadRequest(
                "CONSILIUM_STORE_URL is no address of a database.",
                remedy="Unset it, or write postgresql+psycopg://user:password@host/database.",
                code="CONSILIUM_STORE_URL",
            ) from None
        if disk:
            sa.event.listen(self._engine, "handle_error", functools.partial(_tell_of_full_disk, disk))
        self._is_sqlite = self._engine.dialect.name == "sqlite"
        if self._is_sqlite:
            sa.event.listen(self._engine, "connect", _tune_sqlite)

    @property
    def place(self) -> str:
        """Where the store is, without a password."""
        url = self._engine.url
        return str(url.database) if self._is_sqlite else url.render_as_string(hide_password=True)

    @property
    def _file(self) -> Path | None:
        """SQLite's; None for a database on a server, or in memory."""
        name = self._engine.url.database
        return Path(name) if self._is_sqlite and name and name != ":memory:" else None

    def is_empty(self) -> bool:
        """Whether there are no tables of a store yet. Makes no file. Raises as `migrate`."""
        file = self._file
        if file is not None and not (file.is_file() and file.stat().st_size):
            return True
        with _opening(self.place):
            return not sa.inspect(self._engine).has_table(hospitals.name)

    def migrate(self, version: str = "head") -> None:
        """Brings the schema up to this version, in one transaction; a new database gets it whole or not at all.

        Conflict (code store) for what is no database, is damaged, or is of a later version; Unavailable (code
        store) where it does not answer or its disk is full.
        """
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        if self._file is not None:
            _make_private(self._file)
        with _opening(self.place), self._engine.begin() as connection:
            if self._is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # Python begins none before it makes a table
            config.attributes["connection"] = connection
            command.upgrade(config, version)

    def close(self) -> None:
        self._engine.dispose()

    # Who takes part

    def add_hospital(self, user_id: int, name: str) -> None:
        """Conflict when the id or the name is taken."""
        with self._engine.begin() as db:
            taken = sa.select(hospitals.c.user_id).where(
                sa.or_(hospitals.c.user_id == user_id, hospitals.c.name == name)
            )
            if db.execute(taken).first():
                raise Conflict(
                    f"Hospital {user_id} or the name {name} is registered already.",
                    remedy="Choose another, or rotate its token.",
                )
            db.execute(hospitals.insert().values(user_id=user_id, name=name))

    def hospital_names(self) -> dict[int, str]:
        with self._engine.begin() as db:
            return {
                row.user_id: row.name
                for row in db.execute(sa.select(hospitals).order_by(hospitals.c.user_id))
            }

    def list_hospitals(self) -> list[dict[str, Any]]:
        with self._engine.begin() as db:
            return [
                dict(row._mapping) for row in db.execute(sa.select(hospitals).order_by(hospitals.c.user_id))
            ]

    def enrol(
        self,
        user_id: int,
        identity: str,
        version: str,
        scoring: str = "none",
        policy: Mapping[str, Any] | None = None,
        max_orders: int | None = None,
    ) -> None:
        """Keeps the first public keys that an agent presents: SQL is sealed to them. `scoring` is its policy's.

        Conflict for other keys than those: a stolen token must not draw later orders' SQL to the thief.
        """
        with self._engine.begin() as db:
            known = db.scalar(sa.select(hospitals.c.identity).where(hospitals.c.user_id == user_id))
        if known not in (None, identity):
            raise Conflict(
                f"Hospital {user_id} has presented other keys before.",
                remedy="If its vault was lost, the operator runs: ./run server forget-keys "
                f"--user-id {user_id}, and its partners pin the new fingerprint.",
                code="keys_changed",
            )
        told = {"scoring": scoring, "policy": policy, "max_orders": max_orders}
        values = {"identity": identity, "agent_version": version, **told}
        if self._says(user_id, values):
            self.seen(user_id)
        else:
            self._touch(user_id, **values)

    def _says(self, user_id: int, values: Mapping[str, Any]) -> bool:
        with self._engine.begin() as db:
            row = db.execute(sa.select(hospitals).where(hospitals.c.user_id == user_id)).first()
        return row is not None and all(row._mapping[name] == value for name, value in values.items())

    def forget_keys(self, user_id: int) -> None:
        """The hospital may present new keys once."""
        with self._engine.begin() as db:
            db.execute(hospitals.update().where(hospitals.c.user_id == user_id).values(identity=None))

    def seen(self, user_id: int) -> None:
        """When it was seen is not kept while the disk is full: nobody is turned away for that."""
        with contextlib.suppress(Unavailable):
            self._touch(user_id)

    def _touch(self, user_id: int, **values: Any) -> None:
        with self._engine.begin() as db:
            db.execute(
                hospitals.update().where(hospitals.c.user_id == user_id).values(last_seen=utc_now(), **values)
            )

    # Tokens

    def add_token(self, token: str, role: str, user_id: int | None) -> None:
        with self._engine.begin() as db:
            db.execute(
                tokens.insert().values(
                    digest=token_digest(token), role=role, user_id=user_id, created=utc_now()
                )
            )

    def revoke_tokens(self, role: str, user_id: int | None) -> int:
        """Revokes every token of a role (and hospital); returns how many."""
        mine = sa.and_(
            tokens.c.role == role, tokens.c.user_id.is_not_distinct_from(user_id), tokens.c.revoked.is_(None)
        )
        with self._engine.begin() as db:
            return db.execute(tokens.update().where(mine).values(revoked=utc_now())).rowcount

    def caller(self, token: str) -> Caller | None:
        """Whose token this is; None for an unknown or revoked one."""
        digest = token_digest(token)
        with self._engine.begin() as db:
            row = db.execute(sa.select(tokens).where(tokens.c.digest == digest)).first()
        if row is None or row.revoked is not None or not hmac.compare_digest(row.digest, digest):
            return None
        return Caller(row.role, row.user_id)

    # Orders

    def add_order(
        self,
        *,
        kind: str,
        initiator: int,
        hospital_ids: Iterable[int],
        body: Mapping[str, Any],
        prepare: Callable[[int], Prepared] | None = None,
        rerun_of: int | None = None,
        once: Once | None = None,
        firing: Firing | None = None,
    ) -> tuple[int, bool]:
        """(order_id, made). The order, its document, sealed SQL and first messages come into being together.

        Asked `once` again, the same request finds the order that exists. `body` holds no SQL text. Without `prepare`
        no agent has to do anything, and the order is running as soon as it is made. The order of a schedule's `firing`
        comes into being with the firing's entry in the history. Unavailable (code disk) while the disk is short.
        """
        if self._disk and self._disk.is_short():
            earlier = self._order_of(once) if once else None
            if earlier is None:
                raise self._disk.trouble()
            return earlier, False
        values = {
            "kind": kind,
            "initiator": initiator,
            "hospitals": sorted(hospital_ids),
            "body": dict(body),
            "state": "pending" if prepare else "running",
            "n_rows": {},
            "summary": {},
            "rerun_of": rerun_of,
            "created": utc_now(),
            "updated": utc_now(),
            "owner_key": once and once.owner_key,
            "body_digest": once and once.body_digest,
            "schedule_id": firing and firing.schedule_id,
        }
        try:
            with self._engine.begin() as db:
                if kind in PLACED:
                    values["asked"] = who_decides(db, values["hospitals"], initiator)
                order_id = int(db.execute(orders.insert().values(**values)).inserted_primary_key[0])  # type: ignore[index]
                if prepare:
                    self._add_prepared(db, order_id, prepare(order_id))
                if firing:
                    db.execute(firings.insert().values(**vars(firing), started=utc_now(), order_id=order_id))
                return order_id, True
        except sa.exc.IntegrityError:
            if once is None:
                raise
            return self._earlier_order(once), False

    def _add_prepared(self, db: sa.Connection, order_id: int, prepared: Prepared) -> None:
        db.execute(orders.update().where(orders.c.order_id == order_id).values(document=prepared.document))
        for user, (box, text) in prepared.boxes.items():
            db.execute(boxes.insert().values(order_id=order_id, user_id=user, box=box, commitment=text))
            self._insert_message(db, Address(order_id, "sql"), COORDINATOR, user, box)
        address = Address(order_id, "document")
        self._insert_message(db, address, COORDINATOR, EVERYONE, prepared.document.encode())

    def _earlier_order(self, once: Once) -> int:
        found = self._order_of(once)
        assert found is not None
        return found

    def _order_of(self, once: Once) -> int | None:
        """The order that this key was used for; Conflict when it was another body's."""
        with self._engine.begin() as db:
            row = db.execute(sa.select(orders).where(orders.c.owner_key == once.owner_key)).first()
        if row is None:
            return None
        if row.body_digest != once.body_digest:
            raise Conflict(
                "This Idempotency-Key was used for another body.",
                remedy="Use a new key for a new order.",
                code="idempotency",
            )
        return int(row.order_id)

    def set_order(self, order_id: int, **values: Any) -> None:
        with self._engine.begin() as db:
            db.execute(
                orders.update().where(orders.c.order_id == order_id).values(updated=utc_now(), **values)
            )

    def leave_pending(self, order_id: int, state: str) -> None:
        """The state of an order that begins. One that has begun, or ended meanwhile, keeps its own: an order that came
        back from its end would hold its places for ever."""
        is_pending = sa.and_(orders.c.order_id == order_id, orders.c.state == "pending")
        with self._engine.begin() as db:
            db.execute(orders.update().where(is_pending).values(updated=utc_now(), state=state))

    def order(self, order_id: int) -> dict[str, Any]:
        with self._engine.begin() as db:
            row = db.execute(sa.select(orders).where(orders.c.order_id == order_id)).first()
        if row is None:
            raise NotFound(f"There is no order {order_id}.", remedy="GET /orders lists what there is.")
        return dict(row._mapping)

    def order_exists(self, order_id: int) -> bool:
        with self._engine.begin() as db:
            return db.scalar(sa.select(sa.exists().where(orders.c.order_id == order_id))) or False

    def order_hospitals(self, order_id: int) -> list[int]:
        """Who takes part; nobody for an order that does not exist."""
        with self._engine.begin() as db:
            row = db.execute(sa.select(orders.c.hospitals).where(orders.c.order_id == order_id)).first()
        return list(row.hospitals) if row else []

    def list_orders(
        self, *, hospital: int | None, limit: int, before: int | None, kind: str | None = None
    ) -> list[dict[str, Any]]:
        """Newest first; `hospital` keeps those in which it takes part, `kind` those of one kind."""
        query = sa.select(orders).order_by(orders.c.order_id.desc())
        if kind is not None:
            query = query.where(orders.c.kind == kind)
        if before is not None:
            query = query.where(orders.c.order_id < before)
        found: list[dict[str, Any]] = []
        with self._engine.begin() as db:
            for row in db.execute(query):
                if hospital is None or hospital in row.hospitals:
                    found.append(dict(row._mapping))
                if len(found) == limit:
                    break
        return found

    def active_orders(self) -> list[dict[str, Any]]:
        """Those that Prefect works on and that have not ended."""
        with self._engine.begin() as db:
            found = db.execute(
                sa.select(orders).where(orders.c.state.not_in(ENDED), orders.c.kind != "external")
            )
            return [dict(row._mapping) for row in found]

    def boxes(self, order_id: int) -> dict[int, tuple[bytes, str]]:
        """Each hospital's sealed SQL and its commitment."""
        with self._engine.begin() as db:
            found = db.execute(sa.select(boxes).where(boxes.c.order_id == order_id))
            return {row.user_id: (row.box, row.commitment) for row in found}

    def end_order(self, order_id: int, state: str, stop: ConsiliumError | None = None) -> bool:
        """Ends an order once; False when it had ended before. Its messages go with it: nothing is left behind."""
        with self._engine.begin() as db:
            ended = db.execute(
                orders.update()
                .where(orders.c.order_id == order_id, orders.c.state.not_in(ENDED))
                .values(state=state, stop=stop.to_json() if stop else None, updated=utc_now())
            )
            if ended.rowcount:
                keep = sa.and_(messages.c.topic.in_(BOXES), sa.literal(state == "success"))
                db.execute(messages.delete().where(messages.c.run == order_id, sa.not_(keep)))
        if ended.rowcount and self._engine.dialect.name == "sqlite":
            self._empty_log()
        return bool(ended.rowcount)

    def _empty_log(self) -> None:
        """Deleted bytes stand in SQLite's write-ahead log until it is emptied; a busy store does it another time."""
        with self._engine.connect() as db:
            db.exec_driver_sql("PRAGMA busy_timeout=200")
            db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            db.exec_driver_sql(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")

    def end_inference(self, order_id: int) -> None:
        """An inference order ends with its answer, whether anybody waits for it or not; no other order does."""
        if self.order(order_id)["kind"] == "infer":
            self.end_order(order_id, "success")

    def prune(self, before: datetime.datetime) -> int:
        """Deletes the sealed predictions and values of orders that ended before; returns how many."""
        ended = sa.select(orders.c.order_id).where(orders.c.updated < before, orders.c.state.in_(ENDED))
        with self._engine.begin() as db:
            return db.execute(messages.delete().where(messages.c.run.in_(ended))).rowcount

    # Rounds

    def record_round(
        self, order_id: int, fold: int, round_: int, *, loss: float | None, report: Mapping[str, Any]
    ) -> None:
        """Idempotent: a round recorded again after a restart replaces itself, but for what was added to it since."""
        with self._engine.begin() as db:
            self._put_report(db, order_id, fold, round_, loss, dict(report))

    def _put_report(
        self,
        db: sa.Connection,
        order_id: int,
        fold: int,
        round_: int,
        loss: float | None,
        report: dict[str, Any],
    ) -> None:
        key = _report_key(order_id, fold, round_)
        earlier = db.scalar(sa.select(rounds.c.report).where(key)) or {}
        added = {name: earlier[name] for name in ("leave_one_out",) if name in earlier}
        db.execute(rounds.delete().where(key))
        db.execute(
            rounds.insert().values(
                order_id=order_id,
                fold=fold,
                round=round_,
                loss=loss,
                report=added | report,
                recorded=utc_now(),
            )
        )

    def add_leave_one_out(self, order_id: int, round_: int, clients: Mapping[str, Any]) -> None:
        """Adds what the model is worth without each of these hospitals to the round's report.

        Idempotent: a hospital's later word replaces its earlier one. NotFound for a round that is not recorded.
        """
        key = _report_key(order_id, 0, round_)
        with self._engine.begin() as db:
            report = db.scalar(sa.select(rounds.c.report).where(key).with_for_update())
            if report is None:
                raise NotFound(
                    f"Round {round_} of order {order_id} is not recorded.",
                    remedy="Record it first.",
                    code="round",
                )
            report["leave_one_out"] = {**report.get("leave_one_out", {}), **clients}
            db.execute(rounds.update().where(key).values(report=report))

    def rounds(self, order_id: int, *, skip: int = 0) -> list[dict[str, Any]]:
        """Recorded rounds in the order they were trained: folds 1, 2, ... and then fold 0, the final model.

        Without the first `skip` of them."""
        last = sa.case((rounds.c.fold == 0, 1), else_=0)
        query = (
            sa.select(rounds)
            .where(rounds.c.order_id == order_id)
            .order_by(last, rounds.c.fold, rounds.c.round)
        )
        query = query.offset(skip) if skip else query
        with self._engine.begin() as db:
            return [dict(row._mapping) for row in db.execute(query)]

    def round_counts(self, order_ids: Iterable[int]) -> dict[int, int]:
        """How many rounds each of these orders has recorded, where it has any."""
        query = sa.select(rounds.c.order_id, sa.func.count()).where(rounds.c.order_id.in_(list(order_ids)))
        with self._engine.begin() as db:
            return {row[0]: row[1] for row in db.execute(query.group_by(rounds.c.order_id))}

    def reports(self, order_id: int, *, first: int = 0, last: int = 2**31 - 1) -> dict[int, dict[str, Any]]:
        """Reports of the final model's rounds from `first` to `last`, by round."""
        query = sa.select(rounds.c.round, rounds.c.report).where(
            rounds.c.order_id == order_id, rounds.c.fold == 0, rounds.c.round >= first, rounds.c.round <= last
        )
        with self._engine.begin() as db:
            return {row.round: row.report for row in db.execute(query.order_by(rounds.c.round))}

    def newest_report(self, order_id: int, part: str) -> tuple[int, dict[str, Any]] | None:
        """The newest round of the final model whose report has this part, and the report."""
        query = sa.select(rounds.c.round, rounds.c.report).where(
            rounds.c.order_id == order_id, rounds.c.fold == 0
        )
        with self._engine.begin() as db:
            found = db.execute(query.order_by(rounds.c.round.desc()))
            return next(((row.round, row.report) for row in found if row.report.get(part)), None)

    # Round files

    def add_round_file(
        self, entry: RoundEntry, *, loss: float | None = None, report: Mapping[str, Any] | None = None
    ) -> RoundEntry:
        """The entry that stands for this round: this one, or the one that stood there before.

        With a report of the round, both come into being together.
        """
        try:
            with self._engine.begin() as db:
                db.execute(round_files.insert().values(**vars(entry)))
                if report is not None:
                    self._put_report(db, entry.order_id, 0, entry.round, loss, dict(report))
        except sa.exc.IntegrityError:
            standing = self.round_file(entry.order_id, entry.round)
            if standing is None:
                raise
            return standing
        return entry

    def round_file(self, order_id: int, round_: int | None) -> RoundEntry | None:
        """One round's entry; the newest without `round_`; None if there is none."""
        query = sa.select(round_files).where(round_files.c.order_id == order_id)
        if round_ is not None:
            query = query.where(round_files.c.round == round_)
        with self._engine.begin() as db:
            row = db.execute(query.order_by(round_files.c.round.desc()).limit(1)).first()
        return RoundEntry(**row._mapping) if row else None

    def round_files(
        self, order_id: int, *, limit: int = 10**6, before: int | None = None
    ) -> list[RoundEntry]:
        """Newest first; `before` is the round to go on from."""
        query = sa.select(round_files).where(round_files.c.order_id == order_id)
        if before is not None:
            query = query.where(round_files.c.round < before)
        with self._engine.begin() as db:
            found = db.execute(query.order_by(round_files.c.round.desc()).limit(limit))
            return [RoundEntry(**row._mapping) for row in found]

    def round_numbers(self, order_id: int) -> list[int]:
        query = sa.select(round_files.c.round).where(round_files.c.order_id == order_id)
        with self._engine.begin() as db:
            return list(db.scalars(query.order_by(round_files.c.round)))

    def newest_order_with(
        self, what: str, may_read: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any] | None:
        """The newest order with recorded `files` (gradients, or their geometry) or `reports` (the model's metrics)."""
        table, recorded = (round_files, sa.true()) if what == "files" else (rounds, rounds.c.fold == 0)
        has = sa.exists().where(table.c.order_id == orders.c.order_id, recorded)
        with self._engine.begin() as db:
            found = db.execute(sa.select(orders).where(has).order_by(orders.c.order_id.desc()))
            return next((order for row in found if may_read(order := dict(row._mapping))), None)

    def old_round_files(self, before: datetime.datetime) -> list[RoundEntry]:
        with self._engine.begin() as db:
            found = db.execute(sa.select(round_files).where(round_files.c.recorded < before))
            return [RoundEntry(**row._mapping) for row in found]

    def forget_round_file(self, entry: RoundEntry) -> None:
        key = sa.and_(round_files.c.order_id == entry.order_id, round_files.c.round == entry.round)
        with self._engine.begin() as db:
            db.execute(round_files.delete().where(key, round_files.c.digest == entry.digest))

    # The exchange

    def put_message(
        self, address: Address, sender: int, recipient: int, body: bytes, *, takes_place: bool = False
    ) -> bool:
        """True if new, False if the same bytes stood there (or were used already). Conflict on other bytes.

        OrderStopped when the order has ended; OrderWaits when it has no places and `takes_place`.
        """
        digest = hashlib.sha256(body).hexdigest()
        with self._engine.begin() as db:
            self._hold_open(db, address.run, takes_place=takes_place)
            key = _key(address, recipient) & (messages.c.sender == sender)
            row = db.execute(sa.select(messages.c.digest).where(key)).first()
            if row is None:
                self._insert_message(db, address, sender, recipient, body)
                return True
        if row.digest != digest:
            raise Conflict(
                f"Another message {address.topic} of round {address.round} from {sender} stands there already.",
                remedy="A message is put once; a restarted agent sends the bytes from its vault.",
                code="put_twice",
            )
        return False

    def _insert_message(
        self, db: sa.Connection, address: Address, sender: int, recipient: int, body: bytes
    ) -> None:
        db.execute(
            messages.insert().values(
                run=address.run,
                topic=address.topic,
                fold=address.fold,
                round=address.round,
                attempt=address.attempt,
                sender=sender,
                recipient=recipient,
                body=body,
                digest=hashlib.sha256(body).hexdigest(),
            )
        )

    def gather(
        self, address: Address, senders: Iterable[int], recipient: int, *, takes_place: bool = False
    ) -> dict[int, bytes]:
        """Those of the senders' messages that are there.

        OrderStopped when the order has ended; OrderWaits when it has no places and `takes_place`.
        """
        with self._engine.begin() as db:
            self._check_open(db, address.run, takes_place=takes_place)
            query = sa.select(messages.c.sender, messages.c.body).where(
                _key(address, recipient), messages.c.sender.in_(list(senders)), messages.c.body.is_not(None)
            )
            return {row.sender: row.body for row in db.execute(query)}

    def read_box(self, address: Address, sender: int, recipient: int) -> bytes | None:
        """One message, also of an order that has ended: one of BOXES, sealed to a key that only memory holds."""
        query = sa.select(messages.c.body).where(_key(address, recipient), messages.c.sender == sender)
        with self._engine.begin() as db:
            return db.scalar(query)

    def discard(self, address: Address, recipient: int) -> None:
        """Deletes the bodies and keeps the digests, so that the same bytes put again are still fine."""
        with self._engine.begin() as db:
            db.execute(messages.update().where(_key(address, recipient)).values(body=None))

    def _hold_open(self, db: sa.Connection, run: int, *, takes_place: bool) -> None:
        """As `_check_open`, and the order cannot end before this transaction has: else a message put while its order
        ends would stay behind."""
        is_open = sa.and_(orders.c.order_id == run, orders.c.state.not_in(ENDED))
        db.execute(orders.update().where(is_open).values(state=orders.c.state))
        self._check_open(db, run, takes_place=takes_place)

    def _check_open(self, db: sa.Connection, run: int, *, takes_place: bool) -> None:
        columns = (orders.c.kind, orders.c.state, orders.c.stop, orders.c.admitted)
        row = db.execute(sa.select(*columns).where(orders.c.order_id == run)).first()
        if row is None:
            raise NotFound(f"There is no order {run}.", remedy="GET /orders lists what there is.")
        if row.state in ENDED:
            raise stop_of(run, row.state, row.stop)
        if takes_place and row.kind in PLACED and row.admitted is None:
            raise OrderWaits(
                f"Order {run} waits for places at its hospitals.",
                remedy="It goes on by itself when it has them.",
            )


def stop_of(order_id: int, state: str, stop: Mapping[str, Any] | None) -> OrderStopped:
    """Why an order ended, as the error that everybody who still asks for it gets."""
    cause = dict(stop or {})
    return OrderStopped(
        str(cause.get("sentence") or f"Order {order_id} has ended ({state})."),
        remedy=str(cause.get("remedy") or ""),
        code=state,
        cause=cause,
    )


def cause_of(order: Mapping[str, Any]) -> ConsiliumError:
    """Why an order failed or was cancelled, as whoever ended it said."""
    if order["stop"]:
        return ConsiliumError.from_json(order["stop"])
    return stop_of(order["order_id"], order["state"], None)


def _report_key(order_id: int, fold: int, round_: int) -> sa.ColumnElement[bool]:
    return sa.and_(rounds.c.order_id == order_id, rounds.c.fold == fold, rounds.c.round == round_)


def _key(address: Address, recipient: int) -> sa.ColumnElement[bool]:
    return sa.and_(
        messages.c.run == address.run,
        messages.c.topic == address.topic,
        messages.c.fold == address.fold,
        messages.c.round == address.round,
        messages.c.attempt == address.attempt,
        messages.c.recipient == recipient,
    )


def _tell_of_full_disk(disk: Disk, context: Any) -> None:
    """A statement or commit that finds the disk full raises Unavailable; its transaction is undone."""
    if is_full(context.original_exception):
        raise disk.noted() from None


def _make_private(file: Path) -> None:
    """SQLite makes its files as others may read them, and those beside one as that one is."""
    with contextlib.suppress(OSError):  # where it cannot be made, opening it says why
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))


@contextlib.contextmanager
def _opening(place: str) -> Iterator[None]:
    """Turns what a database says when it is opened into a sentence."""
    try:
        yield
    except CommandError:
        raise Conflict(
            f"The store in {place} is of another version than this one.",
            remedy="Install the version that ran last, or restore the backup from before the upgrade.",
            code="store",
        ) from None
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        if getattr(cause, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise Conflict(
                f"The store in {place} is damaged ({cause}).",
                remedy="Restore it from the backup.",
                code="store",
            ) from None
        why = str(cause).strip().split("\n")[0]
        raise Unavailable(
            f"The store in {place} cannot be opened ({why}).",
            remedy="See whether its database runs, whether its disk is full and CONSILIUM_STORE_URL right.",
            code="store",
        ) from None


def _tune_sqlite(connection: Any, _record: Any) -> None:
    """Write-ahead log, and every commit on disk before it is acknowledged; deleted bytes are overwritten."""
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={BUSY_MILLISECONDS}",
        "foreign_keys=ON",
        "secure_delete=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
