"""Files for joint statistics: opened below the site's data folder, or not at all.

A path is walked from the data folder by file descriptors, and no step follows a link.
Links are resolved once before; whoever puts one in place afterwards gets a refusal.
What is read is the descriptor, which names one file whatever its path becomes: nothing
interprets the path as a pattern, an address or a command.

Decision 37.
"""

from __future__ import annotations

import json
import os
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
_NAMES_TOLD = 30
_OTHER_KINDS = {
    b"\x1f\x8b": "compressed",
    b"PK\x03\x04": "an Excel workbook or another archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "a parquet file",
}
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
_MAX_LINE_BYTES = 10_000_000
_STEP_BYTES = 1_000_000
_STEP = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class DataFile:
    """An open regular file: its descriptor, and its path below the data folder with
    links resolved.
    """

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
def open_data_file(
    folder: Path, data_path: str, *, patterns: Sequence[str]
) -> Iterator[DataFile]:
    """The file at `data_path`, absolute or relative to `folder`, which lies below it
    and matches one of `patterns`.

    Patterns are those of fnmatch on the path below the folder with / between its parts;
    * matches / too. Both the path as written and the one with links resolved must
    match.

    Raises Refused (code data_path) for what leads out of the folder, is no plain path
    or no regular file, Refused (code files) for what no pattern opens, BadRequest (code
    missing_file, data_path) otherwise.
    """
    relative = _relative(folder, data_path)
    _check_patterns(relative, patterns)
    root = Path(os.path.realpath(folder))
    real = Path(os.path.realpath(root / relative))
    if not real.is_relative_to(root) or real == root:
        raise _outside()
    # A link in an opened folder must not lead to a file that no pattern opens.
    name = real.relative_to(root).as_posix()
    _check_patterns(name, patterns)
    descriptor = _walk(root, PurePosixPath(name).parts)
    try:
        yield DataFile(descriptor, name)
    finally:
        os.close(descriptor)


def check_path(folder: Path, data_path: str, patterns: Sequence[str]) -> None:
    """What the policy says to a path as text; no file is looked at. Raises Refused as
    `open_data_file`.
    """
    _check_patterns(_relative(folder, data_path), patterns)


def _relative(folder: Path, data_path: str) -> str:
    """The path below the folder, as text only: nothing is looked at yet."""
    if (
        not data_path.strip()
        or len(data_path) > _MAX_CHARACTERS
        or is_hidden(data_path)
        or "://" in data_path
    ):
        raise Refused(
            "data_path is no plain path: it is empty, too long, an address, or holds characters that cannot be seen.",
            remedy="Write the path of a file below this hospital's data folder, such as visits/2024.csv.",
            code="data_path",
        )
    path = PurePosixPath(data_path)
    # The patterns are held against the text, and visits/../other would match visits/*.
    if ".." in path.parts:
        raise _outside()
    if not path.is_absolute():
        return path.as_posix()
    for root in (folder.absolute(), Path(os.path.realpath(folder))):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    raise _outside()


def is_hidden(text: str) -> bool:
    """Whether a text holds a character that cannot be seen, or a blank other than the
    plain one.
    """
    return any(
        unicodedata.category(character) in _HIDDEN
        or (unicodedata.category(character) == "Zs" and character != " ")
        for character in text
    )


def _check_patterns(name: str, patterns: Sequence[str]) -> None:
    if not any(fnmatchcase(name, pattern) for pattern in patterns):
        raise Refused(
            "This hospital's policy does not open that file to joint statistics.",
            remedy="Name a file that matches statistics.files in its policy.toml, or ask the hospital to add it there.",
            code="files",
        )


def _walk(root: Path, parts: Sequence[str]) -> int:
    """A descriptor of the regular file at root/parts; no step follows a link, no open
    waits for a pipe's writer.
    """
    try:
        descriptor = os.open(root, _STEP | os.O_DIRECTORY)
        for i, path_part in enumerate(parts):
            flags = _STEP | (os.O_NONBLOCK if i == len(parts) - 1 else os.O_DIRECTORY)
            try:
                entered = os.open(path_part, flags, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = entered
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
    except (
        OSError
    ):  # a link where none was a moment ago, a socket, a name that is too long
        raise _no_file() from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_file()
    return descriptor


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
    """Data without that column; which they have, and where a name of theirs holds a
    character that nobody sees.
    """
    column_names = list(present)
    hidden = _hidden_in(column_names)
    if hidden:
        return BadRequest(
            f"The data have no column {name}; names of theirs hold characters that cannot be seen: {hidden}.",
            remedy="Rename these columns in the data, writing each name anew.",
            code="missing_column",
        )
    listed_names = ", ".join(column_names[:_NAMES_TOLD]) or "none"
    if len(column_names) > _NAMES_TOLD:
        listed_names += f" and {len(column_names) - _NAMES_TOLD:,} more"
    return BadRequest(
        f"The data have no column {name}; they have {listed_names}.",
        remedy="Correct the column's name, whose case matters in files, or select it in the data.",
        code="missing_column",
    )


def _hidden_in(names: Sequence[str]) -> str:
    """Columns by number, with the characters of their names that cannot be seen."""
    hidden_columns = []
    for column_place, name in enumerate(names, start=1):
        characters = sorted({character for character in name if is_hidden(character)})
        if characters:
            called = " and ".join(_called(character) for character in characters[:3])
            hidden_columns.append(f"column {column_place} ({called})")
    return ", ".join(hidden_columns[:5])


def _called(character: str) -> str:
    """A character's code and name, such as U+200B ZERO WIDTH SPACE."""
    code = f"U+{ord(character):04X}"
    if character == "\ufeff":
        return f"{code} BYTE ORDER MARK"
    kind = {"\t": "TAB", "\n": "LINE FEED", "\r": "CARRIAGE RETURN"}.get(character)
    return f"{code} {kind or unicodedata.name(character, 'CONTROL CHARACTER')}"


# --- texts ------------------------------------------------------------------------------


def check_is_text(start: bytes) -> None:
    """Whether a file that begins so may be a text of UTF-8 with something in it.

    BadRequest: empty_file, encoding.
    """
    if not start.removeprefix(b"\xef\xbb\xbf").strip():
        raise empty()
    for mark, file_kind in _OTHER_KINDS.items():
        if start.startswith(mark):
            raise BadRequest(
                f"The file is {file_kind}, and no text.",
                remedy="Name its type in data_type, or save it as a text in UTF-8, not compressed; then order again.",
                code="encoding",
            )
    # A text of UTF-16 or UTF-32 is half zeros.
    n_zeros = start[:1000].count(0)
    if start.startswith(_BYTE_ORDER_MARKS) or n_zeros > len(start[:1000]) // 4:
        raise BadRequest(
            "The file is a text in UTF-16 or UTF-32, not in UTF-8.",
            remedy="Save it as UTF-8 (in Excel: CSV UTF-8) and order again.",
            code="encoding",
        )


def empty() -> BadRequest:
    return BadRequest(
        "The file is empty.", remedy="Fill it, or name another.", code="empty_file"
    )


# --- json lines ------------------------------------------------------------------------------------------------------


def json_batches(
    file: DataFile, n_rows: int, needed_columns: Sequence[str] | None
) -> Iterator[list[dict[str, str | None]]]:
    """The objects of a file with one JSON object a line, their values as text: numbers
    with all their digits.

    BadRequest: json (a line that is no object or names a member twice), column_type (an
    array or object in a needed column), encoding, empty_file.
    """
    check_is_text(os.pread(file.descriptor, _STEP_BYTES, 0))
    batch: list[dict[str, Any]] = []
    with os.fdopen(os.open(file.path, os.O_RDONLY | os.O_CLOEXEC), "rb") as json_lines:
        number = 0
        # Without a bound, a file without line breaks would be in memory whole.
        while json_line := json_lines.readline(_MAX_LINE_BYTES):
            number += 1
            if json_line.strip():
                batch.append(_object(json_line, number, needed_columns))
            if len(batch) == n_rows:
                yield batch
                batch = []
    yield batch


def _object(
    line: bytes, number: int, needed_columns: Sequence[str] | None
) -> dict[str, Any]:
    encoding = "utf-8-sig" if number == 1 else "utf-8"
    try:
        line_text = line.decode(encoding)
        record: Any = json.loads(line_text, object_pairs_hook=_members, **_AS_TEXT)
        # UTF-8 has no bytes for half a character: it can only stand there as an escape.
        if "\\u" in line_text:
            json.dumps(record, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise BadRequest(
            f"The json file is not UTF-8 (line {number}).",
            remedy="Save it as UTF-8.",
            code="encoding",
        ) from None
    except UnicodeEncodeError:
        raise _bad_json(
            number, "half a character stands there (\\ud800 to \\udfff)"
        ) from None
    except (ValueError, RecursionError) as error:
        raise _bad_json(number, _what_is_wrong(line, error)) from None
    if not isinstance(record, dict):
        raise _bad_json(number, "an array or a value stands there without names")
    _check_plain(record, number, needed_columns)
    return record


def _what_is_wrong(line: bytes, error: Exception) -> str:
    """Why a line is no json. The decoder's words hold nothing of it."""
    if len(line) == _MAX_LINE_BYTES:
        return f"it is longer than {_MAX_LINE_BYTES:,} bytes"
    if line.strip() in (b"{", b"[", b"[{"):
        return "it goes on in the next line"
    if not isinstance(error, json.JSONDecodeError):
        is_deep = isinstance(error, RecursionError)
        return "arrays stand in arrays without end" if is_deep else str(error)
    if error.msg == "Extra data":
        return f"something follows the object (column {error.pos + 1})"
    return f"{error.msg[0].lower()}{error.msg[1:]} (column {error.pos + 1})"


def _bad_json(number: int, problem: str) -> BadRequest:
    return BadRequest(
        f"Line {number} of the json file is no object of numbers and texts: {problem}.",
        remedy='Write one object a line (json lines), such as {"id": 1, "cost": 12.50}; no array around them.',
        code="json",
    )


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = {
        name: ("0", "1")[value] if isinstance(value, bool) else value
        for name, value in pairs
    }
    # json would keep the last one of two, and nobody would know of the other.
    if len(members) < len(pairs):
        raise ValueError("a member is named twice")
    return members


def _check_plain(
    record: dict[str, Any], number: int, needed_columns: Sequence[str] | None
) -> None:
    for column in record if needed_columns is None else needed_columns:
        if isinstance(record.get(column), dict | list):
            raise BadRequest(
                f"Column {column} holds an array or an object (line {number}).",
                remedy="Write a number or a text of it as a column of its own.",
                code="column_type",
            )


_AS_TEXT: dict[str, Any] = {"parse_int": str, "parse_float": str, "parse_constant": str}
