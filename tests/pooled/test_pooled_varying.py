"""A feature that few of one hospital's rows vary in: where thresholds are on the sum of
all hospitals it is trained on, and the gradient of few people is still nobody's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.order.evaluation import evaluate_once
from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings
from deployments.local.one_process import run_order
from protocol.errors import ProtocolViolation, Refused
from protocol.exchange import Address
from protocol.memory_transport import MemoryTransport
from protocol.messages import PooledThresholds, peek_envelope
from protocol.varying_plan import varying_plan
from tasks.hospital import training as steps
from tests.made_providers import column
from tests.made_sites import make_sites, order_body
from tests.made_statistics import no_waiting_for_disks
from tests.pairwise import quick

USERS = (2, 3, 4, 5)
POOLED = '\n[statistics]\nmethods = ["count"]\ncells = "pooled"\n'
WOMEN = {2: 6, 3: 40, 4: 60, 5: 80}


@pytest.fixture(autouse=True)
def _fast() -> Iterator[None]:
    with no_waiting_for_disks():
        yield


def patients(user: int, n_women: int, n_men: int = 70) -> pd.DataFrame:
    rng = np.random.default_rng(user)
    n_rows = n_women + n_men
    sex = np.array([1] * n_women + [0] * n_men)
    rng.shuffle(sex)
    age = np.round(rng.normal(0, 1, n_rows), 3)
    risk = age + 0.5 * sex + rng.normal(0, 1, n_rows)
    return pd.DataFrame(
        {
            "id": np.arange(n_rows) + 10_000 * user,
            "sex": sex,
            "age": age,
            "site": int(user == 5),
            "y": (risk > 0).astype(int),
        }
    )


def make(
    folder: Path, women: dict[int, int], statistics: dict[int, str] | None = None
) -> dict[int, SiteSettings]:
    tables = {user: {"rows": patients(user, n)} for user, n in women.items()}
    sites = make_sites(folder, tables)
    for user, site in sites.items():
        text = POOLED if statistics is None else statistics.get(user, "")
        site.policy.write_text(site.policy.read_text() + text)
    return sites


def body(attributes: tuple[str, ...] = ("sex", "age"), **changes: Any) -> Any:
    fields = {"attributes": list(attributes), "scoring": None, **changes}
    return order_body(USERS, **fields)


def train(sites: dict[int, SiteSettings], **changes: Any) -> Any:
    order = body(**changes)
    order["user_id"], *order["party_id"] = list(sites)
    order["data_info"] = dict.fromkeys(map(str, sites), order["data_info"]["2"])
    return run_order(sites, order)


def weights_of(outcome: Any, user: int) -> Any:
    return np.ravel(outcome.models[user]["layers"]["dense"]).tolist()


def refused(sites: dict[int, SiteSettings], **changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        train(sites, **changes)
    assert caught.value.code == "min_varying"
    return caught.value


def test_six_women_of_one_hospital_keep_sex_out_of_no_model(tmp_path: Path) -> None:
    sites = make(tmp_path / "pooled", WOMEN)
    outcome = train(sites)
    for user in USERS:
        entries = Ledger(sites[user].ledger).entries()
        (opens,) = [line for line in entries if line["event"] == "opens"]
        assert opens["totals"][0] == (
            "whether 0 and 1 each stand in none or at least 10 rows of all hospitals but any one,"
            " at 3 hospitals or more, for each of sex and age that holds no other value, in all rows"
        )
    # As where nothing is asked of a column.
    sites = make(tmp_path / "free", WOMEN, {})
    for site in sites.values():
        text = site.policy.read_text().replace("[cohort]", "[cohort]\nmin_varying = 1")
        site.policy.write_text(text)
    free = train(sites)
    for user in USERS:
        assert weights_of(outcome, user) == weights_of(free, user)


def test_each_hospital_s_own_rows_decide_otherwise(tmp_path: Path) -> None:
    assert refused(make(tmp_path, WOMEN, {})).detail["feature"] == "sex"


@pytest.mark.parametrize("other", quick([2, 3], 1))
def test_one_hospital_that_asks_for_each_decides_for_all(
    tmp_path: Path, other: int
) -> None:
    statistics = dict.fromkeys(USERS, POOLED) | {other: ""}
    assert refused(make(tmp_path, WOMEN, statistics)).detail["feature"] == "sex"


@pytest.mark.parametrize("n", quick([9, 10], 1))
def test_the_women_of_all_but_the_largest_reach_the_threshold(
    tmp_path: Path, n: int
) -> None:
    """The largest takes its own part off the sum of gradients and has that of n."""
    sites = make(tmp_path, {2: 2, 3: 3, 4: n - 5, 5: 80})
    if n >= 10:
        train(sites)
        return
    error = refused(sites)
    assert error.detail["features"] == ["sex"]
    assert "fewer than 10 rows" in error.sentence


def test_a_site_s_dummy_is_refused_unless_all_allow_own_totals(tmp_path: Path) -> None:
    women = dict.fromkeys(USERS, 40)
    error = refused(make(tmp_path / "a", women), attributes=("site", "age"))
    assert error.detail["features"] == ["site"]
    own = POOLED + "own_totals = true\n"
    train(
        make(tmp_path / "b", women, dict.fromkeys(USERS, own)),
        attributes=("site", "age"),
    )
    some = dict.fromkeys(USERS, own) | {3: POOLED}
    refused(make(tmp_path / "c", women, some), attributes=("site", "age"))


def test_every_fold_s_rows_are_compared(tmp_path: Path) -> None:
    folds = {"cv_param": {"need_cv": True, "n_splits": 3}, "max_iter": 2}
    train(make(tmp_path / "enough", WOMEN), model_params=folds)
    # 24 women in all but the largest: eight of them in a held-out part.
    few = {2: 6, 3: 9, 4: 9, 5: 80}
    assert refused(make(tmp_path / "few", few), model_params=folds)
    train(make(tmp_path / "one model", few))


@pytest.mark.parametrize(
    "changes",
    [
        {"model_params": {"encrypt_param": {"method": "None"}}},
        {"scoring": "round"},
    ],
    ids=["gradients in clear", "scored"],
)
def test_an_order_that_shows_parts_is_decided_by_each(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Where the coordinator sees each hospital's gradient, the others' hide nothing."""
    assert refused(make(tmp_path, WOMEN), **changes).detail["feature"] == "sex"


def test_the_coordinator_is_told_thresholds_and_no_count(tmp_path: Path) -> None:
    transport = MemoryTransport()
    sites = make(tmp_path, WOMEN)
    run_order(sites, body(), transport=transport)
    traffic = b"".join(transport.traffic)
    assert (
        b'"pooled":{"min_hospitals":3,"min_rows":10,"min_varying":10,"own_totals":false}'
        in traffic
    )
    facts = json.dumps(transport.facts, default=str)
    assert "sex" not in facts.replace("attributes", "")


def test_of_the_comparison_the_coordinator_can_read_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values opened on the way and the shares of the bits are sealed to the group."""
    kinds = []
    put = MemoryTransport.put

    def listen(
        transport: MemoryTransport,
        address: Address,
        sender: int,
        recipient: int,
        body: bytes,
    ) -> None:
        put(transport, address, sender, recipient, body)
        if address.topic in ("opened", "cell_share"):
            kinds.append(address.topic)
            with pytest.raises(ProtocolViolation, match="not the one that is waited"):
                peek_envelope(body, kind=address.topic, sender=sender)

    monkeypatch.setattr(MemoryTransport, "put", listen)
    train(make(tmp_path, WOMEN))
    assert kinds.count("cell_share") == len(USERS)
    assert "opened" in kinds


def test_each_hospital_s_thresholds_stand_in_its_acceptance(tmp_path: Path) -> None:
    """The coordinator reads those of each, and of the columns those that fail."""
    transport = MemoryTransport()
    sites = make(tmp_path, {2: 6, 3: 3, 4: 4, 5: 80})
    rules = sites[3].policy.read_text()
    rules = rules.replace("[cohort]", "[cohort]\nmin_varying = 17")
    sites[3].policy.write_text(rules)
    with pytest.raises(Refused) as caught:
        run_order(sites, body(), transport=transport)
    assert caught.value.detail["features"] == ["sex"]
    traffic = b"".join(transport.traffic)
    assert traffic.count(b'"min_varying":17') == 1
    assert traffic.count(b'"min_varying":10') == len(USERS) - 1


def test_a_second_comparison_of_an_order_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = []
    check = steps.varying.check_columns

    def again(order: Any, rows: Any, levels: Any) -> None:
        check(order, rows, levels)
        if order.me == 3:
            plan = varying_plan(
                USERS, PooledThresholds(10, 3, own_totals=True, min_rows=10)
            )
            with pytest.raises(ProtocolViolation) as caught:
                evaluate_once(order, plan, {"p3.n1": column([1])}, n_rows=1)
            codes.append(caught.value.code)

    monkeypatch.setattr(steps.varying, "check_columns", again)
    train(make(tmp_path, WOMEN))
    assert codes == ["evaluated_twice"]


def test_sets_are_committed_before_anything_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    commit, check = steps.cohorts.commit, steps.varying.check_columns

    def committed(order: Any) -> None:
        done.append((order.me, "commit"))
        commit(order)

    def checked(order: Any, rows: Any, levels: Any) -> None:
        done.append((order.me, "check"))
        check(order, rows, levels)

    monkeypatch.setattr(steps.cohorts, "commit", committed)
    monkeypatch.setattr(steps.varying, "check_columns", checked)
    train(make(tmp_path, WOMEN))
    for user in USERS:
        assert done.index((user, "commit")) < done.index((user, "check"))
