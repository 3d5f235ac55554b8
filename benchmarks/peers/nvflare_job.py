"""The same training with NVIDIA FLARE, twice: the job on stdin, what came of it as JSON
on stdout.

Runs in the environment of nvflare.txt, with nothing of Consilium, as FLARE's recipe of
FedAvg over numpy models. `simulator` is its simulation; `poc` its proof of concept: a
server and three clients as processes with the certificates that it makes for them, the
job sent with its admin's session. A round is timed where its model arrives at the first
hospital: FLARE's server runs no class of a job that is not on its list.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.app_common.np.recipes import NumpyFedAvgRecipe
from nvflare.fuel.flare_api.flare_api import new_secure_session
from nvflare.recipe import SimEnv
from relay import Relay, free_port  # beside this script; nothing else of ours is here

Job = dict[str, Any]
ADMIN = "admin@nvidia.com"
START_SECONDS = 120.0
BUILDERS = ("workspace.WorkspaceBuilder", "static_file.StaticFileBuilder")
SIGNERS = ("cert.CertBuilder", "signature.SignatureBuilder")


def main() -> None:
    """Runs the job in the mode that the only argument names, and answers."""
    job = json.load(sys.stdin)
    run = {"simulator": _simulate, "poc": _prove}[sys.argv[1]]
    # What FLARE prints must not stand before the answer.
    with contextlib.redirect_stdout(sys.stderr):
        answer = run(job)
    print(json.dumps(answer), flush=True)


def _recipe(job: Job, name: str) -> tuple[NumpyFedAvgRecipe, Path]:
    """The recipe, and the folder where the first hospital says when its models came."""
    folder = Path(job["folder"]) / name
    folder.mkdir()
    (folder / "hospitals.json").write_text(json.dumps(job))
    with np.load(job["tables"][0], allow_pickle=False) as table:
        start = np.zeros(table["X"].shape[1] + 1)
    recipe = NumpyFedAvgRecipe(
        name=name,
        model=start.tolist(),
        min_clients=len(job["tables"]),
        num_rounds=job["max_iter"],
        train_script=str(Path(__file__).with_name("nvflare_client.py")),
        train_args=str(folder),
    )
    return recipe, folder


def _answer(folder: Path, result: Path, **known: float) -> dict[str, Any]:
    marks = json.loads((folder / "rounds.json").read_text())
    (path,) = result.rglob("server.npy")
    return {
        **known,
        "round_ends": marks,
        "first_end": marks[min(1, len(marks) - 1)],
        "weights": np.load(path, allow_pickle=False).tolist(),
    }


def _simulate(job: Job) -> dict[str, Any]:
    """Each simulation starts everything anew: the second is `again`."""
    submitted = time.time()
    ended = []
    folders = []
    for name in ("first", "second"):
        recipe, folder = _recipe(job, name)
        root = Path(job["folder"]) / "simulator"
        env = SimEnv(num_clients=len(job["tables"]), workspace_root=str(root))
        recipe.execute(env)
        ended.append(time.time())
        folders.append(folder)
    return _answer(
        folders[0],
        root / "first",
        submitted=submitted,
        finished=ended[0],
        again=ended[1] - ended[0],
    )


def _prove(job: Job) -> dict[str, Any]:
    port = free_port()
    workspace = Path(os.environ["NVFLARE_POC_WORKSPACE"])
    project = Path(job["folder"]) / "project.yml"
    project.write_text(json.dumps(_project(len(job["tables"]), port)))  # JSON is YAML
    _nvflare("prepare", "-i", str(project), "--force")
    (kits,) = workspace.glob("*/prod_00")
    with Relay(port) as relay:
        _point_clients_to(relay.port, kits, port)
        try:
            _nvflare("start", "--no-wait")  # its own wait gives a connection 1 s
            _wait_for_all(kits / ADMIN, len(job["tables"]))
            return _order_twice(job, kits / ADMIN, relay)
        finally:
            _nvflare("stop", check=False)


def _wait_for_all(kit: Path, n_hospitals: int) -> None:
    """Until every client has registered at the server; FLARE has no event of it."""
    session = new_secure_session(ADMIN, str(kit), timeout=START_SECONDS)
    deadline = time.monotonic() + START_SECONDS
    try:
        while len(session.get_system_info().client_info) < n_hospitals:
            if time.monotonic() > deadline:
                raise SystemExit(f"Not all of {n_hospitals} clients registered.")
            time.sleep(0.2)
    finally:
        session.close()


def _order_twice(job: Job, kit: Path, relay: Relay) -> dict[str, Any]:
    submitted, before = time.time(), relay.n_bytes
    folder, result = _order(job, kit, "first")
    finished = time.time()
    n_bytes = relay.n_bytes - before
    _order(job, kit, "second")
    again = time.time() - finished
    answer = _answer(
        folder, result, submitted=submitted, finished=finished, again=again
    )
    return {**answer, "n_bytes": n_bytes}


def _order(job: Job, kit: Path, name: str) -> tuple[Path, Path]:
    recipe, folder = _recipe(job, name)
    recipe.export(str(folder / "job"))
    session = new_secure_session(ADMIN, str(kit), timeout=START_SECONDS)
    try:
        number = session.submit_job(str(folder / "job" / name))
        session.monitor_job(number, poll_interval=0.1)
        return folder, Path(session.download_job_result(number))
    finally:
        session.close()


def _project(n_hospitals: int, port: int) -> dict[str, Any]:
    """FLARE's own sample project, with this many clients and another port."""
    server = {"name": "server", "type": "server", "org": "nvidia"}
    admin = {"name": ADMIN, "type": "admin", "org": "nvidia", "role": "project_admin"}
    clients = [
        {"name": f"site-{number}", "type": "client", "org": "nvidia"}
        for number in range(1, n_hospitals + 1)
    ]
    builders: list[dict[str, Any]] = [
        {"path": f"nvflare.lighter.impl.{name}", "args": {}}
        for name in (*BUILDERS, *SIGNERS)
    ]
    builders[0]["args"]["template_file"] = ["master_template.yml"]
    builders[1]["args"]["config_folder"] = "config"
    return {
        "api_version": 3,
        "name": "benchmark",
        "participants": [{**server, "fed_learn_port": port}, *clients, admin],
        "builders": builders,
    }


def _point_clients_to(relay: int, kits: Path, port: int) -> None:
    """A client's kit names the relay in place of the server's port."""
    for path in kits.glob("site-*/startup/fed_client.json"):
        text = path.read_text()
        changed = text.replace(f":{port}", f":{relay}")
        if changed == text:
            raise SystemExit(f"{path.name} names no port {port}.")
        path.write_text(changed)


def _nvflare(*words: str, check: bool = True) -> None:
    program = Path(sys.executable).with_name("nvflare")
    subprocess.run(
        [program, "poc", *words], check=check, stdin=subprocess.DEVNULL, stdout=2
    )


if __name__ == "__main__":
    main()
