"""People who sign in by an identity provider, and what a thief, a changed answer or a
changed provider gets: nobody's session.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from api.pages.sign_in import PEOPLES_REASONS
from api.pages.words import CHINESE
from api.settings import SignInSettings, load_settings
from api.sign_in import IdentityProvider
from api.store import Store
from api.store.tables import page_sessions, utc_now
from protocol.errors import BadRequest
from tests.api.conftest import Coordinator
from tests.made_databases import postgresql_database
from tests.made_identities import (
    CLIENT,
    KEY,
    OTHER_KEY,
    SECRET,
    Provider,
    running_provider,
    signed,
)

GROUPS = {"szslyy": 2, "szslyy too": 2, "zdey": 3, "office": None, "gone": 9}


@pytest.fixture(scope="module")
def running(with_pages: Coordinator) -> Iterator[Provider]:
    state = with_pages.app.state
    before = state.settings, state.identity_provider
    with running_provider() as provider:
        settings = SignInSettings(
            issuer=provider.issuer,
            client=CLIENT,
            secret=SECRET,
            address=str(with_pages.client.base_url).rstrip("/"),
            claim="groups",
            groups=GROUPS,
        )
        state.settings = replace(state.settings, sign_in=settings)
        yield provider
    state.settings, state.identity_provider = before


@pytest.fixture
def provider(running: Provider, with_pages: Coordinator) -> Provider:
    """It is asked for its description anew."""
    running.reset()
    state = with_pages.app.state
    state.identity_provider = IdentityProvider(state.settings.sign_in)
    return running


Browsers = Callable[[], httpx.Client]


@pytest.fixture
def browsers(with_pages: Coordinator) -> Iterator[Browsers]:
    opened: list[httpx.Client] = []

    def one() -> httpx.Client:
        url = str(with_pages.client.base_url)
        opened.append(httpx.Client(base_url=url, trust_env=False))
        return opened[-1]

    yield one
    for browser in opened:
        browser.close()


@pytest.fixture
def browser(browsers: Browsers) -> httpx.Client:
    return browsers()


def begin(browser: httpx.Client, back: str = "/page/hospitals") -> str:
    """The provider's address to which the browser is sent."""
    answer = browser.get("/page/sign-in/begin", params={"back": back})
    assert answer.status_code == 303
    return answer.headers["location"]


def come_back(browser: httpx.Client, fields: dict[str, str]) -> httpx.Response:
    return browser.get("/page/sign-in/return", params=fields)


def walk(browser: httpx.Client, provider: Provider, **more: str) -> httpx.Response:
    """There and back."""
    fields = provider.authorized(begin(browser))
    return come_back(browser, {**fields, **more})


def is_in(browser: httpx.Client) -> bool:
    return browser.get("/page/hospitals").status_code == 200


def assert_refused(browser: httpx.Client, answer: httpx.Response, why: str) -> None:
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/page/sign-in?why={why}"
    assert "consilium_session" not in answer.headers.get("set-cookie", "")
    assert not is_in(browser)


# As it should be


def test_a_hospitals_person_is_its_user(
    browser: httpx.Client, provider: Provider, with_pages: Coordinator
) -> None:
    fields = provider.authorized(begin(browser, "/page/statistics?schedule_id=3"))
    answer = come_back(browser, fields)
    assert answer.status_code == 200
    assert 'content="0;url=/page/statistics?schedule_id=3"' in answer.text
    told = answer.headers.get_list("set-cookie")
    (session,) = (one for one in told if one.startswith("consilium_session="))
    for word in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"):
        assert word in session
    # What was begun is over.
    assert any(one.startswith('consilium_sign_in=""') for one in told)
    page = browser.get("/page/hospitals")
    assert page.status_code == 200
    assert "Hospital 2" in page.text
    # The cookie opens the page, and not the API.
    cookie = browser.cookies["consilium_session"]
    bearer = {"Authorization": f"Bearer {cookie}"}
    assert with_pages.call("GET", "/orders", cookie).status_code == 403
    assert browser.get("/orders", headers=bearer).status_code == 403


def test_one_may_be_in_two_groups_of_one_hospital(
    browser: httpx.Client, provider: Provider
) -> None:
    provider.groups = ["szslyy", "choir", "szslyy too"]
    assert walk(browser, provider).status_code == 200
    assert "Hospital 2" in browser.get("/page/hospitals").text


def test_an_operators_person_is_the_operator(
    browser: httpx.Client, provider: Provider
) -> None:
    provider.groups = "office"
    assert walk(browser, provider).status_code == 200
    page = browser.get("/page/hospitals").text
    assert "operator" in page
    assert "Hospital 2" not in page


def test_the_page_offers_it_only_where_it_is_set(
    browser: httpx.Client, provider: Provider, with_pages: Coordinator
) -> None:
    link = "/page/sign-in/begin?back=%2Fpage%2Fhospitals"
    asked = "/page/sign-in?back=/page/hospitals"
    assert link in browser.get(asked).text.replace("&amp;", "&")
    state = with_pages.app.state
    state.identity_provider = None
    assert "/page/sign-in/begin" not in browser.get(asked).text
    for path in ("/page/sign-in/begin", "/page/sign-in/return?code=x&state=y"):
        answer = browser.get(path)
        assert (answer.status_code, answer.headers["location"]) == (
            303,
            "/page/sign-in",
        )
    assert provider.n_calls == 0


# How a session ends


def test_it_ends_by_signing_out_and_a_copy_of_it_too(
    browser: httpx.Client, browsers: Browsers, provider: Provider
) -> None:
    walk(browser, provider)
    copy = browsers()
    copy.cookies.set("consilium_session", browser.cookies["consilium_session"])
    assert is_in(copy)
    browser.post("/page/sign-out")
    assert not is_in(browser)
    assert not is_in(copy)


def test_it_ends_with_the_hospitals_tokens_and_with_the_group(
    browser: httpx.Client, provider: Provider, with_pages: Coordinator
) -> None:
    provider.groups = ["zdey"]
    walk(browser, provider)
    assert is_in(browser)
    state = with_pages.app.state
    sign_in = replace(state.settings.sign_in, groups={"szslyy": 2})
    before = state.settings
    try:
        state.settings = replace(before, sign_in=sign_in)
        assert not is_in(browser)
        state.settings = replace(before, sign_in=None)
        assert not is_in(browser)
    finally:
        state.settings = before
    walk(browser, provider)
    assert is_in(browser)
    # Another hospital's are not theirs.
    with_pages.store.hospitals.revoke_tokens("agent", 3)
    assert is_in(browser)
    with_pages.store.hospitals.revoke_tokens("hospital", 3)
    assert not is_in(browser)


@pytest.fixture
def on_postgresql(with_pages: Coordinator) -> Iterator[Store]:
    """The coordinator's store is one on PostgreSQL, with hospitals 2 and 3."""
    state = with_pages.app.state
    before = state.store
    with postgresql_database() as address:
        store = state.store = Store(address)
        try:
            store.migrate()
            for user in (2, 3):
                store.hospitals.add(user, f"hospital-{user}")
            yield store
        finally:
            state.store = before
            store.close()


def test_a_store_on_postgresql_keeps_who_is_signed_in(
    browser: httpx.Client,
    browsers: Browsers,
    provider: Provider,
    on_postgresql: Store,
) -> None:
    assert walk(browser, provider).status_code == 200
    assert "Hospital 2" in browser.get("/page/hospitals").text
    provider.groups = ["office"]
    operator = browsers()
    walk(operator, provider)
    assert "operator" in operator.get("/page/hospitals").text
    provider.groups = ["gone"]
    assert_refused(browsers(), walk(browsers(), provider), "unregistered")
    # The secret alone is kept, as a digest.
    with on_postgresql.begin() as db:
        kept = db.execute(sa.select(page_sessions).order_by("began")).all()
    assert [(row.role, row.user_id) for row in kept] == [
        ("hospital", 2),
        ("operator", None),
    ]
    assert all(re.fullmatch("[0-9a-f]{64}", row.digest) for row in kept)
    copy = browsers()
    copy.cookies.set("consilium_session", browser.cookies["consilium_session"])
    browser.post("/page/sign-out")
    assert not is_in(copy)
    assert is_in(operator)
    later = utc_now() + datetime.timedelta(hours=12, seconds=1)
    assert on_postgresql.sessions.prune(later) == 1
    assert not is_in(operator)


def test_a_secret_is_taken_for_half_a_day(with_pages: Coordinator) -> None:
    from api.store.hospitals import Caller, token_digest

    sessions = with_pages.store.sessions
    person = Caller("hospital", 2)
    sessions.begin(token_digest("of a person"), person)
    sessions.begin(token_digest("of a token"))
    assert sessions.person("of a person") == person
    assert sessions.person("of a token") is None
    later = utc_now() + datetime.timedelta(hours=12, seconds=1)
    assert sessions.person("of a person", now=later) is None


def test_each_refusal_is_a_sentence_in_two_languages(browser: httpx.Client) -> None:
    for why, sentence in PEOPLES_REASONS.items():
        page = browser.get(f"/page/sign-in?why={why}")
        assert page.status_code == 200
        # HTML has other apostrophes.
        assert sentence.split("'")[0] in page.text
        assert sentence in CHINESE


# Attacks on the way


def test_nobody_comes_in_by_another_browsers_sign_in(
    browser: httpx.Client, browsers: Browsers, provider: Provider
) -> None:
    """Who has a victim open the thief's answer, or opens the victim's."""
    fields = provider.authorized(begin(browser))
    without = browsers()
    assert_refused(without, come_back(without, fields), "begun")
    another = browsers()
    begin(another)
    assert_refused(another, come_back(another, fields), "begun")


@pytest.mark.parametrize("state", ["", "x", "é"])
def test_another_state_is_refused(
    browser: httpx.Client, provider: Provider, state: str
) -> None:
    assert_refused(browser, walk(browser, provider, state=state), "begun")


def test_an_answer_is_taken_once(
    browser: httpx.Client, browsers: Browsers, provider: Provider
) -> None:
    fields = provider.authorized(begin(browser))
    copy = browsers()
    copy.cookies.set("consilium_sign_in", browser.cookies["consilium_sign_in"])
    assert come_back(browser, fields).status_code == 200
    n_calls = provider.n_calls
    assert_refused(copy, come_back(copy, fields), "begun")
    assert provider.n_calls == n_calls
    # A code once more, within a sign-in of one's own: the provider has given it once.
    again = provider.authorized(begin(copy))
    answer = come_back(copy, {**again, "code": fields["code"]})
    assert_refused(copy, answer, "answer")


def test_a_stolen_code_lacks_its_verifier(
    browser: httpx.Client, browsers: Browsers, provider: Provider
) -> None:
    stolen = provider.authorized(begin(browser))["code"]
    thief = browsers()
    assert_refused(thief, walk(thief, provider, code=stolen), "answer")


def test_neither_cookie_opens_as_the_other(
    browser: httpx.Client, browsers: Browsers, provider: Provider
) -> None:
    fields = provider.authorized(begin(browser))
    begun = browser.cookies["consilium_sign_in"]
    other = browsers()
    other.cookies.set("consilium_session", begun)
    assert not is_in(other)
    assert come_back(browser, fields).status_code == 200
    other.cookies.clear()
    other.cookies.set("consilium_sign_in", browser.cookies["consilium_session"])
    assert_refused(other, come_back(other, fields), "begun")


def test_what_is_begun_is_for_this_browser_alone(
    browser: httpx.Client, provider: Provider
) -> None:
    behind_tls = {"Host": "consilium.example", "X-Forwarded-Proto": "https"}
    answer = browser.get("/page/sign-in/begin", headers=behind_tls)
    told = answer.headers["set-cookie"]
    assert told.startswith("__Host-consilium_sign_in=")
    for word in ("Secure", "HttpOnly", "SameSite=lax", "Max-Age=600", "Path=/"):
        assert word in told
    assert "domain" not in told.lower()
    asked = httpx.QueryParams(answer.headers["location"].partition("?")[2])
    # Nothing of the cookie stands in the address but what must, and nothing of a header.
    assert asked["redirect_uri"].startswith("http://127.0.0.1:")
    in_clear = browser.get("/page/sign-in/begin", headers={"Host": "consilium.example"})
    assert in_clear.headers["location"] == "/page/sign-in?why=insecure"
    assert "set-cookie" not in in_clear.headers


@pytest.mark.parametrize(
    "back",
    [
        "https://elsewhere.example/page/",
        "//elsewhere.example",
        "/\\elsewhere.example",
        "/page/../..//elsewhere.example",
        "/page/sign-in/begin",
        "/page/sign-out",
        '/page/"><script>',
        "/page/x;url=https://elsewhere.example",
        "javascript:alert(1)",
    ],
)
def test_it_leads_to_our_own_pages_only(
    browser: httpx.Client, provider: Provider, back: str
) -> None:
    answer = come_back(browser, provider.authorized(begin(browser, back)))
    assert answer.status_code == 200
    (goal,) = re.findall(r'content="0;url=([^"]*)"', answer.text)
    landed = httpx.URL("https://consilium.example/x").join(goal)
    assert landed.host == "consilium.example"
    assert ";" not in goal
    assert "<" not in goal
    assert "/page/sign-" not in goal
    assert goal == "/" or goal.startswith("/page/")


# Attacks by what the provider answers


def hs256(claims: dict[str, Any]) -> str:
    """With the public key as if it were a secret."""
    return unsafe("HS256", claims, KEY.as_pem(private=False))


def unsafe(algorithm: str, claims: dict[str, Any], key: bytes = b"") -> str:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    header = {"alg": algorithm, "kid": "first"}
    text = f"{part(json.dumps(header).encode())}.{part(json.dumps(claims).encode())}"
    if not key:
        return f"{text}."
    return f"{text}.{part(hmac.new(key, text.encode(), hashlib.sha256).digest())}"


BAD_TOKENS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another key": lambda claims: signed(claims, OTHER_KEY),
    "no signature": lambda claims: unsafe("none", claims),
    "no signature, in capitals": lambda claims: unsafe("NONE", claims),
    "the public key as a secret": hs256,
    "a changed claim": lambda claims: _changed(signed(claims)),
    "no text": lambda claims: "x.y",
    "a number": lambda claims: 3,
}


def _changed(token: str) -> str:
    header, claims, signature = token.split(".")
    read = json.loads(base64.urlsafe_b64decode(claims + "=="))
    read["groups"] = ["office"]
    text = base64.urlsafe_b64encode(json.dumps(read).encode()).decode().rstrip("=")
    return f"{header}.{text}.{signature}"


@pytest.mark.parametrize("kind", BAD_TOKENS)
def test_a_token_of_nobodys_is_refused(
    browser: httpx.Client, provider: Provider, kind: str
) -> None:
    provider.sign = BAD_TOKENS[kind]
    assert_refused(browser, walk(browser, provider), "answer")


BAD_CLAIMS: list[dict[str, Any]] = [
    {"nonce": "another"},
    {"nonce": None},
    {"aud": "another client"},
    {"aud": None},
    # For two clients, and not given to us.
    {"aud": [CLIENT, "another client"]},
    {"aud": [CLIENT, "another client"], "azp": "another client"},
    {"azp": "another client"},
    {"iss": "https://elsewhere.example"},
    {"iss": None},
    {"exp": 1},
    {"exp": None},
    {"exp": "never"},
    {"iat": 32503680000},
    {"nbf": 32503680000},
    {"sub": None},
]


@pytest.mark.parametrize("claims", BAD_CLAIMS, ids=json.dumps)
def test_a_claim_that_is_not_ours_is_refused(
    browser: httpx.Client, provider: Provider, claims: dict[str, Any]
) -> None:
    provider.claims = claims
    assert_refused(browser, walk(browser, provider), "answer")


def test_a_minute_is_forgiven_and_no_more(
    browser: httpx.Client, browsers: Browsers, provider: Provider
) -> None:
    provider.claims = {"exp": int(time.time()) - 30}
    assert walk(browser, provider).status_code == 200
    late = browsers()
    provider.claims = {"exp": int(time.time()) - 90}
    assert_refused(late, walk(late, provider), "answer")


@pytest.mark.parametrize("issuer", ["https://elsewhere.example", ""])
def test_an_answer_of_another_issuer_is_refused(
    browser: httpx.Client, provider: Provider, issuer: str
) -> None:
    assert_refused(browser, walk(browser, provider, iss=issuer), "answer")


def test_one_that_names_itself_always_does(
    browser: httpx.Client, provider: Provider
) -> None:
    provider.described = {"authorization_response_iss_parameter_supported": True}
    fields = provider.authorized(begin(browser))
    del fields["iss"]
    assert_refused(browser, come_back(browser, fields), "answer")


@pytest.mark.parametrize(
    "described",
    [
        {"issuer": "https://elsewhere.example"},
        {"issuer": None},
        {"token_endpoint": "http://elsewhere.example/token"},
        {"jwks_uri": "file:///etc/passwd"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": None},
    ],
    ids=json.dumps,
)
def test_a_description_that_is_not_its_own_is_refused(
    browser: httpx.Client, provider: Provider, described: dict[str, Any]
) -> None:
    provider.described = described
    answer = browser.get("/page/sign-in/begin")
    assert_refused(browser, answer, "answer")


@pytest.mark.parametrize(
    ("status", "why"), [(500, "away"), (429, "away"), (404, "answer"), (302, "answer")]
)
def test_a_provider_that_is_not_there_is_said(
    browser: httpx.Client, provider: Provider, status: int, why: str
) -> None:
    fields = provider.authorized(begin(browser))
    provider.status = status
    assert_refused(browser, come_back(browser, fields), why)


def test_a_provider_that_is_away_or_silly_is_said(
    browser: httpx.Client,
    provider: Provider,
    with_pages: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for body in (b"[" * 100_000, b"\xff", b"3", b"x" * (2**20 + 1)):
        monkeypatch.setattr(provider, "_description", lambda body=body: body)
        assert_refused(browser, browser.get("/page/sign-in/begin"), "answer")
    state = with_pages.app.state
    nowhere = replace(state.settings.sign_in, issuer="http://127.0.0.1:9")
    state.identity_provider = IdentityProvider(nowhere)
    assert_refused(browser, browser.get("/page/sign-in/begin"), "away")
    state.identity_provider._n_asking = 32
    assert_refused(browser, browser.get("/page/sign-in/begin"), "busy")


def test_what_the_provider_refuses_is_said_in_our_words(
    browser: httpx.Client, provider: Provider
) -> None:
    answer = walk(browser, provider, error="<script>\n", error_description="<b>")
    assert_refused(browser, answer, "declined")


@pytest.mark.parametrize(
    ("groups", "why"),
    [
        ([], "nobody"),
        (None, "nobody"),
        ("choir", "nobody"),
        ({"szslyy": True}, "nobody"),
        ([["szslyy"], 2, None], "nobody"),
        (["SZSLYY"], "nobody"),
        (["szslyy", "zdey"], "several"),
        (["szslyy", "office"], "several"),
        (["gone"], "unregistered"),
    ],
)
def test_whose_groups_are_nobodys_or_twos_is_refused(
    browser: httpx.Client, provider: Provider, groups: Any, why: str
) -> None:
    provider.groups = groups
    assert_refused(browser, walk(browser, provider), why)


# Settings


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    values = {
        "ISSUER": "https://login.example/realms/consilium",
        "CLIENT": CLIENT,
        "SECRET_FILE": str(secret),
        "ADDRESS": "https://consilium.example",
        "GROUPS": '{"cn=a,dc=b": 4, "office": "operator"}',
    }
    for name, text in values.items():
        monkeypatch.setenv(f"CONSILIUM_SIGN_IN_{name}", text)
    return values


def test_the_settings_are_read(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in = load_settings().sign_in
    assert sign_in is not None
    assert sign_in.groups == {"cn=a,dc=b": 4, "office": None}
    assert sign_in.secret == SECRET
    assert SECRET not in repr(sign_in)
    for name in given:
        monkeypatch.delenv(f"CONSILIUM_SIGN_IN_{name}")
    assert load_settings().sign_in is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ISSUER", ""),
        ("ISSUER", "http://login.example"),
        ("ISSUER", "https://login.example?x"),
        ("ISSUER", "https://user@login.example"),
        ("ISSUER", "https://login.example:x"),
        ("ADDRESS", "https://consilium.example/"),
        ("ADDRESS", "http://consilium.example"),
        ("SECRET_FILE", "/nowhere/secret"),
        ("GROUPS", "szslyy=2"),
        ("GROUPS", "{}"),
        ("GROUPS", '[["szslyy", 2]]'),
        ("GROUPS", '{"szslyy": 1}'),
        ("GROUPS", '{"szslyy": true}'),
        ("GROUPS", '{"szslyy": "2"}'),
        ("GROUPS", '{"szslyy": {"a": 2}}'),
        ("GROUPS", '{"szslyy": 2, "szslyy": "operator"}'),
    ],
)
def test_a_setting_that_opens_too_much_is_refused(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"CONSILIUM_SIGN_IN_{name}", text)
    with pytest.raises(BadRequest) as refused:
        load_settings()
    assert refused.value.code == f"CONSILIUM_SIGN_IN_{name}"


def test_a_secret_that_others_can_read_is_refused(given: dict[str, str]) -> None:
    Path(given["SECRET_FILE"]).chmod(0o640)
    with pytest.raises(BadRequest, match="can be read by others"):
        load_settings()
