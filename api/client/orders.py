"""One order: how far it is, what came of it, its pictures, and what may be done with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from api.client import results
from api.client.connection import Connection, Json
from api.client.events import Event, follow
from api.client.progress import Progress
from api.client.results import Scores, StatisticsResult
from protocol.errors import BadRequest, Conflict, ConsiliumError, NotFound, OrderStopped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Vectors = dict[int, dict[str, np.ndarray[Any, np.dtype[np.float64]]]]

DEFAULT_ROUNDS = 100
LONGEST_WAIT_SECONDS = 60
CONTRIBUTIONS = (("grad_diff", "eu"), ("grad_diff", "cos"), ("perf_diff", "accuracy"), ("perf_diff", "loss"))


class Order:
    """An order by its number. `message` is what the coordinator said beside its answer, such as who is waited for.

    >>> from api.client.stand_in import stand_in
    >>> order = stand_in().order(37)
    >>> order.status()
    'success'
    >>> order.waiting_for().empty
    True
    >>> order.scores().ranks["krum"].to_dict()
    {2: 2.0, 4: 1.0}
    >>> order.infer("SELECT * FROM data.breast_homo_guest WHERE id = 133")
        id  label
    0  133   0.55
    """

    def __init__(
        self,
        connection: Connection,
        order_id: int,
        *,
        user_id: int | None = None,
        patience_seconds: float = 300,
        message: str | None = None,
    ) -> None:
        self.order_id, self.message = order_id, message
        self._connection, self._user_id, self._patience = connection, user_id, patience_seconds
        self._state: str | None = None

    def __repr__(self) -> str:
        return f"<Order {self.order_id}{f': {self._state}' if self._state else ''}>"

    # How far it is

    def status(self) -> str:
        """pending, running, success, failed or cancelled."""
        told = self._connection.get("/model/train_status", order_id=self.order_id).data
        self._state = str(told["train_status"])
        return self._state

    def info(self) -> Json:
        """Everything that may be known of it: state, rounds, stage, summary, who is waited for, protection."""
        told: Json = self._connection.get(f"/orders/{self.order_id}").data
        self._state = str(told["state"])
        return told

    def waiting_for(self) -> pd.DataFrame:
        """A row for each one it waits for just now: name, cause (away, working, ...) and a sentence, `message`."""
        return results.waiting(self.info()["waiting_for"])

    def request(self) -> Json:
        """What was ordered, of a training order: parameters as sent, attributes, label, row counts."""
        told: Json = self._connection.get("/model/info", model_id=self.order_id).data
        return told

    def events(self, *, timeout_seconds: float | None = None) -> Iterator[Event]:
        """What happens, from the beginning until it has ended; a broken connection is made again meanwhile."""
        told = follow(
            self._connection, self.order_id, timeout_seconds=timeout_seconds, patience_seconds=self._patience
        )
        for event in told:
            self._state = event.data["state"] if event.name == "state" else self._state
            yield event

    def wait(self, *, timeout_seconds: float | None = None, progress: bool = True) -> Order:
        """The order itself when it has succeeded, with a line of progress meanwhile.

        Raises what ended it: Refused with a hospital's reason, OrderStopped when it was cancelled. TimeoutError when
        it goes on after `timeout_seconds`, Unavailable when the coordinator stays away.
        """
        shown = Progress(f"Order {self.order_id}", most_rounds=self._most_rounds()) if progress else None
        try:
            for event in self.events(timeout_seconds=timeout_seconds):
                if shown:
                    shown.tell(event)
        finally:
            if shown:
                shown.close()
        if self._state != "success":
            raise self.cause()
        return self

    def cause(self) -> ConsiliumError:
        """Why it failed or was cancelled."""
        told = self.info()
        if told["state"] != "cancelled" and told["refusal"]:
            return ConsiliumError.from_json(told["refusal"])
        return OrderStopped(
            f"Order {self.order_id} is {told['state']}.", remedy="Rerun it if it should go on."
        )

    def _most_rounds(self) -> int | None:
        if self.info()["kind"] != "train":
            return None
        return int(self.request()["model_params"].get("max_iter", DEFAULT_ROUNDS))

    # What came of it

    def metrics(self) -> pd.DataFrame:
        """A row for each fold, round and hospital: n_rows and joint loss of training rows, train_... metrics on its
        training rows and test_... on its held-out rows."""
        return results.metrics(self.info()["rounds"])

    def pooled_metrics(self) -> pd.DataFrame:
        """Of an order that has succeeded, metrics over all hospitals' rows: a line for each fold's training rows and
        for its held-out rows, and for those of all folds together (fold "all")."""
        return results.pooled_metrics(self.info()["summary"])

    def timeline(self, round: int | None = None, *, fold: int = 0) -> pd.DataFrame:
        """A row for each part of a round, by time: who (a user_id, 0 the coordinator), what, began, seconds, state.

        Without `round` the parts before and after the rounds. A part that still runs has no seconds.
        """
        told = self._connection.get(f"/orders/{self.order_id}/timeline", round=round, fold=fold).data
        return results.timeline(told["parts"])

    def scores(
        self, round: int | None = None, *, layers: list[str] | str | None = None, **parameters: float | str
    ) -> Scores:
        """All anomaly and contribution scores of a round, of the newest one unless another is named.

        `parameters`: `k`, `p`, `n_attackers` and `normalize="minmax"` of GET /anomaly/report. Without `round`,
        perf_diff is that of the newest round in which it was measured.
        """
        asked = {"order_id": self.order_id, "round": round, "layers": layers}
        report = self._connection.get("/anomaly/report", **asked, **parameters).body
        contribution, missing = self._contribution(asked)
        anomaly, ranks = (_column_by_column(report["data"], what) for what in ("score", "rank"))
        return Scores(
            round=report["round"],
            anomaly=anomaly,
            ranks=ranks,
            contribution=results.by_hospital(contribution).reindex(anomaly.index),
            parameters=report["parameters"],
            unavailable={**report["unavailable"], **missing},
        )

    def _contribution(self, asked: Json) -> tuple[dict[str, Json], dict[str, str]]:
        """(scores by name, why the others cannot be told by name)."""
        scores, missing = {}, {}
        for name, metric in CONTRIBUTIONS:
            layers = {"layers": asked["layers"]} if name == "grad_diff" else {}
            place = {"order_id": asked["order_id"], "round": asked["round"], **layers}
            try:
                told = self._connection.get(f"/contribution/{name}", **place, metric=metric).body
                scores[f"{name}_{metric}"] = told["data"]
            except (BadRequest, Conflict, NotFound) as error:
                missing[f"{name}_{metric}"] = str(error)
        return scores, missing

    def gradients(self, round: int | None = None, *, layers: list[str] | str | None = None) -> Vectors:
        """{hospital: {layer: values}} as far as the order shows them: of a sealed order in a frame of no meaning."""
        told = self._connection.get("/client_grad", order_id=self.order_id, round=round, layers=layers).body
        data = told["data"] if round is None else told
        return {
            int(user): {layer: np.array(values, dtype=np.float64) for layer, values in own.items()}
            for user, own in data.items()
        }

    def average_gradient(
        self, round: int | None = None, *, layers: list[str] | str | None = None
    ) -> Mapping[str, Any]:
        """{layer: values} of the round's average."""
        told = self._connection.get("/avg_grad", order_id=self.order_id, round=round, layers=layers).body
        data = told["data"] if round is None else told
        return {layer: np.array(values, dtype=np.float64) for layer, values in data.items()}

    def infer(self, sql: str, *, user_id: int | None = None) -> pd.DataFrame:
        """Predictions for rows of one's own hospital: id, label, and a probability for each class where there are some.

        `attrs["order_id"]` is the number of the order of inference.
        """
        who = user_id or self._user_id or self.info()["user_id"]
        rows = {"user_id": who, "data_sql": sql}
        told = self._connection.make("/model/infer", {"model_id": self.order_id, "input_data": rows}).data
        return self._order(told["order_id"])._predicted(told)

    def predictions(self) -> pd.DataFrame:
        """The same, of an order of inference that was asked before."""
        return self._predicted({"result": None})

    def _predicted(self, told: Json) -> pd.DataFrame:
        """Waits at the coordinator's door: an order of inference ends when somebody takes its answer."""
        while told["result"] is None:
            told = self._connection.get(
                "/model/infer_status", order_id=self.order_id, wait=LONGEST_WAIT_SECONDS
            ).data
        frame = results.predictions(told["result"])
        frame.attrs["order_id"] = self.order_id
        return frame

    def result(self, *, timeout_seconds: float | None = None, progress: bool = True) -> StatisticsResult:
        """The answer of an order of joint statistics, when it is there."""
        self.wait(timeout_seconds=timeout_seconds, progress=progress)
        return StatisticsResult.of(
            self._connection.get("/statistics/result", order_id=self.order_id).body["result"]
        )

    # Pictures

    def plot_loss(self, axes: Axes | None = None) -> Axes:
        """The loss on training rows by round, joint and each hospital's own; `.figure.savefig("loss.png")` keeps it."""
        from api.client import pictures

        return pictures.plot_loss(self.metrics(), axes, title=f"Order {self.order_id}")

    def plot_scores(self, round: int | None = None, *, axes: Axes | None = None, **asked: Any) -> Axes:
        """A round's scores, hospital by hospital: the darker, the more anomalous or the more it contributes."""
        from api.client import pictures

        scores = self.scores(round, **asked)
        return pictures.plot_scores(scores, axes, title=f"Order {self.order_id}, round {scores.round}")

    # What may be done with it

    def cancel(self) -> Order:
        """Ends it for all hospitals. Conflict when it has ended already."""
        self._state = self._connection.change("POST", f"/orders/{self.order_id}/cancel").data["state"]
        return self

    def rerun(self) -> Order:
        """A new order of the same request."""
        answer = self._connection.make(f"/orders/{self.order_id}/rerun")
        return self._order(answer.order_id or answer.data["order_id"])

    def record(self, round: int, gradients: Mapping[Any, Mapping[str, Any]], **facts: Any) -> Json:
        """Records a round of an external order: {client: {layer: values}}, and `sizes`, `average`, `performance`,
        `leave_one_out` of PUT /orders/{order_id}/rounds/{round}."""
        vectors = {
            str(client): {
                layer: np.asarray(values, dtype=np.float64).ravel().tolist() for layer, values in own.items()
            }
            for client, own in gradients.items()
        }
        body = {"gradients": vectors, **facts}
        told: Json = self._connection.change("PUT", f"/orders/{self.order_id}/rounds/{round}", body).body
        return told

    def _order(self, order_id: int) -> Order:
        return Order(self._connection, order_id, user_id=self._user_id, patience_seconds=self._patience)


def _column_by_column(report: Mapping[str, Mapping[str, Json]], what: str) -> pd.DataFrame:
    names = next(iter(report.values()))
    return results.by_hospital(
        {name: {user: own[name][what] for user, own in report.items()} for name in names}
    )
