"""Of each protocol number that is spoken, the committed bytes of every kind of message,
of keys and of documents: written as they were, and read. Those of number 2 are of the
code before there was a 3.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from make_kind_vectors import (
    COMMITMENTS,
    KIND_PATHS,
    all_vectors,
    header,
    kinds,
    party_document,
    payload,
    pooled,
)
from make_message_vectors import (
    ACCEPTANCES,
    EPHEMERAL,
    IDENTITIES,
    PEER,
    SENDER,
    USERS,
    session,
    stream,
)

from agents.gate.group_statements import decode_statements
from protocol.errors import ProtocolViolation
from protocol.messages import (
    KINDS,
    Acceptance,
    Choice,
    Vectors,
    read_envelope,
    write_envelope,
)
from protocol.sealing import agree
from protocol.start_window import PartyDocument
from protocol.statistics_messages import read_common_keys, read_report, read_types
from protocol.statistics_request import read_statistics_document
from protocol.training_request import read_order_document
from protocol.versions import (
    OLDEST_PROTOCOL,
    PROTOCOL,
    is_marked,
    marked_key,
    protocol_of_document,
)

VECTORS: dict[int, dict[str, Any]] = {
    protocol: json.loads(path.read_text()) for protocol, path in KIND_PATHS.items()
}
of_each_protocol = pytest.mark.parametrize("protocol", KIND_PATHS)


def test_there_are_vectors_of_each_number_that_is_spoken() -> None:
    assert list(VECTORS) == list(range(OLDEST_PROTOCOL, PROTOCOL + 1))


@of_each_protocol
def test_the_script_still_writes_these_vectors(protocol: int) -> None:
    assert json.loads(json.dumps(all_vectors(protocol))) == VECTORS[protocol]


@of_each_protocol
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_in_its_number_and_in_no_other(
    kind: str, protocol: int
) -> None:
    if kind not in kinds(protocol):
        with pytest.raises(ValueError, match="has no kind"):
            write_envelope(IDENTITIES[SENDER], header(kind, protocol), b"")
        return
    data = bytes.fromhex(VECTORS[protocol]["envelopes"][kind])
    public = IDENTITIES[SENDER].public
    keys = session(PEER, protocol)
    said = header(kind, protocol)
    assert read_envelope(data, said, public, session=keys) == payload(kind)
    (other,) = [number for number in KIND_PATHS if number != protocol]
    with pytest.raises(ProtocolViolation, match="its order in"):
        read_envelope(data, header(kind, other), public, session=keys)


@of_each_protocol
def test_payloads_are_read(protocol: int) -> None:
    data = {
        name: bytes.fromhex(text)
        for name, text in VECTORS[protocol]["payloads"].items()
    }
    acceptance = Acceptance.decode(data["acceptance"])
    assert acceptance.pooled == pooled()
    assert acceptance.spoken(order_protocol=protocol) == protocol
    vectors = Vectors.decode(data["vectors"])
    assert vectors.layers["dense"].tolist() == [0.5, 0.0, 1e-300]
    assert vectors.readers == "operator"
    assert Choice.decode(data["choice"]) == Choice((2, 4), {3: "too far"})
    stated = decode_statements(
        {2: data["statement"]}, n_columns=2, key=stream("statement")(32)
    )
    assert stated[2]["F", "north"] is None
    assert len(stated[2]) == 2
    assert read_types(data["types"]).columns == {"df1.x": (3, 0, 40, True)}
    assert read_report(data["report"]).rows_used == 30
    assert read_common_keys(data["keys"], n_rows=3)[2] == "患者"
    if "party" in data:
        named = PartyDocument.decode(data["party"])
        assert named == party_document(protocol)
        assert named.hospitals == list(USERS[:2])


@of_each_protocol
def test_documents_are_read(protocol: int) -> None:
    documents = VECTORS[protocol]["documents"]
    for name, text in documents.items():
        assert protocol_of_document(text) == protocol, name
    request, commitments = read_order_document(documents["train"], 37)
    assert (request.hospitals, commitments) == ([2, 3, 4], COMMITMENTS)
    evaluation, _ = read_order_document(documents["evaluate"], 38)
    assert evaluation.evaluates == 37
    question = read_statistics_document(documents["statistics"], 39)
    assert question.request.method == "avg"


def test_numbers_have_other_keys() -> None:
    """Their acceptances differ, and all keys hang on these."""
    older, newer = (VECTORS[protocol]["keys"] for protocol in KIND_PATHS)
    for kind in older:
        assert older[kind]["pair"] != newer[kind]["pair"]
        assert older[kind]["group"] != newer[kind]["group"]


# What an acceptance of number 2 says beside its fields


def test_a_marked_key_agrees_on_the_same_secret() -> None:
    """Who does not know of the mark computes with it what it computes without."""
    for user in USERS:
        public = ACCEPTANCES[OLDEST_PROTOCOL][user].ephemeral
        assert not is_marked(public)
        assert is_marked(marked_key(public))
        for me in USERS:
            bare = agree(EPHEMERAL[me], public)
            assert agree(EPHEMERAL[me], marked_key(public)) == bare


def test_an_acceptance_of_an_older_order_is_marked_and_has_its_form() -> None:
    """Its readers take no field that they do not know."""
    bare = ACCEPTANCES[2][SENDER]
    marked = bare.saying(PROTOCOL, order_protocol=2)
    assert set(json.loads(marked.encode())) == set(json.loads(bare.encode()))
    assert Acceptance.decode(marked.encode()) == marked
    assert (bare.spoken(order_protocol=2), marked.spoken(order_protocol=2)) == (2, 3)
    for acceptance, order_protocol in ((marked, 3), (ACCEPTANCES[3][SENDER], 2)):
        with pytest.raises(ProtocolViolation, match="not written as its order"):
            acceptance.spoken(order_protocol=order_protocol)


@pytest.mark.parametrize("spoken", [2, 0, -1, 256, True, "3", 3.0])
def test_what_cannot_be_said_to_be_spoken(spoken: Any) -> None:
    fields = json.loads(ACCEPTANCES[3][SENDER].encode())
    with pytest.raises(ProtocolViolation):
        Acceptance.decode(json.dumps({**fields, "protocol": spoken}).encode())
