"""A study of four hospitals with three kinds of databases, on raw columns with gaps and
codes: the joint design matrix, the weights of every fold and the held-out metrics are
those of the pooled table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
import sqlalchemy as sa

from agents.gate.memory import Memory
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from agents.training import fold_end
from agents.training.row_sets import split
from analytics.training.descent import train
from analytics.training.margins import scores
from analytics.training.models import Model
from deployments.local.one_process import OrderOutcome, run_order
from protocol.training_request import parse_training_request
from tests.made_databases import MARIADB, POSTGRES, create_schema, drop_schema
from tests.made_heart import (
    STUDY,
    heart_tables,
    made_tables,
    pooled_design,
    used_rows,
)
from tests.made_sites import make_sites, order_body
from tests.made_statistics import no_waiting_for_disks
from tests.pairwise import quick

pytestmark = pytest.mark.slow

SCHEMA = f"consilium_study_{os.getpid()}"
# The gate's numbers are tested elsewhere; here, tables as they are.
COHORT = "min_rows = 1\nmin_varying = 1\nmax_parameter_share = 1"
N_FOLDS = 5
ROUNDS = 8
Tables = dict[int, pd.DataFrame]


@pytest.fixture(scope="module", autouse=True)
def without_waiting() -> Iterator[None]:
    with no_waiting_for_disks():
        yield


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, sa.Engine]]:
    """A schema in PostgreSQL and one in MariaDB; dropped at the end."""
    found: dict[str, sa.Engine] = {}
    for url in (POSTGRES, MARIADB):
        create_schema(url, SCHEMA)
        found[url] = sa.create_engine(url, poolclass=sa.pool.NullPool)
    yield found
    for url in found:
        drop_schema(url, SCHEMA)


def write(engine: sa.Engine, frame: pd.DataFrame) -> None:
    """The table as such databases have it: whole numbers, exact decimals, NULL."""
    kinds = dict.fromkeys(frame.columns, "DECIMAL(8, 2)")
    kinds.update(
        {"id": "INTEGER", "cp": "SMALLINT", "restecg": "INTEGER", "y": "INTEGER"}
    )
    columns = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
    table = f"{SCHEMA}.rows_of"
    values = ", ".join(f":{name}" for name in frame.columns)
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")
        connection.exec_driver_sql(f"CREATE TABLE {table} ({columns})")
        connection.execute(sa.text(f"INSERT INTO {table} VALUES ({values})"), rows)


def make_hospitals(
    folder: Path, engines: dict[str, sa.Engine], tables: Tables
) -> dict[int, SiteSettings]:
    """Hospital 3 on PostgreSQL, hospital 4 on MariaDB, the others on DuckDB; of those
    hospital 5 keeps its codes as texts.
    """
    own: dict[int, dict[str, pd.DataFrame]] = {}
    for user, frame in tables.items():
        own[user] = {"rows_of": frame}
    texts = tables[5].copy()
    texts["cp"] = [f"{float(value):.1f} " for value in texts["cp"]]
    own[5] = {"rows_of": texts}
    sites = make_sites(folder, own, cohort=COHORT)
    for user, url in ((3, POSTGRES), (4, MARIADB)):
        write(engines[url], tables[user])
        sites[user] = replace(sites[user], data_url=url)
        policy = sites[user].policy
        text = policy.read_text().replace('"data.rows_of"', f'"{SCHEMA}.rows_of"')
        policy.write_text(text)
    return sites


class Watched:
    """Each hospital's rows as the model sees them, and every fold's weights."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.X: dict[int, Any] = {}
        self.weights: dict[int, Any] = {}
        finish = fold_end.finish_fold

        def finish_fold(trainer: Any, fold: Any) -> None:
            self.X[trainer.order.me] = trainer.rows.train.X
            self.weights[fold.number] = fold.checkpoint.weights
            finish(trainer, fold)

        monkeypatch.setattr(fold_end, "finish_fold", finish_fold)


def order(missing: dict[str, Any]) -> dict[str, Any]:
    columns = "id, y, age, cp, restecg, trestbps, thalach, oldpeak"
    data = {"2": "data", "3": SCHEMA, "4": SCHEMA, "5": "data"}
    sql = {user: f"SELECT {columns} FROM {name}.rows_of" for user, name in data.items()}
    params = {
        "optimizer": "nesterov_momentum_sgd",
        "penalty": "L2",
        "alpha": 0.01,
        "learning_rate": 0.1,
        "max_iter": ROUNDS,
        "standardize": True,
        "cv_param": {"need_cv": True, "n_splits": N_FOLDS},
    }
    return order_body(
        [2, 3, 4, 5], data_info=sql, model_params=params, **{**STUDY, **missing}
    )


@pytest.mark.parametrize(
    "missing",
    quick([{"missing": "drop"}, {"missing": "mean", "complete_on": ["restecg"]}], 1),
    ids=["drop", "mean"],
)
@pytest.mark.parametrize("read", quick([made_tables, heart_tables], 1))
def test_a_study_is_that_of_the_pooled_table(
    tmp_path: Path,
    engines: dict[str, sa.Engine],
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[], Tables],
    missing: dict[str, Any],
) -> None:
    tables = read()
    sites = make_hospitals(tmp_path, engines, tables)
    watched = Watched(monkeypatch)
    body = order(missing)
    outcome = run_order(sites, body)
    rows = used_rows(tables, missing)

    # The matrix
    model = outcome.models[2]
    reference = model["categorical"]["restecg"]["reference"]
    pooled_codes = pd.concat(rows.values())["restecg"]
    assert float(reference) == pooled_codes.value_counts().idxmax()
    X = pooled_design(rows, reference=reference)
    found = np.vstack([watched.X[user] for user in sorted(watched.X)])
    np.testing.assert_allclose(found, X, rtol=1e-12, atol=1e-12)
    assert X.shape[1] == len(model["features"])
    for name, kept in model["categorical"].items():
        codes = pd.concat(rows.values())[name].value_counts()
        assert kept["counts"] == {str(int(code)): n for code, n in codes.items()}

    # The weights of every fold, and what they say of the rows that they have not seen
    y = np.concatenate([frame["y"].to_numpy() for frame in rows.values()])
    summary = outcome.facts[-1]["summary"]
    told = []
    for fold in (*range(1, N_FOLDS + 1), 0):
        held_out = _held_out(body, rows, sites, fold)
        weights, score = _pooled_fold(X, y, held_out, body)
        np.testing.assert_allclose(watched.weights[fold], weights, rtol=1e-9, atol=1e-9)
        if fold:
            told.append((y[held_out], score))
            _assert_metrics(summary[str(fold)]["held_out"], [told[-1]])
    _assert_metrics(summary["held_out"], told)

    # How many rows
    n_used = {user: len(frame) for user, frame in rows.items()}
    _assert_flow(outcome, tables, n_used)


def _held_out(
    body: dict[str, Any], rows: Tables, sites: dict[int, SiteSettings], fold: int
) -> Any:
    """Which pooled rows a fold holds out."""
    request = parse_training_request(body)
    chosen, start = [], 0
    for user, frame in rows.items():
        key = Memory(Vault(sites[user].vault).cohorts).key
        own = split(request, len(frame), fold, key)
        chosen.append(start + np.asarray(own, dtype=int))
        start += len(frame)
    return np.sort(np.concatenate(chosen))


def _pooled_fold(X: Any, y: Any, held_out: Any, body: dict[str, Any]) -> Any:
    """Weights of the pooled run, and its scores of the rows held out."""
    kept = np.setdiff1d(np.arange(len(y)), held_out)
    mean, deviation = X[kept].mean(axis=0), X[kept].std(axis=0)
    scaled = (X - mean) / deviation
    model = Model("lr", X.shape[1])
    params = body["model_params"]
    names = ("optimizer", "penalty", "alpha", "learning_rate", "max_iter", "eps")
    trained = train(
        model,
        [(scaled[kept], y[kept].astype(float))],
        **{name: params[name] for name in names},
    )
    # The final model is of all rows.
    if not len(held_out):
        return trained.weights, np.zeros(0)
    return trained.weights, scores(model, trained.weights, scaled[held_out])


def _assert_metrics(found: dict[str, Any], told: list[Any]) -> None:
    y = np.concatenate([labels for labels, _ in told])
    score = np.concatenate([values for _, values in told])
    (tn, fp), (fn, tp) = skm.confusion_matrix(y, score > 0.5).tolist()
    bins = np.minimum(np.floor(score * 1000), 999)
    false_positive, true_positive, _ = skm.roc_curve(y, bins, drop_intermediate=False)
    counts = {"n_rows": len(y), "tn": tn, "fp": fp, "fn": fn, "tp": tp}
    assert {name: found[name] for name in counts} == counts
    expected = {
        "loss": skm.log_loss(y, score),
        "accuracy": skm.accuracy_score(y, score > 0.5),
        "auc": skm.roc_auc_score(y, bins),
        "ks": np.abs(true_positive - false_positive).max(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name


def _assert_flow(outcome: OrderOutcome, tables: Tables, n_used: dict[int, int]) -> None:
    told = outcome.facts[-1]["summary"]["rows"]
    n_selected = sum(len(frame) for frame in tables.values())
    n_all = sum(n_used.values())
    assert told["used"] == n_all
    assert (told["selected"], told["left_out"]) == (n_selected, n_selected - n_all)
    # COHORT asks for one row, so that no number is few.
    for user, numbers in told["hospitals"].items():
        left_out = len(tables[int(user)]) - n_used[int(user)]
        assert numbers["left_out"] == left_out
