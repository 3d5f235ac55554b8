"""Cohorts that a policy names: how their rows are made and kept, and that no order gets
anything of them but what the policy opens.
"""

from __future__ import annotations

import hashlib
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.check.site import check_cohorts
from agents.rows.allowed_sql import CheckedQuery, check_plain, check_sql
from agents.rows.cohort_refresh import (
    drop_left,
    due_cohorts,
    failed_refresh,
    one_select,
    refresh_cohort,
    refresh_noted,
)
from agents.rows.named_cohort import cohort_file, made_cohort
from agents.rows.parsed_sql import DIALECTS
from agents.rows.reading import open_dataset, open_query
from agents.site.ledger import Ledger
from agents.site.policy import parse_policy
from agents.site.settings import SiteSettings
from protocol.errors import BadRequest, Conflict, ConsiliumError, Refused
from protocol.policy import Policy
from tests.made_omop import DEFINITION, expected_cohort, fill_omop, omop_tables
from tests.made_rows import site_at

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
CANARY = "geheim4711"
"""A word of the definition, which no order may read."""
SQL = f"""-- {CANARY}
WITH adults AS (SELECT * FROM data.person WHERE age >= 18 AND note <> '{CANARY}')
SELECT person_id, age, y, note FROM adults; -- the end;
"""
PERSONS = pd.DataFrame(
    {
        "person_id": np.arange(100) + 1000,
        "age": np.arange(100) + 1,
        "y": np.arange(100) % 2,
        "note": ["n"] * 100,
    }
)


def section(sql: str, *, digest_of: str | bytes | None = None, more: str = "") -> str:
    approved = sql if digest_of is None else digest_of
    content = approved if isinstance(approved, bytes) else approved.encode()
    return (
        '[cohorts."adults_v1"]\nsql = "cohorts/adults_v1.sql"\nunique_id = "person_id"\n'
        f'sha256 = "{hashlib.sha256(content).hexdigest()}"\n{more}\n'
    )


def policy_text(cohorts: str) -> str:
    return (
        '[orders]\ninitiators = [2, 3]\nmethods = ["Mask"]\nmodel_types = ["lr"]\nsign = true\n'
        '[tables."data.person"]\nunique_id = "person_id"\ncolumns = ["*"]\n'
        f'[statistics]\nmethods = ["avg"]\n{cohorts}'
    )


def policy_of(cohorts: str) -> Policy:
    return parse_policy(policy_text(cohorts))


class Site:
    """A hospital with one table and one definition."""

    def __init__(self, folder: Path) -> None:
        self.settings: SiteSettings = site_at(
            f"duckdb:///{folder / 'hospital.duckdb'}", folder
        )
        (folder / "cohorts").mkdir()
        self.definition = folder / "cohorts/adults_v1.sql"
        self.database = folder / "hospital.duckdb"
        self.fill(PERSONS)
        self.approve(SQL)

    def fill(self, frame: pd.DataFrame) -> None:
        with duckdb.connect(str(self.database)) as database:
            database.execute("CREATE SCHEMA IF NOT EXISTS data")
            database.register("frame", frame)
            database.execute(
                "CREATE OR REPLACE TABLE data.person AS SELECT * FROM frame"
            )

    def approve(
        self, sql: str, more: str = 'columns = ["person_id", "age", "y"]'
    ) -> None:
        self.definition.write_text(sql)
        self.write(section(sql, more=more))

    def write(self, cohorts: str) -> None:
        self.policy = policy_of(cohorts)
        self.settings.policy.write_text(policy_text(cohorts))

    def refresh(self, now: datetime = NOW) -> int:
        return refresh_cohort(self.settings, self.policy, "adults_v1", now=now).n_rows

    def checked(
        self, text: str = "cohort:adults_v1", requester: int = 3
    ) -> CheckedQuery:
        return check_sql(
            text,
            policy=self.policy,
            requester=requester,
            own_user_id=2,
            unique_id="person_id",
            label="y",
            dialect="duckdb",
        )

    def ages(self) -> list[int]:
        with open_query(
            self.settings, self.checked(), unique_id="person_id", columns=["age"]
        ) as rows:
            return [age for (age,) in rows.query("SELECT age FROM rows ORDER BY age")]

    def code(self) -> str:
        with pytest.raises(ConsiliumError) as caught:
            self.ages()
        assert CANARY not in str(caught.value)
        return caught.value.code


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# Making the rows


def test_the_rows_are_those_of_the_definition(site: Site) -> None:
    assert site.refresh() == 83
    assert site.ages() == list(range(18, 101))
    made = made_cohort(site.settings, "adults_v1")
    assert made is not None
    assert (made.n_rows, made.made_at) == (83, NOW)
    assert made.columns == ("person_id", "age", "y", "note")


def test_only_its_owner_reads_the_file(site: Site) -> None:
    path = cohort_file(site.settings, "adults_v1")
    path.parent.mkdir(parents=True, mode=0o700)
    # Of a process that was killed.
    (path.parent / f".{path.name}.123.tmp.wal").write_bytes(b"half")
    site.refresh()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["adults_v1.duckdb"]


def test_the_rows_stay_until_they_are_made_anew(site: Site) -> None:
    site.refresh()
    site.fill(PERSONS.iloc[:-1])
    assert site.ages()[-1] == 100
    assert site.refresh() == 82
    assert site.ages()[-1] == 99


def test_a_definition_over_omop_tables(tmp_path: Path) -> None:
    tables = omop_tables(7)
    fill_omop(tmp_path / "hospital.duckdb", tables)
    settings = site_at(f"duckdb:///{tmp_path / 'hospital.duckdb'}", tmp_path)
    (tmp_path / "cohorts").mkdir()
    (tmp_path / "cohorts/adults_v1.sql").write_bytes(DEFINITION.read_bytes())
    policy = policy_of(section("", digest_of=DEFINITION.read_bytes()))
    refresh_cohort(settings, policy, "adults_v1", now=NOW)
    with duckdb.connect(
        str(cohort_file(settings, "adults_v1")), read_only=True
    ) as database:
        found = database.execute('FROM "cohort:adults_v1"').df()
    expected = expected_cohort(tables)
    assert 200 < len(expected) < 300
    pd.testing.assert_frame_equal(
        found.reset_index(drop=True),
        expected.reset_index(drop=True),
        check_dtype=False,
    )


# What has to hold


def test_another_file_is_refused_with_the_remedy(site: Site) -> None:
    site.refresh()
    site.definition.write_text(SQL.replace("18", "17"))
    for act in (site.refresh, site.ages):
        with pytest.raises(Refused) as caught:
            act()
        assert caught.value.code == "cohort_definition"
        assert "cohorts/adults_v1.sql" in caught.value.sentence
        assert "cohorts digest cohorts/adults_v1.sql" in caught.value.remedy
        assert CANARY not in str(caught.value)
    # Once it is approved, the rows of before are not its rows.
    site.approve(SQL.replace("18", "17"))
    assert site.code() == "cohort_rows"
    assert site.refresh() == 84
    assert site.ages()[0] == 17


def test_a_definition_that_is_not_there(site: Site) -> None:
    site.refresh()
    site.definition.unlink()
    assert site.code() == "cohort_definition"


def test_rows_that_were_never_made(site: Site) -> None:
    assert site.code() == "cohort_rows"


def test_another_unique_id_needs_other_rows(site: Site) -> None:
    site.refresh()
    text = section(SQL, more='columns = ["age"]').replace('"person_id"', '"age"')
    site.policy = policy_of(text)
    query = check_sql(
        "cohort:adults_v1",
        policy=site.policy,
        requester=2,
        own_user_id=2,
        unique_id="age",
        label=None,
        dialect="duckdb",
    )
    with (
        pytest.raises(Refused) as caught,
        open_query(site.settings, query, unique_id="age", columns=["y"]),
    ):
        pass
    assert caught.value.code == "cohort_rows"


def test_doubled_and_missing_ids_are_counted_and_not_named(site: Site) -> None:
    site.refresh()
    persons = PERSONS.astype({"person_id": "Int64"})
    persons.loc[40:42, "person_id"] = None
    persons.loc[51:52, "person_id"] = 98765
    persons.loc[61:62, "person_id"] = 98764
    site.fill(persons)
    with pytest.raises(BadRequest) as caught:
        site.refresh()
    assert caught.value.code == "cohort_ids"
    assert "3 rows without a person_id" in caught.value.sentence
    assert "2 values of person_id in more than one row" in caught.value.sentence
    assert "9876" not in str(caught.value)
    assert site.ages() == list(range(18, 101))


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT person_id, nothing FROM data.person", "missing_column"),
        ("SELECT person_id FROM data.nowhere", "missing_table"),
        ("SELECT age FROM data.person", "missing_column"),
        ("SELECT person_id, CAST(note AS INT) AS age, y FROM data.person", "sql"),
        ("SELECT person_id, age, age FROM data.person", "missing_column"),
        ("DELETE FROM data.person", "cohort_statement"),
    ],
)
def test_what_fails_keeps_the_rows_of_before(site: Site, sql: str, code: str) -> None:
    site.refresh()
    old = site.policy
    site.approve(sql)
    with pytest.raises(ConsiliumError) as caught:
        site.refresh()
    assert caught.value.code == code
    site.definition.write_text(SQL)
    site.policy = old
    assert len(site.ages()) == 83


def test_it_reads_no_file_and_writes_nothing(site: Site, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("person_id,age,y\n1,2,3\n")
    site.approve(f"SELECT * FROM read_csv('{tmp_path / 'other.csv'}')")
    with pytest.raises(ConsiliumError):
        site.refresh()


def test_more_rows_than_the_policy_allows(site: Site) -> None:
    text = section(SQL, more='columns = ["*"]') + "[cohort]\nmax_rows = 82\n"
    site.policy = policy_of(text)
    with pytest.raises(ConsiliumError) as caught:
        site.refresh()
    assert caught.value.code == "max_rows"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1; SELECT 2",
        "CREATE TEMP TABLE t AS SELECT 1",
        "INSERT INTO t SELECT 1",
        "-- SELECT",
        "",
        "SELECT 'half",
        "SELECT 1 AS x) AS t DROP TABLE t --",
        "SELECT (1 AS x",
    ],
)
def test_what_is_not_one_select(text: str, dialect: str) -> None:
    with pytest.raises(BadRequest) as caught:
        one_select(text, dialect)
    assert caught.value.code == "cohort_statement"


def test_what_stands_around_the_statement_is_left_out() -> None:
    assert one_select("-- a;b\nSELECT ';' AS x ;; /* end */ -- x", "postgres") == (
        "SELECT ';' AS x"
    )


# What an order can name


@pytest.mark.parametrize(
    "text",
    [
        "cohort:adults_v1; DROP TABLE data.person",
        "cohort:adults_v1 WHERE age > 50",
        "cohort:adults_v1 --",
        'cohort:"adults_v1"',
        "cohort:../adults_v1",
        "cohort: adults_v1",
        "COHORT:adults_v1",
        "cohort:ADULTS_V1",
        "cohort:adults_v1\x00",
        "cohort:",
        "cohort:adults_v1 UNION SELECT * FROM data.person",
        "cohort:adults_v1,data.person",
        "cohort:" + "a" * 61,
    ],
)
def test_nothing_stands_beside_a_name(site: Site, text: str) -> None:
    for requester in (2, 3):
        with pytest.raises(Refused) as caught:
            site.checked(text, requester)
        assert caught.value.code in ("cohort_name", "characters")
        assert CANARY not in str(caught.value)


@settings(max_examples=50)
@given(
    st.one_of(
        st.just("adults_v1 "), st.text(alphabet="adults_v1:;'\"() -*x\n", max_size=30)
    )
)
def test_what_runs_holds_nothing_of_the_text(tail: str) -> None:
    policy = policy_of(section(SQL, more='columns = ["age"]'))

    def checked() -> CheckedQuery:
        return check_sql(
            f"cohort:{tail}",
            policy=policy,
            requester=3,
            own_user_id=2,
            unique_id="person_id",
            label=None,
            dialect="postgres",
        )

    if tail.strip() != "adults_v1":
        with pytest.raises(Refused) as caught:
            checked()
        assert caught.value.code in ("cohort_name", "tables")
        return
    query = checked()
    assert query.sql == 'SELECT "age" FROM "cohort:adults_v1"'


def test_a_cohort_that_the_policy_has_not(site: Site) -> None:
    site.refresh()
    with pytest.raises(Refused) as caught:
        site.checked("cohort:adults_v2")
    assert caught.value.code == "tables"
    # Rows that were made once are no right to read them.
    site.policy = policy_of("")
    with pytest.raises(Refused) as caught:
        site.checked()
    assert caught.value.code == "tables"


@pytest.mark.parametrize("requester", [2, 3])
@pytest.mark.parametrize(
    "sql",
    [
        'SELECT age FROM "cohort:adults_v1"',
        "SELECT noted FROM consilium_facts",
        'SELECT t.age FROM data.person t JOIN "cohort:adults_v1" c USING (person_id)',
    ],
)
def test_sql_reaches_neither_the_rows_nor_what_is_noted(
    site: Site, sql: str, requester: int
) -> None:
    site.refresh()
    with pytest.raises(Refused):
        site.checked(sql, requester)


def test_other_hospitals_get_the_open_columns(site: Site) -> None:
    assert site.checked().sql == (
        'SELECT "person_id", "age", "y" FROM "cohort:adults_v1"'
    )
    assert site.checked(requester=2).sql == 'SELECT * FROM "cohort:adults_v1"'
    site.refresh()
    with (
        pytest.raises(BadRequest) as caught,
        open_query(
            site.settings, site.checked(), unique_id="person_id", columns=["note"]
        ),
    ):
        pass
    assert caught.value.code == "missing_column"
    site.approve(SQL, more="")
    with pytest.raises(Refused) as refused:
        site.checked()
    assert refused.value.code == "columns"


def test_its_unique_id_is_the_order_s(site: Site) -> None:
    with pytest.raises(Refused) as caught:
        check_sql(
            "cohort:adults_v1",
            policy=site.policy,
            requester=3,
            own_user_id=2,
            unique_id="age",
            label=None,
            dialect="duckdb",
        )
    assert caught.value.code == "unique_id"


@pytest.mark.parametrize(("requester", "data_type"), [(2, "table"), (3, "sql")])
def test_statistics_name_it_as_table_or_sql(
    site: Site, data_type: str, requester: int
) -> None:
    site.refresh()
    with open_dataset(
        site.settings,
        site.policy,
        data_path="cohort:adults_v1",
        data_type=data_type,
        requester=requester,
        columns=["age"],
    ) as rows:
        assert (rows.n_rows, rows.populations) == (83, ("cohort:adults_v1",))
        assert not rows.is_whole_row


def test_a_name_is_plain_columns_for_inference() -> None:
    check_plain("cohort:adults_v1", dialect="postgres")


# The policy


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('adults_v1"]', 'Adults-1"]', "Adults-1"),
        ("cohorts/adults_v1.sql", "/etc/x.sql", "cohorts.adults_v1.sql"),
        ("cohorts/adults_v1.sql", "../x.sql", "cohorts.adults_v1.sql"),
        ('sha256 = "', 'sha256 = "0', "cohorts.adults_v1.sha256"),
        ('sql = "cohorts/adults_v1.sql"\n', "", "cohorts.adults_v1.sql"),
        ("unique_id", "filter_columns = []\nunique_id", "filter_columns"),
        ("unique_id", 'refresh = "daily"\nunique_id', "cohorts.adults_v1.refresh"),
        ("unique_id", 'refresh = "0 25 * * *"\nunique_id', "cohorts.adults_v1.refresh"),
        ("unique_id", 'refresh = "0 0 31 2 *"\nunique_id', "cohorts.adults_v1.refresh"),
        ("unique_id", 'timezone = "Nowhere"\nunique_id', "cohorts.adults_v1.timezone"),
        ("unique_id", 'same_people_as = "data.x"\nunique_id', "same_people_as"),
        ("unique_id", 'columns = ["*", "a"]\nunique_id', "cohorts.adults_v1.columns"),
    ],
)
def test_a_section_that_cannot_be_meant(old: str, new: str, named: str) -> None:
    with pytest.raises(Refused) as caught:
        policy_of(section(SQL).replace(old, new))
    assert caught.value.code == "policy"
    assert named in caught.value.sentence


def test_a_policy_may_open_cohorts_alone() -> None:
    text = policy_text(section(SQL))
    without = text.replace('[tables."data.person"]\nunique_id = "person_id"\n', "")
    without = without.replace('columns = ["*"]\n', "", 1)
    assert [*parse_policy(without).opened] == ["cohort:adults_v1"]
    with pytest.raises(Refused) as caught:
        parse_policy(without[: without.index("[cohorts")])
    assert "[tables]" in caught.value.sentence


def test_no_table_is_called_like_a_cohort() -> None:
    with pytest.raises(Refused):
        policy_of('[tables."cohort:x"]\n')


def test_cohorts_of_one_unique_id_are_of_the_same_people() -> None:
    other = section(SQL).replace('adults_v1"]', 'adults_v2"]')
    policy = policy_of(section(SQL) + other)
    populations = {policy.population(f"cohort:adults_v{i}") for i in (1, 2)}
    assert populations == {"cohorts by person_id"}
    of_table = section(SQL, more='same_people_as = "data.person"')
    as_first = section(SQL, more='same_people_as = "cohort:adults_v1"')
    as_first = as_first.replace('adults_v1"]', 'adults_v2"]')
    with pytest.raises(Refused):
        policy_of(of_table + as_first)
    policy = policy_of(section(SQL) + as_first)
    assert policy.population("cohort:adults_v2") == "cohorts by person_id"
    assert policy_of(of_table).population("cohort:adults_v1") == "data.person"


def test_a_table_that_one_cohort_names_is_that_of_the_others() -> None:
    """Else what is told of the first would count for none of them."""
    others = ""
    for name in ("adults_v2", "adults_v3"):
        others += section(SQL).replace("adults_v1", name)
    of_table = section(SQL, more='same_people_as = "data.person"')
    policy = policy_of(of_table + others)
    populations = {policy.population(f"cohort:adults_v{i}") for i in (1, 2, 3)}
    assert populations == {"data.person"}
    # Of two tables somebody has to say which.
    staff = '[tables."data.staff"]\ncolumns = ["*"]\nunique_id = "person_id"\n'
    of_staff = of_table.replace("adults_v1", "staff_v1").replace(
        "data.person", "data.staff"
    )
    with pytest.raises(Refused) as caught:
        policy_of(of_table + of_staff + others + staff)
    assert "adults_v2" in caught.value.sentence
    assert "same_people_as" in caught.value.remedy
    policy_of(of_table + of_staff + staff)


def test_numbers_are_inherited_and_its_own() -> None:
    text = section(SQL, more="min_rows = 30") + "[cohort]\nmax_parameter_share = 1\n"
    cohort = policy_of(text).cohorts["adults_v1"]
    assert (cohort.min_rows, cohort.min_varying) == (30, 30)
    assert cohort.max_parameter_share == 1


# At its times


def test_a_refresh_that_fails_is_noted_until_one_succeeds(site: Site) -> None:
    def attempt() -> None:
        refresh_noted(
            site.settings, site.policy, "adults_v1", now=NOW, person="somebody"
        )

    attempt()
    site.fill(PERSONS.assign(person_id=1))
    with pytest.raises(BadRequest):
        attempt()
    failed = failed_refresh(site.settings, "adults_v1")
    assert failed is not None
    assert "83 rows" not in failed.sentence
    (found,) = check_cohorts(site.settings)
    assert found.state == "warn"
    site.fill(PERSONS)
    attempt()
    assert failed_refresh(site.settings, "adults_v1") is None
    entries = list(Ledger(site.settings.ledger).entries())
    events = [(entry["event"], entry["person"]) for entry in entries]
    assert events == [
        ("cohort_made", "somebody"),
        ("cohort_kept", "somebody"),
        ("cohort_made", "somebody"),
    ]


def test_when_a_refresh_is_due(site: Site) -> None:
    def due(**after: float) -> list[str]:
        return due_cohorts(site.settings, site.policy, now=NOW + timedelta(**after))

    site.approve(SQL, more="")
    assert due(days=3) == []
    site.approve(SQL, more='refresh = "0 3 * * *"\ntimezone = "Asia/Shanghai"')
    assert due() == ["adults_v1"]
    site.refresh()
    # 3 o'clock there is 19 o'clock in UTC; it was made at 7:08.
    assert due(hours=11) == []
    path = cohort_file(site.settings, "adults_v1")
    whole = path.read_bytes()
    path.write_bytes(b"half")
    with pytest.raises(Conflict):
        made_cohort(site.settings, "adults_v1")
    assert due(hours=11) == ["adults_v1"]
    path.write_bytes(whole)
    assert due(hours=12) == ["adults_v1"]
    # Another definition has no rows yet; after a failure it waits for its time.
    site.approve("SELECT 1", more='refresh = "0 3 * * *"')
    assert due() == ["adults_v1"]
    with pytest.raises(ConsiliumError):
        refresh_noted(site.settings, site.policy, "adults_v1", now=NOW, person="")
    assert due(hours=19) == []
    assert due(hours=20) == ["adults_v1"]


def test_rows_of_a_cohort_that_is_gone_go(site: Site) -> None:
    site.refresh()
    assert drop_left(site.settings, site.policy) == []
    assert drop_left(site.settings, policy_of("")) == ["adults_v1"]
    assert made_cohort(site.settings, "adults_v1") is None
