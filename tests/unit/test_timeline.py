"""The timeline knows every part that an order can have, and what Prefect's record says
of each.
"""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun

from api.pages.charts import Span, spans
from api.prefect_parts import parts_of
from api.routes.timeline import ORDER_PARTS, ROUND_PARTS, part_names

TASKS = Path(__file__).resolve().parents[2] / "tasks"
START = datetime(2026, 11, 20, 8, tzinfo=UTC)


def steps(*, in_rounds: bool) -> set[str]:
    """The names given to @step, with a second argument where the part belongs to a
    round.
    """
    found = set()
    for path in TASKS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            is_step = (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "step"
            )
            if is_step and (len(node.args) > 1) == in_rounds:
                found.add(ast.literal_eval(node.args[0]))
    return found


@pytest.mark.parametrize(
    ("in_rounds", "parts"), [(True, ROUND_PARTS), (False, ORDER_PARTS)]
)
def test_no_part_is_left_out_and_none_invented(
    in_rounds: bool, parts: tuple[str, ...]
) -> None:
    assert steps(in_rounds=in_rounds) == set(parts)


def test_a_rounds_runs_are_named_after_it() -> None:
    assert "local gradient, round 3" in part_names(3, 0)
    assert "encryption, round 0 of fold 2" in part_names(0, 2)
    assert "acceptances" in part_names(None, 0)


# What Prefect has recorded


def at(seconds: float | None) -> datetime | None:
    return None if seconds is None else START + timedelta(seconds=seconds)


def flow_run(*tags: str, ended: float | None = None) -> FlowRun:
    return FlowRun(
        id=uuid4(),
        flow_id=uuid4(),
        tags=["order-7", *tags],
        start_time=START,
        end_time=at(ended),
    )


def task_run(
    run: UUID, name: str, began: float, ended: float | None, state: str = "COMPLETED"
) -> TaskRun:
    return TaskRun(
        id=uuid4(),
        flow_run_id=run,
        name=name,
        task_key=name,
        dynamic_key="0",
        start_time=at(began),
        end_time=at(ended),
        state_type=StateType(state if ended is not None else "RUNNING"),
    )


def told(tasks: list[TaskRun], runs: list[FlowRun], *, now: float = 3600) -> list[Any]:
    return [
        (
            part.hospital,
            part.name,
            (part.began - START).total_seconds(),
            part.ended and (part.ended - START).total_seconds(),
            part.state,
        )
        for part in parts_of(tasks, runs, now=START + timedelta(seconds=now))
    ]


def test_parts_stand_by_time_with_the_hospital_of_their_run() -> None:
    hospital, coordinator, infer = (
        flow_run("hospital", "hospital-3"),
        flow_run("lr"),
        flow_run("infer", "hospital-4"),
    )
    tasks = [
        task_run(coordinator.id, "aggregation, round 1", 2, 4),
        task_run(hospital.id, "encryption, round 1", 1, 3),
        task_run(infer.id, "inference", 5, 6, "FAILED"),
        task_run(uuid4(), "of a run that is not listed", 0, 1),
    ]
    assert told(tasks, [hospital, coordinator, infer]) == [
        (3, "encryption, round 1", 1, 3, "success"),
        (None, "aggregation, round 1", 2, 4, "success"),
        (4, "inference", 5, 6, "failed"),
    ]


def test_a_part_that_was_cut_off_ends_where_its_flow_went_on() -> None:
    """A killed process leaves its task running in Prefect's record for ever."""
    run, other = flow_run("hospital-2"), flow_run("hospital-3")
    tasks = [task_run(run.id, "approval", 1, None), task_run(run.id, "approval", 9, 10)]
    beside = task_run(other.id, "approval", 5, 6)
    assert told([*tasks, beside], [run, other])[0] == (2, "approval", 1, 9, "crashed")


def test_a_part_that_was_cut_off_at_last_ends_with_its_flow() -> None:
    run = flow_run("hospital-2", ended=7)
    assert told([task_run(run.id, "approval", 1, None)], [run]) == [
        (2, "approval", 1, 7, "crashed")
    ]


def test_a_part_whose_end_is_only_not_written_yet_is_not_cut_off() -> None:
    run = flow_run("hospital-2", ended=7)
    tasks = [
        task_run(run.id, "key agreement", 1, None),
        task_run(run.id, "save model", 5, 6),
    ]
    assert told(tasks, [run], now=8)[0] == (2, "key agreement", 1, None, "running")


def test_a_part_that_runs_has_no_end() -> None:
    run = flow_run("hospital-2")
    assert told([task_run(run.id, "approval", 1, None)], [run]) == [
        (2, "approval", 1, None, "running")
    ]


def test_the_picture_has_a_lane_for_each_and_its_bars_where_they_were() -> None:
    parts = [Span("b", "x", 10, 12), Span("a", "y", 11, 11.5), Span("b", "y", 15, 16)]
    options = spans(parts, x_name="s", is_dark=False)
    assert options["yAxis"]["data"] == ["b", "a"]
    gaps, bars = options["series"][0::2], options["series"][1::2]
    assert [gap["data"] for gap in gaps] == [[0, 1], [3, 0.0]]
    assert [
        [bar and (bar["name"], bar["value"]) for bar in one["data"]] for one in bars
    ] == [
        [("x", 2), ("y", 0.5)],
        [("y", 1), None],
    ]
    assert bars[0]["data"][1]["itemStyle"] == bars[1]["data"][0]["itemStyle"], (
        "one colour for one kind of part"
    )
