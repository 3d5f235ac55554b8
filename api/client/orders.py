"""One order: how far it is, what came of it, its pictures, and what may be done with
it.

`results` makes the frames, `events` follows an order, `pictures` draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

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

Floats = np.ndarray[Any, np.dtype[np.float64]]
# {hospital: {layer: values}}
Vectors = dict[int, dict[str, Floats]]
# Names as a list, or as a text with commas between; None for the API's default.
Layers = list[str] | str | None

DEFAULT_ROUNDS = 100
LONGEST_WAIT_SECONDS = 60


class ContributionScore(NamedTuple):
    """A contribution score: its address below /contribution/, and how the difference is
    measured.
    """

    name: str
    metric: str


CONTRIBUTIONS = (
    ContributionScore("grad_diff", "eu"),
    ContributionScore("grad_diff", "cos"),
    ContributionScore("perf_diff", "accuracy"),
    ContributionScore("perf_diff", "loss"),
)


class Order:
    """An order by its number. `message` came beside the coordinator's answer: who is
    waited for, say.

    >>> from api.client.stand_in import stand_in
    >>> order = stand_in().order(37)
    >>> order.status()
    'success'
    >>> order.converged(), order.warnings()
    (True, [])
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
        self.order_id = order_id
        self.message = message
        self._connection = connection
        self._user_id = user_id
        self._patience_seconds = patience_seconds
        # As of the last answer or event; None before the first.
        self._state: str | None = None

    def __repr__(self) -> str:
        state = f": {self._state}" if self._state else ""
        return f"<Order {self.order_id}{state}>"

    # How far it is

    def status(self) -> str:
        """pending, running, success, failed or cancelled."""
        found = self._connection.get("/model/train_status", order_id=self.order_id).data
        self._state = str(found["train_status"])
        return self._state

    def info(self) -> Json:
        """Everything that may be known of it: state, rounds, stage, summary, who is
        waited for, protection.
        """
        found: Json = self._connection.get(f"/orders/{self.order_id}").data
        self._state = str(found["state"])
        return found

    def converged(self) -> bool | None:
        """Whether training had converged, with cross-validation that of every fold;
        None before the end.
        """
        found = self.info()["converged"]
        return None if found is None else bool(found)

    def warnings(self) -> list[str]:
        """What speaks against the model, a sentence each; none before the end."""
        return list(self.info()["warnings"])

    def waiting_for(self) -> pd.DataFrame:
        """A row for each hospital it waits for now: name, cause (away, working, ...)
        and a sentence, `message`.
        """
        found = self.info()
        return results.waiting(found["waiting_for"])

    def request(self) -> Json:
        """What was ordered, of a training order: parameters as sent, attributes, label,
        row counts.
        """
        found: Json = self._connection.get("/model/info", model_id=self.order_id).data
        return found

    def events(self, *, timeout_seconds: float | None = None) -> Iterator[Event]:
        """What happens, from the beginning until it has ended; a broken connection is
        made again meanwhile.
        """
        found = follow(
            self._connection,
            self.order_id,
            timeout_seconds=timeout_seconds,
            patience_seconds=self._patience_seconds,
        )
        for event in found:
            if event.name == "state":
                self._state = event.data["state"]
            yield event

    def wait(
        self, *, timeout_seconds: float | None = None, progress: bool = True
    ) -> Order:
        """The order itself when it has succeeded, with a line of progress meanwhile, and
        one for each warning behind it.

        Raises what ended it: Refused with a hospital's reason, OrderStopped when it was
        cancelled. TimeoutError when it goes on after `timeout_seconds`, Unavailable
        when the coordinator stays away.
        """
        line = None
        if progress:
            line = Progress(f"Order {self.order_id}", most_rounds=self._most_rounds())
        try:
            for event in self.events(timeout_seconds=timeout_seconds):
                if line:
                    line.tell(event)
            if line and self._state == "success":
                line.end_with(self.warnings())
        finally:
            if line:
                line.close()
        if self._state != "success":
            raise self.cause()
        return self

    def cause(self) -> ConsiliumError:
        """Why it failed or was cancelled."""
        found = self.info()
        if found["state"] != "cancelled" and found["refusal"]:
            return ConsiliumError.from_json(found["refusal"])
        return OrderStopped(
            f"Order {self.order_id} is {found['state']}.",
            remedy="Rerun it if it should go on.",
        )

    def _most_rounds(self) -> int | None:
        """Of a training order, how many rounds it may take; None for other kinds."""
        found = self.info()
        if found["kind"] != "train":
            return None
        parameters = self.request()["model_params"]
        return int(parameters.get("max_iter", DEFAULT_ROUNDS))

    # What came of it

    def metrics(self) -> pd.DataFrame:
        """A row for each fold, round and hospital: n_rows and joint loss of training
        rows, train_... metrics on its training rows and test_... on its held-out
        rows.
        """
        found = self.info()
        return results.metrics(found["rounds"])

    def pooled_metrics(self) -> pd.DataFrame:
        """Of an order that has succeeded, metrics over all hospitals' rows: a line for
        each fold's training rows and for its held-out rows, and for those of all folds
        together (fold "all").
        """
        found = self.info()
        return results.pooled_metrics(found["summary"])

    def evaluation(self) -> pd.Series:
        """Of an order of `Federation.evaluate` that has succeeded, how good the model is
        on all hospitals' rows: n_rows, and each metric by its name.

        The ROC curve and the calibration table are at the hospitals only: `./run agent
        report --evaluation`.
        """
        found = self.info()
        return results.evaluation(found["summary"])

    def rows(self) -> pd.DataFrame:
        """Of an order that has succeeded, how many rows were selected, left out and used:
        of all hospitals and of each.
        """
        found = self.info()
        return results.flow_numbers(found["summary"])

    def timeline(self, round: int | None = None, *, fold: int = 0) -> pd.DataFrame:
        """A row for each part of a round, by time: who (a user_id, 0 the coordinator),
        what, began, seconds, state.

        Without `round` the parts before and after the rounds. A part that still runs
        has no seconds.
        """
        found = self._connection.get(
            f"/orders/{self.order_id}/timeline", round=round, fold=fold
        ).data
        return results.timeline(found["parts"])

    def scores(
        self,
        round: int | None = None,
        *,
        layers: Layers = None,
        **parameters: float | str,
    ) -> Scores:
        """All anomaly and contribution scores of a round, of the newest one unless
        another is named.

        `parameters`: `k`, `p`, `n_attackers` and `normalize="minmax"` of GET
        /anomaly/report. Without `round`, perf_diff is that of the newest round in which
        it was measured.
        """
        place = {"order_id": self.order_id, "round": round}
        report = self._connection.get(
            "/anomaly/report", **place, layers=layers, **parameters
        ).body
        contributions: dict[str, Json] = {}
        missing = dict(report["unavailable"])
        for name, metric in CONTRIBUTIONS:
            # perf_diff measures whole models; it has no layers.
            query: Json = {**place, "metric": metric}
            if name == "grad_diff":
                query["layers"] = layers
            try:
                answer = self._connection.get(f"/contribution/{name}", **query)
            except (BadRequest, Conflict, NotFound) as error:
                missing[f"{name}_{metric}"] = str(error)
            else:
                contributions[f"{name}_{metric}"] = answer.body["data"]
        anomaly = _by_score(report["data"], "score")
        return Scores(
            round=report["round"],
            anomaly=anomaly,
            ranks=_by_score(report["data"], "rank"),
            contribution=results.by_hospital(contributions).reindex(anomaly.index),
            parameters=report["parameters"],
            unavailable=missing,
        )

    def gradients(self, round: int | None = None, *, layers: Layers = None) -> Vectors:
        """{hospital: {layer: values}} as far as the order shows them.

        Of a sealed order they are coordinates in a frame that the coordinator drew:
        lengths and angles are right, a single coordinate means nothing.
        """
        data = self._by_layers("/client_grad", round, layers)
        return {int(hospital): _arrays(by_layer) for hospital, by_layer in data.items()}

    def average_gradient(
        self, round: int | None = None, *, layers: Layers = None
    ) -> Mapping[str, Any]:
        """{layer: values} of the round's average."""
        return _arrays(self._by_layers("/avg_grad", round, layers))

    def _by_layers(self, path: str, round: int | None, layers: Layers) -> Json:
        """Raw data of a round."""
        answer = self._connection.get(
            path, order_id=self.order_id, round=round, layers=layers
        )
        found: Json = answer.body
        # Where no round was named, the answer also says which it is.
        if round is None:
            found = found["data"]
        return found

    def infer(
        self,
        sql: str | None = None,
        *,
        rows: Sequence[Mapping[str, Any]] | None = None,
        user_id: int | None = None,
    ) -> pd.DataFrame:
        """Predictions for rows of one's own hospital: id, label, and a probability for
        each class where there are some.

        sql: which rows; or rows: values by the model's columns, where the hospital's
        policy allows it. `attrs["order_id"]` is the number of the order of inference.
        """
        hospital = user_id or self._user_id or self.info()["user_id"]
        asked: Json = {"user_id": hospital}
        if sql is not None:
            asked["data_sql"] = sql
        if rows is not None:
            asked["rows"] = [dict(row) for row in rows]
        body = {"model_id": self.order_id, "input_data": asked}
        answer = self._connection.make("/model/infer", body).data
        order = self._order(answer["order_id"])
        return order._predicted(answer)

    def predictions(self) -> pd.DataFrame:
        """The same, of an order of inference that was sent before."""
        return self._predicted({"result": None})

    def _predicted(self, answer: Json) -> pd.DataFrame:
        """Asks until the predictions are there: events do not show that, as the order
        ends when they are fetched.
        """
        while answer["result"] is None:
            answer = self._connection.get(
                "/model/infer_status",
                order_id=self.order_id,
                wait=LONGEST_WAIT_SECONDS,
            ).data
        frame = results.predictions(answer["result"])
        frame.attrs["order_id"] = self.order_id
        return frame

    def result(
        self, *, timeout_seconds: float | None = None, progress: bool = True
    ) -> StatisticsResult:
        """The answer of an order of joint statistics, when it is there."""
        self.wait(timeout_seconds=timeout_seconds, progress=progress)
        body = self._connection.get("/statistics/result", order_id=self.order_id).body
        return StatisticsResult.of(body["result"])

    # Pictures

    def plot_loss(self, axes: Axes | None = None) -> Axes:
        """The loss on training rows by round, joint and each hospital's own;
        `.figure.savefig("loss.png")` keeps it.
        """
        # Here and not above: matplotlib takes a second to import, and most scripts draw
        # nothing.
        from api.client import pictures

        return pictures.plot_loss(self.metrics(), axes, title=f"Order {self.order_id}")

    def plot_scores(
        self, round: int | None = None, *, axes: Axes | None = None, **asked: Any
    ) -> Axes:
        """A round's scores, hospital by hospital: the darker, the more anomalous or the
        more it contributes.
        """
        from api.client import pictures

        scores = self.scores(round, **asked)
        return pictures.plot_scores(
            scores, axes, title=f"Order {self.order_id}, round {scores.round}"
        )

    # What may be done with it

    def cancel(self) -> Order:
        """Ends it for all hospitals. Conflict when it has ended already."""
        answer = self._connection.change("POST", f"/orders/{self.order_id}/cancel")
        self._state = answer.data["state"]
        return self

    def rerun(self) -> Order:
        """A new order of the same request."""
        answer = self._connection.make(f"/orders/{self.order_id}/rerun")
        order_id = answer.order_id or answer.data["order_id"]
        return self._order(order_id)

    def record(
        self, round: int, gradients: Mapping[Any, Mapping[str, Any]], **facts: Any
    ) -> Json:
        """Records a round of an external order: {client: {layer: values}}, and `sizes`,
        `average`, `performance`, `leave_one_out` of PUT
        /orders/{order_id}/rounds/{round}.
        """
        vectors: dict[str, dict[str, list[float]]] = {}
        for client, by_layer in gradients.items():
            own = vectors[str(client)] = {}
            for layer, values in by_layer.items():
                vector = np.asarray(values, dtype=np.float64)
                own[layer] = vector.ravel().tolist()
        body = {"gradients": vectors, **facts}
        answer = self._connection.change(
            "PUT", f"/orders/{self.order_id}/rounds/{round}", body
        )
        recorded: Json = answer.body
        return recorded

    def _order(self, order_id: int) -> Order:
        return Order(
            self._connection,
            order_id,
            user_id=self._user_id,
            patience_seconds=self._patience_seconds,
        )


def _arrays(by_layer: Mapping[str, Any]) -> dict[str, Floats]:
    arrays = {}
    for layer, values in by_layer.items():
        arrays[layer] = np.array(values, dtype=np.float64)
    return arrays


def _by_score(report: Mapping[str, Mapping[str, Json]], what: str) -> pd.DataFrame:
    """The `score` or `rank` of each score, a column each, from {hospital: {score name:
    {"score", "rank"}}}.
    """
    first = next(iter(report.values()))
    columns: dict[str, Json] = {}
    for name in first:
        column = columns[name] = {}
        for hospital, scores in report.items():
            column[hospital] = scores[name][what]
    return results.by_hospital(columns)
