"""The lines under a run in Prefect: few, of numbers and words of ours, each once."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.demo.training import document_order
from protocol.training_request import parse_training_request
from tasks.coordinator import run_log
from tasks.coordinator.progress import TrainingPicture

RUN = str(uuid.uuid4())
AGENTS_TEXT = "a text that an agent has written"


class Prefect:
    """What is asked of Prefect's server about logs."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.is_away = False

    def create_logs(self, lines: list[dict[str, Any]]) -> None:
        if self.is_away:
            raise ConnectionError
        self.lines += lines

    def read_logs(self, **_: Any) -> list[Any]:
        if self.is_away:
            raise ConnectionError
        return [SimpleNamespace(message=line["message"]) for line in self.lines]

    @property
    def texts(self) -> list[str]:
        return [line["message"] for line in self.lines]


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> Prefect:
    server = Prefect()

    @contextlib.contextmanager
    def client(**_: Any) -> Iterator[Prefect]:
        yield server

    monkeypatch.setattr(run_log, "get_client", client)
    monkeypatch.setattr(run_log, "flow_run", SimpleNamespace(id=RUN))
    return server


def picture(rounds: int) -> TrainingPicture:
    order: Any = SimpleNamespace(
        order_id=37, request=parse_training_request(document_order(rounds=rounds))
    )
    return TrainingPicture(order)


@pytest.mark.parametrize(("n_rounds", "most"), [(1, 3), (10, 12), (1000, 23)])
def test_an_order_of_many_rounds_has_few_lines(n_rounds: int, most: int) -> None:
    drawn = picture(n_rounds)
    lines = []
    for n in range(n_rounds + 1):
        record = {"fold": 0, "round": n, "loss": 0.5, "final": n == n_rounds}
        lines.append(drawn.line(record))
    said = [line for line in lines if line]
    assert 2 <= len(said) <= most
    assert said[0] == f"Round 0 of at most {n_rounds}, loss 0.5."
    assert said[-1] == f"Round {n_rounds}, loss 0.5: training has ended."


def test_a_withheld_loss_is_not_said() -> None:
    record = {"fold": 2, "round": 0, "loss": None, "final": False}
    assert picture(5).line(record) == "Fold 2, round 0 of at most 5."


def test_nothing_that_an_agent_has_written_is_in_a_line() -> None:
    """Neither a report's other fields, nor the message of whom is waited for."""
    record = {
        "fold": 0,
        "round": 0,
        "loss": 0.5,
        "final": False,
        "left_out": {"2": AGENTS_TEXT},
        "hospitals": {"2": {"n_rows": 5, AGENTS_TEXT: AGENTS_TEXT}},
        "notes": [AGENTS_TEXT],
    }
    assert AGENTS_TEXT not in picture(5).line(record)
    waiting = [
        {"user_id": 2, "cause": AGENTS_TEXT, "message": AGENTS_TEXT, "name": "x"}
    ]
    assert run_log.waiting_line(waiting) == "Waiting for hospital 2."


def test_a_run_that_is_begun_again_says_nothing_twice(prefect: Prefect) -> None:
    for _ in range(2):
        log = run_log.RunLog(37)
        log.say("Round 0 of at most 5.")
        log.say("Round 0 of at most 5.")
        log.say("")
    assert prefect.texts == ["Round 0 of at most 5."]
    assert prefect.lines[0]["flow_run_id"] == RUN


def test_a_process_says_no_more_than_so_many_lines(prefect: Prefect) -> None:
    log = run_log.RunLog(37)
    for n in range(run_log.MOST_LINES + 5):
        log.say(f"Round {n}.")
    assert len(prefect.lines) == run_log.MOST_LINES


def test_each_hospitals_run_has_one_line(prefect: Prefect) -> None:
    runs = {str(user): str(uuid.uuid4()) for user in (2, 3, 4)}
    for _ in range(2):
        run_log.tell_hospitals_runs(runs)
    assert {line["flow_run_id"] for line in prefect.lines} == set(runs.values())
    assert len(prefect.lines) == 3
    for user, run in runs.items():
        (text,) = [
            line["message"] for line in prefect.lines if line["flow_run_id"] == run
        ]
        assert text.startswith(f"This run is at hospital {user}. Its log stays there")


def test_a_prefect_that_is_away_holds_no_order_up(prefect: Prefect) -> None:
    prefect.is_away = True
    run_log.tell_hospitals_runs({"2": str(uuid.uuid4())})
    assert prefect.lines == []
