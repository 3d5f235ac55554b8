"""How a person comes to the page by way of the identity provider, and back: two
addresses, and a cookie between them.

The cookie holds state, nonce and PKCE's verifier, sealed, for ten minutes. The provider
sends the browser back from another site, so it cannot be `SameSite=strict`; the
session's cookie is, and therefore the way from here to the page is a step of its own.

Decision 117.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from html import escape
from typing import Any
from urllib.parse import quote

from cryptography.fernet import Fernet, InvalidToken
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from api.auth import HOSPITAL, OPERATOR
from api.headers import is_encrypted
from api.pages.visit import COOKIE, VisitorDoor, is_on_loopback, local, session_name
from api.pages.words import translated
from api.sign_in import BEGUN_SECONDS, Begun, IdentityProvider, NotSignedIn
from api.store import Store
from api.store.engine import in_thread
from api.store.hospitals import Caller
from api.store.sessions import SESSION_SECONDS
from protocol.errors import ConsiliumError

log = logging.getLogger("consilium.api")

BEGUN = "consilium_sign_in"
BEGUN_COOKIE: dict[str, Any] = {**COOKIE, "samesite": "lax"}
WITH_ACCOUNT = "Sign in with your organisation's account"
PEOPLES_REASONS = {
    "away": "The identity provider does not answer. Try again later, or sign in with a token.",
    "busy": "Too many people sign in at this moment. Try again in a minute.",
    "begun": "This sign-in was begun in another browser, was used, or is older than ten minutes. Begin again.",
    "answer": "The identity provider's answer is not valid. Begin again; the operator's log says what is wrong.",
    "declined": "The identity provider has not signed you in.",
    "nobody": "Your account is in no group that this coordinator knows. Ask the operator.",
    "several": "Your account is in groups of more than one hospital, or of the operator too. Ask the operator.",
    "unregistered": "Your account's group is of a hospital that is not registered here. Ask the operator.",
    "unavailable": "The coordinator cannot begin a session now. Try again later.",
}


def link_to_provider(app: FastAPI, request: Request, language: str) -> str:
    """HTML for the sign-in page; nothing where no provider is set."""
    if app.state.identity_provider is None:
        return ""
    page = _own_page(request.query_params.get("back"))
    back = quote(page, safe="")
    link_text = escape(translated(WITH_ACCOUNT, language))
    return f'<p><a href="/page/sign-in/begin?back={back}">{link_text}</a></p>'


def _own_page(address: str | None) -> str:
    """A page of ours to go on to; the start page for any other address."""
    page = local(address)
    # Back at the door one would be asked to sign in again.
    if not page.startswith("/page/") or page.startswith("/page/sign-"):
        return "/"
    return page


class BegunCookie:
    """Seals what is begun, under another key than the session's cookie: neither opens as
    the other.
    """

    def __init__(self, key: bytes) -> None:
        digest = hashlib.sha256(b"consilium sign-in\0" + key)
        own_key = base64.urlsafe_b64encode(digest.digest())
        self._box = Fernet(own_key)

    def set(
        self,
        request: Request,
        response: Response,
        begun: Begun,
    ) -> None:
        begun_text = json.dumps(begun)
        sealed = self._box.encrypt(begun_text.encode())
        is_secure = not is_on_loopback(request)
        response.set_cookie(
            _begun_name(request),
            sealed.decode(),
            max_age=BEGUN_SECONDS,
            secure=is_secure,
            **BEGUN_COOKIE,
        )

    def read(self, request: Request) -> Begun:
        """NotSignedIn (begun) without one, or after ten minutes."""
        cookie = request.cookies.get(_begun_name(request), "")
        try:
            begun_text = self._box.decrypt(cookie.encode(), ttl=BEGUN_SECONDS)
            return Begun(*json.loads(begun_text))
        except (InvalidToken, ValueError, TypeError):
            raise NotSignedIn("begun", "no cookie") from None

    def drop(self, request: Request, response: Response) -> None:
        is_secure = not is_on_loopback(request)
        response.delete_cookie(
            _begun_name(request),
            secure=is_secure,
            **BEGUN_COOKIE,
        )


def _begun_name(request: Request) -> str:
    if is_on_loopback(request):
        return BEGUN
    return f"__Host-{BEGUN}"


def add_sign_in(router: FastAPI, door: VisitorDoor, key: bytes) -> None:
    """Adds both addresses. Where no provider is set they lead to the usual form."""
    cookie = BegunCookie(key)

    @router.get("/page/sign-in/begin", include_in_schema=False)
    async def begin(request: Request) -> Response:
        provider: IdentityProvider | None = door.app.state.identity_provider
        if provider is None:
            return _to_form()
        # Both cookies are Secure there, and no browser keeps them without TLS.
        if not is_encrypted(request.scope) and not is_on_loopback(request):
            return _to_form("insecure")
        back = request.query_params.get("back")
        begun = Begun.new(_own_page(back))
        try:
            address = await provider.address(begun)
        except NotSignedIn as refused:
            return _refusal(refused)
        response = RedirectResponse(address, status_code=303)
        cookie.set(request, response, begun)
        return response

    @router.get("/page/sign-in/return", include_in_schema=False)
    async def come_back(request: Request) -> Response:
        provider: IdentityProvider | None = door.app.state.identity_provider
        if provider is None:
            return _to_form()
        try:
            begun = cookie.read(request)
            user_id = await provider.person(begun, dict(request.query_params))
            response = await _let_in(
                request,
                door,
                user_id,
                begun.back,
            )
        except NotSignedIn as refused:
            response = _refusal(refused)
        except ConsiliumError as error:
            response = _refusal(NotSignedIn("unavailable", str(error)))
        # Whatever came of it: who goes back in the browser has to begin again.
        cookie.drop(request, response)
        return response


async def _let_in(
    request: Request,
    door: VisitorDoor,
    user_id: int | None,
    back: str,
) -> Response:
    """Begins the session of a hospital's user, or the operator's."""
    store: Store = door.app.state.store
    if user_id is None:
        person = Caller(OPERATOR, None)
    elif user_id in await in_thread(store.hospitals.names):
        person = Caller(HOSPITAL, user_id)
    else:
        raise NotSignedIn("unregistered", f"hospital {user_id}")
    sealed_session = await door.begin_person(person)
    log.info("A person has signed in as %s", person.name)
    # A browser that another site has sent here sends no strict cookie, however often it
    # is sent on; it does from a page of ours.
    goal = escape(back)
    response = HTMLResponse(
        '<!doctype html><meta charset="utf-8"><title>Consilium</title>'
        f'<meta http-equiv="refresh" content="0;url={goal}"><a href="{goal}">Consilium</a>'
    )
    response.set_cookie(
        session_name(request),
        sealed_session,
        max_age=SESSION_SECONDS,
        secure=not is_on_loopback(request),
        **COOKIE,
    )
    return response


def _to_form(why: str | None = None) -> Response:
    question = f"?why={why}" if why else ""
    return RedirectResponse(f"/page/sign-in{question}", status_code=303)


def _refusal(refused: NotSignedIn) -> Response:
    """To the form, which says why in words of ours."""
    log.warning("A person was not signed in (%s): %s", refused.why, refused.detail)
    return _to_form(refused.why)
