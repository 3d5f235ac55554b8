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

# Names of cookies.
SESSION = "consilium_session"
LANGUAGE = "consilium_language"
THEME = "consilium_theme"
SESSION_SECONDS = 43_200
KEPT_SECONDS = 31_536_000  # of the visitor's preferences
COOKIE: dict[str, Any] = {"httponly": True, "samesite": "strict", "path": "/"}
# The code for an answer in the form of joint statistics, which has a status and a sentence and no code.
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


@dataclass(frozen=True)
class Visit:
    """One load of a page: the API with the visitor's token, the language and the colours."""

    app: FastAPI
    token: str | None  # None where authentication is switched off
    caller: Caller
    language: str
    theme: str  # light or dark
    address: str  # of the coordinator, as the visitor's browser reaches it
    here: str  # the page's own address, with its question

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
        sentence = translated(text, self.language)
        return sentence.format(**values) if values else sentence

    def error(self, error: ConsiliumError) -> str:
        """The API's sentence; for a reader of Chinese the Chinese one of its code, with the API's in brackets."""
        return with_chinese(CHINESE_ERRORS, error.code, str(error), self.language)

    def waiting(self, one: Mapping[str, Any]) -> str:
        """The same for an entry of the API's that names a cause and says why a hospital is waited for."""
        return with_chinese(CHINESE_CAUSES, one["cause"], one["message"], self.language)

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The API's answer to this visitor. ConsiliumError with its own sentence when it is an error."""
        # As a request like any other, so that a page can do nothing that its visitor's token may not (decision 48).
        headers = {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
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
        given = {name: value for name, value in params.items() if value is not None}
        response = await self.call("GET", path, params=given)
        return response.json()["data"]


def _told(response: httpx.Response) -> ConsiliumError:
    """The error that an answer carries, in whichever form."""
    try:
        body = response.json()
        error = (body.get("data") or {}).get("error")
    except (ValueError, AttributeError):
        return ConsiliumError(
            "The coordinator met an unplanned error.",
            remedy="Its log has the full text.",
            code="unplanned",
        )
    if isinstance(error, Mapping):
        return ConsiliumError.from_json(dict(error))
    code = CODES_BY_STATUS.get(response.status_code)
    sentence = body.get("msg") or body.get("message")
    return ConsiliumError(str(sentence), remedy="", code=code)


def request_of(app: FastAPI, token: str | None) -> Request:
    """A request with this token, for functions of the API that take one."""
    headers = []
    if token:
        headers.append((b"authorization", f"Bearer {token}".encode()))
    return Request({"type": "http", "app": app, "headers": headers})


class VisitorDoor:
    """Lets visitors in: reads and makes the sealed cookie."""

    def __init__(self, app: FastAPI, key: bytes) -> None:
        self.app = app
        self._box = Fernet(key)

    def seal(self, token: str) -> str:
        return self._box.encrypt(token.encode()).decode()

    async def visit(self, request: Request) -> Visit:
        """The visit of a request. Unauthenticated without a cookie, Forbidden for a token that was revoked."""
        token = self._token(request.cookies.get(SESSION))
        caller = await current_caller(request_of(self.app, token))
        language, theme = preferences(request)
        return Visit(
            app=self.app,
            token=token,
            caller=caller,
            language=language,
            theme=theme,
            address=str(request.base_url).rstrip("/"),
            here=here(request),
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
    language = request.cookies.get(LANGUAGE)
    if not language:
        wanted = request.headers.get("accept-language", "").lower()
        language = "zh" if wanted.startswith("zh") else "en"
    if language not in LANGUAGES:
        language = "en"
    theme = "dark" if request.cookies.get(THEME) == "dark" else "light"
    return language, theme


def here(request: Request) -> str:
    """The address that was asked for, with its question."""
    if not request.url.query:
        return request.url.path
    return f"{request.url.path}?{request.url.query}"


def local(address: str | None) -> str:
    """An address of this coordinator to go on to; the start page for any other."""
    # A browser reads //elsewhere, and /\elsewhere too, as another server's address.
    if not address or not address.startswith("/") or address.startswith(("//", "/\\")):
        return "/"
    return quote(address, safe="/?=&%")
