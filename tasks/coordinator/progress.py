"""What an operator sees of an order in Prefect: a progress bar, a table and a summary, drawn beside the work."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import Counter
from typing import Any, Protocol, Self

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from protocol.training_request import folds, rounds_done
from tasks.coordinator.statistics import CoordinatedStatistics
from tasks.coordinator.training import CoordinatedTraining

log = logging.getLogger("consilium.flows")

Record = dict[str, Any]
"""What the work has left of a round or a stage, as the API keeps it too."""

DRAW_EVERY_SECONDS = 0.5


class OrderPicture(Protocol):
    """What a kind of order shows of the records that its work has left so far."""

    order_id: int

    def percent(self, records: list[Record]) -> float: ...

    def table(self, records: list[Record]) -> list[dict[str, Any]]: ...

    def summary(self, records: list[Record]) -> str: ...


class DrawnProgress:
    """The order's progress bar, table and summary, never drawn before the work that they show.

    A thread draws the newest record only, so a slow or absent Prefect does not hold an order up.
    """

    def __init__(self, picture: OrderPicture) -> None:
        self._picture = picture
        self._records: list[Record] = []
        self._changed, self._closed = threading.Event(), False
        # Prefect finds the flow run that artifacts belong to in the context.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._draw,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._changed.set()
        self._thread.join(timeout=10)

    def show(self, record: Record) -> None:
        self._records.append(record)
        self._changed.set()

    def _draw(self) -> None:
        key = f"order-{self._picture.order_id}"
        bar = None
        while not self._closed:
            self._changed.wait()
            self._changed.clear()
            try:
                if bar is None:
                    bar = create_progress_artifact(
                        0.0, key=f"{key}-progress", description=f"Progress of {key}"
                    )
                percent = self._picture.percent(self._records) if self._records else 0.0
                update_progress_artifact(bar, progress=percent)  # type: ignore[arg-type]
            except Exception as error:  # noqa: BLE001 (a picture that cannot be drawn must not stop an order)
                log.warning("Progress could not be shown (%s)", type(error).__name__)
            time.sleep(DRAW_EVERY_SECONDS)
        self._draw_result(key)

    def _draw_result(self, key: str) -> None:
        try:
            create_table_artifact(
                self._picture.table(self._records),
                key=f"{key}-metrics",
                description="What each hospital said",
            )
            create_markdown_artifact(self._picture.summary(self._records), key=f"{key}-summary")
        except Exception as error:  # noqa: BLE001
            log.warning("The result could not be shown (%s)", type(error).__name__)


class TrainingPicture:
    """Rounds of a training order: loss, metrics per hospital, who was left out."""

    def __init__(self, order: CoordinatedTraining) -> None:
        self.order_id, self._order = order.order_id, order

    def percent(self, records: list[Record]) -> float:
        last, all_folds = records[-1], folds(self._order.request)
        if last["final"] and last["fold"] == all_folds[-1]:
            return 100.0
        max_iter = self._order.request.model_params.max_iter
        return 100.0 * rounds_done(len(records), max_iter) / (len(all_folds) * max_iter)

    def table(self, records: list[Record]) -> list[dict[str, Any]]:
        lines = []
        for record in records:
            for user, report in record.get("hospitals", {}).items():
                line = {"fold": record["fold"], "round": record["round"], "hospital": user}
                line |= {"rows": report["n_rows"], **_named_metrics(report)}
                reason = record.get("left_out", {}).get(user)
                if reason:
                    line["left out"] = reason
                lines.append(line)
        return lines

    def summary(self, records: list[Record]) -> str:
        request = self._order.request
        rounds = [record for record in records if "loss" in record]
        loss = "none yet"
        if rounds:
            loss = f"{rounds[-1]['loss']:.6f} after {rounds[-1]['round']} rounds"
        n_left_out = Counter(user for record in records for user in record.get("left_out", {}))
        left_out = ", ".join(f"hospital {user} in {n} rounds" for user, n in sorted(n_left_out.items()))
        return (
            f"# Order {self.order_id}\n\n"
            f"{request.model_type} by hospital {request.user_id} with {request.party_id}, "
            f"method {request.model_params.encrypt_param.method}. Rows: {self._order.n_rows}. "
            f"Loss on training rows: {loss}. "
            f"Aggregation {request.aggregation}; left out: {left_out or 'nobody'}."
        )


def _named_metrics(report: dict[str, Any]) -> dict[str, Any]:
    """A report's metrics in one level, named by the rows they are on; counts of each class have no place there."""
    named = {}
    for part, rows in (("train", "training rows"), ("test", "held-out rows")):
        for name, value in report.get(part, {}).items():
            if not isinstance(value, list):
                named[f"{name} on {rows}"] = value
    return named


class StatisticsPicture:
    """How far an order of joint statistics is, and how many rows stand behind its answer; never a value."""

    def __init__(self, order: CoordinatedStatistics) -> None:
        self.order_id, self._order = order.order_id, order

    def percent(self, records: list[Record]) -> float:
        """Of the parts that are done, as the API counts them; where nobody knows how many there are, one is left."""
        last = records[-1]
        if last.get("final"):
            return 100.0
        n_done: int = last["done"]
        n_parts: int = last["of"] or n_done + 1
        return min(100.0, 100.0 * n_done / n_parts)

    def table(self, records: list[Record]) -> list[dict[str, Any]]:
        summary = records[-1] if records else {}
        lines = []
        for user, n_rows in self._order.n_rows.items():
            line = {"hospital": user, "rows": n_rows}
            for name in _ROW_COUNTS:
                line[name] = summary.get(name, {}).get(str(user))
            lines.append(line)
        return lines

    def summary(self, records: list[Record]) -> str:
        request = self._order.request
        last = records[-1] if records else {}
        withheld = "; ".join(
            f"{entry['groups']} group(s) by {entry['rule']} {entry['threshold']}"
            for entry in last.get("suppressed", [])
        )
        providers, receivers = _listed(request.providers), _listed(request.receivers)
        return (
            f"# Order {self.order_id}\n\n"
            f"{request.method} over hospital {providers}, for hospital {receivers}. "
            f"Rows: {self._order.n_rows}. Withheld: {withheld or 'nothing'}. "
            f"{' '.join(last.get('notes', []))}"
        )


_ROW_COUNTS = ("rows_used", "rows_suppressed", "rows_null")


def _listed(users: tuple[int, ...]) -> str:
    return ", ".join(str(user) for user in users)
