"""A page with a store as large as it gets: it stands whole, and `pytest -s` says after how many seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.browser.conftest import N_ORDERS, N_ROUNDS, Browser, FullCoordinator

pytestmark = pytest.mark.slow


def open_whole(browser: Browser, path: str, is_there: Callable[[], bool]) -> None:
    """Opens an address and waits for its figures. How long that takes depends on the machine, and fails no test."""
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


def test_500_rounds_of_35_clients(browser: Browser, full_coordinator: FullCoordinator) -> None:
    browser.sign_in(full_coordinator.url, full_coordinator.token)
    drawn = "return document.querySelectorAll('.figure canvas').length >= 2"
    path = f"/page/orders/{full_coordinator.long_order}"
    for _ in range(3):
        open_whole(browser, path, lambda: bool(browser.driver.execute_script(drawn)))
    assert f"{N_ROUNDS} / {N_ROUNDS}" in browser.text
    assert browser.complaints() == []
