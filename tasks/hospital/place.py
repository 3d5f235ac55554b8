"""Where a hospital's run of an order stands: its site folder; and how a refusal there ends the order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from prefect.client.schemas.objects import State
from prefect.states import Failed

from agents.order.party import P, open_party
from agents.site.ledger import Ledger
from agents.site.settings import Settings, load_settings
from agents.site.vault import Vault
from protocol.errors import ConsiliumError, OrderStopped, OrderWaits
from protocol.exchange import Exchange, HttpTransport
from tasks.ending import Place, give_back, is_out_of_room, known, state_of, wait_for_places

SITE = "CONSILIUM_SITE"


MENDABLE = ("unauthenticated", "token", "site", "disk", "ledger")
"""What a person at the hospital puts right while the order waits."""


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
        give_back(error)
    try:
        place.party = open_party(kind, settings, order_id, transport)
        yield place
        if takes_place:
            place.party.store.destroy()
    except OrderWaits as waits:
        wait_for_places(waits)
    except OrderStopped as stop:
        place.outcome = state_of(stop)
        _end(settings, order_id, stop.code)
    except Exception as error:  # noqa: BLE001 (the last place before Prefect: no text of it may pass)
        if is_out_of_room(error):
            give_back(error)
        cause = known(error)
        if isinstance(error, OSError) or cause.code in MENDABLE:
            give_back(cause)
        place.outcome, is_over = _refuse(place, cause, settings)
        if is_over:
            _end(settings, order_id, "failed")


def _end(settings: Settings, order_id: int, outcome: str) -> None:
    """Marks the order as ended here. Where that cannot be written, a run that is started again does it: an exception
    would tell Prefect this site's folders."""
    try:
        Vault(settings.vault).end_order(order_id, outcome)
    except OSError as error:
        give_back(error)


def _refuse(place: Place, error: ConsiliumError, settings: Settings) -> tuple[State[Any] | None, bool]:
    """Tells the ledger and the coordinator; the state for Prefect, and whether the order is over.

    It is not where it is no order of this hospital's to refuse: marked as ended, its number could never be used here.
    """
    told = type(error)(
        f"{settings.name}: {error.sentence}", remedy=error.remedy, code=error.code, **error.detail
    )
    try:
        Ledger(settings.ledger).write(
            "refused", order_id=place.order_id, rule=error.code, sentence=error.sentence
        )
        place.exchange.refuse(place.order_id, told)
    except OrderStopped as stop:
        return state_of(stop), True
    except OSError as full:
        give_back(full)
    except ConsiliumError as other:
        if other.code in MENDABLE:
            give_back(other)
        return Failed(message=str(other)), False
    return Failed(message=str(told)), True
