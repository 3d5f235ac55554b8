"""Derived columns: what their texts may say, and what is refused."""

from __future__ import annotations

import pytest

from analytics.statistics.derived import in_order, parse_derived, plain_names
from analytics.statistics.expression import ExpressionError
from analytics.statistics.reading import DEEPEST, parse_expression


@pytest.mark.parametrize(
    ("text", "numbers", "texts"),
    [
        ("ln(chol)", ["chol"], []),
        ("age >= 65", ["age"], []),
        ("age * sex", ["age", "sex"], []),
        ("exp(a) + sqrt(b) + abs(c) + power(d, 2)", ["a", "b", "c", "d"], []),
        ("least(a, b, 3) - greatest(a, 1)", ["a", "b"], []),
        ("case when cp in (1, 2) then 1 else 0 end", ["cp"], []),
        ("case cp when 'typical' then 1 else 0 end", [], ["cp"]),
        ("kind not in ('a', 'b') and x is not null", [], ["kind"]),
        ("'F' = sex or sex <> 'x'", [], ["sex"]),
        ('"blood pressure" / 10', ["blood pressure"], []),
        ("血压 * 2", ["血压"], []),
        ("case when (a / b) is null then 0 else 1 end", ["a", "b"], []),
    ],
)
def test_what_an_expression_uses(
    text: str, numbers: list[str], texts: list[str]
) -> None:
    derived = parse_derived(text)
    assert list(derived.numbers) == numbers
    assert list(derived.texts) == texts
    assert set(derived.names) >= {*numbers, *texts}


def test_a_column_that_is_only_asked_for_a_value_has_no_type() -> None:
    derived = parse_derived("case when x is null then 1 else 0 end")
    assert (derived.names, derived.numbers, derived.texts) == (("x",), (), ())


def test_knots_of_a_spline() -> None:
    assert parse_derived("ns(age, -3, 5e1, 70.5)").knots == (-3.0, 50.0, 70.5)
    assert parse_derived("ns(ln(age), 3, 4)").numbers == ("age",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("round_up(x)", "calls round_up"),
        ("sum(x)", "not allowed"),
        ("count(*)", "not allowed"),
        ("df1.x + 1", "alias"),
        ("1 + 1", "no column"),
        ("ln(ns(x, 1, 2))", "within another expression"),
        ("ns(x, 3, 2)", "increasing"),
        ("ns(x, 3)", "increasing"),
        ("ns()", "increasing"),
        ("ns(x, a, b)", "no number"),
        ("x = 'a' and x > 2", "as a number and as a text"),
        ("x < 'a'", "less than another"),
        ("x in (select 1)", "no list"),
        ("x is true", "something else than null"),
        ("least(x)", "one argument"),
        ("case when x then 1 else 0 end", "a number where a comparison belongs"),
        ("(x > 1) + 1", "a comparison where a number belongs"),
        ("x / 0", "constant zero"),
        ("x; select 1", "cannot be read"),
        ("x -- 1", "comment"),
        ("x like 'a'", "not allowed"),
        ("'a'", "no decimal number"),
        ("(" * (DEEPEST + 1) + "x" + ")" * (DEEPEST + 1), "nested"),
    ],
)
def test_what_is_refused_says_why(text: str, says: str) -> None:
    with pytest.raises(ExpressionError, match=says) as caught:
        parse_derived(text)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "text", ["ln(a.x)", "abs(a.x)", "a.x in (1, 2)", "a.x is null", "a.x = 'b'"]
)
def test_joint_statistics_still_refuse_what_only_rows_have(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_expression(text, {"a": None})


def test_derived_columns_come_behind_those_that_they_use() -> None:
    derived = {
        "c": parse_derived("b + a"),
        "b": parse_derived("a * 2"),
        "a": parse_derived("x + y"),
    }
    assert in_order(derived) == ["a", "b", "c"]
    assert plain_names(derived) == ["x", "y"]


def test_a_circle_is_named() -> None:
    derived = {
        name: parse_derived(text)
        for name, text in {"a": "b + 1", "b": "c + 1", "c": "a + 1", "d": "x"}.items()
    }
    with pytest.raises(ExpressionError, match="a, b, c"):
        in_order(derived)


@pytest.mark.parametrize(("n", "passes"), [(DEEPEST, True), (DEEPEST + 1, False)])
def test_a_chain_of_derived_columns_has_an_end(n: int, passes: bool) -> None:
    derived = {"d1": parse_derived("x + 1")}
    for number in range(2, n + 1):
        derived[f"d{number}"] = parse_derived(f"d{number - 1} + 1")
    if passes:
        assert in_order(derived)[-1] == f"d{n}"
        return
    with pytest.raises(ExpressionError, match="nested"):
        in_order(derived)
