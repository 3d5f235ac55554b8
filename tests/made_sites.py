"""Hospitals made for tests: a site folder with settings, policy and a DuckDB file of given tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from agents.site.settings import Settings, load_settings
from deployments.demo.breast_cancer import make_database
from deployments.local.one_process import pin_each_other

Tables = Mapping[str, pd.DataFrame]


def policy_text(
    hospitals: Iterable[int],
    tables: Iterable[str],
    *,
    min_hospitals: int = 3,
    methods: Iterable[str] = ("Paillier", "Mask", "None"),
    inference: bool = True,
    return_predictions: bool = True,
    sign: bool = True,
    scoring: str = "full",
    cohort: str = "",
    filter_columns: Iterable[str] = (),
) -> str:
    """A policy.toml that opens all columns of the tables to these hospitals."""
    ids, filters = sorted(hospitals), _texts(filter_columns)
    head = (
        f"[orders]\ninitiators = {ids}\nmethods = {_texts(methods)}\n"
        'model_types = ["lr", "linear", "softmax", "mlp", "cnn"]\n'
        f'sign = {_word(sign)}\nmin_hospitals = {min_hospitals}\nscoring = "{scoring}"\n'
        f"[cohort]\n{cohort}\n"
        f"[inference]\nallowed = {_word(inference)}\nreturn_predictions = {_word(return_predictions)}\n"
    )
    opened = (f'[tables."data.{name}"]\ncolumns = ["*"]\nfilter_columns = {filters}\n' for name in tables)
    return head + "".join(opened)


def _texts(words: Iterable[str]) -> str:
    return str(list(words)).replace("'", '"')


def _word(value: bool) -> str:
    return str(value).lower()


def make_site(folder: Path, user_id: int, tables: Tables, policy: str) -> Settings:
    """One hospital's installation, its state below the folder too."""
    site = folder / f"hospital-{user_id}"
    site.mkdir(parents=True, exist_ok=True)
    settings = f'user_id = {user_id}\nname = "hospital-{user_id}"\nstate = "{site / "state"}"\n'
    (site / "settings.toml").write_text(settings)
    (site / "policy.toml").write_text(policy)
    make_database(site / "state" / "hospital.duckdb", dict(tables))
    return load_settings(site)


def make_sites(
    folder: Path, tables: Mapping[int, Tables], *, opened: Iterable[str] | None = None, **policy: Any
) -> dict[int, Settings]:
    """Hospitals that have pinned each other; `opened` tables, or all; other options are those of `policy_text`."""
    shown = None if opened is None else tuple(opened)
    made = {
        user: make_site(folder, user, own, policy_text(tables, own if shown is None else shown, **policy))
        for user, own in sorted(tables.items())
    }
    return pin_each_other(made)


def order_body(hospitals: Iterable[int], **changes: Any) -> dict[str, Any]:
    """A small order over `data.rows` of these hospitals; the first of them orders. `changes` replace fields."""
    ids = list(hospitals)
    params = {"penalty": None, "eps": 0, "max_iter": 5, "encrypt_param": {"method": "Mask"}}
    body = {
        "user_id": ids[0],
        "party_id": ids[1:],
        "model_type": "lr",
        "data_info": {str(user): "SELECT * FROM data.rows" for user in ids},
        "unique_id": "id",
        "attributes": ["x1", "x2", "x3", "x4"],
        "label_name": "y",
        **changes,
    }
    return {**body, "model_params": {**params, **changes.get("model_params", {})}}
