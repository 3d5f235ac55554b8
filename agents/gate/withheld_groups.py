"""Which groups of an answer are withheld, and why: at one hospital, and by what all have
stated.

Groups are not refused but withheld, and said to be: those below min_rows, those that
two rows dominate, those of too few hospitals; and further ones where a total minus the
shown groups would give a withheld one away. Totals are those over all groups and, with
several group columns, over each choice of fewer columns. What other combinations of
answers show is not followed here.

To read next: how hospitals agree on the groups, `group_statements`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

from protocol.policy import StatisticsRules

Label = tuple[str | None, ...]
"""A group's values of the group columns; NULL is None."""
REASONS = {
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

    # One of `REASONS`.
    rule: str
    # As the policy writes it.
    threshold: str

    @property
    def reason(self) -> str:
        """One sentence for who reads the answer."""
        return REASONS[self.rule].format(self.threshold)


@dataclass(frozen=True, order=True)
class Hidden:
    """A group that nobody has enough rows of to name it: the tag of its label under a
    key of the order's hospitals.
    """

    tag: str


_Group = TypeVar("_Group", bound=Label | Hidden)


def withhold(
    groups: Mapping[Label, GroupFacts],
    rules: StatisticsRules,
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

    def size_order(label: Label) -> tuple[Any, ...]:
        return (groups[label].n_rows, label_order(label))

    def smallest(
        _inside: Sequence[Label],
        rest: Sequence[Label],
    ) -> Label:
        return min(rest, key=size_order)

    complement = Withheld("complement", str(rules.min_rows))
    _withhold_complements(
        withheld,
        list(groups),
        why=complement,
        is_safe=is_safe,
        choose=smallest,
    )
    return withheld


def _own_reason(facts: GroupFacts, rules: StatisticsRules) -> Withheld | None:
    """What withholds a group by itself; the first of the rules that do."""
    min_rows = str(rules.min_rows)
    if facts.n_rows < rules.min_rows:
        return Withheld("min_rows", min_rows)
    share = facts.largest_share
    if share is not None and share > rules.max_share:
        return Withheld("max_share", str(rules.max_share))
    smallest = facts.smallest_cell
    if smallest is not None and smallest < rules.min_rows:
        return Withheld(rule="pair_rows", threshold=min_rows)
    if facts.is_near:
        return Withheld("earlier_cohort", min_rows)
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
    n_columns = 1
    if named:
        n_columns = len(named[0])
    if n_columns:  # without group columns there is one group, and it is the total
        yield list(labels)
    columns = range(n_columns)
    for n_kept in range(1, n_columns):
        for kept_columns in itertools.combinations(columns, n_kept):
            slices: dict[Label, list[_Group]] = defaultdict(list)
            for label in named:
                shared_values = tuple(label[column] for column in kept_columns)
                slices[shared_values].append(label)
            yield from slices.values()


def label_order(label: Label | Hidden) -> tuple[Any, ...]:
    """The order of groups: named ones by their values with NULL first, then hidden ones
    by tag.
    """
    if isinstance(label, Hidden):
        return (1, label.tag)
    nulls_first = tuple((value is not None, value or "") for value in label)
    return (0, nulls_first)


Statements = Mapping[int, Mapping[Label | Hidden, Withheld | None]]
"""By provider, its groups, each with why it is withheld or None."""


def joint_withheld(
    stated: Statements,
    min_providers: int,
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
    few_providers = Withheld("min_providers", str(min_providers))
    for label, providers in owners.items():
        if len(providers) < min_providers:
            reasons[label].append(few_providers)
    withheld = {}
    for label, label_reasons in reasons.items():
        withheld[label] = min(label_reasons, key=_rank)
    _withhold_joint_complements(
        withheld,
        owners,
        min_providers,
    )
    # In one order at every hospital: the answers of two receivers are the same file.
    in_order = sorted(withheld, key=label_order)
    return {label: withheld[label] for label in in_order}


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
        if len(inside) < 2:
            return False
        return len(having(inside)) >= min_providers

    def widest(
        inside: Sequence[Label | Hidden],
        rest: Sequence[Label | Hidden],
    ) -> Label | Hidden:
        """The group that brings most further providers, and of those the one that
        fewest have.
        """
        inside_providers = having(inside)

        def order(label: Label | Hidden) -> tuple[Any, ...]:
            providers = owners[label]
            n_further = len(providers - inside_providers)
            return (
                -n_further,
                len(providers),
                label_order(label),
            )

        return min(rest, key=order)

    complement = Withheld("complement", str(min_providers))
    labels = sorted(owners, key=label_order)
    _withhold_complements(
        withheld,
        labels,
        why=complement,
        is_safe=is_safe,
        choose=widest,
    )


def _rank(why: Withheld) -> tuple[int, Fraction]:
    """The reason that is shown: the first of `REASONS`, with the largest threshold."""
    rule_place = list(REASONS).index(why.rule)
    threshold = Fraction(why.threshold)
    return (rule_place, -threshold)


def shown_groups(
    stated: Statements,
    withheld: Mapping[Label | Hidden, Withheld],
) -> list[Label]:
    """The groups of the answer in its order, the same at every hospital; one that a
    provider lacks counts as empty.
    """
    shown_labels = named_groups(stated) - withheld.keys()
    return sorted(shown_labels, key=label_order)


def named_groups(stated: Statements) -> set[Label]:
    """The groups that any provider has named."""
    named: set[Label] = set()
    for groups in stated.values():
        of_provider = {label for label in groups if not isinstance(label, Hidden)}
        named |= of_provider
    return named
