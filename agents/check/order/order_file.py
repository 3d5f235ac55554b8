"""The file of an order: the body of a request, as it would be sent to the coordinator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from protocol.errors import BadRequest, NotFound
from protocol.inference_request import InferRequest, parse_infer_request
from protocol.statistics_request import (
    StatisticsRequest,
    parse_statistics_request,
    resolve,
)
from protocol.training_request import TrainingRequest, parse_training_request

MOST_BYTES = 2**22
"""Four times what a coordinator takes unless its operator says otherwise."""

Asked = TrainingRequest | StatisticsRequest | InferRequest

# The fields that a body of one kind has and those of the others have not.
_TRAINING = frozenset({"data_info", "party_id", "model_type", "attributes"})
_STATISTICS = frozenset({"data_providers", "result_receivers", "method"})
_PREDICTIONS = frozenset({"input_data", "model_id"})


def read_order(path: Path, *, user: int | None, names: dict[int, str]) -> Asked:
    """The order in a file, with user ids in place of names.

    user: who would ask; None for whom the body names. names: of the hospitals that this
    one knows.

    Raises BadRequest (code order_file) for what is no order, and as the coordinator
    would for a field that is wrong.
    """
    order_body = _read_body(path)
    field_names = order_body.keys()
    n_training = len(_TRAINING & field_names)
    n_statistics = len(_STATISTICS & field_names)
    n_predictions = len(_PREDICTIONS & field_names)
    most_fields = max(n_training, n_statistics, n_predictions)
    if most_fields == 0:
        raise _no_order(
            f"{path} has no field of an order.",
            "Give the body of POST /model/train, /runModelTrainTask or /model/infer, as docs/api.md has them.",
        )
    if n_training == most_fields:
        training = parse_training_request(order_body)
        _check_user(user, training.user_id)
        return training
    if n_statistics == most_fields:
        return _resolved(parse_statistics_request(order_body), user, names)
    predictions = parse_infer_request(order_body)
    _check_user(user, predictions.input_data.user_id)
    return predictions


def no_part(user_id: int, hospitals: list[int]) -> BadRequest:
    """The error of an order that asks nothing of this hospital."""
    hospital_list = ", ".join(map(str, hospitals))
    return _no_order(
        f"The order is for hospitals {hospital_list}, and this is hospital {user_id}.",
        "Check it at a hospital that takes part.",
    )


def _read_body(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            # One more tells that there are more, however large the file is.
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise _no_order(
            f"{path} cannot be read ({type(error).__name__}).",
            "Give the path of a file with the order's JSON.",
        ) from None
    if len(content) > MOST_BYTES:
        raise _no_order(
            f"{path} has more than {MOST_BYTES} bytes.",
            "Give the body of one request; data are no part of it.",
        )
    try:
        # Also in UTF-16 and with a byte order mark, as the coordinator reads a body.
        body = json.loads(content)
    except UnicodeDecodeError:
        raise _no_order(f"{path} is not UTF-8.", "Save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise _no_order(
            f"{path} is no JSON: line {error.lineno}, column {error.colno}.",
            "Correct it there.",
        ) from None
    except (ValueError, RecursionError):  # a number of thousands of digits; nesting
        raise _no_order(
            f"{path} is no JSON that can be read.",
            "Shorten its numbers and its nesting.",
        ) from None
    if not isinstance(body, dict):
        raise _no_order(
            f"{path} holds no JSON object.", "Write the body of one request: {...}."
        )
    return body


def _check_user(user: int | None, named: int) -> None:
    if user not in (None, named):
        raise _no_order(
            f"The order is asked for by hospital {named}, and --user is {user}.",
            "Leave --user out.",
        )


def _resolved(
    request: StatisticsRequest, user: int | None, names: dict[int, str]
) -> StatisticsRequest:
    if request.user_id is not None:
        _check_user(user, request.user_id)
    initiator = request.user_id if user is None else user
    if initiator is None:
        raise _no_order(
            "The order does not say who asks.",
            "Add --user with the hospital whose user would send it.",
        )
    known_names = dict(names)
    named = [provider.name for provider in request.data_providers]
    for party in [*named, *request.result_receivers]:
        # A number needs no name, and whether it is pinned is a finding.
        if isinstance(party, int):
            known_names.setdefault(party, str(party))
    try:
        return resolve(request, known_names, initiator=initiator)
    except NotFound as error:
        raise _no_order(
            error.sentence,
            "Write its number, or the name that settings.toml has under [[partners]].",
        ) from None


def _no_order(sentence: str, remedy: str) -> BadRequest:
    return BadRequest(sentence, remedy=remedy, code="order_file")
