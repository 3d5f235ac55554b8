"""By what training stopped, and what speaks against the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analytics.training.descent import joint_loss, train
from analytics.training.models import Model
from analytics.training.outcome import (
    WARNINGS,
    constant_class_loss,
    constant_linear_loss,
    warning_codes,
)

GOOD: dict[str, Any] = {
    "stopped_by": "converged",
    "loss": 0.3,
    "constant_loss": 0.69,
    "n_wrong": 12,
    "is_penalised": False,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"stopped_by": "max_iter"}, ["max_iter"]),
        ({"loss": 0.69}, ["constant"]),
        ({"loss": np.nextafter(0.69, 0)}, []),
        ({"n_wrong": 0}, ["separated"]),
        ({"n_wrong": 1}, []),
        ({"n_wrong": 0, "is_penalised": True}, []),
        ({"stopped_by": "max_iter", "loss": 456.0}, ["max_iter", "constant"]),
        ({"stopped_by": "max_iter", "n_wrong": 0}, ["max_iter", "separated"]),
    ],
)
def test_each_warning_has_its_condition(
    changes: dict[str, Any], expected: list[str]
) -> None:
    found = warning_codes("lr", **{**GOOD, **changes})
    assert found == expected
    assert set(found) <= set(WARNINGS)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_a_network_that_knows_its_rows_is_not_called_separated(kind: str) -> None:
    assert warning_codes(kind, **{**GOOD, "n_wrong": 0}) == []


def test_a_linear_model_separates_nothing() -> None:
    assert warning_codes("linear", **{**GOOD, "n_wrong": None}) == []


def test_an_intercept_alone_comes_to_the_constant_loss_of_classes() -> None:
    """Columns of zeros leave the model nothing but its intercept."""
    y = np.array([1.0] * 7 + [0.0] * 23)
    model, parts = Model("lr", 1), [(np.zeros((30, 1)), y)]
    found = train(model, parts, learning_rate=4.0, max_iter=500, eps=0)
    loss = joint_loss(model, found.weights, parts, penalty=None, alpha=0)
    assert loss == pytest.approx(constant_class_loss(np.array([23, 7])), rel=1e-12)


def test_an_intercept_alone_comes_to_the_constant_loss_of_numbers() -> None:
    y = np.random.default_rng(3).normal(5, 2, 40)
    model, parts = Model("linear", 1), [(np.zeros((40, 1)), y)]
    found = train(model, parts, learning_rate=0.5, max_iter=500, eps=0)
    loss = joint_loss(model, found.weights, parts, penalty=None, alpha=0)
    assert loss == pytest.approx(constant_linear_loss(float(y.var())), rel=1e-12)


def test_a_class_without_rows_adds_nothing() -> None:
    assert constant_class_loss(np.array([3, 0, 3])) == constant_class_loss(
        np.array([3, 3])
    )
