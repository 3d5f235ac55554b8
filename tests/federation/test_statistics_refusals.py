"""What joint statistics refuse: each with a sentence, a remedy and a code, and nothing
in anybody's results folder.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

from agents.statistics import pooled
from protocol.errors import ConsiliumError
from tests.made_statistics import Hospitals, make_hospitals, no_waiting_for_disks
from tests.pairwise import quick

PROVIDERS = (2, 3, 4)
RULES: dict[str, Any] = {
    "row_level": ["id", "x", "y"],
    "row_expressions": True,
    "unique_ids": {"*.csv": "id"},
}
DATA = dict.fromkeys(PROVIDERS, "rows.csv")


def rows(n_rows: int = 30, *, first: int = 0) -> pd.DataFrame:
    """x and y are whole numbers, t texts."""
    frame = pd.DataFrame({"id": range(first, first + n_rows)})
    return frame.assign(x=100 + frame.id * 3 % 17, y=frame.id, t="some-secret-text")


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    made = make_hospitals(
        tmp_path_factory.mktemp("sites"), (2, 3, 4, 5), filter_columns=["y"]
    )
    made.allow(**RULES)
    for user in PROVIDERS:
        made.write(user, "rows.csv", rows())
        made.write(user, "rows.parquet", rows())
    with no_waiting_for_disks():
        yield made


@pytest.fixture
def strict(hospitals: Hospitals) -> Iterator[Hospitals]:
    """Another policy for one test."""
    yield hospitals
    hospitals.allow(**RULES)


# --- the request ----------------------------------------------------------------------------------------------------

CUSTOM = {"key": "id", "expression": "df1.x * df2.x"}
REQUESTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "an unknown method": ("mode", {}, "invalid_input"),
    "an unknown provider": ("avg", {"data": {2: "rows.csv", 9: "rows.csv"}}, "user"),
    "an unknown receiver": ("avg", {"receivers": [9]}, "user"),
    "an initiator that takes no part": ("avg", {"initiator": 5}, "user_id"),
    "an unknown column": ("avg", {"key": "weight"}, "missing_column"),
    "an unknown group": ("avg", {"group_by": ["h"]}, "missing_column"),
    "an unknown alias": (
        "custom",
        {**CUSTOM, "expression": "df1.x * df9.x"},
        "expression",
    ),
    "an unknown column in the expression": (
        "custom",
        {**CUSTOM, "expression": "sum(df1.x * df2.z)"},
        "missing_column",
    ),
    "a column of nobody": ("custom", {**CUSTOM, "expression": "x * 2"}, "expression"),
    "a function": (
        "custom",
        {**CUSTOM, "expression": "df1.x + read_csv('/etc/passwd')"},
        "expression",
    ),
    "another function": (
        "custom",
        {**CUSTOM, "expression": "exp(df1.x) + df2.x"},
        "expression",
    ),
    "a subquery": (
        "custom",
        {**CUSTOM, "expression": "df1.x + (SELECT max(x) FROM rows)"},
        "expression",
    ),
    "a statement": (
        "custom",
        {**CUSTOM, "expression": "df1.x; DROP TABLE rows"},
        "expression",
    ),
    "python": (
        "custom",
        {**CUSTOM, "expression": "__import__('os').getpid()"},
        "expression",
    ),
    "a division over two hospitals' rows": (
        "custom",
        {**CUSTOM, "expression": "df1.x / df2.x"},
        "expression",
    ),
    "a text in an expression": (
        "custom",
        {**CUSTOM, "expression": "sum(df1.t + df2.x)"},
        "not_numeric",
    ),
    "no expression": ("custom", {"key": "id"}, "expression"),
    "a threshold for an average": ("avg", {"threshold": 3}, "threshold"),
    "texts in the place of numbers": ("avg", {"key": "t"}, "not_numeric"),
    "a way out of the data folder": (
        "avg",
        {"data": {2: "rows.csv", 3: "../settings.toml.csv", 4: "rows.csv"}},
        "data_path",
    ),
    "a missing file": (
        "avg",
        {"data": {2: "rows.csv", 3: "none.csv", 4: "rows.csv"}},
        "missing_file",
    ),
    "a table that is not open": (
        "avg",
        {"data": {2: "rows.csv", 3: "data.other", 4: "rows.csv"}},
        "tables",
    ),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_requests(hospitals: Hospitals, what: str) -> None:
    method, fields, code = REQUESTS[what]
    error = hospitals.refused(method, **{"data": DATA, **fields})
    assert error.code == code
    assert "secret" not in error.sentence + error.remedy


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty_file"),
    "only a header": (b"id,x\n", "no_rows"),
    "no header": (b"1,2.5\n2,3.5\n", "no_header"),
    "another delimiter": (b"id^x\n1^2\n3^4\n", "delimiter"),
    "another encoding": (
        "id,x,stra\u00dfe\n1,2,3\n".encode("latin-1") * 20,
        "encoding",
    ),
    "an infinity": (b"id,x\n" + b"1,2\n" * 20 + b"2,inf\n", "not_finite"),
    "no number": (b"id,x\n" + b"1,2\n" * 20 + b"2,some-secret-text\n", "not_numeric"),
    "outside the range of doubles": (
        b"id,x\n" + b"1,2\n" * 20 + b"2,1e999\n",
        "digits",
    ),
    "a row of another length": (
        b"id,x\n" + b"1,2\n" * 20 + b"2,3,some-secret-text\n",
        "csv",
    ),
    "a column twice": (b"x,id,x\n" + b"1,2,3\n" * 20, "duplicate_column"),
}


@pytest.mark.parametrize("what", FILES)
def test_files(hospitals: Hospitals, what: str) -> None:
    content, code = FILES[what]
    hospitals.write(3, "bad.csv", content)
    error = hospitals.refused("avg", {**DATA, 3: "bad.csv"})
    assert error.code == code
    assert "secret" not in error.sentence + error.remedy


def test_a_row_that_is_corrected(hospitals: Hospitals) -> None:
    """What was refused has told nothing: with one row corrected it may be asked again."""
    hospitals.write(3, "corrected.csv", rows().assign(x=["2,5", *range(29)]))
    assert hospitals.refused("avg", {**DATA, 3: "corrected.csv"}).code == "not_numeric"
    hospitals.write(3, "corrected.csv", rows().assign(x=["2.5", *range(29)]))
    assert hospitals.ask("count", {**DATA, 3: "corrected.csv"}).number == 90


@pytest.mark.parametrize(
    ("name", "content"), [("bad.parquet", b"PAR1 no"), ("bad.json", b"[1, 2]\n")]
)
def test_files_of_other_kinds(hospitals: Hospitals, name: str, content: bytes) -> None:
    hospitals.write(3, name, content)
    assert hospitals.refused("avg", {**DATA, 3: name}).code == name.removeprefix("bad.")


def test_infinite_doubles(hospitals: Hospitals) -> None:
    hospitals.write(3, "infinite.parquet", rows().assign(x=[*[1.0] * 29, float("inf")]))
    assert (
        hospitals.refused("var", {**DATA, 3: "infinite.parquet"}).code == "not_finite"
    )


# --- disclosure: at n - 1, n, n + 1 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [9, 10, 11])
def test_rows_of_a_provider(hospitals: Hospitals, n_rows: int) -> None:
    data = {**DATA, 4: f"few{n_rows}.csv"}
    hospitals.write(4, data[4], rows(n_rows))
    if n_rows >= 10:
        assert hospitals.ask("count", data).number == 60 + n_rows
        return
    error = hospitals.refused("count", data)
    assert (error.code, error.detail["threshold"]) == ("min_rows", 10)
    assert str(n_rows) not in error.sentence


def test_rows_with_a_value(hospitals: Hospitals) -> None:
    hospitals.write(4, "few.csv", rows(20).assign(x=[*range(9), *[None] * 11]))
    assert hospitals.refused("sum", {**DATA, 4: "few.csv"}).code == "min_rows"


@pytest.mark.parametrize("n_providers", [2, 3, 4])
def test_providers(strict: Hospitals, n_providers: int) -> None:
    strict.allow(min_providers=3)
    strict.write(5, "rows.csv", rows())
    data = dict.fromkeys((2, 3, 4, 5)[:n_providers], "rows.csv")
    if n_providers >= 3:
        assert strict.ask("count", data).number == 30 * n_providers
    else:
        assert strict.refused("count", data).code == "min_providers"


@pytest.mark.parametrize(("largest", "code"), [(449, ""), (451, "max_share")])
def test_a_sum_that_two_rows_dominate(
    hospitals: Hospitals, largest: int, code: str
) -> None:
    """Two rows of 450 would make nine tenths of 900 + 100."""
    hospitals.write(
        4,
        f"large{largest}.csv",
        pd.DataFrame({"id": range(12), "x": [largest, largest, *[10] * 10]}),
    )
    data = {**DATA, 4: f"large{largest}.csv"}
    if not code:
        assert hospitals.ask("sum", data).summary["suppressed"] == []
        return
    error = hospitals.refused("sum", data)
    assert (error.code, error.detail["threshold"]) == (code, "9/10")
    assert hospitals.ask("count", data).number == 72, (
        "how many rows there are shows no value"
    )


CLOSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "the method": ({"methods": ["sum"]}, {}, "methods"),
    "the file": ({"files": ["open/*"]}, {}, "files"),
    "values through the coordinator": ({}, {"disclose": True}, "disclose"),
}


@pytest.mark.parametrize("what", CLOSED)
def test_policies(strict: Hospitals, what: str) -> None:
    rules, fields, code = CLOSED[what]
    strict.allow((4,), **rules)
    assert strict.refused("avg", DATA, **fields).code == code


def test_no_section_is_no_statistics(strict: Hospitals) -> None:
    strict.sites[4].policy.write_text(strict.policies[4])
    assert strict.refused("avg", DATA).code == "statistics"


def test_who_may_ask_and_who_may_receive(strict: Hospitals) -> None:
    text = strict.policies[4]
    for rule in ("initiators", "receivers"):
        allowed = "initiators = [2, 3, 4, 5]\nreceivers = [2, 3, 4, 5]".replace(
            f"{rule} = [2, 3, 4, 5]", f"{rule} = [3, 4]"
        )
        strict.policies[4] = text.replace("initiators = [2, 3, 4, 5]", allowed)
        strict.allow((4,))
        assert strict.refused("avg", DATA, receivers=[5], initiator=2).code == rule
    strict.policies[4] = text


def test_a_quantile_s_providers_are_receivers_of_its_counts(strict: Hospitals) -> None:
    """They check what is counted by opening it: each policy must allow each of them as
    a receiver.
    """
    text = strict.policies[4]
    lists = "initiators = [2, 3, 4, 5]\nreceivers = [3, 4, 5]"
    strict.policies[4] = text.replace("initiators = [2, 3, 4, 5]", lists)
    strict.allow((4,))
    try:
        assert strict.ask("sum", DATA, receivers=[5]).number > 0
        assert strict.refused("median", DATA, receivers=[5]).code == "receivers"
        strict.write(5, "rows.csv", rows())
        assert (
            strict.ask(
                "median", dict.fromkeys((3, 4, 5), "rows.csv"), receivers=[5]
            ).number
            > 0
        )
    finally:
        strict.policies[4] = text


# --- differences between answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "fields"),
    quick(
        [("sum", {}), ("custom", {"key": "id", "expression": "sum(df1.x + df2.x)"})], 1
    ),
)
def test_the_same_question_with_one_row_fewer(
    hospitals: Hospitals, method: str, fields: dict[str, Any]
) -> None:
    """The difference would be that person's value; who asks for others' rows sees that
    a rule holds, no more.
    """
    data = dict.fromkeys((2, 3), f"{method}.csv")
    for user in data:
        hospitals.write(user, f"{method}.csv", rows())
    first = hospitals.ask(method, data, **fields)
    assert hospitals.ask(method, data, **fields).text == first.text
    for n_changed in (1, 9):
        hospitals.write(3, f"{method}.csv", rows().drop(index=range(n_changed)))
        error = hospitals.refused(method, data, **fields)
        assert (error.code, error.detail["threshold"]) == ("earlier_cohort", 10)
    hospitals.write(3, f"{method}.csv", rows().drop(index=range(10)))
    assert hospitals.ask(method, data, **fields).number != first.number


@pytest.mark.parametrize("group_by", [None, ["g"]])
@pytest.mark.parametrize("asker", quick([2, 3, 5], 1))
def test_a_quantile_has_been_told_to_every_provider(
    hospitals: Hospitals, asker: int, group_by: list[str] | None
) -> None:
    """Whoever opened the counts of the first question could find, by the second, the
    one row between them.
    """
    name, fields = (
        f"told{asker}{group_by}.csv",
        {"group_by": group_by} if group_by else {},
    )
    for user in (2, 3, 4):
        hospitals.write(user, name, rows(40).assign(g=["a", "b"] * 20))
    data = dict.fromkeys((2, 3, 4), name)
    hospitals.ask("median", data, receivers=[5], initiator=4, **fields)
    hospitals.write(4, name, rows(40).assign(g=["a", "b"] * 20).drop(index=7))
    assert (
        hospitals.refused("median", data, receivers=[5], initiator=asker, **fields).code
        == "earlier_cohort"
    )


def test_a_sum_has_been_told_to_who_asked(hospitals: Hospitals) -> None:
    """A provider that receives nothing cannot open it, and compares nothing with it."""
    for user in PROVIDERS:
        hospitals.write(user, "untold.csv", rows(40))
    data = dict.fromkeys(PROVIDERS, "untold.csv")
    hospitals.ask("sum", data, receivers=[4], initiator=4)
    hospitals.write(4, "untold.csv", rows(40).drop(index=7))
    assert hospitals.ask("sum", data, receivers=[2], initiator=2).number > 0


def test_a_database_with_one_row_fewer(hospitals: Hospitals) -> None:
    """Whoever asks writes the SELECT: each is compared with the others, and with the
    table.
    """
    for user in (2, 3):
        hospitals.write(user, "data.pooled", rows(40))
    hospitals.ask(
        "sum", {2: "data.pooled", 3: "SELECT x FROM data.pooled WHERE y < 30"}
    )
    for sql in (
        "SELECT x FROM data.pooled WHERE y < 31",
        "select x from data.pooled where y < 29",
    ):
        assert (
            hospitals.refused("sum", {2: "data.pooled", 3: sql}).code
            == "earlier_cohort"
        )
    hospitals.ask("sum", dict.fromkeys((2, 3), "data.pooled"))
    sql = "SELECT x FROM data.pooled WHERE y <> 7"
    assert hospitals.refused("sum", {2: "data.pooled", 3: sql}).code == "earlier_cohort"


def test_two_orders_at_once_with_one_row_between_them(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have been compared with earlier orders before either is written down."""
    both, tally = threading.Barrier(2), pooled.own_tallies

    def tally_together(dataset: Any, request: Any, user_id: int) -> Any:
        if user_id == 3:
            both.wait(60)
        return tally(dataset, request, user_id)

    monkeypatch.setattr(pooled, "own_tallies", tally_together)
    hospitals.write(2, "at-once.csv", rows(40))
    hospitals.write(3, "data.pooled", rows(40).assign(x=rows(40).x + 1000))
    refused: list[str] = []

    def ask(where: str) -> None:
        try:
            hospitals.ask(
                "sum",
                {2: "at-once.csv", 3: f"SELECT x FROM data.pooled WHERE y < {where}"},
            )
        except ConsiliumError as error:
            refused.append(error.code)

    threads = [threading.Thread(target=ask, args=(where,)) for where in ("39", "40")]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert refused == ["earlier_cohort"]


def test_the_same_column_by_groups_with_one_row_fewer(hospitals: Hospitals) -> None:
    data = dict.fromkeys((2, 3), "by-groups.csv")
    for user in data:
        hospitals.write(user, "by-groups.csv", rows(40).assign(g=["a", "b"] * 20))
    hospitals.ask("sum", data)
    hospitals.write(
        3, "by-groups.csv", rows(40).assign(g=["a", "b"] * 20).drop(index=7)
    )
    answer = hospitals.ask("sum", data, group_by=["g"])
    withheld = answer.by("g", value="withheld")
    assert withheld == {("a",): "complement 10", ("b",): "earlier_cohort 10"}


@pytest.mark.parametrize(
    ("n_more", "is_told"), quick([(1, False), (9, False), (30, True)], 1)
)
def test_a_group_of_which_a_few_rows_changed_among_many(
    hospitals: Hospitals, n_more: int, is_told: bool
) -> None:
    """The rows as a whole have changed enough, and yet the group's two sums would tell
    who has come.
    """
    name, before = f"near-group{n_more}.csv", rows(90).assign(g=["a", "b", "c"] * 30)
    for user in (2, 3):
        hospitals.write(user, name, before)
    hospitals.ask("sum", dict.fromkeys((2, 3), name), group_by=["g"])
    come = rows(150)[90 : 90 + n_more].assign(g="a")
    hospitals.write(3, name, pd.concat([before, come, rows(200)[150:].assign(g="b")]))
    answer = hospitals.ask("sum", dict.fromkeys((2, 3), name), group_by=["g"])
    told = float(before[before.g == "a"].x.sum() * 2 + come.x.sum())
    assert answer.by("g", value="sum")[("a",)] == (repr(told) if is_told else "")
    if not is_told:
        assert answer.by("g", value="withheld")[("a",)] == "earlier_cohort 10"


@pytest.mark.parametrize(
    "method", quick(["sum", "median", "histogram", "frequency", "cov"], 2)
)
def test_one_row_more_among_rows_without_a_value(
    hospitals: Hospitals, method: str
) -> None:
    """They change no sum, and so hide nobody who comes with them."""
    # Refused for what this method has told, not for what another one has.
    hospitals.forget(2, 3)
    for user in (2, 3):
        content = pd.concat([rows(40), rows(60)[40:].assign(x=None)])
        # Other people than those of the other tests.
        content = content.assign(id=content.id + 1000)
        hospitals.write(
            user,
            "data.pooled",
            content.assign(x=content.x.where(content.y != 20, 7.25)),
        )
    fields: dict[str, Any] = {
        "histogram": {"bins": [0, 200]},
        "cov": {"columns": ["x", "y"]},
    }.get(method, {})
    few = "SELECT x, y FROM data.pooled WHERE y < 20"
    hospitals.ask(method, {2: "data.pooled", 3: few}, **fields)
    more = "SELECT x, y FROM data.pooled WHERE y < 21 OR y >= 40"
    assert (
        hospitals.refused(method, {2: "data.pooled", 3: more}, **fields).code
        == "earlier_cohort"
    )


@pytest.mark.parametrize(("n_more", "code"), [(9, "earlier_cohort"), (10, "")])
def test_a_column_of_two_values_with_more_rows(
    hospitals: Hospitals, n_more: int, code: str
) -> None:
    """Its sketch changes in two cells, however many rows have come."""
    name = f"two-values{n_more}.csv"
    for user in (2, 3):
        hospitals.write(user, name, rows(40).assign(g=["a", "b"] * 20))
    hospitals.ask("frequency", dict.fromkeys((2, 3), name), key="g")
    hospitals.write(
        3, name, rows(40 + n_more).assign(g=[*["a", "b"] * 20, *["a"] * n_more])
    )
    if code:
        assert (
            hospitals.refused("frequency", dict.fromkeys((2, 3), name), key="g").code
            == code
        )
        return
    answer = hospitals.ask("frequency", dict.fromkeys((2, 3), name), key="g")
    assert answer.by("g", value="frequency") == {("a",): "50", ("b",): "40"}


def test_people_that_another_hospital_chooses(hospitals: Hospitals) -> None:
    """Another file with one key fewer at hospital 3: the joined rows of hospital 2
    would differ by one person.
    """
    hospitals.write(2, "people.csv", rows())
    hospitals.write(3, "all.csv", rows())
    hospitals.write(3, "all-but-one.csv", rows().drop(index=7))
    fields: dict[str, Any] = {"key": "id", "expression": "sum(df1.x + df2.x)"}
    hospitals.ask("custom", {3: "all.csv", 2: "people.csv"}, **fields)
    assert (
        hospitals.refused(
            "custom", {3: "all-but-one.csv", 2: "people.csv"}, **fields
        ).code
        == "earlier_cohort"
    )


@pytest.mark.parametrize(
    ("expression", "is_refused"),
    quick(
        [
            ("sum(df1.x) + sum(df2.x)", True),
            ("avg(df1.x + df2.x)", True),
            ("var(df2.x)", True),
            ("sum(2 * df2.x) / count(*)", True),
            ("sum(df1.x)", False),
            ("count(df1.x > 5) + count(df2.x > 5)", False),
        ],
        2,
    ),
)
def test_joined_rows_that_two_people_dominate(
    hospitals: Hospitals, expression: str, is_refused: bool
) -> None:
    name = f"two-people-{abs(hash(expression))}.csv"
    hospitals.write(2, name, rows())
    hospitals.write(3, name, rows().assign(x=[4000, -5000] + [34, 36] * 14))
    order: dict[str, Any] = {"key": "id", "expression": expression}
    data = dict.fromkeys((2, 3), name)
    if is_refused:
        error = hospitals.refused("custom", data, **order)
        assert (error.code, error.detail["threshold"]) == ("max_share", "9/10")
        hospitals.write(3, name, rows().assign(x=[4000, -5000] + [35, 37] * 14))
    hospitals.ask("custom", data, **order)


MISSING = {
    "a missing value": "sum(df1.x + df2.x)",
    "a division by zero": "sum(df1.x + df2.x * df2.x / df2.x)",
    "a value counted by itself": "sum(df1.x) + count(df2.x)",
}


@pytest.mark.parametrize("what", MISSING)
@pytest.mark.parametrize(
    ("n_values", "code"),
    quick([(9, "min_rows"), (1, "min_rows"), (29, "earlier_cohort"), (20, "")], 1),
)
def test_people_that_missing_values_choose(
    hospitals: Hospitals, what: str, n_values: int, code: str
) -> None:
    """Hospital 3 brings all keys, and values of few people or of all but one: x of
    hospital 2 is told of no one.
    """
    missing = 0 if "zero" in what else None
    hospitals.write(2, f"{what}.csv", rows())
    hospitals.write(3, f"{what}.csv", rows())
    name = f"{what}{n_values}.csv"
    values = [2 + i % 3 for i in range(n_values)]
    hospitals.write(3, name, rows().assign(x=[*values, *[missing] * (30 - n_values)]))
    order: dict[str, Any] = {
        "key": "id",
        "expression": MISSING[what],
        "receivers": [2, 3],
    }
    hospitals.ask("custom", {2: f"{what}.csv", 3: f"{what}.csv"}, initiator=3, **order)
    if code:
        assert (
            hospitals.refused(
                "custom", {2: f"{what}.csv", 3: name}, initiator=3, **order
            ).code
            == code
        )
        return
    answer = hospitals.ask("custom", {2: f"{what}.csv", 3: name}, initiator=3, **order)
    other = {
        "a missing value": sum(values),
        "a division by zero": sum(values),
        "a value counted by itself": n_values,
    }
    assert answer.number == rows().x[:n_values].sum() + other[what]
    assert answer.summary["rows_null"] == {"2": 0, "3": 30 - n_values}


# --- schedules ------------------------------------------------------------------------------------------------------

SCHEDULED: dict[str, tuple[str, dict[str, Any]]] = {
    "pooled": ("avg", {"key": "x", "group_by": ["g"]}),
    "ranked": ("median", {"key": "x"}),
    "one joined number": (
        "custom",
        {"key": "id", "expression": "sum(df1.x * df2.x) / 7"},
    ),
    "joined rows": (
        "custom",
        {"key": "id", "expression": "df1.x / 7 - df2.y", "result_type": "json"},
    ),
}


@pytest.mark.parametrize("what", quick(SCHEDULED, 1))
def test_a_schedule_repeats_its_last_result(hospitals: Hospitals, what: str) -> None:
    """Of few new rows nothing is told; then, with enough of them, there is a new
    result.
    """
    method, fields = SCHEDULED[what]
    data, receivers = dict.fromkeys((2, 3), f"{what}.csv"), [3, 5]
    labels = ["a"] * 20 + ["b"] * 12 + ["c"] * 8
    for user in data:
        hospitals.write(user, f"{what}.csv", rows(40).assign(g=labels))
    first = hospitals.ask(method, data, receivers=receivers, **fields)
    for user in data:
        hospitals.write(user, f"{what}.csv", rows(43).assign(g=[*labels, *"aaa"]))
    second = hospitals.ask(
        method, data, receivers=receivers, repeats=first.order_id, **fields
    )
    assert second.text == first.text
    assert second.summary["repeats"] == first.order_id
    assert f"the result of order {first.order_id} stands" in second.summary["notes"][-1]
    assert second.notes["notes"] == second.summary["notes"]
    hospitals.write(3, f"{what}.csv", rows(60).assign(g=[*labels, *"a" * 20]))
    hospitals.write(2, f"{what}.csv", rows(60).assign(g=[*labels, *"a" * 20]))
    third = hospitals.ask(
        method, data, receivers=receivers, repeats=first.order_id, **fields
    )
    assert third.summary["repeats"] is None
    assert third.text != first.text


def test_a_receiver_without_the_last_result(hospitals: Hospitals) -> None:
    for user in (2, 3):
        hospitals.write(user, "late.csv", rows(40))
    first = hospitals.ask("avg", dict.fromkeys((2, 3), "late.csv"), receivers=[5])
    shutil.rmtree(hospitals.sites[5].results_folder / str(first.order_id))
    hospitals.write(3, "late.csv", rows(41))
    error = hospitals.refused(
        "avg", dict.fromkeys((2, 3), "late.csv"), receivers=[5], repeats=first.order_id
    )
    assert error.code == "no_result"
