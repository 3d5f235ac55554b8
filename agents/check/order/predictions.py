"""What this hospital would say to a request for predictions."""

from __future__ import annotations

from collections.abc import Iterator

from agents.check.findings import OK, Finding
from agents.check.order.explained import approval, asked, refusals, refuses
from agents.order.party import Hospital
from agents.training.inference import answer_anew, request_rules
from protocol.errors import ConsiliumError
from protocol.inference_request import InferRequest


def prediction_findings(hospital: Hospital, request: InferRequest) -> Iterator[Finding]:
    """No prediction is kept or shown."""
    sealed = request.input_data.asked
    found_rules = request_rules(
        hospital, request.model_id, sealed, reader=request.reader
    )
    rules = asked(found_rules)
    yield from rules
    yield from approval(hospital)
    preconditions = [
        finding
        for finding in rules
        if finding.check not in ("return_predictions", "reader")
    ]
    if refuses(preconditions):
        return
    try:
        answer = answer_anew(hospital, request.model_id, sealed)
    except ConsiliumError as error:
        yield from refusals(error)
        return
    n_rows = answer.cohort.n_rows
    sentence = f"{n_rows + len(answer.reasons)} rows; the model can be applied to {n_rows} of them."
    yield Finding("rows", OK, sentence)
    yield Finding("opens", OK, f"A prediction for each of {n_rows} rows, to who asks.")
