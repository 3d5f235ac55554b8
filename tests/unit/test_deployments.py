"""prefect.yaml, the workers and the flows say the same."""

from __future__ import annotations

import importlib

import pytest

from agents.worker import HOSPITAL_FLOWS
from deployments.coordinator import FLOWS
from deployments.pools import planned

ENTRIES = planned([2])
INSTALLED = {**HOSPITAL_FLOWS, **FLOWS}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["flow_name"])
def test_a_deployment_names_its_flow(entry: dict[str, str]) -> None:
    module, _, name = entry["entrypoint"].rpartition(".")
    assert getattr(importlib.import_module(module), name).name == entry["flow_name"]
    assert INSTALLED[entry["flow_name"]] == entry["entrypoint"]


def test_every_installed_flow_but_that_of_schedules_has_a_deployment() -> None:
    """The API makes a deployment for each schedule."""
    assert set(INSTALLED) - {entry["flow_name"] for entry in ENTRIES} == {"scheduled-statistics"}
