"""What a database, a driver or DuckDB raises, as one of our errors, without its text.

A driver's text may quote values of rows ("could not convert string ..."), so it is
dropped here, at the only place where it appears. What happened is read from the class
of the error: DuckDB's own classes, PostgreSQL's SQLSTATE, the error numbers of MySQL
and MariaDB, of SQL Server and Oracle (`agents.rows.server_errors`). A hospital's server
may speak any language; these it does not translate. Text is looked at only for what no
class says: the name of a missing column or table, a process number. What a csv file's
fault is, its lines say (`agents.rows.csv_files`).

Decision 64.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from agents.rows.files import changed
from agents.rows.server_errors import ServerError, server_error, tsql_error
from protocol.errors import BadRequest, ConsiliumError, TooLarge, Unavailable

MEMORY_LIMIT = "256MB"
"""What DuckDB may take for what it reads at once; the rest it spills to the disk."""

# PostgreSQL: appendix A of its manual, "PostgreSQL Error Codes".
QUERY_CANCELED = "57014"
UNDEFINED_COLUMN = "42703"
UNDEFINED_TABLE = "42P01"
DISK_FULL = "53100"

# MySQL and MariaDB: their references of error messages.
ER_DISK_FULL = 1021
ER_DUP_FIELDNAME = 1060
ER_BAD_FIELD_ERROR = 1054
ER_NO_SUCH_TABLE = 1146
ER_QUERY_INTERRUPTED = 1317
ER_STATEMENT_TIMEOUT = 1969  # MariaDB's max_statement_time
ER_QUERY_TIMEOUT = 3024  # MySQL's max_execution_time

TIMEOUTS = (
    QUERY_CANCELED,
    ER_QUERY_INTERRUPTED,
    ER_STATEMENT_TIMEOUT,
    ER_QUERY_TIMEOUT,
)
MISSING_COLUMNS = (UNDEFINED_COLUMN, ER_BAD_FIELD_ERROR)
MISSING_TABLES = (UNDEFINED_TABLE, ER_NO_SUCH_TABLE)
FULL_DISKS = (DISK_FULL, ER_DISK_FULL)

# How the servers write a name into their message, whatever its language: in quotes, or
# table.column without any. What stands between the first quotes is the name, or nothing
# is: a name such as blood-type must not let the next quoted words pass for one.
_QUOTED = re.compile(r"""["'`«„]\s*([^"'`»“]*?)\s*["'`»“]""")
_BARE = re.compile(r"\b\w+(?:\.\w+)+\b")
_PLAIN_NAME = re.compile(r"\w[\w. ]*")
# DuckDB has one class for all names that it does not find, and always speaks English.
_DUCKDB_NAMES = (
    ("column", re.compile(r'[Cc]olumn "([\w. ]+)"[^\n]*(?:not found|does not)')),
    ("column", re.compile(r'column named "([\w. ]+)"')),
    ("table", re.compile(r"Table with name ([\w.]+) does not")),
)
_DUCKDB_LOCK = re.compile(r"Conflicting lock.*\(PID (\d+)\)", re.DOTALL)


@contextmanager
def safe_errors(timeout_seconds: float) -> Iterator[None]:
    """What the hospital's database raises within, as one of ours."""
    try:
        yield
    except ConsiliumError:
        raise
    except (SQLAlchemyError, duckdb.Error) as error:
        raise database_fault(error, timeout_seconds) from None


@contextmanager
def safe_reading(timeout_seconds: float, data_type: str = "data") -> Iterator[None]:
    """What DuckDB raises within over a file of `data_type`, or over what was read
    before, as one of ours.
    """
    try:
        yield
    except duckdb.Error as error:
        raise reading_fault(error, timeout_seconds, data_type) from None


def is_locked(error: Exception) -> bool:
    """Whether another process is writing to a DuckDB file, which it leaves again after
    a while.
    """
    cause = getattr(error, "orig", error)
    return isinstance(cause, duckdb.IOException) and "Conflicting lock" in str(cause)


def database_fault(error: Exception, timeout_seconds: float) -> ConsiliumError:
    """The error of the hospital's database as one of ours.

    Code statement_timeout, memory, missing_column, missing_table, duplicate_column, disk,
    database_locked, database, or sql for what it did not accept.
    """
    cause = getattr(error, "orig", None) or error
    server_fault = server_error(cause)
    if server_fault is not None:
        return _server_fault(server_fault, type(cause).__name__, timeout_seconds)
    number = _number_of(cause)
    if number in TIMEOUTS or isinstance(cause, duckdb.InterruptException):
        return _too_slow(timeout_seconds)
    if isinstance(cause, duckdb.OutOfMemoryException):
        return TooLarge(
            "The data SQL needs more memory at once than it may take.",
            remedy="Take fewer rows or groups at once.",
            code="memory",
        )
    missing = _missing_name(cause, number)
    if missing is not None:
        return missing
    if number == ER_DUP_FIELDNAME:
        return _doubled(cause)
    if number in FULL_DISKS or _is_duckdbs_full_disk(cause):
        return _full_disk()
    if is_locked(cause):
        held_by = _DUCKDB_LOCK.search(str(cause))
        process = f" (PID {held_by[1]})" if held_by else ""
        return Unavailable(
            f"Another process{process} is writing to the DuckDB file.",
            remedy="Close it there, or let it write into a copy; then order again.",
            code="database_locked",
        )
    if isinstance(error, OperationalError | InterfaceError) or isinstance(
        cause, duckdb.IOException
    ):
        return does_not_answer(error)
    return _not_accepted(type(cause).__name__)


def does_not_answer(error: Exception) -> Unavailable:
    """Unavailable (code database) for a database that cannot be connected to."""
    cause = getattr(error, "orig", None) or error
    return _silent(type(cause).__name__)


def _silent(detail: str) -> Unavailable:
    return Unavailable(
        f"The site's database does not answer ({detail}).",
        remedy="Check that it runs and that the site's database URL, user and password are right.",
        code="database",
    )


def tsql_fault(number: int, message: str, timeout_seconds: float) -> ConsiliumError:
    """An error of SQL Server that it has told in a row, as one of ours."""
    server_fault = tsql_error(number, message)
    return _server_fault(server_fault, f"error {number}", timeout_seconds)


def _server_fault(
    server_fault: ServerError, detail: str, timeout_seconds: float
) -> ConsiliumError:
    if server_fault.kind == "timeout":
        return _too_slow(timeout_seconds)
    if server_fault.kind in ("missing_column", "missing_table"):
        return _missing(server_fault.kind.removeprefix("missing_"), server_fault.name)
    if server_fault.kind == "disk":
        return _full_disk()
    if server_fault.kind == "busy":
        return Unavailable(
            "Other programs were writing to what the data SQL reads, and the database let them go first.",
            remedy="Order again when they have ended; on SQL Server, ALLOW_SNAPSHOT_ISOLATION lets both go on.",
            code="database",
        )
    if server_fault.kind == "database":
        return _silent(detail)
    return _not_accepted(detail)


def _too_slow(timeout_seconds: float) -> TooLarge:
    return TooLarge(
        f"The data SQL took longer than {timeout_seconds:g} seconds.",
        remedy="Narrow it, add an index, or raise the site's statement timeout.",
        code="statement_timeout",
    )


def _full_disk() -> Unavailable:
    return Unavailable(
        "The disk of the site's database, or the one that DuckDB spills to, is full.",
        remedy="Make room on it; the order goes on by itself.",
        code="disk",
    )


def _not_accepted(detail: str) -> BadRequest:
    return BadRequest(
        f"The database did not accept the data SQL ({detail}).",
        remedy="Try it at the hospital; compare columns with constants of their own type.",
        code="sql",
    )


def _number_of(cause: BaseException) -> str | int | None:
    """PostgreSQL's SQLSTATE, or the number of MySQL and MariaDB; None where a driver
    gives neither.
    """
    first_argument = cause.args[0] if cause.args else None
    if isinstance(first_argument, int):  # PyMySQL has an SQLSTATE too, which says less
        return first_argument
    sqlstate = getattr(cause, "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) else None


def _missing_name(cause: BaseException, number: str | int | None) -> BadRequest | None:
    is_mysqls = isinstance(number, int)  # whose first argument is the number
    error_text = str(cause.args[-1]) if is_mysqls else str(cause)
    # The first line only: those below repeat the SQL or suggest names that the policy
    # may not open.
    first_line = error_text.split("\n", 1)[0]
    if isinstance(cause, duckdb.BinderException | duckdb.CatalogException):
        for object_kind, pattern in _DUCKDB_NAMES:
            match = pattern.search(first_line)
            if match is not None:
                return _missing(object_kind, match[1])
        return None
    if number in MISSING_COLUMNS:
        return _missing("column", _name_in(first_line))
    if number in MISSING_TABLES:
        return _missing("table", _name_in(first_line))
    return None


def _doubled(cause: BaseException) -> BadRequest:
    """MariaDB and MySQL take no query as a table that has two columns of one name."""
    column_name = _name_in(str(cause.args[-1]).split("\n", 1)[0])
    which = "of one name" if column_name is None else column_name
    return BadRequest(
        f"The data SQL gives more than one column {which}.",
        remedy="Select each column once, or rename one by AS.",
        code="duplicate_column",
    )


def _name_in(line: str) -> str | None:
    """The name that a server's message is about; None where it cannot be told from
    other words.
    """
    quoted = _QUOTED.search(line)
    if quoted is not None:
        return quoted[1] if _PLAIN_NAME.fullmatch(quoted[1]) else None
    bare = _BARE.search(line)
    return bare[0] if bare else None


def _missing(object_kind: str, name: str | None) -> BadRequest:
    sentence = f"The database has no {object_kind} {name}."
    if name is None:
        sentence = f"The data SQL names a {object_kind} that does not exist."
    return BadRequest(
        sentence,
        remedy=f"Correct the {object_kind}'s name in the data SQL or in the policy.",
        code=f"missing_{object_kind}",
    )


def _is_duckdbs_full_disk(cause: BaseException) -> bool:
    """DuckDB has one class for all that can be wrong with a file; which of these it
    was, only its words say.
    """
    return isinstance(cause, duckdb.IOException) and "No space left" in str(cause)


def reading_fault(
    error: duckdb.Error, timeout_seconds: float, data_type: str
) -> ConsiliumError:
    """DuckDB's error over a hospital's data as one of ours: code statement_timeout,
    memory, disk, changed; for a file that is not what data_type says encoding, parquet
    or unreadable.
    """
    error_text = str(error)
    if isinstance(error, duckdb.InterruptException):
        return TooLarge(
            f"Reading the data took longer than {timeout_seconds:g} seconds.",
            remedy="Take fewer rows, or raise statement_timeout_seconds in the site's settings.toml.",
            code="statement_timeout",
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return TooLarge(
            f"The data need more than {MEMORY_LIMIT} of memory at once.",
            remedy="Take fewer groups.",
            code="memory",
        )
    if _is_duckdbs_full_disk(error):
        return Unavailable(
            "The disk of this hospital's agent is full.",
            remedy="Make room below its state folder; the order goes on by itself.",
            code="disk",
        )
    if isinstance(error, duckdb.IOException | duckdb.PermissionException):
        return changed()
    # What is wrong with a file's content has one class, whatever its format.
    if "utf-8" in error_text or "UTF8" in error_text or "nicode" in error_text:
        return BadRequest(
            f"The {data_type} file holds texts that are not UTF-8.",
            remedy="Save it as UTF-8 and order again.",
            code="encoding",
        )
    return BadRequest(
        f"The {data_type} cannot be read.",
        remedy="Check that the file is whole and of the type that data_type says.",
        code="parquet" if data_type == "parquet" else "unreadable",
    )
