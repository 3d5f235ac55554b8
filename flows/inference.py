"""Inference at one hospital."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from tasks import hospital
from tasks.hospital import TrainingParty
from tasks.places import at_hospital


@flow(name="infer", log_prints=False, persist_result=False, validate_parameters=True)
def infer_at_hospital(order_id: int) -> State[Any] | None:
    """Reads the request, predicts, and answers to the one-time key of who asked."""
    with at_hospital(order_id, TrainingParty) as place:
        request = place.exchange.inference_request(order_id)
        hospital.predict(place.party, *request)
    return place.outcome
