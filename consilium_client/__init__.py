"""The client for notebooks under a name of its own, as it is installed: `from
consilium_client import Federation`.

In a checkout it is api/client, which stays importable where both are installed.
"""

from api.client import (
    STUDY,
    Federation,
    Order,
    Schedule,
    Scores,
    StatisticsResult,
)
from protocol import VERSION as __version__

__all__ = [
    "STUDY",
    "Federation",
    "Order",
    "Schedule",
    "Scores",
    "StatisticsResult",
    "__version__",
]
