"""The sealed sums of an order of joint statistics: what a provider adds, and what the openers open.

`protocol/sums/exact_sum.py` says how integers are masked; `agents/statistics/pooled.py` and
`agents/statistics/quantile_rounds.py` say which ones are added.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from agents.order.party import receive_all, send
from agents.statistics.groups import Agreed
from agents.statistics.party import Reading, StatisticsParty
from analytics.statistics.exact import SQUARE_BITS, SUM_BITS
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE, canonical
from protocol.sealing import KEY_BYTES
from protocol.statistics_request import StatisticsRequest
from protocol.sums import exact_sum
from protocol.sums.exact_sum import Terms

COUNT_BITS = 64

WIDTHS = {
    "sum": SUM_BITS,
    "avg": SUM_BITS,
    "var": SQUARE_BITS,
    "std": SQUARE_BITS,
    "cov": SQUARE_BITS,
    "corr": SQUARE_BITS,
}
"""Bits of the integers that a method adds; COUNT_BITS for the others, which count."""

N_NUMBERS = {"sum": 2, "avg": 2, "var": 3, "std": 3, "cov": 6, "corr": 6}
"""Integers of each group: count and sum, and the squares, or the fields of JointMoments; 1 for what counts."""


class Sums:
    """The sealed sums of one order, one round after the other."""

    def __init__(self, party: StatisticsParty) -> None:
        self._party = party
        providers = party.request.providers
        openers = party.request.openers
        self._opens = party.me in openers
        # Of each provider, the seed of the mask that only openers can take off its addends.
        self._seeds: dict[int, bytes] = {}
        if party.is_provider:
            # Drawn once for an order: after a crash, an addend under another mask would show a difference.
            own_seed = party.store.once("seed", lambda: secrets.token_bytes(KEY_BYTES))
            self._seeds[party.me] = own_seed
            for opener in openers:
                if opener != party.me:
                    send(party, "unmask", lambda: own_seed, recipient=opener)
        if self._opens:
            others = [provider for provider in providers if provider != party.me]
            if others:
                self._seeds |= receive_all(party, "unmask", others, party.me)

    def add(self, values: Callable[[], Sequence[int]], *, count: int, width: int, round: int) -> list[int]:
        """The providers' values added; empty at a hospital that does not open them.

        `values` makes `count` integers of `width` bits, and is called at a provider only. ProtocolViolation (code
        sum_mismatch) for a sum that is not theirs.
        """
        party = self._party
        terms = Terms(party.request.providers, width, count, b"sum/%d" % round)
        tag_key = party.session.group_key(b"sum-tag")

        def addend() -> bytes:
            return self._seal(values(), terms, tag_key)

        if party.is_provider:
            send(party, "addend", addend, recipient=COORDINATOR, round=round)
        if not self._opens:
            return []
        address = Address(party.order_id, "total", round=round)
        total = party.exchange.get(address, COORDINATOR, EVERYONE)
        return exact_sum.open_total(total, terms, tag_key=tag_key, seeds=self._seeds)

    def _seal(self, values: Sequence[int], terms: Terms, tag_key: bytes) -> bytes:
        party = self._party
        others = [provider for provider in terms.providers if provider != party.me]
        pair_keys = {other: party.session.pair_key(other, b"sum") for other in others}
        own_seed = self._seeds[party.me]
        return exact_sum.seal(values, terms, me=party.me, pair_keys=pair_keys, tag_key=tag_key, seed=own_seed)


def end_sums(party: StatisticsParty, *, round: int) -> None:
    """Informs the coordinator that there is nothing more to add."""
    if party.is_provider:
        send(party, "addend", lambda: b"", recipient=COORDINATOR, round=round)


def shown_tallies(request: StatisticsRequest, reading: Reading | None, agreed: Agreed) -> list[int]:
    """This provider's integers of every shown group, one group after the other."""
    assert reading is not None
    numbers: list[int] = []
    for label in agreed.shown:
        # Zeros where it has no such rows: an addend's length says nothing of whose groups they are.
        empty = [0] * N_NUMBERS.get(request.method, 1)
        numbers += reading.tallies.get(canonical(list(label)), empty)
    return numbers
