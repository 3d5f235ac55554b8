"""What is odd about the labels of several hospitals: one that stands at one hospital only,
and one that differs from another by case alone.

Labels are canonical texts or whole numbers. Their case is kept, so that `A` and `a` are
two; whether they mean the same, only people know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

MOST_NAMED = 5
"""So many labels are named; the rest is counted."""

Label = int | str


@dataclass(frozen=True)
class ClassWarning:
    """What is odd about the classes: the code, which everybody may know, and the sentence
    with their names, which only the hospitals may read.
    """

    code: Literal["case", "one_hospital"]
    sentence: str


def differing_by_case(labels: Iterable[Label]) -> list[list[str]]:
    """The texts of which several are the same but for case, together, in order.

    >>> differing_by_case(["a", "B", "A", 7])
    [['A', 'a']]
    """
    alike: dict[str, set[str]] = {}
    for label in labels:
        if isinstance(label, str):
            # casefold, since lower() keeps apart what differs by case as ß and SS do.
            alike.setdefault(label.casefold(), set()).add(label)
    # Sorted, since a set of texts has another order after each start.
    return [sorted(texts) for _, texts in sorted(alike.items()) if len(texts) > 1]


def class_warnings(classes: Mapping[int, Sequence[Label]]) -> list[ClassWarning]:
    """What is odd about the classes of hospitals, by their numbers; nothing of one.

    Disclosure: which classes a hospital has, to who reads them: the parties know it.

    >>> _, lonely = class_warnings({2: ["A", "b"], 3: ["A", "a", "b"]})
    >>> lonely.code, lonely.sentence
    ('one_hospital', 'At hospital 3 only: class a.')
    """
    if len(classes) < 2:
        return []
    warnings = []
    every: set[Label] = set()
    for own_labels in classes.values():
        every.update(own_labels)
    for alike_texts in differing_by_case(every):
        sentence = (
            f"Classes that differ by case alone are {len(alike_texts)} classes: {_named(alike_texts)}."
            " Write them alike in a view if they mean the same."
        )
        warnings.append(ClassWarning("case", sentence))
    for hospital, own_labels in sorted(classes.items()):
        elsewhere: set[Label] = set()
        for other_hospital, other_labels in classes.items():
            if other_hospital != hospital:
                elsewhere.update(other_labels)
        lonely = [str(label) for label in own_labels if label not in elsewhere]
        if lonely:
            word = "class" if len(lonely) == 1 else "classes"
            sentence = f"At hospital {hospital} only: {word} {_named(lonely)}."
            warnings.append(ClassWarning("one_hospital", sentence))
    return warnings


def case_note(labels: Iterable[Sequence[str | None]]) -> str | None:
    """How many labels of an answer's columns differ from another by case alone, without
    naming one; None where none does.

    labels: of each row, those of the columns that name it.

    >>> case_note([("f", "x"), ("F", "x"), ("m", "x")])
    '2 labels differ from another one by case alone.'
    """
    columns: dict[int, set[str]] = {}
    for row_labels in labels:
        for column_place, label in enumerate(row_labels):
            if label is not None:
                columns.setdefault(column_place, set()).add(label)
    n_alike = 0
    for column in columns.values():
        n_alike += sum(len(texts) for texts in differing_by_case(column))
    if not n_alike:
        return None
    return f"{n_alike} labels differ from another one by case alone."


def _named(labels: Sequence[str]) -> str:
    named = ", ".join(labels[:MOST_NAMED])
    if len(labels) > MOST_NAMED:
        return f"{named} and {len(labels) - MOST_NAMED} more"
    return named
