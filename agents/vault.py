"""The hospital's vault: everything an agent must not lose, on its own disk, mode 0600 in folders of mode 0700.

    identity.json            long-lived keys, made at first start
    orders/<id>/             one running order: session keys, cohort snapshot, outbox, checkpoints
    ended/<id>.json          how an order ended here; its number is never used again
    models/<id>.json         trained models
    predictions/<id>.json    answers of inference
    cohorts/                 digests of earlier cohorts' id sets (agents.cohort)
    approvals/               what a person was asked, and the signed decisions (agents.approval)

Every write is whole or not at all: temporary file, fsync, rename, fsync of the folder. What is made once stays what
the first process made it, even if two start at the same moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protocol.errors import Conflict, NotFound, ProtocolViolation, Refused
from protocol.sealing import Identity


def write_durably(path: Path, data: bytes) -> None:
    """Replaces a file whole, with mode 0600, and returns only when it is on disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_once(path: Path, data: bytes) -> None:
    """As `write_durably`, but a file that is there already stays as it is: the first process wins."""
    with locked(path.parent):
        if not path.exists():
            write_durably(path, data)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time, of those that ask for this folder; not to be asked for twice by one."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_private_folder(path: Path) -> Path:
    """A folder that only its owner may enter, and its parents too where they are new; on disk when this returns."""
    if not path.is_dir():
        make_private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)
    return path


def sync_folder(folder: Path) -> None:
    """Returns when the folder's list of names is on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damaged(path: Path) -> Conflict:
    """What is told of a file of the vault that cannot be read as what it should be."""
    return Conflict(f"{path} is damaged.", remedy="Restore it from the backup of the vault.", code="vault_damaged")


class Vault:
    """One hospital's durable state."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_private_folder(folder)

    def identity(self) -> Identity:
        """The long-lived keys; made and kept at the first call. Conflict (code vault_damaged) if unreadable."""
        path = self.folder / "identity.json"
        if not path.exists():
            write_once(path, Identity.generate().encode().encode())
        try:
            return Identity.decode(path.read_text("utf-8"))
        except (ValueError, KeyError, TypeError, ProtocolViolation):
            raise damaged(path) from None

    @property
    def cohorts(self) -> Path:
        return make_private_folder(self.folder / "cohorts")

    @property
    def approvals(self) -> Path:
        return make_private_folder(self.folder / "approvals")

    def order(self, order_id: int) -> OrderVault:
        return OrderVault(self.folder / "orders" / str(order_id))

    def orders(self) -> list[int]:
        """The orders of which something is kept here: those under way, and those whose end was not heard of."""
        return sorted(int(path.name) for path in (self.folder / "orders").glob("*") if path.name.isdecimal())

    def end_order(self, order_id: int, outcome: str) -> None:
        """Marks an order as ended here, for good, and forgets its keys, snapshots and outbox. The first mark stands.

        Before the mark all is kept and after it nothing is needed, so that a restart at any point knows where it
        stands; and another order under the same number is never taken part in.
        """
        order = self.order(order_id)
        document = order.folder / "document"
        digest = hashlib.sha256(document.read_bytes()).hexdigest() if document.exists() else ""
        folder = make_private_folder(self.folder / "ended")
        mark = folder / f"{order_id}.json"
        write_once(mark, json.dumps({"outcome": outcome, "document": digest}).encode())
        order.destroy()

    def has_ended(self, order_id: int) -> bool:
        """Whether an order with this number has ended here."""
        return (self.folder / "ended" / f"{order_id}.json").exists()

    def outcome(self, order_id: int, document: bytes) -> str | None:
        """success, failed or cancelled for an order that has ended here; None for one that has not.

        Refused when an order with another document has had this number: the same keys and cohorts twice would show
        the difference of the two.
        """
        path = self.folder / "ended" / f"{order_id}.json"
        if not path.exists():
            return None
        ended = json.loads(path.read_text())
        if ended["document"] != hashlib.sha256(document).hexdigest():
            raise Refused(
                f"This hospital has had another order with the number {order_id}.",
                remedy="The coordinator has lost its store and counts anew: restore its backup.",
                code="order_number",
            )
        return str(ended["outcome"])

    def save_model(self, model_id: int, model: dict[str, Any]) -> None:
        self._save("models", model_id, model)

    def model(self, model_id: int) -> dict[str, Any]:
        """A trained model; NotFound if this hospital holds none of that number."""
        found = self._load("models", model_id)
        if found is None:
            raise NotFound(
                f"This hospital holds no model {model_id}.",
                remedy="Only hospitals of an order that ended with success hold its model.",
                code="no_model",
            )
        return found

    def models(self) -> list[int]:
        """The ids of the models that this hospital holds."""
        return sorted(int(path.stem) for path in (self.folder / "models").glob("*.json") if path.stem.isdecimal())

    def save_predictions(self, order_id: int, result: dict[str, Any]) -> dict[str, Any]:
        """Keeps them, unless another process has done so first; what is kept, which alone may be told."""
        self._save("predictions", order_id, result, once=True)
        kept = self.predictions(order_id)
        assert kept is not None
        return kept

    def predictions(self, order_id: int) -> dict[str, Any] | None:
        return self._load("predictions", order_id)

    def _save(self, kind: str, number: int, value: dict[str, Any], *, once: bool = False) -> None:
        folder = make_private_folder(self.folder / kind)
        write = write_once if once else write_durably
        write(folder / f"{number}.json", json.dumps(value, sort_keys=True).encode())

    def _load(self, kind: str, number: int) -> dict[str, Any] | None:
        path = self.folder / kind / f"{number}.json"
        if not path.exists():
            return None
        try:
            value = json.loads(path.read_text("utf-8"))
        except ValueError:
            raise damaged(path) from None
        if not isinstance(value, dict):
            raise damaged(path)
        return value


class OrderVault:
    """What one running order needs to go on after any crash; removed when the order has ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_private_folder(folder)
        self.outbox = make_private_folder(folder / "outbox")

    def once(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The bytes kept under `name`; made and kept by the first call, and never made anew.

        Where a process that should be dead still runs beside its successor, both get what the first one kept.
        """
        path = self.folder / name
        if not path.exists():
            write_once(path, make())
        return path.read_bytes()

    def forget_outbox(self, prefix: str) -> None:
        """Drops messages that were sent and that nobody will ask for again."""
        for path in self.outbox.glob(f"{prefix}*"):
            path.unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def save_arrays(self, name: str, **arrays: npt.NDArray[Any]) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        write_durably(self.folder / name, buffer.getvalue())

    def load_arrays(self, name: str) -> dict[str, npt.NDArray[Any]] | None:
        path = self.folder / name
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}

    def destroy(self) -> None:
        """Forgets session keys, order secret, snapshot and outbox: all at once, and then the bytes.

        A crash leaves the whole folder or none under its name, never an outbox without the keys that belong to it;
        what it leaves under another name goes with the next order that ends.
        """
        orders = self.folder.parent
        with contextlib.suppress(FileNotFoundError):
            self.folder.rename(orders / f".{self.folder.name}.{secrets.token_hex(4)}.ended")
        for ended in orders.glob(".*.ended"):
            shutil.rmtree(ended, ignore_errors=True)
        sync_folder(orders)
