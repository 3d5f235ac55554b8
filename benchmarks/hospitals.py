"""What a round costs with 3, 10 and 30 hospitals, in the one-process federation: all
parties in one process.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from agents.site.settings import SiteSettings
from benchmarks.sites import open_sites, site
from deployments.demo.breast_cancer import breast_cancer_tables, make_database
from deployments.demo.training import document_order
from deployments.local.one_process import run_order
from deployments.local.sites import NAMED, sites_folder

COUNTS = (3, 10, 30)
ROUNDS = 10


def main() -> None:
    """Prints milliseconds and bytes for each round and hospital, by method."""
    print(
        f"{ROUNDS} rounds, 31 coefficients; set-up, keys and final metrics are shared out over the rounds"
    )
    print(
        f"  {'hospitals':>9} {'method':>10} {'ms/round/hospital':>18} {'bytes/round/hospital':>21}"
    )
    for n_hospitals in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            sites = make_sites(Path(folder), n_hospitals)
            for number, method in enumerate(("Paillier", "Mask", "None"), start=1):
                body = document_order(sites, rounds=ROUNDS, features=30, method=method)
                # No method ends before the last round: all do the same work.
                body["model_params"]["eps"] = 0.0
                began = time.perf_counter()
                outcome = run_order(sites, body, order_id=number)
                seconds = time.perf_counter() - began
                shares = ROUNDS * n_hospitals
                n_bytes = sum(map(len, outcome.traffic)) / shares
                print(
                    f"  {n_hospitals:9} {method:>10} {1000 * seconds / shares:18.1f} {n_bytes:21.0f}",
                    flush=True,
                )


def make_sites(folder: Path, n_hospitals: int) -> dict[int, SiteSettings]:
    """Sites of their own state, with their databases; hospital 4 holds the guest table,
    all others the host's.
    """
    tables = breast_cancer_tables()
    policy = (sites_folder() / NAMED[0] / "policy.toml").read_text()
    for user_id in range(2, n_hospitals + 2):
        part = "guest" if user_id == 4 else "host"
        own = site(folder, user_id)
        own.site.mkdir()
        everybody = str(list(range(2, n_hospitals + 2)))
        rules = policy.replace("[2, 3, 4]", everybody).replace(
            "breast_homo_host", f"breast_homo_{part}"
        )
        own.policy.write_text(rules)
        make_database(
            own.state / "hospital.duckdb", {f"breast_homo_{part}": tables[part]}
        )
    return open_sites(folder, n_hospitals)
