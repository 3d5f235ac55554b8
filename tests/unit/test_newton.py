"""Newton's steps from sums: the equations, halving, the stop, and the report's numbers."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

from agents.gate.pair_cells import check_pair_cells
from agents.gate.probes import check_dominance, check_steepness
from agents.training.newton import check_equations
from agents.training.report_text import as_csv, as_latex
from analytics.arrays import Floats
from analytics.training import newton
from analytics.training.families import LEAST_SQUARES, LOGISTIC, Pair
from analytics.training.newton import Collinear, NewtonState, NoMean, Opened
from analytics.training.newton_report import Fit, report
from protocol.errors import Refused

BITS = 100


def opened(A: Floats, c: Floats, deviance: float) -> Opened:
    upper = A[np.triu_indices(len(c))]
    values = [*upper.tolist(), *c.tolist(), deviance, 0]
    totals = [round(Fraction(value) * 2**BITS) for value in values]
    return newton.read_sums(totals, len(c), bits=BITS)


def test_equations_are_solved_to_the_last_digits() -> None:
    """Hilbert's matrix of 6 has a condition of 1e7."""
    n = 6
    A = np.array([[1 / (i + j + 1) for j in range(n)] for i in range(n)])
    exact = np.arange(1, n + 1).astype(float)
    c = []
    for row in A.tolist():
        c.append(sum(Fraction(a) * int(x) for a, x in zip(row, exact, strict=True)))
    totals = [round(Fraction(v) * 2**BITS) for v in A[np.triu_indices(n)].tolist()]
    totals += [round(value * 2**BITS) for value in c] + [0, 0]
    found = newton.solve(newton.read_sums(totals, n, bits=BITS))
    assert found == pytest.approx(exact, rel=1e-14)


def test_a_collinear_column_has_no_pivot() -> None:
    X = np.array([[1.0, 2, 3], [2, 4, 1], [3, 6, 5], [5, 10, 2]])
    with pytest.raises(Collinear) as error:
        newton.solve(opened(X.T @ X, np.ones(3), 1))
    assert error.value.column == 1


def test_a_step_after_which_the_deviance_rises_is_halved() -> None:
    state = NewtonState(
        coef=np.array([4.0]), base=np.array([0.0]), deviance=10.0, round=2
    )
    A, c = np.array([[1.0]]), np.array([4.0])
    options = {
        "pair": LOGISTIC,
        "eps": 1e-8,
        "diagonal": np.zeros(1),
        "n_rows": 9,
    }
    half = newton.stepped(state, opened(A, c, 12.0), **options)  # type: ignore[arg-type]
    assert half.coef.tolist() == [2.0]
    assert half.n_halvings == 1
    assert not half.is_done
    quarter = newton.stepped(half, opened(A, c, 11.0), **options)  # type: ignore[arg-type]
    assert quarter.coef.tolist() == [1.0]
    assert quarter.base.tolist() == [0.0]
    on = newton.stepped(quarter, opened(A, c, 9.0), **options)  # type: ignore[arg-type]
    assert on.coef.tolist() == [4.0]
    assert on.base.tolist() == [1.0]
    assert on.n_halvings == 0
    for _ in range(newton.MOST_HALVINGS):
        state = newton.stepped(state, opened(A, c, 12.0), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not fall"):
        newton.stepped(state, opened(A, c, 12.0), **options)  # type: ignore[arg-type]


def test_it_stops_when_the_deviance_rests_and_steps_once_more() -> None:
    state = NewtonState(
        coef=np.array([1.0]), base=np.array([0.9]), deviance=10.0, round=3
    )
    resting = opened(np.array([[2.0]]), np.array([2.002]), 10.0 - 1e-9)
    options = {"eps": 1e-8, "diagonal": np.zeros(1), "n_rows": 9}
    after = newton.stepped(state, resting, pair=LOGISTIC, **options)  # type: ignore[arg-type]
    assert after.is_done
    assert after.coef.tolist() == [1.001]
    assert after.last_step == pytest.approx(0.001)
    # Fisher's steps shrink by a factor only: more of them follow.
    probit = Pair("binomial", "probit")
    slow = newton.stepped(state, resting, pair=probit, **options)  # type: ignore[arg-type]
    assert slow.is_still
    assert not slow.is_done
    far = opened(np.array([[2.0]]), np.array([2 + 1e-7]), 10.0)
    again = newton.stepped(slow, far, pair=probit, **options)  # type: ignore[arg-type]
    assert not again.is_done
    near = opened(np.array([[2.0]]), 2 * again.coef + 1e-10, 10.0)
    last = newton.stepped(again, near, pair=probit, **options)  # type: ignore[arg-type]
    assert last.is_done
    assert not last.is_separating


def test_means_that_the_family_does_not_know_halve_a_step() -> None:
    state = NewtonState(
        coef=np.array([4.0]), base=np.array([2.0]), deviance=10.0, round=2
    )
    options = {
        "pair": Pair("gamma", "inverse"),
        "eps": 1e-8,
        "diagonal": np.zeros(1),
        "n_rows": 9,
    }
    A, c = np.array([[1.0]]), np.array([4.0])
    invalid = opened(A, c, 1.0)._replace(is_valid=False)
    half = newton.stepped(state, invalid, **options)  # type: ignore[arg-type]
    assert half.coef.tolist() == [3.0]
    first = NewtonState(coef=np.array([4.0]), base=np.array([4.0]), round=1)
    with pytest.raises(NoMean):
        newton.stepped(first, invalid, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("n_few", "passes"), [(9, False), (10, True), (0, True)])
def test_cells_of_none_or_min_rows(n_few: int, passes: bool) -> None:
    first = np.repeat([0, 1], 50)
    second = np.zeros(100, dtype=int)
    second[50 : 50 + n_few] = 1
    second[:25] = 1
    columns = [("a", first), ("b", second), ("c", np.arange(100))]
    if passes:
        check_pair_cells(columns, min_rows=10)
        return
    with pytest.raises(Refused, match="A table of a and b has a cell"):
        check_pair_cells(columns, min_rows=10)


@pytest.mark.parametrize(("n_others", "passes"), [(13, False), (14, True), (15, True)])
def test_the_others_have_rows_for_every_round(n_others: int, passes: bool) -> None:
    if passes:
        check_equations(n_others, n_rounds=2, n_weights=4, is_alone=False)
        return
    with pytest.raises(Refused, match="14 rows together"):
        check_equations(n_others, n_rounds=2, n_weights=4, is_alone=False)


@pytest.mark.parametrize(("n_equal", "passes"), [(9, False), (10, True), (11, True)])
def test_weights_count_as_min_rows_equal_ones(n_equal: int, passes: bool) -> None:
    """Those of 0 count for nothing; what all weigh alike does not matter."""
    weights = np.zeros(50)
    weights[:n_equal] = 1e-300
    if passes:
        check_dominance(weights, min_rows=10)
        return
    with pytest.raises(Refused, match="fewer than 10 rows") as error:
        check_dominance(weights, min_rows=10)
    assert error.value.code == "dominance"


def test_weights_of_nothing_say_nothing() -> None:
    check_dominance(np.zeros(3), min_rows=10)


@pytest.mark.parametrize(
    ("link", "predictors", "passes"),
    [
        ("logit", [-30.0, 30], True),
        ("logit", [-30.1, 30.1], False),
        # Whatever the unit of the label: it is the distance from the middle.
        ("log", [95.0, 100, 105], True),
        ("log", [94.0, 100, 106], False),
        ("inverse", [-400.0, 100, 600], True),
        ("inverse", [-500.0, 100, 700], False),
        ("identity", [-1e9, 1e9], True),
    ],
)
def test_how_steep_a_model_may_be(
    link: str, predictors: list[float], passes: bool
) -> None:
    values = np.array(predictors)
    if passes:
        check_steepness(values, link=link, limit=Fraction(30))
        return
    with pytest.raises(Refused) as error:
        check_steepness(values, link=link, limit=Fraction(30))
    assert error.value.code == "linear_predictor"


def made_report() -> dict[str, object]:
    return report(
        LOGISTIC,
        ["age_50&more"],
        np.array([0.5, -1.0]),
        np.diag([0.04, 0.09]),
        Fit(
            n=100,
            n_likelihood=100,
            deviance=120,
            null_deviance=130,
            n_events=5,
            pearson=99,
            remainder=0,
        ),
        confidence=0.95,
        is_penalised=False,
        estimates_dispersion=False,
    )


def test_a_report_s_numbers() -> None:
    found = made_report()
    terms = found["terms"]
    assert isinstance(terms, list)
    intercept, age = terms
    assert intercept["term"] == "(Intercept)"
    assert "odds_ratio" not in intercept
    assert (age["se"], age["statistic"]) == (pytest.approx(0.2), pytest.approx(2.5))
    assert age["p"] == pytest.approx(0.012419330651552)
    assert age["low"] == pytest.approx(0.5 - 1.959963984540054 * 0.2)
    assert age["odds_ratio"] == pytest.approx(1.648721270700128)
    assert (found["aic"], found["log_likelihood"]) == (124, -60)
    notes = found["notes"]
    assert isinstance(notes, list)
    assert "rarer class" in notes[0]


@pytest.mark.parametrize(("n", "deviance"), [(100, 0.0), (2, 1.0)])
def test_rows_without_residuals_or_freedom_have_no_standard_errors(
    n: int, deviance: float
) -> None:
    """Null, since JSON has no word for a number that is none."""
    found = report(
        LEAST_SQUARES,
        ["age"],
        np.array([0.5, -1.0]),
        np.diag([0.04, 0.09]),
        Fit(
            n=n,
            n_likelihood=n,
            deviance=deviance,
            null_deviance=130,
            n_events=None,
            pearson=deviance,
            remainder=0,
        ),
        confidence=0.95,
        is_penalised=False,
        estimates_dispersion=True,
    )
    json.dumps(found, allow_nan=False)
    for term in found["terms"]:
        assert [term["se"], term["p"], term["low"], term["high"]] == [None] * 4
        assert term["estimate"] in (0.5, -1.0)


def test_a_report_as_csv_and_latex() -> None:
    lines = as_csv(made_report()).splitlines()
    assert lines[0].startswith("term,estimate,se,statistic,p,low,high,odds_ratio")
    assert lines[1].startswith("(Intercept),-1.0,0.3,")
    assert lines[1].endswith(",,,")
    latex = as_latex(made_report())
    assert r"age\_50\&more & 0.5 & 0.2 & 2.5 & 0.01242" in latex
