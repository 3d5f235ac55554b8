"""Where thresholds are on the sum: no label, count or bit at the coordinator, and of
small cells no name at the hospitals.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.site.vault import OrderVault
from agents.statistics import groups
from protocol.exchange import Address
from protocol.memory_transport import MemoryTransport
from protocol.messages import COORDINATOR, EVERYONE, peek_envelope
from protocol.shares.cells import CellList, tags_of
from tasks.hospital import statistics as steps
from tests.made_statistics import Hospitals, make_hospitals, no_waiting_for_disks

PROVIDERS, RECEIVER = (2, 3, 4), 5
WARDS = ("canary-north", "canary-south", "canary-rare")
N_ROWS = {2: (100_003, 12, 4), 3: (11, 100_057, 0), 4: (100_043, 13, 3)}
"""Of each ward; the last one has too few rows in all."""


Seen = tuple[Any, MemoryTransport, dict[int, Any]]
"""The answer, what passed the exchange, and the parties by hospital."""


def hospitals_in(folder: Path) -> Hospitals:
    """New ones, whose state is in the folder."""
    made = make_hospitals(folder, (*PROVIDERS, RECEIVER))
    made.allow(cells="pooled")
    for user in PROVIDERS:
        labels = np.repeat(np.array(WARDS), N_ROWS[user])
        made.write(user, "wards.parquet", pd.DataFrame({"ward": labels}))
    return made


def ask(hospitals: Hospitals) -> Seen:
    transport = MemoryTransport()
    parties: dict[int, Any] = {}
    agree_on_keys = steps.agree_on_keys

    def agreed(order: Any, reading: Any) -> Any:
        return parties.setdefault(order.me, agree_on_keys(order, reading))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OrderVault, "destroy", lambda vault: None)
        patch.setattr(steps, "agree_on_keys", agreed)
        # The tags stay, so that they can be looked at below.
        patch.setattr(MemoryTransport, "discard", lambda *arguments: None)
        answer = hospitals.ask(
            "frequency",
            dict.fromkeys(PROVIDERS, "wards.parquet"),
            key="ward",
            receivers=[RECEIVER],
            transport=transport,
        )
    return answer, transport, parties


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    with no_waiting_for_disks():
        yield hospitals_in(tmp_path_factory.mktemp("sites"))


@pytest.fixture(scope="module")
def seen(hospitals: Hospitals) -> Seen:
    return ask(hospitals)


def needles() -> dict[bytes, str]:
    """Labels, and counts large enough to stand hardly anywhere by chance."""
    found = {ward.encode(): "label" for ward in (*WARDS, "canary")}
    for user in PROVIDERS:
        for n_rows in N_ROWS[user]:
            if n_rows > 1000:
                found[str(n_rows).encode()] = "count"
                found[n_rows.to_bytes(4, "big")] = "count"
                found[n_rows.to_bytes(4, "little")] = "count"
    for ward in WARDS:
        for hashed in (
            hashlib.blake2b(ward.encode(), digest_size=16).digest(),
            hashlib.blake2b(
                json.dumps([[0], [ward]], separators=(",", ":")).encode(),
                digest_size=16,
            ).digest(),
        ):
            found[hashed] = "digest without a key"
    return found


def found_in(data: bytes) -> set[str]:
    return {what for needle, what in needles().items() if needle in data}


def at_coordinator(seen: Seen) -> bytes:
    answer, transport, _ = seen
    told = json.dumps([transport.facts, answer.summary], default=str).encode()
    return b"\0".join([*transport.traffic, told])


def test_the_coordinator_sees_no_label_and_no_count(seen: Seen, tmp_path: Path) -> None:
    answer, _, _ = seen
    assert [row["ward"] for row in answer.rows if row["frequency"]] == ["canary-south"]
    # How many rows a hospital has in all, it says to everybody.
    found = found_in(at_coordinator(seen))
    if found:
        # Four random bytes, or six digits of a duration, are one of these once in a
        # thousand orders; what leaks is there each time.
        found &= found_in(at_coordinator(ask(hospitals_in(tmp_path))))
    assert found == set()


def test_the_same_search_finds_them_at_a_provider(
    seen: Seen,
) -> None:
    _, _, parties = seen
    folder: Path = parties[2].store.folder
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert found_in(b"\0".join(files)) >= {"label", "count"}


def test_what_the_coordinator_puts_together_are_tags_under_a_key_that_it_lacks(
    seen: Seen,
) -> None:
    answer, transport, parties = seen
    address = Address(answer.order_id, "cells")
    sent = transport.gather(address, (COORDINATOR,), EVERYONE, wait_seconds=0)
    assert sent is not None
    union = CellList.decode(sent[COORDINATOR])
    key = parties[RECEIVER].session.group_key(b"cells")
    assert set(union.cells) == {tags_of(key, (ward,))[0] for ward in WARDS}
    assert not set(union.cells) & {tags_of(bytes(32), (ward,))[0] for ward in WARDS}


def test_the_bits_go_sealed_to_the_hospitals_only(
    seen: Seen,
) -> None:
    answer, transport, _ = seen
    address = Address(answer.order_id, "cell_share")
    sent = transport.gather(address, PROVIDERS, EVERYONE, wait_seconds=0)
    assert sent is not None
    for user, envelope in sent.items():
        with pytest.raises(Exception, match="not the one that is waited for"):
            peek_envelope(envelope, kind="cell_share", sender=user)


def test_hospitals_are_told_no_name_of_a_small_cell(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statements name what a hospital has min_rows rows of, and say nothing of others."""
    stated = []
    read = groups.read_json

    def listen(model: Any, body: bytes, **words: Any) -> Any:
        stated.append(body)
        return read(model, body, **words)

    monkeypatch.setattr(groups, "read_json", listen)
    hospitals.ask(
        "frequency",
        dict.fromkeys(PROVIDERS, "wards.parquet"),
        key="ward",
        receivers=[RECEIVER],
    )
    assert len(stated) == 12
    together = b"".join(stated)
    assert b"canary-south" in together
    assert b"canary-rare" not in together
    for body in stated:
        assert len(json.loads(json.loads(body)["groups"])["groups"]) == 2
