"""A csv file before DuckDB reads it, and what is wrong with one that it does not read.

DuckDB's reader gives one message for many faults, quotes the line in it, and loses a
last line that is longer than its buffer without a word. So the header is read here, the
longest line is looked for first, and after a failure the file is walked by the same
rules to the first place that breaks them.

A sentence names line, column and character; none names what stands in a row. The first
line may be a row: its fields are named only where the lines below say that it is none.

To read next: `agents.rows.file_rows`.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agents.rows.files import DataFile, check_is_text, is_hidden, no_column
from protocol.errors import BadRequest

MAX_LINE_BYTES = 2_000_000
"""The longest line that DuckDB reads."""

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_HEADER_BYTES = 1_000_000
_CHUNK_BYTES = 1_000_000
_LINE_ENDS = {"\n": "line feed", "\r\n": "CR LF", "\r": "CR"}
_NUMBER = re.compile(r"[+-]?\d[\d.,:/ T-]*([eE][+-]?\d+)?", re.ASCII)
_NO_VALUE = ("", "na", "n/a", "nan", "null", "none", "nil", "-", "--", ".", "?", "\\n")
_ROWS_LOOKED_AT = 1_000
_OTHER_QUOTES = "'`\u2018\u2019\u201c\u201d\u300c\u300d\uff02"


# --- the header -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Header:
    """The first line's fields, separated by one delimiter."""

    delimiter: str
    names: list[str]
    # What is wrong with it as csv, whatever its fields are called.
    fault: BadRequest | None = None


def csv_header(
    file: DataFile, needed_columns: Sequence[str] | None
) -> tuple[str, list[str]]:
    """The delimiter (comma, semicolon, tab or bar) and the names of the columns.

    Of the delimiters that give all needed columns, else of all, the one that gives the
    most columns and cuts no quote.

    BadRequest: encoding (not UTF-8), empty_file, no_header (the first line holds no
    names), delimiter (one column), csv (a name that nobody can write), missing_column.
    """
    text = _first_text(file)
    headers = [_header(text, delimiter) for delimiter in _DELIMITERS]
    fitting = [
        header for header in headers if set(needed_columns or ()) <= set(header.names)
    ]
    likeliest = max(fitting or headers, key=_likelihood)
    missing = [name for name in needed_columns or () if name not in likeliest.names]
    if missing:
        raise _why_missing(missing[0], text, likeliest)
    return likeliest.delimiter, likeliest.names


def _likelihood(header: _Header) -> tuple[bool, int]:
    return '"' not in "".join(header.names), len(header.names)


def _first_text(file: DataFile) -> str:
    """The file's first megabyte, up to the end of a line."""
    first_bytes = os.pread(file.descriptor, _HEADER_BYTES, 0)
    check_is_text(first_bytes)
    text_end = len(first_bytes)
    if text_end == _HEADER_BYTES:
        # A character of UTF-8 that the end cuts in two would look like another
        # encoding.
        text_end = max(first_bytes.rfind(b"\n"), first_bytes.rfind(b"\r")) + 1
    if text_end == 0:
        raise BadRequest(
            f"The first line of the csv file is longer than {_HEADER_BYTES:,} bytes.",
            remedy="Write the names of the columns into the first line, and each row into a line of its own.",
            code="csv",
        )
    try:
        return first_bytes[:text_end].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(_line_at(first_bytes, error.start)) from None


def _line_at(text: bytes, place: int) -> int:
    """The number of the line in which a byte stands, from 1."""
    before = text[:place].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return before.count(b"\n") + 1


def not_utf8(line: int | None) -> BadRequest:
    where = "" if line is None else f" (line {line})"
    return BadRequest(
        f"The csv file is not UTF-8{where}.",
        remedy="Save it as UTF-8 (in Excel: CSV UTF-8), not in the code page of a country, and order again.",
        code="encoding",
    )


def _header(text: str, delimiter: str) -> _Header:
    text_lines = io.StringIO(text, newline="")
    reader = csv.reader(text_lines, delimiter=delimiter, skipinitialspace=True)
    try:
        header_fields = next(reader)
    except csv.Error:
        limit = f"{csv.field_size_limit():,}"
        fault = BadRequest(
            f"A field of the csv file's first line is longer than {limit} characters.",
            remedy='Write short names of the columns there, and close every quote (").',
            code="csv",
        )
        return _Header(delimiter, [""], fault)
    broken = _broken_name(header_fields) if reader.line_num > 1 else None
    return _Header(delimiter, [name.strip() for name in header_fields], broken)


def _broken_name(fields: Sequence[str]) -> BadRequest:
    """A header that goes on in the second line."""
    places = []
    for column_place, column_name in enumerate(fields, start=1):
        if "\n" in column_name or "\r" in column_name:
            places.append(str(column_place))
    return BadRequest(
        f"A quote in line 1 of the csv file holds a line break, in the name of column {', '.join(places)}.",
        remedy='Close every quote (") in the first line, and write each name of a column without a line break.',
        code="csv",
    )


def _why_missing(missing: str, text: str, header: _Header) -> BadRequest:
    """Why the file has no column of that name, as far as its first lines tell."""
    column_names = header.names
    if header.fault is None and any(map(is_hidden, "".join(column_names))):
        return no_column(missing, column_names)
    fault = (
        header.fault
        or _no_table(text, column_names)
        or _no_header(column_names)
        or _one_column(column_names)
        or _other_quotes(column_names)
    )
    if fault is not None:
        return fault
    if _are_names(text, header):
        return no_column(missing, column_names)
    return BadRequest(
        f"The csv file has no column {missing}; its first line has {len(column_names)} fields.",
        remedy="Write the names of the columns into the first line; case matters.",
        code="missing_column",
    )


def _no_table(text: str, names: Sequence[str]) -> BadRequest | None:
    """A first line above the header, or a text that is no csv at all."""
    first_line, _, rest = text.partition("\n")
    first_line = first_line.strip()
    if first_line.startswith(("{", "[")):
        sentence = "The file begins as json, not as csv."
        remedy = 'Write "json" as data_type, and one object a line into the file.'
    elif first_line.startswith("<"):
        sentence = "The file begins as a web page or XML, not as csv."
        remedy = "Save the table itself as csv in UTF-8."
    elif not first_line:
        sentence = "The first line of the csv file is empty."
        remedy = "Write the names of the columns into the first line."
    elif first_line.lower().startswith("sep="):
        sentence = "The first line of the csv file names a delimiter, not the columns."
        remedy = "Delete it, so that the names of the columns are the first line."
    else:
        n_named = len([name for name in names if name])
        n_second = max(len(_header(rest, d).names) for d in _DELIMITERS) if rest else 0
        if n_named > 1 or n_second <= n_named:
            return None
        sentence = f"The first line of the csv file has {n_named} field, the second one has {n_second}."
        remedy = "Delete what stands above the names of the columns, which are the first line."
    return BadRequest(sentence, remedy=remedy, code="no_header")


def _no_header(names: Sequence[str]) -> BadRequest | None:
    if not any(_NUMBER.fullmatch(name) for name in names):
        return None
    return BadRequest(
        "The first line of the csv file holds numbers or dates, not the names of columns.",
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


def _other_quotes(names: Sequence[str]) -> BadRequest | None:
    places = []
    for column_place, name in enumerate(names, start=1):
        if name and name[0] in _OTHER_QUOTES and name[-1] in _OTHER_QUOTES:
            places.append(str(column_place))
    if not places:
        return None
    return BadRequest(
        f'Names in the first line of the csv file stand in other quotes than " (column {", ".join(places[:5])}).',
        remedy='Write " in the whole file, or no quotes.',
        code="csv",
    )


def _are_names(text: str, header: _Header) -> bool:
    """Whether the first line is no row: it has a word where all lines below it have
    numbers. Where it may be one, it is not to be told.
    """
    text_lines = io.StringIO(text, newline="")
    reader = csv.reader(text_lines, delimiter=header.delimiter, skipinitialspace=True)
    rows = list(itertools.islice(reader, 1, _ROWS_LOOKED_AT))
    for place, column_name in enumerate(header.names):
        cell_texts = [row[place].strip() for row in rows if len(row) > place]
        written = [cell_text for cell_text in cell_texts if cell_text]
        is_word = column_name.lower() not in _NO_VALUE
        if is_word and written and all(map(_NUMBER.fullmatch, written)):
            return True
    return False


# --- the lines --------------------------------------------------------------------------


def check_lines(file: DataFile) -> None:
    """Refuses a line that DuckDB cannot read, which it may leave out without a word if it
    is the last one, and a character of value 0, which no database has in a text.

    BadRequest: csv.
    """
    offset = 0
    line_number = 1
    length = 0  # of the line so far
    is_after_cr = False
    while chunk := os.pread(file.descriptor, _CHUNK_BYTES, offset):
        if b"\0" in chunk:
            raise _zero(line_number + _line_at(chunk, chunk.index(0)) - 1)
        first_end, last_end = _first_end(chunk), _last_end(chunk)
        length += len(chunk) if first_end < 0 else first_end
        if length > MAX_LINE_BYTES:
            raise too_long(line_number)
        n_ends = _line_at(chunk, len(chunk)) - 1
        if is_after_cr and chunk.startswith(b"\n"):
            n_ends -= 1  # the second half of a line end that was counted
        line_number += n_ends
        if last_end >= 0:
            length = len(chunk) - last_end - 1
        is_after_cr = chunk.endswith(b"\r")
        offset += len(chunk)


def _first_end(chunk: bytes) -> int:
    ends = [end for end in (chunk.find(b"\n"), chunk.find(b"\r")) if end >= 0]
    return min(ends, default=-1)


def _last_end(chunk: bytes) -> int:
    return max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))


def too_long(line: int) -> BadRequest:
    return BadRequest(
        f"Line {line} of the csv file is longer than {MAX_LINE_BYTES:,} bytes.",
        remedy="Break it where its rows end, or leave its long field out of the file; parquet holds longer ones.",
        code="csv",
    )


def _zero(line: int) -> BadRequest:
    return BadRequest(
        f"Line {line} of the csv file holds a character of value 0 (NUL), which no text has.",
        remedy="Delete it, or make the file anew: it may be damaged, or no text.",
        code="csv",
    )


def csv_fault(file: DataFile, delimiter: str, n_columns: int) -> BadRequest:
    """The first place of a file that DuckDB does not read as csv.

    BadRequest, code encoding or csv.
    """
    with os.fdopen(os.open(file.path, os.O_RDONLY | os.O_CLOEXEC), "rb") as opened:
        # Every byte is a character of Latin-1; none of UTF-8 is taken for a delimiter.
        lines = io.TextIOWrapper(opened, encoding="latin-1", newline="")
        fault = _Walk(delimiter, n_columns).first_fault(lines)
    return fault or BadRequest(
        "The csv file cannot be read.",
        remedy='Write it anew as UTF-8, each row with a field for each column; write a quote within a field as "".',
        code="csv",
    )


class _Walk:
    """A way through the lines of a csv file by the rules of RFC 4180, as DuckDB reads
    them: blanks around a quoted field, further empty fields and empty lines are allowed.
    """

    def __init__(self, delimiter: str, n_columns: int) -> None:
        self.delimiter, self.n_columns = delimiter, n_columns
        mark = re.escape(delimiter)
        self._plain = re.compile(f"[^{mark}\r\n]*")
        # A quoted field, or what a line holds of one that goes on in the next line.
        self._quoted = re.compile(' *"(?:[^"]|"")*("?)')
        self._rest = re.compile('(?:[^"]|"")*("?)')
        self._after = re.compile(f" *({mark}|[\r\n]+|$)")

    def first_fault(self, lines: Iterator[str]) -> BadRequest | None:
        end_of_lines = ""
        row_fields: list[bool] = []  # of the row so far: whether each is empty
        opened = 0  # the line in which a quote was opened that is not closed
        length = 0
        line = 0
        for line, text in enumerate(lines, start=1):
            try:
                text.encode("latin-1").decode("utf-8-sig" if line == 1 else "utf-8")
            except UnicodeDecodeError:
                return not_utf8(line)
            if line == 1:
                text = text.removeprefix("\xef\xbb\xbf")
            length += len(text)
            if length > MAX_LINE_BYTES:
                return _long_row(opened or line)
            is_open = bool(opened)
            line_fields = self._fields(text, is_open)
            if line_fields is None:
                return _bad_quote(opened or line)
            more_fields, is_closed = line_fields
            row_fields = [*row_fields, *more_fields[1:]] if is_open else more_fields
            if not is_closed:
                opened = opened or line
                continue
            opened = length = 0
            line_end = text[len(text.rstrip("\r\n")) :]
            end_of_lines = end_of_lines or line_end
            if line_end not in ("", end_of_lines):
                return _mixed_ends(line, end_of_lines, line_end)
            is_blank = text.strip("\r\n") == ""
            if line > 1 and not is_blank and not self._fits(row_fields):
                return _other_count(line, len(row_fields), self.n_columns)
        return _bad_quote(opened) if opened else None

    def _fits(self, fields: Sequence[bool]) -> bool:
        further = fields[self.n_columns :]
        return len(fields) >= self.n_columns and all(further)

    def _fields(self, text: str, is_open: bool) -> tuple[list[bool], bool] | None:
        """Whether each field of a line is empty, and whether the last one is closed;
        None where something stands behind a closing quote.
        """
        if '"' not in text and not is_open:
            body = text.rstrip("\r\n")
            return [field == "" for field in body.split(self.delimiter)], True
        if '"' not in text:
            return [False], False
        are_empty: list[bool] = []
        place = 0
        while True:
            quoted = self._rest.match(text) if is_open else None
            quoted = quoted or self._quoted.match(text, place)
            is_open = False
            if quoted is None:
                plain = self._plain.match(text, place)
                assert plain is not None  # it may be empty
                are_empty.append(plain[0] == "")
                place = plain.end()
            elif not quoted[1]:
                are_empty.append(False)
                return are_empty, False
            else:
                are_empty.append(quoted[0].strip() == '""')
                place = quoted.end()
            after = self._after.match(text, place)
            if after is None:
                return None
            place = after.end()
            if after[1] != self.delimiter:
                return are_empty, True


def _bad_quote(line: int) -> BadRequest:
    return BadRequest(
        f"A quoted field that begins in line {line} of the csv file is not closed, or text follows its last quote.",
        remedy='Close every quote, before a delimiter or the end of a line; write a quote within a field as "".',
        code="csv",
    )


def _long_row(line: int) -> BadRequest:
    return BadRequest(
        f"The row that begins in line {line} of the csv file is longer than {MAX_LINE_BYTES:,} bytes.",
        remedy="Close every quote, or leave its long field out of the file; parquet holds longer ones.",
        code="csv",
    )


def _mixed_ends(line: int, first_end: str, other_end: str) -> BadRequest:
    return BadRequest(
        f"Line {line} of the csv file ends with {_LINE_ENDS[other_end]}, the first one with {_LINE_ENDS[first_end]}.",
        remedy="Save the file with one kind of line ends; a line break within a field stands in quotes.",
        code="csv",
    )


def _other_count(line: int, n_fields: int, n_columns: int) -> BadRequest:
    fields = f"{n_fields} field{'' if n_fields == 1 else 's'}"
    return BadRequest(
        f"Line {line} of the csv file has {fields}, its header {n_columns}.",
        remedy='Correct or delete it; a field that holds the delimiter stands in quotes ("1,5").',
        code="csv",
    )
