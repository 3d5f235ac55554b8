"""Arrays that the vault and the snapshots hold come back whole, whoever reads beside."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from agents.site.stored_arrays import decode_arrays, encode_arrays


class _Finalized:
    """Garbage whose end runs Python, where another thread may go on."""

    def __del__(self) -> None:
        for _ in range(20):
            pass


@pytest.fixture
def threads_that_change_often() -> Iterator[None]:
    thresholds = gc.get_threshold()
    interval = sys.getswitchinterval()
    gc.set_threshold(20, 2, 2)
    sys.setswitchinterval(1e-6)
    yield
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("threads_that_change_often")
def test_many_threads_read_arrays_at_once() -> None:
    X = np.arange(6.0).reshape(2, 3)
    data = encode_arrays({"X": X, "y": np.arange(2), "ids": np.zeros(3)})
    errors: list[SystemError] = []

    def read() -> None:
        try:
            for _ in range(500):
                garbage: dict[str, object] = {"object": _Finalized()}
                garbage["itself"] = garbage
                assert np.array_equal(decode_arrays(data)["X"], X)
        except SystemError as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
