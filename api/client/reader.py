"""A reader's own key, made at first use, and what was sealed to it.

The private key is in `reader.key` of `~/.config/consilium/` (`$XDG_CONFIG_HOME/consilium/`
where that is set), mode 0600, and leaves this machine in nobody's request. Hospitals
list its fingerprint. Whoever has the file opens everything that is sealed to it.

Decision 108.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from protocol.errors import BadRequest, ProtocolViolation
from protocol.machine.disk import sync
from protocol.readers import AnswerPlace, SealedAnswer, reader_fingerprint
from protocol.sealing import KEY_BYTES, exchange_public

KEY_FILE = "reader.key"


def config_folder() -> Path:
    """Where the key is, by the XDG base directory specification."""
    set_folder = os.environ.get("XDG_CONFIG_HOME", "")
    # A relative one is to be ignored, says the specification.
    base = (
        Path(set_folder) if Path(set_folder).is_absolute() else Path.home() / ".config"
    )
    return base / "consilium"


@dataclass(frozen=True)
class Opened:
    """An answer, as its hospital sealed it."""

    payload: bytes
    place: AnswerPlace
    # Of the hospital whose signature is inside; compare it once by telephone.
    hospital: str
    # What a careful reader should know: that it was opened before, say. Empty else.
    note: str = ""

    def json(self) -> Any:
        return json.loads(self.payload)


@dataclass(frozen=True)
class Reader:
    """A key pair, and the folder in which it is."""

    private: bytes
    folder: Path

    @property
    def public(self) -> str:
        """As an order carries it: 64 hex digits."""
        return exchange_public(self.private).hex()

    @property
    def fingerprint(self) -> str:
        """What a hospital lists."""
        return reader_fingerprint(exchange_public(self.private))

    def open(
        self,
        sealed: SealedAnswer,
        *,
        order_id: int | None = None,
        kind: str | None = None,
        hospital: str | None = None,
        keep: Callable[[bytes], None] | None = None,
    ) -> Opened:
        """What is in a sealed answer.

        order_id, kind: which answer was asked for; hospital: the fingerprint of the one
        that must have signed it; keep: keeps what was sealed, and where that fails the
        answer is not remembered as opened. ProtocolViolation: code another_order, another_reader,
        sealed_short, cannot_unseal, bad_signature, or pin_mismatch where another
        hospital signed.
        """
        place = sealed.place
        is_meant = order_id in (None, place.order_id) and kind in (None, place.kind)
        if not is_meant:
            raise ProtocolViolation(
                f"This is the {place.kind} of order {place.order_id}, and not what was asked for.",
                remedy="Fetch the answer of the order that you mean; if this repeats, the coordinator mixes answers.",
                code="another_order",
            )
        contents = sealed.open(self.private)
        # Who has signed stands inside, so that it is known only once it is open.
        signer = contents.hospital.fingerprint
        if hospital is not None and hospital.strip().lower() != signer:
            raise ProtocolViolation(
                f"The answer is signed by {signer}, which is not the hospital's key.",
                remedy="Compare fingerprints with the hospital by telephone; where yours is right, it was made up.",
                code="pin_mismatch",
            )
        if keep is not None:
            keep(contents.payload)
        note = self._noted(sealed, signer)
        return Opened(contents.payload, place, signer, note)

    def _noted(self, sealed: SealedAnswer, signer: str) -> str:
        """Remembers that it was opened; what has to be said where it was before."""
        place = sealed.place
        # The record has checked that the order is a whole number and the kind one of a
        # few words: else a name from outside could lead out of this folder.
        path = self.folder / "opened" / f"{signer}-{place.order_id}-{place.kind}.json"
        digest = hashlib.sha256(sealed.sealed).hexdigest()
        opened_entry = {
            "sha256": digest,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Of two that open it at one moment only one makes the file, and is the first.
        if _write_new(path, json.dumps(opened_entry).encode()):
            return ""
        try:
            before = json.loads(path.read_text("utf-8"))
            first_digest, at = str(before["sha256"]), str(before["at"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        if first_digest == digest:
            return f"It was opened before, on {at}."
        return f"Another answer of the same order was opened on {at}: a hospital seals one. Ask it which one is right."


def own_reader(
    folder: Path | None = None,
    *,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
) -> Reader:
    """This user's key, which the first call makes.

    folder: instead of `config_folder()`. BadRequest (code reader_key) for a file that
    others can read, or that is damaged.
    """
    folder = folder or config_folder()
    path = folder / KEY_FILE
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        # Of two processes at once the first one's key stands.
        _write_new(path, random_bytes(KEY_BYTES).hex().encode() + b"\n")
    if path.stat().st_mode & 0o077:
        raise BadRequest(
            f"Others can read {path}, and with it all that is sealed to you.",
            remedy=f"Run `chmod 600 {path}`; if somebody may have read it, move it away and have the new key listed.",
            code="reader_key",
        )
    try:
        private = bytes.fromhex(path.read_text("ascii"))
    except ValueError:
        private = b""
    if len(private) != KEY_BYTES:
        raise BadRequest(
            f"{path} is no key: it is damaged or cut short.",
            remedy="Restore it from a backup. Without one, move it away: a new key is made, which the hospital has to"
            " list, and what was sealed to the old one stays closed.",
            code="reader_key",
        )
    return Reader(private, folder)


def write_opened(path: Path, payload: bytes) -> None:
    """An opened answer as a new file of mode 0600, which only this user reads.

    BadRequest (code file_exists) where one is there: nothing is written over it.
    """
    if not _write_new(path, payload):
        raise BadRequest(
            f"{path} is there already, and nothing is written over it.",
            remedy="Move it away, or name another file.",
            code="file_exists",
        )


def _write_new(path: Path, data: bytes) -> bool:
    """The file, whole, with mode 0600; False where one is there already, which stays."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        # With its mode from the first moment: a chmod later would leave it to others
        # in between.
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        # Of the file that was asked for.
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            # Before it has its name, so that a crash leaves no key that is cut short.
            os.fsync(file.fileno())
        # Not a rename, which writes over a file that is there: of two processes the
        # second would replace the key that the first may have shown already.
        os.link(beside, path)
        # Its name too is on disk before anybody is shown its fingerprint.
        sync(path.parent)
    except FileExistsError:
        return False
    finally:
        beside.unlink()
    return True
