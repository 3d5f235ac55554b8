"""SQL Server and Oracle that answer out of a list, for tests of what they are sent: no
server of either can be had here.

A stand-in of the driver's connection, under the driver's own module and SQLAlchemy's own
dialect: whatever these call is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import oracledb
import pymssql
import pytest

URLS = {
    "tsql": "mssql+pymssql://reader:hush@127.0.0.1/his",
    "oracle": "oracle+oracledb://reader:hush@127.0.0.1/?service_name=his",
}
Answer = tuple[Sequence[Any], Sequence[Sequence[Any]]]
"""A cursor's description, and rows."""
NOTHING: Answer = ((), ())


@dataclass
class FakeServer:
    """answers: by a pattern in the statement, what it gives, or what it raises."""

    answers: list[tuple[str, Answer | Exception]] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    """Statements, and what the connection was told, in order."""
    arguments: dict[str, Any] = field(default_factory=dict)
    connections: list[FakeConnection] = field(default_factory=list)

    def answer(self, statement: str) -> Answer:
        for pattern, answer in self.answers:
            if re.search(pattern, statement, re.IGNORECASE | re.DOTALL):
                if isinstance(answer, Exception):
                    raise answer
                return answer
        return NOTHING

    def connect(self, *_: Any, **arguments: Any) -> FakeConnection:
        self.arguments = arguments
        self.connections.append(FakeConnection(self))
        return self.connections[-1]

    def after(self, pattern: str) -> list[str]:
        """What was sent behind the last statement with this pattern."""
        places = [i for i, text in enumerate(self.sent) if re.search(pattern, text)]
        return self.sent[places[-1] + 1 :]


class FakeConnection:
    """As much of a connection as SQLAlchemy's dialects touch."""

    version = "19.3.0.0.0"
    thin = True
    max_identifier_length = 128
    outputtypehandler: Any = None

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.is_closed = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "call_timeout":
            self.server.sent.append(f"call_timeout {value}")
        super().__setattr__(name, value)

    def cursor(self) -> FakeCursor:
        return FakeCursor(self.server)

    def rollback(self) -> None:
        self.server.sent.append("rollback")

    def commit(self) -> None:
        self.server.sent.append("commit")

    def close(self) -> None:
        self.is_closed = True

    def autocommit(self, _is_on: bool) -> None:
        self.server.sent.append("autocommit")


class FakeCursor:
    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.description: Any = None
        self.rows: list[Any] = []
        self.rowcount = -1
        self.arraysize = 1
        self.outputtypehandler: Any = None
        self.fetched: list[int] = []

    def execute(self, statement: str, parameters: Any = None) -> None:
        assert not parameters
        self.server.sent.append(statement)
        self.description, rows = self.server.answer(statement)
        self.description = self.description or None
        self.rows = list(rows)

    def parse(self, statement: str) -> None:
        self.server.sent.append(f"parse {statement}")
        self.description, _ = self.server.answer(f"parse {statement}")

    def fetchmany(self, size: int = 1) -> list[Any]:
        taken, self.rows = self.rows[:size], self.rows[size:]
        return [self._row(row) for row in taken]

    def fetchone(self) -> Any:
        return next(iter(self.fetchmany(1)), None)

    def fetchall(self) -> list[Any]:
        return self.fetchmany(len(self.rows))

    def _row(self, row: Any) -> Any:
        if isinstance(row, Exception):
            raise row
        return tuple(row)

    def close(self) -> None:
        pass

    def __enter__(self) -> FakeCursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def columns(*names: str) -> list[tuple[Any, ...]]:
    """A description of which names alone are looked at."""
    return [(name, None, None, None, None, None, None) for name in names]


# What SQLAlchemy asks of a new connection
_AT_START: dict[str, list[tuple[str, Answer | Exception]]] = {
    "tsql": [
        (
            "select @@version",
            (columns("v"), [["Microsoft SQL Server 2019 (RTM) - 15.0.2000.5"]]),
        ),
        ("sys.system_views", (columns("n"), [["dm_exec_sessions"]])),
        ("transaction_isolation_level", (columns("i"), [["READ COMMITTED"]])),
        ("snapshot_isolation_state", (columns("s"), [[0]])),
        ("fn_listextendedproperty", (columns("n"), [[1]])),
        ("schema_name", (columns("s"), [["dbo"]])),
        ("cast\\('test", (columns("s"), [["test"]])),
    ],
    "oracle": [
        ("sys_context", (columns("s"), [["READER"]])),
        ("SELECT 1.1 FROM DUAL", (columns("d"), [["1.1"]])),
        ("cast\\('test", (columns("s"), [["test"]])),
    ],
}


def serve(
    monkeypatch: pytest.MonkeyPatch,
    dialect: str,
    answers: Sequence[tuple[str, Answer | Exception]] = (),
    connect: Callable[..., Any] | None = None,
) -> FakeServer:
    """Puts a server behind the driver of a dialect."""
    server = FakeServer([*answers, *_AT_START[dialect]])
    module: Any = pymssql if dialect == "tsql" else oracledb
    monkeypatch.setattr(module, "connect", connect or server.connect)
    return server
