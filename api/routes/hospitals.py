"""Who takes part, what each one's policy lets others do (decision 50), and whether all
is ready.
"""

from __future__ import annotations

import logging
import time
from importlib.metadata import version as installed
from typing import Annotated, Any, Self

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError, model_validator

from api.answers import answer
from api.auth import AGENT, ENROLMENT_ADDRESS, CallerOf, require_role
from api.conditions import Condition, shown, version_troubles
from api.routes.services import FLOWS, Services
from api.store.engine import in_thread
from api.store.hospitals import ENROLMENT
from api.store.places import USUAL_PLACES
from api.store.rows import HospitalRow
from protocol import VERSION
from protocol.fields import describe
from protocol.policy import PolicyTold
from protocol.sealing import PublicIdentity
from protocol.training_request import Scoring
from protocol.versions import (
    LARGEST_PROTOCOL,
    OLDEST_PROTOCOL,
    PROTOCOL,
    UNSAID,
    Window,
)

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
    # Which protocol numbers it takes; an agent that does not say knows of one only.
    protocol: Annotated[int, Field(ge=1, le=LARGEST_PROTOCOL)] = UNSAID
    oldest_protocol: Annotated[int, Field(ge=1, le=LARGEST_PROTOCOL)] = UNSAID

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        if self.oldest_protocol > self.protocol:
            raise ValueError("oldest_protocol is larger than protocol")
        return self

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
    app_state = request.app.state
    if app_state.disk.is_short():
        trouble = app_state.disk.trouble()
        return _not_ready(str(trouble), cause="disk", **trouble.detail)
    # Before Prefect is asked, which has enough to do while agents start.
    n_missing = app_state.expected - app_state.presence.count()
    if n_missing > 0:
        return _not_ready(
            # How many and not which: anybody may ask here, without a token.
            f"Waiting for {n_missing} of the local agents.",
            cause="agents",
        )
    if not await app_state.runs.is_ready(sorted(set(FLOWS.values()))):
        return _not_ready("Waiting for Prefect and its deployments.", cause="prefect")
    return answer(
        {
            "ready": True,
            "version": VERSION,
            "protocol": PROTOCOL,
            "oldest_protocol": OLDEST_PROTOCOL,
            "prefect": installed("prefect"),
        }
    )


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
    taken_places = await in_thread(services.store.places.taken)
    rows = [
        _shown(services, hospital, taken_places.get(hospital.user_id, 0))
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
            speaks=Window(enrolment.oldest_protocol, enrolment.protocol),
        )
        services.conditions.forget(caller.user_id)
    services.bell.ring("hospitals")
    return answer(
        {
            "user_id": caller.user_id,
            "fingerprint": identity.fingerprint,
            "version": VERSION,
            "protocol": PROTOCOL,
            "oldest_protocol": OLDEST_PROTOCOL,
        }
    )


class NewToken(BaseModel):
    """What the coordinator ever has of the token that an agent has made itself."""

    digest: str = Field(pattern="^[0-9a-f]{64}$")


@router.put(ENROLMENT_ADDRESS, include_in_schema=False)
async def take_enrolment(
    request: Request, caller: CallerOf, new: NewToken
) -> JSONResponse:
    """An agent's token is known from now on; the enrolment that says so is used up."""
    require_role(caller, ENROLMENT)
    if caller.user_id is None:  # authentication is off, and nobody has a token
        return answer({"user_id": None})
    token = request.headers["authorization"].partition(" ")[2].strip()
    store = Services(request).store
    await in_thread(store.hospitals.take_enrolment, token, new.digest)
    return answer({"user_id": caller.user_id})


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
    identity = hospital.identity
    # Also while it is away: who lags is asked before all upgrade.
    if identity:
        troubles += version_troubles(
            hospital.agent_version, hospital.speaks, hospital.name
        )
    last_seen = hospital.last_seen
    return {
        "user_id": hospital.user_id,
        "name": hospital.name,
        "online": is_online,
        "last_seen": last_seen.isoformat() + "Z" if last_seen else None,
        "agent_version": hospital.agent_version,
        "protocol": hospital.speaks.newest if identity else None,
        "oldest_protocol": hospital.speaks.oldest if identity else None,
        "troubles": shown(troubles),
        "orders": n_orders,
        "max_orders": hospital.max_orders or USUAL_PLACES,
        "scoring": hospital.scoring or "none",
        "policy": hospital.policy,
        "fingerprint": PublicIdentity.decode(identity).fingerprint
        if identity
        else None,
    }
