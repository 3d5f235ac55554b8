"""Pages before browsers: headers of every answer, cookies, other sites' pages, signing
out.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from api.routes import swagger
from tests.api.conftest import Coordinator

ELSEWHERE = "https://elsewhere.example"
BEHIND_TLS = {"Host": "consilium.example", "X-Forwarded-Proto": "https"}
OWN = {**BEHIND_TLS, "Origin": "https://consilium.example"}
SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"


@pytest.fixture
def pages(with_pages: Coordinator) -> Coordinator:
    return with_pages


@pytest.fixture
def browser(pages: Coordinator) -> Iterator[httpx.Client]:
    """Keeps no cookie by itself: what it sends stands in the test."""
    url = str(pages.client.base_url)
    with httpx.Client(base_url=url, trust_env=False) as client:
        yield client


ANSWERS = [
    ("GET", "/health"),
    ("GET", "/docs"),
    ("GET", "/docs/swagger-ui.css"),
    ("GET", "/openapi.json"),
    ("GET", "/page/sign-in"),
    ("GET", "/page/orders"),
    ("GET", "/"),
    ("GET", "/nowhere"),
    ("POST", "/model/train"),
    ("GET", "/orders"),
]


@pytest.mark.parametrize(("method", "path"), ANSWERS)
@pytest.mark.parametrize("who", [None, "operator"])
def test_every_answer_has_the_headers(
    pages: Coordinator, method: str, path: str, who: str | None
) -> None:
    answer = pages.call(method, path, who)
    told = answer.headers
    policy = told["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "base-uri 'none'" in policy
    assert "//" not in policy  # nothing of another site
    assert told["x-content-type-options"] == "nosniff"
    assert told["x-frame-options"] == "DENY"
    assert told["referrer-policy"] == "same-origin"
    assert told["cross-origin-opener-policy"] == "same-origin"
    assert "strict-transport-security" not in told
    is_api = not path.startswith(("/docs", "/page")) and path != "/"
    assert ("script-src" not in policy) == is_api


def test_behind_tls_browsers_stay_with_it(browser: httpx.Client) -> None:
    answer = browser.get("/health", headers=BEHIND_TLS)
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def sign_in(
    browser: httpx.Client, pages: Coordinator, headers: dict[str, str]
) -> httpx.Response:
    form = {"token": pages.tokens["user-4"], "back": "/page/hospitals"}
    return browser.post("/page/sign-in", data=form, headers=headers)


def cookie_of(answer: httpx.Response) -> tuple[str, str]:
    """Name and value."""
    name, value = answer.headers["set-cookie"].split(";")[0].split("=", 1)
    return name, value


def test_the_cookie_is_for_this_host_alone(
    browser: httpx.Client, pages: Coordinator
) -> None:
    answer = sign_in(browser, pages, OWN)
    assert answer.headers["location"] == "/page/hospitals"
    told = answer.headers["set-cookie"]
    assert told.startswith("__Host-consilium_session=")
    for word in ("Secure", "HttpOnly", "SameSite=strict", "Path=/"):
        assert word in told
    assert "domain" not in told.lower()


@pytest.mark.parametrize("token", ["nobody-s", "two words", "中"])
def test_a_token_that_nobody_has_is_told(browser: httpx.Client, token: str) -> None:
    form = {"token": token, "back": "/page/hospitals"}
    answer = browser.post("/page/sign-in", data=form, headers=OWN)
    assert answer.status_code == 303
    address = "/page/sign-in?back=%2Fpage%2Fhospitals&why=token"
    assert answer.headers["location"] == address
    assert "set-cookie" not in answer.headers


def test_on_loopback_it_needs_no_tls(browser: httpx.Client, pages: Coordinator) -> None:
    answer = sign_in(browser, pages, {})
    told = answer.headers["set-cookie"]
    assert told.startswith("consilium_session=")
    assert "Secure" not in told


def test_no_token_in_clear_over_a_network(
    browser: httpx.Client, pages: Coordinator
) -> None:
    clear = {"Host": "consilium.example", "Origin": "http://consilium.example"}
    answer = sign_in(browser, pages, clear)
    assert answer.headers["location"] == "/page/sign-in?why=insecure"
    assert "set-cookie" not in answer.headers
    told = browser.get("/page/sign-in?why=insecure")
    assert "This address is not encrypted." in told.text


def test_an_unknown_token_is_told(browser: httpx.Client) -> None:
    form = {"token": "of-nobody", "back": "/page/hospitals"}
    answer = browser.post("/page/sign-in", data=form)
    assert answer.status_code == 303
    assert answer.headers["location"].endswith("&why=token")


def test_signing_out_is_forgotten_by_the_server(
    browser: httpx.Client, pages: Coordinator
) -> None:
    """A copy of the cookie is worth nothing then."""
    name, value = cookie_of(sign_in(browser, pages, OWN))
    browser.cookies.clear()
    signed_in = {**OWN, "Cookie": f"{name}={value}"}
    page = browser.get("/page/hospitals", headers=signed_in)
    assert page.status_code == 200
    other_name, other_value = cookie_of(sign_in(browser, pages, OWN))
    browser.cookies.clear()

    # An address that signs out is an image on anybody's page.
    browser.get("/page/sign-out", headers=signed_in)
    assert browser.get("/page/hospitals", headers=signed_in).status_code == 200

    out = browser.post("/page/sign-out", headers=signed_in)
    assert out.status_code == 303
    assert f'{name}=""' in out.headers["set-cookie"]
    assert "Secure" in out.headers["set-cookie"]
    browser.cookies.clear()
    after = browser.get("/page/hospitals", headers=signed_in)
    assert after.status_code == 303
    assert after.headers["location"].endswith("why=unauthenticated")
    # Another session of the same user goes on.
    still = {**OWN, "Cookie": f"{other_name}={other_value}"}
    assert browser.get("/page/hospitals", headers=still).status_code == 200


FROM_ELSEWHERE = [
    ("POST", "/page/sign-in"),
    ("POST", "/page/sign-out"),
    ("POST", "/model/train"),
    ("PUT", "/hospitals/me"),
    ("DELETE", "/statistics/schedules/1"),
    ("GET", "/_nicegui_ws/socket.io/?EIO=4&transport=polling"),
]


@pytest.mark.parametrize(("method", "path"), FROM_ELSEWHERE)
@pytest.mark.parametrize(
    "origin",
    [ELSEWHERE, "null", "http://consilium.example", "https://consilium.example.x"],
)
def test_another_sites_page_does_nothing_here(
    pages: Coordinator, method: str, path: str, origin: str
) -> None:
    """Plain http of the same name is another site, too."""
    headers = {**BEHIND_TLS, "Origin": origin}
    answer = pages.call(method, path, "user-4", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["data"]["error"]["code"] == "origin"


def test_an_own_form_is_taken(browser: httpx.Client, pages: Coordinator) -> None:
    port = browser.base_url.port
    answer = sign_in(browser, pages, {"Origin": f"http://127.0.0.1:{port}"})
    assert answer.headers["location"] == "/page/hospitals"


@pytest.mark.parametrize("origin", [ELSEWHERE, "null", None])
def test_only_our_own_page_opens_its_socket(
    pages: Coordinator, origin: str | None
) -> None:
    url = str(pages.client.base_url).replace("http", "ws", 1) + SOCKET
    headers: Any = {} if origin is None else {"Origin": origin}
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(url, additional_headers=headers, proxy=None),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_our_own_page_does(pages: Coordinator) -> None:
    base = str(pages.client.base_url)
    url = base.replace("http", "ws", 1) + SOCKET
    with connect(url, additional_headers={"Origin": base}, proxy=None) as socket:
        assert str(socket.recv()).startswith("0{")


def test_the_description_needs_no_other_site(pages: Coordinator) -> None:
    """Every file of it comes from here, and no script stands within the page."""
    page = pages.call("GET", "/docs", None)
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(addresses) == 4
    for address in addresses:
        assert address.startswith("/docs/")
        file = pages.call("GET", address, None)
        assert file.status_code == 200
        assert len(file.content) > 100
    assert re.findall(r"<script>", page.text) == []
    assert pages.call("GET", "/redoc", "operator").status_code == 404
    for name in ("swagger-editor-bundle.js", "..%2f__init__.py", "x"):
        assert name not in swagger.FILES
        assert pages.call("GET", f"/docs/{name}", None).status_code == 404


# People who open an address of the API

CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
LEADS_TO = [
    ("/orders/37", "/page/orders/37"),
    ("/orders/37/events", "/page/orders/37"),
    ("/orders/37/", "/page/orders/37"),
    ("/orders", "/page/orders"),
    ("/model/info?model_id=37", "/page/orders/37"),
    ("/model/train_status?order_id=//elsewhere.example", "/page/orders"),
    ("/statistics/result?order_id=3", "/page/orders/3"),
    ("/statistics/schedules/3", "/page/statistics?schedule_id=3"),
    ("/hospitals", "/page/hospitals"),
    ("/anomaly/zeno?order_id=3&round=2", "/page/scores?order_id=3&round=2&score=zeno"),
    ("/anomaly/report?order_id=3", "/page/scores?order_id=3"),
    ("/performance?order_id=3&order_id=4", "/page/scores"),
]


@pytest.mark.parametrize(("path", "page"), LEADS_TO)
def test_a_person_is_led_to_the_page_of_an_address(
    browser: httpx.Client, path: str, page: str
) -> None:
    answer = browser.get(path, headers={"Accept": CHROMIUM})
    assert (answer.status_code, answer.headers["location"]) == (303, page)
    assert "Accept" in answer.headers["vary"]
    # Not signed in: through the door, and then there.
    on_the_way = browser.get(page, headers={"Accept": CHROMIUM})
    assert on_the_way.status_code == 303
    door = on_the_way.headers["location"]
    assert door.startswith("/page/sign-in?back=%2Fpage%2F")
    assert httpx.QueryParams(door.partition("?")[2])["back"] == page


def test_another_language_at_the_door_keeps_where_one_wanted_to_go(
    browser: httpx.Client,
) -> None:
    form = browser.get("/page/sign-in?back=%2Fpage%2Forders%2F37")
    (switch,) = re.findall(
        r"/page/preferences\?language=zh[^ <>]*?(?=\\?\")", form.text
    )
    # Within HTML, and that within a script's text.
    again = browser.get(html.unescape(html.unescape(switch)))
    assert again.status_code == 303
    assert again.headers["location"] == "/page/sign-in?back=%2Fpage%2Forders%2F37"


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/json",
        "application/json, text/html;q=0.9",
        "text/html, application/json",
        "text/html;q=0",
        "text/html;q=x",
        "text/*",
        "",
    ],
)
def test_programs_are_answered_as_ever(browser: httpx.Client, accept: str) -> None:
    answer = browser.get("/orders/37", headers={"Accept": accept})
    assert answer.status_code == 401
    assert answer.json()["data"]["error"]["code"] == "unauthenticated"


def test_a_token_is_answered_whatever_it_accepts(pages: Coordinator) -> None:
    wants_html = {"Accept": CHROMIUM}
    answer = pages.call("GET", "/orders", "operator", headers=wants_html)
    assert answer.status_code == 200
    assert "orders" in answer.json()["data"]


@pytest.mark.parametrize(
    "path", ["/exchange/inbox", "/nowhere", "/orders/x", "/orders/37/seal"]
)
def test_what_no_page_shows_stays_the_apis(browser: httpx.Client, path: str) -> None:
    assert browser.get(path, headers={"Accept": CHROMIUM}).status_code == 401


def test_a_browser_that_sends_something_is_led_nowhere(browser: httpx.Client) -> None:
    answer = browser.post("/model/train", headers={"Accept": CHROMIUM}, json={})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("language", "words"),
    [("en", "There is no such page."), ("zh-CN", "没有这个页面。")],
)
def test_an_unknown_page_says_so_and_leads_back(
    browser: httpx.Client, language: str, words: str
) -> None:
    for path in ("/page/nothing", "/page/orders/1/x"):
        answer = browser.get(path, headers={"Accept-Language": language})
        assert answer.status_code == 404
        assert words in answer.text
        assert 'href="/page/orders"' in answer.text
        assert "<script" not in answer.text


def test_every_score_leads_to_a_view_that_there_is() -> None:
    from api.pages.scores import SCORES
    from api.people import page_of

    for name, score in SCORES.items():
        assert page_of(score.address) == f"/page/scores?score={name}"
