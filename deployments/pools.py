"""Makes work pools and deployments.

The flows are from prefect.yaml, the hospitals from the coordinator's registry.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

_INSTALLED = Path(__file__).with_name("prefect.yaml")
# At the root of a checkout; installed, it is beside this module.
PREFECT_YAML = (
    _INSTALLED if _INSTALLED.exists() else Path(__file__).parents[1] / "prefect.yaml"
)
_PER_HOSPITAL = "<user_id>"


def planned(
    hospital_ids: Iterable[int], text: str | None = None
) -> list[dict[str, Any]]:
    """The deployments to make: those of prefect.yaml.

    Per-hospital ones once for each hospital.
    """
    document = yaml.safe_load(text or PREFECT_YAML.read_text())
    plan = []
    per_hospital = []
    for deployment in document["deployments"]:
        if _PER_HOSPITAL in deployment["work_pool"]["name"]:
            per_hospital.append(deployment)
        else:
            plan.append(deployment)
    for user_id in hospital_ids:
        for deployment in per_hospital:
            plan.append(_for_hospital(deployment, str(user_id)))
    return plan


def _for_hospital(entry: dict[str, Any], user_id: str) -> dict[str, Any]:
    name = entry["name"].replace(_PER_HOSPITAL, user_id)
    pool = entry["work_pool"]["name"].replace(_PER_HOSPITAL, user_id)
    return {**entry, "name": name, "work_pool": {"name": pool}}


async def deploy(client: PrefectClient, hospital_ids: Iterable[int]) -> list[str]:
    """Makes or updates every pool and deployment; returns their names.

    Safe to run again at any time.
    """
    deployment_names = []
    for deployment in planned(hospital_ids):
        pool = deployment["work_pool"]["name"]
        await _make_pool(client, pool)
        await client.create_deployment(
            flow_id=await client.create_flow_from_name(deployment["flow_name"]),
            name=deployment["name"],
            work_pool_name=pool,
            entrypoint=deployment["entrypoint"],
            description=deployment.get("description"),
            # A run takes one number and nothing else; the worker looks at it again.
            parameter_openapi_schema={
                "type": "object",
                "properties": {"order_id": {"type": "integer"}},
                "required": ["order_id"],
            },
            enforce_parameter_schema=True,
        )
        deployment_names.append(f"{deployment['flow_name']}/{deployment['name']}")
    return deployment_names


async def _make_pool(client: PrefectClient, name: str) -> None:
    """By POST: Prefect's own command refuses a pool type that it does not know."""
    pool_type = "coordinator" if name == "coordinator" else "hospital"
    # No job template: the workers read none.
    pool = WorkPoolCreate(name=name, type=pool_type, base_job_template={})
    try:
        await client.create_work_pool(pool)
    except ObjectAlreadyExists:
        return
