"""An answer of joint statistics at a receiver: its rows, what was withheld from it, and how it is told.

It goes to the receiver's own folder. The coordinator learns its name there, how many rows were used and which rules
withheld how much; never a group's name or a value.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from agents.gate.disclosure import Hidden, Label, Withheld
from agents.order.party import send
from agents.statistics import results
from agents.statistics.party import AgreedStatistics, VerifiedStatistics
from agents.statistics.results import Cell, Result
from protocol.errors import ProtocolViolation, Refused
from protocol.exchange import Address
from protocol.messages import COORDINATOR
from protocol.statistics_messages import Report, Suppressed
from protocol.statistics_request import StatisticsRequest


@dataclass
class Answer:
    """Rows below columns, and what has to be said of them."""

    columns: list[str]
    rows: Sequence[Sequence[Cell]]
    withheld: dict[Label | Hidden, Withheld] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    repeats: int | None = None

    @property
    def suppressed(self) -> list[Suppressed]:
        """How many groups each rule withholds."""
        counts = Counter((why.rule, why.threshold) for why in self.withheld.values())
        return [
            Suppressed(rule=rule, threshold=threshold, groups=n)
            for (rule, threshold), n in sorted(counts.items())
        ]


def grouped_answer(
    request: StatisticsRequest,
    rows: Mapping[Label, Sequence[Sequence[Cell]]],
    withheld: Mapping[Label | Hidden, Withheld],
) -> Answer:
    """The groups' columns first, then the values; a withheld group stands there with its rule and no value.

    A group that too few rows have to name it is counted in the notes.
    """
    columns = [*request.label_columns, request.result_alias]
    named = {label: why for label, why in withheld.items() if not isinstance(label, Hidden)}
    table = [[*_label_cells(request, label), *row] for label, found in rows.items() for row in found]
    if withheld:
        columns.append("withheld")
        table = [[*row, None] for row in table]
        for label, why in named.items():
            cells = _label_cells(request, label)
            table.append([*cells, *[None] * (len(columns) - len(cells) - 1), f"{why.rule} {why.threshold}"])
    answer = Answer(columns, table, dict(withheld))
    if not table and not withheld:
        answer.rows = [[0 if request.method == "count" else None]] if len(columns) == 1 else []
        answer.notes.append("No row has a value.")
    if n_hidden := len(withheld) - len(named):
        answer.notes.append(f"{n_hidden} withheld group(s) have too few rows to be named.")
    return answer


def _label_cells(request: StatisticsRequest, label: Label) -> list[Cell]:
    if request.method != "histogram":
        return list(label)
    *groups, bin_ = label
    edges: list[float | None] = [None, *request.bins, None]  # type: ignore[misc]
    place = int(bin_ or 0)
    return [*groups, edges[place], edges[place + 1]]


# Where it goes


def deliver(party: AgreedStatistics, answered: Answered) -> None:
    """Writes a receiver's answer to its folder, whole or not at all, and lets its values out where asked for.

    Disclosure: values leave to the coordinator's memory only sealed to who asked, and only where every provider's
    policy has allowed it.
    """
    request, answer = party.request, answered.answer
    if answer is None:
        return
    notes = {
        "method": request.method,
        "expression": request.expression,
        "providers": list(request.providers),
        "receivers": list(request.receivers),
        "rows": {str(user): party.n_rows[user] for user in request.providers},
        "withheld": [_told(label, why) for label, why in answer.withheld.items()],
        "notes": answer.notes,
    }
    results.write_result(
        party.settings.results_folder,
        party.order_id,
        alias=request.result_alias,
        type=request.result_type,
        columns=answer.columns,
        rows=answer.rows,
        notes=notes,
    )
    if party.order.reply_key and party.is_initiator:
        objects = [dict(zip(answer.columns, map(_plain, row), strict=True)) for row in answer.rows]
        party.release.send_values(
            lambda: json.dumps(objects, ensure_ascii=False).encode(),
            address=Address(party.order_id, "values"),
            reply_key=bytes.fromhex(party.order.reply_key),
        )


def _told(label: Label | Hidden, why: Withheld) -> dict[str, Any]:
    group = None if isinstance(label, Hidden) else list(label)
    return {"group": group, "rule": why.rule, "threshold": why.threshold, "reason": why.reason}


def _plain(cell: Cell) -> Any:
    return format(cell, "f") if isinstance(cell, Decimal) else cell


def repeat_answer(party: VerifiedStatistics, providers: Sequence[int]) -> Answer:
    """The schedule's last result again: since then, too few rows of these providers have changed.

    Refused (code repeats) where that is of another kind, ProtocolViolation (code bad_message) where the order is of no
    schedule: what providers say of it is theirs to say only there.
    """
    earlier = party.order.repeats
    whose = ", ".join(map(str, providers))
    if earlier is None:
        raise ProtocolViolation(
            f"Hospital {whose} lets the last result of a schedule stand, and this order is of none.",
            remedy="Run the same version at all hospitals, and send the order again.",
            code="bad_message",
        )
    last = results.read_result(party.settings.results_folder, earlier)
    if (last.alias, last.type) != (party.request.result_alias, party.request.result_type):
        raise Refused(
            f"Order {earlier} has another kind of result than this one.",
            remedy="Delete the schedule and make it anew.",
            code="repeats",
        )
    table = _cells(last)
    columns = list(table[0]) if table else [party.request.result_alias]
    note = (
        f"Fewer rows of hospital {whose} have changed than its policy asks for:"
        f" the result of order {earlier} stands."
    )
    rows = [list(row.values()) for row in table]
    return Answer(columns, rows, notes=[*last.notes.get("notes", []), note], repeats=earlier)


def _cells(result: Result) -> list[dict[str, Cell]]:
    """A result's rows, whose cells are written again as they stand there."""
    if result.type == "csv":
        return [{name: cell or None for name, cell in row.items()} for row in result.rows()]
    return list(json.loads(result.path.read_text("utf-8"), parse_float=_number))


def _number(text: str) -> float | Decimal:
    """A float where it is written as floats are, else a decimal with all its digits."""
    return float(text) if repr(float(text)) == text else Decimal(text)


@dataclass
class Answered:
    """What one hospital has to tell at the end: a provider of its rows, a receiver of the answer."""

    answer: Answer | None = None
    n_used: int = 0
    n_suppressed: int = 0
    n_null: int = 0


def report(party: AgreedStatistics, answered: Answered) -> None:
    """Tells the coordinator that this hospital is done, and what it may know: row counts and rules."""
    said = Report(rows_used=answered.n_used, rows_suppressed=answered.n_suppressed, rows_null=answered.n_null)
    if answered.answer is not None:
        found = answered.answer
        update = {"suppressed": found.suppressed, "notes": found.notes, "repeats": found.repeats}
        said = said.model_copy(update=update)
    send(party, "report", lambda: said.model_dump_json().encode(), recipient=COORDINATOR)
