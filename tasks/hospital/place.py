"""Where a hospital's run of an order stands, and how a refusal there ends the order.

`flows.hospital_runs` gives it the events; `tasks.ending` has what a run's end is at the
coordinator too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from prefect.client.schemas.objects import State
from prefect.states import Failed

from agents.order.party import Party, open_party
from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings, load_settings
from agents.site.vault import Vault
from protocol.errors import ConsiliumError, OrderStopped, OrderWaits
from protocol.exchange import Exchange, HttpTransport
from protocol.start_window import LATE
from tasks.ending import give_back, is_out_of_room, known, state_of, wait_for_places

SITE = "CONSILIUM_SITE"

MENDABLE = ("unauthenticated", "token", "site", "disk", "ledger")
"""What a person at the hospital puts right while the order waits."""


def at_hospital(
    order_id: int, work: Callable[[Party], None], *, takes_place: bool = True
) -> State[Any] | None:
    """Does this hospital's work on an order; the state of its run, None for success.

    The state has a code for Prefect; sentences go over the exchange (decision 79).

    A refusal goes to the ledger and ends the order; keys and snapshot are forgotten.
    What a person here can put right (settings, a token that is not accepted, a full
    disk) ends no order: the process gives the run back to its agent, which starts it
    again. So it does where the order has no places now, unless it needs none
    (`takes_place` is false): what is in the vault stays.
    """
    try:
        settings = load_settings(Path(os.environ[SITE]))
        transport = HttpTransport(
            settings.client(), settings.secret("token"), takes_place=takes_place
        )
        exchange = Exchange(transport, settings.user_id)
    except (ConsiliumError, OSError) as error:
        give_back(error)
    try:
        party = open_party(settings, order_id, transport)
        work(party)
        if takes_place:
            party.store.destroy()
    except OrderWaits as waits:
        wait_for_places(waits)
    except OrderStopped as stop:
        _end(settings, order_id, stop.code)
        return state_of(stop, stop.code)
    except Exception as error:  # noqa: BLE001
        if is_out_of_room(error):
            give_back(error)
        cause = known(error)
        if isinstance(error, OSError) or cause.code in MENDABLE:
            give_back(cause)
        refused = _refuse(exchange, order_id, cause, settings)
        if refused.outcome:
            _end(settings, order_id, refused.outcome)
        return refused.state
    return None


def _end(settings: SiteSettings, order_id: int, outcome: str) -> None:
    """Marks the order as ended here.

    Where that cannot be written, a run that is started again does it: an exception
    would tell Prefect this site's folders.
    """
    try:
        Vault(settings.vault).end_order(order_id, outcome)
    except OSError as error:
        give_back(error)


class _Refused(NamedTuple):
    """How this hospital's refusal has come out."""

    state: State[Any] | None  # for Prefect
    # How the order has ended here by it; empty where it has not.
    outcome: str


def _refuse(
    exchange: Exchange, order_id: int, error: ConsiliumError, settings: SiteSettings
) -> _Refused:
    """Writes the refusal into the ledger and sends it to the coordinator.

    The order is not over where it is none of this hospital's to refuse: marked as
    ended, its number could never be used here.
    """
    named = type(error)(
        f"{settings.name}: {error.sentence}",
        remedy=error.remedy,
        code=error.code,
        **error.detail,
    )
    try:
        # The ledger first: what the others hear of stands in it.
        ledger = Ledger(settings.ledger)
        ledger.write(
            "refused", order_id=order_id, rule=error.code, sentence=error.sentence
        )
        exchange.refuse(order_id, named)
    except OrderStopped as stop:
        # One that has begun without this hospital goes on.
        outcome = stop.code if stop.code == LATE else "failed"
        return _Refused(state_of(stop, stop.code), outcome)
    except OSError as full:
        give_back(full)
    except ConsiliumError as other:
        if other.code in MENDABLE:
            give_back(other)
        return _Refused(Failed(message=other.code), outcome="")
    return _Refused(Failed(message=named.code), outcome="failed")
