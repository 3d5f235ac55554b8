"""The order of events in joint statistics, at the coordinator and at a hospital."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from tasks import hospital, joint_statistics
from tasks.joint_statistics import Desk, StatisticsParty


def coordinate_statistics(desk: Desk, show: Callable[[dict[str, Any]], None]) -> None:
    """Acceptances; sums of pooled rows, or matching and dealing for joined ones; then the receivers hold the result."""
    joint_statistics.collect_acceptances(desk)
    if desk.request.is_joined:
        plan = joint_statistics.agree_on_plan(desk)
        if plan is not None:
            n_rows = joint_statistics.match_keys(desk)
            joint_statistics.deal(desk, plan, n_rows=n_rows, show=show)
    else:
        for round_ in itertools.count():
            if not joint_statistics.add_round(desk, round_, show):
                break
    summary = joint_statistics.collect_reports(desk)
    show({"what": "result", "final": True, **summary})
    desk.exchange.record(desk.order_id, end="success", summary={"statistics": summary})


def answer_locally(party: StatisticsParty) -> None:
    """Verify, ask a person, read, agree on keys; add or join; a receiver keeps the result."""
    hospital.verify_order(party)
    hospital.await_approval(party)
    reading = joint_statistics.read_data(party)
    joint_statistics.agree_on_keys(party, reading)
    answered = joint_statistics.answer(party, reading)
    joint_statistics.keep_result(party, answered)
    hospital.log_times(party)
