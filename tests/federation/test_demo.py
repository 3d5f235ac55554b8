"""`./run demo` and its options, as somebody types them: each ends with 0 and shows what
it promises.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, free_port

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(400)]


def demo(home: Path, *options: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CONSILIUM_HOME": str(home),
        "CONSILIUM_API_PORT": str(free_port()),
        "CONSILIUM_PREFECT_PORT": str(free_port()),
    }
    command = [sys.executable, "-m", "deployments.local.command", "demo", *options]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=380
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_four_hospitals_with_every_other_option(tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    options = (
        "--hospitals",
        "4",
        "--rounds",
        "3",
        "--features",
        "6",
        "--method",
        "Mask",
        "--picture",
        str(picture),
    )
    shown = demo(tmp_path / "home", *options)
    assert "hospital-5 (5)" in shown
    assert "x6" in shown
    assert "Largest difference" in shown
    assert picture.read_text().lstrip().startswith("<svg")


@pytest.mark.parametrize("n_hospitals", [5, 8])
def test_more_hospitals(tmp_path: Path, n_hospitals: int) -> None:
    shown = demo(tmp_path / "home", "--hospitals", str(n_hospitals), "--rounds", "3")
    for user_id in range(5, n_hospitals + 2):
        assert f"hospital-{user_id} ({user_id})" in shown
    assert "Largest difference" in shown


def test_nothing_encrypted(tmp_path: Path) -> None:
    assert "Largest difference" in demo(tmp_path / "home", "--method", "None")


def test_joint_statistics(tmp_path: Path) -> None:
    assert "pandas" in demo(tmp_path / "home", "--statistics")
