"""The classes of a softmax model are those of all hospitals: they must fit each other,
and every hospital's gate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.training import agreed_model
from deployments.local.one_process import run_order
from protocol.errors import BadRequest, ConsiliumError, Refused
from tests.made_sites import make_sites, order_body

N_ROWS = 24
"""Two parameters a class and a share of 1/3: four classes pass, five do not."""


def run(folder: Path, labels: dict[int, list[Any]], **changes: Any) -> Any:
    x1 = np.arange(N_ROWS) / 7
    tables = {
        user: {
            "rows": pd.DataFrame(
                {
                    "id": range(N_ROWS),
                    "x1": x1 + user,
                    "kind": np.resize(np.array(own), N_ROWS),
                }
            )
        }
        for user, own in labels.items()
    }
    sites = make_sites(folder, tables)
    return run_order(
        sites,
        order_body(
            labels,
            model_type="softmax",
            attributes=["x1"],
            label_name="kind",
            **changes,
        ),
    )


def refusal(
    folder: Path, labels: dict[int, list[Any]], **changes: Any
) -> ConsiliumError:
    with pytest.raises(ConsiliumError) as caught:
        run(folder, labels, **changes)
    return caught.value


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b"1e999"])
def test_what_is_no_list_of_classes_is_told_so(text: bytes) -> None:
    """A partner's bytes end in a sentence, whatever they are."""
    with pytest.raises(ConsiliumError) as caught:
        agreed_model._read_classes(text)
    assert caught.value.code in ("bad_message", "classes")


def test_initial_weights_of_half_a_number_are_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = agreed_model.receive

    def cut(party: Any, kind: str, *more: Any) -> bytes:
        return receive(party, kind, *more)[:-1]

    monkeypatch.setattr(agreed_model, "receive", cut)
    error = refusal(tmp_path, {2: [0, 1], 3: [1, 2], 4: [2, 3]})
    assert error.code == "bad_message"


def test_as_many_classes_as_the_rows_allow(tmp_path: Path) -> None:
    outcome = run(tmp_path, {2: [0, 1], 3: [1, 2], 4: [2, 3]})
    assert outcome.models[2]["classes"] == [0, 1, 2, 3]


def test_one_class_too_many_over_all_hospitals(tmp_path: Path) -> None:
    """No hospital's own classes are too many."""
    error = refusal(tmp_path, {2: [0, 1], 3: [2, 3], 4: [4, 0]})
    assert isinstance(error, Refused)
    assert error.code == "max_parameter_share"


def test_a_fold_trains_on_fewer_rows(tmp_path: Path) -> None:
    folds = {
        "penalty": None,
        "max_iter": 1,
        "cv_param": {"need_cv": True, "n_splits": 2},
    }
    error = refusal(tmp_path, {2: [0, 1], 3: [1, 2], 4: [2, 3]}, model_params=folds)
    assert error.code == "max_parameter_share"


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        ({2: [0, 1], 3: ["a", "b"], 4: [0, 1]}, "classes"),
        ({2: [7], 3: [7], 4: [7]}, "one_class"),
    ],
)
def test_classes_that_do_not_fit(
    tmp_path: Path, labels: dict[int, list[Any]], code: str
) -> None:
    error = refusal(tmp_path, labels)
    assert isinstance(error, BadRequest)
    assert error.code == code
    assert error.remedy


def test_classes_of_one_hospital_and_of_another_case_are_named_to_its_people(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = run(tmp_path, {2: ["A", "b"], 3: ["a", "b "], 4: ["b", "A"]})
    assert outcome.models[2]["classes"] == ["A", "a", "b"]
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "Classes that differ by case alone are 2 classes: A, a." in told
    assert "At hospital 3 only: class a." in told
