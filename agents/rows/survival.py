"""Times and events of a hospital's rows, by group.

Decision 86.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agents.rows.column_text import label_sql, number_of
from agents.rows.dataset import Dataset
from agents.rows.exact_totals import Label
from analytics.arrays import Floats, Ints
from protocol.errors import BadRequest, check_all


class SurvivalRows(NamedTuple):
    """Of each row with a time, an event and a group, (n,)."""

    times: Floats
    is_event: Ints  # 0 or 1
    groups: Ints  # places in labels
    labels: list[Label]


def read_survival(
    dataset: Dataset, time: str, event: str, *, group: str
) -> SurvivalRows:
    """Raises BadRequest (code event_values, time_values), both where both hold.

    Times are doubles: two that differ beyond their digits are one time. Disclosure: one
    number per row; they stay here.
    """
    numbers = [number_of(dataset, time), number_of(dataset, event)]
    complete = " AND ".join(f"{number.cell} IS NOT NULL" for number in numbers)
    label = label_sql(dataset, group)
    found = dataset.arrays(
        f"SELECT {label} AS label, {numbers[0].double} AS time, {numbers[1].double} AS event"  # noqa: S608
        f" FROM rows WHERE {complete} AND {label} IS NOT NULL",
        (),
    )
    times = np.asarray(found["time"], dtype=np.float64)
    events = np.asarray(found["event"], dtype=np.float64)

    def check_events() -> None:
        if not np.isin(events, (0, 1)).all():
            raise BadRequest(
                f"Column {event} has values other than 0 and 1, and says whether there was an event.",
                remedy=f'Derive one, such as "had_event": "{event} = 2".',
                code="event_values",
            )

    def check_times() -> None:
        if not (times > 0).all():
            raise BadRequest(
                f"Column {time} has times of 0 or less.",
                remedy="Leave their rows out by WHERE, or derive times from the day before entry.",
                code="time_values",
            )

    check_all(check_events, check_times)
    texts, places = np.unique(found["label"].astype(str), return_inverse=True)
    labels: list[Label] = [(str(text),) for text in texts]
    return SurvivalRows(times, events.astype(np.int64), places.astype(np.int64), labels)
