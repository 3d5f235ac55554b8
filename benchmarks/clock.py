"""How long something takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def timed(action: Callable[[], T]) -> tuple[float, T]:
    """The seconds that an action took, and its result."""
    # Not time.time: the machine's clock may be set meanwhile.
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result
