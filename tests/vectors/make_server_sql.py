"""Writes sqlserver.sql and oracle.sql: run it only when the text that SQL Server or
Oracle is sent is changed on purpose, and have somebody read it who runs such a server.

.venv/bin/python tests/vectors/make_server_sql.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlglot

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from agents.rows.allowed_sql import CheckedQuery, check_sql  # noqa: E402
from agents.rows.database import DescribedQuery  # noqa: E402
from agents.rows.parsed_sql import words  # noqa: E402
from agents.rows.server_types import oracle_columns, tsql_columns  # noqa: E402
from agents.rows.source_types import SourceColumn  # noqa: E402
from agents.site.policy import parse_policy  # noqa: E402

FILES = {"tsql": "sqlserver.sql", "oracle": "oracle.sql"}
PATH_OF = {dialect: Path(__file__).with_name(name) for dialect, name in FILES.items()}
POLICY = parse_policy("""
[orders]
initiators = [2, 4]
methods = ["Mask"]
model_types = ["lr"]
sign = true
[tables."HIS.VISITS"]
columns = ["*"]
filter_columns = ["AGE", "SEX", "SEEN", "ALIVE", "WARD"]
unique_id = "ID"
[tables."HIS.Lab results"]
columns = ["Creatinine", "odd]name"]
filter_columns = ["Taken"]
unique_id = "Patient"
""")
UNIQUE_ID = "consilium unique id"

FOREIGN = {
    "all columns": "SELECT * FROM his.visits",
    "named columns": "SELECT age, visits.sex FROM his.visits",
    "listed columns": 'SELECT * FROM HIS."Lab results"',
    "numbers": "SELECT age FROM his.visits WHERE age >= -1.5e2 AND age < .5 OR NOT age <> 3",
    "truth": "SELECT age FROM his.visits WHERE alive = TRUE",
    "a text": "SELECT age FROM his.visits WHERE sex = 'O''Brien 50%'",
    "a text beyond ASCII": "SELECT age FROM his.visits WHERE ward = '苏州 𠮷' AND sex <> N'女'",
    "patterns": "SELECT age FROM his.visits WHERE ward LIKE 'A[1-3]_%' AND sex NOT LIKE 'f%'",
    "a list": "SELECT age FROM his.visits WHERE ward IN ('a', 'b') AND age NOT IN (1, 2)",
    "between": "SELECT age FROM his.visits WHERE age BETWEEN 1 AND 2 AND age NOT BETWEEN 3 AND 4",
    "null": "SELECT age FROM his.visits WHERE age IS NULL OR sex IS NOT NULL",
    "a day": "SELECT age FROM his.visits WHERE seen >= DATE '2024-05-06'",
    "moments": "SELECT age FROM his.visits WHERE seen < TIMESTAMP '2024-05-06T07:08'"
    " AND seen > TIMESTAMP '2024-05-06' AND seen <> TIMESTAMP '2024-05-06 07:08:09.125'",
}
OWN = {
    "own: with, join, window": "WITH a AS (SELECT id, age - avg(age) OVER (PARTITION BY sex) AS z FROM his.visits)"
    " SELECT a.z, a.z, coalesce(v.age, 0) FROM a JOIN his.visits v ON a.id = v.id WHERE v.ward = N'苏州' ORDER BY 1",
    "own: the first rows": "SELECT age FROM his.visits ORDER BY age LIMIT 5",
    "own: groups": "SELECT sex, count(DISTINCT id), avg(age) FROM his.visits GROUP BY sex HAVING count(*) > 3",
    "own: functions": "SELECT CASE WHEN age > 65 THEN 1 ELSE 0 END, lower(sex), substring(ward, 1, 2), length(ward),"
    " CAST(age AS DECIMAL(8, 2)), CAST(ward AS VARCHAR(9)), extract(YEAR FROM seen), sqrt(age), sex || ward"
    " FROM his.visits",
    "own: union": "SELECT age FROM his.visits UNION ALL SELECT age FROM his.visits ORDER BY 1",
}
TSQL_TYPES = words(
    "tinyint smallint int bigint bit real float money smallmoney decimal(8,2) numeric(38,0) decimal(38,38) date"
    " time(7) datetime smalldatetime datetime2(7) datetimeoffset(7) char(3) varchar(9) varchar(max) text nchar(3)"
    " nvarchar(9) ntext binary(4) varbinary(max) image timestamp uniqueidentifier"
)
ORACLE_TYPES: list[tuple[str, int, int]] = [
    ("NUMBER", 8, 2),
    ("NUMBER", 38, 0),
    ("NUMBER", 5, -2),
    ("NUMBER", 0, -127),
    ("NUMBER", 126, -127),
    ("BINARY_FLOAT", 0, 0),
    ("BINARY_DOUBLE", 0, 0),
    ("BOOLEAN", 0, 0),
    ("DATE", 0, 0),
    ("TIMESTAMP", 0, 6),
    ("TIMESTAMP_TZ", 0, 6),
    ("TIMESTAMP_LTZ", 0, 6),
    ("VARCHAR", 0, 0),
    ("NVARCHAR", 0, 0),
    ("CHAR", 0, 0),
    ("CLOB", 0, 0),
    ("RAW", 0, 0),
    ("BLOB", 0, 0),
]


def checked(
    text: str, dialect: str, *, requester: int, unique_id: str = "ID"
) -> CheckedQuery:
    return check_sql(
        text,
        policy=POLICY,
        requester=requester,
        own_user_id=2,
        unique_id=unique_id,
        label=None,
        dialect=dialect,
        unique_id_as=UNIQUE_ID,
    )


def described_types(dialect: str) -> list[SourceColumn]:
    """A column of each type."""
    if dialect == "tsql":
        return tsql_columns([(kind, kind) for kind in TSQL_TYPES])
    described: list[Any] = []
    for kind, digits, after_point in ORACLE_TYPES:
        named = SimpleNamespace(name=f"DB_TYPE_{kind}")
        described.append((kind, named, None, None, digits, after_point, True))
    return oracle_columns(described)


def read(
    query: CheckedQuery, columns: list[SourceColumn], places: Sequence[int]
) -> str:
    """What is sent to read the columns at these places, of 1,000 rows at most."""
    described = DescribedQuery(query, tuple(columns))
    return described.select(places, most_rows=1_001)


def texts(dialect: str) -> dict[str, str]:
    found = {}
    for name, text in FOREIGN.items():
        unique_id = "Patient" if "Lab" in text else "ID"
        query = checked(text, dialect, requester=4, unique_id=unique_id)
        found[name] = query.sql
    for name, text in OWN.items():
        query = checked(text, dialect, requester=2)
        n_columns = len(sqlglot.parse_one(text).selects)
        columns = [SourceColumn(f"c{place}") for place in range(n_columns)]
        found[name] = query.sql
        found[f"{name}, as it is read"] = read(query, columns, range(n_columns))
    query = checked("SELECT * FROM his.visits", dialect, requester=4)
    columns = described_types(dialect)
    places = range(len(columns))
    found["every type, as it is read"] = read(query, columns, places)
    found["two columns, as they are read"] = read(query, columns[:4], [3, 0])
    found["no column, as it is read"] = read(query, columns[:4], [])
    return found


def file_text(dialect: str) -> str:
    blocks = [f"-- {name}\n{text}\n" for name, text in texts(dialect).items()]
    return "\n".join(blocks)


if __name__ == "__main__":
    for dialect, path in PATH_OF.items():
        path.write_text(file_text(dialect), "utf-8")
