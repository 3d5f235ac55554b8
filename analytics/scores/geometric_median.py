"""The geometric median of points: the one with the smallest sum of distances to all."""

from __future__ import annotations

import numpy as np

from analytics.arrays import Floats
from analytics.scores.geometry import distances, lengths

_MOST_STEPS = 200
_MOST_HALVINGS = 60


def geometric_median(points: Floats) -> Floats:
    """The geometric median (m,) of points (n, m), m <= n.

    First whether it is one of the points, then Newton's method on the sum of distances
    f, from a point where f is below its value at all points, so that f is smooth on the
    way; steps are halved until f does not grow.
    """
    among = _median_among(points)
    if among is not None:
        return among
    median = _first_descent(points)
    reach = lengths(points).max()
    for _ in range(_MOST_STEPS):
        moved = _newton_step(points, median)
        step = np.abs(moved - median)
        if step.max() <= 1e-15 * reach:
            break
        median = moved
    return median


def _median_among(points: Floats) -> Floats | None:
    """The geometric median if it is one of the points (Kuhn 1973).

    x_k is optimal if the unit vectors to all others add up to at most the number of
    points at x_k. Several distinct optimal points are the ends of an interval of them:
    then its middle.
    """
    between = distances(points)
    at_it = (between == 0).sum(axis=1)
    optimal = []
    for client, n_there in enumerate(at_it):
        pull = _pull(points, between, client)
        # Of four points on a line the middle two reach the limit exactly; rounding must
        # not decide about them.
        if np.linalg.norm(pull) <= n_there + 1e-11:
            optimal.append(client)
    if not optimal:
        return None
    # Each distinct point once, however many clients are at it.
    weights = 1 / at_it[optimal]
    middle = np.average(points[optimal], axis=0, weights=weights)
    return np.asarray(middle)


def _pull(
    points: Floats,
    between: Floats,
    client: int,
) -> Floats:
    """The sum of the unit vectors from one client to all that are elsewhere."""
    reach = between[client]
    away = reach > 0
    differences = points[away] - points[client]
    units = differences / reach[away, None]
    pull: Floats = units.sum(axis=0)
    return pull


def _first_descent(points: Floats) -> Floats:
    """One step downhill from the best of the points.

    Vardi and Zhang 2000, equation 2.6.
    """
    between = distances(points)
    distance_sums = between.sum(axis=1)
    best = int(distance_sums.argmin())
    reach = between[best]
    away = reach > 0
    n_there = (~away).sum()
    pull = _pull(points, between, best)
    strength = np.linalg.norm(pull)
    ratio = float(n_there / strength)
    share = min(1.0, ratio)
    weights = 1 / reach[away]
    target: Floats = np.average(points[away], axis=0, weights=weights)
    towards = (1 - share) * target
    staying = share * points[best]
    return np.asarray(towards + staying)


def _newton_step(points: Floats, median: Floats) -> Floats:
    """The next point z of Newton's method.

    f has the gradient sum u_i and the Hessian sum (I - u_i u_i^T) / r_i, u_i = (z -
    x_i) / r_i.
    """
    away = median - points
    reach = lengths(away)  # r_i
    units = away / reach[:, None]  # u_i
    gradient = units.sum(axis=0)
    shorter = units / reach[:, None]
    outer = shorter.T @ units  # sum u_i u_i^T / r_i
    inverses = (1 / reach).sum()
    identity = np.eye(len(median))
    hessian = inverses * identity - outer
    step: Floats = np.linalg.solve(hessian, gradient)
    before = reach.sum()
    for _ in range(_MOST_HALVINGS):
        moved = median - step
        after = lengths(moved - points).sum()
        if after <= before * (1 + 1e-15):
            break
        step = step / 2
    return median - step
