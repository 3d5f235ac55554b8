"""An order of joint statistics, from the coordinator's side and from a hospital's.

`coordinate_statistics` and `answer_locally` are the order of events; the Prefect flows around them say who takes part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from tasks import hospital, joint_statistics
from tasks.joint_statistics import Desk, StatisticsParty, StatisticsPicture
from tasks.places import at_coordinator, at_hospital, dispatch, withdraw
from tasks.progress import Progress


@flow(name="joint-statistics", log_prints=False, persist_result=False, validate_parameters=True)
def answer_jointly(order_id: int) -> State[Any] | None:
    """The coordinator's run of an order: one hospital run for each party, then sums or shares."""
    with at_coordinator(order_id) as place:
        desk = joint_statistics.open_desk(order_id, place.exchange)
        dispatch(place, "hospital-statistics", desk.hospitals)
        with Progress(StatisticsPicture(desk)) as progress:
            coordinate_statistics(desk, progress.show)
    withdraw(place)
    return place.outcome


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


@flow(name="hospital-statistics", log_prints=False, persist_result=False, validate_parameters=True)
def answer_at_hospital(order_id: int) -> State[Any] | None:
    """One hospital's run of an order."""
    with at_hospital(order_id, StatisticsParty) as place:
        answer_locally(place.party)
    return place.outcome


def answer_locally(party: StatisticsParty) -> None:
    """Verify, ask a person, read, agree on keys; add or join; a receiver keeps the result."""
    hospital.verify_order(party)
    hospital.await_approval(party)
    reading = joint_statistics.read_data(party)
    joint_statistics.agree_on_keys(party, reading)
    answered = joint_statistics.answer(party, reading)
    joint_statistics.keep_result(party, answered)
    hospital.log_times(party)
