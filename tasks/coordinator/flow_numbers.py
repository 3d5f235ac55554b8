"""How many rows an order selected, left out and used: a study's flow numbers, as the
hospitals report them. Pure.

A hospital's own are told where it left none or min_rows out, and so did all others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from protocol.errors import ProtocolViolation

FlowReport = dict[str, Any]
"""A hospital's: n_selected and n_left_out, or null where they are not told;
n_test_rows, of its test SQL, as they are used; at the initiator `all`, the same two
numbers of all hospitals.
"""


_OF_ALL = {"n_selected", "n_left_out"}
_OWN = _OF_ALL | {"n_test_rows"}


def read_flow(
    bodies: Mapping[int, bytes],
    *,
    initiator: int,
    n_rows: Mapping[int, int],
    n_test_rows: Mapping[int, int],
) -> dict[int, FlowReport]:
    """The hospitals' reports, each held against the rows that it accepted with.

    ProtocolViolation (code report) for one that is not of these rows.
    """
    flow_reports: dict[int, FlowReport] = {}
    for user_id, body in bodies.items():
        report = _read(body)
        is_right = (
            report is not None
            and _is_of(report, n_rows[user_id])
            and _is_count(report["n_test_rows"], most=n_test_rows[user_id])
            and ("all" in report) == (user_id == initiator)
        )
        if report is None or not is_right:
            raise _wrong_flow(user_id)
        flow_reports[user_id] = report
    of_all = flow_reports[initiator]["all"]
    is_whole = isinstance(of_all, dict) and set(of_all) == _OF_ALL
    if not is_whole or not _is_of(of_all, sum(n_rows.values())):
        raise _wrong_flow(initiator)
    return flow_reports


def flow_numbers(
    n_rows: Mapping[int, int], reports: Mapping[int, FlowReport], initiator: int
) -> dict[str, Any]:
    """`selected`, `left_out` and `used`, of all rows and by hospital. Without reports no
    row was left out.
    """
    of_hospitals: dict[str, Any] = {}
    for user_id, n_used in sorted(n_rows.items()):
        of_hospitals[str(user_id)] = _numbers(reports.get(user_id), n_used)
    n_all = sum(n_rows.values())
    of_all = reports[initiator]["all"] if reports else None
    return {**_numbers(of_all, n_all), "hospitals": of_hospitals}


def _numbers(report: FlowReport | None, n_used: int) -> dict[str, int | None]:
    if report is None:
        return {"selected": n_used, "left_out": 0, "used": n_used}
    return {
        "selected": report["n_selected"],
        "left_out": report["n_left_out"],
        "used": n_used,
    }


def _read(body: bytes) -> FlowReport | None:
    try:
        report = json.loads(body)
    except (ValueError, RecursionError):
        return None
    # The answer shows it to all, so nothing else may stand in it.
    if not isinstance(report, dict) or set(report) - {"all"} != _OWN:
        return None
    return report


def _is_of(report: FlowReport, n_used: int) -> bool:
    """Whether what was selected and left out leaves these rows; or neither is told."""
    n_selected = report.get("n_selected")
    n_left_out = report.get("n_left_out")
    if n_selected is None and n_left_out is None:
        return True
    if type(n_selected) is not int or type(n_left_out) is not int:
        return False
    return n_left_out >= 0 and n_selected - n_left_out == n_used


def _is_count(value: Any, *, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _wrong_flow(user: int) -> ProtocolViolation:
    return ProtocolViolation(
        f"The numbers of rows that hospital {user} left out are not those of its rows.",
        remedy="Check that this hospital runs the same version, then send the order again.",
        code="report",
        hospitals=[user],
    )
