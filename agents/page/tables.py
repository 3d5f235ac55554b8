"""What the page shows, as tables: from the lines of the ledger, and from what vault and results folder hold. Pure.

A cell is text as it stands in the ledger; the page translates the words among them, a csv keeps them.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from agents.statistics.results import Result
from protocol.messages import COORDINATOR, EVERYONE

Entry = Mapping[str, Any]
Names = Mapping[int, str]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_ASKED = ("asked", "decided", "answered", "rounded", "finished", "inferred", "exported")


@dataclass(frozen=True)
class Table:
    """Rows of as many texts as there are columns, the newest first."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def of_order(self, number: int) -> Table:
        """Only the rows about one order or model."""
        at = self.columns.index("order")
        return Table(self.name, self.columns, [row for row in self.rows if row[at] == str(number)])

    def to_csv(self) -> str:
        """With a mark that spreadsheets know UTF-8 by. A text that they would compute gets a ' in front."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerows([self.columns, *([_inert(cell) for cell in row] for row in self.rows)])
        return "\ufeff" + file.getvalue()


def _inert(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _rows(
    entries: Iterable[Entry], events: Iterable[str], row: Callable[[Entry], Iterable[Any]]
) -> list[Any]:
    wanted = set(events)
    found = [tuple(map(_text, row(entry))) for entry in entries if entry.get("event") in wanted]
    return found[::-1]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(entry: Entry) -> Any:
    return entry.get("order_id", entry.get("model_id"))


def name_of(user: Any, names: Names) -> str:
    """A user id and its name, or who is no hospital."""
    if user in (EVERYONE, COORDINATOR):
        return "everyone" if user == EVERYONE else "coordinator"
    return f"{user} {names.get(user, '')}".strip() if isinstance(user, int) else ""


def asked(entries: Iterable[Entry], names: Names) -> Table:
    """Orders asked about, decided, answered and finished, columns that lost digits; inference and exports here."""

    def row(entry: Entry) -> Iterable[Any]:
        who = entry.get("person") or name_of(entry.get("initiator"), names)
        what = entry.get("decision") or entry.get("kind") or entry.get("format")
        why = entry.get("purpose") or entry.get("reason") or entry.get("sentence")
        return entry.get("at"), _number(entry), entry["event"], what, who, why

    return Table("asked", ("at", "order", "event", "what", "who", "purpose"), _rows(entries, _ASKED, row))


def refused(entries: Iterable[Entry]) -> Table:
    """Every refusal with its rule."""

    def row(entry: Entry) -> Iterable[Any]:
        return entry.get("at"), _number(entry), entry.get("rule"), entry.get("sentence")

    return Table("refused", ("at", "order", "rule", "sentence"), _rows(entries, ["refused"], row))


def left(entries: Iterable[Entry], names: Names) -> Table:
    """Every message that left."""

    def row(entry: Entry) -> Iterable[Any]:
        to = name_of(entry.get("recipient"), names)
        return (
            entry.get("at"),
            _number(entry),
            entry.get("kind"),
            to,
            entry.get("n_bytes"),
            entry.get("sha256"),
        )

    return Table("left", ("at", "order", "kind", "to", "bytes", "sha256"), _rows(entries, ["left"], row))


def models(stored: Iterable[Entry]) -> Table:
    """Models in the vault; the newest number first."""
    rows = [
        (
            str(m["model_id"]),
            str(m["model_type"]),
            str(len(m["attributes"])),
            ", ".join(map(str, m["attributes"])),
        )
        for m in stored
    ]
    return Table("models", ("order", "model_type", "n_attributes", "attributes"), rows[::-1])


def results(found: Iterable[Result]) -> Table:
    """Results of joint statistics in the results folder; no value of them."""
    rows = [
        (str(r.order_id), str(r.notes.get("method", "")), r.path.name, str(r.notes.get("n_rows", "")))
        for r in found
    ]
    return Table("results", ("order", "method", "file", "n_rows"), rows[::-1])


# What left, by day and kind


@dataclass(frozen=True)
class Sent:
    """How much of one kind left on one day."""

    n_bytes: int = 0
    n_messages: int = 0


@dataclass(frozen=True)
class Traffic:
    """What left on the last days, by kind; days without anything are there too."""

    days: list[date]
    by_kind: dict[str, dict[date, Sent]]

    def table(self) -> Table:
        rows = [
            (day.isoformat(), kind, str(sent.n_messages), str(sent.n_bytes))
            for day in reversed(self.days)
            for kind, by_day in self.by_kind.items()
            if (sent := by_day.get(day))
        ]
        return Table("traffic", ("day", "kind", "messages", "bytes"), rows)


def traffic(entries: Iterable[Entry], *, n_days: int | None = None) -> Traffic:
    """By UTC day; of the last `n_days` up to the last on which anything left, or of all."""
    sums: dict[str, dict[date, Sent]] = defaultdict(dict)
    for entry in entries:
        day, n_bytes = _day(entry.get("at")), entry.get("n_bytes")
        if entry.get("event") == "left" and day is not None and isinstance(n_bytes, int):
            kind = str(entry.get("kind"))
            so_far = sums[kind].get(day, Sent())
            sums[kind][day] = Sent(so_far.n_bytes + n_bytes, so_far.n_messages + 1)
    days = sorted({day for by_day in sums.values() for day in by_day})
    if not days:
        return Traffic([], {})
    first = days[0] if n_days is None else max(days[0], days[-1] - timedelta(days=n_days - 1))
    shown = [first + timedelta(days=k) for k in range((days[-1] - first).days + 1)]
    kept = {
        kind: {day: sent for day, sent in by_day.items() if day >= first}
        for kind, by_day in sorted(sums.items())
    }
    return Traffic(shown, {kind: by_day for kind, by_day in kept.items() if by_day})


def _day(at: Any) -> date | None:
    try:
        return date.fromisoformat(str(at)[:10])
    except ValueError:
        return None
