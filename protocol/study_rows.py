"""The rows as a study needs them: categories, derived columns, and what is done where a
value is missing.

Three fields of an order. They are the same in every kind of order that has them, and
checked here: at the coordinator, and again at each hospital.

Decision 78.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from analytics.statistics.derived import (
    Derived,
    in_order,
    parse_derived,
    plain_names,
)
from analytics.statistics.expression import ExpressionError
from protocol.errors import Problems, bad_request
from protocol.fields import Column, Strict, any_case, printable

MOST_COLUMNS = 1_000
MOST_LEVELS = 1_000
"""Of a category at one hospital."""
MOST_LETTERS = 200
"""Of a level, which other hospitals are told."""
Missing = Literal["refuse", "drop", "mean"]


def _level(value: Any) -> Any:
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError("must be a level: a text, a number, true or false")
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise ValueError("must be a finite number")
    if isinstance(value, str):
        return printable(value)
    return value


class Category(Strict):
    """How a column of categories is coded."""

    # The level that the others are compared with; None for the most frequent one.
    reference: Annotated[Any, BeforeValidator(_level)] = None


Expression = Annotated[
    str, Field(min_length=1, max_length=2_000), AfterValidator(printable)
]
Categorical = Annotated[dict[Column, Category], Field(max_length=MOST_COLUMNS)]
Derive = Annotated[dict[Column, Expression], Field(max_length=MOST_COLUMNS)]
MissingWord = Annotated[Missing, any_case(Missing)]


@dataclass(frozen=True)
class StudyRows:
    """What an order asks of its rows, checked.

    columns: what the order is over, plain, categorical and derived ones; categorical:
    by column its reference as it was sent, or None; derived: by name; complete_on:
    columns without whose value a row is left out.
    """

    columns: tuple[str, ...]
    categorical: Mapping[str, str | int | float | bool | None]
    derived: Mapping[str, Derived]
    missing: Missing
    complete_on: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether the rows are just as the data have them, each with all its values."""
        has_fields = bool(self.categorical or self.derived)
        return not has_fields and self.missing == "refuse"

    @property
    def leaves_out(self) -> bool:
        """Whether rows may be left out that the data have."""
        return bool(self.complete_on) or self.missing == "drop"

    @property
    def needs_counts(self) -> bool:
        """Whether the hospitals agree on the model's columns and count together."""
        return self.leaves_out or not self.is_plain

    @cached_property
    def plain(self) -> tuple[str, ...]:
        """The columns of the data that the order's own ones are made of."""
        data_columns = [column for column in self.columns if column not in self.derived]
        return tuple(dict.fromkeys([*data_columns, *plain_names(self.derived)]))

    @cached_property
    def read(self) -> tuple[str, ...]:
        """All columns that must be read, beside ids and labels."""
        needed_columns = [name for name in self.complete_on if name not in self.derived]
        return tuple(dict.fromkeys([*self.plain, *needed_columns]))

    @cached_property
    def in_order(self) -> list[str]:
        """Derived columns, each behind those that it uses."""
        return in_order(self.derived)

    def knots(self, name: str) -> tuple[float, ...]:
        """Of a spline; none of another column."""
        return self.derived[name].knots if name in self.derived else ()


def study_rows(
    *,
    columns: Sequence[str],
    categorical: Mapping[str, Category],
    derive: Mapping[str, str],
    missing: Missing,
    complete_on: Sequence[str],
    roles: Mapping[str, str],
) -> StudyRows:
    """The fields of an order, read and checked together.

    columns: `attributes` of the order, or what it calls them; roles: by the name of
    another field the column that it names, such as label_name.

    Raises BadRequest with every problem that there is; its code is the first one's
    field (categorical or derive).
    """
    problems = Problems()
    derived = read_derived(derive, problems)
    uses: dict[str, list[str]] = {}
    for column_name, derived_column in derived.items():
        uses[column_name] = list(derived_column.names)
    _check_listed("categorical", categorical, columns, problems)
    _check_listed("derive", not_used_by_others(derive, uses), columns, problems)
    _check_one_role(categorical, derive, roles, problems)
    check_names(derived, roles, problems)
    problems.raise_any()
    references = {name: category.reference for name, category in categorical.items()}
    return StudyRows(
        columns=tuple(columns),
        categorical=references,
        derived=derived,
        missing=missing,
        complete_on=tuple(complete_on),
    )


def read_derived(derive: Mapping[str, str], problems: Problems) -> dict[str, Derived]:
    derived: dict[str, Derived] = {}
    for column_name, expression_text in derive.items():
        try:
            derived[column_name] = parse_derived(expression_text)
        except ExpressionError as error:
            sentence = f"derive.{column_name}: {error.sentence}"
            problems.found.append(bad_request("derive", sentence, error.remedy))
    return derived


def not_used_by_others(
    derive: Iterable[str], uses: Mapping[str, Iterable[str]]
) -> list[str]:
    """The derived columns that are no step of another one."""
    used_columns: set[str] = set()
    for column_names in uses.values():
        used_columns.update(column_names)
    return [column for column in derive if column not in used_columns]


def _check_listed(
    field_name: str,
    names: Iterable[str],
    columns: Sequence[str],
    problems: Problems,
) -> None:
    unlisted = [column for column in names if column not in columns]
    if unlisted:
        problems.add(
            field_name,
            f"{field_name} names {', '.join(unlisted)}, which attributes does not list.",
            "List it there, or leave it out here.",
        )


def _check_one_role(
    categorical: Mapping[str, Category],
    derive: Mapping[str, str],
    roles: Mapping[str, str],
    problems: Problems,
) -> None:
    in_both = [name for name in categorical if name in derive]
    if in_both:
        problems.add(
            "categorical",
            f"{', '.join(in_both)} stands in categorical and in derive.",
            "A derived column is a number: write 1 for the rows that are meant, else 0.",
        )
    for role, column in roles.items():
        for field_name, names in (("categorical", categorical), ("derive", derive)):
            if column in names:
                problems.add(
                    field_name,
                    f"{field_name} names {column}, which is the {role}.",
                    "A column has one role.",
                )


def check_names(
    derived: Mapping[str, Derived], roles: Mapping[str, str], problems: Problems
) -> None:
    for column_name, derived_column in derived.items():
        if column_name in derived_column.names:
            problems.add(
                "derive",
                f"derive.{column_name} has the name of a column that it uses.",
                "Give the derived column a name of its own.",
            )
        labels = [
            role for role, column in roles.items() if column in derived_column.names
        ]
        if labels:
            problems.add(
                "derive",
                f"derive.{column_name} uses the {labels[0]} column.",
                "Derive it from other columns.",
            )
        splines = [
            used_name
            for used_name in derived_column.names
            if used_name in derived and derived[used_name].knots
        ]
        if splines:
            problems.add(
                "derive",
                f"derive.{column_name} uses {splines[0]}, which is a spline of several columns.",
                "Use the column that the spline is over.",
            )
    _check_spelling(derived, problems)
    sound_columns = {
        column_name: derived_column
        for column_name, derived_column in derived.items()
        if column_name not in derived_column.names
    }
    try:
        in_order(sound_columns)
    except ExpressionError as error:
        problems.add("derive", error.sentence, error.remedy)


def _check_spelling(derived: Mapping[str, Derived], problems: Problems) -> None:
    """A database knows names whatever their case."""
    plain = {plain_name.lower(): plain_name for plain_name in plain_names(derived)}
    for column_name in derived:
        alike = plain.get(column_name.lower())
        if alike is not None:
            problems.add(
                "derive",
                f"derive.{column_name} differs from the column {alike} by case alone.",
                "Give the derived column a name of its own.",
            )


def written_out(body: Mapping[str, Any]) -> dict[str, Any]:
    """The three fields of a request's JSON as its document has them: each is left out
    where it says nothing, so that documents without them stay as they were.
    """
    written = dict(body)
    defaults: dict[str, Any] = {"categorical": {}, "derive": {}, "missing": "refuse"}
    for name, default in defaults.items():
        if written.get(name) == default:
            del written[name]
    categories = written.get("categorical", {})
    for name, category in categories.items():
        if category.get("reference") is None:
            categories[name] = {}
    return written
