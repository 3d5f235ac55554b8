"""The pages in Chromium, before a real federation: what a person does there, and what
the API then says.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from analytics.training.outcome import WARNINGS
from api.pages.words import translated
from deployments.demo.training import document_order
from protocol.study import STUDY
from tests.browser.conftest import Browser
from tests.conftest import RunningFederation

pytestmark = pytest.mark.slow

VIEWS = (
    "/",
    "/page/orders",
    "/page/orders/new",
    "/page/orders/{order}",
    "/page/scores?order_id={order}",
    "/page/scores?order_id={order}&score=zeno&round=3",
    "/page/statistics",
    "/page/statistics/new",
    "/page/hospitals",
)
PICTURES = os.environ.get("TAKE_PICTURES")
"""A folder to which the README's pictures go; unset, none are taken."""


def picture(browser: Browser, name: str) -> None:
    """The page from its head to the end of what it holds."""
    if PICTURES:
        browser.wait(
            lambda: not browser.all(".q-transition--scale, .q-notification"),
            "the page at rest",
        )
        # What stays beside a form is at its head, and nothing is marked as chosen.
        browser.driver.execute_script("scrollTo(0, 0); document.activeElement.blur()")
        height = browser.driver.execute_script(
            "return document.getElementById('main').getBoundingClientRect().bottom"
        )
        clip = {"x": 0, "y": 0, "width": 1280, "height": min(height, 1400), "scale": 1}
        taken = browser.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True}
        )
        (Path(PICTURES) / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))


@pytest.fixture
def visitor(browser: Browser, federation: RunningFederation) -> Iterator[Browser]:
    """The user of hospital 4, signed in; nothing may have gone wrong in the browser by
    the end.
    """
    browser.desk()
    browser.complaints()
    browser.sign_in(federation.url, federation.tokens()["4"])
    yield browser
    browser.desk()
    assert browser.complaints() == []


@pytest.fixture(scope="module")
def order(browser: Browser, federation: RunningFederation) -> dict[str, Any]:
    """An order over the document's tables, built in the form and followed on the page
    until it had ended; ten rounds are too few for it.
    """
    browser.desk()
    browser.sign_in(federation.url, federation.tokens()["4"])
    browser.press("New order")
    browser.press("A training: a model that predicts")
    browser.write("Rounds at the most", "0")
    browser.press("Check")
    browser.see(
        "model_params.max_iter: Input should be greater than or equal to 1. See /docs"
    )
    browser.write("Rounds at the most", "10")
    browser.press("Check")
    browser.see("Nothing is wrong with it.")
    browser.press("The same with curl")
    browser.see(f"{federation.url}/model/train")
    browser.press("The same with curl")
    browser.wait(lambda: "$TOKEN" not in browser.text, "the closed part")
    picture(browser, "page-new-order")
    browser.press("Send")
    browser.wait(
        lambda: (
            browser.path.startswith("/page/orders/") and browser.path[13:].isdecimal()
        ),
        "the order's page",
    )
    order_id = int(browser.path[13:])
    browser.see("Ended: success", seconds=120)
    browser.see("10 / 10")
    browser.see("by max_iter, before it had converged")
    browser.see(WARNINGS["max_iter"])
    assert browser.complaints() == []
    picture(browser, "page-order")
    return federation.order(order_id)


def test_what_the_form_shows_is_what_it_has_sent(
    order: dict[str, Any], federation: RunningFederation
) -> None:
    assert order["state"] == "success"
    assert order["data_volum"] == {"2": 228, "3": 228, "4": 227}
    assert order["rounds"][-1]["round"] == 10
    with federation.client(4) as client:
        info = client.get("/model/info", params={"model_id": order["order_id"]}).json()[
            "data"
        ]
    sent = {name: info["model_params"][name] for name in STUDY}
    assert sent == {**STUDY, "max_iter": 10}
    assert info["party_id"] == [2, 3]


def test_a_study_is_built_in_the_form_and_what_would_be_refused_is_seen_before(
    visitor: Browser, federation: RunningFederation
) -> None:
    visitor.open("/page/orders/new")
    visitor.see("Nothing that the hospitals have told of their policies is against it.")
    picture(visitor, "page-new-study")
    visitor.press("suzhou-szslyy (2)")
    visitor.see("zhejiang-zdey, shanxi-xbfy would refuse this.")
    visitor.see("A sum over 2 hospital(s) is below this one's minimum of 3.")
    visitor.press("suzhou-szslyy (2)")
    visitor.write("Add columns, with commas between", "x5, old")
    visitor.press("Add")
    visitor.wait(lambda: len(visitor.all(".line")) == 6, "six columns")
    visitor.all(".line .q-select")[-1].click()
    visitor.press("computed from other columns")
    visitor.write("Expression, such as ln(chol) or age >= 65", "x1 >= 14")
    body = visitor.field("JSON").get_property
    visitor.wait(
        lambda: '"old": "x1 >= 14"' in str(body("value")), "the column in the body"
    )
    # These hospitals' policies let nobody else compute columns.
    visitor.press("Remove old")
    visitor.press("Remove x4")
    visitor.write("Purpose (stands in every hospital's ledger)", "Who is ill")
    visitor.press("Send")
    visitor.wait(
        lambda: (
            visitor.path.startswith("/page/orders/") and visitor.path[13:].isdecimal()
        ),
        "the order's page",
    )
    visitor.see("Ended: success", seconds=120)
    order = federation.order(int(visitor.path[13:]))
    with federation.client(4) as client:
        params = {"model_id": order["order_id"]}
        told = client.get("/model/info", params=params).json()["data"]["model_params"]
    assert told["attributes"] == ["x1", "x2", "x3", "x5"]
    assert told["optimizer"] == "newton"


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_opens_on_a_phone_too(
    visitor: Browser, order: dict[str, Any], language: str, theme: str
) -> None:
    visitor.open(f"/page/preferences?language={language}&theme={theme}&back=/")
    for view in VIEWS:
        visitor.desk()
        visitor.open(view.format(order=order["order_id"]))
        visitor.wait(lambda: visitor.all("h1"), view)
        assert not visitor.all(".note.bad"), visitor.text
        assert translated("Sign out", language) in visitor.text
        assert bool(visitor.all("body.body--dark")) == (theme == "dark")
        visitor.phone()
        wide = visitor.driver.execute_script(
            "return document.documentElement.scrollWidth"
        )
        assert wide <= 375, f"{view} is {wide} pixels wide"
    visitor.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})


def test_what_the_order_shows_is_what_the_api_says(
    visitor: Browser, order: dict[str, Any]
) -> None:
    visitor.open(f"/page/orders/{order['order_id']}")
    visitor.see(f"{order['loss']:.6g}")
    visitor.see(
        "Nobody can see one hospital's contribution: not the coordinator, not shanxi-xbfy."
    )
    visitor.see(order["protection"]["who_could_decrypt"])
    assert order["prefect_run"] in [
        one.get_attribute("href") for one in visitor.all("a")
    ]


def test_a_figure_is_saved_as_a_picture_and_as_numbers(
    visitor: Browser, order: dict[str, Any]
) -> None:
    name = f"order-{order['order_id']}"
    visitor.open(f"/page/orders/{order['order_id']}")
    visitor.wait(lambda: len(visitor.all(".figure:has(canvas)")) >= 2, "two figures")
    visitor.press("Save picture (PNG)")
    assert visitor.downloaded(f"{name}.png").startswith(b"\x89PNG")
    visitor.press("Save numbers (CSV)")
    lines = visitor.downloaded(f"{name}.csv").decode("utf-8-sig").splitlines()
    assert lines[0] == "round,all,suzhou-szslyy,zhejiang-zdey,shanxi-xbfy"
    assert lines[1].startswith("0,0.693147")
    assert len(lines) == 1 + len(order["rounds"])


def test_scores_stand_as_the_api_gives_them(
    visitor: Browser, order: dict[str, Any], federation: RunningFederation
) -> None:
    order_id = order["order_id"]
    visitor.open(f"/page/scores?order_id={order_id}&score=krum&k=1")
    visitor.see("k + 1 attackers who agree")
    # A figure may have several layers, and the first one comes last.
    visitor.wait(lambda: len(visitor.all(".figure:has(canvas)")) == 2, "both figures")
    visitor.see("All scores of round 9")
    picture(visitor, "page-scores")
    visitor.press("Save numbers (CSV)")
    lines = (
        visitor.downloaded(f"order-{order_id}-krum.csv")
        .decode("utf-8-sig")
        .splitlines()
    )
    with federation.client(4) as client:
        said = client.get(
            "/anomaly/krum", params={"order_id": order_id, "k": 1, "round": 9}
        ).json()["data"]
    assert [float(line.split(",")[-1]) for line in lines[1:]] == [
        said["2"],
        said["3"],
        said["4"],
    ]
    visitor.open(f"/page/scores?order_id={order_id}&score=krum&k=0")
    visitor.wait(lambda: visitor.all(".note.bad"), "why there is no score")


def test_an_order_is_cancelled_and_run_again(
    visitor: Browser, federation: RunningFederation
) -> None:
    """Of so many rounds that it has not ended before somebody has clicked."""
    order_id = federation.submit(document_order(method="Mask", rounds=1000))
    visitor.open(f"/page/orders/{order_id}")
    visitor.press("Cancel")
    visitor.press("Yes")
    visitor.see("Ended: cancelled", seconds=30)
    assert federation.order(order_id)["state"] == "cancelled"
    visitor.press("Run again")
    visitor.see(f"Runs order {order_id} again", seconds=60)
    again = int(visitor.path.rpartition("/")[2])
    with federation.client(4) as client:
        client.post(f"/orders/{again}/cancel")
    visitor.open("/page/orders")
    visitor.see(f"{again}\ttraining\tcancelled")
    picture(visitor, "page-orders")


def test_a_question_is_asked_and_its_values_stay_with_the_receiver(
    visitor: Browser, federation: RunningFederation
) -> None:
    visitor.open("/page/statistics/new")
    visitor.write("Name of the result", "glucose")
    visitor.write("For each group of (columns)", "age_group")
    picture(visitor, "page-question")
    visitor.press("Send")
    visitor.see("results folders", seconds=120)
    visitor.see("group(s) withheld: fewer than 10 rows at a hospital")
    order_id = int(visitor.path.rpartition("/")[2])
    path = (
        federation.home
        / "sites"
        / "shanxi-xbfy"
        / "results"
        / f"{order_id}"
        / "glucose.csv"
    )
    value = path.read_text().splitlines()[1].split(",")[1]
    assert float(value) > 0
    assert value not in visitor.text
    visitor.press("Joint statistics")
    visitor.see(f"{order_id}/glucose.csv")
    picture(visitor, "page-statistics")


def test_a_schedule_is_made_paused_resumed_and_deleted(visitor: Browser) -> None:
    visitor.open("/page/statistics/new")
    visitor.write("Cron, such as 0 6 * * 1-5", "0 6 1 1 *")
    visitor.write("Time zone, such as Asia/Shanghai", "Asia/Shanghai")
    visitor.press("Send")
    visitor.see("0 6 1 1 * (Asia/Shanghai)", seconds=60)
    visitor.press("Pause")
    visitor.see("paused")
    visitor.press("Resume")
    visitor.see("active")
    visitor.press("Delete")
    visitor.press("Yes")
    visitor.see("There is no schedule.")


def test_a_question_that_cannot_be_asked_is_told_in_the_apis_sentence(
    visitor: Browser,
) -> None:
    visitor.open("/page/statistics/new")
    visitor.write("Name of the result", "a/b")
    visitor.press("Send")
    visitor.see("result_alias:")
    assert visitor.path == "/page/statistics/new"


def test_the_timeline_is_the_apis(
    visitor: Browser, order: dict[str, Any], federation: RunningFederation
) -> None:
    order_id = order["order_id"]
    visitor.open(f"/page/orders/{order_id}")
    visitor.see("local training")
    if PICTURES:
        (Path(PICTURES) / "page-timeline.png").write_bytes(
            visitor.all(".figure")[1].screenshot_as_png
        )
    visitor.press("Save numbers (CSV)", at=1)
    lines = (
        visitor.downloaded(f"order-{order_id}-timeline.csv")
        .decode("utf-8-sig")
        .splitlines()[1:]
    )
    with federation.client(4) as client:
        parts = client.get(f"/orders/{order_id}/timeline", params={"round": 9}).json()[
            "data"
        ]["parts"]
    assert [line.split(",")[1:3] for line in lines] == [
        [part["what"], part["began"]] for part in parts
    ]
    visitor.all(".q-select")[-1].click()
    visitor.press("Before and after the rounds")
    visitor.see("acceptances")
    visitor.see("save model")


def test_hospitals_are_there_with_what_their_policies_allow(
    visitor: Browser, federation: RunningFederation
) -> None:
    visitor.open("/page/hospitals")
    visitor.see("3 / 3")
    assert visitor.text.count("\tonline\t") == 3
    visitor.see("Methods: Paillier, Mask, None")
    picture(visitor, "page-hospitals")
    path = federation.sites / "zhejiang-zdey" / "policy.toml"
    before = path.read_text()
    assert 'methods = ["Paillier", "Mask", "None"]' in before
    path.write_text(
        before.replace('methods = ["Paillier", "Mask", "None"]', 'methods = ["Mask"]')
    )
    try:
        visitor.see("Methods: Mask\n")
    finally:
        path.write_text(before)
    visitor.wait(lambda: "Methods: Mask\n" not in visitor.text, "the policy as it was")


# Who may look


def test_a_wrong_token_is_told_and_a_page_brings_back_after_signing_in(
    browser: Browser, federation: RunningFederation
) -> None:
    browser.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    browser.url = federation.url
    browser.open("/page/hospitals")
    browser.give_token("no token")
    browser.see("This token is not known or was revoked.")
    browser.give_token(federation.tokens()["operator"])
    browser.see("Compare fingerprints by telephone")
    assert browser.path == "/page/hospitals"
    assert browser.complaints() == []


def test_the_cookie_is_no_token_and_no_script_reads_it(
    visitor: Browser, federation: RunningFederation
) -> None:
    cookie = visitor.driver.get_cookie("consilium_session")
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert federation.tokens()["4"] not in str(visitor.driver.get_cookies())
    headers = {"Authorization": f"Bearer {cookie['value']}"}
    assert (
        httpx.get(
            f"{federation.url}/orders", headers=headers, trust_env=False
        ).status_code
        == 403
    )
    assert (
        federation.home / "coordinator" / "page_key"
    ).stat().st_mode & 0o777 == 0o600


def test_signing_out_ends_it(visitor: Browser) -> None:
    visitor.press("Sign out")
    visitor.wait(lambda: visitor.all("#token"), "the form")
    visitor.open("/page/orders")
    visitor.wait(lambda: visitor.all("#token"), "the form")


def test_a_name_is_shown_as_text(
    browser: Browser, federation: RunningFederation
) -> None:
    name = "<img src=x onerror=document.title='taken'>{{1}}"
    with federation.client(2) as client:
        order_id = client.post(
            "/orders", json={"kind": "external", "name": name}
        ).json()["order_id"]
        browser.sign_in(federation.url, federation.tokens()["2"])
        for path in ("/page/orders", f"/page/orders/{order_id}"):
            browser.open(path)
            browser.see("recorded elsewhere")
        browser.open("/page/orders")
        browser.see(name)
        assert browser.driver.title == "Orders - Consilium"
        client.post(f"/orders/{order_id}/cancel")
    browser.sign_in(federation.url, federation.tokens()["3"])
    assert name not in browser.text
    browser.open(f"/page/orders/{order_id}")
    browser.see(
        "This order is not one of this hospital's. Ask a party of the order or the operator."
    )
    assert browser.complaints() == []


def test_everything_is_reached_with_the_tab_key(visitor: Browser) -> None:
    visitor.open("/page/orders/new")
    visitor.wait(lambda: visitor.all("h1"), "the form")
    reached = []
    for _ in range(80):
        visitor.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(
            visitor.driver.execute_script(
                "const e = document.activeElement; return e.getAttribute('aria-label') || e.innerText || ''"
            ).strip()
        )
    wanted = [
        "To the content",
        "Orders",
        "Hospitals",
        "Sign out",
        "Column of the outcome",
        "Add columns, with commas between",
        "Check",
        "Send",
    ]
    assert [name for name in wanted if name not in reached] == [], reached


# The API beside it


def test_the_apis_own_addresses_stay_as_they_are(federation: RunningFederation) -> None:
    with federation.client() as client:
        assert (
            client.get("/nothing")
            .json()["message"]
            .startswith("There is no such address.")
        )
        assert client.get("/pages").status_code == 404
        assert client.get("/model/train").status_code == 405
        assert client.get("/orders/").status_code == 200
