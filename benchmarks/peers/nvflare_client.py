"""One hospital's training as NVIDIA FLARE runs it: one full-batch step from the joint
model a round, with FLARE's client API.

Arguments: the folder of the job, where `hospitals.json` says the job and the site's
table. Leaves in the folder when each round's model came, in seconds since the epoch.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import nvflare.client as flare

MODEL = "numpy_key"  # as FLARE's persistor of numpy models calls it


def main() -> None:
    """Steps until FLARE says that there is no round any more."""
    folder = Path(sys.argv[1])
    flare.init()
    number = int(flare.get_site_name().rpartition("-")[2]) - 1
    job = json.loads((folder / "hospitals.json").read_text())
    with np.load(job["tables"][number], allow_pickle=False) as table:
        X, y = table["X"], table["y"]
    came: list[float] = []
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        came.append(time.time())
        after = step(received.params[MODEL], X, y, job, t=received.current_round)
        if number == 0:
            (folder / "rounds.json").write_text(json.dumps(came))
        flare.send(
            flare.FLModel(
                params={MODEL: after}, meta={"NUM_STEPS_CURRENT_ROUND": len(y)}
            )
        )


def step(
    weights: np.ndarray, X: np.ndarray, y: np.ndarray, job: dict, *, t: int
) -> np.ndarray:
    """The weights after round `t`, from 0: w - rate / sqrt(1 + decay t) * gradient."""
    margins = X @ weights[:-1] + weights[-1]
    residuals = (1.0 / (1.0 + np.exp(-margins)) - y) / len(y)
    penalty = job["alpha"] * weights[:-1]
    gradient = np.append(residuals @ X + penalty, residuals.sum())
    rate = job["learning_rate"] / np.sqrt(1.0 + job["decay"] * t)
    return weights - rate * gradient


if __name__ == "__main__":
    main()
