"""Writes kinds-N.json for each protocol number N that is spoken and has none yet: an
envelope and the key of every kind of message, payloads that no other vectors have, and
an order's documents. A number's file is never written anew.

.venv/bin/python tests/vectors/make_kind_vectors.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, Path(__file__).parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from make_message_vectors import (  # noqa: E402
    ACCEPTANCES,
    CONTEXTS,
    EPHEMERAL,
    IDENTITIES,
    PATHS,
    PEER,
    SENDER,
    USERS,
    session,
    stream,
)

from agents.gate.group_statements import encode_statement  # noqa: E402
from agents.gate.withheld_groups import Withheld  # noqa: E402
from protocol.evaluation_request import (  # noqa: E402
    evaluation_order,
    parse_evaluate_request,
)
from protocol.messages import (  # noqa: E402
    CLEAR,
    COORDINATOR,
    EVERYONE,
    KIND_SINCE,
    KINDS,
    PAIR,
    Choice,
    Header,
    PooledThresholds,
    Vectors,
    members_digest,
    write_envelope,
)
from protocol.sealing import exchange_public  # noqa: E402
from protocol.start_window import PartyDocument, digest_of  # noqa: E402
from protocol.statistics_messages import (  # noqa: E402
    Report,
    Types,
    encode_common_keys,
)
from protocol.statistics_request import (  # noqa: E402
    parse_statistics_request,
    resolve,
    statistics_document,
)
from protocol.training_request import (  # noqa: E402
    order_document,
    parse_training_request,
)

KIND_PATHS = {
    protocol: Path(__file__).with_name(f"kinds-{protocol}.json") for protocol in PATHS
}
COMMITMENTS = {user: stream(f"commitment {user}")(32).hex() for user in USERS}
TRAINING = {
    "user_id": 4,
    "party_id": [2, 3],
    "purpose": "\u4f1a\u8bca",
    "model_type": "lr",
    "model_params": {"max_iter": 3, "encrypt_param": {"method": "Mask"}},
    "data_info": {str(user): "SELECT * FROM data.t" for user in USERS},
    "unique_id": "id",
    "attributes": ["x1", "x2"],
    "label_name": "y",
}
EVALUATION = {
    "user_id": 4,
    "party_id": [2, 3],
    "model_id": 37,
    "data_info": TRAINING["data_info"],
}
QUESTION = {
    "method": "avg",
    "data_providers": [
        {
            "name": user,
            "data_path": "data.t",
            "data_type": "table",
            "key_column": "x1",
        }
        for user in USERS
    ],
    "result_receivers": [4],
}


def header(kind: str, protocol: int) -> Header:
    """What a message of this kind says of itself in an order of this number."""
    recipient = {CLEAR: COORDINATOR, PAIR: PEER}.get(KINDS[kind], EVERYONE)
    return Header(
        kind,
        SENDER,
        recipient,
        CONTEXTS[protocol],
        fold=1,
        round=2,
        members=members_digest(USERS),
        seal=KINDS[kind],
        protocol=protocol,
    )


def kinds(protocol: int) -> list[str]:
    """Those that this number has."""
    return [kind for kind in KINDS if KIND_SINCE.get(kind, 0) <= protocol]


def payload(kind: str) -> bytes:
    return b"a payload of kind " + kind.encode()


def envelopes(protocol: int) -> dict[str, str]:
    found = {}
    for kind in kinds(protocol):
        envelope = write_envelope(
            IDENTITIES[SENDER],
            header(kind, protocol),
            payload(kind),
            session=session(SENDER, protocol),
            random_bytes=stream(f"nonce {kind}"),
        )
        found[kind] = envelope.hex()
    return found


def message_keys(protocol: int) -> dict[str, dict[str, str]]:
    """Of every kind the pair's key and the group's, as masks and messages have them."""
    own = session(SENDER, protocol)
    found = {}
    for kind in kinds(protocol):
        info = header(kind, protocol).info
        found[kind] = {
            "pair": own.pair_key(PEER, info).hex(),
            "group": own.group_key(info).hex(),
        }
    return found


def pooled() -> PooledThresholds:
    return PooledThresholds(
        min_varying=10, min_hospitals=3, own_totals=False, min_rows=12
    )


def party_document(protocol: int) -> PartyDocument:
    """Of an order that starts without its third hospital."""
    acceptances = ACCEPTANCES[protocol]
    digests = {user: digest_of(acceptances[user].encode()) for user in USERS[:2]}
    return PartyDocument(stream("document")(32), digests)


def payloads(protocol: int) -> dict[str, str]:
    """Encodings of what no other vectors have."""
    acceptance = vars(ACCEPTANCES[protocol][SENDER])
    with_pooled = type(ACCEPTANCES[protocol][SENDER])(
        **{**acceptance, "pooled": pooled()}
    )
    gradient = {"dense": np.array([0.5, -0.0, 1e-300])}
    between = {"dense": np.array([1.0, 2.0, -3.0, 4.0])}
    groups = [("F", "north"), ("M", None)]
    statement = encode_statement(
        groups,
        {groups[1]: Withheld("min_rows", "10")},
        key=stream("statement")(32),
    )
    report = Report(rows_used=30, rows_suppressed=2, rows_null=0, notes=["a note"])
    types = Types(repeats=False, columns={"df1.x": (3, 0, 40, True)})
    encoded = {
        "acceptance": with_pooled.encode(),
        "vectors": Vectors(gradient, between, "operator").encode(),
        "choice": Choice((2, 4), {3: "too far"}).encode(),
        "statement": statement,
        "types": types.model_dump_json().encode(),
        "report": report.model_dump_json().encode(),
        "keys": encode_common_keys(["p1", "p2", "\u60a3\u8005"]),
    }
    if "party" in kinds(protocol):
        encoded["party"] = party_document(protocol).encode()
    return {name: data.hex() for name, data in encoded.items()}


def documents(protocol: int) -> dict[str, str]:
    training = parse_training_request(TRAINING)
    trained = {name: TRAINING[name] for name in TRAINING if name != "data_info"}
    evaluation = evaluation_order(
        parse_evaluate_request(EVALUATION), trained, trained_by=USERS
    )
    question = resolve(
        parse_statistics_request(QUESTION),
        {user: f"hospital-{user}" for user in USERS},
        initiator=4,
    )
    return {
        "train": order_document(37, training, COMMITMENTS, protocol=protocol),
        "evaluate": order_document(38, evaluation, COMMITMENTS, protocol=protocol),
        "statistics": statistics_document(39, question, COMMITMENTS, protocol=protocol),
    }


def all_vectors(protocol: int) -> dict[str, Any]:
    """The content of kinds-N.json."""
    return {
        "ephemeral": exchange_public(EPHEMERAL[SENDER]).hex(),
        "envelopes": envelopes(protocol),
        "keys": message_keys(protocol),
        "payloads": payloads(protocol),
        "documents": documents(protocol),
    }


if __name__ == "__main__":
    for protocol, path in KIND_PATHS.items():
        if not path.exists():
            path.write_text(json.dumps(all_vectors(protocol), indent=1) + "\n")
