"""One order: how far it is, what came of it, its pictures, and what may be done with
it.

`results` makes the frames, `events` follows an order, `pictures` draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from api.client import results
from api.client.answers import Answers, noted, report_frame, table_frame
from api.client.connection import Connection, Json
from api.client.events import Event, follow
from api.client.progress import Progress
from api.client.results import Floats, Scores, StatisticsResult
from protocol.errors import BadRequest, Conflict, ConsiliumError, NotFound, OrderStopped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
        answers: Answers | None = None,
    ) -> None:
        self.order_id = order_id
        self.message = message
        self._connection = connection
        self._user_id = user_id
        self._patience_seconds = patience_seconds
        self._answers = answers or Answers(connection)
        # As of the last answer or event; None before the first.
        self._state: str | None = None

    def __repr__(self) -> str:
        state = f": {self._state}" if self._state else ""
        return f"<Order {self.order_id}{state}>"

    # How far it is

    def status(self) -> str:
        """pending, running, success, failed or cancelled."""
        answer = self._connection.get("/model/train_status", order_id=self.order_id)
        self._state = str(answer.data["train_status"])
        return self._state

    def info(self) -> Json:
        """Everything that may be known of it: state, rounds, stage, summary, who is
        waited for, protection.
        """
        record: Json = self._connection.get(f"/orders/{self.order_id}").data
        self._state = str(record["state"])
        return record

    def converged(self) -> bool | None:
        """Whether training had converged, with cross-validation that of every fold;
        None before the end.
        """
        has_converged = self.info()["converged"]
        return None if has_converged is None else bool(has_converged)

    def warnings(self) -> list[str]:
        """What speaks against the model, a sentence each; none before the end."""
        return list(self.info()["warnings"])

    def waiting_for(self) -> pd.DataFrame:
        """A row for each hospital it waits for now: name, cause (away, working, ...)
        and a sentence, `message`.
        """
        record = self.info()
        return results.waiting(record["waiting_for"])

    def late(self) -> list[int]:
        """The hospitals that were asked and take no part, since it began without them:
        `start_within_seconds`.
        """
        return list(self.info()["late"])

    def request(self) -> Json:
        """What was ordered, of a training order: parameters as sent, attributes, label,
        row counts.
        """
        request: Json = self._connection.get("/model/info", model_id=self.order_id).data
        return request

    def events(self, *, timeout_seconds: float | None = None) -> Iterator[Event]:
        """What happens, from the beginning until it has ended; a broken connection is
        made again meanwhile.
        """
        events = follow(
            self._connection,
            self.order_id,
            timeout_seconds=timeout_seconds,
            patience_seconds=self._patience_seconds,
        )
        for event in events:
            if event.name == "state":
                self._state = event.data["state"]
            yield event

    def wait(
        self,
        *,
        timeout_seconds: float | None = None,
        progress: bool = True,
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
        record = self.info()
        if record["state"] != "cancelled" and record["refusal"]:
            return ConsiliumError.from_json(record["refusal"])
        return OrderStopped(
            f"Order {self.order_id} is {record['state']}.",
            remedy="Rerun it if it should go on.",
        )

    def _most_rounds(self) -> int | None:
        """Of a training order, how many rounds it may take; None for other kinds."""
        record = self.info()
        if record["kind"] != "train":
            return None
        parameters = self.request()["model_params"]
        return int(parameters.get("max_iter", DEFAULT_ROUNDS))

    # What came of it

    def metrics(self) -> pd.DataFrame:
        """A row for each fold, round and hospital: n_rows and joint loss of training
        rows, train_... metrics on its training rows and test_... on its held-out
        rows.
        """
        record = self.info()
        return results.metrics(record["rounds"])

    def pooled_metrics(self) -> pd.DataFrame:
        """Of an order that has succeeded, metrics over all hospitals' rows: a line for
        each fold's training rows and for its held-out rows, and for those of all folds
        together (fold "all").
        """
        record = self.info()
        return results.pooled_metrics(record["summary"])

    def evaluation(self) -> pd.Series:
        """Of an order of `Federation.evaluate` that has succeeded, how good the model is
        on all hospitals' rows: n_rows, and each metric by its name.

        The ROC curve and the calibration table are at the hospitals only: `./run agent
        report --evaluation`.
        """
        record = self.info()
        return results.evaluation(record["summary"])

    def answer(self) -> Any:
        """What the hospital has sealed to this user, opened, as it is: of a training
        order with a report, of an evaluation, of predictions, of joint statistics.
        """
        return self._answers.of_order(self.order_id).json()

    def report(self) -> pd.DataFrame:
        """Of an order with a report that is sealed to this user: estimate, se, p,
        interval of each term. `attrs` has n, AIC and the rest.
        """
        opened = self._answers.of_order(self.order_id, "report")
        frame = report_frame(opened.json())
        return noted(frame, opened)

    def roc(self) -> pd.DataFrame:
        """Of an evaluation that is sealed to this user, the ROC curve's steps."""
        return self._table("roc")

    def calibration(self) -> pd.DataFrame:
        """Of an evaluation that is sealed to this user, calibration by ranges of the
        score.
        """
        return self._table("calibration")

    def _table(self, name: str) -> pd.DataFrame:
        opened = self._answers.of_order(self.order_id, "evaluation")
        frame = table_frame(opened.json(), name)
        return noted(frame, opened)

    def rows(self) -> pd.DataFrame:
        """Of an order that has succeeded, how many rows were selected, left out and used:
        of all hospitals and of each.
        """
        record = self.info()
        return results.flow_numbers(record["summary"])

    def timeline(self, round: int | None = None, *, fold: int = 0) -> pd.DataFrame:
        """A row for each part of a round, by time: who (a user_id, 0 the coordinator),
        what, began, seconds, state.

        Without `round` the parts before and after the rounds. A part that still runs
        has no seconds.
        """
        path = f"/orders/{self.order_id}/timeline"
        answer = self._connection.get(path, round=round, fold=fold)
        return results.timeline(answer.data["parts"])

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
        round_query = {"order_id": self.order_id, "round": round}
        report_answer = self._connection.get(
            "/anomaly/report",
            **round_query,
            layers=layers,
            **parameters,
        )
        report = report_answer.body
        contributions: dict[str, Json] = {}
        missing = dict(report["unavailable"])
        for name, metric in CONTRIBUTIONS:
            column = f"{name}_{metric}"
            # perf_diff measures whole models; it has no layers.
            metric_query: Json = {**round_query, "metric": metric}
            if name == "grad_diff":
                metric_query["layers"] = layers
            try:
                answer = self._connection.get(f"/contribution/{name}", **metric_query)
            except (BadRequest, Conflict, NotFound) as error:
                missing[column] = str(error)
            else:
                contributions[column] = answer.body["data"]
        anomaly = results.by_score(report["data"], "score")
        ranks = results.by_score(report["data"], "rank")
        contribution = results.by_hospital(contributions)
        return Scores(
            round=report["round"],
            anomaly=anomaly,
            ranks=ranks,
            contribution=contribution.reindex(anomaly.index),
            parameters=report["parameters"],
            unavailable=missing,
        )

    def gradients(self, round: int | None = None, *, layers: Layers = None) -> Vectors:
        """{hospital: {layer: values}} as far as the order shows them.

        Of a sealed order they are coordinates in a frame that the coordinator drew:
        lengths and angles are right, a single coordinate means nothing.
        """
        raw_values = self._by_layers("/client_grad", round, layers)
        vectors = {}
        for hospital, by_layer in raw_values.items():
            vectors[int(hospital)] = results.arrays(by_layer)
        return vectors

    def average_gradient(
        self,
        round: int | None = None,
        *,
        layers: Layers = None,
    ) -> Mapping[str, Any]:
        """{layer: values} of the round's average."""
        raw_values = self._by_layers("/avg_grad", round, layers)
        return results.arrays(raw_values)

    def _by_layers(self, path: str, round: int | None, layers: Layers) -> Json:
        """Raw data of a round."""
        answer = self._connection.get(
            path,
            order_id=self.order_id,
            round=round,
            layers=layers,
        )
        raw_values: Json = answer.body
        # Where no round was named, the answer also says which it is.
        if round is None:
            raw_values = raw_values["data"]
        return raw_values

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
        input_data: Json = {"user_id": hospital}
        if sql is not None:
            input_data["data_sql"] = sql
        if rows is not None:
            input_data["rows"] = [dict(row) for row in rows]
        question = {"model_id": self.order_id, "input_data": input_data}
        body = self._answers.asked(question)
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
            if "sealed" in answer:
                sealed = answer["sealed"]
                opened = self._answers.open(sealed, self.order_id, "predictions")
                frame = results.predictions(opened.json())
                return noted(frame, opened)
            answer = self._connection.get(
                "/model/infer_status",
                order_id=self.order_id,
                wait=LONGEST_WAIT_SECONDS,
            ).data
        frame = results.predictions(answer["result"])
        frame.attrs["order_id"] = self.order_id
        return frame

    def result(
        self,
        *,
        timeout_seconds: float | None = None,
        progress: bool = True,
    ) -> StatisticsResult:
        """The answer of an order of joint statistics, when it is there."""
        self.wait(timeout_seconds=timeout_seconds, progress=progress)
        answer = self._connection.get("/statistics/result", order_id=self.order_id)
        statistics_result = StatisticsResult.of(answer.body["result"])
        return self.with_rows(statistics_result)

    def with_rows(self, found: StatisticsResult) -> StatisticsResult:
        """This order's answer with its rows, where they are sealed to this user."""
        if found.values is None and self._answers.is_sealed:
            opened = self._answers.of_order(self.order_id, "statistics")
            rows = results.exact_frame(opened.json()["rows"])
            found = replace(found, values=noted(rows, opened))
        return found

    # Pictures

    def plot_loss(self, axes: Axes | None = None) -> Axes:
        """The loss on training rows by round, joint and each hospital's own;
        `.figure.savefig("loss.png")` keeps it.
        """
        # Here and not above: matplotlib takes a second to import, and most scripts draw
        # nothing.
        from api.client import pictures

        title = f"Order {self.order_id}"
        return pictures.plot_loss(self.metrics(), axes, title=title)

    def plot_scores(
        self,
        round: int | None = None,
        *,
        axes: Axes | None = None,
        **asked: Any,
    ) -> Axes:
        """A round's scores, hospital by hospital: the darker, the more anomalous or the
        more it contributes.
        """
        from api.client import pictures

        scores = self.scores(round, **asked)
        title = f"Order {self.order_id}, round {scores.round}"
        return pictures.plot_scores(scores, axes, title=title)

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
        self,
        round: int,
        gradients: Mapping[Any, Mapping[str, Any]],
        **facts: Any,
    ) -> Json:
        """Records a round of an external order: {client: {layer: values}}, and `sizes`,
        `average`, `performance`, `leave_one_out` of PUT
        /orders/{order_id}/rounds/{round}.
        """
        vectors: dict[str, dict[str, list[float]]] = {}
        for client, by_layer in gradients.items():
            vectors[str(client)] = results.lists(by_layer)
        body = {"gradients": vectors, **facts}
        round_path = f"/orders/{self.order_id}/rounds/{round}"
        answer = self._connection.change("PUT", round_path, body)
        recorded: Json = answer.body
        return recorded

    def _order(self, order_id: int) -> Order:
        return Order(
            self._connection,
            order_id,
            user_id=self._user_id,
            patience_seconds=self._patience_seconds,
            answers=self._answers,
        )
