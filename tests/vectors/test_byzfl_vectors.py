"""Robust aggregates against byzfl, another group's implementation, by committed
answers.

byzfl's Krum adds the n - f - 1 nearest, not the paper's n - f - 2: its f is one more
than ours. Its Multi-Krum takes n - f vectors. Nothing else differs.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from make_byzfl_vectors import PATH, round_of

from analytics.scores.aggregation import median, select_minimum_diameter, trimmed_mean
from analytics.scores.anomaly import geometric_median_distance, multi_krum, true_krum
from analytics.scores.geometry import triangular_factor

CASES: list[dict[str, Any]] = json.loads(PATH.read_text())["cases"]
every_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{len(case['vectors'])}-{case['f']}"
)


def vectors_and_points(case: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The vectors; the same once as they are and once as coordinates of their
    triangular factor.
    """
    vectors = np.array(case["vectors"])
    return vectors, [vectors, triangular_factor([vectors], len(vectors)).T]


@every_case
def test_the_script_still_makes_these_vectors(case: dict[str, Any]) -> None:
    n, d = np.shape(case["vectors"])
    assert round_of(n, case["f"], d).tolist() == case["vectors"]


@every_case
def test_krum(case: dict[str, Any]) -> None:
    vectors, both = vectors_and_points(case)
    for points in both:
        best = true_krum(points, n_attackers=case["f"] - 1).argmin()
        assert vectors[best].tolist() == case["answers"]["krum"]


@every_case
def test_multi_krum(case: dict[str, Any]) -> None:
    vectors, both = vectors_and_points(case)
    for points in both:
        score = multi_krum(
            points, n_attackers=case["f"] - 1, n_selected=len(vectors) - case["f"]
        )
        np.testing.assert_allclose(
            vectors[score == 0].mean(axis=0), case["answers"]["multi_krum"], rtol=1e-14
        )


@every_case
def test_minimum_diameter(case: dict[str, Any]) -> None:
    vectors, both = vectors_and_points(case)
    for points in both:
        chosen = select_minimum_diameter(points, n_attackers=case["f"])
        np.testing.assert_allclose(
            vectors[chosen].mean(axis=0),
            case["answers"]["minimum_diameter"],
            rtol=1e-14,
        )


@every_case
def test_distance_to_the_geometric_median(case: dict[str, Any]) -> None:
    vectors, both = vectors_and_points(case)
    expected = np.linalg.norm(vectors - case["answers"]["geometric_median"], axis=1)
    for points in both:
        np.testing.assert_allclose(
            geometric_median_distance(points), expected, rtol=1e-12, atol=1e-12
        )


@every_case
def test_median_and_trimmed_mean(case: dict[str, Any]) -> None:
    vectors, answers = np.array(case["vectors"]), case["answers"]
    np.testing.assert_allclose(
        trimmed_mean(vectors, n_attackers=case["f"]),
        answers["trimmed_mean"],
        rtol=1e-14,
    )
    np.testing.assert_allclose(median(vectors), answers["median"], rtol=1e-14)
