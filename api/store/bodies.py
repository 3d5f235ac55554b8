"""The bytes of the exchange's messages: few stand in the store's own table, many in a
file beside it.

A large body (LARGE_BYTES) is a file in `coordinator/exchange/<order>/`, written through
fsspec, so that an object store can serve several machines
(CONSILIUM_EXCHANGE_URL). The store's row keeps name, size and digest. The name is
random, and nobody knows it before the row that has it: so a file needs no second name
while it is written. It is on disk before that row is, and it is deleted after the row
is: whatever a crash leaves in between is a file without a row, which `clean_up`
removes.

`Writer` takes what comes in, `Bodies` is the folder. `messages.py` has the rows.

Decision 145.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from api.store.disk import Disk, is_full
from protocol.errors import BadRequest, Conflict, Unavailable
from protocol.exchange import LARGE_BYTES
from protocol.machine.disk import make_private_folder, sync

PIECE_BYTES = 2**20
"""Of a body, in memory at one time."""

FILE_MODE = 0o600


@dataclass(frozen=True)
class Body:
    """What a message's row says of its bytes. It has them, or a file's name."""

    size: int
    digest: str  # SHA-256, hex
    data: bytes | None = None
    file: str | None = None

    @staticmethod
    def of(data: bytes) -> Body:
        """Of bytes that stand in the row itself."""
        digest = hashlib.sha256(data).hexdigest()
        return Body(len(data), digest, data=data)


class DamagedBody(Conflict):
    """A file that is missing, cut short or altered: the disk's fault, no hospital's."""

    def __init__(self) -> None:
        super().__init__(
            "A message of the order is missing or damaged on the coordinator's own disk.",
            remedy="Its operator looks after the folder of CONSILIUM_EXCHANGE_URL; then send the order again.",
            code="message_damaged",
        )


class Bodies:
    """The folder of large bodies, of this disk or of an object store."""

    def __init__(
        self,
        url: str,
        disk: Disk | None = None,
    ) -> None:
        """`url` is a path, or an address that fsspec knows, such as
        s3://bucket/folder.

        BadRequest (code CONSILIUM_EXCHANGE_URL) where fsspec cannot use it.
        """
        self.url = url
        self._disk = disk
        try:
            files_and_root = fsspec.url_to_fs(url)
        except (ValueError, ImportError) as error:
            error_name = type(error).__name__
            raise BadRequest(
                f"CONSILIUM_EXCHANGE_URL cannot be used ({error_name}).",
                remedy="Unset it, write a folder's path, or install fsspec's package for this kind of address.",
                code="CONSILIUM_EXCHANGE_URL",
            ) from None
        self._files: Any = files_and_root[0]
        self._root: str = files_and_root[1]
        self._is_local = isinstance(self._files, LocalFileSystem)

    def _path(self, file: str) -> str:
        return f"{self._root}/{file}"

    # Writing

    @contextlib.contextmanager
    def writing(self, run: int) -> Iterator[Writer]:
        """A writer of one body of this order. What it has written is removed unless it
        is `kept`.

        Unavailable when the disk is full or cannot be written.
        """
        writer = Writer(self, run)
        try:
            yield writer
        except OSError as error:
            raise self._trouble(error) from None
        finally:
            writer.close()

    def _trouble(self, error: OSError) -> Unavailable:
        if self._disk and is_full(error):
            return self._disk.noted()
        reason = error.strerror or type(error).__name__
        return Unavailable(
            f"The coordinator cannot keep the message ({reason}).",
            remedy="Its operator looks after the disk; it is sent again.",
            code="disk",
        )

    def begin_file(self, run: int) -> tuple[str, BinaryIO]:
        """A new file's name and the file, open for writing."""
        token = secrets.token_hex(16)
        file_name = f"{run}/{token}"
        file_path = self._path(file_name)
        if self._is_local:
            make_private_folder(Path(file_path).parent)
            # Nobody else's from its first byte on.
            as_new = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            descriptor = os.open(file_path, as_new, FILE_MODE)
            os.close(descriptor)
        # fsspec takes no mode. It opens the file that stands there, which keeps its
        # own.
        file: BinaryIO = self._files.open(file_path, "wb")
        return file_name, file

    def bring_to_disk(self, file: str) -> None:
        """The bytes before the name; an object store has both once the file is closed."""
        if self._is_local:
            file_path = Path(self._path(file))
            sync(file_path)
            sync(file_path.parent)

    # Reading

    @contextlib.contextmanager
    def open(self, body: Body) -> Iterator[Callable[[], Iterator[bytes]]]:
        """A large body, found whole by size and digest; what is given reads it in
        pieces.

        DamagedBody before a byte of it is read where it is not what the row says.
        """
        assert body.file is not None
        file_path = self._path(body.file)
        try:
            opened: BinaryIO = self._files.open(file_path, "rb")
        except OSError:
            raise DamagedBody from None
        with opened:
            # Read twice: with a digest that is compared while it is sent, the reader
            # would have had the bytes of a damaged file.
            digest = hashlib.sha256()
            for piece in _pieces(opened):
                digest.update(piece)
            if digest.hexdigest() != body.digest:
                raise DamagedBody
            opened.seek(0)
            yield lambda: _pieces(opened)

    def read(self, body: Body) -> bytes:
        """The whole of a body; raises as `open`."""
        if body.data is not None:
            return body.data
        with self.open(body) as pieces:
            return b"".join(pieces())

    # Removing

    def remove(self, files: Iterable[str]) -> None:
        """Of rows that are gone. What cannot be removed now is, by `clean_up`."""
        for file_name in files:
            file_path = self._path(file_name)
            with contextlib.suppress(OSError):
                self._files.rm_file(file_path)
            if self._is_local:
                # The order's folder goes with its last file.
                with contextlib.suppress(OSError):
                    Path(file_path).parent.rmdir()

    def clean_up(
        self,
        named_by: Callable[[int], Collection[str] | None],
        before: datetime,
    ) -> int:
        """Removes what a crash left without its row; how many files.

        Only such as have not changed since `before` (UTC, without a zone): a message
        may be coming in, also by another process of the coordinator. `named_by` says
        which files an order's rows name, None for an order that the store does not
        know: its files are left alone, it may be the wrong store.
        """
        files_by_order: dict[int, list[str]] = {}
        folder = f"{self._root}/"
        # Listed before the rows are read: who gets a row in between is young.
        for file_path in self._files.find(self._root):
            file_name = file_path.removeprefix(folder)
            run, _, token = file_name.partition("/")
            # The folder may be a bucket that others use too: what is in no order's
            # folder is left alone.
            if run.isdecimal():
                of_order = files_by_order.setdefault(int(run), [])
                of_order.append(f"{run}/{token}")
        n_removed = 0
        for order_id, files in files_by_order.items():
            named = named_by(order_id)
            if named is None:
                continue
            for file_name in files:
                is_named = file_name in named
                if not is_named and self._is_older(file_name, before):
                    self.remove([file_name])
                    n_removed += 1
        return n_removed

    def _is_older(self, file: str, before: datetime) -> bool:
        file_path = self._path(file)
        try:
            changed: datetime = self._files.modified(file_path)
        except FileNotFoundError:  # somebody else has removed it
            return False
        if changed.tzinfo is not None:
            in_utc = changed.astimezone(UTC)
            changed = in_utc.replace(tzinfo=None)
        return changed < before


class Writer:
    """One body on its way in: in memory while it is small, then in a file."""

    def __init__(self, bodies: Bodies, run: int) -> None:
        self._bodies = bodies
        self._run = run
        self._digest = hashlib.sha256()
        self._size = 0
        # What is not in the file yet.
        self._pending = bytearray()
        self._name: str | None = None
        self._file: BinaryIO | None = None
        self._is_kept = False

    def take(self, piece: bytes) -> bool:
        """Adds a piece; whether enough is pending to be written (`flush`)."""
        self._digest.update(piece)
        self._size += len(piece)
        self._pending += piece
        is_large = self._size > LARGE_BYTES
        return is_large and len(self._pending) >= PIECE_BYTES

    def flush(self) -> None:
        """Writes what is pending. It blocks."""
        if self._file is None:
            self._name, self._file = self._bodies.begin_file(self._run)
        self._file.write(self._pending)
        self._pending.clear()

    @property
    def is_small(self) -> bool:
        """Whether what has come stands in the row itself."""
        return self._size <= LARGE_BYTES

    def finish(self) -> Body:
        """The whole body, on disk where it is large: then it blocks."""
        digest = self._digest.hexdigest()
        if self.is_small:
            return Body(
                self._size,
                digest,
                data=bytes(self._pending),
            )
        self.flush()
        assert self._file is not None
        assert self._name is not None
        self._file.close()
        self._bodies.bring_to_disk(self._name)
        return Body(self._size, digest, file=self._name)

    def keep(self) -> None:
        """A row names the file: it stays."""
        self._is_kept = True

    def close(self) -> None:
        """Removes the file unless a row names it."""
        if self._file is None:
            return
        # Closing writes what is still in its buffer, and may find the disk full: the file
        # is removed all the same.
        with contextlib.suppress(OSError):
            self._file.close()
        if not self._is_kept and self._name is not None:
            self._bodies.remove([self._name])


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece
