"""What a request asks for, and a file as an answer: small parts of the page's server."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from agents.page.tables import Table
from agents.page.words import LANGUAGES, preferred

LANGUAGE = "consilium-language"
"""The cookie of what was chosen."""
LARGEST = 2**63


def pretty(value: Any) -> str:
    """A value as templates show it."""
    return json.dumps(value, ensure_ascii=False)


def language_of(request: Request) -> str:
    """What was just chosen, or was chosen before, or what the browser prefers."""
    chosen = request.query_params.get("language")
    chosen_before = request.cookies.get(LANGUAGE)
    for language in (chosen, chosen_before):
        if language in LANGUAGES:
            return str(language)
    return preferred(request.headers.get("accept-language", ""))


def order_number(request: Request) -> int:
    number = int(request.path_params["number"])
    if not 0 < number < LARGEST:
        raise HTTPException(404)
    return number


def chosen_rows(request: Request, table: Table) -> Table:
    """Of one order or model only, where the address says so."""
    number = request.query_params.get("order", "").strip()
    if not number:
        return table
    is_number = number.isascii() and number.isdecimal() and len(number) < 20
    if not is_number or "order" not in table.columns:
        raise HTTPException(400)
    return table.of_order(int(number))


def download(content: bytes, name: str, kind: str) -> Response:
    """A file with its name, which may be in any script."""
    # Quoted to the last character, so that a name cannot end the header.
    where = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    return Response(
        content,
        media_type=f"{kind}; charset=utf-8",
        headers={"Content-Disposition": where},
    )
