"""A page with a store as large as it gets: it stands whole, and `pytest -s` says after
how many seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest

from deployments.server import new_token
from tests.browser.conftest import N_ORDERS, N_ROUNDS, Browser, FullCoordinator

pytestmark = pytest.mark.slow


def open_whole(browser: Browser, path: str, is_there: Callable[[], bool]) -> None:
    """Opens an address and waits for its figures.

    How long that takes depends on the machine, and fails no test.
    """
    browser.open("/page/sign-in")
    started = time.monotonic()
    browser.open(path)
    browser.wait(is_there, path)
    print(f"{path}: {time.monotonic() - started:.2f} s")


def test_a_thousand_orders(browser: Browser, full_coordinator: FullCoordinator) -> None:
    browser.sign_in(full_coordinator.url, full_coordinator.token)
    open_whole(browser, "/page/orders", lambda: f"{N_ORDERS}\ttraining" in browser.text)
    browser.press("Older")
    browser.see("\n950\ttraining")


def test_500_rounds_of_35_clients(
    browser: Browser, full_coordinator: FullCoordinator
) -> None:
    browser.sign_in(full_coordinator.url, full_coordinator.token)
    drawn = "return document.querySelectorAll('.figure:has(canvas)').length >= 2"
    path = f"/page/orders/{full_coordinator.long_order}"
    for _ in range(3):
        open_whole(browser, path, lambda: bool(browser.driver.execute_script(drawn)))
    assert f"{N_ROUNDS - 1} / {N_ROUNDS}" in browser.text
    assert browser.complaints() == []


def test_a_token_that_is_revoked_opens_nothing_more(
    browser: Browser, full_coordinator: FullCoordinator
) -> None:
    """Also for who is signed in: at the next click, and on a page that follows the
    news.
    """
    token = new_token(full_coordinator.store, "hospital", 7)
    browser.sign_in(full_coordinator.url, token)
    browser.open("/page/hospitals")
    browser.see("hospital-7")
    full_coordinator.store.hospitals.revoke_tokens("hospital", 7)
    agent = new_token(full_coordinator.store, "agent", 8)
    headers = {"Authorization": f"Bearer {agent}"}
    url = f"{full_coordinator.url}/exchange/inbox"
    httpx.get(
        url, params={"wait": 0}, headers=headers, trust_env=False
    )  # hospital 8 comes, and the page would show it
    browser.see("token is not known or was revoked")
    assert "\tonline\t" not in browser.text
    browser.open("/page/orders")
    browser.see("This token is not known or was revoked.")
    assert browser.all("#token")
