"""A hospital's policy: the one strict model of `policy.toml`, the checks that follow
from it, and what of it is shown.

The agent reads its file with `Policy` (agents.site.policy makes the sentences of what
is wrong in a file). What the coordinator stores and its page shows is `PolicyTold`: the
same rules, and no name of a table, a column or a file. Silence means no: a key that has
no default must be written, and an unknown key is an error.

To read in this order: `keys` (what each key may hold), `order_rules`, `open_rows` and
`statistics_rules` (the sections), `policy_file` (all of them together), `policy` (what
is allowed), `told` (what is shown), `schema` (for editors).
"""

from __future__ import annotations

from protocol.policy.keys import (
    COHORT,
    COHORT_NAME,
    CROSS_CHECK,
    LARGEST_NUMBER,
    Wanted,
)
from protocol.policy.open_rows import NamedCohort, OpenRows, TableRules
from protocol.policy.order_rules import CohortRules, InferenceRules, OrderRules
from protocol.policy.policy import Policy
from protocol.policy.schema import policy_schema
from protocol.policy.statistics_rules import StatisticsRules
from protocol.policy.told import (
    CohortTold,
    InferenceTold,
    OrdersTold,
    PolicyTold,
    StatisticsTold,
)

__all__ = [
    "COHORT",
    "COHORT_NAME",
    "CROSS_CHECK",
    "LARGEST_NUMBER",
    "CohortRules",
    "CohortTold",
    "InferenceRules",
    "InferenceTold",
    "NamedCohort",
    "OpenRows",
    "OrderRules",
    "OrdersTold",
    "Policy",
    "PolicyTold",
    "StatisticsRules",
    "StatisticsTold",
    "TableRules",
    "Wanted",
    "policy_schema",
]
