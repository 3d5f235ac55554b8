"""How much each hospital contributes to a round: one score for each, higher =
contributes more.

Disclosure: as the scores of `anomaly`; a leave-one-out performance tells how the
others' model does on the test rows without one hospital. They go to the order's
parties, as policy says.
"""

from __future__ import annotations

import numpy as np

from analytics.arrays import (
    Floats,
    check_finite,
    check_name,
    check_result,
    check_same_rows,
)


def grad_diff(
    norm: Floats, drift: Floats, dot: Floats, norm_before: Floats, *, metric: str
) -> Floats:
    """How far each gradient g_i(t) is from the average gbar(t-1) of the round before.

    'eu': |g_i(t) - gbar(t-1)|; 'cos': 1 - cos of their angle, in [0, 2], two zero
    vectors at 0, a zero and another vector at 1. Arrays (n,): norm = |g_i(t)|, drift =
    |g_i(t) - gbar(t-1)|, dot = <g_i(t), gbar(t-1)>, norm_before = |gbar(t-1)|.

    Raises ValueError for another metric, other shapes, a number that is not finite or a
    negative norm.

    >>> n = np.array([1.0])
    >>> grad_diff(n, np.sqrt(2 * n), 0 * n, n, metric="cos").tolist()
    [1.0]
    """
    check_name("metric", metric, ("eu", "cos"))
    fields = {"norm": norm, "drift": drift, "dot": dot, "norm_before": norm_before}
    for field, client_values in fields.items():
        check_same_rows(field, client_values, len(norm))
        check_finite(field, client_values)
        is_length = field != "dot"
        if is_length and (client_values < 0).any():
            raise ValueError(f"{field} holds a negative number; a length is 0 or more.")
    if metric == "eu":
        return drift.astype(np.float64)
    return _cosine_distance(norm, norm_before, dot)


def perf_diff(all_: Floats, without: Floats, *, metric: str) -> Floats:
    """What a round's model loses without each client (leave-one-out), from arrays (n,).

    'accuracy': A(all) - A(all but i); 'loss': L(all but i) - L(all). Negative: the
    model is better without the client. Raises ValueError for another metric, other
    shapes or a number that is not finite.

    >>> perf_diff(np.array([0.75]), np.array([0.5]), metric="accuracy").tolist()
    [0.25]
    """
    check_name("metric", metric, ("accuracy", "loss"))
    for field, client_values in (("all", all_), ("without", without)):
        check_same_rows(field, client_values, len(all_))
        check_finite(field, client_values)
    with np.errstate(over="ignore"):
        score: Floats = all_ - without
        # A loss is better where it is lower.
        if metric == "loss":
            score = without - all_
    check_result("perf_diff", score)
    return score


def _cosine_distance(norm: Floats, norm_before: Floats, dot: Floats) -> Floats:
    is_zero = norm == 0
    was_zero = norm_before == 0
    divisor = np.where(is_zero, 1.0, norm)
    divisor_before = np.where(was_zero, 1.0, norm_before)
    # One after the other: the product of two lengths may leave the range of numbers.
    cosine = dot / divisor / divisor_before
    distance = np.clip(1.0 - cosine, 0.0, 2.0)
    distance = np.where(is_zero | was_zero, 1.0, distance)
    return np.where(is_zero & was_zero, 0.0, distance)
