"""Exact integers added by who cannot read them: the sum comes out for receivers, and
nothing else does.
"""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolViolation
from protocol.sums import exact_sum
from protocol.sums.exact_sum import Terms

WIDTH = 3200


class Parties:
    """Providers' keys: one for each pair, one for all, and each provider's own seed."""

    def __init__(
        self,
        n_providers: int,
        *,
        width: int = WIDTH,
        count: int = 2,
        name: bytes = b"order",
    ) -> None:
        self.terms = Terms(tuple(range(2, 2 + n_providers)), width, count, name)
        self.tag_key = secrets.token_bytes(32)
        self.seeds = {
            provider: secrets.token_bytes(32) for provider in self.terms.providers
        }
        self.pairs = {
            frozenset((a, b)): secrets.token_bytes(32)
            for a in self.seeds
            for b in self.seeds
            if a < b
        }

    def seal(
        self, provider: int, values: list[int], terms: Terms | None = None
    ) -> bytes:
        keys = {
            other: self.pairs[frozenset((provider, other))]
            for other in self.seeds
            if other != provider
        }
        seed = self.seeds[provider]
        return exact_sum.seal(
            values,
            terms or self.terms,
            me=provider,
            pair_keys=keys,
            tag_key=self.tag_key,
            seed=seed,
        )

    def open(self, total: bytes) -> list[int]:
        return exact_sum.open_total(
            total, self.terms, tag_key=self.tag_key, seeds=self.seeds
        )


integers = st.integers(-(2 ** (WIDTH - 5)), 2 ** (WIDTH - 5))


@given(
    rows=st.lists(st.lists(integers, min_size=2, max_size=2), min_size=1, max_size=5)
)
def test_the_total_is_the_exact_sum(rows: list[list[int]]) -> None:
    parties = Parties(len(rows))
    parts = {
        provider: parties.seal(provider, row)
        for provider, row in zip(parties.seeds, rows, strict=True)
    }
    assert parties.open(exact_sum.add(parts)) == [
        sum(column) for column in zip(*rows, strict=True)
    ]


def test_a_part_is_not_opened_alone_even_by_a_receiver() -> None:
    parties = Parties(3)
    part = parties.seal(2, [5, -7])
    with pytest.raises(ProtocolViolation) as refused:
        parties.open(part)
    assert refused.value.code == "sum_mismatch"


def test_who_lacks_one_seed_cannot_open() -> None:
    parties = Parties(2)
    total = exact_sum.add(
        {provider: parties.seal(provider, [1, 2]) for provider in parties.seeds}
    )
    seeds = {**parties.seeds, 3: secrets.token_bytes(32)}
    with pytest.raises(ProtocolViolation):
        exact_sum.open_total(total, parties.terms, tag_key=parties.tag_key, seeds=seeds)


@pytest.mark.parametrize("bit", [0, 1, 8, WIDTH - 1, WIDTH, WIDTH + 63])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_number_that_the_coordinator_adds_is_noticed(bit: int, place: int) -> None:
    parties = Parties(2)
    total = bytearray(
        exact_sum.add(
            {provider: parties.seal(provider, [1, 2]) for provider in parties.seeds}
        )
    )
    size = (WIDTH + 64) // 8
    at = 8 + size * place
    number = (int.from_bytes(total[at : at + size], "big") + (1 << bit)) % (
        1 << (8 * size)
    )
    total[at : at + size] = number.to_bytes(size, "big")
    with pytest.raises(ProtocolViolation):
        parties.open(bytes(total))


def test_a_part_left_out_doubled_or_of_another_sum_is_noticed() -> None:
    parties = Parties(3)
    parts = {provider: parties.seal(provider, [1, 2]) for provider in parties.seeds}
    other = Terms(parties.terms.providers, WIDTH, 2, b"another")
    altered = [
        {2: parts[2], 3: parts[3]},
        {**parts, 5: parts[4]},
        {**parts, 4: parties.seal(4, [1, 2], other)},
    ]
    for found in altered:
        with pytest.raises(ProtocolViolation):
            parties.open(exact_sum.add(found))


@pytest.mark.parametrize("value", [2 ** (WIDTH - 1), -(2 ** (WIDTH - 1)) - 1])
def test_a_value_that_does_not_fit_is_refused_and_the_largest_passes(
    value: int,
) -> None:
    parties = Parties(1, count=1)
    largest = value - 1 if value > 0 else value + 2
    assert parties.open(exact_sum.add({2: parties.seal(2, [largest])})) == [largest]
    with pytest.raises(ProtocolViolation):
        parties.seal(2, [value])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_values_is_refused(count: int) -> None:
    with pytest.raises(ProtocolViolation):
        Parties(1).seal(2, [0] * count)


def test_parts_show_nothing_of_the_size_of_values() -> None:
    parties = Parties(2)
    assert len(parties.seal(2, [0, 0])) == len(parties.seal(3, [2**3000, -(2**3000)]))


@pytest.mark.parametrize(
    "data",
    [b"", bytes(7), bytes(8), b"\x02" + bytes(7), b"\x01\x01" + bytes(6)],
)
def test_damaged_parts_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        exact_sum.add({2: data})
    assert refused.value.code == "payload"


def test_cut_lengthened_and_different_parts_are_refused() -> None:
    parties, wide = Parties(2), Parties(2, width=64)
    part = parties.seal(2, [1, 2])
    for parts in (
        {2: part[:-1]},
        {2: part + b"\0"},
        {2: part, 3: wide.seal(3, [1, 2])},
    ):
        with pytest.raises(ProtocolViolation):
            exact_sum.add(parts)
