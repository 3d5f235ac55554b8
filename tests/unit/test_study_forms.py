"""What a person writes into the forms of a study and of a question is in the request's
body, and the API takes that body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from nicegui import Client
from nicegui.page import page

from api.pages import order_estimates, order_kinds
from api.pages.form import Draft, Fields, once_at_a_time
from api.pages.order_estimates import EstimateFields
from api.pages.order_form import example_order
from api.pages.order_parties import PartyFields
from api.pages.statistics_form import ProviderFields, QuestionForm
from api.pages.visit import Visit
from api.store.hospitals import Caller
from protocol.statistics_request import (
    BY_GROUPS,
    JOINED,
    POOLED,
    StatisticsRequest,
)
from protocol.training_request import parse_training_request
from tests.made_readers import LIN, public

EARLIER = [
    {"order_id": 7, "kind": "train", "state": "success", "model_type": "glm"},
    {"order_id": 8, "kind": "train", "state": "failed", "model_type": "glm"},
    {"order_id": 9, "kind": "train", "state": "success", "model_type": "cox"},
    {"order_id": 10, "kind": "evaluate", "state": "success", "model_type": "glm"},
]
STANDARD_ERRORS, CLUSTERS = (
    "Standard errors",
    "Clusters: hospital, or a column",
)
BASELINE, EDGES = (
    "Baseline hazard",
    "Edges of the time intervals: 1, 2, 3",
)
COMPARE = "Compare with an earlier study"
READER = "Reader's public key: the answer is sealed to it"


class Form:
    """A form in a page that no browser shows."""

    def __init__(self, client: Client, body: dict[str, Any]) -> None:
        self.client = client
        self.draft = Draft(body)
        visit = Visit(
            FastAPI(),
            "a-token",
            Caller("hospital", 4),
            "en",
            "light",
            "http://127.0.0.1:5000",
            "/",
        )
        self.fields = Fields(visit, self.draft)

    @property
    def body(self) -> dict[str, Any]:
        return self.draft.body

    def field(self, label: str) -> Any:
        for element in self.client.elements.values():
            if element.props.get("label") == label:
                return element
        raise AssertionError(f"there is no field {label}")

    def text(self, words: str) -> Any:
        """What has its words beside it, as a box to tick."""
        for element in self.client.elements.values():
            if getattr(element, "text", None) == words:
                return element
        raise AssertionError(f"there is nothing called {words}")

    def write(self, label: str, value: Any) -> None:
        field = self.field(label)
        assert field.visible
        field.value = value

    def shows(self, label: str) -> bool:
        return bool(self.field(label).visible)


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(page("/form"), request=None) as made:
        yield made
    made.delete()


def study(client: Client, kind: str) -> Form:
    hospitals = [2, 3, 4, 5, 6]
    body = order_kinds.with_kind(example_order(4, hospitals), kind, {})
    form = Form(client, body)
    rows = [{**row, "hospitals": hospitals, "party": None} for row in EARLIER]
    EstimateFields(form.fields, rows).build()
    return form


def test_standard_errors_are_one_choice_of_two_fields(client: Client) -> None:
    form = study(client, "glm")
    assert not form.shows(CLUSTERS)
    form.write(STANDARD_ERRORS, "HC1")
    assert parse_training_request(form.body).robust == "HC1"
    form.write(STANDARD_ERRORS, "cluster")
    assert form.body["model_params"]["cluster"] == "hospital"
    assert parse_training_request(form.body).robust == "cluster"
    # Another column is for the API to judge.
    form.write(CLUSTERS, "ward")
    assert form.body["model_params"]["cluster"] == "ward"
    form.write(CLUSTERS, "")
    assert form.field(STANDARD_ERRORS).value is None
    assert parse_training_request(form.body).robust is None


def test_the_choice_follows_a_body_that_was_written_by_hand(client: Client) -> None:
    form = study(client, "glm")
    for params, chosen in (
        ({"cluster": "hospital"}, "cluster"),
        ({"standard_errors": "HC0"}, "HC0"),
        ({"standard_errors": ["HC0"]}, None),
        (3, None),
    ):
        form.draft.replace({**form.body, "model_params": params})
        assert form.field(STANDARD_ERRORS).value == chosen
        assert form.body["model_params"] == params


def test_a_joint_baseline_has_edges_and_leaves_none_behind(client: Client) -> None:
    form = study(client, "cox")
    assert not form.shows(EDGES)
    form.write(BASELINE, "joint")
    form.write(EDGES, "30, 90.5,365")
    asked = parse_training_request(form.body)
    assert asked.baseline == "joint"
    assert asked.edges == [30, 90.5, 365]
    form.write(BASELINE, None)
    assert parse_training_request(form.body).edges == []
    assert not form.shows(EDGES)


def test_an_earlier_study_of_the_same_model_is_offered(client: Client) -> None:
    form = study(client, "glm")
    assert list(form.field(COMPARE).options) == [None, 7]
    form.write(COMPARE, 7)
    assert parse_training_request(form.body).compare == 7
    form.draft.replace({**form.body, "compare": 3})
    assert form.field(COMPARE).value == 3
    form.draft.replace(order_kinds.with_kind(form.body, "cox", form.body))
    assert list(form.field(COMPARE).options) == [None, 9]
    assert "compare" not in form.body


@pytest.mark.parametrize("kind", order_kinds.KINDS)
def test_a_kind_shows_what_it_may_have(client: Client, kind: str) -> None:
    form = study(client, kind)
    assert form.shows(STANDARD_ERRORS) == (kind == "glm")
    assert form.shows(BASELINE) == (kind == "cox")
    assert form.shows("Effect of each hospital") == (kind in order_estimates.POOLED)
    assert form.shows(COMPARE) == (kind in order_estimates.STUDIED)


QUESTION = {
    "data_providers": [
        {"name": name, "data_path": "v.csv", "data_type": "csv", "key_column": "id"}
        for name in (2, 3, 4)
    ],
    "result_receivers": [4],
    "method": "describe",
    "columns": ["age", "bmi"],
}
HISTOGRAMS = "Histograms: a line each, such as age = 50, 60, 70"


def question(client: Client) -> Form:
    form = Form(client, QUESTION)
    QuestionForm(form.fields, {2: "two", 3: "three", 4: "four"}).build()
    return form


def test_histograms_are_a_line_for_each_column(client: Client) -> None:
    form = question(client)
    form.write(HISTOGRAMS, "age = 50, 60, 70\nbmi = 18.5, 25")
    asked = StatisticsRequest.model_validate(form.body)
    assert asked.histograms == {"age": [50, 60, 70], "bmi": [18.5, 25]}
    form.draft.replace({**form.body, "histograms": {"age": [1, 2]}})
    assert form.field(HISTOGRAMS).value == "age = 1, 2"
    form.write(HISTOGRAMS, "")
    assert "histograms" not in form.body


def test_a_readers_key_is_a_field_and_an_empty_one_is_none(client: Client) -> None:
    form = question(client)
    form.write(READER, public(LIN).upper())
    assert StatisticsRequest.model_validate(form.body).reader == public(LIN)
    form.write(READER, "")
    assert "reader" not in form.body


def test_what_is_ticked_and_not_wanted_after_all_is_no_field(client: Client) -> None:
    form = question(client)
    tick = form.text("Median and quartiles of numbers, too")
    tick.value = True
    assert StatisticsRequest.model_validate(form.body).quartiles is True
    # The API takes no false there.
    tick.value = False
    assert form.body == QUESTION
    form.draft.replace({**form.body, "quartiles": ["age"]})
    assert tick.value is True
    assert form.body["quartiles"] == ["age"]


def test_a_joined_question_asks_for_the_persons_number(client: Client) -> None:
    form = question(client)
    assert form.shows("Column that is computed")
    form.write("Method", "custom")
    assert form.shows("Column of the person's number")


def test_a_second_click_makes_no_second_order() -> None:
    """It comes while the first is still checked."""

    async def clicks() -> int:
        n_sent = 0
        may_go_on = asyncio.Event()

        @once_at_a_time
        async def send() -> None:
            nonlocal n_sent
            await may_go_on.wait()
            n_sent += 1

        first = asyncio.create_task(send())
        await asyncio.sleep(0)
        await send()
        may_go_on.set()
        await first
        assert n_sent == 1
        # When it has ended, the next click counts, and after a failure too.
        await send()
        return n_sent

    assert asyncio.run(clicks()) == 2


@pytest.mark.parametrize("found", [None, 3, "2", {"2": 1}, [None, "x"]])
def test_a_hospital_is_ticked_in_a_body_of_any_form(client: Client, found: Any) -> None:
    """People may have written anything into it by hand."""
    body = {
        **example_order(4, [2, 3]),
        "party_id": found,
        "data_info": found,
        "result_receivers": found,
        "data_providers": found,
    }
    form = Form(client, body)
    hospital = {"user_id": 2, "name": "two", "online": True, "policy": None}
    party = PartyFields(form.fields, hospital, {2: "two"})
    provider = ProviderFields(form.fields, "two")
    party.build()
    provider.build()
    party.set(is_in=True)
    provider.get(is_in=True)
    assert 2 in form.body["party_id"]
    assert "2" in form.body["data_info"]
    assert "two" in form.body["result_receivers"]
    party.set(is_in=False)
    provider.get(is_in=False)
    assert 2 not in form.body["party_id"]
    assert "2" not in form.body["data_info"]
    assert "two" not in form.body["result_receivers"]


@pytest.mark.parametrize("method", [*POOLED, *JOINED])
def test_a_method_shows_its_own_fields_alone(client: Client, method: str) -> None:
    form = question(client)
    form.write("Method", method)
    assert form.body["method"] == method
    assert form.shows(HISTOGRAMS) == (method == "describe")
    assert form.shows("Quantiles, from 0 to 1") == (method == "quantile")
    assert form.shows("For each group of (columns)") == (method in BY_GROUPS)


def test_what_no_agent_tells_is_said_beside_the_field() -> None:
    joint = {"model_params": {"baseline": "joint", "cluster": "hospital"}, "compare": 7}
    said = " ".join(order_estimates.cautions(joint))
    assert "risk_sets" in said
    assert "5 hospitals" in said
    assert "same rows" in said
    assert order_estimates.cautions({"model_params": 3}) == []
