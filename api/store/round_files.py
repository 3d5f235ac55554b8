"""Round files: what is kept of each round for analytics, one safetensors file for each
order and round.

    open     gradient/<client>/<layer> (float32 or float64), and average/<layer> (float64) where one was recorded
    sealed   factor/<layer>: R, (n, n) float64, column i client i's coordinates; between/<layer>: (n, 4) float64

The metadata may name the `members`, the clients whose gradients are in the round's sum.

A file is written under a temporary name in its folder, brought to disk, renamed, and
then entered in the store's index. Readers follow the index only, so none sees half a
file. Files are mapped into memory, read by blocks of columns, and what the scores work
on (n x n for each layer) is kept, so that a second score of a round reads nothing.

`ResultCache` is that memory, `RoundFiles` the folder, `RoundReader` one open file. What
a file may hold:
`round_checks`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from analytics.scores import geometry
from api.store import Store
from api.store.disk import Disk, is_full
from api.store.rows import RoundEntry
from protocol.errors import Conflict, NotFound, Unavailable
from protocol.machine.disk import locked, sync

Floats = NDArray[np.float64]

BLOCK_VALUES = 2**20  # of all clients together, in memory at once
PIECE_VALUES = 2**14  # of one client, in one piece of an answer
KEPT_BYTES = 2**27
FILE_MODE = 0o600
FOLDER_MODE = 0o700
PART = ".part"
WHOLE = ".safetensors"
# Columns of `between`: three lengths and an inner product.
STEP = 0
DRIFT = 1
INNER_PRODUCT = 2
MEAN_BEFORE = 3
LENGTHS = [STEP, DRIFT, MEAN_BEFORE]


class ResultCache:
    """Results by key, the longest unused dropped beyond `most_bytes`.

    Each is made once, however many threads ask for it at the same time; they wait for
    the first. An error is raised in all that wait, and not kept.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._n_bytes = 0
        # The one that was used last is at the end.
        self._found: OrderedDict[Hashable, Future[Floats]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Floats]) -> Floats:
        with self._lock:
            future = self._found.get(key)
            is_first = future is None
            if future is None:
                future = Future()
                self._found[key] = future
            self._found.move_to_end(key)
        if is_first:
            self._make(key, future, make)
        return future.result()

    def _make(
        self,
        key: Hashable,
        future: Future[Floats],
        make: Callable[[], Floats],
    ) -> None:
        try:
            array = make()
        except Exception as error:  # noqa: BLE001
            with self._lock:
                self._found.pop(key, None)
            future.set_exception(error)
            return
        # All readers have the same array.
        array.flags.writeable = False
        future.set_result(array)
        with self._lock:
            self._n_bytes += array.nbytes
            self._drop()

    def _drop(self) -> None:
        """Drops the longest unused until there is room; the one used last stays,
        however large.
        """
        longest_unused_first = list(self._found.items())
        for result_key, future in longest_unused_first[:-1]:
            if self._n_bytes <= self._most_bytes:
                return
            if future.done():
                dropped = future.result()
                self._n_bytes -= dropped.nbytes
                del self._found[result_key]


class RoundFiles:
    """The folder of round files, with the store's index of it.

    Used by threads of one process.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        disk: Disk | None = None,
    ) -> None:
        self._folder = folder
        self._store = store
        self._disk = disk
        self._kept = ResultCache()

    # Writing

    def clean_up(self, least_seconds: float = 0.0) -> None:
        """At start: removes what a crash left half written or without its entry, where
        it is so old; another process may be writing what is younger.
        """
        before = time.time() - least_seconds
        self._folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        half_written = self._folder.glob(f"*/*{PART}")
        for file_path in half_written:
            _remove_older(file_path, before)
        for folder in self._folder.iterdir():
            if not folder.name.isdecimal():
                continue
            order_id = int(folder.name)
            # Files of an order that the store does not know are left alone: it may be
            # the wrong store.
            if not self._store.orders.exists(order_id):
                continue
            round_entries = self._store.rounds.files(order_id)
            indexed = {self.path(round_entry) for round_entry in round_entries}
            paths = sorted(folder.glob(f"*{WHOLE}"))
            for file_path in paths:
                if file_path not in indexed:
                    _remove_older(file_path, before)

    @contextlib.contextmanager
    def part(self, order_id: int) -> Iterator[Path]:
        """A temporary name in the order's folder; whatever still has it at the end is
        removed.

        Unavailable when the disk is full or cannot be written.
        """
        folder = self._folder / str(order_id)
        random_name = secrets.token_hex(8)
        part_path = folder / f"{random_name}{PART}"
        as_new = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
                sync(self._folder)
            descriptor = os.open(part_path, as_new, FILE_MODE)
            os.close(descriptor)
            yield part_path
        except OSError as error:
            if self._disk and is_full(error):
                raise self._disk.noted() from None
            reason = error.strerror or type(error).__name__
            raise Unavailable(
                f"The coordinator cannot keep the round ({reason}).",
                remedy="Its operator looks after the disk; send the round again.",
                code="disk",
            ) from None
        finally:
            with contextlib.suppress(OSError):
                part_path.unlink(missing_ok=True)

    def publish(
        self,
        part: Path,
        entry: RoundEntry,
        *,
        loss: float | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> RoundEntry:
        """Makes a checked, whole file visible; returns the entry that stands for the
        round, this or an earlier one.

        Of two that come at the same time, the first to be entered stands and the
        other's file goes.
        """
        round_path = self.path(entry)
        # Content, then name, then entry, each on disk before the next: after a crash no
        # entry is without its file.
        sync(part)
        with locked(round_path.parent):
            os.replace(part, round_path)
            sync(round_path.parent)
            standing = self._store.rounds.add_file(entry, loss=loss, report=report)
            if standing.digest != entry.digest:
                round_path.unlink(missing_ok=True)
        return standing

    def path(self, entry: RoundEntry) -> Path:
        """The name holds the content's digest: two who send different rounds never
        write to one name.
        """
        folder = self._folder / str(entry.order_id)
        digest = entry.digest[:16]
        return folder / f"{entry.round}-{digest}{WHOLE}"

    def prune(self, before: datetime.datetime) -> int:
        """Forgets the files that were recorded before: the entry first, so that no
        entry is without its file.
        """
        old = self._store.rounds.old_files(before)
        for round_entry in old:
            round_path = self.path(round_entry)
            round_path.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
            # The same content may come again at this moment, under the same name.
            with locked(round_path.parent):
                self._store.rounds.forget_file(round_entry)
                round_path.unlink(missing_ok=True)
        return len(old)

    # Reading

    @contextlib.contextmanager
    def open(self, entry: RoundEntry) -> Iterator[RoundReader]:
        """The round's file. NotFound when it is no longer there or damaged."""
        try:
            with safe_open(self.path(entry), framework="numpy") as file:
                yield RoundReader(entry, file)
        except (OSError, SafetensorError):
            raise NotFound(
                f"The file of round {entry.round} of order {entry.order_id} is missing or damaged.",
                remedy="It may just have been pruned; else restore the coordinator's folder of rounds from its backup.",
                code="round_gone",
            ) from None

    def factor(self, entry: RoundEntry, layer: str) -> Floats:
        """R (n, n) float64 of a layer: column i holds client i's coordinates, in the
        order of the entry's clients.
        """
        result_key = ("factor", entry.order_id, entry.digest, layer)

        def read() -> Floats:
            return self._read_factor(entry, layer)

        return self._kept.get(result_key, read)

    def _read_factor(self, entry: RoundEntry, layer: str) -> Floats:
        with self.open(entry) as round_reader:
            if entry.kind == "sealed":
                return round_reader.tensor(f"factor/{layer}")

            # A callable, because the decomposition may need the blocks a second time,
            # and memory holds one of them.
            def blocks() -> Iterator[NDArray[Any]]:
                return round_reader.blocks(layer)

            n_clients = len(entry.clients)
            factor: Floats = geometry.triangular_factor(blocks, n_clients)
            return factor

    def between(
        self,
        entry: RoundEntry,
        before: RoundEntry | None,
        layer: str,
    ) -> Floats:
        """(n, 4) float64: |g(t) - g(t-1)|, |g(t) - gbar(t-1)|, <g(t), gbar(t-1)>,
        |gbar(t-1)| of each client.

        The first is NaN for a client that was not in the round before. Conflict for a
        sealed round without them.
        """
        digest_before = before and before.digest
        result_key = (
            "between",
            entry.order_id,
            entry.digest,
            digest_before,
            layer,
        )
        if entry.kind == "sealed":
            return self._kept.get(result_key, lambda: self._read_between(entry, layer))
        if before is None:
            raise _not_comparable(entry, layer)
        length_before = before.layers.get(layer)
        if length_before != entry.layers[layer]:
            raise _not_comparable(entry, layer)
        return self._kept.get(result_key, lambda: self._compare(entry, before, layer))

    def _read_between(self, entry: RoundEntry, layer: str) -> Floats:
        tensor_name = f"between/{layer}"
        with self.open(entry) as round_reader:
            if tensor_name not in round_reader.names:
                raise Conflict(
                    f"Round {entry.round} of order {entry.order_id} was scored by itself: nothing that compares it "
                    "with the round before was recorded.",
                    remedy="Ask for a round after the first, of an order with scoring full.",
                    code="between",
                )
            return round_reader.tensor(tensor_name)

    def _compare(
        self,
        entry: RoundEntry,
        before: RoundEntry,
        layer: str,
    ) -> Floats:
        """`between` of gradients in clear, summed up over blocks of columns."""
        n_clients = len(entry.clients)
        # Clients of both rounds, by row of this one; the others have no step.
        common_clients = []
        rows = []
        new_rows = []
        for row, client in enumerate(entry.clients):
            if client in before.clients:
                common_clients.append(client)
                rows.append(row)
            else:
                new_rows.append(row)
        most_clients = max(n_clients, len(before.clients))
        width = max(1, BLOCK_VALUES // most_clients)
        # Squares of the lengths first, and their roots at the end.
        scalars = np.zeros((n_clients, 4))
        with self.open(entry) as round_reader, self.open(before) as earlier:
            blocks_now = round_reader.blocks(layer, width)
            blocks_before = earlier.blocks(layer, width, common_clients)
            means_before = earlier.average(layer, width)
            together = zip(
                blocks_now,
                blocks_before,
                means_before,
                strict=True,
            )
            for block, block_before, mean in together:
                now = block.astype(np.float64)
                scalars[rows, STEP] += _row_squares(now[rows] - block_before)
                scalars[:, DRIFT] += _row_squares(now - mean)
                scalars[:, INNER_PRODUCT] += now @ mean
                scalars[:, MEAN_BEFORE] += mean @ mean
        squares = scalars[:, LENGTHS]
        scalars[:, LENGTHS] = np.sqrt(squares)
        scalars[new_rows, STEP] = np.nan
        return scalars

    def coordinates(self, entry: RoundEntry, layer: str) -> Floats:
        """(n, n) float64, a row for each client of a sealed round: Q R, in a frame Q
        that is the coordinator's own.
        """
        orthogonal = frame(entry, layer)
        rotated = orthogonal @ self.factor(entry, layer)
        points: Floats = rotated.T
        return points


class RoundReader:
    """One round's open file. Only what is asked for is read."""

    def __init__(self, entry: RoundEntry, file: Any) -> None:
        self._entry = entry
        self._file = file
        self.names = frozenset(file.keys())
        # External trainers may write either; a file has one of the two.
        is_plural = any(name.startswith("gradients/") for name in self.names)
        self._spelling = "gradients" if is_plural else "gradient"

    def tensor(self, name: str) -> Floats:
        stored = self._file.get_tensor(name)
        return np.array(stored, dtype=np.float64)

    def gradient(self, client: int, layer: str) -> Iterator[NDArray[Any]]:
        """One client's values of a layer, piece by piece."""
        for block in self.blocks(layer, PIECE_VALUES, [client]):
            yield block[0]

    def blocks(
        self,
        layer: str,
        width: int | None = None,
        clients: Iterable[int] | None = None,
    ) -> Iterator[NDArray[Any]]:
        """(n, width) float32 or float64 and a narrower last one: the clients' values of
        a layer.
        """
        chosen_clients = self._entry.clients if clients is None else list(clients)
        slices = []
        for client in chosen_clients:
            tensor_name = f"{self._spelling}/{client}/{layer}"
            slices.append(self._file.get_slice(tensor_name))
        for start, stop in self._columns(layer, width):
            if slices:
                yield np.stack([piece[start:stop] for piece in slices])
            else:
                yield np.zeros((0, stop - start))

    def average(self, layer: str, width: int | None = None) -> Iterator[Floats]:
        """(width,) float64: the average as it was recorded, else the members' mean
        weighted by row counts.
        """
        tensor_name = f"average/{layer}"
        if tensor_name in self.names:
            recorded = self._file.get_slice(tensor_name)
            for start, stop in self._columns(layer, width):
                yield np.asarray(recorded[start:stop], np.float64)
        else:
            shares = self.shares()
            for block in self.blocks(layer, width):
                yield shares @ block.astype(np.float64)

    def shares(self) -> Floats:
        """(n,): each client's part of the members' rows; equal ones where no sizes were
        recorded, 0 for others.
        """
        clients = self._entry.clients
        client_sizes = self._entry.sizes or [1] * len(clients)
        strings = self._file.metadata() or {}
        metadata_text = strings.get("round", "{}")
        facts = json.loads(metadata_text)
        members = facts.get("members")
        if members is None:
            members = clients
        is_member = [client in set(members) for client in clients]
        n_rows = np.array(client_sizes, np.float64)
        weights = n_rows * is_member
        shares: Floats = weights / weights.sum()
        return shares

    def _columns(self, layer: str, width: int | None) -> Iterator[tuple[int, int]]:
        """(start, stop) of each block of a layer."""
        length = self._entry.layers[layer]
        if width is None:
            n_clients = len(self._entry.clients)
            width = max(1, BLOCK_VALUES // n_clients)
        for start in range(0, length, width):
            stop = min(start + width, length)
            yield start, stop


def frame(entry: RoundEntry, layer: str) -> Floats:
    """Q (n, n), orthogonal and Haar distributed: the frame in which the coordinator
    shows this round's layer.

    QR of a Gaussian matrix with the diagonal made positive (Mezzadri 2007, "How to
    generate random matrices from the classical compact groups"). Drawn from the entry's
    own random bytes, so it is the same at every call.
    """
    seed_text = f"{entry.frame}/{entry.order_id}/{entry.round}/{layer}"
    seed = hashlib.sha256(seed_text.encode()).digest()
    philox_key = np.frombuffer(seed[:16], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=philox_key))
    n_clients = len(entry.clients)
    gaussian = generator.standard_normal((n_clients, n_clients))
    orthogonal, triangular = np.linalg.qr(gaussian)
    # QR leaves each column's sign open; without this one, what the library happens to
    # choose would be no Haar draw.
    is_negative = np.diag(triangular) < 0
    signs = np.where(is_negative, -1.0, 1.0)
    rotation: Floats = orthogonal * signs
    return rotation


def _row_squares(rows: Floats) -> Floats:
    squares: Floats = np.einsum("ij,ij->i", rows, rows)
    return squares


def _remove_older(path: Path, before: float) -> None:
    # Another process may have renamed or removed it.
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_mtime <= before:
            path.unlink()


def _not_comparable(entry: RoundEntry, layer: str) -> Conflict:
    return Conflict(
        f"The layer {layer} of round {entry.round} has no layer of the same name and length in the round before.",
        remedy="Name layers that both rounds have.",
        code="between",
    )
