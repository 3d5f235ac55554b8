"""Writes messages.json: run it only when a message's format is changed on purpose, and
raise the version there.

.venv/bin/python tests/vectors/make_message_vectors.py
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from protocol.messages import (  # noqa: E402
    COORDINATOR,
    EVERYONE,
    Acceptance,
    Contribution,
    Header,
    HospitalSql,
    Opening,
    Setup,
    SignedOrder,
    members_digest,
    run_context,
    state_tag,
    write_envelope,
)
from protocol.sealing import Identity, Session, exchange_public  # noqa: E402

PATH = Path(__file__).with_name("messages.json")
USERS = (2, 3, 4)
INITIATOR, SENDER, PEER = 4, 2, 3
HEADER_BYTES, SIGNATURE_BYTES = 113, 64
DOCUMENT = '{"kind":"train","order_id":37,"purpose":"\u4f1a\u8bca"}'


def stream(seed: str) -> Callable[[int], bytes]:
    """A source of bytes that are the same on every machine: SHAKE-256 of the seed and a
    counter.
    """
    calls = 0

    def random_bytes(count: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{seed}/{calls}".encode()).digest(count)

    return random_bytes


IDENTITIES = {user: Identity.generate(stream(f"identity {user}")) for user in USERS}
EPHEMERAL = {user: stream(f"ephemeral {user}")(32) for user in USERS}
ORDER = SignedOrder(DOCUMENT, stream("nonce")(32), IDENTITIES[INITIATOR].public)
ACCEPTANCES = {
    user: Acceptance(
        ORDER.digest,
        100 + user,
        0,
        user == SENDER,
        3,
        exchange_public(EPHEMERAL[user]),
        IDENTITIES[user].public,
    )
    for user in USERS
}
CONTEXT = run_context(ORDER, ACCEPTANCES)


def session(me: int) -> Session:
    """The session of one of the three parties."""
    return Session(
        context=CONTEXT,
        me=me,
        ephemeral=EPHEMERAL[me],
        peer_keys={
            user: acceptance.ephemeral for user, acceptance in ACCEPTANCES.items()
        },
        identities={user: identity.public for user, identity in IDENTITIES.items()},
        order_secret=stream("order secret")(32),
    )


def header(seal: int) -> Header:
    """What the vectors' message says of itself: clear to the coordinator, sealed to a
    peer, or to the group.
    """
    kind, recipient = [
        ("gradient", COORDINATOR),
        ("setup", PEER),
        ("opening-variance", EVERYONE),
    ][seal]
    members = members_digest(USERS)
    return Header(
        kind,
        SENDER,
        recipient,
        CONTEXT,
        fold=1,
        round=2,
        attempt=0,
        members=members,
        seal=seal,
    )


PAYLOADS = [b"part of a sum", b"for one party", b"for all parties"]


def envelope(
    seal: int, *, said: Header | None = None, signer: int = SENDER, seed: str = "nonces"
) -> bytes:
    """The message of `header(seal)`, or one that says something else or is signed by
    somebody else.
    """
    return write_envelope(
        IDENTITIES[signer],
        said or header(seal),
        PAYLOADS[seal],
        session=session(SENDER),
        random_bytes=stream(f"{seed} {seal}"),
    )


def payloads() -> dict[str, str]:
    """Every payload's encoding, by its name."""
    words = np.array([0, -1, 2**62, -(2**62)], dtype=np.int64)
    own = HospitalSql(
        stream("salt")(32),
        {"train": "SELECT * FROM data.t", "test": "SELECT * FROM data.u"},
    )
    tag = state_tag(session(SENDER), np.array([0.0, -0.0, 1.5]), b"gradient/1/2/0")
    return {
        "order": ORDER.encode().hex(),
        "acceptance": ACCEPTANCES[SENDER].encode().hex(),
        "context": CONTEXT.hex(),
        "setup": Setup(bytes(32), b"key").encode().hex(),
        "contribution": Contribution(
            b"part", tag, {"n_rows": 7, "train": {"loss": 0.693147}}
        )
        .encode()
        .hex(),
        "opening": Opening(words, True).encode().hex(),
        "sql": own.seal(
            SENDER, IDENTITIES[SENDER].public.seal_key, random_bytes=stream("box")
        ).hex(),
        "sql_commitment": own.commitment,
        "fingerprint": IDENTITIES[SENDER].public.fingerprint,
    }


def altered_headers(seal: int) -> dict[str, Header]:
    """Well-made, rightly signed messages that are not the one which is waited for."""
    said = header(seal)
    return {
        "sender": replace(said, sender=PEER),
        "recipient": replace(said, recipient=INITIATOR),
        "round": replace(said, round=3),
        "fold": replace(said, fold=0),
        "attempt": replace(said, attempt=1),
        "context": replace(said, context=hashlib.sha256(b"another run").digest()),
        "members": replace(said, members=members_digest((2, 4))),
        "kind": replace(said, kind="classes"),
        "seal": replace(said, seal=0 if seal else 2),
    }


def must_fail(seal: int) -> list[dict[str, str]]:
    """Envelopes that the reader of `header(seal)` refuses, each for one reason."""
    good, other = envelope(seal), envelope(seal, said=replace(header(seal), round=3))
    cases = {
        what: envelope(seal, said=said) for what, said in altered_headers(seal).items()
    }
    cases |= {
        "signed by another party": envelope(seal, signer=PEER),
        "signature of another message": good[:-SIGNATURE_BYTES]
        + other[-SIGNATURE_BYTES:],
        "body of another message": good[:HEADER_BYTES] + other[HEADER_BYTES:],
        "magic": b"CNSM" + good[4:],
        "version of acceptances that say less": good[:4] + b"\x01" + good[5:],
        "version": good[:4] + b"\x03" + good[5:],
        "length": good[:101] + (1).to_bytes(8, "big") + good[109:],
        "padding": good[:110] + b"\x01" + good[111:],
        "flipped bit in the body": flip(good, HEADER_BYTES),
        "flipped bit in the signature": flip(good, len(good) - 1),
        "last byte cut": good[:-1],
        "one byte more": good + b"\0",
        "body cut": good[:HEADER_BYTES] + good[-SIGNATURE_BYTES:],
        "signature cut": good[:-SIGNATURE_BYTES],
        "header only": good[:HEADER_BYTES],
        "header cut": good[: HEADER_BYTES - 1],
        "empty": b"",
    }
    return [{"what": what, "envelope": data.hex()} for what, data in cases.items()]


def flip(data: bytes, at: int) -> bytes:
    """`data` with the lowest bit of one byte flipped."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def all_vectors() -> dict[str, Any]:
    """The content of messages.json."""
    envelopes = {
        str(seal): {
            "payload": PAYLOADS[seal].hex(),
            "header": header(seal).encode().hex(),
            "envelope": envelope(seal).hex(),
            "must_fail": must_fail(seal),
        }
        for seal in range(3)
    }
    return {"payloads": payloads(), "envelopes": envelopes}


if __name__ == "__main__":
    PATH.write_text(json.dumps(all_vectors(), indent=1) + "\n")
