"""The design matrix equals scikit-learn's ColumnTransformer on the pooled rows, and its
splines R's.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import BSpline
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from analytics.training.design import (
    OTHER,
    UNKNOWN,
    Design,
    Levels,
    Number,
    Spline,
    default_reference,
    design_matrix,
    natural_spline,
    sorted_levels,
)

# ns(women$height, df = 5) as R's help of ns shows it: knots 60.8, 63.6, 66.4, 69.2.
HEIGHTS = np.arange(58.0, 73.0)
KNOTS = (58.0, 60.8, 63.6, 66.4, 69.2, 72.0)
BY_R = {
    58: [0, 0, 0, 0, 0],
    59: [7.592323e-03, 0, -8.670223e-02, 2.601067e-01, -1.734045e-01],
    60: [6.073858e-02, 0, -1.503044e-01, 4.509132e-01, -3.006088e-01],
    61: [2.047498e-01, 6.073858e-05, -1.677834e-01, 5.033503e-01, -3.355669e-01],
    62: [4.334305e-01, 1.311953e-02, -1.324404e-01, 3.973211e-01, -2.648807e-01],
    65: [4.791667e-01, 4.791667e-01, 1.406302e-02, 2.031093e-02, -1.354062e-02],
    72: [0, 0, -1.428571e-01, 4.285714e-01, 7.142857e-01],
}


def test_a_natural_spline_has_the_values_of_r() -> None:
    basis = natural_spline(HEIGHTS, KNOTS)
    for height, expected in BY_R.items():
        np.testing.assert_allclose(basis[height - 58], expected, rtol=5e-7, atol=5e-12)


def test_a_natural_spline_spans_what_its_definition_says() -> None:
    """Cubic between the knots, twice differentiable, linear beyond: the space of
    truncated cubes with two linear ends (Hastie, Tibshirani, Friedman, 5.4).
    """
    x = np.linspace(10, 90, 200)
    knots = (30.0, 40.0, 50.0, 70.0)
    basis = np.column_stack([np.ones_like(x), natural_spline(x, knots)])

    def truncated(knot: float) -> np.ndarray:
        last = knots[-1]
        cubes = np.maximum(x - knot, 0) ** 3 - np.maximum(x - last, 0) ** 3
        return cubes / (last - knot)

    ends = [truncated(knot) - truncated(knots[-2]) for knot in knots[:-2]]
    expected = np.column_stack([np.ones_like(x), x, *ends])
    assert np.linalg.matrix_rank(basis) == expected.shape[1]
    weights, *_ = np.linalg.lstsq(basis, expected, rcond=None)
    np.testing.assert_allclose(basis @ weights, expected, rtol=0, atol=1e-8)


def test_b_splines_are_those_of_scipy() -> None:
    x = np.linspace(30.001, 69.999, 77)
    knots = np.array([30.0] * 4 + [50.0] + [70.0] * 4)
    expected = BSpline.design_matrix(x, knots, 3).toarray()
    boundary = np.array([30.0, 70.0])
    curvature = np.column_stack(
        [BSpline(knots, np.eye(5)[place], 3)(boundary, 2) for place in range(1, 5)]
    )
    q, _ = np.linalg.qr(curvature.T, mode="complete")
    np.testing.assert_allclose(
        natural_spline(x, (30, 50, 70)), (expected[:, 1:] @ q)[:, 2:], atol=1e-14
    )


def test_a_missing_value_of_a_spline_stays_missing() -> None:
    basis = natural_spline(np.array([40.0, np.nan]), (30, 50, 70))
    assert np.isnan(basis[1]).all()
    assert np.isfinite(basis[0]).all()


@given(st.data())
def test_the_matrix_is_that_of_scikit_learn(data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(2, 30))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    levels = ["1", "2", "10", "a"]
    kinds = rng.choice(levels, n_rows)
    kinds[0] = "1"
    reference = data.draw(st.sampled_from(levels))
    numbers = np.round(rng.normal(50, 10, n_rows), 2)
    gaps = rng.random(n_rows) < 0.3
    gaps[:2] = False
    numbers[gaps] = np.nan
    term = Levels("kind", tuple(levels), reference)
    mean = float(np.nanmean(numbers))
    design = Design((Number("x"), term), {"x": mean})
    columns = {"x": numbers, "kind": np.array(term.places(kinds.tolist()))}
    found = design_matrix(design, columns)

    frame = np.empty((n_rows, 2), dtype=object)
    frame[:, 0], frame[:, 1] = numbers, kinds
    encoder = OneHotEncoder(categories=[levels], drop=[reference], sparse_output=False)
    transformer = ColumnTransformer(
        [("numbers", SimpleImputer(), [0]), ("kinds", encoder, [1])]
    )
    expected = transformer.fit_transform(frame).astype(float)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert design.features == ("x", *[f"kind[{level}]" for level in term.shown])


def test_rows_of_two_hospitals_are_rows_of_one_table() -> None:
    rng = np.random.default_rng(1)
    term = Levels("kind", ("a", "b", OTHER), "a", has_other=True)
    design = Design((term, Spline("age", (30, 50, 70))), {"age[1]": 0.5, "age[2]": 0.1})
    ages = rng.normal(50, 20, 40)
    ages[[3, 30]] = np.nan
    kinds = np.array(term.places(rng.choice(["a", "b", "c"], 40).tolist()))
    whole = design_matrix(design, {"kind": kinds, "age": ages})
    parts = []
    for rows in (slice(0, 25), slice(25, 40)):
        parts.append(design_matrix(design, {"kind": kinds[rows], "age": ages[rows]}))
    assert np.array_equal(np.vstack(parts), whole)


def test_an_unknown_level_is_other_where_there_is_one() -> None:
    assert Levels("k", ("a", OTHER), "a", has_other=True).places(["a", "z"]) == [0, 1]
    strict = Levels("k", ("a", "b"), "a")
    assert strict.places(["z", "b"]) == [UNKNOWN, 1]
    with pytest.raises(ValueError, match="a level of k"):
        design_matrix(Design((strict,), {}), {"k": np.array([UNKNOWN])})


def test_a_value_that_nothing_stands_for_is_no_number() -> None:
    with pytest.raises(ValueError, match="no value"):
        design_matrix(Design((Number("x"),), {}), {"x": np.array([np.nan])})


def test_the_reference_is_the_most_frequent_level_and_of_ties_the_first() -> None:
    levels = sorted_levels(["10", "9", "b"])
    assert levels == ["9", "10", "b"]
    assert default_reference(levels, [3, 7, 7]) == "10"


def test_an_empty_table_has_its_columns() -> None:
    design = Design((Number("x"), Levels("k", ("a", "b"), "a")), {})
    columns = {"x": np.zeros(0), "k": np.zeros(0, dtype=np.int64)}
    assert design_matrix(design, columns).shape == (0, 2)
