"""Newton's steps from sums: the equations, halving, the stop, and the report's numbers."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.outliers_influence import variance_inflation_factor

from agents.gate.pair_cells import check_pair_cells
from agents.gate.probes import check_dominance, check_steepness
from agents.site.vault import OrderVault
from agents.training.checkpoint import (
    first_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from agents.training.equations import check_equations
from agents.training.report_text import as_csv, as_latex
from analytics.arrays import Floats
from analytics.training import newton, normal_equations
from analytics.training.inflation import generalised_inflation
from analytics.training.newton import NewtonState, NoMean
from analytics.training.newton_report import Fit, report
from analytics.training.normal_equations import Collinear, Opened
from analytics.training.pairs import LEAST_SQUARES, LOGISTIC, Pair
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
    found = normal_equations.solve(newton.read_sums(totals, n, bits=BITS))
    assert found == pytest.approx(exact, rel=1e-14)


def test_a_collinear_column_has_no_pivot() -> None:
    X = np.array([[1.0, 2, 3], [2, 4, 1], [3, 6, 5], [5, 10, 2]])
    with pytest.raises(Collinear) as error:
        normal_equations.solve(opened(X.T @ X, np.ones(3), 1))
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
    resting = opened(np.array([[2.0]]), np.array([2.000002]), 10.0 - 1e-9)
    options = {"eps": 1e-8, "diagonal": np.zeros(1), "n_rows": 9}
    after = newton.stepped(state, resting, pair=LOGISTIC, **options)  # type: ignore[arg-type]
    assert after.coef.tolist() == pytest.approx([1.000001], rel=1e-15)
    assert after.last_step == pytest.approx(1e-6)
    # The estimate is there; its standard error is that of a millionth before.
    assert (after.is_still, after.is_done) == (True, False)
    close = opened(np.array([[2.0]]), np.array([2 + 2e-10]), 10.0 - 1e-9)
    assert newton.stepped(state, close, pair=LOGISTIC, **options).is_done  # type: ignore[arg-type]
    # A step of .001 standard errors has its square before it yet.
    far = opened(np.array([[2.0]]), np.array([2.002]), 10.0 - 1e-9)
    early = newton.stepped(state, far, pair=LOGISTIC, **options)  # type: ignore[arg-type]
    assert (early.is_still, early.is_done) == (True, False)
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


@pytest.mark.parametrize(
    ("n_rows", "n_rare"),
    [(300, 12), (20_000, 12), (600_000, 36), (6_000_000, 30), (6_000_000, 3_000)],
)
@pytest.mark.parametrize("n_events", [0, 1, 3])
def test_a_rare_level_without_an_event_is_separated_in_any_number_of_rows(
    n_rows: int, n_rare: int, n_events: int
) -> None:
    """Among many rows its standardised coefficient moves little, and its odds ratio as far
    as ever.
    """
    state = RareLevel(n_rows, n_rare, n_events, share=0.3).fitted()
    assert state.is_separating is (n_events == 0)


@pytest.mark.parametrize(
    ("n_rows", "n_rare", "n_events"),
    [(300, 12, 3), (100_000, 12, 11), (1_000_000, 36, 35), (10_000_000, 12, 11)],
)
def test_the_last_step_is_near_enough_in_any_number_of_rows(
    n_rows: int, n_rare: int, n_events: int
) -> None:
    """Of very many rows the deviance rests while a rare level's coefficient still moves."""
    table = RareLevel(n_rows, n_rare, n_events, share=0.5)
    state = table.fitted()
    coef = state.coef
    for _ in range(4):
        coef = normal_equations.solve(table.opened(coef))
    errors = np.sqrt(np.diag(normal_equations.inverse(table.opened(coef))))
    assert (np.abs(state.coef - coef) <= 1e-9 * errors).all()
    assert state.round <= 6


class RareLevel:
    """Rows of a 0/1 column that n_rare of them have, and of whether an event happened;
    share: of the others that have it.
    """

    def __init__(
        self, n_rows: int, n_rare: int, n_events: int, *, share: float
    ) -> None:
        of_rare = n_rare / n_rows
        deviation = np.sqrt(of_rare * (1 - of_rare))
        n_others = n_rows - n_rare
        self.X = (np.array([[0.0], [0], [1], [1]]) - of_rare) / deviation
        self.y = np.array([1.0, 0, 0, 1])
        self.counts = np.array(
            [share * n_others, (1 - share) * n_others, n_rare - n_events, n_events]
        )

    def opened(self, coef: Floats, *, is_start: bool = False) -> Opened:
        rows = newton.row_numbers(
            LOGISTIC,
            self.X,
            self.y,
            coef,
            is_start=is_start,
            row_weights=self.counts,
        )
        sums = newton.local_sums(self.X, rows).tolist()
        totals = [round(Fraction(value) * 2**BITS) for value in sums]
        return newton.read_sums(totals, 2, bits=BITS)

    def fitted(self) -> NewtonState:
        state = NewtonState(coef=np.zeros(2), base=np.zeros(2))
        while not state.is_done and not state.is_separating:
            assert state.round < 30
            state = newton.stepped(
                state,
                self.opened(state.coef, is_start=state.is_start),
                pair=LOGISTIC,
                eps=1e-8,
                diagonal=np.zeros(2),
                n_rows=round(self.counts.sum()),
            )
        return state


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


def test_inflation_of_single_columns_is_the_variance_inflation_factor() -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(400, 3))
    X[:, 2] += X[:, 0] + 0.5 * X[:, 1]
    design = np.column_stack([X, np.ones(400)])
    covariance = np.linalg.inv(design.T @ design)[:3, :3]
    found = generalised_inflation(covariance, {"a": [0], "b": [1], "c": [2]})
    for place, entry in enumerate(found):
        expected = variance_inflation_factor(design, place)
        assert entry["gvif"] == pytest.approx(expected, rel=1e-9)
    assert generalised_inflation(covariance[:1, :1], {"a": [0]}) == []


def test_a_null_model_goes_on_where_it_was_after_a_crash(tmp_path: Path) -> None:
    """With other bits of it the hospitals' sums would be of two models."""
    state = NewtonState(np.array([0.1]), np.array([0.3]), 7.5, round=3, is_still=True)
    of_model = NewtonState(np.array([0.2, 1 / 3]), np.array([0.1, 0.2]), round=3)
    first = first_checkpoint(0, np.zeros(2))
    sums = np.arange(4)
    point = replace(first, round=3, newton=of_model, opened=sums, null=state)
    store = OrderVault(tmp_path / "order")
    save_checkpoint(store, point)
    found = load_checkpoint(store, 0)
    assert found is not None
    assert found.null is not None
    assert found.newton is not None
    assert found.null.coef.tobytes() == state.coef.tobytes()
    assert (found.null.deviance, found.null.round) == (7.5, 3)
    assert found.null.is_still
    assert not found.newton.is_still
    assert found.newton.coef.tobytes() == of_model.coef.tobytes()


def test_nothing_of_newton_s_state_is_lost_by_a_crash(tmp_path: Path) -> None:
    """Each field with a value that it does not begin with."""
    state = NewtonState(
        coef=np.array([0.2, 1 / 3]),
        base=np.array([0.1, 0.2]),
        deviance=7.5,
        n_halvings=1,
        round=3,
        is_still=True,
        is_done=True,
        last_step=0.25,
        is_growing=True,
        is_scoring=True,
        n_scored=2,
        log_theta=0.5,
        base_log_theta=0.75,
    )
    point = replace(
        first_checkpoint(0, np.zeros(2)), round=3, newton=state, opened=np.arange(4)
    )
    store = OrderVault(tmp_path / "order")
    save_checkpoint(store, point)
    found = load_checkpoint(store, 0)
    assert found is not None
    assert found.newton is not None
    for field in fields(NewtonState):
        kept = getattr(found.newton, field.name)
        assert np.array_equal(kept, getattr(state, field.name)), field.name
        assert not np.array_equal(kept, field.default), field.name
