"""Cox regression with one baseline from sums at given times, beside lifelines; and what
the sums tell of those who leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.datasets import load_gbsg2, load_rossi
from statsmodels.duration.hazard_regression import PHReg

from analytics.arrays import Floats, Ints
from analytics.training import Ties, cox_joint, cox_labels
from analytics.training.cox_joint import Counts, Intervals, JointRound

# lifelines calls pandas as pandas 4 will not allow.
pytestmark = pytest.mark.filterwarnings("ignore:Starting with pandas version 4.0")

BITS = 100
COLUMNS = ["fin", "age", "race", "wexp", "mar", "paro", "prio"]
TIGHT = {"precision": 1e-14, "r_precision": 1e-16, "max_steps": 100}


class Study:
    """Rows dealt to hospitals, standardised by joint moments."""

    def __init__(self, table: pd.DataFrame, names: Sequence[str], n: int) -> None:
        X = table[list(names)].to_numpy(float)
        self.units = X.std(axis=0)
        X = (X - X.mean(axis=0)) / self.units
        y = cox_labels.label(table["t"].to_numpy(float), table["event"].to_numpy())
        hospitals = np.arange(len(X)) % n
        self.parts = [(X[hospitals == k], y[hospitals == k]) for k in range(n)]
        self.n_weights = X.shape[1]

    def counts(self, edges: Sequence[float]) -> Counts:
        parts = [cox_joint.local_counts(y, edges) for _, y in self.parts]
        return Counts(*(sum(each) for each in zip(*parts, strict=True)))

    def opened(self, intervals: Intervals, coef: Floats, ties: Ties) -> list[int]:
        """As hospitals' limbs add up."""
        sums = [
            cox_joint.local_sums(X, y, intervals, coef, ties=ties)
            for X, y in self.parts
        ]
        rows = [[round(Fraction(v) * 2**BITS) for v in one.tolist()] for one in sums]
        return [sum(column) for column in zip(*rows, strict=True)]

    def fit(
        self, intervals: Intervals, *, ties: Ties, n_rounds: int = cox_joint.ROUNDS
    ) -> JointRound:
        coef = np.zeros(self.n_weights)
        # From further away than an order begins.
        for _ in range(n_rounds + 4):
            totals = self.opened(intervals, coef, ties)
            found = cox_joint.stepped(totals, intervals, coef, ties=ties, bits=BITS)
            coef = found.coef
        return found


def rossi() -> pd.DataFrame:
    return load_rossi().rename(columns={"week": "t", "arrest": "event"})


def weeks(table: pd.DataFrame) -> list[float]:
    times: list[float] = sorted(table.loc[table["event"] == 1, "t"].unique().tolist())
    return [float(time) for time in times]


def test_rossi_at_the_weeks_of_its_events() -> None:
    table = rossi()
    study = Study(table, COLUMNS, 3)
    counts = study.counts(weeks(table))
    intervals = cox_joint.merged(counts, weeks(table), least=1, ties="efron")
    assert intervals is not None
    assert len(intervals.starts) == 49
    found = study.fit(intervals, ties="efron")
    assert found.coef / study.units == pytest.approx(
        [-0.379422, -0.057438, 0.313900, -0.149796, -0.433704, -0.084871, 0.091497],
        abs=5e-7,
    )
    errors = np.sqrt(np.diag(np.linalg.inv(found.information))) / study.units
    assert errors == pytest.approx(
        [0.191379, 0.021999, 0.307993, 0.212224, 0.381868, 0.195757, 0.028649],
        abs=5e-7,
    )
    theirs = CoxPHFitter().fit(table, "t", "event", fit_options=TIGHT)
    away = found.coef / study.units - theirs.params_.to_numpy()
    assert (np.abs(away) <= 1e-9 * theirs.standard_errors_.to_numpy()).all()
    assert found.log_likelihood == pytest.approx(theirs.log_likelihood_, rel=1e-12)
    null = cox_joint.null_log_likelihood(intervals, ties="efron")
    ratio = theirs.log_likelihood_ratio_test().test_statistic
    assert 2 * (found.log_likelihood - null) == pytest.approx(ratio, rel=1e-9)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("n_hospitals", [1, 5])
def test_intervals_are_as_one_time_for_each(n_hospitals: int, ties: Ties) -> None:
    """statsmodels on the same rows, who leaves in an interval at its end; those without an
    event after it.
    """
    table = rossi()
    edges = [10.0, 20, 26, 40, 52]
    study = Study(table, COLUMNS, n_hospitals)
    intervals = cox_joint.merged(study.counts(edges), edges, least=1, ties=ties)
    assert intervals is not None
    found = study.fit(intervals, ties=ties)
    X = table[COLUMNS].to_numpy(float)
    model = PHReg(
        np.searchsorted(edges, table["t"], side="left") + 1,
        (X - X.mean(axis=0)) / study.units,
        status=table["event"],
        ties=ties,
    )
    theirs = model.fit(method="newton", tol=1e-14)
    assert (np.abs(found.coef - theirs.params) <= 1e-9 * theirs.bse).all()
    errors = np.sqrt(np.diag(np.linalg.inv(found.information)))
    assert errors == pytest.approx(theirs.bse, rel=1e-9)


def gbsg2() -> pd.DataFrame:
    """Schumacher and others 1994, columns as numbers."""
    table = load_gbsg2().rename(columns={"time": "t", "cens": "event"})
    table["horTh"] = (table["horTh"] == "yes") * 1.0
    table["menostat"] = (table["menostat"] == "Post") * 1.0
    for grade in ("II", "III"):
        table[grade] = (table["tgrade"] == grade) * 1.0
    return table.drop(columns="tgrade")


@pytest.mark.parametrize(
    ("read", "joint", "by_hospital"), [(rossi, 0.080, 0.052), (gbsg2, 0.294, 0.145)]
)
def test_intervals_that_are_safe_are_no_nearer_than_a_baseline_for_each_hospital(
    read: Callable[[], pd.DataFrame], joint: float, by_hospital: float
) -> None:
    """How far the farthest coefficient is from the fit of one table, in standard errors:
    what docs/studies.md says of the price and what it buys.
    """
    table = read()
    names = [name for name in table.columns if name not in ("t", "event")]
    of_all = CoxPHFitter().fit(table, "t", "event", fit_options=TIGHT)
    wanted, errors = of_all.params_[names], of_all.standard_errors_[names]

    study = Study(table, names, 3)
    least = 3 * (len(names) + 3)
    edges = weeks(table)
    intervals = cox_joint.merged(study.counts(edges), edges, least=least, ties="efron")
    assert intervals is not None
    found = study.fit(intervals, ties="efron").coef / study.units
    far = np.max(np.abs(found - wanted) / errors)
    assert far == pytest.approx(joint, abs=5e-4)

    dealt = table.assign(site=np.arange(len(table)) % 3)
    stratified = CoxPHFitter().fit(
        dealt, "t", "event", strata=["site"], fit_options=TIGHT
    )
    far = np.max(np.abs(stratified.params_[names] - wanted) / errors)
    assert far == pytest.approx(by_hospital, abs=5e-4)


def counted(events: Sequence[int], censored: Sequence[int]) -> Counts:
    return Counts(np.array(events), np.array(censored))


def leavers(counts: Counts, edges: Sequence[float], found: Intervals) -> list[Ints]:
    """Events and the rest between each interval's start and the next one's."""
    places = [[0.0, *edges].index(start) for start in found.starts]
    ends = [*places[1:], len(counts.events)]
    return [
        np.array([counts.events[a:b].sum(), counts.censored[a:b].sum()])
        for a, b in zip(places, ends, strict=True)
    ]


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_whoever_leaves_between_two_sums_is_one_of_many(ties: Ties) -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        n = int(rng.integers(2, 30))
        edges = [float(edge) for edge in range(1, n)]
        counts = counted(rng.integers(0, 12, n), rng.integers(0, 12, n))
        found = cox_joint.merged(counts, edges, least=30, ties=ties)
        if found is None:
            totals = [int(counts.events.sum()), int(counts.censored.sum())]
            assert sum(totals) < 30 or (ties == "efron" and min(totals) < 30)
            continue
        for events, others in leavers(counts, edges, found):
            assert events + others >= 30
            if ties == "efron":
                assert events >= 30
                assert others == 0 or others >= 30
        assert found.n_events.sum() == counts.events.sum()
        everybody = counts.events.sum() + counts.censored.sum()
        assert found.n_at_risk[0] <= everybody


def test_nothing_is_merged_where_the_rule_is_off() -> None:
    counts = counted([1, 0, 2, 0], [0, 1, 0, 3])
    found = cox_joint.merged(counts, [1.0, 2, 3], least=1, ties="efron")
    assert found is not None
    assert found.starts.tolist() == [0.0, 2.0]
    assert found.ends.tolist() == [1.0, 3.0]
    assert found.n_at_risk.tolist() == [7, 5]
    assert found.n_events.tolist() == [1, 2]


def test_risk_sets_tell_the_covariates_of_who_leaves_alone() -> None:
    """What a member can do, where intervals are of single people: why the policy is
    asked. With enough people in each there is no such difference.
    """
    table = rossi()
    study = Study(table, COLUMNS, 3)
    edges = weeks(table)
    counts = study.counts(edges)
    coef = np.zeros(7)
    found = recovered(study, counts, edges, coef, least=1)
    alone = table[(table["event"] == 1) & ~table["t"].duplicated(keep=False)]
    assert len(found) >= len(alone) > 10
    mean = table[COLUMNS].mean().to_numpy()
    for row in alone[COLUMNS].to_numpy(float):
        expected = (row - mean) / study.units
        assert min(np.abs(one - expected).max() for one in found) < 1e-9
    assert not recovered(study, counts, edges, coef, least=30)


def recovered(
    study: Study, counts: Counts, edges: Sequence[float], coef: Floats, *, least: int
) -> list[Any]:
    """Covariates of single people, from the opened sums and counts alone."""
    intervals = cox_joint.merged(counts, edges, least=least, ties="breslow")
    assert intervals is not None
    values = [value / 2**BITS for value in study.opened(intervals, coef, "breslow")]
    sums = np.array(values[7:]).reshape(len(intervals.starts), -1)
    left = sums[:-1, :8] - sums[1:, :8]
    found = []
    for size, *covariates in left.tolist():
        # At b = 0 the first sum counts.
        if abs(size - 1) < 1e-9:
            found.append(np.array(covariates))
    return found


def test_a_predictor_far_out() -> None:
    y = cox_labels.label(np.array([1.0, 2]), np.array([1, 1]))
    intervals = cox_joint.merged(
        cox_joint.local_counts(y, [1.0, 2]), [1.0, 2], least=1, ties="efron"
    )
    assert intervals is not None
    with pytest.raises(ValueError, match="beyond 60"):
        cox_joint.local_sums(np.eye(2), y, intervals, np.array([61.0, 0]), ties="efron")
