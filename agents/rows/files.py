"""Files for joint statistics: opened below the site's data folder, or not at all.

A path is walked from the data folder by file descriptors, and no step follows a link. Links are resolved once before;
whoever puts one in place afterwards gets a refusal. What is read is the descriptor, which names one file whatever its
path becomes: nothing interprets the path as a pattern, an address or a command.

Decision 37.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from protocol.errors import BadRequest, Refused

_MAX_CHARACTERS = 1_000
_HIDDEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_HEADER_BYTES = 1_000_000
_MAX_LINE_BYTES = 10_000_000
_STEP = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class DataFile:
    """An open regular file: its descriptor, and its path below the data folder with links resolved."""

    descriptor: int
    name: str

    @property
    def path(self) -> str:
        """A path of this process that opens this very file."""
        return f"/proc/self/fd/{self.descriptor}"

    @property
    def version(self) -> tuple[int, int]:
        """Changes when the file is written to."""
        facts = os.fstat(self.descriptor)
        return facts.st_size, facts.st_mtime_ns


@contextmanager
def open_data_file(folder: Path, data_path: str, *, patterns: Sequence[str]) -> Iterator[DataFile]:
    """The file at `data_path`, absolute or relative to `folder`, which lies below it and matches one of `patterns`.

    Patterns are those of fnmatch on the path below the folder with / between its parts; * matches / too. Both the
    path as written and the one with links resolved must match.

    Raises Refused (code data_path) for what leads out of the folder, is no plain path or no regular file, Refused
    (code files) for what no pattern opens, BadRequest (code missing_file, data_path) otherwise.
    """
    relative = _relative(folder, data_path)
    _check_patterns(relative, patterns)
    root = Path(os.path.realpath(folder))
    real = Path(os.path.realpath(root / relative))
    if not real.is_relative_to(root) or real == root:
        raise _outside()
    name = real.relative_to(root).as_posix()
    _check_patterns(name, patterns)
    descriptor = _walk(root, PurePosixPath(name).parts)
    try:
        yield DataFile(descriptor, name)
    finally:
        os.close(descriptor)


def check_path(folder: Path, data_path: str, patterns: Sequence[str]) -> None:
    """What the policy says to a path as text; no file is looked at. Raises Refused as `open_data_file`."""
    _check_patterns(_relative(folder, data_path), patterns)


def _relative(folder: Path, data_path: str) -> str:
    """The path below the folder, as text only: nothing is looked at yet."""
    if (
        not data_path.strip()
        or len(data_path) > _MAX_CHARACTERS
        or _is_hidden(data_path)
        or "://" in data_path
    ):
        raise Refused(
            "data_path is no plain path: it is empty, too long, an address, or holds characters that cannot be seen.",
            remedy="Write the path of a file below this hospital's data folder, such as visits/2024.csv.",
            code="data_path",
        )
    path = PurePosixPath(data_path)
    if ".." in path.parts:
        raise _outside()
    if not path.is_absolute():
        return path.as_posix()
    for root in (folder.absolute(), Path(os.path.realpath(folder))):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    raise _outside()


def _is_hidden(text: str) -> bool:
    """Whether a text holds a character that cannot be seen, or a blank other than the plain one."""
    return any(
        unicodedata.category(c) in _HIDDEN or (unicodedata.category(c) == "Zs" and c != " ") for c in text
    )


def _check_patterns(name: str, patterns: Sequence[str]) -> None:
    if not any(fnmatchcase(name, pattern) for pattern in patterns):
        raise Refused(
            "This hospital's policy does not open that file to joint statistics.",
            remedy="Name a file that matches statistics.files in its policy.toml, or ask the hospital to add it there.",
            code="files",
        )


def _walk(root: Path, parts: Sequence[str]) -> int:
    """A descriptor of the regular file at root/parts; no step follows a link, no open waits for a pipe's writer."""
    try:
        at = os.open(root, _STEP | os.O_DIRECTORY)
        for i, part in enumerate(parts):
            flags = _STEP | (os.O_NONBLOCK if i == len(parts) - 1 else os.O_DIRECTORY)
            try:
                entered = os.open(part, flags, dir_fd=at)
            finally:
                os.close(at)
            at = entered
    except (FileNotFoundError, NotADirectoryError):
        raise BadRequest(
            "This hospital's data folder holds no such file.",
            remedy="Correct data_path; it is relative to the data folder of the hospital's agent, and case matters.",
            code="missing_file",
        ) from None
    except PermissionError:
        raise BadRequest(
            "The agent may not read that file.",
            remedy="Give the agent's user the right to read it.",
            code="data_path",
        ) from None
    except OSError:  # a link where none was a moment ago, a socket, a name that is too long
        raise _no_file() from None
    if not stat.S_ISREG(os.fstat(at).st_mode):
        os.close(at)
        raise _no_file()
    return at


def _outside() -> Refused:
    return Refused(
        "data_path leads out of this hospital's data folder.",
        remedy="Name a file below the data folder, without .. and without links that lead out of it.",
        code="data_path",
    )


def _no_file() -> Refused:
    return Refused(
        "data_path names no regular file.",
        remedy="Name one file: no folder, pipe, device or link that changes.",
        code="data_path",
    )


def changed() -> BadRequest:
    """What was read is not what was opened."""
    return BadRequest(
        "The file was changed or replaced while it was read.",
        remedy="Order again when nothing writes to it any more.",
        code="changed",
    )


def no_column(name: str, present: Iterable[str]) -> BadRequest:
    return BadRequest(
        f"The data have no column {name}; they have {', '.join(present)}.",
        remedy="Correct the column's name (case matters), or data_path.",
        code="missing_column",
    )


# --- csv -------------------------------------------------------------------------------------------------------------


def csv_header(file: DataFile, needed: Sequence[str] | None) -> tuple[str, list[str]]:
    """The delimiter (comma, semicolon, tab or bar) and the names of the columns.

    Of the delimiters that give all needed columns, else of all, the one that gives the most columns and cuts no quote.

    BadRequest: encoding (not UTF-8), empty_file, no_header (the first line holds numbers), delimiter (one column).
    """
    text = _first_text(file)
    headers = {delimiter: _fields(text, delimiter) for delimiter in _DELIMITERS}
    fitting = {d: names for d, names in headers.items() if set(needed or ()) <= set(names)} or headers
    delimiter = max(fitting, key=lambda d: ('"' not in "".join(fitting[d]), len(fitting[d])))
    names = fitting[delimiter]
    if missing := [name for name in needed or () if name not in names]:
        raise _no_header(names) or _one_column(names) or no_column(missing[0], names)
    return delimiter, names


def _first_text(file: DataFile) -> str:
    start = os.pread(file.descriptor, _HEADER_BYTES, 0)
    if not start.strip():
        raise empty()
    try:
        if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start:
            raise UnicodeError
        end = len(start) if len(start) < _HEADER_BYTES else start.rfind(b"\n") + 1
        return start[:end].decode("utf-8-sig")
    except UnicodeError:
        raise BadRequest(
            "The file is no UTF-8 text.",
            remedy="Save it as UTF-8, not compressed, and order again.",
            code="encoding",
        ) from None


def _fields(text: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))]
    except (csv.Error, StopIteration):
        return [""]


def _no_header(names: Sequence[str]) -> BadRequest | None:
    if not any(re.fullmatch(r"[+-]?[\d.]+([eE][+-]?\d+)?", name, re.ASCII) for name in names):
        return None
    return BadRequest(
        "The first line of the csv file holds numbers, not the names of columns.",
        remedy="Write the names of the columns into the first line.",
        code="no_header",
    )


def _one_column(names: Sequence[str]) -> BadRequest | None:
    if len(names) > 1:
        return None
    return BadRequest(
        f"The csv file has one column only, if its fields end with {', '.join(_DELIMITERS.values())}.",
        remedy="Separate its fields by commas, and name the column that you ask for in the first line.",
        code="delimiter",
    )


def empty() -> BadRequest:
    return BadRequest("The file is empty.", remedy="Fill it, or name another.", code="empty_file")


# --- json lines ------------------------------------------------------------------------------------------------------


def json_batches(
    file: DataFile, n_rows: int, needed: Sequence[str] | None
) -> Iterator[list[dict[str, str | None]]]:
    """The objects of a file with one JSON object a line, their values as text: numbers with all their digits.

    BadRequest: json (a line that is no object, names a member twice or nests in a needed one), encoding, empty_file.
    """
    batch: list[dict[str, Any]] = []
    is_empty = True
    with os.fdopen(os.open(file.path, os.O_RDONLY | os.O_CLOEXEC), "rb") as lines:
        number = 0
        while line := lines.readline(_MAX_LINE_BYTES):
            number += 1
            if line.strip():
                batch.append(_object(line, number, needed))
                is_empty = False
            if len(batch) == n_rows:
                yield batch
                batch = []
    if is_empty:
        raise empty()
    yield batch


def _object(line: bytes, number: int, needed: Sequence[str] | None) -> dict[str, Any]:
    try:
        found: Any = json.loads(
            line.decode("utf-8-sig" if number == 1 else "utf-8"), object_pairs_hook=_members, **_AS_TEXT
        )
    except UnicodeDecodeError:
        raise BadRequest(
            f"The json file is not UTF-8 (line {number}).", remedy="Save it as UTF-8.", code="encoding"
        ) from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or any(_is_nested(found.get(name)) for name in needed or found):
        raise BadRequest(
            f"Line {number} of the json file is no object of numbers and texts, each named once.",
            remedy='Write one object a line (json lines), such as {"id": 1, "cost": 12.50}; no array around them.',
            code="json",
        )
    return found


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = {name: ("false", "true")[value] if isinstance(value, bool) else value for name, value in pairs}
    if len(members) < len(pairs):
        raise ValueError("a member named twice")
    return members


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list)


_AS_TEXT: dict[str, Any] = {"parse_int": str, "parse_float": str, "parse_constant": str}
