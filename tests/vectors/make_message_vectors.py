"""Writes messages-N.json for each protocol number N that is spoken and has none yet. A
number's file is never written anew: what is changed on purpose gets another number.

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
from protocol.versions import OLDEST_PROTOCOL, PROTOCOL  # noqa: E402

PATHS = {
    protocol: Path(__file__).with_name(f"messages-{protocol}.json")
    for protocol in range(OLDEST_PROTOCOL, PROTOCOL + 1)
}
USERS = (2, 3, 4)
INITIATOR, SENDER, PEER = 4, 2, 3
OTHER_PROTOCOL = {2: b"\x03", 3: b"\x02"}
"""The byte of the other number that is spoken."""
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


def acceptances(protocol: int) -> dict[int, Acceptance]:
    """Of three agents that speak this number and no newer one."""
    made = {}
    for user in USERS:
        acceptance = Acceptance(
            ORDER.digest,
            100 + user,
            0,
            user == SENDER,
            3,
            exchange_public(EPHEMERAL[user]),
            IDENTITIES[user].public,
        )
        made[user] = acceptance.saying(protocol, order_protocol=protocol)
    return made


ACCEPTANCES = {protocol: acceptances(protocol) for protocol in PATHS}
CONTEXTS = {
    protocol: run_context(ORDER, made) for protocol, made in ACCEPTANCES.items()
}


def session(me: int, protocol: int) -> Session:
    """The session of one of the three parties."""
    return Session(
        context=CONTEXTS[protocol],
        me=me,
        ephemeral=EPHEMERAL[me],
        peer_keys={
            user: acceptance.ephemeral
            for user, acceptance in ACCEPTANCES[protocol].items()
        },
        identities={user: identity.public for user, identity in IDENTITIES.items()},
        order_secret=stream("order secret")(32),
    )


def header(seal: int, protocol: int) -> Header:
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
        CONTEXTS[protocol],
        fold=1,
        round=2,
        attempt=0,
        members=members,
        seal=seal,
        protocol=protocol,
    )


PAYLOADS = [b"part of a sum", b"for one party", b"for all parties"]


def envelope(
    seal: int,
    protocol: int,
    *,
    said: Header | None = None,
    signer: int = SENDER,
    seed: str = "nonces",
) -> bytes:
    """The message of `header(seal)`, or one that says something else or is signed by
    somebody else.
    """
    return write_envelope(
        IDENTITIES[signer],
        said or header(seal, protocol),
        PAYLOADS[seal],
        session=session(SENDER, protocol),
        random_bytes=stream(f"{seed} {seal}"),
    )


def payloads(protocol: int) -> dict[str, str]:
    """Every payload's encoding, by its name."""
    words = np.array([0, -1, 2**62, -(2**62)], dtype=np.int64)
    own = HospitalSql(
        stream("salt")(32),
        {"train": "SELECT * FROM data.t", "test": "SELECT * FROM data.u"},
    )
    tag = state_tag(
        session(SENDER, protocol), np.array([0.0, -0.0, 1.5]), b"gradient/1/2/0"
    )
    return {
        "order": ORDER.encode().hex(),
        "acceptance": ACCEPTANCES[protocol][SENDER].encode().hex(),
        "context": CONTEXTS[protocol].hex(),
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


def altered_headers(seal: int, protocol: int) -> dict[str, Header]:
    """Well-made, rightly signed messages that are not the one which is waited for."""
    said = header(seal, protocol)
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


def must_fail(seal: int, protocol: int) -> list[dict[str, str]]:
    """Envelopes that the reader of `header(seal)` refuses, each for one reason."""
    good = envelope(seal, protocol)
    said = header(seal, protocol)
    other = envelope(seal, protocol, said=replace(said, round=3))
    cases = {
        what: envelope(seal, protocol, said=altered)
        for what, altered in altered_headers(seal, protocol).items()
    }
    cases |= {
        "signed by another party": envelope(seal, protocol, signer=PEER),
        "signature of another message": good[:-SIGNATURE_BYTES]
        + other[-SIGNATURE_BYTES:],
        "body of another message": good[:HEADER_BYTES] + other[HEADER_BYTES:],
        "magic": b"CNSM" + good[4:],
        "version of acceptances that say less": good[:4] + b"\x01" + good[5:],
        "version": good[:4] + OTHER_PROTOCOL[protocol] + good[5:],
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


def all_vectors(protocol: int) -> dict[str, Any]:
    """The content of messages-N.json."""
    envelopes = {
        str(seal): {
            "payload": PAYLOADS[seal].hex(),
            "header": header(seal, protocol).encode().hex(),
            "envelope": envelope(seal, protocol).hex(),
            "must_fail": must_fail(seal, protocol),
        }
        for seal in range(3)
    }
    return {"payloads": payloads(protocol), "envelopes": envelopes}


if __name__ == "__main__":
    for protocol, path in PATHS.items():
        if not path.exists():
            path.write_text(json.dumps(all_vectors(protocol), indent=1) + "\n")
