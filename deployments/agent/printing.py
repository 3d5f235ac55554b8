"""What commands print. Ledger and errors hold text of other hospitals, which must not
reach a terminal as control characters.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from typing import Any


def print_csv(entries: list[dict[str, Any]]) -> None:
    """Rows that the model cannot be applied to have a reason in place of a label."""
    classes: list[str] = []
    for entry in entries:
        classes = classes or list(entry.get("probabilities") or {})
    has_reasons = any("reason" in entry for entry in entries)
    head = ["id", "label", *[f"probability_{class_name}" for class_name in classes]]
    if has_reasons:
        head.append("reason")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(head)
    for entry in entries:
        probabilities = entry.get("probabilities") or {}
        row = [
            entry["id"],
            entry["label"],
            *[probabilities.get(class_name) for class_name in classes],
        ]
        if has_reasons:
            row.append(entry.get("reason"))
        writer.writerow(row)


def print_json(value: Any) -> None:
    """A list on one line, for programs; anything else so that people can read it too."""
    indent = None if isinstance(value, list) else 2
    print(json.dumps(value, indent=indent, allow_nan=False))


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print_line(line)


def print_line(line: str) -> None:
    print(printable(line))


def say(line: str) -> None:
    print(printable(line), file=sys.stderr)


def printable(line: str) -> str:
    return "".join(_shown(letter) for letter in line)


def _shown(letter: str) -> str:
    return letter if letter.isprintable() else f"\\u{ord(letter):04x}"
