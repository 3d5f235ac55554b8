"""Joint statistics over a real federation: the document's request as it stands, and
what comes of it at whom.
"""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pandas as pd
import pytest

from deployments.demo.joint_data import DOSE_LIMIT, LAB_VALUES, PRICES, UNITS
from deployments.demo.statistics import (
    document_request,
    pooled_request,
    threshold_request,
)
from tests.conftest import RunningFederation

pytestmark = pytest.mark.slow

NAMES = {2: "suzhou-szslyy", 3: "zhejiang-zdey", 4: "shanxi-xbfy"}
DOCUMENT = {
    "data_providers": [
        {
            "name": "suzhou-szslyy",
            "data_path": "drug_prices.csv",
            "data_type": "csv",
            "key_column": "id_col",
            "data_alias": "df1",
        },
        {
            "name": "zhejiang-zdey",
            "data_path": "drug_units.csv",
            "data_type": "csv",
            "key_column": "id_col",
            "data_alias": "df2",
        },
    ],
    "result_receivers": ["suzhou-szslyy", "zhejiang-zdey"],
    "method": "custom",
    "expression": "df1.unit_price * df2.units",
    "result_alias": "total_value",
}


def ask(
    federation: RunningFederation, body: dict[str, Any], who: int = 4
) -> httpx.Response:
    with federation.client(who) as client:
        return client.post("/runModelTrainTask", json={**body, "timeout_seconds": 150})


def answered(
    federation: RunningFederation, body: dict[str, Any], who: int = 4
) -> dict[str, Any]:
    response = ask(federation, body, who)
    assert response.status_code == 200, response.text
    return dict(response.json()["result"])


def state(federation: RunningFederation, user: int) -> Path:
    return federation.home / "sites" / NAMES[user]


def read_file(
    federation: RunningFederation, user: int, name: str, **options: Any
) -> pd.DataFrame:
    path = state(federation, user) / "data" / name
    return (
        duckdb.read_parquet(str(path)).df()
        if path.suffix == ".parquet"
        else pd.read_csv(path, **options)
    )


def exact(federation: RunningFederation, column: str) -> list[Fraction]:
    """Of all three, as the files have them: decimals in text, doubles in parquet."""
    values = (
        value
        for user, name in LAB_VALUES.items()
        for value in read_file(federation, user, name, dtype=str)[column]
    )
    return [
        Fraction(value) if isinstance(value, str) else Fraction(float(value))
        for value in values
    ]


def holders(federation: RunningFederation, order_id: str) -> list[int]:
    return [
        user
        for user in NAMES
        if (state(federation, user) / "results" / order_id).exists()
    ]


@pytest.fixture(scope="module")
def document(federation: RunningFederation) -> dict[str, Any]:
    response = ask(federation, DOCUMENT, who=2)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_the_document_is_answered_as_it_says(document: dict[str, Any]) -> None:
    assert document_request(NAMES) == DOCUMENT
    assert (document["status"], document["msg"]) == (200, "success")
    assert set(document["result"]) == {"path", "type", "extra"}
    order_id = json.loads(document["result"]["extra"])["order_id"]
    assert (document["result"]["path"], document["result"]["type"]) == (
        f"{order_id}/total_value.csv",
        "csv",
    )


def test_each_receiver_holds_the_exact_product_of_every_common_key(
    federation: RunningFederation, document: dict[str, Any]
) -> None:
    prices = read_file(federation, 2, PRICES, dtype=str).set_index("id_col")[
        "unit_price"
    ]
    units = read_file(federation, 3, UNITS, dtype=str).set_index("id_col")["units"]
    common = sorted(set(prices.index) & set(units.index), key=int)
    for user in (2, 3):
        frame = pd.read_csv(
            state(federation, user) / "results" / document["result"]["path"], dtype=str
        )
        assert list(frame.columns) == ["id_col", "total_value"]
        assert list(frame["id_col"]) == common
        found = frame.set_index("id_col")["total_value"]
        assert all(
            Decimal(found[key]) == Decimal(prices[key]) * Decimal(units[key])
            for key in common
        )


def test_nobody_else_holds_it(
    federation: RunningFederation, document: dict[str, Any]
) -> None:
    order_id = document["result"]["path"].split("/")[0]
    assert holders(federation, order_id) == [2, 3]
    folder = state(federation, 2) / "results" / order_id
    assert {path.stat().st_mode & 0o777 for path in [folder, *folder.iterdir()]} == {
        0o700,
        0o600,
    }


def test_the_agent_prints_it_at_receivers_only(
    federation: RunningFederation, document: dict[str, Any]
) -> None:
    path = document["result"]["path"]
    order_id = path.split("/")[0]
    shown = federation.agent(NAMES[3], "results", "show", order_id)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == (state(federation, 3) / "results" / path).read_text()
    refused = federation.agent(NAMES[4], "results", "show", order_id)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "holds no result" in refused.stderr


@pytest.mark.parametrize(
    "method", [pytest.param("avg", marks=pytest.mark.thorough), "var"]
)
def test_mean_and_variance_of_three_hospitals_are_the_pooled_ones_rounded_once(
    federation: RunningFederation, method: str
) -> None:
    values = exact(federation, "ldl")
    mean = sum(values) / Fraction(len(values))
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    expected = float({"avg": mean, "var": variance}[method])
    result = answered(
        federation, {**pooled_request(NAMES, method, "ldl"), "disclose": True}
    )
    assert result["values"] == [{f"{method}_ldl": expected}]
    text = (state(federation, 4) / "results" / result["path"]).read_text()
    assert text == f"{method}_ldl\n{expected!r}\n"
    assert holders(federation, result["path"].split("/")[0]) == [4]


@pytest.mark.thorough
def test_small_groups_are_withheld_and_said_to_be(
    federation: RunningFederation,
) -> None:
    result = answered(
        federation, pooled_request(NAMES, "avg", "glucose", group_by=["age_group"])
    )
    frame = pd.read_csv(state(federation, 4) / "results" / result["path"]).set_index(
        "age_group"
    )
    pooled = pd.concat(
        [read_file(federation, user, name) for user, name in LAB_VALUES.items()]
    )
    expected = pooled.groupby("age_group")["glucose"].mean()
    shown = frame[frame["withheld"].isna()]["avg_glucose"]
    assert dict(shown) == {
        name: expected[name] for name in ("30-39", "40-49", "50-59", "60-69")
    }
    assert dict(frame["withheld"].dropna()) == {"20-29": "complement 10"}
    assert {entry["rule"] for entry in json.loads(result["extra"])["suppressed"]} == {
        "complement",
        "min_rows",
    }


@pytest.mark.thorough
def test_a_threshold_tells_yes_or_no_for_each_common_key(
    federation: RunningFederation,
) -> None:
    result = answered(federation, threshold_request(NAMES))
    frame = pd.read_csv(state(federation, 4) / "results" / result["path"]).set_index(
        "id_col"
    )
    units = [
        read_file(federation, user, UNITS).set_index("id_col")["units"]
        for user in NAMES
    ]
    sums = pd.concat(units, axis=1, join="inner").sum(axis=1)
    assert dict(frame["reaches_limit"]) == dict(sums >= DOSE_LIMIT)


def provider(column: str, user: int, **fields: Any) -> dict[str, Any]:
    kind = Path(LAB_VALUES[user]).suffix[1:]
    return {
        "name": NAMES[user],
        "data_path": LAB_VALUES[user],
        "data_type": kind,
        "key_column": column,
        **fields,
    }


REFUSED = {
    "row_level": (
        403,
        {
            "data_providers": [provider("patient", user) for user in NAMES],
            "result_receivers": [4],
            "method": "custom",
            "expression": "df1.glucose + df2.glucose + df3.glucose",
        },
        "a value for each person, made of glucose, patient",
    ),
    "a missing file": (
        400,
        {
            "data_providers": [
                provider("ldl", 2),
                provider("ldl", 3, data_path="gone.csv"),
                provider("ldl", 4),
            ],
            "result_receivers": [4],
            "method": "avg",
        },
        "zhejiang-zdey: This hospital's data folder holds no such file.",
    ),
    "a file outside of the data folder": (
        403,
        {
            "data_providers": [
                provider("ldl", 2),
                provider("ldl", 3, data_path="../token"),
                provider("ldl", 4),
            ],
            "result_receivers": [4],
            "method": "avg",
        },
        "zhejiang-zdey: ",
    ),
    "an unknown column": (
        400,
        pooled_request(NAMES, "avg", "weight"),
        "have no column weight",
    ),
}


@pytest.mark.parametrize(
    "case",
    [
        "row_level",
        pytest.param("a missing file", marks=pytest.mark.thorough),
        pytest.param("a file outside of the data folder", marks=pytest.mark.thorough),
        pytest.param("an unknown column", marks=pytest.mark.thorough),
    ],
)
def test_what_cannot_be_answered_is_told_and_leaves_nothing(
    federation: RunningFederation, case: str
) -> None:
    status, body, words = REFUSED[case]
    response = ask(federation, body)
    answer = response.json()
    assert (response.status_code, answer["status"], answer["result"]) == (
        status,
        status,
        None,
    )
    assert words in answer["msg"]
    assert holders(federation, response.headers["X-Order-Id"]) == []
