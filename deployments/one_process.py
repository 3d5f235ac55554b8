"""A federation in one process: the same parties, messages and rounds, over memory instead of HTTP, without Prefect.

For simulations, tests and cost estimates. Every hospital is a thread; the coordinator is another.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from agents.party import open_training
from agents.settings import Partner, Settings
from agents.vault import Vault
from flows.training import coordinate_training, train_locally
from protocol.errors import ConsiliumError, OrderStopped
from protocol.exchange import Address, Exchange, MemoryTransport
from protocol.messages import COORDINATOR, EVERYONE, HospitalSql
from protocol.order import TrainingRequest, order_document, parse_training_request
from protocol.sealing import KEY_BYTES
from tasks.coordinator import open_desk


@dataclass
class Outcome:
    """What an order left: each hospital's model, what the coordinator recorded, and every byte it saw."""

    models: dict[int, dict[str, Any]]
    facts: list[dict[str, Any]]
    traffic: list[bytes]


def pin_each_other(sites: Mapping[int, Settings]) -> dict[int, Settings]:
    """Every site pins every other: what people do by telephone, for who owns all sites."""
    partners = {
        user: Partner(user, site.name, Vault(site.vault).identity().public.fingerprint) for user, site in sites.items()
    }
    return {user: replace(site, partners=partners) for user, site in sites.items()}


def run_order(
    sites: Mapping[int, Settings],
    body: Mapping[str, Any],
    *,
    order_id: int = 1,
    transport: MemoryTransport | None = None,
) -> Outcome:
    """Runs one order to its end. Raises the ConsiliumError with which a hospital or the coordinator ended it."""
    request, transport = parse_training_request(dict(body)), transport or MemoryTransport()
    submit(transport, request, sites, order_id)
    with ThreadPoolExecutor(len(sites) + 1, thread_name_prefix="party") as pool:
        running = [pool.submit(_hospital, sites[user], order_id, transport) for user in request.hospitals]
        running.append(pool.submit(_coordinator, order_id, transport))
        failures = [error for future in running if (error := future.exception())]
    causes = [e for e in failures if not isinstance(e, OrderStopped)] or failures
    if causes:
        raise causes[0]
    models = {user: Vault(sites[user].vault).model(order_id) for user in request.hospitals}
    return Outcome(models, transport.facts[order_id], transport.traffic)


def submit(transport: MemoryTransport, request: TrainingRequest, sites: Mapping[int, Settings], order_id: int) -> None:
    """What the coordinator's API does with a request: the document for all, the SQL sealed to each."""
    own = {user: HospitalSql(secrets.token_bytes(KEY_BYTES), request.sql_of(user)) for user in request.hospitals}
    for user, sql in own.items():
        seal_key = Vault(sites[user].vault).identity().public.seal_key
        transport.put(Address(order_id, "sql"), COORDINATOR, user, sql.seal(user, seal_key))
    document = order_document(order_id, request, {user: sql.commitment for user, sql in own.items()})
    transport.put(Address(order_id, "document"), COORDINATOR, EVERYONE, document.encode())


def _hospital(settings: Settings, order_id: int, transport: MemoryTransport) -> None:
    with _ending(transport, order_id):
        train_locally(open_training(settings, order_id, transport))


def _coordinator(order_id: int, transport: MemoryTransport) -> None:
    with _ending(transport, order_id):
        coordinate_training(open_desk(order_id, Exchange(transport, COORDINATOR)), lambda record: None)


class _ending:
    """Whoever fails ends the order for all, so that no thread waits for ever."""

    def __init__(self, transport: MemoryTransport, order_id: int) -> None:
        self._transport, self._order_id = transport, order_id

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            known = error if isinstance(error, ConsiliumError) else ConsiliumError(repr(error), remedy="")
            self._transport.refuse(self._order_id, known)
