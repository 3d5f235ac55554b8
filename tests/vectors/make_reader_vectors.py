"""Writes readers.json: run it only when the format of sealed answers is changed on
purpose, and raise the version there. What it seals is sealed with fresh randomness, so
that its bytes are other ones each time.

.venv/bin/python tests/vectors/make_reader_vectors.py
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from protocol.readers import (  # noqa: E402
    AnswerPlace,
    SealedAnswer,
    reader_fingerprint,
    seal_answer,
)
from protocol.sealing import Identity, exchange_public  # noqa: E402

PATH = Path(__file__).with_name("readers.json")
READER = hashlib.sha256(b"reader").digest()
OTHER_READER = hashlib.sha256(b"another reader").digest()
HOSPITAL = Identity(hashlib.sha256(b"sign").digest(), hashlib.sha256(b"open").digest())
PLACE = AnswerPlace(order_id=41, kind="statistics", hospital=4)
PAYLOAD = b'{"rows":[{"mean_cost":12.5}]}'


def sealed_record() -> dict[str, Any]:
    public = exchange_public(READER)
    sealed = seal_answer(public, PAYLOAD, place=PLACE, identity=HOSPITAL)
    return SealedAnswer(PLACE, reader_fingerprint(public), sealed).to_json()


if __name__ == "__main__":
    vectors = {
        "reader": READER.hex(),
        "fingerprint": reader_fingerprint(exchange_public(READER)),
        "hospital": HOSPITAL.public.fingerprint,
        "payload": PAYLOAD.decode(),
        "record": sealed_record(),
    }
    PATH.write_text(json.dumps(vectors, indent=1) + "\n")
