"""Thresholds on the sum over real agents, processes and HTTP: the table of a paper, of
which some hospitals have two, three or none.
"""

from __future__ import annotations

import csv
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunningFederation
from tests.faults.conftest import Faulty
from tests.faults.processes import SITES, kill, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Table = dict[tuple[str, str], tuple[int, ...]]

TABLE: Table = {
    ("F", "sle"): (60, 20, 100, 180),
    ("F", "ssc"): (30, 2, 60, 80),
    ("F", "gout"): (3, 0, 20, 40),
    ("M", "sle"): (12, 12, 20, 35),
    ("M", "ssc"): (20, 3, 17, 30),
    ("M", "gout"): (17, 13, 30, 50),
}
"""Patients of four hospitals, 142, 50, 247 and 415, by sex and disease."""

NINE = {**TABLE, ("F", "gout"): (3, 0, 6, 0)}
FILE = "patients.csv"


def write(folder: Path, table: Table, place: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["id,sex,disease"]
    for (sex, disease), counts in table.items():
        for _ in range(counts[place]):
            lines.append(f"{place}-{len(lines)},{sex},{disease}")
    (folder / FILE).write_text("\n".join(lines) + "\n")


def crosstab(
    federation: RunningFederation, names: list[str], receivers: list[str]
) -> dict[str, Any]:
    providers = []
    for name in names:
        provider = {"name": name, "data_path": FILE, "data_type": "csv"}
        providers.append({**provider, "key_column": "id"})
    body = {
        "data_providers": providers,
        "result_receivers": receivers,
        "method": "crosstab",
        "columns": ["sex", "disease"],
        "timeout_seconds": 180,
    }
    with federation.client(2) as client:
        response = client.post("/runModelTrainTask", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json()["result"])


def cells(state: Path, result: dict[str, Any]) -> dict[tuple[str, str], str]:
    found = {}
    with (state / "results" / result["path"]).open(newline="") as file:
        for row in csv.DictReader(file):
            why = row.get("withheld") or row["crosstab"]
            found[row["sex"], row["disease"]] = why
    return found


def sums(table: Table, places: tuple[int, ...]) -> dict[tuple[str, str], str]:
    found = {}
    for label, counts in table.items():
        found[label] = str(sum(counts[place] for place in places))
    return found


def pool(folder: Path) -> Callable[[], None]:
    """A policy that lets cells be pooled, until what is returned is called."""
    path = folder / "policy.toml"
    before = path.read_text("utf-8")
    text = before.replace("[statistics]\n", '[statistics]\ncells = "pooled"\n')
    path.write_text(text, "utf-8")

    def restore() -> None:
        path.write_text(before, "utf-8")

    return restore


@pytest.fixture
def three(federation: RunningFederation) -> Iterator[RunningFederation]:
    """Hospital 4, which receives, has fifty patients."""
    restores = [pool(federation.sites / name) for name in SITES.values()]
    yield federation
    for restore in restores:
        restore()
    for name in SITES.values():
        (federation.home / "sites" / name / "data" / FILE).unlink()


def test_a_table_of_three_hospitals_is_answered_in_full(
    three: RunningFederation,
) -> None:
    places = {2: 0, 3: 2, 4: 1}
    for user, place in places.items():
        write(three.home / "sites" / SITES[user] / "data", TABLE, place)
    result = crosstab(three, list(SITES.values()), [SITES[4]])
    state = three.home / "sites" / SITES[4]
    assert cells(state, result) == sums(TABLE, (0, 1, 2))
    extra = json.loads(result["extra"])
    assert extra["rows_used"] == {"all": 439}
    assert extra["opened"][0].startswith("whether n of sex and disease is at least 10")


# --- four hospitals, one of which dies ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    folder = tmp_path_factory.mktemp("four")
    environment = {"CONSILIUM_ACCEPT_SECONDS": "150"}
    running = Faulty(
        folder / "home", options=("--hospitals", "4"), environment=environment
    )
    running.start()
    yield running
    assert running.stop() == 0, running.logs()[-3000:]


def names_of(four: Faulty) -> list[str]:
    return [*SITES.values(), "hospital-5"]


def prepare(four: Faulty, table: Table) -> None:
    for place, name in enumerate(names_of(four)):
        folder = four.home / "site-folders" / name / "policy.toml"
        if "pooled" not in folder.read_text("utf-8"):
            pool(folder.parent)
        write(four.home / "sites" / name / "data", table, place)
        # Nothing is answered yet: the tables of two tests are few people apart.
        memory = four.home / "sites" / name / "vault" / "cohorts"
        (memory / "cohorts.sqlite").unlink(missing_ok=True)


@pytest.mark.thorough
@pytest.mark.parametrize("killed", [None, 3], ids=["undisturbed", "one agent dies"])
def test_the_table_of_four_hospitals_is_answered_in_full(
    four: Faulty, killed: int | None
) -> None:
    prepare(four, TABLE)
    if killed is None:
        result = crosstab(four, names_of(four), [SITES[2]])
    else:
        result = _with_a_death(four, killed)
    assert cells(four.home / "sites" / SITES[2], result) == sums(TABLE, (0, 1, 2, 3))
    assert json.loads(result["extra"])["rows_used"] == {"all": 854}


def _with_a_death(four: Faulty, killed: int) -> dict[str, Any]:
    """The agent is killed when the coordinator has dealt for the comparison."""
    n_before = _n_dealt(four)
    found: list[dict[str, Any]] = []

    def ask() -> None:
        found.append(crosstab(four, names_of(four), [SITES[2]]))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: _n_dealt(four) > n_before, "a comparison", seconds=150)
    kill(four.pid(killed))
    asking.join()
    return found[0]


def _n_dealt(four: Faulty) -> int:
    """The newest order of which something is dealt: messages go when one has ended."""
    path = four.home / "coordinator" / "store.sqlite"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        (newest,) = database.execute(
            "SELECT coalesce(max(run), 0) FROM messages WHERE topic = 'dealt'"
        ).fetchone()
    database.close()
    return int(newest)


@pytest.mark.thorough
def test_nine_of_four_hospitals_are_withheld(four: Faulty) -> None:
    prepare(four, NINE)
    found = cells(
        four.home / "sites" / SITES[2],
        crosstab(four, names_of(four), [SITES[2]]),
    )
    assert found["F", "gout"] == "0 to 9"
    assert found["F", "sle"] in ("360", "complement 10")
    assert "9" not in found.values()
    assert list(found.values()).count("complement 10") == 3
