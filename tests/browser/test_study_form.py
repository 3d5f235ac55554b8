"""The folded parts of the forms in Chromium: a study with robust standard errors is
ordered and trained, and a first table asks for histograms.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.browser.conftest import Browser
from tests.conftest import RunningFederation

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

GLM = (
    "Generalised linear model: Counts, rates and skewed outcomes: a family and a link, "
    "with weights and offset."
)
COX = "Cox regression: Time until an event: hazard ratios with confidence intervals."
ESTIMATES = "More about the estimates: standard errors, hospitals, comparison"
ROWS = "More about the rows: missing values, derived columns, histograms"
EDGES = "Edges of the time intervals: 1, 2, 3"
HISTOGRAMS = "Histograms: a line each, such as age = 50, 60, 70"


def choose(browser: Browser, label: str, value: str) -> None:
    """A value of the choice with that label."""

    def choice() -> Any:
        there = [one for one in browser.all(".q-select") if one.is_displayed()]
        return next((one for one in there if label in one.text), None)

    found = browser.wait(choice, f"choice {label}")
    browser.driver.execute_script(
        "arguments[0].scrollIntoView({block: 'center'})", found
    )
    found.click()
    browser.press(value)


def body(browser: Browser) -> dict[str, Any]:
    """The request's body as it stands beside the form."""
    found: dict[str, Any] = json.loads(str(browser.field("JSON").get_property("value")))
    return found


def test_a_study_with_robust_errors_is_ordered_in_the_form(
    browser: Browser, federation: RunningFederation
) -> None:
    browser.desk()
    browser.complaints()
    browser.sign_in(federation.url, federation.tokens()["4"])
    browser.open("/page/orders/new")
    browser.press(COX)
    browser.press(ESTIMATES)
    choose(browser, "Baseline hazard", "one for all hospitals")
    browser.write(EDGES, "30, 90")
    browser.wait(
        lambda: body(browser)["model_params"].get("edges") == [30, 90], "the edges"
    )
    browser.see("each policy must allow risk_sets")
    browser.press(GLM)
    choose(browser, "Standard errors", "robust, by clusters")
    browser.see("3 hospitals are too few to be clusters.")
    choose(browser, "Standard errors", "robust: HC1, for few rows")
    browser.wait(
        lambda: (
            body(browser)["model_params"]
            == {
                "family": "poisson",
                "encrypt_param": {"method": "Paillier"},
                "standard_errors": "HC1",
            }
        ),
        "the standard errors in the body",
    )
    browser.see("Nothing that the hospitals have told of their policies is against it.")
    browser.press("Send")
    browser.see("Ended: success", seconds=120)
    order_id = int(browser.path.rpartition("/")[2])
    with federation.client(4) as client:
        told = client.get("/model/info", params={"model_id": order_id}).json()["data"]
    assert told["model_params"]["standard_errors"] == "HC1"
    assert browser.complaints() == []


def test_a_first_table_asks_for_histograms(
    browser: Browser, federation: RunningFederation
) -> None:
    browser.desk()
    browser.complaints()
    browser.sign_in(federation.url, federation.tokens()["4"])
    browser.open("/page/statistics/new")
    describe = "A paper's first table: n, mean, standard deviation, levels (describe)"
    choose(browser, "Method", describe)
    browser.write("The columns, with commas between (up to 50)", "glucose")
    browser.press(ROWS)
    browser.write(HISTOGRAMS, "glucose = 4, 5.5, 7")
    browser.wait(
        lambda: body(browser).get("histograms") == {"glucose": [4, 5.5, 7]},
        "the edges in the body",
    )
    browser.press("Check")
    browser.see("Nothing is wrong with it.")
    assert browser.complaints() == []
