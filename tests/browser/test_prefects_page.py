"""Prefect's own page, as docs/operators.md says how it is opened: what an operator's
browser does at the near end of the tunnel.
"""

from __future__ import annotations

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from deployments.demo.training import document_order
from tests.browser.conftest import Browser
from tests.conftest import RunningFederation

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


def test_the_link_to_a_run_opens_once_the_string_is_given(
    browser: Browser, federation: RunningFederation
) -> None:
    order_id = federation.submit(document_order(rounds=1, method="Mask"))
    order = federation.wait_for(order_id)
    auth = (federation.home / "coordinator" / "prefect_auth").read_text().strip()
    browser.url = federation.prefect_url.removesuffix("/api")
    browser.open("/")

    def field() -> WebElement:
        return browser.all("input[type=password]")[0]

    browser.wait(field, "the field for the string").send_keys(auth, Keys.ENTER)
    browser.wait(lambda: browser.path.startswith("/dashboard"), "its first page")
    browser.driver.get(order["prefect_run"])
    browser.see(f"order-{order_id}")
    # No address but Prefect's, while all that was open.
    asked = browser.network()
    assert browser.elsewhere(asked) == []
    assert any("/api/flow_runs/" in str(event) for event in asked)
