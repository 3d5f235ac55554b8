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
    CONTEXTS,
    IDENTITIES,
    INITIATOR,
    ORDER,
    PATHS,
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

VECTORS: dict[int, dict[str, Any]] = {
    protocol: json.loads(path.read_text()) for protocol, path in PATHS.items()
}
BAD = [
    pytest.param(protocol, int(seal), case, id=f"{protocol}, {seal}: {case['what']}")
    for protocol, vectors in VECTORS.items()
    for seal, entry in vectors["envelopes"].items()
    for case in entry["must_fail"]
]
SEALS = [0, 1, 2]
of_each_protocol = pytest.mark.parametrize("protocol", PATHS)


def read(data: bytes, seal: int, protocol: int, *, me: int = PEER) -> bytes:
    return read_envelope(
        data,
        header(seal, protocol),
        IDENTITIES[SENDER].public,
        session=session(me, protocol),
    )


@of_each_protocol
def test_the_script_still_writes_these_vectors(protocol: int) -> None:
    """Those of the number before, too: that is how it is written in its orders."""
    assert json.loads(json.dumps(all_vectors(protocol))) == VECTORS[protocol]


@of_each_protocol
@pytest.mark.parametrize("seal", SEALS)
def test_an_envelope_is_read_by_its_recipient(seal: int, protocol: int) -> None:
    case = VECTORS[protocol]["envelopes"][str(seal)]
    found = read(bytes.fromhex(case["envelope"]), seal, protocol)
    assert found == bytes.fromhex(case["payload"])


@of_each_protocol
@pytest.mark.parametrize("seal", SEALS)
def test_the_header_is_laid_out_as_its_docstring_says(seal: int, protocol: int) -> None:
    data = bytes.fromhex(VECTORS[protocol]["envelopes"][str(seal)]["header"])
    said = header(seal, protocol)
    fields = struct.unpack(">4sB32s16sHIHII32sQB3x", data)
    assert len(data) == 113
    kind = said.kind.encode().ljust(16, b"\0")
    assert fields[:4] == (b"CNSL", protocol, CONTEXTS[protocol], kind)
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


@pytest.mark.parametrize(("protocol", "seal", "case"), BAD)
def test_envelopes_that_must_fail(
    protocol: int, seal: int, case: dict[str, str]
) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        read(bytes.fromhex(case["envelope"]), seal, protocol)
    assert caught.value.code in ("bad_message", "bad_signature", "cannot_unseal")


@of_each_protocol
def test_what_is_sealed_to_one_party_is_closed_to_the_other(protocol: int) -> None:
    sealed = bytes.fromhex(VECTORS[protocol]["envelopes"]["1"]["envelope"])
    with pytest.raises(ProtocolViolation) as caught:
        read(sealed, 1, protocol, me=INITIATOR)
    assert caught.value.code == "cannot_unseal"


@of_each_protocol
def test_order_acceptance_and_context(protocol: int) -> None:
    payloads = VECTORS[protocol]["payloads"]
    assert SignedOrder.decode(bytes.fromhex(payloads["order"])) == ORDER
    acceptance = Acceptance.decode(bytes.fromhex(payloads["acceptance"]))
    assert acceptance == ACCEPTANCES[protocol][SENDER]
    assert acceptance.spoken(order_protocol=protocol) == protocol
    assert run_context(ORDER, ACCEPTANCES[protocol]).hex() == payloads["context"]


@of_each_protocol
def test_setup_contribution_and_opening(protocol: int) -> None:
    payloads = VECTORS[protocol]["payloads"]
    assert Setup.decode(bytes.fromhex(payloads["setup"])) == Setup(bytes(32), b"key")
    contribution = Contribution.decode(bytes.fromhex(payloads["contribution"]))
    assert (contribution.part, contribution.report["n_rows"]) == (b"part", 7)
    opening = Opening.decode(bytes.fromhex(payloads["opening"]))
    assert (opening.stop, opening.sums.dtype, opening.sums.tolist()) == (
        True,
        np.int64,
        [0, -1, 2**62, -(2**62)],
    )


@of_each_protocol
def test_sql_is_opened_by_its_hospital_only(protocol: int) -> None:
    payloads = VECTORS[protocol]["payloads"]
    box = bytes.fromhex(payloads["sql"])
    own = HospitalSql.unseal(SENDER, IDENTITIES[SENDER].open_key, box)
    assert (own.commitment, sorted(own.sql)) == (
        payloads["sql_commitment"],
        ["test", "train"],
    )
    for user, identity in [
        (PEER, IDENTITIES[PEER]),
        (PEER, IDENTITIES[SENDER]),
        (SENDER, IDENTITIES[PEER]),
    ]:
        with pytest.raises(ProtocolViolation):
            HospitalSql.unseal(user, identity.open_key, box)


@of_each_protocol
def test_the_fingerprint_that_people_compare(protocol: int) -> None:
    payloads = VECTORS[protocol]["payloads"]
    assert IDENTITIES[SENDER].public.fingerprint == payloads["fingerprint"]
