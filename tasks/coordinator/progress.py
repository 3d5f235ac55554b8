"""What an operator sees of an order in Prefect, drawn beside the work.

A progress bar, and at the end a table and a summary.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from protocol.training_request import folds, rounds_done
from tasks.coordinator.order import Record
from tasks.coordinator.run_log import QUIET_SECONDS, RunLog, is_told
from tasks.coordinator.statistics import CoordinatedStatistics
from tasks.coordinator.training import CoordinatedTraining

log = logging.getLogger("consilium.flows")

Line = dict[str, Any]
"""A line of a table, by the names of its columns."""

DRAW_EVERY_SECONDS = 0.5


class OrderPicture(Protocol):
    """What a kind of order shows of the records that its work has left so far."""

    order_id: int

    def percent(self, records: list[Record]) -> float: ...

    def table(self, records: list[Record]) -> list[Line]: ...

    def summary(self, records: list[Record]) -> str: ...

    def opening(self) -> str: ...

    def line(self, record: Record) -> str: ...


class DrawnProgress:
    """The order's progress bar, table and summary, and a few lines in the run's log.

    Never drawn before the work that they show. A thread draws the newest record only,
    so a slow or absent Prefect does not hold an order up.
    """

    def __init__(self, picture: OrderPicture) -> None:
        self._picture = picture
        self._records: list[Record] = []
        self._lines: deque[str] = deque([picture.opening()])
        self._told_of_lines = False
        self._changed = threading.Event()
        self._closed = False
        # Prefect finds the flow run that artifacts belong to in the context.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._draw,), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._changed.set()
        self._thread.join(timeout=10)

    def show(self, record: Record) -> None:
        self._records.append(record)
        self._lines.append(self._picture.line(record))
        self._changed.set()

    def _draw(self) -> None:
        key = f"order-{self._picture.order_id}"
        bar = None
        has_warned = False
        run_log = RunLog(self._picture.order_id)
        self._write(run_log)
        while not self._closed:
            is_news = self._changed.wait(QUIET_SECONDS)
            if not is_news:
                with self._as_no_part_of_the_order():
                    run_log.say_who_is_waited_for()
                continue
            self._changed.clear()
            self._write(run_log)
            try:
                if bar is None:
                    bar = create_progress_artifact(
                        0.0, key=f"{key}-progress", description=f"Progress of {key}"
                    )
                percent = 0.0
                # None where the order has ended before its first record.
                if self._records:
                    percent = self._picture.percent(self._records)
                update_progress_artifact(bar, progress=percent)  # type: ignore[arg-type]
                has_warned = False
            except Exception as error:  # noqa: BLE001
                # A picture is no part of the order: it goes on without one.
                if not has_warned:
                    error_kind = type(error).__name__
                    log.warning("Progress could not be shown (%s)", error_kind)
                has_warned = True
            time.sleep(DRAW_EVERY_SECONDS)
        self._write(run_log)
        self._draw_result(key)

    def _write(self, run_log: RunLog) -> None:
        """Writes the lines that have come; those that Prefect does not take are lost."""
        with self._as_no_part_of_the_order():
            while self._lines:
                run_log.say(self._lines.popleft())

    @contextlib.contextmanager
    def _as_no_part_of_the_order(self) -> Iterator[None]:
        """An error is said once, for all lines of the run."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            if not self._told_of_lines:
                log.warning(
                    "Prefect lacks lines of this run (%s)", type(error).__name__
                )
            self._told_of_lines = True

    def _draw_result(self, key: str) -> None:
        try:
            table = self._picture.table(self._records)
            create_table_artifact(
                table, key=f"{key}-metrics", description="What each hospital said"
            )
            summary = self._picture.summary(self._records)
            create_markdown_artifact(summary, key=f"{key}-summary")
        except Exception as error:  # noqa: BLE001
            log.warning("The result could not be shown (%s)", type(error).__name__)


class TrainingPicture:
    """Rounds of a training order: loss, metrics per hospital, who was left out."""

    def __init__(self, order: CoordinatedTraining) -> None:
        self.order_id = order.order_id
        self._order = order

    def opening(self) -> str:
        request = self._order.request
        subject: str = request.model_type
        if request.evaluates is not None:
            subject = f"evaluation of model {request.evaluates}"
        other_parties = _listed(tuple(request.party_id)) or "none"
        method = request.model_params.encrypt_param.method
        return (
            f"Order {self.order_id}: {subject} by hospital {request.user_id} with {other_parties}, method {method}. "
            "Waiting for the hospitals to accept and to count their rows."
        )

    def line(self, record: Record) -> str:
        """A round's, where it has one."""
        request = self._order.request
        n_rounds = request.model_params.max_iter
        round_ = record["round"]
        if not record["final"] and not is_told(round_, n_rounds):
            return ""
        where = f"Fold {record['fold']}, round" if record["fold"] else "Round"
        loss = record.get("loss")
        loss_text = "" if loss is None else f", loss {loss:.6g}"
        if record["final"]:
            return f"{where} {round_}{loss_text}: training has ended."
        return f"{where} {round_} of at most {n_rounds}{loss_text}."

    def percent(self, records: list[Record]) -> float:
        last_record = records[-1]
        all_folds = folds(self._order.request)
        # A model may be done in fewer rounds than it was given.
        if last_record["final"] and last_record["fold"] == all_folds[-1]:
            return 100.0
        max_iter = self._order.request.model_params.max_iter
        n_done = rounds_done(len(records), max_iter)
        n_rounds = len(all_folds) * max_iter
        return 100.0 * n_done / n_rounds

    def table(self, records: list[Record]) -> list[Line]:
        table_lines = []
        for record in records:
            for user_id, report in record.get("hospitals", {}).items():
                table_line = {
                    "fold": record["fold"],
                    "round": record["round"],
                    "hospital": user_id,
                    "rows": report["n_rows"],
                    **_named_metrics(report),
                }
                reason = record.get("left_out", {}).get(user_id)
                if reason:
                    table_line["left out"] = reason
                table_lines.append(table_line)
        return table_lines

    def summary(self, records: list[Record]) -> str:
        request = self._order.request
        method = request.model_params.encrypt_param.method
        loss = "none yet"
        rounds = [record for record in records if "loss" in record]
        if rounds:
            last_record = rounds[-1]
            # None where all hospitals withhold their own.
            mean = "withheld (min_rows)"
            if last_record["loss"] is not None:
                mean = f"{last_record['loss']:.6f}"
            loss = f"{mean} after {last_record['round']} rounds"
        if request.evaluates is not None:
            return (
                f"# Order {self.order_id}\n\n"
                f"Evaluation of model {request.evaluates} by hospital {request.user_id} with "
                f"{request.party_id}, method {method}. Rows: {self._order.n_rows}."
            )
        left_out = _listed_left_out(records) or "nobody"
        ending = _listed_endings(self._order.summaries)
        return (
            f"# Order {self.order_id}\n\n"
            f"{request.model_type} by hospital {request.user_id} with {request.party_id}, "
            f"method {method}. Rows: {self._order.n_rows}. "
            f"Loss on training rows: {loss}. "
            f"Aggregation {request.aggregation}; left out: {left_out}."
            f"{ending}"
        )


def _listed_endings(summaries: Mapping[int, Record]) -> str:
    """A line for each model: how its training ended, and its warnings."""
    ending_lines = []
    for fold, summary in sorted(summaries.items()):
        model = f"Fold {fold}" if fold else "Final model"
        ending_lines.append(f"- {model}: ended by {summary['stopped_by']}")
        for sentence in summary["warnings"]:
            ending_lines.append(f"- {model}: **Warning.** {sentence}")
    if not ending_lines:
        return ""
    return "\n\n" + "\n".join(ending_lines)


def _listed_left_out(records: list[Record]) -> str:
    """Who was left out in how many rounds; empty where nobody was."""
    n_left_out: Counter[str] = Counter()
    for record in records:
        n_left_out.update([*record.get("left_out", {})])
    counts = []
    for user_id, n_rounds in sorted(n_left_out.items()):
        counts.append(f"hospital {user_id} in {n_rounds} rounds")
    return ", ".join(counts)


def _named_metrics(report: Record) -> Line:
    """A report's metrics in one level, named by the rows they are on.

    Counts of each class have no place there.
    """
    named = {}
    for report_part, rows in (("train", "training rows"), ("test", "held-out rows")):
        for metric_name, metric_value in report.get(report_part, {}).items():
            if not isinstance(metric_value, list):
                named[f"{metric_name} on {rows}"] = metric_value
    return named


class StatisticsPicture:
    """How far an order of joint statistics is, and of how many rows its answer is.

    Never a value.
    """

    def __init__(self, order: CoordinatedStatistics) -> None:
        self.order_id = order.order_id
        self._order = order

    def opening(self) -> str:
        request = self._order.request
        return (
            f"Order {self.order_id}: {request.method} over hospital {_listed(request.providers)}, "
            f"for hospital {_listed(request.receivers)}. "
            "Waiting for the hospitals to accept and to count their rows."
        )

    def line(self, record: Record) -> str:
        if record.get("final"):
            return (
                "The receivers have the result in their folders; nothing of it is here."
            )
        n_parts = record["of"]
        if not n_parts:
            return f"Part {record['done']} is done."
        if record["done"] < n_parts and not is_told(record["done"], n_parts):
            return ""
        return f"Part {record['done']} of {n_parts} is done."

    def percent(self, records: list[Record]) -> float:
        """Of the parts that are done, as the API counts them.

        Where nobody knows how many there are, one is left.
        """
        last_record = records[-1]
        if last_record.get("final"):
            return 100.0
        n_done: int = last_record["done"]
        n_parts: int = last_record["of"] or n_done + 1
        return min(100.0, 100.0 * n_done / n_parts)

    def table(self, records: list[Record]) -> list[Line]:
        summary = records[-1] if records else {}
        table_lines = []
        for user_id, n_rows in self._order.n_rows.items():
            table_line = {"hospital": user_id, "rows": n_rows}
            for count_name in _ROW_COUNTS:
                table_line[count_name] = summary.get(count_name, {}).get(str(user_id))
            table_lines.append(table_line)
        return table_lines

    def summary(self, records: list[Record]) -> str:
        request = self._order.request
        last_record = records[-1] if records else {}
        withheld = []
        for suppression in last_record.get("suppressed", []):
            rule = f"{suppression['rule']} {suppression['threshold']}"
            withheld.append(f"{suppression['groups']} group(s) by {rule}")
        listed = "; ".join(withheld) or "nothing"
        notes = " ".join(last_record.get("notes", []))
        providers = _listed(request.providers)
        receivers = _listed(request.receivers)
        return (
            f"# Order {self.order_id}\n\n"
            f"{request.method} over hospital {providers}, for hospital {receivers}. "
            f"Rows: {self._order.n_rows}. Withheld: {listed}. "
            f"{notes}"
        )


_ROW_COUNTS = ("rows_used", "rows_suppressed", "rows_null")


def _listed(users: tuple[int, ...]) -> str:
    return ", ".join(str(user_id) for user_id in users)
