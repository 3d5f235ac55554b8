"""What the routes of all kinds of orders share: the application's parts, who is asked,
and who is waited for.

Next: api/routes/orders.py and statistics.py, which make orders, and admission.py, which
begins them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from fastapi import Header, Path, Query, Request
from pydantic import BaseModel

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
from protocol.versions import common_protocol, features_of

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
        app_state = request.app.state
        self.settings: CoordinatorSettings = app_state.settings
        self.store: Store = app_state.store
        self.runs: Runs = app_state.runs
        self.bell: Bell = app_state.bell
        self.told_orders: ToldOrders = app_state.told_orders
        self.inbox: Inbox = app_state.inbox
        self.waits: Waits = app_state.waits
        self.presence: Presence = app_state.presence
        self.conditions: Conditions = app_state.conditions
        self.disk: Disk = app_state.disk
        self.budgets: Budgets = app_state.budgets
        self.reply_keys: dict[int, tuple[bytes, int]] = app_state.reply_keys

    def ready(self) -> set[int]:
        """The hospitals that can work on an order now: their agents are there, and
        nothing holds orders up.
        """
        ready_users = set()
        for user_id in self.presence.there():
            is_held_up = self.conditions.held_up_seconds(user_id)
            if not is_held_up:
                ready_users.add(user_id)
        return ready_users

    def keep_key(
        self,
        order_id: int,
        reply: bytes,
        *,
        attempt: int = 0,
    ) -> None:
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
    by_user = {hospital.user_id: hospital for hospital in registered}
    unknown = [str(user_id) for user_id in hospitals if user_id not in by_user]
    if unknown:
        unknown_ids = ", ".join(unknown)
        raise NotFound(
            f"There is no hospital with user_id {unknown_ids}.",
            remedy="GET /hospitals lists them.",
            code="user",
        )
    public_keys: dict[int, PublicIdentity] = {}
    absent: list[str] = []
    for user_id in hospitals:
        hospital = by_user[user_id]
        if hospital.identity:
            public_keys[user_id] = PublicIdentity.decode(hospital.identity)
        else:
            absent.append(hospital.name)
    if absent:
        absent_names = ", ".join(absent)
        raise Conflict(
            f"{absent_names} has never connected, so nothing can be sealed to it.",
            remedy="Its IT starts the agent once: ./run agent --site <folder>.",
            code="not_enrolled",
        )
    return public_keys


async def order_protocol(
    services: Services,
    hospitals: Iterable[int],
    request: BaseModel,
) -> int:
    """The protocol number in which an order of these hospitals is written: the largest
    that their agents have said they speak.

    Conflict (code protocol) where it asks for what one of them does not speak.
    """
    registered = await in_thread(services.store.hospitals.all)
    spoken = {hospital.user_id: hospital.speaks for hospital in registered}
    windows = {user_id: spoken[user_id] for user_id in hospitals}
    features = features_of(request.model_dump())
    return common_protocol(windows, features)


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


async def ended_order(
    services: Services,
    order_id: int,
    seconds: float,
) -> OrderRow:
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


def progress(
    order: OrderRow,
    n_recorded: int,
) -> dict[str, int | None]:
    """How many rounds, or parts of an order of statistics, are done, of how many there
    are at the most: an order that converges needs fewer. Prefect's progress bar, the
    clients' and the agents' logs show the same number.
    """
    if order.kind == "statistics":
        stage = order.stage or {"done": 0, "of": None}
        return {"done": stage["done"], "of": stage["of"]}
    if order.kind == "evaluate":
        # Of one sum there is one round; of several the last one only ends them.
        params = order.body.get("model_params", {})
        max_iter = int(params.get("max_iter", 1))
        n_rounds = max_iter if max_iter == 1 else max_iter + 1
        return {"done": n_recorded, "of": n_rounds}
    if order.kind != "train":
        return {"done": n_recorded, "of": None}
    params = order.body.get("model_params", {})
    max_iter = int(params.get("max_iter", 100))
    validation = params.get("cv_param", {})
    n_models = 1
    if validation.get("need_cv"):
        n_models += validation.get("n_splits", 5)
    n_done = rounds_done(n_recorded, max_iter)
    n_rounds = n_models * max_iter
    return {"done": n_done, "of": n_rounds}


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
    counts = {}
    for user_id in _asked(order):
        user_key = str(user_id)
        counts[user_key] = order.n_rows.get(user_key)
    return counts


async def not_counted(services: Services, order: OrderRow) -> list[str]:
    """The hospitals that have not counted their rows yet, of an order of flows."""
    if order.kind not in FLOWS or order.n_rows:
        return []
    accepted: dict[str, int | None] = {}
    if not order.has_ended:
        accepted = await _accepted(services, order)
    missing = []
    for user_id in _asked(order):
        if user_id in order.late:
            continue
        user_key = str(user_id)
        if accepted.get(user_key) is None:
            missing.append(user_key)
    return missing


def _asked(order: OrderRow) -> list[int]:
    """The hospitals whose rows an order is about: of statistics its providers, else
    all.
    """
    if order.kind != "statistics":
        return list(order.hospitals)
    providers = order.body["data_providers"]
    return sorted(provider["name"] for provider in providers)


async def _accepted(
    services: Services,
    order: OrderRow,
) -> dict[str, int | None]:
    """The row counts of those hospitals that have accepted an order."""
    address = Address(order.order_id, "acceptance")
    try:
        envelopes = await in_thread(
            services.store.messages.gather,
            address,
            order.hospitals,
            EVERYONE,
        )
    except OrderStopped:  # it has ended since it was read
        return {}
    accepted = {}
    for user_id, envelope in envelopes.items():
        n_rows = _accepted_rows(user_id, envelope)
        accepted[str(user_id)] = n_rows
    return accepted


def _accepted_rows(user_id: int, envelope: bytes) -> int | None:
    """Nothing is verified here: who takes part in the order does that."""
    try:
        content = peek_envelope(envelope, kind="acceptance", sender=user_id)
        acceptance = Acceptance.decode(content)
        return acceptance.n_rows
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
    own_waiting: list[Waiting] = []
    if services.disk.is_full():
        trouble = str(services.disk.trouble())
        own_waiting.append(Waiting(COORDINATOR, "disk", trouble))
    if order.kind in PLACED and order.admitted is None:
        for_places = await _waiting_for_places(services, order)
        return own_waiting + for_places
    late = services.waits.longer_than(order.order_id, NAMED_AFTER_SECONDS)
    # Its flow waits for the initiator's word, and that for these.
    may_start = order.is_windowed and order.party is None
    if may_start or (not late and order.state == "pending"):
        # Before the coordinator's flow waits for anybody, the hospitals count their
        # rows.
        accepted = await _accepted(services, order)
        late = []
        for user_id in order.members:
            n_rows = accepted.get(str(user_id))
            if n_rows is None:
                late.append(user_id)
    hospital_names = await in_thread(services.store.hospitals.names)
    if may_start:
        to_start = _waiting_to_start(
            services,
            order,
            late,
            hospital_names,
        )
        return own_waiting + to_start
    all_waiting = []
    stuck = own_waiting
    for user_id in late:
        hospital_name = hospital_names.get(user_id, f"hospital {user_id}")
        waiting = _waiting(services, user_id, hospital_name)
        all_waiting.append(waiting)
        if waiting.cause in STUCK:
            stuck.append(waiting)
    return stuck or all_waiting


def _waiting_to_start(
    services: Services,
    order: OrderRow,
    missing: list[int],
    names: dict[int, str],
) -> list[Waiting]:
    """Who has not accepted yet an order that starts with who is there."""
    all_waiting = []
    for user_id in missing:
        name = names.get(user_id, f"hospital {user_id}")
        waiting = _waiting(services, user_id, name)
        if user_id != order.initiator:
            message = f"{name} has not accepted yet. The order starts without it when its time is over."
            waiting = replace(waiting, message=message)
        all_waiting.append(waiting)
    return all_waiting


def _waiting(services: Services, user: int, name: str) -> Waiting:
    if not services.presence.is_there(user):
        message = (
            f"{name} is away: its agent is not connected. The order goes on when it is."
        )
        return Waiting(user, "away", message)
    troubles = services.conditions.troubles(user, name)
    if troubles:
        first_trouble = troubles[0]
        return Waiting(user, first_trouble.cause, first_trouble.message)
    message = f"{name} is at work: it has not sent its part yet."
    return Waiting(user, "working", message)


async def _waiting_for_places(services: Services, order: OrderRow) -> list[Waiting]:
    hospital_names = await in_thread(services.store.hospitals.names)
    queues = await in_thread(
        services.store.places.queue,
        order.order_id,
        services.ready(),
    )
    no_place = {}
    for queue in queues:
        if queue.is_full or queue.is_kept:
            no_place[queue.user_id] = queue
    to_decide = undecided(order.asked)
    all_waiting: list[Waiting] = []
    if not is_begun(order):
        all_waiting.append(Waiting(COORDINATOR, "prefect", NOT_BEGUN))
    # Each hospital is named once, with what has to pass first.
    for user_id in order.hospitals:
        name = hospital_names.get(user_id, f"hospital {user_id}")
        if user_id not in services.ready():
            waiting = _waiting(services, user_id, name)
            all_waiting.append(waiting)
        elif user_id in to_decide:
            message = f"{name} is asked first: a person may have to decide there."
            all_waiting.append(Waiting(user_id, "approval", message))
        elif user_id in no_place:
            message = _say_full(name, no_place[user_id])
            all_waiting.append(Waiting(user_id, "full", message))
    return all_waiting


def _say_full(name: str, queue: Queue) -> str:
    why = f"{name} has no free place: it takes {queue.places} orders at once."
    if queue.is_kept:
        why = f"{name} keeps its free places for an order that waits for another hospital too."
    if queue.n_before == 0:
        return f"{why} This order is the next there."
    return f"{why} Orders before this one there: {queue.n_before}."


async def waiting_shown(
    services: Services,
    order: OrderRow,
) -> list[dict[str, Any]]:
    """The same as answers show it, with names."""
    names = {COORDINATOR: "coordinator"}
    names.update(await in_thread(services.store.hospitals.names))
    rows = []
    for waiting in await waiting_for(services, order):
        row = asdict(waiting)
        row["name"] = names.get(waiting.user_id)
        rows.append(row)
    return rows
