"""`./run bench --peers`: one order here and the same training with Flower and NVIDIA
FLARE, side by side, in one run.

All train the logistic regression of the demonstration: the same three tables, full
batch, one local step a round, plain gradient descent with the same rate, decay and
penalty. Every system is a process of its own, started afresh and measured from outside
in the same way; each answers JSON (read by `_measured`).

Simulations run on one machine without a network: Flower's, FLARE's, and Consilium in
one process. Beside them the three as they are deployed, their server and hospitals as
processes: Flower's SuperLink and SuperNodes, FLARE's proof of concept, and Consilium
with Prefect, agents, databases and HTTP. A peer that does not come to its end is named
with the reason, and the others are compared.
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
from benchmarks.peers.table import (
    FLARE,
    FLARE_DEPLOYED,
    FLOWER,
    FLOWER_DEPLOYED,
    Measured,
    print_ratios,
    print_table,
    print_targets,
)
from deployments.demo.breast_cancer import breast_cancer_tables
from deployments.demo.training import document_order, pooled_weights
from deployments.processes import TIED
from protocol.errors import Unavailable

ROUNDS, FEATURES = 30, 30


@dataclass(frozen=True)
class Peer:
    """One way to run a framework: its environment, and the script and its arguments."""

    name: str
    folder: str
    environment: environment.Peer
    script: tuple[str, ...]
    is_deployed: bool


PEERS = (
    Peer(FLOWER, "flower", environment.FLOWER, ("flower_app.py",), False),
    Peer(FLARE, "flare", environment.FLARE, ("nvflare_job.py", "simulator"), False),
    Peer(
        FLOWER_DEPLOYED,
        "flower-deployed",
        environment.FLOWER,
        ("flower_federation.py",),
        True,
    ),
    Peer(FLARE_DEPLOYED, "poc", environment.FLARE, ("nvflare_job.py", "poc"), True),
)
METHODS = ("None", "Mask", "Paillier")
PLACES = {"one process": "one_process_order", "federation": "federation_order"}
"""Where Consilium runs, and the module that runs it; the hospitals' databases are there
before it starts, as the peers' files are.
"""
SECONDS_ALLOWED = 1200.0
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
"""Where simulations keep their files, the peers' and ours: nothing of one has to outlive
it.
"""


def main(*, rounds: int = ROUNDS) -> None:
    """Installs the peers, measures every system, and prints the table, the ratios and
    whether the targets are met.

    Raises Unavailable when nothing of Consilium comes to its end.
    """
    body = _order("Paillier", rounds)
    parts = _parts(body)
    systems: dict[str, Measured] = {}
    with (
        tempfile.TemporaryDirectory(dir=MEMORY) as memory,
        tempfile.TemporaryDirectory() as disk,
    ):
        # First: what fails here is said before the peers take a quarter of an hour.
        for place, module in PLACES.items():
            for method in METHODS:
                home = Path(disk if place == "federation" else memory)
                system, folder = f"{method}, {place}", home / f"{module}-{method}"
                systems[system] = _consilium(
                    system, module, folder, _order(method, rounds), parts
                )
        for peer in PEERS:
            home = Path(disk if peer.is_deployed else memory)
            try:
                systems[peer.name] = _peer(peer, home / peer.folder, body, parts)
            except Unavailable as error:
                print(f"{peer.name}: not measured. {error}", flush=True)
    pooled_loss = _loss(pooled_weights(body), body, parts)
    n_rows = sum(len(y) for _, y in parts)
    print(
        f"{rounds} rounds, {FEATURES + 1} coefficients, {len(parts)} hospitals, {n_rows} rows; pooled loss"
    )
    print(
        f"{pooled_loss:.9f}; the machine's load at the end {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    print_table(systems, pooled_loss)
    print_ratios(systems)
    print_targets(systems, pooled_loss)


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


def _peer(
    peer: Peer, folder: Path, body: Mapping[str, Any], parts: Sequence[Part]
) -> Measured:
    python = environment.install(peer.environment)
    folder.mkdir()
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
    script, *arguments = peer.script
    command = [str(python), str(Path(__file__).with_name(script)), *arguments]
    began, peak_mib, answer = _run(peer.name, command, environment.of_peer(folder), job)
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
                seconds = time.time() - began
                print(f"{name}: {seconds:.0f} s", file=sys.stderr, flush=True)
                # The last line: a library may have printed before it.
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
        first=answer.get("first_end", ends[0]) - began,
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
