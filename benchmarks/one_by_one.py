"""A federation of any size in one process and little memory: its hospitals work one
after another, and their state is on disk in between.

A hospital works until it would have to wait; there its run is broken off, as by a kill,
and nothing of it stays but its vault. Its next run goes on from there: that a killed
party loses nothing is what makes this possible. Messages are in a real store, the large
ones in files. The coordinator has its turns like everybody else, and what it holds in
memory is measured in them.

`python -m benchmarks.one_by_one HOSPITALS WORDS` prints what was measured as JSON;
`benchmarks/network.py` makes the table.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from agents.order.party import open_party
from agents.site.settings import SiteSettings
from api.store import Store
from api.store.bodies import Body
from benchmarks.hospitals import make_sites
from benchmarks.processor import peak_bytes
from deployments.demo.training import document_order
from deployments.local import one_process
from flows.coordinator import coordinate_training
from flows.hospital import train_locally
from protocol.exchange import Address, Exchange, Used, is_worth_reading, read_at_once
from protocol.memory_transport import MemoryTransport
from protocol.messages import COORDINATOR
from protocol.sums import masks
from protocol.training_request import parse_training_request
from tasks.coordinator import training

P = ParamSpec("P")
R = TypeVar("R")

FEATURES, FIRST_LAYER = 4, 1000


class WouldWait(BaseException):
    """A party's turn is over: what it needs is not there yet.

    No Exception, so that nothing on the way up takes it for an error of the order.
    `is_there` says when another turn is worth while.
    """

    def __init__(self, is_there: Callable[[], bool]) -> None:
        super().__init__()
        self.is_there = is_there


class StoreTransport(MemoryTransport):
    """The exchange over the coordinator's store and its files, without HTTP between."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self.n_bytes = 0

    def put(self, address: Address, sender: int, recipient: int, body: bytes) -> None:
        with self._store.bodies.writing(address.run) as writer:
            writer.take(body)
            if self._store.messages.put(address, sender, recipient, writer.finish()):
                writer.keep()
        self.n_bytes += len(body)

    def gather(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
        along: str | None = None,
    ) -> dict[int, bytes] | None:
        wanted = list(senders)

        def is_there() -> bool:
            return len(self._sizes(address, wanted, recipient)) == len(wanted)

        if not is_there():
            # A mere look waits for nothing.
            if wait_seconds:
                raise WouldWait(is_there)
            return None
        return self._read(self._store.messages.find(address, wanted, recipient))

    def gather_some(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
    ) -> dict[int, bytes] | None:
        wanted = list(senders)

        def sizes() -> dict[int, int]:
            return self._sizes(address, wanted, recipient)

        def is_there() -> bool:
            return is_worth_reading(sizes(), len(wanted))

        if not is_there():
            raise WouldWait(is_there)
        chosen = read_at_once(sizes())
        return self._read(self._store.messages.find(address, chosen, recipient))

    def _sizes(
        self, address: Address, senders: list[int], recipient: int
    ) -> dict[int, int]:
        found = self._store.messages.find_enough(
            address, senders, recipient, lambda n_bytes: ()
        )
        return found.n_bytes

    def gather_present(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        wait_seconds: float,
    ) -> dict[int, bytes]:
        return self._read(self._store.messages.find(address, list(senders), recipient))

    def _read(self, found: dict[int, Body]) -> dict[int, bytes]:
        return {user: self._store.bodies.read(body) for user, body in found.items()}

    def discard(self, run: int, used: Sequence[Used]) -> None:
        self._store.messages.discard(run, used)


@dataclass
class Measured:
    """Of one order, from its document to the last model."""

    n_hospitals: int
    n_words: int
    n_rounds: int
    seconds: float = 0.0
    processor_seconds: float = 0.0  # of all threads; other work of the machine apart
    hospital_seconds: float = 0.0  # of all hospitals together
    mask_seconds: float = 0.0  # of these, for masks
    coordinator_seconds: float = 0.0
    coordinator_peak: int = 0  # bytes that its turns have taken, at most
    process_peak: int = 0  # bytes of resident memory
    n_bytes: int = 0  # that were put into the exchange
    n_turns: int = 0


def measure(n_hospitals: int, n_words: int, *, n_rounds: int = 1) -> Measured:
    """Runs an order under Mask of so many hospitals and words."""
    found = Measured(n_hospitals, n_words, n_rounds)
    with (
        tempfile.TemporaryDirectory() as folder,
        _timed_masks(found),
    ):
        sites = make_sites(Path(folder), n_hospitals)
        _allow_large_models(sites)
        began, began_processor = time.perf_counter(), time.process_time()
        _run(Path(folder), sites, found)
        found.seconds = time.perf_counter() - began
        found.processor_seconds = time.process_time() - began_processor
    found.process_peak = peak_bytes()
    return found


def _allow_large_models(sites: dict[int, SiteSettings]) -> None:
    """The tables have a few hundred rows; what the model learns is of no interest."""
    for site in sites.values():
        rules = site.policy.read_text()
        share = 'max_parameter_share = "1/3"'
        assert share in rules
        site.policy.write_text(rules.replace(share, "max_parameter_share = 1_000_000"))


def _body(sites: dict[int, SiteSettings], found: Measured) -> dict[str, Any]:
    body = document_order(
        sites, rounds=found.n_rounds, features=FEATURES, method="Mask"
    )
    body["model_params"]["eps"] = 0.0
    if found.n_words > FEATURES + 1:
        n_first = (FEATURES + 1) * FIRST_LAYER
        n_second = max(1, (found.n_words - n_first) // (FIRST_LAYER + 2))
        body["model_type"] = "mlp"
        body["model_params"]["hidden"] = [FIRST_LAYER, n_second]
        body["model_params"]["init_param"] = {"init_method": "random_normal"}
    return body


def _run(folder: Path, sites: dict[int, SiteSettings], found: Measured) -> None:
    store = Store(f"sqlite:///{folder / 'store.sqlite'}")
    store.migrate()
    request = parse_training_request(_body(sites, found))
    order_id, _ = store.orders.add(
        kind="train",
        initiator=request.user_id,
        hospital_ids=request.hospitals,
        body={},
    )
    transport = StoreTransport(store)
    one_process.submit(transport, request, sites, order_id)

    def coordinator() -> None:
        order = training.open_order(order_id, Exchange(transport, COORDINATOR))
        coordinate_training(order, lambda record: None)

    def hospital(user: int) -> None:
        train_locally(open_party(sites[user], order_id, transport))

    # Whoever is not at the end yet, and when its next turn is worth while.
    waiting: dict[int, Callable[[], bool]] = {}
    for user in (*request.hospitals, COORDINATOR):
        waiting[user] = lambda: True
    while waiting:
        for user, is_there in list(waiting.items()):
            if not is_there():
                continue
            if user == COORDINATOR:
                until = _coordinators_turn(coordinator, found)
            else:
                until = _turn(functools.partial(hospital, user), found)
            if until is None:
                del waiting[user]
            else:
                waiting[user] = until
    found.n_bytes = transport.n_bytes
    store.close()


def _turn(work: Callable[[], None], found: Measured) -> Callable[[], bool] | None:
    """A hospital's turn; when the next is worth while, None at its end."""
    began = time.perf_counter()
    found.n_turns += 1
    try:
        work()
    except WouldWait as wait:
        return wait.is_there
    finally:
        found.hospital_seconds += time.perf_counter() - began
        # A process that is killed leaves nothing behind; frames of a broken-off run
        # refer to each other.
        gc.collect()
    return None


def _coordinators_turn(
    work: Callable[[], None], found: Measured
) -> Callable[[], bool] | None:
    """As `_turn`, with what it takes of memory."""
    began = time.perf_counter()
    # In these turns alone: tracing slows all that runs under it.
    tracemalloc.start()
    try:
        work()
    except WouldWait as wait:
        return wait.is_there
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        found.coordinator_peak = max(found.coordinator_peak, peak)
        found.coordinator_seconds += time.perf_counter() - began
        gc.collect()
    return None


@contextlib.contextmanager
def _timed_masks(found: Measured) -> Iterator[None]:
    """Counts the seconds in which masks are made."""
    pair_masks, group_masks = masks.mask_words, masks.group_words

    def timed(make: Callable[P, R]) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            began = time.perf_counter()
            try:
                return make(*args, **kwargs)
            finally:
                found.mask_seconds += time.perf_counter() - began

        return call

    masks.mask_words = timed(pair_masks)
    masks.group_words = timed(group_masks)
    try:
        yield
    finally:
        masks.mask_words, masks.group_words = pair_masks, group_masks


def main() -> None:
    """Of a process of its own, so that its peak is this order's."""
    n_hospitals, n_words = (int(text) for text in sys.argv[1:3])
    # What was imported stays: looking through it after each turn takes longer than many
    # a turn.
    gc.freeze()
    print(json.dumps(asdict(measure(n_hospitals, n_words))), flush=True)
    gc.unfreeze()


if __name__ == "__main__":
    main()
