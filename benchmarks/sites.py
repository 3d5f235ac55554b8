"""The hospitals of a federation in one process, as they stand in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from agents.site.settings import SiteSettings
from deployments.local.one_process import pin_each_other


def open_sites(folder: Path, n_hospitals: int) -> dict[int, SiteSettings]:
    """Hospitals from 2 on, whose databases and policies are there; each has a state
    folder of its own.
    """
    os.environ["CONSILIUM_HOME"] = str(folder)
    return pin_each_other(
        {user_id: site(folder, user_id) for user_id in range(2, n_hospitals + 2)}
    )


def site(folder: Path, user_id: int) -> SiteSettings:
    state = folder / f"state-{user_id}"
    database = f"duckdb:///{state / 'hospital.duckdb'}"
    return SiteSettings(
        folder / f"site-{user_id}",
        user_id,
        f"hospital-{user_id}",
        "",
        database,
        state,
    )
