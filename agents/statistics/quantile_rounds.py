"""Quantiles of pooled rows, by rounds of joint counts below pivots (decision 43).

The first receiver names pivots for every group, the providers count their rows below
each, and the openers of the sum narrow the search. `analytics/statistics/quantiles.py`
has the search itself: which pivots follow from which counts, and when it ends.

Decisions 60 and 118.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from agents.gate.withheld_groups import Label
from agents.order.party import receive, send
from agents.rows import pivot_counts
from agents.rows.dataset import Dataset
from agents.statistics.answer import Answer, grouped_answer
from agents.statistics.groups import Agreed
from agents.statistics.party import AgreedStatistics, VerifiedStatistics
from agents.statistics.readings import Reading, open_data
from agents.statistics.sums import (
    COUNT_BITS,
    Sums,
    bad_sums,
    check_counts,
    end_sums,
    numbers_of,
)
from analytics.statistics.exact import Number
from analytics.statistics.quantiles import (
    Pivots,
    Search,
    interpolated,
    interpolated_whole,
    quantile_ranks,
)
from protocol.errors import BadRequest, ProtocolViolation
from protocol.messages import EVERYONE, canonical
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

_Rules = Agreed | StatisticsRules


@dataclass(frozen=True)
class Ranked:
    """A question whose quantiles are searched, as all hospitals know it."""

    # As it is asked by itself: its own column and groups.
    request: StatisticsRequest
    agreed: Agreed
    # How many rows this provider has of each group, as `Reading.tallies` has them;
    # nothing at who provides none.
    tallies: Mapping[str, list[int]]

    @property
    def n_searched(self) -> int:
        shares = _shares(self.request, self.agreed)
        return len(self.agreed.shown) * len(shares)


@dataclass(frozen=True)
class Searched:
    """The ended search of one group."""

    label: Label
    search: Search
    n_rows: int


def rank(
    party: AgreedStatistics,
    reading: Reading | None,
    agreed: Agreed,
    sums: Sums,
) -> Answer | None:
    """Rounds of counts, until every value is found as finely as the policies allow.

    Disclosure: as `search_together`.
    """
    request = party.request
    if not agreed.shown:
        end_sums(party, round=0)
        if not party.is_receiver:
            return None
        return grouped_answer(request, {}, agreed.withheld)
    tallies = {} if reading is None else reading.tallies
    question = Ranked(request, agreed, tallies)
    check_searched([question])
    (searched,), n_rounds = search_together(party, reading, [question], sums)
    end_sums(party, round=n_rounds)
    if not party.is_receiver:
        return None
    return ranked_answer(request, agreed, searched)


def check_searched(questions: Sequence[Ranked]) -> None:
    """BadRequest (code group_by) for more values than one order may search."""
    if sum(question.n_searched for question in questions) > MOST_SEARCHED:
        raise BadRequest(
            f"group_by and quantile ask for more than {MOST_SEARCHED} values.",
            remedy="Group by columns with fewer different values, or ask for fewer quantiles.",
            code="group_by",
        )


def search_together(
    party: AgreedStatistics,
    reading: Reading | None,
    questions: Sequence[Ranked],
    sums: Sums,
    *,
    first_round: int = 0,
) -> tuple[list[list[Searched]], int]:
    """Searches the quantiles of all groups of all questions in the same rounds.

    By question the searches of its groups; and the number of the round that nobody has
    added to, of which the coordinator is informed by `end_sums`.

    Disclosure: the pivots, and the joint counts of rows below them, to the order's
    hospitals, providers and receivers alike: a provider knows from them how many rows
    the others have below each pivot, together. No count is of another pivot than the
    policies of all providers allow, whatever another hospital asks.
    """
    # How many rows each group has, at which every search begins.
    add_counts = functools.partial(sums.add, width=COUNT_BITS)
    own_n_rows = functools.partial(_own_n_rows, questions)
    n_groups = sum(len(question.agreed.shown) for question in questions)
    n_rows = add_counts(own_n_rows, count=n_groups, round=first_round)
    check_counts(party, n_rows)
    searched = _begun(questions, n_rows)
    searches = []
    for of_question in searched:
        searches += [group_search.search for group_search in of_question]
    with _open_ranked(party, reading) as dataset:
        count_own = functools.partial(_own_counts, party, dataset, questions)
        for round_ in itertools.count(first_round + 1):
            pivots = _agree_on_pivots(party, searches, round_)
            n_pivots = sum(len(of_group) for of_group in pivots)
            # After MOST_ROUNDS of the search at the latest.
            if n_pivots == 0:
                break
            own_counts = functools.partial(count_own, pivots)
            counts = add_counts(own_counts, count=n_pivots, round=round_)
            # The counts of all groups come as one list, a group after the other.
            begin = 0
            for search, of_group in zip(searches, pivots, strict=True):
                end = begin + len(of_group)
                _narrow(search, counts[begin:end])
                begin = end
    return searched, round_


def _own_n_rows(questions: Sequence[Ranked]) -> list[int]:
    """How many rows this provider has of each shown group of each question."""
    numbers: list[int] = []
    for question in questions:
        # Where it has no such rows: an addend's length says nothing of whose groups
        # they are.
        zero = [0] * numbers_of(question.request)
        for label in question.agreed.shown:
            label_text = canonical(list(label))
            numbers += question.tallies.get(label_text, zero)
    return numbers


def _begun(questions: Sequence[Ranked], n_rows: Sequence[int]) -> list[list[Searched]]:
    """A search for each group, from the joint numbers of rows."""
    numbers = iter(n_rows)
    searched = []
    for question in questions:
        of_question = []
        for label in question.agreed.shown:
            n_group_rows = next(numbers)
            search = _search(question.request, question.agreed, n_group_rows)
            of_question.append(Searched(label, search, n_group_rows))
        searched.append(of_question)
    return searched


# What is searched, and how finely


def _shares(request: StatisticsRequest, agreed: _Rules) -> list[float]:
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
    """The search of one group, which every hospital makes alike.

    ProtocolViolation (code bad_message) for a number of rows that no shown group has:
    one of the providers has made it up.
    """
    if n_rows < 1:
        raise bad_sums()
    ranks = set()
    for share in _shares(request, agreed):
        low_rank, high_rank, _ = quantile_ranks(share, n_rows)
        ranks |= {low_rank, high_rank}
    if shows_values(request, agreed):
        return Search(sorted(ranks), n_rows=n_rows, whole=agreed.whole)
    # It ends while min_rows rows lie in a bracket, so that no single value is found.
    return Search(sorted(ranks), n_rows=n_rows, min_rows=agreed.min_rows)


def shows_values(request: StatisticsRequest, agreed: _Rules) -> bool:
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
    party: AgreedStatistics,
    searches: Sequence[Search],
    round_: int,
) -> list[Pivots]:
    """The round's pivots, as the first receiver names them; none ends the rounds.

    ProtocolViolation (code bad_message) for all pivots but the ones that follow from
    the rounds before: more of them, others, or a round after the last.
    """
    driver = party.request.receivers[0]
    own_pivots = [search.pivots() for search in searches]
    if party.me == driver:
        encode = functools.partial(_encode, own_pivots)
        send(party, "pivots", encode, recipient=EVERYONE, round=round_)
    pivots_message = receive(party, "pivots", driver, EVERYONE, round=round_)
    pivots = _decode(pivots_message, [search.whole for search in searches])
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
    encoded_groups = []
    for of_group in pivots:
        encoded_groups.append(struct.pack(">I", len(of_group)))
        encoded_groups.append(_encode_group(of_group))
    return b"".join(encoded_groups)


def _encode_group(pivots: Pivots) -> bytes:
    if pivots.dtype != object:
        return pivots.astype(">f8").tobytes()
    encoded_pivots = []
    for pivot in pivots:
        encoded_pivots.append(pivot.to_bytes(_WHOLE_BYTES, "big", signed=True))
    return b"".join(encoded_pivots)


def _decode(data: bytes, are_whole: Sequence[bool]) -> list[Pivots]:
    """The pivots of each group.

    are_whole: what the hospital's own searches are among, group by group: pivots of the
    other kind do not follow from them, nor do those of more groups.
    """
    pivots = []
    end = 0
    for is_whole in are_whole:
        begin = end + 4
        n_pivots = int.from_bytes(data[end:begin], "big")
        pivot_bytes = _WHOLE_BYTES if is_whole else 8
        end = begin + n_pivots * pivot_bytes
        if end > len(data):
            raise _bad_pivots()
        pivots.append(_decode_group(data[begin:end], is_whole=is_whole))
    if end < len(data):
        raise _bad_pivots()
    return pivots


def _decode_group(data: bytes, *, is_whole: bool) -> Pivots:
    if not is_whole:
        return np.frombuffer(data, dtype=">f8").astype(np.float64)
    pivots = []
    for begin in range(0, len(data), _WHOLE_BYTES):
        number = data[begin : begin + _WHOLE_BYTES]
        pivots.append(int.from_bytes(number, "big", signed=True))
    return np.array(pivots, dtype=object)


# A round's counts


def _open_ranked(
    party: VerifiedStatistics,
    reading: Reading | None,
) -> AbstractContextManager[Dataset | None]:
    """A provider's data, open for all rounds; None at a receiver that provides none."""
    if reading is None:
        return nullcontext()
    return open_data(party, again=True, levels=reading.levels)


def _own_counts(
    party: AgreedStatistics,
    dataset: Dataset | None,
    questions: Sequence[Ranked],
    pivots: Sequence[Pivots],
) -> list[int]:
    """How many of this provider's rows lie below each pivot of each question."""
    counts: list[int] = []
    begin = 0
    for question in questions:
        end = begin + len(question.agreed.shown)
        of_question = dict(zip(question.agreed.shown, pivots[begin:end], strict=True))
        begin = end
        # Of a question whose search has ended no row is read again.
        if any(len(of_group) for of_group in of_question.values()):
            single = replace(party, request=question.request)
            counts += _count_below(single, dataset, of_question)
    return counts


def _count_below(
    party: VerifiedStatistics,
    dataset: Dataset | None,
    pivots: dict[Label, Pivots],
) -> list[int]:
    """How many of this provider's rows lie below each pivot, a group after the other."""
    assert dataset is not None
    column = party.request.provider(party.me).key_column
    group_by = party.request.group_by or []
    is_whole = any(of_group.dtype == object for of_group in pivots.values())
    if is_whole:
        whole_pivots = {label: of_group.tolist() for label, of_group in pivots.items()}
        count_whole = pivot_counts.whole_counts_below
        below = count_whole(dataset, column, whole_pivots, group_by=group_by)
    else:
        below = pivot_counts.counts_below(dataset, column, pivots, group_by=group_by)
    counts: list[int] = []
    for label in pivots:
        counts += below[label].tolist()
    return counts


def _narrow(search: Search, counts: Sequence[int]) -> None:
    """ProtocolViolation (code bad_message) for counts that no rows have: one of the
    providers has made them up.
    """
    try:
        search.narrow(counts)
    except ValueError:
        raise bad_sums() from None


# Finishing, at the receivers


def ranked_answer(
    request: StatisticsRequest,
    agreed: Agreed,
    searched: Sequence[Searched],
) -> Answer:
    """The answer from ended searches, one for each shown group, with notes."""
    shares = _shares(request, agreed)
    rows: dict[Label, list[tuple[Number | None, ...]]] = {}
    for group_search in searched:
        quantile_values = found_values(request, agreed, group_search)
        if request.method == "quantile":
            rows[group_search.label] = list(zip(shares, quantile_values, strict=True))
        else:
            rows[group_search.label] = [(quantile,) for quantile in quantile_values]
    answer = grouped_answer(request, rows, agreed.withheld)
    answer.notes += notes_of(request, agreed, searched)
    if request.method in ("min", "max") and not agreed.extremes:
        answer.notes.append(
            f"{request.method} is told as the {shares[0]:g} quantile: a policy keeps single values back."
        )
    return answer


def found_values(
    request: StatisticsRequest,
    agreed: Agreed,
    searched: Searched,
) -> list[Number | None]:
    """A group's quantiles; None among fewer rows than a bracket keeps."""
    shares = _shares(request, agreed)
    if searched.n_rows < searched.search.min_rows:
        return [None] * len(shares)
    quantiles: list[Number | None] = []
    for share in shares:
        quantile = _between(searched.search, share, searched.n_rows)
        quantiles.append(quantile.value)
    return quantiles


def notes_of(
    request: StatisticsRequest,
    agreed: Agreed,
    searched: Sequence[Searched],
) -> list[str]:
    """What has to be said beside the values."""
    all_exact = True
    all_shown = True
    for group_search in searched:
        all_shown = all_shown and group_search.n_rows >= group_search.search.min_rows
        for share in _shares(request, agreed):
            quantile = _between(group_search.search, share, group_search.n_rows)
            all_exact = all_exact and quantile.is_exact
    notes = []
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
    return notes


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
