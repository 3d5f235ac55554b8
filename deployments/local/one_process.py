"""A federation in one process: the same parties, messages and rounds, over memory instead of HTTP, without Prefect.

For simulations, tests and cost estimates. Every hospital is a thread; the coordinator is another.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from agents.order.party import open_party
from agents.site.settings import Partner, Settings
from agents.site.vault import Vault
from flows.coordinator import coordinate_statistics, coordinate_training
from flows.hospital import answer_locally, train_locally
from protocol.errors import ConsiliumError, OrderStopped
from protocol.exchange import Address, Exchange, MemoryTransport
from protocol.messages import COORDINATOR, EVERYONE, HospitalSql
from protocol.sealing import KEY_BYTES
from protocol.statistics_request import (
    StatisticsRequest,
    parse_statistics_request,
    resolve,
    statistics_document,
)
from protocol.training_request import TrainingRequest, order_document, parse_training_request
from tasks.coordinator import statistics, training


@dataclass
class OrderOutcome:
    """What an order left: each hospital's model, what the coordinator recorded, and every byte it saw."""

    models: dict[int, dict[str, Any]]  # by hospital
    facts: list[dict[str, Any]]
    traffic: list[bytes]


def pin_each_other(sites: Mapping[int, Settings]) -> dict[int, Settings]:
    """Every site pins every other: what people do by telephone, for who owns all sites."""
    partners = {
        user: Partner(user, site.name, Vault(site.vault).identity().public.fingerprint)
        for user, site in sites.items()
    }
    return {user: replace(site, partners=partners) for user, site in sites.items()}


def run_order(
    sites: Mapping[int, Settings],
    body: Mapping[str, Any],
    *,
    order_id: int = 1,
    transport: MemoryTransport | None = None,
) -> OrderOutcome:
    """Runs one order to its end. Raises the ConsiliumError with which a hospital or the coordinator ended it."""
    request = parse_training_request(dict(body))
    transport = transport or MemoryTransport()
    submit(transport, request, sites, order_id)

    def hospital(user: int) -> None:
        train_locally(open_party(sites[user], order_id, transport))

    def coordinator() -> None:
        order = training.open_order(order_id, Exchange(transport, COORDINATOR))
        coordinate_training(order, lambda record: None)

    _run(transport, order_id, request.hospitals, hospital, coordinator)
    models = {user: Vault(sites[user].vault).model(order_id) for user in request.hospitals}
    return OrderOutcome(models, transport.facts[order_id], transport.traffic)


def submit(
    transport: MemoryTransport, request: TrainingRequest, sites: Mapping[int, Settings], order_id: int
) -> None:
    """What the coordinator's API does with a request: the document for all, the SQL sealed to each."""
    commitments = {}
    for user in request.hospitals:
        sql = HospitalSql(secrets.token_bytes(KEY_BYTES), request.sql_of(user))
        seal_key = Vault(sites[user].vault).identity().public.seal_key
        transport.put(Address(order_id, "sql"), COORDINATOR, user, sql.seal(user, seal_key))
        commitments[user] = sql.commitment
    document = order_document(order_id, request, commitments)
    transport.put(Address(order_id, "document"), COORDINATOR, EVERYONE, document.encode())


def run_statistics(
    sites: Mapping[int, Settings],
    body: Mapping[str, Any],
    *,
    initiator: int,
    order_id: int = 1,
    transport: MemoryTransport | None = None,
    repeats: int | None = None,
) -> dict[str, Any]:
    """Runs one order of joint statistics; what the coordinator may tell of it. The answer is in the receivers' folders.

    Raises the ConsiliumError with which a hospital or the coordinator ended it.
    """
    request = resolve(parse_statistics_request(dict(body)), _names(sites), initiator=initiator)
    transport = transport or MemoryTransport()
    submit_statistics(transport, request, sites, order_id, repeats=repeats)

    def hospital(user: int) -> None:
        answer_locally(open_party(sites[user], order_id, transport))

    def coordinator() -> None:
        order = statistics.open_order(order_id, Exchange(transport, COORDINATOR))
        coordinate_statistics(order, lambda record: None)

    _run(transport, order_id, request.hospitals, hospital, coordinator)
    summary: dict[str, Any] = transport.facts[order_id][-1]["summary"]["statistics"]
    return summary


def _names(sites: Mapping[int, Settings]) -> dict[int, str]:
    return {user: site.name for user, site in sites.items()}


def submit_statistics(
    transport: MemoryTransport,
    request: StatisticsRequest,
    sites: Mapping[int, Settings],
    order_id: int,
    *,
    repeats: int | None = None,
) -> None:
    """As `submit`: the document for all, where the data are sealed to each provider."""
    commitments = {}
    for user in request.providers:
        own = HospitalSql(secrets.token_bytes(KEY_BYTES), {"data": request.provider(user).data_path})
        seal_key = Vault(sites[user].vault).identity().public.seal_key
        transport.put(Address(order_id, "sql"), COORDINATOR, user, own.seal(user, seal_key))
        commitments[user] = own.commitment
    document = statistics_document(order_id, request, commitments, repeats=repeats)
    transport.put(Address(order_id, "document"), COORDINATOR, EVERYONE, document.encode())


def _run(
    transport: MemoryTransport,
    order_id: int,
    hospitals: Iterable[int],
    hospital: Callable[[int], None],
    coordinator: Callable[[], None],
) -> None:
    """Every party in a thread of its own; raises what ended the order, where anything did."""

    def run_part(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            # Whoever fails ends the order for all, so that no thread waits for ever.
            known = error if isinstance(error, ConsiliumError) else ConsiliumError(repr(error), remedy="")
            transport.refuse(order_id, known)
            raise

    parts: list[Callable[[], None]] = [functools.partial(hospital, user) for user in hospitals]
    parts.append(coordinator)
    with ThreadPoolExecutor(len(parts), thread_name_prefix="party") as pool:
        running = [pool.submit(run_part, work) for work in parts]
    failures = []
    for future in running:
        error = future.exception()
        if error is not None:
            failures.append(error)
    # The others end with OrderStopped, which only repeats what the first one met.
    causes = [error for error in failures if not isinstance(error, OrderStopped)] or failures
    if causes:
        raise causes[0]
