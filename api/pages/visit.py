"""Who looks at a page: a token sealed in a cookie, and calls of the API in this process
with that token.

The cookie holds the token under authenticated encryption with a key that only this
coordinator has, for half a day. Scripts cannot read it, other sites cannot send it, and
a copy of it opens the page but not the API, and not even the page after signing out:
it names a session, which the store forgets then.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from cryptography.fernet import Fernet, InvalidToken
from fastapi import FastAPI, Request

from api.auth import current_caller
from api.headers import is_encrypted
from api.pages.error_words import CHINESE_CAUSES, CHINESE_ERRORS, with_chinese
from api.pages.words import LANGUAGES, translated
from api.routes.services import Services
from api.settings import LOOPBACK
from api.store import Store
from api.store.engine import in_thread
from api.store.hospitals import Caller
from api.store.sessions import SESSION_SECONDS
from protocol.errors import ConsiliumError, Unauthenticated

# Names of cookies.
SESSION = "consilium_session"
LANGUAGE = "consilium_language"
THEME = "consilium_theme"
KEPT_SECONDS = 31_536_000  # of the visitor's preferences
COOKIE: dict[str, Any] = {
    "httponly": True,
    "samesite": "strict",
    "path": "/",
}
# The code for an answer in the form of joint statistics, which has a status and a
# sentence and no code.
CODES_BY_STATUS: dict[int, str] = {
    400: "bad_request",
    401: "unauthenticated",
    403: "refused",
    404: "not_found",
    409: "conflict",
    408: "slow_body",
    410: "order_stopped",
    413: "too_large",
    422: "invalid_input",
    429: "too_many_requests",
    500: "unplanned",
    503: "unavailable",
}


@dataclass(frozen=True)
class Visit:
    """One load of a page: the API with the visitor's token, the language and the
    colours.
    """

    app: FastAPI
    token: str | None  # None where authentication is switched off
    caller: Caller
    language: str
    theme: str  # light or dark
    address: str  # of the coordinator, as the visitor's browser reaches it
    here: str  # the page's own address, with its question
    session: str | None = None  # its digest; None where there is none

    @property
    def services(self) -> Services:
        """The application's parts, as the routes get them; for their own checks and for
        the bell.
        """
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
        if not values:
            return sentence
        return sentence.format(**values)

    def error(self, error: ConsiliumError) -> str:
        """The API's sentence; for a reader of Chinese the Chinese one of its code, with
        the API's in brackets.
        """
        return with_chinese(
            CHINESE_ERRORS,
            error.code,
            str(error),
            self.language,
        )

    def waiting(self, entry: Mapping[str, Any]) -> str:
        """The same for an entry of the API's that names a cause and says why a hospital
        is waited for.
        """
        return with_chinese(
            CHINESE_CAUSES,
            entry["cause"],
            entry["message"],
            self.language,
        )

    async def call(
        self,
        method: str,
        path: str,
        **options: Any,
    ) -> httpx.Response:
        """The API's answer to this visitor.

        ConsiliumError with its own sentence when it is an error.
        """
        # A page that is still open somewhere ends with its session.
        if self.session is not None:
            await require_session(self.app, self.session)
        # As a request like any other, so that a page can do nothing that its visitor's
        # token may not (decision 48).
        headers = {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        # A fault in a route becomes its answer 500, as for any other caller.
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport,
            base_url="http://coordinator",
            timeout=None,  # noqa: S113
        ) as client:
            response = await client.request(
                method,
                path,
                headers=headers,
                **options,
            )
        if response.status_code >= 400:
            raise _told(response)
        return response

    async def data(self, path: str, **params: Any) -> Any:
        """What stands in the envelope of a GET."""
        arguments = {}
        for name, value in params.items():
            if value is not None:
                arguments[name] = value
        response = await self.call("GET", path, params=arguments)
        envelope = response.json()
        return envelope["data"]


def _told(response: httpx.Response) -> ConsiliumError:
    """The error that an answer carries, in whichever form."""
    try:
        body = response.json()
        data = body.get("data") or {}
        error = data.get("error")
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
        bearer = f"Bearer {token}"
        headers.append((b"authorization", bearer.encode()))
    return Request(
        {
            "type": "http",
            "app": app,
            "headers": headers,
        }
    )


class VisitorDoor:
    """Lets visitors in: reads and makes the sealed cookie."""

    def __init__(self, app: FastAPI, key: bytes) -> None:
        self.app = app
        self._box = Fernet(key)

    async def begin(self, token: str) -> str:
        """Begins a session; the cookie's text."""
        secret = secrets.token_urlsafe(32)
        digest = session_digest(secret)
        store: Store = self.app.state.store
        await in_thread(store.sessions.begin, digest)
        return self.seal(token, secret)

    async def begin_person(self, person: Caller) -> str:
        """The same for whom an identity provider has signed in: the session's secret
        stands in the place of a token.
        """
        secret = secrets.token_urlsafe(32)
        # Here the secret stands for a token: who reads the store must find no more than
        # its digest.
        digest = session_digest(secret)
        store: Store = self.app.state.store
        await in_thread(store.sessions.begin, digest, person)
        return self.seal(secret, secret)

    def seal(self, token: str, secret: str) -> str:
        session_text = json.dumps([token, secret])
        sealed = self._box.encrypt(session_text.encode())
        return sealed.decode()

    async def end(self, request: Request) -> None:
        """Forgets the session of a request, if it has one."""
        try:
            _, session = self._open(session_cookie(request))
        except Unauthenticated:
            return
        if session is not None:
            store: Store = self.app.state.store
            await in_thread(store.sessions.end, session)

    async def visit(self, request: Request) -> Visit:
        """The visit of a request.

        Unauthenticated without a cookie or after signing out, Forbidden for a token
        that was revoked.
        """
        token, session = self._open(session_cookie(request))
        if session is not None:
            await require_session(self.app, session)
        caller = await current_caller(request_of(self.app, token))
        language, theme = preferences(request)
        address = str(request.base_url)
        return Visit(
            app=self.app,
            token=token,
            caller=caller,
            language=language,
            theme=theme,
            address=address.rstrip("/"),
            here=here(request),
            session=session,
        )

    def _open(self, cookie: str | None) -> tuple[str | None, str | None]:
        """Its token and its session's digest; nothing where there is no cookie."""
        if not cookie:
            return None, None
        try:
            # The browser forgets it after max_age; who has copied it does not.
            session_text = self._box.decrypt(cookie.encode(), ttl=SESSION_SECONDS)
            token, secret = json.loads(session_text)
        except (InvalidToken, ValueError):
            raise _ended() from None
        return str(token), session_digest(str(secret))


def session_digest(secret: str) -> str:
    digest = hashlib.sha256(secret.encode())
    return digest.hexdigest()


async def require_session(app: FastAPI, session: str) -> None:
    """Unauthenticated where the store does not know it (any more)."""
    store: Store = app.state.store
    is_open = await in_thread(store.sessions.is_open, session)
    if not is_open:
        raise _ended()


def _ended() -> Unauthenticated:
    return Unauthenticated("This session has ended.", remedy="Sign in again.")


def is_on_loopback(request: Request) -> bool:
    """Whether the visitor's browser is on the coordinator's own machine, or at the end
    of a tunnel: there it may keep cookies without TLS.
    """
    if is_encrypted(request.scope):
        return False
    return request.url.hostname in LOOPBACK


def session_name(request: Request) -> str:
    """The cookie's name. A browser takes one of `__Host-` only with Secure, for this
    host alone, so that no other site of the same domain can set it.
    """
    if is_on_loopback(request):
        return SESSION
    return f"__Host-{SESSION}"


def session_cookie(request: Request) -> str | None:
    cookie_name = session_name(request)
    return request.cookies.get(cookie_name)


def preferences(request: Request) -> tuple[str, str]:
    """(language, theme): as the visitor has chosen; else what the browser asks for, and
    light.
    """
    language = request.cookies.get(LANGUAGE)
    if not language:
        language = "en"
        accepted = request.headers.get("accept-language", "")
        if accepted.lower().startswith("zh"):
            language = "zh"
    if language not in LANGUAGES:
        language = "en"
    theme = "light"
    if request.cookies.get(THEME) == "dark":
        theme = "dark"
    return language, theme


def here(request: Request) -> str:
    """The address that was asked for, with its question."""
    path = request.url.path
    question = request.url.query
    if not question:
        return path
    return f"{path}?{question}"


def local(address: str | None) -> str:
    """An address of this coordinator to go on to; the start page for any other."""
    if not address or not address.startswith("/"):
        return "/"
    # A browser reads //elsewhere, and /\elsewhere too, as another server's address.
    if address.startswith(("//", "/\\")):
        return "/"
    return quote(address, safe="/?=&%")
