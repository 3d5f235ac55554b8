"""A site's database URL: which kind of database it names, and what its driver is given.

SQL Server's rows and Oracle's travel encrypted to another machine, unless the URL says
insecure=true. No message holds anything of a URL but names of its options: it may hold
a password.

Decision 128.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from agents.site.settings import LOOPBACK
from protocol.errors import BadRequest

DIALECT_OF_BACKEND = {
    "duckdb": "duckdb",
    "postgresql": "postgres",
    "mysql": "mysql",
    "mariadb": "mysql",
    "mssql": "tsql",
    "oracle": "oracle",
}
CONNECT_TIMEOUT_SECONDS = 10
DRIVER_MODULES = {
    "duckdb": "duckdb_engine",
    "postgres": "psycopg",
    "mysql": "pymysql",
    "tsql": "pymssql",
    "oracle": "oracledb",
}
NAMES = {"tsql": "SQL Server", "oracle": "Oracle"}
EXTRAS = {"tsql": "sqlserver", "oracle": "oracle"}
"""What installs a driver that the agent has not by itself: an extra of its package."""

_DRIVER_NAMES = {
    "duckdb": "duckdb",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "tsql": "mssql+pymssql",
    "oracle": "oracle+oracledb",
}
"""How a URL begins."""
# What a URL may say behind the question mark. Another option would be one of another
# driver, or could undo what a session is prepared with.
_OPTIONS = {
    "tsql": ("encryption", "tds_version"),
    "oracle": (
        "service_name",
        "protocol",
        "ssl_server_dn_match",
        "ssl_server_cert_dn",
        "wallet_location",
        "wallet_password",
    ),
}
_INSECURE = "insecure"
_ARRAY_ROWS = 1_000
"""How many rows Oracle sends at once."""
_FORMS = (
    "Write duckdb:///path/hospital.duckdb, postgresql+psycopg://..., mysql+pymysql://..., mssql+pymssql://... or"
    " oracle+oracledb://..."
)


@dataclass(frozen=True)
class SourceUrl:
    """A URL that names a database which an agent reads.

    is_open: rows may travel to another machine unencrypted, because the URL says so.
    """

    url: sa.URL = field(repr=False)
    dialect: str
    is_open: bool = False

    def arguments(self, timeout_seconds: float) -> dict[str, Any]:
        """What the driver is given to connect with, beside what SQLAlchemy reads."""
        if self.dialect == "duckdb":
            return _duckdb_arguments(self.url)
        if self.dialect == "tsql":
            return _tsql_arguments(self.url, timeout_seconds)
        if self.dialect == "oracle":
            return _oracle_arguments(self.url)
        return {"connect_timeout": CONNECT_TIMEOUT_SECONDS}

    def engine(self, timeout_seconds: float) -> sa.Engine:
        """An engine, which connects nothing yet.

        BadRequest (code database_url) where the driver is not installed.
        """
        url = self.url
        if self.dialect in _OPTIONS:
            # All of them are arguments, in the driver's own types.
            url = url.set(query={})
        options: dict[str, Any] = {"poolclass": sa.pool.NullPool}
        if self.dialect == "oracle":
            options["arraysize"] = _ARRAY_ROWS
        try:
            return sa.create_engine(
                url, connect_args=self.arguments(timeout_seconds), **options
            )
        except (ImportError, NoSuchModuleError):
            raise _no_driver(self.dialect) from None
        except ArgumentError:
            raise unusable() from None


def read_url(text: str | sa.URL) -> SourceUrl:
    """The database that a URL names.

    Raises BadRequest (code database_url) for a text that is no URL, one of another
    database or driver, an option that is not known, a host that is not named, and rows
    of SQL Server or Oracle that would travel unencrypted.
    """
    try:
        url = sa.make_url(text)
        dialect = DIALECT_OF_BACKEND[url.get_backend_name()]
    except (ArgumentError, KeyError):
        raise unusable() from None
    if dialect not in _OPTIONS:
        return SourceUrl(url, dialect)
    if url.drivername != _DRIVER_NAMES[dialect]:
        raise unusable(f"{NAMES[dialect]} is read by {_DRIVER_NAMES[dialect]} alone.")
    _check_options(url, dialect)
    if not url.host:
        raise unusable("The URL names no host.")
    if dialect == "oracle" and bool(url.database) == ("service_name" in url.query):
        raise unusable(
            "Of Oracle it names a service by ?service_name=..., or an SID behind the host, and not both."
        )
    return SourceUrl(url, dialect, is_open=_is_open(url, dialect))


def unusable(why: str = "") -> BadRequest:
    sentence = "The site's database URL cannot be used."
    return BadRequest(f"{sentence} {why}".rstrip(), remedy=_FORMS, code="database_url")


def _no_driver(dialect: str) -> BadRequest:
    """A URL without +driver names SQLAlchemy's own choice, which no agent has."""
    module = DRIVER_MODULES[dialect]
    if dialect not in EXTRAS:
        return BadRequest(
            "The driver that the site's database URL names is not installed here.",
            remedy=f"Begin the URL with {_DRIVER_NAMES[dialect]}://. If it does, install the agent again, from its"
            f" bundle or by its list of requirements: {module} belongs to it.",
            code="database_url",
        )
    extra = EXTRAS[dialect]
    return BadRequest(
        f"The driver {module}, by which {NAMES[dialect]} is read, is not installed here.",
        remedy=f"Run in the agent's environment: pip install 'consilium-agent[{extra}]'; of a checkout:"
        f" .venv/bin/python -m pip install --require-hashes -r requirements-{extra}.txt.",
        code="database_url",
    )


def _check_options(url: sa.URL, dialect: str) -> None:
    options = (*_OPTIONS[dialect], _INSECURE)
    for option, option_value in url.query.items():
        if option not in options:
            raise unusable(
                f"Of {NAMES[dialect]} it has no option {option}; options are {', '.join(options)}."
            )
        if not isinstance(option_value, str):
            raise unusable(f"It names the option {option} twice.")
    for option in ("ssl_server_dn_match", _INSECURE):
        if url.query.get(option, "true") not in ("true", "false"):
            raise unusable(f"The option {option} is true or false.")
    if url.query.get("encryption", "require") not in ("require", "request", "off"):
        raise unusable("The option encryption is require, request or off.")
    if url.query.get("protocol", "tcps") not in ("tcps", "tcp"):
        raise unusable("The option protocol is tcps or tcp.")


def _is_open(url: sa.URL, dialect: str) -> bool:
    """Whether rows may travel unencrypted, or to somebody who only says that he is the
    server; refused unless the URL says so.
    """
    query = url.query
    if dialect == "tsql":
        is_closed, option = _encryption(url) == "require", "encryption=require"
    else:
        is_matched = query.get("ssl_server_dn_match", "true") == "true"
        is_closed = _protocol(url) == "tcps" and is_matched
        option = "protocol=tcps and leave ssl_server_dn_match out"
    if is_closed or url.host in LOOPBACK:
        return False
    if query.get(_INSECURE) != "true":
        raise BadRequest(
            f"The site's database URL lets rows travel readably from {NAMES[dialect]} to this machine.",
            remedy=f"Write {option}; on a line that is your own, add insecure=true to the URL.",
            code="database_url",
        )
    return True


def missing_file(text: str) -> Path | None:
    """The DuckDB file that a URL names, where it is not there."""
    source = read_url(text)
    if source.dialect != "duckdb" or source.url.database in (None, "", ":memory:"):
        return None
    path = Path(str(source.url.database))
    return None if path.exists() else path


def _encryption(url: sa.URL) -> str:
    default = "request" if url.host in LOOPBACK else "require"
    return str(url.query.get("encryption", default))


def _protocol(url: sa.URL) -> str:
    return str(url.query.get("protocol", "tcp" if url.host in LOOPBACK else "tcps"))


def _duckdb_arguments(url: sa.URL) -> dict[str, Any]:
    in_memory = url.database in (None, "", ":memory:")
    # Not by SET behind it: connections of one process to a file share its
    # configuration, which the first one would have locked for the second.
    config = {
        "enable_external_access": False,
        "python_enable_replacements": False,
        "lock_configuration": True,
    }
    return {"read_only": not in_memory, "config": config}


def _tsql_arguments(url: sa.URL, timeout_seconds: float) -> dict[str, Any]:
    arguments = {
        "login_timeout": CONNECT_TIMEOUT_SECONDS,
        # Whole seconds without an answer, after which the driver cancels the statement.
        "timeout": max(1, math.ceil(timeout_seconds)),
        # ApplicationIntent=ReadOnly: of an availability group a copy that may be read.
        "read_only": True,
        "appname": "Consilium",
        "encryption": _encryption(url),
    }
    if "tds_version" in url.query:
        arguments["tds_version"] = url.query["tds_version"]
    return arguments


def _oracle_arguments(url: sa.URL) -> dict[str, Any]:
    options = dict(url.query)
    options.pop(_INSECURE, None)
    is_encrypted = _protocol(url) == "tcps"
    arguments: dict[str, Any] = {
        # Else SQLAlchemy's, which knows no protocol
        "dsn": None,
        "host": url.host,
        "port": url.port or (2484 if is_encrypted else 1521),
        "tcp_connect_timeout": float(CONNECT_TIMEOUT_SECONDS),
        **options,
        "protocol": _protocol(url),
    }
    if url.database:
        arguments["sid"] = url.database
    if "ssl_server_dn_match" in options:
        arguments["ssl_server_dn_match"] = options["ssl_server_dn_match"] == "true"
    return arguments
