"""The document of a training order, which the initiator's agent signs and every
hospital reads and checks again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from protocol.errors import bad_request
from protocol.messages import canonical
from protocol.regression_request import CONFIDENCE, COX, GLM, OF_GLM, glm_body
from protocol.study_rows import written_out
from protocol.training_request.checks import parse_as
from protocol.training_request.evaluation import EvaluationRequest
from protocol.training_request.request import TrainingRequest
from protocol.versions import PROTOCOL, document_version


def order_document(
    order_id: int,
    request: TrainingRequest,
    commitments: Mapping[int, str],
    *,
    rerun_of: int | None = None,
    protocol: int = PROTOCOL,
) -> str:
    """What the initiator's agent signs and every hospital checks: the whole order, with
    commitments for the SQL, and in which protocol number all of it is written.
    """
    return canonical(
        {
            "version": document_version(protocol),
            "kind": "train" if request.evaluates is None else "evaluate",
            "order_id": order_id,
            "rerun_of": rerun_of,
            "request": _written_out(request),
            "tested": sorted(request.test_data_info),
            "sql": {str(user): commitments[user] for user in request.hospitals},
        }
    )


def _written_out(request: TrainingRequest) -> dict[str, Any]:
    """The request without SQL: what was left out of it as what that means, without
    fields for other model types.
    """
    body = request.model_dump(mode="json", exclude={"data_info", "test_data_info"})
    params = body["model_params"]
    params["init_param"]["init_method"] = request.init_method
    params["hidden"] = list(request.hidden)
    params["shape"] = list(request.shape)
    if request.model_params.confidence == CONFIDENCE:
        params.pop("confidence")
    if request.model_params.site_effect is None:
        params.pop("site_effect")
    if request.model_params.pooling == "pooled":
        params.pop("pooling")
    if request.model_type == COX:
        params["ties"] = request.ties
    else:
        params.pop("ties")
    # As in the documents of versions that knew log only.
    if request.hazards_time == "log":
        params.pop("hazards_time")
    if request.baseline == "hospital":
        params.pop("baseline")
    if not request.edges:
        params.pop("edges")
    for name in OF_GLM:
        params.pop(name)
    if request.model_type == GLM:
        params.update(glm_body(request.model_params))
    body["model_params"] = {
        name: value for name, value in params.items() if value != []
    }
    # Left out where they say nothing, as in the documents of versions that did not have
    # these fields.
    defaults: dict[str, Any] = {
        "scoring": None,
        "aggregation": "mean",
        "n_attackers": None,
        "complete_on": [],
        "event_name": None,
        "entry_name": None,
        "strata": [],
        "calibration_slope": False,
        "cutoffs": [],
        "reader": None,
        "compare": None,
        "start_within_seconds": None,
        "at_least": None,
        "group_by": None,
        "model_to": [],
    }
    written = {}
    for name, field_value in body.items():
        is_default = name in defaults and field_value == defaults[name]
        if not is_default:
            written[name] = field_value
    return written_out(written)


def read_order_document(
    text: str, order_id: int
) -> tuple[TrainingRequest, dict[int, str]]:
    """The request inside a document, checked again at a hospital, and each hospital's
    SQL commitment.

    The request comes back without SQL texts: a hospital sees its own only, from its
    sealed Request.
    """
    # The coordinator sends it, and may send anything.
    try:
        document = json.loads(text)
        commitments = {int(user): str(value) for user, value in document["sql"].items()}
        tested = [int(user_id) for user_id in document["tested"]]
        request_body = {
            **document["request"],
            # The SQL is in no document; in its place any text, so that who has some can
            # be checked.
            "data_info": dict.fromkeys(commitments, "withheld"),
            "test_data_info": dict.fromkeys(tested, "withheld"),
        }
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ):
        raise bad_request(
            "document", "The order's document is not readable.", "Send the order again."
        ) from None
    form = _FORMS.get(str(document.get("kind")))
    if document.get("order_id") != order_id or form is None:
        raise bad_request(
            "document",
            "The document belongs to another order.",
            "Send the order again.",
        )
    return parse_as(form, request_body), commitments


_FORMS: dict[str, type[TrainingRequest]] = {
    "train": TrainingRequest,
    "evaluate": EvaluationRequest,
}
"""By the kind of a document."""
