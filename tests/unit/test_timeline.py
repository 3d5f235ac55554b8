"""The timeline knows every part that an order can have, by the names that their runs have in Prefect."""

import ast
from pathlib import Path

import pytest

from api.timeline import ORDER_PARTS, ROUND_PARTS, part_names

TASKS = Path(__file__).resolve().parents[2] / "tasks"


def steps(*, in_rounds: bool) -> set[str]:
    """The names given to @step, with a second argument where the part belongs to a round."""
    found = set()
    for path in TASKS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            is_step = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "step"
            if is_step and (len(node.args) > 1) == in_rounds:
                found.add(ast.literal_eval(node.args[0]))
    return found


@pytest.mark.parametrize(("in_rounds", "parts"), [(True, ROUND_PARTS), (False, ORDER_PARTS)])
def test_no_part_is_left_out_and_none_invented(in_rounds: bool, parts: tuple[str, ...]) -> None:
    assert steps(in_rounds=in_rounds) == set(parts)


def test_a_rounds_runs_are_named_after_it() -> None:
    assert part_names(3, 0)["local gradient, round 3"] == "local gradient"
    assert part_names(0, 2)["encryption, round 0 of fold 2"] == "encryption"
    assert part_names(None, 0)["acceptances"] == "acceptances"
