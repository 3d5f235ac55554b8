"""What hospitals must come to alike depends on no library's logarithm or exponential
function, whose last bit is not the same on every processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.training import firth, overdispersion
from analytics.training.elementary import exponential, logarithm
from analytics.training.newton import NewtonState
from analytics.training.normal_equations import Opened

N_STATES = 200


@given(st.floats(5e-324, 1.7e308) | st.floats(0.9, 1.1))
def test_the_logarithm_is_the_library_s_but_for_three_units(x: float) -> None:
    expected = math.log(x)
    assert abs(logarithm(x) - expected) <= 3 * math.ulp(expected)


@given(st.floats(-700, 700) | st.floats(-1, 1))
def test_the_exponential_is_the_library_s_but_for_three_units(x: float) -> None:
    expected = math.exp(x)
    assert abs(exponential(x) - expected) <= 3 * math.ulp(expected)


@pytest.fixture
def another_processor() -> Iterator[pytest.MonkeyPatch]:
    """Until it is undone, the libraries' functions differ in the last bit."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("log", "exp"):
            patch.setattr(math, name, next_above(getattr(math, name)))
            patch.setattr(np, name, next_above(getattr(np, name)))
        yield patch


def next_above(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: np.nextafter(function(x), np.inf)


def thetas() -> list[float | None]:
    """Of so many orders of negative_binomial, the first theta and its logarithm."""
    found: list[float | None] = []
    for number in range(N_STATES):
        opened = Opened([[16]], [8], 3.0, bits=3, is_valid=True)
        state = NewtonState(np.ones(1), np.ones(1), round=1)
        totals = (7.0, 20.0 + number)
        next_state = overdispersion.stepped(state, opened, totals, eps=1e-8)
        found += [next_state.log_theta, next_state.theta]
    return found


def penalised() -> list[float | None]:
    """Of so many orders with Firth's penalty, what their steps must let fall."""
    found: list[float | None] = []
    for number in range(N_STATES):
        A = [[16 + number, 3], [3, 29]]
        opened = Opened(A, [8, 5], 0.0, bits=3, is_valid=True)
        state = NewtonState(np.ones(2), np.ones(2), round=1)
        found.append(firth.with_information(state, opened, eps=1e-8).deviance)
    return found


@pytest.mark.parametrize("found", [thetas, penalised])
def test_it_is_the_same_on_another_processor(
    found: Callable[[], list[float | None]], another_processor: pytest.MonkeyPatch
) -> None:
    there = found()
    another_processor.undo()
    assert there == found()
