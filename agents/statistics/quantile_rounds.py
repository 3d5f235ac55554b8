"""Quantiles of pooled rows: rounds of joint counts below pivots, at a provider and at a receiver."""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from agents.gate.disclosure import Label
from agents.order.party import receive, send
from agents.rows import exact_totals
from agents.rows.dataset import Dataset
from agents.statistics.answer import Answer, grouped_answer
from agents.statistics.groups import Agreed
from agents.statistics.party import Reading, StatisticsParty, columns_of, open_data
from agents.statistics.sums import COUNT_BITS, Sums, end_sums, occurrences_or_numbers
from analytics.statistics.exact import Number
from analytics.statistics.quantiles import Pivots, Search, interpolated, interpolated_whole, quantile_ranks
from protocol.errors import BadRequest, ProtocolViolation
from protocol.messages import EVERYONE
from protocol.policy import StatisticsRules
from protocol.statistics_request import RANKED, StatisticsRequest

_WHOLE_BYTES = 9  # of a pivot: whole numbers of 64 bits, signed or not, have 65 with their sign


MOST_SEARCHED = 2_000
"""Values of one order that are searched at once, groups times quantiles: each takes 126 counts a round."""


OUTER = 0.05
"""What is told in the place of an extreme: this quantile, and the one as far from the other end."""


def rank(party: StatisticsParty, reading: Reading | None, agreed: Agreed, sums: Sums) -> Answer | None:
    """Rounds of joint counts below pivots, until every wanted value is found as finely as the policies allow.

    Disclosure: the pivots, and the joint counts of rows below them, to the order's hospitals, providers and receivers
    alike: a provider knows from them how many rows the others have below each pivot, together. No count is of another
    pivot than the policies of all providers allow, whatever another hospital asks.
    """
    request, shown = party.request, agreed.shown
    if not shown:
        end_sums(party, round=0)
        return grouped_answer(request, {}, agreed.withheld) if party.is_receiver else None
    if len(shown) * len(_shares(request, agreed)) > MOST_SEARCHED:
        raise BadRequest(
            f"group_by and quantile ask for more than {MOST_SEARCHED} values.",
            remedy="Group by columns with fewer different values, or ask for fewer quantiles.",
            code="group_by",
        )
    n_rows = sums.add(
        lambda: occurrences_or_numbers(request, reading, agreed), count=len(shown), width=COUNT_BITS, round=0
    )
    searches = [_search(request, agreed, n) for n in n_rows]
    with _open_ranked(party) as dataset:
        for round_ in itertools.count(1):
            pivots = dict(zip(shown, _agree_on_pivots(party, searches, round_), strict=True))
            n_pivots = sum(map(len, pivots.values()))
            if not n_pivots:  # after MOST_ROUNDS of the search at the latest
                break
            below = functools.partial(_count_below, party, dataset, pivots)
            counts = iter(sums.add(below, count=n_pivots, width=COUNT_BITS, round=round_))
            for search, label in zip(searches, shown, strict=True):
                _narrow(search, list(itertools.islice(counts, len(pivots[label]))))
    end_sums(party, round=round_)
    return ranked_answer(request, agreed, searches, n_rows) if party.is_receiver else None


def _shares(request: StatisticsRequest, agreed: Agreed | StatisticsRules) -> list[float]:
    """Which quantiles are searched: an extreme is told only where all policies allow it."""
    if request.quantile is not None:
        return request.quantile
    outer = 0.0 if agreed.extremes else OUTER
    return {"median": [0.5], "min": [outer], "max": [1 - outer]}[request.method]


def _search(request: StatisticsRequest, agreed: Agreed, n_rows: int) -> Search:
    shares = _shares(request, agreed)
    ranks = {rank for share in shares for rank in quantile_ranks(share, n_rows)[:2]}
    if not _tells_values(request, agreed):
        return Search(sorted(ranks), n_rows=n_rows, min_rows=agreed.min_rows)
    return Search(sorted(ranks), n_rows=n_rows, whole=agreed.whole)


def _tells_values(request: StatisticsRequest, agreed: Agreed | StatisticsRules) -> bool:
    """Whether all rules, or those of one hospital, let the values at single places be told.

    Extremes and exact quantiles are allowed one by one; a quantile near an end is as good as an extreme. What one
    hospital does not allow, all together do not either.
    """
    if request.method not in RANKED:
        return False
    shares = _shares(request, agreed)
    if request.method in ("min", "max"):
        return agreed.extremes or agreed.exact_quantiles
    has_extremes = any(not OUTER <= share <= 1 - OUTER for share in shares)
    return agreed.exact_quantiles and (agreed.extremes or not has_extremes)


def _agree_on_pivots(party: StatisticsParty, searches: Sequence[Search], round_: int) -> list[Pivots]:
    """The first receiver names the round's pivots; an empty list for each group ends the rounds.

    Whoever counts or opens has searched along, and refuses all pivots but the ones that follow: more of them, others,
    or a round after the last (code bad_message).
    """
    driver = party.request.receivers[0]
    if party.me == driver:
        send(
            party, "pivots", lambda: _encode([s.pivots() for s in searches]), recipient=EVERYONE, round=round_
        )
    pivots = _decode(receive(party, "pivots", driver, EVERYONE, round=round_), whole=searches[0].whole)
    if [one.tolist() for one in pivots] != [search.pivots().tolist() for search in searches]:
        raise _bad_pivots()
    return pivots


def _narrow(search: Search, counts: Sequence[int]) -> None:
    """ProtocolViolation (code bad_message) for counts that no rows have: one of the providers has made them up."""
    try:
        search.narrow(counts)
    except ValueError:
        raise ProtocolViolation(
            "A round's joint counts are not those of any rows.",
            remedy="Run the same version at all hospitals, and send the order again.",
            code="bad_message",
        ) from None


def _encode(pivots: Sequence[Pivots]) -> bytes:
    """For each group how many (u32), then float64 each or, of a search among whole numbers, a signed integer of 9
    bytes; big-endian."""
    return b"".join(struct.pack(">I", len(one)) + _encode_group(one) for one in pivots)


def _encode_group(pivots: Pivots) -> bytes:
    if pivots.dtype != object:
        return pivots.astype(">f8").tobytes()
    return b"".join(pivot.to_bytes(_WHOLE_BYTES, "big", signed=True) for pivot in pivots)


def _decode(data: bytes, *, whole: bool = False) -> list[Pivots]:
    """whole: what the hospital's own search is among; pivots of the other kind are none that follow from it."""
    pivots, at, size = [], 0, _WHOLE_BYTES if whole else 8
    while at < len(data):
        n = int.from_bytes(data[at : at + 4], "big")
        start, at = at + 4, at + 4 + size * n
        if len(data) < at:
            raise _bad_pivots()
        pivots.append(_decode_group(data[start:at], whole=whole))
    return pivots


def _decode_group(data: bytes, *, whole: bool) -> Pivots:
    if not whole:
        return np.frombuffer(data, dtype=">f8").astype(np.float64)
    places = range(0, len(data), _WHOLE_BYTES)
    return np.array(
        [int.from_bytes(data[i : i + _WHOLE_BYTES], "big", signed=True) for i in places], dtype=object
    )


def _bad_pivots() -> ProtocolViolation:
    """Every hospital makes the same ones from the same counts: nobody asks the providers more finely than it may."""
    return ProtocolViolation(
        "A round's pivots are not those that follow from the round before.",
        remedy="Run the same version at all hospitals, and send the order again.",
        code="bad_message",
    )


def _open_ranked(party: StatisticsParty) -> AbstractContextManager[Dataset | None]:
    if not party.is_provider:
        return nullcontext()
    return open_data(party, columns_of(party.request, party.me), again=True)


def _count_below(party: StatisticsParty, dataset: Dataset | None, pivots: dict[Label, Pivots]) -> list[int]:
    assert dataset is not None
    column, groups = party.request.provider(party.me).key_column, party.request.group_by or []
    if any(one.dtype == object for one in pivots.values()):
        whole = {label: one.tolist() for label, one in pivots.items()}
        found = exact_totals.whole_counts_below(dataset, column, whole, group_by=groups)
    else:
        found = exact_totals.counts_below(dataset, column, pivots, group_by=groups)
    return [n for label in pivots for n in found[label].tolist()]


def ranked_answer(
    request: StatisticsRequest, agreed: Agreed, searches: Sequence[Search], n_rows: Sequence[int]
) -> Answer:
    shares = _shares(request, agreed)
    names = [(share,) if request.method == "quantile" else () for share in shares]
    rows, is_exact, has_untold = {}, True, False
    for label, search, n in zip(agreed.shown, searches, n_rows, strict=True):
        found = [_between(search, share, n) for share in shares]
        is_told = search.min_rows <= n
        rows[label] = [
            (*name, value if is_told else None) for name, (value, _) in zip(names, found, strict=True)
        ]
        is_exact = is_exact and all(exact_ for _, exact_ in found)
        has_untold = has_untold or not is_told
    answer = grouped_answer(request, rows, agreed.withheld)
    if not is_exact:
        answer.notes.append(
            f"Values are told as finely as {agreed.min_rows} rows allow: each is the middle of where so many rows lie."
        )
    if has_untold:
        answer.notes.append(f"Among fewer than {agreed.min_rows} rows no place is told.")
    if len(request.providers) == 2:
        answer.notes.append(
            "Each of the two providers knows how many rows of the other lie below every value that was searched at."
        )
    if request.method in ("min", "max") and not agreed.extremes:
        answer.notes.append(
            f"{request.method} is told as the {shares[0]:g} quantile: a policy keeps single values back."
        )
    return answer


def _between(search: Search, share: float, n_rows: int) -> tuple[Number, bool]:
    low, high, place = quantile_ranks(share, n_rows)
    a, b = search.found(low), search.found(high)
    if search.whole:  # which is made for values alone, so that it ends at both
        return interpolated_whole(int(a.value), int(b.value), share, n_rows), True
    return interpolated(a.value, b.value, place), a.is_exact and b.is_exact
