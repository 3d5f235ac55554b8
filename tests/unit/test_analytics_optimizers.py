"""Each optimizer against plain Python floats, bit for bit; penalties, rates and the
tests of convergence.
"""

import ast
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import analytics.training.optimizers
from analytics.training.optimizers import (
    OPTIMIZERS,
    converged,
    decayed_rate,
    initial_state,
    penalty_value,
    step,
)
from tests.examples import few

PENALISED = np.array([True, True, True, False])
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def python_step(name, w, g, v, s, t, *, lr, penalty, alpha, penalised):
    """One coordinate's step in Python floats; t counts from 1. Returns w, v, s."""
    if penalty == "L2" and penalised:
        g = g + alpha * w
    if name == "sgd":
        w = w + -lr * g
    elif name == "nesterov_momentum_sgd":
        old, v = v, 0.9 * v - lr * g
        w = w + (1.9 * v - 0.9 * old)
    elif name == "adam":
        v, s = 0.9 * v + (1 - 0.9) * g, 0.999 * s + (1 - 0.999) * (g * g)
        c1 = c2 = 1.0
        for _ in range(t):
            c1, c2 = c1 * 0.9, c2 * 0.999
        w = w + -lr * ((v / (1 - c1)) / (math.sqrt(s / (1 - c2)) + 1e-8))
    elif name == "rmsprop":
        s = 0.99 * s + (1 - 0.99) * (g * g)
        w = w + -lr * (g / math.sqrt(s + 1e-6))
    else:
        s = s + g * g
        w = w + -lr * (g / (math.sqrt(s) + 1e-7))
    if penalty == "L1" and penalised:
        threshold = alpha * lr
        w = w - threshold if w > threshold else w + threshold if w < -threshold else 0.0
    return w, v, s


def run_in_python(name, weights, gradients, **options):
    table = [(w, 0.0, 0.0) for w in weights.tolist()]
    for t, gradient in enumerate(gradients, start=1):
        table = [
            python_step(name, w, g, v, s, t, penalised=p, **options)
            for (w, v, s), g, p in zip(
                table, gradient.tolist(), PENALISED.tolist(), strict=True
            )
        ]
    return np.array(table).T


def run(name, weights, gradients, **options):
    state = initial_state(len(weights))
    for gradient in gradients:
        weights, state = step(
            name, weights, gradient, state, learning_rate=options["lr"], penalised=PENALISED,
            penalty=options["penalty"], alpha=options["alpha"],
        )  # fmt: skip
    return weights, state


@every_optimizer
@pytest.mark.parametrize("penalty", ["L1", "L2", None])
@few  # fifteen times
@given(seed=st.integers(0, 10_000), lr=st.floats(1e-4, 10), alpha=st.floats(0, 1))
def test_step_has_the_bits_of_plain_python(name, penalty, seed, lr, alpha):
    rng = np.random.default_rng(seed)
    weights, gradients = (
        rng.normal(size=4),
        rng.normal(size=(5, 4)) * 10.0 ** rng.integers(-9, 7, (5, 4)),
    )
    options = {"lr": lr, "penalty": penalty, "alpha": alpha}
    found, state = run(name, weights, gradients, **options)
    expected, first, second = run_in_python(name, weights, gradients, **options)
    assert found.tobytes() == expected.tobytes()
    assert state.step == 5
    assert state.first.tobytes() == first.tobytes()
    assert state.second.tobytes() == second.tobytes()


@every_optimizer
def test_position_and_length_do_not_change_a_bit(name):
    """Vector loops and their scalar remainders round alike, so a layer may be split
    anywhere.
    """
    rng = np.random.default_rng(3)
    weights, gradient = rng.normal(size=1003), rng.normal(size=1003)
    options = {"learning_rate": 0.15, "penalty": "L1", "alpha": 0.01}
    whole, _ = step(
        name,
        weights,
        gradient,
        initial_state(1003),
        penalised=np.ones(1003, bool),
        **options,
    )
    pieces = [
        step(
            name,
            weights[i : i + 1],
            gradient[i : i + 1],
            initial_state(1),
            penalised=np.ones(1, bool),
            **options,
        )[0]
        for i in range(1003)
    ]
    assert whole.tobytes() == np.concatenate(pieces).tobytes()


def test_only_correctly_rounded_operations_are_used():
    tree = ast.parse(Path(analytics.training.optimizers.__file__).read_text())
    nodes = list(ast.walk(tree))
    of_numpy = {
        n.attr
        for n in nodes
        if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "np"
    }
    of_math = {
        n.attr
        for n in nodes
        if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "math"
    }
    assert of_numpy <= {"where", "sqrt", "abs", "zeros", "errstate"}
    assert of_math <= {"sqrt", "fsum", "isfinite"}
    assert not [n for n in nodes if isinstance(n, ast.Pow | ast.MatMult)]


def test_known_first_steps():
    gradient, weights = np.array([0.5, -2.0, 0.0, 1.0]), np.zeros(4)
    options = {"lr": 0.1, "penalty": None, "alpha": 0.0}
    first = {name: run(name, weights, [gradient], **options)[0] for name in OPTIMIZERS}
    np.testing.assert_allclose(first["sgd"], [-0.05, 0.2, 0, -0.1])
    np.testing.assert_allclose(first["nesterov_momentum_sgd"], [-0.095, 0.38, 0, -0.19])
    np.testing.assert_allclose(first["adam"], [-0.1, 0.1, 0, -0.1], rtol=1e-7)
    np.testing.assert_allclose(first["adagrad"], [-0.1, 0.1, 0, -0.1], rtol=1e-6)
    np.testing.assert_allclose(
        first["rmsprop"], -0.1 * gradient / np.sqrt(0.01 * gradient**2 + 1e-6)
    )


@every_optimizer
def test_a_zero_gradient_moves_nothing(name):
    weights = np.array([1.0, -2.0, 0.0, 3.0])
    found, _ = run(name, weights, [np.zeros(4)] * 3, lr=0.1, penalty=None, alpha=0.0)
    assert found.tolist() == weights.tolist()


@every_optimizer
def test_l2_is_alpha_w_added_once_to_the_aggregate(name):
    weights, gradient = np.array([1.0, -2.0, 0.5, 3.0]), np.array([0.1, 0.2, -0.3, 0.4])
    with_penalty, _ = run(name, weights, [gradient], lr=0.1, penalty="L2", alpha=0.25)
    plain, _ = run(
        name,
        weights,
        [gradient + 0.25 * weights * PENALISED],
        lr=0.1,
        penalty=None,
        alpha=0.0,
    )
    assert with_penalty.tolist() == plain.tolist()


@every_optimizer
@pytest.mark.parametrize("penalty", ["L1", "L2"])
def test_alpha_zero_is_no_penalty(name, penalty):
    weights, gradients = (
        np.array([1.0, -2.0, -0.0, 3.0]),
        [np.array([0.1, 0.2, -0.3, 0.4])] * 2,
    )
    plain, _ = run(name, weights, gradients, lr=0.1, penalty=None, alpha=0.0)
    penalised, _ = run(name, weights, gradients, lr=0.1, penalty=penalty, alpha=0.0)
    assert plain.tolist() == penalised.tolist()


def test_l1_stops_at_zero_and_spares_the_intercept():
    weights = np.array([0.05, -0.05, 0.3, 0.05])
    found, _ = run("sgd", weights, [np.zeros(4)], lr=0.1, penalty="L1", alpha=1.0)
    np.testing.assert_allclose(found, [0.0, 0.0, 0.2, 0.05], rtol=1e-15)
    assert not np.signbit(found).any()


def test_at_the_threshold_a_weight_is_positive_zero():
    found, _ = run(
        "sgd",
        np.array([0.5, -0.5, -0.0, 1.0]),
        [np.zeros(4)],
        lr=0.5,
        penalty="L1",
        alpha=1.0,
    )
    assert found.tobytes() == np.array([0.0, 0.0, 0.0, 1.0]).tobytes()


@every_optimizer
def test_arguments_are_left_as_they_are(name):
    weights, gradient, state = np.ones(4), np.ones(4), initial_state(4)
    for array in (weights, gradient, state.first, state.second):
        array.flags.writeable = False
    step(
        name,
        weights,
        gradient,
        state,
        learning_rate=0.1,
        penalty="L2",
        alpha=0.1,
        penalised=PENALISED,
    )


@every_optimizer
def test_a_step_out_of_range_is_said(name):
    with pytest.raises(ValueError, match="learning_rate"):
        run(
            name,
            np.full(4, 1.7e308),
            [np.full(4, -1.7e308)],
            lr=10.0,
            penalty="L2",
            alpha=1.0,
        )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "lbfgs"}, "optimizer"),
        ({"penalty": "l2"}, "penalty"),
        ({"alpha": -0.1}, "alpha"),
        ({"alpha": np.nan}, "alpha"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"gradient": np.zeros(3)}, "gradient"),
        ({"penalised": np.ones(5, bool)}, "penalised"),
    ],
)
def test_step_refuses(change, field):
    arguments = {
        "name": "sgd",
        "weights": np.zeros(4),
        "gradient": np.zeros(4),
        "state": initial_state(4),
    }
    options = {
        "learning_rate": 0.1,
        "penalty": None,
        "alpha": 0.0,
        "penalised": PENALISED,
    }
    with pytest.raises(ValueError, match=field):
        step(**{**arguments, **options, **change})


@pytest.mark.parametrize(
    ("decay", "decay_sqrt", "expected"),
    [
        (0, False, [0.15] * 3),
        (0, True, [0.15] * 3),
        (1, False, [0.15, 0.075, 0.05]),
        (3, True, [0.15, 0.075, 0.15 / 7**0.5]),
    ],
)
def test_decayed_rate(decay, decay_sqrt, expected):
    found = [
        decayed_rate(0.15, decay=decay, decay_sqrt=decay_sqrt, round=t)
        for t in range(3)
    ]
    assert found == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"decay": -1.0}, "decay"),
        ({"round": -1}, "round"),
    ],
)
def test_decayed_rate_refuses(change, field):
    with pytest.raises(ValueError, match=field):
        decayed_rate(
            **{
                "learning_rate": 0.1,
                "decay": 0.0,
                "decay_sqrt": False,
                "round": 0,
                **change,
            }
        )


def test_penalty_value():
    weights = np.array([1.0, -2.0, 3.0, 100.0])
    values = {
        p: penalty_value(weights, penalty=p, alpha=0.1, penalised=PENALISED)
        for p in ("L1", "L2", None)
    }
    assert values == pytest.approx({"L1": 0.6, "L2": 0.7, None: 0.0})


def test_penalty_value_is_the_same_in_any_order():
    weights = np.random.default_rng(0).normal(size=1000)
    options = {"penalty": "L2", "alpha": 0.1, "penalised": np.ones(1000, bool)}
    assert penalty_value(weights, **options) == penalty_value(
        np.sort(weights), **options
    )


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([0.5], False), ([0.5, 0.25], False), ([0.5, 0.375], True), ([0.375, 0.5], True)],
)
def test_diff_is_strict_and_never_on_the_first_round(losses, expected):
    eps = math.nextafter(0.125, 1)
    assert (
        converged("diff", eps=eps, losses=losses, before=np.zeros(1), after=np.ones(1))
        is expected
    )
    assert (
        converged(
            "diff", eps=0.125, losses=losses, before=np.zeros(1), after=np.ones(1)
        )
        is False
    )


@pytest.mark.parametrize(
    ("loss", "expected"), [(0.1, True), (math.nextafter(0.1, 1), False), (0.0, True)]
)
def test_abs_holds_at_eps(loss, expected):
    assert (
        converged("abs", eps=0.1, losses=[loss], before=np.zeros(1), after=np.ones(1))
        is expected
    )


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([0.0, 0.0], [0.3, 0.4], False),  # 0.5 is not below 0.5 * max(0.5, 1)
        ([0.1, 0.0], [0.3, 0.4], True),
        ([3.0, 4.0], [6.0, 8.0], False),  # 5 is not below 0.5 * 10
        ([3.1, 4.0], [6.0, 8.0], True),
    ],
)
def test_weight_diff_is_relative_to_the_new_weights(before, after, expected):
    found = converged(
        "weight_diff",
        eps=0.5,
        losses=[1.0],
        before=np.array(before),
        after=np.array(after),
    )
    assert found is expected


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"method": "none"}, "converge_func"),
        ({"eps": -1.0}, "eps"),
        ({"losses": []}, "losses"),
        ({"after": np.ones(2)}, "length"),
    ],
)
def test_converged_refuses(change, field):
    with pytest.raises(ValueError, match=field):
        converged(
            **{
                "method": "diff",
                "eps": 0.1,
                "losses": [1.0],
                "before": np.ones(1),
                "after": np.ones(1),
                **change,
            }
        )


@pytest.mark.parametrize(
    ("penalty", "most_bytes"), [(None, 1e5), ("L1", 3e7), ("L2", 3e7)]
)
def test_the_penalty_of_a_large_model_takes_little_memory(
    penalty: str | None, most_bytes: float
) -> None:
    weights = np.random.default_rng(1).standard_normal(1_000_000)
    penalised = np.ones(weights.size, dtype=bool)
    tracemalloc.start()
    try:
        penalty_value(weights, penalty=penalty, alpha=0.1, penalised=penalised)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most_bytes
