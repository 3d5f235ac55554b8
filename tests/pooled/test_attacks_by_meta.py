"""What the sums of a meta-analysis tell of single hospitals: why so few are too few, and a
second order too many. The attacks are carried out on the mathematics; that the orders are
refused is in `test_meta_analysis.py`.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares

from agents.gate.meta_orders import fewest_hospitals
from analytics.arrays import Floats
from analytics.training.meta_analysis import first_sums, second_sums

TAU2 = (0.03, 0.4)
"""Of two orders: a changed hospital moves it by its own part."""


def others(n: int) -> tuple[Floats, Floats]:
    """The other hospitals' estimates and standard errors of one coefficient."""
    rng = np.random.default_rng(3)
    return rng.normal(0.5, 0.6, n), rng.uniform(0.1, 0.6, n)


def told(b: Floats, se: Floats, tau2: float) -> Floats:
    """What one of the hospitals has of the others once its own part is off: seven sums."""
    found = np.zeros(7)
    for estimate, error in zip(b, se, strict=True):
        own, own_error = np.array([estimate]), np.array([error])
        second = second_sums(own, own_error, np.array([tau2]))
        found += np.concatenate([first_sums(own, own_error), second])
    return found


def test_three_sums_of_weights_are_the_weights_of_three_hospitals() -> None:
    """w, w^2 and w* by the elementary symmetric polynomials: one equation is left, and it
    is linear in their product.
    """
    b, se = others(3)
    w_sum, _, _, ww_sum, starred, *_ = told(b, se, TAU2[0])
    t = TAU2[0]
    e1 = w_sum
    e2 = (w_sum**2 - ww_sum) / 2
    # sum w / (1 + t w) = (e1 + 2 t e2 + 3 t^2 e3) / (1 + t e1 + t^2 e2 + t^3 e3)
    known = starred * (1 + t * e1 + t**2 * e2) - e1 - 2 * t * e2
    e3 = known / (3 * t**2 - starred * t**3)
    found = np.sort(np.roots([1, -e1, e2, -e3]).real)
    assert np.allclose(found, np.sort(1 / se**2), rtol=1e-6)
    # So four hospitals are too few, and three all the more.
    assert fewest_hospitals(1) > 4


def solutions(n: int, taus: tuple[float, ...], n_starts: int = 30) -> list[Floats]:
    """All estimates that fit what was told, where the weights are guessed from how many
    rows each hospital has.
    """
    b, se = others(n)
    weights = np.array([1 / se**2, *(1 / (se**2 + tau2) for tau2 in taus)])
    # By each weight the sums of estimates and of their squares, relative to their sizes.
    sums = np.concatenate([weights @ b, weights @ b**2])
    first = told(b, se, taus[0])
    assert np.allclose(
        first[[1, 2, 5, 6]], sums[[0, len(weights), 1, len(weights) + 1]]
    )
    scale = np.abs(sums)

    def misfit(guess: Floats) -> Floats:
        found = np.concatenate([weights @ guess, weights @ guess**2])
        differences: Floats = (found - sums) / scale
        return differences

    def slopes(guess: Floats) -> Floats:
        found: Floats = np.concatenate([weights, 2 * weights * guess])
        return found / scale[:, None]

    rng = np.random.default_rng(n)
    found: list[Floats] = []
    for _ in range(n_starts):
        start = rng.normal(0.5, 0.6, n)
        fit = least_squares(
            misfit, start, slopes, xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=400
        )
        if np.max(np.abs(fit.fun)) > 1e-12:
            continue
        if not any(np.allclose(fit.x, one, atol=1e-3) for one in found):
            found.append(fit.x)
    return found


def is_among(n: int, found: list[Floats]) -> bool:
    b, _ = others(n)
    return any(np.allclose(b, one, atol=1e-3) for one in found)


def test_one_order_of_five_hospitals_leaves_few_estimates_to_choose_from() -> None:
    """Four others, four sums of their estimates: a handful of candidates."""
    found = solutions(4, TAU2[:1])
    assert is_among(4, found)
    assert len(found) <= 4


def test_one_order_of_six_hospitals_leaves_many() -> None:
    """No two of the fits are the same: any could be it."""
    assert len(solutions(5, TAU2[:1])) > 20


def test_two_orders_of_six_hospitals_leave_few_again() -> None:
    found = solutions(5, TAU2)
    assert is_among(5, found)
    assert len(found) <= 4
    # Of eight hospitals, as two orders need, many.
    assert fewest_hospitals(2) == 8
    assert len(solutions(7, TAU2, n_starts=16)) > 10
