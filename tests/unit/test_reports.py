"""What the coordinator keeps of a round is what hospitals say of it: it must be of the rows that they have counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents import trainer
from deployments.one_process import run_order
from protocol.errors import ProtocolViolation
from tests.made_sites import make_sites, order_body


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_rows": 29},
        {"n_rows": "30"},
        {"train": None},
        {"train": {"loss": 0.1}},
        {"train": {"loss": "a", "accuracy": 1}},
    ],
)
def test_metrics_of_other_rows_or_no_numbers_end_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    frame = pd.DataFrame({"id": range(30), "x1": np.arange(30) / 7, "y": [0, 1] * 15})
    sites = make_sites(tmp_path, {user: {"rows": frame} for user in (2, 3, 4)})
    honest = trainer.evaluate

    def evaluate(own: Any, fold: Any) -> dict[str, Any]:
        return {**honest(own, fold), **(wrong if own.party.me == 3 else {})}

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    with pytest.raises(ProtocolViolation) as caught:
        run_order(sites, order_body((2, 3, 4), attributes=["x1"]))
    assert (caught.value.code, caught.value.detail) == ("report", {"hospitals": [3]})
