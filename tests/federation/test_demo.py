"""`./run demo` and its options, as somebody types them: each ends with 0 and shows what
it promises.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa

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


def test_more_hospitals_and_nothing_encrypted(tmp_path: Path) -> None:
    options = ("--hospitals", "8", "--rounds", "3", "--method", "None")
    shown = demo(tmp_path / "home", *options)
    for user_id in range(5, 10):
        assert f"hospital-{user_id} ({user_id})" in shown
    assert "Largest difference" in shown


def test_joint_statistics(tmp_path: Path) -> None:
    assert "pandas" in demo(tmp_path / "home", "--statistics")


SOURCES = {
    "--postgresql": "postgresql+psycopg://postgres@127.0.0.1:5432/",
    "--mariadb": "mysql+pymysql://root@127.0.0.1:3306/",
}


@pytest.fixture
def empty_databases() -> Iterator[list[str]]:
    """Options of the study with an empty database of each kind, which go with the test."""
    name = f"study_{uuid.uuid4().hex}"
    options = []
    engines = []
    for option, server in SOURCES.items():
        engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(sa.text(f"CREATE DATABASE {name}"))
        except sa.exc.OperationalError:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no server at {server}")
        engines.append(engine)
        options += [option, f"{server}{name}"]
    yield options
    for engine in engines:
        force = " WITH (FORCE)" if engine.dialect.name == "postgresql" else ""
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name}{force}"))
        engine.dispose()


def test_a_study_over_three_kinds_of_databases(
    tmp_path: Path, empty_databases: list[str]
) -> None:
    figures = tmp_path / "figures"
    shown = demo(
        tmp_path / "home", "--study", "--figures", str(figures), *empty_databases
    )
    for kind in ("duckdb", "postgresql", "mysql"):
        assert f"followed up, in {kind}" in shown
    assert "Table 1, 442 patients of four hospitals" in shown
    found = re.search(
        r"difference of (\d+) numbers [^:]*: +(\S+)", shown.replace("\n", " ")
    )
    assert found is not None
    assert int(found[1]) > 60
    assert float(found[2]) < 1e-9
    # The documents' pictures are these, whatever the databases.
    for name in ("study-forest", "study-survival"):
        drawn = pd.read_csv(figures / f"{name}.csv")
        kept = pd.read_csv(ROOT / "docs" / "images" / f"{name}.csv")
        pd.testing.assert_frame_equal(drawn, kept, rtol=1e-9)
        assert (figures / f"{name}.svg").read_text().startswith("<?xml")
