"""What parties say to each other: one envelope, and the payloads that travel in it.

envelope = header (fixed, 113 bytes) || body || Ed25519 signature (64 bytes)

The signature covers a domain tag, the header and SHA-256 of the body; the header is the
associated data of the body's encryption. A receiver compares every header field with
what it waits for, so a message cannot be moved to another order, round, sender or
recipient. JSON or fixed binary; never pickle.

In order: header and envelope, payloads of a training order, readers of JSON.
`sealing.py` has the keys, `exchange.py` carries the envelopes, `statistics_messages.py`
has payloads of joint statistics, `sums/` and `shares/` the binary ones.

Decision 6.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from protocol import sealing
from protocol.errors import ProtocolViolation
from protocol.sealing import SIGNATURE_BYTES, Identity, PublicIdentity, Session

COORDINATOR = 1  # the request document gives the federation's server user_id 1
EVERYONE = 0

CLEAR, PAIR, GROUP = 0, 1, 2
"""How a body is protected: for who carries it to read, for one party (pair key), for
all parties (group key).
"""

# Every kind of message that may leave, and how it has to be sealed. What is not here
# does not leave.
KINDS = {
    "order": CLEAR,
    "acceptance": CLEAR,
    "setup": PAIR,
    "levels": GROUP,
    "other_levels": GROUP,
    "design": CLEAR,
    "opening-design": GROUP,
    "flow": CLEAR,
    "classes": GROUP,
    "own_metrics": GROUP,
    "weights": GROUP,
    "public_key": CLEAR,
    "mean": CLEAR,
    "opening-mean": GROUP,
    "variance": CLEAR,
    "opening-variance": GROUP,
    "vectors": CLEAR,
    "gradient": CLEAR,
    "opening-gradient": GROUP,
    "pooled": CLEAR,
    "done": CLEAR,
    "statement": GROUP,
    "cell_tags": CLEAR,
    "cell_digest": GROUP,
    "cell_share": GROUP,
    "unmask": PAIR,
    "addend": CLEAR,
    "pivots": GROUP,
    "tags": CLEAR,
    "matched": GROUP,
    "types": CLEAR,
    "opened": GROUP,
    "share": PAIR,
    "keys": PAIR,
    "report": CLEAR,
}

# 2: acceptances say what their hospitals let be told.
_VERSION = 2
# Magic, version, then the fields of Header in their order, and three bytes of zeros:
# 113 bytes, big-endian.
_HEADER = struct.Struct(">4sB32s16sHIHII32sQB3x")
_KIND_BYTES = 16
_MAGIC = b"CNSL"
_SIGN_DOMAIN = b"consilium/v1/envelope"
_NO_CONTEXT = bytes(32)
# The nonce before a body, and the tag of ChaCha20-Poly1305 behind it.
_SEALING_BYTES = sealing.NONCE_BYTES + 16
MOST_ROWS = 2**40
"""That a hospital may say it has."""

MOST_TYPED_ROWS = 1_000
"""That a request for predictions may bring."""

_MOST_THRESHOLD = 2**31

# Of a gradient that is shown: the squares of many have a sum that a float holds.
_LARGEST_SHOWN = 1e140
# That a policy may ask for.
_MOST_HOSPITALS = 2**31 - 1

Random = Callable[[int], bytes]
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Header:
    """Everything that says which message this is."""

    # One of KINDS.
    kind: str
    # User ids; EVERYONE as recipient for what all parties read.
    sender: int
    recipient: int
    # `run_context` of the order's run (32 bytes); zeros before there is one.
    context: bytes = _NO_CONTEXT
    fold: int = 0
    round: int = 0
    attempt: int = 0
    # `members_digest` of the parties of the run; zeros before there is one.
    members: bytes = _NO_CONTEXT
    # Bytes of the body as it is sent, sealed or not.
    length: int = 0
    # CLEAR, PAIR or GROUP.
    seal: int = 0

    def encode(self) -> bytes:
        kind = self.kind.encode()
        if len(kind) > _KIND_BYTES:
            raise ValueError(f"the kind {self.kind} is longer than {_KIND_BYTES} bytes")
        return _HEADER.pack(
            _MAGIC,
            _VERSION,
            self.context,
            kind.ljust(_KIND_BYTES, b"\0"),
            self.fold,
            self.round,
            self.attempt,
            self.sender,
            self.recipient,
            self.members,
            self.length,
            self.seal,
        )

    @classmethod
    def decode(cls, data: bytes) -> Header:
        if len(data) < _HEADER.size:
            raise bad_message("is shorter than its header")
        (
            magic,
            version,
            context,
            kind,
            fold,
            round_,
            attempt,
            sender,
            recipient,
            members,
            length,
            seal,
        ) = _HEADER.unpack(data[: _HEADER.size])
        if magic != _MAGIC or version != _VERSION:
            raise bad_message("is not of this version")
        header = cls(
            kind=kind.rstrip(b"\0").decode("latin-1"),
            sender=sender,
            recipient=recipient,
            context=context,
            fold=fold,
            round=round_,
            attempt=attempt,
            members=members,
            length=length,
            seal=seal,
        )
        # One header has one encoding, so that no bit of it can change and the message
        # still be taken.
        if not kind.isascii() or header.encode() != data[: _HEADER.size]:
            raise bad_message("has a header that is not written as it should be")
        return header

    @property
    def info(self) -> bytes:
        """Names this message in key derivations: purpose, fold, round, attempt,
        members, sender, recipient.
        """
        numbers = (self.fold, self.round, self.attempt, self.sender, self.recipient)
        return self.kind.encode() + b"/%d/%d/%d/%d/%d/" % numbers + self.members


def members_digest(members: Sequence[int]) -> bytes:
    """SHA-256 over the sorted user ids of a message's members."""
    text = json.dumps(sorted(members))
    return hashlib.sha256(b"members" + text.encode()).digest()


def write_envelope(
    identity: Identity,
    header: Header,
    payload: bytes,
    *,
    session: Session | None = None,
    random_bytes: Random = secrets.token_bytes,
) -> bytes:
    """Seals `payload` as the header says and signs it. Runs at a hospital, only from
    its release door.

    A clear body is for what the coordinator may read (contributions under encryption,
    metrics, row counts).
    """
    if header.seal == CLEAR:
        associated = replace(header, length=len(payload)).encode()
        body = payload
    else:
        associated = replace(header, length=len(payload) + _SEALING_BYTES).encode()
        key = _message_key(session, header)
        body = sealing.seal(
            key, payload, associated=associated, random_bytes=random_bytes
        )
    signature = identity.sign(_signed_bytes(associated, body))
    return associated + body + signature


def read_envelope(
    envelope: bytes,
    expected: Header,
    identity: PublicIdentity | None,
    *,
    session: Session | None = None,
) -> bytes:
    """The payload, after every header field and the signature have been found as
    expected.

    `identity` None skips the signature: only the coordinator does so, for messages
    whose sender its exchange has authenticated by token; it has no pins to check
    against.
    """
    header, body = _split(envelope)
    if header != replace(expected, length=len(body)):
        raise bad_message(f"of kind {expected.kind} is not the one that is waited for")
    associated = envelope[: _HEADER.size]
    # The signature before anything is opened: nothing of a body whose sender is not
    # known is used.
    if identity is not None:
        signature = envelope[-SIGNATURE_BYTES:]
        identity.verify(_signed_bytes(associated, body), signature)
    if header.seal == CLEAR:
        return body
    key = _message_key(session, header, reading=True)
    return sealing.unseal(key, body, associated=associated)


def peek_envelope(
    envelope: bytes, *, kind: str, sender: int, fold: int = 0, round: int = 0
) -> bytes:
    """The clear body of a message to the coordinator, which has no pins: its exchange
    knows the sender by token.
    """
    header, body = _split(envelope)
    found = (
        header.kind,
        header.sender,
        header.fold,
        header.round,
        header.seal,
        header.length,
    )
    if found != (kind, sender, fold, round, CLEAR, len(body)):
        raise bad_message(f"of kind {kind} is not the one that is waited for")
    return body


def _split(envelope: bytes) -> tuple[Header, bytes]:
    """Header and body.

    What is too short to hold a signature behind its header is no envelope.
    """
    header = Header.decode(envelope)
    if len(envelope) < _HEADER.size + SIGNATURE_BYTES:
        raise bad_message("is shorter than its header and signature")
    return header, envelope[_HEADER.size : -SIGNATURE_BYTES]


def _message_key(
    session: Session | None, header: Header, *, reading: bool = False
) -> bytes:
    """The key of this one message: its header is in the derivation."""
    if session is None:
        raise bad_message("is sealed, and no session is open for it")
    if header.seal == GROUP:
        return session.group_key(header.info)
    peer = header.sender if reading else header.recipient
    return session.pair_key(peer, header.info)


def _signed_bytes(associated: bytes, body: bytes) -> bytes:
    return _SIGN_DOMAIN + associated + hashlib.sha256(body).digest()


def bad_message(what: str) -> ProtocolViolation:
    """The error of a message that is not what its receiver waits for: "A message is
    shorter than its header."

    `what` holds nothing of the message, which may come from somebody hostile.
    """
    return ProtocolViolation(
        f"A message {what}.",
        remedy="Nothing of it was used. If all sides run the same version, it was altered on its way.",
        code="bad_message",
    )


# Payloads: each owns encode and decode.


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
        plain = _to_json({"salt": self.salt.hex(), "sql": self.sql})
        return sealing.seal_to(
            seal_key, plain, associated=_sql_tag(user_id), random_bytes=random_bytes
        )

    @classmethod
    def unseal(cls, user_id: int, open_key: bytes, box: bytes) -> Self:
        plain = sealing.unseal_from(open_key, box, associated=_sql_tag(user_id))
        values = read_fields(plain, {"salt": str, "sql": dict})
        if not all(isinstance(text, str) for text in values["sql"].values()):
            raise bad_message("holds SQL that is not text")
        return cls(_hex(values["salt"], 32), values["sql"])

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
        return _to_json(fields)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        values = read_fields(data, {"document": str, "nonce": str, "identity": str})
        nonce = _hex(values["nonce"], 32)
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

    def as_fields(self) -> dict[str, Any]:
        return {
            "min_varying": self.min_varying,
            "min_hospitals": self.min_hospitals,
            "own_totals": self.own_totals,
        }

    @classmethod
    def of_fields(cls, fields: dict[str, Any]) -> Self:
        """ProtocolViolation (code bad_message) for anything else."""
        types = {"min_varying": int, "min_hospitals": int, "own_totals": bool}
        _check_fields(fields, types)
        # The circuit's size follows from them.
        for name in ("min_varying", "min_hospitals"):
            if not 1 <= fields[name] <= _MOST_THRESHOLD:
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
        return _to_json(fields)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        fields: dict[str, type] = {
            "order": str,
            "n_rows": int,
            "n_test_rows": int,
            "regroup": bool,
            "least_hospitals": int,
            "ephemeral": str,
            "identity": str,
        }
        values = read_fields(data, fields, optional={"pooled": dict})
        pooled = None
        if "pooled" in values:
            pooled = PooledThresholds.of_fields(values["pooled"])
        for count in (values["n_rows"], values["n_test_rows"]):
            if not 0 <= count <= MOST_ROWS:
                raise bad_message(
                    "counts fewer than no rows, or more than there can be"
                )
        if not 1 <= values["least_hospitals"] <= _MOST_HOSPITALS:
            raise bad_message("asks for fewer than one hospital, or for too many")
        return cls(
            order_digest=_hex(values["order"], 32),
            n_rows=values["n_rows"],
            n_test_rows=values["n_test_rows"],
            regroup=values["regroup"],
            least_hospitals=values["least_hospitals"],
            ephemeral=_hex(values["ephemeral"], 32),
            identity=PublicIdentity.decode(values["identity"]),
            pooled=pooled,
        )


def run_context(order: SignedOrder, acceptances: dict[int, Acceptance]) -> bytes:
    """SHA-256 over the signed order (with its nonce) and every party's acceptance: 32
    bytes, fresh for each run.
    """
    digest = hashlib.sha256(b"consilium/v1/context" + order.digest)
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


@dataclass(frozen=True)
class Contribution:
    """A hospital to the coordinator: its part of a sum, as the order's method seals it,
    and a report in clear.
    """

    part: bytes
    # HMAC of its replicated state under the order secret (32 bytes): equal at every
    # hospital or the order stops.
    tag: bytes
    # Metrics of this hospital, JSON, rounded; the coordinator may read them.
    report: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        report = _to_json(self.report)
        return self.tag + struct.pack(">I", len(report)) + report + self.part

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < 36:
            raise bad_message("of kind contribution is too short")
        tag = data[:32]
        (report_length,) = struct.unpack(">I", data[32:36])
        end = 36 + report_length
        if len(data) < end:
            raise bad_message("of kind contribution is shorter than it says")
        report = _parse_json(data[36:end])
        if not isinstance(report, dict):
            raise bad_message("has a report that is not an object")
        return cls(part=data[end:], tag=tag, report=report)


@dataclass(frozen=True)
class Vectors:
    """A hospital to the coordinator: its gradient of a round in the order's frame, for
    scores; dropped when used.
    """

    # By layer, float64 (d,), rotated by a key of the hospitals unless the order's
    # method is None.
    layers: dict[str, npt.NDArray[np.float64]]
    # By layer, float64 (4,), what compares this round with the one before (`BETWEEN`);
    # empty in a first round and with scoring round.
    between: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    # Who may read scores by this hospital's policy: parties or operator.
    readers: str = "parties"

    def encode(self) -> bytes:
        lengths = [[name, len(values)] for name, values in self.layers.items()]
        fields = {
            "layers": lengths,
            "between": list(self.between),
            "readers": self.readers,
        }
        head = _to_json(fields)
        parts = [struct.pack(">I", len(head)), head]
        vectors = [*self.layers.values(), *self.between.values()]
        for values in vectors:
            parts.append(values.astype(">f8").tobytes())
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < 4:
            raise bad_message("of kind vectors is too short")
        (head_length,) = struct.unpack(">I", data[:4])
        end = 4 + head_length
        fields: dict[str, type] = {"layers": list, "between": list, "readers": str}
        head = read_fields(data[4:end], fields)
        are_readers = head["readers"] in ("parties", "operator")
        if not _are_lengths(head["layers"]) or not are_readers:
            raise bad_message("of kind vectors has layers or readers that are none")
        lengths = dict(head["layers"])
        compared = head["between"]
        if len(lengths) < len(head["layers"]) or compared not in ([], list(lengths)):
            raise bad_message(
                "of kind vectors names a layer twice, or compares others than it has"
            )
        layers, between = _split_numbers(data[end:], lengths, compared)
        return cls(layers, between, head["readers"])


BETWEEN = ("step", "drift", "dot", "norm")
"""|g_i(t) - g_i(t-1)|, |g_i(t) - gbar(t-1)|, <g_i(t), gbar(t-1)>, |gbar(t-1)| of one
layer.
"""


def _are_lengths(layers: list[Any]) -> bool:
    """Whether this is a list of layers, each a name and its number of weights, as
    `Vectors.encode` writes it.
    """
    if len(layers) > 1000:
        return False
    for entry in layers:
        if not isinstance(entry, list) or [type(part) for part in entry] != [str, int]:
            return False
        if not 1 <= entry[1] <= 2**32:
            return False
    return True


def _split_numbers(
    data: bytes, lengths: dict[str, int], between: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """By layer its vector, and by layer the numbers of BETWEEN."""
    counts = list(lengths.values())
    counts += [len(BETWEEN)] * len(between)
    if len(data) != 8 * sum(counts):
        raise bad_message("of kind vectors has another length than it says")
    numbers = np.frombuffer(data, dtype=">f8").astype(np.float64)
    are_numbers = np.isfinite(numbers) & (np.abs(numbers) <= _LARGEST_SHOWN)
    if not are_numbers.all():
        raise bad_message("of kind vectors holds what is no number of a gradient")
    if not counts:
        return {}, {}
    parts = np.split(numbers, np.cumsum(counts)[:-1])
    n_layers = len(lengths)
    vectors = dict(zip(lengths, parts[:n_layers], strict=True))
    comparisons = dict(zip(between, parts[n_layers:], strict=True))
    return vectors, comparisons


@dataclass(frozen=True)
class Choice:
    """The coordinator to all hospitals: whose gradients a round's sum is over, and why
    others are left out.
    """

    members: tuple[int, ...]
    left_out: dict[int, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        reasons = {str(user): reason for user, reason in self.left_out.items()}
        return _to_json({"members": list(self.members), "left_out": reasons})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        values = read_fields(data, {"members": list, "left_out": dict})
        members = values["members"]
        are_ids = all(type(user) is int for user in members)
        if not are_ids or members != sorted(set(members)):
            raise bad_message("of kind choice has members that are no sorted user ids")
        left_out = {}
        for user, reason in values["left_out"].items():
            if not user.isdecimal() or not isinstance(reason, str):
                raise bad_message("of kind choice has reasons that are none")
            left_out[int(user)] = reason
        return cls(tuple(members), left_out)


@dataclass(frozen=True)
class Opening:
    """Initiator to all parties, sealed to the group: the opened sum, and whether
    training ends with this round.
    """

    sums: npt.NDArray[np.int64]
    stop: bool

    def encode(self) -> bytes:
        head = struct.pack(">BQ", self.stop, len(self.sums))
        return head + self.sums.astype(">i8").tobytes()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < 9:
            raise bad_message("of kind opening is too short")
        stop, count = struct.unpack(">BQ", data[:9])
        if stop > 1 or len(data) != 9 + 8 * count:
            raise bad_message("of kind opening has another length than it says")
        sums = np.frombuffer(data[9:], dtype=">i8").astype(np.int64)
        return cls(sums, bool(stop))


def state_tag(session: Session, weights: npt.NDArray[np.float64], info: bytes) -> bytes:
    """HMAC-SHA256 of the weights' bytes under a group key: lets the coordinator
    compare, and shows it nothing.
    """
    key = session.group_key(b"state/" + info)
    return hmac.digest(key, weights.astype(">f8").tobytes(), "sha256")


def canonical(value: Any) -> str:
    """JSON with sorted keys and no blanks: one text for one value."""
    return json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )


def _to_json(value: dict[str, Any]) -> bytes:
    return canonical(value).encode()


def _parse_json(data: bytes) -> Any:
    """Any JSON value of a sender who may be hostile: no NaN or Infinity, and no nesting
    that exhausts the stack.
    """

    def refuse(_constant: str) -> None:
        raise ValueError

    try:
        return json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise bad_message("is not JSON") from None


def read_json(model: type[Model], data: bytes, *, what: str) -> Model:
    """A message whose body is one of the protocol's models as JSON.

    ProtocolViolation (code bad_message) for anything else; its sentence names `what`
    and holds nothing of the message.
    """
    try:
        return model.model_validate_json(data, strict=True)
    except ValidationError:
        raise ProtocolViolation(
            f"{what} cannot be read.",
            remedy="Nothing of it was used. Run the same version at all hospitals.",
            code="bad_message",
        ) from None


def read_fields(
    data: bytes,
    fields: dict[str, type],
    *,
    optional: dict[str, type] | None = None,
) -> dict[str, Any]:
    """A message whose body is a JSON object with exactly these fields, each exactly of
    its type, and any of those in `optional`.

    For what is no model: texts arrive as they were sent, half surrogate pairs too,
    which pydantic would not parse. ProtocolViolation (code bad_message) for anything
    else.
    """
    values = _parse_json(data)
    expected = dict(fields)
    if isinstance(values, dict):
        for name, type_ in (optional or {}).items():
            if name in values:
                expected[name] = type_
    _check_fields(values, expected)
    checked: dict[str, Any] = values
    return checked


def _check_fields(values: Any, fields: dict[str, type]) -> None:
    if not isinstance(values, dict) or set(values) != set(fields):
        raise bad_message("has other fields than it should")
    for name, type_ in fields.items():
        if type(values[name]) is not type_:  # a bool is an int only to isinstance
            raise bad_message(f"has a field {name} of another type than it should")


def _hex(text: str, length: int | None = None) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise bad_message("has a field that is not hexadecimal") from None
    if length is not None and len(data) != length:
        raise bad_message("has a field of another length than it should")
    return data
