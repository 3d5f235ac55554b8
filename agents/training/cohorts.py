"""An order's rows at one hospital: by SQL, through the cohort gate, into snapshots, split into folds.

Which rows a fold holds out is drawn with a key that never leaves the vault. The order's seed alone would let its
sender choose fold after fold until the sums over known rows give each row away.

`extract_data` is where to begin; the rules of the gate are in `agents.gate.cohort_gate`.

Decision 18.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agents.gate import cohort_gate
from agents.gate.cohort_gate import CohortLedger
from agents.order.party import Party
from agents.rows import cohort as cohorts
from agents.rows.allowed_sql import CheckedQuery, check_sql
from agents.rows.cohort import Cohort
from agents.rows.database import dialect_of, open_source
from agents.training.party import VerifiedTraining
from analytics.arrays import Ints
from analytics.training.folds import fold_indices, validation_indices
from analytics.training.models import CLASSIFIERS, Model
from protocol.errors import BadRequest
from protocol.policy import TableRules
from protocol.training_request import TrainingRequest, folds, n_held_out

log = logging.getLogger("consilium.data")

_PASSED = "passed"
"""In the order's vault: its rows are let through, whatever the policy says by now."""


@dataclass(frozen=True, eq=False)
class OrderRows:
    """The rows that an order has at this hospital; none of them leaves it."""

    train: Cohort
    test: Cohort | None  # where the order has SQL of its own for testing
    split_key: bytes  # draws which rows a fold holds out; from this hospital's cohort ledger

    @property
    def n_test_rows(self) -> int:
        return 0 if self.test is None else self.test.n_rows


def extract_data(order: VerifiedTraining) -> OrderRows:
    """Reads the cohorts once per order and keeps them as snapshots in the vault until the order ends.

    Every set of rows that trains or tests a model passes the gate: the whole cohort, and both parts of every fold.
    Raises Refused with the rule, or BadRequest for rows that no model can use.

    Rows are kept before the gate sees them: an order that dies there comes to it again with the same rows, and differs
    from what it has remembered of itself in none.

    Disclosure: rows stay here; what others learn is the row count, after the gate has passed.
    """
    ledger = CohortLedger(order.vault.cohorts)
    split_key = ledger.key
    train = _snapshot(order, "train")
    test = _snapshot(order, "test") if "test" in order.sql else None
    rows = OrderRows(train, test, split_key)
    if not order.store.has(_PASSED):
        _pass_gate(order, rows, ledger)
        order.store.once(_PASSED, lambda: b"")
    return rows


def check_queries(order: VerifiedTraining) -> None:
    """What the policy says to the order's SQL, before anybody is asked and anything is read. Raises as `check_sql`."""
    for purpose in order.sql:
        _checked_sql(order, purpose)


def held_out_rows(order: VerifiedTraining, rows: OrderRows, fold: int) -> Ints:
    """Which of this hospital's rows, in order of unique_id, test the model of a fold instead of training it."""
    return split(order.request, rows.train.n_rows, fold, rows.split_key)


def split(request: TrainingRequest, n_rows: int, fold: int, key: bytes) -> Ints:
    """The held-out rows of a hospital with this many rows and this key: `split_key`, from its cohort ledger."""
    cv = request.model_params.cv_param
    seed = _own_seed(key, cv.random_seed)
    if fold > 0:
        all_folds = fold_indices(n_rows, n_splits=cv.n_splits, shuffle=cv.shuffle, seed=seed)
        held_out = all_folds[fold - 1]
    elif request.validation_fraction is not None:
        held_out = validation_indices(n_rows, fraction=request.validation_fraction, seed=seed)
    else:
        held_out = np.arange(0)
    # The coordinator derives this number by itself, and holds each report's rows against it.
    assert len(held_out) == n_held_out(request, n_rows, fold)
    return held_out


def _own_seed(key: bytes, seed: int) -> int:
    """63 bits of HMAC-SHA-256: the order's seed, which its sender chose, under this hospital's key (decision 20)."""
    digest = hmac.digest(key, b"folds/%d" % seed, hashlib.sha256)
    return int.from_bytes(digest[:8], "big") >> 1


# Reading


def _snapshot(order: VerifiedTraining, purpose: str) -> Cohort:
    path = order.store.folder / f"{purpose}.npz"
    if not path.exists():
        cohorts.save_cohort(path, _read(order, purpose))
    return cohorts.load_cohort(path)


def _read(order: VerifiedTraining, purpose: str) -> Cohort:
    request, settings = order.request, order.settings
    source = open_source(
        settings.data_url,
        statement_timeout_seconds=settings.statement_timeout_seconds,
        max_rows=settings.max_rows,
    )
    checked = _checked_sql(order, purpose)
    least_rows = max((order.policy.table(name).min_rows for name in checked.tables), default=0)
    cohort = cohorts.build_cohort(
        source.read(checked),
        unique_id=request.unique_id,
        attributes=request.attributes,
        label_name=request.label_name,
        model_type=request.model_type,
        # In another hospital's order no error gives a count of fewer rows than the gate lets pass.
        min_rows=0 if order.is_initiator else least_rows,
    )
    warn_of_lost_digits(order, cohort, order_id=order.order_id)
    return cohort


def warn_of_lost_digits(party: Party, cohort: Cohort, **about: int) -> None:
    """Names the columns whose numbers are others as float64, in this hospital's log and ledger.

    about: the order or the model that the rows are for. Disclosure: names of columns, to the people of this hospital.
    """
    if not cohort.rounded:
        return
    names = ", ".join(cohort.rounded)
    sentence = (
        f"A model's numbers are float64, which does not hold every digit of {names}: rounded to the nearest."
    )
    party.release.ledger.write("rounded", **about, columns=list(cohort.rounded), sentence=sentence)
    whose = ", ".join(f"{name} {number}" for name, number in about.items())
    log.warning("%s (%s) Use fewer digits in a view if the last ones matter.", sentence, whose)


def _checked_sql(order: VerifiedTraining, purpose: str) -> CheckedQuery:
    request = order.request
    return check_sql(
        order.sql[purpose],
        policy=order.policy,
        requester=request.user_id,
        own_user_id=order.me,
        unique_id=request.unique_id,
        label=request.label_name,
        dialect=dialect_of(order.settings.data_url),
    )


# The gate


@dataclass(frozen=True, eq=False)
class _RowSet:
    """One set of rows that the order uses."""

    name: str  # as the ledger calls it: train, test, train/fold-1, test/fold-1
    cohort: Cohort
    n_parameters: int  # how many it trains; 0 where it only tests


@dataclass(frozen=True, eq=False)
class _GatedSet:
    """A set of rows with the digests by which the ledger knows its patients."""

    rows: _RowSet
    digests: cohort_gate.Digests


def _pass_gate(order: VerifiedTraining, rows: OrderRows, ledger: CohortLedger) -> None:
    """Every set against the rules and against what this requester had before; then all of them are remembered.

    In one act for all that the order reads (decision 55): of two orders at one moment the second sees the first one's
    rows, and an order that is refused leaves nothing that a later one would be compared with.
    """
    requester = order.request.user_id
    purposes = ["train"] if rows.test is None else ["train", "test"]
    # Before the ledger is locked, because digests of many rows take a while.
    tables = {purpose: _checked_sql(order, purpose).tables for purpose in purposes}
    asked = {purpose: _asked_sets(order, rows, purpose) for purpose in purposes}
    with ledger.alone():
        earlier: dict[str, list[cohort_gate.Digests]] = {}
        for purpose in purposes:
            for table in tables[purpose]:
                earlier[table] = ledger.earlier(requester, table)
        passed: list[tuple[str, str, cohort_gate.Digests]] = []
        for purpose in purposes:
            for table in tables[purpose]:
                _check_sets(asked[purpose], order.policy.table(table), earlier[table])
            # What trains and what tests must not differ by one patient either.
            for table in tables[purpose]:
                for gated in asked[purpose]:
                    earlier[table].append(gated.digests)
                    passed.append((table, gated.rows.name, gated.digests))
        ledger.remember(requester, passed, order_id=order.order_id)


def _asked_sets(order: VerifiedTraining, rows: OrderRows, purpose: str) -> list[_GatedSet]:
    if purpose == "test":
        assert rows.test is not None
        sets = [_RowSet("test", rows.test, n_parameters=0)]
    else:
        n_parameters = _least_parameters(order.request, rows.train)
        sets = _trained_sets(order.request, rows, n_parameters)
    asked = []
    for one in sets:
        digests = cohort_gate.id_digests(rows.split_key, one.cohort.unique_ids)
        asked.append(_GatedSet(one, digests))
    return asked


def _check_sets(
    asked: Sequence[_GatedSet], rules: TableRules, earlier: Sequence[cohort_gate.Digests]
) -> None:
    for gated in asked:
        cohort_gate.check_gate(
            gated.rows.cohort,
            gated.digests,
            n_parameters=gated.rows.n_parameters,
            rules=rules,
            earlier=earlier,
        )


def check_model_size(order: VerifiedTraining, rows: OrderRows, n_parameters: int) -> None:
    """The gate once more, for the model as it is: it has the classes of all hospitals, not only one's own.

    Raises Refused (code max_parameter_share). Disclosure: as `check_gate`.
    """
    sets = _trained_sets(order.request, rows, n_parameters)
    for table in _checked_sql(order, "train").tables:
        rules = order.policy.table(table)
        for one in sets:
            cohort_gate.check_parameters(one.cohort.n_rows, one.n_parameters, rules)


def _trained_sets(request: TrainingRequest, rows: OrderRows, n_parameters: int) -> list[_RowSet]:
    """The whole cohort, and of each fold with held-out rows both parts."""
    cohort = rows.train
    sets = [_RowSet("train", cohort, n_parameters)]
    for fold in folds(request):
        try:
            held_out = split(request, cohort.n_rows, fold, rows.split_key)
        except ValueError as error:
            raise BadRequest(
                str(error), remedy="Use fewer folds or another fraction.", code="folds"
            ) from None
        if len(held_out):
            kept = np.setdiff1d(np.arange(cohort.n_rows), held_out)
            sets.append(_RowSet(f"train/fold-{fold}", _rows_of(cohort, kept), n_parameters))
            sets.append(_RowSet(f"test/fold-{fold}", _rows_of(cohort, held_out), n_parameters=0))
    return sets


def _rows_of(cohort: Cohort, indices: Ints) -> Cohort:
    ids = [cohort.unique_ids[index] for index in indices.tolist()]
    X = cohort.X[indices]
    y = None if cohort.y is None else cohort.y[indices]
    return replace(cohort, unique_ids=ids, X=X, y=y)


# The model's size


def _least_parameters(request: TrainingRequest, cohort: Cohort) -> int:
    """At the least: the other hospitals' classes are not known yet."""
    n_classes = max(2, len(cohort.labels))
    return ordered_model(request, range(n_classes)).n_weights


def ordered_model(request: TrainingRequest, classes: Iterable[int | str]) -> Model:
    """The model that an order trains; the classes are for those models only that have some."""
    return Model(
        request.model_type,
        len(request.attributes),
        request.model_params.init_param.fit_intercept,
        tuple(classes) if request.model_type in CLASSIFIERS else (),
        request.hidden,
        request.shape,
    )
