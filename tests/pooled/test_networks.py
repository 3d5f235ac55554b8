"""Networks over several hospitals: a whole order trains what the pooled rows train, and
ten hospitals read digits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm

from agents.order.party import open_party
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from agents.training.export import export_model
from agents.training.inference import model_of, predict, weights_of
from agents.training.row_sets import ordered_model
from analytics.arrays import Floats
from analytics.training.descent import train
from analytics.training.margins import scores
from deployments.demo.digits import GATE, HOSPITALS, PIXELS, digits_order, digits_tables
from deployments.local.one_process import OrderOutcome, run_order
from protocol.errors import ConsiliumError, Refused
from protocol.memory_transport import MemoryTransport
from protocol.training_request import parse_training_request
from tests.made_sites import make_sites
from tests.pairwise import quick

NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"shape": None, "hidden": [12, 6]},
    "cnn": {"hidden": [3, 5]},
}
FULL_BATCH = {
    "max_iter": 4, "batch_size": -1, "standardize": False, "optimizer": "sgd", "learning_rate": 0.3,
    "encrypt_param": {"method": "Mask"},
}  # fmt: skip


class Runner:
    """Runs orders one after another at sites whose policies let a single hospital
    train.
    """

    def __init__(
        self, folder: Path, tables: dict[int, dict[str, pd.DataFrame]], cohort: str
    ) -> None:
        self.sites: dict[int, SiteSettings] = make_sites(
            folder, tables, min_hospitals=1, cohort=cohort
        )
        self.tables, self.n_orders = tables, 0

    def run(self, body: dict[str, Any]) -> OrderOutcome:
        self.n_orders += 1
        return run_order(self.sites, body, order_id=self.n_orders)

    def parts(self, outcome: OrderOutcome) -> list[Any]:
        frames = [self.tables[user]["digits"] for user in sorted(outcome.models)]
        return [(frame[PIXELS].to_numpy(), frame.y.to_numpy()) for frame in frames]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("sites"), digits_tables(), GATE)


def network_order(kind: str, n_hospitals: int, **params: Any) -> dict[str, Any]:
    body = digits_order(
        HOSPITALS[:n_hospitals], **NETWORKS[kind], **{**FULL_BATCH, **params}
    )
    given = {
        name: value for name, value in body["model_params"].items() if value is not None
    }
    return {**body, "model_type": kind, "model_params": given}


def trained_on(parts: list[Any], body: dict[str, Any]) -> Floats:
    """What plain gradient descent in one process makes of these parts."""
    request = parse_training_request(body)
    names = (
        "penalty",
        "optimizer",
        "alpha",
        "max_iter",
        "learning_rate",
        "batch_size",
        "eps",
    )
    options = {name: getattr(request.model_params, name) for name in names}
    model = ordered_model(request, range(10))
    return train(model, parts, init_method=request.init_method, **options).weights


def pooled(parts: list[Any]) -> list[Any]:
    return [(np.vstack([X for X, _ in parts]), np.concatenate([y for _, y in parts]))]


def assert_all_hold(outcome: OrderOutcome, expected: Floats) -> None:
    flat = [weights_of(model) for model in outcome.models.values()]
    assert all(np.array_equal(flat[0], own) for own in flat)
    np.testing.assert_allclose(flat[0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(
    ("n_hospitals", "method"),
    quick([(3, "Mask"), (2, "Mask"), (1, "Mask"), (3, "Paillier")], 1),
)
def test_full_batches_train_what_pooled_rows_train(
    runner: Runner, kind: str, n_hospitals: int, method: str
) -> None:
    body = network_order(kind, n_hospitals, encrypt_param={"method": method})
    outcome = runner.run(body)
    assert_all_hold(outcome, trained_on(pooled(runner.parts(outcome)), body))


@pytest.mark.parametrize("kind", quick(list(NETWORKS), 1))
def test_mini_batches_and_a_penalty(runner: Runner, kind: str) -> None:
    """Mini-batches are walked at each hospital, so the same parts must be compared."""
    changes = {
        "batch_size": 16,
        "penalty": "L2",
        "alpha": 0.01,
        "optimizer": "nesterov_momentum_sgd",
    }
    body = network_order(
        kind, 3, **changes, init_param={"init_method": "random_uniform"}
    )
    outcome = runner.run(body)
    assert_all_hold(outcome, trained_on(runner.parts(outcome), body))


@pytest.mark.parametrize("kind", quick(list(NETWORKS), 1))
def test_a_hospital_s_own_answers_are_the_model_s(runner: Runner, kind: str) -> None:
    outcome = runner.run(network_order(kind, 3, max_iter=2))
    party = open_party(runner.sites[3], runner.n_orders, MemoryTransport())
    entries = predict(party, runner.n_orders, "SELECT * FROM data.digits_test")
    model, X = outcome.models[3], runner.tables[3]["digits_test"][PIXELS].to_numpy()
    expected = scores(model_of(model), weights_of(model), X)
    np.testing.assert_allclose(
        [list(entry["probabilities"].values()) for entry in entries],
        expected,
        rtol=1e-12,
    )
    assert [entry["label"] for entry in entries] == expected.argmax(axis=1).tolist()
    exported = export_model(model, "json")
    assert [name for name in exported if name in model["layers"]] == list(
        model_of(model).layers
    )


def test_the_round_s_metrics_are_those_of_classes(runner: Runner) -> None:
    outcome = runner.run(network_order("cnn", 3, max_iter=1))
    reports = [facts["round"] for facts in outcome.facts if "round" in facts][-1][
        "hospitals"
    ]
    assert all(
        set(report["test"]) == {"loss", "accuracy", "f1_macro", "confusion"}
        for report in reports.values()
    )
    summary = next(facts["summary"] for facts in outcome.facts if "summary" in facts)[
        "0"
    ]
    # A hospital with few images of a digit shows no numbers of its own, and so none does.
    for report in reports.values():
        assert report["train"]["accuracy"] is None
        assert report["withheld"]["train"]["rule"] == "min_rows"
    model = outcome.models[2]
    rows = pd.concat([runner.tables[user]["digits"] for user in outcome.models])
    probabilities = scores(model_of(model), weights_of(model), rows[PIXELS].to_numpy())
    called = np.take(model["classes"], probabilities.argmax(axis=1))
    n_right = np.mean(called == rows.y.to_numpy())
    assert summary["accuracy"] == pytest.approx(n_right, abs=1e-5)


@pytest.mark.parametrize("kind", quick(list(NETWORKS), 1))
def test_held_out_images_are_judged_as_those_of_one_table(
    runner: Runner, kind: str
) -> None:
    outcome = runner.run(network_order(kind, 3, max_iter=1))
    found = next(facts["summary"] for facts in outcome.facts if "summary" in facts)[
        "0"
    ]["held_out"]
    model = outcome.models[2]
    rows = pd.concat([runner.tables[user]["digits_test"] for user in outcome.models])
    X, y = rows[PIXELS].to_numpy(), rows.y.to_numpy()
    probabilities = scores(model_of(model), weights_of(model), X)
    called, classes = probabilities.argmax(axis=1), model["classes"]
    confusion = skm.confusion_matrix(y, np.take(classes, called), labels=classes)
    assert found["n_rows"] == len(y)
    assert found["confusion"] == confusion.tolist()
    assert found["accuracy"] == pytest.approx(
        skm.accuracy_score(y, np.take(classes, called)), rel=1e-12
    )
    assert found["loss"] == pytest.approx(
        skm.log_loss(y, probabilities, labels=classes), rel=1e-12
    )


def test_a_policy_counts_every_layer_s_parameters(tmp_path: Path) -> None:
    """1,898 parameters of a cnn, and 133 rows at the largest of the three hospitals: 14
    a row are too few.
    """
    tables = {user: own for user, own in digits_tables().items() if user < 5}
    policy = "mini_batches = true\nmin_varying = 1\nmax_parameter_share = 14"
    runner = Runner(tmp_path, tables, policy)
    with pytest.raises(Refused) as caught:
        runner.run(digits_order((2, 3, 4), max_iter=1))
    assert caught.value.code == "max_parameter_share"


def test_images_do_not_pass_a_policy_for_tables(tmp_path: Path) -> None:
    tables = {user: own for user, own in digits_tables().items() if user < 5}
    with pytest.raises(ConsiliumError) as caught:
        Runner(tmp_path, tables, "mini_batches = true").run(
            digits_order((2, 3, 4), max_iter=1)
        )
    assert caught.value.code == "min_varying"


@pytest.mark.thorough
def test_ten_hospitals_read_digits(runner: Runner) -> None:
    """The recipe of `deployments.demo.digits`, and a hospital's own answers for rows
    that nobody trained on.
    """
    outcome = runner.run(digits_order(encrypt_param={"method": "Mask"}))
    summary = next(facts["summary"] for facts in outcome.facts if "summary" in facts)
    held_out = summary["0"]["held_out"]
    assert held_out["n_rows"] == 356
    assert held_out["accuracy"] > 0.93
    party = open_party(runner.sites[5], runner.n_orders, MemoryTransport())
    entries = predict(party, runner.n_orders, "SELECT * FROM data.digits_test")
    right = runner.tables[5]["digits_test"].set_index("id").y
    hits = [entry["label"] == right[int(entry["id"])] for entry in entries]
    assert np.mean(hits) > 0.85
    assert all(
        sum(entry["probabilities"].values()) == pytest.approx(1) for entry in entries
    )
    assert Vault(runner.sites[5].vault).model(runner.n_orders)["shape"] == [8, 8]
