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

import math
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

N_CLIENTS = 100
N_VALUES = 1_000_000
BLOCK_COLUMNS = 2**14
REPETITIONS = 5
LARGEST_RATIO = 2.0
SNIPER_SECONDS = 5.0
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
    shape = (N_CLIENTS, N_VALUES)
    gradients = rng.standard_normal(
        shape,
        dtype=np.float32,
    )
    compare_with_product("Gaussian round", gradients, target=True)
    gradients[7] = gradients[3]
    compare_with_product("the same, two clients identical", gradients, target=False)
    rounds = sniper_rounds(rng)
    for name, points in rounds.items():
        time_sniper(name, points)


def compare_with_product(
    name: str,
    gradients: NDArray[np.float32],
    *,
    target: bool,
) -> None:
    """All five scores from the file, one matrix product, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "round.safetensors"
        tensors = {}
        for client, row in enumerate(gradients):
            tensors[tensor_name(client)] = row
        save_file(tensors, path)
        exact = gradients.astype(np.float64)
        ours, product = fastest(
            lambda: read_and_score(path),
            lambda: exact @ exact.T,
        )
    print(f"{name}: five scores {ours:.3f} s, one product {product:.3f} s")
    verdict = "no target"
    if target:
        is_met = ours <= LARGEST_RATIO * product
        judged = "met" if is_met else "MISSED"
        verdict = f"target {LARGEST_RATIO}, {judged}"
    ratio = ours / product
    print(f"  ratio {ratio:.2f} ({verdict})")
    if target:
        factor = triangular_factor([gradients], N_CLIENTS)
        time_each(factor.T)


def tensor_name(client: int) -> str:
    """In the file."""
    return f"gradient/{client}/dense"


def time_each(points: Floats) -> None:
    actions = [partial(score, points) for score in SCORES.values()]
    best = fastest(*actions)
    for name, seconds in zip(SCORES, best, strict=True):
        milliseconds = seconds * 1e3
        print(f"  {name:12}{milliseconds:8.1f} ms of it")


def read_and_score(path: Path) -> dict[str, Floats]:
    """One pass over the file, then every score from the triangular factor."""
    with safe_open(path, framework="numpy") as file:
        factor = triangular_factor(lambda: blocks(file), N_CLIENTS)
    points = factor.T
    found = {}
    for name, score in SCORES.items():
        found[name] = score(points)
    return found


def blocks(file: Any) -> Iterator[list[NDArray[Any]]]:
    slices = []
    for client in range(N_CLIENTS):
        piece = file.get_slice(tensor_name(client))
        slices.append(piece)
    for start in range(0, N_VALUES, BLOCK_COLUMNS):
        end = min(start + BLOCK_COLUMNS, N_VALUES)
        yield [piece[start:end] for piece in slices]


def sniper_rounds(rng: np.random.Generator) -> dict[str, Floats]:
    """Gaussian gradients of few and of many values, and clusters of clients with noise
    of some sizes.
    """
    rounds = {}
    for n_values in (2, 10, 100, 3000):
        name = f"Gaussian, {n_values} values"
        rounds[name] = rng.normal(size=(N_CLIENTS, n_values))
    clients = np.arange(N_CLIENTS)
    centres = rng.normal(size=(5, 100))
    centre_of_each = centres[clients % 5]
    for size in (0.1, 0.5, 1.0):
        noise = rng.normal(size=(N_CLIENTS, 100))
        name = f"5 clusters, noise {size}"
        rounds[name] = centre_of_each + size * noise
    is_away = clients < 40
    shifts = 9.0 * is_away[:, None]
    noise = rng.normal(size=(N_CLIENTS, 100))
    rounds["2 clusters, 60 and 40"] = shifts + noise
    return rounds


def time_sniper(name: str, points: Floats) -> None:
    (seconds,) = fastest(lambda: anomaly.sniper(points, p=0.8))
    verdict = "met" if seconds <= SNIPER_SECONDS else "MISSED"
    milliseconds = seconds * 1e3
    print(
        f"Sniper, 100 clients, p = 0.8, {name:22}{milliseconds:8.1f} ms (target {SNIPER_SECONDS:.0f} s, {verdict})"
    )


def fastest(*actions: Callable[[], Any]) -> list[float]:
    """The seconds of each action, the best of REPETITIONS; the actions take turns, so
    that both see the same load.
    """
    best = [math.inf] * len(actions)
    for _ in range(REPETITIONS):
        for number, action in enumerate(actions):
            seconds = timed(action)[0]
            best[number] = min(best[number], seconds)
    return best


if __name__ == "__main__":
    main()
