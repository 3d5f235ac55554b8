"""Lines that an operator reads in Prefect's page under a run: what the coordinator's
flow is at, and at a hospital's run that its log stays there.

Every line is made here of numbers, of words of ours and of what the API tells of the
order. Nothing that an agent has written is among them, no error's sentence either: that
stands in the state of the coordinator's own run. A hospital's process sends no line
anywhere (the gateway has no address for logs); the line at its run is the coordinator's.

Lines are rows in Prefect's database, so there are few: `rounds_told` of a fold's rounds.
They are deleted with their run.

Decision 102.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.runtime import flow_run

from protocol.run_lines import log_line, stays_there
from tasks.coordinator.place import coordinator_client, coordinator_token

log = logging.getLogger("consilium.flows")

ROUNDS_TOLD = 20
"""About so many rounds of a fold have a line."""

QUIET_SECONDS = 15.0
"""Without a new round, before a line says who is waited for."""

MOST_LINES = 200
"""Of one process of a run; an order that goes on for days says no more then."""

# By the cause that GET /orders/{id} gives; a cause of another version has no words.
_CAUSES = {
    "away": "its agent is not connected",
    "disk": "its disk is full",
    "clock": "its clock is wrong",
    "working": "it is at work",
    "approval": "a person there has to decide",
    "full": "all its places are taken",
}


def is_told(round_: int, n_rounds: int) -> bool:
    """Whether a round has a line: the first, the last, and about `ROUNDS_TOLD` between.

    >>> [n for n in range(101) if is_told(n, 100)][:4], is_told(7, 10)
    ([0, 5, 10, 15], True)
    """
    interval = max(1, n_rounds // ROUNDS_TOLD)
    return round_ % interval == 0


def waiting_line(waiting: list[Mapping[str, Any]]) -> str:
    """Who is waited for, by numbers and words of ours; "" for nobody.

    >>> waiting_line([{"user_id": 3, "cause": "away", "message": "x"}])
    'Waiting for hospital 3 (its agent is not connected).'
    """
    waited_for = []
    for entry in waiting:
        user_id = int(entry["user_id"])
        who = f"hospital {user_id}" if user_id else "the coordinator"
        cause = _CAUSES.get(str(entry["cause"]))
        waited_for.append(f"{who} ({cause})" if cause else who)
    return f"Waiting for {', '.join(waited_for)}." if waited_for else ""


class RunLog:
    """The lines of the flow run under way. A Prefect that is away gets none of them, and
    no order waits for it.
    """

    def __init__(self, order_id: int) -> None:
        self._order_id = order_id
        self._run = flow_run.id
        # What an earlier process of this run has said; None before it was asked.
        self._said: set[str] | None = None
        self._n_lines = 0

    def say(self, text: str) -> None:
        """Writes a line, unless this run has it."""
        if not text or self._n_lines >= MOST_LINES or self._run is None:
            return
        with get_client(sync_client=True) as client:
            if self._said is None:
                self._said = _said(client, [UUID(self._run)])
            if text in self._said:
                return
            client.create_logs([log_line(self._run, text)])
        self._said.add(text)
        self._n_lines += 1

    def say_who_is_waited_for(self) -> None:
        self.say(waiting_line(_waiting_for(self._order_id)))


def tell_hospitals_runs(runs: Mapping[str, str]) -> None:
    """One line at each hospital's run, by the hospital's number: where its log is."""
    ids = {user_id: UUID(run_id) for user_id, run_id in runs.items()}
    try:
        with get_client(sync_client=True) as client:
            said_texts = _said(client, list(ids.values()))
            new_lines = []
            for user_id, run_id in ids.items():
                line_text = stays_there(int(user_id))
                if line_text not in said_texts:
                    new_lines.append(log_line(str(run_id), line_text))
            if new_lines:
                client.create_logs(new_lines)
    except Exception as error:  # noqa: BLE001
        # A line is no part of the order.
        log.warning("Prefect has no line at runs (%s)", type(error).__name__)


def _said(client: Any, runs: list[UUID]) -> set[str]:
    log_filter = LogFilter(flow_run_id=LogFilterFlowRunId(any_=runs))
    log_lines = client.read_logs(log_filter=log_filter, limit=MOST_LINES)
    return {str(line.message) for line in log_lines}


def _waiting_for(order_id: int) -> list[Mapping[str, Any]]:
    headers = {"Authorization": f"Bearer {coordinator_token()}"}
    with coordinator_client() as client:
        answer = client.get(
            f"/orders/{order_id}",
            params={"rounds_from": 2**31 - 1},
            headers=headers,
            timeout=10,
        )
        answer.raise_for_status()
    waiting: list[Mapping[str, Any]] = answer.json()["data"]["waiting_for"]
    return waiting
