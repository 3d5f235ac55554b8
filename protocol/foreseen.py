"""What a policy says to a training order before a row is read, and what of it can be
foreseen from what an agent has told of its policy.

The hospital decides by `training_rules` over its own policy. The page's form makes the
same rules over the told part, so that an order is seen to be refused before it is sent.
Where they differ the hospital's word counts.

Decision 98.
"""

from __future__ import annotations

from protocol.errors import Refused, Rule
from protocol.policy import CohortRules, OrderRules, Policy, PolicyTold
from protocol.training_request import TrainingRequest

NOT_TOLD = ("sign", "derive", "risk_sets", "hospital_sums")
"""Rules of a policy that an agent tells nobody: whether they refuse cannot be foreseen."""


def training_rules(
    policy: Policy, request: TrainingRequest, *, own_user_id: int
) -> list[Rule]:
    """By which rules of its policy the hospital takes no part in an order."""
    # The policy's least number must hold for the smallest sum that a round may have, of
    # the fewest hospitals that the order may start with.
    smallest = request.smallest
    n_hospitals = len(smallest.hospitals) - smallest.most_left_out
    return policy.order_rules(
        initiator=request.user_id,
        own_user_id=own_user_id,
        method=request.model_params.encrypt_param.method,
        model_type=request.model_type,
        n_hospitals=n_hospitals,
        receivers=request.hospitals,
        scoring=_new_to_the_coordinator(request),
        regroups=request.regroups,
        derives=bool(request.derive),
        opens_risk_sets=request.baseline == "joint",
        tells_own_sums=request.tells_own_sums,
    )


def _new_to_the_coordinator(request: TrainingRequest) -> str:
    """The scoring that a policy has to allow."""
    level = request.scoring or "none"
    # With method None the coordinator sees each gradient anyway; with full scoring the
    # other hospitals can then compute it, too.
    if request.is_open and level != "full":
        return "none"
    return level


def foreseen_refusals(
    told_policy: PolicyTold, request: TrainingRequest, *, own_user_id: int
) -> list[Refused]:
    """Every refusal of an order that the told rules make certain, if they still hold.

    An empty list promises nothing: tables, columns, rows and `NOT_TOLD` are for the
    hospital alone to judge.
    """
    refusals = []
    for rule in training_rules(
        _as_policy(told_policy), request, own_user_id=own_user_id
    ):
        if rule.name in NOT_TOLD:
            continue
        try:
            rule.check()
        except Refused as refusal:
            refusals.append(refusal)
    return refusals


def _as_policy(told_policy: PolicyTold) -> Policy:
    """The told rules in the policy's own classes, whose checks these are.

    Not validated: an agent of another version may tell a word that is none here.
    """
    orders = told_policy.orders
    rules = OrderRules.model_construct(
        initiators=orders.initiators,
        receivers=orders.receivers,
        methods=orders.methods,
        model_types=orders.model_types,
        sign=True,
        min_hospitals=orders.min_hospitals,
        scoring=orders.scoring,
        derive=True,
        hospital_sums=orders.hospital_sums,
    )
    cohort = CohortRules.model_construct(regroup=orders.regroup)
    return Policy.model_construct(orders=rules, cohort=cohort)
