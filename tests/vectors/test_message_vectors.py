"""The committed bytes of every message: a release that changes one, or takes one that
must fail, fails here.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from make_message_vectors import (
    ACCEPTANCES,
    CONTEXT,
    IDENTITIES,
    INITIATOR,
    ORDER,
    PATH,
    PEER,
    SENDER,
    all_vectors,
    header,
    session,
)

from protocol.errors import ProtocolViolation
from protocol.messages import (
    Acceptance,
    Contribution,
    Header,
    HospitalSql,
    Opening,
    Setup,
    SignedOrder,
    read_envelope,
    run_context,
)

VECTORS: dict[str, Any] = json.loads(PATH.read_text())
PAYLOADS = VECTORS["payloads"]
BAD = [
    (int(seal), case)
    for seal, entry in VECTORS["envelopes"].items()
    for case in entry["must_fail"]
]
SEALS = [0, 1, 2]


def read(data: bytes, seal: int, *, me: int = PEER) -> bytes:
    return read_envelope(
        data, header(seal), IDENTITIES[SENDER].public, session=session(me)
    )


def test_the_script_still_writes_these_vectors() -> None:
    assert json.loads(json.dumps(all_vectors())) == VECTORS


@pytest.mark.parametrize("seal", SEALS)
def test_an_envelope_is_read_by_its_recipient(seal: int) -> None:
    case = VECTORS["envelopes"][str(seal)]
    assert read(bytes.fromhex(case["envelope"]), seal) == bytes.fromhex(case["payload"])


@pytest.mark.parametrize("seal", SEALS)
def test_the_header_is_laid_out_as_its_docstring_says(seal: int) -> None:
    data, said = bytes.fromhex(VECTORS["envelopes"][str(seal)]["header"]), header(seal)
    fields = struct.unpack(">4sB32s16sHIHII32sQB3x", data)
    assert len(data) == 113
    assert fields[:4] == (b"CNSL", 2, CONTEXT, said.kind.encode().ljust(16, b"\0"))
    assert fields[4:] == (
        said.fold,
        said.round,
        said.attempt,
        SENDER,
        said.recipient,
        said.members,
        0,
        seal,
    )
    assert Header.decode(data) == said


@pytest.mark.parametrize(
    ("seal", "case"), BAD, ids=[f"{seal}: {case['what']}" for seal, case in BAD]
)
def test_envelopes_that_must_fail(seal: int, case: dict[str, str]) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        read(bytes.fromhex(case["envelope"]), seal)
    assert caught.value.code in ("bad_message", "bad_signature", "cannot_unseal")


def test_what_is_sealed_to_one_party_is_closed_to_the_other() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        read(bytes.fromhex(VECTORS["envelopes"]["1"]["envelope"]), 1, me=INITIATOR)
    assert caught.value.code == "cannot_unseal"


def test_order_acceptance_and_context() -> None:
    assert SignedOrder.decode(bytes.fromhex(PAYLOADS["order"])) == ORDER
    assert (
        Acceptance.decode(bytes.fromhex(PAYLOADS["acceptance"])) == ACCEPTANCES[SENDER]
    )
    assert run_context(ORDER, ACCEPTANCES).hex() == PAYLOADS["context"]


def test_setup_contribution_and_opening() -> None:
    assert Setup.decode(bytes.fromhex(PAYLOADS["setup"])) == Setup(bytes(32), b"key")
    contribution = Contribution.decode(bytes.fromhex(PAYLOADS["contribution"]))
    assert (contribution.part, contribution.report["n_rows"]) == (b"part", 7)
    opening = Opening.decode(bytes.fromhex(PAYLOADS["opening"]))
    assert (opening.stop, opening.sums.dtype, opening.sums.tolist()) == (
        True,
        np.int64,
        [0, -1, 2**62, -(2**62)],
    )


def test_sql_is_opened_by_its_hospital_only() -> None:
    box = bytes.fromhex(PAYLOADS["sql"])
    own = HospitalSql.unseal(SENDER, IDENTITIES[SENDER].open_key, box)
    assert (own.commitment, sorted(own.sql)) == (
        PAYLOADS["sql_commitment"],
        ["test", "train"],
    )
    for user, identity in [
        (PEER, IDENTITIES[PEER]),
        (PEER, IDENTITIES[SENDER]),
        (SENDER, IDENTITIES[PEER]),
    ]:
        with pytest.raises(ProtocolViolation):
            HospitalSql.unseal(user, identity.open_key, box)


def test_the_fingerprint_that_people_compare() -> None:
    assert IDENTITIES[SENDER].public.fingerprint == PAYLOADS["fingerprint"]
