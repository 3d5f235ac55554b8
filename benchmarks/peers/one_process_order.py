"""An order in the one-process federation, twice: the body on stdin, what came of it as
JSON on stdout.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.sites import open_sites
from deployments.local.one_process import run_order
from protocol.exchange import Address
from protocol.memory_transport import MemoryTransport
from protocol.messages import COORDINATOR


class WatchedTransport(MemoryTransport):
    """Keeps the time of each round's end, and counts what each party puts and gathers;
    every party is a thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.round_ends: list[float] = []
        self._n_bytes: Counter[int] = Counter()
        self._hospitals: set[int] = set()

    @property
    def hospital_bytes(self) -> int:
        """Bytes of all hospitals, both ways: sealed messages, without HTTP around them."""
        return sum(self._n_bytes[thread] for thread in self._hospitals)

    def put(self, address: Address, sender: int, recipient: int, body: bytes) -> None:
        super().put(address, sender, recipient, body)
        self._n_bytes[threading.get_ident()] += len(body)
        if sender != COORDINATOR:
            self._hospitals.add(threading.get_ident())

    def gather_present(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
    ) -> dict[int, bytes]:
        found = super().gather_present(
            address, senders, recipient, wait_seconds=wait_seconds
        )
        self._count(found)
        return found

    def gather_some(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
    ) -> dict[int, bytes] | None:
        found = super().gather_some(
            address, senders, recipient, wait_seconds=wait_seconds
        )
        self._count(found or {})
        return found

    def _count(self, read: dict[int, bytes]) -> None:
        for body in read.values():
            self._n_bytes[threading.get_ident()] += len(body)

    def record(self, run: int, facts: dict[str, Any]) -> None:
        super().record(run, facts)
        if "round" in facts and not facts["round"]["final"]:
            self.round_ends.append(time.time())


def main() -> None:
    """Orders twice from the hospitals in CONSILIUM_HOME, and answers."""
    body = json.load(sys.stdin)
    sites = open_sites(Path(os.environ["CONSILIUM_HOME"]), len(body["data_info"]))
    transport = WatchedTransport()
    submitted = time.time()
    outcome = run_order(sites, body, order_id=1, transport=transport)
    finished = time.time()
    run_order(sites, body, order_id=2)
    answer = {
        "submitted": submitted,
        "finished": finished,
        "again": time.time() - finished,
        "round_ends": transport.round_ends,
        "weights": list(outcome.models[body["user_id"]]["layers"]["dense"]),
        "n_bytes": transport.hospital_bytes,
    }
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
