"""As test_every_message: orders whose hospitals send what those of most orders do not.

Own sums of a random intercept, a kept model to who did not train it, and the sums of
subgroups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from deployments.local.one_process import run_order
from protocol.evaluation_request import evaluation_order, parse_evaluate_request
from protocol.training_request import TrainingRequest, parse_training_request
from tests.faults.test_every_message import (
    Fate,
    mortal_vaults,
    run_mortally,
    run_mortally_as,
)
from tests.made_sites import make_sites, order_body
from tests.made_statistics import no_waiting_for_disks

pytestmark = [pytest.mark.thorough]

__all__ = ["mortal_vaults"]

ALL = (2, 3, 4, 5, 6)
TRAINED_BY = (2, 3, 4)
MODEL = 1


@pytest.fixture(autouse=True)
def _fast() -> Iterator[None]:
    """Who dies here is an exception; the machine goes on."""
    with no_waiting_for_disks():
        yield


def made_rows(user: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(100 * user + seed)
    n_rows = 60 + 10 * user
    numbers = np.arange(n_rows)
    frame = pd.DataFrame({"id": numbers + 1000 * user})
    frame["age"] = np.round(rng.normal(50 + 2 * user, 9, n_rows), 1)
    frame["dose"] = np.round(rng.normal(0, 1, n_rows), 3)
    frame["ward"] = np.where(numbers % 3, "north", "south")
    eta = 0.05 * (frame["age"] - 60) + frame["dose"]
    frame["y"] = (rng.uniform(size=n_rows) < 1 / (1 + np.exp(-eta))).astype(int)
    own = rng.normal(0, 9)
    noise = rng.normal(0, 11, n_rows) + own
    frame["pressure"] = np.round(100 + 0.6 * frame["age"] + noise, 1)
    return frame


@pytest.fixture
def sites(tmp_path: Path) -> dict[int, SiteSettings]:
    rows = {}
    for user in ALL:
        rows[user] = {"rows": made_rows(user, 1), "later": made_rows(user, 2)}
    return make_sites(tmp_path, rows, min_hospitals=2)


def nobody_dies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fate, "meet", lambda self, moment, deed: deed())


def no_order_is_left(sites: dict[int, SiteSettings]) -> None:
    for site in sites.values():
        assert Vault(site.vault).orders() == []


def random_intercept(**changes: Any) -> dict[str, Any]:
    params = {
        "optimizer": "newton",
        "eps": None,
        "max_iter": None,
        "site_effect": "random",
    }
    return order_body(
        ALL,
        model_type="linear",
        attributes=["age", "dose"],
        label_name="pressure",
        scoring=None,
        model_params={**params, **changes},
    )


@pytest.mark.parametrize(
    ("policy", "every"),
    [
        ("", 1),
        # Each death computes the comparison anew, which has hundreds of messages.
        ('\n[statistics]\nmethods = ["count"]\ncells = "pooled"\n', 200),
    ],
    ids=["hospitals", "pooled"],
)
def test_a_random_intercept_survives_every_death(
    sites: dict[int, SiteSettings], mortal_vaults: Fate, policy: str, every: int
) -> None:
    """Each hospital's own sums are told once, and read by all."""
    for site in sites.values():
        text = site.policy.read_text()
        text = text.replace("[orders]", "[orders]\nhospital_sums = true")
        site.policy.write_text(text + policy)
    body = random_intercept()
    deaths = run_mortally(sites, body, 1, every=every)
    assert deaths.total() >= 10, deaths
    if every == 1:
        # order or acceptance, mean, variance, gradient, own sums, done: each twice
        assert all(deaths[user] >= 12 for user in ALL), deaths
    with pytest.MonkeyPatch.context() as patch:
        nobody_dies(patch)
        run_order(sites, body, order_id=2)
    kept = []
    for number in (1, 2):
        for user in ALL:
            model = Vault(sites[user].vault).model(number)
            kept.append((model["layers"], model["report"]))
    assert all(one == kept[0] for one in kept)
    assert kept[0][1]["site_effect"] == "random"
    assert kept[0][1]["variance_between"] > 0
    no_order_is_left(sites)


def trained(sites: dict[int, SiteSettings], model_type: str) -> dict[str, Any]:
    """The body of an order that has trained a model, undisturbed."""
    body = order_body(
        TRAINED_BY,
        model_type=model_type,
        attributes=["age", "dose"],
        label_name="y" if model_type == "lr" else "pressure",
        model_params={"max_iter": 2, "standardize": True},
    )
    with pytest.MonkeyPatch.context() as patch:
        nobody_dies(patch)
        run_order(sites, body, order_id=MODEL)
    return body


def evaluation(
    body: dict[str, Any], hospitals: tuple[int, ...], **asked: Any
) -> TrainingRequest:
    """Of that model, on later rows of these hospitals; the first one asks."""
    sql = {str(user): "SELECT * FROM data.later" for user in hospitals}
    first, *others = hospitals
    question = {
        "user_id": first,
        "party_id": others,
        "model_id": MODEL,
        "data_info": sql,
        **asked,
    }
    model = parse_training_request(dict(body))
    sent = model.model_dump(mode="json", exclude_unset=True)
    return evaluation_order(
        parse_evaluate_request(question), sent, trained_by=TRAINED_BY
    )


def judged_after_deaths(
    sites: dict[int, SiteSettings], request: TrainingRequest
) -> tuple[dict[str, Any], Counter[Any]]:
    """The report, which is everybody's, after every death as after none; and who died
    how often.
    """
    deaths = run_mortally_as(sites, request, MODEL + 1)
    with pytest.MonkeyPatch.context() as patch:
        nobody_dies(patch)
        run_mortally_as(sites, request, MODEL + 2)
    found = []
    for number in (MODEL + 1, MODEL + 2):
        for user in request.hospitals:
            kept = Vault(sites[user].vault).evaluation(number)
            found.append((kept["report"], kept["counts"]))
    assert all(one == found[0] for one in found)
    no_order_is_left(sites)
    report: dict[str, Any] = found[0][0]
    return report, deaths


def test_who_did_not_train_judges_the_model_after_every_death(
    sites: dict[int, SiteSettings], mortal_vaults: Fate
) -> None:
    """The model is sealed to two hospitals, the same bytes whenever it is sent."""
    body = trained(sites, "lr")
    request = evaluation(body, (*TRAINED_BY, 5, 6), calibration_slope=True)
    assert request.seals_model_to == [5, 6]
    report, deaths = judged_after_deaths(sites, request)
    # order or acceptance, limits, the sum, done: each twice; the model, to two
    assert all(deaths[user] >= 12 for user in request.hospitals), deaths
    assert deaths[2] >= max(deaths[3], deaths[4]) + 4, deaths
    assert report["n"] == sum(len(made_rows(user, 2)) for user in ALL)
    for user in (5, 6):
        assert MODEL not in Vault(sites[user].vault).models()


@pytest.mark.parametrize("model_type", ["lr", "linear"])
def test_subgroups_are_judged_after_every_death(
    sites: dict[int, SiteSettings], mortal_vaults: Fate, model_type: str
) -> None:
    body = trained(sites, model_type)
    request = evaluation(body, TRAINED_BY, group_by="ward")
    report, deaths = judged_after_deaths(sites, request)
    assert all(deaths[user] >= 12 for user in TRAINED_BY), deaths
    assert [group["level"] for group in report["groups"]] == ["north", "south"]
    n_of = [group["n"] for group in report["groups"]]
    assert sum(n_of) == report["n"]
