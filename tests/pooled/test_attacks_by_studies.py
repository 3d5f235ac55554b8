"""Orders of studies that would tell single people, or one hospital's part: each is refused
before the sums that tell it leave.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from analytics.training import cox, cox_labels, proportional_hazards
from deployments.local.one_process import run_evaluation, run_order
from protocol.errors import ConsiliumError
from tests.made_sites import make_sites, order_body
from tests.made_statistics import make_hospitals
from tests.pairwise import quick

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


@pytest.mark.parametrize(
    ("n_of_one_sex", "code"), quick([(1, "min_varying"), (15, "")], 1)
)
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
    ("distance", "code"), quick([(60, "dominance"), (8, "dominance"), (0, "")], 1)
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


@pytest.mark.parametrize("n_times", quick([1, 2, 9], 1))
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


@pytest.mark.parametrize(
    ("n_times", "code"), quick([(1, "few_event_times"), (200, "")], 1)
)
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


@pytest.mark.parametrize(
    ("weights", "code"),
    [("logrank", ""), ("wilcoxon", ""), ("fleming_harrington", "few_event_times")],
)
def test_a_log_rank_test_whose_weights_are_of_few_times(
    tmp_path: Path, weights: str, code: str
) -> None:
    """Single deaths come first, and then half of the hospital at one time: late weights
    are of the events after it, when few are left.
    """
    hospitals = make_hospitals(tmp_path, N_ROWS, regroup=False)
    hospitals.allow(min_rows=10, min_providers=3, own_totals=False, regroup=False)
    for user, frame in everybody().items():
        places = np.arange(len(frame))
        frame["died"] = (places < 70).astype(int)
        frame["days"] = np.where(places < 30, places + 1.0, 500.0)
        frame.loc[places < 18, "days"] = 1.0 + places[:18]
        frame.loc[(places >= 18) & (places < 70), "days"] = 100.0
        frame.loc[(places >= 60) & (places < 70), "days"] = 200.0 + places[60:70] // 5
        frame.loc[places >= 70, "days"] = 150.0 + places[places >= 70] / 1000
        frame.loc[places >= len(frame) - 12, "days"] = 500.0
        hospitals.write(user, "v.csv", frame)
    fields: dict[str, Any] = {"key": "days", "event_name": "died", "group_by": ["sex"]}
    if weights == "fleming_harrington":
        fields |= {"p": 0, "q": 1}
    data = dict.fromkeys(N_ROWS, "v.csv")
    if code:
        refused = hospitals.refused("logrank", data, weights=weights, **fields)
        assert refused.code == code
        assert "By their weights" in refused.sentence
    else:
        assert hospitals.ask("logrank", data, weights=weights, **fields).rows


def one_late_death() -> dict[int, pd.DataFrame]:
    """One patient dies long after all others, with a dozen still there."""
    frames = everybody()
    frames[4].loc[:11, "days"] = 2e6
    frames[4].loc[:11, "died"] = 0
    frames[4].loc[12, ["days", "died"]] = 1e6, 1
    return frames


def test_times_as_weights_are_of_the_last_event() -> None:
    """What the test against the time itself would open: this patient's age, less the mean
    of those still there, to a tenth of a year.
    """
    frames = one_late_death()
    total = 0.0
    for frame in frames.values():
        X = frame[["age"]].to_numpy() - 60
        y = cox_labels.label(frame["days"].to_numpy(), frame["died"].to_numpy())
        strata = cox.labelled_strata(X, y)
        sums = proportional_hazards.local_sums(
            strata, np.zeros(1), ties="efron", scale="identity"
        )
        total += sums[0]
    ages = frames[4].loc[:12, "age"]
    assert total / 1e6 == pytest.approx(ages[12] - ages.mean(), abs=0.1)


@pytest.mark.parametrize(
    ("scale", "code"), [("identity", "few_event_times"), ("log", "")]
)
def test_proportional_hazards_against_times_of_which_one_is_far_out(
    tmp_path: Path, scale: str, code: str
) -> None:
    order: dict[str, Any] = {
        "model_type": "cox",
        "attributes": ["age", "bmi"],
        "label_name": "days",
        "event_name": "died",
    }
    params = {**NEWTON, "hazards_time": scale}
    frames = one_late_death()
    assert code_of(tmp_path / "far", frames, model_params=params, **order) == code
    if code:
        frames[4].loc[12, "days"] = 300.0
        frames[4].loc[:11, "days"] = 400.0
        assert code_of(tmp_path / "near", frames, model_params=params, **order) == ""


# Extreme values


@pytest.mark.parametrize(("age", "code"), [(1e8, "max_share"), (130, "")])
def test_a_value_far_out_stands_times_that_patient_s_other_columns(
    tmp_path: Path, age: float, code: str
) -> None:
    """The opened sum of age times bmi, over the age, is this patient's bmi."""
    frames = everybody()
    frames[4].loc[77, "age"] = age
    told = sum(float(frame["age"] @ frame["bmi"]) for frame in frames.values()) / age
    is_told = told == pytest.approx(frames[4].loc[77, "bmi"], abs=0.01)
    assert is_told == bool(code)
    found = code_of(
        tmp_path,
        frames,
        model_type="glm",
        attributes=["age", "bmi"],
        label_name="y",
        model_params=GAUSSIAN,
    )
    assert found == code


def others_rows(frames: dict[int, pd.DataFrame]) -> pd.DataFrame:
    """Whose sums hospital 2 has, once it has taken off its own."""
    return pd.concat([frames[3], frames[4]])


@pytest.mark.parametrize(("age", "code"), [(3000, "max_share"), (130, "")])
def test_the_squares_of_a_value_far_out_are_that_patient_s(
    tmp_path: Path, age: float, code: str
) -> None:
    """Of three quarters of the distance in one row the sum of squares tells its age, and
    divided by it the sum of products its bmi and its outcome.
    """
    frames = everybody()
    frames[4].loc[77, "age"] = age
    patient = frames[4].loc[77]
    rows = others_rows(frames)
    distances = rows["age"] - 60
    far = np.sqrt(distances @ distances)
    told = {
        name: float(distances @ (rows[name] - frames[2][name].mean())) / far
        + frames[2][name].mean()
        for name in ("bmi", "y")
    }
    assert (60 + far == pytest.approx(age, rel=0.002)) == bool(code)
    is_told = told["bmi"] == pytest.approx(patient["bmi"], abs=0.3)
    assert (is_told and told["y"] == pytest.approx(patient["y"], abs=0.1)) == bool(code)
    found = code_of(
        tmp_path,
        frames,
        model_type="glm",
        attributes=["age", "bmi"],
        label_name="y",
        model_params=GAUSSIAN,
    )
    assert found == code


STANDARDIZED = {"max_iter": 1, "learning_rate": 0.1, "standardize": True}


@pytest.mark.parametrize("params", quick([NEWTON, STANDARDIZED], 1))
@pytest.mark.parametrize(("y", "code"), [(1e8, "max_share"), (1000, "max_share")])
def test_a_label_far_out_tells_that_patient_s_whole_row(
    tmp_path: Path, y: float, code: str, params: dict[str, Any]
) -> None:
    """The label's distance from its mean is spread over all residuals, of which the
    patient's are a half; times a column, less its mean, they are that patient's alone.
    """
    frames = everybody()
    frames[4].loc[77, "y"] = y
    patient = frames[4].loc[77]
    rows = pd.concat(frames.values())
    residuals = rows["y"] - rows["y"].mean()
    largest = np.sort(np.abs(frames[4]["y"] - rows["y"].mean()))
    assert largest[-2:].sum() < 0.9 * largest.sum()
    for name, within in {"age": 0.5, "bmi": 0.1, "sex": 0.03}.items():
        centred = rows[name] - rows[name].mean()
        told = residuals @ centred / residuals.max() + rows[name].mean()
        assert told == pytest.approx(patient[name], abs=within)
    found = code_of(
        tmp_path,
        frames,
        model_type="linear",
        attributes=["age", "bmi", "sex"],
        label_name="y",
        model_params=params,
    )
    assert found == code


def test_a_gradient_tells_the_class_of_a_patient_far_out(tmp_path: Path) -> None:
    """Of lr: at the start every p is 1/2, and the gradient's coordinate of a column less
    its mean times the intercept's is nearly one row's.
    """
    for died in (0, 1):
        frames = everybody()
        frames[4].loc[77, ["age", "died"]] = 3000, died
        rows = pd.concat(frames.values())
        gradient = (0.5 - rows["died"]) @ (rows["age"] - rows["age"].median())
        told = 0.5 - gradient / (3000 - rows["age"].median())
        assert told == pytest.approx(died, abs=0.1)
        found = code_of(
            tmp_path / str(died),
            frames,
            attributes=["age", "bmi"],
            label_name="died",
            model_params=STANDARDIZED,
        )
        assert found == "max_share"


def one_far_out(*, y: float = 5.0, count: int = 40) -> dict[int, pd.DataFrame]:
    """A patient as far out in age as the gate lets pass."""
    frames = everybody()
    frames[4].loc[77, ["age", "y", "count"]] = 290, y, count
    for frame in frames.values():
        frame["ward"] = [f"ward {place % 40}" for place in range(len(frame))]
    return frames


def fitted(frames: dict[int, pd.DataFrame], family: Any, label: str) -> Any:
    rows = pd.concat(frames.values())
    columns = sm.add_constant(rows[["age", "bmi", "sex"]])
    return sm.GLM(rows[label], columns, family=family).fit()


@pytest.mark.parametrize(("count", "code"), [(240, "max_share"), (40, "")])
def test_weights_of_a_round_times_distances_are_one_patient_s(
    tmp_path: Path, count: int, code: str
) -> None:
    """Of poisson a row weighs as much as its mean, which follows a count far out: neither
    the weights nor the squares are that patient's, and their products are.
    """
    frames = one_far_out(count=count)
    frames[4].loc[77, "age"] = 330
    rows = pd.concat(frames.values())
    weights = np.asarray(fitted(frames, sm.families.Poisson(), "count").mu)
    distances = (rows["age"] - 60).to_numpy()
    far = weights @ distances**2 / (weights @ distances)
    told = {}
    for name in ("bmi", "sex"):
        mean = np.average(rows[name], weights=weights)
        told[name] = mean + weights * distances @ (rows[name] - mean) / (
            weights @ distances
        )
    is_told = abs(told["bmi"] - frames[4].loc[77, "bmi"]) < 1 and told["sex"] > 0.9
    assert (is_told and 60 + far == pytest.approx(330, rel=0.1)) == bool(code)
    found = code_of(
        tmp_path,
        frames,
        model_type="glm",
        attributes=["age", "bmi", "sex"],
        label_name="count",
        model_params=POISSON,
    )
    assert found == code


@pytest.mark.parametrize(
    "errors", quick([{"standard_errors": "HC0"}, {"cluster": "ward"}], 1)
)
@pytest.mark.parametrize(("y", "code"), [(19, "max_share"), (5.5, "")])
def test_squared_residuals_times_distances_are_one_patient_s(
    tmp_path: Path, y: float, code: str, errors: dict[str, str]
) -> None:
    """Of M's diagonal the residual of who is far out follows to a tenth of a deviation."""
    frames = one_far_out(y=y)
    rows = pd.concat(frames.values())
    residuals = fitted(frames, sm.families.Gaussian(), "y").resid_response
    is_patient = (rows["id"] == 4077).to_numpy()
    products = residuals * (rows["age"] - 60)
    told = float(np.sqrt(products @ products)) / (290 - 60)
    true = abs(float(residuals[is_patient].iloc[0]))
    assert (told == pytest.approx(true, abs=0.1)) == bool(code)
    found = code_of(
        tmp_path,
        frames,
        model_type="glm",
        attributes=["age", "bmi", "sex"],
        label_name="y",
        model_params={**GAUSSIAN, **errors},
    )
    assert found == code


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
