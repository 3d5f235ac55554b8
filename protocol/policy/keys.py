"""What each key of policy.toml may hold, and the errors of what it may not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from protocol.readers import FINGERPRINT, readers_problem
from protocol.statistics_request import Method
from protocol.training_request import EncryptMethod, ModelType, Scoring
from protocol.versions import PROTOCOL

LARGEST_NUMBER = 2**31 - 1
MOST_USERS = 10_000
MOST_WORDS = 100
CROSS_CHECK: Final = "cross_check"
COHORT: Final = "cohort:"
"""What stands before a cohort's name where an order names it in place of SQL or a table."""
COHORT_NAME: Final = "[a-z0-9_]{1,60}"
ONE_LINE: Final = r"^[^\x00-\x1f\x7f]*$"


@dataclass(frozen=True)
class Wanted:
    """What has to be written at a key, in the words of the sentence that refuses
    anything else there.
    """

    words: str


def cross_check(sentence: str, remedy: str, **names: str) -> PydanticCustomError:
    """The error of what no key alone has wrong, with a sentence of its own.

    `{file}` and `{section}` in the sentence stand for where the policy was read from,
    which no model knows.
    """
    return PydanticCustomError(
        CROSS_CHECK, "{sentence}", {"sentence": sentence, "remedy": remedy, **names}
    )


def _words_of(literal: Any) -> str:
    return ", ".join(get_args(literal))


def _positive(value: Any) -> Fraction:
    """Exactly the number that is written: 0.1 in the file is 1/10 here."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    try:
        number = Fraction(str(value))
    except ZeroDivisionError:
        raise ValueError("must not divide by zero") from None
    if number <= 0:
        raise ValueError("must be positive")
    return number


def _at_most_one(value: Any) -> Fraction:
    number = _positive(value)
    if number > 1:
        raise ValueError("must be at most 1")
    return number


def _table_name(name: str) -> str:
    name_parts = name.split(".")
    if len(name_parts) > 2 or "" in name_parts:
        raise cross_check(
            "The table name {name} in {file} is not schema.table.",
            'Write [tables."schema.table"].',
            name=repr(name),
        )
    return name


def _no_cohort(name: str) -> str:
    if name.lower().startswith(COHORT):
        raise cross_check(
            "The table name {name} in {file} begins as orders name cohorts.",
            'Write [cohorts."name"] for a cohort, or give the table another name.',
            name=repr(name),
        )
    return name


def _cohort_name(name: str) -> str:
    if not re.fullmatch(COHORT_NAME, name):
        raise cross_check(
            "The cohort name {name} in {file} has other signs than a-z, 0-9 and _, or more than 60.",
            'Write [cohorts."diabetes_v1"].',
            name=repr(name),
        )
    return name


def _path_below_site(path: str) -> str:
    leads_out = path.startswith("/") or ".." in path.split("/")
    if leads_out or "\\" in path:
        raise cross_check(
            "{section} in {file} is {path}, which is no path below the site's folder.",
            'Write it as seen from policy.toml, such as "cohorts/diabetes_v1.sql".',
            path=repr(path),
        )
    return path


# Strict means tuples only, and TOML and JSON have lists.
_A_LIST = Field(strict=False)
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_FRACTION = {"type": "string", "pattern": r"^[0-9.]+(/[0-9.]+)?$"}

# Yes or no, and numbers

Flag = Annotated[bool, Wanted("true or false")]
Count = Annotated[
    int,
    Field(ge=1, le=LARGEST_NUMBER),
    Wanted(f"a whole number from 1 to {LARGEST_NUMBER}"),
]
ProtocolNumber = Annotated[
    int,
    Field(ge=1, le=PROTOCOL),
    Wanted(f"a protocol number from 1 to {PROTOCOL}"),
]
Varying = Annotated[
    int,
    Field(ge=1, le=LARGEST_NUMBER),
    Wanted("a whole number from 1 (1 switches the rule off)"),
]
Ratio = Annotated[
    Fraction,
    PlainValidator(_positive),
    PlainSerializer(str),
    WithJsonSchema({"anyOf": [_POSITIVE, _FRACTION]}),
    Wanted('a positive number or a fraction such as "1/3"'),
]
Share = Annotated[
    Fraction,
    PlainValidator(_at_most_one),
    PlainSerializer(str),
    WithJsonSchema({"anyOf": [{**_POSITIVE, "maximum": 1}, _FRACTION]}),
    Wanted('a share up to 1, such as "9/10"'),
]

# Users

UserId = Annotated[int, Field(ge=1, le=LARGEST_NUMBER)]
Users = Annotated[tuple[UserId, ...], _A_LIST, Field(max_length=MOST_USERS)]
Initiators = Annotated[Users, Wanted("a list of user ids such as [2, 4]")]
Receivers = Annotated[Users, Wanted("a list of user ids")]

# Words of which some are allowed

EncryptMethods = Annotated[
    tuple[EncryptMethod, ...],
    _A_LIST,
    Field(min_length=1, max_length=MOST_WORDS),
    Wanted(f"a list out of {_words_of(EncryptMethod)}"),
]
ModelTypes = Annotated[
    tuple[ModelType, ...],
    _A_LIST,
    Field(min_length=1, max_length=MOST_WORDS),
    Wanted(f"a list out of {_words_of(ModelType)}"),
]
StatisticsMethods = Annotated[
    tuple[Method, ...],
    _A_LIST,
    Field(min_length=1, max_length=MOST_WORDS),
    Wanted(f"a list out of {_words_of(Method)}"),
]
ScoringLevel = Annotated[Scoring, Wanted(f"one of {_words_of(Scoring)}")]
ScoreReaders = Annotated[
    Literal["parties", "operator"], Wanted("one of parties, operator")
]
RareLevels = Annotated[Literal["other", "refuse"], Wanted("one of other, refuse")]
Cells = Annotated[Literal["each", "pooled"], Wanted("one of each, pooled")]
Approval = Annotated[Literal["automatic", "manual"], Wanted("one of automatic, manual")]

# Columns and files

Text = Annotated[str, Field(pattern=r"\S"), Wanted("a column name")]

OpenColumns = Annotated[
    tuple[Text, ...],
    _A_LIST,
    Wanted('a list of column names or ["*"]'),
]
ColumnNames = Annotated[tuple[Text, ...], _A_LIST, Wanted("a list of column names")]
FilePatterns = Annotated[
    tuple[Text, ...],
    _A_LIST,
    Wanted('a list of patterns such as ["2025/*.csv"]'),
]
JointNames = Annotated[
    dict[Text, Text],
    Wanted('a table of columns and joint names such as { "alter" = "age" }'),
]
UniqueIds = Annotated[
    dict[Text, Text],
    Wanted('a table of patterns and columns such as { "2025/*.csv" = "patient" }'),
]
SameValues = Annotated[
    tuple[Annotated[tuple[Text, ...], _A_LIST, Field(min_length=2)], ...],
    _A_LIST,
    Wanted('a list of lists of columns such as [["age", "birth_year"]]'),
]

# Tables, and cohorts with their file and times

TableName = Annotated[
    str,
    AfterValidator(_table_name),
    AfterValidator(_no_cohort),
    Wanted("the name of a table with its schema"),
]
PeopleName = Annotated[
    str,
    AfterValidator(_table_name),
    Wanted("the name of a table with its schema, or of a cohort as cohort:name"),
]
CohortName = Annotated[str, AfterValidator(_cohort_name)]
SqlFile = Annotated[
    str,
    Field(pattern=r"\S"),
    AfterValidator(_path_below_site),
    Wanted('the path of a file, such as "cohorts/diabetes_v1.sql"'),
]
Sha256 = Annotated[
    str,
    Field(pattern=r"^[0-9a-f]{64}$"),
    Wanted("64 hex digits, as `./run agent cohorts digest FILE` prints them"),
]
Cron = Annotated[str, Field(max_length=100, pattern=r"^\S+( +\S+){4}$")]
Times = Annotated[
    Cron | None,
    Wanted('five fields (minute, hour, day, month, weekday), such as "0 3 * * *"'),
]
Zone = Annotated[
    str,
    Field(max_length=100, pattern=r"\S"),
    Wanted("a time zone, as Asia/Shanghai or UTC"),
]
Description = Annotated[
    str,
    Field(max_length=300, pattern=ONE_LINE),
    Wanted("one line of up to 300 letters"),
]


# People


def checked_readers(values: Any) -> dict[str, str]:
    problem = readers_problem(values)
    if problem is not None:
        raise cross_check(
            "{section} in {file} {problem}.", problem.remedy, problem=problem.sentence
        )
    return {name: written.strip().lower() for name, written in values.items()}


Readers = Annotated[
    dict[str, str],
    PlainValidator(checked_readers),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": "string", "pattern": f"^{FINGERPRINT}$"},
        }
    ),
]
