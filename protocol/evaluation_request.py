"""What POST /model/evaluate asks, and the order that is made of it.

The body names a model, its hospitals and their new rows. Which columns these are read
from is what the model's own order said: so the evaluation is an order of training in
every other respect, and has no rounds.

Decision 87.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from protocol.errors import bad_request
from protocol.fields import (
    Asked,
    Column,
    ReaderKey,
    SqlByHospital,
    UserId,
    Whole,
    describe,
    printable,
)
from protocol.training_request import (
    MOST_CALIBRATION_STEPS,
    Cutoffs,
    EncryptParam,
    EvaluationRequest,
    Threshold,
    check_training_request,
)

EVALUATED = ("lr", "linear", "glm", "cox", "softmax", "mlp", "cnn")
"""The model types that can be judged on new rows."""

_OF_THE_MODEL = (
    "model_type",
    "unique_id",
    "attributes",
    "label_name",
    "event_name",
    "entry_name",
    "strata",
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
    # Of lr and a binomial glm: who scores as much or more is called positive.
    threshold: Threshold | None = None
    # Of the same: further thresholds, of which only the hospitals are told.
    cutoffs: Cutoffs = Field(default_factory=list)
    # Of the same: whether calibration's slope and intercept are estimated.
    calibration_slope: bool = False
    # A column of few values: the same for each of its subgroups, for the hospitals.
    group_by: Column | None = None
    # None: as the model was trained.
    encrypt_param: EncryptParam | None = None
    # To whose own key the report is sealed.
    reader: ReaderKey | None = None
    purpose: Annotated[str, Field(max_length=500), AfterValidator(printable)] = ""


def parse_evaluate_request(body: Any) -> EvaluateRequest:
    """A checked request. InvalidInput names each field and its problem."""
    try:
        return EvaluateRequest.model_validate(body)
    except ValidationError as error:
        raise describe(error) from None


def evaluation_order(
    body: EvaluateRequest,
    trained: Mapping[str, Any],
    *,
    trained_by: Collection[int],
) -> EvaluationRequest:
    """The order, of the body and the request that trained the model.

    trained: as it was sent, without SQL texts; trained_by: the hospitals of that order.
    Raises BadRequest (code model, threshold; those of a training order).
    """
    model_type = str(trained["model_type"]).lower()
    _check_kind(body, model_type, family=_family_of(trained))
    request = EvaluationRequest.model_validate(
        {
            **{name: trained[name] for name in _OF_THE_MODEL if name in trained},
            "user_id": body.user_id,
            "party_id": body.party_id,
            "data_info": body.data_info,
            "model_id": body.model_id,
            "threshold": body.threshold,
            "cutoffs": body.cutoffs,
            "calibration_slope": body.calibration_slope,
            "group_by": body.group_by,
            "model_to": _without_model(body, set(trained_by)),
            "model_params": _params(body, trained.get("model_params") or {}),
            "scoring": "none",
            "purpose": body.purpose,
            "reader": body.reader,
        }
    )
    check_training_request(request)
    return request


def _without_model(body: EvaluateRequest, trained_by: set[int]) -> list[int]:
    """The hospitals that the initiator has to seal the model to."""
    hospitals = {body.user_id, *body.party_id}
    without = sorted(hospitals - trained_by)
    if not without:
        return []
    named = ", ".join(map(str, without))
    if body.user_id in without:
        raise bad_request(
            "model",
            f"Hospital {body.user_id} took no part in order {body.model_id} and holds no such model.",
            "Have it ordered by a hospital that took part.",
        )
    absent = sorted(trained_by - hospitals)
    if absent:
        raise bad_request(
            "model",
            f"Hospital {named} took no part in order {body.model_id}, so it would be sent the model, and hospital"
            f" {', '.join(map(str, absent))}, of whose rows it is made, takes no part here and cannot be asked.",
            "Add all hospitals of the model's order, with new rows, or leave out who did not train it.",
        )
    return without


def _family_of(trained: Mapping[str, Any]) -> str:
    """Of a glm; "" of other models."""
    params = trained.get("model_params") or {}
    return str(params.get("family") or "").lower()


def _check_kind(body: EvaluateRequest, kind: str, *, family: str) -> None:
    if kind not in EVALUATED:
        raise bad_request(
            "model",
            f"Model {body.model_id} is of type {kind}, which is not evaluated on new rows.",
            f"Evaluate a model of one of {', '.join(EVALUATED)}.",
        )
    if kind == "lr" or family == "binomial":
        return
    for field_name, is_given in (
        ("threshold", body.threshold is not None),
        ("cutoffs", bool(body.cutoffs)),
        ("calibration_slope", body.calibration_slope),
    ):
        if is_given:
            raise bad_request(
                "no_score",
                f"{field_name} is given, and a model of type {kind} has no single score.",
                "Leave it out.",
            )


def _params(body: EvaluateRequest, trained: Mapping[str, Any]) -> dict[str, Any]:
    """The model's shape, how sums are sealed, and the rounds: that of the sum, and those
    of the calibration's slope with the one that ends them.

    A row counts once, whatever weights the model was trained with; its offset stands
    among the model's coefficients.
    """
    encrypt: Any = trained.get("encrypt_param", {})
    if body.encrypt_param is not None:
        encrypt = body.encrypt_param.model_dump(mode="json")
    fit_intercept = (trained.get("init_param") or {}).get("fit_intercept", True)
    params: dict[str, Any] = {
        "max_iter": MOST_CALIBRATION_STEPS + 1 if body.calibration_slope else 1,
        "penalty": None,
        "encrypt_param": encrypt,
        "init_param": {"fit_intercept": fit_intercept},
    }
    for param_name in ("hidden", "shape", "family", "link"):
        if trained.get(param_name) is not None:
            params[param_name] = trained[param_name]
    return params
