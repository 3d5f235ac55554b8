"""An order's rows at one hospital: by SQL, through the cohort gate, into snapshots.

`extract_data` is where to begin; `row_sets.py` has the sets of rows that an order trains
or tests on, `row_gate.py` what the gate asks of them.

Decisions 18, 70 and 80.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import datetime

from agents.gate import regrouping
from agents.gate.clusters import Clusterings
from agents.gate.memory import Memory
from agents.gate.meta_orders import MetaOrders
from agents.gate.round_budget import RoundBudget
from agents.order.party import Party
from agents.rows import cohort as cohorts
from agents.rows.cohort import Cohort
from agents.rows.cohort_snapshot import load_cohort, save_cohort
from agents.rows.reading import open_query
from agents.rows.study_dataset import prepare
from agents.training.comparison import check_rows
from agents.training.party import (
    AgreedTraining,
    AskedTraining,
    VerifiedTraining,
    policy_rules,
)
from agents.training.row_gate import (
    check_mini_batches,
    least_rows,
    pass_gate,
    policy_thresholds,
    query_of,
    spend_clustering,
    spend_meta,
    spend_rounds,
)
from agents.training.row_sets import OrderRows
from agents.training.survival_rows import strata_in_words, survival_columns
from protocol.errors import check_rules
from protocol.messages import PooledThresholds, canonical

log = logging.getLogger("consilium.data")

_PASSED, _PASSED_AGAIN, _PASSED_PARTY = "passed", "passed_again", "passed_party"
"""In the order's vault: its rows are let through, whatever the policy says by now."""

SECTION = "[cohort]"
"""Where policy.toml has `regroup` for training orders."""


def extract_data(order: VerifiedTraining) -> OrderRows:
    """Reads the cohorts once per order and keeps them as snapshots in the vault until
    the order ends.

    Every set of rows that trains or tests a model passes the gate: the whole cohort,
    and both parts of every fold. Raises Refused with the rule, or BadRequest for rows
    that no model can use.

    Rows are kept before the gate sees them: an order that dies there comes to it again
    with the same rows. What it has reserved there leaves with `commit`.

    Disclosure: rows stay here; what others learn is the row count, after the gate has
    passed.
    """
    memory = Memory(order.vault.cohorts)
    train = _snapshot(order, "train", memory.key)
    test = None
    if "test" in order.sql:
        test = _snapshot(order, "test", memory.key)
    rows = OrderRows(train, test, memory.key)
    if not order.store.has(_PASSED):
        if order.request.compare is not None:
            check_rows(order.vault, order.request, train)
        is_pooled = own_thresholds(order) is not None
        pass_gate(
            order,
            rows,
            memory,
            is_pooled=is_pooled,
        )
        order.store.once(_PASSED, lambda: b"")
    return rows


def training_snapshot(order: VerifiedTraining) -> Cohort:
    """The rows to train as they were read, until the order ends."""
    return load_cohort(order.store.folder / "train.npz")


def pass_gate_again(order: VerifiedTraining, rows: OrderRows) -> None:
    """The gate for rows of which some were left out since it saw them; what it has
    reserved for the order is replaced. Raises as `extract_data`.
    """
    _pass_gate_once(order, rows, _PASSED_AGAIN)


def pass_gate_of_party(order: AgreedTraining, rows: OrderRows) -> None:
    """Policy and gate for an order that has started without some of its hospitals: its
    totals are of fewer, and go to fewer. Raises as `agents.training.party.verify_order`
    and `pass_gate_again`.
    """
    if order.absent:
        check_rules(policy_rules(order, order.request))
        _pass_gate_once(order, rows, _PASSED_PARTY)


def _pass_gate_once(
    order: VerifiedTraining,
    rows: OrderRows,
    mark: str,
) -> None:
    if not order.store.has(mark):
        memory = Memory(order.vault.cohorts)
        is_pooled = own_thresholds(order) is not None
        pass_gate(
            order,
            rows,
            memory,
            is_pooled=is_pooled,
        )
        order.store.once(mark, lambda: b"")


def own_thresholds(order: VerifiedTraining) -> PooledThresholds | None:
    """What this hospital asks of the sum, for its acceptance; None where each
    hospital's own rows decide.

    Once it is said it stands, whatever the policy says by now: the gate has passed rows
    by it.
    """

    def make() -> bytes:
        thresholds = policy_thresholds(order)
        if thresholds is None:
            return b""
        return canonical(thresholds.as_fields()).encode()

    kept_text = order.store.once("pooled", make)
    if not kept_text:
        return None
    threshold_fields = json.loads(kept_text)
    return PooledThresholds.of_fields(threshold_fields)


def commit_rounds(order: AgreedTraining, *, now: datetime) -> None:
    """Counts the order's rounds, before anything of its rows is in a sum.

    Raises as `spend_rounds`.
    """
    spend_rounds(
        order,
        RoundBudget(order.vault.cohorts),
        now=now,
    )


def commit_meta(order: AgreedTraining, *, now: datetime) -> None:
    """Counts a meta-analysis among those over the same people, before anything of its
    rows is in a sum. Raises as `spend_meta`.
    """
    spend_meta(
        order,
        MetaOrders(order.vault.cohorts),
        now=now,
    )


def commit_clustering(order: AgreedTraining, *, now: datetime) -> None:
    """Remembers by which column people are clustered, before anything of them is in a sum.
    Raises as `spend_clustering`.
    """
    spend_clustering(
        order,
        Clusterings(order.vault.cohorts),
        now=now,
    )


def check_hospitals(order: AgreedTraining) -> None:
    """The gate once more, with what all hospitals have said in their acceptances.

    To be called before the first message from which, with the others', something of
    the rows can be opened. Raises as `cohort_gate.check_mini_batches` and
    `regrouping.agree`.
    """
    # A hospital in one batch is told by those in several.
    hospitals = order.request.hospitals
    acceptances = order.acceptances
    counted = [acceptances[hospital].n_rows for hospital in hospitals]
    check_mini_batches(order, max(counted))
    regrouping.agree(
        Memory(order.vault.cohorts),
        order_id=order.order_id,
        terms=regrouping.terms_of(acceptances, hospitals),
        absent=order.absent,
        section=SECTION,
        has_ended=order.vault.has_ended,
    )


def commit(order: VerifiedTraining) -> None:
    """What the order's totals are of counts as having left, from here on and for good.

    To be called when all hospitals have accepted, before the first message from which
    a mean or a gradient can be opened.
    """
    Memory(order.vault.cohorts).commit(order.order_id)


# Reading


def _snapshot(
    order: VerifiedTraining,
    purpose: str,
    key: bytes,
) -> Cohort:
    snapshot_path = order.store.folder / f"{purpose}.npz"
    if not snapshot_path.exists():
        cohort = read_cohort(order, purpose, key)
        warn_of_lost_digits(
            order,
            cohort,
            order_id=order.order_id,
        )
        _note_strata(order, purpose, cohort)
        save_cohort(snapshot_path, cohort)
    # What is on disk, and not what was just read: of two processes the first one's rows
    # stand.
    return load_cohort(snapshot_path)


def _note_strata(
    order: VerifiedTraining,
    purpose: str,
    cohort: Cohort,
) -> None:
    """Writes how many strata there are, and how many without an event, into this
    hospital's own ledger; nobody else is told.
    """
    if order.request.strata:
        sentence = f"The rows to {purpose} are {strata_in_words(cohort)}"
        order.release.ledger.write(
            "strata",
            order_id=order.order_id,
            columns=list(order.request.strata),
            sentence=sentence,
        )


def read_cohort(
    order: AskedTraining,
    purpose: str,
    key: bytes,
) -> Cohort:
    """The rows of one of the order's SQL texts; nothing is kept or written.

    Raises Refused (code min_rows) and BadRequest for rows that no model can use.
    """
    request, settings = order.request, order.settings
    study = request.study
    with open_query(
        settings,
        query_of(order, purpose),
        unique_id=request.unique_id,
        columns=[*study.read, *request.outcome_columns],
        # In another hospital's order no error gives a count of fewer rows than the gate
        # lets pass.
        min_rows=0 if order.is_initiator else least_rows(order, purpose),
    ) as rows:
        prepared = prepare(
            rows,
            study,
            labels=request.outcome_columns,
        )
        cohort = cohorts.build_cohort(
            prepared.rows,
            unique_id=request.unique_id,
            attributes=request.attributes,
            label_name=request.label_name,
            survival=survival_columns(request),
            model_type=request.model_type,
            family=request.family,
            key=key,
            categorical=list(study.categorical),
            may_miss=study.missing == "mean",
            member_columns=study.plain,
            weights_name=request.weights,
            counts_weights=request.counts_weights,
            group_name=request.subgroups,
            cluster_name=request.cluster_column,
        )
    return replace(cohort, flow=prepared.flow)


def warn_of_lost_digits(party: Party, cohort: Cohort, **about: int) -> None:
    """Names the columns whose numbers are others as float64, in this hospital's log and
    ledger.

    about: the order or the model that the rows are for. Disclosure: names of columns,
    to the people of this hospital.
    """
    if not cohort.rounded:
        return
    names = ", ".join(cohort.rounded)
    sentence = f"A model's numbers are float64, which does not hold every digit of {names}: rounded to the nearest."
    party.release.ledger.write(
        "rounded",
        **about,
        columns=list(cohort.rounded),
        sentence=sentence,
    )
    whose = ", ".join(f"{name} {number}" for name, number in about.items())
    log.warning(
        "%s (%s) Use fewer digits in a view if the last ones matter.", sentence, whose
    )
