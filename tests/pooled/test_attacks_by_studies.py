"""Orders of studies that would tell single people, or one hospital's part: each is refused
before the sums that tell it leave.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deployments.local.one_process import run_evaluation, run_order
from protocol.errors import ConsiliumError
from tests.made_sites import make_sites, order_body
from tests.made_statistics import make_hospitals

N_ROWS = {2: 120, 3: 110, 4: 130}
NEWTON: dict[str, Any] = {"optimizer": "newton", "eps": None, "max_iter": None}
GAUSSIAN = {**NEWTON, "family": "gaussian"}
POISSON = {**NEWTON, "family": "poisson"}


def patients(user: int, n_rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(user)
    frame = pd.DataFrame({"id": np.arange(n_rows) + 1000 * user})
    frame["age"] = rng.normal(60, 9, n_rows).round(1)
    frame["bmi"] = rng.normal(25, 3, n_rows).round(2)
    frame["sex"] = np.arange(n_rows) % 2
    frame["y"] = rng.normal(5, 1, n_rows).round(3)
    frame["count"] = rng.poisson(40, n_rows)
    frame["days"] = rng.exponential(90, n_rows).round(2) + 0.01
    frame["died"] = (rng.random(n_rows) < 0.5).astype(int)
    return frame


def everybody() -> dict[int, pd.DataFrame]:
    return {user: patients(user, n_rows) for user, n_rows in N_ROWS.items()}


def code_of(
    folder: Path,
    frames: dict[int, pd.DataFrame],
    *,
    tests: dict[int, pd.DataFrame] | None = None,
    **order: Any,
) -> str:
    """Empty where the order ends well."""
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    for user, frame in (tests or {}).items():
        tables[user]["tests"] = frame
        order["test_data_info"] = {str(user): "SELECT * FROM data.tests"}
    sites = make_sites(folder, tables, regroup=False)
    try:
        run_order(sites, order_body(sorted(frames), **order))
    except ConsiliumError as error:
        return error.code
    return ""


# Weights


@pytest.mark.parametrize("other", [0, 1.000001])
def test_weights_in_which_one_patient_differs(tmp_path: Path, other: float) -> None:
    """Weighted sums less those without weights would be this patient's row."""
    frames = everybody()
    for frame in frames.values():
        frame["w"] = 1.0
    frames[4].loc[77, "w"] = other
    code = code_of(
        tmp_path,
        frames,
        model_type="glm",
        attributes=["age", "bmi"],
        label_name="y",
        model_params={**GAUSSIAN, "weights": "w"},
    )
    assert code == "min_varying"


@pytest.mark.parametrize(("n_of_one_sex", "code"), [(1, "min_varying"), (15, "")])
def test_weights_that_differ_in_one_patient_of_a_sex(
    tmp_path: Path, n_of_one_sex: int, code: str
) -> None:
    """Also where columns of 0 and 1 are compared for all hospitals together."""
    frames = everybody()
    for user, frame in frames.items():
        rng = np.random.default_rng(user)
        men = frame.index[frame["sex"] == 0][:30]
        women = frame.index[frame["sex"] == 1][: 30 if user != 4 else n_of_one_sex]
        chosen = [*men, *women]
        frame["w"] = 1.0
        frame.loc[chosen, "w"] = rng.uniform(0.5, 1.5, len(chosen))
    sites = make_sites(
        tmp_path,
        {user: {"rows": frame} for user, frame in frames.items()},
        regroup=False,
    )
    for site in sites.values():
        pooled = '\n[statistics]\nmethods = ["count"]\ncells = "pooled"\n'
        site.policy.write_text(site.policy.read_text() + pooled)
    order = order_body(
        sorted(frames),
        model_type="glm",
        attributes=["age", "sex"],
        label_name="y",
        model_params={**GAUSSIAN, "weights": "w"},
    )
    if not code:
        assert run_order(sites, order).models[2]["report"]["n"] == sum(N_ROWS.values())
        return
    with pytest.raises(ConsiliumError) as caught:
        run_order(sites, order)
    assert caught.value.code == code


def test_weights_that_all_differ_and_one_by_far(tmp_path: Path) -> None:
    """No two weights are equal, and all but one nearly are."""
    frames = everybody()
    for user, frame in frames.items():
        rng = np.random.default_rng(user)
        frame["w"] = 1 + 1e-9 * rng.random(len(frame))
    frames[4].loc[77, "w"] = 0.5
    code = code_of(
        tmp_path,
        frames,
        model_type="glm",
        attributes=["age", "bmi"],
        label_name="y",
        model_params={**GAUSSIAN, "weights": "w"},
    )
    assert code in ("min_varying", "max_share")


def test_a_category_as_weights_is_in_the_two_way_tables(tmp_path: Path) -> None:
    frames = everybody()
    for frame in frames.values():
        frame["hiv"] = (np.arange(len(frame)) < 60).astype(int)
    few = frames[4]
    few["hiv"] = 0
    men = few.index[few["sex"] == 0][:12]
    few.loc[[*men, few.index[few["sex"] == 1][0]], "hiv"] = 1
    code = code_of(
        tmp_path,
        frames,
        model_type="glm",
        attributes=["age", "sex"],
        label_name="y",
        model_params={**GAUSSIAN, "weights": "hiv"},
    )
    assert code == "min_rows"


def test_weights_of_another_size_at_one_hospital(tmp_path: Path) -> None:
    frames = everybody()
    for user, frame in frames.items():
        rng = np.random.default_rng(user)
        frame["w"] = rng.uniform(0.5, 1.5, len(frame)) * (1e6 if user == 4 else 1)
    order: dict[str, Any] = {
        "model_type": "glm",
        "attributes": ["age", "bmi"],
        "label_name": "y",
        "model_params": {**GAUSSIAN, "weights": "w"},
    }
    assert code_of(tmp_path / "far", frames, **order) == "dominance"
    frames[4]["w"] /= 1e6
    assert code_of(tmp_path / "near", frames, **order) == ""


# Offsets


@pytest.mark.parametrize(
    ("distance", "code"), [(60, "dominance"), (8, "dominance"), (0, "")]
)
def test_an_offset_that_tells_hospitals_apart(
    tmp_path: Path, distance: float, code: str
) -> None:
    """All but one hospital's rows would weigh nothing."""
    frames = everybody()
    for user, frame in frames.items():
        rng = np.random.default_rng(user)
        own = 0 if user == 4 else -distance
        frame["years"] = own + np.log(rng.uniform(0.5, 3, len(frame)))
    found = code_of(
        tmp_path,
        frames,
        model_type="glm",
        attributes=["age", "bmi", "years"],
        label_name="count",
        model_params={**POISSON, "offset": "years"},
    )
    assert found == code


# Times


@pytest.mark.parametrize("n_times", [1, 2, 9])
def test_a_cox_order_over_few_times(tmp_path: Path, n_times: int) -> None:
    """Sums over few times are fractions that can be taken apart by hospital."""
    frames = everybody()
    for frame in frames.values():
        frame["days"] = np.arange(len(frame)) % n_times + 1.0
    code = code_of(
        tmp_path,
        frames,
        model_type="cox",
        attributes=["age", "bmi"],
        label_name="days",
        event_name="died",
        model_params={**NEWTON, "ties": "breslow"},
    )
    assert code in ("few_event_times", "min_rows")


def test_one_event_among_the_rows_of_the_test_sql(tmp_path: Path) -> None:
    tests = patients(14, 60)
    tests["died"] = 0
    tests.loc[17, "died"] = 1
    code = code_of(
        tmp_path,
        everybody(),
        tests={4: tests},
        model_type="cox",
        attributes=["age", "bmi"],
        label_name="days",
        event_name="died",
        model_params=NEWTON,
    )
    assert code == "min_rows"


@pytest.mark.parametrize(("n_times", "code"), [(1, "few_event_times"), (200, "")])
def test_a_log_rank_test_over_few_times(
    tmp_path: Path, n_times: int, code: str
) -> None:
    hospitals = make_hospitals(tmp_path, N_ROWS, regroup=False)
    hospitals.allow(min_rows=10, min_providers=3, own_totals=False, regroup=False)
    for user, frame in everybody().items():
        frame["days"] = np.ceil(frame["days"]) % n_times + 1
        hospitals.write(user, "v.csv", frame)
    fields: dict[str, Any] = {
        "key": "days",
        "event_name": "died",
        "group_by": ["sex"],
    }
    data = dict.fromkeys(N_ROWS, "v.csv")
    if code:
        assert hospitals.refused("logrank", data, **fields).code == code
    else:
        assert hospitals.ask("logrank", data, **fields).rows


# Evaluations


def with_regions(frame: pd.DataFrame, regions: str) -> pd.DataFrame:
    rng = np.random.default_rng(len(frame))
    return frame.assign(region=rng.choice(list(regions), len(frame)))


@pytest.mark.parametrize("as_test_rows", [False, True])
def test_a_level_of_one_patient_among_rows_that_are_judged(
    tmp_path: Path, as_test_rows: bool
) -> None:
    """Its score would stand alone in the histogram, beside its class."""
    tables = {}
    for user, frame in everybody().items():
        later = with_regions(patients(50 + user, 110), "ab")
        tables[user] = {"rows": with_regions(frame, "abc"), "later": later}
    tables[4]["later"].loc[77, "region"] = "c"
    sites = make_sites(tmp_path, tables, regroup=False)
    trained = order_body(
        sorted(tables),
        attributes=["age", "region"],
        categorical={"region": {}},
        label_name="died",
        model_params={"max_iter": 3, "learning_rate": 0.1, "standardize": True},
    )
    sql = "SELECT * FROM data.later"
    if as_test_rows:
        trained["test_data_info"] = {"4": sql}
        with pytest.raises(ConsiliumError) as caught:
            run_order(sites, trained)
        assert caught.value.code == "min_varying"
        return
    run_order(sites, trained)
    asked = {
        "user_id": 2,
        "party_id": [3, 4],
        "model_id": 1,
        "data_info": {str(user): sql for user in tables},
    }
    with pytest.raises(ConsiliumError) as caught:
        run_evaluation(sites, asked, trained=trained, order_id=2)
    assert caught.value.code == "min_varying"
