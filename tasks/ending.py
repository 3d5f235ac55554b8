"""How a flow run stands in the world and how it ends, at the coordinator and at a
hospital alike.

A flow's only parameter is an order number. Everything else comes from the place where
it runs: a hospital's site folder, or the coordinator's address and token, set by the
worker that started the process. However an order ends, the run returns a state with one
safe sentence, a hospital's with a code; it never raises, so no traceback reaches
Prefect.

`tasks.hospital.place` and `tasks.coordinator.place` decide with this how a run ends;
`tasks.worker` acts on exit codes.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any, NoReturn

from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Failed

from protocol.errors import ConsiliumError, OrderStopped, OrderWaits, Unavailable
from protocol.exchange import Exchange
from protocol.machine.disk import is_full
from tasks.exit_codes import ExitCode
from tasks.steps import hidden

log = logging.getLogger("consilium.flows")


@dataclass
class Place:
    """Where a flow run stands: the order, its end of the exchange, and how it came out."""

    order_id: int
    exchange: Exchange
    outcome: State[Any] | None = None  # None while it goes on, and for success


def wait_for_places(waits: OrderWaits) -> NoReturn:
    """Ends this process at once; the worker begins the run again when its order has
    places.
    """
    log.info("%s", waits.sentence)
    # Not by an exception: Prefect would report a final state, and the run could not
    # begin again.
    logging.shutdown()
    os._exit(ExitCode.NO_PLACES)


def give_back(error: Exception) -> NoReturn:
    """Ends this process at once; the agent starts the run again, after a while, as long
    as the order goes on.

    Of a full disk the agent itself speaks, once for all its orders.
    """
    is_full_disk = is_out_of_room(error)
    if not is_full_disk:
        log.error("This site is not ready: %s; the run is started again", error)
    logging.shutdown()
    os._exit(ExitCode.DISK_FULL if is_full_disk else ExitCode.NOT_READY)


def is_out_of_room(error: Exception) -> bool:
    """Whether a disk of this machine was full: as the system said it, or as a step or
    the data's reader told it.
    """
    return is_full(error) or (isinstance(error, Unavailable) and error.code == "disk")


def known(error: Exception) -> ConsiliumError:
    """An error whose sentence may be read by others: itself, or a safe one in its
    place.
    """
    return error if isinstance(error, ConsiliumError) else hidden("flow run", error)


def state_of(stop: OrderStopped, message: str) -> State[Any] | None:
    """Prefect's state for the run of an order that has ended; None for success.

    The coordinator says there why, in a sentence; a hospital only by a code.
    """
    match stop.code:
        case "success":
            return None
        case "cancelled" | "late":
            return Cancelled(message=message)
        case _:
            return Failed(message=message)
