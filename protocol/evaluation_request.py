"""What POST /model/evaluate asks, and the order that is made of it.

The body names a model, its hospitals and their new rows. Which columns these are read
from is what the model's own order said: so the evaluation is an order of training in
every other respect, and has no rounds.

Decision 87.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from protocol.errors import bad_request
from protocol.fields import (
    Asked,
    SqlByHospital,
    UserId,
    Whole,
    describe,
    printable,
)
from protocol.training_request import (
    EncryptParam,
    EvaluationRequest,
    Threshold,
    check_training_request,
)

EVALUATED = ("lr", "linear", "softmax", "mlp", "cnn")
"""The model types that can be judged on new rows."""

_OF_THE_MODEL = (
    "model_type",
    "unique_id",
    "attributes",
    "label_name",
    "complete_on",
    "categorical",
    "derive",
    "missing",
)
"""What the model's order said of rows."""


class EvaluateRequest(Asked):
    """The body of POST /model/evaluate."""

    # Who orders; its agent signs the order and opens the sum.
    user_id: UserId
    model_id: Annotated[Whole, Field(ge=1, lt=2**31)]
    # The other hospitals; each holds the model.
    party_id: Annotated[list[UserId], Field(max_length=1000)]
    # By hospital its SQL, which goes sealed to that hospital.
    data_info: SqlByHospital
    # Of lr: who scores as much or more is called positive.
    threshold: Threshold | None = None
    # None: as the model was trained.
    encrypt_param: EncryptParam | None = None
    purpose: Annotated[str, Field(max_length=500), AfterValidator(printable)] = ""


def parse_evaluate_request(body: Any) -> EvaluateRequest:
    """A checked request. InvalidInput names each field and its problem."""
    try:
        return EvaluateRequest.model_validate(body)
    except ValidationError as error:
        raise describe(error) from None


def evaluation_order(
    body: EvaluateRequest, trained: Mapping[str, Any]
) -> EvaluationRequest:
    """The order, of the body and the request that trained the model.

    trained: as it was sent, without SQL texts. Raises BadRequest (code model, threshold;
    those of a training order).
    """
    kind = str(trained["model_type"]).lower()
    _check_kind(body, kind)
    request = EvaluationRequest.model_validate(
        {
            **{name: trained[name] for name in _OF_THE_MODEL if name in trained},
            "user_id": body.user_id,
            "party_id": body.party_id,
            "data_info": body.data_info,
            "model_id": body.model_id,
            "threshold": body.threshold,
            "model_params": _params(body, trained.get("model_params") or {}),
            "scoring": "none",
            "purpose": body.purpose,
        }
    )
    check_training_request(request)
    return request


def _check_kind(body: EvaluateRequest, kind: str) -> None:
    if kind not in EVALUATED:
        raise bad_request(
            "model",
            f"Model {body.model_id} is of type {kind}, which is not evaluated on new rows.",
            f"Evaluate a model of one of {', '.join(EVALUATED)}.",
        )
    if body.threshold is not None and kind != "lr":
        raise bad_request(
            "no_score",
            f"threshold is given, and a model of type {kind} has no single score.",
            "Leave it out.",
        )


def _params(body: EvaluateRequest, trained: Mapping[str, Any]) -> dict[str, Any]:
    """The model's shape, how the sum is sealed, and one round: that of the sum."""
    encrypt: Any = trained.get("encrypt_param", {})
    if body.encrypt_param is not None:
        encrypt = body.encrypt_param.model_dump(mode="json")
    fit_intercept = (trained.get("init_param") or {}).get("fit_intercept", True)
    params: dict[str, Any] = {
        "max_iter": 1,
        "penalty": None,
        "encrypt_param": encrypt,
        "init_param": {"fit_intercept": fit_intercept},
    }
    for name in ("hidden", "shape"):
        if trained.get(name) is not None:
            params[name] = trained[name]
    return params
