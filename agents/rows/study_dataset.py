"""The rows of an order as a study needs them: a dataset with derived columns, without
the rows that lack a value, or with gaps where a mean may stand.

`prepare` makes another dataset of one that was opened; `agents.rows.cohort.build_cohort`
takes it. What is decided between hospitals (levels, means) comes later, in
`agents.training.agreed_design`. `prepare_question` does the same for joint statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from agents.rows.cohort import Flow, check_enough_rows
from agents.rows.column_text import number_of
from agents.rows.dataset import Dataset
from agents.rows.derived_columns import DerivedSql
from agents.rows.faults import safe_reading
from agents.rows.missing_values import without_value
from agents.rows.relation import IDENTIFIED, UNIQUE_ID, check_name, quoted
from protocol.errors import Refused, bad_request
from protocol.statistics_rows import QuestionRows
from protocol.study_rows import StudyRows

_STUDIED = "studied_rows"
_READ = "read_rows"


@dataclass(frozen=True)
class PreparedRows:
    """Rows that are left, with derived columns among their own.

    Disclosure: patients' rows, as the dataset.
    """

    rows: Dataset = field(repr=False)
    flow: Flow


def prepare(
    rows: Dataset,
    study: StudyRows,
    *,
    labels: Sequence[str],
) -> PreparedRows:
    """The rows of a dataset that an order is over, with the columns that it derives.

    labels: the label and other columns of the order that are no attributes, such as the
    event and the rows' weights. The dataset has them and all columns of `study.read`, and
    is none itself afterwards. Derived columns are computed first; then rows
    without a value in a column of `complete_on` are left out, with missing = drop those
    without one in any column of the order, unless complete_on says which.

    Raises BadRequest (code missing_column, not_numeric; null with all columns that have
    gaps; no_rows) and Refused (code min_rows) where too few are left.

    Disclosure: takes rows; errors hold names of columns and counts of rows, none below
    the dataset's min_rows.
    """
    check_enough_rows(rows.n_rows, rows.min_rows)
    derived = DerivedSql(rows, study.derived, study.in_order)
    deciding_columns = list(study.complete_on)
    if study.missing == "drop" and not deciding_columns:
        deciding_columns = [*study.columns, *labels]
    n_undefined = _count_undefined(rows, study, derived)
    remaining = with_derived(rows, derived, deciding_columns)
    remedy = "Shorten complete_on, leave out the attributes with most gaps, or order missing mean."
    _check_left(remaining.n_rows, rows.n_rows, rows.min_rows, remedy)
    _check_gaps(remaining, study, labels, n_undefined)
    flow = Flow(rows.n_rows, remaining.n_rows, n_undefined)
    return PreparedRows(remaining, flow)


def prepare_question(
    rows: Dataset,
    question: QuestionRows,
    *,
    columns: Sequence[str],
    complete_on: Sequence[str],
    min_rows: int,
) -> Dataset:
    """The rows of a dataset that a question of joint statistics is over, with the columns
    that it derives.

    columns: those that the question names of this hospital's data; the dataset, which is
    none itself afterwards, has those that they and `complete_on` are made of. With
    missing = drop rows without a value in any of both are left out.

    Raises BadRequest (code missing_column, not_numeric, not_finite; null with all columns
    that have gaps, where missing = refuse; no_rows) and Refused (code min_rows) where too
    few are left, or 1 to min_rows - 1 rows have no value because of an expression: an
    answer tells how many rows it is over, and who writes the expression chooses them.

    Disclosure: as `prepare`.
    """
    for name in question.derived:
        check_name(name)
    rows = _with_numbers_of_texts(rows, question)
    derived = DerivedSql(rows, question.derived, question.in_order)
    _check_undefined(rows, question, derived, min_rows)
    deciding_columns = list(dict.fromkeys(complete_on))
    if question.missing == "drop":
        deciding_columns = list(dict.fromkeys([*columns, *complete_on]))
    remaining = with_derived(rows, derived, deciding_columns)
    remedy = "Shorten complete_on, leave missing out, or leave out the column with most gaps."
    _check_left(remaining.n_rows, rows.n_rows, rows.min_rows, remedy)
    if question.missing == "refuse":
        without_value(remaining, columns)
    return remaining


def _with_numbers_of_texts(rows: Dataset, question: QuestionRows) -> Dataset:
    """The same rows, of which texts that are all decimals count as numbers where an
    expression uses them so, as in every statistic.
    """
    numbers: set[str] = set()
    for expression in question.derived.values():
        for column in expression.numbers:
            if column not in question.derived and not rows.is_number(column):
                number_of(rows, column)
                numbers.add(column)
    return replace(rows, numbers=rows.numbers | numbers)


def _check_undefined(
    rows: Dataset, question: QuestionRows, derived: DerivedSql, min_rows: int
) -> None:
    undefined = _count_undefined(rows, question, derived)
    if not undefined:
        return
    # What asks whether a value is there may choose among rows without one, too.
    choosing: dict[str, str] = {}
    for column, expression in question.derived.items():
        if any(node.op == "missing" for node in expression.root.every()):
            lacks = f"NOT ({derived.has_value(column)})"
            choosing[column] = f"count(*) FILTER (WHERE {lacks})"
    if choosing:
        sql = f"SELECT {', '.join(choosing.values())} FROM {derived.source(IDENTIFIED)}"  # noqa: S608
        (row_counts,) = rows.query(sql)
        undefined |= dict(zip(choosing, row_counts, strict=True))
    few = [column for column, n_rows in undefined.items() if 0 < n_rows < min_rows]
    if few:
        raise Refused(
            f"In {', '.join(sorted(few))} the expression has no value in some rows that have all its columns, fewer"
            f" than this hospital's minimum of {min_rows}: an answer would tell how many.",
            remedy="Give these rows a value, by case ... else, or ask the hospital to lower min_rows under"
            " [statistics] in its policy.toml.",
            code="min_rows",
            threshold=min_rows,
        )


def with_derived(
    rows: Dataset, derived: DerivedSql, deciding_columns: Sequence[str]
) -> Dataset:
    """The dataset with derived columns, of the rows with a value in `deciding_columns`."""
    if not derived.columns and not deciding_columns:
        return rows
    selected = [quoted(name) for name in [*rows.columns, UNIQUE_ID]]
    for derived_name, column in derived.columns.items():
        selected.append(f"{column} AS {quoted(derived_name)}")
    conditions = [derived.has_value(name) for name in deciding_columns]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    source = derived.source(IDENTIFIED)
    with safe_reading(rows.timeout_seconds):
        connection = rows.connection
        connection.execute(
            f"CREATE TABLE {_STUDIED} AS SELECT {', '.join(selected)} FROM {source}{where}"  # noqa: S608
        )
        connection.execute(
            f"CREATE OR REPLACE VIEW rows AS SELECT * EXCLUDE ({quoted(UNIQUE_ID)}) FROM {_STUDIED}"  # noqa: S608
        )
        _rename_read(rows)
        connection.execute(f"CREATE VIEW {IDENTIFIED} AS SELECT * FROM {_STUDIED}")  # noqa: S608
    ((n_rows,),) = rows.query("SELECT count(*) FROM rows")
    derived_kinds = dict.fromkeys(derived.columns, "DOUBLE")
    return replace(
        rows,
        columns={**rows.columns, **derived_kinds},
        n_rows=n_rows,
        n_left_out=rows.n_left_out + rows.n_rows - n_rows,
    )


def _rename_read(rows: Dataset) -> None:
    relation_kinds = rows.query(
        f"SELECT table_type FROM information_schema.tables WHERE table_name = '{IDENTIFIED}'"  # noqa: S608
    )
    ((relation_kind,),) = relation_kinds
    relation = "VIEW" if relation_kind == "VIEW" else "TABLE"
    rows.connection.execute(f"ALTER {relation} {IDENTIFIED} RENAME TO {_READ}")


def _count_undefined(
    rows: Dataset, study: StudyRows | QuestionRows, derived: DerivedSql
) -> dict[str, int]:
    """By derived column the rows in which its expression has no value although all
    columns that it uses have one.
    """
    if not study.derived:
        return {}
    counts: list[str] = []
    for name in study.in_order:
        has_all = [derived.has_value(column) for column in study.derived[name].names]
        is_undefined = " AND ".join([*has_all, f"NOT ({derived.has_value(name)})"])
        counts.append(f"count(*) FILTER (WHERE {is_undefined})")
    sql = f"SELECT {', '.join(counts)} FROM {derived.source(IDENTIFIED)}"  # noqa: S608
    (row_counts,) = rows.query(sql)
    return dict(zip(study.in_order, row_counts, strict=True))


def _check_left(n_left: int, n_selected: int, min_rows: int, remedy: str) -> None:
    """Refuses what is too little once rows were left out."""
    if n_left == n_selected or n_left >= max(1, min_rows):
        return
    if min_rows:
        raise Refused(
            f"Without the rows that lack a value, fewer than this hospital's minimum of {min_rows} rows are left.",
            remedy=remedy,
            code="min_rows",
            threshold=min_rows,
        )
    raise bad_request(
        "no_rows", "Every row lacks a value in some column of the order.", remedy
    )


def _check_gaps(
    rows: Dataset,
    study: StudyRows,
    labels: Sequence[str],
    n_undefined: Mapping[str, int],
) -> None:
    """BadRequest naming all columns with gaps that the order does not allow."""
    checked_columns: list[str] = []
    for column in study.columns:
        # A mean stands for a missing number, for nothing else.
        if study.missing != "mean" or column in study.categorical:
            checked_columns.append(column)
    checked_columns.extend(labels)
    notes: list[str] = []
    undefined = [column for column in checked_columns if n_undefined.get(column)]
    if undefined:
        notes.append(
            f"In {', '.join(undefined)} the expression has no value for some rows that have all its columns,"
            " as ln has none of 0."
        )
    if study.missing == "mean":
        notes.append("A category and the label have no mean.")
    without_value(rows, checked_columns, notes)
