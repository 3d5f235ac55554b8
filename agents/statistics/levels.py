"""The levels of a question's categories: which of them all hospitals name alike.

As of a model's (`agents/gate/levels.py`): what no hospital has min_rows rows of is one
level, `other`. Rows are read once more then, from the snapshot, with these levels as
their groups.

Decisions 78 and 81.
"""

from __future__ import annotations

from agents.gate import disclosure
from agents.gate.levels import (
    check_message,
    columns_with_others,
    joint_levels,
    named_levels,
    read_others,
)
from agents.order.party import receive_all, send
from agents.rows import row_groups
from agents.rows.dataset import Dataset
from agents.rows.features import check_levels
from agents.statistics.party import (
    AgreedStatistics,
    AskedStatistics,
)
from agents.statistics.readings import (
    Reading,
    open_data,
)
from protocol.messages import EVERYONE, canonical, read_fields


def own_levels(party: AskedStatistics) -> Reading:
    """How many of this provider's rows have each level of its categories; the rows are
    kept as they were read.

    Raises Refused (code min_rows) and BadRequest (code levels) for too many or too long
    ones. Disclosure: counts of rows; they stay here.
    """
    with open_data(party, again=True) as dataset:
        disclosure.check_rows(dataset.n_rows, party.rules)
        counts = {}
        for column in party.request.rows.categorical:
            counts[column] = _counts(dataset, column)
    return Reading(n_rows=dataset.n_rows, level_counts=counts)


def _counts(dataset: Dataset, name: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for (level,), n_rows in row_groups.counts(dataset, [name]).items():
        if level is not None:
            counts[level] = n_rows
    check_levels(
        name,
        counts,
        remedy="Leave it out of categorical, or derive fewer values of it.",
    )
    return counts


def agree_on_levels(
    party: AgreedStatistics, reading: Reading | None
) -> dict[str, tuple[str, ...]]:
    """By category the levels that are named, the same at every hospital; all rows of
    others are of the level `other`.

    Raises BadRequest (code levels) for numbers at one hospital and texts at another, and
    Refused (code rare_levels) where this hospital has a few rows of others.

    Disclosure: to the order's hospitals, sealed: the levels that this one has min_rows
    rows of, and of which columns it has rows of others, min_rows or more.
    """
    request = party.request
    columns = request.rows.categorical
    if reading is not None:
        named = named_levels(reading.level_counts, party.rules.min_rows)
        levels_body = canonical({"levels": named}).encode()
        send(party, "levels", lambda: levels_body, recipient=EVERYONE)
    messages = receive_all(party, "levels", request.providers, EVERYONE)
    named_by = {}
    for provider, message_body in messages.items():
        named_by[provider] = read_fields(message_body, {"levels": dict})["levels"]
        check_message(named_by[provider], columns)
    union = joint_levels(columns, named_by)
    if reading is not None:
        with_others = columns_with_others(
            reading.level_counts,
            union,
            min_rows=party.rules.min_rows,
            refuses_any=party.policy.cohort.rare_levels == "refuse",
        )
        others_body = canonical({"columns": with_others}).encode()
        send(party, "other_levels", lambda: others_body, recipient=EVERYONE)
    # Nobody adds anything before all have found that none has a few of them.
    bodies = receive_all(party, "other_levels", request.providers, EVERYONE)
    read_others(bodies, columns)
    return {column: tuple(levels) for column, levels in union.items()}
