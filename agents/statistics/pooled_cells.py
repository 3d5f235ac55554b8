"""The cells of pooled rows whose joint numbers reach the thresholds, found without
anybody's number being known.

Providers send the coordinator tags of their cells; it sends the union. The cells are
the rows of a table of which each provider has two columns, how many rows it has and
whether it has any, and two more for each of the last earlier answers that a receiver could subtract,
how many people have come and gone since; one comparison on shares tells of each cell
whether it passes. Everybody adds the shares up and knows the same bits.

`agents/gate/pooled_cells.py` has the rule. Decision 73.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from agents.gate import pooled_cells as rule
from agents.gate import totals_in_words
from agents.gate.pooled_cells import AgreedLimits, Decided
from agents.gate.withheld_groups import Label, Withheld
from agents.order.evaluation import evaluate_once
from agents.order.party import note_opened, receive_all, send
from agents.statistics import audited
from agents.statistics.party import AgreedStatistics
from agents.statistics.readings import Change, Reading
from analytics.arrays import Ints
from analytics.statistics.rowwise import Column
from protocol.errors import BadRequest
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE
from protocol.shares import cells
from protocol.shares.cells import CellList, Limits
from protocol.shares.shared_expression import reveal
from protocol.statistics_plan import (
    cell_columns,
    cells_plan,
    changed_columns,
    person,
    veto,
)


def compare_each(party: AgreedStatistics, reading: Reading | None) -> None:
    """Informs the coordinator that this order compares no cells."""
    if reading is not None and party.request.has_cells:
        send(
            party,
            "cell_tags",
            lambda: b"",
            recipient=COORDINATOR,
        )


def decide(
    party: AgreedStatistics,
    reading: Reading | None,
    stated: Mapping[int, Mapping[Label, Withheld | None]],
    agreed: AgreedLimits,
) -> Decided:
    """Which cells the answer shows, the same at every hospital.

    Disclosure: to the coordinator, how many cells each provider has and which of them,
    and of their slices, are the same, by tags that it cannot turn back, and with how
    many earlier answers of which receivers they are compared; to the order's
    hospitals, of each cell of any of them, whether it passes. A label is known to who
    guesses it.
    """
    request = party.request
    cells_key = party.session.group_key(b"cells")
    limits = agreed.tagged(cells_key)
    own_cell_list = None
    if reading is not None:
        own_cell_list = _own_cells(reading, cells_key, limits)
        send(
            party,
            "cell_tags",
            own_cell_list.encode,
            recipient=COORDINATOR,
        )
    union = _agree_on_union(party, own_cell_list, limits)
    passed: set[bytes] = set()
    opened = []
    if union.cells:
        sentence = totals_in_words.comparison_in_words(
            request,
            limits,
            n_cells=len(union.cells),
            n_answers=_n_answers(agreed),
        )
        passed = _compare(
            party,
            reading,
            union,
            agreed,
            limits,
            sentence,
        )
        opened.append(sentence)
    decided = rule.decide(
        union,
        passed,
        stated,
        agreed,
        receivers=request.openers,
        key=cells_key,
    )
    return replace(decided, opened=opened)


def _own_cells(
    reading: Reading,
    key: bytes,
    limits: Limits,
) -> CellList:
    """The cells of this provider that have rows. BadRequest (code group_by) where they
    are more than can be compared.
    """
    labels = []
    for cell_text, n_rows in reading.n_rows_of.items():
        if n_rows:
            labels.append(_label(cell_text))
    if len(labels) > cells.MOST_CELLS:
        raise BadRequest(
            f"group_by makes more than {cells.MOST_CELLS} groups at a hospital.",
            remedy="Group by columns with fewer different values.",
            code="group_by",
        )
    return cells.list_of(key, labels, limits)


def _compare(
    party: AgreedStatistics,
    reading: Reading | None,
    union: CellList,
    agreed: AgreedLimits,
    limits: Limits,
    sentence: str,
) -> set[bytes]:
    """The tags of the cells that pass, by one comparison on shares. `sentence` is what
    the ledger says is opened.
    """
    request = party.request
    plan = cells_plan(request.providers, request.openers, limits)
    if reading is not None:
        # The comparison opens something of every cell, shown or not.
        audited.commit_totals(party)
        everybody = [str(hospital) for hospital in request.hospitals]
        note_opened(
            party,
            [sentence],
            receivers=everybody,
            what="opens_cells",
        )
        columns = _columns(
            party,
            reading,
            union,
            agreed,
        )
        compute = functools.partial(
            evaluate_once,
            party,
            plan,
            columns,
            n_rows=len(union.cells),
        )
        # To everybody, so that all know the same bits.
        send(
            party,
            "cell_share",
            compute,
            recipient=EVERYONE,
        )
    shares = receive_all(
        party,
        "cell_share",
        request.providers,
        EVERYONE,
    )
    revealed = reveal(plan, shares)
    passed = set()
    for cell_tag, passes in zip(union.cells, revealed.values, strict=True):
        if passes:
            passed.add(cell_tag)
    return passed


def _agree_on_union(
    party: AgreedStatistics,
    own_cell_list: CellList | None,
    limits: Limits,
) -> CellList:
    """All hospitals' cells, of which all have the same list.

    ProtocolViolation (code cells_differ) where the coordinator has sent another one to
    somebody, or one that lacks a cell of this hospital.
    """
    address = Address(party.order_id, "cells")
    cells_message = party.exchange.get(address, COORDINATOR, EVERYONE)
    union = CellList.decode(cells_message)
    if union.limits != limits:
        raise cells.differ()
    if own_cell_list is not None:
        own_cells = own_cell_list.cells.items()
        if not own_cells <= union.cells.items():
            raise cells.differ()
        send(
            party,
            "cell_digest",
            lambda: union.digest,
            recipient=EVERYONE,
        )
    # Rows of different cells would be added up, and the sum of two small cells pass.
    digests = receive_all(
        party,
        "cell_digest",
        party.request.providers,
        EVERYONE,
    )
    if set(digests.values()) != {union.digest}:
        raise cells.differ()
    return union


def _columns(
    party: AgreedStatistics,
    reading: Reading,
    union: CellList,
    agreed: AgreedLimits,
) -> dict[str, Column]:
    """What this provider has of each cell: how many rows, whether any, and who has come
    and gone since each earlier answer.
    """
    cells_key = party.session.group_key(b"cells")
    providers = party.request.providers
    n_cells = len(union.cells)
    place_of = _places(cells_key, reading, union)
    n_rows = np.zeros(n_cells, dtype=np.int64)
    for cell_text, n_own in reading.n_rows_of.items():
        if n_own:
            # More than the threshold decides nothing more.
            n_rows[place_of[cell_text]] = min(n_own, agreed.min_rows)
    is_there = n_rows > 0
    has_rows = is_there.astype(np.int64)
    refused = {*reading.vetoed, *_few_since_older(reading, agreed)}
    for cell_text in refused:
        if cell_text in place_of:
            n_rows[place_of[cell_text]] = veto(providers, min_rows=agreed.min_rows)
    name_rows, name_there = cell_columns(party.me)
    numbers = {
        name_rows: n_rows,
        name_there: has_rows,
    }

    for turn, (order_id, left_out) in enumerate(agreed.earlier):
        # This hospital's own people hide nobody from itself.
        if left_out == party.me:
            continue
        come, gone = _come_and_gone(
            reading.changes.get(order_id),
            place_of,
            agreed,
            providers,
            n_cells=n_cells,
        )
        name_come, name_gone = changed_columns(party.me, turn)
        numbers[name_come] = come
        numbers[name_gone] = gone
    every_cell = np.ones(n_cells, dtype=np.bool_)
    columns = {}
    for column_name, column_values in numbers.items():
        columns[column_name] = Column(column_values, every_cell)
    return columns


def _places(key: bytes, reading: Reading, union: CellList) -> dict[str, int]:
    """Where in the union the cells stand that this provider knows of, by their labels;
    those of earlier answers alone need not be in it.
    """
    place_of_tag = {tag: place for place, tag in enumerate(union.cells)}
    cell_texts = {*reading.n_rows_of, *reading.vetoed}
    for changes in reading.changes.values():
        cell_texts.update(changes)
    cell_places = {}
    for cell_text in cell_texts:
        cell_tag, _ = cells.tags_of(key, _label(cell_text))
        if cell_tag in place_of_tag:
            cell_places[cell_text] = place_of_tag[cell_tag]
    return cell_places


def _come_and_gone(
    changes: Mapping[str, Change] | None,
    place_of: Mapping[str, int],
    agreed: AgreedLimits,
    providers: Sequence[int],
    *,
    n_cells: int,
) -> tuple[Ints, Ints]:
    """People of each cell who have come since an earlier answer, and who have gone.

    changes: None at a provider that does not remember the answer.
    """
    if changes is None:
        # Who does not remember it may have changed in every cell.
        return np.ones(n_cells, dtype=np.int64), np.ones(n_cells, dtype=np.int64)
    come = np.zeros(n_cells, dtype=np.int64)
    gone = np.zeros(n_cells, dtype=np.int64)
    for cell_text, change in changes.items():
        if cell_text not in place_of:
            continue
        cell_place = place_of[cell_text]
        fewest_come, most_come, fewest_gone, most_gone, _ = change
        come[cell_place] = _counted(fewest_come, most_come, agreed, providers)
        gone[cell_place] = _counted(fewest_gone, most_gone, agreed, providers)
    return come, gone


def _counted(
    fewest: int,
    most: int,
    agreed: AgreedLimits,
    providers: Sequence[int],
) -> int:
    """People who have come, or gone, as the circuit adds them (`person`).

    Where answers are compared by several columns, the fewest of them hide others'; that
    it is nobody holds for all columns or is not said.
    """
    n_people = min(fewest, agreed.min_changed)
    counted = n_people * person(providers)
    # One in some column and none in another is less than a person, and not none.
    is_uncertain = fewest < most and fewest < agreed.min_changed
    if is_uncertain:
        counted += 1
    return counted


def _few_since_older(reading: Reading, agreed: AgreedLimits) -> set[str]:
    """Cells of which this hospital has a few changed people since an answer that is not
    compared jointly.
    """
    older = set(reading.earlier) - set(agreed.earlier)
    order_ids = {order_id for order_id, _ in older}
    cell_texts = set()
    for order_id in order_ids:
        changes = reading.changes[order_id]
        for cell_text, change in changes.items():
            *_, is_few = change
            if is_few:
                cell_texts.add(cell_text)
    return cell_texts


def _n_answers(agreed: AgreedLimits) -> int:
    order_ids = {order_id for order_id, _ in agreed.earlier}
    return len(order_ids)


def _label(text: str) -> Label:
    return tuple(json.loads(text))
