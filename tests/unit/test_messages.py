"""Messages: a receiver takes the one it waits for, and hostile bytes are refused with a
sentence.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolViolation
from protocol.messages import (
    COORDINATOR,
    EVERYONE,
    Acceptance,
    Contribution,
    Header,
    HospitalSql,
    Opening,
    Setup,
    SignedOrder,
    canonical,
    members_digest,
    peek_envelope,
    read_envelope,
    read_json,
    run_context,
    state_tag,
    write_envelope,
)
from protocol.sealing import Identity, Session, exchange_public
from protocol.statistics_messages import Report, encode_common_keys, read_common_keys

USERS = (2, 3, 4)
IDENTITIES = {
    user: Identity.generate(lambda n, user=user: bytes([user]) * n) for user in USERS
}
PRIVATE = {user: bytes([user + 100]) * 32 for user in USERS}
PUBLIC = {user: exchange_public(key) for user, key in PRIVATE.items()}
ORDER = SignedOrder("{}", bytes(32), IDENTITIES[4].public)
DECODERS: list[Callable[[bytes], Any]] = [
    SignedOrder.decode,
    Acceptance.decode,
    Setup.decode,
    Contribution.decode,
    Opening.decode,
    Header.decode,
]


def session(me: int, context: bytes = b"c" * 32) -> Session:
    identities = {user: identity.public for user, identity in IDENTITIES.items()}
    return Session(context, me, PRIVATE[me], PUBLIC, identities, b"s" * 32)


def acceptance(user: int, **changes: Any) -> Acceptance:
    return replace(
        Acceptance(
            ORDER.digest, 10, 0, False, 3, PUBLIC[user], IDENTITIES[user].public
        ),
        **changes,
    )


def header(**changes: Any) -> Header:
    return replace(
        Header("setup", 2, 3, b"c" * 32, 1, 2, 0, members_digest(USERS), seal=1),
        **changes,
    )


# Envelopes


@given(st.binary(max_size=200), st.sampled_from([0, 1, 2]))
def test_what_is_written_is_read(payload: bytes, seal: int) -> None:
    said = header(seal=seal)
    envelope = write_envelope(IDENTITIES[2], said, payload, session=session(2))
    assert (
        read_envelope(envelope, said, IDENTITIES[2].public, session=session(3))
        == payload
    )
    assert len(payload) < 8 or (payload in envelope) == (seal == 0)


@given(st.integers(min_value=0), st.sampled_from([0, 1, 2]))
def test_no_bit_of_an_envelope_may_change(bit: int, seal: int) -> None:
    said = header(seal=seal)
    envelope = bytearray(
        write_envelope(IDENTITIES[2], said, b"payload", session=session(2))
    )
    at = bit % (8 * len(envelope))
    envelope[at // 8] ^= 1 << at % 8
    with pytest.raises(ProtocolViolation):
        read_envelope(bytes(envelope), said, IDENTITIES[2].public, session=session(3))


def test_the_same_message_in_another_run_cannot_be_opened() -> None:
    said = header(context=b"c" * 32)
    envelope = write_envelope(
        IDENTITIES[2], said, b"payload", session=session(2, b"c" * 32)
    )
    with pytest.raises(ProtocolViolation):
        read_envelope(
            envelope, said, IDENTITIES[2].public, session=session(3, b"d" * 32)
        )


def test_a_peer_cannot_pass_a_message_on_as_its_own() -> None:
    envelope = write_envelope(IDENTITIES[2], header(seal=0), b"payload")
    with pytest.raises(ProtocolViolation):
        read_envelope(envelope, header(seal=0, sender=4), IDENTITIES[4].public)


def test_a_sealed_message_needs_a_session() -> None:
    envelope = write_envelope(IDENTITIES[2], header(), b"payload", session=session(2))
    for call in (
        lambda: read_envelope(envelope, header(), IDENTITIES[2].public),
        lambda: write_envelope(IDENTITIES[2], header(), b"payload"),
    ):
        with pytest.raises(ProtocolViolation):
            call()


def test_the_coordinator_peeks_at_clear_messages_only() -> None:
    clear = header(kind="gradient", recipient=COORDINATOR, seal=0)
    envelope = write_envelope(IDENTITIES[2], clear, b"payload")
    assert (
        peek_envelope(envelope, kind="gradient", sender=2, fold=1, round=2)
        == b"payload"
    )
    sealed = write_envelope(
        IDENTITIES[2], replace(clear, seal=2), b"payload", session=session(2)
    )
    for data, changes in [
        (envelope, {"sender": 3}),
        (envelope, {"round": 3}),
        (envelope, {"fold": 0}),
        (envelope, {"kind": "mean"}),
        (envelope + b"\0", {}),
        (envelope[:-1], {}),
        (envelope[:113], {}),
        (sealed, {}),
    ]:
        with pytest.raises(ProtocolViolation):
            peek_envelope(
                data,
                **{"kind": "gradient", "sender": 2, "fold": 1, "round": 2, **changes},
            )


def test_a_message_without_body_still_needs_its_signature() -> None:
    said = Header("done", 2, COORDINATOR)
    whole = write_envelope(IDENTITIES[2], said, b"")
    assert read_envelope(whole, said, None) == b""
    with pytest.raises(ProtocolViolation):
        read_envelope(whole[:113], said, None)


@pytest.mark.parametrize("kind", ["opening-gradient", "opening-variance"])
def test_the_longest_kinds_fit(kind: str) -> None:
    assert Header.decode(Header(kind, 2, EVERYONE).encode()).kind == kind


def test_a_kind_that_would_be_cut_is_not_written() -> None:
    with pytest.raises(ValueError, match="longer than 16"):
        Header("opening-gradients", 2, EVERYONE).encode()


def test_member_lists_are_told_apart() -> None:
    assert members_digest([4, 2, 3]) == members_digest([2, 3, 4])
    assert (
        len({members_digest(m) for m in ([2, 3, 4], [2, 3], [23, 4], [2, 34], [])}) == 5
    )


# Payloads


@given(st.binary(max_size=200), st.sampled_from(DECODERS))
def test_hostile_bytes_are_a_protocol_violation(
    data: bytes, decode: Callable[[bytes], Any]
) -> None:
    with contextlib.suppress(ProtocolViolation):
        decode(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    [
        "order",
        "n_rows",
        "n_test_rows",
        "ephemeral",
        "identity",
        "document",
        "nonce",
        "salt",
        "sql",
        "x",
    ]
)


@given(st.dictionaries(FIELDS, JSON))
def test_hostile_json_is_a_protocol_violation(values: dict[str, Any]) -> None:
    data = json.dumps(values).encode()
    for decode in (SignedOrder.decode, Acceptance.decode):
        with pytest.raises(ProtocolViolation):
            decode(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_rows": -1},
        {"n_rows": 2**40 + 1},
        {"n_rows": 1.0},
        {"n_rows": True},
        {"n_rows": "1"},
        {"n_test_rows": -1},
        {"regroup": 1},
        {"regroup": None},
        {"least_hospitals": 0},
        {"least_hospitals": -1},
        {"least_hospitals": 2**31},
        {"least_hospitals": True},
        {"ephemeral": "00"},
        {"ephemeral": "zz" * 32},
        {"identity": "00"},
        {"order": 5},
        {"more": 1},
    ],
)
def test_an_acceptance_with_a_wrong_field_is_refused(changes: dict[str, Any]) -> None:
    values = json.loads(acceptance(2).encode())
    with pytest.raises(ProtocolViolation):
        Acceptance.decode(json.dumps({**values, **changes}).encode())


@pytest.mark.parametrize("field", ["regroup", "least_hospitals"])
def test_an_acceptance_of_an_earlier_version_is_refused_with_a_sentence(
    field: str,
) -> None:
    """It does not say whether its hospital may be left alone: silence is no answer."""
    values = json.loads(acceptance(2).encode())
    del values[field]
    with pytest.raises(ProtocolViolation) as caught:
        Acceptance.decode(json.dumps(values).encode())
    assert caught.value.code == "bad_message"
    assert "same version" in caught.value.remedy


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "NaN", "", "\ud800", "9" * 5000]
)
def test_json_that_breaks_parsers_is_refused(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    for decode in (SignedOrder.decode, Acceptance.decode):
        with pytest.raises(ProtocolViolation):
            decode(data)
    with pytest.raises(ProtocolViolation):
        Contribution.decode(bytes(32) + struct.pack(">I", len(data)) + data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(35),
        bytes(32) + struct.pack(">I", 1),
        bytes(32) + struct.pack(">I", 2**32 - 1) + b"{}",
        bytes(32) + struct.pack(">I", 2) + b"[]",
        bytes(32) + struct.pack(">I", 12) + b'{"loss": NaN',
        bytes(32) + struct.pack(">I", 13) + b'{"loss": NaN}',
        bytes(32) + struct.pack(">I", 18) + b'{"loss": Infinity}',
    ],
)
def test_a_contribution_that_is_not_one_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Contribution.decode(data)


def test_a_contribution_comes_back() -> None:
    sent = Contribution(
        b"\x00part", bytes(range(32)), {"n_rows": 3, "train": {"auc": None}}
    )
    assert Contribution.decode(sent.encode()) == sent


@pytest.mark.parametrize(
    "data", [bytes(8), b"\x02" + bytes(8), b"\x01" + (1).to_bytes(8, "big"), bytes(10)]
)
def test_an_opening_of_another_length_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Opening.decode(data)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), st.booleans())
def test_an_opening_comes_back(words: list[int], stop: bool) -> None:
    found = Opening.decode(Opening(np.array(words, dtype=np.int64), stop).encode())
    assert (found.sums.tolist(), found.stop) == (words, stop)


def test_a_setup_holds_a_secret() -> None:
    assert Setup.decode(Setup(b"s" * 32, b"").encode()) == Setup(b"s" * 32, b"")
    with pytest.raises(ProtocolViolation):
        Setup.decode(bytes(31))


def test_sql_is_text() -> None:
    own, key = HospitalSql(bytes(32), {"train": "SELECT 1"}), IDENTITIES[2]
    assert HospitalSql.unseal(2, key.open_key, own.seal(2, key.public.seal_key)) == own
    odd = HospitalSql(bytes(32), {"train": ["SELECT 1"]})  # type: ignore[dict-item]
    with pytest.raises(ProtocolViolation):
        HospitalSql.unseal(2, key.open_key, odd.seal(2, key.public.seal_key))


def test_a_commitment_shows_any_change_of_the_sql() -> None:
    own = HospitalSql(bytes(32), {"train": "SELECT 1"})
    others = [
        replace(own, salt=b"1" * 32),
        replace(own, sql={"train": "SELECT 2"}),
        replace(own, sql={"test": "SELECT 1"}),
    ]
    assert len({own.commitment, *(other.commitment for other in others)}) == 4
    assert "SELECT" not in own.commitment


# The context


def test_the_context_covers_order_nonce_and_every_acceptance() -> None:
    accepted = {user: acceptance(user) for user in USERS}
    contexts = {
        run_context(ORDER, accepted),
        run_context(replace(ORDER, nonce=b"n" * 32), accepted),
        run_context(replace(ORDER, document="[]"), accepted),
        run_context(ORDER, {**accepted, 3: acceptance(3, n_rows=11)}),
        run_context(ORDER, {**accepted, 3: acceptance(3, ephemeral=b"e" * 32)}),
        run_context(ORDER, {user: accepted[user] for user in (2, 4)}),
        run_context(ORDER, {2: accepted[3], 3: accepted[2], 4: accepted[4]}),
    }
    assert len(contexts) == 7
    assert run_context(ORDER, dict(reversed(accepted.items()))) == run_context(
        ORDER, accepted
    )


def test_state_tags_tell_models_rounds_and_runs_apart() -> None:
    weights = np.array([0.0, 1.0])
    tags = {
        state_tag(session(2), weights, b"gradient/0/0/0"),
        state_tag(session(2), weights, b"gradient/0/1/0"),
        state_tag(session(2), np.nextafter(weights, 2), b"gradient/0/0/0"),
        state_tag(session(2, b"d" * 32), weights, b"gradient/0/0/0"),
    }
    assert len(tags) == 4
    assert state_tag(session(3), weights, b"gradient/0/0/0") in tags


def test_canonical_json_is_one_text_for_one_value() -> None:
    assert canonical({"b": 1, "a": [1.0, "é"]}) == '{"a":[1.0,"é"],"b":1}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical({"a": float("nan")})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"rows_used": "1"}',
        b'{"rows_used": 1, "rows": 2}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_is_no_message_of_a_model_is_refused_in_one_way(body: bytes) -> None:
    with pytest.raises(
        ProtocolViolation, match=r"^The report cannot be read\."
    ) as caught:
        read_json(Report, body, what="The report")
    assert caught.value.code == "bad_message"


def test_a_message_of_a_model_comes_back() -> None:
    report = Report(rows_used=3, notes=["No row has a value."])
    assert (
        read_json(Report, report.model_dump_json().encode(), what="The report")
        == report
    )


@pytest.mark.parametrize(
    "body",
    [b"[]", b'{"keys": {}}', b'{"keys": ["a", 1]}', b'{"keys": ["a"]}', b'{"key": []}'],
)
def test_keys_of_joined_rows_are_a_text_for_each_row(body: bytes) -> None:
    assert read_common_keys(encode_common_keys(["b", "a"]), n_rows=2) == ["b", "a"]
    with pytest.raises(ProtocolViolation) as caught:
        read_common_keys(body, n_rows=2)
    assert caught.value.code == "bad_message"


def test_whether_masks_may_be_sparse_is_part_of_the_context() -> None:
    silent = acceptance(3)
    allowing = replace(silent, sparse_masks=True)
    assert Acceptance.decode(silent.encode()).sparse_masks is False
    assert Acceptance.decode(allowing.encode()) == allowing
    assert b"sparse_masks" not in silent.encode()
    contexts = {run_context(ORDER, {3: one}) for one in (silent, allowing)}
    assert len(contexts) == 2
    with pytest.raises(ProtocolViolation):
        Acceptance.decode(allowing.encode().replace(b"true}", b"1}"))
