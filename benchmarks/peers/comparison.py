"""`./run bench --peers`: one order here and the same training with Flower, side by
side, in one run.

All train the logistic regression of the demonstration: the same three tables, full
batch, one local step a round, plain gradient descent with the same rate, decay and
penalty. Every system is a process of its own, started afresh and measured from outside
in the same way; each answers JSON (read by `_measured`).

Flower runs in its own simulation engine: one server and its clients on one machine,
messages through memory, in plaintext. Consilium runs twice: in one process, messages
through memory too, and as a real federation with Prefect, agents, databases and HTTP.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analytics.arrays import Floats
from analytics.training.descent import Part, joint_loss
from analytics.training.models import Model
from benchmarks.hospitals import make_sites
from benchmarks.peers import environment
from benchmarks.peers.processes import Descendants
from deployments.demo.breast_cancer import breast_cancer_tables
from deployments.demo.training import document_order, pooled_weights
from deployments.processes import TIED
from protocol.errors import Unavailable

ROUNDS, FEATURES = 30, 30
METHODS = ("None", "Mask", "Paillier")
PLACES = {"one process": "one_process_order", "federation": "federation_order"}
"""Where Consilium runs, and the module that runs it; the hospitals' databases are there
before it starts, as files are before Flower does.
"""
FLOWER = "Flower, simulation engine"
SECONDS_ALLOWED = 1200.0
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
"""Where simulations keep their files, Flower's and ours: nothing of one has to outlive
it.
"""

TARGET_RATIO, TARGET_LOSS_DIFFERENCE = 4.0, 1e-6
SAW = {
    "Flower": "every hospital's model of every round, and the joint model",
    "None": "every hospital's gradient, from which it can compute the joint model",
    "Mask": "random numbers and row counts; lengths and angles of gradients where every policy allows it",
    "Paillier": "ciphertexts and row counts; lengths and angles of gradients where every policy allows it",
}


@dataclass(frozen=True)
class Measured:
    """One system: seconds, MiB, bytes for each hospital and round, and the final
    model's loss.

    `start` is from the command until it can take the order, `order` from there to the
    model, `again` the same order a second time, `round` one of its rounds once they
    run. A federation's messages are those of one process, where they are counted:
    `n_bytes` is None.
    """

    start: float
    order: float
    again: float
    round: float
    n_bytes: float | None
    peak_mib: float
    loss: float

    @property
    def whole(self) -> float:
        """Seconds from the command to the first model."""
        return self.start + self.order


def main(*, rounds: int = ROUNDS) -> None:
    """Installs Flower, measures every system, and prints the table, the ratios and
    whether the targets are met.

    Raises Unavailable when Flower cannot be installed or a system does not come to its
    end.
    """
    python = environment.install()
    body = _order("Paillier", rounds)
    parts = _parts(body)
    with (
        tempfile.TemporaryDirectory(dir=MEMORY) as memory,
        tempfile.TemporaryDirectory() as disk,
    ):
        systems = {FLOWER: _flower(python, Path(memory), body, parts)}
        for place, module in PLACES.items():
            for method in METHODS:
                home = Path(disk if place == "federation" else memory)
                system, folder = f"{method}, {place}", home / f"{module}-{method}"
                systems[system] = _consilium(
                    system, module, folder, _order(method, rounds), parts
                )
    pooled_loss = _loss(pooled_weights(body), body, parts)
    n_rows = sum(len(y) for _, y in parts)
    print(
        f"{rounds} rounds, {FEATURES + 1} coefficients, {len(parts)} hospitals, {n_rows} rows; pooled loss"
    )
    print(
        f"{pooled_loss:.9f}; the machine's load at the end {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    _print_table(systems)
    _print_ratios(systems)


def _order(method: str, rounds: int) -> dict[str, Any]:
    body = document_order(rounds=rounds, features=FEATURES, method=method)
    body["model_params"]["eps"] = 0.0  # every round is run
    return body


def _parts(body: Mapping[str, Any]) -> list[Part]:
    """The hospitals' rows, in the order of `data_info`."""
    tables = breast_cancer_tables()
    frames = [
        tables["guest" if "guest" in sql else "host"].sort_values("id")
        for sql in body["data_info"].values()
    ]
    return [
        (frame[body["attributes"]].to_numpy(), frame["y"].to_numpy(dtype=np.float64))
        for frame in frames
    ]


def _flower(
    python: Path, folder: Path, body: Mapping[str, Any], parts: Sequence[Part]
) -> Measured:
    tables = [folder / f"hospital-{number}.npz" for number in range(len(parts))]
    for path, (X, y) in zip(tables, parts, strict=True):
        np.savez(path, X=X, y=y)
    job = {
        "tables": [str(path) for path in tables],
        "folder": str(folder),
        **{
            name: body["model_params"][name]
            for name in ("max_iter", "learning_rate", "decay", "alpha")
        },
    }
    command = [str(python), str(Path(__file__).with_name("flower_app.py"))]
    began, peak_mib, answer = _run(FLOWER, command, environment.of_flower(folder), job)
    return _measured(answer, body, parts, began=began, peak_mib=peak_mib)


def _consilium(
    name: str, module: str, folder: Path, body: Mapping[str, Any], parts: Sequence[Part]
) -> Measured:
    if module == "one_process_order":
        folder.mkdir()
        make_sites(folder, len(parts))
    command = [sys.executable, "-m", f"benchmarks.peers.{module}"]
    began, peak_mib, answer = _run(
        f"Consilium, {name}", command, environment.of_consilium(folder), body
    )
    return _measured(answer, body, parts, began=began, peak_mib=peak_mib)


def _run(
    name: str,
    command: Sequence[str],
    variables: Mapping[str, str],
    job: Mapping[str, Any],
) -> tuple[float, float, dict[str, Any]]:
    """When the process began (seconds since the epoch), its peak memory in MiB, and
    what it answered.
    """
    print(f"{name} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryFile() as said, Descendants() as descendants:
        began = time.time()
        process = subprocess.Popen(
            [*TIED, str(os.getpid()), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=variables,
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            output, _ = process.communicate(
                json.dumps(job).encode(), timeout=SECONDS_ALLOWED
            )
            if process.returncode == 0:
                return began, descendants.peak_mib, json.loads(output.splitlines()[-1])
        said.seek(0)
        print(
            *said.read().decode(errors="replace").splitlines()[-20:],
            sep="\n",
            file=sys.stderr,
        )
    raise Unavailable(
        f"{name} did not come to its end.",
        remedy="The lines above are the last that it said.",
    )


def _measured(
    answer: Mapping[str, Any],
    body: Mapping[str, Any],
    parts: Sequence[Part],
    *,
    began: float,
    peak_mib: float,
) -> Measured:
    ends, n_rounds = answer["round_ends"], body["model_params"]["max_iter"]
    if len(ends) != n_rounds:
        raise Unavailable(
            f"{len(ends)} rounds ran instead of {n_rounds}.",
            remedy="Nothing was compared.",
        )
    return Measured(
        start=answer["submitted"] - began,
        order=answer["finished"] - answer["submitted"],
        again=answer["again"],
        round=(ends[-1] - ends[0]) / max(1, n_rounds - 1),
        n_bytes=answer["n_bytes"] / n_rounds / len(parts)
        if "n_bytes" in answer
        else None,
        peak_mib=peak_mib,
        loss=_loss(np.array(answer["weights"]), body, parts),
    )


def _loss(weights: Floats, body: Mapping[str, Any], parts: Sequence[Part]) -> float:
    """The joint loss of a final model, penalty included: one formula for every system."""
    params = body["model_params"]
    return joint_loss(
        Model("lr", FEATURES),
        weights,
        parts,
        penalty=params["penalty"],
        alpha=params["alpha"],
    )


def _print_table(systems: Mapping[str, Measured]) -> None:
    titles = (
        "start-up s",
        "order s",
        "again s",
        "whole s",
        "round s",
        "bytes/round",
        "MiB",
        "final loss",
        "- Flower",
    )
    widths = (11, 9, 9, 9, 9, 12, 8, 13, 10)
    print(
        f"{'':27}"
        + "".join(
            f"{title:>{width}}" for title, width in zip(titles, widths, strict=True)
        )
    )
    for name, m in systems.items():
        seconds = [f"{value:.2f}" for value in (m.start, m.order, m.again, m.whole)]
        difference = f"{m.loss - systems[FLOWER].loss:.1e}"
        n_bytes = "the same" if m.n_bytes is None else f"{m.n_bytes:,.0f}"
        cells = [
            *seconds,
            f"{m.round:.3f}",
            n_bytes,
            f"{m.peak_mib:,.0f}",
            f"{m.loss:.9f}",
            difference,
        ]
        print(
            f"{name:27}"
            + "".join(
                f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)
            )
        )
    print(
        "order: from submission to the model; whole: from command to the model; bytes/round: for each hospital,"
    )
    print(
        "messages both ways without their transport; MiB: resident sets of all processes added up, at the peak"
    )
    print("what the server sees:")
    for name, words in SAW.items():
        print(f"  {name:10}{words}")


def _print_ratios(systems: Mapping[str, Measured]) -> None:
    print("Flower's seconds divided by Consilium's (above 1: Consilium is faster)")
    print(f"{'':27}{'whole':>9}{'order':>9}{'again':>9}{'round':>9}")
    ratios = {
        name: _ratios(systems[FLOWER], m)
        for name, m in systems.items()
        if name != FLOWER
    }
    for name, row in ratios.items():
        print(f"{name:27}" + "".join(f"{ratio:9.2f}" for ratio in row.values()))
    for place in PLACES:
        verdicts = (
            f"{what} {_verdict(r >= TARGET_RATIO)}"
            for what, r in ratios[f"Paillier, {place}"].items()
        )
        print(
            f"at least {TARGET_RATIO:g} times faster than Flower while encrypted, {place}: {', '.join(verdicts)}"
        )
    worst = max(abs(m.loss - systems[FLOWER].loss) for m in systems.values())
    is_met = worst <= TARGET_LOSS_DIFFERENCE
    print(
        f"final losses within {TARGET_LOSS_DIFFERENCE:g} of Flower's: {worst:.1e}, {_verdict(is_met)}"
    )


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def _ratios(flower: Measured, own: Measured) -> dict[str, float]:
    return {
        name: getattr(flower, name) / getattr(own, name)
        for name in ("whole", "order", "again", "round")
    }
