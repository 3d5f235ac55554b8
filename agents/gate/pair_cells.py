"""What sums of products of two columns may tell: two-way tables.

The first sums of a Newton order are X'X to a factor, and an entry of two columns of 0
and 1 is how many rows have both. So each cell of each such pair is 0 or min_rows, as in
a table that is asked for.

Decisions 84 and 113.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analytics.arrays import Floats, Ints
from analytics.statistics.tables import smallest_cell
from protocol.errors import Refused

MOST_VALUES = 10
"""A column of more values is no category."""

Column = tuple[str, NDArray[Any]]


def check_event_cells(
    name: str, events: NDArray[Any], *, strata: Sequence[str] = (), min_rows: int
) -> None:
    """Refuse rows of which 1 to min_rows - 1 have the event, or have it not (code
    min_rows): none may, where sums are over events. strata: columns of which the rows
    are one stratum.

    Disclosure: a refusal names the columns, no count.
    """
    n_events = int(np.count_nonzero(events))
    where = _within(strata)
    for n_rows in (n_events, len(events) - n_events):
        if 0 < n_rows < min_rows:
            raise Refused(
                f"Fewer than {min_rows} rows here have one of the two values of {name}{where}, and a Cox order opens"
                " sums over the rows that have it.",
                remedy=f"{_COARSER if strata else ''}Widen the SQL, or ask the hospital to lower min_rows in its"
                " policy.toml.",
                code="min_rows",
                threshold=min_rows,
            )


def check_event_times(
    name: str,
    times: NDArray[Any],
    events: NDArray[Any],
    n_rows: NDArray[Any] | None = None,
    *,
    entries: NDArray[Any] | None = None,
    strata: Sequence[str] = (),
    min_rows: int,
) -> None:
    """Refuse events at fewer than min_rows times, each while min_rows rows or more are at
    risk (code few_event_times).

    A sum over event times is one of fractions, whose denominators are the numbers at risk
    at this hospital: of few times, or few people, it can be taken apart again, and into
    the hospitals that it was added of. n_rows: for how many rows each time stands.
    entries: from when on each row is at risk, (n,); strata: columns of which the rows are
    one stratum.

    Disclosure: a refusal names the columns, no count and no time.
    """
    if min_rows == 1 or not np.any(events):  # switched off, or zeros are added
        return
    weights = np.ones(len(times)) if n_rows is None else n_rows
    different, time_places = np.unique(times, return_inverse=True)
    leaving = np.bincount(time_places, weights=weights)
    at_risk = np.cumsum(leaving[::-1])[::-1]
    if entries is not None:
        # Who comes at that time or later is not there yet, though still to leave.
        has_come = np.searchsorted(np.sort(entries), different, side="left")
        at_risk = at_risk - (len(times) - has_come)
    has_event = np.bincount(time_places, weights=np.asarray(events) != 0) > 0
    if np.count_nonzero(has_event & (at_risk >= min_rows)) < min_rows:
        raise Refused(
            f"Here events stand at fewer than {min_rows} different times of {name}{_within(strata)} while {min_rows}"
            " rows or more are at risk, so that sums over them could be taken apart.",
            remedy=f"{_COARSER if strata else ''}Name a column of finer times, widen the SQL, or ask the hospital to"
            " lower min_rows in its policy.toml.",
            code="few_event_times",
            threshold=min_rows,
        )


def check_weighted_times(
    name: str, weights: Floats, at_risk: Ints, *, min_rows: int
) -> None:
    """Refuse weights by which a sum over event times is nearly that of few of them (code
    few_event_times).

    With w of the times at which min_rows rows are at risk, and v of all, (sum w)^2 must
    be min_rows times sum v^2 or more: so many equal ones would weigh as much.

    weights, at_risk: of each event time, (m,). Equal weights say nothing here.
    Disclosure: as `check_event_times`.
    """
    if min_rows == 1 or not len(weights) or np.all(weights == weights[0]):
        return
    shares = weights / weights.max()
    shares_at_risk = shares[at_risk >= min_rows]
    if float(shares_at_risk.sum() ** 2) < min_rows * float((shares**2).sum()):
        raise Refused(
            f"By their weights the events here stand at the equal of fewer than {min_rows} times of {name} while"
            f" {min_rows} rows or more are at risk, so that sums over them could be taken apart.",
            remedy="Ask with weights logrank, widen the data, or ask the hospital to lower min_rows in its"
            " policy.toml.",
            code="few_event_times",
            threshold=min_rows,
        )


def check_times_as_weights(name: str, times: Floats, *, min_rows: int) -> None:
    """Refuse event times that, as weights, make a sum over events nearly that of few of
    them (code few_event_times). What is added without them is opened, too, so that the
    times less any number weigh as well: they are judged as they are and less their median.

    times: of events, (m,), each time of a stratum once. (sum w)^2 / sum w^2 must be
    min_rows or more. Disclosure: as `check_event_times`.
    """
    if min_rows == 1 or not len(times):  # switched off, or zeros are added
        return
    for middle in (0.0, float(np.median(times))):
        weights = np.abs(times - middle)
        # Where all of them are 0, zeros are added: these tell nothing, and pass.
        shares = weights / max(float(weights.max()), np.finfo(float).tiny)
        if float(shares.sum() ** 2) < min_rows * float((shares**2).sum()):
            raise Refused(
                f"By their times in {name} the events here weigh as fewer than {min_rows} equal ones would, so that"
                " sums of events times the time could be taken apart.",
                remedy="Leave hazards_time out, widen the SQL, or ask the hospital to lower min_rows in its"
                " policy.toml.",
                code="few_event_times",
                threshold=min_rows,
            )


_COARSER = "Name fewer or coarser strata. "


def _within(strata: Sequence[str]) -> str:
    return f" in a stratum of {', '.join(strata)}" if strata else ""


def check_strata(names: Sequence[str], sizes: Sequence[int], *, min_rows: int) -> None:
    """Refuse strata of which one has fewer than min_rows rows (code min_rows): with
    strata and without them the sums would differ by its people's part.

    sizes: of each stratum. Disclosure: a refusal names the columns, no level and no count.
    """
    if names and min(sizes) < min_rows:
        raise Refused(
            f"A stratum of {', '.join(names)} has fewer than {min_rows} rows here, whose part of the sums would be"
            " theirs alone.",
            remedy=f"{_COARSER}Leave the strata out, widen the SQL, or ask the hospital to lower min_rows in its"
            " policy.toml.",
            code="min_rows",
            threshold=min_rows,
        )


def check_intervals(name: str, sizes: Sequence[int] | Ints, *, min_rows: int) -> None:
    """Refuse edges between which 1 to min_rows - 1 rows leave with the event, or without
    (code min_rows): these are counted. sizes: of each such cell.

    Disclosure: a refusal names the column, no count and no time.
    """
    if any(0 < size < min_rows for size in sizes):
        raise Refused(
            f"Between two edges of {name} fewer than {min_rows} rows here have the event, or leave without it.",
            remedy="Give fewer edges, widen the SQL, or ask the hospital to lower min_rows in its policy.toml.",
            code="min_rows",
            threshold=min_rows,
        )


def check_late_entries(name: str, is_late: NDArray[Any], *, min_rows: int) -> None:
    """Refuse entries that keep 1 to min_rows - 1 rows out of a risk set (code min_rows):
    with entries and without them the sums would differ by their part.

    is_late: (n,), who came after an event. Disclosure: a refusal names the column, no
    count.
    """
    if 0 < int(np.count_nonzero(is_late)) < min_rows:
        raise Refused(
            f"By {name} fewer than {min_rows} rows here come after the first event, and what their coming changes would"
            " be theirs alone.",
            remedy="Leave entry_name out, widen the SQL, or ask the hospital to lower min_rows in its policy.toml.",
            code="min_rows",
            threshold=min_rows,
        )


def check_pair_cells(columns: Sequence[Column], *, min_rows: int) -> None:
    """Refuse columns of which two have a cell of 1 to min_rows - 1 rows (code min_rows).

    columns: name and values (n_rows,); one of more than MOST_VALUES values is not
    looked at.

    Disclosure: a refusal names pairs of columns, no value and no count.
    """
    if min_rows == 1:  # switched off
        return
    coded: list[tuple[str, Ints]] = []
    for name, values in columns:
        codes = _coded(values)
        if codes is not None:
            coded.append((name, codes))
    few_pairs = []
    for (name, first_codes), (other_name, second_codes) in combinations(coded, 2):
        if smallest_cell(first_codes, second_codes) < min_rows:
            few_pairs.append(f"{name} and {other_name}")
    if few_pairs:
        raise Refused(
            f"A table of {'; of '.join(few_pairs)} has a cell of fewer than {min_rows} rows here, and a Newton order"
            " opens sums of their products.",
            remedy="Leave one of each pair out or merge values by derive, widen the SQL, order a gradient optimizer, or"
            " ask the hospital to lower min_rows in its policy.toml.",
            code="min_rows",
            threshold=min_rows,
            pairs=few_pairs,
        )


def has_few_pairs(first: NDArray[Any], second: NDArray[Any], *, min_rows: int) -> bool:
    """Whether a cell of these two columns has 1 to min_rows - 1 rows; never of a column
    that `check_pair_cells` does not look at.
    """
    first_codes, second_codes = _coded(first), _coded(second)
    if first_codes is None or second_codes is None or not len(first_codes):
        return False
    return smallest_cell(first_codes, second_codes) < min_rows


def _coded(values: NDArray[Any]) -> Ints | None:
    """The place of each value among them, (n_rows,); None for too many to be a
    category.
    """
    distinct, places = np.unique(values, return_inverse=True)
    return places if len(distinct) <= MOST_VALUES else None
