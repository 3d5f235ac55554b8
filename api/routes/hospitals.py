"""Who takes part, what each one's policy lets others do (decision 50), and whether all
is ready.
"""

from __future__ import annotations

import logging
import time
from importlib.metadata import version as installed
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from api.answers import answer
from api.auth import AGENT, CallerOf, require_role
from api.conditions import Condition, shown
from api.routes.services import FLOWS, Services
from api.store.engine import in_thread
from api.store.places import USUAL_PLACES
from api.store.rows import HospitalRow
from protocol import VERSION
from protocol.fields import describe
from protocol.policy import PolicyTold
from protocol.sealing import PublicIdentity
from protocol.training_request import Scoring

log = logging.getLogger("consilium.api")
router = APIRouter()


class Enrolment(BaseModel):
    """What an agent says of itself: no policy where its own cannot be read, and the
    level of scoring alone where it is older than that.
    """

    identity: str = Field(max_length=200)
    version: str = Field(max_length=50)
    scoring: Scoring = "none"
    policy: dict[str, Any] | None = None
    max_orders: Annotated[int, Field(ge=1, lt=2**31)] | None = None

    def told(self) -> dict[str, Any] | None:
        """Its policy in the form that is shown.

        One in another form, of another version, keeps no agent out.
        """
        if self.policy is None:
            return None
        try:
            return PolicyTold.model_validate(self.policy).model_dump(mode="json")
        except ValidationError as error:
            log.warning(
                "The policy that an agent tells is not shown: %s",
                describe(error).sentence,
            )
            return None


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """200 once the coordinator, its disk and all its local agents can take an order;
    else what it waits for.
    """
    state = request.app.state
    ready = await state.runs.is_ready(sorted(set(FLOWS.values())))
    present = state.presence.count()
    if state.disk.is_short():
        trouble = state.disk.trouble()
        return _not_ready(str(trouble), cause="disk", **trouble.detail)
    if not ready:
        return _not_ready("Waiting for Prefect and its deployments.", cause="prefect")
    n_missing = state.expected - present
    if n_missing > 0:
        return _not_ready(
            f"Waiting for {n_missing} of the local agents.", cause="agents"
        )
    return answer({"ready": True, "version": VERSION, "prefect": installed("prefect")})


def _not_ready(message: str, **facts: Any) -> JSONResponse:
    return JSONResponse(
        {"code": 503, "data": {"ready": False, **facts}, "message": message},
        status_code=503,
    )


@router.get("/hospitals")
async def list_hospitals(request: Request, caller: CallerOf) -> JSONResponse:
    """Who takes part: online, last seen, what is wrong at the site, how many orders it
    has places for and how many have them, and its rules.
    """
    services = Services(request)
    hospitals = await in_thread(services.store.hospitals.all)
    taken = await in_thread(services.store.places.taken)
    rows = [
        _shown(services, hospital, taken.get(hospital.user_id, 0))
        for hospital in hospitals
    ]
    return answer({"hospitals": rows})


@router.put("/hospitals/me", include_in_schema=False)
async def enrol(
    request: Request, caller: CallerOf, enrolment: Enrolment
) -> JSONResponse:
    """An agent presents its public keys, its version, and the rules of its policy."""
    require_role(caller, AGENT)
    identity = PublicIdentity.decode(enrolment.identity)
    services = Services(request)
    if (
        caller.user_id is not None
    ):  # anybody's call, with authentication off, is no hospital's
        await in_thread(
            services.store.hospitals.enrol,
            caller.user_id,
            identity.encode(),
            version=enrolment.version,
            scoring=enrolment.scoring,
            policy=enrolment.told(),
            max_orders=enrolment.max_orders,
        )
        services.conditions.forget(caller.user_id)
    services.bell.ring("hospitals")
    return answer(
        {
            "user_id": caller.user_id,
            "fingerprint": identity.fingerprint,
            "version": VERSION,
        }
    )


@router.put("/hospitals/me/condition", include_in_schema=False)
async def tell_condition(
    request: Request, caller: CallerOf, condition: Condition
) -> JSONResponse:
    """An agent says whether its disk is full and how wrong its clock is; answers with
    our time.
    """
    require_role(caller, AGENT)
    assert caller.user_id is not None
    Services(request).conditions.tell(caller.user_id, condition)
    return answer({"time": time.time()})


def _shown(services: Services, hospital: HospitalRow, n_orders: int) -> dict[str, Any]:
    is_online = services.presence.is_there(hospital.user_id)
    troubles = (
        services.conditions.troubles(hospital.user_id, hospital.name)
        if is_online
        else []
    )
    last_seen = hospital.last_seen
    identity = hospital.identity
    return {
        "user_id": hospital.user_id,
        "name": hospital.name,
        "online": is_online,
        "last_seen": last_seen.isoformat() + "Z" if last_seen else None,
        "agent_version": hospital.agent_version,
        "troubles": shown(troubles),
        "orders": n_orders,
        "max_orders": hospital.max_orders or USUAL_PLACES,
        "scoring": hospital.scoring or "none",
        "policy": hospital.policy,
        "fingerprint": PublicIdentity.decode(identity).fingerprint
        if identity
        else None,
    }
