"""prefect.yaml and the flows that the workers run say the same; the units of systemd
are read by systemd.
"""

from __future__ import annotations

import configparser
import io
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from deployments import pools
from deployments.pools import planned
from deployments.server import main as server_command
from flows import coordinator_runs, hospital_runs
from tasks.flow_process import installed_flows
from tests.unit.test_arrows import ROOT

ENTRIES = planned([2])
INSTALLED = installed_flows(hospital_runs) | installed_flows(coordinator_runs)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["flow_name"])
def test_a_deployment_names_its_flow(entry: dict[str, str]) -> None:
    flow = INSTALLED[entry["flow_name"]]
    assert entry["entrypoint"] == f"{flow.module}.{flow.function}"


def test_every_installed_flow_but_that_of_schedules_has_a_deployment() -> None:
    """The API makes a deployment for each schedule."""
    assert set(INSTALLED) - {entry["flow_name"] for entry in ENTRIES} == {
        "scheduled-statistics"
    }


def test_deployments_are_made_when_it_is_told_and_not_where_nobody_is_left_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`./run up` starts this process before Prefect answers, so that it is ready then."""
    monkeypatch.setenv("CONSILIUM_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "")  # as it is, given back afterwards
    made: list[list[int]] = []

    async def deploy(_client: object, hospital_ids: Iterable[int]) -> list[str]:
        made.append(list(hospital_ids))
        return ["train-order/train-order"]

    monkeypatch.setattr(pools, "deploy", deploy)
    for told, n_made in ((b"", 0), (b"\n", 1)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(told)))
        assert server_command(["deploy", "--when-told"]) == 0
        assert len(made) == n_made
    assert capsys.readouterr().out == "train-order/train-order\n"


# The units of systemd

UNITS = sorted((ROOT / "deployments" / "production").glob("*.service"))
MOST_EXPOSED = 3.0  # of systemd's scale from 0, safe, to 10


def settings_of(unit: Path) -> dict[str, str]:
    """The settings of its section Service; of several lines of one name the last."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text("utf-8"))
    return dict(parser["Service"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_may_have_many_connections_and_little_else(unit: Path) -> None:
    settings = settings_of(unit)
    assert int(settings["LimitNOFILE"]) >= 65_536
    assert settings["CapabilityBoundingSet"] == ""
    assert settings["ProtectSystem"] == "strict"
    assert settings["NoNewPrivileges"] == "true"
    assert settings["User"] == "consilium"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_reads_a_unit_and_finds_it_hardened(unit: Path, tmp_path: Path) -> None:
    """Its own verdict, without any service started."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    text = unit.read_text("utf-8").replace("/opt/consilium", str(ROOT))
    copy = tmp_path / unit.name
    copy.write_text(text)
    verified = subprocess.run(
        [analyze, "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert "Unknown" not in verified.stderr, verified.stderr
    assert verified.returncode == 0, verified.stderr
    told = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", str(copy)],
        capture_output=True,
        text=True,
        check=True,
    )
    exposure = re.search(r"exposure level for \S+: ([0-9.]+)", told.stdout)
    assert exposure is not None, told.stdout
    assert float(exposure[1]) <= MOST_EXPOSED
