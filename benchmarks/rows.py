"""A hospital's rows beside DuckDB and NumPy by hand: seconds and memory by how many there
are, each step in a process of its own.

.venv/bin/python -m benchmarks.rows [ROWS ...]
./run bench rows --rows 1000000

The table has 31 columns of numbers, an id and a label of 0 and 1, in the hospital's
DuckDB file. By hand is what a person would write who has the rows: a SELECT into
arrays, and one expression for each step. `gate` has no equal by hand: digests of whose
each row is and of each value, every rule for these rows, and the audit beside what left
before. `moments` are exact sums of all columns; the steps behind it are questions of
joint statistics, with their gate (`row_statistics`).
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from agents.gate import cohort_gate
from agents.gate.asked_sets import AuditRules, asked_sets
from agents.gate.cohort_audit import reserve
from agents.gate.memory import Memory
from agents.rows import cohort as cohorts
from agents.rows import exact_totals
from agents.rows.allowed_sql import check_sql
from agents.rows.canonical import members_of
from agents.rows.cohort_snapshot import load_cohort, save_cohort
from agents.rows.reading import open_dataset, open_query
from agents.rows.relation import THREADS
from agents.site.settings import SiteSettings
from agents.training.moments import Scale, scaled
from analytics.training import gradients, newton, standardization
from analytics.training.models import Model
from analytics.training.pairs import LOGISTIC
from benchmarks.processor import peak_bytes
from benchmarks.row_statistics import BY_HAND, QUESTIONS, read_question
from protocol.policy import (
    CohortRules,
    OrderRules,
    Policy,
    StatisticsRules,
    TableRules,
)
from protocol.statistics_request import POOLED

SIZES = (100_000, 1_000_000, 10_000_000)
N_COLUMNS = 31
COLUMNS = [f"x{i}" for i in range(N_COLUMNS)]
MOST_ROWS = 100_000_000
TARGET_MEGABYTES = 1000
_TABLE = "data.t"
_FILE = "t.parquet"
_STEPS = ("reading", "gate", "gradient", "newton", "moments", *QUESTIONS)


@dataclass(frozen=True)
class Measured:
    """One step in a process of its own."""

    seconds: float
    cpu_seconds: float
    megabytes: float  # the process's peak, whatever it has imported with it


def main(sizes: Sequence[int] = SIZES) -> None:
    """Print a table of seconds, ratios and memory. SystemExit where a step fails."""
    print(f"{N_COLUMNS} columns of float64; seconds, and the process's peak in MB")
    print(
        f"  {'rows':>11} {'step':10}{'agent':>9}{'by hand':>9}{'ratio':>7}"
        f"{'growth':>8}{'MB':>8}{'by hand':>9}"
    )
    before: dict[str, float] = {}
    most = {}
    for n_rows in sizes:
        with tempfile.TemporaryDirectory(prefix="consilium-bench-") as name:
            folder = Path(name)
            run("make", folder, n_rows)
            for step in _STEPS:
                ours = run(step, folder, n_rows)
                own = None
                if f"{step}_by_hand" in _CALLS:
                    own = run(f"{step}_by_hand", folder, n_rows)
                growth = ""
                if step in before:
                    growth = f"{ours.seconds / before[step]:.1f}x"
                before[step] = ours.seconds
                most[ours.megabytes] = f"{step} of {n_rows:,} rows"
                _print_line(n_rows, step, ours, own, growth)
    highest = max(most)
    verdict = "met" if highest < TARGET_MEGABYTES else "MISSED"
    print(
        f"memory at most {highest:.0f} MB, {most[highest]}"
        f" (target {TARGET_MEGABYTES}, {verdict})"
    )


def _print_line(
    n_rows: int, step: str, ours: Measured, own: Measured | None, growth: str
) -> None:
    seconds = ratio = megabytes = ""
    if own is not None:
        seconds = f"{own.seconds:.2f}"
        ratio = f"{ours.seconds / own.seconds:.1f}"
        megabytes = f"{own.megabytes:.0f}"
    print(
        f"  {n_rows:11,} {step:10}{ours.seconds:9.2f}{seconds:>9}{ratio:>7}"
        f"{growth:>8}{ours.megabytes:8.0f}{megabytes:>9}",
        flush=True,
    )


def run(step: str, folder: Path, n_rows: int) -> Measured:
    """One step in a process of its own; SystemExit, with what it said, where it fails."""
    command = [sys.executable, "-m", "benchmarks.rows", "--step", step, str(folder)]
    found = subprocess.run(
        [*command, str(n_rows)], check=False, capture_output=True, text=True
    )
    if found.returncode:
        ended = f"ended with code {found.returncode}"
        if found.returncode < 0:
            ended = f"was ended by {signal.Signals(-found.returncode).name}"
        raise SystemExit(
            f"The step {step} of {n_rows:,} rows {ended}.\n{found.stderr.strip()}"
        )
    return Measured(*json.loads(found.stdout))


# In the process of a step


class Clock:
    """Seconds of what is measured, and of nothing before it."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start, cpu_start = time.perf_counter(), time.process_time()
        yield
        self.seconds = time.perf_counter() - start
        self.cpu_seconds = time.process_time() - cpu_start


def _measure(step: str, folder: Path, n_rows: int) -> None:
    clock = Clock()
    _CALLS[step](clock, folder, n_rows)
    peak = peak_bytes() / 2**20
    print(json.dumps([clock.seconds, clock.cpu_seconds, peak]))


def _make(_: Clock, folder: Path, n_rows: int) -> None:
    data = _site(folder)[0].data_folder
    data.mkdir(parents=True)
    columns = ", ".join(f"random() - 0.5 AS {name}" for name in COLUMNS)
    with duckdb.connect(str(folder / "t.duckdb")) as connection:
        connection.execute(f"SET threads = {THREADS}; SELECT setseed(0.5)")
        connection.execute("CREATE SCHEMA data")
        connection.execute(
            f"CREATE TABLE {_TABLE} AS SELECT range AS id, {columns},"
            f" (random() < 0.4)::DOUBLE AS y FROM range({n_rows})"
        )
        file = data / _FILE
        connection.execute(f"COPY {_TABLE} TO '{file}' (FORMAT parquet)")


def _site(folder: Path) -> tuple[SiteSettings, Policy]:
    settings = SiteSettings(
        folder,
        2,
        "bench",
        coordinator_url="",
        data_url=f"duckdb:///{folder}/t.duckdb",
        state=folder / "state",
        statement_timeout_seconds=3600,
        max_rows=MOST_ROWS,
    )
    policy = Policy(
        orders=OrderRules(
            initiators=(2,), methods=("Mask",), model_types=("lr",), sign=True
        ),
        tables={_TABLE: TableRules(columns=("*",), unique_id="id")},
        statistics=StatisticsRules.model_validate(
            {"methods": list(POOLED), "files": ["*"]}
        ),
        cohort=CohortRules(max_rows=MOST_ROWS),
    )
    return settings, policy


@contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    settings, policy = _site(folder)
    query = check_sql(
        f"SELECT * FROM {_TABLE}",
        policy=policy,
        requester=2,
        own_user_id=2,
        unique_id="id",
        label="y",
        dialect="duckdb",
    )
    columns = [*COLUMNS, "y"]
    with open_query(settings, query, unique_id="id", columns=columns) as rows:
        yield rows


def _reading(clock: Clock, folder: Path, n_rows: int) -> None:
    with clock.running():
        with _opened(folder) as rows:
            read = cohorts.build_cohort(
                rows,
                unique_id="id",
                attributes=COLUMNS,
                label_name="y",
                model_type="lr",
            )
            save_cohort(folder / "train.npz", read)
        # Before it is read back: else the peak would be that of both.
        del read
        load_cohort(folder / "train.npz")


def _gate(clock: Clock, folder: Path, n_rows: int) -> None:
    _, policy = _site(folder)
    memory = Memory(folder / "memory")
    with clock.running():
        with _opened(folder) as rows:
            members = members_of(rows, [*COLUMNS, "y"], key=memory.key)
        cohort = replace(load_cohort(folder / "train.npz"), members=members)
        _pass_gate(cohort, policy, memory)


def _pass_gate(cohort: cohorts.Cohort, policy: Policy, memory: Memory) -> None:
    rules = policy.rows(_TABLE)
    cohort_gate.check_gate(cohort, n_parameters=N_COLUMNS + 1, rules=rules)
    max_share = policy.cohort.max_share
    cohort_gate.check_extremes(cohort, max_share=max_share, min_rows=rules.min_rows)
    assert cohort.members is not None
    asked = asked_sets(
        cohort.members,
        policy,
        population=_TABLE,
        columns=list(cohort.members.values),
        rows={"train": np.arange(cohort.n_rows)},
        parts={3: Fraction(1), 4: Fraction(1)},
    )
    reserve(
        memory,
        asked,
        receivers=["3", "4"],
        order_id=1,
        rules=AuditRules(min_rows=rules.min_rows, least_hospitals=3, budget_days=30),
        has_ended=lambda _: False,
        now=datetime.now(UTC),
    )


def _trained(folder: Path) -> tuple[Any, Any]:
    """The snapshot's rows in the units that they are trained in."""
    cohort = load_cohort(folder / "train.npz")
    mean = standardization.local_mean(cohort.X)
    variance = standardization.local_variance(cohort.X, mean)
    deviation = standardization.deviation(variance, mean=mean)
    return scaled(cohort.X, Scale(mean, deviation, mean)), cohort.y


def _gradient(clock: Clock, folder: Path, n_rows: int) -> None:
    X, y = _trained(folder)
    model = Model("lr", N_COLUMNS)
    weights = np.full(model.n_weights, 0.01)
    with clock.running():
        gradients.local_gradient(model, weights, X, y, batch_size=-1, learning_rate=1.0)


def _newton(clock: Clock, folder: Path, n_rows: int) -> None:
    X, y = _trained(folder)
    weights = np.full(N_COLUMNS + 1, 0.01)
    with clock.running():
        rows = newton.row_numbers(LOGISTIC, X, y, weights, is_start=False)
        newton.local_sums(X, rows)


def _moments(clock: Clock, folder: Path, n_rows: int) -> None:
    settings, policy = _site(folder)
    opened = open_dataset(
        settings, policy, data_path=_FILE, data_type="parquet", requester=2
    )
    with clock.running(), opened as rows:
        for name in COLUMNS:
            exact_totals.moments(rows, name)


def _ask(name: str, clock: Clock, folder: Path, n_rows: int) -> None:
    """A question of joint statistics, the first one that this hospital is asked."""
    settings, policy = _site(folder)
    shutil.rmtree(settings.vault, ignore_errors=True)
    with clock.running():
        read_question(settings, policy, name, table=_TABLE)


# By hand


@contextmanager
def _own_connection(folder: Path) -> Iterator[Any]:
    path = str(folder / "t.duckdb")
    with duckdb.connect(path, read_only=True) as connection:
        connection.execute(f"SET threads = {THREADS}")
        connection.execute("SET enable_progress_bar = false")
        yield connection


def _own_rows(folder: Path) -> tuple[Any, Any]:
    with _own_connection(folder) as connection:
        found = connection.execute(f"SELECT * FROM {_TABLE} ORDER BY id").fetchnumpy()
    return np.column_stack([found[name] for name in COLUMNS]), found["y"]


def _reading_by_hand(clock: Clock, folder: Path, n_rows: int) -> None:
    with clock.running():
        _own_rows(folder)


def _own_trained(folder: Path) -> tuple[Any, Any]:
    X, y = _own_rows(folder)
    return (X - X.mean(axis=0)) / X.std(axis=0), y


def _gradient_by_hand(clock: Clock, folder: Path, n_rows: int) -> None:
    X, y = _own_trained(folder)
    w = np.full(N_COLUMNS, 0.01)
    with clock.running():
        p = 1 / (1 + np.exp(-(X @ w + 0.01)))
        residuals = (p - y) / len(X)
        np.append(X.T @ residuals, residuals.sum())


def _newton_by_hand(clock: Clock, folder: Path, n_rows: int) -> None:
    X, y = _own_trained(folder)
    w = np.full(N_COLUMNS, 0.01)
    with clock.running():
        with_ones = np.column_stack([X, np.ones(len(X))])
        eta = X @ w + 0.01
        p = 1 / (1 + np.exp(-eta))
        W = p * (1 - p)
        A = with_ones.T @ (with_ones * W[:, None])
        np.linalg.solve(A, with_ones.T @ (W * eta + y - p))


def _moments_by_hand(clock: Clock, folder: Path, n_rows: int) -> None:
    sums = ", ".join(f"sum({name}), avg({name}), var_samp({name})" for name in COLUMNS)
    file = _site(folder)[0].data_folder / _FILE
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {THREADS}")
        with clock.running():
            connection.execute(f"SELECT {sums} FROM '{file}'").fetchall()


def _ask_by_hand(name: str, clock: Clock, folder: Path, n_rows: int) -> None:
    with _own_connection(folder) as connection, clock.running():
        connection.execute(BY_HAND[name].format(table=_TABLE)).fetchall()


_CALLS: dict[str, Callable[[Clock, Path, int], None]] = {
    "make": _make,
    "reading": _reading,
    "reading_by_hand": _reading_by_hand,
    "gate": _gate,
    "gradient": _gradient,
    "gradient_by_hand": _gradient_by_hand,
    "newton": _newton,
    "newton_by_hand": _newton_by_hand,
    "moments": _moments,
    "moments_by_hand": _moments_by_hand,
}
for _name in QUESTIONS:
    _CALLS[_name] = partial(_ask, _name)
    _CALLS[f"{_name}_by_hand"] = partial(_ask_by_hand, _name)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        _measure(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main(tuple(int(n) for n in sys.argv[1:]) or SIZES)
