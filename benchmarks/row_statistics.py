"""Joint statistics at one hospital of many rows, and the same by hand: what `rows` measures.

At the hospital a question is read, held against the gate's rules and against what left
before, and reserved; the sums are exact. By hand it is one SELECT.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from agents.order.party import UNSENT
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from agents.statistics import pooled
from agents.statistics.party import AskedStatistics
from protocol.policy import Policy
from protocol.statistics_request import StatisticsOrder, StatisticsRequest

_HOSPITALS = (2, 3, 4)
_BINS = [-0.6, -0.3, 0, 0.3, 0.6]

QUESTIONS: dict[str, dict[str, Any]] = {
    "average": {"method": "avg"},
    "variance": {"method": "var"},
    "median": {"method": "median"},
    "histogram": {"method": "histogram", "bins": _BINS},
    "counts": {"method": "frequency", "key_column": "y"},
    "ttest": {"method": "ttest", "group_by": ["y"]},
    "describe": {"method": "describe", "columns": ["x0"], "group_by": ["y"]},
}

_IN_BIN = [
    f"count(*) FILTER (x0 >= {low} AND x0 < {high})" for low, high in pairwise(_BINS)
]
BY_HAND = {
    "average": "SELECT avg(x0) FROM {table}",
    "variance": "SELECT var_samp(x0) FROM {table}",
    "median": "SELECT median(x0) FROM {table}",
    "histogram": f"SELECT {', '.join(_IN_BIN)} FROM {{table}}",
    "counts": "SELECT y, count(*) FROM {table} GROUP BY y",
    "ttest": "SELECT y, count(*), avg(x0), var_samp(x0) FROM {table} GROUP BY y",
    "describe": "SELECT y, count(x0), avg(x0), stddev(x0), min(x0), max(x0) FROM {table}"
    " GROUP BY y",
}


@dataclass(frozen=True)
class _Question(AskedStatistics):
    """A question whose rows are kept where an order's are."""

    @property
    def snapshot(self) -> Path | None:
        return self.settings.state / "rows.parquet"


def read_question(
    settings: SiteSettings, policy: Policy, name: str, *, table: str
) -> None:
    """Reads one of QUESTIONS through the gate; nothing of it leaves."""
    fields = dict(QUESTIONS[name])
    provider = {
        "data_path": table,
        "data_type": "table",
        "key_column": fields.pop("key_column", "x0"),
    }
    providers = [{"name": user, **provider} for user in _HOSPITALS]
    body = {
        "user_id": settings.user_id,
        "data_providers": providers,
        "result_receivers": list(_HOSPITALS),
        **fields,
    }
    request = StatisticsRequest.model_validate(body)
    question = _Question(
        settings=settings,
        policy=policy,
        vault=Vault(settings.vault),
        order_id=UNSENT,
        request=request,
        sql={"data": table},
        order=StatisticsOrder(request=request, commitments={}),
    )
    pooled.read_anew(question)
