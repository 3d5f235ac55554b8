"""Parts of a sum that are added as they come: the same sum in whatever order, one large
message in memory at a time, and nothing believed of an answer.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Iterable

import numpy as np
import pytest

from protocol.errors import OrderStopped, ProtocolViolation
from protocol.exchange import (
    AT_ONCE_BYTES,
    LARGE_BYTES,
    Address,
    Exchange,
    is_worth_reading,
    read_at_once,
)
from protocol.memory_transport import MemoryTransport
from protocol.sums import exact_sum, paillier, secure_sum
from protocol.sums.sum_keys import SumKeys

ADDRESS = Address(7, "gradient", 0, 3)
MEMBERS = (2, 3, 5)
INFO = b"round 3"


def keys_of(me: int, method: str, public: object = None) -> SumKeys:
    pairs = {}
    for member in MEMBERS:
        if member != me:
            pairs[member] = bytes([me * member]) * 32
    return SumKeys(
        method=method,  # type: ignore[arg-type]
        me=me,
        members=MEMBERS,
        n_rows={2: 10, 3: 20, 5: 30},
        pair_keys=pairs,
        group_key=bytes(32),
        public=public,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("method", ["Mask", "None", "Paillier"])
def test_a_sum_is_the_same_in_whatever_order_its_parts_come(method: str) -> None:
    private = (
        paillier._generate_keys(1024, secrets.token_bytes)
        if method == "Paillier"
        else None
    )
    public = private.public_key if private else None
    rng = np.random.default_rng(1)
    values = {user: rng.normal(size=40) for user in MEMBERS}
    parts = {}
    for user in MEMBERS:
        keys = keys_of(user, method, public)
        parts[user] = secure_sum.seal(keys, values[user], info=INFO)
    totals = set()
    for order in itertools.permutations(MEMBERS):
        adder = secure_sum.Adder(method, public=public)  # type: ignore[arg-type]
        for user in order:
            adder.add(user, parts[user])
        totals.add(adder.total())
    assert totals == {secure_sum.add(method, parts, public=public)}  # type: ignore[arg-type]
    opening = keys_of(2, method, public)
    sums = secure_sum.open_sum(opening, totals.pop(), info=INFO, private_key=private)
    mean = secure_sum.mean(opening, sums)
    expected = (10 * values[2] + 20 * values[3] + 30 * values[5]) / 60
    assert np.allclose(mean, expected, atol=1e-6)


def test_a_hospital_is_added_once() -> None:
    part = secure_sum.seal(keys_of(2, "Mask"), np.ones(3), info=INFO)
    adder = secure_sum.Adder("Mask")
    adder.add(2, part)
    with pytest.raises(ProtocolViolation) as caught:
        adder.add(2, part)
    assert caught.value.detail["hospitals"] == [2]


def test_who_differs_is_named_once_all_are_known() -> None:
    adder = secure_sum.Adder("None")
    for user, length in ((2, 4), (3, 3), (5, 3)):
        part = secure_sum.seal(keys_of(user, "None"), np.ones(length), info=INFO)
        adder.add(user, part)
    with pytest.raises(ProtocolViolation) as caught:
        adder.total()
    assert caught.value.detail["hospitals"] == [2]


def test_nothing_has_no_sum() -> None:
    with pytest.raises(ProtocolViolation):
        secure_sum.Adder("Mask").total()


def test_exact_sums_are_the_same_in_whatever_order() -> None:
    parts = {}
    for user in MEMBERS:
        others = {peer: bytes([peer * user]) * 32 for peer in MEMBERS if peer != user}
        terms = exact_sum.Terms(MEMBERS, 128, 2, b"a sum")
        parts[user] = exact_sum.seal(
            [user, -7],
            terms,
            me=user,
            pair_keys=others,
            tag_key=bytes(32),
            seed=bytes([user]) * 32,
        )
    totals = set()
    for order in itertools.permutations(MEMBERS):
        totals.add(exact_sum.add({user: parts[user] for user in order}))
    assert len(totals) == 1
    seeds = {user: bytes([user]) * 32 for user in MEMBERS}
    opened = exact_sum.open_total(totals.pop(), terms, tag_key=bytes(32), seeds=seeds)
    assert opened == [10, -21]


# As they come


class Watched(MemoryTransport):
    """Counts what is read at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[set[int]] = []
        self.asked = threading.Event()

    def gather_some(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
    ) -> dict[int, bytes] | None:
        self.asked.set()
        found = super().gather_some(
            address, senders, recipient, wait_seconds=wait_seconds
        )
        if found:
            self.reads.append(set(found))
        return found


def test_a_large_message_is_read_as_soon_as_it_is_there_and_alone() -> None:
    transport = Watched()
    exchange = Exchange(transport, 1)
    arrived: list[int] = []

    def coordinator() -> None:
        for sender, body in exchange.each(ADDRESS, MEMBERS):
            arrived.append(sender)
            assert len(body) == LARGE_BYTES
            went_on[sender].set()

    went_on = {user: threading.Event() for user in MEMBERS}
    thread = threading.Thread(target=coordinator)
    thread.start()
    for user in (5, 2, 3):
        # The others have sent nothing yet.
        transport.put(ADDRESS, user, 1, bytes(LARGE_BYTES))
        assert went_on[user].wait(20)
    thread.join(20)
    assert arrived == [5, 2, 3]
    assert transport.reads == [{5}, {2}, {3}]


def test_small_messages_are_waited_for_together() -> None:
    transport = Watched()
    exchange = Exchange(transport, 1)
    for user in (2, 3):
        transport.put(ADDRESS, user, 1, b"small")
    assert transport.gather_some(ADDRESS, MEMBERS, 1, wait_seconds=0) is None
    transport.put(ADDRESS, 5, 1, b"small")
    assert dict(exchange.each(ADDRESS, MEMBERS)) == dict.fromkeys(MEMBERS, b"small")
    assert transport.reads == [set(MEMBERS)]


def test_what_is_read_at_once_is_bounded() -> None:
    quarter = AT_ONCE_BYTES // 4
    assert read_at_once({2: LARGE_BYTES * 100, 3: 1}) == [2]
    assert read_at_once(dict.fromkeys(range(9), quarter)) == [0, 1, 2, 3]
    assert is_worth_reading({2: LARGE_BYTES}, 3)
    assert not is_worth_reading({2: LARGE_BYTES - 1, 3: 1}, 3)
    assert is_worth_reading({2: 0, 3: 0, 5: 0}, 3)
    assert not is_worth_reading({}, 1)


@pytest.mark.parametrize("answer", [{}, {9: b"a stranger"}, {2: b"x", 9: b"x"}])
def test_an_answer_with_others_than_were_asked_for_is_refused(
    answer: dict[int, bytes],
) -> None:
    class Hostile(MemoryTransport):
        def gather_some(self, *args: object, **kwargs: object) -> dict[int, bytes]:
            return dict(answer)

    with pytest.raises(ProtocolViolation) as caught:
        list(Exchange(Hostile(), 1).each(ADDRESS, MEMBERS))
    assert caught.value.code == "other_senders"


def test_a_part_that_came_already_is_not_taken_twice() -> None:
    class Repeating(MemoryTransport):
        def gather_some(self, *args: object, **kwargs: object) -> dict[int, bytes]:
            return {2: b"again"}

    with pytest.raises(ProtocolViolation):
        list(Exchange(Repeating(), 1).each(ADDRESS, MEMBERS))


def test_an_order_that_ends_ends_the_reading() -> None:
    transport = Watched()
    caught: list[BaseException] = []

    def coordinator() -> None:
        try:
            list(Exchange(transport, 1).each(ADDRESS, MEMBERS))
        except OrderStopped as stop:
            caught.append(stop)

    thread = threading.Thread(target=coordinator)
    thread.start()
    assert transport.asked.wait(20)
    transport.stop(ADDRESS.run, OrderStopped("It ended.", remedy="", code="failed"))
    thread.join(20)
    assert len(caught) == 1
