"""What a recording relay (`faults/relay.py`) has kept, as it passed and as its readers
have it: HTTP's bodies and sockets' messages, without compression, masks or base64.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import httptools

# Of 8 bytes or more.
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{11,}")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_GZIP, _ZLIB = b"\x1f\x8b", b"\x78"
_DEEPEST = 3
"""Base64 of what is compressed in base64."""


def found_in(record: Path, wanted: set[bytes]) -> set[bytes]:
    """What of `wanted` has passed, in whatever form."""
    found = set()
    for path in sorted(record.iterdir()):
        raw = path.read_bytes()
        for form in forms(raw, is_asked=path.suffix == ".asked"):
            found |= {needle for needle in wanted if needle in form}
    return found


def forms(raw: bytes, *, is_asked: bool) -> Iterator[bytes]:
    """One direction of a connection as it passed, and all that it holds."""
    yield raw
    for body in bodies(raw, is_asked=is_asked):
        yield from _unpacked(body, _DEEPEST)


def bodies(raw: bytes, *, is_asked: bool) -> Iterator[bytes]:
    """The bodies of its messages, without what they were encoded by for the way; behind
    an upgrade the messages of a socket.

    Raises HttpParserError for what is not HTTP, and AssertionError for an encoding that
    is not read here.
    """
    reader = _Reader()
    make = httptools.HttpRequestParser if is_asked else httptools.HttpResponseParser
    try:
        make(reader).feed_data(raw)
    except httptools.HttpParserUpgrade as upgrade:
        yield from reader.bodies()
        yield from _socket_messages(raw[upgrade.args[0] :])
        return
    yield from reader.bodies()


class _Reader:
    """Collects messages; the last may not be whole."""

    def __init__(self) -> None:
        self._found: list[tuple[bytes, bytearray]] = []

    def on_message_begin(self) -> None:
        self._found.append((b"identity", bytearray()))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-encoding":
            self._found[-1] = value.lower(), bytearray()

    def on_body(self, body: bytes) -> None:
        self._found[-1][1].extend(body)

    def bodies(self) -> Iterator[bytes]:
        for encoding, body in self._found:
            assert encoding in (b"identity", b"gzip", b"deflate"), encoding
            # Compression is told by how it begins, as in what is compressed within.
            yield bytes(body)


def _unpacked(data: bytes, deepest: int) -> Iterator[bytes]:
    yield data
    if deepest == 0:
        return
    if (inflated := _inflated(data)) is not None:
        yield from _unpacked(inflated, deepest - 1)
    decoded = []
    for text in _BASE64.findall(data):
        part = _decoded(text)
        if part.startswith((_GZIP, _ZLIB)):
            yield from _unpacked(part, deepest - 1)
        decoded.append(part)
    if decoded:
        yield b"\n".join(decoded)


def _inflated(data: bytes) -> bytes | None:
    """What is compressed here, by gzip or zlib; as far as it goes."""
    if not data.startswith((_GZIP, _ZLIB)):
        return None
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data)
    except zlib.error:
        return None


def _decoded(text: bytes) -> bytes:
    """Of base64, of a URL's or the usual one."""
    whole = text.translate(_URL_SAFE)
    # A last single letter is of no byte.
    if len(whole) % 4 == 1:
        whole = whole[:-1]
    try:
        return base64.b64decode(whole + b"=" * (-len(whole) % 4))
    except binascii.Error:
        return b""


def _socket_messages(raw: bytes) -> Iterator[bytes]:
    """The messages of a WebSocket's frames (RFC 6455, 5.2), of which those that say so
    are compressed (RFC 7692).
    """
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    place, message, is_compressed = 0, b"", False
    while place + 2 <= len(raw):
        first, second = raw[place], raw[place + 1]
        place += 2
        length = second & 0x7F
        if length >= 126:
            n_bytes = 2 if length == 126 else 8
            length = int.from_bytes(raw[place : place + n_bytes], "big")
            place += n_bytes
        mask = b""
        if second & 0x80:
            mask = raw[place : place + 4]
            place += 4
        payload = raw[place : place + length]
        place += length
        if place > len(raw):
            return  # not whole yet
        if mask:
            payload = _unmasked(payload, mask)
        kind = first & 0x0F
        if kind >= 8:
            yield payload  # of a ping, a pong or an end
            continue
        if kind:
            message, is_compressed = b"", bool(first & 0x40)
        message += payload
        if first & 0x80:
            if is_compressed:
                message = inflate.decompress(message + b"\x00\x00\xff\xff")
            yield message


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    whole = mask * (len(payload) // 4 + 1)
    number = int.from_bytes(payload, "big")
    number ^= int.from_bytes(whole[: len(payload)], "big")
    return number.to_bytes(len(payload), "big")
