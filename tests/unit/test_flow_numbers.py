"""How many rows were left out, as hospitals report it: each report is of the rows that
were accepted, and nothing else stands in it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocol.errors import ProtocolViolation
from tasks.coordinator.flow_numbers import flow_numbers, read_flow

N_ROWS = {2: 50, 3: 40}
GOOD: dict[int, dict[str, Any]] = {
    2: {
        "n_selected": 60,
        "n_left_out": 10,
        "n_test_rows": 5,
        "all": {"n_selected": 100, "n_left_out": 10},
    },
    3: {"n_selected": 40, "n_left_out": 0, "n_test_rows": 0},
}


def read(reports: dict[int, Any]) -> Any:
    bodies = {}
    for user, report in reports.items():
        is_text = isinstance(report, bytes)
        bodies[user] = report if is_text else json.dumps(report).encode()
    return read_flow(bodies, initiator=2, n_rows=N_ROWS, n_test_rows={2: 6, 3: 0})


def test_numbers_of_all_and_of_each() -> None:
    found = flow_numbers(N_ROWS, read(GOOD), 2)
    assert found == {
        "selected": 100,
        "left_out": 10,
        "used": 90,
        "hospitals": {
            "2": {"selected": 60, "left_out": 10, "used": 50},
            "3": {"selected": 40, "left_out": 0, "used": 40},
        },
    }


def test_what_is_not_told_is_null() -> None:
    hidden = {"n_selected": None, "n_left_out": None}
    reports = {
        2: {**GOOD[2], **hidden, "all": hidden},
        3: {**GOOD[3], **hidden},
    }
    found = flow_numbers(N_ROWS, read(reports), 2)
    assert (found["selected"], found["left_out"], found["used"]) == (None, None, 90)
    assert found["hospitals"]["3"] == {"selected": None, "left_out": None, "used": 40}


def test_without_reports_no_row_was_left_out() -> None:
    found = flow_numbers(N_ROWS, {}, 2)
    assert (found["selected"], found["left_out"], found["used"]) == (90, 0, 90)


@pytest.mark.parametrize(
    ("user", "change"),
    [
        (2, {"n_selected": 61}),
        (2, {"n_left_out": None}),
        (2, {"n_left_out": -1, "n_selected": 49}),
        (2, {"n_selected": True}),
        (2, {"n_test_rows": 7}),
        (2, {"n_test_rows": "5"}),
        (2, {"all": {"n_selected": 100, "n_left_out": 9}}),
        (2, {"all": {"n_selected": 100, "n_left_out": 10, "note": "x"}}),
        (2, {"all": None}),
        (2, {"levels": ["a rare diagnosis"]}),
        (3, {"all": {"n_selected": 100, "n_left_out": 10}}),
        (3, {"n_selected": 10**400}),
    ],
)
def test_a_report_of_other_rows_ends_the_order_by_name(
    user: int, change: dict[str, Any]
) -> None:
    reports = {**GOOD, user: {**GOOD[user], **change}}
    with pytest.raises(ProtocolViolation) as caught:
        read(reports)
    assert caught.value.code == "report"
    assert caught.value.detail["hospitals"] == [user]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b"[" * 10_000])
def test_what_is_no_report_ends_the_order_by_name(body: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        read({**GOOD, 3: body})
    assert caught.value.detail["hospitals"] == [3]
