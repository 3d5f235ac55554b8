"""Rounds of orders: the report of each, and the index of round files.

The files themselves are in api/store/round_files.py.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Literal

import sqlalchemy as sa

from api.store.engine import Database, insert_unless_there
from api.store.rows import OrderRow, RoundEntry, RoundRow
from api.store.tables import orders, round_files, rounds, utc_now
from protocol.errors import NotFound

FINAL = 0
"""The fold of the model that an order ends with; others are a cross-validation's."""

ADDED_LATER = "leave_one_out"
"""The part of a report that is added to a recorded round.

It outlives that the round is recorded again.
"""

LARGEST_ROUND = 2**31 - 1

Report = dict[str, Any]
"""What is said of a round: each hospital's metrics, and who was left out."""


class RoundStore:
    """Reports of rounds, and the index of round files."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Reports

    def record(
        self,
        order_id: int,
        fold: int,
        round_: int,
        *,
        loss: float | None,
        report: Mapping[str, Any],
    ) -> None:
        """Idempotent: a round recorded again after a restart replaces itself.

        But for what was added to it since.
        """
        with self._database.begin_to_change() as connection:
            _put_report(
                connection,
                order_id,
                fold,
                round_,
                loss,
                report,
            )

    def add_leave_one_out(
        self,
        order_id: int,
        round_: int,
        clients: Mapping[str, Any],
    ) -> None:
        """Adds to a report what the model is worth without each of these hospitals.

        Idempotent: a hospital's later word replaces its earlier one. NotFound for a
        round that is not recorded.
        """
        report_key = _report_key(order_id, FINAL, round_)
        # Locked: two hospitals' words that come at the same time both stay.
        report_query = sa.select(rounds.c.report).where(report_key).with_for_update()
        with self._database.begin_to_change() as connection:
            report = connection.scalar(report_query)
            if report is None:
                raise NotFound(
                    f"Round {round_} of order {order_id} is not recorded.",
                    remedy="Record it first.",
                    code="round",
                )
            earlier = report.get(ADDED_LATER, {})
            report[ADDED_LATER] = {**earlier, **clients}
            update = rounds.update().where(report_key)
            connection.execute(update.values(report=report))

    def of_order(
        self,
        order_id: int,
        *,
        skip: int = 0,
    ) -> list[RoundRow]:
        """Recorded rounds in the order they were trained, without the first `skip`.

        Folds 1, 2, ... and then fold 0, the final model.
        """
        final_comes_last = sa.case((rounds.c.fold == FINAL, 1), else_=0)
        rounds_query = (
            sa.select(rounds)
            .where(rounds.c.order_id == order_id)
            .order_by(
                final_comes_last,
                rounds.c.fold,
                rounds.c.round,
            )
        )
        if skip:
            rounds_query = rounds_query.offset(skip)
        with self._database.begin() as connection:
            rows = connection.execute(rounds_query)
            return [RoundRow(**row._mapping) for row in rows]

    def counts(self, order_ids: Iterable[int]) -> dict[int, int]:
        """How many rounds each of these orders has recorded, where it has any."""
        n_rounds = sa.func.count().label("n_rounds")
        is_wanted = rounds.c.order_id.in_(list(order_ids))
        counts_query = (
            sa.select(rounds.c.order_id, n_rounds)
            .where(is_wanted)
            .group_by(rounds.c.order_id)
        )
        with self._database.begin() as connection:
            rows = connection.execute(counts_query)
            return {row.order_id: row.n_rounds for row in rows}

    def reports(
        self,
        order_id: int,
        *,
        first: int = 0,
        last: int = LARGEST_ROUND,
    ) -> dict[int, Report]:
        """Reports of the final model's rounds from `first` to `last`, by round."""
        reports_query = (
            sa.select(
                rounds.c.round,
                rounds.c.report,
            )
            .where(
                rounds.c.order_id == order_id,
                rounds.c.fold == FINAL,
            )
            .where(
                rounds.c.round >= first,
                rounds.c.round <= last,
            )
            .order_by(rounds.c.round)
        )
        with self._database.begin() as connection:
            rows = connection.execute(reports_query)
            return {row.round: row.report for row in rows}

    def newest_report(
        self,
        order_id: int,
        part: str,
    ) -> tuple[int, Report] | None:
        """The newest round of the final model whose report has this part.

        With the report.
        """
        reports_query = (
            sa.select(
                rounds.c.round,
                rounds.c.report,
            )
            .where(
                rounds.c.order_id == order_id,
                rounds.c.fold == FINAL,
            )
            .order_by(rounds.c.round.desc())
        )
        with self._database.begin() as connection:
            for row in connection.execute(reports_query):
                report = row.report
                # Not in SQL: databases read JSON differently.
                if report.get(part):
                    return row.round, report
        return None

    def newest_order_with(
        self,
        record_kind: Literal["files", "reports"],
        may_read: Callable[[OrderRow], bool],
    ) -> OrderRow | None:
        """The newest order that has some and that one may read.

        `files` hold gradients, or their geometry; `reports` the model's metrics.
        """
        if record_kind == "files":
            belongs = round_files.c.order_id == orders.c.order_id
        else:
            belongs = sa.and_(
                rounds.c.order_id == orders.c.order_id,
                rounds.c.fold == FINAL,
            )
        has_some = sa.exists().where(belongs)
        newest_first = orders.c.order_id.desc()
        orders_query = sa.select(orders).where(has_some).order_by(newest_first)
        with self._database.begin() as connection:
            for row in connection.execute(orders_query):
                order = OrderRow(**row._mapping)
                if may_read(order):
                    return order
        return None

    # The index of round files

    def add_file(
        self,
        entry: RoundEntry,
        *,
        loss: float | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> RoundEntry:
        """The entry that stands for this round: this one, or one from before.

        With a report of the round, both come into being together.
        """
        try:
            with self._database.begin() as connection:
                entry_fields = asdict(entry)
                insert = round_files.insert().values(**entry_fields)
                connection.execute(insert)
                if report is not None:
                    _put_report(
                        connection,
                        entry.order_id,
                        FINAL,
                        entry.round,
                        loss,
                        report,
                    )
        except sa.exc.IntegrityError:
            # Of two that came at the same time, this is the second.
            standing = self.file(entry.order_id, entry.round)
            if standing is None:
                raise
            return standing
        return entry

    def file(
        self,
        order_id: int,
        round_: int | None,
    ) -> RoundEntry | None:
        """One round's entry; the newest without `round_`; None if there is none."""
        is_meant = round_files.c.order_id == order_id
        files_query = sa.select(round_files).where(is_meant)
        if round_ is not None:
            is_same_round = round_files.c.round == round_
            files_query = files_query.where(is_same_round)
        newest_first = round_files.c.round.desc()
        files_query = files_query.order_by(newest_first).limit(1)
        with self._database.begin() as connection:
            row = connection.execute(files_query).first()
        if row is None:
            return None
        return RoundEntry(**row._mapping)

    def files(
        self,
        order_id: int,
        *,
        limit: int = 10**6,
        before: int | None = None,
    ) -> list[RoundEntry]:
        """Newest first; `before` is the round to go on from."""
        is_meant = round_files.c.order_id == order_id
        files_query = sa.select(round_files).where(is_meant)
        if before is not None:
            is_before = round_files.c.round < before
            files_query = files_query.where(is_before)
        newest_first = round_files.c.round.desc()
        files_query = files_query.order_by(newest_first).limit(limit)
        with self._database.begin() as connection:
            rows = connection.execute(files_query)
            return [RoundEntry(**row._mapping) for row in rows]

    def file_numbers(self, order_id: int) -> list[int]:
        """The rounds that have a file, ascending."""
        numbers_query = (
            sa.select(round_files.c.round)
            .where(round_files.c.order_id == order_id)
            .order_by(round_files.c.round)
        )
        with self._database.begin() as connection:
            return list(connection.scalars(numbers_query))

    def old_files(self, before: datetime.datetime) -> list[RoundEntry]:
        """Of all orders, those that were recorded before."""
        is_old = round_files.c.recorded < before
        files_query = sa.select(round_files).where(is_old)
        with self._database.begin() as connection:
            rows = connection.execute(files_query)
            return [RoundEntry(**row._mapping) for row in rows]

    def forget_file(self, entry: RoundEntry) -> None:
        is_same = sa.and_(
            round_files.c.order_id == entry.order_id,
            round_files.c.round == entry.round,
            # By its digest too: another process may have forgotten it, and the round
            # have come anew, since the entry was read.
            round_files.c.digest == entry.digest,
        )
        delete = round_files.delete().where(is_same)
        with self._database.begin() as connection:
            connection.execute(delete)


def _report_key(
    order_id: int,
    fold: int,
    round_: int,
) -> sa.ColumnElement[bool]:
    return sa.and_(
        rounds.c.order_id == order_id,
        rounds.c.fold == fold,
        rounds.c.round == round_,
    )


def _put_report(
    connection: sa.Connection,
    order_id: int,
    fold: int,
    round_: int,
    loss: float | None,
    report: Mapping[str, Any],
) -> None:
    report_key = _report_key(order_id, fold, round_)
    # A row that is not there cannot be locked: of two that record a round for the first
    # time, the second waits for the first one's row, and finds it.
    insert_unless_there(
        connection,
        rounds,
        order_id=order_id,
        fold=fold,
        round=round_,
        report={},
        recorded=utc_now(),
    )
    # A flow that died after others had added to its round records the round again: what
    # they added stays.
    # Locked: what they add at this moment, too.
    report_query = sa.select(rounds.c.report).where(report_key).with_for_update()
    earlier = connection.execute(report_query).scalar_one()
    merged_report: Report = {}
    if ADDED_LATER in earlier:
        merged_report[ADDED_LATER] = earlier[ADDED_LATER]
    merged_report.update(report)
    # Changed in its place: who waits for the lock of a row that is deleted finds none,
    # though there is a new one.
    update = rounds.update().where(report_key)
    changed = update.values(loss=loss, report=merged_report, recorded=utc_now())
    connection.execute(changed)
