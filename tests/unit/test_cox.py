"""Cox regression from sums over hospitals, beside lifelines and statsmodels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.datasets import load_lung, load_rossi
from lifelines.utils import concordance_index
from statsmodels.duration.hazard_regression import PHReg

from analytics.arrays import Floats
from analytics.training import (
    Ties,
    concordance,
    cox,
    newton,
    normal_equations,
    proportional_hazards,
)
from analytics.training.newton import NewtonState
from analytics.training.normal_equations import Opened

# lifelines calls pandas as pandas 4 will not allow.
pytestmark = pytest.mark.filterwarnings("ignore:Starting with pandas version 4.0")

BITS = 100
ROSSI_COLUMNS = ["fin", "age", "race", "wexp", "mar", "paro", "prio"]
TIGHT = {"precision": 1e-14, "r_precision": 1e-16, "max_steps": 100}


class Rows(NamedTuple):
    X: Floats
    times: Floats
    events: Floats
    entries: Floats | None = None
    strata: Any = None

    def part(self, rows: Any) -> Rows:
        return Rows(*[None if each is None else each[rows] for each in self])


def summed(parts: Sequence[Floats]) -> list[int]:
    """As hospitals' limbs add up: each value rounded once to 2^-BITS."""
    rows = [[round(Fraction(v) * 2**BITS) for v in part.tolist()] for part in parts]
    return [sum(column) for column in zip(*rows, strict=True)]


class Fitted(NamedTuple):
    coef: Floats
    errors: Floats
    state: NewtonState
    parts: list[list[cox.Stratum]]
    units: Floats
    null_deviance: float

    def tested(
        self, scale: Any, *, ties: Ties = "efron"
    ) -> proportional_hazards.Tested:
        sums = [
            proportional_hazards.local_sums(
                part, self.state.coef, ties=ties, scale=scale
            )
            for part in self.parts
        ]
        return proportional_hazards.tested(summed(sums), len(self.coef), bits=BITS)


def fit(hospitals: Sequence[Rows], *, ties: Ties = "efron") -> Fitted:
    X = np.concatenate([each.X for each in hospitals])
    mean, units = X.mean(axis=0), X.std(axis=0)
    parts = [
        cox.strata_of(
            (each.X - mean) / units,
            each.times,
            each.events,
            entries=each.entries,
            strata=each.strata,
        )
        for each in hospitals
    ]
    p = X.shape[1]
    state = cox.start(p)
    null_deviance = math.nan
    while not state.is_done:
        opened = opened_at(parts, state.coef, ties)
        if state.is_start:
            null_deviance = opened.deviance
        state = cox.stepped(state, opened, eps=1e-8, diagonal=np.zeros(p))
        assert state.round < 30
    variances = np.diag(normal_equations.inverse(opened_at(parts, state.coef, ties)))
    coef, errors = state.coef / units, np.sqrt(variances) / units
    return Fitted(coef, errors, state, parts, units, null_deviance)


def opened_at(parts: Sequence[list[cox.Stratum]], coef: Floats, ties: Ties) -> Opened:
    sums = [cox.local_sums(part, coef, ties=ties) for part in parts]
    return newton.read_sums(summed(sums), len(coef), bits=BITS)


def dealt(rows: Rows, hospitals: Any) -> list[Rows]:
    return [rows.part(hospitals == code) for code in np.unique(hospitals)]


def made_rows(n: int, *, has_entries: bool, has_strata: bool) -> Rows:
    """Many ties in time, columns far from 0."""
    rng = np.random.default_rng(11)
    X = rng.normal(size=(n, 3)) * [1, 20, 0.1] + [0, 300, -4]
    hazard = np.exp((X - X.mean(axis=0)) @ [0.5, -0.03, 4])
    entries = np.floor(rng.uniform(0, 6, n)) if has_entries else None
    begin = 0 if entries is None else entries
    times = begin + np.ceil(rng.exponential(6 / hazard))
    events = rng.integers(0, 4, n) > 0
    strata = rng.integers(0, 2, n) if has_strata else None
    return Rows(X, times, events.astype(float), entries, strata)


def rossi() -> Rows:
    table = load_rossi()
    X = table[ROSSI_COLUMNS].to_numpy(float)
    return Rows(X, table["week"].to_numpy(float), table["arrest"].to_numpy(float))


def check(found: Fitted, coef: Any, errors: Any) -> None:
    coef, errors = np.asarray(coef), np.asarray(errors)
    assert np.abs(found.coef - coef) / errors == pytest.approx(0, abs=1e-9)
    assert found.errors == pytest.approx(errors, rel=1e-9)


CASES = [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize(("has_entries", "has_strata"), CASES)
@pytest.mark.parametrize("n_hospitals", [1, 3])
def test_as_lifelines(n_hospitals: int, has_entries: bool, has_strata: bool) -> None:
    rows = made_rows(400, has_entries=has_entries, has_strata=has_strata)
    hospitals = np.arange(400) ** 2 % 7 % n_hospitals
    found = fit(dealt(rows, hospitals))
    table = pd.DataFrame(rows.X, columns=["a", "b", "c"])
    table["time"], table["event"], table["h"] = rows.times, rows.events, hospitals
    table["s"] = 0 if rows.strata is None else rows.strata
    if has_entries:
        table["entry"] = rows.entries
    theirs = CoxPHFitter().fit(
        table,
        "time",
        "event",
        strata=["h", "s"],
        entry_col="entry" if has_entries else None,
        fit_options=TIGHT,
    )
    check(found, theirs.params_, theirs.standard_errors_)
    assert found.state.deviance == pytest.approx(-2 * theirs.log_likelihood_, rel=1e-12)


@pytest.mark.parametrize(("has_entries", "has_strata"), CASES)
@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_as_statsmodels(ties: Ties, has_entries: bool, has_strata: bool) -> None:
    rows = made_rows(300, has_entries=has_entries, has_strata=has_strata)
    if rows.entries is not None:
        # statsmodels has a row at risk at its entry, so no event may be there.
        rows = rows._replace(entries=rows.entries + 0.5)
    found = fit([rows], ties=ties)
    model = PHReg(
        rows.times,
        (rows.X - rows.X.mean(axis=0)) / found.units,
        status=rows.events,
        entry=rows.entries,
        strata=rows.strata,
        ties=ties,
    )
    theirs = model.fit(method="newton", tol=1e-14)
    check(found, theirs.params / found.units, theirs.bse / found.units)
    assert found.state.deviance == pytest.approx(-2 * theirs.llf, rel=1e-12)


def test_rossi_dealt_to_three_hospitals() -> None:
    found = fit(dealt(rossi(), np.arange(432) % 3))
    assert found.coef == pytest.approx(
        [-0.369532, -0.057589, 0.300164, -0.143544, -0.436218, -0.079673, 0.090101],
        abs=5e-7,
    )
    assert found.state.round <= 6
    logged = found.tested("log")
    assert logged.joint == pytest.approx(18.6239, abs=5e-5)
    assert logged.columns[1] == pytest.approx(8.3338, abs=5e-5)
    plain = found.tested("identity")
    assert plain.joint == pytest.approx(18.3500, abs=5e-5)
    assert plain.columns[1] == pytest.approx(6.7043, abs=5e-5)


def test_lung_of_one_hospital() -> None:
    table = load_lung()[["time", "status", "age", "sex", "ph.ecog"]].dropna()
    assert len(table) == 227
    X = table[["age", "sex", "ph.ecog"]].to_numpy(float)
    times, events = table["time"].to_numpy(float), table["status"].to_numpy(float)
    found = fit([Rows(X, times, events)])
    assert found.coef == pytest.approx([0.011067, -0.552612, 0.463728], abs=5e-7)
    assert found.errors == pytest.approx([0.009267, 0.167739, 0.113577], abs=5e-7)


def test_time_that_cannot_be_told_from_a_column() -> None:
    """One event leaves V, g V and g^2 V multiples of each other."""
    X = np.array([[1.0], [0], [3]])
    strata = cox.strata_of(X, np.array([1.0, 2, 3]), np.array([0, 1, 0]))
    sums = proportional_hazards.local_sums(
        strata, np.zeros(1), ties="efron", scale="log"
    )
    found = proportional_hazards.tested(summed([sums]), 1, bits=BITS)
    assert found == ([None], None)


def naive(rows: Rows, coef: Floats, *, ties: Ties, g: Any) -> list[Floats]:
    """l, and the sums over events of g (x - M), V, g V and g^2 V, as the books have
    them: for every event the whole risk set.
    """
    p = rows.X.shape[1]
    total, U = 0.0, np.zeros(p)
    squares = [np.zeros((p, p)) for _ in range(3)]
    strata = np.zeros(len(rows.times)) if rows.strata is None else rows.strata
    entries = np.zeros(len(rows.times)) if rows.entries is None else rows.entries
    for row in np.flatnonzero(rows.events):
        time = rows.times[row]
        is_mine = strata == strata[row]
        is_tied = is_mine & (rows.times == time) & (rows.events == 1)
        is_there = is_mine & (entries < time) & (rows.times >= time)
        weights = np.exp(rows.X @ coef) * is_there
        if ties == "efron":
            tied = np.flatnonzero(is_tied)
            weights[tied] *= 1 - list(tied).index(row) / len(tied)
        total += rows.X[row] @ coef - np.log(weights.sum())
        mean = weights @ rows.X / weights.sum()
        about = rows.X - mean
        V = about.T @ (about * weights[:, None]) / weights.sum()
        U += g(time) * (rows.X[row] - mean)
        for place in range(3):
            squares[place] += g(time) ** place * V
    return [np.array(total), U, *squares]


@pytest.mark.parametrize(("has_entries", "has_strata"), CASES)
@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_sums_as_one_event_at_a_time(
    ties: Ties, has_entries: bool, has_strata: bool
) -> None:
    rows = made_rows(80, has_entries=has_entries, has_strata=has_strata)
    rows = rows._replace(X=(rows.X - rows.X.mean(axis=0)) / rows.X.std(axis=0))
    coef = np.array([0.7, -0.2, 0.4])
    upper = np.triu_indices(3)
    strata = cox.strata_of(
        rows.X, rows.times, rows.events, entries=rows.entries, strata=rows.strata
    )
    total, U, V, _, _ = naive(rows, coef, ties=ties, g=lambda _: 1)
    sums = cox.local_sums(strata, coef, ties=ties)
    expected = np.concatenate([V[upper], V @ coef + U, [-2 * total, 0]])
    assert sums == pytest.approx(expected, rel=1e-12, abs=1e-12)
    _, U, V, gV, ggV = naive(rows, coef, ties=ties, g=math.log)
    sums = proportional_hazards.local_sums(strata, coef, ties=ties, scale="log")
    expected = np.concatenate([U, ggV[upper], gV[upper], V[upper]])
    assert sums == pytest.approx(expected, rel=1e-12, abs=1e-11)


def test_few_at_risk_before_many_come() -> None:
    """Sums over those still there less those to come would have no digit left."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(60, 2))
    # Two early rows of small risk; then those of a risk e^45 times as great.
    X[:2, 0], X[2:, 0] = [-44.9, -45.1], rng.normal(size=58)
    entries = np.where(np.arange(60) < 2, 0.0, 10.0)
    times = np.concatenate([[1.0, 2.0], 10 + rng.permutation(58) + 1.0])
    rows = Rows(X, times, np.ones(60), entries)
    coef = np.array([1.0, 0.5])
    sums = cox.local_sums(
        cox.strata_of(X, times, rows.events, entries=entries), coef, ties="efron"
    )
    total, U, V, _, _ = naive(rows, coef, ties="efron", g=lambda _: 1)
    expected = np.concatenate([V[np.triu_indices(2)], V @ coef + U, [-2 * total, 0]])
    assert sums == pytest.approx(expected, rel=1e-11)


def test_a_hospital_without_an_event_sends_zeros() -> None:
    rows = rossi()
    without = Rows(rows.X[:20], rows.times[:20], np.zeros(20))
    strata = cox.strata_of(*without[:3])
    assert not cox.local_sums(strata, np.ones(7), ties="efron").any()
    halves = dealt(rows, np.arange(432) % 2)
    alone, beside = fit(halves), fit([*halves, without])
    check(beside, alone.coef, alone.errors)


def test_a_first_step_too_far_is_halved() -> None:
    """From 0 the step of one far column goes beyond the estimate."""
    rng = np.random.default_rng(5)
    X = np.exp(rng.normal(size=(200, 1)) * 2)
    times = np.ceil(rng.exponential(np.exp(-0.9 * np.log(X[:, 0]))) * 1000)
    state = cox.start(1)
    strata = cox.strata_of((X - X.mean()) / X.std(), times, np.ones(200))
    deviances = []
    n_halvings = 0
    while not state.is_done:
        opened = opened_at([strata], state.coef, "efron")
        state = cox.stepped(state, opened, eps=1e-8, diagonal=np.zeros(1))
        deviances.append(state.deviance)
        n_halvings = max(n_halvings, state.n_halvings)
    assert all(a >= b for a, b in itertools.pairwise(deviances))
    assert n_halvings > 0


BAD_ROWS = [
    ({"events": np.array([0, 2, 1])}, "events holds a value"),
    ({"times": np.array([1.0, 0, 2])}, "times holds a value that is not above 0"),
    ({"times": np.array([1.0, np.nan, 2])}, "times holds a value that is not a finite"),
    ({"entries": np.array([0.0, 2, 0])}, "entries holds a value that is not below"),
    ({"strata": np.array([0, 1])}, "strata has the shape"),
    ({"X": np.ones((2, 1))}, "X has the shape"),
]


@pytest.mark.parametrize(("changed", "reason"), BAD_ROWS)
def test_bad_rows(changed: dict[str, Any], reason: str) -> None:
    good = Rows(
        np.ones((3, 1)), np.array([1.0, 2, 3]), np.array([0, 1, 1]), np.zeros(3)
    )
    rows = good._replace(**changed)
    with pytest.raises(ValueError, match=reason):
        cox.strata_of(*rows[:3], entries=rows.entries, strata=rows.strata)


def test_linear_predictors_too_far_apart() -> None:
    strata = cox.strata_of(np.eye(3), np.arange(3) + 1.0, np.ones(3))
    with pytest.raises(ValueError, match="spread over more than 600"):
        cox.local_sums(strata, np.array([601.0, 0, 0]), ties="efron")


# Concordance


def naive_pairs(rows: Rows, eta: Floats) -> concordance.Pairs:
    strata = np.zeros(len(eta)) if rows.strata is None else rows.strata
    entries = np.zeros(len(eta)) if rows.entries is None else rows.entries
    counts = [0, 0, 0]
    for i in np.flatnonzero(rows.events):
        for j in np.flatnonzero(strata == strata[i]):
            is_censored_then = rows.times[j] == rows.times[i] and not rows.events[j]
            is_later = rows.times[j] > rows.times[i] or is_censored_then
            if is_later and entries[j] < rows.times[i]:
                place = 2 if eta[i] == eta[j] else int(eta[j] > eta[i])
                counts[place] += 1
    return concordance.Pairs(*counts)


@pytest.mark.parametrize(("has_entries", "has_strata"), CASES)
@pytest.mark.parametrize("n", [1, 2, 33, 150])
def test_pairs_as_counted_one_by_one(
    n: int, has_entries: bool, has_strata: bool
) -> None:
    rows = made_rows(n, has_entries=has_entries, has_strata=has_strata)
    eta = np.round(rows.X[:, 0] * 3)
    found = concordance.local_pairs(
        eta, rows.times, rows.events, entries=rows.entries, strata=rows.strata
    )
    assert found == naive_pairs(rows, eta)


def test_concordance_as_lifelines() -> None:
    rows = rossi()
    eta = cox.predictors(rows.X, fit([rows]).coef)
    found = concordance.local_pairs(eta, rows.times, rows.events)
    theirs = concordance_index(rows.times, -eta, rows.events)
    assert found.concordance == pytest.approx(theirs, abs=1e-12)
    assert found.tied > 0
    assert concordance.Pairs().concordance is None
