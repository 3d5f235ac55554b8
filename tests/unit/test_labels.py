"""Labels that stand at one hospital only, or differ from another by case alone."""

from __future__ import annotations

from analytics.labels import (
    ClassWarning,
    case_note,
    class_warnings,
    differing_by_case,
)


def test_case_alone_is_told_and_other_differences_are_not() -> None:
    assert differing_by_case(["Stra\u00dfe", "STRASSE", "a", "b", 1]) == [
        ["STRASSE", "Stra\u00dfe"]
    ]
    assert differing_by_case(["a", "a", "\u00e4"]) == []


def test_a_class_of_one_hospital_is_named() -> None:
    assert class_warnings({2: [0, 1], 3: [0, 1], 4: [0, 1]}) == []
    assert class_warnings({2: [0, 1], 3: [0], 4: [0]}) == [
        ClassWarning("one_hospital", "At hospital 2 only: class 1.")
    ]
    many = [str(number) for number in range(10, 18)]
    (lonely,) = class_warnings({2: ["a"], 3: ["a", *many]})
    assert (
        lonely.sentence == "At hospital 3 only: classes 10, 11, 12, 13, 14 and 3 more."
    )
    assert class_warnings({2: ["a", "A"]}) == []


def test_a_note_counts_labels_by_column_and_names_none() -> None:
    assert case_note([("a", "B"), ("b", "A"), (None, None)]) is None
    told = case_note([("Smith",), ("smith",), ("SMITH",), ("a",)])
    assert told == "3 labels differ from another one by case alone."
