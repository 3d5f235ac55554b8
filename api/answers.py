"""The forms of answers: {"code", "data", "message"}, and for joint statistics
{"status", "result", "msg"}.

Errors carry the same form, and an HTTP status of the same number. `failure_at` knows
which form an address has; `api/client/connection.py` reads both.
"""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from protocol.errors import ConsiliumError, InvalidInput


def answer(data: Any, *, message: str | None = None) -> JSONResponse:
    """What was asked for."""
    return JSONResponse({"code": 200, "data": data, "message": message})


def failure(
    error: ConsiliumError,
    *,
    data: dict[str, Any] | None = None,
    status: int | None = None,
) -> JSONResponse:
    """An error as an answer: one sentence with its remedy, and the machine-readable
    error in data.

    `status` is for an error of HTTP itself (405, 500) that no class of ours stands for.
    """
    if status is None:
        status = error.status
    content = {**(data or {}), "error": error.to_json()}
    body = {"code": status, "data": content, "message": str(error)}
    return JSONResponse(body, status_code=status)


# Joint statistics, whose request document has a form of its own

STATISTICS_PATHS = (
    "/runModelTrainTask",
    "/runJointStatisticalAnalysisTask",
    "/statistics/result",
)


def told(
    result: dict[str, Any] | None,
    *,
    msg: str = "success",
    status: int = 200,
    order_id: int,
) -> JSONResponse:
    """The result of an order of joint statistics.

    The form has no place for the order's number: that is a header.
    """
    body = {"status": status, "result": result, "msg": msg}
    headers = {"X-Order-Id": str(order_id)}
    return JSONResponse(body, status_code=status, headers=headers)


def refusal(
    error: ConsiliumError, *, status: int | None = None, order_id: int | None = None
) -> JSONResponse:
    """An error in that form, in which every malformed request is 400."""
    if status is None:
        status = 400 if isinstance(error, InvalidInput) else error.status
    sentence, headers = str(error), {}
    if order_id is not None:
        sentence = f"{error} (Order {order_id}.)"
        headers = {"X-Order-Id": str(order_id)}
    body = {"status": status, "result": None, "msg": sentence}
    return JSONResponse(body, status_code=status, headers=headers)


def failure_at(
    path: str, error: ConsiliumError, *, status: int | None = None
) -> JSONResponse:
    """An error in the form of the address that was called."""
    if path.rstrip("/") in STATISTICS_PATHS:
        return refusal(error, status=status)
    return failure(error, status=status)
