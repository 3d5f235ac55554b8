"""Round files: what is kept of each round for analytics, one safetensors file for each order and round.

    open     gradient/<client>/<layer> (float32 or float64), and average/<layer> (float64) where one was recorded
    sealed   factor/<layer>: R, (n, n) float64, column i client i's coordinates; between/<layer>: (n, 4) float64

The metadata may name the `members`, the clients whose gradients are in the round's sum.

A file is written under a temporary name in its folder, brought to disk, renamed, and then entered in the store's index.
Readers follow the index only, so none sees half a file. Files are mapped into memory, read by blocks of columns, and
what the scores work on (n x n for each layer) is kept, so that a second score of a round reads nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import secrets
import threading
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

Floats = NDArray[np.float64]

BLOCK_VALUES = 2**20
PIECE_VALUES = 2**14
KEPT_BYTES = 2**27
FILE_MODE, FOLDER_MODE = 0o600, 0o700
PART, WHOLE = ".part", ".safetensors"


class Kept:
    """Results by key, the longest unused dropped beyond `most_bytes`.

    Each is made once, however many threads ask for it at the same time; they wait for the first. An error is told to
    those who wait, and not kept.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes, self._n_bytes = most_bytes, 0
        self._found: OrderedDict[Hashable, Future[Floats]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Floats]) -> Floats:
        with self._lock:
            future = self._found.get(key)
            is_first = future is None
            if future is None:
                future = self._found[key] = Future()
            self._found.move_to_end(key)
        if is_first:
            self._make(key, future, make)
        return future.result()

    def _make(self, key: Hashable, future: Future[Floats], make: Callable[[], Floats]) -> None:
        try:
            made = make()
        except Exception as error:  # noqa: BLE001 (told to everybody who waits for it)
            with self._lock:
                self._found.pop(key, None)
            future.set_exception(error)
            return
        made.flags.writeable = False
        future.set_result(made)
        with self._lock:
            self._n_bytes += made.nbytes
            self._drop()

    def _drop(self) -> None:
        if self._n_bytes <= self._most_bytes:
            return
        for key, future in list(self._found.items())[:-1]:
            if future.done() and self._n_bytes > self._most_bytes:
                self._n_bytes -= future.result().nbytes
                del self._found[key]


class RoundFiles:
    """The folder of round files, with the store's index of it. Used by threads of one process."""

    def __init__(self, folder: Path, store: Store, disk: Disk | None = None) -> None:
        self._folder, self._store, self._disk = folder, store, disk
        self._kept = Kept()

    # Writing

    def clean_up(self) -> None:
        """At start: removes what a crash left half written or without its entry.

        Files of an order that the store does not know are left alone: it may be the wrong store.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        for path in self._folder.glob(f"*/*{PART}"):
            path.unlink(missing_ok=True)
        for folder in self._folder.iterdir():
            if folder.name.isdecimal() and self._store.orders.exists(int(folder.name)):
                indexed = {self.path(entry) for entry in self._store.rounds.files(int(folder.name))}
                for path in set(folder.glob(f"*{WHOLE}")) - indexed:
                    path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def part(self, order_id: int) -> Iterator[Path]:
        """A temporary name in the order's folder; whatever still has it at the end is removed.

        Unavailable when the disk is full or cannot be written.
        """
        folder = self._folder / str(order_id)
        path = folder / f"{secrets.token_hex(8)}{PART}"
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
                _sync(self._folder)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
            yield path
        except OSError as error:
            if self._disk and is_full(error):
                raise self._disk.noted() from None
            raise Unavailable(
                f"The coordinator cannot keep the round ({error.strerror or type(error).__name__}).",
                remedy="Its operator looks after the disk; send the round again.",
                code="disk",
            ) from None
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def publish(
        self,
        part: Path,
        entry: RoundEntry,
        *,
        loss: float | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> RoundEntry:
        """Makes a checked, whole file visible; returns the entry that stands for the round, this or an earlier one.

        Of two that come at the same time, the first to be entered stands and the other's file goes.
        """
        path = self.path(entry)
        _sync(part)
        os.replace(part, path)
        _sync(path.parent)
        standing = self._store.rounds.add_file(entry, loss=loss, report=report)
        if standing.digest != entry.digest:
            path.unlink(missing_ok=True)
        return standing

    def path(self, entry: RoundEntry) -> Path:
        """The name holds the content's digest: two who send different rounds never write to one name."""
        return self._folder / str(entry.order_id) / f"{entry.round}-{entry.digest[:16]}{WHOLE}"

    def prune(self, before: datetime.datetime) -> int:
        """Forgets the files that were recorded before: the entry first, so that no entry is without its file."""
        old = self._store.rounds.old_files(before)
        for entry in old:
            self._store.rounds.forget_file(entry)
            self.path(entry).unlink(missing_ok=True)
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
        """R (n, n) float64 of a layer: column i holds client i's coordinates, in the order of the entry's clients."""
        return self._kept.get(
            ("factor", entry.order_id, entry.digest, layer), lambda: self._read_factor(entry, layer)
        )

    def _read_factor(self, entry: RoundEntry, layer: str) -> Floats:
        with self.open(entry) as file:
            if entry.kind == "sealed":
                return file.tensor(f"factor/{layer}")
            factor: Floats = geometry.triangular_factor(lambda: file.blocks(layer), len(entry.clients))
            return factor

    def between(self, entry: RoundEntry, before: RoundEntry | None, layer: str) -> Floats:
        """(n, 4) float64: |g(t) - g(t-1)|, |g(t) - gbar(t-1)|, <g(t), gbar(t-1)>, |gbar(t-1)| of each client.

        The first is NaN for a client that was not in the round before. Conflict for a sealed round without them.
        """
        key = ("between", entry.order_id, entry.digest, before and before.digest, layer)
        if entry.kind == "sealed":
            return self._kept.get(key, lambda: self._read_between(entry, layer))
        if before is None or before.layers.get(layer) != entry.layers[layer]:
            raise _not_comparable(entry, layer)
        return self._kept.get(key, lambda: self._compare(entry, before, layer))

    def _read_between(self, entry: RoundEntry, layer: str) -> Floats:
        with self.open(entry) as file:
            if f"between/{layer}" not in file.names:
                raise Conflict(
                    f"Round {entry.round} of order {entry.order_id} was scored by itself: nothing that compares it "
                    "with the round before was recorded.",
                    remedy="Ask for a round after the first, of an order with scoring full.",
                    code="between",
                )
            return file.tensor(f"between/{layer}")

    def _compare(self, entry: RoundEntry, before: RoundEntry, layer: str) -> Floats:
        both = [client for client in entry.clients if client in set(before.clients)]
        rows = [entry.clients.index(client) for client in both]
        squares = np.zeros((len(entry.clients), 4))
        with self.open(entry) as file, self.open(before) as earlier:
            width = max(1, BLOCK_VALUES // max(len(entry.clients), len(before.clients)))
            pieces = (
                file.blocks(layer, width),
                earlier.blocks(layer, width, both),
                earlier.average(layer, width),
            )
            for now, then, mean in zip(*pieces, strict=True):
                now = now.astype(np.float64)
                squares[rows, 0] += _row_squares(now[rows] - then)
                squares[:, 1] += _row_squares(now - mean)
                squares[:, 2] += now @ mean
                squares[:, 3] += mean @ mean
        squares[:, [0, 1, 3]] = np.sqrt(squares[:, [0, 1, 3]])
        squares[[row for row in range(len(entry.clients)) if row not in set(rows)], 0] = np.nan
        return squares

    def coordinates(self, entry: RoundEntry, layer: str) -> Floats:
        """(n, n) float64, a row for each client of a sealed round: Q R, in a frame Q that is the coordinator's own."""
        points: Floats = (frame(entry, layer) @ self.factor(entry, layer)).T
        return points


class RoundReader:
    """One round's open file. Only what is asked for is read."""

    def __init__(self, entry: RoundEntry, file: Any) -> None:
        self._entry, self._file = entry, file
        self.names = frozenset(file.keys())
        self._spelling = (
            "gradients" if any(name.startswith("gradients/") for name in self.names) else "gradient"
        )

    def tensor(self, name: str) -> Floats:
        return np.array(self._file.get_tensor(name), dtype=np.float64)

    def gradient(self, client: int, layer: str) -> Iterator[NDArray[Any]]:
        """One client's values of a layer, piece by piece."""
        return (block[0] for block in self.blocks(layer, PIECE_VALUES, [client]))

    def blocks(
        self, layer: str, width: int | None = None, clients: Iterable[int] | None = None
    ) -> Iterator[NDArray[Any]]:
        """(n, width) float32 or float64 and a narrower last one: the clients' values of a layer."""
        wanted = self._entry.clients if clients is None else list(clients)
        slices = [self._file.get_slice(f"{self._spelling}/{client}/{layer}") for client in wanted]
        for start, stop in self._columns(layer, width):
            yield np.stack([piece[start:stop] for piece in slices]) if slices else np.zeros((0, stop - start))

    def average(self, layer: str, width: int | None = None) -> Iterator[Floats]:
        """(width,) float64: the average as it was recorded, else the members' mean weighted by row counts."""
        if f"average/{layer}" in self.names:
            recorded = self._file.get_slice(f"average/{layer}")
            yield from (
                np.asarray(recorded[start:stop], np.float64) for start, stop in self._columns(layer, width)
            )
        else:
            shares = self.shares()
            yield from (shares @ block.astype(np.float64) for block in self.blocks(layer, width))

    def shares(self) -> Floats:
        """(n,): each client's part of the members' rows; equal ones where no sizes were recorded, 0 for others."""
        clients, sizes = self._entry.clients, self._entry.sizes
        told = json.loads((self._file.metadata() or {}).get("round", "{}")).get("members")
        members = set(clients if told is None else told)
        weights = np.array(sizes or [1] * len(clients), np.float64) * [
            client in members for client in clients
        ]
        shares: Floats = weights / weights.sum()
        return shares

    def _columns(self, layer: str, width: int | None) -> Iterator[tuple[int, int]]:
        length = self._entry.layers[layer]
        width = width or max(1, BLOCK_VALUES // len(self._entry.clients))
        return ((start, min(start + width, length)) for start in range(0, length, width))


def frame(entry: RoundEntry, layer: str) -> Floats:
    """Q (n, n), orthogonal and Haar distributed: the frame in which the coordinator shows this round's layer.

    QR of a Gaussian matrix with the diagonal made positive (Mezzadri 2007, "How to generate random matrices from the
    classical compact groups"). Drawn from the entry's own random bytes, so it is the same at every call.
    """
    seed = hashlib.sha256(f"{entry.frame}/{entry.order_id}/{entry.round}/{layer}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(seed[:16], np.uint64)))
    n = len(entry.clients)
    q, r = np.linalg.qr(generator.standard_normal((n, n)))
    rotation: Floats = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return rotation


def _row_squares(rows: Floats) -> Floats:
    squares: Floats = np.einsum("ij,ij->i", rows, rows)
    return squares


def _not_comparable(entry: RoundEntry, layer: str) -> Conflict:
    return Conflict(
        f"The layer {layer} of round {entry.round} has no layer of the same name and length in the round before.",
        remedy="Name layers that both rounds have.",
        code="between",
    )


def _sync(path: Path) -> None:
    """Brings a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
