"""Which SQL passes: what hospitals really send, every trick that is known, and random
SQL against a real table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.rows.allowed_sql import DIALECTS, CheckedQuery, check_plain, check_sql
from agents.site.policy import parse_policy
from protocol.errors import BadRequest, ConsiliumError, Refused

POLICY = parse_policy("""
[orders]
initiators = [2, 4]
methods = ["Mask"]
model_types = ["lr"]
sign = true
[tables."data.t"]
columns = ["*"]
filter_columns = ["age", "sex", "y"]
[tables."data.narrow"]
columns = ["id", "y", "X1"]
filter_columns = ["Age"]
unique_id = "id"
[tables.bare]
columns = ["*"]
""")
SECRET = "Wagner-1947"


def foreign(
    text: str,
    dialect: str = "duckdb",
    *,
    unique_id: str = "id",
    label: str | None = "y",
) -> CheckedQuery:
    return check_sql(
        text,
        policy=POLICY,
        requester=4,
        own_user_id=2,
        unique_id=unique_id,
        label=label,
        dialect=dialect,
    )


def own(text: str, dialect: str = "duckdb") -> CheckedQuery:
    return check_sql(
        text,
        policy=POLICY,
        requester=2,
        own_user_id=2,
        unique_id="id",
        label="y",
        dialect=dialect,
    )


def refusal(
    text: str, dialect: str = "duckdb", *, mine: bool = False
) -> ConsiliumError:
    with pytest.raises((Refused, BadRequest)) as caught:
        own(text, dialect) if mine else foreign(text, dialect)
    assert caught.value.remedy
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


# --- another hospital's user ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["duckdb", "postgres", "mysql"])
@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("SELECT * FROM data.t;", 'SELECT * FROM "data"."t"'),
        ("select\n*\tfrom\r\nDATA.T ; ;", 'SELECT * FROM "data"."t"'),
        (
            "SELECT x1, t.x2, data.t.x3 FROM data.t",
            'SELECT "x1", "x2", "x3" FROM "data"."t"',
        ),
        ("SELECT * FROM data.narrow", 'SELECT "id", "y", "X1" FROM "data"."narrow"'),
        ("SELECT x1 FROM data.narrow", 'SELECT "X1" FROM "data"."narrow"'),
        ("SELECT * FROM bare", 'SELECT * FROM "bare"'),
        (
            "SELECT * FROM data.t WHERE age >= -1.5 AND NOT sex = 'O''B' OR (age <> 3)",
            'SELECT * FROM "data"."t" WHERE ((("age" >= -1.5) AND (NOT ("sex" = \'O\'\'B\'))) OR ("age" <> 3))',
        ),
        (
            "SELECT x1 FROM data.t WHERE age BETWEEN 1 AND 2 AND sex IN ('a') AND age IS NULL",
            'SELECT "x1" FROM "data"."t" WHERE ((("age" BETWEEN 1 AND 2) AND ("sex" IN (\'a\'))) AND ("age" IS NULL))',
        ),
        (
            "SELECT * FROM data.t WHERE age < DATE '2020-02-01' AND sex = TRUE",
            'SELECT * FROM "data"."t" WHERE (("age" < DATE \'2020-02-01\') AND ("sex" = TRUE))',
        ),
        (
            "SELECT * FROM data.t WHERE age < TIMESTAMP '2020-02-01 07:08'",
            'SELECT * FROM "data"."t" WHERE ("age" < TIMESTAMP \'2020-02-01 07:08\')',
        ),
        (
            "SELECT * FROM data.narrow WHERE age = 1",
            'SELECT "id", "y", "X1" FROM "data"."narrow" WHERE ("Age" = 1)',
        ),
    ],
)
def test_plain_queries_are_written_anew(text: str, written: str, dialect: str) -> None:
    expected = written.replace('"', "`") if dialect == "mysql" else written
    assert foreign(text, dialect).sql == expected


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "test",
    [
        "age NOT IN (1)",
        "age NOT BETWEEN 1 AND 2",
        "age IS NOT NULL",
        "sex NOT LIKE 'a%'",
        "NOT age = 1",
    ],
)
def test_a_negation_is_never_lost(test: str, dialect: str) -> None:
    assert "(NOT (" in foreign(f"SELECT * FROM data.t WHERE {test}", dialect).sql


def test_a_text_that_is_checked_again_is_as_it_was_sent() -> None:
    """Each step of an order checks it anew, whoever was asked in between."""
    text = "SELECT x1, y FROM data.t WHERE age > 40"
    first = foreign(text)
    assert own(text).sql != first.sql
    assert foreign(text, "mysql").sql != first.sql
    assert foreign(text) == first


def test_quoting_folds_as_the_database_folds() -> None:
    assert (
        foreign('SELECT "X1" FROM "data"."t"', "postgres").sql
        == 'SELECT "X1" FROM "data"."t"'
    )
    assert (
        foreign("SELECT X1 FROM data.t", "postgres").sql
        == 'SELECT "x1" FROM "data"."t"'
    )
    assert (
        foreign("SELECT `x1` FROM `data`.`t`", "mysql").sql
        == "SELECT `x1` FROM `data`.`t`"
    )
    assert foreign('SELECT "a""b" FROM data.t').sql == 'SELECT "a""b" FROM "data"."t"'


ONE_PATIENT = [
    (
        f"SELECT CASE WHEN id = {SECRET[-4:]} THEN x0 ELSE 0 END FROM data.t",
        "select_list",
    ),
    ("SELECT * FROM data.t WHERE NOT (id = 447 AND y = 1)", "filter_columns"),
    ("SELECT * FROM data.t WHERE id = 447", "filter_columns"),
    ("SELECT * FROM data.t WHERE ID = 447", "filter_columns"),
    ("SELECT * FROM data.t WHERE t.id <> 447", "filter_columns"),
    ('SELECT * FROM data.t WHERE "id" IN (447)', "filter_columns"),
    ("SELECT * FROM data.t WHERE y = 1", "filter_columns"),
    ("SELECT * FROM data.t WHERE x1 > 0", "filter_columns"),
    ("SELECT * FROM data.t WHERE 447 = id", "where"),
    ("SELECT * FROM data.t WHERE age = id", "where"),
    ("SELECT * FROM data.t WHERE age + id = 447", "where"),
    ("SELECT * FROM data.t WHERE (age, id) = (1, 2)", "where"),
    ("SELECT * FROM data.t WHERE age = (SELECT 1)", "where"),
    ("SELECT * FROM data.t WHERE age IN (SELECT 1)", "where"),
    ("SELECT * FROM data.t WHERE EXISTS (SELECT 1)", "where"),
    ("SELECT * FROM data.t WHERE abs(age) = 1", "where"),
    ("SELECT * FROM data.t WHERE age = 1 + 1", "where"),
    ("SELECT * FROM data.t WHERE age = CAST('1' AS INT)", "where"),
    (f"SELECT * FROM data.t WHERE age = DATE '{SECRET}'", "where"),
    ("SELECT * FROM data.t WHERE age", "where"),
    ("SELECT * FROM data.t WHERE TRUE", "where"),
    ("SELECT * FROM data.t WHERE age = NULL", "where"),
    ("SELECT * FROM data.t WHERE age IS TRUE", "where"),
    ("SELECT * FROM data.t WHERE sex LIKE age", "where"),
    ("SELECT * FROM data.t WHERE sex LIKE 'a' ESCAPE '!'", "where"),
    ("SELECT * FROM data.t WHERE CASE WHEN age = 1 THEN TRUE ELSE FALSE END", "where"),
    ("SELECT * FROM data.t WHERE t.data.age = 1", "where"),
    ("SELECT x1 + 0 FROM data.t", "select_list"),
    ("SELECT abs(x1) FROM data.t", "select_list"),
    ("SELECT count(*) FROM data.t", "select_list"),
    ("SELECT (x1) FROM data.t", "select_list"),
    ("SELECT (SELECT 1) FROM data.t", "select_list"),
    ("SELECT x1 AS x2 FROM data.t", "select_list"),
    ("SELECT *, x1 FROM data.t", "select_list"),
    ("SELECT other.x1 FROM data.t", "select_list"),
    ("SELECT x1, X1 FROM data.t", "select_list"),
    ("SELECT 1 FROM data.t", "select_list"),
    ("SELECT rowid FROM data.t", "columns"),
    ('SELECT "current_user" FROM data.t', "columns"),
    ("SELECT t FROM data.t", "columns"),
    ("SELECT x2 FROM data.narrow", "columns"),
    ("SELECT DISTINCT x1 FROM data.t", "clause"),
    ("SELECT * FROM data.t LIMIT 1", "clause"),
    ("SELECT * FROM data.t OFFSET 1", "clause"),
    ("SELECT * FROM data.t ORDER BY x1", "clause"),
    ("SELECT x1 FROM data.t GROUP BY x1", "clause"),
    ("SELECT x1 FROM data.t HAVING x1 > 1", "clause"),
    ("SELECT * FROM data.t, data.t", "clause"),
    ("SELECT * FROM data.t JOIN data.t b ON TRUE", "clause"),
    ("SELECT * FROM data.t AS u", "clause"),
    ("SELECT * FROM c.data.t", "clause"),
    ("SELECT * FROM data.t TABLESAMPLE (1 PERCENT)", "clause"),
    ("SELECT * FROM data.t FOR UPDATE", "clause"),
    ("SELECT * INTO u FROM data.t", "clause"),
    ("WITH a AS (SELECT 1) SELECT * FROM data.t", "clause"),
    ("SELECT 1", "clause"),
    ("SELECT * FROM (SELECT * FROM data.t)", "tables"),
    ("SELECT * FROM other.t", "tables"),
    ("SELECT * FROM t", "tables"),
    ("SELECT * FROM 'data.t'", "tables"),
    ('SELECT * FROM "data.t"', "tables"),
    ("SELECT * FROM ｄata.t", "tables"),
    ("SELECT * FROM data.t -- x", "comment"),
    ("SELECT * FROM /* x */ data.t", "comment"),
    ("SELECT * FROM data.t; SELECT 1", "statement"),
    ("SELECT * FROM data.t; DROP TABLE data.t", "statement"),
    ("SELECT * FROM data.t UNION SELECT * FROM data.t", "statement"),
    ("SELECT * FROM data.t INTERSECT SELECT * FROM data.t", "statement"),
    ("(SELECT * FROM data.t)", "statement"),
    ("VALUES (1)", "statement"),
    ("DELETE FROM data.t", "statement"),
    ("", "sql"),
    (";", "statement"),
    ("SELECT * FROM data.t WHERE age = 'a\x00b'", "characters"),
    (f"SELECT * FROM data.t WHERE ({SECRET}", "sql"),
    ("SELECT * FROM data.t WHERE " + "(" * 60 + "age = 1" + ")" * 60, "sql"),
    ("SELECT * FROM data.t WHERE " + "int(" * 35 + "1" + ")" * 35 + " = age", "sql"),
    ("SELECT * FROM data.t WHERE age = " + "1" * 30_000, "sql"),
    ("SELECT * FROM data.t WHERE " + "NOT " * 3000 + "age = 1", "sql"),
]


@pytest.mark.parametrize(
    ("text", "rule"), ONE_PATIENT, ids=lambda value: str(value)[:60]
)
def test_what_could_single_out_a_patient_is_refused(text: str, rule: str) -> None:
    assert refusal(text).code == rule


@pytest.mark.parametrize("dialect", DIALECTS[1:])
@pytest.mark.parametrize(
    "text", [text for text, _ in ONE_PATIENT], ids=lambda value: str(value)[:60]
)
def test_the_same_is_refused_in_other_dialects(text: str, dialect: str) -> None:
    refusal(text, dialect)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM data.t # x",
        "SELECT * FROM data.t /*! UNION SELECT 1 */",
        "SELECT /*+ NO_INDEX(t) */ * FROM data.t",
        "SELECT SQL_NO_CACHE * FROM data.t",
        "SELECT * FROM data.t PARTITION (p0)",
        "SELECT * FROM data.t WHERE sex = 'a\\\\'",
        "SELECT * FROM data.t WHERE age <=> NULL",
        "SELECT * FROM data.t WHERE age = @x",
        "SELECT * FROM data.t INTO OUTFILE '/tmp/x'",
        "SELECT * FROM data.t PROCEDURE ANALYSE()",
    ],
)
def test_mysql_tricks(text: str) -> None:
    refusal(text, "mysql")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM data.t WHERE sex = E'a\\'' ",
        "SELECT * FROM data.t WHERE sex = $$a$$ OR TRUE",
        "SELECT * FROM ONLY data.t",
        "SELECT data.t.* FROM data.t",
        "SELECT (t).x1 FROM data.t",
        "SELECT x1::text FROM data.t",
        "SELECT ctid FROM data.t",
    ],
)
def test_postgres_tricks(text: str) -> None:
    refusal(text, "postgres")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * EXCLUDE (x1) FROM data.t",
        "SELECT * REPLACE (1 AS x1) FROM data.t",
        "SELECT COLUMNS('x.*') FROM data.t",
        "SELECT * FROM data.t USING SAMPLE 3",
        "SELECT * FROM data.t QUALIFY row_number() OVER () = 1",
        "PIVOT data.t ON x1",
        "SELECT x1[1] FROM data.t",
        "SELECT * FROM data.t POSITIONAL JOIN data.t",
        "SELECT #1 FROM data.t",
    ],
)
def test_duckdb_tricks(text: str) -> None:
    refusal(text)


def test_an_escaped_quote_of_mysql_does_not_end_the_text() -> None:
    query = foreign("SELECT * FROM data.t WHERE sex = 'a\\' OR 1=1 --'", "mysql")
    assert query.sql == "SELECT * FROM `data`.`t` WHERE (`sex` = 'a'' OR 1=1 --')"


def test_another_unique_id_would_hide_small_differences() -> None:
    with pytest.raises(Refused) as caught:
        foreign("SELECT * FROM data.t", unique_id="x1")
    assert caught.value.code == "unique_id"


def test_the_orders_label_is_closed_even_when_the_policy_opens_it() -> None:
    assert foreign("SELECT * FROM data.t WHERE y = 1", label="z").sql.endswith(
        '("y" = 1)'
    )
    with pytest.raises(Refused):
        foreign("SELECT * FROM data.t WHERE Y = 1", label="y")


# --- the hospital's own user ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM data.t where id=0;",
        "SELECT * FROM data.t WHERE id = 0 -- the first patient",
        "WITH a AS (SELECT x1 FROM data.t), b AS (SELECT * FROM a) SELECT b.x1 FROM b JOIN data.t u ON u.x1 = b.x1",
        "SELECT (x1 - avg(x1) OVER ()) / stddev(x1) OVER () AS z, CASE WHEN y = 1 THEN 1 ELSE 0 END FROM data.t",
        "SELECT sex, count(DISTINCT id), avg(x1) FROM data.t GROUP BY sex HAVING count(*) > 3 ORDER BY 1 LIMIT 5",
        "SELECT * FROM data.t WHERE x1 > (SELECT avg(x1) FROM data.narrow) UNION ALL SELECT * FROM data.t",
        "SELECT CAST(x1 AS DECIMAL(8, 2)), coalesce(x2, 0), extract(year FROM d), lower(sex), sqrt(x1) FROM data.t",
        "SELECT DISTINCT x1 FROM data.t a LEFT JOIN data.narrow b USING (id) WHERE sex LIKE '%a%' OFFSET 3",
    ],
)
def test_own_user_may_compute_over_allowed_tables(text: str, dialect: str) -> None:
    checked = own(text, dialect)
    assert set(checked.tables) <= {"data.t", "data.narrow"}
    assert "patient" not in checked.sql


@pytest.mark.parametrize(
    "call",
    [
        "read_csv('/etc/passwd')",
        "read_parquet('x')",
        "read_json('x')",
        "read_text('x')",
        "read_blob('x')",
        "glob('*')",
        "sniff_csv('x')",
        "parquet_scan('x')",
        "postgres_scan('x', 'y', 'z')",
        "sqlite_scan('x', 'y')",
        "query('SELECT 1')",
        "query_table('other')",
        "duckdb_settings()",
        "pragma_table_info('x')",
        "generate_series(1, 10)",
        "unnest([1])",
        "dblink('x')",
        "pg_ls_dir('/')",
    ],
)
def test_table_functions_are_refused_for_everybody(call: str) -> None:
    for dialect in DIALECTS:
        for mine in (True, False):
            refusal(f"SELECT * FROM {call}", dialect, mine=mine)
            refusal(f"SELECT * FROM data.t, {call} q", dialect, mine=mine)


@pytest.mark.parametrize(
    "call",
    [
        "pg_read_file('x')",
        "lo_import('x')",
        "load_file('x')",
        "getenv('HOME')",
        "current_setting('x')",
        "set_config('a', 'b', false)",
        "pg_sleep(9)",
        "sleep(9)",
        "benchmark(9, 1)",
        "query_to_xml('SELECT 1', true, true, '')",
        "version()",
        "current_user",
        "nextval('s')",
        "xmlparse('x')",
        "main.read_text('x')",
        "list_transform([1], x -> x)",
    ],
)
def test_functions_off_the_list_are_refused_for_everybody(call: str) -> None:
    for dialect in DIALECTS:
        for mine in (True, False):
            refusal(f"SELECT {call} FROM data.t", dialect, mine=mine)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM 'file.csv'",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM pg_catalog.pg_authid",
        "SELECT * FROM data.t JOIN other.t ON TRUE",
        "SELECT * FROM data.t WHERE id IN (SELECT id FROM secret)",
        "SELECT * FROM (WITH secret AS (SELECT 1 FROM data.t) SELECT * FROM secret) q, secret",
        "WITH secret AS (SELECT * FROM secret) SELECT * FROM secret",
        "WITH a AS (SELECT * FROM b), b AS (SELECT 1 FROM data.t) SELECT * FROM a",
        "SELECT 1",
    ],
)
def test_tables_off_the_policy_are_refused_for_the_own_user_too(text: str) -> None:
    for dialect in DIALECTS:
        assert refusal(text, dialect, mine=True).code in ("tables", "sql")


@pytest.mark.parametrize(
    "text",
    [
        "COPY data.t TO 'x'",
        "ATTACH 'x' AS y",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA database_list",
        "SET threads = 1",
        "CALL f()",
        "EXPLAIN SELECT * FROM data.t",
        "DESCRIBE data.t",
        "SHOW TABLES",
        "INSERT INTO data.t VALUES (1)",
        "UPDATE data.t SET x1 = 0",
        "DROP TABLE data.t",
        "CREATE TABLE u AS SELECT * FROM data.t",
        "EXPORT DATABASE 'x'",
        "GRANT ALL ON data.t TO x",
        "SELECT * FROM data.t; SELECT * FROM data.t",
        "SELECT * INTO u FROM data.t",
        "SELECT * FROM data.t FOR UPDATE",
        "SELECT * FROM data.t INTO OUTFILE '/tmp/x'",
        "WITH RECURSIVE a AS (SELECT 1 UNION ALL SELECT 1 FROM data.t) SELECT * FROM a",
        "WITH a AS (DELETE FROM data.t RETURNING *) SELECT * FROM a",
        "SELECT CAST('x' AS REGCLASS) FROM data.t",
        "SELECT * FROM data.t WHERE x1 = ?",
    ],
)
def test_statements_other_than_select_are_refused_for_the_own_user_too(
    text: str,
) -> None:
    for dialect in DIALECTS:
        refusal(text, dialect, mine=True)


# --- random SQL ----------------------------------------------------------------------------------------------------

VOCABULARY = r"""
SELECT FROM WHERE data.t data . t * , ; ( ) [ ] x1 id y age sex = <> < >= + - / % AND OR NOT IN LIKE BETWEEN IS NULL
CASE WHEN THEN ELSE END 1 -2 .5 1e3 'a' 'O''B' "x1" `x1` " ' ` UNION ALL LIMIT GROUP BY ORDER HAVING DISTINCT AS
WITH JOIN USING ON count(*) lower(sex) -- /* */ # $$ :: || @ ? :a E'x' DATE '2020-01-01' TRUE EXISTS CAST(1 INT)
ｉd İ ſ FOR UPDATE INTO VALUES TABLESAMPLE read_csv('x') rowid OFFSET QUALIFY OVER FILTER \
"""
WORDS = st.sampled_from([*VOCABULARY.split(), "\x00", "\u00a0"])
CONSTANTS = st.sampled_from(
    ["1", "-3", "2.5", "'f'", "'O''B'", "TRUE", "DATE '2020-01-01'", "0", "40"]
)
COLUMNS = st.sampled_from(["age", "sex", "AGE", '"sex"', "t.age", "data.t.sex"])
TESTS = st.one_of(
    st.builds(
        "{} {} {}".format,
        COLUMNS,
        st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="]),
        CONSTANTS,
    ),
    st.builds(
        "{} {} ({}, {})".format,
        COLUMNS,
        st.sampled_from(["IN", "NOT IN"]),
        CONSTANTS,
        CONSTANTS,
    ),
    st.builds(
        "{} {} {} AND {}".format,
        COLUMNS,
        st.sampled_from(["BETWEEN", "NOT BETWEEN"]),
        CONSTANTS,
        CONSTANTS,
    ),
    st.builds(
        "{} {}".format,
        COLUMNS,
        st.sampled_from(["IS NULL", "IS NOT NULL", "LIKE 'f%'", "NOT LIKE '_'"]),
    ),
)
CONDITIONS = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.builds("{} {} {}".format, inner, st.sampled_from(["AND", "OR"]), inner),
        st.builds("({})".format, inner),
        st.builds("NOT {}".format, inner),
    ),
    max_leaves=6,
)
SELECTS = st.sampled_from(["*", "x1", "id, y, x1", "t.x1, sex", "age"])


@pytest.fixture(scope="module")
def table() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(":memory:")
    connection.execute("CREATE SCHEMA data")
    connection.execute(
        "CREATE TABLE data.t AS SELECT i AS id, i % 2 AS y, i * 0.5 AS x1, CASE WHEN i % 7 > 0 THEN 20 + i END AS age,"
        " CASE WHEN i % 3 = 0 THEN 'f' ELSE 'm' END AS sex FROM range(40) r(i)"
    )
    yield connection
    connection.close()


def assert_rows_of_the_table(
    connection: duckdb.DuckDBPyConnection, query: CheckedQuery
) -> None:
    """Each row that the query gives is a row of the table, as often as there, with the
    very same values.
    """
    try:
        answer = connection.execute(query.sql)
        names = [column[0] for column in answer.description]
        rows = Counter(answer.fetchall())
    except duckdb.Error:
        return  # such as a comparison of text with a number: no rows at all
    whole = connection.execute(
        "SELECT " + ", ".join(f'"{name}"' for name in names) + " FROM data.t"
    )
    assert {name.lower() for name in names} <= {"id", "y", "x1", "age", "sex"}
    assert rows <= Counter(whole.fetchall())


@given(
    words=st.lists(WORDS, max_size=14),
    head=st.sampled_from(["", "SELECT * FROM data.t ", "SELECT "]),
)
def test_words_at_random_give_an_answer_or_a_refusal(
    words: list[str], head: str, table: duckdb.DuckDBPyConnection
) -> None:
    for dialect in DIALECTS:
        for check in (foreign, own):
            try:
                query = check(head + " ".join(words), dialect)
            except ConsiliumError:
                continue
            if check is foreign and dialect == "duckdb":
                assert_rows_of_the_table(table, query)


@given(text=st.text(max_size=60))
def test_any_text_gives_an_answer_or_a_refusal(text: str) -> None:
    for dialect in DIALECTS:
        for prefix in ("", "SELECT * FROM data.t WHERE sex = "):
            with suppress(ConsiliumError):
                foreign(prefix + text, dialect)


@given(select=SELECTS, condition=CONDITIONS)
def test_an_accepted_filter_means_what_was_written(
    select: str, condition: str, table: duckdb.DuckDBPyConnection
) -> None:
    text = f"SELECT {select} FROM data.t WHERE {condition}"
    query = foreign(text)
    assert_rows_of_the_table(table, query)
    try:
        expected = table.execute(text).fetchall()
    except duckdb.Error:
        return
    assert sorted(map(repr, table.execute(query.sql).fetchall())) == sorted(
        map(repr, expected)
    )


@given(text=st.text(max_size=20))
def test_a_text_constant_stays_one_constant(
    text: str, table: duckdb.DuckDBPyConnection
) -> None:
    quoted = "'" + text.replace("'", "''") + "'"
    try:
        query = foreign(f"SELECT x1 FROM data.t WHERE sex = {quoted} OR sex = 'f'")
    except ConsiliumError:
        return
    assert len(table.execute(query.sql).fetchall()) == (40 if text == "m" else 14)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM data.t;",
        "SELECT id, x1 FROM data.t WHERE id = 0",
        'SELECT "id", t.x1 FROM data.t AS t LIMIT 3',
    ],
)
def test_plain_sql_of_an_inference_order(text: str) -> None:
    check_plain(text, dialect="duckdb")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT id, y AS x1 FROM data.t",
        "SELECT id, 1.0 AS x1 FROM data.t",
        "SELECT concat(id, x9) AS id, x1 FROM data.t",
        "SELECT id, x1 + 0 FROM data.t",
        "SELECT id, x1 FROM (SELECT id, y AS x1 FROM data.t)",
        "WITH s AS (SELECT id, y AS x1 FROM data.t) SELECT * FROM s",
        "SELECT a.id, b.x1 FROM data.t AS a JOIN data.t AS b ON a.id = b.y",
        "SELECT id, x1 FROM data.t UNION ALL SELECT id, y FROM data.t",
        "SELECT * REPLACE (y AS x1) FROM data.t",
        "SELECT t.* EXCLUDE (x1) FROM data.t AS t",
        "SELECT id, x1 FROM data.t AS t(id, y, x1)",
        "SELECT id, x1 FROM data.t, data.u",
        "DELETE FROM data.t",
    ],
)
def test_sql_that_could_carry_cells_out_as_predictions(text: str) -> None:
    with pytest.raises(ConsiliumError):
        check_plain(text, dialect="duckdb")
