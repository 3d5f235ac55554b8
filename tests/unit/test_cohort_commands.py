"""`./run agent cohorts` on a site whose policy names cohorts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from agents.check.site import check_locally
from agents.site.ledger import Ledger
from agents.site.settings import load_settings
from agents.site.vault import Vault
from deployments.agent import main

POLICY = """
[orders]
initiators = [2, 3]
methods = ["Mask"]
model_types = ["lr"]
sign = true
[tables."data.visits"]
[inference]
allowed = true
"""
SQL = "SELECT id, x, y FROM data.visits WHERE id <> 7 -- not him\n"
MODEL = {
    "model_id": 1,
    "model_type": "linear",
    "attributes": ["x"],
    "unique_id": "id",
    "label_name": "y",
    "fit_intercept": True,
    "classes": [],
    "layers": {"dense": [2.0, 1.0]},
    "standardize": None,
    "n_rounds": 3,
    "losses": [0.7],
    "initiator": 2,
}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    state = tmp_path / "state"
    (folder / "settings.toml").write_text(
        f'user_id = 2\nname = "north"\nstate = "{state}"\n'
    )
    load_settings(folder)
    with duckdb.connect(str(state / "hospital.duckdb")) as database:
        database.execute(
            "CREATE SCHEMA data; CREATE TABLE data.visits AS"
            " SELECT i AS id, i % 7 AS x, i % 2 AS y FROM range(40) r(i)"
        )
    (folder / "visits_v1.sql").write_text(SQL)
    approve(folder, "0" * 64)
    return folder


def approve(site: Path, digest: str, *, last: str = "") -> None:
    section = f'[cohorts.visits_v1]\nsql = "visits_v1.sql"\nsha256 = "{digest}"\n'
    (site / "policy.toml").write_text(f"{POLICY}{section}{last}")


@pytest.fixture
def run(site: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--site", str(site)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def approve_by_digest(run: Run, site: Path) -> None:
    code, line, _ = run("cohorts", "digest", "visits_v1.sql")
    assert code == 0
    approve(site, line.split('"')[1])


def test_from_a_file_to_rows_that_are_listed(run: Run, site: Path) -> None:
    code, out, err = run("cohorts", "refresh", "visits_v1")
    assert (code, out) == (2, "")
    assert "visits_v1.sql" in err
    assert "cohorts digest visits_v1.sql" in err
    approve_by_digest(run, site)
    assert "no rows yet" in run("cohorts", "named")[1]
    assert run("cohorts", "refresh", "cohort:visits_v1") == (
        0,
        "cohort:visits_v1  39 rows, columns id, x, y\n",
        "",
    )
    code, out, _ = run("cohorts", "named", "--json")
    (entry,) = json.loads(out)
    assert (entry["name"], entry["n_rows"]) == ("cohort:visits_v1", 39)
    assert (entry["columns"], entry["problem"]) == (["id", "x", "y"], None)
    assert entry["made_at"] is not None
    code, out, err = run("cohorts", "list")
    assert out.startswith("cohort:visits_v1  39 rows, made ")
    assert "columns     id, x, y" in out
    assert err == "Nothing has left so far.\n"
    kinds = [entry["event"] for entry in Ledger(load_settings(site).ledger).entries()]
    assert kinds == ["cohort_kept", "cohort_made"]


def test_of_all_cohorts_one_that_fails_stops_no_other(run: Run, site: Path) -> None:
    approve_by_digest(run, site)
    assert run("cohorts", "refresh")[0] == 0
    wrong = '[cohorts.a_wrong]\nsql = "nowhere.sql"\nsha256 = "' + "0" * 64 + '"\n'
    text = (site / "policy.toml").read_text()
    (site / "policy.toml").write_text(text.replace("[cohorts", f"{wrong}[cohorts", 1))
    code, out, err = run("cohorts", "refresh")
    assert code == 2
    first, second = out.splitlines()
    assert first.startswith("cohort:a_wrong  failed, the rows of before stay: ")
    assert second.startswith("cohort:visits_v1  39 rows")
    assert "Not made: a_wrong." in err
    # What is named no more goes.
    (site / "policy.toml").write_text(text.replace("visits_v1]", "visits_v2]"))
    out = run("cohorts", "refresh")[1]
    assert out.startswith("cohort:visits_v1  removed")


def states(site: Path) -> list[tuple[str, str]]:
    found = check_locally(load_settings(site))
    return [(one.state, one.sentence) for one in found if one.check == "cohorts"]


def test_the_self_test_looks_at_definition_and_rows(run: Run, site: Path) -> None:
    assert [state for state, _ in states(site)] == ["wrong"]
    approve_by_digest(run, site)
    assert "not been made" in states(site)[0][1]
    run("cohorts", "refresh")
    ((state, sentence),) = states(site)
    assert (state, "39 rows" in sentence) == ("ok", True)
    (site / "visits_v1.sql").write_text("SELECT 1 AS id")
    assert states(site)[0][0] == "wrong"


def test_a_model_is_applied_to_a_cohort(run: Run, site: Path) -> None:
    vault = Vault(load_settings(site).vault)
    vault.identity()
    vault.save_model(1, MODEL)
    approve_by_digest(run, site)
    run("cohorts", "refresh")
    code, out, _ = run("infer", "--model", "1", "--sql", "cohort:visits_v1")
    found: list[dict[str, Any]] = json.loads(out)
    assert code == 0
    assert len(found) == 39
    assert found[3] == {"id": "3", "label": 7.0}


def test_rows_of_a_cohort_are_checked_before_an_order(run: Run, site: Path) -> None:
    approve_by_digest(run, site)
    run("cohorts", "refresh")
    words = ("cohorts", "check", "--receiver", "3", "--sql", "cohort:visits_v1")
    assert run(*words) == (0, "passes   39 rows\n", "")
    approve(site, "0" * 64)
    code, out, _ = run(*words)
    assert (code, out.split()[:2]) == (1, ["refused", "cohort_definition"])


@pytest.mark.parametrize(
    "words", [("digest",), ("digest", "nowhere.sql"), ("refresh", "nothing")]
)
def test_what_is_not_there_is_one_line(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run("cohorts", *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_a_policy_without_cohorts_says_how_to_add_one(run: Run, site: Path) -> None:
    (site / "policy.toml").write_text(POLICY)
    assert "policy.example.toml" in run("cohorts", "named")[2]
    assert run("cohorts", "list") == (0, "", "Nothing has left so far.\n")
