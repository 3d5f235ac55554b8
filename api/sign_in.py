"""People's sign-in by an identity provider: OpenID Connect, the authorization code flow
with PKCE.

Nothing here knows of pages: `IdentityProvider.address` says where to send a browser, and
`person` who came back, by an id token that the provider has signed. How a browser is
known again between the two is `api.pages.sign_in`'s.

Sources: OpenID Connect Core 1.0, sections 3.1.2 and 3.1.3; Discovery 1.0, 4.3; RFC 7636
(PKCE); RFC 9207 (`iss` of the answer).

Decision 117.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote_plus

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.jwk import KeySet

from api.settings import SignInSettings, is_safe_address
from protocol.errors import ConsiliumError
from protocol.tls import authorities

RETURN_ADDRESS = "/page/sign-in/return"
WELL_KNOWN = "/.well-known/openid-configuration"
ALGORITHMS = ("RS256", "PS256", "ES256")
"""With which an id token may be signed. Never `none`, nor with a secret: whoever has the
provider's public key could sign with it as with one."""
KEY_KINDS = ("RSA", "EC")
ANSWER_SECONDS = 10.0
MOST_BYTES = 2**20
KNOWN_SECONDS = 300.0  # that what the provider says of itself is remembered
BEGUN_SECONDS = 600  # that a person has for the provider's own page
CLOCK_SECONDS = 60  # that the provider's clock may differ
AT_ONCE = 32  # persons for whom the provider is asked; others are told to come again
MOST_USED = 10_000


class NotSignedIn(Exception):
    """Why somebody is not let in: a key of `api.pages.sign_in.PEOPLES_REASONS`, and what
    the coordinator's log says beside it.
    """

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(f"{why}: {detail}")
        self.why = why
        self.detail = detail


class Begun(NamedTuple):
    """One sign-in on its way, which only the browser that began it has."""

    state: str
    nonce: str
    verifier: str
    back: str  # the page to go on to

    @classmethod
    def new(cls, back: str) -> Begun:
        state = secrets.token_urlsafe(32)
        nonce = secrets.token_urlsafe(32)
        verifier = secrets.token_urlsafe(48)
        return cls(
            state,
            nonce,
            verifier,
            back,
        )


class Described(NamedTuple):
    """What a provider says of itself."""

    authorization: str
    token: str
    keys: str
    takes_post_only: bool  # the client's secret, in the body of a call
    names_itself: bool  # in every answer


def provider_of(settings: SignInSettings | None) -> IdentityProvider | None:
    """None where people sign in with tokens only."""
    if settings is None:
        return None
    return IdentityProvider(settings)


class IdentityProvider:
    """The one provider of the settings."""

    def __init__(self, settings: SignInSettings) -> None:
        self._settings = settings
        self._described: Described | None = None
        self._described_at = 0.0
        self._n_asking = 0
        # By state, when its answer came.
        self._used: dict[str, float] = {}

    @property
    def _return_address(self) -> str:
        return self._settings.address + RETURN_ADDRESS

    async def address(self, begun: Begun) -> str:
        """Where the browser goes to sign in. NotSignedIn where the provider is away."""
        with self._asking():
            described = await self._description()
        challenge = create_s256_code_challenge(begun.verifier)
        address = prepare_grant_uri(
            described.authorization,
            client_id=self._settings.client,
            response_type="code",
            redirect_uri=self._return_address,
            scope="openid",
            state=begun.state,
            nonce=begun.nonce,
            code_challenge=challenge,
            code_challenge_method="S256",
        )
        return str(address)

    async def person(
        self,
        begun: Begun,
        answer: Mapping[str, str],
    ) -> int | None:
        """The user id of the hospital whose person has come back; None is the operator.

        `answer` is the query of the address to which the provider has sent the browser.
        NotSignedIn for everybody else.
        """
        # Before the provider is asked anything: an answer that somebody has made up
        # costs it no call.
        self._use(begun, answer.get("state", ""))
        with self._asking():
            described = await self._description()
            self._check_sender(described, answer)
            if "error" in answer:
                # Anybody may have written it: `repr` keeps it on its own line of the
                # log.
                provider_error = answer["error"][:100]
                raise NotSignedIn("declined", f"it says {provider_error!r}")
            code = answer.get("code", "")
            token = await self._token(described, begun, code)
            # Asked for each time: a key that the provider has withdrawn lets nobody in.
            provider_keys = await self._ask("GET", described.keys)
        claims = self._claims(token, provider_keys, begun)
        return self._user_of(claims)

    def _use(self, begun: Begun, state: str) -> None:
        """NotSignedIn unless this browser has begun it, the first time that it returns."""
        now = time.monotonic()
        # As bytes: of texts it takes ASCII only, and the query may hold anything.
        is_same = hmac.compare_digest(begun.state.encode(), state.encode())
        if not is_same:
            raise NotSignedIn("begun", "another state")
        if begun.state in self._used:
            raise NotSignedIn("begun", "the same answer again")
        # Nothing is waited for between the look and this: of two answers at one time
        # one is too late.
        self._used[begun.state] = now
        # In the order in which they came.
        for used_state, used_at in list(self._used.items()):
            is_young = now - used_at < BEGUN_SECONDS
            if is_young and len(self._used) <= MOST_USED:
                break
            del self._used[used_state]

    def _check_sender(
        self,
        described: Described,
        answer: Mapping[str, str],
    ) -> None:
        issuer = answer.get("iss")
        if issuer is None and not described.names_itself:
            return
        if issuer != self._settings.issuer:
            raise NotSignedIn("answer", "an answer of another issuer")

    # What the provider is asked

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Nobody waits in a row here: anybody may begin a sign-in, and the provider may
        be slow.
        """
        if self._n_asking >= AT_ONCE:
            raise NotSignedIn("busy", f"{AT_ONCE} at once")
        self._n_asking += 1
        try:
            yield
        finally:
            self._n_asking -= 1

    async def _description(self) -> Described:
        """Remembered for some minutes: anybody can have it asked for."""
        age = time.monotonic() - self._described_at
        if self._described is None or age > KNOWN_SECONDS:
            self._described = await self._new_description()
            self._described_at = time.monotonic()
        return self._described

    async def _new_description(self) -> Described:
        issuer = self._settings.issuer
        description_address = issuer.rstrip("/") + WELL_KNOWN
        description = await self._ask("GET", description_address)
        if description.get("issuer") != issuer:
            raise NotSignedIn("answer", "its description is of another issuer")
        addresses = []
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            address = description.get(name)
            if not isinstance(address, str) or not self._is_safe(address):
                raise NotSignedIn("answer", f"{name} of its description is not https")
            addresses.append(address)
        methods = description.get("token_endpoint_auth_methods_supported")
        takes_post_only = (
            isinstance(methods, list)
            and "client_secret_post" in methods
            and "client_secret_basic" not in methods
        )
        names_itself = description.get("authorization_response_iss_parameter_supported")
        return Described(
            addresses[0],
            addresses[1],
            addresses[2],
            takes_post_only=takes_post_only,
            names_itself=names_itself is True,
        )

    def _is_safe(self, address: str) -> bool:
        # Only a provider on this machine has addresses here without TLS.
        is_local = self._settings.issuer.startswith("http:")
        if not is_safe_address(address):
            return False
        return is_local or address.startswith("https:")

    async def _token(
        self,
        described: Described,
        begun: Begun,
        code: str,
    ) -> str:
        """The id token for a code, which the provider gives once."""
        if not code:
            raise NotSignedIn("answer", "it has no code")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._return_address,
            "code_verifier": begun.verifier,
        }
        client = self._settings.client
        secret = self._settings.secret
        if described.takes_post_only:
            form |= {"client_id": client, "client_secret": secret}
            token_answer = await self._ask(
                "POST",
                described.token,
                data=form,
            )
        else:
            # RFC 6749, 2.3.1: both as in a form.
            auth = httpx.BasicAuth(quote_plus(client), quote_plus(secret))
            token_answer = await self._ask(
                "POST",
                described.token,
                data=form,
                auth=auth,
            )
        token = token_answer.get("id_token")
        if not isinstance(token, str):
            raise NotSignedIn("answer", "it gave no id token")
        return token

    async def _ask(
        self,
        method: str,
        address: str,
        **sent: Any,
    ) -> dict[str, Any]:
        """A JSON object of the provider's. It is sent nowhere else by it."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                status, answer_body = await _call(method, address, **sent)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ConsiliumError) as error:
            raise NotSignedIn("away", type(error).__name__) from None
        if status >= 500 or status == 429:
            raise NotSignedIn("away", f"status {status}")
        if status != 200:
            raise NotSignedIn("answer", f"status {status} of {method} {address}")
        try:
            parsed_answer = json.loads(answer_body)
        except (ValueError, RecursionError):
            parsed_answer = None
        if not isinstance(parsed_answer, dict):
            raise NotSignedIn("answer", f"no JSON object of {method} {address}")
        return parsed_answer

    # Who it is

    def _claims(
        self,
        token: str,
        keys: dict[str, Any],
        begun: Begun,
    ) -> Mapping[str, Any]:
        """What the id token says, when it is this provider's, for this client, for this
        sign-in, and now.
        """
        expected = {
            "iss": {"essential": True, "value": self._settings.issuer},
            "aud": {"essential": True, "value": self._settings.client},
        }
        params = {"nonce": begun.nonce, "client_id": self._settings.client}
        try:
            usable = [key for key in keys["keys"] if _is_usable(key)]
            key_set = KeySet.import_key_set({"keys": usable})
            decoded_token = jwt.decode(token, key_set, algorithms=ALGORITHMS)
            claims = CodeIDToken(
                decoded_token.claims,
                decoded_token.header,
                expected,
                params,
            )
            claims.validate(leeway=CLOCK_SECONDS)
        # Whatever is wrong with it, in whichever of a dozen classes: nobody is let in.
        except Exception as error:  # noqa: BLE001
            error_name = type(error).__name__
            raise NotSignedIn("answer", f"its id token: {error_name}") from None
        return dict(claims)

    def _user_of(self, claims: Mapping[str, Any]) -> int | None:
        named = claims.get(self._settings.claim)
        if isinstance(named, str):
            named = [named]
        if not isinstance(named, list):
            raise NotSignedIn("nobody", f"no {self._settings.claim} in the id token")
        groups = self._settings.groups
        user_ids = set()
        for group in named:
            if isinstance(group, str) and group in groups:
                user_ids.add(groups[group])
        if not user_ids:
            raise NotSignedIn("nobody", "no group that is set")
        if len(user_ids) > 1:
            raise NotSignedIn("several", "groups of more than one")
        return user_ids.pop()


def _is_usable(key: Any) -> bool:
    is_of_kind = key.get("kty") in KEY_KINDS
    return is_of_kind and key.get("use", "sig") == "sig"


async def _call(
    method: str,
    address: str,
    **sent: Any,
) -> tuple[int, bytes]:
    """Status and body, as long as it is not too long."""
    client = httpx.AsyncClient(
        trust_env=False,
        verify=authorities(address),
        timeout=ANSWER_SECONDS,
    )
    # What is packed may become any length.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with (
        client,
        client.stream(
            method,
            address,
            headers=headers,
            **sent,
        ) as answer,
    ):
        body = b""
        async for piece in answer.aiter_raw():
            body += piece
            if len(body) > MOST_BYTES:
                raise NotSignedIn("answer", f"more than {MOST_BYTES} bytes")
        return answer.status_code, body
