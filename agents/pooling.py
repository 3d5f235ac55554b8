"""Statistics over the rows of all providers, one below the other: local sums, added sealed, finished by the receivers.

A provider states its groups, then adds vectors of exact integers, a few for each group that all may know of. The
receivers open the sums and finish them in rational arithmetic. Quantiles take several such rounds: the first receiver
names pivots, and the providers count their rows below them. There every provider opens the sums too and searches by
itself, so that none counts a row but for the pivots that follow from the rounds before.
"""

from __future__ import annotations

import functools
import itertools
import secrets
import struct
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np

from agents import accumulation, disclosure
from agents.answer import Answer, Answered, grouped_answer, repeat_answer
from agents.columns import is_whole
from agents.dataset import Dataset
from agents.disclosure import GroupFacts, Label, Withheld
from agents.party import receive, receive_all, send
from agents.policy import StatisticsRules
from agents.statements import Agreed, agree_on_groups, bin_label
from agents.statistics import (
    Reading,
    StatisticsParty,
    check_gate,
    columns_of,
    groups_of,
    keep_reading,
    open_data,
    remember_groups,
    remember_rows,
    rows_of,
)
from analytics import exact
from analytics.exact import SQUARE_BITS, SUM_BITS, JointMoments, Moments, Number, told
from analytics.quantiles import Pivots, Search, interpolated, interpolated_whole, quantile_ranks
from protocol import exact_sum
from protocol.errors import BadRequest, ProtocolViolation, Refused
from protocol.exact_sum import Terms
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE, canonical
from protocol.sealing import KEY_BYTES
from protocol.statistics_request import RANKED, TALLIED, StatisticsRequest

COUNT_BITS = 64
_WHOLE_BYTES = 9  # of a pivot: whole numbers of 64 bits, signed or not, have 65 with their sign
MOST_SEARCHED = 2_000
"""Values of one order that are searched at once, groups times quantiles: each takes 126 counts a round."""

OUTER = 0.05
"""What is told in the place of an extreme: this quantile, and the one as far from the other end."""

_N_NUMBERS = {"sum": 2, "avg": 2, "var": 3, "std": 3, "cov": 6, "corr": 6}
_WIDTHS = {"sum": SUM_BITS, "avg": SUM_BITS} | dict.fromkeys(("var", "std", "cov", "corr"), SQUARE_BITS)


# A provider's part, read once


def read_rows(party: StatisticsParty) -> Reading:
    """Reads this provider's rows through the gate, and what its part of the answer is made of.

    Raises Refused with the rule, or BadRequest for data that cannot be used.

    Disclosure: rows and sums stay here; others learn the row count, after the gate has passed.
    """
    return keep_reading(party, lambda: _read(party))


def _read(party: StatisticsParty) -> Reading:
    request, columns = party.request, columns_of(party.request, party.me)
    with open_data(party, columns, again=request.method in RANKED) as dataset:
        disclosure.check_rows(dataset.n_rows, party.rules)
        asked = [
            rows_of(party, dataset, names, complete=complete) for names, complete in _column_sets(request, party.me)
        ]
        if any(check_gate(party, rows) for rows in asked):
            return Reading(n_rows=dataset.n_rows, repeats=True)
        groups = _tally(dataset, request, party.me)
        asked_groups = groups_of(party, dataset, _asked_columns(request, party.me)) if _is_grouped(request) else None
        whole = _tells_values(request, party.rules) and is_whole(dataset, request.provider(party.me).key_column)

    def withhold(near: set[Label]) -> dict[Label, Withheld]:
        facts = {label: replace(found, is_near=label in near) for label, (found, _) in groups.items()}
        withheld = disclosure.withhold(facts, party.rules)
        if () in withheld:
            raise _whole(withheld[()])
        return withheld

    if asked_groups:
        withheld = remember_groups(party, asked, asked_groups, withhold)
    else:
        withheld = withhold(set())
        remember_rows(party, *asked)
    return Reading(
        n_rows=dataset.n_rows,
        whole=whole,
        n_null=dataset.n_rows - sum(facts.n_rows for facts, _ in groups.values()),
        n_rows_of={canonical(list(label)): facts.n_rows for label, (facts, _) in groups.items()},
        tallies={canonical(list(label)): numbers for label, (_, numbers) in groups.items()},
        withheld={canonical(list(label)): (why.rule, why.threshold) for label, why in withheld.items()},
    )


def _is_grouped(request: StatisticsRequest) -> bool:
    return request.group_by is not None and request.method not in TALLIED


def _asked_columns(request: StatisticsRequest, user_id: int) -> list[str]:
    """What the method is of, without the groups."""
    return list(request.columns or [request.provider(user_id).key_column])


def _column_sets(request: StatisticsRequest, user_id: int) -> list[tuple[list[str], list[str]]]:
    """The columns whose rows the gate compares, and those of them that a row must have a value in: all columns, and
    those without groups, as earlier orders may have had none; where missing values are counted, the rows with them."""
    summed = _asked_columns(request, user_id)
    if request.method in ("frequency", "crosstab"):
        return [(summed, summed), (summed, [])]
    grouped = [(columns_of(request, user_id), summed)] if request.group_by else []
    return [(summed, summed), *grouped]


def _tally(dataset: Dataset, request: StatisticsRequest, user_id: int) -> dict[Label, tuple[GroupFacts, list[int]]]:
    """By group of this provider: what decides about it, and its integers."""
    column, groups = request.provider(user_id).key_column, request.group_by or []
    if request.method in ("cov", "corr"):
        assert request.columns is not None
        found = accumulation.joint_moments(dataset, *request.columns, group_by=groups)
        joint = {label: (part, list(part.moments.numbers)) for label, part in found.items()}
        return {label: (GroupFacts(part.moments.n, part.largest_share), n) for label, (part, n) in joint.items()}
    if request.method in TALLIED:
        return {label: (GroupFacts(n), [n]) for label, n in _occurrences(dataset, request, user_id).items() if n}
    parts = accumulation.moments(dataset, column, group_by=groups)
    n_numbers, is_summed = _N_NUMBERS.get(request.method, 1), request.method in _N_NUMBERS
    return {
        label: (GroupFacts(m.n, part.largest_share if is_summed else None), [m.n, m.total, m.squares][:n_numbers])
        for label, part in parts.items()
        if (m := part.moments).n
    }


def _occurrences(dataset: Dataset, request: StatisticsRequest, user_id: int) -> dict[Label, int]:
    """How many rows have each value, pair of values, or bin: 0 below the first edge, the last one above the last."""
    column, groups = request.provider(user_id).key_column, request.group_by or []
    if request.method != "histogram":
        return accumulation.counts(dataset, request.columns or [column])
    assert request.bins is not None
    edges = np.array([*request.bins[:-1], np.nextafter(request.bins[-1], np.inf)])
    parts = accumulation.moments(dataset, column, group_by=groups)
    below = accumulation.counts_below(dataset, column, dict.fromkeys(parts, edges), group_by=groups)
    return {
        (*label, bin_label(place)): n
        for label, part in parts.items()
        for place, n in enumerate(np.diff([0, *below[label].tolist(), part.moments.n]).tolist())
    }


def _whole(why: Withheld) -> Refused:
    """An answer without groups is not withheld but refused, by the hospital whose rule it is."""
    return Refused(
        f"This hospital's part of the answer is withheld: {why.reason}",
        remedy="Ask for more rows, or ask the hospital to change the rule under [statistics] in its policy.toml.",
        code=why.rule,
        threshold=why.threshold,
    )


# Sums


class Sums:
    """The sealed sums of one order, one round after the other."""

    def __init__(self, party: StatisticsParty) -> None:
        self._party = party
        providers, openers = party.request.providers, party.request.openers
        self._opens = party.me in openers
        self._seeds: dict[int, bytes] = {}
        if party.is_provider:
            own = party.store.once("seed", lambda: secrets.token_bytes(KEY_BYTES))
            self._seeds[party.me] = own
            for opener in openers:
                if opener != party.me:
                    send(party, "unmask", lambda: own, recipient=opener)
        if self._opens:
            others = [provider for provider in providers if provider != party.me]
            self._seeds |= receive_all(party, "unmask", others, party.me) if others else {}

    def add(self, values: Callable[[], Sequence[int]], *, count: int, width: int, round: int) -> list[int]:
        """The providers' values added; empty at a hospital that does not open them.

        `values` is called at a provider only. ProtocolViolation (code sum_mismatch) for a sum that is not theirs.
        """
        party = self._party
        terms = Terms(party.request.providers, width, count, b"sum/%d" % round)
        tag_key = party.session.group_key(b"sum-tag")
        if party.is_provider:
            send(party, "addend", lambda: self._seal(values(), terms, tag_key), recipient=COORDINATOR, round=round)
        if not self._opens:
            return []
        total = party.exchange.get(Address(party.order_id, "total", round=round), COORDINATOR, EVERYONE)
        return exact_sum.open_total(total, terms, tag_key=tag_key, seeds=self._seeds)

    def _seal(self, values: Sequence[int], terms: Terms, tag_key: bytes) -> bytes:
        party = self._party
        others = [provider for provider in terms.providers if provider != party.me]
        pairs = {other: party.session.pair_key(other, b"sum") for other in others}
        seed = self._seeds[party.me]
        return exact_sum.seal(values, terms, me=party.me, pair_keys=pairs, tag_key=tag_key, seed=seed)


def end_sums(party: StatisticsParty, *, round: int) -> None:
    """Tells the coordinator that there is nothing more to add."""
    if party.is_provider:
        send(party, "addend", lambda: b"", recipient=COORDINATOR, round=round)


def answer(party: StatisticsParty, reading: Reading | None) -> Answered:
    """States the groups, adds this provider's part and, at a receiver, finishes the answer."""
    agreed = agree_on_groups(party, reading)
    if agreed.repeats:
        end_sums(party, round=0)
        return Answered(repeat_answer(party, agreed.repeats) if party.is_receiver else None)
    sums = Sums(party)
    found = (_rank if party.request.method in RANKED else _add)(party, reading, agreed, sums)
    return Answered(found, **_counts(reading, agreed))


def _counts(reading: Reading | None, agreed: Agreed) -> dict[str, int]:
    """How many of this provider's rows the answer is made of."""
    if reading is None:
        return {}
    shown = [canonical(list(label)) for label in agreed.shown]
    n_used = sum(reading.n_rows_of[text] for text in shown if text in reading.n_rows_of)
    n_all = sum(reading.n_rows_of.values())
    return {"n_used": n_used, "n_suppressed": n_all - n_used, "n_null": reading.n_null}


def _add(party: StatisticsParty, reading: Reading | None, agreed: Agreed, sums: Sums) -> Answer | None:
    request, n_numbers = party.request, _N_NUMBERS.get(party.request.method, 1)
    totals: list[int] = []
    if agreed.shown:
        numbers = functools.partial(_numbers, request, reading, agreed)
        width = _WIDTHS.get(request.method, COUNT_BITS)
        totals = sums.add(numbers, count=n_numbers * len(agreed.shown), width=width, round=0)
    end_sums(party, round=1 if agreed.shown else 0)
    if not party.is_receiver:
        return None
    return _finish(request, agreed, [totals[i : i + n_numbers] for i in range(0, len(totals), n_numbers)])


def _numbers(request: StatisticsRequest, reading: Reading | None, agreed: Agreed) -> list[int]:
    """This provider's integers of every shown group, zeros where it has no such rows."""
    assert reading is not None
    empty = [0] * _N_NUMBERS.get(request.method, 1)
    return [n for label in agreed.shown for n in reading.tallies.get(canonical(list(label)), empty)]


# Finishing, at the receivers


def _finish(request: StatisticsRequest, agreed: Agreed, parts: Sequence[Sequence[int]]) -> Answer:
    """The answer from the joint integers of each shown group."""
    ddof = 1 if request.ddof is None else request.ddof
    values: dict[Label, Number | None] = {}
    notes = set()
    for label, part in zip(agreed.shown, parts, strict=True):
        try:
            values[label] = _value(request.method, part, ddof)
            if values[label] is None:
                notes.add(f"{request.method} of too few rows, or of equal ones, has no value.")
        except ValueError as error:
            values[label] = None
            notes.add(str(error))
    answer = grouped_answer(request, {label: [(value,)] for label, value in values.items()}, agreed.withheld)
    answer.notes += sorted(notes)
    return answer


def _value(method: str, part: Sequence[int], ddof: int) -> Number | None:
    """ValueError where it lies outside the range of doubles."""
    if method in ("cov", "corr"):
        joint = JointMoments(*part)
        return exact.covariance(joint, ddof, told) if method == "cov" else exact.correlation(joint)
    if method in (*TALLIED, "count"):
        return part[0]
    moments = Moments(*part)
    if method in ("sum", "avg"):
        return exact.sum_of(moments, told) if method == "sum" else exact.mean(moments, told)
    return exact.variance(moments, ddof, told) if method == "var" else exact.std(moments, ddof)


# Order statistics


def _rank(party: StatisticsParty, reading: Reading | None, agreed: Agreed, sums: Sums) -> Answer | None:
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
    n_rows = sums.add(lambda: _numbers(request, reading, agreed), count=len(shown), width=COUNT_BITS, round=0)
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
    return _ranked_answer(request, agreed, searches, n_rows) if party.is_receiver else None


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
        send(party, "pivots", lambda: _encode([s.pivots() for s in searches]), recipient=EVERYONE, round=round_)
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
    return np.array([int.from_bytes(data[i : i + _WHOLE_BYTES], "big", signed=True) for i in places], dtype=object)


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
        found = accumulation.whole_counts_below(dataset, column, whole, group_by=groups)
    else:
        found = accumulation.counts_below(dataset, column, pivots, group_by=groups)
    return [n for label in pivots for n in found[label].tolist()]


def _ranked_answer(
    request: StatisticsRequest, agreed: Agreed, searches: Sequence[Search], n_rows: Sequence[int]
) -> Answer:
    shares = _shares(request, agreed)
    names = [(share,) if request.method == "quantile" else () for share in shares]
    rows, is_exact, has_untold = {}, True, False
    for label, search, n in zip(agreed.shown, searches, n_rows, strict=True):
        found = [_between(search, share, n) for share in shares]
        is_told = search.min_rows <= n
        rows[label] = [(*name, value if is_told else None) for name, (value, _) in zip(names, found, strict=True)]
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
