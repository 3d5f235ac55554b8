"""What the totals of a circuit are sums of: what passes and what does not, and that
what passes adds columns up.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analytics.statistics.circuit import (
    Conjunction,
    Exclusive,
    Leaf,
    Linear,
    Part,
    Plan,
    Product,
    Sign,
    Total,
)
from analytics.statistics.compiling import plan
from analytics.statistics.kinds import Fixed
from analytics.statistics.reading import parse_expression
from analytics.statistics.rowwise import Column, compute
from analytics.statistics.weighing import Weighing, weighing
from tests.pooled.test_joined_expressions import booleans, numbers

OWNERS = {"df1": 7, "df2": 2, "df3": 5}
NAMES = [f"{alias}.{column}" for alias in OWNERS for column in "xkdf"]
COMBINED, SCALED = Weighing.COMBINED, Weighing.SCALED


def made(text: str) -> Plan:
    """All columns are whole numbers of 20 bits, some of which may be missing."""
    return plan(
        parse_expression(text, dict.fromkeys(OWNERS)),
        dict.fromkeys(NAMES, Fixed(0, 0, 20)),
        OWNERS,
    )


ADDED = [
    "sum(df1.x)",
    "avg(df1.x + df2.x - df3.x)",
    "sum(df1.x - (df1.k - df2.x) + 3)",
    "7 * avg(df1.x) / sum(df2.x) - count(*)",
    "sum(df1.x) * sum(df2.x)",
    "var(df1.x)",
    "var(df1.x - df1.k) / count(*) + avg(df1.x + df2.x)",
    "sum(2 * df1.x - df1.x + 0.5 * df2.x + df2.x / 2)",
    "sum(df1.x + 0 * df3.x) + count(df1.x - df2.k)",
    "df1.x * df2.x > df3.x * 1e-20",
    "case when df1.x > df2.x then 1000 * df1.x else df2.x end",
]


@pytest.mark.parametrize("text", ADDED)
def test_columns_that_are_added_up(text: str) -> None:
    assert {
        user: weighing(made(text), user) for user in OWNERS.values()
    } == dict.fromkeys(OWNERS.values())


WEIGHED: dict[str, dict[str, Weighing]] = {
    "var(df1.x + df2.x)": {"df1": COMBINED, "df2": COMBINED},
    "var(df1.x - df2.x) + avg(df3.x)": {"df1": COMBINED, "df2": COMBINED},
    "sum(df1.x * df2.x)": {"df1": COMBINED, "df2": COMBINED},
    "sum(df1.x * df2.x) + sum(df3.x)": {"df1": COMBINED, "df2": COMBINED},
    "sum(df1.x * df2.x + df3.x)": {"df1": COMBINED, "df2": COMBINED, "df3": COMBINED},
    "sum(0 * df1.x * df2.x)": {"df1": COMBINED, "df2": COMBINED},
    "sum(df1.x > df2.x)": {"df1": COMBINED, "df2": COMBINED},
    "avg(case when df1.x = df2.x then df3.x else 0 end)": {
        "df1": COMBINED,
        "df2": COMBINED,
        "df3": COMBINED,
    },
    "sum(case when df2.x > 1 or df3.x > 1 then df2.x else 0 end)": {
        "df2": COMBINED,
        "df3": COMBINED,
    },
    "sum(case when df2.k = 17 then 1000 * df2.x else df2.x end)": {"df2": COMBINED},
    "sum(df2.x * df2.x)": {"df2": COMBINED},
    "sum(df2.x * df2.x * df2.x)": {"df2": COMBINED},
    "var(df2.x * df2.k)": {"df2": COMBINED},
    "var(df2.x > 3)": {"df2": COMBINED},
    "sum(df2.x / df2.k)": {"df2": COMBINED},
    "sum(1 / df2.x)": {"df2": COMBINED},
    "sum(case when df2.x > 1 then 1 end)": {"df2": COMBINED},
    "count(df2.x > 3)": {"df2": COMBINED},
    "count(df1.x + df2.x / (df2.k - 17))": {"df2": COMBINED},
    "sum(df1.x) + 0 * count(1 / (df2.k - 17))": {"df2": COMBINED},
    "sum(df1.x + case when 1 = 1 then 1 else 0 end)": {"df1": COMBINED},
    "sum(df2.x + 1e-20 * df3.x + 1e-40 * df1.x)": {
        "df1": SCALED,
        "df2": SCALED,
        "df3": SCALED,
    },
    "sum(1e20 * df1.x + df2.x)": {"df1": SCALED, "df2": SCALED},
    "sum(2 * df1.x + 2 * df2.x)": {"df1": SCALED, "df2": SCALED},
    "avg(1000 * df1.x)": {"df1": SCALED},
    "var(df1.x / 8)": {"df1": SCALED},
    "sum(df1.x + df1.x)": {"df1": SCALED},
    "sum(df1.x + 3 * df2.x + 0 * df3.x)": {"df1": SCALED, "df2": SCALED},
    "avg(2 * df1.x) + sum(df1.x * df2.x)": {"df1": COMBINED, "df2": COMBINED},
}


@pytest.mark.parametrize("text", WEIGHED)
def test_columns_that_are_weighed(text: str) -> None:
    found = {alias: weighing(made(text), user) for alias, user in OWNERS.items()}
    assert {alias: why for alias, why in found.items() if why} == WEIGHED[text]


@pytest.mark.parametrize("text", [*ADDED, *WEIGHED])
def test_types_change_nothing(text: str) -> None:
    """So that what is refused before types are announced is what would be refused
    after.
    """
    expression = parse_expression(text, dict.fromkeys(OWNERS))
    types = [
        {
            name: Fixed(i, i, 5 + i, nullable=i % 2 == 0)
            for i, name in enumerate(NAMES, start)
        }
        for start in (0, 11)
    ]
    types.append(dict.fromkeys(NAMES, Fixed(0, 0, 1, nullable=False)))
    found = [
        [weighing(plan(expression, one, OWNERS), user) for user in OWNERS.values()]
        for one in types
    ]
    assert found[0] == found[1] == found[2]


# Of any expression that passes, the totals are evaluated, and must be what they are
# allowed to be. -------------------


def registers_of(circuit: Plan, row: Mapping[str, int]) -> list[Any]:
    """The numbers and booleans of one row, step by step, in clear."""
    columns = {
        name: Column(np.array([value]), np.array([True])) for name, value in row.items()
    }
    found: list[Any] = []
    for step in circuit.steps:
        match step:
            case Leaf(node=node):
                found.append(
                    compute(node, columns, circuit.types, n_rows=1).values.tolist()[0]
                )
            case Linear(terms=terms, constant=constant):
                found.append(
                    constant
                    + sum(factor * found[register] for register, factor in terms)
                )
            case Product(left=left, right=right):
                found.append(found[left] * found[right])
            case Sign(number=number):
                found.append(found[number] < 0)
            case Exclusive(bits=bits, constant=constant):
                found.append(sum([constant, *(found[bit] for bit in bits)]) % 2 == 1)
            case Conjunction(left=left, right=right):
                found.append(found[left] and found[right])
            case Part(bit=bit, provider=provider):
                found.append(int(found[bit] and provider == circuit.providers[0]))
    return found


def value(circuit: Plan, total: Total, row: Mapping[str, int]) -> Fraction:
    """What one row adds to a total."""
    return Fraction(registers_of(circuit, row)[total.register]) * total.kind.scale


def factors(circuit: Plan, total: Total) -> dict[str, Fraction]:
    """What each column by itself changes of a row's part."""
    zero = dict.fromkeys(NAMES, 0)
    at_zero = value(circuit, total, zero)
    return {name: value(circuit, total, zero | {name: 1}) - at_zero for name in NAMES}


def is_added_up(circuit: Plan, total: Total, rows: list[dict[str, int]]) -> bool:
    """Is it, in all these rows, a constant and columns that come in once, or are taken
    off once?
    """
    found, at_zero = (
        factors(circuit, total),
        value(circuit, total, dict.fromkeys(NAMES, 0)),
    )
    return set(found.values()) <= {-1, 0, 1} and all(
        value(circuit, total, row)
        == at_zero + sum(found[name] * row[name] for name in NAMES)
        for row in rows
    )


def is_own_square(
    circuit: Plan, total: Total, rows: list[dict[str, int]], provider: int
) -> bool:
    """Is it the square of a total that adds up columns of this provider alone?"""
    for other in circuit.totals:
        used = {
            OWNERS[name[:3]]
            for name, factor in factors(circuit, other).items()
            if factor
        }
        is_square = all(
            value(circuit, total, row) == value(circuit, other, row) ** 2
            for row in rows
        )
        if is_square and used <= {provider} and is_added_up(circuit, other, rows):
            return True
    return False


def goes_into(
    circuit: Plan, total: Total, rows: list[dict[str, int]], provider: int
) -> bool:
    """Does anything of the provider change it, as far as these rows show?"""
    own = [name for name in NAMES if OWNERS[name[:3]] == provider]
    return any(
        value(circuit, total, row)
        != value(circuit, total, row | {name: other[name] for name in own})
        for row in rows
        for other in rows
    )


FACTORS = ["", "", "", "-1 * ", "2 * ", "0 * ", "0.5 * ", "1e-20 * ", "df1.k * "]
TERM = st.tuples(st.sampled_from(FACTORS), st.sampled_from(NAMES)).map("".join)
PLAIN = st.lists(TERM, min_size=1, max_size=4).map(" - ".join)
ANY = st.one_of(numbers(tuple(OWNERS), 2), booleans(tuple(OWNERS), 0)).filter(
    lambda part: part.aliases
)
INNER = st.one_of(
    PLAIN,
    PLAIN,
    ANY.map(lambda part: part.text),
    st.tuples(PLAIN, TERM).map(" + ".join),
)
AGGREGATE = st.tuples(st.sampled_from(["sum", "avg", "var", "count"]), INNER).map(
    "{0[0]}({0[1]})".format
)
QUESTION = st.lists(AGGREGATE, min_size=1, max_size=2).map(" / ".join)


@given(text=QUESTION, seed=st.integers(0, 2**32))
def test_a_total_that_passes_adds_columns_up_or_is_the_square_of_an_own_sum(
    text: str, seed: int
) -> None:
    circuit, rng = made(text), random.Random(seed)
    rows = [
        {name: rng.choice([0, 1, rng.randint(-1000, 1000)]) for name in NAMES}
        for _ in range(4)
    ]
    for provider in OWNERS.values():
        if weighing(circuit, provider) is not None:
            continue
        for total in circuit.totals:
            if goes_into(circuit, total, rows, provider):
                is_known = is_added_up(circuit, total, rows) or is_own_square(
                    circuit, total, rows, provider
                )
                assert is_known, (text, total.of)


@given(
    columns=st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True),
    data=st.data(),
    aggregate=st.sampled_from(["sum", "avg", "count"]),
)
def test_columns_that_are_added_once_pass_however_they_are_written(
    columns: list[str], data: st.DataObject, aggregate: str
) -> None:
    text = "0"
    for column in columns:
        shape = st.sampled_from(
            [
                "({} + {})",
                "({} - {})",
                "-({} - {})",
                "({0} + 2.5) - 3 * {1} / 3 + 0 * {1}",
            ]
        )
        text = data.draw(shape).format(text, column)
    circuit = made(f"{aggregate}({text})")
    assert [weighing(circuit, user) for user in OWNERS.values()] == [None] * 3


# What a total that passes is computed by. ---------------------------------------------

JOINING = (Product, Sign, Conjunction, Part)
"""Steps that weigh what stands on their sides by each other."""


def inputs_of(step: Any) -> list[int]:
    match step:
        case Linear(terms=terms):
            return [register for register, _ in terms]
        case Product(left=left, right=right) | Conjunction(left=left, right=right):
            return [left, right]
        case Sign(number=number):
            return [number]
        case Exclusive(bits=bits):
            return list(bits)
        case Part(bit=bit):
            return [bit]
    return []


def joined_below(circuit: Plan, provider: int) -> set[type]:
    """The kinds of steps on the way to a total of this provider's columns that depend on
    them and on another provider's.
    """
    owners: list[set[int]] = []
    found = set()
    behind: list[set[type]] = []
    for step in circuit.steps:
        inputs = inputs_of(step)
        # A constant is computed by a provider, and is no column of it.
        has_columns = isinstance(step, Leaf) and step.node.aliases
        own = {step.provider} if has_columns else set()
        owners.append(own.union(*[owners[register] for register in inputs]))
        kinds = set().union(*[behind[register] for register in inputs])
        if isinstance(step, JOINING) and provider in owners[-1] and len(owners[-1]) > 1:
            kinds.add(type(step))
        behind.append(kinds)
    for total in circuit.totals:
        found |= behind[total.register]
    return found


@given(text=QUESTION)
@example(text="sum((case when (0 = 0) then df1.d else df3.d end / 8))")
def test_no_step_of_a_total_that_passes_joins_a_provider_s_columns_with_another_s(
    text: str,
) -> None:
    circuit = made(text)
    for provider in OWNERS.values():
        if weighing(circuit, provider) is None:
            assert joined_below(circuit, provider) == set(), text


def test_each_kind_of_step_over_two_providers_is_planted_above() -> None:
    planted = set()
    for text in WEIGHED:
        circuit = made(text)
        for provider in OWNERS.values():
            kinds = joined_below(circuit, provider)
            assert not kinds or weighing(circuit, provider) is COMBINED
            planted |= kinds
    assert planted == set(JOINING)
