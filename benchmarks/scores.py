"""The scores of a large round against one numpy matrix product of its size, and Sniper
on a hundred clients.

.venv/bin/python -m benchmarks.scores

A round of 100 clients with 1,000,000 float32 values each is written to a safetensors
file. Krum, FoolsGold, Auror, Sniper and PCA together, reading the file included, are
measured in turn with G @ G.T of the same values as float64, in memory; each figure is
the best of some repetitions, because other work on the machine only ever adds.
Identical clients take the slower way through QR and are shown beside it, without a
target.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from analytics.arrays import Floats
from analytics.scores import anomaly
from analytics.scores.geometry import triangular_factor
from benchmarks.clock import timed

N_CLIENTS, N_VALUES = 100, 1_000_000
BLOCK_COLUMNS = 2**14
REPETITIONS = 5
LARGEST_RATIO, SNIPER_SECONDS = 2.0, 5.0
SCORES: dict[str, Callable[[Floats], Floats]] = {
    "krum": lambda points: anomaly.krum(points, k=5),
    "foolsgold": lambda points: anomaly.foolsgold(points, k=5),
    "auror": lambda points: anomaly.auror(points, k=2),
    "sniper": lambda points: anomaly.sniper(points, p=0.8),
    "pca": lambda points: anomaly.pca(points, k=2),
}


def main() -> None:
    """Print times, ratios and whether the targets are met."""
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((N_CLIENTS, N_VALUES), dtype=np.float32)
    compare_with_product("Gaussian round", gradients, target=True)
    gradients[7] = gradients[3]
    compare_with_product("the same, two clients identical", gradients, target=False)
    for name, points in sniper_rounds(rng).items():
        time_sniper(name, points)


def compare_with_product(
    name: str, gradients: NDArray[np.float32], *, target: bool
) -> None:
    """All five scores from the file, one matrix product, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "round.safetensors"
        save_file(
            {f"gradient/{client}/dense": row for client, row in enumerate(gradients)},
            path,
        )
        exact = gradients.astype(np.float64)
        ours, product = fastest(lambda: read_and_score(path), lambda: exact @ exact.T)
    print(f"{name}: five scores {ours:.3f} s, one product {product:.3f} s")
    verdict = f"target {LARGEST_RATIO}, {'met' if ours <= LARGEST_RATIO * product else 'MISSED'}"
    print(f"  ratio {ours / product:.2f} ({verdict if target else 'no target'})")
    if target:
        time_each(triangular_factor([gradients], N_CLIENTS).T)


def time_each(points: Floats) -> None:
    for name, seconds in zip(
        SCORES,
        fastest(*(partial(score, points) for score in SCORES.values())),
        strict=True,
    ):
        print(f"  {name:12}{seconds * 1e3:8.1f} ms of it")


def read_and_score(path: Path) -> dict[str, Floats]:
    """One pass over the file, then every score from the triangular factor."""
    with safe_open(path, framework="numpy") as file:
        points = triangular_factor(lambda: blocks(file), N_CLIENTS).T
    return {name: score(points) for name, score in SCORES.items()}


def blocks(file: Any) -> Iterator[list[NDArray[Any]]]:
    slices = [file.get_slice(f"gradient/{client}/dense") for client in range(N_CLIENTS)]
    for start in range(0, N_VALUES, BLOCK_COLUMNS):
        yield [piece[start : min(start + BLOCK_COLUMNS, N_VALUES)] for piece in slices]


def sniper_rounds(rng: np.random.Generator) -> dict[str, Floats]:
    """Gaussian gradients of few and of many values, and clusters of clients with noise
    of some sizes.
    """
    gaussian = {
        f"Gaussian, {d} values": rng.normal(size=(N_CLIENTS, d))
        for d in (2, 10, 100, 3000)
    }
    centres = rng.normal(size=(5, 100))[np.arange(N_CLIENTS) % 5]
    clustered = {
        f"5 clusters, noise {s}": centres + s * rng.normal(size=(N_CLIENTS, 100))
        for s in (0.1, 0.5, 1.0)
    }
    halves = {
        "2 clusters, 60 and 40": 9.0 * (np.arange(N_CLIENTS) < 40)[:, None]
        + rng.normal(size=(N_CLIENTS, 100))
    }
    return {**gaussian, **clustered, **halves}


def time_sniper(name: str, points: Floats) -> None:
    (seconds,) = fastest(lambda: anomaly.sniper(points, p=0.8))
    verdict = "met" if seconds <= SNIPER_SECONDS else "MISSED"
    print(
        f"Sniper, 100 clients, p = 0.8, {name:22}{seconds * 1e3:8.1f} ms (target {SNIPER_SECONDS:.0f} s, {verdict})"
    )


def fastest(*actions: Callable[[], Any]) -> list[float]:
    """The seconds of each action, the best of REPETITIONS; the actions take turns, so
    that both see the same load.
    """
    seconds = [[timed(action)[0] for action in actions] for _ in range(REPETITIONS)]
    return [min(column) for column in zip(*seconds, strict=True)]


if __name__ == "__main__":
    main()
