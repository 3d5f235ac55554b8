"""An answer of joint statistics at a receiver: its rows, what was withheld from it, and where it goes.

It goes to the receiver's own folder (`results.py`). The coordinator learns its name there, how many rows were used and
which rules withheld how much; never a group's name or a value.
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
from agents.statistics.party import StatisticsParty
from agents.statistics.results import Cell, Result
from protocol.errors import ProtocolViolation, Refused
from protocol.exchange import Address
from protocol.messages import COORDINATOR
from protocol.statistics_messages import Report, Suppressed
from protocol.statistics_request import WITHHELD, StatisticsRequest


@dataclass
class Answer:
    """Rows below columns, and what has to be said of them."""

    columns: list[str]
    # A cell for each column.
    rows: Sequence[Sequence[Cell]]
    withheld: dict[Label | Hidden, Withheld] = field(default_factory=dict)
    # Sentences for who reads the answer; the coordinator reads them too, so that they hold no name and no value.
    notes: list[str] = field(default_factory=list)
    # The order whose result this is, where a schedule's rows have hardly changed since.
    repeats: int | None = None

    @property
    def suppressed(self) -> list[Suppressed]:
        """How many groups each rule withholds."""
        counts = Counter((why.rule, why.threshold) for why in self.withheld.values())
        suppressed = []
        for (rule, threshold), n_groups in sorted(counts.items()):
            suppressed.append(Suppressed(rule=rule, threshold=threshold, groups=n_groups))
        return suppressed


def grouped_answer(
    request: StatisticsRequest,
    rows: Mapping[Label, Sequence[Sequence[Cell]]],
    withheld: Mapping[Label | Hidden, Withheld],
) -> Answer:
    """The groups' columns first, then the values; a withheld group stands there with its rule and no value.

    A group that too few rows have to name it is counted in the notes (decision 39).
    """
    columns = [*request.label_columns, request.result_alias]
    table: list[list[Cell]] = []
    for shown, found in rows.items():
        for values in found:
            table.append([*_label_cells(request, shown), *values])
    n_hidden = 0
    if withheld:
        for row in table:
            row.append(None)
        for label, why in withheld.items():
            if isinstance(label, Hidden):
                n_hidden += 1
                continue
            cells = _label_cells(request, label)
            empty: list[Cell] = [None] * (len(columns) - len(cells))
            table.append([*cells, *empty, f"{why.rule} {why.threshold}"])
        columns.append(WITHHELD)
    answer = Answer(columns, table, dict(withheld))
    if not table and not withheld:
        # Without groups there is one row in any case; with groups, none.
        if len(columns) == 1:
            answer.rows = [[0 if request.method == "count" else None]]
        answer.notes.append("No row has a value.")
    if n_hidden:
        answer.notes.append(f"{n_hidden} withheld group(s) have too few rows to be named.")
    return answer


def _label_cells(request: StatisticsRequest, label: Label) -> list[Cell]:
    """The cells that name a row; of a histogram's bin its two edges, None below the first and above the last."""
    if request.method != "histogram":
        return list(label)
    assert request.bins is not None
    *groups, bin_label = label
    place = int(bin_label or 0)
    edges = [None, *request.bins, None]
    return [*groups, edges[place], edges[place + 1]]


# Where it goes


def deliver(party: StatisticsParty, answered: Answered) -> None:
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
        "withheld": [_described(label, why) for label, why in answer.withheld.items()],
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
        objects = []
        for row in answer.rows:
            cells = [_plain(cell) for cell in row]
            objects.append(dict(zip(answer.columns, cells, strict=True)))
        party.release.send_values(
            lambda: json.dumps(objects, ensure_ascii=False).encode(),
            address=Address(party.order_id, "values"),
            reply_key=bytes.fromhex(party.order.reply_key),
        )


def _described(label: Label | Hidden, why: Withheld) -> dict[str, Any]:
    """A withheld group as the notes beside the answer have it; null in the place of a name that nobody may know."""
    group = None if isinstance(label, Hidden) else list(label)
    return {"group": group, "rule": why.rule, "threshold": why.threshold, "reason": why.reason}


def _plain(cell: Cell) -> Any:
    """A cell as JSON can hold it: a decimal as text, with all its digits."""
    return format(cell, "f") if isinstance(cell, Decimal) else cell


def repeat_answer(party: StatisticsParty, providers: Sequence[int]) -> Answer:
    """The schedule's last result again: since then, too few rows of these providers have changed.

    Refused (code repeats) where that is of another kind, ProtocolViolation (code bad_message) where the order is of no
    schedule: what providers say of it is theirs to say only there.
    """
    earlier = party.order.repeats
    whose = ", ".join(str(provider) for provider in providers)
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
    objects = _cells(last)
    columns = list(objects[0]) if objects else [party.request.result_alias]
    rows = [list(row.values()) for row in objects]
    notes = list(last.notes.get("notes", []))
    notes.append(
        f"Fewer rows of hospital {whose} have changed than its policy asks for:"
        f" the result of order {earlier} stands."
    )
    return Answer(columns, rows, notes=notes, repeats=earlier)


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
    """What one hospital has at the end: a provider the counts of its rows, a receiver the answer."""

    answer: Answer | None = None
    # Rows of groups that are shown, and of groups that are withheld; rows without a value in a column of the question.
    n_used: int = 0
    n_suppressed: int = 0
    n_null: int = 0


def report(party: StatisticsParty, answered: Answered) -> None:
    """Informs the coordinator that this hospital is done, and of what it may know: row counts and rules."""
    answer = answered.answer
    message = Report(
        rows_used=answered.n_used,
        rows_suppressed=answered.n_suppressed,
        rows_null=answered.n_null,
        suppressed=[] if answer is None else answer.suppressed,
        notes=[] if answer is None else answer.notes,
        repeats=None if answer is None else answer.repeats,
    )
    send(party, "report", lambda: message.model_dump_json().encode(), recipient=COORDINATOR)
