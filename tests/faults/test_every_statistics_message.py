"""Every party of an order of joint statistics dies at every message and every durable
write, before and after.

In memory, as test_every_message does for training. The receivers' files must be those
of an undisturbed order byte for byte, and whatever stands in a results folder at any
death must be whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from agents.gate.earlier_questions import StatisticsLedger
from agents.gate.memory import Memory
from agents.order.party import open_party
from agents.rows import reading
from agents.site import vault
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from agents.statistics import audited, results
from deployments.local import one_process
from flows.coordinator import coordinate_statistics
from flows.hospital import answer_locally
from protocol.errors import OrderStopped
from protocol.exchange import Address, Exchange
from protocol.machine import disk
from protocol.memory_transport import MemoryTransport
from protocol.messages import COORDINATOR
from tasks.coordinator.statistics import open_order
from tests.faults.test_every_message import (
    MortalTransport,
    SampledFate,
    until_it_lives,
)
from tests.made_statistics import Hospitals, make_hospitals, no_waiting_for_disks

PROVIDERS, RECEIVERS = (2, 3, 4), (3, 5)
PARTIES = (*PROVIDERS, 5, COORDINATOR)
ORDERS: dict[str, tuple[dict[str, Any], int]] = {
    "avg": ({"key": "x", "group_by": ["g"]}, 1),
    "median": ({"key": "x"}, 7),
    "count": (
        {"key": "x", "group_by": ["g"], "start_within_seconds": 60, "at_least": 3},
        1,
    ),
    "describe": ({"key": "x", "columns": ["x", "g"], "quartiles": True}, 9),
    "custom": ({"key": "id", "expression": "df1.x * df2.x - df3.x"}, 1),
    "is_investor_accredited": (
        {
            "key": "id",
            "threshold": 150,
            "extra": {user: {"value_column": "x"} for user in PROVIDERS},
        },
        5,
    ),
}
"""By method, the order's fields, and of how many moments one is died at."""


class MortalStatisticsTransport(MortalTransport):
    def put(self, address: Address, sender: int, recipient: int, body: bytes) -> None:
        """What the coordinator drew and did not send may be drawn anew; two contents
        sent would be a Conflict.
        """
        if sender != COORDINATOR:
            super().put(address, sender, recipient, body)
        else:
            self._fate.meet(
                (address, recipient),
                lambda: self._inner.put(address, sender, recipient, body),
            )


@pytest.fixture
def hospitals(tmp_path: Path) -> Hospitals:
    """For each method its own: the people in common differ from all by a few."""
    made = make_hospitals(tmp_path, (2, 3, 4, 5))
    made.allow(row_level=["id", "x"], row_expressions=True, exact_quantiles=True)
    for user in PROVIDERS:
        rows = range(user, user + 20)
        frame = pd.DataFrame(
            {
                "id": rows,
                "x": [row * row / 4 for row in rows],
                "g": [row % 2 for row in rows],
            }
        )
        made.write(user, "rows.csv", frame)
    return made


@pytest.fixture
def fate(monkeypatch: pytest.MonkeyPatch) -> Iterator[SampledFate]:
    """Two deaths at every file of a vault or a results folder, every snapshot, and
    every line of what was asked.
    """
    fate = SampledFate()

    def mortal(owner: Any, name: str, moment: Callable[..., Any]) -> None:
        deed = getattr(owner, name)
        monkeypatch.setattr(
            owner,
            name,
            lambda *args, **named: fate.meet(
                moment(*args, **named), lambda: deed(*args, **named)
            ),
        )

    for module in (vault, disk, results):
        mortal(module, "write_durably", lambda path, data: place(path))
    mortal(reading, "_keep", lambda rows, path: place(path))
    mortal(
        audited,
        "reserve",
        lambda memory, *args, order_id, **named: (place(memory.path), order_id),
    )
    mortal(
        Memory,
        "commit",
        lambda memory, order_id, **named: (place(memory.path), "commit", order_id),
    )
    mortal(
        StatisticsLedger,
        "remember_comparison",
        lambda ledger, *args, **named: (place(ledger.path), "threshold"),
    )
    with no_waiting_for_disks():
        yield fate


def place(path: Path) -> str:
    """The same in every run of the tests."""
    return str(path).partition("/hospital-")[2]


@dataclass
class Run:
    """One order in which everybody dies; what stood in the results folders whenever a
    receiver was dead.
    """

    sites: dict[int, SiteSettings]
    order_id: int
    transport: MemoryTransport
    fate: SampledFate
    tried: dict[Any, bytes] = field(default_factory=dict)
    found: list[tuple[str, bytes]] = field(default_factory=list)

    def hospital(self, user: int) -> Callable[[], None]:
        def life() -> None:
            self.look(user)
            try:
                answer_locally(
                    open_party(self.sites[user], self.order_id, self.mortal(user))
                )
            except OrderStopped as stop:
                Vault(self.sites[user].vault).end_order(self.order_id, stop.code)
                raise

        return life

    def coordinator(self) -> None:
        order = open_order(
            self.order_id, Exchange(self.mortal(COORDINATOR), COORDINATOR)
        )
        coordinate_statistics(order, lambda record: None)

    def mortal(self, me: int) -> Any:
        return MortalStatisticsTransport(self.transport, me, self.fate, self.tried)

    def look(self, user: int) -> None:
        for path in files(self.sites[user], self.order_id):
            self.found.append((path.name, path.read_bytes()))

    def live(self, who: int) -> int:
        try:
            return until_it_lives(
                self.coordinator if who == COORDINATOR else self.hospital(who)
            )
        except BaseException as error:
            self.transport.stop(
                self.order_id, OrderStopped(repr(error), remedy="", code="failed")
            )
            raise


def files(site: SiteSettings, order_id: int) -> list[Path]:
    return sorted((site.results_folder / str(order_id)).glob("*"))


def run_mortally(
    hospitals: Hospitals, fate: SampledFate, method: str, **fields: Any
) -> tuple[Run, Counter[int]]:
    """The order, with the deaths of each party in place of its threads."""
    runs: list[Run] = []
    deaths: Counter[int] = Counter()

    def mortally(transport: MemoryTransport, order_id: int, *_: Any) -> None:
        runs.append(Run(hospitals.sites, order_id, transport, fate))
        with ThreadPoolExecutor(len(PARTIES)) as pool:
            running = {who: pool.submit(runs[0].live, who) for who in PARTIES}
            deaths.update({who: future.result() for who, future in running.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_process, "_run", mortally)
        hospitals.ask(
            method, dict.fromkeys(PROVIDERS, "rows.csv"), receivers=RECEIVERS, **fields
        )
    return runs[0], deaths


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, marks=[pytest.mark.thorough] * (method == "describe"))
        for method in ORDERS
    ],
)
def test_everybody_dies_everywhere(
    hospitals: Hospitals, fate: SampledFate, method: str
) -> None:
    fields, fate.every = ORDERS[method]
    run, deaths = run_mortally(hospitals, fate, method, **fields)
    fate.lives_on = True
    undisturbed = hospitals.ask(
        method, dict.fromkeys(PROVIDERS, "rows.csv"), receivers=RECEIVERS, **fields
    )
    assert deaths.total() >= 30, deaths
    assert fate.every > 1 or all(deaths[who] >= 6 for who in PARTIES), deaths
    for user in RECEIVERS:
        notes, result = sorted(
            files(run.sites[user], run.order_id), key=lambda path: path.suffix == ".csv"
        )
        assert result.read_bytes() == undisturbed.files[user]
        left = {(path.name, path.read_bytes()) for path in (notes, result)}
        assert set(run.found) <= left
        assert Vault(run.sites[user].vault).orders() == []
    assert fate.every > 1 or {name for name, _ in run.found} == {
        f"{method}.csv",
        f"{method}.notes.json",
    }


@pytest.mark.thorough
def test_everybody_dies_while_cells_are_compared(
    hospitals: Hospitals, fate: SampledFate
) -> None:
    """What is sent for the comparison is the same bytes again, and the same cells are
    shown; beside an earlier answer since which six have come at each hospital.
    """
    hospitals.allow(cells="pooled", min_providers=2)
    fields: dict[str, Any] = {"key": "g"}
    fate.lives_on = True
    data = dict.fromkeys(PROVIDERS, "rows.csv")
    hospitals.ask("frequency", data, receivers=RECEIVERS, **fields)
    for user in PROVIDERS:
        path = hospitals.sites[user].data_folder / "rows.csv"
        new = pd.DataFrame({"id": range(100, 120), "x": 1.0, "g": [0] * 14 + [1] * 6})
        hospitals.write(user, "rows.csv", pd.concat([pd.read_csv(path), new]))
    fate.lives_on = False
    fate.every = 2
    run, deaths = run_mortally(hospitals, fate, "frequency", **fields)
    topics = {address.topic for address, *_ in run.tried}
    assert {"cell_tags", "cell_digest", "opened", "cell_share"} <= topics
    fate.lives_on = True
    undisturbed = hospitals.ask(
        "frequency", dict.fromkeys(PROVIDERS, "rows.csv"), receivers=RECEIVERS, **fields
    )
    assert deaths.total() >= 30, deaths
    assert [row["frequency"] for row in undisturbed.rows] == ["72", "48"]
    for user in RECEIVERS:
        result = [
            path
            for path in files(run.sites[user], run.order_id)
            if path.suffix == ".csv"
        ]
        assert result[0].read_bytes() == undisturbed.files[user]
