"""A product and a threshold over joined rows of three providers: seconds, and bytes per
row.

.venv/bin/python -m benchmarks.sharing [rows]

Dealing, all three providers (threads of this process, with openings in memory) and a
receiver are timed one after the other, so the sum is what one machine of two cores
needs for everybody's work. DECIMAL(18, 6) columns.
"""

from __future__ import annotations

import sys
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from analytics.statistics.circuit import Plan
from analytics.statistics.compiling import plan
from analytics.statistics.expression import Expression
from analytics.statistics.kinds import Fixed
from analytics.statistics.reading import compare_sum, parse_expression
from analytics.statistics.rowwise import Column
from benchmarks.clock import timed
from benchmarks.processor import peak_bytes
from protocol.shares.shared_expression import reveal
from tests.made_providers import hall_of, shares_of

N_ROWS = 1_000_000
OWNERS = {
    "df1": 2,
    "df2": 3,
    "df3": 4,
}
TARGET_SECONDS = {
    "product": 30.0,
    "threshold": 60.0,
}
THRESHOLD = 3_000_000


def expressions() -> dict[str, Expression]:
    def parsed(text: str) -> Expression:
        return parse_expression(text, dict.fromkeys(OWNERS))

    added = [(alias, "v") for alias in OWNERS]
    reached = compare_sum(
        added,
        ">=",
        threshold=Fraction(THRESHOLD),
    )
    return {
        "product": parsed("df1.v * df2.v"),
        "sum of products": parsed("sum(df1.v * df2.v)"),
        "threshold": reached,
        "choice": parsed("case when df1.v > df2.v then df3.v else 0 end"),
    }


def main(n_rows: int = N_ROWS) -> None:
    """Print times, bytes per row and whether the targets are met."""
    values = drawn(n_rows)
    columns = {}
    types = {}
    for alias, owner in OWNERS.items():
        name = f"{alias}.v"
        is_known = np.ones(n_rows, dtype=bool)
        column = Column(values[alias], is_known)
        columns[owner] = {name: column}
        types[name] = Fixed.decimal(
            18,
            6,
            nullable=False,
        )
    print(f"{n_rows:,} joined rows, {len(OWNERS)} providers")
    for name, expression in expressions().items():
        measure(
            name,
            plan(expression, types, OWNERS),
            columns,
            n_rows,
        )
    megabytes = peak_bytes() >> 20
    print(f"largest resident set of everybody together: {megabytes} MB")


def drawn(n_rows: int) -> dict[str, NDArray[np.int64]]:
    """Amounts around a third of the threshold, in units of 10^-6."""
    rng = np.random.default_rng(0)
    most = 2 * THRESHOLD // 3 * 10**6
    amounts = {}
    for alias in OWNERS:
        amounts[alias] = rng.integers(0, most, n_rows)
    return amounts


def measure(
    name: str,
    made: Plan,
    columns: dict[int, dict[str, Column]],
    n_rows: int,
) -> None:
    dealing, hall = timed(lambda: hall_of(made, n_rows))
    hall.keep = False
    computing, shares = timed(
        lambda: shares_of(
            made,
            columns,
            n_rows,
            hall,
        )
    )
    reading, _ = timed(lambda: reveal(made, shares))
    total = dealing + computing + reading
    target = TARGET_SECONDS.get(name)
    verdict = "no target"
    if target is not None:
        judged = "met" if total <= target else "MISSED"
        verdict = f"target {target:.0f} s, {judged}"
    n_bits = made.bits(n_rows)
    print(f"{name} ({n_bits} bits): {total:.1f} s ({verdict})")
    print(
        f"  dealing {dealing:.2f} s, three providers {computing:.2f} s, a receiver {reading:.2f} s"
    )
    sent = max(hall.n_bytes.values()) / n_rows
    dealt = sum(map(len, hall.dealt.values())) / n_rows
    share = max(map(len, shares.values())) / n_rows
    print(
        f"  bytes per row: a provider sends {sent:.1f} to the others and {share:.1f} to a receiver,"
        f" the coordinator deals {dealt:.1f} to one provider"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
