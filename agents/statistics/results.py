"""What this hospital received of joint statistics: for each order a file and its notes.

    results/<order_id>/<alias>.csv or .json        the answer
    results/<order_id>/<alias>.notes.json          order, method, providers, rows used,
                                                   what is withheld and why

Files have mode 0600 in folders of mode 0700 and are written whole or not at all, the
notes first: an answer that is there is complete. A float is written as the shortest
text that reads as it, a decimal with all its digits. A text of a csv that a spreadsheet
would run as a formula has an apostrophe before it: names of groups come from other
hospitals.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from agents.rows.spreadsheet import inert
from agents.site.vault import damaged
from protocol.errors import BadRequest, NotFound
from protocol.machine.disk import make_private_folder, write_durably
from protocol.statistics_request import MOST_NAME_BYTES

TYPES = ("csv", "json")
_NOTES = ".notes.json"
# A name that leads out of its folder, is hidden there, or that some system cannot hold.
_NO_FILE_NAME = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]|^[.\s]|\s$|^$')
# A text that is not read back as it is unless it is quoted.
_QUOTED = re.compile(r'[",\r\n]|^\s|\s$')

Cell = str | int | float | Decimal | None


@dataclass(frozen=True)
class Result:
    """One order's answer on disk."""

    order_id: int
    # Its name, as the request gives it: the file's without its ending.
    alias: str
    # One of TYPES.
    type: str
    path: Path
    # The content of the file of notes.
    notes: dict[str, Any]

    @property
    def relative_path(self) -> str:
        """Below the results folder, as the coordinator's answer names it."""
        return f"{self.order_id}/{self.path.name}"

    def rows(self) -> list[dict[str, Any]]:
        """One object for each row; of a csv all values are text."""
        with self.path.open(encoding="utf-8", newline="") as file:
            if self.type == "json":
                return list(json.load(file))
            return list(csv.DictReader(file))


def write_result(
    folder: Path,
    order_id: int,
    *,
    alias: str,
    type: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    notes: Mapping[str, Any],
) -> str:
    """Writes an answer and its notes; returns `<order_id>/<alias>.<type>`.

    That is its path below the results folder. `columns` differ from each other; every
    row has a cell for each. Cells are text, whole numbers, finite floats, decimals and
    None (nothing in csv, null in json); ValueError for others. The same order again
    replaces its answer. BadRequest (code result_alias, result_type, order_id) for what
    makes no file below the folder.

    Disclosure: the answer, for this hospital only; the folder is no part of what
    leaves.
    """
    result_path = _place(folder, order_id, alias=alias, type=type)
    table = [list(row) for row in rows]
    differ = len(set(columns)) == len(columns)
    fit = all(len(row) == len(columns) for row in table)
    if not differ or not fit:
        raise ValueError("a column twice, or a row of another length")
    if type == "csv":
        content = _to_csv(columns, table)
    else:
        content = _to_json(columns, table)
    all_notes = {
        **notes,
        "order_id": order_id,
        "result_alias": alias,
        "type": type,
        "n_rows": len(table),
    }
    written_notes = json.dumps(all_notes, ensure_ascii=False, indent=2)
    make_private_folder(result_path.parent)
    # The notes first: after a crash between the two, what is there is no answer rather
    # than one without its notes.
    write_durably(result_path.parent / f"{alias}{_NOTES}", written_notes.encode())
    write_durably(result_path, content.encode())
    return f"{order_id}/{result_path.name}"


def _place(folder: Path, order_id: int, *, alias: str, type: str) -> Path:
    """Where an answer's file is.

    The alias comes from another hospital, and must not lead out of the folder.
    """
    if order_id < 1:
        raise BadRequest(
            "An order's number is 1 or more.",
            remedy="Give the order's number.",
            code="order_id",
        )
    if type not in TYPES:
        raise BadRequest(
            f"No result type {type!r}.",
            remedy=f"Use one of {', '.join(TYPES)}.",
            code="result_type",
        )
    is_file_name = alias.isprintable() and not _NO_FILE_NAME.search(alias)
    if not is_file_name or len(alias.encode()) > MOST_NAME_BYTES:
        raise BadRequest(
            f"result_alias cannot be the name of a file, or is longer than {MOST_NAME_BYTES} bytes.",
            remedy="Use letters, digits and _.",
            code="result_alias",
        )
    return folder / str(order_id) / f"{alias}.{type}"


def _to_csv(columns: Sequence[str], table: Iterable[Sequence[Cell]]) -> str:
    """RFC 4180 with one newline at a row's end.

    An empty text is quoted; None is not, but where it is all of a row.
    """
    csv_lines = []
    for table_row in (columns, *table):
        csv_line = ",".join(_quoted(cell) for cell in table_row)
        # An empty line would be read as no row.
        csv_lines.append(csv_line or '""')
    return "".join(f"{line}\n" for line in csv_lines)


def _quoted(cell: Cell) -> str:
    if cell is None:
        return ""
    if not isinstance(cell, str):
        return _number(cell)
    cell_text = inert(cell)
    if cell_text and not _QUOTED.search(cell_text):
        return cell_text
    doubled = cell_text.replace('"', '""')
    return f'"{doubled}"'


def _to_json(columns: Sequence[str], table: Iterable[Sequence[Cell]]) -> str:
    """A list of objects, a line each; decimals are JSON numbers with all their digits."""
    json_names = [json.dumps(column, ensure_ascii=False) for column in columns]
    objects = []
    for table_row in table:
        json_fields = []
        for json_name, cell in zip(json_names, table_row, strict=True):
            json_fields.append(f"{json_name}: {_value(cell)}")
        objects.append("{" + ", ".join(json_fields) + "}")
    return "[\n" + ",\n".join(objects) + "\n]\n"


def _value(cell: Cell) -> str:
    if cell is None or isinstance(cell, str):
        return json.dumps(cell, ensure_ascii=False)
    return _number(cell)


def _number(cell: int | float | Decimal) -> str:
    """The shortest text that reads as a float, or all digits of a decimal."""
    # Python counts a bool among the whole numbers.
    is_number = isinstance(cell, int | float | Decimal) and not isinstance(cell, bool)
    if not is_number or not math.isfinite(cell):
        raise ValueError("a cell is no text, no finite number and not None")
    if isinstance(cell, Decimal):
        return format(cell, "f")
    return repr(cell)


def list_results(folder: Path) -> list[Result]:
    """Every order's answer below the results folder, by order.

    What is unfinished or damaged is left out.
    """
    order_ids = []
    for order_folder in folder.glob("*"):
        if order_folder.name.isdecimal() and order_folder.is_dir():
            order_ids.append(int(order_folder.name))
    results: list[Result] = []
    for order_id in sorted(order_ids):
        results += _results_of(folder / str(order_id), order_id)
    return results


def read_result(folder: Path, order_id: int) -> Result:
    """An order's answer.

    NotFound (code no_result) if this hospital received none, Conflict if it is damaged.
    """
    order_folder = folder / str(order_id)
    results = _results_of(order_folder, order_id)
    if not results:
        _check_readable(order_folder)
        raise NotFound(
            f"This hospital holds no result of order {order_id}.",
            remedy="Only receivers of an order that ended with success hold its result; `results list` lists them.",
            code="no_result",
        )
    result = results[0]
    try:
        result.rows()
    except (ValueError, csv.Error):
        raise damaged(result.path) from None
    return result


def _check_readable(folder: Path) -> None:
    """Notes that are empty or cut short hide an answer that is there."""
    for notes_path in folder.glob(f"[!.]*{_NOTES}"):
        try:
            json.loads(notes_path.read_text("utf-8"))
        except (ValueError, RecursionError):
            raise damaged(notes_path) from None


def _results_of(folder: Path, order_id: int) -> list[Result]:
    results = []
    for notes_path in sorted(folder.glob(f"[!.]*{_NOTES}")):
        result = _result(notes_path, order_id)
        if result is not None:
            results.append(result)
    return results


def _result(notes_path: Path, order_id: int) -> Result | None:
    """The answer that notes belong to.

    An answer named `a.notes` of type json has the name of notes, but is a list.
    """
    try:
        notes = json.loads(notes_path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    alias = notes_path.name.removesuffix(_NOTES)
    if not isinstance(notes, dict):
        return None
    if notes.get("order_id") != order_id or notes.get("result_alias") != alias:
        return None
    type_ = str(notes.get("type"))
    if type_ not in TYPES:
        return None
    result_path = notes_path.with_name(f"{alias}.{type_}")
    if not result_path.is_file():
        return None
    return Result(order_id, alias, type_, result_path, notes)
