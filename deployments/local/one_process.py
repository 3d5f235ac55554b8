"""A federation in one process, for simulations, tests and cost estimates.

The same parties, messages and rounds, over memory instead of HTTP, without Prefect.
Every hospital is a thread; the coordinator is another.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from agents.gate.memory import Memory
from agents.order.party import open_party
from agents.site.settings import Partner, SiteSettings
from agents.site.vault import Vault
from flows.coordinator import coordinate_statistics, coordinate_training
from flows.hospital import answer_locally, train_locally
from protocol.errors import ConsiliumError, OrderStopped
from protocol.evaluation_request import evaluation_order, parse_evaluate_request
from protocol.exchange import Address, Exchange
from protocol.memory_transport import MemoryTransport
from protocol.messages import COORDINATOR, EVERYONE, HospitalSql
from protocol.sealing import KEY_BYTES
from protocol.statistics_request import (
    StatisticsRequest,
    parse_statistics_request,
    resolve,
    statistics_document,
)
from protocol.training_request import (
    TrainingRequest,
    order_document,
    parse_training_request,
)
from tasks.coordinator import statistics, training


@dataclass
class OrderOutcome:
    """What an order left: each hospital's model, what the coordinator recorded, and
    every byte it saw.
    """

    models: dict[int, dict[str, Any]]  # by hospital
    facts: list[dict[str, Any]]
    traffic: list[bytes]


@dataclass
class EvaluationOutcome:
    """What an evaluation left: at each hospital, at the coordinator, and every byte that
    this one saw.
    """

    evaluations: dict[int, dict[str, Any]]  # by hospital
    summary: dict[str, Any]
    traffic: list[bytes]


def pin_each_other(sites: Mapping[int, SiteSettings]) -> dict[int, SiteSettings]:
    """Every site pins every other: what people do by telephone, for who owns all sites."""
    partners = {}
    for user, site in sites.items():
        fingerprint = Vault(site.vault).identity().public.fingerprint
        partners[user] = Partner(user, site.name, fingerprint)
    return {user: replace(site, partners=partners) for user, site in sites.items()}


def run_order(
    sites: Mapping[int, SiteSettings],
    body: Mapping[str, Any],
    *,
    order_id: int = 1,
    transport: MemoryTransport | None = None,
) -> OrderOutcome:
    """Runs one order to its end.

    Raises the ConsiliumError with which a hospital or the coordinator ended it.
    """
    request = parse_training_request(dict(body))
    transport = transport or MemoryTransport()
    _run_training(sites, request, order_id, transport)
    models = {}
    for user in request.hospitals:
        models[user] = Vault(sites[user].vault).model(order_id)
    return OrderOutcome(models, transport.facts[order_id], transport.traffic)


def run_evaluation(
    sites: Mapping[int, SiteSettings],
    body: Mapping[str, Any],
    *,
    trained: Mapping[str, Any],
    order_id: int = 2,
    transport: MemoryTransport | None = None,
) -> EvaluationOutcome:
    """Evaluates a model that these hospitals have trained by the body `trained`.

    Raises as `run_order`.
    """
    asked = parse_evaluate_request(dict(body))
    of_model = parse_training_request(dict(trained))
    sent = of_model.model_dump(mode="json", exclude_unset=True)
    request = evaluation_order(asked, sent)
    transport = transport or MemoryTransport()
    _run_training(sites, request, order_id, transport)
    found = {}
    for user in request.hospitals:
        found[user] = Vault(sites[user].vault).evaluation(order_id)
    summary = transport.facts[order_id][-1]["summary"]["evaluation"]
    return EvaluationOutcome(found, summary, transport.traffic)


def _run_training(
    sites: Mapping[int, SiteSettings],
    request: TrainingRequest,
    order_id: int,
    transport: MemoryTransport,
) -> None:
    submit(transport, request, sites, order_id)

    def hospital(user: int) -> None:
        with _ending(sites[user], order_id):
            train_locally(open_party(sites[user], order_id, transport))

    def coordinator() -> None:
        order = training.open_order(order_id, Exchange(transport, COORDINATOR))
        coordinate_training(order, lambda record: None)

    _run(transport, order_id, request.hospitals, hospital, coordinator)


@contextmanager
def _ending(site: SiteSettings, order_id: int) -> Iterator[None]:
    """What a hospital has reserved for an order that ends without an answer is in
    nobody's way (`tasks.hospital.place` marks such an order as ended).
    """
    try:
        yield
    except ConsiliumError:
        Memory(Vault(site.vault).cohorts).drop(order_id)
        raise


def submit(
    transport: MemoryTransport,
    request: TrainingRequest,
    sites: Mapping[int, SiteSettings],
    order_id: int,
) -> None:
    """What the coordinator's API does with a request: the document for all.

    The SQL goes sealed to each.
    """
    commitments = {}
    for user in request.hospitals:
        # The salt keeps others from finding a short query by its commitment.
        salt = secrets.token_bytes(KEY_BYTES)
        sql = HospitalSql(salt, request.sql_of(user))
        _put_sealed(transport, sites[user], order_id, sql)
        commitments[user] = sql.commitment
    document = order_document(order_id, request, commitments)
    _put_document(transport, order_id, document)


def _put_sealed(
    transport: MemoryTransport, site: SiteSettings, order_id: int, sql: HospitalSql
) -> None:
    seal_key = Vault(site.vault).identity().public.seal_key
    sealed = sql.seal(site.user_id, seal_key)
    transport.put(Address(order_id, "sql"), COORDINATOR, site.user_id, sealed)


def _put_document(transport: MemoryTransport, order_id: int, document: str) -> None:
    address = Address(order_id, "document")
    transport.put(address, COORDINATOR, EVERYONE, document.encode())


def run_statistics(
    sites: Mapping[int, SiteSettings],
    body: Mapping[str, Any],
    *,
    initiator: int,
    order_id: int = 1,
    transport: MemoryTransport | None = None,
    repeats: int | None = None,
) -> dict[str, Any]:
    """Runs one order of joint statistics; what the coordinator may tell of it.

    The answer is in the receivers' folders. Raises the ConsiliumError with which a
    hospital or the coordinator ended it.
    """
    parsed = parse_statistics_request(dict(body))
    request = resolve(parsed, _names(sites), initiator=initiator)
    transport = transport or MemoryTransport()
    submit_statistics(transport, request, sites, order_id, repeats=repeats)

    def hospital(user: int) -> None:
        with _ending(sites[user], order_id):
            answer_locally(open_party(sites[user], order_id, transport))

    def coordinator() -> None:
        order = statistics.open_order(order_id, Exchange(transport, COORDINATOR))
        coordinate_statistics(order, lambda record: None)

    _run(transport, order_id, request.hospitals, hospital, coordinator)
    summary: dict[str, Any] = transport.facts[order_id][-1]["summary"]["statistics"]
    return summary


def _names(sites: Mapping[int, SiteSettings]) -> dict[int, str]:
    return {user: site.name for user, site in sites.items()}


def submit_statistics(
    transport: MemoryTransport,
    request: StatisticsRequest,
    sites: Mapping[int, SiteSettings],
    order_id: int,
    *,
    repeats: int | None = None,
) -> None:
    """As `submit`: the document for all, where the data are sealed to each provider."""
    commitments = {}
    for user in request.providers:
        salt = secrets.token_bytes(KEY_BYTES)
        place = {"data": request.provider(user).data_path}
        own = HospitalSql(salt, place)
        _put_sealed(transport, sites[user], order_id, own)
        commitments[user] = own.commitment
    document = statistics_document(order_id, request, commitments, repeats=repeats)
    _put_document(transport, order_id, document)


def _run(
    transport: MemoryTransport,
    order_id: int,
    hospitals: Iterable[int],
    hospital: Callable[[int], None],
    coordinator: Callable[[], None],
) -> None:
    """Every party in a thread of its own; raises what ended the order, if anything."""

    def run_part(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            # Whoever fails ends the order for all, so that no thread waits for ever.
            known = error
            if not isinstance(known, ConsiliumError):
                known = ConsiliumError(repr(error), remedy="")
            transport.refuse(order_id, known)
            raise

    parts: list[Callable[[], None]] = []
    for user in hospitals:
        parts.append(functools.partial(hospital, user))
    parts.append(coordinator)
    with ThreadPoolExecutor(len(parts), thread_name_prefix="party") as pool:
        running = [pool.submit(run_part, work) for work in parts]
    causes = []
    repeated = []
    for future in running:
        error = future.exception()
        # The others end with OrderStopped, which only repeats what the first one met.
        if isinstance(error, OrderStopped):
            repeated.append(error)
        elif error is not None:
            causes.append(error)
    for error in [*causes, *repeated]:
        raise error
