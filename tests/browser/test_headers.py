"""What the headers of answers let a browser do: everything that the pages need, and
nothing that comes from elsewhere.
"""

from __future__ import annotations

import pytest

from tests.api.conftest import Coordinator
from tests.browser.conftest import Browser

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

PAGES = [
    "/page/orders",
    "/page/orders/new",
    "/page/scores",
    "/page/statistics",
    "/page/statistics/new",
    "/page/hospitals",
]


@pytest.fixture
def visitor(browser: Browser, with_pages: Coordinator) -> Browser:
    browser.sign_in(
        str(with_pages.client.base_url).rstrip("/"), with_pages.tokens["user-4"]
    )
    browser.complaints()
    return browser


def test_every_page_works_under_its_policy(visitor: Browser) -> None:
    for path in PAGES:
        visitor.open(path)
        visitor.wait(lambda: visitor.all("h1"), path)
        assert visitor.complaints() == [], path


def test_the_description_works_under_its_policy(visitor: Browser) -> None:
    visitor.open("/docs")
    visitor.see("/model/train_status")
    visitor.driver.execute_script(
        "document.querySelector('[id$=train_status] button, .opblock-summary-control').click()"
    )
    visitor.wait(lambda: visitor.all(".opblock-body"), "an operation")
    assert visitor.complaints() == []


def test_a_script_from_elsewhere_is_not_run(visitor: Browser) -> None:
    visitor.open("/page/orders")
    visitor.wait(lambda: visitor.all("nav.top"), "the page")
    visitor.driver.execute_script(
        "const s = document.createElement('script');"
        "s.src = 'http://127.0.0.1:1/taken.js'; document.head.append(s)"
    )
    visitor.wait(
        lambda: any("Content Security Policy" in one for one in visitor.complaints()),
        "the browser's refusal",
    )


def test_signing_out_ends_every_open_page(visitor: Browser) -> None:
    visitor.open("/page/orders")
    cookie = visitor.driver.get_cookie("consilium_session")
    visitor.press("Sign out")
    visitor.wait(lambda: visitor.all("#token"), "the form")
    visitor.driver.add_cookie({"name": cookie["name"], "value": cookie["value"]})
    visitor.open("/page/orders")
    visitor.see("This session has ended.")
