"""Which layers of a model are scored together."""

from __future__ import annotations

import pytest

from agents.gate.probes import scored_groups


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ({"dense": 9}, []),
        ({"dense": 10}, [("dense",)]),
        ({"a": 9, "b": 1}, [("a", "b")]),
        ({"a": 10, "b": 9}, [("a", "b")]),
        ({"a": 9, "b": 30, "c": 12}, [("a", "b"), ("c",)]),
        ({"a": 12, "b": 3, "c": 4}, [("a", "b", "c")]),
        ({"a": 3, "b": 3, "c": 3}, []),
    ],
)
def test_every_group_has_ten_coefficients_and_no_layer_is_lost(
    sizes: dict[str, int], groups: list[tuple[str, ...]]
) -> None:
    assert scored_groups(sizes, least=10) == groups
