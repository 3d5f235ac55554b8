"""Whole orders of several hospitals in one process, in which nobody crashes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.made_plans import held_against_the_plan
from tests.made_statistics import no_waiting_for_disks


@pytest.fixture(autouse=True, scope="module")
def without_waiting() -> Iterator[None]:
    """An order over five hospitals writes some hundred files that must be on disk."""
    with no_waiting_for_disks():
        yield


@pytest.fixture(autouse=True)
def as_planned() -> Iterator[None]:
    """What the coordinator would not take, no hospital sends."""
    with held_against_the_plan():
        yield
