"""Thresholds on the sum: which cells of a table are shown where every hospital's policy
says `cells = "pooled"`.

A cell is shown that reaches min_rows rows and min_providers hospitals jointly, of the
others too where a receiver brings rows itself (`protocol.statistics_plan.cells_plan`),
that some provider has min_rows rows of by itself and so has named, and that no provider
withholds. Since each of the last earlier answers with that label, of a receiver, nobody
or min_changed people have come, jointly, and nobody or so many have gone. Who does not
remember an answer that another provider states says of no cell that nobody has changed.
Of answers before those each hospital decides alone. Beside what is not shown, further
cells are withheld until no total gives it away (`analytics.statistics.complements`).

`agents/statistics/pooled_cells.py` has the messages. Decision 73.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from agents.gate.group_statements import MOST_GROUPS
from agents.gate.withheld_groups import GroupFacts, Hidden, Label, Withheld, label_order
from analytics.statistics.complements import complements
from protocol.policy import StatisticsRules
from protocol.shares import cells
from protocol.shares.cells import CellList, Limits
from protocol.sums.masks import Stream

_RANKS = b"consilium/cells/ranks/1"


@dataclass(frozen=True)
class OwnCells:
    """What a hospital says of its own cells."""

    # Cells that it has min_rows rows of, and why it withholds them, if it does.
    named: dict[Label, Withheld | None]
    # Cells of fewer rows that it does not let be shown; the comparison hides whose they
    # are.
    vetoed: list[Label]


def own_cells(
    facts: Mapping[Label, GroupFacts],
    rules: StatisticsRules,
    *,
    square_shares: Mapping[Label, Fraction],
) -> OwnCells:
    """Of fewer than min_rows rows the share of two of them is not looked at: they are
    nearly all of it, and it is the sum of all hospitals that hides them.

    square_shares: what two rows make of the sum of squares, where one is opened.
    """
    named: dict[Label, Withheld | None] = {}
    vetoed = []
    for label, of_cell in facts.items():
        if of_cell.n_rows < rules.min_rows:
            if of_cell.is_near:
                vetoed.append(label)
            continue
        square_share = square_shares.get(label)
        named[label] = _own_reason(
            of_cell,
            rules,
            square_share=square_share,
        )
    return OwnCells(named, vetoed)


def _own_reason(
    of_cell: GroupFacts,
    rules: StatisticsRules,
    *,
    square_share: Fraction | None,
) -> Withheld | None:
    """Why a hospital withholds a cell of min_rows rows."""
    min_rows = str(rules.min_rows)
    for share in (of_cell.largest_share, square_share):
        if share is not None and share > rules.max_share:
            return Withheld("max_share", str(rules.max_share))
    smallest = of_cell.smallest_cell
    if smallest is not None and smallest < rules.min_rows:
        return Withheld(rule="pair_rows", threshold=min_rows)
    if of_cell.is_near:
        return Withheld("earlier_cohort", min_rows)
    return None


@dataclass(frozen=True)
class AgreedLimits:
    """What all providers have stated of what a cell has to reach."""

    # The largest of all.
    min_rows: int
    min_providers: int
    min_changed: int
    # The last earlier answers, by order and who is left out.
    earlier: list[tuple[int, int]]
    # By provider, of how many rows it names a cell.
    own_min_rows: Mapping[int, int]

    def tagged(self, key: bytes) -> Limits:
        """As the coordinator may see them."""
        earlier = []
        for order_id, left_out_user in self.earlier:
            earlier.append(cells.earlier_of(key, order_id, left_out_user))
        return Limits(
            self.min_rows,
            self.min_providers,
            self.min_changed,
            tuple(earlier),
        )


def left_out(receiver: str, providers: Collection[int]) -> int:
    """Whose people do not hide those of others from a receiver: its own, where it is a
    provider, else those of NOBODY.
    """
    by_name = {str(provider): provider for provider in providers}
    return by_name.get(receiver, cells.NOBODY)


def last_answers(earlier: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those that cells are compared with jointly; with older ones each hospital
    compares its own.
    """
    latest_first = sorted(set(earlier), reverse=True)
    return latest_first[: cells.MOST_EARLIER]


@dataclass(frozen=True)
class Decided:
    """The cells of an answer, the same at every hospital."""

    shown: list[Label]
    withheld: dict[Label | Hidden, Withheld]
    # What the comparison has opened, in words.
    opened: list[str] = field(default_factory=list)


def decide(
    union: CellList,
    passed: Collection[bytes],
    stated: Mapping[int, Mapping[Label, Withheld | None]],
    limits: AgreedLimits,
    *,
    receivers: Collection[int],
    key: bytes,
) -> Decided:
    """From the cells of all hospitals, the bits of the comparison, and what each
    provider has named. `key` is the group key of the tags.

    ProtocolViolation (code cells_differ) where a named cell is not in the union.
    """
    naming, reasons = _named_cells(stated)
    n_naming = {label: len(providers) for label, providers in naming.items()}
    label_of: dict[bytes, Label] = {}
    for label in naming:
        tag, slices = cells.tags_of(key, label)
        if union.cells.get(tag) != slices:
            raise cells.differ()
        label_of[tag] = label

    # What a provider withholds is as if it had not passed: it hides nothing.
    really_passed = set(passed)
    for tag, label in label_of.items():
        if label in reasons:
            really_passed.discard(tag)
    can_be_shown = really_passed & label_of.keys()
    further_tags = _complements(
        union,
        really_passed,
        can_be_shown,
        label_of,
        n_naming,
        key,
    )

    min_rows = str(limits.min_rows)
    min_changed = str(limits.min_changed)
    small = Withheld("cells", min_rows)
    changed = Withheld("earlier_cohort", min_changed)
    complement = Withheld("complement", min_rows)
    withheld: dict[Label | Hidden, Withheld] = {}
    for label in sorted(naming, key=label_order):
        tag, _ = cells.tags_of(key, label)
        if label in reasons:
            withheld[label] = reasons[label]
        elif tag not in passed:
            # Nothing is told by it: that the rows are enough follows from the names.
            is_large = _has_enough_rows(
                naming[label],
                limits,
                receivers,
            )
            withheld[label] = changed if is_large else small
        elif tag in further_tags:
            withheld[label] = complement
    for tag in union.cells.keys() - label_of.keys():
        hidden = Hidden(tag.hex())
        withheld[hidden] = small
    shown_labels = [label_of[tag] for tag in can_be_shown - further_tags]
    in_order = sorted(shown_labels, key=label_order)
    return Decided(in_order, withheld)


def _named_cells(
    stated: Mapping[int, Mapping[Label, Withheld | None]],
) -> tuple[dict[Label, list[int]], dict[Label, Withheld]]:
    """Who has named each cell, and of the withheld ones why."""
    naming: dict[Label, list[int]] = {}
    reasons: dict[Label, Withheld] = {}
    for provider, named in stated.items():
        for label, why in named.items():
            providers = naming.setdefault(label, [])
            providers.append(provider)
            if why is None:
                continue
            earlier = reasons.get(label, why)
            reasons[label] = min(earlier, why, key=_reason_order)
    return naming, reasons


def _has_enough_rows(
    naming: Collection[int],
    limits: AgreedLimits,
    receivers: Collection[int],
) -> bool:
    """Whether the rows of those who have named a cell are enough by themselves, without
    each receiver too.
    """
    with_own_rows = set(receivers) & limits.own_min_rows.keys()
    for receiver in {cells.NOBODY, *with_own_rows}:
        other_providers = [provider for provider in naming if provider != receiver]
        n_rows = sum(limits.own_min_rows[provider] for provider in other_providers)
        n_hospitals = limits.min_providers
        if receiver != cells.NOBODY:
            n_hospitals -= 1
        has_few_rows = n_rows < limits.min_rows
        if has_few_rows or len(other_providers) < n_hospitals:
            return False
    return True


def _reason_order(why: Withheld) -> tuple[str, Fraction]:
    return why.rule, Fraction(why.threshold)


def _complements(
    union: CellList,
    passed: Collection[bytes],
    can_be_shown: Collection[bytes],
    label_of: Mapping[bytes, Label],
    n_naming: Mapping[Label, int],
    key: bytes,
) -> set[bytes]:
    """Further cells to withhold, fewest naming providers first, then by label."""

    def order(tag: bytes) -> tuple[object, ...]:
        label = label_of[tag]
        return n_naming[label], label_order(label)

    tags = list(union.cells)
    place_of = {tag: place for place, tag in enumerate(tags)}
    numbers: dict[bytes, int] = {}
    slices = []
    for of_cell in union.cells.values():
        numbered = []
        for slice_ in of_cell:
            number = numbers.setdefault(slice_, len(numbers))
            numbered.append(number)
        slices.append(numbered)
    in_order = sorted(can_be_shown, key=order)
    candidates = [place_of[tag] for tag in in_order]
    withheld = []
    passed_places = []
    for cell_place, tag in enumerate(tags):
        if tag in can_be_shown:
            continue
        withheld.append(cell_place)
        if tag in passed:
            passed_places.append(cell_place)
    # The key did not exist when the hospitals read their labels.
    ranks = Stream(key, _RANKS, b"")
    further_places = complements(
        slices,
        withheld=withheld,
        passed=passed_places,
        candidates=candidates,
        draw=ranks.words,
    )
    if further_places is None:
        return set(can_be_shown)
    return {tags[place] for place in further_places}


def absent_cells(
    decided: Decided,
    grid: Collection[Label],
    *,
    named: Collection[Label],
) -> list[Label]:
    """The cells of a grid that stand neither among the shown ones nor, by their names,
    among those withheld: nobody has them, or too few.
    """
    absent = set(grid) - set(decided.shown)
    absent -= set(named)
    return sorted(absent, key=label_order)


def grid_of(named: Collection[Label]) -> list[Label]:
    """All combinations of the values that are named; none where these are too many."""
    column_values = []
    n_cells = 1
    for column in zip(*named, strict=True):
        of_column = sorted(set(column), key=_none_first)
        column_values.append(of_column)
        n_cells *= len(of_column)
    if not named or n_cells > MOST_GROUPS:
        return []
    return list(itertools.product(*column_values))


def _none_first(value: str | None) -> tuple[bool, str]:
    return value is not None, value or ""
