"""Every refusal by a number of a policy says the rule, the number, where it stands and
what would pass; and a hospital says all of its reasons at once.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from agents.gate import cohort_gate, disclosure, probes, total_rules
from agents.rows.cohort import check_enough_rows
from protocol.errors import BadRequest, Refused, check_all, check_rules
from protocol.policy import Policy, StatisticsRules

ORDERS = {
    "initiators": [2],
    "methods": ["Mask"],
    "model_types": ["lr"],
    "min_hospitals": 3,
    "sign": False,
    "scoring": "none",
}
STATISTICS = {"methods": ["avg"], "min_providers": 3, "min_rows": 10}
POLICY = Policy.model_validate(
    {
        "orders": ORDERS,
        "statistics": STATISTICS,
        "tables": {"data.rows": {"columns": ["*"]}},
    }
)
TABLE = POLICY.table("data.rows")
RULES = StatisticsRules.model_validate(STATISTICS)
STEEP = np.full(20, 31.0)
TWO_OF_TWENTY = np.array([50.0, 50.0, *[0.1] * 18])


def owners(*users: int) -> Any:
    """A total that columns of these hospitals are left in."""
    return [type("Total", (), {"owners": set(users)})]


BY_NUMBER: dict[str, tuple[Callable[[], None], str, Any]] = {
    "min_hospitals": (lambda: POLICY.check_hospitals(2), "[orders]", 3),
    "scoring": (lambda: POLICY.check_scoring("full"), "[orders]", "none"),
    "min_rows of a cohort": (lambda: check_enough_rows(9, 10), "min_rows", 10),
    "max_parameter_share": (
        lambda: cohort_gate.check_parameters(10, 1000, TABLE),
        "max_parameter_share",
        str(TABLE.max_parameter_share),
    ),
    "linear_predictor": (
        lambda: probes.check_predictors(STEEP, limit=Fraction(30)),
        "max_linear_predictor under [cohort]",
        "30",
    ),
    "max_share of a round": (
        lambda: probes.check_share(TWO_OF_TWENTY, max_share=Fraction(9, 10)),
        "max_share under [cohort]",
        "9/10",
    ),
    "min_providers of a total": (
        lambda: total_rules.check_owners(owners(2, 3), 2, RULES),
        "[statistics]",
        3,
    ),
    "own_totals of a mask": (lambda: total_rules.check_mask(3, 10), "min_varying", 10),
    "min_rows of common people": (
        lambda: disclosure.check_joined(9, RULES),
        "[statistics]",
        10,
    ),
    "min_rows of an answer": (
        lambda: disclosure.check_rows(9, RULES),
        "[statistics]",
        10,
    ),
    "max_share of a sum": (
        lambda: disclosure.check_share(Fraction(95, 100), RULES),
        "[statistics]",
        str(RULES.max_share),
    ),
}


@pytest.mark.parametrize("name", BY_NUMBER)
def test_a_refusal_by_a_number_says_it_and_where_it_stands(name: str) -> None:
    check, where, threshold = BY_NUMBER[name]
    with pytest.raises(Refused) as caught:
        check()
    refusal = caught.value
    assert refusal.code == name.split()[0]
    assert refusal.detail["threshold"] == threshold
    assert str(threshold) in refusal.sentence
    assert where in refusal.remedy
    assert "ask the hospital" in refusal.remedy
    assert "policy.toml" in refusal.remedy


JUST_ENOUGH: dict[str, Callable[[], None]] = {
    "min_hospitals": lambda: POLICY.check_hospitals(3),
    "scoring": lambda: POLICY.check_scoring("none"),
    "min_rows of a cohort": lambda: check_enough_rows(10, 10),
    "linear_predictor": lambda: probes.check_predictors(
        np.full(20, 30.0), limit=Fraction(30)
    ),
    "max_share of a round": lambda: probes.check_share(
        np.ones(20), max_share=Fraction(9, 10)
    ),
    "min_providers of a total": lambda: total_rules.check_owners(
        owners(2, 3, 4), 2, RULES
    ),
    "own_totals of a mask": lambda: total_rules.check_mask(10, 10),
    "min_rows of common people": lambda: disclosure.check_joined(10, RULES),
    "min_rows of an answer": lambda: disclosure.check_rows(10, RULES),
    "max_share of a sum": lambda: disclosure.check_share(RULES.max_share, RULES),
}


@pytest.mark.parametrize("name", JUST_ENOUGH)
def test_what_reaches_the_number_passes(name: str) -> None:
    JUST_ENOUGH[name]()


def test_a_hospital_says_all_reasons_of_a_training_order() -> None:
    with pytest.raises(Refused) as caught:
        check_rules(
            POLICY.order_rules(
                initiator=9,
                own_user_id=4,
                method="None",
                model_type="mlp",
                n_hospitals=2,
                receivers=(9, 4),
                scoring="full",
            )
        )
    refusal = caught.value
    codes = [reason["code"] for reason in refusal.detail["reasons"]]
    assert codes == [
        "initiators",
        "methods",
        "model_types",
        "min_hospitals",
        "receivers",
        "scoring",
    ]
    assert refusal.code == codes[0]
    for reason in refusal.detail["reasons"]:
        assert reason["sentence"] in refusal.sentence
        assert reason["remedy"] in refusal.remedy


def test_a_hospital_says_all_reasons_of_a_question() -> None:
    with pytest.raises(Refused) as caught:
        check_rules(
            disclosure.request_rules(
                RULES,
                methods=["median"],
                n_providers=2,
                row_level_columns=["x"],
                disclose=True,
            )
        )
    codes = [reason["code"] for reason in caught.value.detail["reasons"]]
    assert codes == ["methods", "min_providers", "row_level", "disclose"]


def test_reasons_within_reasons_are_one_list() -> None:
    def refuse(code: str) -> Callable[[], None]:
        def check() -> None:
            raise Refused(f"{code}.", remedy="Ask.", code=code)

        return check

    inner = lambda: check_all(refuse("a"), refuse("b"))  # noqa: E731
    with pytest.raises(Refused) as caught:
        check_all(inner, refuse("c"))
    assert [reason["code"] for reason in caught.value.detail["reasons"]] == [
        "a",
        "b",
        "c",
    ]
    assert caught.value.remedy == "Ask."


def test_what_is_no_refusal_ends_the_checks_at_once() -> None:
    def malformed() -> None:
        raise BadRequest("It is malformed.", remedy="Write it well.")

    with pytest.raises(BadRequest):
        check_all(malformed, lambda: POLICY.check_hospitals(1))
