"""The documentation's examples, each as it stands, over a real federation."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import matplotlib
import matplotlib.pyplot as plt
import pytest

from api.client import Federation
from tests.conftest import NO_AUTHORITY, ROOT, RunningFederation

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pictures are saved in the working directory, and no window opens."""
    monkeypatch.chdir(tmp_path)
    with matplotlib.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


def client(federation: RunningFederation, user: int = 4) -> Federation:
    transport = httpx.HTTPTransport(verify=NO_AUTHORITY, trust_env=False)
    return Federation(
        federation.url,
        token_file=federation.home / "tokens.json",
        user=user,
        transport=transport,
    )


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name, ROOT / "docs" / "examples" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_training(
    federation: RunningFederation, capsys: pytest.CaptureFixture[str]
) -> None:
    with client(federation) as own:
        order = example("training").main(own)
        metrics = order.metrics()
        assert order.status() == "success"
    assert set(metrics["hospital"]) == {2, 3, 4}
    assert metrics.groupby("round")["loss"].first().iloc[-1] < metrics["loss"].iloc[0]
    assert (
        metrics.loc[
            metrics["final"] & (metrics["hospital"] == 4), "test_accuracy"
        ].item()
        > 0.8
    )
    told = capsys.readouterr()
    assert "probability" not in told.out
    assert "label" in told.out
    assert f"Order {order.order_id} [" in told.err
    assert Path("loss.png").read_bytes().startswith(b"\x89PNG")


def test_gradient_analytics(federation: RunningFederation) -> None:
    module = example("gradient_analytics")
    with client(federation) as own:
        sealed, external = module.main(own)
    assert list(sealed.anomaly.index) == [2, 3, 4]
    assert {"krum", "geometric_median", "zeno"} <= set(sealed.anomaly)
    assert list(sealed.contribution) == [
        "grad_diff_eu",
        "grad_diff_cos",
        "perf_diff_accuracy",
        "perf_diff_loss",
    ]
    assert external.ranks["true_krum"].idxmin() == module.ATTACKER
    assert "perf_diff_loss" in external.unavailable
    assert Path("scores.png").read_bytes().startswith(b"\x89PNG")


def test_joint_statistics(federation: RunningFederation) -> None:
    with client(federation) as four, client(federation, 2) as two:
        by_age, products = example("joint_statistics").main(four, two)
        assert four.schedules().empty or "each morning" not in set(
            four.schedules()["name"]
        )
        assert four.history(limit=100).loc[by_age.order_id, "state"] == "success"
    assert by_age.values is not None
    assert list(by_age.values["age_group"])[:4] == ["30-39", "40-49", "50-59", "60-69"]
    assert products.values is None
    assert products.path == f"{products.order_id}/total_value.csv"
