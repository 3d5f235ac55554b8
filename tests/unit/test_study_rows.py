"""The three fields that say which rows a study has: read and checked together."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.errors import BadRequest, ConsiliumError, InvalidInput
from protocol.training_request import (
    TrainingRequest,
    order_document,
    parse_training_request,
    read_order_document,
)
from tests.made_sites import order_body

STUDY: dict[str, Any] = {
    "attributes": ["age", "cp", "sex", "log_chol", "old", "age_ns"],
    "categorical": {"cp": {"reference": 4}, "sex": {}},
    "derive": {
        "log_chol": "ln(chol)",
        "old": "age >= 65",
        "age_ns": "ns(age, 30, 50, 70)",
    },
    "missing": "mean",
}


def request_of(**fields: Any) -> TrainingRequest:
    return parse_training_request(order_body([2, 3, 4], **fields))


def refused(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        request_of(**fields)
    return caught.value


def document_of(request: TrainingRequest) -> str:
    return order_document(1, request, dict.fromkeys(request.hospitals, "digest"))


def test_the_columns_that_must_be_read() -> None:
    study = request_of(**STUDY, complete_on=["bp", "log_chol"]).study
    assert study.plain == ("age", "cp", "sex", "chol")
    assert study.read == ("age", "cp", "sex", "chol", "bp")
    assert study.categorical == {"cp": 4, "sex": None}
    assert study.knots("age_ns") == (30.0, 50.0, 70.0)
    assert study.knots("old") == ()


def test_a_document_keeps_the_fields() -> None:
    request = request_of(**STUDY)
    read, _ = read_order_document(document_of(request), 1)
    assert read.study == request.study


def test_a_document_without_the_fields_does_not_name_them() -> None:
    document = document_of(request_of(categorical={}, derive={}, missing="refuse"))
    assert document == document_of(request_of())
    for name in ("categorical", "derive", "missing"):
        assert name not in document


def test_derived_columns_may_be_steps_of_others() -> None:
    study = request_of(
        attributes=["risk"], derive={"risk": "double + 1", "double": "2 * x"}
    ).study
    assert study.plain == ("x",)
    assert study.in_order == ["double", "risk"]


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"categorical": {"x9": {}}}, "categorical", "does not list"),
        ({"derive": {"new": "x1 + 1"}}, "derive", "does not list"),
        (
            {"categorical": {"x1": {}}, "derive": {"x1": "x2 + 1"}},
            "categorical",
            "stands in categorical and in derive",
        ),
        ({"derive": {"x1": "x1 / 10"}}, "derive", "name of a column that it uses"),
        ({"derive": {"x1": "x2 + 1", "x2": "x1 + 1"}}, "derive", "in a circle: x1, x2"),
        ({"derive": {"x1": "x9("}}, "derive", "derive.x1"),
        (
            {"attributes": ["AGE"], "derive": {"AGE": "age / 10"}},
            "derive",
            "by case alone",
        ),
        ({"derive": {"x1": "round_up(x2)"}}, "derive", "calls round_up"),
        ({"derive": {"x1": "y + x2"}}, "derive", "uses the label_name"),
        ({"derive": {"x1": "id + x2"}}, "derive", "uses the unique_id"),
        ({"derive": {"y": "x1 + x2"}}, "derive", "which is the label_name"),
        ({"categorical": {"y": {}}}, "categorical", "which is the label_name"),
        (
            {"derive": {"x1": "ns(x2, 1, 2)", "x3": "x1 + 1"}},
            "derive",
            "a spline of several columns",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(
    fields: dict[str, Any], code: str, says: str
) -> None:
    error = refused(**fields)
    assert error.code == code
    assert says in error.sentence
    assert error.remedy


def test_all_that_is_wrong_is_said_at_once() -> None:
    error = refused(
        categorical={"x9": {}}, derive={"x1": "f(x2)", "x2": "x2 + 1", "z": "x3"}
    )
    for part in ("x9", "derive.x1", "derive.x2", "names z"):
        assert part in error.sentence
    codes = {reason["code"] for reason in error.detail["reasons"]}
    assert codes == {"categorical", "derive"}


@pytest.mark.parametrize(
    "fields",
    [
        {"categorical": {"x1": {"reference": [1]}}},
        {"categorical": {"x1": {"reference": float("inf")}}},
        {"categorical": {"x1": {"levels": [1]}}},
        {"categorical": ["x1"]},
        {"derive": {"x1": 3}},
        {"derive": {"": "x2"}},
        {"missing": "median"},
    ],
)
def test_what_is_no_such_field_is_malformed(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        request_of(**fields)


def test_pixels_have_no_categories() -> None:
    pixels = [f"p{number}" for number in range(16)]
    with pytest.raises(ConsiliumError) as caught:
        request_of(
            model_type="cnn",
            attributes=pixels,
            model_params={"shape": [4, 4]},
            categorical={"p0": {}},
        )
    assert caught.value.code == "model_type"
