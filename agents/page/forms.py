"""What a form of the page sends, read no further than a form can be long."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request

MOST_FORM_BYTES = 16_384


async def body_of(request: Request) -> bytes:
    """All of it, or 413: it is not read further than a form can be long."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_FORM_BYTES:
            raise HTTPException(413)
    return body


def fields_of(body: bytes) -> dict[str, str]:
    """Each field once, as a browser's form sends it."""
    try:
        values_by_name = parse_qs(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
        )
    except ValueError:
        raise HTTPException(400) from None
    fields = {}
    for field_name, field_values in values_by_name.items():
        if len(field_values) > 1:
            raise HTTPException(400)
        fields[field_name] = field_values[0]
    return fields
