"""A headless Chromium that looks at the pages, and a coordinator whose store is full."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    StaleElementReferenceException,
    WebDriverException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from api.store import Store, tables
from deployments.demo.training import document_order
from deployments.processes import TIED
from deployments.server import new_token
from tests.conftest import ROOT, free_port

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PHONE = {"width": 375, "height": 812, "deviceScaleFactor": 1, "mobile": True}
N_ORDERS, N_ROUNDS, N_CLIENTS = 1000, 500, 35


class Browser:
    """Chromium as a person uses it, and what it complained of."""

    def __init__(self, driver: webdriver.Chrome, downloads: Path) -> None:
        self.driver, self.downloads, self.url = driver, downloads, ""

    def open(self, path: str) -> None:
        self.driver.get(self.url + path)

    @property
    def path(self) -> str:
        return self.driver.current_url.removeprefix(self.url)

    def sign_in(self, url: str, token: str) -> None:
        """As a new visitor, with the keyboard alone."""
        self.url = url
        self.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.open("/")
        self.give_token(token)
        self.wait(lambda: self.all("nav.top"), "the first page")

    def give_token(self, token: str) -> None:
        """Where the form stands ready for it, without a click."""

        def ready() -> WebElement | None:
            field = self.driver.switch_to.active_element
            return (
                field
                if field.get_attribute("id") == "token"
                and not field.get_attribute("value")
                else None
            )

        self.wait(ready, "the form to sign in").send_keys(token, Keys.ENTER)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    @property
    def text(self) -> str:
        # Between two pages there is no body.
        return str(self.driver.execute_script("return document.body?.innerText ?? ''"))

    def wait(
        self, condition: Callable[[], Any], what: str, *, seconds: float = 20
    ) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(StaleElementReferenceException, IndexError):
                if found := condition():
                    return found
            time.sleep(0.02)
        raise AssertionError(
            f"{what} did not come: {self.driver.current_url}\n{self.text[:3000]}"
        )

    def see(self, text: str, *, seconds: float = 20) -> None:
        self.wait(lambda: text in self.text, repr(text), seconds=seconds)

    def press(self, name: str, *, at: int = 0) -> None:
        """A visible button or link of that name, the first unless `at` says, as soon as
        nothing lies over it.
        """

        def pressed() -> bool:
            there = [
                one
                for one in self.all("button, a, .q-item, .q-radio, .q-checkbox")
                if name in (one.text.strip().split("\n")[0], one.accessible_name)
            ]
            visible = [one for one in there if one.is_displayed()]
            if len(visible) <= at:
                return False
            button = visible[at]
            self.driver.execute_script(
                "arguments[0].scrollIntoView({block: 'center'})", button
            )
            with contextlib.suppress(ElementClickInterceptedException):
                button.click()
                return True
            return False

        self.wait(pressed, f"button {name}")

    def field(self, label: str) -> WebElement:
        """The visible input with that label."""

        def found() -> WebElement | None:
            there = [
                one
                for one in self.all("input, textarea")
                if one.get_attribute("aria-label") == label
            ]
            return next((one for one in there if one.is_displayed()), None)

        inputs: WebElement = self.wait(found, f"field {label}")
        return inputs

    def write(self, label: str, text: str) -> None:
        """Replaces what stands in a field."""
        field = self.field(label)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text, Keys.TAB)

    def downloaded(self, name: str) -> bytes:
        path = self.downloads / name
        self.wait(lambda: path.exists() and path.stat().st_size, f"the file {name}")
        return path.read_bytes()

    def phone(self) -> None:
        """From now on 375 pixels wide."""
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)

    def desk(self) -> None:
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def network(self) -> list[dict[str, Any]]:
        """What the browser did on the network since it was asked last: events of the
        DevTools protocol.
        """
        logged = self.driver.get_log("performance")
        return [json.loads(entry["message"])["message"] for entry in logged]

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, and requests that went elsewhere; each is
        told once.
        """
        return self.console() + self.elsewhere(self.network())

    def console(self) -> list[str]:
        logged = self.driver.get_log("browser")
        bad = [entry for entry in logged if entry["level"] in ("SEVERE", "WARNING")]
        return [entry["message"] for entry in bad]

    def elsewhere(self, events: list[dict[str, Any]]) -> list[str]:
        """Addresses that were asked for and are not this coordinator's: on loopback any
        port, since Prefect has one of its own.
        """
        own = "://127.0.0.1:"
        if self.url.startswith("https:"):
            own = f"{self.url.removeprefix('http')}/"
        local = (f"http{own}", f"ws{own}", "data:", f"blob:http{own}")
        return [url for url in addresses(events) if not url.startswith(local)]


def addresses(events: list[dict[str, Any]]) -> list[str]:
    """Of all requests and sockets."""
    found = []
    for event in events:
        if event["method"] == "Network.requestWillBeSent":
            found.append(str(event["params"]["request"]["url"]))
        if event["method"] == "Network.webSocketCreated":
            found.append(str(event["params"]["url"]))
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for the tests of a file; each signs in anew."""
    with chromium(tmp_path_factory.mktemp("downloads")) as running:
        yield running


@contextlib.contextmanager
def chromium(
    downloads: Path, *arguments: str, home: Path | None = None
) -> Iterator[Browser]:
    """A headless one with further command line arguments; `home` has the authorities
    that it trusts.
    """
    if not CHROMIUM or not DRIVER:
        if os.environ.get("CI") == "true":
            pytest.fail("Chromium is missing: apt-get install chromium chromium-driver")
        pytest.skip("needs Chromium (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--disable-dev-shm-usage",
        "--window-size=1280,1400",
        "--lang=en-US",
        *arguments,
    ):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # root has none
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(downloads)}
    )
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    environment = {**os.environ, **({"HOME": str(home)} if home else {})}
    service = webdriver.ChromeService(DRIVER, env=environment)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield Browser(driver, downloads)
    finally:
        with contextlib.suppress(WebDriverException):
            driver.quit()


class FullCoordinator:
    """The API alone, with a thousand orders of hospital 4, of which one has 500 rounds
    of 35 clients.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        folder = home / "coordinator"
        folder.mkdir(parents=True)
        self.store = Store(f"sqlite:///{folder / 'store.sqlite'}")
        self.store.migrate()
        self.long_order = _fill(self.store)
        self.token = new_token(self.store, "hospital", 4)

    @contextlib.contextmanager
    def running(self) -> Iterator[FullCoordinator]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CONSILIUM_HOME": str(self.home),
            "CONSILIUM_API_PORT": str(self.port),
            # where nobody is
            "CONSILIUM_PREFECT_URL": f"http://127.0.0.1:{free_port()}/api",
            "PREFECT_HOME": str(self.home / "prefect"),
        }
        command = [
            *TIED,
            str(os.getpid()),
            sys.executable,
            "-m",
            "deployments.server",
            "api",
        ]
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        try:
            self._wait(process)
            yield self
        finally:
            process.terminate()
            process.wait(timeout=20)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{self.url}/health", timeout=5, trust_env=False)
                return
            time.sleep(0.1)
        raise AssertionError("the API did not start")


def _fill(store: Store) -> int:
    ids = list(range(2, 2 + N_CLIENTS))
    for user in ids:
        store.hospitals.add(user, f"hospital-{user}")
    body = {
        name: value
        for name, value in document_order(rounds=N_ROUNDS).items()
        if name != "data_info"
    }
    long_order, _ = store.orders.add(
        kind="train", initiator=4, hospital_ids=ids, body=body
    )
    with store.begin() as db:
        order = dict(db.execute(sa.select(tables.orders)).one()._mapping)
        others = [
            {**order, "order_id": n, "hospitals": [2, 3, 4], "state": "success"}
            for n in range(2, N_ORDERS + 1)
        ]
        db.execute(tables.orders.insert(), others)
        db.execute(
            tables.rounds.insert(),
            [_round(long_order, number, ids) for number in range(N_ROUNDS)],
        )
    return long_order


def _round(order_id: int, number: int, ids: list[int]) -> dict[str, Any]:
    kinds = ("accuracy", "auc", "ks", "f1", "tp", "fp", "tn", "fn")
    metrics = {
        user: dict.fromkeys(kinds, 0.123456) | {"loss": round(user / (number + 1), 5)}
        for user in ids
    }
    hospitals = {
        str(user): {"n_rows": 100, "train": own} for user, own in metrics.items()
    }
    recorded = datetime(2026, 1, 1) + timedelta(seconds=number)
    report = {"final": False, "hospitals": hospitals}
    return {
        "order_id": order_id,
        "fold": 0,
        "round": number,
        "loss": 1 / (number + 1),
        "report": report,
        "recorded": recorded,
    }


@pytest.fixture(scope="session")
def full_coordinator(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[FullCoordinator]:
    with FullCoordinator(tmp_path_factory.mktemp("full")).running() as running:
        yield running
