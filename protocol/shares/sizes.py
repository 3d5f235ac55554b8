"""How large numbers are within a computation on shares, and how many triples it takes:
providers and dealer must say the same.
"""

from __future__ import annotations

from protocol.shares.ring import Ring
from protocol.shares.triples import SECURITY_BITS


def rings(bits: int) -> tuple[Ring, Ring]:
    """The ring of numbers, and the one in which triples are checked, 40 bits larger.

    All parties run it alike.
    """
    numbers = Ring.of_bits(bits)
    return numbers, Ring.of_bits(numbers.bits + SECURITY_BITS)


def n_conjunctions(width: int, n_providers: int) -> int:
    """How many `and` of bit planes the sign of numbers of `width` bits takes.

    Providers and dealer run it alike.
    """
    if n_providers == 1:
        return 0
    below_highest = width - 1
    # `is_negative`: each carry-save adder takes one number away, until two are left,
    # and then their `made`; the tree of carries takes two for each pair.
    total = below_highest * (n_providers - 1)
    n_remaining = below_highest
    while n_remaining > 1:
        n_pairs = n_remaining // 2
        total += 2 * n_pairs
        n_remaining -= n_pairs
    return total
