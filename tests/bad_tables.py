"""Tables that no order should be trained on, in the DuckDB files of a federation that
has not started yet.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from agents.site.settings import SiteSettings
from api.settings import load_settings
from deployments.local.sites import NAMED, sites_folder
from deployments.local.sites import prepare as prepare_sites

SECRET_TEXT = (
    "Zhang-San-90210"  # stands in rows; no answer, log or ledger may repeat it
)
SECRET_NUMBER = 73_519.4375
SECRET_ID = 900_900_733
CANARY = 0.7351943751234567  # a feature value whose 8 bytes are recognisable
CANARY_ID = 733_900_911


def _nulls(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    values = rows.x1.to_numpy(copy=True)
    values[:n] = np.nan
    return rows.assign(x1=values)


def _texts(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(x1=[SECRET_TEXT, *map(str, rows.x1[1:])])


def _labels(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(y=[SECRET_NUMBER, *rows.y[1:]])


def _doubled(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(id=[SECRET_ID, SECRET_ID, *rows.id[2:]])


def _canary(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(id=[CANARY_ID, *rows.id[1:]], x1=[CANARY, *rows.x1[1:]])


def _rare(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(x1=[SECRET_NUMBER] * 3 + [0.0] * (len(rows) - 3))


TABLES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "rows": lambda rows: rows,
    "canary": _canary,
    "one_null": lambda rows: _nulls(rows, 1),
    "many_nulls": lambda rows: _nulls(rows, 20),
    "texts": _texts,
    "labels": _labels,
    "ones": lambda rows: rows[rows.y == 1],
    "doubled": _doubled,
    "few": lambda rows: rows.head(9),
    "enough": lambda rows: rows.head(12),
    "rare": _rare,
    "narrow": lambda rows: rows[["id", "y", "x1", "x2"]],
    "huge": lambda rows: rows.assign(x1=rows.x1 * 1e12),
    "folded": lambda rows: rows,
    "closed": lambda rows: rows,
}
CLOSED = ("closed",)


def tables(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All of them, made of one hospital's rows."""
    return {name: change(rows) for name, change in TABLES.items()}


def prepare(environment: Mapping[str, str], sites: Path) -> None:
    """Copies the site folders and makes homes, tables and policies, as `./run up`
    would.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONSILIUM_HOME", "CONSILIUM_API_PORT", "CONSILIUM_PREFECT_PORT"):
            patch.setenv(name, environment[name])
        for name in NAMED:
            shutil.copytree(sites_folder() / name, sites / name)
            with (sites / name / "policy.toml").open("a") as policy:
                policy.write(_opened())
        patch.setenv("CONSILIUM_SITES", str(sites))
        for site in prepare_sites(load_settings()):
            _add_tables(site)


def _opened() -> str:
    filters = str([f"x{i}" for i in range(30)]).replace("'", '"')
    return "".join(
        f'\n[tables."data.{name}"]\ncolumns = ["*"]\nfilter_columns = {filters}\n'
        for name in TABLES
        if name not in CLOSED
    )


def _add_tables(site: SiteSettings) -> None:
    part = "guest" if site.user_id == 4 else "host"
    with duckdb.connect(str(site.state / "hospital.duckdb")) as database:
        rows = database.execute(f"SELECT * FROM data.breast_homo_{part}").df()
        for name, frame in tables(rows).items():
            database.register("frame", frame)
            database.execute(f'CREATE TABLE data."{name}" AS SELECT * FROM frame')
            database.unregister("frame")
