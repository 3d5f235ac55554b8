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
from tasks.coordinator import statistics, training

log = logging.getLogger("consilium.flows")


class Picture(Protocol):
    """What a kind of order shows of the records that its work has left so far."""

    order_id: int

    def percent(self, records: list[dict[str, Any]]) -> float: ...

    def table(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]: ...

    def summary(self, records: list[dict[str, Any]]) -> str: ...


class Progress:
    """The order's progress bar, table and summary, never drawn before the work that they show.

    A thread draws the newest record only, so a slow or absent Prefect does not hold an order up.
    """

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._records: list[dict[str, Any]] = []
        self._changed, self._closed = threading.Event(), False
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._draw,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._changed.set()
        self._thread.join(timeout=10)

    def show(self, record: dict[str, Any]) -> None:
        self._records.append(record)
        self._changed.set()

    def _draw(self) -> None:
        key, bar = f"order-{self._picture.order_id}", None
        while not self._closed:
            self._changed.wait()
            self._changed.clear()
            try:
                bar = bar or create_progress_artifact(
                    0.0, key=f"{key}-progress", description=f"Progress of {key}"
                )
                percent = self._picture.percent(self._records) if self._records else 0.0
                update_progress_artifact(bar, progress=percent)  # type: ignore[arg-type]
            except Exception as error:  # noqa: BLE001 (a picture that cannot be drawn must not stop an order)
                log.warning("Progress could not be shown (%s)", type(error).__name__)
            time.sleep(0.5)
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

    def __init__(self, desk: training.Desk) -> None:
        self.order_id, self._desk = desk.order_id, desk

    def percent(self, records: list[dict[str, Any]]) -> float:
        last, every = records[-1], folds(self._desk.request)
        if last["final"] and last["fold"] == every[-1]:
            return 100.0
        max_iter = self._desk.request.model_params.max_iter
        return 100.0 * rounds_done(len(records), max_iter) / (len(every) * max_iter)

    def table(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                "fold": r["fold"],
                "round": r["round"],
                "hospital": user,
                "rows": report["n_rows"],
                **_flat(report),
                **({"left out": reason} if (reason := r.get("left_out", {}).get(user)) else {}),
            }
            for r in records
            for user, report in r.get("hospitals", {}).items()
        ]

    def summary(self, records: list[dict[str, Any]]) -> str:
        request, rounds = self._desk.request, [r for r in records if "loss" in r]
        last = f"{rounds[-1]['loss']:.6f} after {rounds[-1]['round']} rounds" if rounds else "none yet"
        left_out = Counter(user for record in rounds for user in record.get("left_out", {}))
        told = ", ".join(f"hospital {user} in {n} rounds" for user, n in sorted(left_out.items())) or "nobody"
        return (
            f"# Order {self.order_id}\n\n"
            f"{request.model_type} by hospital {request.user_id} with {request.party_id}, "
            f"method {request.model_params.encrypt_param.method}. Rows: {self._desk.n_rows}. "
            f"Loss on training rows: {last}. "
            f"Aggregation {request.aggregation}; left out: {told}."
        )


def _flat(report: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{name} on {rows}": value
        for part, rows in (("train", "training rows"), ("test", "held-out rows"))
        for name, value in report.get(part, {}).items()
        if not isinstance(value, list)
    }


class StatisticsPicture:
    """How far an order of joint statistics is, and how many rows stand behind its answer; never a value."""

    def __init__(self, desk: statistics.Desk) -> None:
        self.order_id, self._desk = desk.order_id, desk

    def percent(self, records: list[dict[str, Any]]) -> float:
        """Of the parts that are done, as the API counts them; where nobody knows how many there are, one is left."""
        last = records[-1]
        if last.get("final"):
            return 100.0
        return min(100.0, 100.0 * last["done"] / (last["of"] or last["done"] + 1))

    def table(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        summary = records[-1] if records else {}
        return [
            {"hospital": user, "rows": n, **{name: summary.get(name, {}).get(str(user)) for name in _ROWS}}
            for user, n in self._desk.n_rows.items()
        ]

    def summary(self, records: list[dict[str, Any]]) -> str:
        request, last = self._desk.request, records[-1] if records else {}
        told = "; ".join(
            f"{s['groups']} group(s) by {s['rule']} {s['threshold']}" for s in last.get("suppressed", [])
        )
        return (
            f"# Order {self.order_id}\n\n"
            f"{request.method} over hospital {', '.join(map(str, request.providers))}, for hospital "
            f"{', '.join(map(str, request.receivers))}. Rows: {self._desk.n_rows}. Withheld: {told or 'nothing'}. "
            f"{' '.join(last.get('notes', []))}"
        )


_ROWS = ("rows_used", "rows_suppressed", "rows_null")
