"""Predictions into a table or a file of the hospital, where its own systems read them.

A table is written over a connection of its own, `predictions_url` of settings.toml: the
one that reads the hospital's rows may write nothing. All predictions of a model are
replaced together or not at all; those of other models in the same table stay.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agents.rows.database import open_source
from agents.rows.dialect_text import SERVERS_WITHOUT_LIMIT
from agents.rows.faults import safe_errors
from agents.rows.spreadsheet import inert
from protocol.errors import BadRequest
from protocol.machine.disk import put_in_place

FILE_ENDINGS = (".csv", ".json")
_TABLE = re.compile(r"(\w+\.)?\w+")
_SECONDS = 300.0
_BATCH_ROWS = 10_000


@dataclass(frozen=True)
class Target:
    """Where predictions go: a file, or a table of the database behind a URL."""

    file: Path | None = None
    table: str = ""
    url: str = ""


def target_of(text: str, *, predictions_url: str | None) -> Target:
    """What `--into` names: a path that ends in .csv or .json, else schema.table.

    BadRequest (code into) for neither, or a table without an address to write it at.
    """
    if text.lower().endswith(FILE_ENDINGS):
        return Target(file=Path(text).absolute())
    if not _TABLE.fullmatch(text):
        raise BadRequest(
            "--into names no table and no file.",
            remedy="Write schema.table, or a path that ends in .csv or .json.",
            code="into",
        )
    if predictions_url is None:
        raise BadRequest(
            "This site has no database into which predictions are written.",
            remedy="Set predictions_url in settings.toml, with a user who may write that table, or name a file.",
            code="into",
        )
    return Target(table=text, url=predictions_url)


def write_predictions(
    entries: Sequence[Mapping[str, Any]],
    target: Target,
    *,
    model_id: int,
    made: datetime | None = None,
) -> None:
    """Replaces a model's predictions in a table or file.

    entries: of each row "id" and "label", where the model has classes "probabilities"
    by class, and "reason" where there is no label. The columns are model_id, id, label
    (the class as text; null for lr and linear), value (the probability of class 1 for
    lr, the number for linear, else the label's probability), reason, made (UTC): the
    same for every model, so that one table can hold them all. It is made where there is
    none.

    Raises BadRequest (code into) for a table of other columns and a folder that is not
    there, Unavailable for a database that does not answer.

    Disclosure: predictions about patients, to whoever reads that table or file.
    """
    made = made or datetime.now(UTC)
    rows = [_row(entry, model_id, made) for entry in entries]
    if target.file is not None:
        _write_file(rows, target.file)
        return
    with safe_errors(_SECONDS):
        _write_table(rows, target, model_id=model_id)


def _row(entry: Mapping[str, Any], model_id: int, made_at: datetime) -> dict[str, Any]:
    label, value = None, entry["label"]
    if entry.get("probabilities") is not None:
        label = str(entry["label"])
        value = entry["probabilities"][label]
    return {
        "model_id": model_id,
        "id": entry["id"],
        "label": label,
        "value": value,
        "reason": entry.get("reason"),
        "made": made_at.replace(tzinfo=None, microsecond=0),
    }


def _write_file(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Whole or not at all, for the owner only."""
    content = _as_csv(rows) if path.suffix.lower() == ".csv" else _as_json(rows)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        # O_EXCL: in a folder that others may write to as well no link of theirs is
        # followed.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        raise BadRequest(
            f"{path.parent} is no folder that this user may write to.",
            remedy="Make it, or name another.",
            code="into",
        ) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_COLUMNS = ("model_id", "id", "label", "value", "reason", "made")


def _as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        # Classes of a model are texts of all hospitals that trained it.
        inert_cells = {
            column: inert(cell_value) if isinstance(cell_value, str) else cell_value
            for column, cell_value in row.items()
        }
        writer.writerow(inert_cells)
    return buffer.getvalue()


def _as_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """One object a line, as the site's data folder has them."""
    json_lines = [json.dumps(row, default=_iso, ensure_ascii=False) for row in rows]
    return "".join(f"{json_line}\n" for json_line in json_lines)


def _iso(moment: datetime) -> str:
    return moment.isoformat()


def _write_table(
    rows: Sequence[Mapping[str, Any]], target: Target, *, model_id: int
) -> None:
    *schemas, table_name = target.table.split(".")
    schema = schemas[0] if schemas else None
    # The driver of a hospital's database, but a connection that may write.
    dialect = open_source(target.url).dialect
    if dialect in SERVERS_WITHOUT_LIMIT:
        raise BadRequest(
            "Predictions are not written into SQL Server or Oracle.",
            remedy="Name a file, and load it there; or set predictions_url to another database.",
            code="into",
        )
    engine = sa.create_engine(target.url, poolclass=sa.pool.NullPool)
    table = _table(table_name, schema)
    try:
        with engine.begin() as connection:
            present_columns = _columns_of(connection, dialect, table_name, schema)
            if present_columns and not set(_COLUMNS) <= present_columns:
                missing = ", ".join(sorted(set(_COLUMNS) - present_columns))
                raise BadRequest(
                    f"The table {target.table} has no column {missing}.",
                    remedy="Name another table, or one that is not there: it is made.",
                    code="into",
                )
            if not present_columns:
                # Before a row is touched: MariaDB ends a transaction at CREATE, which
                # must not come between the old rows' removal and the new ones.
                table.create(connection)
            connection.execute(sa.delete(table).where(table.c.model_id == model_id))
            for first_row in range(0, len(rows), _BATCH_ROWS):
                batch = [dict(row) for row in rows[first_row : first_row + _BATCH_ROWS]]
                connection.execute(sa.insert(table), batch)
    finally:
        engine.dispose()


def _table(name: str, schema: str | None) -> sa.Table:
    """As it is made. An id of MariaDB's TEXT could not be looked up by an index."""
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("model_id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("label", sa.String(255)),
        sa.Column("value", sa.Double),
        sa.Column("reason", sa.String(255)),
        sa.Column("made", sa.DateTime, nullable=False),
        schema=schema,
    )


def _columns_of(
    connection: sa.Connection, dialect: str, name: str, schema: str | None
) -> set[str]:
    """The columns of a table in lower case; none where there is no such table."""
    columns_query = (
        "SELECT column_name FROM information_schema.columns WHERE table_name = :name"
    )
    current = "database()" if dialect == "mysql" else "current_schema()"
    where = ":schema" if schema else current
    statement = sa.text(f"{columns_query} AND table_schema = {where}")
    parameters = {"name": name, "schema": schema} if schema else {"name": name}
    return {str(row[0]).lower() for row in connection.execute(statement, parameters)}
