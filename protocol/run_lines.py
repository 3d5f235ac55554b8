"""Lines that the coordinator writes under a run in Prefect, where both its flow and its
API make runs.

Decision 102.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

INFO = 20
NAME = "consilium"


def log_line(flow_run_id: str, text: str) -> dict[str, Any]:
    """A line as Prefect's server takes it."""
    return {
        "name": NAME,
        "level": INFO,
        "message": text,
        "timestamp": datetime.now(UTC).isoformat(),
        "flow_run_id": flow_run_id,
    }


def stays_there(user_id: int) -> str:
    """What stands at each hospital's run.

    >>> stays_there(2)
    "This run is at hospital 2. Its log stays there, in the agent's own log at the site."
    """
    return f"This run is at hospital {user_id}. Its log stays there, in the agent's own log at the site."
