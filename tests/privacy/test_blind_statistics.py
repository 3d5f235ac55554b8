"""Whatever the coordinator's side sees of joint statistics: no value, key, group, data
path or result.

Canaries stand in the data of three hospitals. They are searched as text, as 8-byte
floats and integers in both byte orders, and as the big integers of exact sums. The same
search finds them in the hospitals' own vaults.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from agents.site.vault import OrderVault
from agents.statistics.party import AgreedStatistics
from analytics.statistics.exact import UNIT, scaled
from protocol.errors import ProtocolViolation
from protocol.exchange import Address, Exchange
from protocol.memory_transport import MemoryTransport
from protocol.messages import COORDINATOR, EVERYONE
from protocol.sums import exact_sum
from protocol.sums.exact_sum import Terms
from tasks.coordinator.progress import StatisticsPicture
from tasks.coordinator.statistics import open_order
from tasks.hospital import statistics as steps
from tests.conftest import RunningFederation
from tests.made_statistics import (
    Answered,
    Hospitals,
    make_hospitals,
    no_waiting_for_disks,
)
from tests.privacy.test_blind_coordinator import coordinator_side, pages

PROVIDERS, RECEIVERS = (2, 3, 4), [3, 5]
THRESHOLD = 30_000_000
PATH = "visits/canary-lighthouse.csv"
GROUPS = ("canary-kidney", "canary-heart")
KEY = "canary-person-{}"
MICRO = 10**6


def value(user: int, row: int) -> str:
    """A decimal that stands nowhere by chance."""
    whole, decimals = 7_000_193 * user + 40_487 * row + 13, 615_283 + 977 * row * user
    return f"{'-' if row % 3 == 0 else ''}{whole}.{decimals:06}"


def table(user: int) -> pd.DataFrame:
    # Everybody is at all hospitals: joined rows of a few people fewer are refused after
    # a sum over all.
    rows = range(24)
    return pd.DataFrame(
        {
            "id": [KEY.format(row) for row in rows],
            "x": [value(user, row) for row in rows],
            "g": [GROUPS[row % 2] for row in rows],
        }
    )


# --- the search -----------------------------------------------------------------------------------------------------


def number_needles(number: Fraction) -> list[bytes]:
    """As text, as a double, as millionths in 8 bytes, and as the whole number of an
    exact sum.
    """
    micro, whole = (
        number * MICRO,
        abs(scaled(number)) if (number * UNIT).denominator == 1 else 0,
    )
    found = [struct.pack(order, float(number)) for order in ("<d", ">d")]
    found.append(f"{abs(float(number)):.6f}"[:12].encode())
    if micro.denominator == 1 and abs(micro) < 2**63:
        found += [struct.pack(order, int(micro)) for order in ("<q", ">q")] + [
            str(abs(int(micro))).encode()
        ]
    if whole:
        size = (whole.bit_length() + 7) // 8
        found += [
            str(whole).encode(),
            whole.to_bytes(size, "big"),
            whole.to_bytes(size, "little"),
        ]
    return found


def found_in(data: bytes, needles: dict[bytes, str]) -> set[str]:
    return {what for needle, what in needles.items() if needle in data}


def canaries() -> dict[bytes, str]:
    """bytes -> what they are."""
    needles = {PATH.encode(): "path", b"lighthouse": "path"}
    for user in PROVIDERS:
        frame = table(user)
        needles |= dict.fromkeys(
            (name.encode() for name in (*frame.id, "canary-person")), "key"
        )
        needles |= dict.fromkeys((name.encode() for name in GROUPS), "group")
        for number in frame.x:
            needles |= dict.fromkeys(number_needles(Fraction(number)), "value")
        for _, group in frame.groupby("g"):
            needles |= dict.fromkeys(
                number_needles(sum(map(Fraction, group.x), Fraction(0))), "sum"
            )
    return needles


# --- the orders -----------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """An order, what the coordinator's side saw of it, and its parties with their
    vaults as they were at the end.
    """

    answer: Answered
    transport: MemoryTransport
    parties: dict[int, AgreedStatistics] = field(default_factory=dict)

    @property
    def blind_side(self) -> bytes:
        """Every byte of the exchange, what is recorded and answered, and what Prefect
        shows.
        """
        order_id, summary = self.answer.order_id, self.answer.summary
        order = open_order(order_id, Exchange(self.transport, COORDINATOR))
        order.n_rows = dict.fromkeys(PROVIDERS, 24)
        picture, records = (
            StatisticsPicture(order),
            [{"what": "result", "final": True, "done": 1, **summary}],
        )
        told = [
            self.transport.facts,
            summary,
            picture.summary(records),
            picture.table(records),
        ]
        return b"\0".join(
            [
                *self.transport.traffic,
                json.dumps(told, default=str, ensure_ascii=False).encode(),
            ]
        )

    def results(self) -> dict[bytes, str]:
        needles = {}
        for row in self.answer.rows:
            numbers = [
                Fraction(Decimal(cell))
                for name, cell in row.items()
                if name in ("avg", "total", "q", "median")
            ]
            for number in numbers:
                needles |= dict.fromkeys(number_needles(number), "result")
        return needles


ORDERS: dict[str, dict[str, Any]] = {
    "avg": {"key": "x", "group_by": ["g"]},
    "median": {"key": "x", "group_by": ["g"]},
    "custom": {
        "key": "id",
        "expression": "df1.x * df2.x + df3.x",
        "result_alias": "total",
    },
    "is_investor_accredited": {
        "key": "id",
        "threshold": THRESHOLD,
        "extra": {user: {"value_column": "x"} for user in PROVIDERS},
    },
}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    made = make_hospitals(tmp_path_factory.mktemp("sites"), (2, 3, 4, 5))
    made.allow(row_level=["id", "x"], max_share=1)
    for user in PROVIDERS:
        (made.sites[user].data_folder / "visits").mkdir()
        made.write(user, PATH, table(user))
    with no_waiting_for_disks():
        yield made


@pytest.fixture(scope="module")
def seen(hospitals: Hospitals) -> dict[str, Seen]:
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OrderVault, "destroy", lambda vault: None)
        agree_on_keys = steps.agree_on_keys
        for method, fields in ORDERS.items():
            transport, parties = MemoryTransport(), {}

            def agreed(
                order: Any, reading: Any, parties: dict[int, Any] = parties
            ) -> Any:
                return parties.setdefault(order.me, agree_on_keys(order, reading))

            patch.setattr(steps, "agree_on_keys", agreed)
            data = dict.fromkeys(PROVIDERS, PATH)
            answer = hospitals.ask(
                method, data, receivers=RECEIVERS, transport=transport, **fields
            )
            found[method] = Seen(answer, transport, parties)
    return found


@pytest.mark.parametrize("method", ORDERS)
def test_the_coordinator_s_side_holds_nothing(
    seen: dict[str, Seen], method: str
) -> None:
    data = seen[method].blind_side
    assert len(data) > 15_000
    assert method.encode() in data
    assert found_in(data, canaries() | seen[method].results()) == set()


@pytest.mark.parametrize(
    ("method", "what"),
    [
        ("avg", {"path", "group", "value", "sum", "result"}),
        ("median", {"path", "group", "value", "result"}),
        ("custom", {"path", "key", "value", "result"}),
        ("is_investor_accredited", {"path", "key", "value"}),
    ],
)
def test_the_same_search_finds_them_at_a_receiving_provider(
    hospitals: Hospitals, seen: dict[str, Seen], method: str, what: set[str]
) -> None:
    """In its vault (what was read, the snapshot of rows, what was asked), its data
    folder and its results.
    """
    party, order_id = seen[method].parties[3], str(seen[method].answer.order_id)
    folders = [
        party.store.folder,
        party.settings.results_folder / order_id,
        party.settings.data_folder,
        party.vault.cohorts,
    ]
    data = b"\0".join(
        path.read_bytes() for folder in folders for path in files_of(folder)
    )
    assert found_in(data, canaries() | seen[method].results()) >= what


def files_of(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("method", ORDERS)
def test_only_receivers_hold_a_result_and_only_openers_what_opens_a_sum(
    hospitals: Hospitals, seen: dict[str, Seen], method: str
) -> None:
    order = seen[method]
    assert hospitals.holders(order.answer.order_id) == RECEIVERS
    sealed = [
        (address.topic, recipient)
        for address, _, recipient in order.transport._messages
        if address.topic in ("unmask", "share", "keys")
    ]
    openers = {*PROVIDERS, *RECEIVERS} if method == "median" else set(RECEIVERS)
    assert {recipient for _, recipient in sealed} == openers
    for user in (2, 4):
        own = b"\0".join(
            path.read_bytes() for path in files_of(order.parties[user].store.folder)
        )
        assert found_in(own, order.results()) == set()


def test_a_provider_that_receives_nothing_cannot_open_the_sum(
    seen: dict[str, Seen],
) -> None:
    """It reads the total and knows the tag key and its own mask; without the others'
    masks that is noise.
    """
    order, me = seen["avg"], 2
    party = order.parties[me]
    address = Address(order.answer.order_id, "total")
    found = order.transport.gather(address, (COORDINATOR,), EVERYONE, wait_seconds=0)
    assert found is not None
    terms = Terms(PROVIDERS, 3072, 2 * len(GROUPS), b"sum/0")
    keys = {"tag_key": party.session.group_key(b"sum-tag")}
    seeds = {user: order.parties[user].store.kept("seed") for user in PROVIDERS}
    assert (
        len(exact_sum.open_total(found[COORDINATOR], terms, seeds=seeds, **keys))
        == terms.count
    )
    for guessed in (bytes(32), seeds[me]):
        others = dict.fromkeys(set(PROVIDERS) - {me}, guessed)
        with pytest.raises(ProtocolViolation) as caught:
            exact_sum.open_total(
                found[COORDINATOR], terms, seeds={me: seeds[me], **others}, **keys
            )
        assert caught.value.code == "sum_mismatch"


def test_of_a_comparison_only_the_answer_is_told(seen: dict[str, Seen]) -> None:
    """No sum of a person's assets is in a receiver's files, its vault or its messages."""
    order = seen["is_investor_accredited"]
    tables = {user: table(user).set_index("id").x.map(Fraction) for user in PROVIDERS}
    common = [row["id"] for row in order.answer.rows]
    sums = {key: sum(tables[user][key] for user in PROVIDERS) for key in common}
    assert [row["is_investor_accredited"] for row in order.answer.rows] == [
        str(sums[key] >= THRESHOLD).lower() for key in common
    ]
    assert {row["is_investor_accredited"] for row in order.answer.rows} == {
        "true",
        "false",
    }
    needles = {
        needle: key for key in common for needle in number_needles(Fraction(sums[key]))
    }
    for user in (3, 5):
        party = order.parties[user]
        folders = [party.store.folder, party.settings.results_folder]
        own = b"\0".join(
            path.read_bytes() for folder in folders for path in files_of(folder)
        )
        assert found_in(own, needles) == set()


# --- a real federation's disk, logs and Prefect ---------------------------------------------------------------------

SITES = {2: "suzhou-szslyy", 3: "zhejiang-zdey", 4: "shanxi-xbfy"}
COLUMNS = {"id": "id_col", "x": "unit_price", "g": "ward"}


@pytest.fixture(scope="module")
def asked(federation: RunningFederation) -> list[dict[str, Any]]:
    """A pooled, a ranked and two joined orders over real agents, and what the
    coordinator answered.
    """
    for user, name in SITES.items():
        path = federation.home / "sites" / name / "data" / PATH
        path.parent.mkdir(parents=True, exist_ok=True)
        table(user).rename(columns=COLUMNS).to_csv(path, index=False)
    price = {"value_column": COLUMNS["x"]}
    return [
        ask_for(federation, "avg", COLUMNS["x"], group_by=[COLUMNS["g"]]),
        ask_for(federation, "median", COLUMNS["x"]),
        ask_for(
            federation,
            "custom",
            COLUMNS["id"],
            expression="df1.unit_price * df2.unit_price + df3.unit_price",
        ),
        ask_for(
            federation,
            "is_investor_accredited",
            COLUMNS["id"],
            price,
            threshold=THRESHOLD,
        ),
    ]


def ask_for(
    federation: RunningFederation,
    method: str,
    key: str,
    more: Mapping[str, str] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    provider = {
        "data_path": PATH,
        "data_type": "csv",
        "key_column": key,
        **(more or {}),
    }
    providers = [{"name": name, **provider} for name in SITES.values()]
    body = {
        "data_providers": providers,
        "result_receivers": [SITES[2]],
        "method": method,
        "result_alias": "r",
    }
    with federation.client(2) as client:
        answer = client.post(
            "/runModelTrainTask", json={**body, **fields, "timeout_seconds": 120}
        )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def received(
    federation: RunningFederation, asked: list[dict[str, Any]]
) -> dict[bytes, str]:
    """The numbers of all results, from the receiver's folder."""
    folder, needles = federation.home / "sites" / SITES[2] / "results", {}
    for answer in asked[:3]:
        for cell in pd.read_csv(folder / answer["result"]["path"], dtype=str)[
            "r"
        ].dropna():
            needles |= dict.fromkeys(number_needles(Fraction(cell)), "result")
    return needles


@pytest.mark.slow
def test_the_coordinators_disk_logs_prefect_and_answers_hold_nothing(
    federation: RunningFederation, asked: list[dict[str, Any]]
) -> None:
    needles = canaries() | received(federation, asked)
    searched = {str(path): data for path, data in coordinator_side(federation)}
    assert {"store.sqlite", "prefect.db", "server.log", "api.log", "worker.log"} <= {
        Path(p).name for p in searched
    }
    with federation.prefect() as client:
        for kind in ("flow_runs", "task_runs", "logs", "artifacts"):
            searched[kind] = b"".join(pages(client, f"/{kind}/filter"))
    searched["answers"] = json.dumps(asked).encode()
    assert {
        name: found_in(data, needles)
        for name, data in searched.items()
        if found_in(data, needles)
    } == {}


@pytest.mark.slow
def test_the_same_search_finds_them_at_a_real_receiver(
    federation: RunningFederation, asked: list[dict[str, Any]]
) -> None:
    site = federation.home / "sites" / SITES[2]
    held = b"".join(
        path.read_bytes()
        for folder in ("data", "results")
        for path in files_of(site / folder)
    )
    assert {"key", "group", "value", "result"} <= found_in(
        held, canaries() | received(federation, asked)
    )
