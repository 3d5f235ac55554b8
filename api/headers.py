"""What every answer tells browsers: that nothing but our own files runs, that no other
site shows our pages in a frame of its own, and that nothing is kept.

The same as on a hospital's own page (`agents.page.server`), as far as the coordinator's
page allows: NiceGUI starts each page by a script within it, and Vue compiles templates
in the browser. Swagger's page has neither.

Decision 83.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.types import Scope

Headers = list[tuple[bytes, bytes]]

_EVERYWHERE = "base-uri 'none'; frame-ancestors 'none'"
_API = f"default-src 'none'; form-action 'none'; {_EVERYWHERE}"
_DOCS = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    f"img-src 'self' data:; connect-src 'self'; form-action 'none'; {_EVERYWHERE}"
)
_PAGE = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    f"connect-src 'self'; form-action 'self'; {_EVERYWHERE}"
)
_ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: with that a browser sends `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
# Unless the answer says otherwise, as files of the page that never change do.
_UNLESS_SET = {"cache-control": "no-store"}
_BEHIND_TLS = {"strict-transport-security": "max-age=31536000"}


def with_security(scope: Scope, headers: Headers) -> Headers:
    """The headers of an answer, with those that every answer has."""
    ours = {**_ALWAYS, "content-security-policy": _policy(scope["path"])}
    if is_encrypted(scope):
        ours |= _BEHIND_TLS
    header_names = {name.lower() for name, _ in headers}
    for header_name, header_text in _UNLESS_SET.items():
        if header_name.encode() not in header_names:
            ours[header_name] = header_text
    # Ours instead of a route's own: no route can weaken them.
    route_headers = [
        header for header in headers if header[0].lower().decode() not in ours
    ]
    return route_headers + encoded(ours)


def encoded(headers: Mapping[str, str]) -> Headers:
    return [(name.encode(), text.encode()) for name, text in headers.items()]


def _policy(path: str) -> str:
    if path == "/docs" or path.startswith("/docs/"):
        return _DOCS
    if path == "/" or path.startswith(("/page", "/_nicegui", "/prefect/")):
        return _PAGE
    return _API


def is_encrypted(scope: Scope) -> bool:
    """Whether the caller has come by TLS, as uvicorn or the proxy before it says."""
    return scope.get("scheme") in ("https", "wss")


def is_own_origin(scope: Scope, origin: str) -> bool:
    """Whether a page of this very address sends the call."""
    split_origin = urlsplit(origin)
    host = header(scope, b"host")
    # A proxy may end TLS and not say so: then the browser names https, and the call
    # came without.
    schemes = ("https",) if is_encrypted(scope) else ("http", "https")
    return (
        split_origin.scheme in schemes and split_origin.netloc.lower() == host.lower()
    )


def header(scope: Scope, name: bytes) -> str:
    """A header of a call; empty where there is none."""
    for header_name, header_text in scope.get("headers", ()):
        if header_name == name:
            return str(header_text.decode("latin-1"))
    return ""
