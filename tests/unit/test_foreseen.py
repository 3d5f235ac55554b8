"""What an order's refusal looks like before it is sent: by the rules that an agent has
told, as its hospital judges by its policy.
"""

from __future__ import annotations

from typing import Any

import pytest

from agents.site.policy import parse_policy
from deployments.demo.training import document_order
from protocol.errors import Refused
from protocol.foreseen import NOT_TOLD, foreseen_refusals, training_rules
from protocol.policy import PolicyTold
from protocol.training_request import parse_training_request

POLICY = """
[orders]
initiators = [4, 5]
methods = ["Paillier", "Mask"]
model_types = ["lr", "glm"]
sign = false
min_hospitals = {least}
scoring = "round"

[tables."data.visits"]
columns = ["*"]
"""


def asked(**changes: Any) -> Any:
    return parse_training_request({**document_order(), **changes})


def codes(request: Any, *, least: int = 3) -> tuple[list[str], list[str]]:
    """By the told rules, and by the policy itself at hospital 2, but for what is told to
    nobody.
    """
    policy = parse_policy(POLICY.format(least=least))
    told = PolicyTold.model_validate(policy.told().model_dump(mode="json"))
    foreseen = foreseen_refusals(told, request, own_user_id=2)
    decided = []
    for rule in training_rules(policy, request, own_user_id=2):
        try:
            rule.check()
        except Refused as refusal:
            if rule.name not in NOT_TOLD:
                decided.append(str(refusal))
    return [str(refusal) for refusal in foreseen], decided


@pytest.mark.parametrize(
    ("changes", "n_refusals"),
    [
        ({}, 1),  # hospital 3 is no receiver of this policy
        ({"model_type": "linear"}, 2),
        ({"scoring": "full"}, 2),
        ({"aggregation": "multi_krum", "party_id": [2, 3, 5, 6, 7]}, 2),
        ({"derive": {"x9": "x1 * 2"}, "attributes": ["x9"]}, 1),
    ],
)
def test_what_is_foreseen_is_what_the_policy_says(
    changes: dict[str, Any], n_refusals: int
) -> None:
    users = [4, *changes.get("party_id", [2, 3])]
    changes["data_info"] = dict.fromkeys(users, "SELECT * FROM data.visits")
    foreseen, decided = codes(asked(**changes))
    assert foreseen == decided
    assert len(foreseen) == n_refusals


@pytest.mark.parametrize(("least", "is_refused"), [(2, False), (3, False), (4, True)])
def test_the_least_number_of_hospitals_is_met_or_not(
    least: int, is_refused: bool
) -> None:
    foreseen, decided = codes(asked(), least=least)
    assert foreseen == decided
    assert any("minimum of 4" in sentence for sentence in foreseen) == is_refused


def test_words_of_another_version_are_no_error() -> None:
    told = parse_policy(POLICY.format(least=3)).told().model_dump(mode="json")
    told["orders"]["model_types"] = ["lr", "a_later_type"]
    policy = PolicyTold.model_validate(told)
    assert foreseen_refusals(policy, asked(), own_user_id=2)
