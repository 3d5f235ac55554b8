"""Arrays as bytes and back: what the vault and the cohorts' snapshots hold.

NumPy's npz without objects, so that nothing in a file is ever run.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# NumPy reads an array's header with Python's parser, whose depth of recursion is one
# number for all threads in Python 3.11: two at once end with SystemError now and then
# ("AST constructor recursion depth mismatch").
_one_reader = threading.Lock()


def encode_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def decode_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Inverse of `encode_arrays`, by any number of threads at once.

    Raises ValueError, OSError, EOFError or zipfile.BadZipFile for other bytes.
    """
    with _one_reader, np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
