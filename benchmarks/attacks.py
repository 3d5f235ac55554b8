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

import numpy as np
from sklearn.datasets import load_digits

from analytics.arrays import Floats, Ints
from analytics.scores import anomaly
from analytics.training.models import Model, initial_weights, local_gradient, local_loss

N_HOSPITALS, N_ATTACKERS, N_TRIALS = 10, 3, 200
ROUND, LEARNING_RATE, LEAST_ROWS = 5, 0.5, 20
CONCENTRATION = {"evenly": np.inf, "unevenly by class": 1.0}
MODEL = Model("softmax", 64, classes=tuple(range(10)))


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
        a.loss_before, a.loss, np.linalg.norm(a.points - a.before, axis=1), p=1
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


def sign_flip(honest: Floats, rng: np.random.Generator) -> Floats:
    return -honest[:N_ATTACKERS]


def scaling(honest: Floats, rng: np.random.Generator) -> Floats:
    return 10 * honest[:N_ATTACKERS]


def noise(honest: Floats, rng: np.random.Generator) -> Floats:
    """Gaussian noise of the honest gradients' mean length."""
    return _of_length(
        rng.normal(size=honest[:N_ATTACKERS].shape),
        np.linalg.norm(honest, axis=1).mean(),
    )


def one_big(honest: Floats, rng: np.random.Generator) -> Floats:
    """One hospital, a random direction, a thousand times the honest gradients' mean
    length.
    """
    return 1000 * noise(honest, rng)[:1]


def identical_sybils(honest: Floats, rng: np.random.Generator) -> Floats:
    """All attackers send the honest gradients' mean, reversed, at a single one's
    length.
    """
    mean = -honest.mean(axis=0, keepdims=True)
    return np.repeat(
        _of_length(mean, np.linalg.norm(honest, axis=1).mean()), N_ATTACKERS, axis=0
    )


ATTACKS = {
    "sign flip": sign_flip,
    "scaling": scaling,
    "noise": noise,
    "one big": one_big,
    "identical sybils": identical_sybils,
    "label flip": None,  # in the rows: a 0 is called a 9, a 1 an 8, and so on
}


def _of_length(vectors: Floats, length: float) -> Floats:
    return np.asarray(
        vectors * (length / np.linalg.norm(vectors, axis=1, keepdims=True))
    )


def main() -> None:
    """Print one table for each way of dealing the rows."""
    for dealt, concentration in CONCENTRATION.items():
        print(
            f"rows dealt {dealt}, {N_TRIALS} trials, per cent in which all attackers are on top\n"
        )
        trials = [seen_in_trial(concentration, seed) for seed in range(N_TRIALS)]
        print(f"| score | {' | '.join(ATTACKS)} |")
        print("|---|" + "--:|" * len(ATTACKS))
        for score in SCORES:
            shares = [
                np.mean([seen[attack, score] for seen in trials]) for attack in ATTACKS
            ]
            print(
                f"| {score} | "
                + " | ".join(f"{100 * share:.0f}" for share in shares)
                + " |"
            )
        print()


def seen_in_trial(concentration: float, seed: int) -> dict[tuple[str, str], bool]:
    """Whether (attack, score) is seen; the model was trained by all hospitals while
    they were still honest.
    """
    rng = np.random.default_rng(seed)
    tables = dealt_tables(concentration, rng)
    weights = trained(tables, ROUND - 1)
    rounds = {
        attack: attacked_round(attack, list(tables), weights, rng) for attack in ATTACKS
    }
    return {
        (attack, name): on_top(
            score(rounds[attack]), 1 if attack == "one big" else N_ATTACKERS
        )
        for attack in ATTACKS
        for name, score in SCORES.items()
    }


def on_top(score: Floats, n_attackers: int) -> bool:
    """Whether the first ones, the attackers, have the highest scores; differences of
    rounding are none.
    """
    lowest, honest = score[:n_attackers].min(), score[n_attackers:]
    return bool(lowest > honest.max() - 1e-12 and lowest > honest.min() + 1e-12)


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
        tables[:N_ATTACKERS] = [(X, 9 - y) for X, y in tables[:N_ATTACKERS]]
    rounds = []
    for _ in range(2):
        honest = gradients(tables, weights)
        forge = ATTACKS[attack]
        forged = honest[:0] if forge is None else forge(honest, rng)
        losses = np.array([local_loss(MODEL, weights, X, y) for X, y in tables])
        rounds.append((np.vstack([forged, honest[len(forged) :]]), losses))
        weights = weights - LEARNING_RATE * honest.mean(axis=0)
    (before, loss_before), (points, loss) = rounds
    return Attacked(points, before, loss, loss_before)


def dealt_tables(
    concentration: float, rng: np.random.Generator
) -> list[tuple[Floats, Ints]]:
    """Ten tables of digits, X in [0, 1]; drawn again until each has LEAST_ROWS rows."""
    X, y = load_digits(return_X_y=True)
    while True:
        hospital = np.empty(len(y), dtype=np.int64)
        for digit in range(10):
            even = np.full(N_HOSPITALS, 1 / N_HOSPITALS)
            shares = (
                even
                if np.isinf(concentration)
                else rng.dirichlet(np.full(N_HOSPITALS, concentration))
            )
            hospital[y == digit] = rng.choice(
                N_HOSPITALS, size=(y == digit).sum(), p=shares
            )
        if np.bincount(hospital, minlength=N_HOSPITALS).min() >= LEAST_ROWS:
            return [
                (X[hospital == i] / 16, y[hospital == i]) for i in range(N_HOSPITALS)
            ]


def trained(tables: list[tuple[Floats, Ints]], n_rounds: int) -> Floats:
    weights = initial_weights(MODEL, method="zeros", const=0.0, seed=0)
    for _ in range(n_rounds):
        weights = weights - LEARNING_RATE * gradients(tables, weights).mean(axis=0)
    return weights


def gradients(tables: list[tuple[Floats, Ints]], weights: Floats) -> Floats:
    return np.array(
        [
            local_gradient(
                MODEL, weights, X, y, batch_size=-1, learning_rate=LEARNING_RATE
            )
            for X, y in tables
        ]
    )


if __name__ == "__main__":
    main()
