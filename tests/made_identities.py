"""A small identity provider: OpenID Connect's code flow with PKCE, over http on this
machine, and everything that a bad one may answer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT = "consilium-page"
SECRET = "a secret: with/signs+%"
KEY = RSAKey.generate_key(2048, {"kid": "first", "use": "sig"})
OTHER_KEY = RSAKey.generate_key(2048, {"kid": "first", "use": "sig"})

Sign = Callable[[dict[str, Any]], str]


def signed(claims: dict[str, Any], key: RSAKey = KEY) -> str:
    return jwt.encode({"alg": "RS256", "kid": "first"}, claims, key)


class Provider:
    """Who comes to `authorization` is signed in at once, as one of `groups`."""

    def __init__(self) -> None:
        self.issuer = ""
        self.reset()

    def reset(self) -> None:
        """Good, again."""
        self.groups: Any = ["szslyy"]
        # What it writes otherwise than it should.
        self.claims: dict[str, Any] = {}
        self.described: dict[str, Any] = {}
        self.sign: Sign = signed
        self.status = 200
        self.n_calls = 0
        # By code: what was asked for.
        self._codes: dict[str, dict[str, str]] = {}

    def authorized(self, address: str) -> dict[str, str]:
        """The query with which a browser that came with this address goes back."""
        asked = {
            name: values[0]
            for name, values in parse_qs(urlsplit(address).query).items()
        }
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert asked["client_id"] == CLIENT
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        return {"code": code, "state": asked["state"], "iss": self.issuer}

    def answer(self, path: str, form: dict[str, str], login: str) -> tuple[int, Any]:
        self.n_calls += 1
        if self.status != 200:
            return self.status, {}
        if path == "/.well-known/openid-configuration":
            return 200, self._description()
        if path.startswith("/authorize?"):
            return 200, self._own_page(path)
        if path == "/keys":
            return 200, {"keys": [KEY.as_dict(private=False)]}
        if path == "/token":
            return self._token(form, login)
        return 404, {}

    def _own_page(self, address: str) -> bytes:
        """What a person sees there: one click, and the browser goes back."""
        fields = self.authorized(address)
        asked = self._codes[fields["code"]]
        back = escape(f"{asked['redirect_uri']}?{urlencode(fields)}")
        return f'<title>Provider</title><a href="{back}">I am someone</a>'.encode()

    def _description(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            **self.described,
        }

    def _token(self, form: dict[str, str], login: str) -> tuple[int, Any]:
        client, _, secret = (
            base64.b64decode(login.partition(" ")[2]).decode().partition(":")
        )
        if (unquote_plus(client), unquote_plus(secret)) != (CLIENT, SECRET):
            return 401, {"error": "invalid_client"}
        asked = self._codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if (
            asked is None
            or challenge != asked["code_challenge"]
            or form.get("redirect_uri") != asked["redirect_uri"]
        ):
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "someone",
            "aud": CLIENT,
            "iat": now,
            "exp": now + 60,
            "nonce": asked["nonce"],
            "groups": self.groups,
            **self.claims,
        }
        kept = {name: value for name, value in claims.items() if value is not None}
        return 200, {
            "access_token": "unused",
            "token_type": "Bearer",
            "id_token": self.sign(kept),
        }


@contextmanager
def running_provider(host: str = "127.0.0.1") -> Iterator[Provider]:
    """host: by which it names itself; a browser takes `localhost` for another site."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            fields = parse_qs(self.rfile.read(length).decode())
            self._answer({name: values[0] for name, values in fields.items()})

        def _answer(self, form: dict[str, str]) -> None:
            login = self.headers.get("Authorization", "")
            status, told = provider.answer(self.path, form, login)
            body = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            if isinstance(told, bytes):
                self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            if status == 302:
                self.send_header("Location", f"{provider.issuer}/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: pytest shows it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}
        )
        thread.start()
        provider.issuer = f"http://{host}:{server.server_port}"
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()
