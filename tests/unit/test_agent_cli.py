"""The agent's commands on a real site: its folder, its DuckDB file, its vault; HTTP by
httpx's own stand-in.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn import linear_model

from agents.check.coordinator import (
    check_clock,
    check_coordinator,
    check_prefect,
)
from agents.check.findings import Finding, guarded
from agents.check.site import check_site
from agents.gate.asked_sets import AuditRules, asked_sets
from agents.gate.cohort_audit import reserve
from agents.gate.kept_sets import ColumnName, OpenedSet
from agents.gate.memory import Memory
from agents.order.approval import Approvals, person
from agents.order.party import open_party
from agents.rows.canonical import members_of
from agents.site.ledger import Ledger
from agents.site.policy import load_policy
from agents.site.settings import SiteSettings, load_settings
from agents.site.vault import Vault
from agents.statistics.results import write_result
from agents.training.export import export_model
from agents.training.inference import model_of, predict
from analytics.training.margins import scores
from deployments.agent import main
from protocol import VERSION
from protocol.errors import BadRequest, NotFound, Refused
from protocol.memory_transport import MemoryTransport
from protocol.sealing import Identity
from protocol.versions import SPOKEN
from tests.made_rows import opened_rows

NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
ATTRIBUTES = ["x1", "x2", "x3"]
POLICY = """
[orders]
initiators = [2, 3]
methods = ["Paillier"]
model_types = ["lr"]
sign = true
[tables."data.patients"]
columns = ["*"]
[inference]
allowed = true
"""
PREFECT_POOL = "/prefect/api/work_pools/hospital-2"
TOLD = {
    "version": VERSION,
    "protocol": SPOKEN.newest,
    "oldest_protocol": SPOKEN.oldest,
}
PARTNER = Identity.generate(lambda n: b"p" * n).public.fingerprint


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole installation of hospital 2, with a model of each kind."""
    monkeypatch.setenv("CONSILIUM_HOME", str(tmp_path / "home"))
    folder = tmp_path / "north"
    folder.mkdir()
    settings = 'user_id = 2\nname = "协和"\ncoordinator_url = "http://127.0.0.1:9"\n'
    partner = f'[[partners]]\nuser_id = 3\nname = "East"\nfingerprint = "{PARTNER}"\n'
    (folder / "settings.toml").write_text(settings + partner, "utf-8")
    (folder / "policy.toml").write_text(POLICY)
    site = load_settings(folder)
    make_database(site.state / "hospital.duckdb")
    vault = Vault(site.vault)
    vault.identity()
    for model_id, stored in enumerate((LR, LINEAR, SOFTMAX), start=1):
        vault.save_model(model_id, {**stored, "model_id": model_id})
    token(site, "abc")
    return folder


def token(settings: SiteSettings, text: str, mode: int = 0o600) -> None:
    path = settings.state / "token"
    path.write_text(text)
    path.chmod(mode)


def make_database(path: Path) -> None:
    rows = pd.DataFrame(table(), columns=ATTRIBUTES)
    rows.insert(0, "id", np.arange(100, 100 + len(rows)))
    rows.insert(1, "y", np.arange(len(rows)) % 2)
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE SCHEMA data")
        connection.register("rows", rows)
        connection.execute("CREATE TABLE data.patients AS SELECT * FROM rows")
        connection.execute("UPDATE data.patients SET x2 = NULL WHERE id = 119")


def table(n_rows: int = 20) -> np.ndarray:
    return np.random.default_rng(7).normal(
        [10.0, -3.0, 1e3], [2.0, 0.1, 400.0], (n_rows, 3)
    )


def stored(kind: str, dense: list[float], **changes: Any) -> dict[str, Any]:
    return {
        "model_id": 1,
        "model_type": kind,
        "attributes": ATTRIBUTES,
        "unique_id": "id",
        "label_name": "y",
        "fit_intercept": True,
        "classes": [],
        "layers": {"dense": dense},
        "standardize": None,
        "n_rounds": 3,
        "losses": [0.7],
        "initiator": 2,
        **changes,
    }


SCALE = [[10.0, -3.0, 1e3], [2.0, 0.1, 400.0]]
LR = stored("lr", [0.1, 1 / 3, -0.002, 0.7])
LINEAR = stored("linear", [1.5, -2.0, 1 / 7, 4.0], standardize=SCALE)
SOFTMAX = stored(
    "softmax",
    [0.3, -1, 2, 0.1, 1, 1, -1, -0.2, 0.0, 0.4, 0.5, 0.6],
    classes=[0, 1, 5],
    standardize=SCALE,
)


@pytest.fixture
def run(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--site", str(site)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


Run = Callable[..., tuple[int, str, str]]


def ledger(site: Path) -> list[dict[str, Any]]:
    return list(Ledger(load_settings(site).ledger).entries())


# The command line


def test_a_real_process_prints_json_only(site: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "deployments.agent",
        "--site",
        str(site),
        "export",
        "--model",
        "1",
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        cwd=Path(__file__).parents[2],
        check=True,
        env=os.environ,
    )
    assert json.loads(done.stdout)["dense"] == LR["layers"]["dense"]
    assert done.stderr == b""


def test_the_site_may_stand_before_the_command(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--site", str(site), "models"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "1  lr  3 attributes"


def test_a_model_is_listed_with_how_its_training_ended(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ending = {"converged": False, "stopped_by": "max_iter", "n_rounds": 7}
    vault = Vault(load_settings(site).vault)
    vault.save_model(71, {**LR, **ending, "warnings": ["It is unfinished."]})
    vault.save_model(72, {**LR, **ending, "converged": True, "warnings": []})
    assert main(["--site", str(site), "models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "71  lr  3 attributes  ended by max_iter after 7 rounds",
        "    Warning: It is unfinished.",
        "72  lr  3 attributes  converged after 7 rounds",
    ]
    for model_id in (71, 72):
        (vault.folder / "models" / f"{model_id}.json").unlink()


def test_without_a_site(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys"]) == 2
    assert main([]) == 78
    assert capsys.readouterr().err.count("Add --site") == 2


@pytest.mark.parametrize(
    "words",
    [["nothing"], ["export"], ["infer", "--model", "1"], ["keys", "--model", "1"]],
)
def test_words_that_are_no_command(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: ./run agent" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["start", "check", "keys", "ledger", "models"])
def test_a_site_that_is_not_there(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--site", str(tmp_path)]) == {"start": 78, "check": 1}.get(
        command, 2
    )
    out, err = capsys.readouterr()
    assert "Copy one from deployments/sites" in out + err
    assert "Traceback" not in out + err


def test_an_unplanned_error_tells_its_kind_and_place_only(run: Run, site: Path) -> None:
    vault = Vault(load_settings(site).vault)
    vault.save_model(9, {"model_type": "canary-447"})
    code, out, err = run("export", "--model", "9")
    assert (code, out) == (2, "")
    assert err.startswith("An unplanned error (KeyError) in export.py, line ")
    assert len(err.splitlines()) == 1


def test_keys_can_be_pasted_by_partners(run: Run, site: Path) -> None:
    code, out, _ = run("keys")
    fingerprint = Vault(load_settings(site).vault).identity().public.fingerprint
    pasted = tomllib.loads(out[out.index("#") :])
    assert pasted == {
        "partners": [{"user_id": 2, "name": "协和", "fingerprint": fingerprint}]
    }
    assert f"fingerprint  {fingerprint}" in out
    assert code == 0


def test_keys_makes_them_at_first_start(run: Run, site: Path) -> None:
    path = load_settings(site).vault / "identity.json"
    path.unlink()
    assert run("keys") == run("keys")
    assert path.exists()


# The ledger


def fill(site: Path) -> Ledger:
    record = Ledger(load_settings(site).ledger)
    record.write(
        "left",
        order_id=7,
        kind="gradient",
        fold=0,
        round=3,
        recipient=1,
        n_bytes=531,
        sha256="ab",
    )
    record.write(
        "refused", order_id=8, rule="min_rows", sentence="Too few.\x1b[2J\u2028\x9b"
    )
    return record


def test_the_ledger_is_readable_and_safe_for_a_terminal(run: Run, site: Path) -> None:
    head = fill(site).head()
    code, out, _ = run("ledger")
    assert code == 0
    first, second, last = out.splitlines()
    assert all(
        word in first
        for word in ("left", " 7 ", "gradient", "fold 0 round 3", "531 bytes")
    )
    assert all(
        word in second
        for word in ("refused", " 8 ", "min_rows", "Too few.\\u001b[2J\\u2028\\u009b")
    )
    assert last == f"The chain is whole; its head is {head}."


def test_the_ledger_says_which_totals_are_opened(run: Run, site: Path) -> None:
    totals = ["n and sum of age over 854 people of 4 hospitals", "n of sex"]
    record = fill(site)
    record.write("opens", order_id=9, totals=totals, receivers=["2", "coordinator"])
    _, out, _ = run("ledger", "--order", "9")
    line = out.splitlines()[0]
    assert "opens" in line
    assert line.endswith(f"{totals[0]}; {totals[1]}, to 2, coordinator")


def test_the_ledger_as_json_lines_of_one_order(run: Run, site: Path) -> None:
    fill(site)
    code, out, err = run("ledger", "--json", "--order", "8")
    assert [json.loads(line)["rule"] for line in out.splitlines()] == ["min_rows"]
    assert out.isascii()
    assert (code, err.split(";")[0]) == (0, "The chain is whole")


def test_a_broken_chain_is_told(run: Run, site: Path) -> None:
    path = fill(site).path
    path.write_bytes(path.read_bytes().replace(b"531", b"532"))
    code, out, _ = run("ledger")
    assert code == 1
    assert "BROKEN at line 2" in out
    code, out, err = run("ledger", "--json")
    assert (code, len(out.splitlines())) == (1, 2)
    assert "BROKEN" in err


# Export


def test_json_holds_every_layer_at_full_precision(run: Run, site: Path) -> None:
    code, out, err = run("export", "--model", "1")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["dense"] == [0.1, 1 / 3, -0.002, 0.7]
    assert (found["model_id"], found["model_type"], found["attributes"]) == (
        1,
        "lr",
        ATTRIBUTES,
    )
    assert found["standardize"] is None
    assert json.loads(run("export", "--model", "2")[1])["standardize"] == {
        "mean": SCALE[0],
        "deviation": SCALE[1],
    }


def test_every_export_is_in_the_ledger(run: Run, site: Path) -> None:
    run("export", "--model", "1")
    run("export", "--model", "3", "--format", "sklearn")
    told = [(e["event"], e["model_id"], e["format"]) for e in ledger(site)]
    assert told == [("exported", 1, "json"), ("exported", 3, "sklearn")]
    assert len(run("ledger", "--order", "3")[1].splitlines()) == 2


def test_a_report_is_printed_and_in_the_ledger(run: Run, site: Path) -> None:
    vault = Vault(load_settings(site).vault)
    terms = [{"term": "(Intercept)", "estimate": 1.5, "se": 0.5}]
    vault.save_model(81, {**LR, "model_id": 81, "report": {"terms": terms, "n": 40}})
    assert json.loads(run("report", "--model", "81")[1]) == {"terms": terms, "n": 40}
    lines = run("report", "--model", "81", "--format", "csv")[1].splitlines()
    assert lines[1] == "(Intercept),1.5,0.5,,,,"
    assert "tabular" in run("report", "--model", "81", "--format", "latex")[1]
    told = [(entry["event"], entry["format"]) for entry in ledger(site)]
    assert told == [
        ("exported", "report json"),
        ("exported", "report csv"),
        ("exported", "report latex"),
    ]
    code, out, err = run("report", "--model", "1")
    assert (code, out) == (2, "")
    assert err.startswith("Model 1 was not trained by newton, so it has no report. ")


def test_a_report_s_notes_are_said_beside_a_table(run: Run, site: Path) -> None:
    """Else estimates before convergence would look like any."""
    vault = Vault(load_settings(site).vault)
    terms = [{"term": "age", "estimate": 1.5, "se": 0.5}]
    report = {"terms": terms, "n": 40, "notes": ["Training has not converged."]}
    vault.save_model(82, {**LR, "model_id": 82, "report": report})
    for file_format in ("csv", "latex"):
        _, out, err = run("report", "--model", "82", "--format", file_format)
        assert "converged" not in out
        assert err == "Training has not converged.\n"
    _, out, err = run("report", "--model", "82")
    assert json.loads(out) == report
    assert err == ""


def test_an_evaluation_is_printed_without_its_counts(run: Run, site: Path) -> None:
    report = {
        "n": 40,
        "n_left_out": 0,
        "metrics": {"auc": 0.75, "tp": 9, "confusion": [[1, 2], [3, 4]]},
        "calibration": [{"low": 0.0, "high": 1.0, "n": 40}],
    }
    kept = {"evaluation_id": 90, "model_id": 81, "report": report, "counts": [1] * 8}
    Vault(load_settings(site).vault).save_evaluation(90, kept)
    shown = json.loads(run("report", "--evaluation", "90")[1])
    assert shown == {"evaluation_id": 90, "model_id": 81, "report": report}
    lines = run("report", "--evaluation", "90", "--format", "csv")[1].splitlines()
    assert lines[0] == "table,line,name,value"
    assert lines[3:5] == ["metrics,,auc,0.75", "metrics,,tp,9"]
    assert lines[5:] == [
        "calibration,1,high,1.0",
        "calibration,1,low,0.0",
        "calibration,1,n,40",
    ]
    table = run("report", "--evaluation", "90", "--format", "latex")[1]
    assert r"n\_left\_out & 0 \\" in table
    assert r"auc & 0.75 \\" in table
    told = [(entry["event"], entry["evaluation_id"]) for entry in ledger(site)]
    assert told == [("exported", 90)] * 3
    code, out, err = run("report", "--evaluation", "7")
    assert (code, out) == (2, "")
    assert err.startswith("This hospital has no evaluation 7. ")
    # One of the two, and not both.
    with pytest.raises(SystemExit):
        run("report")


def test_a_model_that_is_not_here(run: Run, site: Path) -> None:
    code, out, err = run("export", "--model", "77")
    assert (code, out) == (2, "")
    assert err.startswith("This hospital holds no model 77. ")
    assert ledger(site) == []


def fitted(exported: dict[str, Any]) -> Any:
    """An estimator that was never fitted, with the exported attributes set: what a
    reader of the file would do.
    """
    estimator = getattr(linear_model, exported["estimator"].rsplit(".", 1)[1])()
    for name, value in exported["attributes"].items():
        setattr(estimator, name, np.array(value) if isinstance(value, list) else value)
    return estimator


def model_scores(entry: dict[str, Any], X: np.ndarray) -> np.ndarray:
    weights = np.array(entry["layers"]["dense"])
    if entry["standardize"]:
        mean, deviation = np.array(entry["standardize"])
        X = (X - mean) / deviation
    return scores(model_of(entry), weights, X)


TWO = {"classes": ["a", "b"], "layers": {"dense": [0.3, -1, 2, 0.1, 1, 1, -1, -0.2]}}


@pytest.mark.parametrize("scale", [None, SCALE])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(
    "entry",
    [LR, SOFTMAX, {**SOFTMAX, **TWO}, {**SOFTMAX, "classes": ["甲", "丙", "z"]}],
)
def test_scikit_learn_gives_the_same_probabilities(
    entry: Any, fit_intercept: bool, scale: Any
) -> None:
    dense = np.array(entry["layers"]["dense"]).reshape(-1, 4)
    layers = {"dense": (dense if fit_intercept else dense[:, :3]).ravel().tolist()}
    classes = sorted(entry["classes"])
    entry = {
        **entry,
        "layers": layers,
        "fit_intercept": fit_intercept,
        "standardize": scale,
        "classes": classes,
    }
    X = table() if scale else (table() - SCALE[0]) / SCALE[1]
    exported = json.loads(json.dumps(export_model(entry, "sklearn")))
    estimator = fitted(exported)
    found = estimator.predict_proba(pd.DataFrame(X, columns=ATTRIBUTES))
    expected = model_scores(entry, X)
    if entry["model_type"] == "lr":
        expected = np.column_stack([1 - expected, expected])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert np.asarray(exported["attributes"]["coef_"]).ndim == 2
    assert estimator.classes_.tolist() == (classes or [0, 1])
    assert estimator.n_features_in_ == 3


@pytest.mark.parametrize("scale", [None, SCALE])
def test_scikit_learn_gives_the_same_values(scale: Any) -> None:
    entry = {**LINEAR, "standardize": scale}
    exported = json.loads(json.dumps(export_model(entry, "sklearn")))
    found = fitted(exported).predict(pd.DataFrame(table(), columns=ATTRIBUTES))
    np.testing.assert_allclose(found, model_scores(entry, table()), rtol=1e-12)
    assert len(exported["attributes"]["coef_"]) == 3


def test_a_model_beyond_floats_in_raw_units_is_refused() -> None:
    entry = {
        **LR,
        "layers": {"dense": [1e300, 1.0, 1.0, 1.0]},
        "standardize": [[0.0, 0, 0], [1e-12, 1, 1]],
    }
    with pytest.raises(BadRequest, match="range"):
        export_model(entry, "sklearn")
    assert export_model(entry, "json")["dense"][0] == 1e300


# Inference


SQL = "SELECT * FROM data.patients WHERE id < 105"


def test_infer_prints_what_the_model_says(run: Run, site: Path) -> None:
    code, out, err = run("infer", "--model", "1", "--sql", SQL)
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert [entry["id"] for entry in found] == ["100", "101", "102", "103", "104"]
    np.testing.assert_allclose(
        [entry["label"] for entry in found], model_scores(LR, table(5))
    )
    assert [(e["event"], e["model_id"], e["n_rows"]) for e in ledger(site)] == [
        ("inferred", 1, 5)
    ]


def test_infer_leaves_no_order_behind(run: Run, site: Path) -> None:
    run("infer", "--model", "1", "--sql", SQL)
    assert os.listdir(load_settings(site).vault / "orders") == []


def test_infer_as_csv(run: Run) -> None:
    rows = list(
        csv.DictReader(
            io.StringIO(run("infer", "--model", "3", "--sql", SQL, "--csv")[1])
        )
    )
    assert list(rows[0]) == [
        "id",
        "label",
        "probability_0",
        "probability_1",
        "probability_5",
    ]
    found = [[float(row[f"probability_{name}"]) for name in (0, 1, 5)] for row in rows]
    np.testing.assert_array_equal(found, model_scores(SOFTMAX, table(5)))
    assert [int(row["label"]) for row in rows] == [
        [0, 1, 5][k] for k in np.argmax(found, axis=1)
    ]


def test_infer_reads_sql_from_stdin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(SQL))
    assert len(json.loads(run("infer", "--model", "2", "--sql", "-")[1])) == 5


def test_infer_into_a_table_of_the_hospital(run: Run, site: Path) -> None:
    (site.parent / "theirs").mkdir()
    address = f"duckdb:///{site.parent}/theirs/scores.duckdb"
    settings = site / "settings.toml"
    settings.write_text(f'predictions_url = "{address}"\n' + settings.read_text())
    words = ("infer", "--model", "1", "--sql", SQL, "--into", "main.scores")
    for _ in range(2):
        code, out, err = run(*words)
        assert (code, out) == (0, "")
        assert err == "Wrote 5 predictions into main.scores.\n"
    with duckdb.connect(str(site.parent / "theirs" / "scores.duckdb")) as connection:
        query = "SELECT id, value FROM main.scores ORDER BY id"
        found = connection.execute(query).fetchall()
    assert [one for one, _ in found] == ["100", "101", "102", "103", "104"]
    expected = model_scores(LR, table(5))
    np.testing.assert_allclose([value for _, value in found], expected)
    assert ledger(site)[-1]["into"] == "main.scores"


def test_infer_on_a_schedule(site: Path) -> None:
    """Each second, until somebody ends it; a time that fails ends it not."""
    into = site.parent / "scores.csv"
    command = [sys.executable, "-m", "deployments.agent", "infer", "--site", str(site)]
    options = ["--model", "1", "--sql", SQL, "--into", str(into)]
    policy = (site / "policy.toml").read_text()
    times = ["--cron", "* * * * * *", "--timezone", "Asia/Shanghai"]
    folder = Path(__file__).parents[2]
    with subprocess.Popen(
        [*command, *options, *times], cwd=folder, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        assert "+08:00" in next(lines)
        assert next(line for line in lines if "Wrote" in line)
        (site / "policy.toml").write_text("")
        assert next(line for line in lines if "silence means no" in line)
        (site / "policy.toml").write_text(policy)
        assert next(line for line in lines if "Wrote" in line)
        process.terminate()
    with into.open() as file:
        assert len(list(csv.DictReader(file))) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cron", "0 6 * * *"], "--cron is given without --into"),
        (["--into", "a.csv", "--cron", "monthly"], "--cron is not readable"),
        (
            ["--into", "a.csv", "--cron", "@daily", "--timezone", "GMT+8"],
            "Write a place, as Asia/Shanghai",
        ),
        (["--into", "data.scores"], "Set predictions_url in settings.toml"),
    ],
)
def test_where_and_when_predictions_go_is_checked_first(
    run: Run, site: Path, options: list[str], words: str
) -> None:
    code, out, err = run("infer", "--model", "1", "--sql", SQL, *options)
    assert (code, out) == (2, "")
    assert words in err
    assert ledger(site) == []


REFUSALS = [
    ("SELECT id, x1, x2 FROM data.patients", "missing_column", "x3"),
    ("SELECT * FROM data.patients WHERE id < 0", "no_rows", "no rows"),
    ("SELECT * FROM data.others", "tables", "not open"),
    (
        "SELECT id, x1, x2, 'a' AS x3 FROM data.patients WHERE id < 110",
        "not_numeric",
        "x3",
    ),
    (
        "SELECT 7 AS id, x1, x2, x3 FROM data.patients WHERE id < 110",
        "duplicate_unique_id",
        "id",
    ),
    ("SELECT * FROM read_csv('/etc/passwd')", "tables", "FROM"),
    ("DROP TABLE data.patients", "statement", "no SELECT"),
    ("SELECT FROM (", "sql", "cannot be read"),
]


@pytest.mark.parametrize(("sql", "rule", "words"), REFUSALS)
def test_infer_says_what_is_wrong_and_writes_it_down(
    run: Run, site: Path, sql: str, rule: str, words: str
) -> None:
    code, out, err = run("infer", "--model", "1", "--sql", sql)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert [(e["event"], e["rule"]) for e in ledger(site)] == [("refused", rule)]


def test_infer_answers_all_rows_but_those_without_a_value(run: Run) -> None:
    sql = "SELECT * FROM data.patients WHERE id > 115"
    code, out, _ = run("infer", "--model", "1", "--sql", sql)
    entries = json.loads(out)
    lacking = [entry for entry in entries if entry["label"] is None]
    assert code == 0
    assert [entry["reason"] for entry in lacking] == ["no value in x2"]
    assert len(entries) > 1
    code, out, _ = run("infer", "--model", "1", "--sql", sql, "--csv")
    head, *rows = out.splitlines()
    assert head == "id,label,reason"
    assert sum(row.endswith(",,no value in x2") for row in rows) == 1


def test_infer_needs_a_policy_that_says_so(run: Run, site: Path) -> None:
    policy = site / "policy.toml"
    policy.write_text(POLICY.replace("allowed = true", "allowed = false"))
    assert "does not allow inference" in run("infer", "--model", "1", "--sql", SQL)[2]
    policy.unlink()
    assert "silence means no" in run("infer", "--model", "1", "--sql", SQL)[2]


def test_values_beyond_floats_are_a_sentence(run: Run) -> None:
    sql = "SELECT id, x1, 1e308::DOUBLE AS x2, x3 FROM data.patients WHERE id < 105"
    code, _, err = run("infer", "--model", "2", "--sql", sql)
    assert code == 2
    assert err.startswith("The model cannot be applied to these rows: ")


def test_the_predictor_itself(site: Path) -> None:
    """The same through its own function: what the flow calls."""
    party = open_party(load_settings(site), 5, MemoryTransport())
    assert [entry["id"] for entry in predict(party, 2, SQL)] == [
        "100",
        "101",
        "102",
        "103",
        "104",
    ]
    top = predict(party, 3, SQL)[0]
    assert (
        top["label"] == [0, 1, 5][int(np.argmax(list(top["probabilities"].values())))]
    )
    assert sum(top["probabilities"].values()) == pytest.approx(1)
    for sql, rule, words in REFUSALS:
        with pytest.raises((BadRequest, Refused)) as caught:
            predict(party, 1, sql)
        assert caught.value.code == rule
        assert words in str(caught.value)
    with pytest.raises(NotFound):
        predict(party, 6, SQL)


# A person's decisions


def ask_about(site: Path, order_id: int, purpose: str = "Ward 3") -> Approvals:
    terms = {
        "kind": "training", "initiator": 3, "parties": [2, 3], "receivers": [2, 3], "purpose": purpose,
        "data": {"train": "SELECT *\nFROM data.patients"}, "columns": ["id", "x1"], "method": "Mask", "scoring": "none",
        "details": {"model_type": "lr"}, "names": {"2": "协和", "3": "East"},
    }  # fmt: skip
    approvals = Approvals(load_settings(site))
    approvals.ask(order_id, "ab" * 32, terms)
    return approvals


def test_approvals_say_all_that_an_order_says_and_are_safe_for_a_terminal(
    run: Run, site: Path
) -> None:
    ask_about(site, 7, "\x1b[2J wards")
    code, out, err = run("approvals")
    assert (code, err) == (
        0,
        "1 waiting. Decide by `approve ORDER_ID` or `refuse ORDER_ID`.\n",
    )
    for words in (
        "order 7, since ",
        "3 East",
        "2 协和, 3 East",
        "\\u001b[2J wards",
        "SELECT *\\u000aFROM",
        "Mask",
        "lr",
    ):
        assert words in out
    assert [
        question["order_id"] for question in json.loads(run("approvals", "--json")[1])
    ] == [7]


def test_nothing_waits(run: Run) -> None:
    assert run("approvals") == (0, "", "0 waiting.\n")
    assert run("approvals", "--json") == (0, "[]\n", "")


@pytest.mark.parametrize(
    ("command", "word"), [("approve", "approved"), ("refuse", "refused")]
)
def test_a_decision_is_told_and_written_down(
    run: Run, site: Path, command: str, word: str
) -> None:
    approvals = ask_about(site, 7)
    code, out, err = run(command, "7", "--reason", " as agreed ")
    assert (code, err) == (0, "")
    assert out.startswith(f"Order 7 is {word} by ")
    made = approvals.decision(7, "ab" * 32)
    assert made is not None
    assert (made.decision, made.reason, made.person) == (word, "as agreed", person())
    assert [(e["event"], e.get("decision")) for e in ledger(site)] == [
        ("asked", None),
        ("decided", word),
    ]
    assert f"{word} by {person()}" in run("ledger", "--order", "7")[1]


def test_what_does_not_wait_is_not_decided(run: Run, site: Path) -> None:
    ask_about(site, 7)
    assert run("approve", "7")[0] == 0
    for words in (
        ["refuse", "7"],
        ["approve", "7"],
        ["approve", "8"],
        ["refuse", "0", "--reason", "no"],
    ):
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1


# Results of joint statistics


def fill_results(site: Path) -> Path:
    folder = load_settings(site).results_folder
    notes = {"method": "sum", "providers": [2, 3], "withheld": []}
    named = {"alias": "total", "notes": notes}
    write_result(
        folder,
        37,
        type="csv",
        columns=["sex", "total"],
        rows=[["女\x1b[2J", 1.5], [None, 2]],
        **named,
    )
    write_result(folder, 38, type="json", columns=["total"], rows=[[0.1]], **named)
    return folder


def test_results_are_listed(run: Run, site: Path) -> None:
    assert run("results", "list") == (0, "", "")
    folder = fill_results(site)
    code, out, err = run("results", "list")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["37", "sum", str(folder / "37/total.csv")],
        ["38", "sum", str(folder / "38/total.json")],
    ]
    found = json.loads(run("results", "list", "--json")[1])
    assert [(result["order_id"], result["notes"]["n_rows"]) for result in found] == [
        (37, 2),
        (38, 1),
    ]


def test_a_result_is_shown_with_its_notes_beside_it(run: Run, site: Path) -> None:
    fill_results(site)
    code, out, err = run("results", "show", "37")
    assert (code, out) == (0, "sex,total\n女\\u001b[2J,1.5\n,2\n")
    assert "method: sum" in err.splitlines()
    assert "providers: [2, 3]" in err.splitlines()
    assert json.loads(run("results", "show", "38")[1]) == [{"total": 0.1}]


def test_a_result_as_json_only(run: Run, site: Path) -> None:
    fill_results(site)
    code, out, err = run("results", "show", "37", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["rows"] == [
        {"sex": "女\x1b[2J", "total": "1.5"},
        {"sex": "", "total": "2"},
    ]
    assert (found["order_id"], found["type"], found["notes"]["method"]) == (
        37,
        "csv",
        "sum",
    )
    assert json.loads(run("results", "show", "38", "--json")[1])["rows"] == [
        {"total": 0.1}
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["show", "9"], "This hospital holds no result of order 9."),
        (["show"], "An order's number belongs to show"),
        (["list", "9"], "An order's number belongs to show"),
    ],
)
def test_results_that_cannot_be_shown(
    run: Run, words: list[str], sentence: str
) -> None:
    code, out, err = run("results", *words)
    assert (code, out) == (2, "")
    assert err.startswith(sentence)


# The self-test


class Net:
    """What a coordinator and a Prefect server answer, each answer replaceable."""

    def __init__(self, settings: SiteSettings) -> None:
        self.asked: list[httpx.Request] = []
        known = [
            {"user_id": 2, "fingerprint": None},
            {"user_id": 3, "fingerprint": PARTNER},
        ]
        self.answers: dict[str, httpx.Response] = {
            "/health": httpx.Response(
                200,
                json={"code": 200, "data": {"ready": True, **TOLD}},
                headers=_date(NOW),
            ),
            "/hospitals": httpx.Response(
                200, json={"code": 200, "data": {"hospitals": known}}
            ),
            PREFECT_POOL: httpx.Response(
                200, json={"type": "hospital", "is_paused": False}
            ),
        }
        self.settings = settings

    def client(self, url: str) -> httpx.Client:
        def answer(request: httpx.Request) -> httpx.Response:
            self.asked.append(request)
            return self.answers[request.url.path]

        return httpx.Client(base_url=url, transport=httpx.MockTransport(answer))

    def coordinator(self) -> list[Finding]:
        with self.client(self.settings.coordinator_url) as client:
            return guarded(
                "coordinator",
                lambda: check_coordinator(client, self.settings, now=lambda: NOW),
            )

    def prefect(self) -> list[Finding]:
        with self.client(self.settings.prefect_url) as client:
            return guarded("prefect", lambda: check_prefect(client, self.settings))


def _date(moment: datetime) -> dict[str, str]:
    return {"Date": format_datetime(moment, usegmt=True)}


@pytest.fixture
def net(site: Path) -> Net:
    return Net(load_settings(site))


def states(findings: list[Finding]) -> dict[str, str]:
    """The worst state of each check."""
    order = ["ok", "warn", "wrong"]
    worst: dict[str, str] = {}
    for finding in findings:
        assert finding.sentence.endswith(".")
        assert finding.remedy or finding.state == "ok"
        worst[finding.check] = max(
            worst.get(finding.check, "ok"), finding.state, key=order.index
        )
    return worst


def problem(findings: list[Finding]) -> Finding:
    (found,) = [finding for finding in findings if finding.state != "ok"]
    return found


def test_an_installation_without_fault(site: Path, net: Net) -> None:
    local = states(check_site(site))
    assert (
        local.pop("coordinator") == local.pop("prefect") == "wrong"
    )  # nobody listens on port 9
    assert set(local.values()) == {"ok"}
    assert set(local) == {
        "settings",
        "environment",
        "python",
        "glibc",
        "state",
        "disk",
        "token",
        "policy",
        "database",
        "tables",
        "keys",
        "partners",
    }
    assert states(net.coordinator()) == {
        "coordinator": "ok",
        "clock": "ok",
        "version": "ok",
        "protocol": "ok",
        "token": "ok",
    }
    assert states(net.prefect()) == {"prefect": "ok", "pool": "ok"}
    assert net.asked[1].headers["Authorization"] == "Bearer abc"


def test_check_prints_a_line_each_and_its_code_says_whether_anything_is_wrong(
    run: Run,
) -> None:
    code, out, err = run("check")
    assert (code, err) == (1, "")
    assert sum(line.startswith("WRONG  ") for line in out.splitlines()) == 2
    assert "ok     database     Answers read-only, with 1 tables and views." in out
    code, out, _ = run("check", "--json")
    assert code == 1
    assert {"check", "state", "sentence", "remedy"} == set(json.loads(out)[0])


def test_a_policy_is_checked_without_a_site(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "draft.toml"
    path.write_text(POLICY)
    assert main(["check", "--policy", str(path)]) == 0
    assert (
        capsys.readouterr().out
        == "ok     policy       Opens data.patients for Paillier.\n"
    )
    path.write_text(POLICY.replace("sign = true", "sing = true"))
    assert main(["check", "--policy", str(path), "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert (finding["check"], finding["state"]) == ("policy", "wrong")
    assert (
        finding["sentence"]
        == f"orders.sign is missing in {path}, and silence means no."
    )
    assert main(["check", "--policy", str(tmp_path / "none.toml")]) == 1
    assert capsys.readouterr().out.startswith(
        "WRONG  policy       There is no policy at "
    )


def test_a_policy_is_checked_alone_or_with_its_site(run: Run, site: Path) -> None:
    code, out, err = run("check", "--policy", str(site / "policy.toml"))
    assert (code, out) == (2, "")
    assert err.startswith("Both a site and a policy are given. ")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def break_settings(site: Path) -> None:
    replace(site / "settings.toml", "user_id = 2", "user_id = ")


def break_policy(site: Path) -> None:
    (site / "policy.toml").unlink()


def break_table(site: Path) -> None:
    replace(site / "policy.toml", "data.patients", "data.patient")


def break_columns(site: Path) -> None:
    replace(
        site / "policy.toml",
        'columns = ["*"]',
        'columns = ["id", "X1", "x9"]\nfilter_columns = ["sex"]',
    )


def break_database(site: Path) -> None:
    (load_settings(site).state / "hospital.duckdb").write_bytes(b"not a database")


def lose_database(site: Path) -> None:
    (load_settings(site).state / "hospital.duckdb").unlink()


def break_url(site: Path) -> None:
    replace(
        site / "settings.toml",
        "[[partners]]",
        'data_url = "oracle://a:geheim@b/c"\n[[partners]]',
    )


def without_driver(site: Path) -> None:
    replace(
        site / "settings.toml",
        "[[partners]]",
        'data_url = "mysql://a:geheim@b/c"\n[[partners]]',
    )


def fill_disk(site: Path) -> None:
    disk = load_settings(site).state
    (disk / f".room.{os.getpid()}.tmp").mkdir()


def open_policy(site: Path) -> None:
    (site / "policy.toml").chmod(0o646)


def break_token(site: Path) -> None:
    token(load_settings(site), "abc", 0o644)


def break_keys(site: Path) -> None:
    (load_settings(site).vault / "identity.json").write_text("{}")


def break_vault_mode(site: Path) -> None:
    load_settings(site).vault.chmod(0o755)


def break_fingerprint(site: Path) -> None:
    replace(site / "settings.toml", PARTNER, PARTNER[:-1])


def pin_oneself(site: Path) -> None:
    replace(
        site / "settings.toml",
        PARTNER,
        Vault(load_settings(site).vault).identity().public.fingerprint,
    )


def name_unpinned(site: Path) -> None:
    replace(site / "policy.toml", "initiators = [2, 3]", "initiators = [2, 3, 4]")


@pytest.mark.parametrize(
    ("damage", "check", "words"),
    [
        (break_settings, "settings", "is not TOML"),
        (break_policy, "policy", "silence means no"),
        (break_table, "tables", "no table data.patient."),
        (break_columns, "tables", "no column x9, sex."),
        (break_database, "database", "database"),
        (lose_database, "database", "There is no DuckDB file"),
        (break_url, "database", "database URL"),
        (without_driver, "database", "driver"),
        (fill_disk, "disk", "is full"),
        (open_policy, "settings", "written by every user"),
        (break_token, "token", "can be read by others"),
        (break_keys, "keys", "is damaged"),
        (break_vault_mode, "state", "open to other users"),
        (break_fingerprint, "partners", "is not one"),
        (pin_oneself, "partners", "of this hospital itself"),
        (name_unpinned, "partners", "hospital 4, which is not pinned"),
    ],
)
def test_what_is_wrong_is_found_and_the_rest_still_checked(
    site: Path, damage: Callable[[Path], None], check: str, words: str
) -> None:
    damage(site)
    findings = check_site(site)
    found = next(f for f in findings if f.check == check and f.state == "wrong")
    assert words in found.sentence
    assert found.remedy
    assert "policy" in states(findings)
    text = " ".join(f"{f.sentence} {f.remedy}" for f in findings)
    assert "unplanned" not in text
    assert "geheim" not in text


def test_no_keys_yet_is_no_fault_and_makes_none(site: Path) -> None:
    path = load_settings(site).vault / "identity.json"
    path.unlink()
    assert states(check_site(site))["keys"] == "warn"
    assert not path.exists()


def test_method_none_is_worth_a_look(site: Path) -> None:
    replace(site / "policy.toml", '["Paillier"]', '["Paillier", "None"]')
    assert states(check_site(site))["policy"] == "warn"


@pytest.mark.parametrize(
    ("seconds", "state"), [(0, "ok"), (5, "ok"), (6, "warn"), (-5, "ok"), (-6, "warn")]
)
def test_the_clock_at_its_threshold(seconds: int, state: str) -> None:
    assert (
        check_clock(_date(NOW - timedelta(seconds=seconds))["Date"], now=NOW).state
        == state
    )


@pytest.mark.parametrize(
    "date", [None, "", "yesterday", "Tue, 04 Mar 2025 05:06:07 -0000"]
)
def test_a_time_that_is_none(date: str | None) -> None:
    assert check_clock(date, now=NOW).state == "warn"


@pytest.mark.parametrize(
    ("path", "answer", "check", "state"),
    [
        (
            "/health",
            httpx.Response(
                200, json={"data": {**TOLD, "version": "0.9"}}, headers=_date(NOW)
            ),
            "version",
            "wrong",
        ),
        (
            "/health",
            httpx.Response(503, json={"data": {"ready": False}}, headers=_date(NOW)),
            "coordinator",
            "warn",
        ),
        (
            "/health",
            httpx.Response(502, text="<html>", headers=_date(NOW)),
            "coordinator",
            "wrong",
        ),
        ("/health", httpx.Response(307, headers=_date(NOW)), "coordinator", "wrong"),
        ("/hospitals", httpx.Response(401), "token", "wrong"),
        ("/hospitals", httpx.Response(403), "token", "wrong"),
        ("/hospitals", httpx.Response(500), "coordinator", "wrong"),
        ("/hospitals", httpx.Response(200, text="[]"), "coordinator", "wrong"),
        (
            "/hospitals",
            httpx.Response(200, json={"data": {"hospitals": []}}),
            "registry",
            "wrong",
        ),
        (PREFECT_POOL, httpx.Response(403), "prefect", "wrong"),
        (PREFECT_POOL, httpx.Response(503), "prefect", "wrong"),
        (PREFECT_POOL, httpx.Response(404), "pool", "wrong"),
        (
            PREFECT_POOL,
            httpx.Response(200, json={"type": "process"}),
            "pool",
            "wrong",
        ),
        (
            PREFECT_POOL,
            httpx.Response(200, text="no JSON"),
            "pool",
            "wrong",
        ),
        (
            PREFECT_POOL,
            httpx.Response(200, json={"type": "hospital", "is_paused": True}),
            "pool",
            "warn",
        ),
    ],
)
def test_what_the_other_side_answers(
    net: Net, path: str, answer: httpx.Response, check: str, state: str
) -> None:
    net.answers[path] = answer
    findings = net.prefect() if path == PREFECT_POOL else net.coordinator()
    assert states(findings)[check] == state


@pytest.mark.parametrize(
    ("theirs", "state", "command"),
    [
        # The coordinator is the first to be upgraded.
        ("99.0.0", "warn", "--bundle consilium-agent-99.0.0-py3"),
        ("0.0.1", "wrong", "upgrade --back"),
    ],
)
def test_another_version_at_the_coordinator(
    net: Net, theirs: str, state: str, command: str
) -> None:
    net.answers["/health"] = httpx.Response(
        200, json={"data": {**TOLD, "version": theirs}}, headers=_date(NOW)
    )
    found = problem(net.coordinator())
    assert (found.check, found.state) == ("version", state)
    assert VERSION in found.sentence
    assert theirs in found.sentence
    assert command in found.remedy


@pytest.mark.parametrize(
    ("oldest", "newest", "state", "words"),
    [
        (SPOKEN.newest, SPOKEN.newest + 1, "warn", "The hospital's IT upgrades"),
        (SPOKEN.newest + 1, SPOKEN.newest + 2, "wrong", "every order is refused"),
        (SPOKEN.oldest, SPOKEN.newest - 1, "wrong", "The operator upgrades"),
        (SPOKEN.oldest - 1, SPOKEN.oldest - 1, "wrong", "every order is refused"),
        # A coordinator of before there was more than one says none.
        (None, None, "wrong", "The operator upgrades"),
    ],
)
def test_a_coordinator_that_speaks_another_protocol(
    net: Net, oldest: int | None, newest: int | None, state: str, words: str
) -> None:
    """To lag within the window is worth a look; outside of it nothing works."""
    told = {"version": VERSION, "protocol": newest, "oldest_protocol": oldest}
    net.answers["/health"] = httpx.Response(
        200, json={"data": told}, headers=_date(NOW)
    )
    found = problem(net.coordinator())
    assert (found.check, found.state) == ("protocol", state)
    assert words in f"{found.sentence} {found.remedy}"
    assert f"speaks protocol {SPOKEN}" in found.sentence


def test_a_policy_that_takes_the_newest_only_is_what_is_compared(net: Net) -> None:
    policy = net.settings.policy
    policy.write_text(
        policy.read_text().replace(
            "[orders]", f"[orders]\noldest_protocol = {SPOKEN.newest}"
        )
    )
    (found,) = [one for one in net.coordinator() if one.check == "protocol"]
    assert (found.state, found.sentence) == (
        "ok",
        f"Speaks {SPOKEN.newest}, as the coordinator.",
    )


def test_another_key_at_the_coordinator_than_the_pinned_one(net: Net) -> None:
    other = Identity.generate(lambda n: b"q" * n).public.fingerprint
    for user_id, words in ((2, "this hospital"), (3, "hospital 3")):
        rows = [
            {"user_id": u, "fingerprint": other if u == user_id else None}
            for u in (2, 3)
        ]
        net.answers["/hospitals"] = httpx.Response(
            200, json={"data": {"hospitals": rows}}
        )
        assert words in problem(net.coordinator()).sentence


def test_prefect_is_asked_with_the_agents_own_token(net: Net) -> None:
    net.prefect()
    assert [call.headers["Authorization"] for call in net.asked] == ["Bearer abc"]


def test_a_secret_over_plain_http_is_worth_a_look(net: Net) -> None:
    with net.client("http://coordinator.example") as client:
        assert (
            "not https"
            in problem(
                list(check_coordinator(client, net.settings, now=lambda: NOW))
            ).sentence
        )
    with net.client("https://coordinator.example") as client:
        assert {
            f.state for f in check_coordinator(client, net.settings, now=lambda: NOW)
        } == {"ok"}


def test_an_unplanned_error_of_a_check_tells_its_kind_only() -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("database", "ok", "One.")
        raise RuntimeError("canary-447")

    first, second = guarded("database", broken)
    assert (first.state, second.state) == ("ok", "wrong")
    assert "RuntimeError" in second.sentence
    assert "447" not in second.sentence + second.remedy


# What has left


def have(
    site: Path,
    name: str,
    n_members: int,
    *,
    order_id: int,
    receivers: tuple[str, ...] = ("3",),
    column: str = "x1",
) -> Memory:
    """A total over that many rows, reserved."""
    memory = Memory(Vault(load_settings(site).vault).cohorts)
    place = ColumnName("data.patients", column, "1, persons")
    with memory.opened() as transaction:
        ids = np.arange(1, n_members + 1, dtype=np.uint64)
        members = transaction.number_members(place, ids, ids)
        opened = OpenedSet(place, members, name, order_id, {3: Fraction(1)}, 2)
        transaction.keep(receivers, [opened], at=NOW)
    return memory


def test_what_has_left_is_listed_by_receiver_and_population(
    run: Run, site: Path
) -> None:
    assert run("cohorts") == (0, "", "Nothing has left so far.\n")
    for column in ("x1", "x2"):
        have(site, "train", 854, order_id=7, column=column).commit(7)
    have(site, '["\x1b[2J"]', 20, order_id=9, receivers=("3", "coordinator"))
    code, out, err = run("cohorts", "list")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["hospital", "3,", "data.patients"],
        ["order", "when", "(UTC)", "rows", "total", "columns"],
        ["7", "2025-03-04", "05:06", "left", "854", "train", "x1,", "x2"],
        ["9", "2025-03-04", "05:06", "reserved", "20", '["\\u001b[2J"]', "x1"],
        [],
        ["coordinator,", "data.patients"],
        ["order", "when", "(UTC)", "rows", "total", "columns"],
        ["9", "2025-03-04", "05:06", "reserved", "20", '["\\u001b[2J"]', "x1"],
        [],
    ]
    found = json.loads(run("cohorts", "--json")[1])
    assert len(found) == 4
    assert found[0] == {
        "receiver": "3",
        "population": "data.patients",
        "column": "x1",
        "name": "train",
        "order_id": 7,
        "n_rows": 854,
        "at": "2025-03-04T05:06:07+00:00",
        "has_left": True,
    }


FORGET = ("cohorts", "forget", "--receiver", "3", "--population", "data.patients")


@pytest.mark.parametrize("answer", ["", "no\n", "y\n"])
def test_nothing_is_forgotten_unless_a_person_says_yes(
    run: Run, site: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    memory = have(site, "train", 30, order_id=7)
    memory.commit(7)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    code, out, err = run(*FORGET)
    assert (code, out) == (1, "")
    assert "not taken back" in err
    assert err.endswith("Nothing was forgotten.\n")
    assert len(memory.list_opened()) == 1
    assert list(Ledger(load_settings(site).ledger).entries()) == []


@pytest.mark.parametrize("said", ["on the terminal", "by the option"])
def test_what_is_forgotten_is_in_the_ledger(
    run: Run, site: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    receivers = ("3", "4")
    have(site, "train", 30, order_id=7, receivers=receivers).commit(7)
    memory = have(site, "train", 30, order_id=8, receivers=receivers)
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    options = ["--yes"] if said == "by the option" else []
    code, out, err = run(*FORGET, *options)
    assert (code, out) == (0, "Forgotten: 1 total(s) of 1 order(s).\n")
    assert "not taken back" in err
    left = [(one.receiver, one.order_id) for one in memory.list_opened()]
    # An order under way keeps what it has reserved.
    assert left == [("3", 8), ("4", 7), ("4", 8)]
    (entry,) = Ledger(load_settings(site).ledger).entries()
    assert (entry["event"], entry["receiver"]) == ("forgotten", "3")
    assert (entry["population"], entry["n_orders"]) == ("data.patients", 1)
    assert entry["person"] == person()
    assert "are forgotten" in run("ledger")[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["forget"], "It is not clear"),
        (["forget", "--receiver", "3"], "It is not clear"),
        (["forget", "--population", "a", "--receiver", "3"], "has nothing of a"),
        (["check", "--receiver", "3"], "by their SQL"),
        (["check", "--sql", "SELECT 1"], "by their SQL"),
        (["check", "--sql", "SELECT 1", "--receiver", "West"], "by their SQL"),
        (
            ["check", "--sql", "SELECT id FROM data.patients", "--receiver", "3"],
            "no other column",
        ),
    ],
)
def test_what_cohorts_cannot_do(run: Run, words: list[str], sentence: str) -> None:
    code, out, err = run("cohorts", *words)
    assert (code, out) == (2, "")
    assert sentence in err


def check(run: Run, where: str, receiver: str = "3") -> tuple[int, str, str]:
    sql = f"SELECT id, x1, x3, y FROM data.patients WHERE {where}"
    return run("cohorts", "check", "--sql", sql, "--receiver", receiver)


def test_rows_are_checked_before_an_order_is_sent(run: Run, site: Path) -> None:
    """As the gate would: earlier rows of the same table, whoever sends the order."""
    settings = load_settings(site)
    memory = Memory(Vault(settings.vault).cohorts)
    assert check(run, "true") == (0, "passes   20 rows\n", "")
    assert check(run, "id < 109")[:2][0] == 1
    assert "min_rows" in check(run, "id < 109")[1]
    assert memory.list_opened() == []
    no_orders = list((settings.vault / "orders").glob("*"))

    # What a training order of these rows keeps.
    with opened_rows(settings, "SELECT * FROM data.patients", columns=["x1"]) as rows:
        members = members_of(rows, ["x1"], key=memory.key)
    policy = load_policy(settings.policy)
    asked = asked_sets(
        members,
        policy,
        population="data.patients",
        columns=["x1"],
        rows={"train": np.arange(20)},
        parts={3: Fraction(1)},
    )
    rules = AuditRules(min_rows=10, least_hospitals=2, budget_days=30)
    reserve(
        memory,
        asked,
        receivers=["3"],
        order_id=7,
        rules=rules,
        has_ended=lambda number: False,
        now=NOW,
    )
    code, out, _ = check(run, "id <> 105")
    assert code == 1
    assert out.startswith("refused  earlier_cohort")
    assert "order 7, which is under way" in out
    memory.commit(7)
    code, out, _ = check(run, "id <> 105")
    assert (code, out.split()[:2]) == (1, ["refused", "earlier_cohort"])
    assert check(run, "true")[0] == 0
    assert check(run, "id <> 105", receiver="coordinator")[0] == 0
    assert check(run, "id < 110")[0] == 0
    assert len(memory.list_opened()) == 1
    assert list((settings.vault / "orders").glob("*")) == no_orders
