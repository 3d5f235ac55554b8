"""What the page shows, as tables: of the ledger's lines, the vault, and the results.

It is pure.
Each function makes one table; agents.page.server asks for them. The ledger's lines may
be of an earlier version or altered: a fact that is missing is an empty cell.

A cell is text as it stands in the ledger; the page translates the words among them, a
csv keeps them.
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

from agents.gate.round_budget import Spent
from agents.statistics.results import Result
from protocol.messages import COORDINATOR, EVERYONE

Entry = Mapping[str, Any]
Names = Mapping[int, str]
# What a spreadsheet takes for the beginning of something to compute.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# The ledger's events that the table `asked` lists.
_ASKED = (
    "asked",
    "decided",
    "answered",
    "opens",
    "rows",
    "rounded",
    "strata",
    "finished",
    "late",
    "inferred",
    "exported",
    "forgotten",
    "readers",
    "cohort_made",
    "cohort_kept",
)


@dataclass(frozen=True)
class Table:
    """Rows of as many texts as there are columns, the newest first."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def of_order(self, number: int) -> Table:
        """Only the rows about one order or model."""
        order_place = self.columns.index("order")
        order_number = str(number)
        rows = [row for row in self.rows if row[order_place] == order_number]
        return Table(self.name, self.columns, rows)

    def to_csv(self) -> str:
        """With a mark that spreadsheets know UTF-8 by.

        A text that they would compute gets a ' in front.
        """
        csv_file = io.StringIO()
        writer = csv.writer(csv_file, lineterminator="\r\n")
        writer.writerow(self.columns)
        for row in self.rows:
            inert_cells = [_inert(cell) for cell in row]
            writer.writerow(inert_cells)
        return "\ufeff" + csv_file.getvalue()


def _inert(cell: str) -> str:
    # Purposes and sentences are written by other hospitals, and this file is opened by
    # a spreadsheet here.
    if cell.startswith(_FORMULA):
        return f"'{cell}"
    return cell


def _rows(
    entries: Iterable[Entry],
    events: Sequence[str],
    facts_of: Callable[[Entry], Iterable[Any]],
) -> list[tuple[str, ...]]:
    """A row for each line of one of these events, the newest first."""
    rows = []
    for ledger_entry in entries:
        if ledger_entry.get("event") not in events:
            continue
        row = tuple(_text(fact) for fact in facts_of(ledger_entry))
        rows.append(row)
    return rows[::-1]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _number(entry: Entry) -> Any:
    return entry.get("order_id", entry.get("model_id"))


def name_of(user: Any, names: Names) -> str:
    """A user id and its name, or who is no hospital."""
    if user == EVERYONE:
        return "everyone"
    if user == COORDINATOR:
        return "coordinator"
    if not isinstance(user, int):
        return ""
    user_name = names.get(user, "")
    return f"{user} {user_name}".strip()


def asked(entries: Iterable[Entry], names: Names) -> Table:
    """What became of orders here, columns that lost digits, inference and exports."""

    def facts_of(entry: Entry) -> Iterable[Any]:
        who = entry.get("person") or name_of(entry.get("initiator"), names)
        what = entry.get("decision") or entry.get("kind") or entry.get("format")
        purpose = entry.get("purpose") or entry.get("reason") or entry.get("sentence")
        if entry["event"] == "opens":
            # Which totals of the order will be opened, one after the other
            purpose = _joined(entry.get("totals"))
        return (
            entry.get("at"),
            _number(entry),
            entry["event"],
            what,
            who,
            purpose,
        )

    columns = (
        "at",
        "order",
        "event",
        "what",
        "who",
        "purpose",
    )
    rows = _rows(entries, _ASKED, facts_of)
    return Table("asked", columns, rows)


def _joined(sentences: Any) -> str:
    if not isinstance(sentences, list):
        return ""
    return "; ".join(str(sentence) for sentence in sentences)


def refused(entries: Iterable[Entry]) -> Table:
    """Every refusal with its rule."""

    def facts_of(entry: Entry) -> Iterable[Any]:
        return (
            entry.get("at"),
            _number(entry),
            entry.get("rule"),
            entry.get("sentence"),
        )

    columns = (
        "at",
        "order",
        "rule",
        "sentence",
    )
    rows = _rows(entries, ["refused"], facts_of)
    return Table("refused", columns, rows)


def left(entries: Iterable[Entry], names: Names) -> Table:
    """Every message that left."""

    def facts_of(entry: Entry) -> Iterable[Any]:
        recipient = name_of(entry.get("recipient"), names)
        return (
            entry.get("at"),
            _number(entry),
            entry.get("kind"),
            recipient,
            entry.get("n_bytes"),
            entry.get("sha256"),
        )

    columns = (
        "at",
        "order",
        "kind",
        "to",
        "bytes",
        "sha256",
    )
    rows = _rows(entries, ["left"], facts_of)
    return Table("left", columns, rows)


def models(stored: Iterable[Entry]) -> Table:
    """Models in the vault; the newest number first."""
    rows = []
    for model in stored:
        attributes = [str(attribute) for attribute in model["attributes"]]
        # Of a model of an earlier version nobody has kept it.
        stopped_by = model.get("stopped_by", "")
        warnings = model.get("warnings", [])
        row = (
            str(model["model_id"]),
            str(model["model_type"]),
            str(len(attributes)),
            ", ".join(attributes),
            str(stopped_by),
            "\n".join(warnings),
        )
        rows.append(row)
    columns = (
        "order",
        "model_type",
        "n_attributes",
        "attributes",
        "stopped_by",
        "warnings",
    )
    return Table("models", columns, rows[::-1])


def results(stored_results: Iterable[Result]) -> Table:
    """Results of joint statistics in the results folder; no value of them."""
    rows = []
    for result in stored_results:
        method = result.notes.get("method", "")
        n_rows = result.notes.get("n_rows", "")
        row = (
            str(result.order_id),
            str(method),
            result.path.name,
            str(n_rows),
        )
        rows.append(row)
    columns = (
        "order",
        "method",
        "file",
        "n_rows",
    )
    return Table("results", columns, rows[::-1])


def rounds(
    spent_rounds: Iterable[Spent],
    names: Names,
    *,
    max_rounds: int,
) -> Table:
    """The rounds of training that count today, by receiver and table."""
    rows = []
    for spent in spent_rounds:
        receiver = spent.receiver
        if receiver.isdecimal():
            receiver = name_of(int(receiver), names)
        n_left = max(0, max_rounds - spent.n_rounds)
        row = (
            receiver,
            spent.population,
            str(spent.n_rounds),
            str(n_left),
        )
        rows.append(row)
    columns = (
        "to",
        "table",
        "n_rounds",
        "n_left",
    )
    return Table("rounds", columns, rows)


# What left, by day and kind


@dataclass(frozen=True)
class Sent:
    """How much of one kind left on one day."""

    n_bytes: int = 0
    n_messages: int = 0


@dataclass(frozen=True)
class Traffic:
    """What left on the last days, by kind; days without anything are there too."""

    # Rising, without a gap.
    days: list[date]
    # Of each kind only days on which something of it left.
    by_kind: dict[str, dict[date, Sent]]

    def table(self) -> Table:
        rows = []
        for day in reversed(self.days):
            for message_kind, by_day in self.by_kind.items():
                sent = by_day.get(day)
                if sent is None:
                    continue
                row = (
                    day.isoformat(),
                    message_kind,
                    str(sent.n_messages),
                    str(sent.n_bytes),
                )
                rows.append(row)
        columns = (
            "day",
            "kind",
            "messages",
            "bytes",
        )
        return Table("traffic", columns, rows)


def traffic(entries: Iterable[Entry], *, n_days: int | None = None) -> Traffic:
    """By UTC day, over all days or the last `n_days` to the last with a message."""
    sums: dict[str, dict[date, Sent]] = defaultdict(dict)
    for ledger_entry in entries:
        if ledger_entry.get("event") != "left":
            continue
        day = _day(ledger_entry.get("at"))
        n_bytes = ledger_entry.get("n_bytes")
        if day is None or not isinstance(n_bytes, int):
            continue
        message_kind = str(ledger_entry.get("kind"))
        by_day = sums[message_kind]
        before = by_day.get(day, Sent())
        by_day[day] = Sent(
            n_bytes=before.n_bytes + n_bytes,
            n_messages=before.n_messages + 1,
        )
    if not sums:
        return Traffic([], {})

    first_day = min(min(by_day) for by_day in sums.values())
    last_day = max(max(by_day) for by_day in sums.values())
    if n_days is not None:
        earliest = last_day - timedelta(days=n_days - 1)
        first_day = max(first_day, earliest)
    time_shown = last_day - first_day
    n_shown = time_shown.days + 1
    days = [first_day + timedelta(days=offset) for offset in range(n_shown)]

    by_kind = {}
    for message_kind, by_day in sorted(sums.items()):
        recent = {}
        for day, sent in by_day.items():
            if day >= first_day:
                recent[day] = sent
        if recent:
            by_kind[message_kind] = recent
    return Traffic(days, by_kind)


def _day(moment: Any) -> date | None:
    moment_text = str(moment)
    try:
        return date.fromisoformat(moment_text[:10])
    except ValueError:
        return None
