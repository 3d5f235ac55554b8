"""Whatever the coordinator's side sees of a study: no number of its report, no sum of a
round, and of an evaluation no curve.

Searched as test_blind_coordinator.py searches gradients: as 8-byte floats in both byte
orders, as the words that sums are added in, and as text. The same search finds the sums
where method None shows them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.training import newton
from protocol.sums import secure_sum
from tests.pairwise import quick
from tests.pooled.test_evaluations import Study
from tests.privacy.test_blind_coordinator import (
    clear_parts,
    float_needles,
    found_in,
    word_needles,
)

N_OF = {2: 180, 3: 150, 4: 170}
N_DIGITS = 13
STUDIES: dict[str, dict[str, Any]] = {
    "lr": {"model_type": "lr", "model_params": {"penalty": None}},
    "glm": {
        "model_type": "glm",
        "label_name": "visits",
        "model_params": {"family": "poisson", "standard_errors": "HC1"},
    },
    "cox": {
        "model_type": "cox",
        "label_name": "days",
        "event_name": "y",
        "model_params": {},
    },
}


def made_rows(n_rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.normal(60, 9, n_rows)
    dose = rng.normal(0, 1, n_rows)
    eta = 0.1 * (age - 60) + dose
    return pd.DataFrame(
        {
            "id": np.arange(n_rows) + 1000 * seed,
            "age": age,
            "dose": dose,
            "y": (rng.uniform(size=n_rows) < 1 / (1 + np.exp(-eta))).astype(int),
            "visits": rng.poisson(np.exp(1 + 0.3 * eta)),
            "days": np.ceil(rng.exponential(100 * np.exp(-eta / 3))),
        }
    )


class Sums:
    """Every hospital's own words of a Newton order's rounds, and those that are opened."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.words: set[int] = set()
        seal, stepped = secure_sum.seal_counts, newton.stepped_point

        def sealing(keys: Any, words: Any, **options: Any) -> Any:
            self.note(words)
            return seal(keys, words, **options)

        def stepping(trainer: Any, point: Any, sums: Any, scales: Any) -> Any:
            self.note(sums)
            return stepped(trainer, point, sums, scales)

        patch.setattr(newton.secure_sum, "seal_counts", sealing)
        patch.setattr(newton, "stepped_point", stepping)

    def note(self, words: Any) -> None:
        self.words.update(np.asarray(words).tolist())


def floats_in(value: Any) -> Iterator[float]:
    """All that no one would find by chance: a count or a share of few digits may stand
    anywhere.
    """
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from floats_in(one)
    elif isinstance(value, float):
        n_digits = len(repr(abs(value)).split("e")[0].replace(".", "").strip("0"))
        if n_digits > N_DIGITS:
            yield value


def needles_of(numbers: Iterator[float], words: set[int]) -> dict[bytes, str]:
    found: dict[bytes, str] = {}
    for number in numbers:
        found |= dict.fromkeys(float_needles(number), "report")
    # Words of few bits stand in headers, too.
    long = [word for word in sorted(words) if word % 2**16]
    found |= dict.fromkeys(word_needles(long), "sum")
    return found


def seen_of(traffic: list[bytes], told: Any) -> bytes:
    return b"\0".join([*traffic, json.dumps(told, default=str).encode()])


def study_of(folder: Path, kind: str, method: str) -> Study:
    order = {**STUDIES[kind], "attributes": ["age", "dose"]}
    params = {"optimizer": "newton", "eps": None, "max_iter": None}
    params |= {"encrypt_param": {"method": method}, **order["model_params"]}
    order["model_params"] = params
    return Study(folder, N_OF, order=order, make_rows=made_rows, filter_columns=["y"])


@pytest.mark.parametrize(
    ("kind", "method"),
    quick(
        [
            ("glm", "Paillier"),
            ("cox", "Mask"),
            ("lr", "Mask"),
            ("glm", "Mask"),
            ("cox", "Paillier"),
            ("lr", "Paillier"),
        ],
        1,
    ),
)
def test_no_number_of_a_report_and_no_sum_of_a_round_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, method: str
) -> None:
    sums = Sums(monkeypatch)
    study = study_of(tmp_path, kind, method)
    report = study.model["report"]
    needles = needles_of(floats_in(report), sums.words)
    assert len(needles) > 100
    assert set(needles.values()) == {"report", "sum"}
    assert found_in(seen_of(study.traffic, study.facts), needles) == set()
    assert clear_parts(study.traffic) == set()


def test_the_same_search_finds_the_sums_of_method_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = Sums(monkeypatch)
    study = study_of(tmp_path, "glm", "None")
    needles = needles_of(floats_in(study.model["report"]), sums.words)
    seen = seen_of(study.traffic, study.facts)
    assert "sum" in found_in(seen, needles)
    assert clear_parts(study.traffic)


@pytest.mark.parametrize("kind", quick(["lr", "cox", "glm"], 1))
def test_of_an_evaluation_the_coordinator_sees_metrics_and_no_curve(
    tmp_path: Path, kind: str
) -> None:
    study = study_of(tmp_path, kind, "Mask")
    outcome = study.evaluate()
    report = outcome.evaluations[2]["report"]
    told = set(floats_in(outcome.summary))
    hidden = set(floats_in(report)) - told
    if kind == "lr":
        # The ROC curve, the net benefit and the calibration are there to be found.
        curves = [report[name] for name in ("roc", "decision", "calibration")]
        assert len(set(floats_in(curves)) - told) > 20
    needles: dict[bytes, str] = {}
    for number in hidden:
        # Not its digits alone: fractions of one number of rows share them, turned.
        needles |= dict.fromkeys(float_needles(number)[:3], "curve")
    seen = seen_of(outcome.traffic, outcome.summary)
    assert found_in(seen, needles) == set()
    assert clear_parts(outcome.traffic) == set()
