"""An order of many recorded rounds over REST: seconds for each PUT and score, for
listings, and bytes on disk.

    ./run bench rounds            20 rounds of 35 clients with 50,000 float32 values each
    ./run bench rounds --full     500 rounds

The API runs as it does in production, in a process of its own, with SQLite on a real
disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from safetensors.numpy import save

from api.settings import load_settings
from api.store import Store
from deployments.local.federation import choose_ports

N_ROUNDS, N_FULL = 20, 500
N_CLIENTS, N_VALUES = 35, 50_000
TARGETS = {"PUT": 2.0, "first score": 2.0, "second score": 0.2, "listing": 1.0}
SCORES = [
    "krum?k=5",
    "foolsgold?k=5",
    "auror?k=3",
    "sniper?p=.8",
    "pca?k=2",
    "true_krum?n_attackers=5",
    "report",
]


def main(*, full: bool = False) -> None:
    """Prints medians and the longest of each call, and whether the TARGETS are met."""
    n_rounds = N_FULL if full else N_ROUNDS
    with tempfile.TemporaryDirectory() as folder, _served(Path(folder)) as client:
        order_id = client.post(
            "/orders", json={"kind": "external", "name": "benchmark"}
        ).json()["order_id"]
        print(
            f"{n_rounds} rounds, {N_CLIENTS} clients, {N_VALUES} float32 values each; seconds: median (longest)"
        )
        _report("PUT", [_put(client, order_id, round_) for round_ in range(n_rounds)])
        n_bytes = sum(
            path.stat().st_size for path in Path(folder).rglob("*.safetensors")
        )
        print(
            f"  on disk: {n_bytes / 2**20:.0f} MiB, {n_bytes / n_rounds / N_CLIENTS / N_VALUES:.2f} bytes per value"
        )
        asked = list(range(0, n_rounds, max(1, n_rounds // 20)))
        _report(
            "first score",
            [_seconds(client, f"/anomaly/krum?k=5&round={round_}") for round_ in asked],
        )
        _report(
            "second score", [_seconds(client, f"/anomaly/{score}") for score in SCORES]
        )
        compared = [round_ for round_ in asked if round_]
        _report(
            "first grad_diff",
            [
                _seconds(client, f"/contribution/grad_diff?round={round_}")
                for round_ in compared
            ],
        )
        _report(
            "listing",
            [
                _seconds(client, path)
                for path in (f"/orders/{order_id}", "/performance", "/orders")
            ],
        )
        _report("one round's metrics", [_seconds(client, "/performance?round=5")])
        _report("/client_grad", [_seconds(client, "/client_grad")])
        _report("/avg_grad", [_seconds(client, "/avg_grad")])


@contextlib.contextmanager
def _served(home: Path) -> Iterator[httpx.Client]:
    """A client of a coordinator without Prefect, with an operator's token."""
    before = dict(os.environ)
    # The limit of calls is not what is measured.
    os.environ |= {"CONSILIUM_HOME": str(home), "CONSILIUM_CALLS_PER_SECOND": "1e6"}
    for name in ("CONSILIUM_API_PORT", "CONSILIUM_PREFECT_PORT", "CONSILIUM_STORE_URL"):
        os.environ.pop(name, None)
    choose_ports(any_free=True)
    settings, token = load_settings(), secrets.token_hex(32)
    settings.folder.mkdir(parents=True, exist_ok=True)
    store = Store(settings.store_url)
    store.migrate()
    store.hospitals.add_token(token, "operator", None)
    store.close()
    command = [sys.executable, "-m", "deployments.server", "api"]
    try:
        with subprocess.Popen(command) as process:
            url, headers = (
                f"http://{settings.host}:{settings.port}",
                {"Authorization": f"Bearer {token}"},
            )
            with httpx.Client(
                base_url=url, headers=headers, timeout=120, trust_env=False
            ) as client:
                _wait_for(client)
                try:
                    yield client
                finally:
                    process.terminate()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _wait_for(client: httpx.Client) -> None:
    for _ in range(300):
        with contextlib.suppress(httpx.HTTPError):
            client.get("/health")
            return
        time.sleep(0.1)
    raise SystemExit("The coordinator did not start.")


def _put(client: httpx.Client, order_id: int, round_: int) -> float:
    random = np.random.default_rng(round_)
    tensors = {
        f"gradients/{i}/dense": random.standard_normal(N_VALUES, np.float32)
        for i in range(N_CLIENTS)
    }
    metrics = {
        str(i): {"accuracy": 0.5, "loss": 1.0 / (round_ + 1)} for i in range(N_CLIENTS)
    }
    facts = {
        "sizes": dict.fromkeys(metrics, 100),
        "performance": {"train": metrics, "test": metrics},
    }
    body = save(tensors, metadata={"round": json.dumps(facts)})
    kind = {"Content-Type": "application/octet-stream"}
    return _timed(
        lambda: client.put(
            f"/orders/{order_id}/rounds/{round_}", content=body, headers=kind
        )
    )


def _seconds(client: httpx.Client, path: str) -> float:
    return _timed(lambda: client.get(path))


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call().raise_for_status()
    return time.perf_counter() - began


def _report(name: str, seconds: list[float]) -> None:
    target = TARGETS.get(name)
    verdict = (
        f"   {'meets' if max(seconds) <= target else 'MISSES'} {target} s"
        if target
        else ""
    )
    print(
        f"  {name:22}{statistics.median(seconds):8.3f} ({max(seconds):.3f}){verdict}",
        flush=True,
    )


if __name__ == "__main__":
    main(full="--full" in sys.argv)
