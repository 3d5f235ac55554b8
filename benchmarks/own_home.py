"""A folder of its own for a federation that a benchmark starts."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

_CHOSEN = (
    "CONSILIUM_API_PORT",
    "CONSILIUM_PREFECT_PORT",
    "CONSILIUM_PREFECT_KEEP_ORDERS",
)
"""What a person has set for the federation in use, and a benchmark's has not."""


@contextlib.contextmanager
def own_home() -> Iterator[None]:
    """CONSILIUM_HOME in a temporary folder; the environment is as before afterwards."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CONSILIUM_HOME"] = folder
        for name in _CHOSEN:
            os.environ.pop(name, None)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
