"""The coordinator's answers as frames and small records.

Every function here is pure: rows in, a frame out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from api.client.connection import Json
from protocol.errors import NotFound

Floats = np.ndarray[Any, np.dtype[np.float64]]
# Columns that hold points in time.
MOMENTS = ("created", "updated", "last_seen", "scheduled", "started")
LARGEST_EXACT_FLOAT = 2**53


@dataclass(frozen=True)
class StatisticsResult:
    """The answer to a question of joint statistics.

    `path` is where the result lies in each receiver's own results folder; `values` are
    its rows where they were sealed to this user, or where the order was sent with
    disclose and every provider's policy allows it, else None.

    >>> answer = {"path": "41/mean_cost.csv", "type": "csv", "extra": '{"order_id": 41, "notes": []}'}
    >>> StatisticsResult.of(answer).extra["order_id"]
    41
    >>> StatisticsResult.of({**answer, "values": [{"mean_cost": 12.5}]}).values
       mean_cost
    0       12.5
    """

    path: str
    type: str  # csv, parquet, ...
    extra: Json = field(
        default_factory=dict
    )  # order_id, notes, and more by kind of question
    values: pd.DataFrame | None = field(default=None, repr=False)

    @property
    def order_id(self) -> int:
        return int(self.extra["order_id"])

    def frame(self) -> pd.DataFrame:
        """Its rows. NotFound (code no_answer) where they did not come here."""
        if self.values is None:
            raise NotFound(
                f"The rows are in the receivers' own folders, {self.path}, and did not come here.",
                remedy="Ask by Federation(..., sealed=True), once your hospital has listed your key as a reader.",
                code="no_answer",
            )
        return self.values

    @classmethod
    def of(cls, result: Json) -> StatisticsResult:
        """From `result` of the answer, in which `extra` is JSON as text."""
        extra = json.loads(result["extra"] or "{}")
        values = None
        if "values" in result:
            values = exact_frame(result["values"])
        return cls(
            result["path"],
            result["type"],
            extra,
            values,
        )


def exact_frame(rows: list[Json]) -> pd.DataFrame:
    """Rows as a frame in which whole numbers beyond 2^53 stay what they are; pandas
    makes floats of them beside a null.

    >>> exact_frame([{"total": 9007199254740993}, {"total": None}])["total"].tolist()
    [9007199254740993, None]
    """
    frame = pd.DataFrame(rows)
    for column in frame.columns:
        cells = [row.get(column) for row in rows]
        largest = 0
        for cell in cells:
            if isinstance(cell, int):
                largest = max(largest, abs(cell))
        if largest > LARGEST_EXACT_FLOAT:
            frame[column] = pd.Series(cells, dtype=object)
    return frame


@dataclass(frozen=True)
class Scores:
    """All scores of a round, a row for each hospital; NaN where a score is not defined."""

    round: int
    anomaly: pd.DataFrame
    ranks: pd.DataFrame  # of the anomaly scores; 1 is the most anomalous hospital
    contribution: pd.DataFrame
    parameters: Json  # those that were used
    unavailable: dict[str, str]  # by the name of a score that is missing: why


def table(
    rows: Iterable[Json],
    index: str,
    columns: Iterable[str] = (),
) -> pd.DataFrame:
    """Rows as a frame with points in time as such; `columns` exist even if there is no
    row.

    >>> table([{"order_id": 7, "created": "2026-11-20T08:00:00Z"}], "order_id")["created"].dt.hour
    order_id
    7    8
    Name: created, dtype: int32
    """
    frame = _frame(list(rows), [index, *columns])
    for column in frame.columns.intersection(list(MOMENTS)):
        frame[column] = _moments(frame[column])
    return frame.set_index(index)


def _moments(texts: pd.Series) -> pd.Series:
    # Without this format pandas takes that of the first text for all, and fails at one
    # that has fractions of a second where that has none.
    return pd.to_datetime(texts, utc=True, format="ISO8601")


def _frame(
    rows: list[Json],
    columns: list[str],
) -> pd.DataFrame:
    """A frame of rows, with these columns where there is none to read names from."""
    if rows:
        return pd.DataFrame(rows)
    return pd.DataFrame([], columns=columns)


def timeline(parts: Iterable[Json]) -> pd.DataFrame:
    """A row for each part of an order that has begun.

    >>> moment = "2026-11-20T08:00:0{}Z".format
    >>> part = {"user_id": 2, "what": "encryption", "began": moment(1), "ended": moment(3), "state": "success"}
    >>> timeline([part, {**part, "user_id": None, "what": "aggregation", "ended": None}])[["who", "what", "seconds"]]
       who         what  seconds
    0    2   encryption      2.0
    1    0  aggregation      NaN
    """
    rows = []
    for part in parts:
        # 0 is the coordinator, which has no user_id.
        who = part["user_id"] or 0
        rows.append({**part, "who": who})
    frame = pd.DataFrame(
        rows,
        columns=[
            "who",
            "what",
            "began",
            "ended",
            "state",
        ],
    )
    for column in ("began", "ended"):
        frame[column] = _moments(frame[column])
    lasted = frame["ended"] - frame["began"]
    frame["seconds"] = lasted.dt.total_seconds()
    columns = [
        "who",
        "what",
        "began",
        "seconds",
        "state",
    ]
    return frame[columns]


def waiting(entries: Iterable[Json]) -> pd.DataFrame:
    """A row for each hospital that an order waits for.

    >>> entry = {"user_id": 2, "name": "suzhou-szslyy", "cause": "away", "message": "suzhou-szslyy is away."}
    >>> waiting([entry]).loc[2, "cause"]
    'away'
    """
    columns = [
        "user_id",
        "name",
        "cause",
        "message",
    ]
    frame = pd.DataFrame(list(entries), columns=columns)
    by_user = frame.set_index("user_id")
    return by_user.rename_axis("hospital")


def metrics(rounds: Iterable[Json]) -> pd.DataFrame:
    """A row for each fold, round and hospital: its training rows, its metrics on them
    (`train_...`) and on its held-out rows (`test_...`), and the round's joint loss on
    training rows.

    >>> own = {"n_rows": 228, "train": {"loss": 0.69, "accuracy": 0.5}}
    >>> rounds = [{"fold": 0, "round": 3, "loss": 0.7, "final": False, "hospitals": {"2": own}, "left_out": {}}]
    >>> metrics(rounds)[["round", "hospital", "loss", "train_loss", "train_accuracy"]]
       round  hospital  loss  train_loss  train_accuracy
    0      3         2   0.7        0.69             0.5
    """
    rows: list[Json] = []
    for recorded_round in rounds:
        for hospital, report in recorded_round["hospitals"].items():
            hospital_row = {
                "fold": recorded_round["fold"],
                "round": recorded_round["round"],
                "final": recorded_round["final"],
                "hospital": int(hospital),
                "n_rows": report.get("n_rows"),
                "loss": recorded_round["loss"],
            }
            for part in ("train", "test"):
                measured = report.get(part) or {}
                for metric, value in measured.items():
                    column = f"{part}_{metric}"
                    hospital_row[column] = value
            left_out = recorded_round["left_out"]
            hospital_row["left_out"] = left_out.get(hospital)
            rows.append(hospital_row)
    columns = [
        "fold",
        "round",
        "final",
        "hospital",
        "n_rows",
        "loss",
        "left_out",
    ]
    return _frame(rows, columns)


def pooled_metrics(summary: Mapping[str, Any]) -> pd.DataFrame:
    """Metrics over all hospitals' rows, a line for each fold's "training" and
    "held_out" rows, and with cross-validation one, of fold "all", for the held-out rows
    of all folds. NaN where a metric is not defined. On lines of training rows also
    whether training had converged, and by what it stopped.

    >>> held_out = {"n_rows": 60, "loss": 0.5, "auc": None}
    >>> pooled_metrics({"0": {"n_rows": 140, "loss": 0.4, "auc": 0.9, "held_out": held_out}})
      fold      rows  n_rows  loss  auc
    0    0  training     140   0.4  0.9
    1    0  held_out      60   0.5  NaN
    """
    fold_lines: list[Json] = []
    folds = [fold_name for fold_name in summary if fold_name.isdecimal()]
    for fold in sorted(folds, key=int):
        training = dict(summary[fold])
        held_out = training.pop("held_out", None)
        # Sentences are no figures; `Order.warnings` has them.
        training.pop("warnings", None)
        fold_lines.append(
            {
                "fold": fold,
                "rows": "training",
                **training,
            }
        )
        if held_out:
            fold_lines.append(
                {
                    "fold": fold,
                    "rows": "held_out",
                    **held_out,
                }
            )
    # With cross-validation the summary itself has one, over all folds.
    overall = summary.get("held_out")
    if overall:
        fold_lines.append(
            {
                "fold": "all",
                "rows": "held_out",
                **overall,
            }
        )
    columns = [
        "fold",
        "rows",
        "n_rows",
        "loss",
    ]
    return _frame(fold_lines, columns)


def evaluation(summary: Mapping[str, Any]) -> pd.Series:
    """What an evaluation found, by name.

    >>> told = {"model_id": 37, "n_rows": 140, "metrics": {"auc": 0.9, "brier": 0.1}}
    >>> evaluation({"evaluation": told}).to_dict()
    {'n_rows': 140.0, 'auc': 0.9, 'brier': 0.1}
    """
    measured = summary.get("evaluation")
    if measured is None:
        return pd.Series(dtype=object)
    values = {
        "n_rows": measured["n_rows"],
        **measured["metrics"],
    }
    return pd.Series(values)


def flow_numbers(summary: Mapping[str, Any]) -> pd.DataFrame:
    """How many rows an order selected, left out and used, a line for all hospitals'
    and one for each one's. Missing where it is not told.

    >>> rows = {"selected": 9, "left_out": 2, "used": 7}
    >>> flow_numbers({"rows": {**rows, "hospitals": {"2": {**rows, "selected": None}}}})
      hospital  selected  left_out  used
    0      all         9         2     7
    1        2      <NA>         2     7
    """
    rows = dict(summary.get("rows", {}))
    of_hospitals = rows.pop("hospitals", {})
    hospital_lines: list[Json] = []
    if rows:
        hospital_line = {"hospital": "all", **rows}
        hospital_lines.append(hospital_line)
    for hospital, numbers in of_hospitals.items():
        hospital_line = {"hospital": hospital, **numbers}
        hospital_lines.append(hospital_line)
    counts = ["selected", "left_out", "used"]
    frame = _frame(hospital_lines, ["hospital", *counts])
    # Beside a missing number pandas makes floats of whole ones, but not of these.
    types = dict.fromkeys(counts, "Int64")
    return frame.astype(types)


def by_hospital(scores: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """{score: {hospital: value}} as a frame, null as NaN.

    >>> by_hospital({"krum": {"2": 0.25, "4": None}})  # doctest: +NORMALIZE_WHITESPACE
              krum
    hospital
    2         0.25
    4          NaN
    """
    columns = {}
    for score_name, hospital_values in scores.items():
        columns[score_name] = pd.Series(hospital_values, dtype=float)
    frame = pd.DataFrame(columns)
    # As texts hospital 10 would come before 2.
    hospitals = frame.index.astype(int)
    frame.index = hospitals.rename("hospital")
    return frame.sort_index()


def by_score(
    report: Mapping[str, Mapping[str, Json]],
    aspect: str,
) -> pd.DataFrame:
    """The `score` or `rank` of each score, a column each, from {hospital: {score name:
    {"score", "rank"}}}.
    """
    first_scores = next(iter(report.values()))
    columns: dict[str, Json] = {}
    for score_name in first_scores:
        column = columns[score_name] = {}
        for hospital, scores in report.items():
            column[hospital] = scores[score_name][aspect]
    return by_hospital(columns)


def arrays(by_layer: Mapping[str, Any]) -> dict[str, Floats]:
    """{layer: values} as arrays."""
    layer_arrays = {}
    for layer, layer_values in by_layer.items():
        layer_arrays[layer] = np.array(layer_values, dtype=np.float64)
    return layer_arrays


def lists(by_layer: Mapping[str, Any]) -> dict[str, list[float]]:
    """The same as lists, which JSON has."""
    layer_lists = {}
    for layer, layer_values in by_layer.items():
        vector = np.asarray(layer_values, dtype=np.float64)
        layer_lists[layer] = vector.ravel().tolist()
    return layer_lists


def predictions(rows: Iterable[Json]) -> pd.DataFrame:
    """A row for each patient: id, label, and the probability of each class where a
    model has classes. Where the model cannot be applied to some, they have no label, and
    a column says the reason.

    >>> predictions([{"id": "133", "label": "b", "probabilities": {"a": 0.25, "b": 0.75}}])
        id label  probability_a  probability_b
    0  133     b           0.25           0.75
    """
    patients: list[Json] = []
    for row in rows:
        patient = {
            "id": row["id"],
            "label": row["label"],
        }
        probabilities = row.get("probabilities") or {}
        for class_name, probability in probabilities.items():
            column = f"probability_{class_name}"
            patient[column] = probability
        if "reason" in row:
            patient["reason"] = row["reason"]
        patients.append(patient)
    return pd.DataFrame(patients)
