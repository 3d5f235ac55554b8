"""One of ten hospitals flips the sign of its gradient: the scores show it, and
Multi-Krum trains without it.
"""

from __future__ import annotations

from typing import Any

import pytest

from agents.site.settings import SiteSettings
from agents.training import fold as folds
from agents.training.fold import Fold
from agents.training.trainer import Trainer
from analytics.scores import anomaly
from deployments.demo.digits import GATE, HOSPITALS, digits_order, digits_tables
from deployments.local.one_process import run_order
from protocol.memory_transport import MemoryTransport
from tests.made_sites import make_sites
from tests.pooled.test_scored_orders import points_of

ATTACKER = 5


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[int, SiteSettings]:
    return make_sites(tmp_path_factory.mktemp("sites"), digits_tables(), cohort=GATE)


def accuracy(
    sites: dict[int, SiteSettings], order_id: int, method: str, **changes: Any
) -> tuple[float, MemoryTransport]:
    """Over all hospitals' rows that nobody trained on."""
    body = digits_order(encrypt_param={"method": method})
    tests = {str(user): "SELECT * FROM data.digits_test" for user in HOSPITALS}
    transport = MemoryTransport()
    outcome = run_order(
        sites,
        {**body, "test_data_info": tests, **changes},
        order_id=order_id,
        transport=transport,
    )
    # Too few images of a digit at each hospital: they are judged of all together.
    (summary,) = [fact["summary"] for fact in outcome.facts if "summary" in fact]
    return summary["0"]["held_out"]["accuracy"], transport


@pytest.mark.thorough
def test_multi_krum_under_paillier_comes_within_two_points(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The undisturbed order runs under Mask: it gives the same bits in a third of the
    time.
    """
    undisturbed, _ = accuracy(sites, 1, "Mask")
    honest = folds.local_gradient

    def local_gradient(trainer: Trainer, fold: Fold) -> dict[str, Any]:
        report = honest(trainer, fold)
        if trainer.order.me == ATTACKER:
            fold.gradient = -fold.gradient
        return report

    monkeypatch.setattr(folds, "local_gradient", local_gradient)
    attacked, _ = accuracy(sites, 2, "Mask")
    defended, transport = accuracy(
        sites, 3, "Paillier", aggregation="multi_krum", n_attackers=1, scoring="round"
    )
    assert attacked < undisturbed - 0.02 <= defended
    left_out = [
        fact["round"]["left_out"] for fact in transport.facts[3] if "round" in fact
    ]
    assert all(list(reasons) == [str(ATTACKER)] for reasons in left_out[:-1])
    for file in transport.rounds[3].values():
        clients, points = points_of(file)
        scores = anomaly.true_krum(points, n_attackers=1)
        assert clients[int(scores.argmax())] == ATTACKER
