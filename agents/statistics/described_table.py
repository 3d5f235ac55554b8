"""The result of `describe`: a row for each quantity of each column, level and group, from
the joint integers that receivers have opened.

    column,over,arm,level,quantity,describe,withheld
    age,all,,,mean,61.2,
    age,group,a,,mean,60.9,
    age,group,a,"[50, 60)",n,31,
    age,group,a,,median,61.5,
    age,groups,,,smd,0.052,
    sex,group,a,F,n,112,
    sex,group,a,F,share,0.51,

The column `over` and that of the groups are there where there are groups.

Decisions 88, 116 and 118.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from agents.gate.withheld_groups import Hidden, Label, Withheld, label_order
from agents.statistics.answer import Answer
from agents.statistics.labels import bin_label
from agents.statistics.results import Cell
from agents.statistics.sums import N_NUMBERS
from analytics.statistics import exact, standardised
from analytics.statistics.exact import TOO_LARGE, Moments, Number, told
from protocol.statistics_described import Part
from protocol.statistics_request import WITHHELD, StatisticsRequest

QUARTILE_NAMES = ("q1", "median", "q3")
"""What the quantities of `QUARTILES` are called."""

OF_GROUPS = "groups"
"""In the place of a rule, where a number needs groups or levels of which one is withheld."""

Pair = tuple[Label, Label]

Over = tuple[str, str | None]
"""Of what a quantity is, and of which group."""

_OVER_ALL: Over = ("all", None)
_BETWEEN_GROUPS: Over = ("groups", None)


@dataclass(frozen=True)
class ShownPart:
    """One of the questions, as all hospitals know it."""

    part: Part
    # In order.
    shown: list[Label]
    withheld: dict[Label | Hidden, Withheld]

    @property
    def n_numbers(self) -> int:
        return N_NUMBERS.get(self.part.request.counted_as, 1)


@dataclass(frozen=True)
class _Found:
    """The joint integers of a total, or why there are none."""

    numbers: tuple[int, ...] | None
    why: str | None = None

    @property
    def n_rows(self) -> int | None:
        """Where the numbers are a count, or begin with one."""
        if self.numbers is None:
            return None
        return self.numbers[0]


@dataclass(frozen=True)
class _Question:
    """One of the questions, answered."""

    asked: ShownPart
    # Nothing of one whose values are searched.
    numbers: Mapping[Label, Sequence[int]]
    quartiles: Mapping[Label, Sequence[Number | None]]
    # In the place of a number that is 0 or withheld: nobody learns which.
    few: str

    @property
    def has_hidden(self) -> bool:
        return any(isinstance(label, Hidden) for label in self.asked.withheld)

    @property
    def named(self) -> list[Label]:
        asked = self.asked
        names = [label for label in asked.withheld if not isinstance(label, Hidden)]
        return [*asked.shown, *names]

    def find(self, label: Label) -> _Found:
        if label in self.numbers:
            numbers = self.numbers[label]
            return _Found(tuple(numbers))
        why = self.asked.withheld.get(label)
        if why is not None:
            rule_text = f"{why.rule} {why.threshold}"
            return _Found(None, rule_text)
        if self.has_hidden:
            return _Found(None, self.few)
        return self._nothing()

    def add(self, labels: Sequence[Label]) -> _Found:
        """Over several groups."""
        numbers = []
        for label in labels:
            of_group = self.find(label).numbers
            if of_group is not None:
                numbers.append(of_group)
        is_one_withheld = len(numbers) < len(labels)
        if self.has_hidden or is_one_withheld:
            return _Found(None, OF_GROUPS)
        if not numbers:
            return self._nothing()
        columns = zip(*numbers, strict=True)
        joint_numbers = tuple(sum(column) for column in columns)
        return _Found(joint_numbers)

    def _nothing(self) -> _Found:
        zeros = (0,) * self.asked.n_numbers
        return _Found(zeros)


@dataclass
class _Table:
    """The rows of the result, made one after the other."""

    has_groups: bool
    rows: list[list[Cell]] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)

    def add(
        self,
        column: str,
        over: Over,
        level: str | None,
        quantity: str,
        value: Number | None,
        why: str | None = None,
    ) -> None:
        result_row: list[Cell] = [column]
        if self.has_groups:
            result_row += over
        result_row += [level, quantity, value, why]
        self.rows.append(result_row)

    def value(self, compute: Callable[[], Number | None], what: str) -> Number | None:
        """A value; where there is none, a note of why."""
        try:
            number = compute()
        except ValueError as error:
            self.notes.add(str(error))
            return None
        if number is None:
            self.notes.add(f"{what} of too few rows, or of equal ones, has no value.")
        return number


def finished(
    request: StatisticsRequest,
    shown_parts: Sequence[ShownPart],
    numbers: Mapping[str, Mapping[Label, Sequence[int]]],
    *,
    quartiles: Mapping[str, Mapping[Label, Sequence[Number | None]]],
    notes: Iterable[str],
    min_rows: int,
) -> Answer:
    """The answer from the joint integers of each question's shown groups, by its name,
    and from the quartiles of those that are searched, with the notes of the search.

    A number that does not exist is null, and a note says why; one that is withheld is
    null beside the rule. Disclosure: to receivers, which have opened the integers.
    """
    has_groups = bool(request.group_by)
    table = _Table(has_groups, notes=set(notes))
    questions: dict[str, _Question] = {}
    column_names = [*request.label_columns, request.result_alias, WITHHELD]
    answer = Answer(column_names, table.rows)
    most_of_few = min_rows - 1
    few = f"0 to {most_of_few}"
    n_hidden = 0
    for shown_part in shown_parts:
        part = shown_part.part
        question_name = part.name
        questions[question_name] = _Question(
            shown_part,
            numbers.get(question_name, {}),
            quartiles.get(question_name, {}),
            few,
        )
        for label, why in shown_part.withheld.items():
            if isinstance(label, Hidden):
                n_hidden += 1
                answer.withheld[label] = why
            elif part.what != "missing" or label[0] is None:
                told_label = _with_bin_text(part, label)
                withheld_label = (part.column, part.what, *told_label)
                answer.withheld[withheld_label] = why
    groups = _groups(questions.values(), has_groups)
    for column in request.columns or []:
        if f"moments {column}" in questions:
            _describe_numbers(table, column, questions, groups)
        else:
            _describe_category(table, column, questions, groups)
    if n_hidden:
        table.notes.add(f"{n_hidden} withheld group(s) have too few rows to be named.")
    answer.notes = sorted(table.notes)
    return answer


def _groups(questions: Iterable[_Question], has_groups: bool) -> list[Label]:
    """The labels of all groups that anybody has named; () where there are none."""
    if not has_groups:
        return [()]
    group_labels: set[Label] = set()
    for question in questions:
        # The labels of bins end with the bin, and their groups are those of the moments;
        # what is of all groups has none.
        what = question.asked.part.what
        if what in ("bins", "overall"):
            continue
        group_labels |= {label[-1:] for label in question.named}
    return sorted(group_labels, key=label_order)


def _describe_numbers(
    table: _Table,
    column: str,
    questions: Mapping[str, _Question],
    groups: Sequence[Label],
) -> None:
    moments = questions[f"moments {column}"]
    missing = questions[f"missing {column}"]
    by_group = questions.get(f"quartiles {column}")
    overall = questions.get(f"overall {column}")

    def show(over: Over, sums: _Found, n_missing: _Found) -> None:
        add = functools.partial(table.add, column, over, None)
        add("missing", n_missing.n_rows, n_missing.why)
        if sums.numbers is None:
            for quantity in ("n", "mean", "sd"):
                add(quantity, None, sums.why)
            return
        joint_moments = Moments(*sums.numbers)
        add("n", joint_moments.n)
        compute_mean = functools.partial(exact.mean, joint_moments, told)
        mean = table.value(compute_mean, "A mean")
        add("mean", mean)
        compute_sd = functools.partial(exact.std, joint_moments, 1)
        sd = table.value(compute_sd, "A standard deviation")
        add("sd", sd)

    if table.has_groups:
        no_value: list[Label] = [(None, *group) for group in groups]
        show(_OVER_ALL, moments.add(groups), missing.add(no_value))
        _show_quartiles(table, column, _OVER_ALL, overall, ())
    for group in groups:
        over = _over(group)
        n_missing = missing.find((None, *group))
        show(over, moments.find(group), n_missing)
        _show_quartiles(table, column, over, by_group, group)
    binned = questions.get(f"bins {column}")
    if binned is not None:
        _show_bins(table, column, binned, groups)
    if table.has_groups:
        compare = functools.partial(_of_means, moments)
        _show_difference(table, column, groups, compare)


def _show_quartiles(
    table: _Table,
    column: str,
    over: Over,
    searched: _Question | None,
    group: Label,
) -> None:
    """Those of one group, where they are asked for."""
    if searched is None:
        return
    group_quartiles = searched.quartiles.get(group)
    why = None
    if group_quartiles is None:
        why = searched.find(group).why
        group_quartiles = [None] * len(QUARTILE_NAMES)
        if why is None:
            table.notes.add("A median of no rows has no value.")
    add = functools.partial(table.add, column, over, None)
    for quantity, quartile in zip(QUARTILE_NAMES, group_quartiles, strict=True):
        add(quantity, quartile, why)


def _show_bins(
    table: _Table,
    column: str,
    binned: _Question,
    groups: Sequence[Label],
) -> None:
    """How many rows of each group, and of all, lie between the histogram's edges."""
    edges = binned.asked.part.request.bins
    assert edges is not None, "a histogram has some"
    for bin_place, level in enumerate(bin_texts(edges)):
        bin_name = bin_label(bin_place)
        labels = [(*group, bin_name) for group in groups]
        show = functools.partial(_show_n, table, column, level)
        if table.has_groups:
            of_all = binned.add(labels)
            show(_OVER_ALL, of_all)
        for group, label in zip(groups, labels, strict=True):
            of_group = binned.find(label)
            show(_over(group), of_group)


def bin_texts(edges: Sequence[float]) -> list[str]:
    """What lies below the first edge, between each two, and above the last.

    >>> bin_texts([50.0, 60.0, 70.5])
    ['< 50', '[50, 60)', '[60, 70.5]', '> 70.5']
    """
    # All digits: two edges of a histogram may differ in the last of them.
    edge_texts = [repr(float(edge)).removesuffix(".0") for edge in edges]
    between = [f"[{low}, {high})" for low, high in itertools.pairwise(edge_texts)]
    # The last bin holds its upper edge.
    between[-1] = between[-1].removesuffix(")") + "]"
    below = f"< {edge_texts[0]}"
    above = f"> {edge_texts[-1]}"
    return [below, *between, above]


def _with_bin_text(part: Part, label: Label) -> Label:
    """A label whose bin, where it has one, is told by its edges."""
    if part.what != "bins" or part.request.bins is None:
        return label
    *groups, bin_name = label
    texts = bin_texts(part.request.bins)
    by_name = {bin_label(place): bin_text for place, bin_text in enumerate(texts)}
    told_name = by_name.get(bin_name or "", bin_name)
    return (*groups, told_name)


def _describe_category(
    table: _Table,
    column: str,
    questions: Mapping[str, _Question],
    groups: Sequence[Label],
) -> None:
    count = questions[f"count {column}"]
    missing = questions[f"missing {column}"]
    tabled = questions[f"levels {column}"]
    levels = sorted({str(label[0]) for label in tabled.named})

    def show(
        over: Over,
        n_all: _Found,
        n_missing: _Found,
        of_level: Mapping[str, _Found],
    ) -> None:
        add = functools.partial(table.add, column, over)
        add(None, "missing", n_missing.n_rows, n_missing.why)
        add(None, "n", n_all.n_rows, n_all.why)
        for level, level_count in of_level.items():
            add(level, "n", level_count.n_rows, level_count.why)
            level_share = _share(level_count.n_rows, n_all.n_rows)
            why = level_count.why or n_all.why
            add(level, "share", level_share, why)

    if table.has_groups:
        no_value: list[Label] = [(None, *group) for group in groups]
        of_all = {}
        for level in levels:
            labels = [(level, *group) for group in groups]
            of_all[level] = tabled.add(labels)
        show(_OVER_ALL, count.add(groups), missing.add(no_value), of_all)
    for group in groups:
        of_group = {}
        for level in levels:
            of_group[level] = tabled.find((level, *group))
        n_missing = missing.find((None, *group))
        show(_over(group), count.find(group), n_missing, of_group)
    if table.has_groups:
        compare = functools.partial(_of_shares, tabled, levels)
        _show_difference(table, column, groups, compare)


def _over(group: Label) -> Over:
    group_name = group[0] if group else None
    return ("group", group_name)


def _show_n(
    table: _Table,
    column: str,
    level: str,
    over: Over,
    level_count: _Found,
) -> None:
    table.add(column, over, level, "n", level_count.n_rows, level_count.why)


def _share(n_rows: int | None, n_all: int | None) -> Number | None:
    """None where one of them is withheld, or where there are no rows."""
    if n_rows is None or not n_all:
        return None
    return told(Fraction(n_rows, n_all))


# Differences between two groups


def _show_difference(
    table: _Table,
    column: str,
    groups: Sequence[Label],
    compare: Callable[[Pair], Number | None],
) -> None:
    """Between the two groups of rows that have a value in the group's column."""
    named = [group for group in groups if group != (None,)]
    if len(named) != 2:
        table.notes.add("smd compares two groups, and the rows have another number.")
        return
    first_group, second_group = named
    show = functools.partial(
        table.add,
        column,
        _BETWEEN_GROUPS,
        None,
        "smd",
    )
    try:
        difference = compare((first_group, second_group))
    except _WithheldError:
        show(None, OF_GROUPS)
        return
    except (ArithmeticError, ValueError):
        table.notes.add(TOO_LARGE)
        show(None)
        return
    if difference is None:
        table.notes.add("smd has no value where a group is empty or neither varies.")
    show(difference)


class _WithheldError(Exception):
    """A number that a difference is made of."""


def _of_means(moments: _Question, pair: Pair) -> Number | None:
    means = []
    variances = []
    for group in pair:
        group_total = moments.find(group)
        if group_total.numbers is None:
            raise _WithheldError
        sums = Moments(*group_total.numbers)
        mean = exact.mean(sums)
        variance = exact.variance(sums, 1)
        if mean is None or variance is None:
            return None
        means.append(float(mean))
        variances.append(float(variance))
    first_mean, second_mean = means
    first_variance, second_variance = variances
    return standardised.of_means(
        (first_mean, second_mean),
        (first_variance, second_variance),
    )


def _of_shares(
    tabled: _Question,
    levels: Sequence[str],
    pair: Pair,
) -> Number | None:
    shares = []
    for group in pair:
        counts = []
        for level in levels:
            n_rows = tabled.find((level, *group)).n_rows
            if n_rows is not None:
                counts.append(n_rows)
        is_one_withheld = len(counts) < len(levels)
        if is_one_withheld or tabled.has_hidden:
            raise _WithheldError
        n_all = sum(counts)
        if not n_all:
            return None
        shares.append([n_rows / n_all for n_rows in counts])
    first_shares, second_shares = shares
    return standardised.of_shares(first_shares, second_shares)
