"""The request document's envelope: {"code", "data", "message"}; errors carry the same, and a status that means it."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from protocol.errors import ConsiliumError


def answer(data: Any, *, message: str | None = None) -> JSONResponse:
    """What was asked for."""
    return JSONResponse({"code": 200, "data": data, "message": message})


def failure(error: ConsiliumError, *, data: dict[str, Any] | None = None, status: int | None = None) -> JSONResponse:
    """An error as an answer: one sentence with its remedy, and the machine-readable error in data.

    `status` is for an error of HTTP itself (405, 500) that no class of ours stands for.
    """
    status = status or error.status
    return JSONResponse(
        {"code": status, "data": {**(data or {}), "error": error.to_json()}, "message": str(error)}, status_code=status
    )
