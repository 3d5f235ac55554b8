"""What this hospital received of joint statistics: a file for each order, and notes beside it.

    results/<order_id>/<alias>.csv or .json        the answer
    results/<order_id>/<alias>.notes.json          order, method, providers, rows used, what is withheld and why

Files have mode 0600 in folders of mode 0700 and are written whole or not at all, the notes first: an answer that is
there is complete. A float is written as the shortest text that reads as it, a decimal with all its digits. A text of a
csv that a spreadsheet would run as a formula has an apostrophe before it: names of groups come from other hospitals.
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

from agents.site.vault import damaged
from protocol.errors import BadRequest, NotFound
from protocol.machine.disk import make_private_folder, write_durably
from protocol.statistics_request import MOST_NAME_BYTES

TYPES = ("csv", "json")
_NOTES = ".notes.json"
_NO_FILE_NAME = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]|^[.\s]|\s$|^$')
_FORMULA = re.compile(r"[=@]|[+-].*[(|!]", re.DOTALL)
_QUOTED = re.compile(r'[",\r\n]|^\s|\s$')

Cell = str | int | float | Decimal | None


@dataclass(frozen=True)
class Result:
    """One order's answer on disk."""

    order_id: int
    alias: str
    type: str
    path: Path
    notes: dict[str, Any]

    @property
    def relative_path(self) -> str:
        """Below the results folder, as the coordinator's answer names it."""
        return f"{self.order_id}/{self.path.name}"

    def rows(self) -> list[dict[str, Any]]:
        """One object for each row; of a csv all values are text."""
        with self.path.open(encoding="utf-8", newline="") as file:
            return list(json.load(file)) if self.type == "json" else list(csv.DictReader(file))


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
    """Write an answer and its notes below the results folder; returns its path there, `<order_id>/<alias>.<type>`.

    `columns` differ from each other; every row has a cell for each. Cells are text, whole numbers, finite floats,
    decimals and None (nothing in csv, null in json); ValueError for others. The same order again replaces its answer.
    BadRequest (code result_alias, result_type, order_id) for what makes no file below the folder.

    Disclosure: the answer, for this hospital only; the folder is no part of what leaves.
    """
    path = _place(folder, order_id, alias=alias, type=type)
    table = [list(row) for row in rows]
    if len(set(columns)) < len(columns) or any(len(row) != len(columns) for row in table):
        raise ValueError("a column twice, or a row of another length")
    content = {"csv": _to_csv, "json": _to_json}[type](columns, table)
    said = {**notes, "order_id": order_id, "result_alias": alias, "type": type, "n_rows": len(table)}
    make_private_folder(path.parent)
    write_durably(path.parent / f"{alias}{_NOTES}", json.dumps(said, ensure_ascii=False, indent=2).encode())
    write_durably(path, content.encode())
    return f"{order_id}/{path.name}"


def _place(folder: Path, order_id: int, *, alias: str, type: str) -> Path:
    if order_id < 1:
        raise BadRequest(
            "An order's number is 1 or more.", remedy="Give the order's number.", code="order_id"
        )
    if type not in TYPES:
        raise BadRequest(
            f"No result type {type!r}.", remedy=f"Use one of {', '.join(TYPES)}.", code="result_type"
        )
    if _NO_FILE_NAME.search(alias) or not alias.isprintable() or len(alias.encode()) > MOST_NAME_BYTES:
        raise BadRequest(
            f"result_alias cannot be the name of a file, or is longer than {MOST_NAME_BYTES} bytes.",
            remedy="Use letters, digits and _.",
            code="result_alias",
        )
    return folder / str(order_id) / f"{alias}.{type}"


def _to_csv(columns: Sequence[str], table: Iterable[Sequence[Cell]]) -> str:
    """RFC 4180 with one newline at a row's end; an empty text is quoted, None is not, but where it is all of a row."""
    lines = [",".join(map(_quoted, row)) or '""' for row in [columns, *table]]
    return "".join(f"{line}\n" for line in lines)


def _quoted(cell: Cell) -> str:
    if not isinstance(cell, str):
        return "" if cell is None else _number(cell)
    cell = f"'{cell}" if _FORMULA.match(cell) else cell
    needs_quotes = not cell or _QUOTED.search(cell)
    return '"' + cell.replace('"', '""') + '"' if needs_quotes else cell


def _to_json(columns: Sequence[str], table: Iterable[Sequence[Cell]]) -> str:
    """A list of objects, a line each; decimals are JSON numbers with all their digits."""
    names = [json.dumps(name, ensure_ascii=False) for name in columns]
    lines = (
        ", ".join(f"{name}: {_value(cell)}" for name, cell in zip(names, row, strict=True)) for row in table
    )
    return "[\n" + ",\n".join(f"{{{line}}}" for line in lines) + "\n]\n"


def _value(cell: Cell) -> str:
    return json.dumps(cell, ensure_ascii=False) if cell is None or isinstance(cell, str) else _number(cell)


def _number(cell: int | float | Decimal) -> str:
    if isinstance(cell, bool) or not isinstance(cell, int | float | Decimal) or not math.isfinite(cell):
        raise ValueError("a cell is no text, no finite number and not None")
    return format(cell, "f") if isinstance(cell, Decimal) else repr(cell)


def list_results(folder: Path) -> list[Result]:
    """Every order's answer below the results folder, by order; what is unfinished or damaged is left out."""
    orders = sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal() and path.is_dir())
    return [found for order_id in orders for found in _results_of(folder / str(order_id), order_id)]


def read_result(folder: Path, order_id: int) -> Result:
    """An order's answer. NotFound (code no_result) if this hospital received none, Conflict if it is damaged."""
    found = _results_of(folder / str(order_id), order_id)
    if not found:
        _check_readable(folder / str(order_id))
        raise NotFound(
            f"This hospital holds no result of order {order_id}.",
            remedy="Only receivers of an order that ended with success hold its result; `results list` lists them.",
            code="no_result",
        )
    try:
        found[0].rows()
    except (ValueError, csv.Error):
        raise damaged(found[0].path) from None
    return found[0]


def _check_readable(folder: Path) -> None:
    """Notes that are empty or cut short hide an answer that is there."""
    for path in folder.glob(f"[!.]*{_NOTES}"):
        try:
            json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError):
            raise damaged(path) from None


def _results_of(folder: Path, order_id: int) -> list[Result]:
    return [found for path in sorted(folder.glob(f"[!.]*{_NOTES}")) if (found := _result(path, order_id))]


def _result(notes_path: Path, order_id: int) -> Result | None:
    """The answer that notes belong to. An answer named `a.notes` of type json has the name of notes, but is a list."""
    try:
        notes = json.loads(notes_path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    alias = notes_path.name.removesuffix(_NOTES)
    if not isinstance(notes, dict) or (notes.get("order_id"), notes.get("result_alias")) != (order_id, alias):
        return None
    kind = str(notes.get("type"))
    path = notes_path.with_name(f"{alias}.{kind}") if kind in TYPES else None
    return Result(order_id, alias, kind, path, notes) if path and path.is_file() else None
