"""Prefect's own page, as docs/operators.md says how it is opened: what an operator's
browser does at the near end of the tunnel.
"""

from __future__ import annotations

from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from deployments.demo.training import document_order
from tests.browser.conftest import Browser
from tests.conftest import RunningFederation
from tests.faults.processes import wait_until

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
    browser.see("method Mask. Waiting for the hospitals to accept", seconds=40)
    browser.see("Round 1, loss")
    # No address but Prefect's, while all that was open.
    asked = browser.network()
    assert browser.elsewhere(asked) == []
    assert any("/api/flow_runs/" in str(event) for event in asked)


def test_an_orders_lines_are_few_and_a_hospitals_run_has_one(
    federation: RunningFederation,
) -> None:
    order_id = federation.submit(document_order(rounds=30, method="Mask"))
    assert federation.wait_for(order_id)["state"] == "success"
    with federation.prefect() as prefect:
        wanted = {"flow_runs": {"tags": {"all_": [f"order-{order_id}"]}}}
        runs = prefect.post("/flow_runs/filter", json=wanted).json()

        def lines_of(run: dict[str, Any]) -> list[str]:
            of_run = {"logs": {"flow_run_id": {"any_": [run["id"]]}}}
            lines = prefect.post("/logs/filter", json=of_run).json()
            return [line["message"] for line in lines]

        (own_run,) = [run for run in runs if run["name"] == f"order-{order_id}"]
        # Its last line is written behind the order's end, which no order waits for.
        wait_until(
            lambda: lines_of(own_run)[-1:] and "has ended" in lines_of(own_run)[-1],
            "the line of its end",
        )
        found = {run["name"]: lines_of(run) for run in runs}
    own = found.pop(f"order-{order_id}")
    assert 20 <= len(own) <= 40
    assert own[-1].endswith(": training has ended.")
    assert len(found) == 3
    for name, lines in found.items():
        user = name.rpartition("-")[2]
        (line,) = lines
        assert line.startswith(f"This run is at hospital {user}. Its log stays there")
