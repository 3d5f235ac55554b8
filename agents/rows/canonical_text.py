"""The one canonical text of each value, in Python and in DuckDB's SQL, whatever database
or file it is read from.

A csv file has nothing but texts. So the form is one of texts: a value is written as its
database would write it, and a text that is a number, a time or a moment is brought into
one spelling. A number is its shortest decimal, written out: 7, 7.0, 7.00 and 7e+0 are 7,
-0.0 is 0, 1e300 is a 1 with 300 zeros. A whole number or decimal keeps every digit; a
double is the shortest decimal that reads as it. A moment is written with a blank and
without zeros at the end, in UTC where it has a zone; at midnight it is its date. A truth
value is 1 or 0, as databases without that type have it, and so are the texts true and
false. All else is a text in NFC without blanks around; its case is kept, and so are
leading zeros: 007 is an id other than 7. An empty text is no value, as NULL.

Ids, keys, labels of groups, classes and categories are these texts, everywhere.

`canonical_text` and `canonical_sql` say the same, which a test holds over every type. A
change of the form is a change of FORM: digests of values of two forms are never compared.
Ids have to be written as before: whose id is written otherwise is somebody else.

To read next: `agents.rows.canonical`, which makes digests of these texts.

Decision 69.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

FORM = 2
BLANKS = " \t\r\n\f\v" + "".join(
    map(chr, (0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000))
)

WHOLE_NUMBER = "-?[0-9]+"
"""A canonical text of a whole number, and of an id of digits with leading zeros."""

# A text of leading zeros is no number: it is an id or a code.
_PLAIN = r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)"
# One digit before the point, as programs write it: of two texts of one length, such as
# the ids 100e9 and 10e10, no two may be one number.
_POWER = r"[+-]?[1-9](\.[0-9]+)?[eE]([+-][0-9]{1,3}|[1-9][0-9]{0,2})"
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_FRACTION = r"(\.[0-9]+)?"
_ZONE = r"(Z|[+-][0-9]{2}(:?[0-9]{2}(:?[0-9]{2})?)?)"
_TIME = rf"[0-9]{{1,2}}:[0-5][0-9]:[0-5][0-9]{_FRACTION}([+-][0-9]{{2}}(:00)?)?"
_MOMENT = rf"{_DAY}[ T]{_CLOCK}{_FRACTION}"
_ZONED = rf"[12][0-9]{{3}}-[0-9]{{2}}-[0-9]{{2}}[ T]{_CLOCK}{_FRACTION}{_ZONE}"
_MIDNIGHT = "00:00:00"
_TRUTH = {"true": "1", "false": "0"}


def canonical_text(text: str) -> str | None:
    """The canonical text of a value, as its database or file writes it; None for what is
    no value: a text of blanks.

    >>> [canonical_text(number) for number in ("7", "7.", "+7.00", "7e+0", "-0.0", "1e-7")]
    ['7', '7', '7', '7', '0', '0.0000001']
    >>> canonical_text("2024-05-06T00:00:00"), canonical_text("True"), canonical_text("007")
    ('2024-05-06', '1', '007')
    """
    stripped = text.strip(BLANKS)
    return _normal(stripped) if stripped else None


def text_of_bytes(value: bytes) -> str:
    r"""Bytes as DuckDB writes a BLOB.

    >>> text_of_bytes(b"ab'\x00")
    'ab\\x27\\x00'
    """
    letters: list[str] = []
    for byte in value:
        is_plain = 32 <= byte < 127 and byte not in b"\"'\\"
        letters.append(chr(byte) if is_plain else f"\\x{byte:02X}")
    return "".join(letters)


def _normal(text: str) -> str:
    """A text without blanks around, which is not empty."""
    if text[0] in "+-.0123456789":
        if re.fullmatch(_PLAIN, text):
            return _trimmed(text)
        if re.fullmatch(_POWER, text):
            return _written_out(text)
        if ":" in text:
            return _clock_text(text)
    return _TRUTH.get(text.lower()) or unicodedata.normalize("NFC", text)


def _trimmed(text: str) -> str:
    sign = "-" if text[0] == "-" else ""
    digits = text.lstrip("+-")
    if digits[0] == ".":
        digits = f"0{digits}"
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return digits if digits == "0" else sign + digits


def _written_out(text: str) -> str:
    sign = "-" if text[0] == "-" else ""
    mantissa, _, exponent = text.lstrip("+-").lower().partition("e")
    digits = mantissa.replace(".", "").rstrip("0")
    power = int(exponent)
    if power >= len(digits) - 1:
        return sign + digits.ljust(power + 1, "0")
    if power >= 0:
        return f"{sign}{digits[: power + 1]}.{digits[power + 1 :]}"
    return f"{sign}0.{'0' * (-power - 1)}{digits}"


def _clock_text(text: str) -> str:
    if re.fullmatch(_MOMENT, text):
        return _moment_text(text[:10], text[11:19], text[19:])
    if re.fullmatch(_ZONED, text):
        return _zoned_text(text)
    if re.fullmatch(_TIME, text):
        clock = text if text[1] != ":" else f"0{text}"
        zone = "".join(re.findall(r"[+-][0-9]{2}", clock[8:]))
        fraction = "".join(re.findall(r"^\.[0-9]+", clock[8:]))
        return clock[:8] + _short(fraction) + zone
    return unicodedata.normalize("NFC", text)


def _moment_text(day: str, clock: str, fraction: str) -> str:
    short = _short(fraction)
    if clock == _MIDNIGHT and not short:
        return day
    return f"{day} {clock}{short}"


def _zoned_text(text: str) -> str:
    fraction = "".join(re.findall(r"^\.[0-9]+", text[19:]))
    zone = text[19 + len(fraction) :]
    numbers = [int(digits) for digits in re.findall("[0-9]{2}", zone)]
    hours, minutes, seconds = (*numbers, 0, 0, 0)[:3]
    offset = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    try:
        moment = datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)
    except ValueError:  # a day that no month has
        return text
    shifted = moment + offset if zone[0] == "-" else moment - offset
    # strftime would write the year 999 with three digits
    seconds_text = shifted.replace(tzinfo=None).isoformat(sep=" ")
    return f"{seconds_text}{_short(fraction)}+00"


def _short(fraction: str) -> str:
    return fraction.rstrip("0").rstrip(".")


# --- the same in DuckDB's SQL --------------------------------------------------------------


def canonical_sql(cell: str, kind: str) -> str:
    """The canonical text of a cell, as SQL; NULL where it has no value.

    kind: its type as DuckDB writes it, one of a `Dataset`'s: a number, BOOLEAN, or
    VARCHAR without blanks around and NULL where nothing else is.
    """
    if kind == "VARCHAR":
        return _text_sql(cell)
    if kind == "BOOLEAN":
        return f"CAST(CAST({cell} AS TINYINT) AS VARCHAR)"
    text = f"CAST({cell} AS VARCHAR)"
    if kind in ("DOUBLE", "FLOAT"):
        if kind == "FLOAT":
            text = _shortest_sql(cell)
        return (
            f"CASE WHEN contains({text}, 'e') THEN {_written_out_sql(text)}"
            f" WHEN {text} <> 'nan' THEN {_signed_zero_sql(_zeros_sql(text))} END"
        )
    if decimal_type := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", kind):
        if decimal_type[2] == "0":
            return text
        # DuckDB writes a decimal without digits before the point as .5
        if decimal_type[1] == decimal_type[2]:
            text = rf"regexp_replace({text}, '^(-?)\.', '\10.')"
        return _zeros_sql(text)
    return text


def has_value_sql(cell: str, kind: str) -> str:
    """Whether a cell has a value: NULL is none, nor is NaN."""
    if kind in ("DOUBLE", "FLOAT"):
        return f"coalesce(NOT isnan({cell}), false)"
    return f"{cell} IS NOT NULL"


def stripped_sql(text: str) -> str:
    """A text without blanks around it; NULL where nothing is left. To look first is ten
    times as fast.
    """
    has_blanks = f"regexp_matches({text}, '^[{BLANKS}]|[{BLANKS}]$')"
    trimmed = f"CASE WHEN {has_blanks} THEN trim({text}, '{BLANKS}') ELSE {text} END"
    return f"nullif({trimmed}, '')"


def row_sql(texts: Mapping[str, str]) -> str:
    """SHA-256, in hexadecimal, of a whole row: of the name and the canonical text of
    each column that has a value, in order of names.

    texts: by name, the column with the canonical text.
    """
    fragments: list[str] = []
    for column in sorted(texts):
        text = texts[column]
        head = f"{len(column)}:{column}".replace("'", "''")
        fragments.append(f"coalesce('{head}' || length({text}) || ':' || {text}, '')")
    return f"sha256({' || '.join(fragments) or repr('')})"


def row_text(values: Mapping[str, object]) -> str:
    """What `row_sql` takes the digest of, for values that Python has read."""
    fragments: list[str] = []
    for column in sorted(values):
        cell_value = values[column]
        cell_text = None if cell_value is None else canonical_text(str(cell_value))
        if cell_text is not None:
            fragments.append(f"{len(column)}:{column}{len(cell_text)}:{cell_text}")
    return "".join(fragments)


def _shortest_sql(cell: str) -> str:
    """A FLOAT as DuckDB writes it; but where that is long, with as few digits as read as
    the same FLOAT: DuckDB writes 97495584 for 97495580.
    """
    text = f"CAST({cell} AS VARCHAR)"
    figures = f"ltrim(replace(replace({text}, '-', ''), '.', ''), '0')"
    is_long = f"abs({cell}) < 1e16 AND length({figures}) >= 8"
    # A shorter one would be found among those of 6 digits, with zeros at its end.
    long = _fewest_sql(cell, range(5, 9))
    is_subnormal = f"{cell} <> 0 AND abs({cell}) < CAST('1.17549435e-38' AS FLOAT)"
    subnormal = _fewest_sql(cell, range(9))
    return f"CASE WHEN {is_subnormal} THEN {subnormal} WHEN {is_long} THEN {long} ELSE {text} END"


def _fewest_sql(cell: str, n_decimals: Iterable[int]) -> str:
    tries: list[str] = []
    for decimals in n_decimals:
        tried = f"printf('%.{decimals}e', CAST({cell} AS DOUBLE))"
        tries.append(f"WHEN CAST({tried} AS FLOAT) = {cell} THEN {tried}")
    return f"CASE {' '.join(tries)} END"


def _zeros_sql(text: str) -> str:
    return f"CASE WHEN contains({text}, '.') THEN rtrim(rtrim({text}, '0'), '.') ELSE {text} END"


def _signed_zero_sql(text: str) -> str:
    return f"CASE WHEN {text} = '-0' THEN '0' ELSE {text} END"


def _text_sql(cell: str) -> str:
    # To look at the first letter first spares most texts three patterns.
    begins = f"({cell} >= '+' AND {cell} < ':')"
    return (
        f"CASE WHEN NOT {begins} THEN {_word_sql(cell)}"
        f" WHEN regexp_full_match({cell}, '{_PLAIN}') THEN {_plain_sql(cell)}"
        f" WHEN regexp_full_match({cell}, '{_POWER}') THEN {_written_out_sql(cell)}"
        f" WHEN NOT contains({cell}, ':') THEN nfc_normalize({cell})"
        f" WHEN regexp_full_match({cell}, '{_MOMENT}') THEN {_moment_sql(cell)}"
        f" WHEN regexp_full_match({cell}, '{_ZONED}') THEN {_zoned_sql(cell)}"
        f" WHEN regexp_full_match({cell}, '{_TIME}') THEN {_time_sql(cell)}"
        f" ELSE nfc_normalize({cell}) END"
    )


def _word_sql(cell: str) -> str:
    # Of most texts their length says that they are no truth value.
    lower = f"lower({cell})"
    return (
        f"CASE WHEN strlen({cell}) = 4 AND {lower} = 'true' THEN '1'"
        f" WHEN strlen({cell}) = 5 AND {lower} = 'false' THEN '0'"
        f" ELSE nfc_normalize({cell}) END"
    )


def _plain_sql(cell: str) -> str:
    without_plus = f"ltrim({cell}, '+')"
    pointed = rf"regexp_replace({without_plus}, '^(-?)\.', '\10.')"
    shortest = f"rtrim(rtrim({pointed}, '0'), '.')"
    written = f"CASE WHEN contains({cell}, '.') THEN {shortest} ELSE {without_plus} END"
    return _signed_zero_sql(written)


def _written_out_sql(text: str) -> str:
    digits = f"rtrim(replace(regexp_extract({text}, '([0-9.]+)[eE]', 1), '.', ''), '0')"
    power = f"TRY_CAST(regexp_extract({text}, '[eE]([+-]?[0-9]+)$', 1) AS INTEGER)"
    sign = f"CASE WHEN starts_with({text}, '-') THEN '-' ELSE '' END"
    # rpad cuts what is longer: these are the digits before the point.
    before_point = f"rpad({digits}, {power} + 1, '0')"
    after_point = f"substr({digits}, {power} + 2)"
    return (
        f"{sign} || CASE WHEN {power} >= 0 THEN rtrim({before_point} || '.' || {after_point}, '.')"
        f" ELSE '0.' || repeat('0', -{power} - 1) || {digits} END"
    )


def _moment_sql(cell: str) -> str:
    short = _short_sql(f"substr({cell}, 20)")
    clock = f"substr({cell}, 12, 8)"
    is_midnight = f"{clock} = '{_MIDNIGHT}' AND {short} = ''"
    return (
        f"left({cell}, 10) ||"
        f" CASE WHEN {is_midnight} THEN '' ELSE ' ' || {clock} || {short} END"
    )


def _zoned_sql(cell: str) -> str:
    fraction = rf"regexp_extract(substr({cell}, 20), '^(\.[0-9]+)', 1)"
    zone = f"regexp_extract({cell}, '(Z|[+-][0-9:]+)$', 1)"
    figures = f"rpad(replace(substr({zone}, 2), ':', ''), 6, '0')"
    replacement = r"\1 hours \2 minutes \3 seconds"
    offset = (
        f"CAST(regexp_replace({figures}, '(..)(..)(..)', '{replacement}') AS INTERVAL)"
    )
    moment = f"TRY_CAST(replace(left({cell}, 19), 'T', ' ') AS TIMESTAMP)"
    sign = f"CASE WHEN starts_with({zone}, '-') THEN 1 ELSE -1 END"
    shifted = f"{moment} + {offset} * {sign}"
    moment_text = (
        f"strftime({shifted}, '%Y-%m-%d %H:%M:%S') || {_short_sql(fraction)} || '+00'"
    )
    return f"coalesce({moment_text}, {cell})"


def _time_sql(cell: str) -> str:
    clock = f"CASE WHEN substr({cell}, 2, 1) = ':' THEN '0' || {cell} ELSE {cell} END"
    after_seconds = f"substr({clock}, 9)"
    fraction = rf"regexp_extract({after_seconds}, '^(\.[0-9]+)', 1)"
    zone = f"regexp_extract({after_seconds}, '([+-][0-9]{{2}})', 1)"
    return f"left({clock}, 8) || {_short_sql(fraction)} || {zone}"


def _short_sql(fraction: str) -> str:
    return f"rtrim(rtrim({fraction}, '0'), '.')"
