"""Scores of a sealed order are those of the same order in the open, and no round is
believed that does not add up.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

from agents.gate.memory import Memory
from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from agents.training import fold as folds
from agents.training import shown_gradients
from agents.training import trainer as trainers
from agents.training.fold import Fold
from agents.training.trainer import Trainer
from analytics.arrays import Floats
from analytics.scores import anomaly, contribution
from analytics.scores.geometry import combine_factors, triangular_factor
from deployments.demo.breast_cancer import breast_cancer_tables
from deployments.local.one_process import OrderOutcome, run_order
from protocol.errors import BadRequest, ProtocolViolation, Refused
from protocol.exchange import Address
from protocol.memory_transport import MemoryTransport
from protocol.training_request import parse_training_request
from tasks.coordinator import scoring as at_coordinator
from tests.made_sites import make_sites, order_body
from tests.pairwise import pairwise, quick

HOSPITALS = (2, 3, 4, 5, 6)
GATE = "min_rows = 1\nmin_varying = 1\nmax_parameter_share = 50"


@pytest.fixture(scope="module")
def frames() -> dict[int, pd.DataFrame]:
    """Five hospitals of uneven size; 3 and 4 hold the same table."""
    tables = list(breast_cancer_tables().values())
    rows = pd.concat(tables).sort_values("id").reset_index(drop=True)
    parts = {
        2: rows.iloc[:150],
        3: rows.iloc[150:300],
        4: rows.iloc[150:300],
        5: rows.iloc[300:320],
    }
    return {**parts, 6: rows.iloc[320:560]}


@pytest.fixture(scope="module")
def sites(
    frames: dict[int, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, SiteSettings]:
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    return make_sites(
        tmp_path_factory.mktemp("sites"),
        tables,
        min_hospitals=1,
        cohort=GATE,
        filter_columns=["x1"],
    )


class Runner:
    def __init__(self, sites: dict[int, SiteSettings]) -> None:
        self.sites, self.n_orders = sites, 0

    def run(self, method: str, **changes: Any) -> tuple[OrderOutcome, dict[int, bytes]]:
        self.n_orders += 1
        params = {
            "max_iter": 4,
            "eps": 0,
            "learning_rate": 0.5,
            "alpha": 0.01,
            "encrypt_param": {"method": method},
        }
        body = {"scoring": "full", "attributes": ["x1", "x2", "x3", "x4"], **changes}
        hospitals = body.pop("hospitals", HOSPITALS)
        order = order_body(
            hospitals, model_params={**params, **body.pop("model_params", {})}, **body
        )
        transport = MemoryTransport()
        outcome = run_order(
            self.sites, order, order_id=self.n_orders, transport=transport
        )
        return outcome, transport.rounds.get(self.n_orders, {})


@pytest.fixture(scope="module")
def runner(sites: dict[int, SiteSettings]) -> Runner:
    return Runner(sites)


def points_of(file: bytes) -> tuple[list[int], Floats]:
    """The clients of a round file and their points over all layers, whether it is open
    or sealed.
    """
    tensors, about = safetensors.numpy.load(file), about_round(file)
    names = sorted({name.split("/")[-1] for name in tensors})
    if about["kind"] == "sealed":
        return about["clients"], combine_factors(
            [tensors[f"factor/{name}"] for name in names]
        ).T
    rows = [
        np.hstack([tensors[f"gradient/{user}/{name}"] for name in names])
        for user in about["clients"]
    ]
    return about["clients"], triangular_factor([np.array(rows)], len(rows)).T


def about_round(file: bytes) -> Any:
    length = int.from_bytes(file[:8], "little")
    return json.loads(json.loads(file[8 : 8 + length])["__metadata__"]["round"])


def all_scores(points: Floats) -> dict[str, Floats]:
    return {
        "krum": anomaly.krum(points, k=2),
        "foolsgold": anomaly.foolsgold(points, k=2),
        "auror": anomaly.auror(points, k=2),
        "sniper": anomaly.sniper(points, p=0.6),
        "pca": anomaly.pca(points, k=2),
        "true_krum": anomaly.true_krum(points, n_attackers=1),
    }


@pytest.fixture(scope="module")
def open_rounds(runner: Runner) -> Callable[[str], dict[int, bytes]]:
    """The rounds of an order of method None, which is run once for each model."""

    @functools.cache
    def run(model: str) -> dict[int, bytes]:
        return runner.run("None", model_type=model)[1]

    return run


@pairwise(n_quick=1, method=["Paillier", "Mask"], model=["lr", "mlp"])
def test_sealed_scores_are_the_open_ones(
    runner: Runner,
    open_rounds: Callable[[str], dict[int, bytes]],
    method: str,
    model: str,
) -> None:
    sealed, open_ = runner.run(method, model_type=model)[1], open_rounds(model)
    assert sorted(sealed) == sorted(open_) == [0, 1, 2, 3]
    for round_, file in sealed.items():
        clients, points = points_of(file)
        assert clients == list(HOSPITALS)
        assert about_round(file)["sizes"] == [150, 150, 150, 20, 240]
        expected = all_scores(points_of(open_[round_])[1])
        for name, scores in all_scores(points).items():
            np.testing.assert_allclose(
                scores,
                expected[name],
                rtol=0,
                atol=1e-9,
                err_msg=f"{name} in round {round_}",
            )


def test_what_compares_rounds_is_what_open_gradients_say(runner: Runner) -> None:
    sealed, open_ = runner.run("Mask")[1], runner.run("None")[1]
    gradients = [
        np.array(
            [safetensors.numpy.load(open_[t])[f"gradient/{u}/dense"] for u in HOSPITALS]
        )
        for t in (1, 2)
    ]
    mean = np.average(gradients[0], axis=0, weights=[150, 150, 150, 20, 240])
    step, drift, dot, norm = safetensors.numpy.load(sealed[2])["between/dense"].T
    np.testing.assert_allclose(
        step, np.linalg.norm(gradients[1] - gradients[0], axis=1), atol=1e-9
    )
    np.testing.assert_allclose(norm, np.linalg.norm(mean), atol=1e-9)
    for metric in ("eu", "cos"):
        own = np.linalg.norm(gradients[1], axis=1)
        told = contribution.grad_diff(own, drift, dot, norm, metric=metric)
        expected = np.linalg.norm(gradients[1] - mean, axis=1)
        if metric == "cos":
            expected = 1 - gradients[1] @ mean / own / np.linalg.norm(mean)
        np.testing.assert_allclose(told, expected, atol=1e-9)
    assert "between/dense" not in safetensors.numpy.load(sealed[0])


def test_scoring_round_keeps_nothing_that_compares_rounds(runner: Runner) -> None:
    _, rounds = runner.run("Mask", scoring="round")
    assert all(
        set(safetensors.numpy.load(file)) == {"factor/dense"}
        for file in rounds.values()
    )


@pytest.mark.parametrize("method", quick(["Paillier", "Mask", "None"], 1))
def test_an_order_without_scoring_shows_nothing(runner: Runner, method: str) -> None:
    outcome, rounds = runner.run(method, scoring="none")
    assert not rounds
    assert not any(b"vectors" in body[:64] for body in outcome.traffic)


def test_scoring_changes_no_bit_of_the_model(runner: Runner) -> None:
    models = [
        runner.run("Mask", scoring=level)[0].models
        for level in ("none", "round", "full")
    ]
    assert models[0][2]["layers"] == models[1][2]["layers"] == models[2][2]["layers"]


def test_a_restarted_order_keeps_folds_apart(runner: Runner) -> None:
    """Only the final model's rounds are kept, though every fold's are checked."""
    params = {"cv_param": {"need_cv": True, "n_splits": 2}, "max_iter": 2}
    outcome, rounds = runner.run("Mask", model_params=params, hospitals=(2, 3, 6))
    assert sorted(rounds) == [0, 1]
    assert {fact["round"]["fold"] for fact in outcome.facts if "round" in fact} == {
        0,
        1,
        2,
    }


def test_a_layer_of_one_value_is_not_shown(runner: Runner) -> None:
    params = {"init_param": {"fit_intercept": False}}
    _, rounds = runner.run("Mask", attributes=["x1"], model_params=params)
    assert not rounds


# Leave-one-out


TEST_SQL = "SELECT * FROM data.rows WHERE x1 > 0"


def left_out(outcome: OrderOutcome) -> Any:
    (fact,) = [
        fact["leave_one_out"] for fact in outcome.facts if "leave_one_out" in fact
    ]
    assert fact["round"] == 0
    return fact["clients"]


@pytest.fixture(scope="module")
def one_round(runner: Runner) -> Callable[..., OrderOutcome]:
    """One round from zeros: then the model without a hospital is the model of an order
    of the others.
    """

    @functools.cache
    def run(method: str, hospitals: tuple[int, ...] = HOSPITALS) -> OrderOutcome:
        tests = {str(user): TEST_SQL for user in hospitals}
        return runner.run(
            method,
            hospitals=hospitals,
            test_data_info=tests,
            model_params={"max_iter": 1},
        )[0]

    return run


def losses_on(
    frames: dict[int, pd.DataFrame], users: tuple[int, ...], weights: Floats
) -> float:
    rows = pd.concat([frames[user] for user in users])
    rows = rows[rows.x1 > 0]
    z = rows[["x1", "x2", "x3", "x4"]].to_numpy() @ weights[:4] + weights[4]
    return float(np.mean(np.logaddexp(0, -(2 * rows.y.to_numpy() - 1) * z)))


@pairwise(n_quick=1, method=["Mask", "None"], user=[2, 6])
def test_without_a_hospital_is_the_order_of_the_others(
    one_round: Callable[..., OrderOutcome],
    frames: dict[int, pd.DataFrame],
    method: str,
    user: int,
) -> None:
    """Sealed orders judge by the hospital's own test rows, open ones by all hospitals'."""
    outcome, others = one_round(method), tuple(u for u in HOSPITALS if u != user)
    whole, rest = (
        o.models[3]["layers"]["dense"] for o in (outcome, one_round(method, others))
    )
    judges = HOSPITALS if method == "None" else (user,)
    told = left_out(outcome)[str(user)]
    assert told["loss"] == pytest.approx(
        losses_on(frames, judges, np.array(rest)), rel=1e-5
    )
    assert told["all"]["loss"] == pytest.approx(
        losses_on(frames, judges, np.array(whole)), rel=1e-5
    )
    assert told["loss"] != told["all"]["loss"]


# Robust aggregation


@pytest.fixture
def flipped(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    """Makes one hospital show and seal its gradient times a factor: an attacker that
    follows the protocol.
    """

    def flip(attacker: int, factor: float) -> None:
        honest = folds.local_gradient

        def local_gradient(trainer: Trainer, fold: Fold) -> dict[str, Any]:
            report = honest(trainer, fold)
            if trainer.order.me == attacker:
                fold.gradient = factor * fold.gradient
            return report

        monkeypatch.setattr(
            "tasks.hospital.training.folds.local_gradient", local_gradient
        )

    return flip


@pytest.fixture(scope="module")
def honest_model(runner: Runner) -> Callable[[tuple[int, ...]], Any]:
    """What these hospitals train without an attacker. Method Mask, as every method
    gives the same bits (`test_the_three_methods_give_the_same_bits`).
    """

    @functools.cache
    def run(hospitals: tuple[int, ...]) -> Any:
        outcome, _ = runner.run("Mask", hospitals=hospitals)
        return outcome.models[3]["layers"]["dense"]

    return run


@pairwise(
    n_quick=1,
    rule=["multi_krum", "minimum_diameter"],
    method=["Paillier", "Mask", "None"],
    attacker=[2, 5],
)
def test_an_attacker_is_left_out_of_the_sum(
    runner: Runner,
    flipped: Callable[[int, float], None],
    honest_model: Callable[[tuple[int, ...]], Any],
    rule: str,
    method: str,
    attacker: int,
) -> None:
    """The result is that of the others alone, also where the attacker is the initiator,
    who holds the key.
    """
    flipped(attacker, -20.0)
    outcome, _ = runner.run(method, aggregation=rule, n_attackers=1)
    rounds = [
        fact["round"]
        for fact in outcome.facts
        if "round" in fact and not fact["round"]["final"]
    ]
    assert [list(record["left_out"]) for record in rounds] == [[str(attacker)]] * 4
    others = tuple(user for user in HOSPITALS if user != attacker)
    np.testing.assert_allclose(
        outcome.models[3]["layers"]["dense"], honest_model(others), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("rule", quick(["median", "trimmed_mean"], 1))
def test_coordinate_wise_rules_in_the_open(
    runner: Runner, flipped: Callable[[int, float], None], rule: str
) -> None:
    flipped(5, 1000.0)
    outcome, rounds = runner.run(
        "None",
        aggregation=rule,
        n_attackers=1,
        model_params={"max_iter": 1, "penalty": None},
    )
    gradients = np.array(
        [
            safetensors.numpy.load(rounds[0])[f"gradient/{user}/dense"]
            for user in HOSPITALS
        ]
    )
    middle = np.sort(gradients, axis=0)
    expected = middle[2] if rule == "median" else middle[1:4].mean(axis=0)
    weights = -0.5 * expected
    np.testing.assert_allclose(
        outcome.models[2]["layers"]["dense"], weights, atol=1e-12
    )


def test_fewer_than_a_policy_asks_for_is_refused_before_anything_is_counted(
    frames: dict[int, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory
) -> None:
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    sites = make_sites(
        tmp_path_factory.mktemp("strict"), tables, min_hospitals=5, cohort=GATE
    )
    with pytest.raises(Refused, match="below this one's minimum of 5"):
        Runner(sites).run("Mask", aggregation="multi_krum", n_attackers=1)


REGROUPING: list[tuple[str, dict[str, Any]]] = [
    ("Mask", {"aggregation": "multi_krum", "n_attackers": 1}),
    ("Paillier", {"aggregation": "minimum_diameter"}),
    ("None", {"aggregation": "multi_krum"}),
    ("None", {"scoring": "full", "validation_fraction": 0.3}),
]
NOT_REGROUPING: list[tuple[str, dict[str, Any]]] = [
    ("Mask", {"scoring": "full", "validation_fraction": 0.3}),
    ("None", {"scoring": "round", "validation_fraction": 0.3}),
    ("None", {"scoring": "full"}),
    ("None", {"aggregation": "median"}),
]


def allowing(
    frames: dict[int, pd.DataFrame], folder: Path, *, unwilling: int | None = None
) -> dict[int, SiteSettings]:
    """Hospitals that may be left alone, but for one, or all if none is named."""
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    sites = make_sites(folder, tables, min_hospitals=1, cohort=GATE, scoring="full")
    for user, site in sites.items():
        if unwilling in (user, None):
            rules = site.policy.read_text()
            site.policy.write_text(rules.replace("regroup = true", "regroup = false"))
    return sites


@pytest.mark.parametrize(("method", "order"), quick(REGROUPING, 2))
def test_sums_over_some_hospitals_need_the_word_of_each(
    frames: dict[int, pd.DataFrame],
    tmp_path: Path,
    method: str,
    order: dict[str, Any],
) -> None:
    """One that does not allow it refuses before anything is counted or sent."""
    sites = allowing(frames, tmp_path, unwilling=4)
    with pytest.raises(Refused) as caught:
        Runner(sites).run(method, **order)
    assert caught.value.code == "regroup"
    assert list(Ledger(sites[4].ledger).entries()) == []
    assert not list(sites[4].vault.rglob("*.npz"))
    assert Memory(Vault(sites[4].vault).cohorts).list_opened() == []


@pytest.mark.parametrize(("method", "order"), quick(NOT_REGROUPING, 1))
def test_sums_over_all_hospitals_need_no_word(
    frames: dict[int, pd.DataFrame],
    tmp_path: Path,
    method: str,
    order: dict[str, Any],
) -> None:
    """A hospital that takes itself out opens nothing; a median is no sum."""
    outcome, _ = Runner(allowing(frames, tmp_path)).run(method, **order)
    assert len(outcome.models) == 5


@pytest.mark.parametrize(
    ("level", "allowed"), [("round", "none"), ("full", "round"), ("full", "none")]
)
def test_more_scoring_than_a_policy_allows_is_refused(
    frames: dict[int, pd.DataFrame],
    tmp_path_factory: pytest.TempPathFactory,
    level: str,
    allowed: str,
) -> None:
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    sites = make_sites(
        tmp_path_factory.mktemp("quiet"),
        tables,
        min_hospitals=1,
        cohort=GATE,
        scoring=allowed,
    )
    with pytest.raises(Refused, match=f"allows scoring '{allowed}'"):
        Runner(sites).run("Mask", scoring=level)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aggregation": "multi_krum", "n_attackers": 2}, "n_attackers"),
        ({"aggregation": "median"}, "aggregation"),
        ({"aggregation": "multi_krum", "scoring": "none"}, "scoring"),
        ({"n_attackers": 1}, "n_attackers"),
        (
            {
                "aggregation": "minimum_diameter",
                "party_id": [3],
                "data_info": {"2": "x", "3": "x"},
            },
            "aggregation",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_at_submission(
    changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_training_request({**order_body(HOSPITALS), **changes})
    assert refusal.value.code == code


# Honesty


@pytest.mark.parametrize("method", quick(["Paillier", "Mask"], 1))
def test_a_hospital_that_shows_another_gradient_than_it_seals_stops_the_order(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    honest = shown_gradients._shown_layers

    def shown(trainer: Trainer, fold: Fold, vector: Floats) -> dict[str, Floats]:
        lies = trainer.order.me == 3 and vector is fold.gradient
        return honest(trainer, fold, vector * (1 + 1e-6) if lies else vector)

    monkeypatch.setattr(shown_gradients, "_shown_layers", shown)
    with pytest.raises(ProtocolViolation, match="Round 0 does not add up"):
        runner.run(method)


def test_an_initiator_that_passes_on_another_sum_stops_the_order(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = trainers.open_total

    def opened(trainer: Trainer, kind: str, **where: Any) -> Any:
        sums = honest(trainer, kind, **where)
        return sums + (10**12 if kind == "gradient" and where["round"] == 1 else 0)

    monkeypatch.setattr(trainers, "open_total", opened)
    with pytest.raises(ProtocolViolation, match="Round 1 does not add up"):
        runner.run("Mask")


def test_a_coordinator_that_tells_another_mean_stops_the_order(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = at_coordinator._aggregate
    monkeypatch.setattr(
        at_coordinator, "_aggregate", lambda *args: honest(*args) * (1 + 1e-6)
    )
    with pytest.raises(ProtocolViolation, match="Round 0 does not add up"):
        runner.run("Mask")


# What comes from a hospital or a policy


@pytest.mark.thorough
def test_what_compares_rounds_counts_the_members_only(
    runner: Runner, flipped: Callable[[int, float], None]
) -> None:
    """With a rule that leaves hospitals out, the average of a round is what it stepped
    by, sealed and open.
    """
    flipped(5, -20.0)
    changes: dict[str, Any] = {"aggregation": "multi_krum", "n_attackers": 1}
    sealed, open_ = (runner.run(method, **changes)[1] for method in ("Mask", "None"))
    assert about_round(sealed[1])["members"] == [2, 3, 4, 6]
    gradients, average = (safetensors.numpy.load(open_[t]) for t in (2, 1))
    drift = safetensors.numpy.load(sealed[2])["between/dense"][:, 1]
    told = [
        np.linalg.norm(gradients[f"gradient/{user}/dense"] - average["average/dense"])
        for user in HOSPITALS
    ]
    np.testing.assert_allclose(drift, told, atol=1e-9)


@pytest.mark.parametrize(
    "report",
    quick([{"train": {"loss": 10**400}}, {"leave_one_out": {"2": {"loss": "x"}}}], 1),
)
def test_a_report_without_numbers_names_its_hospital(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, report: dict[str, Any]
) -> None:
    honest = folds.evaluate

    def evaluate(trainer: Trainer, fold: Fold) -> dict[str, Any]:
        own = honest(trainer, fold)
        return {**own, **report} if trainer.order.me == 2 else own

    monkeypatch.setattr(folds, "evaluate", evaluate)
    with pytest.raises(ProtocolViolation, match="The metrics of hospital 2"):
        runner.run("None")


def test_a_model_of_one_value_has_nothing_to_choose_by(runner: Runner) -> None:
    params = {"init_param": {"fit_intercept": False}}
    with pytest.raises(BadRequest, match="no direction"):
        runner.run(
            "Mask", attributes=["x1"], model_params=params, aggregation="multi_krum"
        )
    outcome, _ = runner.run(
        "None", attributes=["x1"], model_params=params, aggregation="multi_krum"
    )
    assert len(outcome.models) == 5


@pytest.mark.parametrize("method", quick(["Mask", "None", "Paillier"], 1))
def test_of_sealed_orders_no_sum_without_a_hospital_travels(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """With test rows that show models without each hospital, as without test rows."""
    put = MemoryTransport.put

    def messages_of(**order: Any) -> set[tuple[str, int, int, int]]:
        sent = set()

        def listen(
            transport: MemoryTransport,
            address: Address,
            sender: int,
            recipient: int,
            body: bytes,
        ) -> None:
            sent.add((address.topic, address.round, sender, recipient))
            put(transport, address, sender, recipient, body)

        with monkeypatch.context() as patch:
            patch.setattr(MemoryTransport, "put", listen)
            outcome, _ = runner.run(method, model_params={"max_iter": 2}, **order)
        has_scores = any("leave_one_out" in fact for fact in outcome.facts)
        assert has_scores is bool(order.get("validation_fraction"))
        return sent

    more = messages_of(validation_fraction=0.3) - messages_of()
    topics = {topic for topic, *_ in more}
    assert topics == ({"without"} if method == "None" else set())


@pytest.mark.parametrize(("level", "is_taken"), [("round", True), ("full", False)])
def test_open_gradients_reach_other_hospitals_only_where_policies_say_full(
    frames: dict[int, pd.DataFrame],
    tmp_path_factory: pytest.TempPathFactory,
    level: str,
    is_taken: bool,
) -> None:
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    sites = make_sites(
        tmp_path_factory.mktemp("open"),
        tables,
        min_hospitals=1,
        cohort=GATE,
        scoring="none",
    )
    order: dict[str, Any] = {"scoring": level, "validation_fraction": 0.3}
    if is_taken:
        outcome, _ = Runner(sites).run("None", **order)
        assert not any("leave_one_out" in fact for fact in outcome.facts)
        return
    with pytest.raises(Refused, match="allows scoring 'none'"):
        Runner(sites).run("None", **order)
