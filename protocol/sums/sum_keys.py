"""What the members of a sum must agree on, and what each of them holds of the order.

`secure_sum` seals and opens with it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from phe.paillier import PaillierPublicKey

from protocol.errors import ProtocolViolation
from protocol.sums import EncryptMethod, mask_graph, masks, paillier
from protocol.sums.fixed_point import SUM_BITS, FixedPoint
from protocol.sums.paillier import Obfuscators
from protocol.sums.payload import CODES, SumKind

_TERMS = b"consilium/secure-sum/terms/1"
_SUM_LIMIT = 1 << SUM_BITS


@dataclass(frozen=True)
class SumKeys:
    """What one party holds of an order to take part in sums over `members`.

    ProtocolViolation `sum_keys` when the fields do not fit together.
    """

    method: EncryptMethod
    # This party's user id.
    me: int
    # User ids, sorted.
    members: tuple[int, ...]
    # The rows of each member, and of nobody else.
    n_rows: Mapping[int, int]
    # 32 bytes by peer; a sum may leave some peers out.
    pair_keys: Mapping[int, bytes] = field(repr=False)
    # 32 bytes from the order secret.
    group_key: bytes = field(repr=False)
    # B, the largest coordinate that the order allows.
    bound: float = 2.0**20
    # Needed for Paillier.
    public: PaillierPublicKey | None = None
    # Without, they are made when sealing.
    obfuscators: Obfuscators | None = field(
        default=None,
        repr=False,
    )
    # 32 bytes, of `mask_graph`; None for pair masks with all other members.
    mask_seed: bytes | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(EncryptMethod):
            raise _bad_keys("The method is not Paillier, Mask or None.")
        in_order = sorted(set(self.members))
        is_sorted = list(self.members) == in_order
        if not self.members or not is_sorted:
            raise _bad_keys("Members are not sorted.")
        # A payload has 16 bits for the number of members, the terms have 64 unsigned
        # bits for an id.
        n_members = len(self.members)
        lowest = self.members[0]
        if lowest < 0 or n_members >= 2**16:
            raise _bad_keys("A member's id or their number is out of range.")
        if set(self.n_rows) != set(self.members):
            raise _bad_keys("The row counts are not those of the members.")
        if min(self.n_rows.values()) < 0:
            raise _bad_keys("A row count is negative.")
        if self.method == "Paillier" and self.public is None:
            raise _bad_keys("The order's public key is missing.")
        if len(self.group_key) != masks.KEY_BYTES:
            raise _bad_keys("The group key has another length.")

    @property
    def n_rows_total(self) -> int:
        """N, the rows of all members."""
        return sum(self.n_rows.values())

    @property
    def fixed_point(self) -> FixedPoint:
        """The scale of weighted means."""
        return FixedPoint(self.n_rows_total, self.bound)

    def own_rows(self) -> int:
        """n_i of this party.

        ProtocolViolation `sum_keys` when it is not a member and so cannot seal.
        """
        if self.me not in self.members:
            raise _bad_keys("This hospital is not a member of the sum.")
        return self.n_rows[self.me]

    def peers(self) -> dict[int, bytes]:
        """The pair keys shared with the members that this one masks with.

        ProtocolViolation `sum_keys` when one is missing, `mask_graph` as
        `mask_graph.peers`.
        """
        peers = mask_graph.peers(
            self.members,
            self.me,
            seed=self.mask_seed,
        )
        if not set(peers) <= set(self.pair_keys):
            raise _bad_keys("A pair key is missing.")
        return {peer: self.pair_keys[peer] for peer in peers}

    def weight(self, kind: SumKind, member: int) -> int:
        """What a member's contribution counts for."""
        if kind is SumKind.MEAN:
            return int(self.n_rows[member])
        return 1

    def total_weight(self, kind: SumKind) -> int:
        weight_sum = 0
        for member in self.members:
            weight_sum += self.weight(kind, member)
        return weight_sum

    @property
    def largest_count(self) -> int:
        """2^62 // K, so that the counts of K members have a sum that fits."""
        return _SUM_LIMIT // len(self.members)

    def offset(self, kind: SumKind, weight: int) -> int:
        """The largest word of that weight.

        n B 2^f for means, weight * (2^62 // K) for counts.
        """
        if kind is SumKind.MEAN:
            return self.fixed_point.offset(weight)
        return weight * self.largest_count

    def terms(
        self,
        *,
        kind: SumKind,
        d: int,
        info: bytes,
    ) -> bytes:
        """SHA-256 over all that the members must agree on.

        Whoever differs in one has other masks and tags.
        """
        scale = struct.pack(
            ">BBId",
            CODES[self.method],
            kind,
            d,
            self.bound,
        )
        members = b""
        for member in self.members:
            n_rows = self.n_rows[member]
            members += struct.pack(">QQ", member, n_rows)
        public = b""
        if self.public is not None:
            public = paillier.public_to_bytes(self.public)
        digest = hashlib.sha256(_TERMS)
        # Each part after its length, so that no two lists of parts are the same bytes.
        parts = [scale, members, public, info]
        for part in parts:
            length = len(part)
            digest.update(length.to_bytes(8, "big"))
            digest.update(part)
        return digest.digest()


def _bad_keys(sentence: str) -> ProtocolViolation:
    return ProtocolViolation(
        sentence,
        remedy="Set up the order again.",
        code="sum_keys",
    )
