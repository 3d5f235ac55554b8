"""What this hospital's gate would say to a training order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from agents.check.findings import JOINT, OK, WARN, Finding
from agents.check.order.explained import (
    approval,
    asked,
    jointly,
    left_alone,
    opens,
    passed,
    pins,
    refusals,
    refusals_of,
    refuses,
    start,
)
from agents.gate import totals_in_words
from agents.gate.clusters import Clusterings
from agents.gate.memory import Memory
from agents.gate.meta_orders import MetaOrders
from agents.gate.round_budget import RoundBudget
from agents.gate.training_totals import training_totals
from agents.order.party import UNSENT, Hospital
from agents.rows.cohort import Cohort
from agents.training.agreed_levels import Coding
from agents.training.cohorts import SECTION, read_cohort
from agents.training.made_columns import check_made_columns
from agents.training.party import AskedTraining, policy_rules, sql_rules
from agents.training.row_gate import (
    Sets,
    policy_thresholds,
    reserve_sets,
    set_rules,
    spend_clustering,
    spend_meta,
    spend_rounds,
)
from agents.training.row_sets import OrderRows, sets_by_purpose
from analytics.training.models import CLASSIFIERS
from protocol.errors import BadRequest, ConsiliumError, Rule
from protocol.training_request import TrainingRequest


def training_findings(
    hospital: Hospital, request: TrainingRequest
) -> Iterator[Finding]:
    """In the order of events; a rule that needs what another one has refused is left
    out.
    """
    order = AskedTraining(
        settings=hospital.settings,
        policy=hospital.policy,
        vault=hospital.vault,
        order_id=UNSENT,
        request=request,
        sql=request.sql_of(hospital.me),
    )
    yield from asked(policy_rules(order, request))
    yield from pins(order, request.hospitals)
    yield from start(request)
    of_sql = asked(sql_rules(order, request, order.sql))
    yield from of_sql
    yield from approval(order)
    if refuses(of_sql):
        return
    # One copy for all that follows: what is reserved in it the later rules have to
    # find.
    memory = Memory(order.vault.cohorts, is_copy=True)
    cohorts: dict[str, Cohort] = {}
    for purpose in order.sql:
        try:
            cohorts[purpose] = read_cohort(order, purpose, memory.key)
        except ConsiliumError as error:
            yield from refusals(error)
    for purpose, cohort in cohorts.items():
        yield from _rows(purpose, cohort)
    if len(cohorts) == len(order.sql):
        rows = OrderRows(cohorts["train"], cohorts.get("test"), memory.key)
        yield from _gate(order, rows, memory)


def _rows(purpose: str, cohort: Cohort) -> Iterator[Finding]:
    flow = cohort.flow
    assert flow is not None, "read by this version"
    yield Finding(
        "rows",
        OK,
        f"The {purpose} SQL selects {flow.n_selected} rows; {flow.n_left_out} are left out.",
    )
    if cohort.rounded:
        yield Finding(
            "rounded",
            WARN,
            f"A model's numbers do not hold every digit of {', '.join(cohort.rounded)}.",
            "Use fewer digits in a view if the last ones matter.",
        )


def _gate(order: AskedTraining, rows: OrderRows, memory: Memory) -> Iterator[Finding]:
    is_pooled = policy_thresholds(order) is not None
    try:
        sets = sets_by_purpose(order, rows)
    except BadRequest as error:
        yield from refusals(error)
        return
    rules = set_rules(order, sets, is_pooled=is_pooled)
    of_sets = asked([rule for together in rules for rule in together])
    yield from of_sets
    # Of too few rows any total tells a few people: the audit would say the same once
    # more.
    if not any(
        finding.check == "min_rows" for finding in of_sets if refuses([finding])
    ):
        yield from _audit(order, sets, memory)
    budget = RoundBudget(order.vault.cohorts, is_copy=True)
    now = datetime.now(UTC)
    yield from asked([Rule("max_rounds", lambda: spend_rounds(order, budget, now=now))])
    if order.request.is_meta:
        meta = MetaOrders(order.vault.cohorts, is_copy=True)
        yield from asked(
            [Rule("meta_orders", lambda: spend_meta(order, meta, now=now))]
        )
    if order.request.cluster_column is not None:
        clusterings = Clusterings(order.vault.cohorts, is_copy=True)
        yield from asked(
            [Rule("clusters", lambda: spend_clustering(order, clusterings, now=now))]
        )
    yield from _made_columns(order, rows, is_pooled=is_pooled)
    yield from _later(order, is_pooled=is_pooled)
    opened = training_totals(order.request)
    sentences = totals_in_words.words_before(
        opened,
        n_own_rows=rows.train.n_rows,
        n_hospitals=len(order.request.hospitals),
    )
    yield from opens(sentences, opened[0].receivers)


def _audit(order: AskedTraining, sets: Sets, memory: Memory) -> Iterator[Finding]:
    """Beside what was told before."""
    refused = refusals_of(lambda: reserve_sets(order, sets, memory))
    if refused:
        yield from refused
        return
    yield passed("earlier_cohort")
    yield from left_alone(
        order,
        memory,
        hospitals=order.request.hospitals,
        least_hospitals=order.policy.orders.min_hospitals,
        regroup=order.policy.cohort.regroup,
        section=SECTION,
    )


def _made_columns(
    order: AskedTraining, rows: OrderRows, *, is_pooled: bool
) -> Iterator[Finding]:
    """Columns that the order makes of others, as far as they are known alone."""
    study = order.request.study
    if study.is_plain:
        return
    if study.categorical:
        names = ", ".join(study.categorical)
        yield jointly(
            "levels",
            f"which levels {names} has at all hospitals, whether enough rows here have each (rare_levels,"
            " min_varying, max_share), and how large the model is with them (max_parameter_share).",
        )
        return

    def refused_where(pooled: bool) -> list[Finding]:
        return refusals_of(
            lambda: check_made_columns(order, rows, Coding(), is_pooled=pooled)
        )

    # Where all pool, fewer columns are looked at.
    refused = refused_where(is_pooled)
    if refused or not is_pooled:
        yield from refused or [passed("max_share")]
    elif refused_where(False):
        yield jointly(
            "max_share",
            "combinations of the model's columns pass only where all have cells = pooled.",
        )
    else:
        yield passed("max_share")


def _later(order: AskedTraining, *, is_pooled: bool) -> Iterator[Finding]:
    """What is decided with the others, or while the model is trained."""
    request = order.request
    if is_pooled:
        yield jointly(
            "min_varying",
            "whether 0 and 1 each stand in enough rows of all hospitals (cells = pooled).",
        )
    if request.model_type in CLASSIFIERS:
        yield jointly(
            "max_parameter_share", "how large the model is with all hospitals' classes."
        )
    if request.is_scored and request.aggregation != "mean" and not request.is_open:
        yield jointly(
            "min_scored_coefficients", "whether the model is large enough to be scored."
        )
    sentence = "In each round: whether a sum fits its bound"
    if request.is_newton:
        sentence += (
            ", and that no few rows make up its equations (max_linear_predictor, max_share, dominance, and the other"
            " hospitals' rows)"
        )
    elif request.model_type in ("lr", "softmax"):
        sentence += ", and that no few rows make up a gradient (max_linear_predictor, max_share)"
    elif request.model_type == "cox":
        sentence += ", and that no two rows make up what is added up (max_linear_predictor, max_share)"
    elif request.model_type == "linear":
        sentence += ", and that no two rows make up a gradient (max_share)"
    yield Finding("rounds", JOINT, f"{sentence}.")
