"""Predictions for values that come with the request: as for the same rows in a table,
and only where the hospital's policy allows it.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.order.party import open_party
from agents.site.settings import SiteSettings
from agents.training.inference import predict, predict_values
from deployments.local.one_process import run_order
from protocol.errors import BadRequest, Refused
from protocol.memory_transport import MemoryTransport
from tests.made_predictions import predicted
from tests.made_sites import make_sites, order_body

USERS = (2, 3, 4)
N_ROWS = 60
SQL = "SELECT * FROM data.rows"
RETURNED = "allowed = true\nreturn_predictions = true\n"


def frame(user: int) -> pd.DataFrame:
    rng = np.random.default_rng(user)
    return pd.DataFrame(
        {
            "id": range(N_ROWS),
            "x": rng.normal(size=N_ROWS),
            "kind": np.array(["a", "b", "c"])[np.arange(N_ROWS) % 3],
            "y": np.arange(N_ROWS) % 2,
        }
    )


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[int, SiteSettings]:
    """Hospitals with a model of a number, its square and a category."""
    tables = {user: {"rows": frame(user)} for user in USERS}
    sites = make_sites(tmp_path_factory.mktemp("sites"), tables)
    body = order_body(
        USERS,
        attributes=["x", "square", "kind"],
        categorical={"kind": {"reference": "a"}},
        derive={"square": "x * x"},
        scoring="none",
    )
    run_order(sites, body)
    return sites


def allow(sites: dict[int, SiteSettings], rules: str) -> None:
    policy = sites[2].policy
    before, section, behind = policy.read_text().partition("[inference]\n")
    lines = behind.splitlines(keepends=True)
    while lines and not lines[0].startswith("["):
        del lines[0]
    policy.write_text("".join([before, section, rules, *lines]))


def party_of(sites: dict[int, SiteSettings]) -> Any:
    return open_party(sites[2], 77, MemoryTransport())


def test_typed_values_have_the_predictions_of_the_same_rows(
    sites: dict[int, SiteSettings],
) -> None:
    allow(sites, RETURNED)
    party = party_of(sites)
    rows = frame(2)[["id", "x", "kind"]].to_dict("records")
    assert predict_values(party, 1, rows) == predict(party, 1, SQL)


def test_a_row_without_a_name_is_called_by_its_place(
    sites: dict[int, SiteSettings],
) -> None:
    allow(sites, RETURNED)
    rows = [{"x": 1, "kind": "b"}, {"x": None, "kind": "a"}, {"x": 0.5, "kind": "z"}]
    first, second, third = predict_values(party_of(sites), 1, rows)
    assert [first["id"], second["id"], third["id"]] == ["1", "2", "3"]
    assert 0 < first["label"] < 1
    assert "no value in x" in second["reason"]
    assert second["label"] is third["label"] is None
    assert "kind" in third["reason"]


@pytest.mark.parametrize(
    ("rows", "code", "words"),
    [
        ([{"x": 1}], "missing_column", "kind"),
        ([{"x": 1, "kind": "a", "ward": 3}], "unknown_column", "ward"),
        ([{"x": "one", "kind": "a"}], "not_numeric", "x"),
        (
            [{"id": 1, "x": 1, "kind": "a"}, {"id": 1.0, "x": 1, "kind": "a"}],
            "duplicate_unique_id",
            "id",
        ),
    ],
)
def test_values_that_the_model_cannot_have(
    sites: dict[int, SiteSettings], rows: list[dict[str, Any]], code: str, words: str
) -> None:
    allow(sites, RETURNED)
    with pytest.raises(BadRequest) as refused:
        predict_values(party_of(sites), 1, rows)
    assert refused.value.code == code
    assert words in refused.value.sentence
    assert "one" not in refused.value.sentence.split()


def asked_through_the_coordinator(
    sites: dict[int, SiteSettings], order_id: int, rows: Any
) -> list[dict[str, Any]]:
    return predicted(sites, order_id, {"rows": json.dumps(rows)})


def test_only_a_policy_that_says_so_lets_values_in(
    sites: dict[int, SiteSettings],
) -> None:
    rows = [{"x": 0.25, "kind": "c"}]
    allow(sites, RETURNED)
    with pytest.raises(Refused) as refused:
        asked_through_the_coordinator(sites, 101, rows)
    assert refused.value.code == "rows"
    allow(sites, "allowed = true\nrows = true\n")
    with pytest.raises(Refused) as refused:
        asked_through_the_coordinator(sites, 102, rows)
    assert refused.value.code == "return_predictions"
    allow(sites, RETURNED + "rows = true\n")
    (entry,) = asked_through_the_coordinator(sites, 103, rows)
    assert entry == predict_values(party_of(sites), 1, rows)[0]


@pytest.mark.parametrize(
    "rows",
    [None, {}, [], [1], [[1]], [{"x": [1]}], [{"x": float("nan")}], [{"x": 1}] * 1001],
)
def test_what_is_no_list_of_rows_is_refused(
    sites: dict[int, SiteSettings], rows: Any
) -> None:
    """The coordinator may seal anything."""
    allow(sites, RETURNED + "rows = true\n")
    with pytest.raises(Refused) as refused:
        asked_through_the_coordinator(sites, 104, rows)
    assert refused.value.code == "document"
