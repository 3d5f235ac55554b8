"""The payloads by which parties agree on an order: its SQL, its document, who accepts it,
and the keys of its run.

Each owns encode and decode.

Decision 6.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, replace
from typing import Any, Self

from protocol import sealing
from protocol.messages.envelope import Random
from protocol.messages.json_text import (
    bad_message,
    bytes_of_hex,
    canonical,
    check_fields,
    read_fields,
    to_json,
)
from protocol.messages.kinds import MOST_ROWS
from protocol.sealing import PublicIdentity
from protocol.versions import LARGEST_PROTOCOL, UNSAID, is_marked, marked_key

_MOST_THRESHOLD = 2**31
# That a policy may ask for.
_MOST_HOSPITALS = 2**31 - 1


@dataclass(frozen=True)
class HospitalSql:
    """One hospital's own SQL texts by purpose, and the salt of their commitment; sealed
    to that hospital. Of predictions for values that a request brings these, as JSON.
    """

    salt: bytes
    sql: dict[str, str]

    def seal(
        self,
        user_id: int,
        seal_key: bytes,
        *,
        random_bytes: Random = secrets.token_bytes,
    ) -> bytes:
        """A box that only the hospital opens; the coordinator keeps nothing else of the
        SQL.
        """
        plain = to_json({"salt": self.salt.hex(), "sql": self.sql})
        return sealing.seal_to(
            seal_key, plain, associated=_sql_tag(user_id), random_bytes=random_bytes
        )

    @classmethod
    def unseal(cls, user_id: int, open_key: bytes, box: bytes) -> Self:
        plain = sealing.unseal_from(open_key, box, associated=_sql_tag(user_id))
        values = read_fields(plain, {"salt": str, "sql": dict})
        if not all(isinstance(sql_text, str) for sql_text in values["sql"].values()):
            raise bad_message("holds SQL that is not text")
        return cls(bytes_of_hex(values["salt"], 32), values["sql"])

    @property
    def commitment(self) -> str:
        """What an order's document says of this SQL: bound to the text, and silent
        about it.
        """
        return sealing.commitment(self.salt, canonical(self.sql))


def _sql_tag(user_id: int) -> bytes:
    return b"consilium/v1/sql/%d" % user_id


@dataclass(frozen=True)
class SignedOrder:
    """Initiator to everyone, signed: the order's document and a fresh 32-byte nonce."""

    document: str
    nonce: bytes
    identity: PublicIdentity

    def encode(self) -> bytes:
        fields = {
            "document": self.document,
            "nonce": self.nonce.hex(),
            "identity": self.identity.encode(),
        }
        return to_json(fields)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        values = read_fields(data, {"document": str, "nonce": str, "identity": str})
        nonce = bytes_of_hex(values["nonce"], 32)
        identity = PublicIdentity.decode(values["identity"])
        return cls(values["document"], nonce, identity)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(b"order" + self.encode()).digest()


@dataclass(frozen=True)
class PooledThresholds:
    """What a hospital asks of a training order's columns where thresholds may be on the
    sum of all hospitals.
    """

    # The largest of the tables that the order reads here.
    min_varying: int
    min_hospitals: int
    # A column may be that of one hospital alone.
    own_totals: bool
    # The largest of the tables, too: for each two columns of a Newton order.
    min_rows: int

    def as_fields(self) -> dict[str, Any]:
        return {
            "min_varying": self.min_varying,
            "min_hospitals": self.min_hospitals,
            "own_totals": self.own_totals,
            "min_rows": self.min_rows,
        }

    @classmethod
    def of_fields(cls, fields: dict[str, Any]) -> Self:
        """ProtocolViolation (code bad_message) for anything else."""
        types: dict[str, type] = {
            "min_varying": int,
            "min_hospitals": int,
            "own_totals": bool,
            "min_rows": int,
        }
        check_fields(fields, types)
        # The circuit's size follows from them.
        for threshold_name in ("min_varying", "min_hospitals", "min_rows"):
            if not 1 <= fields[threshold_name] <= _MOST_THRESHOLD:
                raise bad_message("has a threshold out of range")
        return cls(**fields)


@dataclass(frozen=True)
class Acceptance:
    """A party to everyone, signed: which order it accepts, how many rows it counted,
    what it says of being left alone in a difference, its key for this run.
    """

    order_digest: bytes
    n_rows: int
    n_test_rows: int
    # Its policy for orders of this kind: whether answers may tell what this hospital
    # alone has, and the fewest hospitals that a sum may be of. Either can make another
    # hospital's rule only stricter, but for what is told of the sender itself.
    regroup: bool
    least_hospitals: int
    # X25519 public key (32 bytes); its private half is deleted when the order ends.
    ephemeral: bytes
    identity: PublicIdentity
    # Of a training order, where this hospital's policy lets thresholds be on the sum.
    pooled: PooledThresholds | None = None
    # The largest protocol number that its agent speaks. None in an order of protocol 2,
    # whose acceptances have no field for it.
    protocol: int | None = None
    # Of more hospitals than have complete masks: its policy lets them be sparse.
    sparse_masks: bool = False

    def saying(self, spoken: int, *, order_protocol: int) -> Self:
        """The same, with what its agent speaks, in the form of the order's number."""
        if order_protocol > UNSAID:
            return replace(self, protocol=spoken)
        if spoken > UNSAID:
            return replace(self, ephemeral=marked_key(self.ephemeral))
        return self

    def spoken(self, *, order_protocol: int) -> int:
        """The largest protocol number that its agent says it speaks.

        ProtocolViolation (code bad_message) where it is not in the form of the order's
        number.
        """
        if (self.protocol is None) != (order_protocol == UNSAID):
            raise bad_message("of kind acceptance is not written as its order is")
        if self.protocol is not None:
            return self.protocol
        return UNSAID + 1 if is_marked(self.ephemeral) else UNSAID

    def encode(self) -> bytes:
        fields: dict[str, Any] = {
            "order": self.order_digest.hex(),
            "n_rows": self.n_rows,
            "n_test_rows": self.n_test_rows,
            "regroup": self.regroup,
            "least_hospitals": self.least_hospitals,
            "ephemeral": self.ephemeral.hex(),
            "identity": self.identity.encode(),
        }
        if self.pooled is not None:
            fields["pooled"] = self.pooled.as_fields()
        if self.protocol is not None:
            fields["protocol"] = self.protocol
        if self.sparse_masks:
            fields["sparse_masks"] = True
        return to_json(fields)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        required: dict[str, type] = {
            "order": str,
            "n_rows": int,
            "n_test_rows": int,
            "regroup": bool,
            "least_hospitals": int,
            "ephemeral": str,
            "identity": str,
        }
        optional: dict[str, type] = {
            "pooled": dict,
            "protocol": int,
            "sparse_masks": bool,
        }
        values = read_fields(data, required, optional=optional)
        pooled = None
        if "pooled" in values:
            pooled = PooledThresholds.of_fields(values["pooled"])
        for row_count in (values["n_rows"], values["n_test_rows"]):
            if not 0 <= row_count <= MOST_ROWS:
                raise bad_message(
                    "counts fewer than no rows, or more than there can be"
                )
        if not 1 <= values["least_hospitals"] <= _MOST_HOSPITALS:
            raise bad_message("asks for fewer than one hospital, or for too many")
        protocol = values.get("protocol")
        if protocol is not None and not UNSAID < protocol <= LARGEST_PROTOCOL:
            raise bad_message("speaks a protocol that cannot say so")
        return cls(
            order_digest=bytes_of_hex(values["order"], 32),
            n_rows=values["n_rows"],
            n_test_rows=values["n_test_rows"],
            regroup=values["regroup"],
            least_hospitals=values["least_hospitals"],
            ephemeral=bytes_of_hex(values["ephemeral"], 32),
            identity=PublicIdentity.decode(values["identity"]),
            pooled=pooled,
            protocol=protocol,
            sparse_masks=values.get("sparse_masks", False),
        )


def run_context(
    order: SignedOrder, acceptances: dict[int, Acceptance], *, party: bytes = b""
) -> bytes:
    """SHA-256 over the signed order (with its nonce) and every party's acceptance: 32
    bytes, fresh for each run.

    party: the document that names who takes part, where the order has one.
    """
    digest = hashlib.sha256(b"consilium/v1/context" + order.digest)
    if party:
        digest.update(b"party" + hashlib.sha256(party).digest())
    for user_id in sorted(acceptances):
        acceptance = acceptances[user_id].encode()
        digest.update(user_id.to_bytes(8, "big"))
        digest.update(hashlib.sha256(acceptance).digest())
    return digest.digest()


@dataclass(frozen=True)
class Setup:
    """Initiator to each party, sealed to it: the order secret and, for Paillier, the
    public key.
    """

    order_secret: bytes
    paillier_key: bytes

    def encode(self) -> bytes:
        return self.order_secret + self.paillier_key

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < 32:
            raise bad_message("of kind setup is too short")
        return cls(data[:32], data[32:])
