"""How an order begins: its run in Prefect, who decides first, and its places at all of
its hospitals (decision 53).

The run is made at once and stays Scheduled in Prefect until the order has its places:
the coordinator's worker asks here which runs it may begin, and so does each agent. So a
waiting order holds no process and no place, and none waits for places that another
waiting order holds. How places are given stands in api/store/places.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from api.answers import answer
from api.auth import AGENT, COORDINATOR_ROLE, CallerOf, require_role
from api.duties import Duty
from api.routes.services import FLOWS, OrderInPath, Services, readable
from api.store.engine import in_thread
from api.store.hospitals import Caller
from api.store.places import PLACED, undecided
from api.store.rows import OrderRow, stop_of
from protocol.errors import NotFound, OrderWaits, Unavailable
from protocol.messages import COORDINATOR

router = APIRouter(include_in_schema=False)
log = logging.getLogger("consilium.api")

PLACES = "places"
"""Rung whenever an order may have become able to take places, or unable to keep them.
"""

APPROVAL_FLOW = {
    "train": "hospital-train-approval",
    "evaluate": "hospital-train-approval",
    "statistics": "hospital-statistics-approval",
}
"""In which an agent is asked about an order that has no places yet."""

COORDINATOR_FLOW = {
    kind: deployment.partition("/")[0] for kind, deployment in FLOWS.items()
}
HOSPITAL_FLOW = {
    "train": "hospital-train",
    "evaluate": "hospital-train",
    "statistics": "hospital-statistics",
    "infer": "infer",
}

MOST_RUNS = 1000
"""In one request of a worker."""

LARGEST_ORDER_ID = 2**31 - 1


# An order begins


async def begin(services: Services, order: OrderRow) -> None:
    """Makes the order's flow runs and gives it places if it can have them.

    When Prefect is away the order is kept, and `api.routes.order_watch` calls
    this again. Idempotent.
    """
    with contextlib.suppress(Unavailable):
        await _make_run(services, order)
        begun = await in_thread(services.store.orders.get, order.order_id)
        await _ask_hospitals(services, begun)
    try:
        await admit(services)
    except Unavailable:
        # of a full disk; the order exists, and whoever sent it shall hear so
        services.bell.ring(PLACES)
    services.bell.ring(("order", order.order_id))


async def _make_run(services: Services, order: OrderRow) -> None:
    if order.flow_run_id:
        return
    body = order.body
    tags = [order.kind]
    if order.kind == "train":
        tags = [body["model_type"]]
    elif order.kind == "statistics":
        tags.append(body["method"])
    if order.schedule_id:
        tags.append(f"schedule-{order.schedule_id}")
    deployment = FLOWS[order.kind]
    # First made, then noted: after a crash in between Prefect answers the same call
    # with the same run.
    flow_run_id = await services.runs.start(
        deployment,
        order.order_id,
        tags,
    )
    await in_thread(
        services.store.orders.change,
        order.order_id,
        flow_run_id=flow_run_id,
    )


async def _ask_hospitals(services: Services, order: OrderRow) -> None:
    """One run at each hospital where a person decides first, and at the initiator's,
    which signs.
    """
    order_id = order.order_id
    askings = order.asked or {}
    for user_key, asking in askings.items():
        if asking["run"] is not None:
            continue
        flow = APPROVAL_FLOW[order.kind]
        deployment = f"{flow}/hospital-{user_key}"
        tags = ["hospital", f"hospital-{user_key}"]
        attempt = asking.get("attempt", 0)
        flow_run_id = await services.runs.start(
            deployment,
            order_id,
            tags,
            attempt=attempt,
        )
        await in_thread(
            services.store.places.note_asking,
            order_id,
            int(user_key),
            flow_run_id,
            attempt=attempt,
        )
        services.inbox.tell(int(user_key), "look", order_id)


# Places


async def admit(services: Services) -> None:
    """Gives places to all orders that can have theirs now, and has the coordinator's
    worker begin them.
    """
    admitted = await in_thread(services.store.places.admit, services.ready())
    for order_id in admitted:
        services.bell.ring(("order", order_id))
    if admitted:
        services.inbox.tell(COORDINATOR, "look", admitted[0])


async def admit_when_rung(services: Services, key: str) -> None:
    """Runs as long as the application: whoever rings `key` may have made a place free,
    or come to take one.
    """
    duty = Duty("Orders without places")
    with services.bell.listening(key) as event:
        while True:
            event.clear()
            with duty.attempt():
                await admit(services)
            if duty.is_held_up:
                await asyncio.sleep(1)
                event.set()
            await event.wait()


async def give_back(services: Services, order: OrderRow) -> None:
    """Takes an order's places from it, because one of its hospitals cannot work on it.

    Its processes hear OrderWaits at the exchange, end, and are begun again when it has
    places again.
    """
    had_places = await in_thread(services.store.places.give_back, order.order_id)
    if had_places:
        log.warning("Order %s gives its places back and waits", order.order_id)
        _wake(services, order.order_id)


def _wake(services: Services, order_id: int) -> None:
    """Whoever waits for a message of the order looks again; others may take what it
    held.
    """
    services.bell.ring(order_id)
    services.bell.ring(("order", order_id))
    services.bell.ring(PLACES)


async def give_back_if_stuck(services: Services, order: OrderRow) -> None:
    """An order one of whose agents has been away, or held up, for the grace does not
    keep others from working.
    """
    if order.admitted is None or order.kind not in PLACED:
        return
    presence = services.presence
    conditions = services.conditions
    away = [presence.away_seconds(user_id) for user_id in order.needed]
    held_up = [conditions.held_up_seconds(user_id) for user_id in order.needed]
    longest_seconds = max(away + held_up)
    if longest_seconds > services.settings.grace_seconds:
        await give_back(services, order)


async def forget_lost_runs(services: Services, active: list[OrderRow]) -> None:
    """An order whose run Prefect has no longer, because its database was replaced or
    somebody deleted the run, is begun again in a new one: it would wait, and keep its
    places, for ever.
    """
    order_of: dict[str, int] = {}
    for order in active:
        is_placed = order.kind in PLACED
        if is_placed and order.flow_run_id is not None:
            order_of[order.flow_run_id] = order.order_id
    known_runs = await services.runs.known(order_of)
    lost = set(order_of) - known_runs
    for flow_run_id in lost:
        order_id = order_of[flow_run_id]
        is_forgotten = await in_thread(
            services.store.places.forget_runs,
            order_id,
            flow_run_id,
        )
        if is_forgotten:
            log.warning(
                "Prefect has lost the run of order %s: it gets a new one",
                order_id,
            )


# A person decides first


@router.post("/orders/{order_id}/ask")
async def ask_first(
    request: Request,
    caller: CallerOf,
    order_id: OrderInPath,
) -> JSONResponse:
    """An agent that works on an order finds that a person has to decide: its policy is
    not the one reported.

    The order gives its places back, the agent is asked in a run of its own, and this
    process ends. An inference holds no places: its process waits.
    """
    require_role(caller, AGENT)
    services = Services(request)
    order = await readable(services, caller, order_id)
    if order.kind not in PLACED or caller.user_id is None:
        return answer({"order_id": order_id})
    if order.has_ended:
        raise stop_of(order_id, order.state, order.stop)
    # Of an order that starts with who is there, the others go on meanwhile.
    keeps_places = caller.user_id not in order.needed
    await in_thread(
        services.store.places.ask,
        order_id,
        [caller.user_id],
        keeps_places=keeps_places,
    )
    _wake(services, order_id)
    asked_order = await in_thread(services.store.orders.get, order_id)
    await begin(services, asked_order)
    raise OrderWaits(
        f"Order {order_id} waits for a person.",
        remedy="It goes on by itself when one has decided.",
    )


@router.post("/orders/{order_id}/decided")
async def decided(
    request: Request,
    caller: CallerOf,
    order_id: OrderInPath,
) -> JSONResponse:
    """An agent has verified an order, and whoever decides at its hospital has approved
    it.
    """
    require_role(caller, AGENT)
    services = Services(request)
    await readable(services, caller, order_id)
    if caller.user_id is not None:
        await in_thread(
            services.store.places.note_decided,
            order_id,
            caller.user_id,
        )
        # Where the order has its places already, it may begin here now.
        services.inbox.tell(caller.user_id, "look", order_id)
    await admit(services)
    services.bell.ring(("order", order_id))
    return answer({"order_id": order_id})


# Which runs may begin (decision 54)


class FoundRun(BaseModel):
    """A flow run that a worker found in its pool: what it is called there, and its only
    parameter.
    """

    model_config = ConfigDict(extra="forbid")

    flow_run_id: Annotated[str, Field(max_length=36)]
    flow: Annotated[str, Field(max_length=100)]
    order_id: Annotated[int, Field(ge=1, lt=2**63)]


class FoundRuns(BaseModel):
    """The body of POST /exchange/runs."""

    model_config = ConfigDict(extra="forbid")

    runs: Annotated[list[FoundRun], Field(max_length=MOST_RUNS)]


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """What a worker does with a run."""

    what: Literal["begin", "wait", "end"]  # wait: leave it for now
    sentence: str = ""  # why it ends


@router.post("/exchange/runs")
async def judge_runs(
    request: Request,
    caller: CallerOf,
    body: FoundRuns,
) -> JSONResponse:
    """By flow run id, what to do with it.

    A run that is not its order's own ends, and nothing of the order with it.
    """
    require_role(caller, AGENT, COORDINATOR_ROLE)
    services = Services(request)
    verdicts: dict[str, dict[str, str]] = {}
    for found_run in body.runs:
        verdict = await _judge(services, caller, found_run)
        verdicts[found_run.flow_run_id] = {
            "what": verdict.what,
            "sentence": verdict.sentence,
        }
    return answer({"runs": verdicts})


@router.get("/exchange/admitted")
async def admitted_runs(request: Request, caller: CallerOf) -> JSONResponse:
    """The coordinator's flow runs of all orders that have places: Prefect's own list is
    cut at 200, and may be full of orders that wait. An order of the version before may
    have its places and no run yet.
    """
    require_role(caller, COORDINATOR_ROLE)
    flow_run_ids: list[str] = []
    services = Services(request)
    active = await in_thread(services.store.orders.active)
    for order in active:
        has_places = order.kind in PLACED and order.admitted is not None
        if has_places and order.flow_run_id:
            flow_run_ids.append(order.flow_run_id)
    return answer({"flow_run_ids": flow_run_ids})


async def _judge(
    services: Services,
    caller: Caller,
    run: FoundRun,
) -> RunVerdict:
    """Nothing of the order is read or changed for a run of another kind, number or
    pool.
    """
    try:
        # Anybody with a token of Prefect's can make a run of any number; the database
        # takes no larger one.
        order_id = min(run.order_id, LARGEST_ORDER_ID)
        order = await in_thread(services.store.orders.get, order_id)
    except NotFound:
        return RunVerdict("end", f"There is no order {run.order_id}.")
    if caller.role == COORDINATOR_ROLE:
        return _judge_own(order, run)
    if caller.user_id not in order.hospitals:
        sentence = f"Order {run.order_id} is not one of this hospital's."
        return RunVerdict("end", sentence)
    return _judge_hospitals(order, run, str(caller.user_id))


def _judge_own(order: OrderRow, run: FoundRun) -> RunVerdict:
    own_flow = COORDINATOR_FLOW.get(order.kind)
    if run.flow != own_flow:
        return _of_another_flow(run)
    return _of_its_own(order, run, order.flow_run_id)


def _judge_hospitals(
    order: OrderRow,
    run: FoundRun,
    user: str,
) -> RunVerdict:
    if run.flow == APPROVAL_FLOW.get(order.kind):
        return _judge_approval(order, run, user)
    if run.flow != HOSPITAL_FLOW.get(order.kind):
        return _of_another_flow(run)
    if order.kind == "infer":  # each new one-time key has a run of its own
        return RunVerdict("begin")
    if int(user) in order.late:  # as of one that has ended
        return RunVerdict("begin")
    hospital_runs = order.runs or {}
    own_run = hospital_runs.get(user)
    verdict = _of_its_own(order, run, own_run)
    if verdict.what != "begin" or order.has_ended:
        return verdict
    if int(user) in undecided(order.asked):
        return RunVerdict("wait")
    return verdict


def _judge_approval(
    order: OrderRow,
    run: FoundRun,
    user: str,
) -> RunVerdict:
    askings = order.asked or {}
    asking = askings.get(user)
    if asking is None:
        sentence = f"Nobody at this hospital is asked about order {run.order_id}."
        return RunVerdict("end", sentence)
    may_be_its_own = asking["run"] in (None, run.flow_run_id)
    if may_be_its_own:
        return RunVerdict("begin")
    return _stray(run)


def _of_its_own(
    order: OrderRow,
    run: FoundRun,
    own_run: str | None,
) -> RunVerdict:
    """A run whose number has not been noted yet may be the order's own: its worker
    hears when it is.
    """
    if own_run is not None and own_run != run.flow_run_id:
        return _stray(run)
    if order.has_ended:  # it finds that out, and ends with the order's own word
        return RunVerdict("begin")
    if own_run is None or order.admitted is None:
        return RunVerdict("wait")
    return RunVerdict("begin")


def _stray(run: FoundRun) -> RunVerdict:
    sentence = (
        f"This is not the run that the coordinator has made for order {run.order_id}."
    )
    return RunVerdict("end", sentence)


def _of_another_flow(run: FoundRun) -> RunVerdict:
    sentence = f"Order {run.order_id} is not for the flow {run.flow}."
    return RunVerdict("end", sentence)
