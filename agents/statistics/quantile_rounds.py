"""Quantiles of pooled rows, by rounds of joint counts below pivots (decision 43).

The first receiver names pivots for every group, the providers count their rows below
each, and the openers of the sum narrow the search. `analytics/statistics/quantiles.py`
has the search itself: which pivots follow from which counts, and when it ends.

Decision 60.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from agents.gate.disclosure import Label
from agents.order.party import receive, send
from agents.rows import exact_totals
from agents.rows.dataset import Dataset
from agents.statistics.answer import Answer, grouped_answer
from agents.statistics.groups import Agreed
from agents.statistics.party import (
    AgreedStatistics,
    Reading,
    VerifiedStatistics,
    open_data,
)
from agents.statistics.sums import COUNT_BITS, Sums, end_sums, shown_tallies
from analytics.statistics.exact import Number
from analytics.statistics.quantiles import (
    Pivots,
    Search,
    interpolated,
    interpolated_whole,
    quantile_ranks,
)
from protocol.errors import BadRequest, ProtocolViolation
from protocol.messages import EVERYONE
from protocol.policy import StatisticsRules
from protocol.statistics_request import RANKED, StatisticsRequest

_WHOLE_BYTES = 9
"""Of a pivot among whole numbers: 64 bits, signed or not, are 65 with their sign."""

MOST_SEARCHED = 2_000
"""Values of one order that are searched at once, groups times quantiles.

Each takes 126 counts a round.
"""

OUTER = 0.05
"""The quantile that is shown in the place of an extreme, from either end."""


def rank(
    party: AgreedStatistics, reading: Reading | None, agreed: Agreed, sums: Sums
) -> Answer | None:
    """Rounds of counts, until every value is found as finely as the policies allow.

    Disclosure: the pivots, and the joint counts of rows below them, to the order's
    hospitals, providers and receivers alike: a provider knows from them how many rows
    the others have below each pivot, together. No count is of another pivot than the
    policies of all providers allow, whatever another hospital asks.
    """
    request = party.request
    shown = agreed.shown
    if not shown:
        end_sums(party, round=0)
        if not party.is_receiver:
            return None
        return grouped_answer(request, {}, agreed.withheld)
    n_searched = len(shown) * len(_shares(request, agreed))
    if n_searched > MOST_SEARCHED:
        raise BadRequest(
            f"group_by and quantile ask for more than {MOST_SEARCHED} values.",
            remedy="Group by columns with fewer different values, or ask for fewer quantiles.",
            code="group_by",
        )
    # Round 0: how many rows each group has, at which every search begins.
    own_n_rows = functools.partial(shown_tallies, request, reading, agreed)
    n_rows = sums.add(own_n_rows, count=len(shown), width=COUNT_BITS, round=0)
    searches = [_search(request, agreed, n) for n in n_rows]
    with _open_ranked(party, reading) as dataset:
        for round_ in itertools.count(1):
            agreed_pivots = _agree_on_pivots(party, searches, round_)
            pivots = dict(zip(shown, agreed_pivots, strict=True))
            n_pivots = sum(len(of_group) for of_group in agreed_pivots)
            # After MOST_ROUNDS of the search at the latest.
            if n_pivots == 0:
                break
            count_below = functools.partial(_count_below, party, dataset, pivots)
            counts = sums.add(
                count_below, count=n_pivots, width=COUNT_BITS, round=round_
            )
            # The counts of all groups come as one list, a group after the other.
            begin = 0
            for search, of_group in zip(searches, agreed_pivots, strict=True):
                end = begin + len(of_group)
                _narrow(search, counts[begin:end])
                begin = end
    end_sums(party, round=round_)
    if not party.is_receiver:
        return None
    return ranked_answer(request, agreed, searches, n_rows)


# What is searched, and how finely


def _shares(
    request: StatisticsRequest, agreed: Agreed | StatisticsRules
) -> list[float]:
    """Which quantiles are searched.

    An extreme is one person's value, and only searched where all policies allow it.
    """
    if request.quantile is not None:
        return request.quantile
    if request.method == "median":
        return [0.5]
    outer = 0.0 if agreed.extremes else OUTER
    if request.method == "min":
        return [outer]
    return [1 - outer]


def _search(request: StatisticsRequest, agreed: Agreed, n_rows: int) -> Search:
    """The search of one group, which every hospital makes alike."""
    ranks = set()
    for share in _shares(request, agreed):
        low, high, _ = quantile_ranks(share, n_rows)
        ranks |= {low, high}
    if shows_values(request, agreed):
        return Search(sorted(ranks), n_rows=n_rows, whole=agreed.whole)
    # It ends while min_rows rows lie in a bracket, so that no single value is found.
    return Search(sorted(ranks), n_rows=n_rows, min_rows=agreed.min_rows)


def shows_values(request: StatisticsRequest, agreed: Agreed | StatisticsRules) -> bool:
    """Whether all rules, or one hospital's, let values at single places be known.

    Extremes and exact quantiles are allowed one by one; a quantile near an end is as
    good as an extreme. What one hospital does not allow, all together do not either.
    """
    if request.method not in RANKED:
        return False
    if request.method in ("min", "max"):
        return agreed.extremes or agreed.exact_quantiles
    if not agreed.exact_quantiles:
        return False
    if agreed.extremes:
        return True
    shares = _shares(request, agreed)
    return all(OUTER <= share <= 1 - OUTER for share in shares)


# A round's pivots


def _agree_on_pivots(
    party: AgreedStatistics, searches: Sequence[Search], round_: int
) -> list[Pivots]:
    """The round's pivots, as the first receiver names them; none ends the rounds.

    ProtocolViolation (code bad_message) for all pivots but the ones that follow from
    the rounds before: more of them, others, or a round after the last.
    """
    driver = party.request.receivers[0]
    own_pivots = [search.pivots() for search in searches]
    if party.me == driver:
        send(
            party,
            "pivots",
            lambda: _encode(own_pivots),
            recipient=EVERYONE,
            round=round_,
        )
    message = receive(party, "pivots", driver, EVERYONE, round=round_)
    pivots = _decode(message, whole=searches[0].whole)
    # Whoever counts or opens has searched along. Without this comparison the driver
    # could ask where one person's value lies, as finely as it likes.
    named = [of_group.tolist() for of_group in pivots]
    expected = [of_group.tolist() for of_group in own_pivots]
    if named != expected:
        raise _bad_pivots()
    return pivots


def _bad_pivots() -> ProtocolViolation:
    return ProtocolViolation(
        "A round's pivots are not those that follow from the round before.",
        remedy="Run the same version at all hospitals, and send the order again.",
        code="bad_message",
    )


def _encode(pivots: Sequence[Pivots]) -> bytes:
    """For each group how many (u32), then each; big-endian.

    A pivot is a float64 or, of a search among whole numbers, a signed integer of 9
    bytes.
    """
    parts = []
    for of_group in pivots:
        parts.append(struct.pack(">I", len(of_group)))
        parts.append(_encode_group(of_group))
    return b"".join(parts)


def _encode_group(pivots: Pivots) -> bytes:
    is_whole = pivots.dtype == object
    if not is_whole:
        return pivots.astype(">f8").tobytes()
    parts = []
    for pivot in pivots:
        parts.append(pivot.to_bytes(_WHOLE_BYTES, "big", signed=True))
    return b"".join(parts)


def _decode(data: bytes, *, whole: bool = False) -> list[Pivots]:
    """The pivots of each group.

    `whole` is what the hospital's own search is among: pivots of the other kind do not
    follow from it.
    """
    pivot_bytes = _WHOLE_BYTES if whole else 8
    pivots = []
    at = 0
    while at < len(data):
        n_pivots = int.from_bytes(data[at : at + 4], "big")
        begin = at + 4
        at = begin + n_pivots * pivot_bytes
        if at > len(data):
            raise _bad_pivots()
        pivots.append(_decode_group(data[begin:at], whole=whole))
    return pivots


def _decode_group(data: bytes, *, whole: bool) -> Pivots:
    if not whole:
        return np.frombuffer(data, dtype=">f8").astype(np.float64)
    pivots = []
    for at in range(0, len(data), _WHOLE_BYTES):
        number = data[at : at + _WHOLE_BYTES]
        pivots.append(int.from_bytes(number, "big", signed=True))
    return np.array(pivots, dtype=object)


# A round's counts


def _open_ranked(
    party: VerifiedStatistics, reading: Reading | None
) -> AbstractContextManager[Dataset | None]:
    """A provider's data, open for all rounds; None at a receiver that provides none."""
    if reading is None:
        return nullcontext()
    return open_data(party, again=True, levels=reading.levels)


def _count_below(
    party: VerifiedStatistics, dataset: Dataset | None, pivots: dict[Label, Pivots]
) -> list[int]:
    """How many of this provider's rows lie below each pivot, a group after the other."""
    assert dataset is not None
    column = party.request.provider(party.me).key_column
    group_by = party.request.group_by or []
    is_whole = any(of_group.dtype == object for of_group in pivots.values())
    if is_whole:
        whole_pivots = {label: of_group.tolist() for label, of_group in pivots.items()}
        found = exact_totals.whole_counts_below(
            dataset, column, whole_pivots, group_by=group_by
        )
    else:
        found = exact_totals.counts_below(dataset, column, pivots, group_by=group_by)
    counts: list[int] = []
    for label in pivots:
        counts += found[label].tolist()
    return counts


def _narrow(search: Search, counts: Sequence[int]) -> None:
    """ProtocolViolation (code bad_message) for counts that no rows have: one of the
    providers has made them up.
    """
    try:
        search.narrow(counts)
    except ValueError:
        raise ProtocolViolation(
            "A round's joint counts are not those of any rows.",
            remedy="Run the same version at all hospitals, and send the order again.",
            code="bad_message",
        ) from None


# Finishing, at the receivers


def ranked_answer(
    request: StatisticsRequest,
    agreed: Agreed,
    searches: Sequence[Search],
    n_rows: Sequence[int],
) -> Answer:
    """The answer from ended searches, one for each shown group, with notes."""
    shares = _shares(request, agreed)
    rows: dict[Label, list[tuple[Number | None, ...]]] = {}
    all_exact = True
    all_shown = True
    for label, search, n_group_rows in zip(agreed.shown, searches, n_rows, strict=True):
        rows[label] = []
        is_shown = n_group_rows >= search.min_rows
        all_shown = all_shown and is_shown
        for share in shares:
            found = _between(search, share, n_group_rows)
            all_exact = all_exact and found.is_exact
            value = found.value if is_shown else None
            if request.method == "quantile":
                rows[label].append((share, value))
            else:
                rows[label].append((value,))
    answer = grouped_answer(request, rows, agreed.withheld)
    notes = answer.notes
    if not all_exact:
        notes.append(
            f"Values are told as finely as {agreed.min_rows} rows allow: each is the middle of where so many rows lie."
        )
    if not all_shown:
        notes.append(f"Among fewer than {agreed.min_rows} rows no place is told.")
    if len(request.providers) == 2:
        notes.append(
            "Each of the two providers knows how many rows of the other lie below every value that was searched at."
        )
    if request.method in ("min", "max") and not agreed.extremes:
        notes.append(
            f"{request.method} is told as the {shares[0]:g} quantile: a policy keeps single values back."
        )
    return answer


@dataclass(frozen=True)
class _Quantile:
    """One quantile of a group, as finely as its search has ended."""

    value: Number
    is_exact: bool


def _between(search: Search, share: float, n_rows: int) -> _Quantile:
    """A quantile, between the values at the two ranks beside it."""
    low_rank, high_rank, place = quantile_ranks(share, n_rows)
    low = search.found(low_rank)
    high = search.found(high_rank)
    if search.whole:
        # Such a search is for values alone, so that it ends at both.
        value = interpolated_whole(int(low.value), int(high.value), share, n_rows)
        return _Quantile(value, is_exact=True)
    return _Quantile(
        value=interpolated(low.value, high.value, place),
        is_exact=low.is_exact and high.is_exact,
    )
