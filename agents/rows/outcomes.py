"""What a model is to predict of each row, and how much the row weighs.

A label is 0 or 1, a number that its family knows, a class, or what is known of a time.
Every message counts rows and names columns; none holds a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agents.rows.canonical_text import WHOLE_NUMBER
from agents.rows.column_text import label_sql
from agents.rows.dataset import Dataset
from agents.rows.features import category_texts, doubles_of
from agents.rows.missing_values import capital
from analytics.arrays import Floats, Ints
from analytics.training import cox_labels, families, pairs
from analytics.training.models import CLASSIFIERS
from protocol.errors import BadRequest, bad_request, check_all


@dataclass(frozen=True)
class SurvivalColumns:
    """What a cox knows of times, beside the label, which is the time."""

    event: str  # 1 where the event was, 0 where a row was censored
    entry: str | None = None  # from when on a row is observed
    strata: tuple[str, ...] = ()  # whose levels have a baseline each

    @property
    def names(self) -> list[str]:
        entry = [] if self.entry is None else [self.entry]
        return [self.event, *entry, *self.strata]


def read_label(
    rows: Dataset,
    label_name: str | None,
    survival: SurvivalColumns | None,
    model_type: str,
    family: str,
) -> tuple[NDArray[Any] | None, list[Any]]:
    if label_name is None:
        return None, []
    if model_type in CLASSIFIERS:
        y = _classes(rows, label_name)
        return y, sorted(set(y.tolist()))
    if not rows.is_number(label_name):
        raise bad_request(
            "label",
            f"{capital(rows.told(rows.n_rows))} with a label in {label_name} that is no number.",
            "Map the label to numbers in a view, or order model_type softmax.",
        )
    doubles = doubles_of(rows, label_name)
    if model_type == "lr" or family == "binomial":
        _check_binary(rows, label_name, doubles)
        return doubles, [label for label in (0, 1) if (doubles == label).any()]
    if survival is not None:
        return _survival(rows, label_name, survival, doubles), []
    n_bad = int(np.count_nonzero(~np.isfinite(doubles)))
    if n_bad:
        raise bad_request(
            "label",
            f"{capital(rows.told(n_bad))} with an infinite label in {label_name}.",
            "Leave these rows out.",
        )
    if family:
        _check_family(rows, label_name, family, doubles)
    return doubles, []


def _survival(
    rows: Dataset, label_name: str, survival: SurvivalColumns, times: Floats
) -> Floats:
    """What is known of times, as `analytics.training.cox.label` has it.

    BadRequest (code label) with all that is wrong.
    """
    event_name = survival.event
    problems: list[BadRequest] = []
    is_time = np.isfinite(times) & (times > 0)
    n_bad = int(np.count_nonzero(~is_time))
    if n_bad:
        problems.append(
            bad_request(
                "label",
                f"{capital(rows.told(n_bad))} with a time in {label_name} that is not finite and above 0.",
                "Leave these rows out, or give the time of an event on the first day as 0.5.",
            )
        )
    # Of a column that holds no numbers no row has an event that is 0 or 1.
    events = np.full(len(times), np.nan)
    if rows.is_number(event_name):
        events = doubles_of(rows, event_name)
    n_bad = int(np.count_nonzero((events != 0) & (events != 1)))
    if n_bad:
        problems.append(
            bad_request(
                "label",
                f"{capital(rows.told(n_bad))} with an event other than 0 and 1 in {event_name}.",
                "Map it to 1 for the event and 0 for censored rows, in a view.",
            )
        )
    entry_times = None
    if survival.entry is not None:
        entry_times, entry_problems = _entries(rows, label_name, survival.entry, times)
        problems += entry_problems
    check_all(*[partial(_raise, error) for error in problems])
    strata = _strata(rows, survival.strata) if survival.strata else None
    return cox_labels.label(times, events, entries=entry_times, strata=strata)


def _entries(
    rows: Dataset, label_name: str, entry_name: str, times: Floats
) -> tuple[Floats, list[BadRequest]]:
    entry_times = np.full(len(times), np.nan)
    if rows.is_number(entry_name):
        entry_times = doubles_of(rows, entry_name)
    n_bad = int(np.count_nonzero(~(np.isfinite(entry_times) & (entry_times >= 0))))
    if n_bad:
        return entry_times, [
            bad_request(
                "label",
                f"{capital(rows.told(n_bad))} with an entry in {entry_name} that is not finite and 0 or more.",
                "Give 0 for rows that are observed from the beginning, or leave these rows out.",
            )
        ]
    n_bad = int(np.count_nonzero(entry_times >= times))
    if n_bad:
        return entry_times, [
            bad_request(
                "label",
                f"{capital(rows.told(n_bad))} with an entry in {entry_name} that is not before {label_name}.",
                "Leave these rows out: nobody of them was observed at risk.",
            )
        ]
    return entry_times, []


def _strata(rows: Dataset, names: Sequence[str]) -> Ints:
    """A code of each row's levels together, (n_rows,), from 0 on, by this hospital's own
    order: the levels are nobody else's business.
    """
    level_texts = np.column_stack([category_texts(rows, name) for name in names])
    frame = pd.DataFrame(level_texts)
    codes = frame.groupby(list(frame.columns), sort=True).ngroup()
    return np.asarray(codes.to_numpy(dtype=np.int64))


def _raise(error: BadRequest) -> None:
    raise error


def _check_family(rows: Dataset, label_name: str, family: str, doubles: Floats) -> None:
    is_bad, requirement = families.label_problem(pairs.canonical_pair(family), doubles)
    n_bad = int(np.count_nonzero(is_bad))
    if n_bad:
        raise bad_request(
            "label",
            f"{capital(rows.told(n_bad))} with a label in {label_name} that is not {requirement}, as {family} asks.",
            "Leave these rows out, or order a family that knows such labels, such as gaussian.",
        )


def read_weights(rows: Dataset, name: str, *, are_counts: bool) -> Floats:
    requirement = (
        "a whole number of 0 or more" if are_counts else "a number of 0 or more"
    )
    weights = np.full(rows.n_rows, np.nan)
    if rows.is_number(name):
        weights = doubles_of(rows, name)
    is_weight = np.isfinite(weights) & (weights >= 0)
    if are_counts:
        is_weight &= weights == np.floor(weights)
    n_bad = int(np.count_nonzero(~is_weight))
    if n_bad:
        raise bad_request(
            "weights",
            f"{capital(rows.told(n_bad))} with a weight in {name} that is not {requirement}.",
            "Leave these rows out, or give them a weight in a view.",
        )
    if not weights.any():
        raise bad_request(
            "weights",
            f"All weights in {name} are 0.",
            "Give rows a weight above 0, or name another column.",
        )
    return weights


def _check_binary(rows: Dataset, label_name: str, doubles: Floats) -> None:
    n_bad = int(np.count_nonzero((doubles != 0) & (doubles != 1)))
    if n_bad:
        raise bad_request(
            "label",
            f"{capital(rows.told(n_bad))} with a label other than 0 and 1 in {label_name}.",
            "Map the label to 0 and 1 in a view, or order model_type softmax.",
        )


def _classes(rows: Dataset, label_name: str) -> NDArray[Any]:
    """Classes as canonical texts, those of a column of numbers as whole numbers."""
    text = label_sql(rows, label_name)
    is_number = rows.is_number(label_name)
    if is_number:
        sql = f"SELECT count(*) FILTER (NOT regexp_full_match({text}, '{WHOLE_NUMBER}')) FROM rows"  # noqa: S608
        ((n_bad,),) = rows.query(sql)
        if n_bad:
            raise bad_request(
                "label",
                f"{capital(rows.told(n_bad))} with a label in {label_name} that is no class (whole number or text).",
                "Use whole numbers or texts as classes, or order model_type linear.",
            )
    y = np.empty(rows.n_rows, dtype=object)
    classes: dict[str, Any] = {}
    row_place = 0
    for frame in rows.frames(f"SELECT {text} AS label FROM rows"):  # noqa: S608
        for label in frame["label"].tolist():
            # One object for all rows of a class.
            if label not in classes:
                classes[label] = int(label) if is_number else label
            y[row_place] = classes[label]
            row_place += 1
    return y
