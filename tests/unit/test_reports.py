"""What the coordinator keeps of a round is what hospitals say of it: it must be of the
rows that they have counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.site.settings import SiteSettings
from agents.training import fold as folds
from agents.training import fold_end
from deployments.local.one_process import run_order
from protocol.errors import ProtocolViolation
from protocol.messages import canonical
from tasks.coordinator.pooled_metrics import read_evaluated
from tests.made_sites import make_sites, order_body
from tests.pairwise import quick


def held_out(**wrong: Any) -> dict[str, Any]:
    """Metrics of 12 held-out rows, but for what is wrong with them."""
    right = {"loss": 0.1, "accuracy": 1.0, "tp": 12, "fp": 0, "tn": 0, "fn": 0}
    return {"test": {**right, **wrong}}


@pytest.mark.parametrize(
    "wrong",
    quick(
        [
            {"n_rows": 29},
            {"n_rows": "30"},
            {"train": None},
            {"train": {"loss": 0.1}},
            {"train": {"loss": "a", "accuracy": 1}},
            {"train": {"loss": None, "accuracy": None}},
            {"withheld": {"rows": {"rule": "min_rows", "threshold": 10}}},
        ],
        4,
    ),
)
def test_metrics_of_other_rows_or_no_numbers_end_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    assert_named(monkeypatch, sites_of(tmp_path), wrong)


@pytest.mark.parametrize(
    "wrong",
    quick(
        [
            {"n_test_rows": 11},
            {"test": None},
            {"test": {"loss": 0.1, "accuracy": 1.0}},
            held_out(loss="a"),
            held_out(tp=13),
            held_out(tp=13, fp=-1),
            held_out(tp=12.0),
        ],
        4,
    ),
)
def test_metrics_of_other_held_out_rows_end_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    assert_named(monkeypatch, sites_of(tmp_path), wrong, validation_fraction=0.4)


def test_metrics_of_held_out_rows_that_nobody_counted_end_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = {"loss": 0.1, "accuracy": 1.0, "tp": 12, "fp": 0, "tn": 0, "fn": 0}
    assert_named(monkeypatch, sites_of(tmp_path), {"n_test_rows": 12, "test": test})


@pytest.mark.parametrize(
    "told",
    quick(
        [
            b"[]",
            b"{}",
            b'{"training": null}',
            b'{"training": {"auc": "a"}, "stopped_by": "converged", "warnings": []}',
            b'{"training": {"x": 1}, "stopped_by": "converged", "warnings": []}',
            b'{"training": {"auc": 1}}',
            b'{"training": {"auc": 1}, "stopped_by": "converged"}',
            b'{"training": {"auc": 1}, "stopped_by": null, "warnings": []}',
            b'{"training": {"auc": 1}, "stopped_by": "max_iter", "warnings": {}}',
            b'{"training": {"auc": 1}, "stopped_by": "max_iter", "warnings": ["a <b>"]}',
            b'{"training": {"auc": 1}, "stopped_by": "max_iter", "warnings": [[]]}',
            b"{",
            b'{"a":NaN}',
        ],
        4,
    ),
)
def test_pooled_metrics_that_are_no_numbers_end_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bytes
) -> None:
    """The initiator's word, which everybody in the order reads."""
    honest = fold_end.send

    def send(party: Any, kind: str, make: Any, **where: Any) -> None:
        honest(party, kind, (lambda: told) if kind == "pooled" else make, **where)

    monkeypatch.setattr(fold_end, "send", send)
    with pytest.raises(ProtocolViolation) as caught:
        run_order(sites_of(tmp_path), order_body((2, 3, 4), attributes=["x1"]))
    assert (caught.value.code, caught.value.detail) == ("report", {"hospitals": [2]})


def sites_of(folder: Path) -> dict[int, SiteSettings]:
    frame = pd.DataFrame({"id": range(30), "x1": np.arange(30) / 7, "y": [0, 1] * 15})
    tables = {user: {"rows": frame} for user in (2, 3, 4)}
    return make_sites(folder, tables, cohort="min_rows = 1")


def assert_named(
    monkeypatch: pytest.MonkeyPatch,
    sites: dict[int, SiteSettings],
    wrong: dict[str, Any],
    **order: Any,
) -> None:
    """Hospital 3's report differs by `wrong`."""
    honest = folds.evaluate

    def evaluate(own: Any, fold: Any) -> dict[str, Any]:
        return {**honest(own, fold), **(wrong if own.order.me == 3 else {})}

    monkeypatch.setattr(folds, "evaluate", evaluate)
    with pytest.raises(ProtocolViolation) as caught:
        run_order(sites, order_body((2, 3, 4), attributes=["x1"], **order))
    assert (caught.value.code, caught.value.detail) == ("report", {"hospitals": [3]})


def test_who_withholds_what_others_show_ends_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All less what the others show would be its own, so none shows its own then."""
    honest = folds.evaluate

    def evaluate(own: Any, fold: Any) -> dict[str, Any]:
        report = honest(own, fold)
        if own.order.me != 3:
            return report
        rule = {"rule": "min_rows", "threshold": 10}
        nulls = dict.fromkeys(report["train"])
        return {**report, "train": nulls, "withheld": {"train": rule}}

    monkeypatch.setattr(folds, "evaluate", evaluate)
    with pytest.raises(ProtocolViolation) as caught:
        run_order(sites_of(tmp_path), order_body((2, 3, 4), attributes=["x1"]))
    assert caught.value.code == "report"
    assert caught.value.detail == {"hospitals": [2, 3, 4]}


EVALUATED = {"metrics": {"auc": 0.9, "tp": 12, "ppv": None}, "withheld": None}


def test_an_evaluation_is_read_as_it_was_told() -> None:
    assert read_evaluated(canonical(EVALUATED).encode(), 2) == EVALUATED
    withheld = {"metrics": {}, "withheld": {"rule": "min_rows", "threshold": 10}}
    assert read_evaluated(canonical(withheld).encode(), 2) == withheld


@pytest.mark.parametrize(
    "wrong",
    [
        {"metrics": {"auc": "high"}},
        {"metrics": {"roc": [0.5]}},
        {"metrics": {"tp": -1}},
        {"metrics": {"tp": 1.5}},
        {"metrics": [["auc", 0.9]]},
        {"metrics": None},
        {"withheld": "min_rows"},
        {"withheld": {"rule": "other", "threshold": 1}},
        {"counts": [1, 2]},
    ],
)
def test_an_evaluation_of_another_form_ends_the_order(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        read_evaluated(canonical({**EVALUATED, **wrong}).encode(), 2)
    assert caught.value.detail["hospitals"] == [2]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b"[" * 10_000])
def test_no_evaluation_ends_the_order(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="Hospital 2 tells no metrics"):
        read_evaluated(body, 2)
