"""Seventy hospitals whose masks are sparse, as all policies let them be: joint equals
pooled, to the bit of what no masks give. One policy that is silent makes all complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.site.settings import SiteSettings
from agents.training.trainer import Trainer
from deployments.local.one_process import run_order
from protocol.sums import mask_graph, masks
from tests.made_sites import make_sites, order_body
from tests.made_statistics import Hospitals, no_waiting_for_disks

USERS = tuple(range(2, 72))
N_ROWS = 6
SILENT = 40
N_COMPLETE = len(USERS) - 1
N_SPARSE = 2 * mask_graph.reach(len(USERS))


def rows_of(user: int) -> pd.DataFrame:
    rng = np.random.default_rng(user)
    frame = pd.DataFrame(
        np.round(rng.normal(size=(N_ROWS, 2)), 3), columns=["x1", "x2"]
    )
    frame["y"] = np.arange(N_ROWS) % 2
    frame["id"] = np.arange(N_ROWS) + 100 * user
    return frame


@pytest.fixture(scope="module", autouse=True)
def quick_disks() -> Iterator[None]:
    with no_waiting_for_disks():
        yield


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[int, SiteSettings]:
    tables = {user: {"rows": rows_of(user)} for user in USERS}
    gate = "min_rows = 1\nmin_varying = 1\nmax_parameter_share = 5\nmax_share = 1"
    made = make_sites(tmp_path_factory.mktemp("sites"), tables, cohort=gate)
    for site in made.values():
        text = site.policy.read_text()
        text = text.replace("[orders]", "[orders]\nsparse_masks = true")
        site.policy.write_text(text)
        site.data_folder.mkdir(exist_ok=True)
    return made


@pytest.fixture
def numbers_of_peers(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """With how many others each sealed vector was masked."""
    found: set[int] = set()
    mask_words, mask_modulo = masks.mask_words, masks.mask_modulo

    def words(pair_keys: Any, *arguments: Any) -> Any:
        found.add(len(pair_keys))
        return mask_words(pair_keys, *arguments)

    def modulo(pair_keys: Any, *arguments: Any) -> Any:
        found.add(len(pair_keys))
        return mask_modulo(pair_keys, *arguments)

    monkeypatch.setattr(masks, "mask_words", words)
    monkeypatch.setattr(masks, "mask_modulo", modulo)
    return found


def average(hospitals: Hospitals) -> float:
    data = dict.fromkeys(USERS, "data.rows")
    answered = hospitals.ask("avg", data, key="x1", receivers=[USERS[0]])
    return float(answered.number)


def pooled_average() -> float:
    values = []
    for user in USERS:
        values += [Fraction(value) for value in rows_of(user).x1]
    return float(sum(values) / len(values))


@pytest.mark.thorough
def test_a_model_over_seventy_hospitals(
    sites: dict[int, SiteSettings],
    numbers_of_peers: set[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And were the coordinator to leave one out of a round, masks would be complete."""
    keys = Trainer.keys
    n_of_some: set[int] = set()

    def keys_and_those_of_some(trainer: Trainer, fold: int, *members: Any) -> Any:
        if trainer.order.me != USERS[-1]:
            n_of_some.add(len(keys(trainer, fold, USERS[:-1]).peers()))
        return keys(trainer, fold, *members)

    monkeypatch.setattr(Trainer, "keys", keys_and_those_of_some)
    models = {}
    for number, method in enumerate(("Mask", "None"), start=1):
        body = order_body(
            USERS,
            attributes=["x1", "x2"],
            model_params={"max_iter": 1, "encrypt_param": {"method": method}},
        )
        outcome = run_order(sites, body, order_id=number)
        models[method] = outcome.models[USERS[0]]
    assert numbers_of_peers == {N_SPARSE}
    assert n_of_some == {N_COMPLETE - 1}
    masked, plain = (np.ravel(model["layers"]["dense"]) for model in models.values())
    assert np.array_equal(masked, plain)


@pytest.mark.thorough
def test_an_average_over_seventy_hospitals_and_one_whose_policy_is_silent(
    sites: dict[int, SiteSettings], numbers_of_peers: set[int]
) -> None:
    policies = {user: site.policy.read_text() for user, site in sites.items()}
    hospitals = Hospitals(sites, policies, last=10)
    hospitals.allow(sparse_masks=True, min_rows=1, max_share=1)
    assert average(hospitals) == pooled_average()
    assert numbers_of_peers == {N_SPARSE}
    numbers_of_peers.clear()
    hospitals.allow([SILENT], min_rows=1, max_share=1)
    hospitals.forget()
    assert average(hospitals) == pooled_average()
    assert numbers_of_peers == {N_COMPLETE}
