"""A federation in one process, for simulations, tests and cost estimates.

The same parties, messages and rounds, over memory instead of HTTP, without Prefect.
Every hospital is a thread; the coordinator is another.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from agents.gate.memory import Memory
from agents.order.party import open_party
from agents.site.policy import load_policy
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
from protocol.start_window import LATE
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
from protocol.versions import SPOKEN, Window, common_protocol
from tasks.coordinator import statistics, training

Releases = Mapping[int, Window]
"""By hospital, what its agent's release speaks."""

ALL_OF_THIS: Releases = {}
"""Every hospital's agent is of this release."""


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
    for user_id, site in sites.items():
        identity = Vault(site.vault).identity()
        fingerprint = identity.public.fingerprint
        partners[user_id] = Partner(user_id, site.name, fingerprint)
    pinned = {}
    for user_id, site in sites.items():
        pinned[user_id] = replace(site, partners=partners)
    return pinned


def run_order(
    sites: Mapping[int, SiteSettings],
    body: Mapping[str, Any],
    *,
    order_id: int = 1,
    transport: MemoryTransport | None = None,
    releases: Releases = ALL_OF_THIS,
    away: Collection[int] = (),
) -> OrderOutcome:
    """Runs one order to its end; without the hospitals that are `away`, which an order
    does that starts with who is there.

    Raises the ConsiliumError with which a hospital or the coordinator ended it.
    `releases` has by hospital what its agent's release speaks, where that is another.
    """
    request = parse_training_request(dict(body))
    transport = transport or MemoryTransport()
    _run_training(
        sites,
        request,
        order_id,
        transport,
        releases=releases,
        away=away,
    )
    models = {}
    for user_id in request.hospitals:
        vault = Vault(sites[user_id].vault)
        # One that came late has none.
        if order_id in vault.models():
            models[user_id] = vault.model(order_id)
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
    evaluation = parse_evaluate_request(dict(body))
    of_model = parse_training_request(dict(trained))
    sent_body = of_model.model_dump(mode="json", exclude_unset=True)
    request = evaluation_order(evaluation, sent_body, trained_by=of_model.hospitals)
    transport = transport or MemoryTransport()
    _run_training(
        sites,
        request,
        order_id,
        transport,
    )
    evaluations = {}
    for user_id in request.hospitals:
        vault = Vault(sites[user_id].vault)
        evaluations[user_id] = vault.evaluation(order_id)
    last_fact = transport.facts[order_id][-1]
    summary = last_fact["summary"]
    return EvaluationOutcome(evaluations, summary["evaluation"], transport.traffic)


def _run_training(
    sites: Mapping[int, SiteSettings],
    request: TrainingRequest,
    order_id: int,
    transport: MemoryTransport,
    releases: Releases = ALL_OF_THIS,
    away: Collection[int] = (),
) -> None:
    submit(
        transport,
        request,
        sites,
        order_id,
        releases=releases,
    )

    def hospital(user: int) -> None:
        with _ending(sites[user], order_id):
            release = releases.get(user, SPOKEN)
            party = open_party(
                sites[user],
                order_id,
                transport,
                release_speaks=release,
            )
            train_locally(party)

    def coordinator() -> None:
        order = training.open_order(order_id, Exchange(transport, COORDINATOR))
        coordinate_training(order, lambda record: None)

    present = [user_id for user_id in request.hospitals if user_id not in away]
    _run(
        transport,
        order_id,
        present,
        hospital,
        coordinator,
    )


@contextmanager
def _ending(site: SiteSettings, order_id: int) -> Iterator[None]:
    """What a hospital has reserved for an order that ends without an answer is in
    nobody's way (`tasks.hospital.place` marks such an order as ended).
    """
    try:
        yield
    except ConsiliumError as error:
        Memory(Vault(site.vault).cohorts).drop(order_id)
        # Of one that came late the order goes on.
        if error.code != LATE:
            raise


def submit(
    transport: MemoryTransport,
    request: TrainingRequest,
    sites: Mapping[int, SiteSettings],
    order_id: int,
    *,
    releases: Releases = ALL_OF_THIS,
) -> None:
    """What the coordinator's API does with a request: the document for all.

    The SQL goes sealed to each.
    """
    commitments = {}
    for user_id in request.hospitals:
        # The salt keeps others from finding a short query by its commitment.
        salt = secrets.token_bytes(KEY_BYTES)
        sql = HospitalSql(salt, request.sql_of(user_id))
        _put_sealed(
            transport,
            sites[user_id],
            order_id,
            sql,
        )
        commitments[user_id] = sql.commitment
    protocol = _protocol(sites, request.hospitals, releases)
    document = order_document(
        order_id,
        request,
        commitments,
        protocol=protocol,
    )
    _put_document(transport, order_id, document)


def _protocol(
    sites: Mapping[int, SiteSettings],
    hospitals: Iterable[int],
    releases: Releases,
) -> int:
    """The number that all of them speak, as their agents would have told it."""
    windows = {}
    for user_id in hospitals:
        policy = load_policy(sites[user_id].policy)
        release = releases.get(user_id, SPOKEN)
        windows[user_id] = policy.speaks(release)
    return common_protocol(windows)


def _put_sealed(
    transport: MemoryTransport,
    site: SiteSettings,
    order_id: int,
    sql: HospitalSql,
) -> None:
    identity = Vault(site.vault).identity()
    sealed = sql.seal(site.user_id, identity.public.seal_key)
    transport.put(
        Address(order_id, "sql"),
        COORDINATOR,
        site.user_id,
        sealed,
    )


def _put_document(transport: MemoryTransport, order_id: int, document: str) -> None:
    address = Address(order_id, "document")
    transport.put(
        address,
        COORDINATOR,
        EVERYONE,
        document.encode(),
    )


def run_statistics(
    sites: Mapping[int, SiteSettings],
    body: Mapping[str, Any],
    *,
    initiator: int,
    order_id: int = 1,
    transport: MemoryTransport | None = None,
    repeats: int | None = None,
    releases: Releases = ALL_OF_THIS,
    away: Collection[int] = (),
) -> dict[str, Any]:
    """Runs one order of joint statistics; what the coordinator may tell of it. away: as
    `run_order`.

    The answer is in the receivers' folders. Raises the ConsiliumError with which a
    hospital or the coordinator ended it.
    """
    parsed = parse_statistics_request(dict(body))
    request = resolve(parsed, _names(sites), initiator=initiator)
    transport = transport or MemoryTransport()
    submit_statistics(
        transport,
        request,
        sites,
        order_id,
        repeats=repeats,
        releases=releases,
    )

    def hospital(user: int) -> None:
        with _ending(sites[user], order_id):
            release = releases.get(user, SPOKEN)
            party = open_party(
                sites[user],
                order_id,
                transport,
                release_speaks=release,
            )
            answer_locally(party)

    def coordinator() -> None:
        order = statistics.open_order(order_id, Exchange(transport, COORDINATOR))
        coordinate_statistics(order, lambda record: None)

    present = [user_id for user_id in request.hospitals if user_id not in away]
    _run(
        transport,
        order_id,
        present,
        hospital,
        coordinator,
    )
    last_fact = transport.facts[order_id][-1]
    summary: dict[str, Any] = last_fact["summary"]["statistics"]
    return summary


def _names(sites: Mapping[int, SiteSettings]) -> dict[int, str]:
    return {user_id: site.name for user_id, site in sites.items()}


def submit_statistics(
    transport: MemoryTransport,
    request: StatisticsRequest,
    sites: Mapping[int, SiteSettings],
    order_id: int,
    *,
    repeats: int | None = None,
    releases: Releases = ALL_OF_THIS,
) -> None:
    """As `submit`: the document for all, where the data are sealed to each provider."""
    commitments = {}
    for user_id in request.providers:
        salt = secrets.token_bytes(KEY_BYTES)
        data_paths = {"data": request.provider(user_id).data_path}
        hospital_sql = HospitalSql(salt, data_paths)
        _put_sealed(
            transport,
            sites[user_id],
            order_id,
            hospital_sql,
        )
        commitments[user_id] = hospital_sql.commitment
    protocol = _protocol(sites, request.hospitals, releases)
    document = statistics_document(
        order_id,
        request,
        commitments,
        repeats=repeats,
        protocol=protocol,
    )
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
            failure = error
            if not isinstance(failure, ConsiliumError):
                failure = ConsiliumError(repr(error), remedy="")
            transport.refuse(order_id, failure)
            raise

    parts: list[Callable[[], None]] = []
    for user_id in hospitals:
        parts.append(functools.partial(hospital, user_id))
    parts.append(coordinator)
    # A thread for each: they wait for each other, and for one without a thread that
    # would be for ever.
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
