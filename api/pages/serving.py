"""Adds the pages to the API's application: `/` and what lies below `/page`, and nothing
of the API's own addresses.

`_add_views` names every page and the module that shows it; `_add_doors` is signing in
and out. Who looks: `visit`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from nicegui import core, ui
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Match, Mount
from starlette.types import Scope

from api.auth import current_caller
from api.pages.frame import STYLE, Safe, html, note
from api.pages.hospitals import show_hospitals
from api.pages.order_form import show_order_form
from api.pages.order_list import show_orders
from api.pages.order_view import show_order
from api.pages.scores import show_scores
from api.pages.sign_in import PEOPLES_REASONS, add_sign_in, link_to_provider
from api.pages.statistics import show_statistics
from api.pages.statistics_form import show_statistics_form
from api.pages.visit import (
    COOKIE,
    KEPT_SECONDS,
    LANGUAGE,
    THEME,
    Visit,
    VisitorDoor,
    here,
    is_on_loopback,
    local,
    preferences,
    request_of,
    session_cookie,
    session_name,
)
from api.pages.words import LANGUAGES, translated
from api.store.sessions import SESSION_SECONDS
from protocol.errors import ConsiliumError

OURS = ("/page", "/_nicegui")
BUILD_SECONDS = 30.0  # that a view may take to come up
RECONNECT_SECONDS = 10.0
# So many stay below 2^31, from which on the API takes none.
LONGEST_NUMBER = 9  # digits of a number in an address
THEMES = ("light", "dark")


class Pages(Mount):
    """Takes what is the page's, so that every other address stays the API's, its errors
    too.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if _is_ours(scope.get("path", "")):
            return super().matches(scope)
        return Match.NONE, {}


def _is_ours(path: str) -> bool:
    for prefix in OURS:
        if path == prefix or path.startswith((f"{prefix}/", f"{prefix}_")):
            return True
    return path == "/"


def add_pages(app: FastAPI, key: bytes) -> None:
    """`key` is 32 bytes in URL-safe base64, as Fernet takes it; what it has sealed
    opens only with it.
    """
    door = VisitorDoor(app, key)
    ui.run_with(
        app,
        title="Consilium",
        tailwind=False,
        reconnect_timeout=RECONNECT_SECONDS,
        gzip_middleware_factory=lambda inner: GZipMiddleware(
            inner, minimum_size=1000, compresslevel=1
        ),
        show_welcome_message=False,
    )
    # NiceGUI has mounted itself over every address that is left; Pages takes its place.
    app.router.routes.pop()
    app.router.routes.append(Pages("", app=core.app))
    _add_doors(app, door)
    add_sign_in(core.app, door, key)
    _add_views(door)
    app.state.has_pages = True


def _add_views(door: VisitorDoor) -> None:
    """Every view has an address of its own."""

    @page("/", door)
    @page("/page/orders", door)
    async def orders(visit: Visit, question: AddressQuery) -> None:
        await show_orders(visit, question.number("before"))

    @page("/page/orders/new", door)
    async def new_order(visit: Visit, question: AddressQuery) -> None:
        await show_order_form(visit)

    @page("/page/orders/{order_id}", door)
    async def order(visit: Visit, question: AddressQuery) -> None:
        await show_order(visit, question.number("order_id") or 0)

    @page("/page/scores", door)
    async def scores(visit: Visit, question: AddressQuery) -> None:
        await show_scores(visit, question)

    @page("/page/statistics", door)
    async def statistics(visit: Visit, question: AddressQuery) -> None:
        await show_statistics(
            visit, question.number("schedule_id"), question.number("before")
        )

    @page("/page/statistics/new", door)
    async def new_statistics(visit: Visit, question: AddressQuery) -> None:
        await show_statistics_form(visit)

    @page("/page/hospitals", door)
    async def hospitals(visit: Visit, question: AddressQuery) -> None:
        await show_hospitals(visit)

    # Behind all views.
    core.app.get("/page/{rest:path}", include_in_schema=False)(_no_such_page)


async def _no_such_page(request: Request) -> Response:
    """For anybody, so it says nothing of what there is."""
    language, theme = preferences(request)
    sentence = escape(translated(NO_SUCH_PAGE, language))
    orders = escape(translated("Orders", language))
    dark = " class=body--dark" if theme == "dark" else ""
    page_html = (
        f'<!doctype html><html lang="{language}"><head><title>Consilium</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head><body{dark}>"
        f'<div id="main" role="main"><h1>{sentence}</h1><p><a href="/page/orders">{orders}</a></p></div>'
        "</body></html>"
    )
    return HTMLResponse(page_html, status_code=404)


class AddressQuery:
    """What the address asks for; a number that is none counts as missing."""

    def __init__(self, request: Request) -> None:
        self.given: dict[str, str] = {**request.query_params, **request.path_params}

    def text(self, name: str, default: str = "") -> str:
        return self.given.get(name, default)

    def number(self, name: str) -> int | None:
        number_text = self.given.get(name, "")
        is_plain = number_text.isdecimal() and number_text.isascii()
        if not is_plain or len(number_text) > LONGEST_NUMBER:
            return None
        return int(number_text)


Show = Callable[[Visit, AddressQuery], Awaitable[None]]


def page(path: str, door: VisitorDoor) -> Callable[[Show], Show]:
    """Serves a view at an address, to those who are signed in; others are sent to sign
    in first.
    """

    def serve(show: Show) -> Show:
        async def build(request: Request) -> Response | None:
            try:
                visit = await door.visit(request)
            except ConsiliumError as error:
                return _to_sign_in(request, error)
            await show(visit, AddressQuery(request))
            return None

        ui.page(path, response_timeout=BUILD_SECONDS)(build)
        return show

    return serve


def _to_sign_in(request: Request, error: ConsiliumError) -> Response:
    """Sends to the door, which shows why a cookie is good no longer."""
    address = f"/page/sign-in?back={quote(here(request), safe='')}"
    was_in = session_cookie(request) is not None
    if was_in:
        address += f"&why={quote(error.code, safe='')}"
    response = RedirectResponse(address, status_code=303)
    if was_in:
        _drop_session(request, response)
    return response


def _drop_session(request: Request, response: Response) -> None:
    # A browser takes no __Host- cookie without Secure, not even to delete it.
    response.delete_cookie(
        session_name(request), secure=not is_on_loopback(request), **COOKIE
    )


# Coming and going, and what a visitor prefers


def _add_doors(app: FastAPI, door: VisitorDoor) -> None:
    router = core.app

    @ui.page("/page/sign-in")
    async def sign_in_form(request: Request) -> None:
        _show_sign_in(request, door)

    @router.post("/page/sign-in", include_in_schema=False)
    async def sign_in(request: Request) -> Response:
        body = await request.body()
        form_fields = parse_qs(body.decode("utf-8", "replace"))
        form = {name: values[0] for name, values in form_fields.items()}
        token = form.get("token", "").strip()
        back = local(form.get("back"))
        # Before the token is looked at: who listens must not learn whether it is good.
        if _is_in_clear(request):
            return RedirectResponse("/page/sign-in?why=insecure", status_code=303)
        # A header holds no other letters, and no token has any.
        shown_token = token if token.isascii() else "?"
        try:
            await current_caller(request_of(app, shown_token))
        except ConsiliumError as error:
            address = f"/page/sign-in?back={quote(back, safe='')}&why={error.code}"
            return RedirectResponse(address, status_code=303)
        response = RedirectResponse(back, status_code=303)
        is_secure = not is_on_loopback(request)
        response.set_cookie(
            session_name(request),
            await door.begin(token),
            max_age=SESSION_SECONDS,
            secure=is_secure,
            **COOKIE,
        )
        # The browser's own preference, which the form sends; one that the visitor has
        # chosen stays.
        if form.get("theme") in THEMES and not request.cookies.get(THEME):
            response.set_cookie(
                THEME, form["theme"], max_age=KEPT_SECONDS, secure=is_secure, **COOKIE
            )
        return response

    @router.post("/page/sign-out", include_in_schema=False)
    async def sign_out(request: Request) -> Response:
        await door.end(request)
        response = RedirectResponse("/page/sign-in", status_code=303)
        _drop_session(request, response)
        return response

    @router.get("/page/preferences", include_in_schema=False)
    async def prefer(
        request: Request, back: str = "/", language: str = "", theme: str = ""
    ) -> Response:
        response = RedirectResponse(local(back), status_code=303)
        how = {"max_age": KEPT_SECONDS, "secure": not is_on_loopback(request), **COOKIE}
        if language in LANGUAGES:
            response.set_cookie(LANGUAGE, language, **how)
        if theme in THEMES:
            response.set_cookie(THEME, theme, **how)
        return response


def _is_in_clear(request: Request) -> bool:
    """Whether the browser itself says that it has no TLS, off this machine: it would
    not keep the cookie, and everybody between has seen the token.
    """
    origin = request.headers.get("origin", "")
    return origin.startswith("http://") and not is_on_loopback(request)


REASONS = {
    "insecure": "This address is not encrypted. Open it as https://, or through a tunnel to the coordinator's machine.",
    "token": "This token is not known or was revoked. Ask the operator for a new one.",
    "unauthenticated": "This session has ended. Sign in again.",
    "too_many_requests": "This token makes too many calls. Wait a second, then go on.",
    **PEOPLES_REASONS,
}


def _show_sign_in(request: Request, door: VisitorDoor) -> None:
    """A plain form: the token goes to the coordinator once, and comes back as a cookie
    that no script can read.
    """
    language, theme = preferences(request)
    ui.page_title("Consilium")
    ui.dark_mode(theme == "dark")
    ui.add_head_html(f"<style>{STYLE}</style>")

    def t(text: str) -> str:
        return escape(translated(text, language))

    # Words of ours only: the address may have been written by anybody.
    why = REASONS.get(request.query_params.get("why", ""))
    reason = note(translated(why, language), "bad") if why else ""
    other_language, language_name = (
        ("en", "English") if language == "zh" else ("zh", "中文")
    )
    return_page = local(request.query_params.get("back"))
    back = escape(return_page)
    # In another language one still comes to where one wanted to go.
    anew = quote(f"/page/sign-in?back={quote(return_page, safe='')}", safe="")
    people = link_to_provider(door.app, request, language)
    with ui.element("div").props("id=main role=main"):
        html(
            Safe(
                f'<p class="row"><b>Consilium</b> '
                f'<a href="/page/preferences?language={other_language}&amp;back={anew}">{language_name}</a></p>'
                f"<h1>{t('Sign in')}</h1>{reason}"
                f"{people}"
                f'<form class="sign" method="post" action="/page/sign-in"><label for="token">{t(TOKEN)}</label>'
                '<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>'
                f'<input type="hidden" name="back" value="{back}"><input type="hidden" name="theme" value="">'
                f"<button type=submit>{t('Sign in')}</button></form>"
                f'<p class="soft">{t(WHO_GIVES)}</p>'
            )
        )
    ui.add_body_html(
        "<script>addEventListener('submit',e=>{const f=e.target.elements.theme;"
        "if(f)f.value=matchMedia('(prefers-color-scheme: dark)').matches?'dark':'light'},true)</script>"
    )


TOKEN = "Your token for the API: of a hospital's user, or the operator's"  # noqa: S105
WHO_GIVES = "The operator gives one to each hospital's users. ./run up prints those of its own federation."
NO_SUCH_PAGE = "There is no such page."
