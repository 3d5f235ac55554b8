"""What is said of a request's malformed fields: all at once, each with the field, the
problem and what to write instead.
"""

from __future__ import annotations

from typing import Any

import pytest

from protocol.errors import BadRequest, InvalidInput
from protocol.statistics_request import parse_statistics_request
from protocol.training_request import TrainingRequest, parse_training_request

ORDER: dict[str, Any] = {
    "user_id": 2,
    "model_type": "lr",
    "party_id": [3],
    "data_info": {"2": "SELECT 1", "3": "SELECT 1"},
    "unique_id": "id",
    "attributes": ["age"],
    "label_name": "y",
}


def said(body: dict[str, Any]) -> str:
    with pytest.raises(InvalidInput) as raised:
        parse_training_request(body)
    return raised.value.sentence


def of_params(**params: Any) -> dict[str, Any]:
    return {**ORDER, "model_params": params}


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("C", "1 / (alpha * rows)"),
        ("solver", "optimizer"),
        ("epochs", "max_iter"),
        ("lr", "learning_rate"),
        ("random_state", "random_seed"),
        ("max_itr", "Did you mean max_iter?"),
        ("random_seed", "stands in init_param"),
    ],
)
def test_an_unknown_field_is_told_what_it_is_called_here(name: str, here: str) -> None:
    sentence = said(of_params(**{name: 1}))
    assert sentence.startswith(f"model_params.{name}: ")
    assert here in sentence
    assert "There are penalty, optimizer, eps" in sentence


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("sql", "data_path here, in data_providers"),
        ("hospitals", "data_providers and result_receivers"),
        ("where", "the SQL of data_providers"),
        ("statistic", "it is method here"),
    ],
)
def test_a_question_s_unknown_field_is_told_what_it_is_called_there(
    name: str, here: str
) -> None:
    with pytest.raises(BadRequest) as raised:
        parse_statistics_request({"method": "avg", name: 1})
    assert here in raised.value.sentence


def test_a_field_that_is_known_further_in_is_told_where_it_stands() -> None:
    assert "alpha: stands in model_params." in said({**ORDER, "alpha": 0.1})


def test_all_unknown_fields_and_all_other_mistakes_are_told_at_once() -> None:
    params = {"C": 1, "epochs": 2, "max_iter": "many"}
    sentence = said({**ORDER, "target": "y", "user_id": True, "model_params": params})
    for place in (
        "user_id",
        "target",
        "model_params.C",
        "model_params.epochs",
        "model_params.max_iter",
    ):
        assert f"{place}: " in sentence


def test_of_very_many_mistakes_the_first_are_told_and_how_many_more() -> None:
    strange = {f"field_{i}": 1 for i in range(30)}
    assert said({**ORDER, **strange}).endswith("; and 10 more.")


def test_what_was_sent_stands_in_no_sentence() -> None:
    sentence = said({**ORDER, "user_id": "Jane Doe", "purpose": ["Jane Doe"]})
    assert "Jane" not in sentence


def test_null_is_a_field_s_default() -> None:
    nulls = {
        name: None
        for name, field in TrainingRequest.model_fields.items()
        if not field.is_required()
    }
    assert parse_training_request({**ORDER, **nulls}) == parse_training_request(ORDER)
    params = of_params(max_iter=None, init_param={"init_const": None}, cv_param=None)
    assert parse_training_request(params) == parse_training_request(ORDER)


def test_null_is_no_penalty_and_no_encryption() -> None:
    order = parse_training_request(
        of_params(penalty=None, encrypt_param={"method": None})
    )
    assert order.model_params.penalty is None
    assert order.model_params.encrypt_param.method == "None"


def test_a_sentence_is_not_wrapped_in_another_library_s_words() -> None:
    provider = {
        "name": 2,
        "data_path": "a.csv",
        "data_type": "csv",
        "key_column": "age",
    }
    body = {
        "user_id": 2,
        "data_providers": [{**provider, "name": True}, provider],
        "result_receivers": [2],
        "method": "avg",
    }
    with pytest.raises(BadRequest) as raised:
        parse_statistics_request(body)
    assert "Value error" not in raised.value.sentence
    assert "must be a user id" in raised.value.sentence
