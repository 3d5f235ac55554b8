"""The subgroups of an evaluation at one hospital: whose rows they are, and which ones all
hospitals have.

Decision 101.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from agents.gate.levels import check_message, joint_levels
from agents.order.party import say_to_all
from agents.rows.cohort import Cohort
from agents.training.party import AgreedTraining
from agents.training.row_sets import places_of_groups
from analytics.arrays import Ints
from protocol.errors import BadRequest, Refused
from protocol.messages import canonical, read_fields
from protocol.training_request import MOST_GROUPS


def agree_on_groups(order: AgreedTraining, rows: Cohort) -> tuple[str, ...]:
    """The levels of the subgroups over all hospitals, sorted; none without `group_by`.

    Raises BadRequest (code levels) for too many, or numbers at one hospital and texts at
    another; Refused (code min_hospitals) where fewer hospitals have one of this one's
    subgroups than its policy asks for: its sums would be theirs alone.

    Disclosure: the levels that this hospital has, each with min_rows rows, to the other
    parties, sealed; nothing to the coordinator.
    """
    name = order.request.subgroups
    if name is None or rows.groups is None:
        return ()
    own_levels = sorted(set(rows.groups.tolist()))
    message_body = canonical({"levels": {name: own_levels}}).encode()
    messages = say_to_all(order, "levels", lambda: message_body)
    levels_by_user: dict[int, dict[str, list[str]]] = {}
    for user, body in messages.items():
        message_fields = read_fields(body, {"levels": dict})
        levels = message_fields["levels"]
        check_message(levels, [name])
        levels_by_user[user] = levels
    groups = joint_levels([name], levels_by_user)[name]
    if len(groups) > MOST_GROUPS:
        raise BadRequest(
            f"There are more than {MOST_GROUPS} subgroups by {name}.",
            remedy="Merge values in a view, or name another column.",
            code="levels",
        )
    least = order.policy.orders.min_hospitals
    n_of: Counter[str] = Counter()
    for levels in levels_by_user.values():
        n_of.update(levels[name])
    if any(n_of[level] < least for level in own_levels):
        raise Refused(
            f"A subgroup by {name} that this hospital has is one of fewer than {least} hospitals: its sums would be"
            " theirs alone.",
            remedy="Name another column, merge values in a view, or ask the hospital to lower min_hospitals under"
            " [orders] in its policy.toml.",
            code="min_hospitals",
            threshold=least,
        )
    return tuple(groups)


def places_by_level(
    rows: Cohort,
    levels: tuple[str, ...],
) -> list[Ints]:
    """Of each level where its rows are, none where this hospital has none."""
    group_places = places_of_groups(rows)
    nobody = np.zeros(0, dtype=np.int64)
    return [group_places.get(level, nobody) for level in levels]
