"""Which score sees which attack: the table of docs/scores.md.

.venv/bin/python -m benchmarks.attacks

Ten hospitals train softmax regression on scikit-learn's digits; in the sixth round
three of them (one for "one big") attack. A score sees an attack where no honest
hospital has a higher score than any attacker, and not all have the same. The figures
are the per cent of trials in which that is so, over the same seeds each time: once with
rows dealt evenly, once unevenly by class (a Dirichlet draw of concentration 1 for each
class, as in Hsu et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from analytics.arrays import Floats, Ints
from analytics.scores import anomaly
from analytics.training.gradients import local_gradient, local_loss
from analytics.training.initial_weights import initial_weights
from analytics.training.models import Model

N_HOSPITALS = 10
N_ATTACKERS = 3
N_TRIALS = 200
ROUND = 5
LEARNING_RATE = 0.5
LEAST_ROWS = 20
CONCENTRATION = {
    "evenly": np.inf,
    "unevenly by class": 1.0,
}
MODEL = Model(
    "softmax",
    64,
    classes=tuple(range(10)),
)


@dataclass(frozen=True)
class Attacked:
    """Gradients (n, d) of a round and of the one before, and the losses (n,) that the
    hospitals report for both.
    """

    points: Floats
    before: Floats
    loss: Floats
    loss_before: Floats


SCORES: dict[str, Callable[[Attacked], Floats]] = {
    "krum k=2": lambda a: anomaly.krum(a.points, k=2),
    "krum k=5": lambda a: anomaly.krum(a.points, k=5),
    "foolsgold k=2": lambda a: anomaly.foolsgold(a.points, k=2),
    "foolsgold k=5": lambda a: anomaly.foolsgold(a.points, k=5),
    "zeno p=1": lambda a: anomaly.zeno(
        a.loss_before,
        a.loss,
        _moved(a),
        p=1,
    ),
    "auror k=1": lambda a: anomaly.auror(a.points, k=1),
    "auror k=2": lambda a: anomaly.auror(a.points, k=2),
    "auror k=4": lambda a: anomaly.auror(a.points, k=4),
    "sniper p=0.7": lambda a: anomaly.sniper(a.points, p=0.7),
    "sniper p=0.8": lambda a: anomaly.sniper(a.points, p=0.8),
    "pca k=1": lambda a: anomaly.pca(a.points, k=1),
    "pca k=3": lambda a: anomaly.pca(a.points, k=3),
    "true_krum f=3": lambda a: anomaly.true_krum(a.points, n_attackers=3),
    "multi_krum f=3": lambda a: anomaly.multi_krum(a.points, n_attackers=3),
    "geometric_median": lambda a: anomaly.geometric_median_distance(a.points),
    "foolsgold_weight": lambda a: anomaly.foolsgold_weight(a.points),
}


def _moved(round_: Attacked) -> Floats:
    """How far each hospital's gradient is from its last one."""
    changes = round_.points - round_.before
    return np.asarray(np.linalg.norm(changes, axis=1))


def sign_flip(honest: Floats, rng: np.random.Generator) -> Floats:
    return -honest[:N_ATTACKERS]


def scaling(honest: Floats, rng: np.random.Generator) -> Floats:
    return 10 * honest[:N_ATTACKERS]


def noise(honest: Floats, rng: np.random.Generator) -> Floats:
    """Gaussian noise of the honest gradients' mean length."""
    replaced = honest[:N_ATTACKERS]
    drawn = rng.normal(size=replaced.shape)
    return _of_length(drawn, _mean_length(honest))


def one_big(honest: Floats, rng: np.random.Generator) -> Floats:
    """One hospital, a random direction, a thousand times the honest gradients' mean
    length.
    """
    return 1000 * noise(honest, rng)[:1]


def identical_sybils(honest: Floats, rng: np.random.Generator) -> Floats:
    """All attackers send the honest gradients' mean, reversed, at a single one's
    length.
    """
    mean = honest.mean(axis=0, keepdims=True)
    sent = _of_length(-mean, _mean_length(honest))
    return np.repeat(sent, N_ATTACKERS, axis=0)


ATTACKS = {
    "sign flip": sign_flip,
    "scaling": scaling,
    "noise": noise,
    "one big": one_big,
    "identical sybils": identical_sybils,
    "label flip": None,  # in the rows: a 0 is called a 9, a 1 an 8, and so on
}


def _mean_length(vectors: Floats) -> Any:
    lengths = np.linalg.norm(vectors, axis=1)
    return lengths.mean()


def _of_length(vectors: Floats, length: float) -> Floats:
    lengths = np.linalg.norm(
        vectors,
        axis=1,
        keepdims=True,
    )
    factors = length / lengths
    return np.asarray(vectors * factors)


def main() -> None:
    """Print one table for each way of dealing the rows."""
    for dealt, concentration in CONCENTRATION.items():
        print(
            f"rows dealt {dealt}, {N_TRIALS} trials, per cent in which all attackers are on top\n"
        )
        trials = []
        for seed in range(N_TRIALS):
            trials.append(seen_in_trial(concentration, seed))
        heads = " | ".join(ATTACKS)
        rule = "--:|" * len(ATTACKS)
        print(f"| score | {heads} |")
        print(f"|---|{rule}")
        for score in SCORES:
            cells = []
            for attack in ATTACKS:
                are_seen = [seen[attack, score] for seen in trials]
                percent = 100 * np.mean(are_seen)
                cells.append(f"{percent:.0f}")
            line = " | ".join(cells)
            print(f"| {score} | {line} |")
        print()


def seen_in_trial(
    concentration: float,
    seed: int,
) -> dict[tuple[str, str], bool]:
    """Whether (attack, score) is seen; the model was trained by all hospitals while
    they were still honest.
    """
    rng = np.random.default_rng(seed)
    tables = dealt_tables(concentration, rng)
    weights = trained(tables, ROUND - 1)
    rounds = {}
    for attack in ATTACKS:
        rounds[attack] = attacked_round(
            attack,
            # A copy: the label flip changes it, and the next attack needs honest rows.
            list(tables),
            weights,
            rng,
        )
    seen = {}
    for attack, round_ in rounds.items():
        n_attackers = N_ATTACKERS
        if attack == "one big":
            n_attackers = 1
        for name, score in SCORES.items():
            seen[attack, name] = on_top(score(round_), n_attackers)
    return seen


def on_top(score: Floats, n_attackers: int) -> bool:
    """Whether the first ones, the attackers, have the highest scores; differences of
    rounding are none.
    """
    lowest = score[:n_attackers].min()
    honest = score[n_attackers:]
    is_highest = lowest > honest.max() - 1e-12
    is_above_one = lowest > honest.min() + 1e-12
    return bool(is_highest and is_above_one)


def attacked_round(
    attack: str,
    tables: list[tuple[Floats, Ints]],
    weights: Floats,
    rng: np.random.Generator,
) -> Attacked:
    """Two rounds in which the first hospitals attack; what they send does not reach the
    model.
    """
    if attack == "label flip":
        for attacker in range(N_ATTACKERS):
            X, y = tables[attacker]
            tables[attacker] = (X, 9 - y)
    points = []
    losses = []
    for _ in range(2):
        honest = gradients(tables, weights)
        forge = ATTACKS[attack]
        forged = honest[:0]
        if forge is not None:
            forged = forge(honest, rng)
        sent = honest[len(forged) :]
        received = np.vstack([forged, sent])
        points.append(received)
        losses.append(losses_of(tables, weights))
        step = LEARNING_RATE * honest.mean(axis=0)
        weights = weights - step
    return Attacked(
        points=points[1],
        before=points[0],
        loss=losses[1],
        loss_before=losses[0],
    )


def dealt_tables(
    concentration: float, rng: np.random.Generator
) -> list[tuple[Floats, Ints]]:
    """Ten tables of digits, X in [0, 1]; drawn again until each has LEAST_ROWS rows."""
    X, y = load_digits(return_X_y=True)
    while True:
        hospital = np.empty(
            len(y),
            dtype=np.int64,
        )
        for digit in range(10):
            is_digit = y == digit
            if np.isinf(concentration):
                shares = np.full(N_HOSPITALS, 1 / N_HOSPITALS)
            else:
                concentrations = np.full(N_HOSPITALS, concentration)
                shares = rng.dirichlet(concentrations)
            hospital[is_digit] = rng.choice(
                N_HOSPITALS,
                size=is_digit.sum(),
                p=shares,
            )
        n_rows = np.bincount(hospital, minlength=N_HOSPITALS)
        if n_rows.min() < LEAST_ROWS:
            continue
        tables = []
        for number in range(N_HOSPITALS):
            is_own = hospital == number
            own = X[is_own] / 16
            tables.append((own, y[is_own]))
        return tables


def trained(
    tables: list[tuple[Floats, Ints]],
    n_rounds: int,
) -> Floats:
    weights = initial_weights(
        MODEL,
        method="zeros",
        const=0.0,
        seed=0,
    )
    for _ in range(n_rounds):
        mean = gradients(tables, weights).mean(axis=0)
        weights = weights - LEARNING_RATE * mean
    return weights


def gradients(
    tables: list[tuple[Floats, Ints]],
    weights: Floats,
) -> Floats:
    sent = []
    for X, y in tables:
        gradient = local_gradient(
            MODEL,
            weights,
            X,
            y,
            batch_size=-1,
            learning_rate=LEARNING_RATE,
        )
        sent.append(gradient)
    return np.array(sent)


def losses_of(
    tables: list[tuple[Floats, Ints]],
    weights: Floats,
) -> Floats:
    losses = []
    for X, y in tables:
        loss = local_loss(
            MODEL,
            weights,
            X,
            y,
        )
        losses.append(loss)
    return np.array(losses)


if __name__ == "__main__":
    main()
