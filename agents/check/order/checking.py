"""`./run agent check --order FILE`: every finding on one order, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agents.check.findings import Finding, as_finding, guarded
from agents.check.order.explained import protocol, verdict
from agents.check.order.order_file import Asked, no_part, read_order
from agents.check.order.predictions import prediction_findings
from agents.check.order.statistics import statistics_findings
from agents.check.order.training import training_findings
from agents.order.party import Hospital, hospital_to_read
from agents.site.settings import SiteSettings, load_settings
from protocol.errors import Refused
from protocol.inference_request import InferRequest
from protocol.training_request import TrainingRequest
from protocol.versions import features_of


def check_order(site: Path, file: Path, *, user: int | None = None) -> list[Finding]:
    """What this hospital's gate would say to the order in a file; the last finding is
    the verdict.

    Raises BadRequest or InvalidInput where there is no order in the file, or none that
    this hospital takes part in, and BadRequest for settings that cannot be read.
    Nothing is reserved, kept or written.
    """
    settings = load_settings(site)
    hospital_names = {
        partner.user_id: partner.name for partner in settings.partners.values()
    }
    hospital_names[settings.user_id] = settings.name
    request = read_order(file, user=user, names=hospital_names)
    hospitals = _hospitals_of(request)
    if settings.user_id not in hospitals:
        raise no_part(settings.user_id, hospitals)
    findings = _findings(settings, request)
    return [*findings, verdict(findings)]


def _hospitals_of(request: Asked) -> list[int]:
    if isinstance(request, InferRequest):
        return [request.input_data.user_id]
    return request.hospitals


def _findings(settings: SiteSettings, request: Asked) -> list[Finding]:
    try:
        hospital = hospital_to_read(settings)
    except Refused as error:
        return [as_finding("policy", error)]
    return guarded("order", lambda: _asked(hospital, request))


def _asked(hospital: Hospital, request: Asked) -> Iterator[Finding]:
    yield protocol(hospital, features_of(request.model_dump()))
    if isinstance(request, TrainingRequest):
        yield from training_findings(hospital, request)
    elif isinstance(request, InferRequest):
        yield from prediction_findings(hospital, request)
    else:
        yield from statistics_findings(hospital, request)
