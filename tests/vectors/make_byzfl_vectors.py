"""Writes byzfl_vectors.json: what byzfl's aggregators answer. It needs PyTorch, so an
environment of its own.

python3 -m venv /tmp/byzfl /tmp/byzfl/bin/pip install byzfl==0.0.11 torch
/tmp/byzfl/bin/python tests/vectors/make_byzfl_vectors.py
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PATH = Path(__file__).with_name("byzfl_vectors.json")
CASES = [(5, 1, 3), (7, 2, 4), (10, 3, 6), (11, 4, 2), (12, 2, 9)]  # n, f, d
# Weiszfeld's steps converge slowly: so many that further ones move the fourteenth
# digit.
MEDIAN_STEPS, MEDIAN_FLOOR = 50_000, 1e-12


def round_of(n: int, f: int, d: int) -> NDArray[np.float64]:
    """Honest vectors around one direction and f attackers: the first two reversed and
    scaled, the others far noise.
    """
    rng = np.random.default_rng(n)
    vectors = rng.normal(size=d) + 0.3 * rng.normal(size=(n, d))
    vectors[:f] = -4 * vectors[:f]
    vectors[2:f] = 10 * rng.normal(size=(max(f - 2, 0), d))
    return rng.permutation(vectors).round(6)


def answers(byzfl: Any, vectors: NDArray[np.float64], f: int) -> dict[str, list[float]]:
    aggregators = {
        "krum": byzfl.Krum(f),
        "multi_krum": byzfl.MultiKrum(f),
        "minimum_diameter": byzfl.MDA(f),
        "geometric_median": byzfl.GeometricMedian(nu=MEDIAN_FLOOR, T=MEDIAN_STEPS),
        "median": byzfl.Median(),
        "trimmed_mean": byzfl.TrMean(f),
    }
    return {
        name: np.asarray(rule(vectors.copy())).tolist()
        for name, rule in aggregators.items()
    }


def main() -> None:
    byzfl = importlib.import_module("byzfl")
    cases = [(f, round_of(n, f, d)) for n, f, d in CASES]
    content = {
        "byzfl": importlib.metadata.version("byzfl"),
        "cases": [
            {"f": f, "vectors": v.tolist(), "answers": answers(byzfl, v, f)}
            for f, v in cases
        ],
    }
    PATH.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
