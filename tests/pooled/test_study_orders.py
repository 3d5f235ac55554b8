"""Whole orders with categories, derived columns and missing values: what hospitals agree
on, what they refuse, and what is kept of a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import linear_model
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from agents.gate.memory import Memory
from agents.order.party import open_party
from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from agents.training import fold_end
from agents.training.export import export_model
from agents.training.inference import predict
from analytics.training.descent import train
from analytics.training.design import natural_spline
from analytics.training.models import Model
from deployments.local.one_process import OrderOutcome, run_order
from protocol.errors import BadRequest, ConsiliumError, Refused
from protocol.memory_transport import MemoryTransport
from tests.made_sites import make_sites, order_body
from tests.pairwise import pairwise, quick

GATE = "min_rows = 5\nmin_varying = 1\nmax_parameter_share = 1"
Frames = dict[int, pd.DataFrame]
LEVELS = ("a", "b", "c")


def patients(user: int, n: int = 60, levels: tuple[str, ...] = LEVELS) -> pd.DataFrame:
    rng = np.random.default_rng(user)
    frame = pd.DataFrame({"id": np.arange(n) + 1000 * user})
    frame["age"] = rng.integers(20, 90, n)
    frame["kind"] = rng.choice(list(levels), n)
    frame["x"] = np.round(rng.normal(10, 3, n), 2)
    frame["y"] = rng.integers(0, 2, n)
    frame["cost"] = np.round(rng.normal(100, 20, n), 2)
    frame["group"] = rng.choice(["p", "q", "r"], n)
    return frame


def three(**levels: tuple[str, ...]) -> Frames:
    return {
        user: patients(user, levels=levels.get(f"of_{user}", LEVELS))
        for user in (2, 3, 4)
    }


class Study:
    """Hospitals of their own, and orders over them one after another."""

    def __init__(
        self, folder: Path, frames: Frames, *, cohort: str = GATE, **policy: Any
    ) -> None:
        policy.setdefault("min_hospitals", 1)
        self.frames = frames
        tables = {user: {"rows": frame} for user, frame in frames.items()}
        self.sites = make_sites(folder, tables, cohort=cohort, **policy)
        self.last = 0
        self.transport = MemoryTransport()

    def body(self, **changes: Any) -> dict[str, Any]:
        fields = {"attributes": ["age", "kind"], "categorical": {"kind": {}}, **changes}
        params = {"standardize": True, **fields.pop("model_params", {})}
        return order_body(sorted(self.frames), model_params=params, **fields)

    def run(self, **changes: Any) -> OrderOutcome:
        self.last += 1
        self.transport = MemoryTransport()
        return run_order(
            self.sites,
            self.body(**changes),
            order_id=self.last,
            transport=self.transport,
        )

    def refused(self, **changes: Any) -> ConsiliumError:
        with pytest.raises(ConsiliumError) as caught:
            self.run(**changes)
        assert isinstance(caught.value, (BadRequest, Refused))
        assert caught.value.remedy
        return caught.value

    def predict(self, sql: str, *, user: int = 2) -> list[dict[str, Any]]:
        party = open_party(self.sites[user], 900 + self.last, MemoryTransport())
        return predict(party, self.last, sql)


def weights_of(outcome: OrderOutcome) -> Any:
    vectors = [np.ravel(model["layers"]["dense"]) for model in outcome.models.values()]
    assert all(np.array_equal(vectors[0], own) for own in vectors)
    return vectors[0]


def by_pandas(frames: Frames, reference: str) -> Any:
    """age and the dummies of kind, pooled."""
    pooled = pd.concat(frames.values(), ignore_index=True)
    dummies = pd.get_dummies(pooled["kind"], dtype=float).drop(columns=reference)
    return np.column_stack([pooled["age"], dummies]), pooled


# Joint equals pooled


@pairwise(
    n_quick=2,
    method=["Mask", "Paillier", "None"],
    model_type=["lr", "linear", "softmax"],
    n_hospitals=[1, 2, 3, 5],
)
def test_every_split_of_the_rows_gives_the_weights_of_one_table(
    tmp_path: Path, method: str, model_type: str, n_hospitals: int
) -> None:
    """One hospital is tiny, one lacks a level."""
    sizes = {2: 60, 3: 50, 4: 8, 5: 40, 6: 45}
    frames: Frames = {}
    for user in sorted(sizes)[:n_hospitals]:
        levels = ("a", "b") if user == 3 else LEVELS
        frames[user] = patients(user, sizes[user], levels)
    cohort = GATE.replace("share = 1", "share = 2")
    study = Study(tmp_path, frames, cohort=cohort)
    label = {"lr": "y", "linear": "cost", "softmax": "group"}[model_type]
    outcome = study.run(
        model_type=model_type,
        label_name=label,
        categorical={"kind": {"reference": "b"}},
        model_params={
            "encrypt_param": {"method": method},
            "standardize": True,
            "learning_rate": 0.1,
        },
    )
    X, pooled = by_pandas(frames, "b")
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    classes = tuple(sorted(set(pooled["group"]))) if model_type == "softmax" else ()
    y = pooled[label].to_numpy()
    if classes:
        y = np.array([classes.index(name) for name in y])
    mean, deviation = 0.0, 1.0
    if model_type == "linear":
        # The label is trained in its own standard unit.
        mean, deviation = y.mean(), y.std()
        y = (y - mean) / deviation
    expected = train(
        Model(model_type, X.shape[1], classes=classes),
        [(scaled, y if classes else y.astype(float))],
        learning_rate=0.1,
        max_iter=5,
        eps=0,
    )
    weights = deviation * expected.weights.ravel()
    weights[-1] += mean
    np.testing.assert_allclose(weights_of(outcome), weights, rtol=1e-9, atol=1e-9)
    assert outcome.models[2]["features"] == ["age", "kind[a]", "kind[c]"]


@pytest.mark.parametrize("model_type", ["mlp"])
def test_a_network_has_as_many_inputs_as_the_model_has_columns(
    tmp_path: Path, model_type: str
) -> None:
    cohort = GATE.replace("share = 1", "share = 100")
    outcome = Study(tmp_path, three(), cohort=cohort).run(
        model_type=model_type,
        label_name="group",
        model_params={"standardize": True, "max_iter": 2, "hidden": [4, 3]},
    )
    first = np.array(outcome.models[2]["layers"]["dense1"])
    assert first.size == 4 * (3 + 1)


def test_the_most_frequent_joint_level_is_the_reference(tmp_path: Path) -> None:
    frames = three()
    for user, kind in ((2, "c"), (3, "c"), (4, "a")):
        frames[user].loc[:40, "kind"] = kind
    kept = Study(tmp_path, frames).run().models[3]["categorical"]["kind"]
    counts = pd.concat(frames.values())["kind"].value_counts()
    assert kept["reference"] == counts.idxmax() == "c"
    assert kept["counts"] == counts.to_dict()


def test_scored_orders_have_their_layers(tmp_path: Path) -> None:
    outcome = Study(tmp_path, three()).run(
        scoring="full", model_params={"standardize": True, "max_iter": 2}
    )
    assert outcome.models[2]["n_rounds"] == 2


# Levels


def test_rare_levels_are_one_where_they_are_enough(tmp_path: Path) -> None:
    frames = three()
    frames[2].loc[:5, "kind"] = [f"rare level {row}" for row in range(6)]
    study = Study(tmp_path, frames)
    kept = study.run().models[4]["categorical"]["kind"]
    assert kept["levels"] == ["a", "b", "c", "other"]
    assert kept["has_other"]
    assert kept["counts"]["other"] == 6
    seen = b"".join(study.transport.traffic)
    assert b"rare level" not in seen


@pytest.mark.parametrize(
    ("n_rare", "rule", "passes"),
    quick(
        [
            (4, "other", False),
            (5, "other", True),
            (1, "other", False),
            (5, "refuse", False),
            (0, "refuse", True),
        ],
        2,
    ),
)
def test_a_few_rows_of_rare_levels_end_the_order(
    tmp_path: Path, n_rare: int, rule: str, passes: bool
) -> None:
    frames = three()
    for row in range(n_rare):
        frames[2].loc[row, "kind"] = f"rare {row}"
    study = Study(tmp_path, frames, cohort=f'{GATE}\nrare_levels = "{rule}"')
    if passes:
        study.run()
        return
    error = study.refused()
    assert (error.code, error.detail["feature"]) == ("rare_levels", "kind")
    assert "rare 0" not in str(error)


def test_a_level_that_others_name_is_a_column_of_zeros_where_there_is_none(
    tmp_path: Path,
) -> None:
    study = Study(tmp_path, three(of_3=("a", "b")))
    assert study.run().models[3]["categorical"]["kind"]["levels"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("n_rows", "passes"), quick([(0, True), (4, False), (5, True)], 2)
)
def test_a_level_of_a_few_own_rows_is_refused_by_its_name(
    tmp_path: Path, n_rows: int, passes: bool
) -> None:
    frames = three(of_2=("a", "b"))
    frames[2].loc[: n_rows - 1, "kind"] = "c"
    cohort = "min_rows = 2\nmin_varying = 5\nmax_parameter_share = 1"
    study = Study(tmp_path, frames, cohort=cohort)
    for reference in ("a", "c"):  # the reference's rows are told too
        categorical = {"kind": {"reference": reference}}
        if passes:
            study.run(categorical=categorical)
            continue
        error = study.refused(categorical=categorical)
        assert (error.code, error.detail["feature"]) == ("min_varying", "kind[c]")


def test_a_reference_that_is_no_level_names_those_that_are(tmp_path: Path) -> None:
    error = Study(tmp_path, three()).refused(categorical={"kind": {"reference": "z"}})
    assert error.code == "categorical"
    assert "a, b, c" in error.sentence


def test_a_reference_of_few_rows_at_every_hospital_is_none(tmp_path: Path) -> None:
    frames = three()
    for frame in frames.values():
        frame.loc[:3, "kind"] = "few"
    cohort = GATE.replace("min_rows = 5", "min_rows = 4")
    study = Study(tmp_path / "named", frames, cohort=cohort)
    study.run(categorical={"kind": {"reference": "few"}})
    for frame in frames.values():
        frame.loc[4:8, "kind"] = "rest"
    study = Study(tmp_path / "rare", frames, cohort=GATE)
    error = study.refused(categorical={"kind": {"reference": "few"}})
    assert error.code == "rare_levels"


@pytest.mark.parametrize(
    ("levels", "says"),
    quick([(("a",), "one level"), (tuple(map(str, range(60))), "no level")], 1),
)
def test_a_column_of_one_level_or_none_is_refused(
    tmp_path: Path, levels: tuple[str, ...], says: str
) -> None:
    frames = three(of_2=levels, of_3=levels, of_4=levels)
    if says == "no level":
        for frame in frames.values():
            frame["kind"] = [f"n{row}" for row in range(len(frame))]
    error = Study(tmp_path, frames).refused()
    assert error.code == "levels"
    assert "kind" in error.sentence


def test_two_codings_of_one_column_are_refused(tmp_path: Path) -> None:
    frames = three()
    for user in (2, 3):
        frames[user]["kind"] = [1, 2] * 30
    frames[4]["kind"] = ["typical", "atypical"] * 30
    error = Study(tmp_path, frames).refused()
    assert error.code == "levels"
    assert "numbers at some hospitals and texts at others" in error.sentence


def test_a_number_and_its_text_are_one_level(tmp_path: Path) -> None:
    frames = three()
    frames[2]["kind"] = [1, 2] * 30
    frames[3]["kind"] = [1.0, 2.0] * 30
    frames[4]["kind"] = ["1 ", "2.0"] * 30
    kept = Study(tmp_path, frames).run(categorical={"kind": {"reference": 2}}).models[2]
    assert kept["categorical"]["kind"]["levels"] == ["1", "2"]
    assert kept["features"] == ["age", "kind[1]"]


def test_a_text_where_others_have_numbers_is_refused_by_its_column(
    tmp_path: Path,
) -> None:
    frames = three()
    frames[4]["x"] = "high"
    error = Study(tmp_path, frames).refused(attributes=["x", "kind"])
    assert error.code == "not_numeric"
    assert "in x" in error.sentence


def test_too_many_levels_for_the_rows_are_named(tmp_path: Path) -> None:
    many = tuple(f"k{number}" for number in range(8))
    frames = {user: patients(user, 300, many) for user in (2, 3, 4)}
    cohort = 'min_rows = 5\nmin_varying = 1\nmax_parameter_share = "1/40"'
    error = Study(tmp_path, frames, cohort=cohort).refused()
    assert error.code == "max_parameter_share"
    assert "kind has 8 levels" in error.sentence
    assert "9 parameters" in error.sentence


def test_the_coordinator_sees_no_level(tmp_path: Path) -> None:
    names = ("canary-one", "canary-two")
    frames = three(of_2=names, of_3=names, of_4=names)
    for method in ("Mask", "None"):
        study = Study(tmp_path / method, frames)
        study.run(model_params={"encrypt_param": {"method": method}})
        seen = b"".join(study.transport.traffic)
        seen += json.dumps(study.transport.facts[1]).encode()
        assert b"canary" not in seen


def test_levels_are_judged_by_each_hospital_where_thresholds_are_on_the_sum(
    tmp_path: Path,
) -> None:
    """Other columns of 0 and 1 by all together."""
    frames = three()
    for frame in frames.values():
        frame["rare"] = 0
        frame.loc[:2, "rare"] = 1
    cohort = "min_rows = 5\nmin_varying = 5\nmax_parameter_share = 1"
    study = Study(tmp_path, frames, cohort=cohort, min_hospitals=3)
    pooled = '\n[statistics]\nmethods = ["count"]\ncells = "pooled"\n'
    for site in study.sites.values():
        site.policy.write_text(site.policy.read_text() + pooled)
    study.run(attributes=["age", "kind", "rare"])
    frames[2].loc[:2, "kind"] = "few"
    frames[3].loc[:9, "kind"] = "few"
    study = Study(tmp_path / "few", frames, cohort=cohort, min_hospitals=3)
    for site in study.sites.values():
        site.policy.write_text(site.policy.read_text() + pooled)
    error = study.refused(attributes=["age", "kind", "rare"])
    assert (error.code, error.detail["feature"]) == ("min_varying", "kind[few]")


# Missing values


def with_gaps(frames: Frames, column: str, n_gaps: Mapping[int, int]) -> Frames:
    for user, n in n_gaps.items():
        frames[user].loc[: n - 1, column] = np.nan
    return frames


MEAN = {"attributes": ["x", "kind"], "missing": "mean"}
DROP = {"attributes": ["x", "kind"], "missing": "drop"}


def test_the_mean_is_that_of_all_rows_with_a_value(tmp_path: Path) -> None:
    """Hospital 3 has no value at all."""
    frames = with_gaps(three(), "x", {2: 10, 3: 60})
    model = Study(tmp_path, frames).run(**MEAN).models[3]
    expected = pd.concat(frames.values())["x"].mean()
    assert model["means"] == {"x": pytest.approx(expected, rel=1e-13)}


def test_a_column_without_a_value_anywhere_is_refused(tmp_path: Path) -> None:
    frames = with_gaps(three(), "x", {2: 60, 3: 60, 4: 60})
    error = Study(tmp_path, frames).refused(**MEAN)
    assert error.code == "null"
    assert "value in x" in error.sentence


@pytest.mark.parametrize(
    ("n_values", "passes"), quick([(0, True), (4, False), (5, True)], 2)
)
def test_a_mean_of_a_few_own_rows_is_refused(
    tmp_path: Path, n_values: int, passes: bool
) -> None:
    frames = with_gaps(three(), "x", {2: 60 - n_values})
    study = Study(tmp_path, frames)
    if passes:
        study.run(**MEAN)
        return
    error = study.refused(**MEAN)
    assert (error.code, error.detail["feature"]) == ("min_rows", "x")


@pytest.mark.parametrize("n_left_out", quick([0, 4, 5], 2))
def test_flow_numbers_are_told_where_none_or_enough_were_left_out(
    tmp_path: Path, n_left_out: int
) -> None:
    frames = with_gaps(three(), "x", {2: n_left_out, 3: 7})
    study = Study(tmp_path, frames)
    told = study.run(**DROP).facts[-1]["summary"]["rows"]
    hides = 0 < n_left_out < 5
    assert told["used"] == 180 - 7 - n_left_out
    assert (told["selected"], told["left_out"]) == (180, 7 + n_left_out)
    of_2, of_3 = told["hospitals"]["2"], told["hospitals"]["3"]
    assert of_2["left_out"] == (None if hides else n_left_out)
    # What the others show would tell that one's.
    assert of_3["left_out"] == (None if hides else 7)
    assert of_3["used"] == 53
    lines = [
        line
        for line in Ledger(study.sites[2].ledger).entries()
        if line["event"] == "rows"
    ]
    assert (lines[0]["selected"], lines[0]["left_out"]) == (60, n_left_out)


def test_a_few_rows_left_out_of_all_are_not_told(tmp_path: Path) -> None:
    frames = with_gaps(three(), "x", {2: 3})
    told = Study(tmp_path, frames).run(**DROP).facts[-1]["summary"]["rows"]
    assert (told["selected"], told["left_out"], told["used"]) == (None, None, 177)


def test_an_order_that_leaves_no_row_out_says_so(tmp_path: Path) -> None:
    outcome = Study(tmp_path, three()).run(attributes=["age", "x"], categorical={})
    told = outcome.facts[-1]["summary"]["rows"]
    assert (told["selected"], told["left_out"], told["used"]) == (180, 0, 180)


def test_all_rows_left_out_at_one_hospital_end_the_order(tmp_path: Path) -> None:
    frames = with_gaps(three(), "x", {3: 60})
    error = Study(tmp_path, frames).refused(**DROP)
    assert error.code == "min_rows"


def test_complete_on_of_an_unknown_column_is_named(tmp_path: Path) -> None:
    error = Study(tmp_path, three()).refused(complete_on=["nope"])
    assert error.code == "missing_column"


# The gate


@pytest.mark.parametrize("silent", quick([3, 2], 1))
def test_derived_columns_need_every_other_hospital_s_word(
    tmp_path: Path, silent: int
) -> None:
    """By two orders, of x and of x + 100 * (age = 93), their sender has one person's
    label. The hospital that orders needs none of its own.
    """
    study = Study(tmp_path, three())
    policy = study.sites[silent].policy
    policy.write_text(policy.read_text().replace("derive = true\n", ""))
    order = {"attributes": ["trick"], "categorical": {}, "derive": {"trick": "x * x"}}
    if silent == 2:
        study.run(**order)
        return
    assert study.refused(**order).code == "derive"
    study.run(attributes=["x"], categorical={})


def test_a_derived_column_counts_as_those_that_it_is_made_of(tmp_path: Path) -> None:
    study = Study(tmp_path, three(), filter_columns=["age"])
    derive = {"log_x": "ln(x)"}
    study.run(attributes=["log_x", "kind"], derive=derive)
    one_less = {
        str(user): f"SELECT * FROM data.rows WHERE age <> {age}"
        for user, age in ((2, _rare_age(study.frames[2])), (3, -1), (4, -1))
    }
    # The model of x of all but a few rows, after that of ln(x) of all.
    error = study.refused(attributes=["x", "age"], categorical={}, data_info=one_less)
    assert error.code == "earlier_cohort"


def _rare_age(frame: pd.DataFrame) -> int:
    counts = frame["age"].value_counts()
    return int(counts[counts < 5].index[0])


def test_a_mean_is_of_the_rows_with_a_value(tmp_path: Path) -> None:
    """What is remembered of a column whose gaps a mean fills is who has a value."""
    frames = with_gaps(three(), "x", {2: 6})
    study = Study(tmp_path, frames)
    derive = {"log_x": "ln(x)"}
    study.run(
        attributes=["log_x", "kind"], derive=derive, missing="mean", label_name="y"
    )
    n_of: dict[str, int] = {}
    for line in Memory(Vault(study.sites[2].vault).cohorts).list_opened():
        assert (line.receiver in ("3", "4"), line.has_left) == (True, True)
        if line.name == "train":
            n_of[line.column] = line.n_members
        else:
            assert (line.name, line.n_members) == ("train without log_x", 6)
            assert line.column in ("kind", "y")
    assert n_of == {"x": 54, "kind": 60, "y": 60}


# Rows of a test SQL


def split_rows(frames: Frames, n_test: int = 20) -> dict[int, dict[str, pd.DataFrame]]:
    tables: dict[int, dict[str, pd.DataFrame]] = {}
    for user, frame in frames.items():
        tables[user] = {"rows": frame[n_test:], "late": frame[:n_test]}
    return tables


def sites_with_tests(
    folder: Path, tables: dict[int, dict[str, pd.DataFrame]]
) -> tuple[dict[int, SiteSettings], dict[str, Any]]:
    sites = make_sites(folder, tables, cohort=GATE, min_hospitals=1)
    body = order_body(
        sorted(tables),
        attributes=["age", "kind"],
        categorical={"kind": {}},
        model_params={"standardize": True},
        test_data_info={"2": "SELECT * FROM data.late"},
    )
    return sites, body


@pytest.mark.parametrize(
    ("n_unknown", "passes"), quick([(4, False), (0, True), (6, True)], 1)
)
def test_test_rows_of_an_unknown_level_are_left_out(
    tmp_path: Path, n_unknown: int, passes: bool
) -> None:
    frames = three()
    frames[2].loc[: n_unknown - 1, "kind"] = "only here"
    sites, body = sites_with_tests(tmp_path, split_rows(frames))
    if not passes:
        with pytest.raises(Refused) as caught:
            run_order(sites, body)
        assert caught.value.code == "rare_levels"
        return
    outcome = run_order(sites, body)
    held_out = outcome.facts[-1]["summary"]["0"]["held_out"]
    assert held_out["n_rows"] == 20 - n_unknown
    last = [facts["round"] for facts in outcome.facts if "round" in facts][-1]
    assert last["hospitals"]["2"]["n_test_rows"] == 20 - n_unknown


def test_test_rows_of_an_unknown_level_are_other_where_there_is_one(
    tmp_path: Path,
) -> None:
    frames = three()
    frames[2].loc[0, "kind"] = "only here"
    frames[4].loc[30:35, "kind"] = ["r1", "r2", "r3", "r4", "r5", "r6"]
    sites, body = sites_with_tests(tmp_path, split_rows(frames))
    outcome = run_order(sites, body)
    assert outcome.facts[-1]["summary"]["0"]["held_out"]["n_rows"] == 20


# A model that is kept

KEPT: dict[str, Any] = {
    "attributes": ["age", "kind", "log_x", "old", "age_ns"],
    "derive": {"log_x": "ln(x)", "old": "age >= 65", "age_ns": "ns(age, 30, 50, 70)"},
    "categorical": {"kind": {"reference": "b"}},
}


@pairwise(n_quick=1, missing=["drop", "mean"], standardize=[True, False])
def test_a_kept_model_gives_each_training_row_the_score_of_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, standardize: bool
) -> None:
    seen: dict[int, Any] = {}
    finish = fold_end.finish_fold

    def finish_fold(trainer: Any, fold: Any) -> None:
        X = np.column_stack([fold.X, np.ones(len(fold.X))])
        scores = 1 / (1 + np.exp(-X @ fold.checkpoint.weights))
        seen[trainer.order.me] = dict(
            zip(trainer.rows.train.unique_ids, scores, strict=True)
        )
        finish(trainer, fold)

    monkeypatch.setattr(fold_end, "finish_fold", finish_fold)
    study = Study(tmp_path, with_gaps(three(), "x", {2: 6, 3: 5}))
    params = {"standardize": standardize, "learning_rate": 1e-4}
    study.run(**KEPT, missing=missing, model_params=params)
    entries = study.predict("SELECT id, age, kind, x FROM data.rows")
    assert [entry["id"] for entry in entries] == [str(2000 + row) for row in range(60)]
    for entry in entries:
        if entry["label"] is None:
            assert entry["reason"] == "no value in log_x"
        else:
            assert entry["label"] == pytest.approx(seen[2][entry["id"]], rel=1e-12)
    n_without = sum(entry["label"] is None for entry in entries)
    assert n_without == (6 if missing == "drop" else 0)


def test_a_row_of_an_unknown_level_has_a_reason(tmp_path: Path) -> None:
    study = Study(tmp_path, three())
    study.run(**KEPT, missing="drop")
    sql = (
        "SELECT id, age, CASE WHEN id = 2001 THEN 'new' WHEN id > 2001 THEN kind END AS kind, x"
        " FROM data.rows WHERE id < 2003"
    )
    entries = study.predict(sql)
    assert entries[0]["label"] is None
    assert entries[0]["reason"] == "no value in kind"
    assert entries[1]["reason"] == "a level of kind that the model does not know"
    assert entries[2]["label"] is not None


def test_an_unknown_level_is_other_where_the_model_has_it(tmp_path: Path) -> None:
    frames = three()
    frames[2].loc[:5, "kind"] = ["r1", "r2", "r3", "r4", "r5", "r6"]
    study = Study(tmp_path, frames)
    study.run()
    sql = "SELECT id, age, 'never seen' AS kind FROM data.rows WHERE id < 2001"
    others = "SELECT id, age, kind FROM data.rows WHERE id < 2001"
    assert study.predict(sql) == study.predict(others)


def test_a_plain_model_answers_all_rows_that_it_can(tmp_path: Path) -> None:
    study = Study(tmp_path, three())
    study.run(
        attributes=["age", "x"],
        categorical={},
        label_name="group",
        model_type="softmax",
        model_params={"standardize": True},
    )
    sql = "SELECT id, age, CASE WHEN id > 2000 THEN x END AS x FROM data.rows WHERE id < 2002"
    first, second = study.predict(sql)
    assert first == {
        "id": "2000",
        "label": None,
        "probabilities": None,
        "reason": "no value in x",
    }
    assert second["label"] in ("p", "q", "r")


def built(exported: dict[str, Any]) -> Pipeline:
    """The Pipeline that a reader of the exported parts makes; its estimator is never
    fitted.
    """
    classes = {
        "sklearn.preprocessing.OneHotEncoder": OneHotEncoder,
        "sklearn.impute.SimpleImputer": SimpleImputer,
    }
    parts = []
    for part in exported["pipeline"]["columns"]:
        made = part["transformer"]
        if made != "passthrough":
            made = classes[made](**part["parameters"])
        parts.append((part["name"], made, part["columns"]))
    columns = ColumnTransformer(parts)
    steps: list[Any] = [("columns", columns)]
    scaler = exported["pipeline"]["scaler"]
    if scaler is not None:
        steps.append(("scaler", with_attributes(StandardScaler(), scaler)))
    estimator = getattr(linear_model, exported["estimator"].rsplit(".", 1)[1])()
    steps.append(("model", with_attributes(estimator, exported["attributes"])))
    return Pipeline(steps)


def with_attributes(estimator: Any, attributes: dict[str, Any]) -> Any:
    for name, value in attributes.items():
        setattr(estimator, name, np.array(value) if isinstance(value, list) else value)
    return estimator


@pairwise(n_quick=1, missing=["refuse", "mean"], standardize=[True, False])
def test_the_exported_pipeline_predicts_the_same(
    tmp_path: Path, missing: str, standardize: bool
) -> None:
    gaps = {} if missing == "refuse" else {2: 6, 3: 5}
    study = Study(tmp_path, with_gaps(three(), "x", gaps))
    params = {"standardize": standardize, "learning_rate": 1e-4}
    model = study.run(**KEPT, missing=missing, model_params=params).models[2]
    exported = json.loads(json.dumps(export_model(model, "sklearn")))
    assert exported["pipeline"]["computed"] == {
        "log_x": "ln(x)",
        "old": "age >= 65",
        "age_ns[1]": "ns(age, 30, 50, 70)",
        "age_ns[2]": "ns(age, 30, 50, 70)",
    }
    frame = study.frames[2]
    spline = natural_spline(frame["age"].to_numpy(dtype=float), (30, 50, 70))
    inputs = pd.DataFrame(
        {
            "age": frame["age"].astype(float),
            "kind": frame["kind"],
            "log_x": np.log(frame["x"]),
            "old": (frame["age"] >= 65).astype(float),
            "age_ns[1]": spline[:, 0],
            "age_ns[2]": spline[:, 1],
        }
    )
    assert list(inputs) == exported["pipeline"]["inputs"]
    pipeline = built(exported)
    # Every part has its parameters; fitting one learns nothing that they do not say.
    pipeline.named_steps["columns"].fit(inputs)
    found = pipeline.predict_proba(inputs)[:, 1]
    expected = [entry["label"] for entry in study.predict("SELECT * FROM data.rows")]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_exported_json_has_what_applies_the_model(tmp_path: Path) -> None:
    study = Study(tmp_path, with_gaps(three(), "x", {2: 6}))
    model = study.run(**KEPT, missing="mean").models[2]
    exported = export_model(model, "json")
    assert exported["derive"] == KEPT["derive"]
    assert exported["categorical"]["kind"]["reference"] == "b"
    assert exported["features"][:3] == ["age", "kind[a]", "kind[c]"]
    assert set(exported["means"]) == {"age", "log_x", "old", "age_ns[1]", "age_ns[2]"}


@pytest.mark.parametrize(
    ("trick", "code"),
    quick(
        [
            ("case when age = {age} then x + 1 else x end", "min_varying"),
            ("case when age = {age} then 2 * x - age else x end", "min_varying"),
            (
                "case when age = {age} then x + 1 else x + 0.001 * sqrt(x) end",
                "min_varying",
            ),
            ("x + ln(x)", None),
        ],
        2,
    ),
)
def test_a_column_that_differs_from_another_in_few_rows_is_refused(
    tmp_path: Path, trick: str, code: str | None
) -> None:
    """The gradient of the one less that of the other would be these rows' alone."""
    frames = three()
    age = _rare_age(frames[2])
    cohort = "min_rows = 5\nmin_varying = 5\nmax_parameter_share = 1"
    study = Study(tmp_path, frames, cohort=cohort)
    order = {
        "attributes": ["x", "age", "same"],
        "categorical": {},
        "derive": {"same": trick.format(age=age)},
    }
    if code is None:
        study.run(**order)
        return
    error = study.refused(**order)
    assert error.code == code
    assert "same" in error.sentence


def test_levels_of_two_columns_that_differ_in_few_rows_are_refused(
    tmp_path: Path,
) -> None:
    frames = three()
    for user, frame in frames.items():
        frame["twin"] = frame["kind"]
        if user == 3:
            frame.loc[0, "twin"] = "a" if frame.loc[0, "kind"] != "a" else "b"
    cohort = "min_rows = 5\nmin_varying = 5\nmax_parameter_share = 1"
    error = Study(tmp_path, frames, cohort=cohort).refused(
        attributes=["kind", "twin"], categorical={"kind": {}, "twin": {}}
    )
    assert error.code == "min_varying"
