"""An OMOP cohort definition at hospitals with three kinds of databases, ordered by its
name: in one process, and over a real federation.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
import sqlalchemy as sa
import statsmodels.api as sm

from agents.rows.cohort_refresh import refresh_cohort
from agents.rows.named_cohort import made_cohort
from agents.site.policy import load_policy
from agents.site.settings import SiteSettings
from deployments.local.one_process import run_order
from protocol.errors import BadRequest
from tests.conftest import RunningFederation
from tests.made_databases import MARIADB, POSTGRES, create_schema, drop_schema, run
from tests.made_omop import (
    COVARIATES,
    DEFINITION,
    expected_cohort,
    fill_omop,
    omop_tables,
)
from tests.made_sites import make_sites, order_body
from tests.made_statistics import SOME_ROWS

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

SCHEMA = f"consilium_omop_{os.getpid()}"
USERS = (2, 3, 4)
NAMES = {2: "suzhou-szslyy", 3: "zhejiang-zdey", 4: "shanxi-xbfy"}
NAME = "cohort:diabetes_v1"
KINDS = {
    "value_as_number": {POSTGRES: "NUMERIC", MARIADB: "DECIMAL(8, 2)"},
    "date": {POSTGRES: "DATE", MARIADB: "DATE"},
}


def section(sql: bytes, *, more: str = "") -> str:
    columns = json.dumps(["person_id", *COVARIATES, "ckd"])
    return (
        '\n[cohorts."diabetes_v1"]\nsql = "cohorts/diabetes_v1.sql"\nunique_id = "person_id"\n'
        f'sha256 = "{hashlib.sha256(sql).hexdigest()}"\ncolumns = {columns}\n{more}'
    )


def approve(site: Path, sql: bytes, *, more: str = "") -> None:
    """The definition beside the policy, and its section in it."""
    (site / "cohorts").mkdir(exist_ok=True)
    (site / "cohorts/diabetes_v1.sql").write_bytes(sql)
    policy = site / "policy.toml"
    policy.write_text(policy.read_text() + section(sql, more=more))


def order(**changes: Any) -> dict[str, Any]:
    params = {"optimizer": "newton", "eps": None, "max_iter": None, "penalty": None}
    return order_body(
        USERS,
        data_info=dict.fromkeys(map(str, USERS), NAME),
        unique_id="person_id",
        attributes=COVARIATES,
        label_name="ckd",
        model_params={**params, "encrypt_param": {"method": "Mask"}},
        scoring="none",
        **changes,
    )


def pooled_model(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Estimates and standard errors over all hospitals' rows, the intercept first."""
    rows = pd.concat(frames)
    X = sm.add_constant(rows[COVARIATES])
    fitted = sm.Logit(rows.ckd, X.astype(float)).fit(disp=0, tol=1e-12, method="newton")
    return pd.DataFrame({"estimate": fitted.params, "se": fitted.bse})


def check_report(report: dict[str, Any], frames: list[pd.DataFrame]) -> None:
    expected = pooled_model(frames)
    found = pd.DataFrame(report["terms"])[["estimate", "se"]].to_numpy()
    assert found == pytest.approx(expected.to_numpy(), rel=1e-6)


# Three kinds of databases


@pytest.fixture
def databases() -> Iterator[None]:
    made = []
    try:
        for url in (POSTGRES, MARIADB):
            create_schema(url, SCHEMA)
            made.append(url)
        yield
    finally:
        for url in made:
            drop_schema(url, SCHEMA)


def write(url: str, tables: dict[str, pd.DataFrame]) -> None:
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    for name, frame in tables.items():
        kinds = []
        for column in frame.columns:
            kind = KINDS.get("date" if column.endswith("_date") else column, {})
            kinds.append(f"{column} {kind.get(url, 'BIGINT')}")
        run(url, [f"CREATE TABLE {SCHEMA}.{name} ({', '.join(kinds)})"])
        places = ", ".join(f":{column}" for column in frame.columns)
        with engine.begin() as connection:
            connection.execute(
                sa.text(f"INSERT INTO {SCHEMA}.{name} VALUES ({places})"),
                frame.astype(object).to_dict("records"),
            )


def test_a_model_over_three_kinds_of_databases(tmp_path: Path, databases: None) -> None:
    sites = make_sites(
        tmp_path, {user: {"rows": SOME_ROWS} for user in USERS}, regroup=False
    )
    frames = []
    for user in USERS:
        tables = omop_tables(user)
        frames.append(expected_cohort(tables))
        settings = sites[user]
        sql = DEFINITION.read_bytes()
        if user == 2:
            fill_omop(settings.state / "hospital.duckdb", tables)
        else:
            url = POSTGRES if user == 3 else MARIADB
            write(url, tables)
            sites[user] = replace(settings, data_url=url)
            sql = sql.replace(b"omop.", f"{SCHEMA}.".encode())
        approve(settings.site, sql)
        refresh(sites[user])
        made = made_cohort(settings, "diabetes_v1")
        assert made is not None
        assert made.n_rows == len(frames[-1])
        assert set(made.numbers) == {"person_id", *COVARIATES, "ckd"}
    outcome = run_order(sites, order())
    for model in outcome.models.values():
        check_report(model["report"], frames)
    check_doubled(sites)


def refresh(settings: SiteSettings) -> None:
    policy = load_policy(settings.policy)
    refresh_cohort(settings, policy, "diabetes_v1", now=datetime.now(UTC))


def check_doubled(sites: dict[int, SiteSettings]) -> None:
    """Doubled people are counted alike, wherever they are, and the rows of before stay."""
    for user, url in ((3, POSTGRES), (4, MARIADB)):
        before = made_cohort(sites[user], "diabetes_v1")
        doubled = f"INSERT INTO {SCHEMA}.person SELECT * FROM {SCHEMA}.person WHERE year_of_birth < 1950"
        run(url, [doubled])
        with pytest.raises(BadRequest, match="values of person_id in more than one"):
            refresh(sites[user])
        assert made_cohort(sites[user], "diabetes_v1") == before


# A real federation


@contextmanager
def cohorts_at(federation: RunningFederation) -> Iterator[list[pd.DataFrame]]:
    """OMOP tables and an approved definition at all three sites, which are left as they
    were.
    """
    policies = {
        site: (federation.sites / site / "policy.toml").read_text()
        for site in NAMES.values()
    }
    frames = []
    try:
        for user, site in NAMES.items():
            tables = omop_tables(user)
            frames.append(expected_cohort(tables))
            fill_omop(federation.home / "sites" / site / "hospital.duckdb", tables)
            more = 'told = true\ndescription = "Adults with type 2 diabetes"\n'
            approve(federation.sites / site, DEFINITION.read_bytes(), more=more)
            made = federation.agent(site, "cohorts", "refresh")
            assert made.returncode == 0, made.stderr
        yield frames
    finally:
        for site, text in policies.items():
            (federation.sites / site / "policy.toml").write_text(text)
            shutil.rmtree(federation.sites / site / "cohorts")
            state = federation.home / "sites" / site
            shutil.rmtree(state / "vault" / "named_cohorts")
            with duckdb.connect(str(state / "hospital.duckdb")) as database:
                database.execute("DROP SCHEMA omop CASCADE")


def test_another_hospital_orders_it_by_name(federation: RunningFederation) -> None:
    with cohorts_at(federation) as frames:
        order_id = federation.submit(order())
        found = federation.wait_for(order_id)
        assert found["state"] == "success", found["refusal"]
        answer = federation.agent(NAMES[4], "report", "--model", str(order_id))
        check_report(json.loads(answer.stdout), frames)
        listed = json.loads(
            federation.agent(NAMES[2], "cohorts", "named", "--json").stdout
        )
        assert [one["n_rows"] for one in listed] == [len(frames[0])]

        # What is told of it, and nothing of its SQL.
        with federation.client(3) as client:
            hospitals = client.get("/hospitals").json()["data"]["hospitals"]
        for hospital in hospitals:
            assert hospital["policy"]["cohorts"] == [
                {"name": "diabetes_v1", "description": "Adults with type 2 diabetes"}
            ]
        assert "primary_events" not in json.dumps([hospitals, found])
        store = b"".join(
            path.read_bytes()
            for path in (federation.home / "coordinator").rglob("*")
            if path.is_file()
        )
        assert b"primary_events" not in store

        # Neither another name nor anything beside it.
        for text, code in (
            ("cohort:diabetes_v2", "tables"),
            (f"{NAME} WHERE age > 60", "cohort_name"),
        ):
            data = dict.fromkeys(map(str, USERS), text)
            assert refusal(federation, {**order(), "data_info": data}) == code

        # A file that somebody has changed since.
        definition = federation.sites / NAMES[3] / "cohorts/diabetes_v1.sql"
        definition.write_text(definition.read_text() + "-- and\n")
        assert refusal(federation, order()) == "cohort_definition"


def refusal(federation: RunningFederation, body: dict[str, Any]) -> str:
    """The code by which an order is refused, at once or by a hospital later; nothing of
    the definition is told with it.
    """
    with federation.client(2) as client:
        answer = client.post("/model/train", json=body).json()
    if answer["code"] == 200:
        found = federation.wait_for(int(answer["data"]["order_id"]))
        answer = {"data": {"error": found["refusal"]}, "state": found["state"]}
        assert found["state"] == "failed"
    assert "primary_events" not in json.dumps(answer)
    return str(answer["data"]["error"]["code"])
