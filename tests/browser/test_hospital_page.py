"""The hospital's own page in Chromium: a person there decides on an order, and takes
the model.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deployments.demo.training import document_order
from tests.browser.conftest import Browser
from tests.conftest import ROOT, RunningFederation

pytestmark = pytest.mark.slow

SITE, USER = "zhejiang-zdey", 3


@contextmanager
def opened(browser: Browser, federation: RunningFederation) -> Iterator[None]:
    """The page, as its link opens it on the hospital's own machine."""
    command = [
        sys.executable,
        "-m",
        "deployments.agent",
        "show",
        "--site",
        str(federation.sites / SITE),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, env=federation.env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        link = process.stdout.readline().strip()
        browser.driver.get(link)
        browser.url = browser.driver.current_url.rstrip("/")
        try:
            yield
        finally:
            process.terminate()


@contextmanager
def a_person_decides(federation: RunningFederation) -> Iterator[None]:
    path = federation.sites / SITE / "policy.toml"
    before = path.read_text()
    path.write_text(before.replace("[orders]\n", '[orders]\napproval = "manual"\n'))
    try:
        yield
    finally:
        path.write_text(before)


def assert_fits_a_phone(browser: Browser) -> None:
    browser.phone()
    for path in ("/", "/asked", "/left", "/models", "/rounds"):
        browser.open(path)
        wide = browser.driver.execute_script(
            "return document.documentElement.scrollWidth"
        )
        assert wide <= 375, f"{path} is {wide} pixels wide"
    browser.desk()


@pytest.mark.parametrize(
    ("button", "state"),
    [("Approve", "success"), ("Refuse, and end the order for all", "failed")],
    ids=["approved", "refused"],
)
def test_a_person_reads_the_order_and_decides(
    browser: Browser, federation: RunningFederation, button: str, state: str
) -> None:
    body = {**document_order(method="Mask", rounds=2), "purpose": "Ward 3 asks"}
    browser.desk()
    browser.complaints()
    with a_person_decides(federation), opened(browser, federation):
        order_id = federation.submit(
            body
        )  # answered at once: it holds no place meanwhile

        def waits() -> bool:
            browser.open("/")
            return bool(browser.all("a.button"))

        browser.wait(waits, "the order that waits", seconds=25)
        browser.all("a.button")[0].click()
        browser.see("Ward 3 asks")
        browser.see("SELECT * FROM data.breast_homo_host")
        browser.press(button)
        order = federation.wait_for(order_id)
        assert order["state"] == state
        if state == "success":
            browser.open("/models")
            browser.see(f"{order_id}")
            assert browser.all("button[value=json]")
            browser.open("/asked")
            browser.see("Ward 3 asks")
            assert_fits_a_phone(browser)
        else:
            assert order["refusal"]["code"] == "approval"
            browser.open("/refused")
            browser.see("approval")
    assert browser.complaints() == []
