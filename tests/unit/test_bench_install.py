"""What the benchmark of installing counts of a peer that it only resolves."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.install import Resolved, resolved, resolved_line

WHEEL = 'wheels = [{ url = "https://a/one.whl", size = 1_500_000_000, hashes = {} }]'
SDIST = 'sdist = { url = "https://a/two.tar.gz", size = 30_000, hashes = {} }'


@pytest.mark.parametrize(
    ("second", "n_bytes", "without_wheel"),
    [
        (SDIST, 1_500_030_000, ("two",)),
        # Of a package with both, an installer takes the wheel.
        (f"{SDIST}\n{WHEEL}", 3_000_000_000, ()),
    ],
)
def test_what_would_be_fetched_is_added_up(
    second: str, n_bytes: int, without_wheel: tuple[str, ...]
) -> None:
    text = f"""
lock-version = "1.0"
[[packages]]
name = "one"
{WHEEL}
[[packages]]
name = "two"
{second}
"""
    assert resolved(text) == Resolved(2, n_bytes, without_wheel)


def test_a_line_says_that_nothing_was_installed() -> None:
    line = resolved_line(Resolved(85, 3_501_751_909, ("validators",)))
    words = "85 not installed: 3.5 GB to fetch; without a wheel: validators"
    assert " ".join(line.split()) == words
    assert resolved_line(Resolved(1, 0, ())).endswith("without a wheel: none")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_there_to_be_named(name: str) -> None:
    """One that cannot be imported would take all the others with it."""
    assert callable(BENCHMARKS[name])
