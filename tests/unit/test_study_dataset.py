"""Rows as a study needs them: derived columns by DuckDB, categories, rows left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.rows.cohort import build_cohort
from agents.rows.dataset import Dataset
from agents.rows.derived_columns import DerivedSql
from agents.rows.study_dataset import prepare, with_derived
from agents.training.kept_design import applicable_rows
from protocol.errors import BadRequest, ConsiliumError, Refused
from protocol.study_rows import Category, StudyRows, study_rows
from tests.examples import few
from tests.made_rows import fill_table, opened_rows, site_at
from tests.pairwise import quick

NAN = math.nan
Columns = Mapping[str, list[Any]]


@contextmanager
def opened(columns: Columns, *, min_rows: int = 0) -> Iterator[Dataset]:
    """A table of a site, read as the product does; NaN is NULL."""
    values: dict[str, list[Any]] = {}
    for name, cells in columns.items():
        values[name] = [None if cell != cell else cell for cell in cells]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.duckdb"
        fill_table(path, "data.t", values)
        site = site_at(f"duckdb:///{path}", Path(folder))
        with opened_rows(site, "SELECT * FROM data.t", min_rows=min_rows) as rows:
            yield rows


def derive(columns: Columns, **texts: str) -> dict[str, list[float]]:
    study = study_of(list(texts), derive=texts)
    with opened(columns) as rows:
        derived = DerivedSql(rows, study.derived, study.in_order)
        own = with_derived(rows, derived, [])
        (found,) = own.frames("SELECT * FROM rows")
    values: dict[str, list[float]] = {}
    for name in texts:
        values[name] = found[name].to_numpy(dtype=float, na_value=NAN).tolist()
    return values


def study_of(
    columns: list[str],
    *,
    categorical: dict[str, Any] | None = None,
    derive: dict[str, str] | None = None,
    missing: Any = "refuse",
    complete_on: list[str] | None = None,
) -> StudyRows:
    categories = {}
    for name, reference in (categorical or {}).items():
        categories[name] = Category(reference=reference)
    return study_rows(
        columns=columns,
        categorical=categories,
        derive=derive or {},
        missing=missing,
        complete_on=complete_on or [],
        roles={"label_name": "y", "unique_id": "id"},
    )


TABLE: dict[str, list[Any]] = {
    "id": [1, 2, 3, 4],
    "a": [1.0, 2.0, None, -4.0],
    "b": [2, 0, 3, 4],
    "sex": ["F", "M ", None, "F"],
    "y": [0, 1, 0, 1],
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b - 1", [2, 1, NAN, -1]),
        ("a / b", [0.5, NAN, NAN, -1]),
        ("ln(a)", [0, math.log(2), NAN, NAN]),
        ("sqrt(a)", [1, math.sqrt(2), NAN, NAN]),
        ("exp(a * 1000)", [NAN, NAN, NAN, 0]),
        ("power(a, 0.5)", [1, math.sqrt(2), NAN, NAN]),
        ("power(b, -1)", [0.5, NAN, 1 / 3, 0.25]),
        ("abs(a)", [1, 2, NAN, 4]),
        ("least(a, b)", [1, 0, NAN, -4]),
        ("greatest(a, b, 3)", [3, 3, NAN, 4]),
        ("a >= 2", [0, 1, NAN, 0]),
        ("not a = 2", [1, 0, NAN, 1]),
        ("a <> 2 and b > 0", [1, 0, NAN, 1]),
        ("a = 2 or b = 2", [1, 1, NAN, 0]),
        ("a in (1, -4)", [1, 0, NAN, 1]),
        ("a is null", [0, 0, 1, 0]),
        ("a / b is null", [0, 1, 1, 0]),
        ("sex = 'M'", [0, 1, NAN, 0]),
        ("sex in ('F', 'x')", [1, 0, NAN, 1]),
        ("sex is not null", [1, 1, 0, 1]),
        ("case when a is null then 0 else a end", [1, 2, 0, -4]),
        ("case sex when 'F' then 1 when 'M' then 2 end", [1, 2, NAN, 1]),
        ("case when a > 1 then 5 end", [NAN, 5, NAN, NAN]),
        ("case when a > 0 then ln(a) else 0 end", [0, math.log(2), NAN, 0]),
    ],
)
def test_a_derived_column_has_the_value_of_its_expression(
    text: str, expected: list[float]
) -> None:
    np.testing.assert_allclose(derive(TABLE, d=text)["d"], expected, rtol=1e-15)


def test_a_third_is_a_division() -> None:
    x = {"id": list(range(1, 200)), "x": list(range(1, 200))}
    for divisor in (3, 7, 49, 10):
        expected = (np.arange(1, 200) / divisor).tolist()
        assert derive(x, d=f"x / {divisor}")["d"] == expected
        assert derive(x, d=f"x * (1 / {divisor})")["d"] == expected


def test_derived_columns_of_derived_columns() -> None:
    found = derive(TABLE, c="d * 2", d="a + b", e="c + d is null", f="d is null")
    np.testing.assert_array_equal(found["c"], [6, 4, NAN, 0])
    np.testing.assert_array_equal(found["e"], [0, 0, 1, 0])
    np.testing.assert_array_equal(found["f"], [0, 0, 1, 0])


def test_of_a_spline_what_it_is_over() -> None:
    found = derive(TABLE, s="ns(b * 2, 1, 5)")
    assert found["s"] == [4, 0, 6, 8]


def test_numbers_of_every_kind_are_numbers() -> None:
    columns = {
        "id": [1, 2, 3],
        "decimal": [Decimal("0.10"), None, Decimal("2")],
        "flag": [True, False, True],
        "whole": [10**18 + 1, None, 3],
    }
    found = derive(columns, d="decimal * 10", f="flag + 1", w="whole - 1")
    np.testing.assert_array_equal(found["d"], [1, NAN, 20])
    assert found["f"] == [2, 1, 2]
    np.testing.assert_array_equal(found["w"], [1e18, NAN, 2])


def test_a_text_is_compared_in_its_canonical_form() -> None:
    columns = {
        "id": [1, 2, 3, 4],
        "t": [" it's ", "it's", "1.0", "e\u0301"],
        "n": [1, 2, 3, 4],
        "flag": [True, False, None, True],
    }
    assert derive(columns, d="t = 'it''s'")["d"] == [1, 1, 0, 0]
    assert derive(columns, d="t = '1'")["d"] == [0, 0, 1, 0]
    assert derive(columns, d="t = '\u00e9'")["d"] == [0, 0, 0, 1]
    assert derive(columns, d="n = '2'")["d"] == [0, 1, 0, 0]
    np.testing.assert_array_equal(
        derive(columns, d="flag = 'true'")["d"], [1, 0, NAN, 1]
    )


def test_columns_that_are_called_as_steps_are() -> None:
    columns = {"id": [1, 2], "n0": [1.0, 2.0], "n_1": [3.0, 4.0], "select": [5.0, 6.0]}
    found = derive(columns, d='n0 + n_1 * "select"')
    assert found["d"] == [16, 26]


def test_a_constant_text_is_never_sql() -> None:
    frame = {"id": [1, 2], "t": ["x", "'); DROP TABLE rows; --"]}
    text = "t = '''); DROP TABLE rows; - -'"
    assert derive(frame, d=text)["d"] == [0, 0]


def test_a_text_where_a_number_belongs_is_refused_by_its_column() -> None:
    with pytest.raises(BadRequest, match="uses sex as a number") as caught:
        derive(TABLE, d="sex + 1")
    assert caught.value.code == "not_numeric"


@few
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(-1e6, 1e6)),
            st.one_of(st.none(), st.floats(-1e6, 1e6)),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_arithmetic_is_that_of_numpy(rows: list[Any]) -> None:
    a = np.array([row[0] for row in rows], dtype=float)
    b = np.array([row[1] for row in rows], dtype=float)
    columns = {"id": list(range(len(rows))), "a": a.tolist(), "b": b.tolist()}
    found = derive(columns, d="(a + b) * a - b", e="a < b", q="a / b")
    np.testing.assert_allclose(found["d"], (a + b) * a - b, rtol=1e-12, atol=1e-300)
    has_both = ~(np.isnan(a) | np.isnan(b))
    np.testing.assert_array_equal(
        found["e"], np.where(has_both, (a < b).astype(float), NAN)
    )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotient = np.where(b != 0, a / b, NAN)
    quotient[~np.isfinite(quotient)] = NAN
    np.testing.assert_array_equal(found["q"], quotient)


# Rows that are left out, and gaps


@contextmanager
def prepared(
    study: StudyRows, *, min_rows: int = 0, table: Columns = TABLE
) -> Iterator[Any]:
    with opened(table, min_rows=min_rows) as rows:
        yield prepare(rows, study, labels=["y"])


def ids_of(study: StudyRows, **options: Any) -> list[int]:
    with prepared(study, **options) as found:
        return [int(row[0]) for row in found.rows.query("SELECT id FROM rows")]


def refused(study: StudyRows, **options: Any) -> ConsiliumError:
    with pytest.raises(ConsiliumError) as caught, prepared(study, **options):
        pass
    return caught.value


def cohort_of(study: StudyRows, **options: Any) -> Any:
    with prepared(study, **options) as found:
        return build_cohort(
            found.rows,
            unique_id="id",
            attributes=study.columns,
            label_name="y",
            model_type="lr",
            key=b"k" * 32,
            categorical=list(study.categorical),
            may_miss=study.missing == "mean",
            member_columns=study.plain,
        )


SEX = {"sex": None}


def test_drop_keeps_the_complete_cases() -> None:
    study = study_of(["a", "b", "sex"], categorical=SEX, missing="drop")
    assert ids_of(study) == [1, 2, 4]
    with prepared(study) as found:
        flow = found.flow
    assert (flow.n_selected, flow.n_used, flow.n_left_out) == (4, 3, 1)
    cohort = cohort_of(study)
    assert cohort.levels == {"sex": ["F", "M"]}
    assert cohort.X[:, 2].tolist() == [0, 1, 0]


def test_drop_leaves_out_what_a_derived_column_lacks() -> None:
    study = study_of(["b", "log_a"], derive={"log_a": "ln(a)"}, missing="drop")
    assert ids_of(study) == [1, 2]
    with prepared(study) as found:
        assert found.flow.n_undefined == {"log_a": 1}


def test_complete_on_says_which_columns_decide() -> None:
    study = study_of(["b"], missing="drop", complete_on=["sex"])
    assert ids_of(study) == [1, 2, 4]
    study = study_of(
        ["b", "log_a"], derive={"log_a": "ln(a)"}, missing="drop", complete_on=["sex"]
    )
    assert refused(study).code == "null"


def test_complete_on_may_name_a_derived_column() -> None:
    study = study_of(["b", "r"], derive={"r": "sqrt(a)"}, complete_on=["r"])
    assert ids_of(study) == [1, 2]


def test_an_unknown_column_of_complete_on_is_named() -> None:
    error = refused(study_of(["b"], complete_on=["nope"]))
    assert error.code == "missing_column"
    assert "nope" in error.sentence


def test_all_columns_with_gaps_are_named_at_once() -> None:
    study = study_of(["a", "sex", "log_b"], categorical=SEX, derive={"log_b": "ln(b)"})
    sentence = refused(study).sentence
    parts = (
        "1 row without a value (NULL) in a",
        "in sex",
        "in log_b",
        "as ln has none",
    )
    for part in parts:
        assert part in sentence
    assert "ewer than 3 rows" in refused(study, min_rows=3).sentence


def test_mean_keeps_gaps_of_numbers_and_refuses_others() -> None:
    cohort = cohort_of(study_of(["a", "b"], missing="mean"))
    np.testing.assert_array_equal(cohort.X[:, 0], [1, 2, NAN, -4])
    error = refused(study_of(["a", "sex"], categorical=SEX, missing="mean"))
    assert "in sex" in error.sentence
    assert "no mean" in error.sentence
    with pytest.raises(BadRequest) as caught:
        cohort_of(study_of(["sex"], missing="mean"))
    assert caught.value.code == "not_numeric"


def test_a_label_without_a_value_has_no_mean() -> None:
    table = {**TABLE, "y": [0, 1, None, 1]}
    assert "in y" in refused(study_of(["b"], missing="mean"), table=table).sentence
    assert ids_of(study_of(["b"], missing="drop"), table=table) == [1, 2, 4]


def test_no_row_left_is_refused_with_a_remedy() -> None:
    table = {**TABLE, "a": [None] * 4}
    study = study_of(["a"], missing="drop")
    assert refused(study, table=table).code == "no_rows"
    error = refused(study, table=table, min_rows=2)
    assert isinstance(error, Refused)
    assert error.code == "min_rows"


@pytest.mark.parametrize(("min_rows", "passes"), [(2, True), (3, True), (4, False)])
def test_the_rows_that_are_left_must_be_enough(min_rows: int, passes: bool) -> None:
    study = study_of(["a"], missing="drop")
    if passes:
        assert ids_of(study, min_rows=min_rows) == [1, 2, 4]
        return
    assert refused(study, min_rows=min_rows).code == "min_rows"


def test_levels_are_one_whatever_type_they_have() -> None:
    study = study_of(["k"], categorical={"k": 1})
    for codes in (["1", "1.0 ", "2"], [1.0, 1.0, 2.0], [1, 1, 2]):
        table = {"id": [1, 2, 3], "k": codes, "y": [0, 1, 0]}
        cohort = cohort_of(study, table=table)
        assert cohort.levels == {"k": ["1", "2"]}
        assert cohort.X[:, 0].tolist() == [0, 0, 1]


def test_a_cohort_of_prepared_rows() -> None:
    study = study_of(
        ["b", "sex", "c"], categorical=SEX, derive={"c": "b + 1"}, missing="drop"
    )
    cohort = cohort_of(study)
    assert cohort.X.tolist() == [[2, 0, 3], [0, 1, 1], [4, 0, 5]]
    assert list(cohort.members.values) == ["b", "sex", "y"]
    assert len(cohort.members.ids) == 3


def test_rows_for_a_model_that_exists_say_what_they_lack() -> None:
    stored = {
        "attributes": ["a", "sex", "log_a"],
        "unique_id": "id",
        "categorical": {
            "sex": {"reference": "F", "levels": ["F", "M"], "has_other": False}
        },
        "derive": {"log_a": "ln(a)"},
    }
    with opened(TABLE) as rows:
        found = applicable_rows(rows, stored)
    assert found.cohort is not None
    assert found.cohort.unique_ids == ["1", "2"]
    assert found.cohort.X.tolist() == [[1, 0, 0], [2, 1, math.log(2)]]
    assert found.reasons == {
        "3": "no value in a; no value in sex; no value in log_a",
        "4": "no value in log_a",
    }


@pytest.mark.parametrize("derive", [{}, {"c": "a + 1"}])
def test_errors_hold_no_value(derive: dict[str, str]) -> None:
    table = {**TABLE, "a": ["canary", None, "2", "3"]}
    study = study_of([*derive] or ["a"], derive=derive)
    assert "canary" not in str(refused(study, table=table))


@pytest.mark.parametrize(("n", "passes"), quick([(1_001, False), (1_000, True)], 1))
def test_a_category_has_so_many_levels(n: int, passes: bool) -> None:
    table = {
        "id": list(range(n)),
        "k": list(range(n)),
        "y": [0, 1] * (n // 2) + [0] * (n % 2),
    }
    study = study_of(["k"], categorical={"k": None})
    if passes:
        assert len(cohort_of(study, table=table).levels["k"]) == n
        return
    with pytest.raises(BadRequest) as caught:
        cohort_of(study, table=table)
    assert caught.value.code == "levels"
