"""Names and constants as each database writes them, of values that were checked.

What these give is one name or one constant in the database's own reading. Oracle
turns the whole text of a statement into its own characters before it reads it, and may
make a quotation mark of a letter that looks like one: so constants are written for it in
ASCII alone, and no name has such a letter.

Decision 127.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from agents.rows.parsed_sql import refused_sql

SERVERS_WITHOUT_LIMIT = ("tsql", "oracle")
"""SQL Server and Oracle, as sqlglot calls them: what differs from all others in the
shape of a SELECT, not in names and constants alone."""

_MARKS = {"mysql": ("`", "`"), "tsql": ("[", "]")}
_STANDARD_MARKS = ('"', '"')
_LETTERS = ("Lu", "Ll", "Lo", "Nd")
_MOST_IN_A_LIST = {"oracle": 1_000}  # ORA-01795
_QUOTE_NAMES = re.compile("QUOT|APOSTROPHE|PRIME|ACCENT|COMMA ABOVE")


def quoted_names(dialect: str, names: Sequence[str]) -> str:
    """A name of one or more parts, each quoted."""
    opening_mark, closing_mark = _MARKS.get(dialect, _STANDARD_MARKS)
    quoted = []
    for name in names:
        if dialect == "oracle":
            _check_oracle_name(name)
        doubled = name.replace(closing_mark, closing_mark * 2)
        quoted.append(f"{opening_mark}{doubled}{closing_mark}")
    return ".".join(quoted)


def _check_oracle_name(name: str) -> None:
    """Oracle has no way to write a quotation mark within a quoted name: two of them end
    it, and what follows would be another name.
    """
    for letter in name:
        is_plain = letter.isascii() and letter != '"'
        if not is_plain and unicodedata.category(letter) not in _LETTERS:
            raise refused_sql(
                "characters",
                "A name of the data SQL holds a sign that Oracle has in no name.",
                "Select the column under another name in a view, and open that view in the policy.",
            )


def check_quotes(text: str, dialect: str) -> None:
    """Refuses signs that Oracle may read as quotation marks once it has turned them into
    its own characters.
    """
    if dialect != "oracle":
        return
    for letter in text:
        if not letter.isascii() and _looks_like_a_quote(letter):
            raise refused_sql(
                "characters",
                "The data SQL holds a sign that looks like a quotation mark, which Oracle may take for one.",
                "Write ' and \" as they are on a keyboard, and no other such sign.",
            )


def _looks_like_a_quote(letter: str) -> bool:
    if unicodedata.category(letter) in ("Pi", "Pf"):
        return True
    plain = unicodedata.normalize("NFKD", letter)
    letter_name = unicodedata.name(letter, "")
    return "'" in plain or '"' in plain or bool(_QUOTE_NAMES.search(letter_name))


def folded_name(dialect: str, name: str) -> str:
    """A name that was written without quotes, as the database compares it."""
    if dialect == "postgres":
        return name.lower()
    return name.upper() if dialect == "oracle" else name


def text_constant(dialect: str, text: str) -> str:
    """A text in quotes; it holds no backslash."""
    doubled = text.replace("'", "''")
    if dialect == "tsql" and not text.isascii():
        # Without N it would be one of the letters that the server's code page has.
        return f"N'{doubled}'"
    if dialect == "oracle" and not text.isascii():
        return f"UNISTR('{_escaped(doubled)}')"
    return f"'{doubled}'"


def _escaped(text: str) -> str:
    r"""ASCII alone, all else as UNISTR reads it: \ and a unit of UTF-16."""
    written = []
    for letter in text:
        units = letter.encode("utf-16-be")
        if letter.isascii():
            written.append(letter)
            continue
        for unit_place in range(0, len(units), 2):
            written.append(f"\\{units[unit_place : unit_place + 2].hex().upper()}")
    return "".join(written)


def pattern_constant(dialect: str, text: str) -> str:
    """A text behind LIKE, of which % and _ alone stand for others."""
    if dialect == "tsql":
        # SQL Server reads [a-f] as one of these letters, no other database does.
        text = text.replace("[", "[[]")
    return text_constant(dialect, text)


def truth_constant(dialect: str, is_true: bool) -> str:
    """A BIT of SQL Server and a number of Oracle are compared with 1 and 0."""
    if dialect in SERVERS_WITHOUT_LIMIT:
        return "1" if is_true else "0"
    return "TRUE" if is_true else "FALSE"


def moment_constant(dialect: str, text: str, *, is_day: bool) -> str:
    """A day or a moment, of a text such as 2024-05-06 07:08."""
    if dialect not in SERVERS_WITHOUT_LIMIT:
        return f"{'DATE' if is_day else 'TIMESTAMP'} '{text}'"
    day, clock = text[:10], text[11:] or "00:00:00"
    if clock.count(":") == 1:
        clock += ":00"
    moment = day if is_day else f"{day} {clock}"
    if dialect == "oracle":
        return f"{'DATE' if is_day else 'TIMESTAMP'} '{moment}'"
    # Not as datetime, which reads a day by the language of the session.
    return f"CAST('{moment}' AS {'date' if is_day else 'datetime2(7)'})"


def list_tests(dialect: str, column: str, constants: Sequence[str]) -> str:
    """A column that is one of these constants."""
    most_in_list = _MOST_IN_A_LIST.get(dialect, len(constants))
    tests = []
    for start in range(0, len(constants), most_in_list):
        listed = ", ".join(constants[start : start + most_in_list])
        tests.append(f"{column} IN ({listed})")
    return " OR ".join(tests)
