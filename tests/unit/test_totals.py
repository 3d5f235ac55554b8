"""Which totals an order opens: of whose columns, in words, and which are refused."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from agents.gate.total_rules import check_columns, check_mask, check_owners
from agents.gate.totals import audited_columns, opened_totals
from agents.gate.totals_in_words import words_of
from agents.gate.training_totals import training_totals
from analytics.statistics.circuit import Plan
from analytics.statistics.weighing import summands
from protocol.errors import Refused
from protocol.policy import StatisticsRules
from protocol.statistics_plan import sketched_plan
from protocol.statistics_request import (
    JOINED,
    POOLED,
    StatisticsRequest,
    parse_statistics_request,
)
from protocol.training_request import TrainingRequest


def asked(
    method: str, *, keys: tuple[str, ...] = ("age",) * 3, **fields: Any
) -> StatisticsRequest:
    """Hospitals 2, 3, ... are providers, a, b, ... in an expression; 2 asks and
    receives.
    """
    providers = []
    for place, key in enumerate(keys):
        provider = {
            "name": place + 2,
            "data_path": "",
            "data_type": "csv",
            "key_column": key,
        }
        if method in JOINED:
            provider["data_alias"] = "abcd"[place]
        providers.append(provider)
    body = {
        "data_providers": providers,
        "result_receivers": [2],
        "method": method,
        "user_id": 2,
        **fields,
    }
    return parse_statistics_request(body)


def joined(expression: str) -> tuple[StatisticsRequest, Plan]:
    request = asked("custom", expression=expression)
    circuit = sketched_plan(request)
    assert circuit is not None
    return request, circuit


def rules(**fields: Any) -> StatisticsRules:
    return StatisticsRules(methods=(*POOLED, *JOINED), **fields)


def owners_refused(expression: str, me: int, **fields: Any) -> str:
    totals = opened_totals(*joined(expression))
    try:
        check_owners(totals, me, rules(**fields))
    except Refused as refused:
        return refused.code
    return ""


# In words


WORDS = {
    "avg": ["n and sum of age over 854 people of 3 hospitals"],
    "var": ["n, sum and sum of squares of age over 854 people of 3 hospitals"],
    "count": ["n of age over 854 people of 3 hospitals"],
    "frequency": ["n of age over 854 people of 3 hospitals, for each value of age"],
    "median": [
        "n and n below each searched value of age over 854 people of 3 hospitals"
    ],
}


@pytest.mark.parametrize("method", WORDS)
def test_a_pooled_statistic_in_words(method: str) -> None:
    totals = opened_totals(asked(method), None)
    assert words_of(totals, n_rows=854, n_hospitals=3) == WORDS[method]


def test_a_covariance_opens_six_numbers() -> None:
    totals = opened_totals(asked("cov", columns=["age", "bmi"], group_by=["sex"]), None)
    assert len(totals) == 6
    end = "over 854 people of 3 hospitals, for each group of sex"
    assert words_of(totals, n_rows=854, n_hospitals=3) == [
        f"n and sum of products of age and bmi {end}",
        f"sum and sum of squares of age {end}",
        f"sum and sum of squares of bmi {end}",
    ]


def test_a_joined_aggregate_opens_its_numerators() -> None:
    request, circuit = joined("avg(a.w + b.x - c.z) / var(b.y)")
    totals = opened_totals(request, circuit)
    sentences = words_of(totals, n_rows=40, n_hospitals=3)
    assert set(sentences) == {
        "n over 40 people of 3 hospitals",
        "sum of a.w + b.x - c.z over 40 people of 3 hospitals",
        "sum and sum of squares of b.y over 40 people of 3 hospitals",
    }


def test_a_value_for_each_person_is_no_total() -> None:
    assert opened_totals(*joined("a.w * b.x")) == []


def test_counts_of_a_search_are_opened_by_the_providers_too() -> None:
    [total, *_] = opened_totals(asked("quantile", quantile=0.5), None)
    assert total.receivers == ("2", "3", "4")
    [total, *_] = opened_totals(asked("avg", disclose=True), None)
    assert total.receivers == ("2", "coordinator")


# For the audit


def test_coefficients_are_relative_to_ones_own() -> None:
    totals = opened_totals(*joined("sum(a.w - b.x + c.z) + sum(a.w + b.x)"))
    found = audited_columns(totals, 3)
    one, minus_one = Fraction(1), Fraction(-1)
    assert len(found["x"]) == 2
    assert {(2, "w"): minus_one, (3, "x"): one, (4, "z"): minus_one} in found["x"]
    assert {(2, "w"): one, (3, "x"): one} in found["x"]


# Whose columns are left


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        ("sum(a.w + b.x + c.z)", ""),
        ("sum(b.x)", "own_totals"),
        ("var(b.x)", "own_totals"),
        # Each of the three brings keys, and one of them no column.
        ("sum(a.w + b.x + 0 * c.z)", "min_providers"),
        ("sum(a.w + b.x + c.z - c.z)", "min_providers"),
        ("sum(0 * a.w + b.x + 0 * c.z)", "own_totals"),
        ("sum(a.w + b.x + 1 * (c.z - c.z))", "min_providers"),
        # The sum of three, and of one besides it.
        ("sum(a.w + b.x + c.z) - sum(b.x)", "own_totals"),
        # No column of this hospital is left in the second.
        ("sum(a.w + b.x + c.z) + sum(a.w)", ""),
        ("count(*)", ""),
    ],
)
def test_a_total_is_of_min_providers_whose_columns_are_left(
    expression: str, code: str
) -> None:
    assert owners_refused(expression, 3) == code
    assert owners_refused(expression, 3, own_totals=True) == ""


def test_two_hospitals_are_enough_where_the_policy_says_so() -> None:
    assert owners_refused("sum(a.w + b.x)", 3) == "min_providers"
    assert owners_refused("sum(a.w + b.x)", 3, min_providers=2) == ""
    assert owners_refused("sum(b.x)", 3, min_providers=1) == "own_totals"


@pytest.mark.parametrize(
    ("min_providers", "own_totals", "least"),
    [(1, False, 2), (1, True, 1), (3, False, 3), (3, True, 3)],
)
def test_one_hospital_is_no_sum(
    min_providers: int, own_totals: bool, least: int
) -> None:
    made = rules(min_providers=min_providers, own_totals=own_totals)
    assert made.least_providers == least


def test_summands_are_taken_together() -> None:
    """Hospital 2 adds w - v to the others' numbers, however it is written."""
    _, circuit = joined("sum((a.w + b.x) - (a.v + c.z))")
    [own] = summands(circuit, 2)
    assert own.is_shared
    assert {node.value for node in own.node.every() if node.op == "column"} == {
        ("a", "w"),
        ("a", "v"),
    }


def test_a_summand_below_a_bracket_is_found() -> None:
    """max_share holds for it as for any other."""
    _, circuit = joined("sum(-1 * (a.w - 1 * (b.x - c.z)))")
    [own] = summands(circuit, 4)
    assert own.is_shared


@pytest.mark.parametrize(("n_varying", "is_refused"), [(9, True), (10, False)])
def test_who_hardly_varies_hides_nobody(n_varying: int, is_refused: bool) -> None:
    check_mask(n_varying, 1)
    if not is_refused:
        check_mask(n_varying, 10)
        return
    with pytest.raises(Refused) as caught:
        check_mask(n_varying, 10)
    assert caught.value.code == "own_totals"


# One column, one name


def test_all_providers_name_the_same_column() -> None:
    request = asked("avg", keys=("age", "known", "age"))
    check_columns(request, 2, rules())
    check_columns(request, 4, rules())
    with pytest.raises(Refused) as caught:
        check_columns(request, 3, rules())
    assert caught.value.code == "column_names"
    assert 'same_as = { "known" = "age" }' in caught.value.remedy
    check_columns(request, 3, rules(same_as={"known": "age"}))
    with pytest.raises(Refused):
        check_columns(request, 3, rules(same_as={"known": "bmi", "other": "age"}))


def test_keys_that_rows_are_joined_by_may_differ() -> None:
    request = asked("custom", keys=("id", "patient", "nr"), expression="sum(a.w + b.x)")
    check_columns(request, 3, rules())


# A training order


def trained(**params: Any) -> TrainingRequest:
    return TrainingRequest(
        user_id=2,
        model_type="lr",
        model_params=params,
        party_id=[2, 3, 4],
        data_info=dict.fromkeys((2, 3, 4), "SELECT"),
        unique_id="id",
        attributes=["age", "bmi"],
        label_name="ill",
    )


@pytest.mark.parametrize(
    ("standardize", "columns"), [(True, "age, bmi and cost"), (False, "cost")]
)
def test_a_linear_order_opens_the_moments_of_its_label(
    standardize: bool, columns: str
) -> None:
    request = trained(standardize=standardize)
    linear = request.model_copy(update={"model_type": "linear", "label_name": "cost"})
    opened = words_of(training_totals(linear), n_rows=300, n_hospitals=3)
    sentence = (
        f"sum and sum of squares of each of {columns} over 300 people of 3 hospitals"
    )
    assert sentence in opened


def test_a_training_order_in_words() -> None:
    sealed = {"encrypt_param": {"method": "Paillier"}, "standardize": True}
    totals = training_totals(trained(**sealed))
    end = "over 300 people of 3 hospitals"
    assert words_of(totals, n_rows=300, n_hospitals=3) == [
        f"n of age, bmi and ill {end}",
        f"sum and sum of squares of each of age and bmi {end}",
        f"sum of gradients and loss of age, bmi and ill {end}, in each round",
        "sum of loss and counts of classes, calls and scores of training and held-out rows"
        f" of age, bmi and ill {end}, at the end",
    ]
    assert {total.receivers for total in totals} == {("2", "3", "4")}
    # Each attribute's sums are of that attribute alone, whatever the words say.
    sums = [total.parts for total in totals if total.what == "sum"]
    assert [{column for _, column in parts} for parts in sums] == [{"age"}, {"bmi"}]


def test_without_encryption_the_coordinator_opens_all_sums() -> None:
    [total, *_] = training_totals(trained(encrypt_param={"method": "None"}))
    assert total.receivers == ("2", "3", "4", "coordinator")
