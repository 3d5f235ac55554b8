"""An agent's offline bundle, as a hospital takes it: nothing of it is used before the
list of its files is signed by a key that is trusted here, and each is as listed. Decision 121.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from deployments.signed_files import SIGNATURE, SUMS, check_signature, check_sums
from protocol.errors import BadRequest, Refused
from protocol.versions import numbers_of

UNTOUCHED = "Nothing was changed."
# All that somebody without the key can put on the disk, for the list and once more
# for its signature.
LARGEST_LIST_BYTES = 2**20
# No name begins with a slash, a dot or a dash, and none has a blank or a line break.
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/-]*")


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself; it is covered by the bundle's signature."""

    version: str
    commit: str
    python: str
    machine: str


def unpack(bundle: Path, folder: Path, signers: Path) -> None:
    """A bundle's files, without the folder that they stand in; the list of them is read
    and its signature checked before any other is taken.
    """
    names = {SUMS, SIGNATURE}
    try:
        # Nothing compressed: some bytes could unfold to more than the disk holds before
        # the signature is looked at.
        with tarfile.open(bundle, "r:") as archive:
            entries = _entries(archive)
            for file_name in sorted(names & set(entries)):
                _take(archive, entries[file_name], folder / file_name)
            check_signature(folder, signers)
            for file_name in sorted(set(entries) - names):
                _take(archive, entries[file_name], folder / file_name)
    except tarfile.TarError:
        raise altered(f"{bundle} is no bundle.") from None
    except OSError as error:
        raise BadRequest(
            f"{bundle} cannot be unpacked into {folder.parent} ({type(error).__name__}).",
            remedy="Give the file consilium-agent-VERSION-pyPYTHON.tar, as a user who may write there, with room on"
            " the disk.",
            code="bundle",
        ) from None
    check_sums(folder)


def _entries(archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """By name below the one folder; nothing but files, each once."""
    entries: dict[str, tarfile.TarInfo] = {}
    tops = set()
    for tar_entry in archive:
        top, _, file_name = tar_entry.name.partition("/")
        tops.add(top)
        is_plain = _FILE.fullmatch(file_name) is not None and ".." not in file_name
        # A sparse entry of a few bytes could fill the disk before its digest is taken.
        is_file = tar_entry.isreg() and not tar_entry.issparse()
        # Of a list that comes twice one could be checked, and the other one used.
        if not is_file or not is_plain or file_name in entries or len(tops) > 1:
            raise altered("It holds other things than files, or one of them twice.")
        if file_name in (SUMS, SIGNATURE) and tar_entry.size > LARGEST_LIST_BYTES:
            raise altered(f"Its {file_name} is too long.")
        entries[file_name] = tar_entry
    return entries


def _take(archive: tarfile.TarFile, entry: tarfile.TarInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(entry)
    assert source is not None
    # By its bytes alone: owner, mode and time are those that this process gives.
    with source, target.open("wb") as file:
        shutil.copyfileobj(source, file)


def altered(sentence: str) -> Refused:
    return Refused(
        sentence,
        remedy=f"It was damaged or altered on its way: fetch it again. {UNTOUCHED}",
        code="bundle",
    )


def read_manifest(folder: Path) -> Manifest:
    """Of an unpacked bundle whose files are checked."""
    try:
        content = json.loads((folder / "manifest.json").read_text("utf-8"))
        fields = {name: str(content[name]) for name in Manifest.__annotations__}
        manifest = Manifest(**fields)
    except (OSError, ValueError, KeyError, TypeError):
        raise altered("It has no manifest.json that can be read.") from None
    # The version becomes the name of a folder beside the others: numbers and dots only.
    if content.get("part") != "agent" or numbers_of(manifest.version) is None:
        raise altered("It is no bundle of an agent.")
    return manifest
