"""Addresses of the API that a person opens in a browser lead to the page that shows the
same.

People send each other `/orders/37`. A browser asks for text/html and sends no token, so
it would be told JSON with a 401; programs ask for anything, or for JSON, and nothing
changes for them. Who may see the page is for the page's own door.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlencode

from starlette.responses import RedirectResponse
from starlette.types import Scope

from api.headers import header

_ORDER = re.compile(r"/orders/([0-9]{1,9})(?:/(?:events|progress|rounds|timeline))?")
_SCHEDULE = re.compile(r"/statistics/schedules/([0-9]{1,9})")
_SCORE = re.compile(r"/(?:anomaly|contribution)/([a-z_]{1,40})")
_NUMBER = re.compile(r"[0-9]{1,9}")

_PAGES = {
    "/orders": "/page/orders",
    "/model/train": "/page/orders/new",
    "/model/evaluate": "/page/orders/new",
    "/hospitals": "/page/hospitals",
    "/statistics/schedules": "/page/statistics",
    "/statistics/history": "/page/statistics",
    "/runModelTrainTask": "/page/statistics/new",
    "/runJointStatisticalAnalysisTask": "/page/statistics/new",
}
_OF_AN_ORDER = {
    "/model/info": "model_id",
    "/model/train_status": "order_id",
    "/model/infer_status": "order_id",
    "/statistics/result": "order_id",
}
"""By address the parameter that has the order's number."""

_OF_SCORES = ("/performance", "/trained_clients", "/client_grad", "/avg_grad")


def to_the_page(scope: Scope) -> RedirectResponse | None:
    """The way to the page, for a browser that opens an address of the API; None for
    everybody else, and where no page shows it.
    """
    if not getattr(scope["app"].state, "has_pages", False):
        return None
    # Who sends a token is a program, whatever else it says.
    if scope["method"] not in ("GET", "HEAD") or header(scope, b"authorization"):
        return None
    if not _wants_html(header(scope, b"accept")):
        return None
    page = page_of(scope["path"], scope.get("query_string", b"").decode("latin-1"))
    if page is None:
        return None
    # A cache between must not give it to a program.
    headers = {"Vary": "Accept, Authorization", "Cache-Control": "no-store"}
    return RedirectResponse(page, status_code=303, headers=headers)


def page_of(path: str, query: str = "") -> str | None:
    """The page's own address. It is made of numbers and of words known here.

    >>> page_of("/orders/37"), page_of("/model/info", "model_id=37&x=//elsewhere")
    ('/page/orders/37', '/page/orders/37')
    >>> page_of("/anomaly/krum", "order_id=37&k=2")
    '/page/scores?order_id=37&score=krum'
    >>> page_of("/exchange/inbox") is None
    True
    """
    query_values = parse_qs(query, max_num_fields=None) if len(query) < 2_000 else {}

    def number(name: str) -> str | None:
        values = query_values.get(name, [])
        if len(values) != 1 or not _NUMBER.fullmatch(values[0]):
            return None
        return values[0]

    if path_match := _ORDER.fullmatch(path):
        return f"/page/orders/{path_match[1]}"
    if path_match := _SCHEDULE.fullmatch(path):
        return f"/page/statistics?schedule_id={path_match[1]}"
    if path in _OF_AN_ORDER:
        order = number(_OF_AN_ORDER[path])
        return f"/page/orders/{order}" if order else "/page/orders"
    path_match = _SCORE.fullmatch(path)
    if path_match or path in _OF_SCORES:
        score_fields = {"order_id": number("order_id"), "round": number("round")}
        if path_match and path_match[1] != "report":
            score_fields["score"] = path_match[1]
        filled = {name: text for name, text in score_fields.items() if text}
        return f"/page/scores?{urlencode(filled)}" if filled else "/page/scores"
    return _PAGES.get(path)


def _wants_html(accept: str) -> bool:
    """Whether HTML is named, and JSON is not preferred to it.

    `*/*` names nothing: programs send that.
    """
    weights = {"text/html": 0.0, "application/json": 0.0}
    for media_range in accept.lower().split(","):
        media_type, *parameters = [piece.strip() for piece in media_range.split(";")]
        if media_type in weights:
            weights[media_type] = _weight(parameters)
    return weights["text/html"] > weights["application/json"]


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
