"""An answer as a list of opened totals: what somebody will be able to open, derived from
the agreed plan before anything of it leaves.

    avg of age                n, and the sum of age
    cov of age and bmi        n, the sums, the sums of squares, the sum of products
    sum(a.w + b.x)            n, and the sum of a.w + b.x
    a training order          n, and in each round the sum of gradients

What is opened is a numerator or a count, and not the answer that is made of it. Each
total says which columns of which hospital are in it with which coefficient, which rows
it is over, and who opens it. Here are the totals of joint statistics;
`training_totals.py` has those of models, `totals_in_words.py` writes the list for a
person, `total_rules.py` has the rules on whose columns are in a total, and
`disclosure.py` those on rows.

Decisions 72 and 88.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from agents.gate.kept_sets import COORDINATOR
from analytics.statistics.circuit import Plan
from analytics.statistics.weighing import Coefficients, Composition, compositions
from protocol.statistics_described import Kind, parts_of, supposed_kinds
from protocol.statistics_request import RANKED, TALLIED, StatisticsRequest

MOST_NAMES = 20
"""So many attributes of an order are named."""

Parts = Mapping[tuple[int, str], Fraction]
"""(hospital, its column) to the coefficient with which the column is in a total."""


@dataclass(frozen=True)
class OpenedTotal:
    """One number, or one for each group or round, that somebody will be able to open."""

    # What is opened, in words: "sum of squares".
    what: str
    # What it is of, in words: "age".
    subject: str
    # Which columns are added up; of a total that weighs columns by each other, those
    # that stand behind it, each with 1.
    parts: Parts
    # User ids as text, and COORDINATOR.
    receivers: tuple[str, ...]
    # By hospital, the columns in which a row that counts has a value.
    complete_in: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    # How often it is opened, in words: "for each value of sex"; nothing for once.
    repeated: str = ""
    # Whether it counts rows, and adds up no column.
    is_count: bool = False

    @property
    def owners(self) -> frozenset[int]:
        """The hospitals whose columns are left in it."""
        return frozenset(hospital for hospital, _ in self.parts)

    def parts_beside(self, hospital: int, column: str) -> Parts:
        """All coefficients relative to that of one's own column, for the audit.

        KeyError where the column is not in the total.
        """
        own_coefficient = self.parts[hospital, column]
        relative = {}
        for part, coefficient in self.parts.items():
            relative[part] = coefficient / own_coefficient
        return relative


def audited_columns(
    totals: Iterable[OpenedTotal],
    me: int,
) -> dict[str, list[Parts]]:
    """For each own column, what every total that it is in is made of, relative to it."""
    by_column: dict[str, list[Parts]] = defaultdict(list)
    for total in totals:
        for hospital, column in total.parts:
            if hospital != me:
                continue
            beside = total.parts_beside(me, column)
            if beside not in by_column[column]:
                by_column[column].append(beside)
    return dict(by_column)


# The totals of joint statistics


def opened_totals(
    request: StatisticsRequest,
    plan: Plan | None,
    *,
    kinds: Mapping[str, Kind] | None = None,
) -> list[OpenedTotal]:
    """What an order of joint statistics opens.

    `plan` is the circuit of a joined order, and None of a pooled one; kinds: of what
    `describe` is of, once the data have been looked at. An answer with a value for each
    person has no totals: `row_level` rules it.
    """
    if request.describes:
        return _described_totals(request, kinds or supposed_kinds(request))
    if not request.is_joined:
        return _pooled_totals(request)
    if plan is None or plan.is_row_level:
        return []
    return _joined_totals(request, plan)


def receivers_of(request: StatisticsRequest) -> tuple[str, ...]:
    """Who opens the totals: user ids as text, and COORDINATOR."""
    receivers = [str(opener) for opener in request.openers]
    # Values pass through the coordinator's memory.
    if request.disclose:
        receivers.append(COORDINATOR)
    return tuple(receivers)


def _joined_totals(request: StatisticsRequest, plan: Plan) -> list[OpenedTotal]:
    receivers = receivers_of(request)
    complete_in = {}
    for hospital in request.providers:
        named = plan.expression.columns_of(request.alias(hospital))
        has_values = {*named, *(request.complete_on or [])}
        complete_in[hospital] = tuple(sorted(has_values))
    # How many people all providers have is known to each of them, and no column's.
    count = OpenedTotal(
        what="n",
        subject="",
        parts={},
        receivers=receivers,
        complete_in=complete_in,
        is_count=True,
    )
    totals = [count]
    for composition in compositions(plan):
        parts, subject = _composed(
            request,
            plan,
            composition,
        )
        what = "sum"
        if composition.total.of == "squares":
            what = "sum of squares"
        total = OpenedTotal(
            what=what,
            subject=subject,
            parts=parts,
            receivers=receivers,
            complete_in=complete_in,
        )
        totals.append(total)
    return totals


def _composed(
    request: StatisticsRequest,
    plan: Plan,
    composition: Composition,
) -> tuple[Parts, str]:
    """The parts of a total of a circuit, and what it is of in words."""
    parts: dict[tuple[int, str], Fraction] = {}
    if composition.coefficients is not None:
        for (owner, qualified_name), coefficient in composition.coefficients.items():
            alias = request.alias(owner)
            column = qualified_name.removeprefix(f"{alias}.")
            parts[owner, column] = coefficient
        return parts, _sum_in_words(composition.coefficients)
    # Weighed by each other: no coefficient says how much a column counts.
    qualified_names = []
    for owner in sorted(composition.providers):
        alias = request.alias(owner)
        for column in plan.expression.columns_of(alias):
            parts[owner, column] = Fraction(1)
            qualified_names.append(f"{alias}.{column}")
    return parts, f"a function of {listed(qualified_names)}"


def _sum_in_words(coefficients: Coefficients) -> str:
    """a.w + b.x - 2 c.z"""
    sum_text = ""
    for (_, qualified_name), coefficient in sorted(coefficients.items()):
        sign = "-" if coefficient < 0 else "+"
        magnitude = abs(coefficient)
        term = qualified_name if magnitude == 1 else f"{magnitude} {qualified_name}"
        if sum_text:
            sum_text += f" {sign} {term}"
        elif coefficient < 0:
            sum_text = f"-{term}"
        else:
            sum_text = term
    return sum_text or "a constant"


def _pooled_totals(request: StatisticsRequest) -> list[OpenedTotal]:
    """A pooled statistic's: every provider's column comes in once."""
    columns: dict[int, tuple[str, ...]] = {}
    for hospital in request.providers:
        own_columns = request.columns or [request.provider(hospital).key_column]
        columns[hospital] = tuple(own_columns)
    joint_names = request.columns or [joint_name(request)]
    count = _pooled_count(request, columns, joint_names)
    if request.is_matrix:
        return _matrix_totals(count, joint_names)
    if request.method in RANKED:
        count_below = replace(count, what="n below each searched value")
        return [count, count_below]
    totals = [count]
    if request.is_share:
        with_value = replace(count, what="n with a value", repeated="")
        totals.append(with_value)
    if request.method == "logrank":
        of_events = _of_events(count, request)
        return [*totals, of_events]
    if request.counted_as in TALLIED or request.method == "count":
        return totals
    totals += _pooled_sums(request, count, columns, joint_names)
    if request.rows.fills:
        without_value = replace(count, what="n without a value")
        totals.append(without_value)
    return totals


def _pooled_count(
    request: StatisticsRequest,
    columns: Mapping[int, Sequence[str]],
    joint_names: Sequence[str],
) -> OpenedTotal:
    """How many rows a pooled statistic is over. Its other totals differ from this one
    in what they are and which of the columns are in them.
    """
    complete_on = tuple(request.complete_on or [])
    # Groups and the values of these methods count rows without a value, too.
    counts_all = request.counted_as in ("frequency", "crosstab")
    parts = {}
    complete_in = {}
    for hospital, column_names in columns.items():
        for column in column_names:
            parts[hospital, column] = Fraction(1)
        complete_in[hospital] = complete_on
        if not counts_all:
            each_once = dict.fromkeys([*column_names, *complete_on])
            complete_in[hospital] = tuple(each_once)
    return OpenedTotal(
        what="n",
        subject=listed(joint_names),
        parts=parts,
        receivers=receivers_of(request),
        complete_in=complete_in,
        repeated=_repeated(request, joint_names),
        is_count=True,
    )


def _pooled_sums(
    request: StatisticsRequest,
    count: OpenedTotal,
    columns: Mapping[int, Sequence[str]],
    joint_names: Sequence[str],
) -> list[OpenedTotal]:
    """The sums of each column's values and, where the method needs them, of their
    squares and products.
    """
    sums = []
    for column_place, subject in enumerate(joint_names):
        parts = {}
        for hospital, column_names in columns.items():
            column = column_names[column_place]
            parts[hospital, column] = Fraction(1)
        of_values = replace(
            count, what="sum", subject=subject, parts=parts, is_count=False
        )
        sums.append(of_values)
        if request.counted_as not in ("sum", "avg"):
            of_squares = replace(of_values, what="sum of squares")
            sums.append(of_squares)
    if request.counted_as in ("cov", "corr"):
        of_products = replace(count, what="sum of products", is_count=False)
        sums.append(of_products)
    return sums


def _of_events(count: OpenedTotal, request: StatisticsRequest) -> OpenedTotal:
    """Of a log-rank test: sums over all event times of all groups, within hospitals
    (decision 86).
    """
    what = "observed minus expected events of each group but the last, and their covariances,"
    if request.weights == "wilcoxon":
        what = f"{what} each time by the number at risk,"
    if request.weights == "fleming_harrington":
        what = f"{what} each time by the survival before it,"
    return replace(
        count,
        what=what,
        repeated="",
        is_count=False,
    )


def _matrix_totals(
    count: OpenedTotal,
    names: Sequence[str],
) -> list[OpenedTotal]:
    """Of a matrix: every sum is of one column or two, over the rows complete in all."""
    totals = [count]
    in_words = few(names)
    of_one = f"each of {in_words}"
    of_two = f"each two of {in_words}"
    for what in ("sum", "sum of squares"):
        for column_name in names:
            parts = {}
            for part, coefficient in count.parts.items():
                _, column = part
                if column == column_name:
                    parts[part] = coefficient
            of_name = replace(
                count,
                what=what,
                subject=of_one,
                parts=parts,
                is_count=False,
            )
            totals.append(of_name)
    products = replace(
        count,
        what="sum of products",
        subject=of_two,
        is_count=False,
    )
    return [*totals, products]


def _described_totals(
    request: StatisticsRequest,
    kinds: Mapping[str, Kind],
) -> list[OpenedTotal]:
    """Those of the single questions that it asks at once."""
    totals = []
    for described_part in parts_of(request, kinds):
        part_totals = _pooled_totals(described_part.request)
        if described_part.what == "missing":
            repeated = ""
            if request.group_by:
                repeated = f"for each group of {listed(request.group_by)}"
            for part_total in part_totals:
                # Of all values only this one.
                without_value = replace(
                    part_total,
                    what="n without a value",
                    subject=described_part.column,
                    repeated=repeated,
                )
                totals.append(without_value)
            continue
        totals += part_totals
    return totals


def joint_name(request: StatisticsRequest) -> str:
    """What a pooled statistic's column is called in the answer: as the provider that
    the request names first calls it.
    """
    return request.data_providers[0].key_column


def _repeated(request: StatisticsRequest, joint_names: Sequence[str]) -> str:
    phrases = []
    if request.grouping:
        columns = listed(request.grouping)
        phrases.append(f"for each group of {columns}")
    if request.counted_as in ("frequency", "crosstab"):
        columns = listed(joint_names)
        phrases.append(f"for each value of {columns}")
    if request.is_binned:
        phrases.append("for each bin")
    return " and ".join(phrases)


def few(names: Sequence[str]) -> str:
    """Their names, or how many where a line could not hold them."""
    if len(names) > MOST_NAMES:
        return f"{len(names)} columns"
    return listed(names)


def listed(names: Sequence[str]) -> str:
    """age, bmi and sex"""
    *first, last = names
    if not first:
        return last
    before = ", ".join(first)
    return f"{before} and {last}"
