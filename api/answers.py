"""The forms of answers: {"code", "data", "message"}, and for joint statistics {"status", "result", "msg"}.

Errors carry the same form, and an HTTP status of the same number.
"""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from protocol.errors import ConsiliumError, InvalidInput


def answer(data: Any, *, message: str | None = None) -> JSONResponse:
    """What was asked for."""
    return JSONResponse({"code": 200, "data": data, "message": message})


def failure(
    error: ConsiliumError, *, data: dict[str, Any] | None = None, status: int | None = None
) -> JSONResponse:
    """An error as an answer: one sentence with its remedy, and the machine-readable error in data.

    `status` is for an error of HTTP itself (405, 500) that no class of ours stands for.
    """
    status = status or error.status
    return JSONResponse(
        {"code": status, "data": {**(data or {}), "error": error.to_json()}, "message": str(error)},
        status_code=status,
    )


# Joint statistics, whose request document has a form of its own

STATISTICS_PATHS = ("/runModelTrainTask", "/runJointStatisticalAnalysisTask", "/statistics/result")


def told(
    result: dict[str, Any] | None, *, msg: str = "success", status: int = 200, order_id: int
) -> JSONResponse:
    """What an order of joint statistics came to. The order's number stands in a header too."""
    body = {"status": status, "result": result, "msg": msg}
    return JSONResponse(body, status_code=status, headers={"X-Order-Id": str(order_id)})


def refusal(error: ConsiliumError, *, status: int | None = None, order_id: int | None = None) -> JSONResponse:
    """An error in that form, in which every malformed request is 400."""
    status = status or (400 if isinstance(error, InvalidInput) else error.status)
    body = {
        "status": status,
        "result": None,
        "msg": str(error) if order_id is None else f"{error} (Order {order_id}.)",
    }
    return JSONResponse(
        body, status_code=status, headers={} if order_id is None else {"X-Order-Id": str(order_id)}
    )


def failure_at(path: str, error: ConsiliumError, *, status: int | None = None) -> JSONResponse:
    """An error in the form of the address that was called."""
    if path.rstrip("/") in STATISTICS_PATHS:
        return refusal(error, status=status)
    return failure(error, status=status)
