"""The four hospitals of the study's demonstration: folders with settings and policies
of their own, and their tables.

Their state is that of the hospitals of the same names in `./run up`, so that keys and
memories are, too.
"""

from __future__ import annotations

from collections.abc import Mapping

from agents.site.settings import SiteSettings, load_settings
from api.settings import CoordinatorSettings
from deployments.demo.study_data import HOSPITALS, put_tables, schema_of, study_tables
from deployments.local.sites import NAMED, join
from deployments.state import write_secret

FOURTH = "hospital-5"
INITIATOR = 4
READER = "demo"

# Real hospitals keep what is not said here: nothing is open but this study.
_POLICY = """\
[orders]
initiators = [2, 3, 4, 5]
receivers = [2, 3, 4, 5]
methods = ["Mask"]
model_types = ["lr", "linear", "glm", "cox"]
sign = true
min_hospitals = 3

[cohort]
min_rows = 10
# The evaluation has one hospital more than the models: these data are public.
regroup = true

[tables."{schema}.patients"]
columns = ["*"]
unique_id = "id"

[tables."{schema}.followup"]
columns = ["*"]
unique_id = "id"

[statistics]
methods = ["describe", "kaplan_meier", "logrank"]
min_providers = 3
min_rows = 10
cells = "pooled"
regroup = true
"""


def study_sites(
    settings: CoordinatorSettings, databases: Mapping[int, str]
) -> list[SiteSettings]:
    """Makes all that the four need; databases: by hospital the address of one that is
    no DuckDB file.
    """
    tables = study_tables()
    sites = []
    for user_id, name in zip(HOSPITALS, (*NAMED, FOURTH), strict=True):
        folder = settings.home / "study-folders" / name
        url = databases.get(user_id, "duckdb:///{state}/study.duckdb")
        lines = [f"user_id = {user_id}", f'name = "{name}"', f'data_url = "{url}"']
        # For its owner alone: an address of a database may have a password in it.
        write_secret(folder / "settings.toml", "\n".join(lines) + "\n")
        policy = _POLICY.format(schema=schema_of(url))
        write_secret(folder / "policy.toml", policy)
        site = load_settings(folder)
        put_tables(site.data_url, tables[user_id])
        sites.append(site)
    join(settings, sites)
    return sites
