"""Names and fingerprints under `[readers]` of policy.toml, written for the person who
typed them in; the rest of the file stays as it is, byte by byte.

Decision 97.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

from agents.site.policy import load_policy, parse_policy
from protocol.errors import BadRequest, Conflict, NotFound, Refused
from protocol.machine.disk import locked, put_in_place
from protocol.readers import is_fingerprint, readers_problem

_SECTION = re.compile(r"^\s*\[readers\]\s*(#.*)?$")
_ANY_SECTION = re.compile(r"^\s*\[")


Note = Callable[[str], None]
"""Writes down, before the list is changed, that a fingerprint comes or goes: whoever
dies in between has an entry too many in the ledger, and never one too few.
"""


def _no_note(fingerprint: str) -> None:
    pass


def add_reader(
    path: Path,
    name: str,
    fingerprint: str,
    *,
    note: Note = _no_note,
) -> bool:
    """Lists a reader; False where the same one stands there already.

    path: of policy.toml, which must be a policy. note: called once it is sure that the
    list can be changed, with the fingerprint. BadRequest (code reader) for what is
    no fingerprint or no name, Conflict (code reader) where the name or the fingerprint
    stands there with another one.
    """
    normalized = fingerprint.strip().lower()
    if not is_fingerprint(normalized):
        raise BadRequest(
            "This is no fingerprint.",
            remedy="Type in what the person's client shows: eight groups of four hex digits with - between them.",
            code="reader",
        )
    problem = readers_problem({name: normalized})
    if problem is not None:
        raise BadRequest(
            "This is no name for a reader.",
            remedy="Give a printable name of at most 100 letters, without blanks around it.",
            code="reader",
        )
    with locked(path.parent):
        return _add(path, name, normalized, note)


def _add(path: Path, name: str, fingerprint: str, note: Note) -> bool:
    readers = load_policy(path).readers
    if readers.get(name) == fingerprint:
        return False
    if name in readers:
        raise Conflict(
            f"{name} is listed with another fingerprint, {readers[name]}.",
            remedy=f"Where the key was renewed, `readers remove {name}` first.",
            code="reader",
        )
    for other_name, listed in readers.items():
        if listed == fingerprint:
            raise Conflict(
                f"This fingerprint is listed as {other_name}'s.",
                remedy=f"Keep that name, or `readers remove {other_name}` first: a key is one person's.",
                code="reader",
            )
    # A printable text as JSON writes it is one of TOML, too.
    reader_line = f'{json.dumps(name, ensure_ascii=False)} = "{fingerprint}"'
    changed = _rewritten(
        path,
        {**readers, name: fingerprint},
        lambda lines: _with(lines, reader_line),
    )
    note(fingerprint)
    _replace(path, changed)
    return True


def remove_reader(path: Path, name: str, *, note: Note = _no_note) -> str:
    """Takes a reader off the list; the fingerprint that was listed. `note` as for
    `add_reader`. NotFound (code reader) where nobody of the name is.
    """
    # Of two people at once the second would write over what the first has changed.
    with locked(path.parent):
        return _remove(path, name, note)


def _remove(path: Path, name: str, note: Note) -> str:
    readers = dict(load_policy(path).readers)
    if name not in readers:
        named = ", ".join(sorted(readers)) or "nobody"
        raise NotFound(
            f"No reader {name} is listed.", remedy=f"Listed: {named}.", code="reader"
        )
    fingerprint = readers.pop(name)
    changed = _rewritten(
        path,
        readers,
        lambda lines: _without(lines, fingerprint),
    )
    note(fingerprint)
    _replace(path, changed)
    return fingerprint


def _with(lines: list[str], line: str) -> list[str]:
    for line_place, standing in enumerate(lines):
        if _SECTION.match(standing):
            return [*lines[: line_place + 1], line, *lines[line_place + 1 :]]
    return [*lines, "", "[readers]", line]


def _without(lines: list[str], fingerprint: str) -> list[str]:
    kept_lines = []
    is_inside = False
    for line in lines:
        if _ANY_SECTION.match(line):
            is_inside = _SECTION.match(line) is not None
        if is_inside and fingerprint in line.lower():
            continue
        kept_lines.append(line)
    return kept_lines


def _rewritten(
    path: Path, readers: dict[str, str], change: Callable[[list[str]], list[str]]
) -> str:
    """The file's text with other lines; Conflict where it would not say what is wanted."""
    policy_text = path.read_text("utf-8")
    changed = "\n".join(change(policy_text.rstrip("\n").split("\n"))) + "\n"
    by_hand = Conflict(
        f"{path} lists its readers in another way than one line each under [readers].",
        remedy="Change it by hand.",
        code="reader",
    )
    try:
        written_readers = parse_policy(changed, name=str(path)).readers
    except Refused:
        raise by_hand from None
    if written_readers != readers:
        raise by_hand
    return changed


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # The new file has this mode from its first byte: nobody reads it who could not
        # read the policy before.
        standing = path.stat()
        mode = standing.st_mode & 0o777
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "w", encoding="utf-8") as file:
            # Of root's hand too it stays the agent's, which could not read it else.
            os.fchown(descriptor, standing.st_uid, standing.st_gid)
            file.write(text)
        put_in_place(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise Conflict(
            f"{path} cannot be written ({type(error).__name__}).",
            remedy="Run this as the user to whom the policy belongs, or change [readers] there by hand.",
            code="reader",
        ) from None
