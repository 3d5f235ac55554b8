"""The result of `describe`: a row for each quantity of each column, level and group, from
the joint integers that receivers have opened.

    column,over,arm,level,quantity,describe,withheld
    age,all,,,mean,61.2,
    age,group,a,,mean,60.9,
    age,groups,,,smd,0.052,
    sex,group,a,F,n,112,
    sex,group,a,F,share,0.51,

The column `over` and that of the groups are there where there are groups.

Decision 88.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from agents.gate.disclosure import Hidden, Label, Withheld, label_order
from agents.statistics.answer import Answer
from agents.statistics.results import Cell
from agents.statistics.sums import N_NUMBERS
from analytics.statistics import exact, standardised
from analytics.statistics.exact import Moments, Number, told
from protocol.statistics_described import Part
from protocol.statistics_request import WITHHELD, StatisticsRequest

OF_GROUPS = "groups"
"""In the place of a rule, where a number needs groups or levels of which one is withheld."""


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


@dataclass(frozen=True)
class _Question:
    """One of the questions, answered."""

    asked: ShownPart
    numbers: Mapping[Label, Sequence[int]]
    # In the place of a number that is 0 or withheld: nobody learns which.
    few: str

    @property
    def has_hidden(self) -> bool:
        return any(isinstance(label, Hidden) for label in self.asked.withheld)

    @property
    def named(self) -> list[Label]:
        names = [one for one in self.asked.withheld if not isinstance(one, Hidden)]
        return [*self.asked.shown, *names]

    def find(self, label: Label) -> _Found:
        if label in self.numbers:
            return _Found(tuple(self.numbers[label]))
        why = self.asked.withheld.get(label)
        if why is not None:
            return _Found(None, f"{why.rule} {why.threshold}")
        if self.has_hidden:
            return _Found(None, self.few)
        return _Found((0,) * self.asked.n_numbers)

    def add(self, labels: Sequence[Label]) -> _Found:
        """Over several groups."""
        found = [self.find(label) for label in labels]
        numbers = [one.numbers for one in found if one.numbers is not None]
        if self.has_hidden or len(numbers) < len(found):
            return _Found(None, OF_GROUPS)
        if not numbers:
            return _Found((0,) * self.asked.n_numbers)
        return _Found(tuple(sum(column) for column in zip(*numbers, strict=True)))


@dataclass
class _Table:
    """The rows of the result, made one after the other."""

    has_groups: bool
    rows: list[list[Cell]] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)

    def add(
        self,
        column: str,
        over: tuple[str, str | None],
        level: str | None,
        quantity: str,
        value: Number | None,
        why: str | None = None,
    ) -> None:
        """over: of what, and of which group."""
        groups = list(over) if self.has_groups else []
        self.rows.append([column, *groups, level, quantity, value, why])

    def value(self, compute: Callable[[], Number | None], what: str) -> Number | None:
        """A value; where there is none, a note of why."""
        try:
            found = compute()
        except ValueError as error:
            self.notes.add(str(error))
            return None
        if found is None:
            self.notes.add(f"{what} of too few rows, or of equal ones, has no value.")
        return found


def finished(
    request: StatisticsRequest,
    parts: Sequence[ShownPart],
    numbers: Mapping[str, Mapping[Label, Sequence[int]]],
    *,
    min_rows: int,
) -> Answer:
    """The answer from the joint integers of each question's shown groups, by its name.

    A number that does not exist is null, and a note says why; one that is withheld is
    null beside the rule. Disclosure: to receivers, which have opened the integers.
    """
    has_groups = bool(request.group_by)
    table = _Table(has_groups)
    questions: dict[str, _Question] = {}
    answer = Answer(
        [*request.label_columns, request.result_alias, WITHHELD], table.rows
    )
    few = f"0 to {min_rows - 1}"
    n_hidden = 0
    for asked in parts:
        name = asked.part.name
        questions[name] = _Question(asked, numbers[name], few)
        for label, why in asked.withheld.items():
            if isinstance(label, Hidden):
                n_hidden += 1
                answer.withheld[label] = why
            elif asked.part.what != "missing" or label[0] is None:
                answer.withheld[(asked.part.column, asked.part.what, *label)] = why
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
    found: set[Label] = set()
    for question in questions:
        found |= {label[-1:] for label in question.named}
    return sorted(found, key=label_order)


def _describe_numbers(
    table: _Table,
    column: str,
    questions: Mapping[str, _Question],
    groups: Sequence[Label],
) -> None:
    moments = questions[f"moments {column}"]
    missing = questions[f"missing {column}"]

    def show(over: tuple[str, str | None], sums: _Found, n_missing: _Found) -> None:
        _show_count(table, column, over, n_missing, quantity="missing", level=None)
        if sums.numbers is None:
            for quantity in ("n", "mean", "sd"):
                table.add(column, over, None, quantity, None, sums.why)
            return
        found = Moments(*sums.numbers)
        table.add(column, over, None, "n", found.n)
        mean = functools.partial(exact.mean, found, told)
        table.add(column, over, None, "mean", table.value(mean, "A mean"))
        sd = functools.partial(exact.std, found, 1)
        what = "A standard deviation"
        table.add(column, over, None, "sd", table.value(sd, what))

    if table.has_groups:
        no_value: list[Label] = [(None, *group) for group in groups]
        show(("all", None), moments.add(groups), missing.add(no_value))
    for group in groups:
        show(_over(group), moments.find(group), missing.find((None, *group)))
    if table.has_groups:
        _show_difference(table, column, groups, lambda pair: _of_means(moments, pair))


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
        over: tuple[str, str | None],
        n_rows: _Found,
        n_missing: _Found,
        of_level: Mapping[str, _Found],
    ) -> None:
        _show_count(table, column, over, n_missing, quantity="missing", level=None)
        _show_count(table, column, over, n_rows, quantity="n", level=None)
        for level, found in of_level.items():
            _show_count(table, column, over, found, quantity="n", level=level)
            why = found.why or n_rows.why
            share = None
            if found.numbers is not None and n_rows.numbers is not None:
                share = _share(found.numbers[0], n_rows.numbers[0])
            table.add(column, over, level, "share", share, why)

    if table.has_groups:
        no_value: list[Label] = [(None, *group) for group in groups]
        of_all = {}
        for level in levels:
            of_all[level] = tabled.add([(level, *group) for group in groups])
        show(("all", None), count.add(groups), missing.add(no_value), of_all)
    for group in groups:
        of_group = {level: tabled.find((level, *group)) for level in levels}
        n_missing = missing.find((None, *group))
        show(_over(group), count.find(group), n_missing, of_group)
    if table.has_groups:
        compare = functools.partial(_of_shares, tabled, levels)
        _show_difference(table, column, groups, compare)


def _over(group: Label) -> tuple[str, str | None]:
    return ("group", group[0] if group else None)


def _show_count(
    table: _Table,
    column: str,
    over: tuple[str, str | None],
    found: _Found,
    *,
    quantity: str,
    level: str | None,
) -> None:
    n_rows = None if found.numbers is None else found.numbers[0]
    table.add(column, over, level, quantity, n_rows, found.why)


def _share(n_rows: int, n_all: int) -> Number | None:
    return told(Fraction(n_rows, n_all)) if n_all else None


# Differences between two groups


def _show_difference(
    table: _Table,
    column: str,
    groups: Sequence[Label],
    compare: Callable[[tuple[Label, Label]], Number | None],
) -> None:
    """Between the two groups of rows that have a value in the group's column."""
    named = [group for group in groups if group != (None,)]
    if len(named) != 2:
        table.notes.add("smd compares two groups, and the rows have another number.")
        return
    try:
        value = compare((named[0], named[1]))
    except _WithheldError:
        table.add(column, ("groups", None), None, "smd", None, OF_GROUPS)
        return
    if value is None:
        table.notes.add("smd has no value where a group is empty or neither varies.")
    table.add(column, ("groups", None), None, "smd", value)


class _WithheldError(Exception):
    """A number that a difference is made of."""


def _of_means(moments: _Question, pair: tuple[Label, Label]) -> Number | None:
    means, variances = [], []
    for group in pair:
        found = moments.find(group)
        if found.numbers is None:
            raise _WithheldError
        sums = Moments(*found.numbers)
        mean, variance = exact.mean(sums), exact.variance(sums, 1)
        if mean is None or variance is None:
            return None
        means.append(float(mean))
        variances.append(float(variance))
    return standardised.of_means((means[0], means[1]), (variances[0], variances[1]))


def _of_shares(
    tabled: _Question, levels: Sequence[str], pair: tuple[Label, Label]
) -> Number | None:
    shares = []
    for group in pair:
        found = [tabled.find((level, *group)) for level in levels]
        counts = [one.numbers[0] for one in found if one.numbers is not None]
        if len(counts) < len(found) or tabled.has_hidden:
            raise _WithheldError
        n_rows = sum(counts)
        if not n_rows:
            return None
        shares.append([n / n_rows for n in counts])
    return standardised.of_shares(shares[0], shares[1])
