"""Who looks at a page: a token sealed in a cookie, and calls of the API in this process with that token.

The cookie holds the token under authenticated encryption with a key that only this coordinator has, for half a day.
Scripts cannot read it, other sites cannot send it, and a copy of it opens the page but not the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from cryptography.fernet import Fernet, InvalidToken
from fastapi import FastAPI, Request

from api.auth import current_caller
from api.pages.error_words import CHINESE_CAUSES, CHINESE_ERRORS, with_chinese
from api.pages.words import LANGUAGES, translated
from api.routes.services import Services
from api.store.hospitals import Caller
from protocol.errors import ConsiliumError, Unauthenticated

SESSION, LANGUAGE, THEME = "consilium_session", "consilium_language", "consilium_theme"
SESSION_SECONDS = 43_200
KEPT_SECONDS = 31_536_000
COOKIE: dict[str, Any] = {"httponly": True, "samesite": "strict", "path": "/"}
CODES_BY_STATUS: dict[int, str] = {
    400: "bad_request",
    401: "unauthenticated",
    403: "refused",
    404: "not_found",
    409: "conflict",
    410: "order_stopped",
    413: "too_large",
    422: "invalid_input",
    429: "too_many_requests",
    500: "unplanned",
    503: "unavailable",
}
"""The code for an answer in the form of joint statistics, which has a status and a sentence and no code."""


@dataclass(frozen=True)
class Visit:
    """One load of a page: the API with the visitor's token, the language and the colours."""

    app: FastAPI
    token: str | None
    caller: Caller
    language: str
    theme: str
    address: str
    here: str

    @property
    def services(self) -> Services:
        """The application's parts, as the routes get them; for their own checks and for the bell."""
        return Services(self.request)

    @property
    def request(self) -> Request:
        """A request as this visitor's, for functions of the API that take one."""
        return request_of(self.app, self.token)

    @property
    def is_dark(self) -> bool:
        return self.theme == "dark"

    def t(self, text: str, **values: Any) -> str:
        """The text in the visitor's language, with its values filled in."""
        return translated(text, self.language).format(**values) if values else translated(text, self.language)

    def error(self, error: ConsiliumError) -> str:
        """The API's sentence; for a reader of Chinese the Chinese one of its code, with the API's in brackets."""
        return with_chinese(CHINESE_ERRORS, error.code, str(error), self.language)

    def waiting(self, one: Mapping[str, Any]) -> str:
        """The same for an entry of the API's that names a cause and says why a hospital is waited for."""
        return with_chinese(CHINESE_CAUSES, one["cause"], one["message"], self.language)

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The API's answer to this visitor. ConsiliumError with its own sentence when it is an error."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport,
            base_url="http://coordinator",
            timeout=None,  # noqa: S113 (it is this very process)
        ) as client:
            response = await client.request(method, path, headers=headers, **options)
        if response.status_code >= 400:
            raise _told(response)
        return response

    async def data(self, path: str, **params: Any) -> Any:
        """What stands in the envelope of a GET."""
        sent = {name: value for name, value in params.items() if value is not None}
        return (await self.call("GET", path, params=sent)).json()["data"]


def _told(response: httpx.Response) -> ConsiliumError:
    """The error that an answer carries, in whichever form."""
    try:
        body = response.json()
        error = (body.get("data") or {}).get("error")
    except (ValueError, AttributeError):
        return ConsiliumError(
            "The coordinator met an unplanned error.", remedy="Its log has the full text.", code="unplanned"
        )
    if isinstance(error, Mapping):
        return ConsiliumError.from_json(dict(error))
    code = CODES_BY_STATUS.get(response.status_code)
    return ConsiliumError(str(body.get("msg") or body.get("message")), remedy="", code=code)


def request_of(app: FastAPI, token: str | None) -> Request:
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    return Request({"type": "http", "app": app, "headers": headers})


class Door:
    """Lets visitors in: reads and makes the sealed cookie."""

    def __init__(self, app: FastAPI, key: bytes) -> None:
        self.app, self._box = app, Fernet(key)

    def seal(self, token: str) -> str:
        return self._box.encrypt(token.encode()).decode()

    async def visit(self, request: Request) -> Visit:
        """The visit of a request. Unauthenticated without a cookie, Forbidden for a token that was revoked."""
        token = self._token(request.cookies.get(SESSION))
        caller = await current_caller(request_of(self.app, token))
        language, theme = preferences(request)
        return Visit(
            self.app, token, caller, language, theme, str(request.base_url).rstrip("/"), here(request)
        )

    def _token(self, cookie: str | None) -> str | None:
        if not cookie:
            return None
        try:
            return self._box.decrypt(cookie.encode(), ttl=SESSION_SECONDS).decode()
        except InvalidToken:
            raise Unauthenticated("This session has ended.", remedy="Sign in again.") from None


def preferences(request: Request) -> tuple[str, str]:
    """(language, theme): as the visitor has chosen; else what the browser asks for, and light."""
    wanted = request.headers.get("accept-language", "").lower()
    language = request.cookies.get(LANGUAGE) or ("zh" if wanted.startswith("zh") else "en")
    theme = "dark" if request.cookies.get(THEME) == "dark" else "light"
    return language if language in LANGUAGES else "en", theme


def here(request: Request) -> str:
    """The address that was asked for, with its question."""
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def local(address: str | None) -> str:
    """An address of this coordinator to go on to; the start page for any other."""
    is_ours = (
        bool(address)
        and address is not None
        and address.startswith("/")
        and not address.startswith(("//", "/\\"))
    )
    return quote(str(address), safe="/?=&%") if is_ours else "/"
