"""Whole numbers of 18 digits and more, side by side in DuckDB, PostgreSQL and MariaDB:
no digit is lost on the way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pytest

from agents.gate.kept_sets import ColumnName
from agents.gate.memory import Memory
from agents.order.party import open_party
from agents.rows.canonical import FORM, members_of
from agents.rows.database import dialect_of
from agents.site.ledger import Ledger
from agents.training.inference import predict
from deployments.local.one_process import run_order
from protocol.memory_transport import MemoryTransport
from tests.made_databases import create_schema, drop_schema, run
from tests.made_rows import opened_rows
from tests.made_sites import order_body
from tests.made_statistics import Hospitals, make_hospitals, no_waiting_for_disks

pytestmark = pytest.mark.slow

SCHEMA = f"consilium_digits_{os.getpid()}"
SERVERS = {
    3: "postgresql+psycopg://postgres@127.0.0.1:5432/postgres",
    4: "mysql+pymysql://root@127.0.0.1:3306/",
}
WIDE = {2: "HUGEINT", 3: "NUMERIC(39, 0)", 4: "BIGINT UNSIGNED"}
BASE = 110_105_194_912_310_000  # a national id of 18 digits; there doubles are 16 apart
LARGEST = 2**64 - 1
N = 41
SMALL = 2**53 + 1


def first_of(*values: Any) -> list[Any]:
    """Each of these types for a test's parameter; in the short layer the first one, at
    all three databases.
    """
    first, *further = values
    return [
        first,
        *(pytest.param(each, marks=pytest.mark.thorough) for each in further),
    ]


def people(user: int) -> list[dict[str, Any]]:
    """Hospitals 2 and 4 have the same persons, hospital 3 others whose ids round to the
    same doubles.
    """
    shift = 4 if user == 3 else 1
    return [
        {
            "id": BASE + 32 * i + shift,
            "id_18": BASE + 32 * i + shift,
            "id_38": 10**37 + BASE + i,
            "id_wide": LARGEST - i,
            "amount": (-1) ** i * (SMALL + 2 * (i * 7 % N)),
            "code": BASE + i % 3,
            "y": i % 2,
            "x": i * 5 % 7,
            "rate": f"0.{i + 10}34567890123456789012",
        }
        for i in range(N)
    ]


@dataclass(frozen=True)
class Databases:
    """Hospital 2 has DuckDB, 3 PostgreSQL, 4 MariaDB; each has its people in the table
    of the same name.
    """

    hospitals: Hospitals
    table: str = f"{SCHEMA}.people"

    def data(self, *users: int) -> dict[int, str]:
        return dict.fromkeys(users, self.table)

    def ids(self, user: int, column: str) -> list[str]:
        return [str(number) for number in sorted(row[column] for row in people(user))]


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    hospitals = make_hospitals(
        tmp_path_factory.mktemp("sites"), (2, 3, 4), min_hospitals=1
    )
    site = hospitals.sites[2]
    urls = {2: f"duckdb:///{site.state}/hospital.duckdb", **SERVERS}
    made = []
    try:
        for user, url in urls.items():
            hospitals.sites[user] = replace(hospitals.sites[user], data_url=url)
            fill(url, user)
            made.append(url)
        hospitals.policies = {
            user: f"{text}{opened('id')}" for user, text in hospitals.policies.items()
        }
        open_all(hospitals)
        with no_waiting_for_disks():
            yield Databases(hospitals)
    finally:
        for url in made[1:]:
            drop_schema(url, SCHEMA)


def opened(unique_id: str) -> str:
    return f'[tables."{SCHEMA}.people"]\ncolumns = ["*"]\nunique_id = "{unique_id}"\n'


def open_all(hospitals: Hospitals, **more: Any) -> None:
    rules = {
        "row_level": list(people(2)[0]),
        "extremes": True,
        "exact_quantiles": True,
        "max_share": 1,
    }
    hospitals.allow(row_expressions=True, **rules, **more)


def fill(url: str, user: int) -> None:
    kinds = [
        "BIGINT",
        "DECIMAL(18, 0)",
        "DECIMAL(38, 0)",
        WIDE[user],
        "BIGINT",
        "BIGINT",
        "SMALLINT",
        "DOUBLE PRECISION",
    ]
    names = list(people(user)[0])
    columns = ", ".join(
        map(" ".join, zip(names, [*kinds, "DECIMAL(24, 22)"], strict=True))
    )
    rows = ", ".join(str(tuple(row.values())) for row in people(user))
    table = f"{SCHEMA}.people"
    create_schema(url, SCHEMA)
    run(
        url,
        [
            f"CREATE TABLE {table} ({columns})",
            f"INSERT INTO {table} VALUES {rows}",
        ],
    )


# --- training and inference ------------------------------------------------------------------------------------------


def ordered(
    databases: Databases, unique_id: str = "id", **changes: Any
) -> dict[int, dict[str, Any]]:
    """The models of an order in which this column names the patients; earlier orders
    are forgotten.
    """
    hospitals = databases.hospitals
    for site in hospitals.sites.values():
        site.policy.write_text(
            site.policy.read_text().replace(opened("id"), opened(unique_id))
        )
        Memory(site.vault / "cohorts").path.unlink()
    hospitals.last += 1
    sql = {str(user): f"SELECT * FROM {databases.table}" for user in hospitals.sites}
    body = order_body(
        (2, 3, 4),
        **{"data_info": sql, "attributes": ["x"], "unique_id": unique_id, **changes},
    )
    return run_order(hospitals.sites, body, order_id=hospitals.last).models


@pytest.fixture(autouse=True)
def policies(databases: Databases) -> Iterator[None]:
    yield
    open_all(databases.hospitals)


@pytest.mark.parametrize("unique_id", first_of("id_wide", "id", "id_18", "id_38"))
def test_training_and_inference_know_every_person(
    databases: Databases, unique_id: str
) -> None:
    """The cohort is of these ids, so is what the ledger remembers of it, and each
    prediction stands under its own.
    """
    ordered(databases, unique_id)
    for user, site in databases.hospitals.sites.items():
        ids = databases.ids(user, unique_id)
        memory = Memory(site.vault / "cohorts")
        others = sorted(
            str(other) for other in databases.hospitals.sites if other != user
        )
        listed = {(one.receiver, one.n_members) for one in memory.list_opened()}
        assert sorted(listed) == [(other, len(ids)) for other in others]
        sql = f"SELECT {unique_id}, x FROM {databases.table}"
        dialect = dialect_of(site.data_url)
        with opened_rows(site, sql, unique_id=unique_id, dialect=dialect) as rows:
            known = members_of(rows, [], key=memory.key).ids
        with memory.opened() as transaction:
            column = ColumnName(databases.table, "x", f"{FORM}, persons")
            numbered = transaction.number_members(column, known, known)
            persons = transaction.persons_of(column)[numbered]
        assert set(persons.tolist()) == set(range(len(ids)))
        party = open_party(site, -os.getpid(), MemoryTransport())
        predicted = predict(
            party,
            databases.hospitals.last,
            f"SELECT {unique_id}, x FROM {databases.table}",
        )
        assert [entry["id"] for entry in predicted] == ids
        x_of = {str(row[unique_id]): row["x"] for row in people(user)}
        told = {(x_of[entry["id"]], entry["label"]) for entry in predicted}
        assert len(told) == len(
            set(x_of.values())
        )  # one prediction for each x, whoever has it


def test_class_labels_that_round_to_one_double_stay_apart(databases: Databases) -> None:
    models = ordered(databases, model_type="softmax", label_name="code")
    assert [model["classes"] for model in models.values()] == [
        [BASE, BASE + 1, BASE + 2]
    ] * 3


def test_columns_that_lose_digits_are_named_and_no_value_is(
    databases: Databases, caplog: pytest.LogCaptureFixture
) -> None:
    """In the hospital's log and ledger, where training and where inference reads them;
    nothing of it leaves.
    """
    ordered(databases, attributes=["x", "rate"])
    for site in databases.hospitals.sites.values():
        party = open_party(site, -os.getpid(), MemoryTransport())
        predict(
            party,
            databases.hospitals.last,
            f"SELECT id, x, rate FROM {databases.table}",
        )
        entries = [
            entry
            for entry in Ledger(site.ledger).entries()
            if entry["event"] == "rounded"
        ]
        about = [(entry.get("order_id"), entry.get("model_id")) for entry in entries]
        assert about == [
            (databases.hospitals.last, None),
            (None, databases.hospitals.last),
        ]
        assert [entry["columns"] for entry in entries] == [["rate"]] * 2
    warnings = [
        record.getMessage()
        for record in caplog.records
        if record.name == "consilium.data"
    ]
    assert len(warnings) == 6
    assert all("every digit of rate:" in warning for warning in warnings)
    assert "34567" not in " ".join(warnings)


# --- pooled rows -----------------------------------------------------------------------------------------------------


def pooled(column: str) -> list[Fraction]:
    return sorted(Fraction(row[column]) for user in (2, 3, 4) for row in people(user))


def variance(values: list[Fraction]) -> Fraction:
    mean = sum(values) / len(values)
    return sum(((value - mean) ** 2 for value in values), Fraction()) / (
        len(values) - 1
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    "column", first_of("amount", "id", "id_18", "id_38", "id_wide")
)
def test_sums_are_those_of_rational_arithmetic(
    databases: Databases, column: str
) -> None:
    values, data = pooled(column), databases.data(2, 3, 4)
    total = databases.hospitals.ask("sum", data, key=column)
    assert [list(row.values()) for row in total.rows] == [[str(sum(values))]]
    assert databases.hospitals.ask("avg", data, key=column).number == float(
        sum(values) / len(values)
    )
    assert databases.hospitals.ask("var", data, key=column).number == float(
        variance(values)
    )


def told(
    databases: Databases,
    method: str,
    column: str,
    users: tuple[int, ...] = (2, 3, 4),
    **fields: Any,
) -> str:
    """The one value of an answer, as it is written."""
    (row,) = databases.hospitals.ask(
        method, databases.data(*users), key=column, **fields
    ).rows
    return row[method]


@pytest.mark.parametrize("column", first_of("id_wide", "id", "id_18", "amount", "code"))
def test_order_statistics_have_every_digit(databases: Databases, column: str) -> None:
    """Of whole numbers of 64 bits, signed or not, in types that each database calls
    otherwise.
    """
    values = pooled(column)
    for method, value in (
        ("min", values[0]),
        ("median", values[len(values) // 2]),
        ("max", values[-1]),
    ):
        assert told(databases, method, column) == str(value)
    low, high = (
        values[30],
        values[31],
    )  # 122 places lie between the least and the most; 0.25 of them are 30.5
    between = low + (high - low) / 2
    shown = str(between) if between.denominator == 1 else f"{between.numerator // 2}.5"
    assert told(databases, "quantile", column, quantile=[0.25]) == shown


def test_the_middle_of_two_long_numbers_has_every_digit(databases: Databases) -> None:
    values = sorted(row["id"] for user in (2, 3) for row in people(user))
    assert (values[40] + values[41]) % 2 == 1
    assert (
        told(databases, "median", "id", (2, 3)) == f"{(values[40] + values[41]) // 2}.5"
    )


@pytest.mark.thorough
def test_order_statistics_beyond_64_bits_are_the_doubles_nearest_to_the_values(
    databases: Databases,
) -> None:
    values, data = pooled("id_38"), databases.data(2, 3, 4)
    for method, value in (
        ("min", values[0]),
        ("median", values[len(values) // 2]),
        ("max", values[-1]),
    ):
        assert databases.hospitals.ask(method, data, key="id_38").number == float(value)


@pytest.mark.thorough
def test_one_column_of_fractions_makes_all_be_searched_among_doubles(
    databases: Databases,
) -> None:
    columns = {2: "id", 3: "rate", 4: "id"}
    values = sorted(
        Fraction(row[columns[user]]) for user in columns for row in people(user)
    )
    data = databases.data(2, 3, 4)
    # One column, one name, unless the hospital says that its own is the same
    assert databases.hospitals.refused("max", data, key=columns).code == "column_names"
    open_all(databases.hospitals, same_as={"rate": "id"})
    try:
        answer = databases.hospitals.ask("max", data, key=columns)
    finally:
        open_all(databases.hospitals)
    assert answer.number == float(values[-1])
    assert answer.text == f"max\n{float(values[-1])!r}\n"


@pytest.mark.thorough
@pytest.mark.parametrize("column", first_of("y", "amount", "code", "id_wide"))
def test_unchanged_rows_are_answered_again(databases: Databases, column: str) -> None:
    """An order of one kind reads the rows as they come, one of the other its snapshot;
    to the gate they are the same.

    Of few different values few cells of a sketch would change, as if a patient or two
    had come or gone.
    """
    for method in ("avg", "median", "avg", "max"):
        databases.hospitals.ask(method, databases.data(2, 3, 4), key=column)


def test_groups_have_every_digit(databases: Databases) -> None:
    counted = databases.hospitals.ask(
        "frequency", databases.data(2, 3, 4), key="code"
    ).rows
    expected: dict[str, int] = {}
    amounts: dict[str, int] = {}
    for row in [row for user in (2, 3, 4) for row in people(user)]:
        code = str(row["code"])
        expected[code] = expected.get(code, 0) + 1
        amounts[code] = amounts.get(code, 0) + row["amount"]
    assert {row["code"]: int(row["frequency"]) for row in counted} == expected
    sums = databases.hospitals.ask(
        "sum", databases.data(2, 3, 4), key="amount", group_by=["code"]
    ).rows
    assert {row["code"]: Fraction(row["sum"]) for row in sums} == amounts


# --- joined rows -----------------------------------------------------------------------------------------------------


def joined(
    databases: Databases, users: tuple[int, int], key: str, expression: str
) -> list[dict[str, str]]:
    extra = {
        user: {"data_alias": alias} for user, alias in zip(users, "ab", strict=True)
    }
    asked = databases.hospitals.ask(
        "custom", databases.data(*users), key=key, expression=expression, extra=extra
    )
    return asked.rows


@pytest.mark.parametrize("users", [(2, 3), (3, 4)])
def test_persons_whose_ids_round_to_one_double_are_not_joined(
    databases: Databases, users: tuple[int, int]
) -> None:
    extra = {
        user: {"data_alias": alias} for user, alias in zip(users, "ab", strict=True)
    }
    data = databases.data(*users)
    asked = {"key": "id", "expression": "a.amount + b.amount", "extra": extra}
    assert databases.hospitals.refused("custom", data, **asked).code == "min_rows"


@pytest.mark.parametrize("key", first_of("id", "id_18"))
def test_keys_and_values_of_joined_rows_have_every_digit(
    databases: Databases, key: str
) -> None:
    amounts = {str(row[key]): row["amount"] for row in people(2)}
    rows = joined(databases, (2, 4), key, "a.amount - b.amount")
    assert [row[key] for row in rows] == databases.ids(2, key)
    assert {row["custom"] for row in rows} == {"0"}
    rows = joined(databases, (2, 4), key, "a.amount + b.amount")
    assert {row[key]: int(row["custom"]) for row in rows} == {
        person: 2 * amount for person, amount in amounts.items()
    }


@pytest.mark.parametrize("users", first_of((2, 4), (3, 2), (4, 3)))
def test_the_widest_keys_meet_in_any_two_databases(
    databases: Databases, users: tuple[int, int]
) -> None:
    """Of unsigned 64 bits, a type that each database calls otherwise."""
    rows = joined(databases, users, "id_wide", "a.x - b.x")
    assert [row["id_wide"] for row in rows] == databases.ids(2, "id_wide")
    assert {row["custom"] for row in rows} == {"0"}
