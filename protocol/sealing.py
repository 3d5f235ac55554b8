"""Keys and boxes: who is who, how a key is derived, how bytes are sealed to somebody.

Primitives: Ed25519 (RFC 8032), X25519 (RFC 7748), HKDF-SHA256 (RFC 5869),
ChaCha20-Poly1305 (RFC 8439), all from the `cryptography` package.

In order: identities, which outlive orders, and their pins; sealing with a key, and to
somebody's public key; the session of one run of an order, which derives every other
key. `messages/envelope.py` seals envelopes with it.

Decision 15.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import ProtocolViolation, Refused

KEY_BYTES = 32
NONCE_BYTES = 12
SIGNATURE_BYTES = 64
# In every derivation, so that a key or hash of ours is none of another protocol's, nor
# of another version.
_DOMAIN = b"consilium/v1/"


def derive_key(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 to 32 bytes.

    `info` names the purpose and everything that must not share a key.
    """
    hkdf = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=_DOMAIN + info)
    return hkdf.derive(secret)


def commitment(salt: bytes, text: str) -> str:
    """SHA-256 over a 32-byte salt and a text.

    Binds to the text without showing it to who lacks the salt.
    """
    _require_length(salt, KEY_BYTES, "salt")
    commitment_input = _DOMAIN + b"commitment" + salt + text.encode()
    return hashlib.sha256(commitment_input).hexdigest()


@dataclass(frozen=True)
class PublicIdentity:
    """A hospital's long-lived public keys, 32 bytes each.

    ProtocolViolation (code bad_length) for others.
    """

    # Ed25519, to verify its signatures with.
    verify_key: bytes
    # X25519, to seal to it.
    seal_key: bytes

    def __post_init__(self) -> None:
        _require_length(self.verify_key, KEY_BYTES, "verify_key")
        _require_length(self.seal_key, KEY_BYTES, "seal_key")

    @property
    def fingerprint(self) -> str:
        """SHA-256 over both keys, 128 bits in groups of four hex digits, to be compared
        by telephone.
        """
        fingerprint_input = _DOMAIN + b"fingerprint" + self.verify_key + self.seal_key
        digest = hashlib.sha256(fingerprint_input).hexdigest()
        groups = [digest[begin : begin + 4] for begin in range(0, 32, 4)]
        return "-".join(groups)

    def verify(self, message: bytes, signature: bytes) -> None:
        """Raises ProtocolViolation unless `signature` (64 bytes) over `message` is this
        identity's.
        """
        public_key = Ed25519PublicKey.from_public_bytes(self.verify_key)
        try:
            public_key.verify(signature, message)
        except InvalidSignature:
            raise ProtocolViolation(
                "A message carries a signature that does not match its sender's key.",
                remedy="Check the sender's fingerprint by telephone; the message may have been altered on its way.",
                code="bad_signature",
            ) from None

    def encode(self) -> str:
        return (self.verify_key + self.seal_key).hex()

    @classmethod
    def decode(cls, text: str) -> PublicIdentity:
        identity_bytes = _from_hex(text, 2 * KEY_BYTES, "public identity")
        return cls(identity_bytes[:KEY_BYTES], identity_bytes[KEY_BYTES:])


@dataclass(frozen=True)
class Identity:
    """A hospital's long-lived private keys (raw 32 bytes each).

    Never leaves its vault.
    """

    # Ed25519.
    sign_key: bytes
    # X25519.
    open_key: bytes

    @classmethod
    def generate(
        cls, random_bytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> Identity:
        return cls(random_bytes(KEY_BYTES), random_bytes(KEY_BYTES))

    @property
    def public(self) -> PublicIdentity:
        private = Ed25519PrivateKey.from_private_bytes(self.sign_key)
        return PublicIdentity(
            verify_key=private.public_key().public_bytes_raw(),
            seal_key=exchange_public(self.open_key),
        )

    def sign(self, message: bytes) -> bytes:
        """64 bytes over `message`; the caller's message starts with a domain tag."""
        return Ed25519PrivateKey.from_private_bytes(self.sign_key).sign(message)

    def to_json(self) -> dict[str, str]:
        return {"sign_key": self.sign_key.hex(), "open_key": self.open_key.hex()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Identity:
        """Inverse of `to_json`.

        ProtocolViolation (code bad_length) for anything but two keys of 32 bytes.
        """
        if set(data) != {"sign_key", "open_key"}:
            raise ProtocolViolation(
                "An identity has exactly a sign_key and an open_key.",
                remedy="Restore it from the backup.",
                code="bad_length",
            )
        sign_key = _from_hex(data["sign_key"], KEY_BYTES, "sign_key")
        open_key = _from_hex(data["open_key"], KEY_BYTES, "open_key")
        return cls(sign_key, open_key)


def check_pin(name: str, pinned: str | None, presented: PublicIdentity) -> None:
    """Refuses an identity whose fingerprint is not the one a person typed in.

    No trust on first use (decision 16).
    """
    if pinned is None:
        raise Refused(
            f"{name} is not pinned here.",
            remedy=f"Ask {name} by telephone for its fingerprint (`./run agent keys`) and add it to settings.toml "
            "under [[partners]].",
            code="pin_missing",
        )
    if pinned.strip().lower() != presented.fingerprint:
        raise Refused(
            f"The key that is presented as {name}'s is not the pinned one.",
            remedy=f"Compare fingerprints with {name} by telephone. If its keys were renewed, replace the pin in "
            "settings.toml; if not, somebody stands between you.",
            code="pin_mismatch",
        )


def exchange_public(private: bytes) -> bytes:
    """The X25519 public key (32 bytes) of a raw private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes) -> bytes:
    """X25519 shared secret, 32 bytes; a low-order public key is a ProtocolViolation."""
    try:
        own_key = X25519PrivateKey.from_private_bytes(private)
        return own_key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ProtocolViolation(
            "A partner's key is not a usable X25519 key.",
            remedy="Ask the partner to renew its keys.",
            code="bad_key",
        ) from None


def seal(
    key: bytes,
    plaintext: bytes,
    *,
    associated: bytes,
    random_bytes: Callable[[int], bytes],
) -> bytes:
    """nonce (12) || ChaCha20-Poly1305(key, plaintext, associated). `key` is used for
    one message only.

    `associated` is not in what is returned, and has to be the same when it is opened:
    where the message belongs.
    """
    nonce = random_bytes(NONCE_BYTES)
    ciphertext = ChaCha20Poly1305(key).encrypt(nonce, plaintext, associated)
    return nonce + ciphertext


def unseal(key: bytes, sealed: bytes, *, associated: bytes) -> bytes:
    """Inverse of `seal`; anything altered is a ProtocolViolation."""
    nonce = sealed[:NONCE_BYTES]
    ciphertext = sealed[NONCE_BYTES:]
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, ciphertext, associated)
    except (InvalidTag, ValueError):
        raise ProtocolViolation(
            "A sealed message cannot be opened with the key that belongs to it.",
            remedy="It was sealed for somebody else or altered on its way; the order has to be sent again.",
            code="cannot_unseal",
        ) from None


def seal_to(
    public: bytes,
    plaintext: bytes,
    *,
    associated: bytes,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
) -> bytes:
    """Anonymous box to an X25519 key: ephemeral public key (32) || sealed bytes.

    Anyone can make one, so it hides and does not authenticate. Who opens it checks its
    content by other means.
    """
    ephemeral = random_bytes(KEY_BYTES)
    ephemeral_public = exchange_public(ephemeral)
    shared_secret = agree(ephemeral, public)
    box_key = derive_key(shared_secret, salt=ephemeral_public + public, info=b"box")
    sealed = seal(box_key, plaintext, associated=associated, random_bytes=random_bytes)
    return ephemeral_public + sealed


def unseal_from(private: bytes, box: bytes, *, associated: bytes) -> bytes:
    """Inverse of `seal_to`; anything altered, or sealed to another key, is a
    ProtocolViolation.
    """
    ephemeral_public = box[:KEY_BYTES]
    sealed = box[KEY_BYTES:]
    _require_length(ephemeral_public, KEY_BYTES, "box")
    salt = ephemeral_public + exchange_public(private)
    shared_secret = agree(private, ephemeral_public)
    box_key = derive_key(shared_secret, salt=salt, info=b"box")
    return unseal(box_key, sealed, associated=associated)


@dataclass(frozen=True)
class Session:
    """One party's keys for one run of an order; derived, kept in its vault, deleted at
    the end.
    """

    # SHA-256 over the signed order and every party's acceptance (32 bytes), the salt of
    # every key.
    context: bytes
    me: int
    # X25519 private key of this run (32 bytes).
    ephemeral: bytes
    # By user id, oneself included: each party's X25519 public key of this run, and its
    # pinned identity.
    peer_keys: Mapping[int, bytes]
    identities: Mapping[int, PublicIdentity]
    # Known to all parties and nobody else (32 bytes); None until it has been received.
    order_secret: bytes | None = None

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(sorted(self.peer_keys))

    def pair_key(self, peer: int, info: bytes) -> bytes:
        """The same 32 bytes at both ends of the pair, other ones for every context,
        pair and info.
        """
        low_id, high_id = sorted((self.me, peer))
        shared_secret = agree(self.ephemeral, self.peer_keys[peer])
        pair_info = b"pair/%d/%d/" % (low_id, high_id) + info
        return derive_key(shared_secret, salt=self.context, info=pair_info)

    def group_key(self, info: bytes) -> bytes:
        """32 bytes that every party can derive and the coordinator cannot."""
        if self.order_secret is None:
            raise ProtocolViolation(
                "The order secret has not arrived yet.",
                remedy="Wait for the initiator's set-up.",
                code="no_secret",
            )
        return derive_key(self.order_secret, salt=self.context, info=b"group/" + info)


def _from_hex(text: str, length: int, field: str) -> bytes:
    try:
        decoded_bytes = bytes.fromhex(text)
    except (ValueError, TypeError):
        decoded_bytes = b""  # which has the wrong length, and is refused as that
    _require_length(decoded_bytes, length, field)
    return decoded_bytes


def _require_length(data: bytes, length: int, field: str) -> None:
    if len(data) != length:
        raise ProtocolViolation(
            f"{field} has {len(data)} bytes instead of {length}.",
            remedy="Both sides must run the same version of Consilium.",
            code="bad_length",
        )
