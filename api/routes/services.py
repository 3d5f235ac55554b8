"""What the routes of all kinds of orders share: the application's parts, who is asked,
and who is waited for.

Next: api/routes/orders.py and statistics.py, which make orders, and admission.py, which
begins them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import Header, Path, Query, Request

from api.auth import require_reader
from api.conditions import Conditions
from api.live import Bell, Inbox, Presence, Waits, read_until
from api.prefect_runs import Runs
from api.routes.budgets import Budgets
from api.settings import CoordinatorSettings
from api.store import Store
from api.store.disk import Disk
from api.store.engine import in_thread
from api.store.hospitals import Caller
from api.store.places import PLACED, Queue, is_begun, undecided
from api.store.rows import OrderRow
from api.told_orders import ToldOrders
from protocol.errors import Conflict, ConsiliumError, NotFound, OrderStopped
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE, Acceptance, peek_envelope
from protocol.sealing import PublicIdentity
from protocol.training_request import rounds_done

OrderId = Annotated[int, Query(ge=1, lt=2**31)]
OrderInPath = Annotated[int, Path(ge=1, lt=2**31)]
IdempotencyKey = Annotated[str | None, Header(max_length=200)]
Limit = Annotated[int, Query(ge=1, le=500)]
Before = Annotated[int | None, Query(ge=1, lt=2**31)]

FLOWS = {
    "train": "train-order/train-order",
    # Training without rounds: the document says so.
    "evaluate": "train-order/train-order",
    "statistics": "joint-statistics/joint-statistics",
}
"""The coordinator's deployment for each kind of order that it runs itself."""

MOST_KEYS = 1000
"""So many one-time keys are kept; what was sealed to an older one is asked for again.
"""

ORDER_ENDED = "ended"
"""Rung whenever an order has ended, or a schedule has asked for none: Prefect has one
more run that is over.
"""

NAMED_AFTER_SECONDS = 1.0
"""Whoever has been waited for so long is named."""

STUCK = ("away", "disk", "site")
"""Causes that hold up the others of an order too."""


class Services:
    """The application's parts, as the routes use them."""

    def __init__(self, request: Request) -> None:
        state = request.app.state
        self.settings: CoordinatorSettings = state.settings
        self.store: Store = state.store
        self.runs: Runs = state.runs
        self.bell: Bell = state.bell
        self.told_orders: ToldOrders = state.told_orders
        self.inbox: Inbox = state.inbox
        self.waits: Waits = state.waits
        self.presence: Presence = state.presence
        self.conditions: Conditions = state.conditions
        self.disk: Disk = state.disk
        self.budgets: Budgets = state.budgets
        self.reply_keys: dict[int, tuple[bytes, int]] = state.reply_keys

    def ready(self) -> set[int]:
        """The hospitals that can work on an order now: their agents are there, and
        nothing holds orders up.
        """
        return {
            user
            for user in self.presence.there()
            if not self.conditions.held_up_seconds(user)
        }

    def keep_key(self, order_id: int, reply: bytes, *, attempt: int = 0) -> None:
        """Keeps the one-time key to which an order's answer is sealed; in memory only,
        the newest ones.
        """
        self.reply_keys[order_id] = (reply, attempt)
        while len(self.reply_keys) > MOST_KEYS:
            oldest = next(iter(self.reply_keys))
            self.reply_keys.pop(oldest)


async def identities(
    services: Services, hospitals: list[int]
) -> dict[int, PublicIdentity]:
    """The public keys to seal to each hospital; says which hospital is unknown or was
    never there.
    """
    registered = await in_thread(services.store.hospitals.all)
    known = {hospital.user_id: hospital for hospital in registered}
    unknown = [str(user) for user in hospitals if user not in known]
    if unknown:
        raise NotFound(
            f"There is no hospital with user_id {', '.join(unknown)}.",
            remedy="GET /hospitals lists them.",
            code="user",
        )
    keys: dict[int, PublicIdentity] = {}
    absent: list[str] = []
    for user in hospitals:
        hospital = known[user]
        if hospital.identity:
            keys[user] = PublicIdentity.decode(hospital.identity)
        else:
            absent.append(hospital.name)
    if absent:
        raise Conflict(
            f"{', '.join(absent)} has never connected, so nothing can be sealed to it.",
            remedy="Its IT starts the agent once: ./run agent --site <folder>.",
            code="not_enrolled",
        )
    return keys


async def readable(
    services: Services,
    caller: Caller,
    order_id: int,
    *,
    kind: str | None = None,
    what: str = "order",
) -> OrderRow:
    """An order that the caller may read. NotFound when there is none of this kind."""
    order: OrderRow = await in_thread(services.store.orders.get, order_id)
    if kind is not None and order.kind != kind:
        raise NotFound(
            f"There is no {what} {order_id}.",
            remedy="GET /orders lists what there is.",
            code=what,
        )
    require_reader(caller, order.hospitals)
    return order


async def ended_order(services: Services, order_id: int, seconds: float) -> OrderRow:
    """The order when it has ended, or as it is after so many seconds."""

    async def look() -> OrderRow:
        return await in_thread(services.store.orders.get, order_id)

    return await read_until(
        services.bell,
        ("order", order_id),
        look,
        is_enough=lambda order: order.has_ended,
        seconds=seconds,
    )


def progress(order: OrderRow, n_recorded: int) -> dict[str, int | None]:
    """How many rounds, or parts of an order of statistics, are done, of how many there
    are at the most: an order that converges needs fewer. Prefect's progress bar, the
    clients' and the agents' logs show the same number.
    """
    if order.kind == "statistics":
        stage = order.stage or {"done": 0, "of": None}
        return {"done": stage["done"], "of": stage["of"]}
    if order.kind == "evaluate":
        return {"done": n_recorded, "of": 1}
    if order.kind != "train":
        return {"done": n_recorded, "of": None}
    params = order.body.get("model_params", {})
    max_iter = int(params.get("max_iter", 100))
    validation = params.get("cv_param", {})
    n_models = 1
    if validation.get("need_cv"):
        n_models += validation.get("n_splits", 5)
    return {"done": rounds_done(n_recorded, max_iter), "of": n_models * max_iter}


def deleted_run(order: OrderRow) -> str | None:
    """Since when Prefect has no run of the order any longer: it keeps those of the
    newest; None where it has not deleted one.
    """
    if order.flow_run_id is None or order.runs_deleted is None:
        return None
    return order.runs_deleted.isoformat() + "Z"


# Who has counted, and who is waited for


def data_volum(order: OrderRow) -> dict[str, int | None]:
    """Rows by hospital, once all hospitals have agreed on the order.

    Nothing before: the gates do not remember an order that is cancelled or refused by
    then, and the counts of two that differ by a patient would tell of that one.
    """
    if order.kind == "external":
        return {}
    return {str(user): order.n_rows.get(str(user)) for user in _counting(order)}


async def not_counted(services: Services, order: OrderRow) -> list[str]:
    """The hospitals that have not counted their rows yet, of an order of flows."""
    if order.kind not in FLOWS or order.n_rows:
        return []
    accepted = {} if order.has_ended else await _accepted(services, order)
    return [str(user) for user in _counting(order) if accepted.get(str(user)) is None]


def _counting(order: OrderRow) -> list[int]:
    """The hospitals whose rows an order is about: of statistics its providers, else
    all.
    """
    if order.kind != "statistics":
        return list(order.hospitals)
    return sorted(provider["name"] for provider in order.body["data_providers"])


async def _accepted(services: Services, order: OrderRow) -> dict[str, int | None]:
    """The row counts of those hospitals that have accepted an order."""
    address = Address(order.order_id, "acceptance")
    try:
        envelopes = await in_thread(
            services.store.messages.gather, address, order.hospitals, EVERYONE
        )
    except OrderStopped:  # it has ended since it was read
        return {}
    return {
        str(user): _accepted_rows(user, envelope)
        for user, envelope in envelopes.items()
    }


def _accepted_rows(user_id: int, envelope: bytes) -> int | None:
    """Nothing is verified here: who takes part in the order does that."""
    try:
        content = peek_envelope(envelope, kind="acceptance", sender=user_id)
        return Acceptance.decode(content).n_rows
    except ConsiliumError:
        return None  # the order's parties will say what is wrong with it


@dataclass(frozen=True, slots=True)
class Waiting:
    """One whom an order waits for, and why."""

    user_id: int  # COORDINATOR for the coordinator itself
    # disk, prefect, away, approval, full, working, or what an agent reports of its site
    cause: str
    message: str  # the same as a sentence, with what ends it


NOT_BEGUN = (
    "Prefect has not made the order's runs yet. The operator sees whether it answers, and whether "
    "`./run server deploy` was run; the order goes on by itself."
)


async def waiting_for(services: Services, order: OrderRow) -> list[Waiting]:
    """Whom an order has waited for, for a second or more; where some of them are away
    or have a full disk, those alone, because the others may wait for them too. Nobody
    once it has ended. Before it has places: everybody who keeps it from having them.
    """
    if order.has_ended:
        return []
    own: list[Waiting] = []
    if services.disk.is_full():
        own.append(Waiting(COORDINATOR, "disk", str(services.disk.trouble())))
    if order.kind in PLACED and order.admitted is None:
        return own + await _waiting_for_places(services, order)
    late = services.waits.longer_than(order.order_id, NAMED_AFTER_SECONDS)
    if not late and order.state == "pending":
        # Before the coordinator's flow waits for anybody, the hospitals count their
        # rows.
        accepted = await _accepted(services, order)
        late = [user for user in order.hospitals if accepted.get(str(user)) is None]
    names = await in_thread(services.store.hospitals.names)
    found = [
        _waiting(services, user, names.get(user, f"hospital {user}")) for user in late
    ]
    stuck = own + [waiting for waiting in found if waiting.cause in STUCK]
    return stuck or found


def _waiting(services: Services, user: int, name: str) -> Waiting:
    if not services.presence.is_there(user):
        message = (
            f"{name} is away: its agent is not connected. The order goes on when it is."
        )
        return Waiting(user, "away", message)
    troubles = services.conditions.troubles(user, name)
    if troubles:
        return Waiting(user, troubles[0].cause, troubles[0].message)
    return Waiting(user, "working", f"{name} is at work: it has not sent its part yet.")


async def _waiting_for_places(services: Services, order: OrderRow) -> list[Waiting]:
    names = await in_thread(services.store.hospitals.names)
    queues = await in_thread(
        services.store.places.queue, order.order_id, services.ready()
    )
    no_place = {
        queue.user_id: queue for queue in queues if queue.is_full or queue.is_kept
    }
    to_decide = undecided(order.asked)
    found: list[Waiting] = []
    if not is_begun(order):
        found.append(Waiting(COORDINATOR, "prefect", NOT_BEGUN))
    # Each hospital is named once, with what has to pass first.
    for user in order.hospitals:
        name = names.get(user, f"hospital {user}")
        if user not in services.ready():
            found.append(_waiting(services, user, name))
        elif user in to_decide:
            message = f"{name} is asked first: a person may have to decide there."
            found.append(Waiting(user, "approval", message))
        elif user in no_place:
            found.append(Waiting(user, "full", _say_full(name, no_place[user])))
    return found


def _say_full(name: str, queue: Queue) -> str:
    why = f"{name} has no free place: it takes {queue.places} orders at once."
    if queue.is_kept:
        why = f"{name} keeps its free places for an order that waits for another hospital too."
    if queue.n_before == 0:
        return f"{why} This order is the next there."
    return f"{why} Orders before this one there: {queue.n_before}."


async def waiting_shown(services: Services, order: OrderRow) -> list[dict[str, Any]]:
    """The same as answers show it, with names."""
    names = {
        COORDINATOR: "coordinator",
        **await in_thread(services.store.hospitals.names),
    }
    rows = []
    for waiting in await waiting_for(services, order):
        rows.append({**asdict(waiting), "name": names.get(waiting.user_id)})
    return rows
