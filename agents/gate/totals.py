"""An answer as a list of opened totals: what somebody will be able to open, derived from
the agreed plan before anything of it leaves.

    avg of age                n, and the sum of age
    cov of age and bmi        n, the sums, the sums of squares, the sum of products
    sum(a.w + b.x)            n, and the sum of a.w + b.x
    a training order          n, and in each round the sum of gradients

What is opened is a numerator or a count, and not the answer that is made of it. Each
total says which columns of which hospital are in it with which coefficient, which rows
it is over, and who opens it; `words_of` writes the list for a person. The rules on whose
columns are in a total are here, too; `disclosure.py` has the rules on rows.

Decisions 72 and 88.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from agents.gate.memory import COORDINATOR
from analytics.statistics.circuit import Plan
from analytics.statistics.weighing import Coefficients, Composition, compositions
from protocol.errors import Refused
from protocol.messages import PooledThresholds
from protocol.policy import StatisticsRules
from protocol.shares.cells import Limits
from protocol.statistics_described import Kind, parts_of, supposed_kinds
from protocol.statistics_request import RANKED, TALLIED, StatisticsRequest
from protocol.training_request import TrainingRequest
from protocol.varying_plan import compared_columns

MOST_NAMES = 20
"""So many attributes of a training order are named."""

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
        own = self.parts[hospital, column]
        return {part: coefficient / own for part, coefficient in self.parts.items()}


def audited_columns(totals: Iterable[OpenedTotal], me: int) -> dict[str, list[Parts]]:
    """For each own column, what every total that it is in is made of, relative to it."""
    found: dict[str, list[Parts]] = defaultdict(list)
    for total in totals:
        for hospital, column in total.parts:
            if hospital != me:
                continue
            beside = total.parts_beside(me, column)
            if beside not in found[column]:
                found[column].append(beside)
    return dict(found)


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
    receivers = [str(user) for user in request.openers]
    # Values pass through the coordinator's memory.
    if request.disclose:
        receivers.append(COORDINATOR)
    return tuple(receivers)


def _joined_totals(request: StatisticsRequest, plan: Plan) -> list[OpenedTotal]:
    receivers = receivers_of(request)
    complete_in = {}
    for user in request.providers:
        named = plan.expression.columns_of(request.alias(user))
        complete_in[user] = tuple(sorted({*named, *(request.complete_on or [])}))
    # How many people all providers have is known to each of them, and no column's.
    count = OpenedTotal(
        what="n",
        subject="",
        parts={},
        receivers=receivers,
        complete_in=complete_in,
        is_count=True,
    )
    found = [count]
    for composition in compositions(plan):
        parts, subject = _composed(request, plan, composition)
        total = OpenedTotal(
            what="sum of squares" if composition.total.of == "squares" else "sum",
            subject=subject,
            parts=parts,
            receivers=receivers,
            complete_in=complete_in,
        )
        found.append(total)
    return found


def _composed(
    request: StatisticsRequest, plan: Plan, composition: Composition
) -> tuple[Parts, str]:
    """The parts of a total of a circuit, and what it is of in words."""
    parts: dict[tuple[int, str], Fraction] = {}
    if composition.coefficients is not None:
        for (owner, name), coefficient in composition.coefficients.items():
            column = name.removeprefix(f"{request.alias(owner)}.")
            parts[owner, column] = coefficient
        return parts, _sum_in_words(composition.coefficients)
    # Weighed by each other: no coefficient says how much a column counts.
    names = []
    for owner in sorted(composition.providers):
        alias = request.alias(owner)
        for column in plan.expression.columns_of(alias):
            parts[owner, column] = Fraction(1)
            names.append(f"{alias}.{column}")
    return parts, f"a function of {_listed(names)}"


def _sum_in_words(coefficients: Coefficients) -> str:
    """a.w + b.x - 2 c.z"""
    text = ""
    for (_, name), coefficient in sorted(coefficients.items()):
        sign = "-" if coefficient < 0 else "+"
        size = abs(coefficient)
        term = name if size == 1 else f"{size} {name}"
        if text:
            text += f" {sign} {term}"
        else:
            text = f"-{term}" if coefficient < 0 else term
    return text or "a constant"


def _pooled_totals(request: StatisticsRequest) -> list[OpenedTotal]:
    """A pooled statistic's: every provider's column comes in once."""
    columns: dict[int, tuple[str, ...]] = {}
    for user in request.providers:
        own = request.columns or [request.provider(user).key_column]
        columns[user] = tuple(own)
    complete_in = {}
    for user, names in columns.items():
        complete_in[user] = tuple(dict.fromkeys([*names, *(request.complete_on or [])]))
    # Groups and the values of these methods count rows without a value, too.
    if request.counted_as in ("frequency", "crosstab"):
        complete_in = {user: tuple(request.complete_on or []) for user in columns}

    joint_names = request.columns or [joint_name(request)]
    receivers = receivers_of(request)
    repeated = _repeated(request, joint_names)

    def total(what: str, places: Sequence[int], *, is_count: bool) -> OpenedTotal:
        parts = {}
        for user, names in columns.items():
            for place in places:
                parts[user, names[place]] = Fraction(1)
        return OpenedTotal(
            what=what,
            subject=_listed([joint_names[place] for place in places]),
            parts=parts,
            receivers=receivers,
            complete_in=complete_in,
            repeated=repeated,
            is_count=is_count,
        )

    every_place = range(len(joint_names))
    if request.is_matrix:
        return _matrix_totals(total("n", every_place, is_count=True), joint_names)
    if request.method in RANKED:
        below = total("n below each searched value", every_place, is_count=True)
        return [total("n", every_place, is_count=True), below]
    found = [total("n", every_place, is_count=True)]
    if request.is_share:
        found.append(replace(found[0], what="n with a value", repeated=""))
    if request.method == "logrank":
        return [*found, _of_events(found[0])]
    if request.counted_as in TALLIED or request.method == "count":
        return found
    for place in every_place:
        found.append(total("sum", [place], is_count=False))
        if request.counted_as not in ("sum", "avg"):
            found.append(total("sum of squares", [place], is_count=False))
    if request.counted_as in ("cov", "corr"):
        found.append(total("sum of products", every_place, is_count=False))
    if request.rows.fills:
        found.append(total("n without a value", every_place, is_count=True))
    return found


def _of_events(count: OpenedTotal) -> OpenedTotal:
    """Of a log-rank test: sums over all event times of all groups, within hospitals
    (decision 86).
    """
    what = "observed minus expected events of each group but the last, and their covariances,"
    return replace(count, what=what, repeated="", is_count=False)


def _matrix_totals(count: OpenedTotal, names: Sequence[str]) -> list[OpenedTotal]:
    """Of a matrix: every sum is of one column or two, over the rows complete in all."""
    found = [count]
    for what in ("sum", "sum of squares"):
        for name in names:
            parts = {part: one for part, one in count.parts.items() if part[1] == name}
            found.append(
                replace(
                    count,
                    what=what,
                    subject=f"each of {_few(names)}",
                    parts=parts,
                    is_count=False,
                )
            )
    of_two = f"each two of {_few(names)}"
    products = replace(count, what="sum of products", subject=of_two, is_count=False)
    return [*found, products]


def _described_totals(
    request: StatisticsRequest, kinds: Mapping[str, Kind]
) -> list[OpenedTotal]:
    """Those of the single questions that it asks at once."""
    found = []
    for part in parts_of(request, kinds):
        totals = _pooled_totals(part.request)
        if part.what == "missing":
            repeated = ""
            if request.group_by:
                repeated = f"for each group of {_listed(request.group_by)}"
            # Of all values only this one.
            totals = [
                replace(
                    total,
                    what="n without a value",
                    subject=part.column,
                    repeated=repeated,
                )
                for total in totals
            ]
        found += totals
    return found


def joint_name(request: StatisticsRequest) -> str:
    """What a pooled statistic's column is called in the answer: as the provider that
    the request names first calls it.
    """
    return request.data_providers[0].key_column


def _repeated(request: StatisticsRequest, joint_names: Sequence[str]) -> str:
    words = []
    if request.grouping:
        words.append(f"for each group of {_listed(request.grouping)}")
    if request.counted_as in ("frequency", "crosstab"):
        words.append(f"for each value of {_listed(joint_names)}")
    if request.is_binned:
        words.append("for each bin")
    return " and ".join(words)


# The totals of a training order


def _of_rounds(request: TrainingRequest) -> str:
    """What each round opens, in words."""
    gradients = "sum of gradients and loss"
    if request.is_newton:
        gradients = (
            "weighted sums of each column and of each product of two columns, the deviance, and at how many hospitals"
            " the model gives a mean out of range"
        )
    if request.model_type == "cox":
        gradients = (
            "sums over all events, of each column and of each product of two columns among those at risk, and the"
            " partial likelihood"
        )
    if request.weights is not None:
        gradients += f", each row weighted by {request.weights}"
    if request.model_params.offset is not None:
        gradients += f", off the offset {request.model_params.offset}"
    return gradients


def training_totals(request: TrainingRequest) -> list[OpenedTotal]:
    """What a training order opens: every party opens every sum.

    With method None the coordinator sees each hospital's part, and so opens all sums.
    """
    hospitals = request.hospitals
    # A derived column's totals depend on the columns that it is made of.
    attributes = request.study.plain
    columns = tuple(dict.fromkeys([*attributes, *request.outcome_columns]))
    complete_columns = tuple(dict.fromkeys([*columns, *request.complete_on]))
    complete_in = dict.fromkeys(hospitals, complete_columns)
    receivers = tuple(str(user) for user in hospitals)
    if request.is_open:
        receivers = (*receivers, COORDINATOR)
    n_splits = 0
    if request.model_params.cv_param.need_cv:
        n_splits = request.model_params.cv_param.n_splits
    part = f" for each of {n_splits} folds and all rows" if n_splits else ""

    def total(
        what: str, subject: str, names: Sequence[str], repeated: str
    ) -> OpenedTotal:
        parts = {}
        for user in hospitals:
            for name in names:
                parts[user, name] = Fraction(1)
        return OpenedTotal(
            what=what,
            subject=subject,
            parts=parts,
            receivers=receivers,
            complete_in=complete_in,
            repeated=repeated.strip(),
            is_count=what == "n",
        )

    inputs = _few([*attributes, *request.outcome_columns])
    found = [total("n", inputs, columns, part)]
    if request.evaluates is not None:
        return [*found, *_evaluated(request, total, inputs, columns)]
    study = request.study
    if study.needs_counts:
        found.append(total("n", "rows selected and left out", columns, ""))
    for name in study.categorical:
        levels = f"each level of {_few(list(study.categorical))}"
        found.append(total("n", levels, [name], ""))
    if study.missing == "mean":
        numbers = [name for name in attributes if name not in study.categorical]
        for name in numbers:
            found.append(total("n and sum", f"each of {_few(numbers)}", [name], ""))
    with_moments = request.columns_with_moments
    for name in with_moments:
        for what in ("sum", "sum of squares"):
            each = f"each of {_few(with_moments)}"
            found.append(total(what, each, [name], part))
    in_rounds = f"in each round{part}"
    gradients = _of_rounds(request)
    found.append(total(gradients, inputs, columns, in_rounds))
    at_end = f"at the end{part}"
    scores = "sum of loss and counts of classes, calls and scores of training and held-out rows"
    if request.model_type == "cox":
        scores = (
            "n of events, counts of pairs that the model orders rightly, the partial likelihood, and the sums of the"
            " rounds times the logarithm of the time and its square"
        )
    if request.model_type == "glm":
        scores += ", Pearson's chi2, null deviance and the rest of the log-likelihood"
    found.append(total(scores, inputs, columns, at_end))
    return found


def _evaluated(
    request: TrainingRequest,
    total: Callable[[str, str, Sequence[str], str], OpenedTotal],
    inputs: str,
    columns: Sequence[str],
) -> list[OpenedTotal]:
    """What an order opens that judges a model on new rows (decision 87)."""
    found = [total("n", "rows left out", columns, "")]
    what = "sum of loss, and counts of classes and of calls"
    if request.model_type == "lr":
        what = (
            "sums of log loss and of squared error, counts of calls at 0.5, and counts of scores in 1,000 bins"
            " by class"
        )
    elif request.model_type == "linear":
        for moment in ("sum", "sum of squares"):
            found.append(total(moment, request.label_name, [request.label_name], ""))
        what = "sums of squared and of absolute error"
    of_model = f"model {request.evaluates} on {inputs}"
    return [*found, total(what, of_model, columns, "")]


# In words


def words_of(
    totals: Iterable[OpenedTotal], *, n_rows: int, n_hospitals: int
) -> list[str]:
    """One sentence for each subject: "n, sum and sum of squares of age over 854 people
    of 4 hospitals".

    Nothing of a row, and no group's value, stands in them.
    """
    people = f"{n_rows} people of {_n_hospitals(n_hospitals)}"
    return _words_over(totals, people)


def words_before(
    totals: Iterable[OpenedTotal], *, n_own_rows: int, n_hospitals: int
) -> list[str]:
    """The same, before the other hospitals have said how many rows they have."""
    people = f"the people of {_n_hospitals(n_hospitals)}, {n_own_rows} of them here"
    return _words_over(totals, people)


def _n_hospitals(n_hospitals: int) -> str:
    return "1 hospital" if n_hospitals == 1 else f"{n_hospitals} hospitals"


def _words_over(totals: Iterable[OpenedTotal], people: str) -> list[str]:
    by_subject: dict[tuple[str, str], list[str]] = defaultdict(list)
    for total in totals:
        by_subject[total.subject, total.repeated].append(total.what)
    sentences = []
    for (subject, repeated), whats in by_subject.items():
        # The sums of each attribute are one line.
        opened = _listed(list(dict.fromkeys(whats)))
        if subject:
            opened += f" of {subject}"
        sentence = f"{opened} over {people}"
        if repeated:
            sentence += f", {repeated}"
        sentences.append(sentence)
    return sentences


def values_in_words(
    request: StatisticsRequest, plan: Plan, *, n_rows: int
) -> list[str]:
    """What is opened of an answer with a value for each person."""
    names = []
    for user in request.providers:
        alias = request.alias(user)
        names += [f"{alias}.{column}" for column in plan.expression.columns_of(alias)]
    n_hospitals = len(request.providers)
    return [
        f"a value for each of {n_rows} people of {n_hospitals} hospitals, made of {_listed(names)}"
    ]


_CELLS = {"histogram": "bins", "frequency": "values", "crosstab": "pairs of values"}
"""What is compared one by one; groups for other methods."""


def comparison_in_words(
    request: StatisticsRequest, limits: Limits, *, n_cells: int, n_answers: int
) -> str:
    """What is opened before the totals where thresholds are on the sum: "whether n of
    sex and cp is at least 10, of at least 2 hospitals, for each of 6 groups".

    No group's value stands in it.
    """
    subject: list[str] = []
    if request.counted_as in TALLIED:
        subject += request.columns or [joint_name(request)]
    subject += request.grouping
    cells = _CELLS.get(request.counted_as, "groups")
    named = _listed(list(dict.fromkeys(subject)))
    sentence = f"whether n of {named} is at least {limits.min_rows}"
    if limits.min_providers > 1:
        sentence += f", of at least {limits.min_providers} hospitals"
    without = [str(user) for user in request.openers if user in request.providers]
    if without:
        sentence += f", also without hospital {' and without '.join(without)}"
    if n_answers:
        answers = (
            "the last answer"
            if n_answers == 1
            else f"each of the last {n_answers} answers"
        )
        sentence += f", and none or at least {limits.min_changed} people have come and gone since {answers}"
    return f"{sentence}, for each of {n_cells} {cells}"


def missing_in_words(n_hospitals: int) -> str:
    """What is opened beside the sums of cells whose thresholds are on the sum."""
    return f"n without a value over all people of {n_hospitals} hospitals"


def varying_in_words(request: TrainingRequest, thresholds: PooledThresholds) -> str:
    """What a training order opens before its sums where thresholds are on the sum."""
    n_sets = len({one.row_set for one in compared_columns(request)})
    least = thresholds.min_varying
    sentence = f"whether 0 and 1 each stand in none or at least {least} rows of all hospitals but any one"
    if not thresholds.own_totals:
        sentence += f", at {thresholds.min_hospitals} hospitals or more"
    whose = _few(request.attributes)
    sets = "all rows" if n_sets == 1 else f"each of {n_sets} sets of rows"
    return f"{sentence}, for each of {whose} that holds no other value, in {sets}"


def _few(names: Sequence[str]) -> str:
    """Their names, or how many where a line could not hold them."""
    if len(names) > MOST_NAMES:
        return f"{len(names)} columns"
    return _listed(names)


def _listed(names: Sequence[str]) -> str:
    """age, bmi and sex"""
    *first, last = names
    if not first:
        return last
    return f"{', '.join(first)} and {last}"


# The rules on whose columns are in a total


def check_owners(
    totals: Iterable[OpenedTotal], me: int, rules: StatisticsRules
) -> None:
    """Refuse a total with this hospital's columns and too few others'.

    Those count whose columns are left in it, not those who bring keys. Raises Refused
    with code own_totals, where it is this hospital's own, or min_providers.
    """
    if rules.own_totals:
        return
    for total in totals:
        owners = total.owners
        if owners == {me}:
            raise Refused(
                "The answer would open a total of this hospital's rows alone.",
                remedy="Add up the same with other hospitals, or ask the hospital to allow own_totals,"
                " under [statistics] in its policy.toml.",
                code="own_totals",
            )
        if me in owners and len(owners) < rules.min_providers:
            raise Refused(
                f"Columns of {len(owners)} hospitals are left in a total, fewer than this hospital's minimum of"
                f" {rules.min_providers}.",
                remedy="Add up columns of more hospitals, or ask the hospital to lower min_providers,"
                " under [statistics] in its policy.toml.",
                code="min_providers",
                threshold=rules.min_providers,
            )


def check_mask(n_varying: int, min_varying: int) -> None:
    """Refuse a summand that hides nothing of what it is added to (code own_totals).

    Who knows a column that is nearly the same everywhere takes it off the total.

    Disclosure: a refusal shows that the column hardly varies among the common people.
    """
    # 1 switches the rule off, as for models.
    if min_varying > 1 and n_varying < min_varying:
        raise Refused(
            f"Fewer than {min_varying} of the common people differ in what this hospital adds to the total, so that it"
            " hides no other hospital's part.",
            remedy="Leave this hospital's column out, ask for more people, or ask the hospital to lower min_varying in"
            " its policy.toml.",
            code="own_totals",
            threshold=min_varying,
        )


def check_columns(request: StatisticsRequest, me: int, rules: StatisticsRules) -> None:
    """Refuse a pooled statistic in which providers name different columns (code
    column_names).

    Each provider answers for its own: it is named as the answer names it, or the policy
    says that it is the same. A constant under another name would take the mask off the
    others' sum.
    """
    if request.is_joined or request.columns:
        return
    own = request.provider(me).key_column
    joint = joint_name(request)
    # What a policy says of its own column holds for none that an order derives.
    is_same = joint == rules.same_as.get(own) and own not in request.rows.derived
    if joint == own or is_same:
        return
    raise Refused(
        f"This hospital is asked for {own}, and the answer is of {joint}.",
        remedy="Name the same column at every provider, rename it in a SELECT, or ask the hospital to set"
        f' same_as = {{ "{own}" = "{joint}" }} under [statistics] in its policy.toml.',
        code="column_names",
        columns=[own],
    )
