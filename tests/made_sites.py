"""Hospitals made for tests: a site folder with settings, policy and a DuckDB file of
given tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from agents.site.settings import SiteSettings, load_settings
from deployments.demo.breast_cancer import make_database
from deployments.local.one_process import pin_each_other
from protocol.machine.disk import make_private_folder

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
    min_scored: int = 2,
    cohort: str = "",
    regroup: bool = True,
    filter_columns: Iterable[str] = (),
    derive: bool = True,
) -> str:
    """A policy.toml that opens all columns of the tables to these hospitals."""
    ids, filters = sorted(hospitals), _texts(filter_columns)
    head = (
        f"[orders]\ninitiators = {ids}\nmethods = {_texts(methods)}\n"
        'model_types = ["lr", "linear", "glm", "cox", "softmax", "mlp", "cnn"]\n'
        f'sign = {_word(sign)}\nmin_hospitals = {min_hospitals}\nscoring = "{scoring}"\n'
        f"min_scored_coefficients = {min_scored}\nderive = {_word(derive)}\n"
        f"[cohort]\nregroup = {_word(regroup)}\n{cohort}\n"
        f"[inference]\nallowed = {_word(inference)}\nreturn_predictions = {_word(return_predictions)}\n"
    )
    opened = (
        f'[tables."data.{name}"]\ncolumns = ["*"]\nfilter_columns = {filters}\n'
        for name in tables
    )
    return head + "".join(opened)


def _texts(words: Iterable[str]) -> str:
    return str(list(words)).replace("'", '"')


def _word(value: bool) -> str:
    return str(value).lower()


def make_site(folder: Path, user_id: int, tables: Tables, policy: str) -> SiteSettings:
    """One hospital's installation, its state below the folder too."""
    site = folder / f"hospital-{user_id}"
    site.mkdir(parents=True, exist_ok=True)
    settings = f'user_id = {user_id}\nname = "hospital-{user_id}"\nstate = "{site / "state"}"\n'
    (site / "settings.toml").write_text(settings)
    (site / "policy.toml").write_text(policy)
    _put_database(site / "state" / "hospital.duckdb", tables)
    return load_settings(site)


N_KEPT = 64
_kept: dict[bytes, bytes] = {}
"""The last DuckDB files, by what is in them."""


def _put_database(path: Path, tables: Tables) -> None:
    """Tests have the same tables again and again, and to make a file of them takes
    twenty times as long as to write it.
    """
    key = _digest(tables)
    if key not in _kept:
        make_database(path, dict(tables))
        _kept[key] = path.read_bytes()
        for oldest in list(_kept)[:-N_KEPT]:
            del _kept[oldest]
    elif not path.exists():
        make_private_folder(path.parent)
        path.write_bytes(_kept[key])


def _digest(tables: Tables) -> bytes:
    """Of names, types and values."""
    digest = hashlib.sha256()
    for name, frame in tables.items():
        digest.update(repr([name, len(frame), frame.shape[1]]).encode())
        for place, column in enumerate(frame.columns):
            values = frame.iloc[:, place]
            digest.update(repr([column, str(values.dtype)]).encode())
            if values.dtype.kind in "biuf":
                digest.update(values.to_numpy().tobytes())
            else:
                digest.update(repr(values.tolist()).encode())
    return digest.digest()


def make_sites(
    folder: Path,
    tables: Mapping[int, Tables],
    *,
    opened: Iterable[str] | None = None,
    **policy: Any,
) -> dict[int, SiteSettings]:
    """Hospitals that have pinned each other; `opened` tables, or all; other options are
    those of `policy_text`.
    """
    shown = None if opened is None else tuple(opened)
    made = {
        user: make_site(
            folder,
            user,
            own,
            policy_text(tables, own if shown is None else shown, **policy),
        )
        for user, own in sorted(tables.items())
    }
    return pin_each_other(made)


def order_body(hospitals: Iterable[int], **changes: Any) -> dict[str, Any]:
    """A small order over `data.rows` of these hospitals; the first of them orders.
    `changes` replace fields.
    """
    ids = list(hospitals)
    params = {
        "penalty": None,
        "eps": 0,
        "max_iter": 5,
        "encrypt_param": {"method": "Mask"},
    }
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


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its mode, and every folder but the one that DuckDB may spill to."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "spill":
            continue
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = path.stat().st_mode, content
    return found
