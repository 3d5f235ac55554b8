"""An order's rows at one hospital: by SQL, through the cohort gate, into snapshots, split into folds.

Which rows a fold holds out is drawn with a key that never leaves the vault. The order's seed alone would let its
sender choose fold after fold until the sums over known rows give each row away.
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
from agents.rows import cohort as cohorts
from agents.rows.allowed_sql import CheckedQuery, check_sql
from agents.rows.cohort import Cohort
from agents.rows.database import dialect_of, open_source
from agents.training.party import TrainingParty
from analytics.arrays import Ints
from analytics.training.folds import fold_indices, validation_indices
from analytics.training.models import CLASSIFIERS, Model
from protocol.errors import BadRequest
from protocol.policy import TableRules
from protocol.training_request import TrainingRequest, folds, n_held_out

log = logging.getLogger("consilium.data")

_PASSED = "passed"
"""In the order's vault: its rows are let through, whatever the policy says by now."""


def extract(party: TrainingParty) -> None:
    """Reads the cohorts once per order and keeps them as snapshots in the vault until the order ends.

    Every set of rows that trains or tests a model passes the gate: the whole cohort, and both parts of every fold.
    Raises Refused with the rule, or BadRequest for rows that no model can use.

    Rows are kept before the gate sees them: an order that dies there comes to it again with the same rows, and differs
    from what it has remembered of itself in none.

    Disclosure: rows stay here; what others learn is the row count, after the gate has passed.
    """
    ledger = CohortLedger(party.vault.cohorts)
    party.split_key = ledger.key
    party.cohort = _snapshot(party, "train")
    party.test_cohort = _snapshot(party, "test") if "test" in party.sql.sql else None
    if not party.store.has(_PASSED):
        _pass_gate(party, ledger)
        party.store.once(_PASSED, lambda: b"")


def check_queries(party: TrainingParty) -> None:
    """What the policy says to the order's SQL, before anybody is asked and anything is read. Raises as `check_sql`."""
    for purpose in party.sql.sql:
        _checked_sql(party, purpose)


def held_out_rows(party: TrainingParty, fold: int) -> Ints:
    """Which of this hospital's rows, in order of unique_id, test the model of a fold instead of training it."""
    return split(party.request, party.cohort.n_rows, fold, party.split_key)


def split(request: TrainingRequest, n_rows: int, fold: int, key: bytes) -> Ints:
    """The held-out rows of a hospital with this many rows and this key: `split_key`, from its cohort ledger."""
    cv = request.model_params.cv_param
    seed = _own_seed(key, cv.random_seed)
    if fold > 0:
        rows = fold_indices(n_rows, n_splits=cv.n_splits, shuffle=cv.shuffle, seed=seed)[fold - 1]
    elif request.validation_fraction is not None:
        rows = validation_indices(n_rows, fraction=request.validation_fraction, seed=seed)
    else:
        rows = np.arange(0)
    assert len(rows) == n_held_out(request, n_rows, fold)
    return rows


def _own_seed(key: bytes, seed: int) -> int:
    return int.from_bytes(hmac.digest(key, b"folds/%d" % seed, hashlib.sha256)[:8], "big") >> 1


def _snapshot(party: TrainingParty, purpose: str) -> Cohort:
    path = party.store.folder / f"{purpose}.npz"
    if not path.exists():
        cohorts.save_cohort(path, _read(party, purpose))
    return cohorts.load_cohort(path)


def _read(party: TrainingParty, purpose: str) -> Cohort:
    request, settings = party.request, party.settings
    source = open_source(
        settings.data_url,
        statement_timeout_seconds=settings.statement_timeout_seconds,
        max_rows=settings.max_rows,
    )
    checked = _checked_sql(party, purpose)
    least = max((party.policy.table(name).min_rows for name in checked.tables), default=0)
    cohort = cohorts.build_cohort(
        source.read(checked),
        unique_id=request.unique_id,
        attributes=request.attributes,
        label_name=request.label_name,
        model_type=request.model_type,
        min_rows=0 if party.is_initiator else least,
    )
    warn_of_lost_digits(party, cohort, order_id=party.order_id)
    return cohort


def warn_of_lost_digits(party: TrainingParty, cohort: Cohort, **about: int) -> None:
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


def _checked_sql(party: TrainingParty, purpose: str) -> CheckedQuery:
    request = party.request
    return check_sql(
        party.sql.sql[purpose],
        policy=party.policy,
        requester=request.user_id,
        own_user_id=party.me,
        unique_id=request.unique_id,
        label=request.label_name,
        dialect=dialect_of(party.settings.data_url),
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """One set of rows that the order uses: as what, how many parameters it trains, and its digests in the ledger."""

    name: str
    cohort: Cohort
    n_parameters: int
    digests: cohort_gate.Digests


def _pass_gate(party: TrainingParty, ledger: CohortLedger) -> None:
    """Every part against the rules and against what this requester had before; then all of them are remembered.

    In one act for all that the order reads: of two orders at one moment the second sees the first one's rows, and an
    order that is refused leaves nothing that a later one would be compared with.
    """
    requester = party.request.user_id
    purposes = ["train"] if party.test_cohort is None else ["train", "test"]
    tables = {purpose: _checked_sql(party, purpose).tables for purpose in purposes}
    parts = {purpose: _own_parts(party, purpose, ledger.key) for purpose in purposes}
    with ledger.alone():
        earlier = {
            table: ledger.earlier(requester, table) for purpose in purposes for table in tables[purpose]
        }
        passed: list[tuple[str, str, cohort_gate.Digests]] = []
        for purpose in purposes:
            for table in tables[purpose]:
                _check_parts(parts[purpose], party.policy.table(table), earlier[table])
            for table in tables[purpose]:  # what trains and what tests must not differ by one patient either
                earlier[table] += [part.digests for part in parts[purpose]]
                passed += [(table, part.name, part.digests) for part in parts[purpose]]
        ledger.remember(requester, passed, order_id=party.order_id)


def _own_parts(party: TrainingParty, purpose: str, key: bytes) -> list[_Part]:
    if purpose == "test":
        assert party.test_cohort is not None
        named = {"test": (party.test_cohort, 0)}
    else:
        named = _parts(party, party.cohort, _n_parameters(party.request, party.cohort))
    return [
        _Part(name, cohort, n_parameters, cohort_gate.id_digests(key, cohort.unique_ids))
        for name, (cohort, n_parameters) in named.items()
    ]


def _check_parts(parts: Sequence[_Part], rules: TableRules, earlier: Sequence[cohort_gate.Digests]) -> None:
    for part in parts:
        cohort_gate.check_gate(
            part.cohort, part.digests, n_parameters=part.n_parameters, rules=rules, earlier=earlier
        )


def check_model_size(party: TrainingParty, n_parameters: int) -> None:
    """The gate once more, for the model as it is: it has the classes of all hospitals, not only one's own.

    Raises Refused (code max_parameter_share). Disclosure: as `check_gate`.
    """
    parts = _parts(party, party.cohort, n_parameters)
    for table in _checked_sql(party, "train").tables:
        rules = party.policy.table(table)
        for part, n_trained in parts.values():
            cohort_gate.check_parameters(part.n_rows, n_trained, rules)


def _parts(party: TrainingParty, cohort: Cohort, n_parameters: int) -> dict[str, tuple[Cohort, int]]:
    """Each set of rows that the order uses, and how many parameters it trains."""
    request = party.request
    parts = {"train": (cohort, n_parameters)}
    for fold in folds(request):
        try:
            held_out = split(request, cohort.n_rows, fold, party.split_key)
        except ValueError as error:
            raise BadRequest(
                str(error), remedy="Use fewer folds or another fraction.", code="folds"
            ) from None
        if len(held_out):
            kept = np.setdiff1d(np.arange(cohort.n_rows), held_out)
            parts[f"train/fold-{fold}"] = (_rows(cohort, kept), n_parameters)
            parts[f"test/fold-{fold}"] = (_rows(cohort, held_out), 0)
    return parts


def _n_parameters(request: TrainingRequest, cohort: Cohort) -> int:
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


def _rows(cohort: Cohort, rows: Ints) -> Cohort:
    ids = [cohort.unique_ids[i] for i in rows.tolist()]
    return replace(cohort, unique_ids=ids, X=cohort.X[rows], y=None if cohort.y is None else cohort.y[rows])
