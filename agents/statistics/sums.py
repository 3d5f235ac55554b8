"""The sealed sums of joint statistics: what a provider adds, and what openers open.

`protocol/sums/exact_sum.py` says how integers are masked; `agents/statistics/pooled.py`
and `agents/statistics/quantile_rounds.py` say which ones are added.

Decision 118.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Sequence

from agents.order.party import receive_all, send
from agents.statistics.groups import Agreed
from agents.statistics.party import AgreedStatistics
from agents.statistics.readings import Reading
from analytics.statistics.exact import SQUARE_BITS, SUM_BITS, n_matrix_numbers
from protocol.errors import ProtocolViolation
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE, canonical
from protocol.sealing import KEY_BYTES
from protocol.statistics_request import StatisticsRequest
from protocol.sums import exact_sum, mask_graph
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

N_NUMBERS = {
    "sum": 2,
    "avg": 2,
    "var": 3,
    "std": 3,
    "cov": 6,
    "corr": 6,
}
"""Integers of each group, 1 for what counts.

They are count and sum, and the squares, or the fields of JointMoments.
"""


def numbers_of(request: StatisticsRequest) -> int:
    """How many integers of each group a question adds; behind the method's own, where
    the mean stands for missing values, how many these are.
    """
    if request.is_matrix:
        return n_matrix_numbers(len(request.columns or []))
    n_numbers = N_NUMBERS.get(request.counted_as, 1)
    if request.rows.fills:
        n_numbers += 1
    return n_numbers


class Sums:
    """The sealed sums of one order that the same hospitals open, one round after the
    other.

    series: of an order whose sums are not all opened by the same, which of them; each
    has seeds of its own, so that nobody opens another's.
    """

    def __init__(
        self,
        party: AgreedStatistics,
        openers: Collection[int],
        *,
        series: int = 0,
    ) -> None:
        self._party = party
        self._openers = openers
        self._series = series
        self._opens = party.me in openers
        # Of each provider, the seed of the mask that only openers can take off its
        # addends.
        self._seeds: dict[int, bytes] = {}
        if party.is_provider:
            self._send_seed()
        if self._opens:
            providers = party.request.providers
            other_providers = [
                provider for provider in providers if provider != party.me
            ]
            if other_providers:
                self._seeds |= receive_all(
                    party,
                    "unmask",
                    other_providers,
                    party.me,
                    round=series,
                )

    def _send_seed(self) -> None:
        """Draws this provider's seed, and sends it to each opener, sealed to it."""
        party = self._party

        def draw() -> bytes:
            return secrets.token_bytes(KEY_BYTES)

        # Once for an order: after a crash, an addend under another mask would show a
        # difference.
        seed_name = f"seed {self._series}" if self._series else "seed"
        own_seed = party.store.once(seed_name, draw)
        self._seeds[party.me] = own_seed
        for opener in self._openers:
            if opener != party.me:
                send(
                    party,
                    "unmask",
                    lambda: own_seed,
                    recipient=opener,
                    round=self._series,
                )

    def add(
        self,
        values: Callable[[], Sequence[int]],
        *,
        count: int,
        width: int,
        round: int,
    ) -> list[int]:
        """The providers' values added; empty at a hospital that does not open them.

        `values` makes `count` integers of `width` bits, and is called at a provider
        only. ProtocolViolation (code sum_mismatch) for a sum that is not theirs.
        """
        party = self._party
        # No two sums of an order have the same name, nor then the same masks.
        sum_name = b"sum/%d" % round
        terms = Terms(
            party.request.providers,
            width,
            count,
            sum_name,
        )
        tag_key = party.session.group_key(b"sum-tag")

        def addend() -> bytes:
            return self._seal(values(), terms, tag_key)

        if party.is_provider:
            send(
                party,
                "addend",
                addend,
                recipient=COORDINATOR,
                round=round,
            )
        if not self._opens:
            return []
        address = Address(party.order_id, "total", round=round)
        total_message = party.exchange.get(address, COORDINATOR, EVERYONE)
        return exact_sum.open_total(
            total_message,
            terms,
            tag_key=tag_key,
            seeds=self._seeds,
        )

    def _seal(
        self,
        values: Sequence[int],
        terms: Terms,
        tag_key: bytes,
    ) -> bytes:
        party = self._party
        pair_keys = {}
        # The signed order names the providers of its sums.
        mask_seed = party.mask_seed(terms.providers)
        for peer in mask_graph.peers(terms.providers, party.me, seed=mask_seed):
            pair_keys[peer] = party.session.pair_key(peer, b"sum")
        return exact_sum.seal(
            values,
            terms,
            me=party.me,
            pair_keys=pair_keys,
            tag_key=tag_key,
            seed=self._seeds[party.me],
        )


def check_counts(party: AgreedStatistics, counts: Iterable[int]) -> None:
    """ProtocolViolation (code bad_message) for joint numbers of rows that are below 0 or
    above what all providers have accepted with: one of them has made up its own.
    """
    most_rows = sum(party.n_rows[provider] for provider in party.request.providers)
    if any(not 0 <= count <= most_rows for count in counts):
        raise bad_sums()


def bad_sums() -> ProtocolViolation:
    """For joint integers that no rows have."""
    return ProtocolViolation(
        "Joint sums or counts are not those of any rows.",
        remedy="Run the same version at all hospitals, and send the order again; if it repeats, one makes them up.",
        code="bad_message",
    )


def end_sums(party: AgreedStatistics, *, round: int) -> None:
    """Informs the coordinator that there is nothing more to add."""
    if party.is_provider:
        send(
            party,
            "addend",
            lambda: b"",
            recipient=COORDINATOR,
            round=round,
        )


def shown_tallies(
    request: StatisticsRequest,
    reading: Reading | None,
    agreed: Agreed,
) -> list[int]:
    """This provider's integers of every shown group, one group after the other."""
    assert reading is not None
    # Where it has no such rows: an addend's length says nothing of whose groups they
    # are.
    zeros = [0] * numbers_of(request)
    numbers: list[int] = []
    for label in agreed.shown:
        label_text = canonical(list(label))
        numbers += reading.tallies.get(label_text, zeros)
    return numbers
