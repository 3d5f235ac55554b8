"""What another hospital's SQL may not do at one that has SQL Server or Oracle: the tricks
of these two, beside those of `test_sql`.
"""

from __future__ import annotations

import pytest

from agents.rows.allowed_sql import CheckedQuery, check_sql
from agents.rows.numbered_query import select_numbered
from agents.site.policy import parse_policy
from protocol.errors import BadRequest, Refused

POLICY = parse_policy("""
[orders]
initiators = [2, 4]
methods = ["Mask"]
model_types = ["lr"]
sign = true
[tables."HIS.T"]
columns = ["*"]
filter_columns = ["AGE", "SEX"]
unique_id = "ID"
""")


def checked(text: str, dialect: str, *, requester: int = 4) -> CheckedQuery:
    return check_sql(
        text,
        policy=POLICY,
        requester=requester,
        own_user_id=2,
        unique_id="ID",
        label=None,
        dialect=dialect,
    )


TSQL_TRICKS = [
    "SELECT * FROM his.t WITH (NOLOCK)",
    "SELECT * FROM his.t WAITFOR DELAY '0:0:9'",
    "SELECT * FROM his.t EXEC xp_cmdshell 'x'",
    "SELECT * FROM his.t; EXEC xp_cmdshell 'x'",
    "SELECT * FROM his.t DROP TABLE his.t",
    "DECLARE @a INT SELECT * FROM his.t",
    "SELECT @a = x1 FROM his.t",
    "SELECT @@version FROM his.t",
    "SELECT db_name() FROM his.t",
    "SELECT * FROM OPENROWSET('a', 'b', 'c')",
    "SELECT * FROM OPENQUERY(x, 'SELECT 1')",
    "SELECT * FROM his.t CROSS APPLY sys.fn_x(1)",
    "SELECT * FROM his.t FOR XML AUTO",
    "SELECT * FROM his.t FOR JSON PATH",
    "SELECT * FROM his.t FOR SYSTEM_TIME ALL",
    "SELECT * FROM his.t OPTION (MAXRECURSION 0)",
    "SELECT * FROM other.his.t",
    "SELECT * FROM #t",
    "SELECT * FROM sys.objects",
    "SELECT * INTO #x FROM his.t",
    "SELECT * FROM his.t WHERE sex = 'a\\\n'",
    "SELECT * FROM his.t WHERE age = 0x41",
    "SELECT * FROM his.t WHERE age = {ts '2020-01-01 00:00:00'}",
]
ORACLE_TRICKS = [
    "SELECT * FROM his.t@link",
    "SELECT * FROM his.t AS OF TIMESTAMP SYSTIMESTAMP",
    "SELECT * FROM his.t VERSIONS BETWEEN SCN MINVALUE AND MAXVALUE",
    "SELECT * FROM his.t SAMPLE (1)",
    "SELECT * FROM his.t PARTITION (p)",
    "SELECT * FROM his.t FOR UPDATE",
    "SELECT * FROM his.t CONNECT BY LEVEL < 3",
    "SELECT * FROM his.t MODEL DIMENSION BY (x) MEASURES (y) RULES ()",
    "SELECT * FROM TABLE(x)",
    "SELECT * FROM XMLTABLE('x')",
    "SELECT * FROM his.t, LATERAL (SELECT 1)",
    "SELECT * FROM his.t WHERE sex = q'[a]'",
    "SELECT * FROM his.t WHERE sex = :x",
    "SELECT utl_http.request('x') FROM his.t",
    "SELECT httpuritype('x').getclob() FROM his.t",
    "SELECT sys_context('a', 'b') FROM his.t",
    "SELECT ora_hash(x1) FROM his.t",
    "SELECT DUMP(x1) FROM his.t",
    "WITH FUNCTION f RETURN NUMBER IS BEGIN RETURN 1; END; SELECT f FROM his.t",
]


@pytest.mark.parametrize("requester", [2, 4])
@pytest.mark.parametrize(
    ("dialect", "text"),
    [("tsql", text) for text in TSQL_TRICKS]
    + [("oracle", text) for text in ORACLE_TRICKS],
    ids=lambda value: str(value)[:50],
)
def test_tricks_are_refused_for_everybody(
    dialect: str, text: str, requester: int
) -> None:
    with pytest.raises((Refused, BadRequest)):
        checked(text, dialect, requester=requester)


@pytest.mark.parametrize(
    "name", ["ROWNUM", "rowid", '"ROWID"', "ORA_ROWSCN", "level", "SYSDATE", "uid"]
)
def test_oracles_own_columns_are_no_columns_of_a_table(name: str) -> None:
    with pytest.raises(Refused):
        checked(f"SELECT {name} FROM his.t", "oracle")


# The letters U+02BC, U+2019 and U+FF07 become ' in some character sets of Oracle, U+02BA
# and U+201D ".
@pytest.mark.parametrize("letter", "ʼ’‘＇`´ʹ′ʺ”“＂«")
def test_no_letter_becomes_a_quotation_mark_in_oracle(letter: str) -> None:
    text = f"SELECT x1 FROM his.t WHERE sex = 'a{letter} OR 1=1 --'"
    for requester in (2, 4) if not letter.isascii() else ():
        with pytest.raises(Refused) as caught:
            checked(text, "oracle", requester=requester)
        assert caught.value.code == "characters"
    with pytest.raises((Refused, BadRequest)):
        checked(f'SELECT "x{letter}, ""ID" FROM his.t', "oracle")


def test_what_oracle_reads_of_another_hospital_is_ascii() -> None:
    """So that no character set changes it."""
    query = checked("SELECT 年龄 FROM his.t WHERE sex = '女, 苏州'", "oracle")
    constant = query.sql.partition("WHERE")[2]
    assert constant.isascii()
    assert constant == r""" ("SEX" = UNISTR('\5973, \82CF\5DDE'))"""


def test_two_marks_in_a_name_of_oracle_would_be_another_name() -> None:
    """SELECT "a""ID" is the column a under the name ID."""
    with pytest.raises(Refused) as caught:
        checked('SELECT "a""ID" FROM his.t', "oracle")
    assert caught.value.code == "characters"
    assert '[a"b]' in checked('SELECT "a""b" FROM his.t', "tsql").sql
    assert "[a]]b]" in checked('SELECT "a]b" FROM his.t', "tsql").sql


def test_an_empty_text_is_no_value_in_oracle() -> None:
    for where in ("sex = ''", "sex <> ''", "sex IN ('f', '')", "sex LIKE ''"):
        with pytest.raises(Refused, match="IS NULL"):
            checked(f"SELECT * FROM his.t WHERE {where}", "oracle")
        assert "''" in checked(f"SELECT * FROM his.t WHERE {where}", "tsql").sql


def test_a_list_has_a_thousand_constants_in_oracle() -> None:
    listed = ", ".join(map(str, range(2_100)))
    sql = checked(
        f"SELECT x1 FROM his.t WHERE age NOT IN ({listed})", "oracle"
    ).sql.partition("WHERE ")[2]
    assert sql.startswith('(NOT ("AGE" IN (0, 1,')
    assert [part.count(",") for part in sql.split(" OR ")] == [999, 999, 99]
    other = checked(f"SELECT x1 FROM his.t WHERE age IN ({listed})", "tsql").sql
    assert other.count(" IN ") == 1


def test_every_name_of_sql_server_is_quoted_for_the_own_user_too() -> None:
    """A statement ends there without a sign: a word of the text must not begin one."""
    query = checked("SELECT a.x1 exec, [drop] FROM his.t a", "tsql", requester=2)
    assert query.sql == "SELECT [a].[x1] AS [exec], [drop] FROM [HIS].[T] AS [a]"


def test_names_fold_as_oracle_folds() -> None:
    query = checked('SELECT x1, "x2" FROM his.t WHERE "age" = 1', "oracle")
    assert query.sql == 'SELECT "X1", "x2" FROM "HIS"."T" WHERE ("AGE" = 1)'


def test_an_approved_definition_is_read_word_for_word() -> None:
    """Any SQL that a hospital approved: comments, brackets in texts, names as keywords."""
    definition = """WITH a (x, y) AS ( -- first (
  SELECT ID, ')' AS y FROM HIS.T
), b AS (SELECT x, row_number() OVER (ORDER BY x) AS [order by] FROM a) -- then
SELECT x, y FROM a ORDER BY x -- the end"""
    query = CheckedQuery(("cohort:c",), definition, "tsql", 10)
    sql = select_numbered(query, n_columns=2, selected="c0, c1", most_rows=11)
    kept = definition.removeprefix("WITH ").partition("SELECT x, y FROM a ")
    assert sql == (
        f"WITH {kept[0]}\n, consilium_rows (c0, c1) AS (\nSELECT x, y FROM a\n)"
        " SELECT TOP (11) c0, c1 FROM consilium_rows"
    )
    definition = "WITH a AS (SELECT 1 AS x FROM dual)\n(SELECT x FROM a) ORDER BY x;"
    query = CheckedQuery(("cohort:c",), definition, "oracle", 10)
    sql = select_numbered(query, n_columns=1, selected="c0", most_rows=11)
    assert sql == (
        "WITH a AS (SELECT 1 AS x FROM dual)\n\n, consilium_rows (c0) AS (\n(SELECT x FROM a) ORDER BY x\n)"
        " SELECT c0 FROM consilium_rows WHERE ROWNUM <= 11"
    )
