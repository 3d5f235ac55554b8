"""Who takes part, what each one's policy lets others do, and whether all is ready."""

from __future__ import annotations

import logging
import time
from importlib.metadata import version as installed
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from api.answers import answer
from api.auth import AGENT, CallerOf, require_role
from api.conditions import Condition, shown
from api.routes.services import FLOWS
from api.store.places import USUAL_PLACES
from protocol import VERSION
from protocol.policy import PolicyTold
from protocol.sealing import PublicIdentity
from protocol.training_request import Scoring, describe

log = logging.getLogger("consilium.api")
router = APIRouter()


class Enrolment(BaseModel):
    """What an agent says of itself: no policy where its own cannot be read, and the level of scoring alone where it is
    older than that."""

    identity: str = Field(max_length=200)
    version: str = Field(max_length=50)
    scoring: Scoring = "none"
    policy: dict[str, Any] | None = None
    max_orders: Annotated[int, Field(ge=1, lt=2**31)] | None = None

    def told(self) -> dict[str, Any] | None:
        """Its policy in the form that is shown. One in another form, of another version, keeps no agent out."""
        if self.policy is None:
            return None
        try:
            return PolicyTold.model_validate(self.policy).model_dump(mode="json")
        except ValidationError as error:
            log.warning("The policy that an agent tells is not shown: %s", describe(error).sentence)
            return None


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """200 once the coordinator, its disk and all its local agents can take an order; else what it waits for."""
    state = request.app.state
    ready = await state.runs.is_ready(list(FLOWS.values()))
    present = state.presence.count()
    if state.disk.is_short():
        trouble = state.disk.trouble()
        return _not_ready(str(trouble), cause="disk", **trouble.detail)
    if not ready or present < state.expected:
        what = (
            "Prefect and its deployments" if not ready else f"{state.expected - present} of the local agents"
        )
        return _not_ready(f"Waiting for {what}.", cause="agents" if ready else "prefect")
    return answer({"ready": True, "version": VERSION, "prefect": installed("prefect")})


def _not_ready(message: str, **facts: Any) -> JSONResponse:
    return JSONResponse({"code": 503, "data": {"ready": False, **facts}, "message": message}, status_code=503)


@router.get("/hospitals")
async def list_hospitals(request: Request, caller: CallerOf) -> JSONResponse:
    """Who takes part: online, last seen, what is wrong at the site, how many orders it has places for and how many have
    them, and its rules."""
    state = request.app.state
    rows = await to_thread.run_sync(state.store.list_hospitals)
    taken = await to_thread.run_sync(state.store.taken_places)
    return answer({"hospitals": [_hospital(row, state, taken.get(row["user_id"], 0)) for row in rows]})


@router.put("/hospitals/me", include_in_schema=False)
async def enrol(request: Request, caller: CallerOf, enrolment: Enrolment) -> JSONResponse:
    """An agent presents its public keys, its version, and the rules of its policy."""
    require_role(caller, AGENT)
    identity, state = PublicIdentity.decode(enrolment.identity), request.app.state
    news: dict[str, Any] = {
        "version": enrolment.version,
        "scoring": enrolment.scoring,
        "policy": enrolment.told(),
    }
    news["max_orders"] = enrolment.max_orders
    await to_thread.run_sync(lambda: state.store.enrol(caller.user_id, identity.encode(), **news))
    state.conditions.forget(caller.user_id)
    state.bell.ring("hospitals")
    return answer({"user_id": caller.user_id, "fingerprint": identity.fingerprint, "version": VERSION})


@router.put("/hospitals/me/condition", include_in_schema=False)
async def tell_condition(request: Request, caller: CallerOf, condition: Condition) -> JSONResponse:
    """An agent says whether its disk is full and how wrong its clock is; answers with our time."""
    require_role(caller, AGENT)
    assert caller.user_id is not None
    request.app.state.conditions.tell(caller.user_id, condition)
    return answer({"time": time.time()})


def _hospital(row: dict[str, Any], state: Any, n_orders: int) -> dict[str, Any]:
    seen, online = row["last_seen"], state.presence.is_there(row["user_id"])
    troubles = state.conditions.troubles(row["user_id"], row["name"]) if online else []
    return {
        "user_id": row["user_id"],
        "name": row["name"],
        "online": online,
        "last_seen": seen.isoformat() + "Z" if seen else None,
        "agent_version": row["agent_version"],
        "troubles": shown(troubles),
        "orders": n_orders,
        "max_orders": row["max_orders"] or USUAL_PLACES,
        "scoring": row["scoring"] or "none",
        "policy": row["policy"],
        "fingerprint": PublicIdentity.decode(row["identity"]).fingerprint if row["identity"] else None,
    }
