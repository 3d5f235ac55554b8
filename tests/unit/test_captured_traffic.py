"""The search of captured traffic finds a number in every form in which it could pass."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib
from pathlib import Path

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from tests.captured_traffic import found_in

NUMBER = 0.12345678901234567
TEXT = repr(NUMBER)[:13].encode()
BYTES = struct.pack("<d", NUMBER)
HEAD = b"POST /rounds HTTP/1.1\r\nHost: here\r\n"
UPGRADE = (
    b"GET /events/in HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def asked(body: bytes, encoding: str = "identity") -> bytes:
    fields = f"Content-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
    return HEAD + fields.encode() + body


def chunked(body: bytes) -> bytes:
    """In pieces of 5 bytes, so that no number is whole."""
    parts = [body[place : place + 5] for place in range(0, len(body), 5)]
    sent = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + sent + b"0\r\n\r\n"


def socket(*texts: bytes, is_compressed: bool) -> bytes:
    """Masked, and the second compressed by what the first has held."""
    extensions = []
    if is_compressed:
        extensions.append(PerMessageDeflate(False, False, 15, 15))
    sent = b""
    for text in texts:
        frame = Frame(Opcode.TEXT, text)
        sent += frame.serialize(mask=True, extensions=extensions)
    return UPGRADE + sent


JSON = json.dumps({"std": NUMBER}).encode()
ENCODED = base64.b64encode(b"\x01" + BYTES + b"\x02")
FORMS = {
    "text": (asked(JSON), TEXT),
    "bytes": (asked(b"\x00" + BYTES), BYTES),
    "the second message": (asked(b"{}") + asked(gzip.compress(JSON), "gzip"), TEXT),
    "deflate": (asked(zlib.compress(JSON), "deflate"), TEXT),
    "chunks": (chunked(JSON), TEXT),
    "base64": (asked(json.dumps({"std": ENCODED.decode()}).encode()), BYTES),
    "base64 of a URL": (
        asked(base64.urlsafe_b64encode(b"\xff\xfe\xfd" + BYTES)),
        BYTES,
    ),
    "gzip in base64": (
        asked(b'{"":"%s"}' % base64.b64encode(gzip.compress(JSON))),
        TEXT,
    ),
    "a socket": (socket(b"{}", JSON, is_compressed=False), TEXT),
    "a compressed socket": (socket(b'{"std": 1}', JSON, is_compressed=True), TEXT),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_number_is_found_in_every_form(tmp_path: Path, name: str) -> None:
    raw, needle = FORMS[name]
    (tmp_path / "1.asked").write_bytes(raw)
    assert found_in(tmp_path, {needle, b"nowhere at all"}) == {needle}


def test_an_encoding_that_is_not_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "1.asked").write_bytes(asked(b"?", "br"))
    with pytest.raises(AssertionError, match="br"):
        found_in(tmp_path, {TEXT})
