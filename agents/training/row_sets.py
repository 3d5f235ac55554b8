"""The sets of rows that an order trains or tests on: all of them, and both parts of every
fold.

Which rows a fold holds out is drawn with a key that never leaves the vault. The order's
seed alone would let its sender choose fold after fold until the sums over known rows
give each row away.

Decision 20.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.rows import cohort as cohorts
from agents.rows.cohort import Cohort
from agents.training.party import AskedTraining
from analytics.arrays import Ints
from analytics.training.folds import fold_indices, validation_indices
from analytics.training.models import CLASSIFIERS, Model
from protocol.errors import BadRequest
from protocol.training_request import TrainingRequest, folds, n_held_out


@dataclass(frozen=True, eq=False)
class OrderRows:
    """The rows that an order has at this hospital; none of them leaves it."""

    train: Cohort
    test: Cohort | None  # where the order has SQL of its own for testing
    split_key: bytes  # draws which rows a fold holds out; from this hospital's memory

    @property
    def n_test_rows(self) -> int:
        return 0 if self.test is None else self.test.n_rows


def held_out_rows(
    order: AskedTraining,
    rows: OrderRows,
    fold: int,
) -> Ints:
    """Which of this hospital's rows, in order of unique_id, test the model of a fold
    instead of training it.
    """
    return split(
        order.request,
        rows.train.n_rows,
        fold,
        rows.split_key,
    )


def split(
    request: TrainingRequest,
    n_rows: int,
    fold: int,
    key: bytes,
) -> Ints:
    """The held-out rows of a hospital with this many rows and this key: `split_key`,
    from its memory.
    """
    cv = request.model_params.cv_param
    seed = _own_seed(key, cv.random_seed)
    if fold > 0:
        all_folds = fold_indices(
            n_rows,
            n_splits=cv.n_splits,
            shuffle=cv.shuffle,
            seed=seed,
        )
        held_out = all_folds[fold - 1]
    elif request.validation_fraction is not None:
        held_out = validation_indices(
            n_rows,
            fraction=request.validation_fraction,
            seed=seed,
        )
    else:
        held_out = np.arange(0)
    # The coordinator derives this number by itself, and holds each report's rows
    # against it.
    assert len(held_out) == n_held_out(request, n_rows, fold)
    return held_out


def _own_seed(key: bytes, seed: int) -> int:
    """63 bits of HMAC-SHA-256: the order's seed, which its sender chose, under this
    hospital's key (decision 20).
    """
    digest = hmac.digest(key, b"folds/%d" % seed, hashlib.sha256)
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True, eq=False)
class RowSet:
    """One set of rows that the order uses."""

    name: str  # as the ledger calls it: train, test, train/fold-1, test/fold-1
    cohort: Cohort
    # (n_rows,): where they stand among the rows that the SQL gave.
    places: Ints
    n_parameters: int  # how many it trains; 0 where it only tests


def row_sets(order: AskedTraining, rows: OrderRows) -> dict[str, Cohort]:
    """By name, the sets of rows that the order trains or tests on."""
    cohort_of: dict[str, Cohort] = {}
    for sets in sets_by_purpose(order, rows).values():
        cohort_of.update({row_set.name: row_set.cohort for row_set in sets})
    return cohort_of


def sets_by_purpose(
    order: AskedTraining,
    rows: OrderRows,
) -> dict[str, list[RowSet]]:
    """By the purpose of the SQL that read them, train or test. Raises BadRequest (code
    folds).
    """
    n_parameters = _least_parameters(order.request, rows.train)
    sets_of = {"train": trained_sets(order.request, rows, n_parameters)}
    if rows.test is not None:
        every_row = np.arange(rows.test.n_rows)
        tested = RowSet(
            "test",
            rows.test,
            every_row,
            n_parameters=0,
        )
        sets_of["test"] = [tested]
    return sets_of


def training_sets(order: AskedTraining, rows: OrderRows) -> list[Cohort]:
    """The rows of the train SQL in every set in which they enter a sum."""
    sets = trained_sets(
        order.request,
        rows,
        n_parameters=0,
    )
    return [row_set.cohort for row_set in sets]


def trained_sets(
    request: TrainingRequest,
    rows: OrderRows,
    n_parameters: int,
) -> list[RowSet]:
    """The whole cohort, of an evaluation its subgroups, and of each fold with held-out
    rows both parts.
    """
    cohort = rows.train
    whole = RowSet(
        "train",
        cohort,
        np.arange(cohort.n_rows),
        n_parameters,
    )
    sets = [whole]
    # Of each subgroup the same sums are opened as of all rows.
    groups = places_of_groups(cohort).values()
    for number, group_places in enumerate(groups, start=1):
        group_rows = cohorts.rows_of(cohort, group_places)
        subgroup = RowSet(
            f"subgroup {number}",
            group_rows,
            group_places,
            n_parameters=0,
        )
        sets.append(subgroup)
    for fold in folds(request):
        try:
            held_out = split(
                request,
                cohort.n_rows,
                fold,
                rows.split_key,
            )
        except ValueError as error:
            raise BadRequest(
                str(error),
                remedy="Use fewer folds or another fraction.",
                code="folds",
            ) from None
        if len(held_out):
            trained_places = np.setdiff1d(np.arange(cohort.n_rows), held_out)
            trained = RowSet(
                f"train/fold-{fold}",
                cohorts.rows_of(cohort, trained_places),
                trained_places,
                n_parameters,
            )
            tested = RowSet(
                f"test/fold-{fold}",
                cohorts.rows_of(cohort, held_out),
                np.asarray(held_out),
                n_parameters=0,
            )
            sets += [trained, tested]
    return sets


def places_of_groups(cohort: Cohort) -> dict[str, Ints]:
    """By subgroup where its rows are; nothing without subgroups."""
    if cohort.groups is None:
        return {}
    levels = sorted(set(cohort.groups.tolist()))
    group_places = {}
    for level in levels:
        is_in_group = cohort.groups == level
        group_places[level] = np.flatnonzero(is_in_group)
    return group_places


@dataclass(frozen=True, eq=False)
class RowPart:
    """Rows that train, or that test, one fold's model."""

    purpose: str  # of the SQL that read them
    trains: bool
    labels: NDArray[Any]  # (n,), as the database has them


def row_parts(request: TrainingRequest, rows: OrderRows) -> list[RowPart]:
    """Every part of the rows that some fold's metrics are over."""
    labels = rows.train.y
    assert labels is not None
    every_row = np.arange(rows.train.n_rows)
    parts = []
    for fold in folds(request):
        held_out = split(
            request,
            rows.train.n_rows,
            fold,
            rows.split_key,
        )
        trained_places = np.setdiff1d(every_row, held_out)
        trained = RowPart("train", trains=True, labels=labels[trained_places])
        parts.append(trained)
        if len(held_out):
            judged = RowPart("train", trains=False, labels=labels[held_out])
            parts.append(judged)
    if rows.test is not None:
        assert rows.test.y is not None
        parts.append(RowPart("test", trains=False, labels=rows.test.y))
    return parts


# The model's size


def _least_parameters(request: TrainingRequest, cohort: Cohort) -> int:
    """At the least: the other hospitals' classes are not known yet; 0 of an order that
    trains nothing.
    """
    if request.evaluates is not None:
        return 0
    n_classes = max(2, len(cohort.labels))
    return ordered_model(request, range(n_classes)).n_weights


def ordered_model(
    request: TrainingRequest,
    classes: Iterable[int | str],
    *,
    n_features: int | None = None,
) -> Model:
    """The model that an order trains; the classes are for those models only that have
    some. n_features: None for one of each attribute, the least that there can be.
    """
    if n_features is None:
        n_features = len(request.attributes) + len(request.site_features)
    return Model(
        request.model_type,
        n_features,
        request.model_type != "cox" and request.model_params.init_param.fit_intercept,
        tuple(classes) if request.model_type in CLASSIFIERS else (),
        request.hidden,
        request.shape,
        family=request.family,
        link=request.link,
        ties=request.ties,
        time_scale=request.hazards_time,
        baseline=request.baseline,
    )
