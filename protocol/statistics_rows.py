"""What a question of joint statistics says of its rows: categories, columns that it
derives, and what is done where a value is missing.

The fields are those of a training order (`study_rows.py`); here is what they mean for
each method. A column stands in one of two places:

    value    it is added up, or its order is searched: avg, cov, median, ...
    label    it tells groups, values or bins apart: group_by, frequency, crosstab,
             histogram

Decision 81.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from analytics.statistics.derived import Derived, in_order, made_of
from protocol.errors import Problems, bad_request
from protocol.study_rows import (
    Category,
    Missing,
    check_names,
    not_used_by_others,
    read_derived,
)

MEAN_METHODS = ("sum", "avg", "var", "std")
"""In which the joint mean can stand in the place of a missing number."""


@dataclass(frozen=True)
class QuestionRows:
    """What a question asks of its rows, checked."""

    # By name.
    derived: Mapping[str, Derived] = field(default_factory=dict)
    # Columns whose levels the hospitals agree on.
    categorical: tuple[str, ...] = ()
    # None: rows without a value are in no sum, and a label of their own.
    missing: Missing | None = None

    @property
    def is_plain(self) -> bool:
        """Whether rows are read as the data have them."""
        return not self.derived and self.missing in (None, "mean")

    @property
    def fills(self) -> bool:
        """Whether the joint mean stands in the place of missing numbers."""
        return self.missing == "mean"

    @cached_property
    def in_order(self) -> list[str]:
        """Derived columns, each behind those that it uses."""
        return in_order(self.derived)

    def plain(self, names: Iterable[str]) -> list[str]:
        """These columns, each derived one as those of the data behind it; each once."""
        plain_names: dict[str, None] = {}
        for name in names:
            source_names = (
                made_of(name, self.derived) if name in self.derived else [name]
            )
            plain_names.update(dict.fromkeys(source_names))
        return list(plain_names)

    def with_plain(self, names: Iterable[str]) -> list[str]:
        """These columns, and behind them those of the data that they are made of."""
        own_names = list(names)
        return list(dict.fromkeys([*own_names, *self.plain(own_names)]))


def question_rows(
    *,
    categorical: Mapping[str, Category],
    labels: Collection[str],
    derive: Mapping[str, str],
    missing: Missing | None,
    named: Collection[str],
    keys: Collection[str],
    method: str,
    is_joined: bool,
    complete_on: Collection[str],
) -> QuestionRows:
    """The fields of a question, read and checked together.

    labels: the columns whose values are labels; named: all columns that it names
    elsewhere; keys: the key_column of each provider.

    Raises BadRequest (code categorical, derive) with every problem that there is.
    """
    problems = Problems()
    derived = read_derived(derive, problems)
    check_names(derived, {}, problems)
    _check_categorical(categorical, derive, labels, keys, method, problems)
    _check_spelling(derived, named, problems)
    uses = {
        name: list(derived_column.names) for name, derived_column in derived.items()
    }
    unused = [name for name in not_used_by_others(derived, uses) if name not in named]
    if unused:
        problems.add(
            "derive",
            f"derive names {', '.join(unused)}, which the question does not use.",
            "Name it in key_column, columns, group_by, complete_on or the expression, or leave it out.",
        )
    for column_name, derived_column in derived.items():
        if derived_column.knots:
            problems.add(
                "derive",
                f"derive.{column_name} is a spline, which makes several columns of one.",
                "A question is about single numbers: derive it for a model.",
            )
    if is_joined:
        _check_joined(derived, keys, complete_on, method, problems)
    elif any(key_column in derived for key_column in keys) and len(set(keys)) > 1:
        problems.add(
            "derive",
            "key_column is a derived column at one provider and another column at another.",
            "Name the same column at every provider.",
        )
    problems.raise_any()
    return QuestionRows(
        derived=derived, categorical=tuple(categorical), missing=missing
    )


def _check_categorical(
    categorical: Mapping[str, Category],
    derive: Mapping[str, str],
    labels: Collection[str],
    keys: Collection[str],
    method: str,
    problems: Problems,
) -> None:
    for name, category in categorical.items():
        if name in derive:
            problems.add(
                "categorical",
                f"{name} stands in categorical and in derive.",
                "A derived column is a number: leave it out of categorical.",
            )
        elif name not in labels:
            problems.add(
                "categorical",
                f"categorical names {name}, and {method} has no use for its levels there: they are for group_by,"
                " frequency, crosstab, and avg, which then gives the share of each.",
                "Leave it out, or ask one of these.",
            )
        elif (
            name in keys and name not in set(labels) - set(keys) and len(set(keys)) > 1
        ):
            problems.add(
                "categorical",
                f"categorical names {name}, which has another name at another provider.",
                "Name the same column at every provider.",
            )
        if category.reference is not None:
            problems.add(
                "categorical",
                f"categorical.{name} has a reference, and a question compares no level with it.",
                "Leave the reference out.",
            )


def _check_spelling(
    derived: Mapping[str, Derived], named: Collection[str], problems: Problems
) -> None:
    """A database knows names whatever their case."""
    spelled: dict[str, str] = {}
    for column_name in [*derived, *named]:
        first_spelling = spelled.setdefault(column_name.lower(), column_name)
        if first_spelling != column_name and first_spelling in derived:
            problems.add(
                "derive",
                f"derive.{first_spelling} differs from {column_name} by case alone.",
                "Give the derived column a name of its own.",
            )


def _check_joined(
    derived: Mapping[str, Derived],
    keys: Collection[str],
    complete_on: Collection[str],
    method: str,
    problems: Problems,
) -> None:
    if derived and method != "custom":
        problems.add(
            "derive",
            f"derive is given, and {method} adds up columns of the data.",
            "Ask method custom, with the comparison as its expression.",
        )
    for field_name, names in (("key_column", keys), ("complete_on", complete_on)):
        derived_here = [name for name in names if name in derived]
        if derived_here:
            problems.add(
                "derive",
                f"{field_name} names {derived_here[0]}, which is derived: joined rows are matched and chosen by columns"
                " of the data.",
                "Name a column of the data there.",
            )


def check_missing(missing: Missing | None, method: str, *, is_grouped: bool) -> None:
    """BadRequest (code missing) where the mean of a column means nothing."""
    if missing != "mean":
        return
    remedy = "Order missing drop, or leave missing out."
    if method not in MEAN_METHODS:
        raise bad_request(
            "missing",
            f"missing is mean, and {method} has no place for the mean of a column: it is for"
            f" {', '.join(MEAN_METHODS)}.",
            remedy,
        )
    if is_grouped:
        raise bad_request(
            "missing",
            "missing is mean, and a mean over all rows would pull the groups of group_by together.",
            remedy,
        )
