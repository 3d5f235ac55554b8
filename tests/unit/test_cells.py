"""Cells known by tags, and the circuit that compares them with the thresholds."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest

from analytics.statistics.rowwise import Column
from protocol.errors import ProtocolViolation
from protocol.shares.cells import (
    NOBODY,
    CellList,
    Limits,
    earlier_of,
    list_of,
    tags_of,
    union,
)
from protocol.statistics_plan import (
    cell_columns,
    cells_plan,
    changed_columns,
    person,
    veto,
)
from tests.made_providers import column, compute_jointly

KEY = bytes(range(32))


def cells_of(*labels: tuple[str | None, ...], key: bytes = KEY) -> CellList:
    return list_of(key, labels, Limits(10, 3))


def test_a_list_is_read_as_it_was_written() -> None:
    own = cells_of(("F", "a"), ("M", None), ("F", None))
    assert CellList.decode(own.encode()) == own
    assert list(own.cells) == sorted(own.cells)
    empty = cells_of()
    assert CellList.decode(empty.encode()) == empty
    earlier = (earlier_of(KEY, 12, NOBODY), earlier_of(KEY, 11, 3))
    compared = CellList(Limits(10, 3, 20, earlier), own.cells)
    assert CellList.decode(compared.encode()) == compared


def test_an_earlier_answer_is_known_by_a_tag_that_no_cell_has() -> None:
    earlier = earlier_of(KEY, 12, NOBODY)
    assert earlier.tag == earlier_of(KEY, 12, 3).tag
    assert earlier.tag != earlier_of(KEY, 13, NOBODY).tag
    assert earlier.tag != earlier_of(bytes(32), 12, NOBODY).tag
    assert earlier.tag != tags_of(KEY, ("12",))[0]


def test_cells_share_the_tags_of_the_slices_that_they_are_in() -> None:
    women, (sex, disease) = tags_of(KEY, ("F", "a"))
    men, (other_sex, same_disease) = tags_of(KEY, ("M", "a"))
    assert disease == same_disease
    assert len({women, men, sex, other_sex, disease}) == 5
    # The same value in another column is another slice.
    _, (first, second) = tags_of(KEY, ("a", "a"))
    assert first != second
    assert len(tags_of(KEY, ("a", "b", "c"))[1]) == 6
    assert tags_of(KEY, ("a",))[1] == ()


def test_under_another_key_no_tag_is_the_same() -> None:
    one = cells_of(("F", "a"), ("M", "a"))
    other = cells_of(("F", "a"), ("M", "a"), key=bytes(32))
    assert not set(one.cells) & set(other.cells)


def test_a_union_says_of_no_cell_whose_it_is() -> None:
    lists = {2: cells_of(("F",), ("M",)), 3: cells_of(("M",)), 4: cells_of()}
    both = cells_of(("M",), ("F",))
    assert union(lists) == both
    swapped = {2: lists[3], 3: lists[4], 4: lists[2]}
    assert union(swapped).digest == both.digest


@pytest.mark.parametrize("what", ["slices", "thresholds", "columns", "earlier answers"])
def test_two_lists_that_contradict_each_other_are_refused(what: str) -> None:
    own = cells_of(("F", "a"))
    ((tag, (first, second)),) = own.cells.items()
    earlier = (earlier_of(KEY, 12, NOBODY),)
    other = {
        "slices": CellList(Limits(10, 3), {tag: (second, first)}),
        "thresholds": CellList(Limits(11, 3), own.cells),
        "columns": cells_of(("F",)),
        "earlier answers": CellList(replace(own.limits, earlier=earlier), own.cells),
    }[what]
    with pytest.raises(ProtocolViolation) as caught:
        union({2: own, 3: other})
    assert caught.value.code == "cells_differ"


def test_a_damaged_list_is_refused() -> None:
    good = cells_of(("F", "a"), ("M", "a")).encode()
    head, cell_bytes = good[:23], 48
    first, second = good[23 : 23 + cell_bytes], good[23 + cell_bytes :]
    assert CellList.decode(head + first + second).encode() == good
    bad = {
        "empty": b"",
        "cut": good[:-1],
        "longer": good + b"\0",
        "out of order": head + second + first,
        "twice": head + first + first,
        "version": b"\2" + good[1:],
        "no rows": good[:1] + bytes(8) + good[9:],
    }
    for what, data in bad.items():
        with pytest.raises(ProtocolViolation) as caught:
            CellList.decode(data)
        assert caught.value.code == "bad_message", what


# --- the comparison ---------------------------------------------------------------------------------------


def passes(
    rows: dict[int, list[int]],
    receivers: Collection[int],
    *,
    min_rows: int = 10,
    min_providers: int = 3,
) -> list[bool]:
    """Of each cell, by the circuit on shares."""
    users = sorted(rows)
    plan = cells_plan(users, receivers, Limits(min_rows, min_providers))
    columns: dict[int, dict[str, Column]] = {}
    for user, own in rows.items():
        name_n, name_s = cell_columns(user)
        columns[user] = {
            name_n: column([min(n, min_rows) for n in own]),
            name_s: column([int(n > 0) for n in own]),
        }
    n_cells = len(rows[users[0]])
    found = compute_jointly(plan, columns, n_cells)
    return [bool(value) for value in found.values]


def expected(
    counts: tuple[int, ...], users: list[int], receivers: Collection[int]
) -> bool:
    """The rule, in clear, of min_rows 10 and min_providers 3."""
    n_having = sum(n > 0 for n in counts)
    found = sum(counts) >= 10 and n_having >= 3
    for user, own in zip(users, counts, strict=True):
        if user in receivers:
            found = found and sum(counts) - own >= 10
            found = found and n_having - (own > 0) >= 2
    return found


@pytest.mark.parametrize("receivers", [(), (7,), (2,), (2, 3, 4)])
def test_the_circuit_is_the_rule(receivers: tuple[int, ...]) -> None:
    users = [2, 3, 4]
    cells = list(itertools.product([0, 1, 4, 5, 9, 10, 500], repeat=3))
    rows = dict(zip(users, np.array(cells).T.tolist(), strict=True))
    wanted = [expected(counts, users, receivers) for counts in cells]
    assert passes(rows, receivers) == wanted
    assert True in wanted
    assert False in wanted


def test_nine_made_up_rows_of_a_receiver_do_not_open_a_real_one() -> None:
    rows = {2: [9, 9], 3: [1, 5], 4: [0, 5], 5: [0, 1]}
    assert passes(rows, (), min_providers=2) == [True, True]
    assert passes(rows, (2,), min_providers=2) == [False, True]


def test_a_veto_holds_whatever_the_others_have() -> None:
    users = [2, 3, 4]
    plan = cells_plan(users, (2,), Limits(10, 1))
    refused = veto(users, min_rows=10)
    columns = {}
    for user in users:
        name_n, name_s = cell_columns(user)
        own = [10, refused] if user == 4 else [10, 10]
        columns[user] = {name_n: column(own), name_s: column([1, 1])}
    assert compute_jointly(plan, columns, 2).values == [True, False]


# --- beside earlier answers -------------------------------------------------------------------------------


def passes_beside(
    come: dict[int, list[int | None]],
    gone: dict[int, list[int | None]],
    *,
    left_out: int = NOBODY,
) -> list[bool]:
    """Of each cell, by the circuit on shares; None of who does not know."""
    users = sorted(come)
    limits = Limits(10, 1, 10, (earlier_of(KEY, 12, left_out),))
    plan = cells_plan(users, (), limits)
    columns: dict[int, dict[str, Column]] = {}
    for user in users:
        name_n, name_s = cell_columns(user)
        n_cells = len(come[user])
        columns[user] = {
            name_n: column([10] * n_cells),
            name_s: column([1] * n_cells),
        }
        if user == left_out:
            continue
        name_come, name_gone = changed_columns(user, 0)
        columns[user][name_come] = column([counted(n, users) for n in come[user]])
        columns[user][name_gone] = column([counted(n, users) for n in gone[user]])
    found = compute_jointly(plan, columns, len(come[users[0]]))
    return [bool(value) for value in found.values]


def counted(n: int | None, users: list[int]) -> int:
    return 1 if n is None else min(n, 10) * person(users)


def is_enough(numbers: Collection[int | None]) -> bool:
    """The rule, in clear: whatever those have who do not know, none or ten."""
    known = sum(n for n in numbers if n is not None)
    return known >= 10 or (known == 0 and None not in numbers)


@pytest.mark.parametrize("left_out", [NOBODY, 2])
@pytest.mark.parametrize("which", ["come", "gone"])
def test_who_has_come_or_gone_is_nobody_or_enough(which: str, left_out: int) -> None:
    users = [2, 3, 4]
    cells = list(itertools.product([0, 1, 4, 5, 9, 10, 500, None], repeat=3))
    changed = {
        user: [of_cell[place] for of_cell in cells] for place, user in enumerate(users)
    }
    nobody: dict[int, list[int | None]] = {user: [0] * len(cells) for user in users}
    if which == "come":
        found = passes_beside(changed, nobody, left_out=left_out)
    else:
        found = passes_beside(nobody, changed, left_out=left_out)
    begin = 1 if left_out else 0
    assert found == [is_enough(of_cell[begin:]) for of_cell in cells]


def test_who_has_come_does_not_hide_who_has_gone() -> None:
    come: dict[int, list[int | None]] = {2: [10, 5, 10], 3: [0, 5, 0]}
    gone: dict[int, list[int | None]] = {2: [0, 5, 10], 3: [1, 4, 0]}
    assert passes_beside(come, gone) == [False, False, True]


def test_hospitals_that_do_not_know_are_nobody_together() -> None:
    users = list(range(2, 12))
    come: dict[int, list[int | None]] = {user: [None, None] for user in users}
    come[2] = [9, 10]
    gone: dict[int, list[int | None]] = {user: [0, 0] for user in users}
    assert passes_beside(come, gone) == [False, True]
