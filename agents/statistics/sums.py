"""The sealed sums of an order of joint statistics: what a provider adds, and what the openers open."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from agents.order.party import receive_all, send
from agents.statistics.groups import Agreed
from agents.statistics.party import AgreedStatistics, Reading
from analytics.statistics.exact import SQUARE_BITS, SUM_BITS
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE, canonical
from protocol.sealing import KEY_BYTES
from protocol.statistics_request import StatisticsRequest
from protocol.sums import exact_sum
from protocol.sums.exact_sum import Terms

COUNT_BITS = 64


WIDTHS = {"sum": SUM_BITS, "avg": SUM_BITS} | dict.fromkeys(("var", "std", "cov", "corr"), SQUARE_BITS)
N_NUMBERS = {"sum": 2, "avg": 2, "var": 3, "std": 3, "cov": 6, "corr": 6}


class Sums:
    """The sealed sums of one order, one round after the other."""

    def __init__(self, party: AgreedStatistics) -> None:
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
            send(
                party,
                "addend",
                lambda: self._seal(values(), terms, tag_key),
                recipient=COORDINATOR,
                round=round,
            )
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


def end_sums(party: AgreedStatistics, *, round: int) -> None:
    """Tells the coordinator that there is nothing more to add."""
    if party.is_provider:
        send(party, "addend", lambda: b"", recipient=COORDINATOR, round=round)


def occurrences_or_numbers(request: StatisticsRequest, reading: Reading | None, agreed: Agreed) -> list[int]:
    """This provider's integers of every shown group, zeros where it has no such rows."""
    assert reading is not None
    empty = [0] * N_NUMBERS.get(request.method, 1)
    return [n for label in agreed.shown for n in reading.tallies.get(canonical(list(label)), empty)]
