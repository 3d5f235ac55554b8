"""Expressions: what is read and refused, their circuits, what one provider computes,
how numbers are written.
"""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.statistics.circuit import Leaf, Part, Plan, Product, Sign
from analytics.statistics.compiling import plan
from analytics.statistics.exact import text_of
from analytics.statistics.expression import Expression, ExpressionError
from analytics.statistics.kinds import Fixed, kind_of
from analytics.statistics.reading import compare_sum, parse_expression
from analytics.statistics.rowwise import Column, compute

COLUMNS = {"a": None, "b": ["x", "y"], "订单": None}
OWNERS = {"a": 2, "b": 3, "订单": 9}


def parse(text: str) -> Expression:
    return parse_expression(text, COLUMNS)


def made(text: str, *, nullable: bool = False, digits: int = 10) -> Plan:
    expression = parse(text)
    kind = Fixed.decimal(digits, 2, nullable=nullable)
    return plan(
        expression,
        {f"{alias}.{column}": kind for alias, column in expression.columns},
        OWNERS,
    )


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("a.unit_price * b.x", (("a", "unit_price"), ("b", "x"))),
        ('a."unit price" + 订单.金额', (("a", "unit price"), ("订单", "金额"))),
        ("SUM(a.x) / Count(*)", (("a", "x"),)),
        ("case a.x when 1 then b.x else 2 end", (("a", "x"), ("b", "x"))),
        ("a.x - -3 + .5 * 1e-3", (("a", "x"),)),
        ("not a.x = 1 and b.x != 2 or a.y <= 3", (("a", "x"), ("a", "y"), ("b", "x"))),
        ("var(a.x > 1)", (("a", "x"),)),
        (" + ".join(["a.x"] * 300), (("a", "x"),)),
        ("\n a.count\t+ a.date ", (("a", "count"), ("a", "date"))),
    ],
)
def test_what_is_read(text: str, columns: tuple[tuple[str, str], ...]) -> None:
    expression = parse(text)
    assert expression.columns == columns
    assert expression.columns_of("a") == tuple(
        column for alias, column in columns if alias == "a"
    )


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("a.x + " * 400 + "a.x", "characters"),
        ("a.x\0", "printed"),
        ("a.x -- b", "comment"),
        ("a.x /* b */", "comment"),
        ("(" * 26 + "a.x" + ")" * 26, "deep"),
        ("- " * 900 + "a.x", "deep"),
        ("not " * 300 + "a.x = 1", "deep"),
        (" / ".join(["a.x"] * 30), "deep"),
        ("a.x; drop table t", "read"),
        ("a.x) from t where (1 = 1", "read"),
        ("a.x, b.x", "read"),
        ("all a.x", "read"),
        ("select a.x", "read"),
        ("a.x as y", "allowed"),
        ("a.x +", "read"),
        ("(select 1)", "read"),
        ("a.x in (1, 2)", "allowed"),
        ("a.x is null", "allowed"),
        ("a.x % 2", "allowed"),
        ("a.x::int", "allowed"),
        ("cast(a.x as int)", "allowed"),
        ("abs(a.x)", "allowed"),
        ("struct(" * 25, "allowed"),
        ("int(" * 25 + "a.x" + ")" * 25, "allowed"),
        ("(date " * 25 + "a.x" + ")" * 25, "allowed"),
        ("read_csv(a.x)", "allowed"),
        ("sum(a.x) over ()", "allowed"),
        ("sum(distinct a.x)", "allowed"),
        ("max(a.x)", "allowed"),
        ("null", "allowed"),
        ("a.x + 'text'", "decimal number"),
        ("a.x + 1e401", "digits"),
        ("a.x * " + "9" * 401, "digits"),
        ("1e300 * 1e300 * a.x", "digits"),
        ("x + 1", "alias.column"),
        ("s.a.x", "alias.column"),
        ("*", "allowed"),
        ("c.x", "alias that no provider has"),
        ("b.z", "no column z"),
        ("1 + 1", "names no column"),
        ("true", "names no column"),
        ("a.x and b.x", "number where a comparison"),
        ("(a.x > 1) + 1", "comparison where a number"),
        ("a.x < 1 < 2", "comparison where a number"),
        ("a.x / 0", "constant zero"),
        ("a.x / (2 - 2)", "constant zero"),
        ("a.x / b.x", "divides one provider's rows"),
        ("(a.x + b.x) / a.y", "divides one provider's rows"),
        ("sum(a.x / b.x)", "divides one provider's rows"),
        ("sum(a.x) + a.x", "mixes"),
        ("sum(a.x) / a.x", "mixes"),
        ("sum(sum(a.x))", "aggregate within"),
        ("sum(a.x) > 3", "aggregate within"),
        ("case when a.x > 1 then sum(a.x) else 0 end", "aggregate within"),
        ("sum(1)", "over no column"),
        ("count(a.x, b.x)", "several"),
        ("case when a.x > 1 then b.x end", "no else"),
        ("case when a.x > 1 then 1 else a.x > 2 end", "numbers and comparisons"),
    ],
)
def test_what_is_refused_with_a_sentence(text: str, word: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert word in str(caught.value)
    assert caught.value.sentence
    assert caught.value.remedy


@given(st.text(alphabet="ab.xy0123456789+-*/()<>=!,;'\" casewhntld", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        parse(text)


def test_what_an_expression_says_of_itself() -> None:
    assert parse("a.x * b.x").is_row_level
    assert not parse("count(*)").is_row_level
    assert parse("case when a.x > 1 then 2 else 3 end").compares
    assert not parse("a.x * b.x").compares
    assert parse("a.x / a.y").divides
    assert not parse("sum(a.x) / sum(b.x) / 2").divides


# Circuits


@pytest.mark.parametrize(
    ("text", "n_products", "n_signs"),
    [
        ("a.x * b.x", 1, 0),
        ("a.x * b.x * a.y * b.y", 1, 0),
        ("a.x * 2 + b.x / 3 - a.y", 0, 0),
        ("(a.x + b.x) * (a.x + b.x)", 1, 0),
        ("a.x * b.x * 订单.z", 2, 0),
        ("a.x > 1 and a.y > 2", 0, 0),
        ("a.x > b.x", 0, 1),
        ("a.x = b.x", 0, 2),
        ("case when a.x > 1 then b.x else 0 end", 1, 0),
        ("case when a.x > b.x then a.x else b.x end", 3, 1),
        ("sum(a.x) / sum(b.x)", 0, 0),
        ("var(a.x * b.x)", 2, 0),
    ],
)
def test_only_what_needs_shares_takes_products(
    text: str, n_products: int, n_signs: int
) -> None:
    steps = made(text).steps
    assert sum(isinstance(step, Product) for step in steps) == n_products
    assert sum(isinstance(step, Sign) for step in steps) == n_signs


def test_where_values_may_be_missing_factors_are_added() -> None:
    def n_products(text: str) -> int:
        return sum(
            isinstance(step, Product) for step in made(text, nullable=True).steps
        )

    assert n_products("a.x * b.x") == 1  # zero wherever one is missing
    assert n_products("a.x + b.x") == 2
    assert made("a.x + b.x").valid is None
    assert made("a.x / a.y * b.x").valid is not None
    assert made("case when a.x > 1 then 2 end").valid is not None


@pytest.mark.parametrize(("digits", "bits"), [(4, 14 * 2 + 1), (18, 60 * 2 + 1)])
def test_the_ring_holds_what_is_opened(digits: int, bits: int) -> None:
    assert made("a.x * b.x", digits=digits).bits(10**6) == bits
    assert made("sum(a.x * b.x)", digits=digits).bits(2**20) == bits + 20


def test_a_comparison_needs_the_bits_of_its_difference() -> None:
    types = {f"{alias}.v": Fixed(0, 0, 10) for alias in OWNERS}
    expression = compare_sum(
        [(alias, "v") for alias in OWNERS], ">=", threshold=Fraction(3)
    )
    widths = [
        s.width for s in plan(expression, types, OWNERS).steps if isinstance(s, Sign)
    ]
    assert widths == [(3 * 1023 + 3).bit_length() + 1]


@pytest.mark.parametrize(("n", "fits"), [(34, True), (35, False)])
def test_too_large_a_ring_is_refused(n: int, fits: bool) -> None:
    expression = parse(" * ".join(["a.x", "b.x"] * (n // 2) + ["a.x"] * (n % 2)))
    types = {"a.x": Fixed(0, 0, 60, False), "b.x": Fixed(0, 0, 60, False)}
    if fits:
        assert plan(expression, types, OWNERS).bits(1) == n * 60 + 1
        return
    with pytest.raises(ExpressionError, match="2101 bits; 2048"):
        plan(expression, types, OWNERS)


def test_many_providers_compute_fewer_rows_at_once() -> None:
    """What a provider holds of a comparison grows with them."""
    sizes = {}
    for n in (2, 4, 100):
        owners = {f"a{i}": i for i in range(1, n + 1)}
        expression = compare_sum(
            [(alias, "v") for alias in owners], ">=", threshold=Fraction(3)
        )
        made = plan(
            expression, {f"{alias}.v": Fixed(0, 0, 60) for alias in owners}, owners
        )
        sizes[n] = next(made.batches(10**6)).stop
    assert sizes[2] == sizes[4] == 2**17
    assert 64 <= sizes[100] < 2**14


def test_too_large_numbers_of_one_hospital_are_refused() -> None:
    """They are compared there, and none of them is opened: nothing but memory limits
    them.
    """
    expression = parse(" * ".join(["a.x"] * 40) + " > 1 and b.x > 1")
    with pytest.raises(ExpressionError, match="2401 bits; 2048"):
        plan(expression, {"a.x": Fixed(0, 0, 60), "b.x": Fixed(0, 0, 60)}, OWNERS)


def test_a_column_without_a_type_is_refused() -> None:
    with pytest.raises(ExpressionError, match="no type"):
        plan(parse("a.x * b.x"), {"a.x": Fixed(0, 0, 8)}, OWNERS)


@pytest.mark.parametrize("comparison", ["=", "<>", "", "or"])
def test_a_threshold_is_reached_or_not(comparison: str) -> None:
    with pytest.raises(ExpressionError):
        compare_sum([("a", "x")], comparison, threshold=Fraction(1))


def test_every_party_makes_the_same_plan() -> None:
    text = "var(a.x + b.y) / sum(case when a.x > b.x then 订单.z else 1 end) + avg(b.x)"
    one, other = made(text, nullable=True), made(text, nullable=True)
    assert one == other
    assert repr(one.steps) == repr(other.steps)


def test_an_alias_that_is_not_named_is_a_provider_all_the_same() -> None:
    assert made("a.x * b.x").providers == (2, 3, 9)
    parts = [step for step in made("sum(a.x > b.x)").steps if isinstance(step, Part)]
    assert [part.provider for part in parts] == [2, 3, 9]
    assert {s.provider for s in made("a.x * b.x").steps if isinstance(s, Leaf)} == {
        2,
        3,
    }


@pytest.mark.parametrize("aggregate", ["sum", "avg", "var", "count"])
def test_an_aggregate_is_the_same_circuit_where_values_may_be_missing(
    aggregate: str,
) -> None:
    """Rows without a value are left out before: no factor says which ones, and what
    must have a value is named.
    """
    for text in (
        "a.x",
        "a.x + b.y",
        "a.x * b.y",
        "case when a.x > b.y then 1 else 2 end",
        "a.x / a.z + b.y",
    ):
        one, other = (
            made(f"{aggregate}({text})", nullable=nullable)
            for nullable in (True, False)
        )
        assert (one.steps, one.totals, one.needed) == (
            other.steps,
            other.totals,
            other.needed,
        )
        assert {leaf.provider for leaf in one.needed} == (
            {2, 3} if "b.y" in text else {2}
        )


# What one provider computes


def numbers(values: list[Any]) -> Column:
    return Column(
        np.array([0 if v is None else v for v in values]),
        np.array([v is not None for v in values]),
    )


def computed(text: str, **columns: list[Any]) -> list[Fraction | bool | None]:
    types = {f"a.{name}": Fixed(0, 0, 63) for name in columns}
    node, n_rows = parse(text).root, len(next(iter(columns.values())))
    done = compute(
        node,
        {f"a.{name}": numbers(v) for name, v in columns.items()},
        types,
        n_rows=n_rows,
    )
    scale = 1 if node.is_boolean else kind_of(node, types).scale
    return [
        v * scale if ok else None
        for v, ok in zip(done.values.tolist(), done.valid.tolist(), strict=True)
    ]


@given(st.lists(st.tuples(*[st.integers(-(2**62), 2**62)] * 2), min_size=1, max_size=9))
def test_a_quotient_is_the_nearest_double(pairs: list[tuple[int, int]]) -> None:
    x, y = ([pair[i] for pair in pairs] for i in (0, 1))
    expected = [None if not b else Fraction(float(Fraction(a, b))) for a, b in pairs]
    assert computed("a.x / a.y", x=x, y=y) == expected


def test_small_quotients_are_rounded_to_a_multiple_of_two_to_the_minus_128() -> None:
    assert computed("a.x / a.y / 1e30", x=[1], y=[3]) == [Fraction(1 / 3) / 10**30]
    assert computed("a.x / (a.y * 1e30)", x=[1], y=[3]) == [
        Fraction(round(Fraction(2**128, 3 * 10**30)), 2**128)
    ]
    assert computed("a.x / (a.y * 1e300)", x=[1], y=[3]) == [0]


@pytest.mark.parametrize("text", ["a.x / (a.y * 1e-30)", "a.x / (a.y * 1e-350)"])
def test_a_quotient_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError, match="quotient"):
        computed(text, x=[1], y=[3])


def test_case_leaves_out_the_branches_not_taken() -> None:
    text = "case when a.y = 0 then 7 else a.x / a.y end"
    assert computed(text, x=[1, 1, None, None, 1], y=[0, 2, 0, 4, None]) == [
        7,
        Fraction(1, 2),
        7,
        None,
        None,
    ]


def test_a_missing_value_is_missing_in_and_and_or() -> None:
    assert computed("a.x > 0 or a.y > 0", x=[1, None, 0], y=[None, 1, 0]) == [
        None,
        None,
        False,
    ]


def test_values_outside_of_the_announced_type_are_refused() -> None:
    types, node = {"a.x": Fixed(0, 0, 3)}, parse("a.x").root
    for value, fits in ((7, True), (-7, True), (8, False), (-8, False)):
        columns = {"a.x": numbers([value])}
        if fits:
            assert compute(node, columns, types, n_rows=1).values.tolist() == [value]
        else:
            with pytest.raises(ExpressionError, match="larger numbers"):
                compute(node, columns, types, n_rows=1)
    with pytest.raises(ExpressionError, match="misses values"):
        compute(
            node, {"a.x": numbers([None])}, {"a.x": Fixed(0, 0, 3, False)}, n_rows=1
        )


# Texts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(0), "0"),
        (Fraction(-(2**70)), "-1180591620717411303424"),
        (Fraction(1, 10), "0.1"),
        (Fraction(0.1), "0.1"),
        (Fraction(-1, 1000), "-0.001"),
        (Fraction(123456789012345678901, 10**6), "123456789012345.678901"),
        (Fraction(1, 3), "0.3333333333333333"),
        (Fraction(1, 10**60), "0." + "0" * 59 + "1"),
        (Fraction(1, 10**61), "1e-61"),
        (Fraction(10**400, 3), "3" * 400),
        (Fraction(10**400 * 3 + 1, 2), "15" + "0" * 399 + ".5"),
    ],
)
def test_texts_of_numbers(value: Fraction, text: str) -> None:
    assert text_of(value) == text


@given(st.integers(-(10**30), 10**30), st.integers(0, 60))
def test_decimals_are_written_exactly(number: int, digits: int) -> None:
    value = Fraction(number, 10**digits)
    written = text_of(value)
    assert Fraction(written) == value or Fraction(float(written)) == value
