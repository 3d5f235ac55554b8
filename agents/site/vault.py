"""The hospital's vault: everything an agent must not lose, on its own disk.

Files have mode 0600, in folders of mode 0700.

    identity.json            long-lived keys, made at first start
    orders/<id>/             one running order: session keys, cohort snapshot, outbox, checkpoints
    ended/<id>.json          how an order ended here; its number is never used again
    models/<id>.json         trained models
    predictions/<id>.json    answers of inference
    evaluations/<id>.json    how good models are on other rows, and the counts behind it
    cohorts/                 digests of earlier cohorts' id sets (agents.gate.cohort_gate)
    approvals/               what a person was asked, and the signed decisions (agents.order.approval)

Every write is whole or not at all: temporary file, fsync, rename, fsync of the folder.
What is made once stays what the first process made it, even if two start at the same
moment.

JSON is kept with its own SHA-256, {"sha256": ..., "content": ...}, and what belongs to
a running order behind 32 bytes of it, so that a bit that a disk has turned is noticed
and never used: an identity with one other bit is another identity. JSON of an earlier
version, which is the content alone, gets its checksum when it is first read. An empty
or altered file is an error (code vault_damaged), not a new beginning.

Decisions 14, 57 and 150.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from agents.site.stored_arrays import decode_arrays, encode_arrays
from protocol.errors import Conflict, NotFound, ProtocolViolation, Refused
from protocol.machine.disk import (
    locked,
    make_private_folder,
    sync,
    write_durably,
    write_once,
)
from protocol.sealing import Identity

T = TypeVar("T")
_DIGEST_BYTES = hashlib.sha256().digest_size
_CHECKED = frozenset({"sha256", "content"})


def damaged(path: Path) -> Conflict:
    """The error of a file of the vault that cannot be read as what it should be."""
    return Conflict(
        f"{path} is damaged.",
        remedy="Restore it from the backup of the vault.",
        code="vault_damaged",
    )


def encode_kept(value: Mapping[str, Any]) -> bytes:
    """A JSON object with its checksum, as `read_kept` reads it.

    The checksum is SHA-256 over the object's JSON with sorted keys, no blanks and ASCII
    only.
    """
    canonical_json = _canonical(_with_text_keys(value))
    digest = hashlib.sha256(canonical_json).hexdigest().encode()
    return b'{"content":%s,"sha256":"%s"}' % (canonical_json, digest)


def _with_text_keys(value: Any) -> Any:
    """As JSON will be read: with keys that are texts. Numbers are not copied: a model
    may have millions.
    """
    if isinstance(value, Mapping):
        # Numbers as keys would be sorted otherwise than the texts that are read back,
        # and the checksum of what is read would be another one.
        text_keyed = {}
        for key, inner in value.items():
            text_key = key
            if not isinstance(key, str):
                as_json = json.dumps({key: None})
                (text_key,) = json.loads(as_json)
            text_keyed[text_key] = _with_text_keys(inner)
        return text_keyed
    if isinstance(value, list | tuple):
        return [_with_text_keys(inner) for inner in value]
    return value


def read_kept(
    path: Path,
    parse: Callable[[dict[str, Any]], T],
    *,
    mends: bool = True,
) -> T | None:
    """What `parse` makes of the object kept at `path`; None where there is no file.

    Raises Conflict (code vault_damaged) for a file that is empty, cut short, no JSON
    object, has another content than its checksum says, or of which `parse` can make
    nothing. A file without a checksum, of an earlier version, is given one where `mends`.
    """
    try:
        stored = json.loads(path.read_bytes())
        is_checked = not _CHECKED.isdisjoint(stored)
        content = _checked(stored) if is_checked else stored
        parsed = parse(content)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError, ProtocolViolation):
        raise damaged(path) from None
    # Only after `parse`: what cannot be used is not made to look whole.
    if mends and not is_checked:
        _add_checksum(path, content)
    return parsed


def _checked(stored: dict[str, Any]) -> dict[str, Any]:
    """The content.

    One of the two names alone is a turned bit in the other one, and no file of an
    earlier version.
    """
    if stored.keys() != _CHECKED:
        raise ValueError
    content: dict[str, Any] = stored["content"]
    if stored["sha256"] != _checksum(content):
        raise ValueError
    return content


def add_digest(data: bytes) -> bytes:
    """Bytes with their SHA-256 before them, as `read_checked` reads them."""
    return hashlib.sha256(data).digest() + data


def read_checked(path: Path) -> bytes:
    """The bytes that were kept with their digest.

    Conflict (code vault_damaged) for other ones; FileNotFoundError.
    """
    # In two readings, and not cut from one: of a large model each copy counts.
    with path.open("rb") as file:
        digest = file.read(_DIGEST_BYTES)
        kept_bytes = file.read()
    if hashlib.sha256(kept_bytes).digest() != digest:
        raise damaged(path)
    return kept_bytes


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _checksum(content: Any) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()


def _canonical(content: Any) -> bytes:
    canonical_json = json.dumps(
        content,
        sort_keys=True,
        separators=(",", ":"),
    )
    return canonical_json.encode()


def _add_checksum(path: Path, content: dict[str, Any]) -> None:
    """Gives a file of an earlier version its checksum, where that can be done now.

    The next reading tries again. So what can be read is read, though the disk be full
    or read-only, or the folder locked, which this very call may be within.
    """
    with contextlib.suppress(OSError), locked(path.parent, waits=False):
        # Another process may have replaced the file since: only what was read gets its
        # checksum.
        if json.loads(path.read_bytes()) == content:
            write_durably(path, encode_kept(content))


@dataclass(frozen=True)
class _Ended:
    """The mark of an order that has ended here."""

    # success, failed or cancelled
    outcome: str
    # SHA-256 of the order's document, 64 hex digits; empty where it could not be read.
    document_digest: str

    @staticmethod
    def read(stored: dict[str, Any]) -> _Ended:
        return _Ended(
            outcome=str(stored["outcome"]),
            document_digest=str(stored["document"]),
        )


class Vault:
    """One hospital's durable state."""

    _is_only_read = False

    def __init__(self, folder: Path) -> None:
        self.folder = make_private_folder(folder)

    def identity(self) -> Identity:
        """The long-lived keys; made and kept at the first call.

        Conflict (code vault_damaged) if unreadable.
        """
        identity_path = self.folder / "identity.json"
        if not identity_path.exists():
            fresh = encode_kept(Identity.generate().to_json())
            # Of two processes at once, the first one's keys stand (decision 24).
            write_once(identity_path, fresh)
        identity = read_kept(identity_path, Identity.from_json)
        if identity is None:
            raise damaged(identity_path)
        return identity

    @property
    def cohorts(self) -> Path:
        return make_private_folder(self.folder / "cohorts")

    @property
    def approvals(self) -> Path:
        return make_private_folder(self.folder / "approvals")

    def order(self, order_id: int) -> OrderVault:
        return OrderVault(self.folder / "orders" / str(order_id))

    def orders(self) -> list[int]:
        """The orders of which something is kept here.

        They are those under way, and those whose end was not heard of.
        """
        order_ids = []
        folder = self.folder / "orders"
        for order_folder in folder.glob("*"):
            folder_name = order_folder.name
            # Folders with other names are being removed.
            if folder_name.isdecimal():
                order_ids.append(int(folder_name))
        return sorted(order_ids)

    def end_order(self, order_id: int, outcome: str) -> None:
        """Marks an order as ended here, for good, and forgets what it has kept.

        The first mark stands. Before the mark all is kept and after it nothing is
        needed, so that a restart at any point knows where it stands; and another order
        under the same number is never taken part in.
        """
        order = self.order(order_id)
        digest = order.digest_of_document()
        mark = {"outcome": outcome, "document": digest}
        make_private_folder(self.folder / "ended")
        write_once(self._mark(order_id), encode_kept(mark))
        order.destroy()

    def has_ended(self, order_id: int) -> bool:
        """Whether an order with this number has ended here."""
        return self._mark(order_id).exists()

    def _mark(self, order_id: int) -> Path:
        """The file that says how an order has ended here."""
        return self.folder / "ended" / f"{order_id}.json"

    def outcome(self, order_id: int, document: bytes) -> str | None:
        """success, failed or cancelled for an order that has ended here; else None.

        Refused when an order with another document has had this number: the same keys
        and cohorts twice would show the difference of the two. Conflict (code
        vault_damaged) when nothing can be told.
        """
        ended = read_kept(self._mark(order_id), _Ended.read)
        if ended is None:
            return None
        digest = hashlib.sha256(document).hexdigest()
        # decision 23
        if ended.document_digest != digest:
            raise Refused(
                f"This hospital has had another order with the number {order_id}.",
                remedy="The coordinator has lost its store and counts anew: restore its backup.",
                code="order_number",
            )
        return ended.outcome

    def save_model(
        self,
        model_id: int,
        model: dict[str, Any],
    ) -> None:
        self._save("models", model_id, model)

    def model(self, model_id: int) -> dict[str, Any]:
        """A trained model; NotFound if this hospital holds none of that number."""
        model = self._load("models", model_id)
        if model is None:
            raise NotFound(
                f"This hospital holds no model {model_id}.",
                remedy="Only hospitals of an order that ended with success hold its model.",
                code="no_model",
            )
        return model

    def models(self) -> list[int]:
        """The ids of the models that this hospital holds."""
        return self._numbers("models")

    def evaluations(self) -> list[int]:
        """The orders whose evaluations this hospital has."""
        return self._numbers("evaluations")

    def _numbers(self, folder: str) -> list[int]:
        paths = (self.folder / folder).glob("*.json")
        stems = [path.stem for path in paths]
        numbers = [int(stem) for stem in stems if stem.isdecimal()]
        return sorted(numbers)

    def save_evaluation(
        self,
        order_id: int,
        evaluation: dict[str, Any],
    ) -> None:
        self._save("evaluations", order_id, evaluation)

    def evaluation(self, order_id: int) -> dict[str, Any]:
        """What an evaluation order found; NotFound if this hospital has none of that
        number.
        """
        evaluation = self._load("evaluations", order_id)
        if evaluation is None:
            raise NotFound(
                f"This hospital has no evaluation {order_id}.",
                remedy="Only hospitals of an evaluation that ended with success have it.",
                code="no_evaluation",
            )
        return evaluation

    def save_predictions(
        self,
        order_id: int,
        result: dict[str, Any],
    ) -> dict[str, Any]:
        """Keeps them, unless another process has done so first.

        Returns what is kept, which alone may be sent.
        """
        self._save(
            "predictions",
            order_id,
            result,
            once=True,
        )
        predictions = self.predictions(order_id)
        assert predictions is not None
        return predictions

    def predictions(self, order_id: int) -> dict[str, Any] | None:
        return self._load("predictions", order_id)

    def _save(
        self,
        kind: str,
        number: int,
        value: dict[str, Any],
        *,
        once: bool = False,
    ) -> None:
        folder = make_private_folder(self.folder / kind)
        kept_path = folder / f"{number}.json"
        content = encode_kept(value)
        if once:
            write_once(kept_path, content)
        else:
            write_durably(kept_path, content)

    def _load(
        self,
        kind: str,
        number: int,
    ) -> dict[str, Any] | None:
        kept_path = self.folder / kind / f"{number}.json"
        return read_kept(
            kept_path,
            _object,
            mends=not self._is_only_read,
        )


class VaultToRead(Vault):
    """The same for who only looks: nothing is made, mended or written."""

    _is_only_read = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def cohorts(self) -> Path:
        return self.folder / "cohorts"


class OrderVault:
    """What one running order needs to go on after any crash; removed at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_private_folder(folder)
        self.outbox = make_private_folder(folder / "outbox")

    def once(
        self,
        name: str,
        make: Callable[[], bytes],
    ) -> bytes:
        """The bytes kept under `name`; made by the first call, and never made anew.

        Where a process that should be dead still runs beside its successor, both get
        what the first one kept.
        """
        kept_path = self.folder / name
        if not kept_path.exists():
            write_once(kept_path, add_digest(make()))
        return read_checked(kept_path)

    def kept(self, name: str) -> bytes:
        """What is kept under `name`.

        Conflict (code vault_damaged) where it is another than was kept.
        """
        return read_checked(self.folder / name)

    def digest_of_document(self) -> str:
        """SHA-256 of the order's document, 64 hex digits; empty where it is unreadable.

        An order can be ended whatever has become of its files. A mark without a digest
        lets no order in.
        """
        try:
            document = self.kept("document")
            return hashlib.sha256(document).hexdigest()
        except (FileNotFoundError, Conflict):
            return ""

    def forget_outbox(self, prefix: str) -> None:
        """Drops messages that were sent and that nobody will ask for again."""
        for message_path in self.outbox.glob(f"{prefix}*"):
            message_path.unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def save_arrays(self, name: str, **arrays: npt.NDArray[Any]) -> None:
        checked_bytes = add_digest(encode_arrays(arrays))
        write_durably(self.folder / name, checked_bytes)

    def load_arrays(self, name: str) -> dict[str, npt.NDArray[Any]] | None:
        """None where nothing was saved.

        Conflict (code vault_damaged) for a file that is cut short or altered.
        """
        arrays_path = self.folder / name
        if not arrays_path.exists():
            return None
        return decode_arrays(read_checked(arrays_path))

    def destroy(self) -> None:
        """Forgets session keys, order secret, snapshot and outbox, all at once.

        A crash leaves the whole folder or none under its name, never an outbox without
        the keys that belong to it; what it leaves under another name goes with the next
        order that ends.
        """
        orders = self.folder.parent
        folder_name = self.folder.name
        # A new name each time: a folder that a crash has left under the old one would
        # be in the way.
        token = secrets.token_hex(4)
        away = orders / f".{folder_name}.{token}.ended"
        with contextlib.suppress(FileNotFoundError):
            self.folder.rename(away)
        for ended in orders.glob(".*.ended"):
            shutil.rmtree(ended, ignore_errors=True)
        sync(orders)
