"""Prefect's progress bar says what the API says, after every record of an order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from api.routes.services import progress
from deployments.demo.training import document_order
from protocol.training_request import folds, parse_training_request
from tasks.coordinator.progress import StatisticsPicture, TrainingPicture


@pytest.mark.parametrize("n_splits", [None, 3])
def test_the_bar_in_prefect_is_at_the_apis_number(n_splits: int | None) -> None:
    body = document_order(rounds=4)
    if n_splits:
        body["model_params"]["cv_param"] = {"need_cv": True, "n_splits": n_splits}
    order: Any = SimpleNamespace(order_id=1, request=parse_training_request(body))
    row: Any = SimpleNamespace(kind="train", body=body)
    picture = TrainingPicture(order)
    records = [
        {"fold": fold, "round": round_, "final": round_ == 4}
        for fold in folds(order.request)
        for round_ in range(5)
    ]
    for n_records in range(1, len(records) + 1):
        told = progress(row, n_records)
        assert picture.percent(records[:n_records]) == pytest.approx(
            100 * told["done"] / told["of"]
        )
    assert told["done"] == told["of"] == 4 * len(folds(order.request))


def test_the_bar_is_full_where_training_has_converged() -> None:
    order: Any = SimpleNamespace(
        order_id=1, request=parse_training_request(document_order(rounds=10))
    )
    assert (
        TrainingPicture(order).percent(
            [{"fold": 0, "round": n, "final": n == 3} for n in range(4)]
        )
        == 100.0
    )


def test_the_summary_in_prefect_says_how_training_ended() -> None:
    request = parse_training_request(document_order(rounds=4))
    ending = {"stopped_by": "max_iter", "warnings": ["Training ended by max_iter."]}
    order: Any = SimpleNamespace(
        order_id=1, request=request, n_rows={2: 228}, summaries={}
    )
    picture = TrainingPicture(order)
    assert "ended by" not in picture.summary([])
    order.summaries[0] = ending
    summary = picture.summary([])
    assert "- Final model: ended by max_iter\n" in summary
    assert summary.endswith("**Warning.** Training ended by max_iter.")


@pytest.mark.parametrize(("done", "of"), [(0, 5), (2, 5), (5, 5), (0, None), (3, None)])
def test_the_bar_of_joint_statistics_is_at_the_apis_number(
    done: int, of: int | None
) -> None:
    order: Any = SimpleNamespace(order_id=1)
    stage = {"what": "sums", "done": done, "of": of}
    row: Any = SimpleNamespace(kind="statistics", stage=stage)
    told = progress(row, 0)
    of_parts = (
        told["of"] or done + 1
    )  # nobody knows how many there are: one at least is left
    assert StatisticsPicture(order).percent([stage]) == pytest.approx(
        100 * told["done"] / of_parts
    )
