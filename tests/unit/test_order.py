"""The training order: every field as the request document writes it, and a sentence for
everything that cannot be.
"""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import BadRequest, ConsiliumError, InvalidInput
from protocol.training_request import (
    TrainingRequest,
    order_document,
    parse_training_request,
    read_order_document,
)
from protocol.versions import protocol_of_document

DOCUMENT: dict[str, Any] = {
    "user_id": 4,
    "model_type": "lr",
    "model_params": {
        "penalty": "L2",
        "optimizer": "sgd",
        "eps": 1e-4,
        "alpha": 0.01,
        "max_iter": 10,
        "converge_func": "diff",
        "batch_size": 500,
        "learning_rate": 0.15,
        "decay": 1,
        "decay_sqrt": True,
        "init_param": {"init_method": "zeros"},
        "encrypt_param": {"method": "Paillier"},
        "cv_param": {"need_cv": False},
    },
    "party_id": [2, 3],
    "data_info": {
        "4": "SELECT * FROM data.breast_homo_guest;",
        "2": "SELECT * FROM data.breast_homo_host;",
        "3": "SELECT * FROM data.breast_homo_host;",
    },
    "unique_id": "id",
    "attributes": ["x1", "x2", "x3", "x4"],
    "label_name": "y",
}
COMMITMENTS = {user: f"{user:064x}" for user in (2, 3, 4)}
MARK = "PATIENT447"


def with_field(path: str, value: Any) -> dict[str, Any]:
    """The request document's order with one field replaced or added."""
    body = copy.deepcopy(DOCUMENT)
    *folders, name = path.split(".")
    place = body
    for folder in folders:
        place = place.setdefault(folder, {})
    place[name] = value
    return body


def without_field(name: str) -> dict[str, Any]:
    return {key: value for key, value in DOCUMENT.items() if key != name}


def params(name: str, value: Any) -> Any:
    return parse_training_request(
        with_field(f"model_params.{name}", value)
    ).model_params


# What is accepted


def test_the_request_document_s_order() -> None:
    request = parse_training_request(DOCUMENT)
    assert (request.user_id, request.party_id, request.hospitals) == (
        4,
        [2, 3],
        [2, 3, 4],
    )
    assert request.sql_of(2) == {"train": "SELECT * FROM data.breast_homo_host;"}
    found = request.model_params
    assert (found.penalty, found.optimizer, found.tolerance, found.convergence) == (
        "L2",
        "sgd",
        1e-4,
        "diff",
    )
    assert (found.alpha, found.max_iter, found.batch_size, found.learning_rate) == (
        0.01,
        10,
        500,
        0.15,
    )
    assert (found.decay, found.decay_sqrt, found.init_param.init_method) == (
        1.0,
        True,
        "zeros",
    )
    assert (
        found.encrypt_param.method,
        found.encrypt_param.key_length,
        found.cv_param.need_cv,
    ) == (
        "Paillier",
        2048,
        False,
    )


def test_ids_are_numbers_or_the_same_as_strings() -> None:
    body = {**DOCUMENT, "user_id": "4", "party_id": ["2", " 3 "]}
    assert parse_training_request(body) == parse_training_request(DOCUMENT)


def test_what_is_left_out_has_the_documented_default() -> None:
    found = parse_training_request(without_field("model_params")).model_params
    assert (found.tolerance, found.convergence, found.encrypt_param.method) == (
        1e-4,
        "diff",
        "Paillier",
    )
    assert (
        found.init_param.fit_intercept,
        found.cv_param.n_splits,
        found.cv_param.random_seed,
    ) == (
        True,
        5,
        1,
    )


@pytest.mark.parametrize("name", ["eps", "tol"])
def test_tol_is_eps(name: str) -> None:
    body = copy.deepcopy(DOCUMENT)
    del body["model_params"]["eps"]
    body["model_params"][name] = 0.25
    assert parse_training_request(body).model_params.tolerance == 0.25


@pytest.mark.parametrize("name", ["converge_func", "early_stop"])
@pytest.mark.parametrize("value", ["diff", "abs", "weight_diff", "Weight_Diff"])
def test_early_stop_is_converge_func(name: str, value: str) -> None:
    body = copy.deepcopy(DOCUMENT)
    del body["model_params"]["converge_func"]
    body["model_params"][name] = value
    assert parse_training_request(body).model_params.convergence == value.lower()


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [("eps", "tol", 0.5), ("converge_func", "early_stop", "abs")],
)
def test_both_names_may_stand_when_they_agree(
    first: str, second: str, value: Any
) -> None:
    body = with_field(f"model_params.{first}", value)
    body["model_params"][second] = value
    parse_training_request(body)
    del body["model_params"][first]
    body["model_params"][first] = 0.125 if first == "eps" else "diff"
    with pytest.raises(InvalidInput, match=f"{first} and {second}"):
        parse_training_request(body)


@pytest.mark.parametrize("value", ["L1", "l1"])
def test_words_in_any_case(value: str) -> None:
    assert params("penalty", value).penalty == "L1"
    assert parse_training_request({**DOCUMENT, "model_type": "LR"}).model_type == "lr"
    assert (
        params("encrypt_param", {"method": "paillier"}).encrypt_param.method
        == "Paillier"
    )


@pytest.mark.parametrize("value", [None, "None", "none", "null", ""])
def test_no_penalty(value: Any) -> None:
    assert params("penalty", value).penalty is None


@pytest.mark.parametrize("value", [None, "None", "none"])
def test_no_encryption_is_a_choice_that_has_to_be_written(value: Any) -> None:
    assert params("encrypt_param", {"method": value}).encrypt_param.method == "None"
    assert params("encrypt_param", {}).encrypt_param.method == "Paillier"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[("model_type", kind) for kind in ("lr", "linear", "softmax")],
        *[
            ("model_params.optimizer", name)
            for name in ("sgd", "nesterov_momentum_sgd", "adam", "rmsprop", "adagrad")
        ],
        *[
            ("model_params.init_param.init_method", name)
            for name in ("zeros", "ones", "const", "random_normal", "random_uniform")
        ],
        *[
            ("model_params.encrypt_param.key_length", bits)
            for bits in (2048, 3072, 4096)
        ],
        ("model_params.encrypt_param.method", "Mask"),
        (
            "model_params.init_param",
            {
                "init_method": "const",
                "init_const": -2.5,
                "random_seed": 1,
                "fit_intercept": True,
            },
        ),
        ("model_params.init_param.random_seed", 0),
        ("model_params.init_param.fit_intercept", False),
        ("model_params.batch_size", -1),
        ("model_params.batch_size", 1),
        ("model_params.max_iter", 1),
        ("model_params.max_iter", 10_000),
        ("model_params.eps", 0),
        ("model_params.decay", 0),
        ("model_params.decay_sqrt", False),
        ("model_params.standardize", True),
        (
            "model_params.cv_param",
            {"need_cv": True, "n_splits": 2, "shuffle": False, "random_seed": 7},
        ),
        ("test_data_info", {"2": "SELECT * FROM data.breast_homo_test"}),
        ("validation_fraction", 0.2),
        ("purpose", "\u4f1a\u8bca"),
        ("party_id", [3, 2]),
    ],
)
def test_every_field_of_the_mathematics_is_accepted(path: str, value: Any) -> None:
    found: Any = parse_training_request(with_field(path, value))
    for name in path.split("."):
        found = getattr(found, name)
    shown = found.model_dump() if hasattr(found, "model_dump") else found
    assert shown == ({2: value["2"]} if path == "test_data_info" else value)


# What is refused

INVALID = [
    ("user_id", 1),
    ("user_id", 0),
    ("user_id", -4),
    ("user_id", 4.0),
    ("user_id", True),
    ("user_id", None),
    ("user_id", 2**31),
    ("user_id", 10**5000),
    ("user_id", "4" * 5000),
    ("user_id", "\u0664"),
    ("user_id", "4a"),
    ("user_id", [4]),
    ("party_id", 2),
    ("party_id", [2, "x"]),
    ("party_id", [2, None]),
    ("party_id", list(range(2, 1003))),
    ("model_type", MARK),
    ("model_type", None),
    ("model_params", []),
    ("model_params", MARK),
    ("model_params.penalty", "L3"),
    ("model_params.penalty", 2),
    ("model_params.optimizer", MARK),
    ("model_params.eps", -1e-9),
    ("model_params.eps", float("nan")),
    ("model_params.eps", float("inf")),
    ("model_params.eps", "NaN"),
    ("model_params.eps", "-Infinity"),
    ("model_params.eps", True),
    ("model_params.eps", 10**400),
    ("model_params.eps", MARK),
    ("model_params.tol", float("nan")),
    ("model_params.alpha", -0.1),
    ("model_params.alpha", 1e7),
    ("model_params.max_iter", 0),
    ("model_params.max_iter", -1),
    ("model_params.max_iter", 10_001),
    ("model_params.max_iter", 10**400),
    ("model_params.max_iter", 1e300),
    ("model_params.max_iter", 2.5),
    ("model_params.max_iter", True),
    ("model_params.max_iter", float("inf")),
    ("model_params.converge_func", MARK),
    ("model_params.early_stop", MARK),
    ("model_params.batch_size", -2),
    ("model_params.batch_size", 2**32),
    ("model_params.learning_rate", 0),
    ("model_params.learning_rate", -0.15),
    ("model_params.learning_rate", float("inf")),
    ("model_params.learning_rate", False),
    ("model_params.decay", -1),
    ("model_params.decay_sqrt", MARK),
    ("model_params.decay_sqrt", 2),
    ("model_params.bound", 0.5),
    ("model_params.bound", 2.0**41),
    ("model_params.init_param", MARK),
    ("model_params.init_param.init_method", "xavier"),
    ("model_params.init_param.init_const", float("nan")),
    ("model_params.init_param.random_seed", -1),
    ("model_params.init_param.random_seed", 2**63),
    ("model_params.encrypt_param.method", "RSA"),
    ("model_params.encrypt_param.method", 5),
    ("model_params.cv_param.n_splits", 1),
    ("model_params.cv_param.n_splits", 51),
    ("model_params.cv_param.need_cv", "perhaps"),
    ("model_params.cv_param.random_seed", -1),
    ("data_info", [MARK]),
    ("data_info", {"2": 5, "3": "s", "4": "s"}),
    ("data_info", {"2": "", "3": "s", "4": "s"}),
    ("data_info", {"2": MARK * 2001, "3": "s", "4": "s"}),
    ("data_info", {"2": "s", "3": "s", "4": "s", "04": "s"}),
    ("data_info", {MARK: "s"}),
    ("data_info", {"\ud800": "s"}),
    ("test_data_info", {"2": "s", "02": "s"}),
    ("validation_fraction", 0),
    ("validation_fraction", 1),
    ("validation_fraction", float("nan")),
    ("validation_fraction", True),
    ("unique_id", ""),
    ("unique_id", None),
    ("unique_id", "i" * 201),
    ("unique_id", "\ud800"),
    ("attributes", []),
    ("attributes", ["x1", ""]),
    ("attributes", "x1"),
    ("attributes", ["x1", 2]),
    ("attributes", [f"x{i}" for i in range(10_001)]),
    ("label_name", 5),
    ("purpose", "p" * 501),
]


@pytest.mark.parametrize(
    ("path", "value"),
    INVALID,
    ids=[f"{path}-{number}" for number, (path, _) in enumerate(INVALID)],
)
def test_a_malformed_field_is_named_and_not_echoed(path: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_training_request(with_field(path, value))
    error = caught.value
    assert path in error.sentence
    assert any(field.startswith(path) for field in error.detail["fields"])
    assert error.remedy
    assert MARK not in str(error)
    assert len(str(error)) < 1000
    str(error).encode()


@pytest.mark.parametrize("bits", [0, 512, 1024, 2047, 2049, 8192, 2**40])
def test_a_short_key_is_refused_with_those_that_are_allowed(bits: int) -> None:
    with pytest.raises(
        InvalidInput, match="key_length must be one of 2048, 3072, 4096"
    ):
        params("encrypt_param", {"method": "Paillier", "key_length": bits})


def test_a_batch_of_no_rows_is_refused() -> None:
    with pytest.raises(InvalidInput, match="batch_size must be -1"):
        params("batch_size", 0)


@pytest.mark.parametrize(
    "path",
    [
        "extra",
        "data_infos",
        "model_params.epsilon",
        "model_params.init_param.seed",
        "model_params.encrypt_param.bits",
        "model_params.cv_param.folds",
    ],
)
def test_an_unknown_field_is_refused_never_ignored(path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_training_request(with_field(path, MARK))
    assert path in caught.value.sentence
    assert MARK not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "user_id",
        "model_type",
        "party_id",
        "data_info",
        "unique_id",
        "attributes",
        "label_name",
    ],
)
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name}: Field required"):
        parse_training_request(without_field(name))


def test_long_or_unprintable_names_are_not_echoed_whole() -> None:
    for name in ("k" * 10_000, "a\nb", "\x1b[31m", "\u202e"):
        with pytest.raises(InvalidInput) as caught:
            parse_training_request({**DOCUMENT, name: 1})
        assert len(caught.value.sentence) < 400
        assert caught.value.sentence.isprintable()


@pytest.mark.parametrize("body", [None, [], "text", 5, True, {}])
def test_a_body_that_is_no_order_is_refused(body: Any) -> None:
    with pytest.raises(InvalidInput):
        parse_training_request(body)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"party_id": [2, 3, 4]}, "party_id"),
        ({"party_id": [2, 3, "2"]}, "party_id"),
        ({"party_id": [2]}, "data_info"),
        ({"party_id": [2, 3, 5]}, "data_info"),
        ({"data_info": {"4": MARK, "2": MARK}}, "data_info"),
        ({"test_data_info": {"9": MARK}}, "test_data_info"),
        ({"attributes": [MARK, MARK]}, "attributes"),
        ({"attributes": ["x1", "id"]}, "attributes"),
        ({"attributes": ["x1", "y"]}, "attributes"),
        ({"label_name": "id"}, "label_name"),
        (
            {"validation_fraction": 0.2, "test_data_info": {"2": MARK}},
            "validation_fraction",
        ),
        (
            {
                "validation_fraction": 0.2,
                "model_params": {"cv_param": {"need_cv": True}},
            },
            "validation_fraction",
        ),
    ],
)
def test_a_combination_that_cannot_be_honoured_is_refused(
    changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_training_request({**DOCUMENT, **changes})
    assert caught.value.code == code
    assert code in caught.value.sentence
    assert caught.value.remedy
    assert MARK not in str(caught.value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["4", "lr", 2, 3, 4, 1e400]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_an_order_or_an_error_with_a_sentence(body: Any) -> None:
    with pytest.raises(ConsiliumError):
        parse_training_request(body)


FIELDS = sorted(TrainingRequest.model_fields)
PARAMETERS = sorted(parse_training_request(DOCUMENT).model_params.model_dump())


@given(
    st.sampled_from([*FIELDS, *(f"model_params.{name}" for name in PARAMETERS)]), JSON
)
def test_any_json_in_any_field_is_taken_or_refused(path: str, value: Any) -> None:
    with contextlib.suppress(ConsiliumError):
        request = parse_training_request(with_field(path, value))
        order_document(1, request, dict.fromkeys(request.hospitals, "c"))


# The document


def test_the_document_comes_back_without_sql() -> None:
    request = parse_training_request(
        {**DOCUMENT, "test_data_info": {"3": "SELECT 3"}, "purpose": "\u4f1a\u8bca"}
    )
    text = order_document(37, request, COMMITMENTS, rerun_of=36)
    assert "SELECT" not in text
    found, commitments = read_order_document(text, 37)
    assert commitments == COMMITMENTS
    assert found.model_copy(
        update={"data_info": {}, "test_data_info": {}}
    ) == request.model_copy(update={"data_info": {}, "test_data_info": {}})
    assert sorted(found.data_info) == [2, 3, 4]
    assert sorted(found.test_data_info) == [3]
    assert order_document(37, found, commitments, rerun_of=36) == text


def test_one_order_has_one_text() -> None:
    shuffled = {key: DOCUMENT[key] for key in reversed(DOCUMENT)}
    shuffled["model_params"] = dict(reversed(DOCUMENT["model_params"].items()))
    shuffled |= {"user_id": "4", "party_id": ["2", "3"]}
    texts = {
        order_document(37, parse_training_request(body), dict(commitments))
        for body in (DOCUMENT, shuffled, json.loads(json.dumps(DOCUMENT)))
        for commitments in (COMMITMENTS, reversed(COMMITMENTS.items()))
    }
    assert len(texts) == 1


@pytest.mark.parametrize(("protocol", "version"), [(2, 1), (3, 3)])
def test_the_committed_text_of_the_document_s_order(
    protocol: int, version: int
) -> None:
    """Signatures cover these bytes: a change here is a change of the protocol's
    number.
    """
    request = parse_training_request(DOCUMENT)
    assert order_document(37, request, COMMITMENTS, protocol=protocol) == (
        '{"kind":"train","order_id":37,"request":{"attributes":["x1","x2","x3","x4"],"label_name":"y",'
        '"model_params":{"alpha":0.01,"batch_size":500,"bound":1048576.0,"converge_func":"diff",'
        '"cv_param":{"n_splits":5,"need_cv":false,"random_seed":1,"shuffle":true},"decay":1.0,"decay_sqrt":true,'
        '"early_stop":null,"encrypt_param":{"key_length":2048,"method":"Paillier"},"eps":0.0001,'
        '"init_param":{"fit_intercept":true,"init_const":1.0,"init_method":"zeros","random_seed":1},'
        '"learning_rate":0.15,"max_iter":10,"optimizer":"sgd","penalty":"L2","standardize":false,"tol":null},'
        '"model_type":"lr","party_id":[2,3],"purpose":"","unique_id":"id","user_id":4,"validation_fraction":null},'
        '"rerun_of":null,"sql":{"2":"'
        + COMMITMENTS[2]
        + '","3":"'
        + COMMITMENTS[3]
        + '","4":"'
        + COMMITMENTS[4]
        + '"},'
        f'"tested":[],"version":{version}}}'
    )


def changed(**changes: Any) -> str:
    document = json.loads(
        order_document(37, parse_training_request(DOCUMENT), COMMITMENTS)
    )
    return json.dumps({**document, **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "5",
        "[" * 100_000,
        changed(version=2),
        changed(kind="infer"),
        changed(order_id=38),
        changed(order_id="37"),
        changed(request=[]),
        changed(request=None),
        changed(request=[["a", 1, 2]]),
        changed(sql=[]),
        changed(sql={"x": ""}),
        changed(sql={"2": "", "3": ""}),
        changed(sql={"2": "", "3": "", "4": "", "5": ""}),
        changed(tested=["x"]),
        changed(tested=[9]),
        changed(tested=None),
        changed(request={**json.loads(changed())["request"], "party_id": [2, 3, 4]}),
        changed(request={**json.loads(changed())["request"], "unknown": 1}),
    ],
)
def test_a_hospital_believes_no_document(text: str) -> None:
    with pytest.raises(ConsiliumError):
        believe(text)


def believe(text: str) -> None:
    """As a hospital does: in which number it is written, then what it asks."""
    protocol_of_document(text)
    read_order_document(text, 37)


@given(
    JSON
    | st.fixed_dictionaries(
        {"request": JSON, "sql": JSON, "tested": JSON, "version": st.just(1)}
    )
)
def test_any_document_is_read_or_refused(value: Any) -> None:
    with pytest.raises(ConsiliumError):
        read_order_document(json.dumps(value), 37)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("init_param", {"init_method": "zeros", "init_const": 2.0}, "init_const"),
        ("encrypt_param", {"method": "Mask", "key_length": 4096}, "key_length"),
        ("encrypt_param", {"method": "None", "key_length": 3072}, "key_length"),
    ],
)
def test_a_value_that_would_have_no_effect_is_refused(
    name: str, value: Any, code: str
) -> None:
    with pytest.raises(BadRequest, match="Leave it out") as caught:
        params(name, value)
    assert caught.value.code == code
