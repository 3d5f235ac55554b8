"""What an answer may tell: every rule at its threshold, and no withheld group is left
over by a total.
"""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.gate.disclosure import check_rows, check_sketch, request_rules
from agents.gate.group_statements import (
    MOST_GROUPS,
    decode_statements,
    encode_statement,
)
from agents.gate.withheld_groups import (
    GroupFacts,
    Hidden,
    Label,
    Withheld,
    joint_withheld,
    shown_groups,
    withhold,
)
from protocol.errors import BadRequest, ProtocolViolation, Refused, check_rules
from protocol.policy import StatisticsRules

RULES = StatisticsRules(methods=("sum", "custom"), row_level=("units",))
KEY = bytes(range(32))
REQUEST: dict[str, Any] = {
    "methods": ["sum"],
    "n_providers": 3,
    "row_level_columns": [],
    "disclose": False,
}


def rule_of(caught: pytest.ExceptionInfo[Refused]) -> str:
    assert caught.value.remedy
    return caught.value.code


# The request


def test_a_request_within_the_policy_passes() -> None:
    check_rules(request_rules(RULES, **REQUEST))
    check_rules(request_rules(RULES, **{**REQUEST, "n_providers": 4}))
    check_rules(
        request_rules(
            RULES, **{**REQUEST, "methods": ["custom"], "row_level_columns": ["units"]}
        )
    )
    check_rules(
        request_rules(
            RULES.model_copy(update={"disclose": True}), **{**REQUEST, "disclose": True}
        )
    )


@pytest.mark.parametrize(
    ("changes", "rule", "words"),
    [
        ({"methods": ["avg"]}, "methods", "it does in sum, custom"),
        ({"methods": ["sum", "avg"]}, "methods", "statistic avg; it does"),
        ({"n_providers": 2}, "min_providers", "minimum of 3"),
        ({"row_level_columns": ["units", "price"]}, "row_level", "made of price of"),
        ({"row_level_columns": ["UNITS"]}, "row_level", "UNITS"),
        ({"disclose": True}, "disclose", "not through the coordinator"),
    ],
)
def test_each_rule_refuses_by_its_name(
    changes: dict[str, Any], rule: str, words: str
) -> None:
    with pytest.raises(Refused, match=words) as caught:
        check_rules(request_rules(RULES, **{**REQUEST, **changes}))
    assert rule_of(caught) == rule


def test_who_would_disclose_is_told_of_sealing_instead() -> None:
    with pytest.raises(Refused, match="with reader instead of disclose"):
        check_rules(request_rules(RULES, **{**REQUEST, "disclose": True}))


def test_without_the_section_everything_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        check_rules(request_rules(None, **REQUEST))
    assert rule_of(caught) == "statistics"


@pytest.mark.parametrize("n_rows", [0, 1, 9])
def test_too_few_rows_are_refused_and_not_counted(n_rows: int) -> None:
    with pytest.raises(Refused) as caught:
        check_rows(n_rows, RULES)
    assert rule_of(caught) == "min_rows"
    assert [
        word for word in str(caught.value).split() if word.strip(".").isdigit()
    ] == ["10"]
    check_rows(10, RULES)
    check_rows(11, RULES)


def sketch_of(n_changed: int) -> Any:
    cells = np.arange(65536, dtype=np.uint64)
    cells[:n_changed] += np.uint64(1)
    return cells


@pytest.mark.parametrize("n_changed", [1, 9])
def test_rows_that_differ_a_little_are_refused(n_changed: int) -> None:
    for earlier in (
        [sketch_of(0)],
        [sketch_of(0), sketch_of(50_000)],
        [sketch_of(50_000), sketch_of(0)],
    ):
        with pytest.raises(Refused) as caught:
            check_sketch(sketch_of(n_changed), earlier, RULES)
        assert rule_of(caught) == "earlier_cohort"


def test_the_same_rows_and_others_pass() -> None:
    assert check_sketch(sketch_of(0), [sketch_of(10), sketch_of(0)], RULES)
    assert not check_sketch(sketch_of(0), [sketch_of(0), sketch_of(10)], RULES)
    assert not check_sketch(sketch_of(11), [sketch_of(0)], RULES)
    assert not check_sketch(sketch_of(0), [], RULES)


# Groups of one hospital


def facts(**n_rows: int) -> dict[Label, GroupFacts]:
    return {(name,): GroupFacts(n) for name, n in n_rows.items()}


def rules_of(withheld: Any) -> dict[str, str]:
    return {label[0]: why.rule for label, why in withheld.items()}


@pytest.mark.parametrize(("n_rows", "is_told"), [(9, False), (10, True), (11, True)])
def test_a_group_at_its_minimum(n_rows: int, is_told: bool) -> None:
    found = withhold(facts(a=n_rows, b=50, c=40), RULES)
    assert rules_of(found) == ({} if is_told else {"a": "min_rows", "c": "complement"})
    assert {why.threshold for why in found.values()} <= {"10"}


@pytest.mark.parametrize(
    ("share", "is_told"),
    [("89/100", True), ("9/10", True), ("91/100", False), ("1", False)],
)
def test_dominance_at_its_threshold(share: str, is_told: bool) -> None:
    groups = {("a",): GroupFacts(100, Fraction(share)), ("b",): GroupFacts(100, None)}
    found = withhold(groups, RULES)
    assert rules_of(found) == ({} if is_told else {"a": "max_share", "b": "complement"})
    if not is_told:
        assert found["a",] == Withheld("max_share", "9/10")
        assert (
            found["a",].reason == "Two rows make more than 9/10 of a hospital's part."
        )


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (
            facts(a=4, b=5, c=30, d=20),
            {"a": "min_rows", "b": "min_rows", "d": "complement"},
        ),
        (facts(a=5, b=5, c=30, d=20), {"a": "min_rows", "b": "min_rows"}),
        (facts(a=4), {"a": "min_rows"}),
        (facts(a=4, b=4), {"a": "min_rows", "b": "min_rows"}),
        ({(): GroupFacts(4)}, None),
        ({}, {}),
    ],
)
def test_complements_at_their_threshold(
    groups: Any, expected: dict[str, str] | None
) -> None:
    found = withhold(groups, RULES)
    assert (
        found == {(): Withheld("min_rows", "10")}
        if expected is None
        else rules_of(found) == expected
    )


def test_a_total_of_one_column_lays_no_cell_of_two_open() -> None:
    cells = {(sex, ward): GroupFacts(50) for sex in "fm" for ward in "abc"}
    cells["f", "a"] = GroupFacts(3)
    assert set(withhold(cells, RULES)) == set(itertools.product("fm", "ab"))


# Groups of all hospitals


def statement(
    groups: dict[Label, GroupFacts], rules: StatisticsRules = RULES, key: bytes = KEY
) -> bytes:
    return encode_statement(groups, withhold(groups, rules), key=key)


def joint(
    parts: dict[int, dict[Label, GroupFacts]],
    min_providers: int = 3,
    n_columns: int = 1,
) -> tuple[Any, Any]:
    stated = decode_statements(
        {user: statement(part) for user, part in parts.items()},
        n_columns=n_columns,
        key=KEY,
    )
    withheld = joint_withheld(stated, min_providers)
    return withheld, shown_groups(stated, withheld)


def test_what_one_hospital_withholds_all_withhold() -> None:
    withheld, shown = joint(
        {
            2: facts(a=9, b=20, c=30),
            3: facts(a=50, b=50, c=50),
            4: facts(a=50, b=50, c=50),
        }
    )
    assert rules_of(withheld) == {"a": "min_rows", "b": "complement"}
    assert shown == [("c",)]


def test_a_group_that_nobody_has_enough_rows_of_stays_unnamed() -> None:
    withheld, shown = joint({user: facts(rare=1, b=20, c=30) for user in (2, 3, 4)})
    assert [type(label) for label in withheld] == [tuple, Hidden]
    assert shown == [("c",)]
    assert b"rare" not in statement(facts(rare=1, b=20))


@pytest.mark.parametrize(
    ("n_having", "is_told"), [(1, False), (2, False), (3, True), (4, True)]
)
def test_a_group_of_too_few_hospitals(n_having: int, is_told: bool) -> None:
    parts = {
        user: facts(b=20, c=30, **({"a": 40} if user < n_having else {}))
        for user in range(4)
    }
    withheld, shown = joint(parts)
    assert rules_of(withheld) == (
        {} if is_told else {"a": "min_providers", "b": "complement"}
    )
    assert (("a",) in shown) is is_told


def test_what_is_left_over_is_of_enough_hospitals() -> None:
    """Both groups are hospital 2's alone: their sum would be its answer, so a third one
    goes with them.
    """
    parts = {
        2: facts(a=20, b=20, c=20, d=20),
        3: facts(c=20, d=20),
        4: facts(c=20, d=20),
    }
    withheld, shown = joint(parts)
    assert rules_of(withheld) == {
        "a": "min_providers",
        "b": "min_providers",
        "c": "complement",
    }
    assert shown == [("d",)]


def test_null_is_a_group_like_others() -> None:
    parts = {
        user: {(None,): GroupFacts(20), ("",): GroupFacts(30)} for user in (2, 3, 4)
    }
    assert joint(parts) == ({}, [(None,), ("",)])


counts = st.dictionaries(
    st.tuples(st.sampled_from("fm"), st.sampled_from("abcd")),
    st.builds(GroupFacts, st.integers(1, 40), st.none() | st.fractions(0, 1)),
    min_size=1,
)


def slices(labels: set[Label]) -> list[set[Label]]:
    """All labels, and those that agree in the first or in the second column."""
    lines = [
        {label for label in labels if label[i] == value}
        for i in (0, 1)
        for value in {lbl[i] for lbl in labels}
    ]
    return [labels, *lines]


def rows_in(part: dict[Label, GroupFacts], labels: set[Label]) -> int:
    return sum(found.n_rows for label, found in part.items() if label in labels)


@given(counts)
def test_no_hospital_leaves_few_rows_over(part: dict[Label, GroupFacts]) -> None:
    withheld = set(withhold(part, RULES))
    for members in slices(set(part)):
        inside = members & withheld
        assert (
            not inside
            or inside == members
            or (len(inside) > 1 and rows_in(part, inside) >= RULES.min_rows)
        )


@given(st.dictionaries(st.integers(2, 6), counts, min_size=2), st.integers(1, 4))
def test_no_withheld_group_is_a_total_minus_the_others(
    parts: dict[int, dict[Label, GroupFacts]], min_providers: int
) -> None:
    _, told = joint(parts, min_providers, n_columns=2)
    shown = set(told)
    for label in shown:
        having = [part[label] for part in parts.values() if label in part]
        assert len(having) >= min_providers
        assert all(
            f.n_rows >= 10
            and (f.largest_share is None or f.largest_share <= RULES.max_share)
            for f in having
        )
    everything = {label for part in parts.values() for label in part}
    for members in slices(everything):
        rest = members - shown
        if not rest or rest == members:
            continue
        for part in parts.values():
            n_left_over = rows_in(part, rest)
            assert n_left_over == 0 or n_left_over >= 10 or rows_in(part, members) < 10
        if members == everything:
            assert len(rest) > 1
            assert (
                sum(rows_in(part, rest) > 0 for part in parts.values()) >= min_providers
            )


@given(st.dictionaries(st.integers(2, 6), counts, min_size=2), st.randoms())
def test_every_hospital_comes_to_the_same(
    parts: dict[int, dict[Label, GroupFacts]], random: Any
) -> None:
    here = joint(parts, n_columns=2)
    users = list(parts)
    random.shuffle(users)
    there = joint(
        {user: dict(reversed(parts[user].items())) for user in users}, n_columns=2
    )
    assert (list(here[0].items()), here[1]) == (list(there[0].items()), there[1])


# Statements


def test_a_statement_is_read_as_it_was_written() -> None:
    own = facts(a=5, b=20, c=30, d=40)
    read = decode_statements({2: statement(own)}, n_columns=1, key=KEY)[2]
    assert {
        label: why and why.rule
        for label, why in read.items()
        if not isinstance(label, Hidden)
    } == {
        ("b",): "complement",
        ("c",): None,
        ("d",): None,
    }
    assert [
        why.rule for label, why in read.items() if isinstance(label, Hidden) and why
    ] == ["min_rows"]


def test_under_another_key_a_hidden_group_is_nobodys() -> None:
    big, small = facts(a=20, b=20), facts(a=5, b=20)
    same = decode_statements(
        {2: statement(big), 3: statement(small)}, n_columns=1, key=KEY
    )
    other = decode_statements(
        {2: statement(big), 3: statement(small, key=KEY[::-1])}, n_columns=1, key=KEY
    )
    assert ("a",) in same[3]
    assert ("a",) not in other[3]


def test_the_number_of_groups_at_its_limit() -> None:
    labels: list[Label] = [(str(i),) for i in range(MOST_GROUPS + 1)]
    assert (
        len(
            decode_statements(
                {2: encode_statement(labels[1:], {}, key=KEY)}, n_columns=1, key=KEY
            )[2]
        )
        == 10_000
    )
    with pytest.raises(BadRequest) as caught:
        encode_statement(labels, {}, key=KEY)
    assert caught.value.code == "group_by"


HIDDEN = "0" * 32


@pytest.mark.parametrize(
    "groups",
    [
        [[["a", "b"], None]],
        [[["a"], None], [["a"], None]],
        [[["b"], None], [["a"], None]],
        [[[1], None]],
        [["a", None]],
        [[HIDDEN, None]],
        [[HIDDEN, ["complement", "10"]]],
        [[HIDDEN.replace("0", "A"), ["min_rows", "10"]]],
        [[["a"], ["min_rows", "10"]]],
        [[["a"], ["min_providers", "3"]]],
        [[["a"], ["anything", "3"]]],
        [[["a"], ["max_share", "9e9"]]],
        [[["a"], ["max_share", "1/0"]]],
        [[["a"], ["max_share", "9/10", ""]]],
        [[["a"], ["max_share", 1]]],
        [[["a"], 0]],
        [["a"]],
        7,
    ],
)
def test_statements_that_must_fail(groups: Any) -> None:
    data = json.dumps({"groups": groups}, separators=(",", ":")).encode()
    with pytest.raises(ProtocolViolation) as caught:
        decode_statements({2: data}, n_columns=1, key=KEY)
    assert caught.value.code == "bad_message"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"groups":[]} ',
        b'{"groups":[],"more":1}',
        b"[" * 100_000,
        b"\xff",
        b'{"groups":[[["\\ud800"],null]]}',
        b'{"groups":[[[NaN],null]]}',
    ],
)
def test_bytes_that_are_no_statement(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_statements({2: data}, n_columns=1, key=KEY)


def test_a_group_both_named_and_hidden() -> None:
    small = json.loads(statement(facts(a=5)))["groups"]
    both = json.dumps(
        {"groups": [[["a"], None], *small]}, separators=(",", ":")
    ).encode()
    both_sorted = json.dumps(
        {"groups": [*small, [["a"], None]]}, separators=(",", ":")
    ).encode()
    for data in (both, both_sorted):
        with pytest.raises(ProtocolViolation):
            decode_statements({2: data}, n_columns=1, key=KEY)
    with pytest.raises(ProtocolViolation):
        statement(facts(a=5), key=b"short")
