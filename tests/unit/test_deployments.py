"""prefect.yaml and the flows that the workers run say the same."""

from __future__ import annotations

import pytest

from deployments.pools import planned
from flows import coordinator_runs, hospital_runs
from tasks.flow_process import installed_flows

ENTRIES = planned([2])
INSTALLED = installed_flows(hospital_runs) | installed_flows(coordinator_runs)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["flow_name"])
def test_a_deployment_names_its_flow(entry: dict[str, str]) -> None:
    flow = INSTALLED[entry["flow_name"]]
    assert entry["entrypoint"] == f"{flow.module}.{flow.function}"


def test_every_installed_flow_but_that_of_schedules_has_a_deployment() -> None:
    """The API makes a deployment for each schedule."""
    assert set(INSTALLED) - {entry["flow_name"] for entry in ENTRIES} == {"scheduled-statistics"}
