"""The committed bytes of lists of cells: all sides must read and write the same."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from make_cells_vectors import KEY, PATH, all_vectors

from protocol.errors import ProtocolViolation
from protocol.shares.cells import CellList

VECTORS: dict[str, Any] = json.loads(PATH.read_text("utf-8"))


def test_the_script_still_writes_these_vectors() -> None:
    assert all_vectors() == VECTORS


def test_tags_are_what_their_docstring_says() -> None:
    """Of each cell: all columns, then each alone."""
    cells = []
    for sex, disease in VECTORS["labels"]["2"]:
        texts = [[[0, 1], [sex, disease]], [[0], [sex]], [[1], [disease]]]
        cell = b""
        for text in texts:
            written = json.dumps(text, separators=(",", ":")).encode()
            cell += hashlib.blake2b(written, key=KEY, digest_size=16).digest()
        cells.append(cell)
    body = bytes.fromhex(VECTORS["lists"]["2"])[81:]
    assert body == b"".join(sorted(cells))


@pytest.mark.parametrize("user", VECTORS["lists"])
def test_a_list_is_read_and_written_again(user: str) -> None:
    data = bytes.fromhex(VECTORS["lists"][user])
    assert CellList.decode(data).encode() == data
    assert len(CellList.decode(data).cells) == len(VECTORS["labels"][user])


@pytest.mark.parametrize("what", VECTORS["must_fail"])
def test_what_must_fail_fails(what: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        CellList.decode(bytes.fromhex(VECTORS["must_fail"][what]))
    assert caught.value.code == "bad_message"
