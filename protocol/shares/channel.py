"""What a computation on shares needs of the outside: the keys of the run, and a way to
the other providers and from the dealer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

SEED = 0
"""What is dealt first, to every provider; number 1 + k is the correction of triples k,
to the last provider.
"""


class Keys(Protocol):
    """Of `protocol.sealing.Session`: keys of 32 bytes that are fresh for each run of an
    order.
    """

    @property
    def me(self) -> int: ...

    def pair_key(self, peer: int, info: bytes) -> bytes: ...

    def group_key(self, info: bytes) -> bytes: ...


class Channel(Protocol):
    """How one provider's messages travel.

    Numbers count from 0 within an order; each is used once.
    """

    def open(self, number: int, data: bytes) -> Mapping[int, bytes]:
        """Sends `data` to all other providers, sealed so that the coordinator cannot
        read it; all providers' data.
        """

    def dealt(self, number: int) -> bytes:
        """What the coordinator dealt to this provider, sealed or in clear: it knows it
        anyway.
        """
