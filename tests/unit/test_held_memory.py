"""What the coordinator holds in memory while it adds a sum, by the number of hospitals."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agents.training.trainer import Trainer
from api.store import Store
from benchmarks.one_by_one import StoreTransport, measure
from deployments.demo.training import document_order
from protocol.exchange import Address, Exchange
from protocol.messages import COORDINATOR, Contribution, Header, write_envelope
from protocol.sealing import Identity
from protocol.sums.payload import CHECK_WORDS, TAG_WORDS, Payload, SumKind
from protocol.training_request import parse_training_request
from protocol.versions import PROTOCOL
from tasks.coordinator.training import AddedParts, CoordinatedTraining, _add_parts

WORDS = 1_000_000
PART = 8 * WORDS
MOST_HELD = 100 * 10**6
KEY = Identity.generate()
GRADIENT = "gradient"


def part_of(user: int) -> tuple[bytes, np.ndarray]:
    """What the coordinator sees of a hospital under Mask: uniform words."""
    rng = np.random.default_rng(user)
    n_words = WORDS + TAG_WORDS + CHECK_WORDS
    words = rng.integers(0, 2**64, n_words, dtype=np.uint64)
    payload = Payload("Mask", SumKind.MEAN, 1, WORDS, words.astype("<u8").tobytes())
    contribution = Contribution(payload.encode(), bytes(32), {})
    header = Header(GRADIENT, user, COORDINATOR)
    return write_envelope(KEY, header, contribution.encode()), words


def added(folder: Path, n_hospitals: int) -> tuple[AddedParts, int, np.ndarray]:
    """The sum of so many parts, the most bytes that were held for it, and what it is."""
    store = Store(f"sqlite:///{folder / 'store.sqlite'}")
    store.migrate()
    hospitals = list(range(2, n_hospitals + 2))
    order_id, _ = store.orders.add(
        kind="train", initiator=4, hospital_ids=hospitals, body={}
    )
    transport = StoreTransport(store)
    address = Address(order_id, GRADIENT)
    expected = np.zeros(WORDS + TAG_WORDS + CHECK_WORDS, dtype=np.uint64)
    for user in hospitals:
        envelope, words = part_of(user)
        transport.put(address, user, COORDINATOR, envelope)
        expected += words
    request = parse_training_request(document_order(hospitals, method="Mask"))
    exchange = Exchange(transport, COORDINATOR)
    order = CoordinatedTraining(order_id, exchange, PROTOCOL, request)
    held, parts = traced(lambda: _add_parts(order, address, hospitals))
    store.close()
    return parts, held, expected


def traced(work: Callable[[], AddedParts]) -> tuple[int, AddedParts]:
    tracemalloc.start()
    try:
        parts = work()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak, parts


@pytest.mark.thorough
def test_the_coordinator_holds_one_sum_and_one_part_of_any_number(
    tmp_path: Path,
) -> None:
    held = {}
    for n_hospitals in (3, 30):
        folder = tmp_path / str(n_hospitals)
        folder.mkdir()
        parts, held[n_hospitals], expected = added(folder, n_hospitals)
        total = Payload.decode(parts.sum.total(), public=None)
        assert total.n_members == n_hospitals
        assert total.body == expected.astype("<u8").tobytes()
        assert list(parts.tags) == list(range(2, n_hospitals + 2))
        # The files stay until the sum has been given.
        assert len(list((folder / "exchange" / "1").iterdir())) == n_hospitals
    assert held[30] < 1.05 * held[3]
    assert held[30] < MOST_HELD
    # The sum, and a part with the copies in which it is taken apart.
    assert held[30] < 6 * PART


@pytest.mark.thorough
def test_nothing_of_a_hospital_stays_after_its_turn() -> None:
    """Also where it is broken off; with a model of a million words a trainer has eight
    megabytes.
    """
    measure(3, 5)
    gc.collect()
    assert [one for one in gc.get_objects() if isinstance(one, Trainer)] == []
