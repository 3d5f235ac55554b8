"""How a flow run stands in the world: where it is, and how it ends.

A flow's only parameter is an order number. Everything else comes from the place where it runs: a hospital's site
folder, or the coordinator's address and token, set by the worker that started the process. However an order ends, the
run returns a state with one safe sentence; it never raises, so no traceback reaches Prefect.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Failed

from agents.disk import DISK_FULL, is_full
from agents.ledger import Ledger
from agents.party import P, open_party
from agents.settings import Settings, load_settings
from agents.vault import Vault
from protocol.errors import ConsiliumError, OrderStopped, OrderWaits, Unavailable
from protocol.exchange import LONGEST_PAUSE_SECONDS, Exchange, HttpTransport, authorities
from protocol.messages import COORDINATOR
from protocol.outage import PREFECT, outage
from tasks.steps import hidden

log = logging.getLogger("consilium.flows")
T = TypeVar("T")

SITE = "CONSILIUM_SITE"
AGAIN, NOT_READY = 76, 78  # exit codes that the worker knows (agents.worker.run_in_child)
MENDABLE = ("unauthenticated", "token", "site", "disk", "ledger")
"""What a person at the hospital puts right while the order waits."""
COORDINATOR_URL = "CONSILIUM_COORDINATOR_URL"
COORDINATOR_TOKEN = "CONSILIUM_COORDINATOR_TOKEN_FILE"  # noqa: S105 (the name of a variable that names a file)


@dataclass
class Place:
    """Where a flow run stands: the order, its end of the exchange, and how it came out."""

    order_id: int
    exchange: Exchange
    outcome: State[Any] | None = None


@dataclass
class HospitalPlace(Place, Generic[P]):
    party: P = field(init=False)


@contextmanager
def at_hospital(order_id: int, kind: type[P], *, takes_place: bool = True) -> Iterator[HospitalPlace[P]]:
    """A hospital's place. A refusal goes to its ledger and ends the order; keys and snapshot are forgotten.

    What a person here can put right (settings, a token that is not accepted, a full disk) ends no order: the process
    gives the run back to its agent, which starts it again. So it does where the order has no places now, unless it
    needs none (`takes_place` is false): what is in the vault stays.
    """
    try:
        settings = load_settings(Path(os.environ[SITE]))
        transport = HttpTransport(settings.client(), settings.secret("token"), takes_place=takes_place)
        place: HospitalPlace[P] = HospitalPlace(order_id, Exchange(transport, settings.user_id))
    except (ConsiliumError, OSError) as error:
        _give_back(error)
    try:
        place.party = open_party(kind, settings, order_id, transport)
        yield place
        if takes_place:
            place.party.store.destroy()
    except OrderWaits as waits:
        _wait_for_places(waits)
    except OrderStopped as stop:
        place.outcome = _state_of(stop)
        _end(settings, order_id, stop.code)
    except Exception as error:  # noqa: BLE001 (the last place before Prefect: no text of it may pass)
        if is_out_of_room(error):
            _give_back(error)
        known = _known(error)
        if isinstance(error, OSError) or known.code in MENDABLE:
            _give_back(known)
        place.outcome, is_over = _refuse(place, known, settings)
        if is_over:
            _end(settings, order_id, "failed")


def _end(settings: Settings, order_id: int, outcome: str) -> None:
    """Marks the order as ended here. Where that cannot be written, a run that is started again does it: an exception
    would tell Prefect this site's folders."""
    try:
        Vault(settings.vault).end_order(order_id, outcome)
    except OSError as error:
        _give_back(error)


def _wait_for_places(waits: OrderWaits) -> NoReturn:
    """Ends this process at once; the worker begins the run again when its order has places."""
    log.info("%s", waits.sentence)
    logging.shutdown()
    os._exit(AGAIN)


def _give_back(error: Exception) -> NoReturn:
    """Ends this process at once; the agent starts the run again, after a while, as long as the order goes on.

    Of a full disk the agent itself speaks, once for all its orders.
    """
    is_full_disk = is_out_of_room(error)
    if not is_full_disk:
        log.error("This site is not ready: %s; the run is started again", error)
    logging.shutdown()
    os._exit(DISK_FULL if is_full_disk else NOT_READY)


def is_out_of_room(error: Exception) -> bool:
    """Whether a disk of this machine was full: as the system said it, or as a step or the data's reader told it."""
    return is_full(error) or (isinstance(error, Unavailable) and error.code == "disk")


def _refuse(place: Place, error: ConsiliumError, settings: Settings) -> tuple[State[Any] | None, bool]:
    """Tells the ledger and the coordinator; the state for Prefect, and whether the order is over.

    It is not where it is no order of this hospital's to refuse: marked as ended, its number could never be used here.
    """
    told = type(error)(f"{settings.name}: {error.sentence}", remedy=error.remedy, code=error.code, **error.detail)
    try:
        Ledger(settings.ledger).write("refused", order_id=place.order_id, rule=error.code, sentence=error.sentence)
        place.exchange.refuse(place.order_id, told)
    except OrderStopped as stop:
        return _state_of(stop), True
    except OSError as full:
        _give_back(full)
    except ConsiliumError as other:
        if other.code in MENDABLE:
            _give_back(other)
        return Failed(message=str(other)), False
    return Failed(message=str(told)), True


@contextmanager
def at_coordinator(order_id: int) -> Iterator[Place]:
    """The coordinator's place. What goes wrong here ends the order with a sentence, a full disk excepted: the worker
    starts the run again when there is room."""
    place = Place(order_id, Exchange(HttpTransport(coordinator_client(), coordinator_token()), COORDINATOR))
    try:
        yield place
    except OrderWaits as waits:
        _wait_for_places(waits)
    except OrderStopped as stop:
        place.outcome = _state_of(stop)
    except Exception as error:  # noqa: BLE001
        if is_out_of_room(error):
            _give_back(error)
        known = _known(error)
        place.exchange.record(order_id, end="failed", stop=known.to_json())
        place.outcome = Failed(message=str(known))


def _known(error: Exception) -> ConsiliumError:
    return error if isinstance(error, ConsiliumError) else hidden("flow run", error)


def _state_of(stop: OrderStopped) -> State[Any] | None:
    if stop.code == "success":
        return None
    return Cancelled(message=str(stop)) if stop.code == "cancelled" else Failed(message=str(stop))


def coordinator_client() -> httpx.Client:
    url = os.environ[COORDINATOR_URL]
    return httpx.Client(base_url=url, verify=authorities(url), trust_env=False)


def coordinator_token() -> str:
    return Path(os.environ[COORDINATOR_TOKEN]).read_text().strip()


# Sub-runs


def dispatch(place: Place, flow_name: str, hospitals: list[int]) -> None:
    """One linked sub-run on each hospital's pool. Idempotent after a restart.

    The coordinator's API keeps which runs these are, wakes the agents, and lets them begin no others of this order.
    """
    runs = {}
    for user_id in hospitals:
        runs[str(user_id)] = _persist(functools.partial(_start, place.order_id, flow_name, user_id))
    place.exchange.record(place.order_id, runs=runs)


def _start(order_id: int, flow_name: str, user_id: int) -> str:
    """The flow run's id. Unavailable while the hospital has no deployment yet: the operator makes it, and the order
    goes on."""
    try:
        return _run_deployment(order_id, flow_name, user_id)
    except ObjectNotFound:
        raise Unavailable(
            f"Prefect knows no deployment {flow_name}/hospital-{user_id}.", remedy="Run: ./run server deploy"
        ) from None


def _run_deployment(order_id: int, flow_name: str, user_id: int) -> str:
    flow_run: Any = run_deployment(
        f"{flow_name}/hospital-{user_id}",
        parameters={"order_id": order_id},
        flow_run_name=f"order-{order_id}-hospital-{user_id}",
        tags=["hospital", f"order-{order_id}", f"hospital-{user_id}"],
        idempotency_key=f"order-{order_id}-hospital-{user_id}",
        timeout=0,
    )
    return str(flow_run.id)


def _persist(call: Callable[[], T]) -> T:
    """Prefect may be away for a while; the order is not lost for that."""
    pause = 0.5
    while True:
        asked = time.monotonic()
        try:
            answer = call()
        except (httpx.HTTPError, OSError, Unavailable) as error:
            why = error if isinstance(error, Unavailable) else type(error).__name__
            outage.missed(PREFECT, why, asked=asked)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            outage.answered(PREFECT)
            return answer


def withdraw(place: Place, *, patience_seconds: float = 12.0) -> None:
    """After an order that did not succeed: its hospital runs end before this one does.

    A run whose agent is away never started and is cancelled here; one under way ends itself, or its agent ends it;
    what is left after `patience_seconds` was under way at an agent that is away, and is cancelled here too.
    """
    if place.outcome is None:
        return
    deadline = time.monotonic() + patience_seconds
    message = place.outcome.message
    while not _persist(lambda: _end_runs(place.order_id, message, late=time.monotonic() > deadline)):
        time.sleep(0.2)


def _end_runs(order_id: int, message: str | None, *, late: bool) -> bool:
    """Cancels an order's hospital runs that nobody works on; whether none is left."""
    own = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"order-{order_id}", "hospital"]))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=own)
        under_way = [run for run in runs if run.state and not run.state.is_final()]
        for run in under_way:
            if late or run.state.is_scheduled():  # type: ignore[union-attr]
                client.set_flow_run_state(run.id, Cancelled(message=message), force=True)
    return late or not under_way
