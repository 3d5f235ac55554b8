"""Pairs of columns of a Newton order where thresholds are on the sum of all hospitals: a
table of a paper is trained on, and a joint cell of few people is still nobody's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from deployments.local.one_process import run_order
from protocol.errors import ConsiliumError
from protocol.exchange import Address
from protocol.memory_transport import MemoryTransport
from protocol.messages import peek_envelope
from tasks.hospital import training as steps
from tests.made_heart import heart_tables
from tests.made_sites import make_sites, order_body
from tests.made_statistics import no_waiting_for_disks
from tests.pairwise import quick

USERS = (2, 3, 4)
POOLED = '\n[statistics]\nmethods = ["count"]\ncells = "pooled"\n'
NEWTON: dict[str, Any] = {"optimizer": "newton", "eps": None, "max_iter": None}


@pytest.fixture(autouse=True)
def _fast() -> Iterator[None]:
    with no_waiting_for_disks():
        yield


def patients(user: int, n_old_women: int) -> pd.DataFrame:
    """40 old men, 40 young women, 40 young men, and so many old women."""
    rng = np.random.default_rng(user)
    sex = np.repeat([0, 1, 0, 1], [40, 40, 40, n_old_women])
    old = np.repeat([1, 0, 0, 1], [40, 40, 40, n_old_women])
    n_rows = len(sex)
    frame = pd.DataFrame({"id": np.arange(n_rows) + 1000 * user, "sex": sex})
    frame["old"] = old
    frame["stage"] = np.where(rng.random(n_rows) < 0.5, 1, 2)
    frame["age"] = np.round(rng.normal(50, 9, n_rows) + 20 * old, 2)
    frame["y"] = np.round(rng.normal(5, 1, n_rows) + sex, 3)
    return frame


def outcome_of(
    folder: Path,
    frames: dict[int, pd.DataFrame],
    *,
    pooling: tuple[int, ...] = USERS,
    transport: MemoryTransport | None = None,
    **changes: Any,
) -> Any:
    sites = make_sites(folder, {user: {"rows": rows} for user, rows in frames.items()})
    for user in set(pooling) & set(sites):
        policy = sites[user].policy
        policy.write_text(policy.read_text() + POOLED)
    fields: dict[str, Any] = {
        "model_type": "glm",
        "attributes": ["sex", "old", "age"],
        "model_params": {**NEWTON, "family": "gaussian"},
        **changes,
    }
    body = order_body(sorted(frames), scoring=None, **fields)
    return run_order(sites, body, transport=transport)


def refused(folder: Path, frames: dict[int, pd.DataFrame], **changes: Any) -> Any:
    with pytest.raises(ConsiliumError) as caught:
        outcome_of(folder, frames, **changes)
    return caught.value


@pytest.mark.parametrize("n", quick([9, 10], 1))
def test_a_cell_of_all_but_the_largest_reaches_min_rows(tmp_path: Path, n: int) -> None:
    """The largest takes its own part off the sum of products and has that of n."""
    frames = {2: patients(2, 4), 3: patients(3, n - 4), 4: patients(4, 30)}
    if n < 10:
        error = refused(tmp_path, frames)
        assert (error.code, error.detail["pairs"]) == ("min_rows", ["sex and old"])
        return
    report = outcome_of(tmp_path / "pooled", frames).models[2]["report"]
    assert report["n"] == sum(map(len, frames.values()))
    # Where one hospital does not pool, each one's own rows decide.
    assert refused(tmp_path / "each", frames, pooling=(2, 3)).code == "min_rows"


def test_the_coordinator_learns_how_many_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, int]] = []
    put = MemoryTransport.put

    def listen(
        transport: MemoryTransport,
        address: Address,
        sender: int,
        recipient: int,
        body: bytes,
    ) -> None:
        put(transport, address, sender, recipient, body)
        if address.topic == "compared":
            found.append(
                json.loads(peek_envelope(body, kind="compared", sender=sender))
            )

    monkeypatch.setattr(MemoryTransport, "put", listen)
    frames = {user: patients(user, 20) for user in USERS}
    categories = {"categorical": {"stage": {}}, "attributes": ["sex", "stage"]}
    outcome_of(tmp_path, frames, **categories)
    # sex, stage, the label; each two of them.
    assert found == [{"rows": 6}] * 3


def test_a_hospital_that_says_another_number_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = steps.varying._tell_how_many

    def lie(order: Any, compared: Any) -> None:
        tell(order, compared[1:] if order.me == 3 else compared)

    monkeypatch.setattr(steps.varying, "_tell_how_many", lie)
    frames = {user: patients(user, 20) for user in USERS}
    error = refused(tmp_path, frames)
    assert (error.code, error.detail["hospitals"]) == ("bad_message", [3])


@pytest.mark.parametrize(
    "derived",
    quick(
        [
            "old = 1 and age > 91",
            "age + case when stage = 3 and age > 91 then 9 else 0 end",
        ],
        1,
    ),
)
def test_a_derived_column_marks_one_patient_of_a_level_that_few_have(
    tmp_path: Path, derived: str
) -> None:
    """Two of hospital 4 are of stage 3, which others hide; a column that is another one
    but for them is refused all the same.
    """
    frames = {user: patients(user, 20) for user in USERS}
    for user, n_rows in ((2, 20), (3, 20), (4, 2)):
        frames[user].loc[: n_rows - 1, "stage"] = 3
    fields: dict[str, Any] = {
        "attributes": ["sex", "age", "stage"],
        "categorical": {"stage": {}},
    }
    frames[4].loc[0, "age"] = 92
    if derived.startswith("age"):
        assert outcome_of(tmp_path / "fine", frames, **fields).models[2]["report"]
    fields["attributes"] = [*fields["attributes"], "marked"]
    error = refused(tmp_path, frames, **fields, derive={"marked": derived})
    assert error.code in ("min_varying", "min_rows", "max_share")


@pytest.mark.thorough
def test_the_study_of_heart_disease_at_four_hospitals(tmp_path: Path) -> None:
    """Switzerland has 8 people without disease, and 4 with typical angina."""
    tables = heart_tables()
    fields: dict[str, Any] = {
        "attributes": ["age", "cp"],
        "categorical": {"cp": {"reference": 4}},
        "model_params": {**NEWTON, "family": "binomial"},
    }
    outcome = outcome_of(tmp_path, tables, pooling=tuple(tables), **fields)
    rows = pd.concat(tables.values())
    columns = {"(Intercept)": np.ones(len(rows)), "age": rows["age"]}
    for level in (1, 2, 3):
        columns[f"cp[{level}]"] = (rows["cp"] == level).astype(float)
    family = sm.families.Binomial()
    fit = sm.GLM(rows["y"], pd.DataFrame(columns), family=family).fit(tol=1e-14)
    terms = pd.DataFrame(outcome.models[2]["report"]["terms"]).set_index("term")
    assert list(terms.index) == list(fit.params.index)
    assert (np.abs(terms["estimate"] - fit.params) <= 1e-9 * fit.bse).all()
    assert terms["se"].to_numpy() == pytest.approx(fit.bse.to_numpy(), rel=1e-7)
    some = tuple(set(tables) - {4})
    assert refused(tmp_path / "each", tables, pooling=some, **fields).code in (
        "min_rows",
        "min_varying",
    )
