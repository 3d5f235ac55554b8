"""An answer of joint statistics at a receiver: its rows, what it lacks, where it goes.

It goes to the receiver's own folder (`results.py`). The coordinator learns its name
there, how many rows were used and which rules withheld how much; never a group's name
or a value.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from agents.gate.withheld_groups import Hidden, Label, Withheld
from agents.order.answers import send_answer_of_ended
from agents.order.party import send
from agents.statistics import results
from agents.statistics.party import (
    AgreedStatistics,
    VerifiedStatistics,
    question_of,
)
from agents.statistics.readings import Reading
from agents.statistics.results import Cell, Result
from analytics.labels import case_note
from protocol.errors import NotFound, ProtocolViolation, Refused
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
    # Sentences for who reads the answer; the coordinator reads them too, so that they
    # hold no name and no value.
    notes: list[str] = field(default_factory=list)
    # The totals that were opened for it, in words: names of columns, no value.
    opened: list[str] = field(default_factory=list)
    # The order whose result this is, where a schedule's rows have hardly changed since.
    repeats: int | None = None

    @property
    def suppressed(self) -> list[Suppressed]:
        """How many groups each rule withholds."""
        counts: Counter[tuple[str, str]] = Counter()
        for why in self.withheld.values():
            counts[why.rule, why.threshold] += 1
        suppressed = []
        for (rule, threshold), n_groups in sorted(counts.items()):
            of_rule = Suppressed(
                rule=rule,
                threshold=threshold,
                groups=n_groups,
            )
            suppressed.append(of_rule)
        return suppressed


def grouped_answer(
    request: StatisticsRequest,
    rows: Mapping[Label, Sequence[Sequence[Cell]]],
    withheld: Mapping[Label | Hidden, Withheld],
    *,
    absent: Sequence[Label] = (),
    few: str = "",
) -> Answer:
    """The groups' columns first, then the values.

    A withheld group stands there with its rule and no value. One that too few rows have
    to name it is counted in the notes (decision 39). `absent` are cells that nobody
    has, or too few, with `few` in the place of a rule: alike, so that nobody learns
    which.
    """
    columns = [*request.label_columns, *request.value_columns]
    answer_rows: list[list[Cell]] = []
    for shown_label, value_rows in rows.items():
        for row_values in value_rows:
            label_cells = _label_cells(request, shown_label)
            answer_rows.append([*label_cells, *row_values])
    n_hidden = 0
    if withheld or absent:
        # One more column, which only the withheld groups fill.
        for answer_row in answer_rows:
            answer_row.append(None)
        without_value: list[tuple[Label, str]] = []
        for label, why in withheld.items():
            if isinstance(label, Hidden):
                n_hidden += 1
            else:
                rule_text = f"{why.rule} {why.threshold}"
                without_value.append((label, rule_text))
        for label in absent:
            without_value.append((label, few))
        for label, rule_text in without_value:
            label_cells = _label_cells(request, label)
            n_empty = len(columns) - len(label_cells)
            empty: list[Cell] = [None] * n_empty
            answer_rows.append([*label_cells, *empty, rule_text])
        columns.append(WITHHELD)
    answer = Answer(columns, answer_rows, dict(withheld))
    if not answer_rows and not withheld:
        # Without groups there is one row in any case; with groups, none.
        if len(columns) == 1:
            only_value = 0 if request.method == "count" else None
            answer.rows = [[only_value]]
        answer.notes.append("No row has a value.")
    all_labels = [*rows, *withheld, *absent]
    note_of_case = _note_of_case(request, all_labels)
    if note_of_case:
        answer.notes.append(note_of_case)
    if n_hidden:
        note = f"{n_hidden} withheld group(s) have too few rows to be named."
        answer.notes.append(note)
    return answer


def _note_of_case(
    request: StatisticsRequest,
    labels: Sequence[Label | Hidden],
) -> str | None:
    """Counts the named labels that differ by case alone."""
    named = []
    for label in labels:
        if isinstance(label, Hidden):
            continue
        label_values = label
        if request.method == "histogram":
            # Without the number of its bin.
            label_values = label[:-1]
        named.append(label_values)
    return case_note(named)


def _label_cells(request: StatisticsRequest, label: Label) -> list[Cell]:
    """The cells that name a row.

    A histogram's bin has its two edges, None below the first and above the last.
    """
    if request.method != "histogram":
        return list(label)
    assert request.bins is not None
    *groups, bin_label = label
    bin_place = int(bin_label or 0)
    edges = [None, *request.bins, None]
    lower = edges[bin_place]
    upper = edges[bin_place + 1]
    return [*groups, lower, upper]


# Where it goes


def deliver(party: AgreedStatistics, answered: Answered) -> None:
    """Writes a receiver's answer to its folder, and sends its values where asked for.

    The file is written whole or not at all.

    Disclosure: values leave sealed to a reader's own key, whom this hospital's policy
    lists; to the coordinator's memory only sealed to who asked, and only where every
    provider's policy has allowed it.
    """
    request = party.request
    answer = answered.answer
    if answer is None:
        return
    results.write_result(
        party.settings.results_folder,
        party.order_id,
        alias=request.result_alias,
        type=request.result_type,
        columns=answer.columns,
        rows=answer.rows,
        notes=_notes(party, answer),
    )

    def told_to_reader() -> dict[str, Any]:
        return {
            "rows": _objects(answer),
            "notes": _notes(party, answer),
        }

    if request.reader is not None and party.is_initiator:
        send_answer_of_ended(
            party,
            "statistics",
            told_to_reader,
            reader=request.reader,
        )
    if party.order.reply_key and party.is_initiator:
        reply_key = bytes.fromhex(party.order.reply_key)
        party.release.send_values(
            lambda: _encode_values(answer),
            address=Address(party.order_id, "values"),
            reply_key=reply_key,
        )


def _notes(party: AgreedStatistics, answer: Answer) -> dict[str, Any]:
    """What stands beside the answer's file."""
    request = party.request
    n_rows_of = {}
    for provider in request.providers:
        n_rows_of[str(provider)] = party.n_rows[provider]
    withheld = []
    for label, why in answer.withheld.items():
        withheld.append(_described(label, why))
    notes: dict[str, Any] = {
        "method": request.method,
        "expression": request.expression,
        "providers": list(request.providers),
        "receivers": list(request.receivers),
        "rows": n_rows_of,
        "withheld": withheld,
        "opened": answer.opened,
        "notes": answer.notes,
    }
    if request.is_joined:
        notes["question"] = question_of(request)
    if party.absent:
        # Who was asked and had not accepted in time.
        notes["absent"] = list(party.absent)
    return notes


def _encode_values(answer: Answer) -> bytes:
    answer_text = json.dumps(_objects(answer), ensure_ascii=False)
    return answer_text.encode()


def _objects(answer: Answer) -> list[dict[str, Any]]:
    """One object for each row, as who asked gets them."""
    objects = []
    for answer_row in answer.rows:
        plain_cells = [_plain(cell) for cell in answer_row]
        named = zip(answer.columns, plain_cells, strict=True)
        objects.append(dict(named))
    return objects


def _described(label: Label | Hidden, why: Withheld) -> dict[str, Any]:
    """A withheld group in the notes; null in the place of a name nobody may know."""
    group = None if isinstance(label, Hidden) else list(label)
    return {
        "group": group,
        "rule": why.rule,
        "threshold": why.threshold,
        "reason": why.reason,
    }


def _plain(cell: Cell) -> Any:
    """A cell as JSON can hold it: a decimal as text, with all its digits."""
    if isinstance(cell, Decimal):
        return format(cell, "f")
    return cell


def repeat_answer(party: VerifiedStatistics, providers: Sequence[int]) -> Answer:
    """The schedule's last result again, as too few rows of these providers changed.

    Refused (code repeats) where that is of another kind, ProtocolViolation (code
    bad_message) where the order is of no schedule: what providers say of it is theirs
    to say only there.
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
    has_same_alias = last.alias == party.request.result_alias
    has_same_type = last.type == party.request.result_type
    if not has_same_alias or not has_same_type:
        raise Refused(
            f"Order {earlier} has another kind of result than this one.",
            remedy="Delete the schedule and make it anew.",
            code="repeats",
        )
    why = f"Fewer rows of hospital {whose} have changed than its policy asks for"
    return _answer_again(last, why)


def _answer_again(last: Result, why: str) -> Answer:
    objects = _cells(last)
    columns = [last.alias]
    if objects:
        columns = list(objects[0])
    rows = [list(row.values()) for row in objects]
    notes_then = last.notes.get("notes", [])
    notes = list(notes_then)
    notes.append(f"{why}: the result of order {last.order_id} stands.")
    return Answer(
        columns,
        rows,
        notes=notes,
        repeats=last.order_id,
    )


def _cells(result: Result) -> list[dict[str, Cell]]:
    """A result's rows, whose cells are written again as they stand there."""
    if result.type == "json":
        result_text = result.path.read_text("utf-8")
        return list(json.loads(result_text, parse_float=_number))
    rows: list[dict[str, Cell]] = []
    for result_row in result.rows():
        row_cells = {column: cell or None for column, cell in result_row.items()}
        rows.append(row_cells)
    return rows


def _number(text: str) -> float | Decimal:
    """A float where it is written as floats are, else a decimal with all its digits."""
    number = float(text)
    if repr(number) == text:
        return number
    return Decimal(text)


@dataclass(frozen=True)
class RowCounts:
    """What a provider says of its rows, all three or nothing."""

    # Of groups that are shown.
    used: int = 0
    # Of groups that are withheld.
    withheld: int = 0
    # Without a value in a column of the question.
    null: int = 0

    def tell_few(self, min_rows: int) -> bool:
        """Whether one of them is of a few rows, which nobody else may count."""
        counts = (self.used, self.withheld, self.null)
        return any(0 < row_count < min_rows for row_count in counts)


def flow_of(
    request: StatisticsRequest,
    reading: Reading,
    rows: RowCounts | None,
    *,
    used: int,
) -> dict[str, int] | None:
    """How many rows a provider had selected, left out and used, for its report; None
    where the question says nothing of missing values or a few rows would be told.
    """
    if request.missing is None or rows is None:
        return None
    flow = {
        "selected": reading.n_selected,
        "left_out": rows.null,
        "used": used,
    }
    if request.rows.fills:
        flow["filled"] = reading.n_filled
    return flow


@dataclass
class Answered:
    """What one hospital has at the end."""

    # A receiver's.
    answer: Answer | None = None
    # A provider's; None where they may not be told.
    rows: RowCounts | None = field(default_factory=RowCounts)
    # A provider's of an order with `missing`; None where they may not be told.
    flow: dict[str, int] | None = None
    # A receiver's where thresholds are on the sum, in the place of a provider's: used,
    # withheld and null of all hospitals together. None in other orders.
    joint_rows: dict[str, int] | None = None


def repeat_answered(party: VerifiedStatistics, providers: Sequence[int]) -> Answered:
    """What each hospital has where the schedule's last result stands again."""
    if not party.is_receiver:
        return Answered()
    return Answered(repeat_answer(party, providers))


def compared_before(party: VerifiedStatistics, earlier: int) -> Answered:
    """What each hospital has where an earlier order has asked the same of the same
    people: a receiver its own result of that order.

    Refused (code threshold) where it has none, or one of another question: what the
    number is, a provider says.
    """
    if not party.is_receiver:
        return Answered()
    try:
        last = results.read_result(party.settings.results_folder, earlier)
    except NotFound:
        last = None
    if last is None or last.notes.get("question") != question_of(party.request):
        raise Refused(
            f"The same people were compared in order {earlier}, and a receiver does not hold its result of it; they"
            " are not compared again.",
            remedy="Have those receive it who received that order's, or wait for threshold_days of the policies.",
            code="threshold",
        )
    why = "The same people's columns were compared before by the same question"
    return Answered(_answer_again(last, why))


def report(party: AgreedStatistics, answered: Answered) -> None:
    """Informs the coordinator that this hospital is done.

    Disclosure: row counts, and the rules that withheld something, to the coordinator.
    """
    # Of a hospital that receives nothing the report says what it says of an empty one.
    answer = answered.answer
    if answer is None:
        answer = Answer(columns=[], rows=[])
    rows = answered.rows
    n_used = None
    n_withheld = None
    n_null = None
    if rows is not None:
        n_used = rows.used
        n_withheld = rows.withheld
        n_null = rows.null
    report_message = Report(
        joint_rows=answered.joint_rows,
        rows_used=n_used,
        rows_suppressed=n_withheld,
        rows_null=n_null,
        flow=answered.flow,
        suppressed=answer.suppressed,
        notes=answer.notes,
        opened=answer.opened,
        repeats=answer.repeats,
    )
    send(
        party,
        "report",
        lambda: report_message.model_dump_json().encode(),
        recipient=COORDINATOR,
    )
