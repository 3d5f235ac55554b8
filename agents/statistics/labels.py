"""What names a row of a pooled answer: the values of its groups, of the event, and of what
is counted, with bins in the order of their edges.

Names are texts that other hospitals state. What no rows of the question can have would
end as a row that nobody has, or in the middle of a computation; `check_stated` refuses it.
"""

from __future__ import annotations

from collections.abc import Iterable

from agents.gate.withheld_groups import Hidden, Label
from protocol.errors import ProtocolViolation
from protocol.messages import bad_message
from protocol.statistics_request import StatisticsRequest

CENSORED, EVENT = "0", "1"
"""The two texts of an event column."""


def n_label_columns(request: StatisticsRequest) -> int:
    """How many columns name a row of the answer: the groups', and what is counted."""
    n_group_columns = len(request.grouping)
    if request.counted_as == "crosstab":
        return n_group_columns + 2
    if request.counted_as in ("histogram", "frequency"):
        return n_group_columns + 1
    return n_group_columns


def bin_label(place: int) -> str:
    """The label of a bin; labels are sorted as text."""
    # With zeros in front: as texts 10 would come before 2.
    return f"{place:04}"


def bin_labels(request: StatisticsRequest) -> list[str]:
    """Of all bins: below the first edge, between each two, and above the last."""
    assert request.bins is not None
    return [bin_label(bin_place) for bin_place in range(len(request.bins) + 1)]


def check_stated(
    request: StatisticsRequest, stated: Iterable[Iterable[Label | Hidden]]
) -> None:
    """ProtocolViolation (code bad_message) for a name that no row of the question has: a
    bin that its edges do not make, an event other than 0 and 1, or no value where such
    rows are left out.

    stated: the names of each provider's groups, of `n_label_columns` values.
    """
    for stated_labels in stated:
        for label in stated_labels:
            if isinstance(label, Hidden):
                continue
            problem = _problem(request, label)
            if problem is not None:
                raise problem


def _problem(request: StatisticsRequest, label: Label) -> ProtocolViolation | None:
    if request.is_binned and label[-1] not in bin_labels(request):
        return bad_message("states a bin that the histogram does not have")
    if request.event_name is not None:
        event_place = len(request.grouping) - 1
        if label[event_place] not in (CENSORED, EVENT):
            return bad_message("states an event that is neither 0 nor 1")
    # The mean of a category is of rows with a value.
    leaves_out = request.is_share or request.rows.missing in ("drop", "refuse")
    if leaves_out and None in label:
        return bad_message("states rows without a value, which the question leaves out")
    return None
