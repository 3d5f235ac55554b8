"""Every party of an order dies at every message, every record and every durable write,
before and after; in memory.

A party that died is started anew over the same vault, as its agent would do. The order
must end with the weights of an undisturbed one, bit for bit, and no message may ever be
tried with two contents.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agents.order.party import open_party
from agents.site import vault
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from deployments.demo.breast_cancer import breast_cancer_tables
from deployments.local.one_process import run_order, submit
from flows.coordinator import coordinate_training
from flows.hospital import train_locally
from protocol.errors import OrderStopped
from protocol.evaluation_request import evaluation_order, parse_evaluate_request
from protocol.exchange import Address, Exchange
from protocol.machine import disk
from protocol.memory_transport import MemoryTransport
from protocol.messages import COORDINATOR
from protocol.start_window import LATE
from protocol.training_request import TrainingRequest, parse_training_request
from tasks.coordinator.training import open_order
from tests.made_sites import make_sites, order_body
from tests.made_windows import late_at
from tests.pairwise import quick

METHODS = ("Paillier", "Mask", "None")
HOSPITALS = (2, 3, 4)


class Killed(BaseException):
    """kill -9: nothing that handles errors sees it."""


@dataclass
class Fate:
    """Each moment that has a name is died at twice, once before and once after the
    deed; the third time it passes.
    """

    deaths: Counter[Any] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def meet(self, moment: Any, deed: Callable[[], Any]) -> Any:
        with self.lock:
            seen = self.deaths[moment]
            self.deaths[moment] = min(seen + 1, 2)
        if seen == 0:
            raise Killed
        done = deed()
        if seen == 1:
            raise Killed
        return done


@dataclass
class SampledFate(Fate):
    """Dies at one of `every` moments, always the same ones."""

    every: int = 1
    lives_on: bool = False

    def meet(self, moment: Any, deed: Callable[[], Any]) -> Any:
        is_spared = self.lives_on or zlib.crc32(repr(moment).encode()) % self.every
        return deed() if is_spared else super().meet(moment, deed)


class MortalTransport:
    """One process's end of the exchange; `tried` holds every content that was ever on
    its way.
    """

    def __init__(
        self, inner: MemoryTransport, me: int, fate: Fate, tried: dict[Any, bytes]
    ) -> None:
        self._inner, self._me, self._fate, self._tried = inner, me, fate, tried

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put(self, address: Address, sender: int, recipient: int, body: bytes) -> None:
        key = (address, sender, recipient)
        # What the coordinator drew and did not send may be drawn anew; two contents sent
        # would be a Conflict.
        if address.topic != "dealt":
            assert self._tried.setdefault(key, body) == body, f"{key} was made anew"
        self._fate.meet(key, lambda: self._inner.put(address, sender, recipient, body))

    def put_together(self, run: int, sender: int, messages: Any) -> None:
        """Dies before and after they are there, all of them or none."""
        keys = []
        for message in messages:
            key = (message.address, sender, message.recipient)
            body = self._tried.setdefault(key, message.body)
            assert body == message.body, f"{key} was made anew"
            keys.append(key)
        self._fate.meet(
            ("together", *keys),
            lambda: self._inner.put_together(run, sender, messages),
        )

    def gather_some(
        self, address: Address, senders: Any, *more: Any, **how: Any
    ) -> Any:
        """The coordinator dies before and after each of the parts that it adds up."""
        wanted = tuple(senders)
        return self._fate.meet(
            ("read", address, wanted),
            lambda: self._inner.gather_some(address, wanted, *more, **how),
        )

    def discard(self, run: int, used: Any) -> None:
        self._fate.meet(
            ("discard", tuple(used)), lambda: self._inner.discard(run, used)
        )

    def keep_round(self, run: int, round: int, file: bytes) -> None:
        self._fate.meet(
            ("keep", round), lambda: self._inner.keep_round(run, round, file)
        )

    def record(self, run: int, facts: dict[str, Any]) -> None:
        self._fate.meet(
            ("record", self._me, repr(facts)), lambda: self._inner.record(run, facts)
        )


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[int, SiteSettings]:
    tables = {}
    for name, frame in breast_cancer_tables().items():
        cost = 1e6 * (2 * frame.x1 - frame.x3 + 5)
        days = 1 + frame.x1.rank()
        # Far more uneven than poisson's.
        visits = (frame.x2.rank() * 7) % 11 * ((frame.x1.rank() * 5) % 7)
        tables[name] = frame.assign(cost=cost, days=days, visits=visits // 1)
    rows = {
        user: {"rows": tables["guest" if user == 4 else "host"]} for user in HOSPITALS
    }
    return make_sites(tmp_path_factory.mktemp("sites"), rows, min_hospitals=2)


@pytest.fixture
def mortal_vaults(monkeypatch: pytest.MonkeyPatch) -> Fate:
    """Every file of a vault has two deaths at its first writing."""
    fate, write = Fate(), disk.write_durably

    def write_or_die(path: Path, data: bytes) -> None:
        fate.meet(path, lambda: write(path, data))

    for module in (vault, disk):  # what is written once is written by the disk's own
        if hasattr(module, "write_durably"):
            monkeypatch.setattr(module, "write_durably", write_or_die)
    return fate


def until_it_lives(life: Callable[[], None]) -> int:
    """Starts a party again until it ends by itself, and once more after that; how often
    it died.
    """
    deaths = 0
    while not _ends(life):
        deaths += 1
    assert _ends(life), (
        "it had ended, Prefect had not heard of it, and it did something new"
    )
    return deaths


def _ends(life: Callable[[], None]) -> bool:
    try:
        life()
    except Killed:
        return False
    except OrderStopped as stop:
        if stop.code not in ("success", LATE):
            raise
    return True


def run_mortally(
    sites: dict[int, SiteSettings],
    body: dict[str, Any],
    order_id: int,
    *,
    every: int = 1,
) -> Counter[Any]:
    """Runs an order in which everybody dies at everything; the number of deaths by
    party.
    """
    return run_mortally_as(sites, parse_training_request(body), order_id, every=every)


def run_mortally_as(
    sites: dict[int, SiteSettings],
    request: TrainingRequest,
    order_id: int,
    *,
    every: int = 1,
) -> Counter[Any]:
    """The same of a request that is read already."""
    transport, fate = MemoryTransport(), SampledFate(every=every)
    submit(transport, request, sites, order_id)
    tried: dict[Any, bytes] = {}

    def hospital(user: int) -> Callable[[], None]:
        return lambda: _as_in_its_flow(
            sites[user], order_id, MortalTransport(transport, user, fate, tried)
        )

    def coordinator() -> None:
        mortal = MortalTransport(transport, COORDINATOR, fate, tried)
        coordinate_training(
            open_order(order_id, Exchange(mortal, COORDINATOR)), lambda record: None
        )

    lives = {user: hospital(user) for user in request.hospitals}
    lives[COORDINATOR] = coordinator
    with ThreadPoolExecutor(len(lives)) as pool:
        running = {
            who: pool.submit(_live, life, transport, order_id)
            for who, life in lives.items()
        }
        return Counter({who: future.result() for who, future in running.items()})


def _as_in_its_flow(
    site: SiteSettings, order_id: int, transport: MortalTransport
) -> None:
    """What `tasks.coordinator.place.at_hospital` puts around a hospital's part."""
    try:
        train_locally(open_party(site, order_id, transport))  # type: ignore[arg-type]
    except OrderStopped as stop:
        Vault(site.vault).end_order(order_id, stop.code)
        raise


def _live(life: Callable[[], None], transport: MemoryTransport, order_id: int) -> int:
    try:
        return until_it_lives(life)
    except BaseException as error:
        transport.stop(order_id, OrderStopped(repr(error), remedy="", code="failed"))
        raise


def models(sites: dict[int, SiteSettings], order_id: int) -> list[Any]:
    return [Vault(sites[user].vault).model(order_id)["layers"] for user in HOSPITALS]


@pytest.mark.parametrize("method", METHODS)
def test_everybody_dies_at_every_message(
    sites: dict[int, SiteSettings],
    method: str,
    mortal_vaults: Fate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Every part counts as a large one, and so comes alone.
    monkeypatch.setattr("protocol.exchange.frames.LARGE_BYTES", 1)
    body = order_body(
        (4, 2, 3),
        model_params={
            "encrypt_param": {"method": method},
            "max_iter": 2,
            "learning_rate": 0.3,
            "standardize": True,
        },
        scoring="full",
        aggregation="minimum_diameter",
        validation_fraction=0.3,
        data_info={str(user): "SELECT * FROM data.rows" for user in HOSPITALS},
    )
    order_id = 1 + 2 * METHODS.index(method)
    deaths = run_mortally(sites, body, order_id)
    # order or acceptance, classes, mean, variance, 2 gradients, histogram, done, 3
    # times vectors: each twice; the vault's come on top
    assert all(deaths[user] >= 36 for user in HOSPITALS), deaths
    assert deaths[4] > deaths[2], "the initiator opens every sum"
    # Of the 5 sums it reads each part by itself, and dies at 2 of them or more twice.
    assert deaths[COORDINATOR] >= 40 + 5 * 2 * 2, deaths
    mortal_vaults.deaths.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fate, "meet", lambda self, moment, deed: deed())
        undisturbed = run_order(sites, body, order_id=order_id + 1)
    assert models(sites, order_id) == models(sites, order_id + 1)
    assert (
        models(sites, order_id)[0]
        == models(sites, order_id)[1]
        == models(sites, order_id)[2]
    )
    assert undisturbed.models[4]["n_rounds"] == 2
    for user in HOSPITALS:
        assert Vault(sites[user].vault).orders() == []


@pytest.mark.parametrize("moment", ["accepts", "begins"])
def test_an_order_that_starts_without_one_survives_every_death(
    sites: dict[int, SiteSettings], mortal_vaults: Fate, moment: str
) -> None:
    """The party that is named is the same after each, and who came late stays so."""
    changes: dict[str, Any] = {"model_params": {"max_iter": 2, "standardize": True}}
    window = {"start_within_seconds": 60, "at_least": 2}
    order_id = 141 if moment == "accepts" else 151
    with late_at(3, moment=moment, initiator=4, in_time=(2, 4)):
        body = order_body((4, 2, 3), **changes, **window)
        deaths = run_mortally(sites, body, order_id)
    assert deaths[3] >= 4, deaths
    named = [moment for moment in mortal_vaults.deaths if "party" in str(moment)]
    assert len(named) >= 3, "in the outbox, and as each hospital keeps it"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fate, "meet", lambda self, moment, deed: deed())
        alone = order_body((4, 2), **changes)
        run_order(sites, alone, order_id=order_id + 1)
    for user in (2, 4):
        vault_of = Vault(sites[user].vault)
        model, other = vault_of.model(order_id), vault_of.model(order_id + 1)
        assert model["layers"] == other["layers"]
    late = Vault(sites[3].vault)
    assert order_id not in late.models()
    assert late.orders() == []
    mark = json.loads((sites[3].vault / "ended" / f"{order_id}.json").read_bytes())
    assert mark["content"]["outcome"] == "late"


@pytest.mark.parametrize("standardize", [True, False])
def test_a_label_in_a_unit_of_its_own_survives_every_death(
    sites: dict[int, SiteSettings], standardize: bool, mortal_vaults: Fate
) -> None:
    """The label's joint moments are the same after each."""
    body = order_body(
        (4, 2, 3),
        model_type="linear",
        label_name="cost",
        model_params={"max_iter": 2, "standardize": standardize},
    )
    order_id = 21 if standardize else 23
    run_mortally(sites, body, order_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fate, "meet", lambda self, moment, deed: deed())
        run_order(sites, body, order_id=order_id + 1)
    assert models(sites, order_id) == models(sites, order_id + 1)
    weights = models(sites, order_id)[0]["dense"]
    assert max(map(abs, weights)) > 1e5


NEWTON_LABELS = {"linear": "cost", "cox": "days", "negative_binomial": "visits"}
NEWTON_KINDS = ["lr", "linear", "glm", "cox", "negative_binomial", "robust", "firth"]


@pytest.mark.thorough
def test_a_joint_baseline_survives_every_death(
    sites: dict[int, SiteSettings], mortal_vaults: Fate
) -> None:
    """The counts and the joint rounds are replicated state as the rounds before them."""
    for site in sites.values():
        text = site.policy.read_text()
        site.policy.write_text(text.replace("[cohort]", "[cohort]\nrisk_sets = true"))
    params = {"baseline": "joint", "edges": [500.0], "ties": "breslow"}
    body = order_body(
        (4, 2, 3),
        model_type="cox",
        label_name="days",
        event_name="y",
        attributes=["x2", "x4"],
        model_params={**params, "eps": 1e-8, "max_iter": 25},
    )
    run_mortally(sites, body, 101)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fate, "meet", lambda self, moment, deed: deed())
        run_order(sites, body, order_id=102)
    assert models(sites, 101) == models(sites, 102)
    reports = []
    for number in (101, 102):
        for user in HOSPITALS:
            reports.append(Vault(sites[user].vault).model(number)["report"])
    assert all(found == reports[0] for found in reports)
    assert reports[0]["baseline"] == "joint"


@pytest.mark.parametrize("kind", quick(NEWTON_KINDS, 2))
def test_a_newton_order_survives_every_death(
    sites: dict[int, SiteSettings], kind: str, mortal_vaults: Fate
) -> None:
    """Its rounds are replicated state; the report is the same bits after each."""
    model_type = kind if kind in ("lr", "linear", "cox") else "glm"
    body = order_body(
        (4, 2, 3),
        model_type=model_type,
        label_name=NEWTON_LABELS.get(kind, "y"),
        model_params={
            "optimizer": "newton",
            "eps": 1e-8,
            "max_iter": 25,
            "penalty": "L2",
        },
    )
    if kind == "negative_binomial":
        body["model_params"].update(family=kind, penalty=None)
    if kind == "robust":
        errors = {"family": "poisson", "standard_errors": "HC1", "penalty": None}
        body["model_params"].update(errors)
    if kind == "firth":
        body["model_params"].update(family="binomial", penalty="firth", max_iter=60)
    if kind == "glm":
        # Of one coefficient fewer than its model has.
        pair = {"family": "binomial", "link": "probit"}
        body["model_params"].update(pair, offset="x2")
    if model_type == "cox":
        body["event_name"] = "y"
    order_id = 41 + 2 * NEWTON_KINDS.index(kind)
    run_mortally(sites, body, order_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fate, "meet", lambda self, moment, deed: deed())
        run_order(sites, body, order_id=order_id + 1)
    assert models(sites, order_id) == models(sites, order_id + 1)
    reports = []
    for number in (order_id, order_id + 1):
        for user in HOSPITALS:
            reports.append(Vault(sites[user].vault).model(number)["report"])
    assert all(found == reports[0] for found in reports)


@pytest.mark.parametrize("model_type", quick(["lr", "linear"], 1))
def test_an_evaluation_survives_every_death(
    sites: dict[int, SiteSettings], model_type: str, mortal_vaults: Fate
) -> None:
    trained = order_body(
        (4, 2, 3),
        model_type=model_type,
        label_name="y" if model_type == "lr" else "cost",
        model_params={"max_iter": 2, "standardize": True},
    )
    model_id = 61 if model_type == "lr" else 71
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fate, "meet", lambda self, moment, deed: deed())
        run_order(sites, trained, order_id=model_id)
    asked = {
        "user_id": 4,
        "party_id": [2, 3],
        "model_id": model_id,
        "data_info": {str(user): "SELECT * FROM data.rows" for user in HOSPITALS},
        # Rounds of its own.
        "calibration_slope": model_type == "lr",
    }
    request = evaluation_order(
        parse_evaluate_request(asked), trained, trained_by=HOSPITALS
    )
    deaths = run_mortally_as(sites, request, model_id + 1)
    # order or acceptance, limits, the sum, done: each twice, and the vault's on top
    assert all(deaths[user] >= 12 for user in HOSPITALS), deaths
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fate, "meet", lambda self, moment, deed: deed())
        run_mortally_as(sites, request, model_id + 2)
    found = []
    for number in (model_id + 1, model_id + 2):
        for user in HOSPITALS:
            kept = Vault(sites[user].vault).evaluation(number)
            found.append((kept["report"], kept["counts"]))
    assert all(one == found[0] for one in found)
    for user in HOSPITALS:
        assert Vault(sites[user].vault).orders() == []


def test_cross_validation_dies_between_folds_too(
    sites: dict[int, SiteSettings], mortal_vaults: Fate
) -> None:
    body = order_body(
        (4, 2, 3),
        model_params={
            "max_iter": 1,
            "cv_param": {
                "need_cv": True,
                "n_splits": 2,
                "shuffle": True,
                "random_seed": 7,
            },
        },
    )
    run_mortally(sites, body, 11)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fate, "meet", lambda self, moment, deed: deed())
        run_order(sites, body, order_id=12)
    assert models(sites, 11) == models(sites, 12)


@pytest.fixture(scope="module")
def study_sites(tmp_path_factory: pytest.TempPathFactory) -> dict[int, SiteSettings]:
    """Rows with gaps and codes, and later ones with a level of their own."""
    tables = breast_cancer_tables()
    rows = {}
    for user in HOSPITALS:
        frame = tables["guest" if user == 4 else "host"].copy()
        frame["kind"] = [("a", "b", "c")[number % 3] for number in range(len(frame))]
        late = frame.tail(60).copy()
        late.loc[late.index[:20], "kind"] = "late only"
        frame.loc[frame.index[:15], "x1"] = None
        rows[user] = {"rows": frame.head(-60), "late": late}
    return make_sites(tmp_path_factory.mktemp("study"), rows, min_hospitals=2)


def test_a_study_dies_while_its_columns_are_agreed_on(
    study_sites: dict[int, SiteSettings], mortal_vaults: Fate
) -> None:
    """Levels, test rows that are left out, counts and means, each made once."""
    body = order_body(
        (4, 2, 3),
        attributes=["kind", "x1", "square"],
        categorical={"kind": {}},
        derive={"square": "x2 * x2"},
        missing="mean",
        test_data_info={"2": "SELECT * FROM data.late"},
        model_params={"max_iter": 2},
    )
    run_mortally(study_sites, body, 21)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fate, "meet", lambda self, moment, deed: deed())
        undisturbed = run_order(study_sites, body, order_id=22)
    assert models(study_sites, 21) == models(study_sites, 22)
    summary = undisturbed.facts[-1]["summary"]
    assert summary["0"]["held_out"]["n_rows"] == 40


@pytest.mark.thorough
def test_a_meta_analysis_survives_every_death(sites: dict[int, SiteSettings]) -> None:
    before = {user: site.policy.read_text() for user, site in sites.items()}
    for user, site in sites.items():
        told = before[user].replace("[orders]", "[orders]\nhospital_sums = true")
        site.policy.write_text(told)
    params = {"optimizer": "newton", "eps": 1e-8, "max_iter": 25, "pooling": "meta"}
    # The fixture's attributes separate its classes, and its cost is without error.
    linear = {"model_type": "linear", "label_name": "days"}
    body = order_body((4, 2, 3), **linear, model_params=params)
    run_mortally(sites, body, 103)
    run_order(sites, body, order_id=104)
    assert models(sites, 103) == models(sites, 104)
    for user, site in sites.items():
        site.policy.write_text(before[user])


@pytest.mark.thorough
@pytest.mark.parametrize("optimizer", ["sgd", "newton"])
def test_everybody_dies_while_columns_are_compared(
    sites: dict[int, SiteSettings], optimizer: str
) -> None:
    """Where thresholds are on the sum."""
    before = {user: site.policy.read_text() for user, site in sites.items()}
    pooled = '\n[statistics]\nmethods = ["count"]\ncells = "pooled"\n'
    for user, site in sites.items():
        site.policy.write_text(before[user] + pooled)
    params: dict[str, Any] = {"max_iter": 1}
    number = 13
    if optimizer == "newton":
        # Of these the coordinator is told how many there are.
        params = {"optimizer": "newton", "max_iter": 2, "eps": 1e-8}
        number = 33
    body = order_body((4, 2, 3), model_params=params)
    # Each death computes the comparison anew, which has hundreds of messages.
    deaths = run_mortally(sites, body, number, every=40)
    assert deaths.total() >= 10, deaths
    run_order(sites, body, order_id=number + 1)
    assert models(sites, number) == models(sites, number + 1)
    for user, site in sites.items():
        site.policy.write_text(before[user])
