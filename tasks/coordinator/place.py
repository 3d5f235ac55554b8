"""Where the coordinator's run of an order stands, and its runs at the hospitals.

`flows.coordinator_runs` gives it the events; `tasks.ending` has what a run's end is at
a hospital too.

Decision 1.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Failed

from protocol.errors import OrderStopped, OrderWaits, Unavailable
from protocol.exchange import (
    LONGEST_PAUSE_SECONDS,
    Exchange,
    HttpTransport,
)
from protocol.machine.outage import PREFECT, outage
from protocol.machine.pages import PAGE
from protocol.messages import COORDINATOR
from protocol.tls import authorities
from tasks.ending import (
    Place,
    give_back,
    is_out_of_room,
    known,
    state_of,
    wait_for_places,
)

T = TypeVar("T")

COORDINATOR_URL = "CONSILIUM_COORDINATOR_URL"
COORDINATOR_TOKEN = "CONSILIUM_COORDINATOR_TOKEN_FILE"  # noqa: S105


PATIENCE_SECONDS = 12.0
"""For hospital runs of an ended order: an agent that is there ends them in less."""


@contextmanager
def at_coordinator(order_id: int) -> Iterator[Place]:
    """The coordinator's place. What goes wrong here ends the order with a sentence.

    A full disk excepted: the worker starts the run again when there is room.
    """
    transport = HttpTransport(coordinator_client(), coordinator_token())
    place = Place(order_id, Exchange(transport, COORDINATOR))
    try:
        yield place
    except OrderWaits as waits:
        wait_for_places(waits)
    except OrderStopped as stop:
        place.outcome = state_of(stop, str(stop))
    except Exception as error:  # noqa: BLE001
        if is_out_of_room(error):
            give_back(error)
        cause = known(error)
        place.exchange.record(order_id, end="failed", stop=cause.to_json())
        place.outcome = Failed(message=str(cause))


def coordinator_client() -> httpx.Client:
    url = os.environ[COORDINATOR_URL]
    return httpx.Client(base_url=url, verify=authorities(url), trust_env=False)


def coordinator_token() -> str:
    return Path(os.environ[COORDINATOR_TOKEN]).read_text().strip()


# Sub-runs


def dispatch(place: Place, flow_name: str, hospitals: list[int]) -> dict[str, str]:
    """One linked sub-run on each hospital's pool; their ids by hospital. Idempotent
    after a restart.

    The coordinator's API keeps which runs these are, wakes the agents, and lets them
    begin no others of this order.
    """
    run_ids = {}
    # One after the other: side by side their writes lock each other out of SQLite, and
    # three take 4.3 s in place of 0.5.
    for user_id in hospitals:
        start_run = functools.partial(_start, place.order_id, flow_name, user_id)
        run_ids[str(user_id)] = _persist(start_run)
    place.exchange.record(place.order_id, runs=run_ids)
    return run_ids


def _start(order_id: int, flow_name: str, user_id: int) -> str:
    """The flow run's id.

    Unavailable while the hospital has no deployment yet: the operator makes it, and the
    order goes on.
    """
    try:
        return _run_deployment(order_id, flow_name, user_id)
    except ObjectNotFound:
        raise Unavailable(
            f"Prefect knows no deployment {flow_name}/hospital-{user_id}.",
            remedy="Run: ./run server deploy",
        ) from None


def _run_deployment(order_id: int, flow_name: str, user_id: int) -> str:
    flow_run: Any = run_deployment(
        f"{flow_name}/hospital-{user_id}",
        parameters={"order_id": order_id},
        flow_run_name=f"order-{order_id}-hospital-{user_id}",
        tags=["hospital", f"order-{order_id}", f"hospital-{user_id}"],
        # After a restart of this run Prefect gives back the run that was made before.
        idempotency_key=f"order-{order_id}-hospital-{user_id}",
        timeout=0,
    )
    return str(flow_run.id)


def _persist(call: Callable[[], T]) -> T:
    """Prefect may be away for a while; the order is not lost for that."""
    pause = 0.5
    while True:
        asked_at = time.monotonic()
        try:
            answer = call()
        except (httpx.HTTPError, OSError, Unavailable) as error:
            # An httpx error's own text may hold an address; of ours the sentence may be
            # read.
            reason = type(error).__name__
            if isinstance(error, Unavailable):
                reason = str(error)
            outage.missed(PREFECT, reason, asked=asked_at)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            outage.answered(PREFECT)
            return answer


def withdraw(place: Place, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """After an order that did not succeed: its hospital runs end before this one does.

    A run whose agent is away never started and is cancelled here; one under way ends
    itself, or its agent ends it; what is left after `patience_seconds` was under way at
    an agent that is away, and is cancelled here too.
    """
    if place.outcome is None:
        return
    deadline = time.monotonic() + patience_seconds
    message = place.outcome.message
    while True:
        is_late = time.monotonic() > deadline
        end_runs = functools.partial(
            _end_runs, place.order_id, message, is_late=is_late
        )
        if _persist(end_runs):
            return
        time.sleep(0.2)


def _end_runs(order_id: int, message: str | None, *, is_late: bool) -> bool:
    """Cancels an order's hospital runs that nobody works on; whether none is left.

    When it is late it cancels all of them.
    """
    tags = FlowRunFilterTags(all_=[f"order-{order_id}", "hospital"])
    run_filter = FlowRunFilter(tags=tags)
    n_under_way = 0
    with get_client(sync_client=True) as client:
        # All before the first is cancelled: an order has a run for each hospital.
        for hospital_run in list(_pages_of(client, run_filter)):
            if hospital_run.state is None or hospital_run.state.is_final():
                continue
            n_under_way += 1
            if is_late or hospital_run.state.is_scheduled():
                # By force: no agent is there to confirm it.
                client.set_flow_run_state(
                    hospital_run.id, Cancelled(message=message), force=True
                )
    return is_late or n_under_way == 0


def _pages_of(
    client: SyncPrefectClient, run_filter: FlowRunFilter
) -> Iterator[FlowRun]:
    """These runs, of which Prefect answers a page at a time."""
    for offset in itertools.count(0, PAGE):
        runs = client.read_flow_runs(
            flow_run_filter=run_filter,
            limit=PAGE,
            offset=offset,
        )
        yield from runs
        if len(runs) < PAGE:
            return
