"""`start_within_seconds` and `at_least`: what is wrong with them, what they are judged by,
and the document that names who takes part.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from agents.order import starting
from protocol.errors import ConsiliumError, ProtocolViolation, Refused
from protocol.foreseen import training_rules
from protocol.policy import Policy
from protocol.start_window import PartyDocument, digest_of, smallest
from protocol.statistics_request import (
    StatisticsRequest,
    parse_statistics_request,
    read_statistics_document,
    statistics_document,
)
from protocol.training_request import (
    TrainingRequest,
    order_document,
    parse_training_request,
    read_order_document,
)
from tests.made_sites import order_body

FIVE = (2, 3, 4, 5, 6)
WINDOW = {"start_within_seconds": 60, "at_least": 3}
NEWTON = {"optimizer": "newton", "eps": 1e-8, "max_iter": 25, "penalty": None}


def training(**changes: Any) -> TrainingRequest:
    params = {"model_params": {"encrypt_param": {"method": "Mask"}}}
    return parse_training_request(order_body(FIVE, **{**params, **WINDOW, **changes}))


def question(**changes: Any) -> StatisticsRequest:
    body = {
        "data_providers": [
            {
                "name": user,
                "data_path": "data.rows",
                "data_type": "table",
                "key_column": "x",
            }
            for user in FIVE
        ],
        "result_receivers": [2, 7],
        "method": "avg",
        "user_id": 2,
        **WINDOW,
        **changes,
    }
    return parse_statistics_request(body)


def params(**changes: Any) -> dict[str, Any]:
    return {"model_params": {**NEWTON, **changes}}


# The code, and a word of the sentence.
BAD_TRAINING: dict[str, tuple[dict[str, Any], str, str]] = {
    "no time": ({"start_within_seconds": 0}, "invalid_input", "greater than 0"),
    "a negative time": (
        {"start_within_seconds": -1},
        "invalid_input",
        "greater than 0",
    ),
    "longer than a week": (
        {"start_within_seconds": 604_801},
        "invalid_input",
        "less than or equal to 604800",
    ),
    "no number": ({"start_within_seconds": True}, "invalid_input", "number"),
    "one hospital": ({"at_least": 1}, "invalid_input", "greater than or equal to 2"),
    "half a hospital": ({"at_least": 2.5}, "invalid_input", "at_least"),
    "more than there are": ({"at_least": 6}, "at_least", "names 5 hospitals"),
    "no at_least": ({"at_least": None}, "at_least", "at_least is missing"),
    "no seconds": (
        {"start_within_seconds": None},
        "start_within_seconds",
        "start_within_seconds is missing",
    ),
    "method None": (
        {"model_params": {"encrypt_param": {"method": "None"}}},
        "start_within_seconds",
        "method None",
    ),
    "a comparison": (
        {**params(), "compare": 7},
        "start_within_seconds",
        "compare",
    ),
    "a rule that bears none": (
        {"aggregation": "multi_krum", "scoring": "round"},
        "aggregation",
        "With at_least 3",
    ),
    "as many attackers": (
        {"aggregation": "minimum_diameter", "n_attackers": 2, "scoring": "round"},
        "n_attackers",
        "With at_least 3",
    ),
    "a random intercept": (
        {"model_type": "linear", **params(site_effect="random")},
        "site_effect",
        "With at_least 3",
    ),
    "hospitals as clusters": (
        {"model_type": "glm", **params(family="poisson", cluster="hospital")},
        "cluster",
        "With at_least 3",
    ),
}


@pytest.mark.parametrize("what", BAD_TRAINING)
def test_a_training_order_that_cannot_be_started_so(what: str) -> None:
    changes, code, word = BAD_TRAINING[what]
    with pytest.raises(ConsiliumError) as caught:
        training(**changes)
    error = caught.value
    assert error.code == code, error
    assert word in error.sentence
    assert error.remedy


@pytest.mark.parametrize("what", BAD_TRAINING)
def test_the_remedy_of_each_is_taken(what: str) -> None:
    """To leave both fields out; what needs a number of hospitals has it of five."""
    changes, _, _ = BAD_TRAINING[what]
    neither = {**changes, "start_within_seconds": None, "at_least": None}
    assert training(**neither).at_least is None


BAD_QUESTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no at_least": ({"at_least": None}, "at_least", "at_least is missing"),
    "more than there are": ({"at_least": 7}, "at_least", "names 6 hospitals"),
    "nobody with rows": (
        {"result_receivers": [2, 7, 8, 9]},
        "at_least",
        "3 hospitals only receive",
    ),
    "joined rows": (
        {"method": "custom", "expression": "df1.x + df2.x"},
        "start_within_seconds",
        "joins the rows",
    ),
}


@pytest.mark.parametrize("what", BAD_QUESTIONS)
def test_a_question_that_cannot_be_started_so(what: str) -> None:
    changes, code, word = BAD_QUESTIONS[what]
    with pytest.raises(ConsiliumError) as caught:
        question(**changes)
    assert caught.value.code == code, caught.value
    assert word in caught.value.sentence
    assert caught.value.remedy


def test_a_schedule_waits_for_all() -> None:
    """Its last result would stand again for other hospitals."""
    asked = question()
    commitments = dict.fromkeys(FIVE, "0" * 64)
    once = statistics_document(1, asked, commitments)
    assert read_statistics_document(once, 1).request.at_least == 3
    scheduled = statistics_document(1, asked, commitments, schedule_id=4)
    with pytest.raises(ConsiliumError) as caught:
        read_statistics_document(scheduled, 1)
    assert caught.value.code == "start_within_seconds"


def test_the_fields_stand_in_the_document_where_they_say_something() -> None:
    commitments = dict.fromkeys(FIVE, "0" * 64)
    text = order_document(1, training(), commitments)
    read, _ = read_order_document(text, 1)
    assert (read.start_within_seconds, read.at_least) == (60, 3)
    plain = training(start_within_seconds=None, at_least=None)
    written = json.loads(order_document(1, plain, commitments))["request"]
    assert "at_least" not in written
    assert "start_within_seconds" not in written


# The order among those who take part


def test_an_order_among_some_is_the_one_that_asks_these() -> None:
    alone = parse_training_request(
        order_body((2, 4, 5), validation_fraction=0.2, attributes=["x1"])
    )
    among = training(validation_fraction=0.2, attributes=["x1"]).among([2, 4, 5])
    for name in TrainingRequest.model_fields:
        if name not in WINDOW:
            assert getattr(among, name) == getattr(alone, name), name
    assert among.hospitals == [2, 4, 5]
    assert among.study == alone.study


def test_a_question_among_some_keeps_nothing_of_the_others() -> None:
    asked = question()
    _ = asked.rows
    among = asked.among([2, 4, 5])
    assert (among.providers, among.receivers) == ((2, 4, 5), (2,))
    assert "rows" not in vars(among), "computed of all providers"
    for parties, word in (([7], "no provider"), ([3, 4, 5], "no receiver")):
        with pytest.raises(ConsiliumError) as caught:
            asked.among(parties)
        assert caught.value.code == "too_few_accepted"
        assert word in caught.value.sentence


@pytest.mark.parametrize(("least", "is_refused"), [(3, True), (4, False), (5, False)])
def test_a_policy_judges_the_fewest(least: int, is_refused: bool) -> None:
    policy = Policy.model_validate(
        {
            "orders": {
                "initiators": list(FIVE),
                "methods": ["Mask"],
                "model_types": ["lr"],
                "min_hospitals": 4,
                "sign": True,
            },
            "tables": {"data.rows": {"columns": ["*"]}},
        }
    )
    refused = set()
    for rule in training_rules(policy, training(at_least=least), own_user_id=3):
        try:
            rule.check()
        except Refused as error:
            refused.add(error.code)
    assert ("min_hospitals" in refused) == is_refused


def test_the_fewest_have_the_initiator_among_them() -> None:
    assert smallest([2, 3, 4, 5], 5, 2) == [2, 5]
    assert smallest([2, 3, 4, 5], 2, 4) == [2, 3, 4, 5]
    # Of three who may be there one only receives.
    assert question(at_least=3).least_providers == 2
    plain = question(start_within_seconds=None, at_least=None)
    assert plain.least_providers == 5


# The document


def test_a_party_has_one_spelling() -> None:
    document = PartyDocument(b"o" * 32, {4: digest_of(b"4"), 2: digest_of(b"2")})
    text = document.encode()
    assert PartyDocument.decode(text) == document
    assert document.hospitals == [2, 4]
    two, four = json.loads(text)["acceptances"]
    order = "6f" * 32
    for acceptances in (
        [four, two],
        [two, two, four],
        [[True, two[1]], four],
        [["2", two[1]], four],
        [[2.0, two[1]], four],
        [[2, two[1].upper()], four],
        [[2, "00"], four],
        [[2], four],
        [2, four],
        "2",
    ):
        fields = {"acceptances": acceptances, "order": order}
        body = json.dumps(fields, separators=(",", ":")).encode()
        with pytest.raises(ProtocolViolation) as caught:
            PartyDocument.decode(body)
        assert caught.value.code == "bad_message"


# The time


class Clocks:
    """Those of a machine, as `time` has them."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_000_000.0, 500.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


class Kept:
    """A vault that keeps what it is given first."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def once(self, name: str, make: Any) -> bytes:
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]


def test_no_restart_gives_an_order_its_time_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks = Clocks()
    monkeypatch.setattr(starting, "time", clocks)
    request = SimpleNamespace(start_within_seconds=60)
    order: Any = SimpleNamespace(request=request, store=Kept(), is_initiator=True)
    starting.open_window(order)
    clocks.pass_(20)
    left = starting._seconds_left(order)
    assert left() == pytest.approx(40)
    # A clock that is put right while it waits changes nothing.
    clocks.wall += 3600
    assert left() == pytest.approx(40)
    clocks.wall -= 3600
    clocks.pass_(10)
    # Another process, which begins with the order anew.
    starting.open_window(order)
    assert starting._seconds_left(order)() == pytest.approx(30)
    # The machine was started anew, and its steady clock with it.
    clocks.pass_(5)
    clocks.steady = 1.0
    assert starting._seconds_left(order)() == pytest.approx(25)
    # The wall's clock was put back.
    clocks.wall, clocks.steady = 10.0, 555.0
    assert starting._seconds_left(order)() == pytest.approx(5)
