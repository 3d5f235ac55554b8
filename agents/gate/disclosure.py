"""What an answer may show of this hospital's rows: the rules of `[statistics]`, each
applied before anything leaves.

A check returns or raises Refused with the rule as code. Groups are not refused but
withheld, and said to be: those below min_rows, those that two rows dominate, those of
too few hospitals; and further ones where a total minus the shown groups would give a
withheld one away. Totals are those over all groups and, with several group columns,
over each choice of fewer columns. What other combinations of answers show is not
followed here.

In order: the request, before a row is read; the rows; groups of one hospital; groups of
all hospitals; the statements by which hospitals agree on the groups.
`earlier_questions.py` remembers what was asked before.

Decision 38.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from analytics.statistics.circuit import Plan
from analytics.statistics.weighing import Weighing, weighing
from protocol.errors import BadRequest, ProtocolViolation, Refused, Rule
from protocol.messages import canonical
from protocol.policy import StatisticsRules

Sketch = NDArray[np.uint64]
"""(65536,): two sets of rows that differ by d rows differ in d cells at most."""

Label = tuple[str | None, ...]
"""A group's values of the group columns; NULL is None."""

MOST_GROUPS = 10_000
_OWN_RULES = ("min_rows", "max_share", "pair_rows", "earlier_cohort", "complement")
"""By which one hospital withholds a group."""

_KEY_BYTES = 32
_TAG_BYTES = 16
_TAG = re.compile(r"[0-9a-f]{32}")
_THRESHOLD = re.compile(r"[1-9][0-9]{0,39}(/[1-9][0-9]{0,39})?")
_REASONS = {
    "min_rows": "A hospital has fewer than {} such rows.",
    "max_share": "Two rows make more than {} of a hospital's part.",
    "pair_rows": "A hospital has fewer than {} rows of a pair of values of two columns.",
    "earlier_cohort": "Fewer than {} such rows have changed since an earlier answer.",
    "min_providers": "Fewer than {} hospitals have such rows.",
    "cells": "All hospitals together have fewer than {} such rows that count, too few have any, or a few have changed.",
    "complement": "Without it, the total minus the groups that are shown would tell a withheld one.",
}
"""The first of them is shown where several hold."""


@dataclass(frozen=True)
class GroupFacts:
    """What decides about one group of this hospital's rows."""

    n_rows: int
    # Of the sum of |x|, what its two largest values make; None where nothing is summed.
    largest_share: Fraction | None = None
    # A few of its rows have changed since an earlier answer, and could be found by
    # comparing the two.
    is_near: bool = False
    # Of columns of two values whose products are summed, the rows of the smallest pair
    # of values that has any: the sums are a cross table of them (decision 85).
    smallest_cell: int | None = None


@dataclass(frozen=True)
class Withheld:
    """Why a group's value is not in the answer."""

    # One of `_REASONS`.
    rule: str
    # As the policy writes it.
    threshold: str

    @property
    def reason(self) -> str:
        """One sentence for who reads the answer."""
        return _REASONS[self.rule].format(self.threshold)


@dataclass(frozen=True, order=True)
class Hidden:
    """A group that nobody has enough rows of to name it: the tag of its label under a
    key of the order's hospitals.
    """

    tag: str


_Group = TypeVar("_Group", bound=Label | Hidden)


# --- the request ---------------------------------------------------------------------------------------------------


def request_rules(
    rules: StatisticsRules | None,
    *,
    method: str,
    n_providers: int,
    row_level_columns: Sequence[str],
    disclose: bool,
) -> list[Rule]:
    """What refuses a request that this hospital's policy does not allow, before a row is
    read; each raises Refused whose code is its name.

    n_providers counts this hospital too; `row_level_columns` are its columns of which
    the answer would hold a value for each person, spelled as in the policy; `disclose`
    asks for the numbers in the coordinator's answer.
    """
    if rules is None:
        return [Rule("statistics", _refuse_statistics)]
    return [
        Rule("methods", lambda: _check_method(method, rules)),
        Rule("min_providers", lambda: _check_providers(n_providers, rules)),
        Rule("row_level", lambda: check_row_level(row_level_columns, rules)),
        Rule("disclose", lambda: _check_disclose(disclose, rules)),
    ]


def _refuse_statistics() -> None:
    raise _refused(
        "statistics",
        "This hospital takes part in no joint statistics.",
        "to add that section",
    )


def _check_method(method: str, rules: StatisticsRules) -> None:
    if method not in rules.methods:
        allowed = ", ".join(rules.methods)
        sentence = f"This hospital does not take part in the statistic {method}; it does in {allowed}."
        raise _refused("methods", sentence, f"to add {method} to methods")


def _check_providers(n_providers: int, rules: StatisticsRules) -> None:
    if n_providers < rules.min_providers:
        sentence = f"Rows of {n_providers} provider(s) are fewer than this hospital's minimum of {rules.min_providers}."
        raise _refused(
            "min_providers",
            sentence,
            "to lower min_providers",
            threshold=rules.min_providers,
        )


def _check_disclose(disclose: bool, rules: StatisticsRules) -> None:
    if disclose and not rules.disclose:
        sentence = "This hospital's answers go to the receivers' files only, not through the coordinator."
        raise _refused("disclose", sentence, "to allow disclose")


def check_row_level(columns: Sequence[str], rules: StatisticsRules) -> None:
    """Refuse an answer that holds something of these columns for each person, unless
    the policy lists them.
    """
    closed = sorted(set(columns) - set(rules.row_level))
    if closed:
        names = ", ".join(closed)
        sentence = f"The answer would hold a value for each person, made of {names} of this hospital."
        raise _refused(
            "row_level", sentence, "to list the column in row_level", columns=closed
        )


def check_weighing(circuit: Plan, me: int, rules: StatisticsRules) -> None:
    """Refuse an aggregate over joined rows that does more than add columns up, this
    hospital's among them, unless the policy allows `row_expressions` (code
    row_expressions).

    Whoever brings another column with it, or chooses a factor, could make its total
    that of one person, or of one hospital (decision 44). Asked of the circuit before
    rows are read, and again of the one that is computed.
    """
    if rules.row_expressions:
        return
    allow = "ask the hospital to allow row_expressions, under [statistics] in its policy.toml."
    match weighing(circuit, me):
        case Weighing.COMBINED:
            raise Refused(
                "The answer multiplies, compares or divides this hospital's rows, which can single out one of them.",
                remedy=f"Add up plain columns, or {allow}",
                code="row_expressions",
            )
        case Weighing.SCALED:
            raise Refused(
                "The answer adds columns with factors other than 1 and -1, and its digits can tell their sums apart.",
                remedy=f"Convert units in a view and add the columns as they are, or {allow}",
                code="row_expressions",
            )


def check_joined(n_rows: int, rules: StatisticsRules) -> None:
    """Refuse an answer over fewer than min_rows people that all providers know (code
    min_rows); no count is shown.
    """
    if n_rows < rules.min_rows:
        sentence = f"The providers have fewer people in common than this hospital's minimum of {rules.min_rows}."
        what = "to lower min_rows, or check the key columns"
        raise _refused("min_rows", sentence, what, threshold=rules.min_rows)


def check_share(largest_share: Fraction, rules: StatisticsRules) -> None:
    """Refuse a sum over joined rows of which two of them make more than max_share here
    (code max_share).
    """
    if largest_share > rules.max_share:
        sentence = f"Two people make more than {rules.max_share} of this hospital's part of a sum."
        what = "to raise max_share, or ask for more people"
        raise _refused("max_share", sentence, what, threshold=str(rules.max_share))


def check_rows(n_rows: int, rules: StatisticsRules) -> None:
    """Refuse an answer over fewer than min_rows rows of this hospital (code min_rows);
    no count is shown.
    """
    if n_rows < rules.min_rows:
        sentence = f"This hospital has fewer than its minimum of {rules.min_rows} rows for this answer."
        what = "to lower min_rows, or ask for more rows"
        raise _refused("min_rows", sentence, what, threshold=rules.min_rows)


def check_sketch(
    sketch: Sketch, earlier: Iterable[Sketch], rules: StatisticsRules
) -> bool:
    """Refuse rows that differ in 1 to min_rows - 1 cells from those of an earlier order
    (code earlier_cohort).

    `earlier` are the sketches of the requester's orders on these data, the latest last.
    Returns whether the rows are those of the latest one.

    Disclosure: a refusal shows that a few rows have changed since, not how many.
    """
    n_changed = -1  # without an earlier order, these rows are no latest one's
    for other in earlier:
        n_changed = int(np.count_nonzero(sketch != other))
        if 0 < n_changed < rules.min_rows:
            raise Refused(
                f"These rows differ from those of an earlier order by fewer than {rules.min_rows}, which could be found"
                " by comparing the two answers.",
                remedy="Use the answer of the earlier order until more rows have changed.",
                code="earlier_cohort",
                threshold=rules.min_rows,
            )
    return n_changed == 0


def _refused(rule: str, sentence: str, what: str, **detail: Any) -> Refused:
    """what: what the hospital would have to do, "to lower min_rows"."""
    remedy = f"Change the order, or ask the hospital {what}, under [statistics] in its policy.toml."
    return Refused(sentence, remedy=remedy, code=rule, **detail)


# --- groups of one hospital ----------------------------------------------------------------------------------------


def withhold(
    groups: Mapping[Label, GroupFacts], rules: StatisticsRules
) -> dict[Label, Withheld]:
    """Which of this hospital's groups are withheld, and why.

    Below min_rows, or with two values that make more than max_share; then, in all rows
    and in every slice of them that has a total, the next smallest groups until two are
    withheld that have min_rows rows together, or all are.
    """
    withheld = {}
    for label, facts in groups.items():
        why = _own_reason(facts, rules)
        if why is not None:
            withheld[label] = why

    def is_safe(inside: Sequence[Label]) -> bool:
        n_rows = sum(groups[label].n_rows for label in inside)
        return len(inside) > 1 and n_rows >= rules.min_rows

    def smallest(_inside: Sequence[Label], rest: Sequence[Label]) -> Label:
        return min(rest, key=lambda label: (groups[label].n_rows, label_order(label)))

    complement = Withheld("complement", str(rules.min_rows))
    _withhold_complements(
        withheld, list(groups), why=complement, is_safe=is_safe, choose=smallest
    )
    return withheld


def is_withheld_alone(facts: GroupFacts, rules: StatisticsRules) -> bool:
    """Whether a group is withheld whatever the others are."""
    return _own_reason(facts, rules) is not None


def _own_reason(facts: GroupFacts, rules: StatisticsRules) -> Withheld | None:
    """What withholds a group by itself; the first of the rules that do."""
    if facts.n_rows < rules.min_rows:
        return Withheld("min_rows", str(rules.min_rows))
    if facts.largest_share is not None and facts.largest_share > rules.max_share:
        return Withheld("max_share", str(rules.max_share))
    if facts.smallest_cell is not None and facts.smallest_cell < rules.min_rows:
        return Withheld(rule="pair_rows", threshold=str(rules.min_rows))
    if facts.is_near:
        return Withheld("earlier_cohort", str(rules.min_rows))
    return None


def _withhold_complements(
    withheld: dict[_Group, Withheld],
    labels: Sequence[_Group],
    *,
    why: Withheld,
    is_safe: Callable[[Sequence[_Group]], bool],
    choose: Callable[[Sequence[_Group], Sequence[_Group]], _Group],
) -> None:
    """Adds to `withheld` until no total minus the shown groups of its slice shows what
    is withheld.

    `is_safe` says whether the withheld groups of a slice cover each other, `choose`
    which of the shown ones of a slice is withheld next.
    """
    n_before = -1
    # Again until nothing is added: what one slice withholds can lay a group of another
    # slice open.
    while len(withheld) > n_before:
        n_before = len(withheld)
        for members in _slices(labels):
            inside = [label for label in members if label in withheld]
            rest = [label for label in members if label not in withheld]
            while inside and rest and not is_safe(inside):
                chosen = choose(inside, rest)
                withheld[chosen] = why
                inside.append(chosen)
                rest.remove(chosen)


def _slices(labels: Sequence[_Group]) -> Iterator[list[_Group]]:
    """All groups; then, for each choice of fewer columns than all, the groups that
    agree in these.
    """
    # A hidden group is in no slice but the whole: which values it has, nobody knows.
    named = [label for label in labels if not isinstance(label, Hidden)]
    n_columns = len(named[0]) if named else 1
    if n_columns:  # without group columns there is one group, and it is the total
        yield list(labels)
    for n_kept in range(1, n_columns):
        for kept in itertools.combinations(range(n_columns), n_kept):
            slices: dict[Label, list[_Group]] = defaultdict(list)
            for label in named:
                shared_values = tuple(label[column] for column in kept)
                slices[shared_values].append(label)
            yield from slices.values()


def label_order(label: Label | Hidden) -> tuple[Any, ...]:
    """The order of groups: named ones by their values with NULL first, then hidden ones
    by tag.
    """
    if isinstance(label, Hidden):
        return (1, label.tag)
    return (0, tuple((value is not None, value or "") for value in label))


# --- groups of all hospitals ---------------------------------------------------------------------------------------


def joint_withheld(
    stated: Mapping[int, Mapping[Label | Hidden, Withheld | None]], min_providers: int
) -> dict[Label | Hidden, Withheld]:
    """Which groups the answer withholds, by what every provider stated: the same at
    every one of them.

    `stated` is as `decode_statements` gives it, `min_providers` the largest of all
    policies. Withheld is what one provider withholds, what fewer than min_providers
    have; then, in all rows and in every slice that has a total, more groups until two
    are withheld that min_providers have rows of, or all are. So of every provider that
    has min_rows rows in a slice, a total minus the groups that are shown is of none or
    of min_rows of its rows.
    """
    owners: dict[Label | Hidden, set[int]] = defaultdict(set)
    reasons: dict[Label | Hidden, list[Withheld]] = defaultdict(list)
    for provider, groups in stated.items():
        for label, why in groups.items():
            owners[label].add(provider)
            if why is not None:
                reasons[label].append(why)
    for label, providers in owners.items():
        if len(providers) < min_providers:
            reasons[label].append(Withheld("min_providers", str(min_providers)))
    withheld = {label: min(found, key=_rank) for label, found in reasons.items()}
    _withhold_joint_complements(withheld, owners, min_providers)
    # In one order at every hospital: the answers of two receivers are the same file.
    return {label: withheld[label] for label in sorted(withheld, key=label_order)}


def _withhold_joint_complements(
    withheld: dict[Label | Hidden, Withheld],
    owners: Mapping[Label | Hidden, set[int]],
    min_providers: int,
) -> None:
    def having(inside: Sequence[Label | Hidden]) -> set[int]:
        """The providers that have rows of one of these groups."""
        providers: set[int] = set()
        for label in inside:
            providers |= owners[label]
        return providers

    def is_safe(inside: Sequence[Label | Hidden]) -> bool:
        return len(inside) > 1 and len(having(inside)) >= min_providers

    def widest(
        inside: Sequence[Label | Hidden], rest: Sequence[Label | Hidden]
    ) -> Label | Hidden:
        """The group that brings most further providers, and of those the one that
        fewest have.
        """
        known = having(inside)

        def order(label: Label | Hidden) -> tuple[Any, ...]:
            n_further = len(owners[label] - known)
            return (-n_further, len(owners[label]), label_order(label))

        return min(rest, key=order)

    complement = Withheld("complement", str(min_providers))
    labels = sorted(owners, key=label_order)
    _withhold_complements(
        withheld, labels, why=complement, is_safe=is_safe, choose=widest
    )


def _rank(why: Withheld) -> tuple[int, Fraction]:
    """The reason that is shown: the first of `_REASONS`, with the largest threshold."""
    return list(_REASONS).index(why.rule), -Fraction(why.threshold)


def shown_groups(
    stated: Mapping[int, Mapping[Label | Hidden, Withheld | None]],
    withheld: Mapping[Label | Hidden, Withheld],
) -> list[Label]:
    """The groups of the answer in its order, the same at every hospital; one that a
    provider lacks counts as empty.
    """
    return sorted(_named(stated) - withheld.keys(), key=label_order)


def _named(
    stated: Mapping[int, Mapping[Label | Hidden, Withheld | None]],
) -> set[Label]:
    """The groups that any provider has named."""
    named: set[Label] = set()
    for groups in stated.values():
        named |= {label for label in groups if not isinstance(label, Hidden)}
    return named


# --- what providers state to each other of their groups ------------------------------------------------------------


def encode_statement(
    groups: Iterable[Label], withheld: Mapping[Label, Withheld], *, key: bytes
) -> bytes:
    """This hospital's groups, each with why it is withheld or null, as canonical JSON.

    `key` is a group key of the order, 32 bytes. BadRequest (code group_by) for more
    than MOST_GROUPS groups.

    Disclosure: to the order's hospitals, sealed to the group: the labels that at least
    min_rows rows have. A label of fewer rows goes as a keyed tag, which says something
    only to who has that label too, or guesses it.
    """
    entries = [_entry(label, withheld.get(label), key) for label in groups]
    if len(entries) > MOST_GROUPS:
        raise BadRequest(
            f"group_by makes more than {MOST_GROUPS} groups at a hospital.",
            remedy="Group by columns with fewer different values.",
            code="group_by",
        )
    return canonical({"groups": sorted(entries, key=canonical)}).encode()


def _entry(label: Label, why: Withheld | None, key: bytes) -> list[Any]:
    if why is None:
        return [list(label), None]
    # The name of a group of few rows can itself be what must not be known (decision
    # 39).
    is_hidden = why.rule == "min_rows"
    written = _tag(label, key) if is_hidden else list(label)
    return [written, [why.rule, why.threshold]]


def _tag(label: Label, key: bytes) -> str:
    if len(key) != _KEY_BYTES:
        raise _violation(f"has a key of other than {_KEY_BYTES} bytes")
    return hashlib.blake2b(
        canonical(list(label)).encode(), key=key, digest_size=_TAG_BYTES
    ).hexdigest()


def decode_statements(
    statements: Mapping[int, bytes], *, n_columns: int, key: bytes
) -> dict[int, dict[Label | Hidden, Withheld | None]]:
    """What every provider stated, by its user id: hidden groups under their label where
    anybody names it.

    Every hospital decodes the same bytes, its own among them, so all come to the same.
    ProtocolViolation for anything but what `encode_statement` writes for labels of
    `n_columns` values.
    """
    decoded = {
        user: _decode_statement(data, n_columns) for user, data in statements.items()
    }
    label_of: dict[Label | Hidden, Label] = {
        Hidden(_tag(label, key)): label for label in _named(decoded)
    }
    stated = {}
    for user, groups in decoded.items():
        stated[user] = {
            label_of.get(label, label): why for label, why in groups.items()
        }
        # Once by its name and once by its tag: nobody could say which of the two holds.
        if len(stated[user]) < len(groups):
            raise _violation("names a group twice")
    return stated


def _decode_statement(
    data: bytes, n_columns: int
) -> dict[Label | Hidden, Withheld | None]:
    try:
        entries = json.loads(data)["groups"]
        found = {_group(label, n_columns): _why(why) for label, why in entries}
        is_canonical = (
            canonical({"groups": sorted(entries, key=canonical)}).encode() == data
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _violation("cannot be read") from None
    if not is_canonical or len(found) < len(entries) or len(entries) > MOST_GROUPS:
        raise _violation("is not written as it should be")
    for label, why in found.items():
        has_few_rows = why is not None and why.rule == "min_rows"
        if isinstance(label, Hidden) != has_few_rows:
            raise _violation("is not written as it should be")
    return found


def _group(label: Any, n_columns: int) -> Label | Hidden:
    """A group as `_entry` writes it: a tag, or the values of its columns. ValueError
    for anything else.
    """
    if isinstance(label, str) and _TAG.fullmatch(label):
        return Hidden(label)
    if not isinstance(label, list) or len(label) != n_columns:
        raise ValueError
    if not all(value is None or isinstance(value, str) for value in label):
        raise ValueError
    return tuple(label)


def _why(why: Any) -> Withheld | None:
    if why is None:
        return None
    rule, threshold = why
    # One hospital alone cannot know the rule min_providers.
    if rule not in _OWN_RULES:
        raise ValueError
    if not _THRESHOLD.fullmatch(threshold):
        raise ValueError
    return Withheld(rule, threshold)


def _violation(what: str) -> ProtocolViolation:
    return ProtocolViolation(
        f"A statement of groups {what}.",
        remedy="Nothing was computed. Run the same version at all hospitals.",
        code="bad_message",
    )
