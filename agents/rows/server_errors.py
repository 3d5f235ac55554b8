"""What the errors of SQL Server and Oracle are, by their numbers.

pymssql gives the server's number or the one of its library (20000 and more), oracledb a
code such as ORA-00942, or DPY-4024 of its own. Both have one class for most of what can
be wrong. Numbers of two kinds of servers mean different things, so each driver's are
looked up by themselves.

Decision 64.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ServerError:
    """kind: timeout, missing_column, missing_table, disk, busy, database or sql, as
    `agents.rows.faults` words them; name: the name that is missing, where one is told.
    """

    kind: str
    name: str | None = None


# SQL Server: "Database engine events and errors" of its manual.
_TSQL = {
    207: "missing_column",  # invalid column name
    4104: "missing_column",  # the multi-part identifier could not be bound
    208: "missing_table",  # invalid object name
    1101: "disk",
    1105: "disk",  # no space in a filegroup, tempdb's for instance
    9002: "disk",  # the transaction log is full
    1205: "busy",  # chosen as the victim of a deadlock
    1222: "busy",  # LOCK_TIMEOUT
    3952: "busy",  # snapshots have just been switched off
    3957: "busy",
    3960: "busy",
    4060: "database",  # cannot open the database
    18452: "database",
    18456: "database",  # login failed
    20003: "timeout",  # of DB-Library: no answer in `timeout` seconds
}
_FIRST_OF_LIBRARY = 20_000

# Oracle: "Database Error Messages" of its manual; DPY-...: python-oracledb.
_ORACLE = {
    "ORA-00904": "missing_column",
    "ORA-00942": "missing_table",
    "ORA-04043": "missing_table",
    "ORA-00040": "timeout",  # limits that Oracle's own administrator has set
    "ORA-01013": "timeout",  # cancelled
    "ORA-02393": "timeout",
    "ORA-02395": "timeout",
    "DPY-4024": "timeout",  # call_timeout
    "ORA-01114": "disk",
    "ORA-01652": "disk",
    "ORA-01653": "disk",
    "ORA-19502": "disk",
    "ORA-30036": "disk",
    "ORA-00054": "busy",
    "ORA-00060": "busy",
    "ORA-01555": "busy",  # the rows as of the transaction's begin are gone
    "ORA-08177": "busy",
    "ORA-30006": "busy",
    "ORA-01005": "database",
    "ORA-01017": "database",  # user or password
    "ORA-01045": "database",
    "ORA-28000": "database",  # the account is locked
    "ORA-28001": "database",
    "DPY-1001": "database",
    "DPY-4011": "database",
}

# Names in a message stand in quotes, in whatever language: 'dbo.t' and "A"."B".
_TSQL_NAME = re.compile(r"""["']([\w.$# ]+)["']""")
_ORACLE_NAME = re.compile(r'"[\w$# ]+"(?:\."[\w$# ]+")*')


def server_error(cause: BaseException) -> ServerError | None:
    """What an error of pymssql or oracledb is; None for one of another driver."""
    module = type(cause).__module__.partition(".")[0]
    first_argument: Any = cause.args[0] if cause.args else None
    if module == "pymssql":
        # While it connects, the pair of number and message is itself the argument.
        pair = first_argument if isinstance(first_argument, tuple) else cause.args
        number = pair[0] if pair and isinstance(pair[0], int) else None
        message = pair[-1] if number is not None else ""
        if isinstance(message, bytes):
            message = message.decode("utf-8", "replace")
        return tsql_error(number, str(message))
    if module == "oracledb":
        return _oracle_error(first_argument)
    return None


def tsql_error(number: int | None, message: str) -> ServerError:
    """An error of SQL Server, or of the library, by its number; without one it is the
    driver's own, of a connection that is lost.
    """
    if number is None:
        return ServerError("database")
    kind = _TSQL.get(number)
    if kind is None:
        kind = "database" if number >= _FIRST_OF_LIBRARY else "sql"
    missing_name = None
    if kind.startswith("missing"):
        match = _TSQL_NAME.search(message.split("\n", 1)[0])
        missing_name = match[1] if match else None
    return ServerError(kind, missing_name)


def _oracle_error(error: Any) -> ServerError:
    code = str(getattr(error, "full_code", ""))
    kind = _ORACLE.get(code)
    if kind is None:
        is_lost = bool(getattr(error, "isrecoverable", False))
        # DPY-6...: the network; ORA-12...: the listener
        is_network = code.startswith(("DPY-6", "ORA-12"))
        kind = "database" if is_lost or is_network else "sql"
    missing_name = None
    if kind.startswith("missing"):
        first_line = str(getattr(error, "message", "")).split("\n", 1)[0]
        match = _ORACLE_NAME.search(first_line)
        missing_name = match[0].replace('"', "") if match else None
    return ServerError(kind, missing_name)
