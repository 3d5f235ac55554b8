"""What a hospital's audit of sets of people takes, on one thread.

.venv/bin/python -m benchmarks.audit

Random sets are the hardest: nearly every person is a cell of their own, and nothing is
peeled off. Growing sets are a register that is asked every day of a year. Then what a
whole order takes for which no other order may be audited meanwhile: people are numbered,
compared and written. Processor time, so that what else the machine does is not counted.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.gate.asked_sets import AskedSet, AuditRules
from agents.gate.cohort_audit import reserve
from agents.gate.memory import Memory
from analytics.arrays import Ints
from analytics.statistics.audit import audit_people
from analytics.statistics.audited_cells import Bitmaps
from analytics.statistics.modular import draw_prime

RUNS = 3
MIN_ROWS = 10


def main() -> None:
    """Print seconds beside their targets."""
    print(f"audit of the last set beside all others, shortest of {RUNS} runs, seconds")
    _report("101 random sets of 100,000", _random_sets(101, 100_000), 0.40)
    _report("101 random sets of 1,000,000", _random_sets(101, 1_000_000), 2.6)
    _report("365 growing sets of 1,000,000", _growing_sets(365, 1_000_000), 0.86)
    print("a whole order of 1,000,000 people at the gate, alone there, seconds")
    for n_columns in (1, 10):
        _report_orders(n_columns, 1_000_000)


def _random_sets(n_sets: int, n_people: int) -> Bitmaps:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (n_sets, n_people // 8), dtype=np.uint8)


def _growing_sets(n_sets: int, n_people: int) -> Bitmaps:
    sizes = np.linspace(n_people // 2, n_people, n_sets).astype(np.int64)
    sets = [np.packbits(np.arange(n_people) < size) for size in sizes]
    return np.array(sets)


def _report(name: str, sets: Bitmaps, target: float) -> None:
    persons = np.arange(sets.shape[1] * 8)
    seconds = []
    for _ in range(RUNS):
        start = time.process_time()
        finding = audit_people(
            sets,
            persons,
            n_new=1,
            min_rows=MIN_ROWS,
            prime=lambda: draw_prime(secrets.randbelow),
        )
        seconds.append(time.process_time() - start)
    best = min(seconds)
    verdict = "met" if best <= target else "MISSED"
    print(
        f"  {name:32}{best:6.2f}   {finding.verdict.value} (target {target:g}, {verdict})"
    )


def _report_orders(n_columns: int, n_people: int) -> None:
    """A first order, the same people again, and a hundred of them fewer."""
    generator = np.random.default_rng(0)
    ids = generator.integers(2**64, size=n_people, dtype=np.uint64)
    values = generator.integers(2**64, size=(n_columns, n_people), dtype=np.uint64)
    everybody = np.arange(n_people)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(Path(folder))
        orders = [everybody, everybody, everybody[100:]]
        for order_id, rows in enumerate(orders, start=1):
            asked = _asked_sets(ids, list(values), rows)
            start = time.process_time()
            _reserve(memory, asked, order_id)
            seconds.append(time.process_time() - start)
            # The next one is held against what has left, not an order under way.
            memory.commit(order_id)
        n_bytes = memory.path.stat().st_size
    print(
        f"  {n_columns:2} columns: first {seconds[0]:.2f}, again {seconds[1]:.2f}, a hundred fewer {seconds[2]:.2f};"
        f" {n_bytes / 1e6:.0f} MB"
    )


def _asked_sets(
    ids: NDArray[np.uint64], values: list[NDArray[np.uint64]], rows: Ints
) -> list[AskedSet]:
    sets = []
    for number, of_column in enumerate(values):
        asked = AskedSet(
            population="data.patients",
            column=f"x{number}",
            name="all",
            ids=ids,
            values=of_column,
            form="1, persons",
            rows=rows,
        )
        sets.append(asked)
    return sets


def _reserve(memory: Memory, asked: list[AskedSet], order_id: int) -> None:
    rules = AuditRules(min_rows=MIN_ROWS, least_hospitals=3, budget_days=30)
    reserve(
        memory,
        asked,
        receivers=["2", "3"],
        order_id=order_id,
        rules=rules,
        has_ended=lambda other: False,
        now=datetime.now(UTC),
    )


if __name__ == "__main__":
    main()
