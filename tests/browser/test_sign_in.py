"""Chromium goes to an identity provider of another site and comes back to the page that
a person wanted to see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from api.settings import SignInSettings
from api.sign_in import IdentityProvider
from deployments.demo.training import document_order
from tests.api.conftest import Coordinator
from tests.browser.conftest import Browser
from tests.made_identities import CLIENT, SECRET, Provider, running_provider

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

ACCOUNT = "Sign in with your organisation's account"


@pytest.fixture
def provider(with_pages: Coordinator) -> Iterator[Provider]:
    """By the name localhost: to a browser that is another site than 127.0.0.1, so that it
    sends no strict cookie on the way back.
    """
    state = with_pages.app.state
    before = state.settings, state.identity_provider
    with running_provider("localhost") as running:
        settings = SignInSettings(
            issuer=running.issuer,
            client=CLIENT,
            secret=SECRET,
            address=str(with_pages.client.base_url).rstrip("/"),
            claim="groups",
            groups={"szslyy": 2, "elsewhere": 5},
        )
        state.settings = replace(state.settings, sign_in=settings)
        state.identity_provider = IdentityProvider(settings)
        yield running
    state.settings, state.identity_provider = before


@pytest.fixture
def visitor(browser: Browser, with_pages: Coordinator) -> Browser:
    """Nobody, at the coordinator's address."""
    browser.url = str(with_pages.client.base_url).rstrip("/")
    browser.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    browser.complaints()
    return browser


def ordered(coordinator: Coordinator) -> int:
    """An order of hospital 4 with 2 and 3."""
    answer = coordinator.call("POST", "/model/train", json=document_order())
    return int(answer.json()["data"]["order_id"])


def go_there_and_back(visitor: Browser, provider: Provider) -> None:
    visitor.press(ACCOUNT)
    visitor.wait(
        lambda: visitor.driver.current_url.startswith(provider.issuer), "the provider"
    )
    visitor.press("I am someone")


def test_a_person_comes_to_the_order_by_the_provider_and_signs_out(
    visitor: Browser, provider: Provider, with_pages: Coordinator
) -> None:
    order_id = ordered(with_pages)
    visitor.open(f"/orders/{order_id}")
    visitor.see(ACCOUNT)
    assert visitor.path.startswith("/page/sign-in?")
    go_there_and_back(visitor, provider)
    visitor.see(f"Order {order_id}")
    visitor.see("Sent by shanxi-xbfy")
    assert visitor.path == f"/page/orders/{order_id}"
    assert "Hospital 2" in visitor.text
    cookies = visitor.driver.get_cookies()
    assert [(one["name"], one["sameSite"]) for one in cookies] == [
        ("consilium_session", "Strict")
    ]
    # Who is not signed in gets the form with 401, and the provider has no icon.
    usual = ("401 (Unauthorized)", "favicon.ico")
    told = [one for one in visitor.console() if not any(word in one for word in usual)]
    assert told == []
    # Without another click at the provider nobody comes in again.
    n_calls = provider.n_calls
    visitor.press("Sign out")
    visitor.see(ACCOUNT)
    visitor.open(f"/page/orders/{order_id}")
    visitor.see(ACCOUNT)
    assert visitor.driver.get_cookies() == []
    assert provider.n_calls == n_calls


def test_another_hospitals_person_sees_no_order_of_these(
    visitor: Browser, provider: Provider, with_pages: Coordinator
) -> None:
    order_id = ordered(with_pages)
    provider.groups = ["elsewhere"]
    visitor.open(f"/orders/{order_id}")
    go_there_and_back(visitor, provider)
    visitor.see("This order is not one of this hospital's.")
    assert "Sent by" not in visitor.text


def test_who_is_in_no_group_is_told_on_the_form(
    visitor: Browser, provider: Provider
) -> None:
    provider.groups = ["choir"]
    visitor.open("/page/orders")
    go_there_and_back(visitor, provider)
    visitor.see("Your account is in no group that this coordinator knows.")
    assert visitor.all("#token")
    assert visitor.driver.get_cookies() == []
