"""Joint equals pooled: what 2, 3 and 5 providers compute on shares is what exact
arithmetic gives on one table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.statistics import circuit
from analytics.statistics.circuit import Plan, Product, Sign
from analytics.statistics.compiling import plan
from analytics.statistics.expression import ExpressionError
from analytics.statistics.kinds import Fixed
from analytics.statistics.reading import compare_sum, parse_expression
from protocol.errors import ProtocolViolation
from protocol.shares.channel import SEED
from protocol.shares.ring import Ring
from protocol.shares.shared_expression import JoinedResult
from tasks.coordinator.dealing import Dealt
from tests.examples import few
from tests.made_providers import column, compute_jointly, hall_of, shares_of
from tests.pairwise import pairwise, quick

TYPES = {
    "x": Fixed.decimal(5, 2),
    "k": Fixed(0, 0, 7),
    "d": Fixed(128, 0, 192),
    "f": Fixed.decimal(3, 1, nullable=False),
}
RANGES = {"x": 10**5 - 1, "k": 127, "f": 999}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Made:
    """An expression's text, whose columns it is over, and its value in one row of the
    pooled table.
    """

    text: str
    aliases: frozenset[str]
    value: Callable[[Row], Any]


def strictly(f: Callable[..., Any], *parts: Made) -> Callable[[Row], Any]:
    def value(row: Row) -> Any:
        values = [part.value(row) for part in parts]
        return None if any(v is None for v in values) else f(*values)

    return value


def joined(template: str, f: Callable[..., Any], *parts: Made) -> Made:
    aliases = frozenset().union(*(part.aliases for part in parts))
    return Made(
        template.format(*(part.text for part in parts)), aliases, strictly(f, *parts)
    )


def choice(parts: tuple[Made, Made, Made]) -> Made:
    condition, yes, no = parts
    whole = joined(
        "case when {} then {} else {} end", lambda c, a, b: a if c else b, *parts
    )
    if len(whole.aliases) > 1:
        return whole

    def value(row: Row) -> Any:
        chosen = condition.value(row)
        return None if chosen is None else (yes if chosen else no).value(row)

    return Made(whole.text, whole.aliases, value)


def quotient(left: Made, right: Made) -> Made:
    return joined(
        "({} / {})",
        lambda a, b: Fraction(float(Fraction(a) / b)) if b else None,
        left,
        right,
    )


def column_of(alias: str) -> st.SearchStrategy[Made]:
    return st.sampled_from(sorted(TYPES)).map(
        lambda name: Made(
            f"{alias}.{name}", frozenset({alias}), lambda row: row[f"{alias}.{name}"]
        )
    )


CONSTANTS = st.sampled_from(["0", "1", "2.5", "100", "0.01"]).map(
    lambda text: Made(text, frozenset(), lambda row: Fraction(text))
)


def numbers(aliases: tuple[str, ...], depth: int) -> st.SearchStrategy[Made]:
    columns = st.sampled_from(aliases).flatmap(column_of)
    if depth == 0:
        return st.one_of(columns, columns, CONSTANTS)
    below = numbers(aliases, depth - 1)
    pair = st.tuples(below, below)
    return st.one_of(
        columns,
        pair.map(lambda p: joined("({} + {})", lambda a, b: a + b, *p)),
        pair.map(lambda p: joined("({} - {})", lambda a, b: a - b, *p)),
        pair.map(lambda p: joined("({} * {})", lambda a, b: a * b, *p)),
        below.map(lambda p: joined("(- {})", lambda a: -a, p)),
        below.map(lambda p: joined("({} / 8)", lambda a: a / 8, p)),
        st.sampled_from(aliases)
        .flatmap(lambda alias: st.tuples(column_of(alias), column_of(alias)))
        .map(lambda p: quotient(*p)),
        st.tuples(booleans(aliases, depth - 1), below, below).map(choice),
    )


def booleans(aliases: tuple[str, ...], depth: int) -> st.SearchStrategy[Made]:
    pair = st.tuples(numbers(aliases, depth), numbers(aliases, depth))
    compared = st.one_of(
        pair.map(lambda p: joined("({} = {})", lambda a, b: a == b, *p)),
        pair.map(lambda p: joined("({} <> {})", lambda a, b: a != b, *p)),
        pair.map(lambda p: joined("({} < {})", lambda a, b: a < b, *p)),
        pair.map(lambda p: joined("({} >= {})", lambda a, b: a >= b, *p)),
    )
    if depth == 0:
        return compared
    below = booleans(aliases, depth - 1)
    two = st.tuples(below, below)
    return st.one_of(
        compared,
        two.map(lambda p: joined("({} and {})", lambda a, b: a and b, *p)),
        two.map(lambda p: joined("({} or {})", lambda a, b: a or b, *p)),
        below.map(lambda p: joined("(not {})", lambda a: not a, p)),
        st.tuples(below, below, below).map(choice),
    )


def integers(name: str) -> st.SearchStrategy[int | None]:
    if name == "d":
        doubles = st.sampled_from([0.0, 0.1, -2.5, 1e6, -1e-3, 3.0])
        return st.one_of(st.none(), doubles.map(lambda d: int(Fraction(d) * 2**128)))
    bound = RANGES[name]
    values = st.one_of(
        st.integers(-bound, bound), st.sampled_from([0, 0, bound, -bound])
    )
    return values if name == "f" else st.one_of(st.none(), values)


def aliases_of(n_providers: int) -> tuple[str, ...]:
    return tuple(f"df{i + 1}" for i in range(n_providers))


@st.composite
def tables(draw: st.DrawFn, aliases: tuple[str, ...]) -> dict[str, list[int | None]]:
    n_rows = draw(st.integers(0, 6))
    return {
        f"{alias}.{name}": draw(
            st.lists(integers(name), min_size=n_rows, max_size=n_rows)
        )
        for alias in aliases
        for name in TYPES
    }


def made_plan(text: str, aliases: tuple[str, ...]) -> Plan:
    types = {f"{alias}.{name}": TYPES[name] for alias in aliases for name in TYPES}
    return plan(
        parse_expression(text, {alias: list(TYPES) for alias in aliases}),
        types,
        owners_of(aliases),
    )


def owners_of(aliases: tuple[str, ...]) -> dict[str, int]:
    """User ids in another order than the aliases."""
    return {alias: 40 - 7 * i for i, alias in enumerate(aliases)}


def run(
    made: Plan,
    table: dict[str, list[int | None]],
    aliases: tuple[str, ...],
    **options: Any,
) -> JoinedResult:
    n_rows = len(next(iter(table.values())))
    columns = {
        owner: {
            name: column(values)
            for name, values in table.items()
            if name.startswith(f"{alias}.")
        }
        for alias, owner in owners_of(aliases).items()
    }
    return compute_jointly(made, columns, n_rows, **options)


def rows_of(table: dict[str, list[int | None]]) -> list[dict[str, Fraction | None]]:
    scaled = {
        name: [
            None if v is None else v * TYPES[name.partition(".")[2]].scale
            for v in values
        ]
        for name, values in table.items()
    }
    return [
        dict(zip(scaled, row, strict=True))
        for row in zip(*scaled.values(), strict=True)
    ]


@pytest.mark.parametrize("n_providers", quick([3, 1, 2, 5], 1))
@given(data=st.data())
@few
def test_a_value_per_row(n_providers: int, data: st.DataObject) -> None:
    aliases = aliases_of(n_providers)
    made = data.draw(
        st.one_of(numbers(aliases, 2), booleans(aliases, 1)).filter(lambda m: m.aliases)
    )
    table = data.draw(tables(aliases))
    result = run(made_plan(made.text, aliases), table, aliases)
    expected = [made.value(row) for row in rows_of(table)]
    assert result.values == expected, made.text
    assert result.n_missing == expected.count(None)


def variance(values: list[Fraction]) -> Fraction | None:
    if len(values) < 2:
        return None
    mean = sum(values, Fraction(0)) / len(values)
    return sum(((v - mean) ** 2 for v in values), Fraction(0)) / (len(values) - 1)


AGGREGATES: dict[str, Callable[[list[Any]], Any]] = {
    "sum": lambda v: sum(v, Fraction(0)) if v else None,
    "avg": lambda v: sum(v, Fraction(0)) / len(v) if v else None,
    "var": variance,
    "count": len,
}


@pytest.mark.parametrize("n_providers", [1, 2, 3])
@given(data=st.data())
@few
def test_aggregates_and_their_quotients(n_providers: int, data: st.DataObject) -> None:
    aliases = aliases_of(n_providers)
    arguments = st.one_of(numbers(aliases, 2), booleans(aliases, 0)).filter(
        lambda m: m.aliases
    )
    first, second = data.draw(arguments), data.draw(arguments)
    names = data.draw(st.tuples(*[st.sampled_from(sorted(AGGREGATES))] * 2))
    table = data.draw(tables(aliases))
    text = f"2 * {names[0]}({first.text}) / {names[1]}({second.text}) - count(*)"
    table = complete(table, text, (first, second))
    rows = rows_of(table)
    found = [
        AGGREGATES[name]([Fraction(made.value(row)) for row in rows])
        for name, made in zip(names, (first, second), strict=True)
    ]
    missing = None in found or not found[1]
    expected = None if missing else Fraction(2 * found[0]) / found[1] - len(rows)
    assert run(made_plan(text, aliases), table, aliases).values == [expected], text


def complete(
    table: dict[str, list[int | None]], text: str, parts: tuple[Made, ...]
) -> dict[str, list[int | None]]:
    """What matching leaves: the rows that miss no column that is named, and have every
    value that is counted.
    """
    named = [name for name in table if re.search(rf"\b{re.escape(name)}\b", text)]
    kept = [
        i
        for i, row in enumerate(rows_of(table))
        if all(row[name] is not None for name in named)
        and all(part.value(row) is not None for part in parts)
    ]
    return {name: [values[i] for i in kept] for name, values in table.items()}


@pytest.mark.parametrize(
    "text", ["sum(df1.x + df2.k)", "avg(df1.x / df1.k)", "var(df2.d)"]
)
def test_an_aggregate_over_a_row_without_a_value_is_not_computed(text: str) -> None:
    """Such a row would count as zero: matching leaves it out, and nobody computes with
    it all the same.
    """
    table: dict[str, list[int | None]] = {
        f"{alias}.{name}": [1, 2] for alias in aliases_of(2) for name in TYPES
    }
    run(made_plan(text, aliases_of(2)), table, aliases_of(2))
    table |= {
        "df1.k": [0, 1] if "/" in text else [1, 2],
        "df2.k": [None, 3],
        "df2.d": [None, 3],
    }
    with pytest.raises(ExpressionError, match="without a value"):
        run(made_plan(text, aliases_of(2)), table, aliases_of(2))


@pairwise(n_quick=2, n_providers=[2, 3, 5], comparison=[">=", ">", "<=", "<"])
def test_a_threshold_is_exact_to_the_unit(n_providers: int, comparison: str) -> None:
    """Sums of t - 1, t and t + 1 units of 10^-6, of either sign, near zero and at the
    ends of the type.
    """
    aliases, kind = aliases_of(n_providers), Fixed.decimal(18, 6)
    types = {f"{alias}.v": kind for alias in aliases}
    largest = 10**18 - 1
    for threshold in (
        0,
        3_000_000 * 10**6,
        -1,
        n_providers * largest,
        -n_providers * largest,
    ):
        sums = [
            s
            for s in range(threshold - 1, threshold + 2)
            if abs(s) <= n_providers * largest
        ]
        values = [
            [split(s, n_providers, largest)[i] for s in sums]
            for i in range(n_providers)
        ]
        expression = compare_sum(
            [(a, "v") for a in aliases],
            comparison,
            threshold=Fraction(threshold, 10**6),
        )
        made = plan(expression, types, owners_of(aliases))
        table = {
            f"{alias}.v": list(v) for alias, v in zip(aliases, values, strict=True)
        }
        expected = [
            {
                ">=": s >= threshold,
                ">": s > threshold,
                "<=": s <= threshold,
                "<": s < threshold,
            }[comparison]
            for s in sums
        ]
        assert run(made, table, aliases).values == expected


def split(total: int, n: int, largest: int) -> list[int | None]:
    """n integers within the bound that add up to `total`, the first ones as extreme as
    can be.
    """
    parts: list[int | None] = []
    for left in range(n - 1, -1, -1):
        part = max(-largest, min(largest, total + left * largest))
        parts.append(part)
        total -= part
    assert total == 0
    return parts


def test_batches_are_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "BATCH_ROWS", 64)
    aliases = aliases_of(3)
    table: dict[str, list[int | None]] = {
        f"{alias}.{name}": [
            None if i % 11 == j else (i * 37 + j) % 97 - 40 for i in range(150)
        ]
        for j, alias in enumerate(aliases)
        for name in ("x", "k")
    }
    for text, f in {
        "df1.x * df2.k + df3.x": lambda r: r[0] * r[1] + r[2],
        "df1.x + df2.k > df3.x": lambda r: r[0] + r[1] > r[2],
    }.items():
        rows = [[row["df1.x"], row["df2.k"], row["df3.x"]] for row in rows_of(table)]
        expected = [None if None in row else f(row) for row in rows]
        assert run(made_plan(text, aliases), table, aliases).values == expected


# A coordinator that deals falsely


FALSE = made_plan("df1.x * df2.x > df3.x", aliases_of(3))
SMALL: dict[str, list[int | None]] = {
    f"{alias}.x": [5, -7, 100] for alias in aliases_of(3)
}


def corrections() -> dict[str, int]:
    """The message numbers of the number and the bit triples of `FALSE`."""
    used = [
        type(step)
        for step in FALSE.steps
        if type(step) in (Product, Sign, circuit.Conjunction)
    ]
    return {"numbers": 1 + used.index(Product), "bits": 1 + used.index(Sign)}


@pytest.mark.parametrize("row", [0, 2])
@pytest.mark.parametrize(
    "what", ["the product", "the check", "the product's highest bit"]
)
def test_a_false_number_triple_is_found(what: str, row: int) -> None:
    ring = Ring.of_bits(Ring.of_bits(FALSE.bits(3)).bits + 40)
    limb = Ring.of_bits(FALSE.bits(3)).n_limbs - 1 if "highest" in what else 0
    place = 4 * (limb * 3 + row) + (ring.n_bytes(3) if what == "the check" else 0)

    def tamper(dealt: Dealt) -> bytes:
        return (
            flipped(dealt.data, 8 * place + (31 if limb else 0))
            if is_for(dealt, "numbers")
            else dealt.data
        )

    assert code_of(tamper) == "false_triple"


@pytest.mark.parametrize("n_false", [1, 5, 64, "all"])
def test_false_bit_triples_are_found(n_false: int | str) -> None:
    def tamper(dealt: Dealt) -> bytes:
        if not is_for(dealt, "bits"):
            return dealt.data
        if n_false == "all":
            return bytes(255 - octet for octet in dealt.data)
        data = dealt.data
        for i in range(int(n_false)):
            data = flipped(data, 64 * i)
        return data

    assert code_of(tamper) == "false_triple"


def test_a_false_seed_is_found() -> None:
    assert (
        code_of(
            lambda d: bytes(32) if d.number == SEED and d.provider == 33 else d.data
        )
        == "false_triple"
    )


@pytest.mark.parametrize("kind", ["numbers", "bits"])
def test_what_is_dealt_with_another_length_is_refused(kind: str) -> None:
    assert code_of(lambda d: d.data[:-1] if is_for(d, kind) else d.data) == "dealt"
    assert code_of(lambda d: d.data + b"\0" if is_for(d, kind) else d.data) == "dealt"
    assert code_of(lambda d: d.data[:31] if d.number == SEED else d.data) == "dealt"


def is_for(dealt: Dealt, kind: str) -> bool:
    return dealt.number == corrections()[kind]


def flipped(data: bytes, bit: int) -> bytes:
    return (
        data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
    )


def code_of(tamper: Callable[[Dealt], bytes]) -> str:
    with pytest.raises(ProtocolViolation) as caught:
        run(FALSE, SMALL, aliases_of(3), tamper=tamper)
    return caught.value.code


# What is sent


def sent(
    table: dict[str, list[int | None]], context: str
) -> tuple[dict[int, dict[int, bytes]], dict[int, bytes]]:
    hall = hall_of(FALSE, 3, context=context)
    columns = {
        owner: {name: column(v) for name, v in table.items() if name.startswith(alias)}
        for alias, owner in owners_of(aliases_of(3)).items()
    }
    shares = shares_of(FALSE, columns, 3, hall, context=context)
    return hall.sent, shares


def test_the_same_run_sends_the_same_bytes_and_another_run_others() -> None:
    once, again, other = (
        sent(SMALL, "order"),
        sent(SMALL, "order"),
        sent(SMALL, "another"),
    )
    assert once == again
    assert all(once[0][n][p] != other[0][n][p] for n in once[0] for p in once[0][n])
    assert all(once[1][p] != other[1][p] for p in once[1])


def test_every_opening_differs_from_every_other() -> None:
    """Nobody's message repeats another one, in part or whole: no mask is used twice."""
    blocks = [
        data[i : i + 16]
        for by_provider in sent({name: [0, 0, 0] for name in SMALL}, "order")[
            0
        ].values()
        for data in by_provider.values()
        for i in range(0, len(data) - 15, 16)
    ]
    assert len(set(blocks)) == len(blocks) > 1000
