"""What this hospital's gate would say to an order of joint statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agents.check.findings import OK, Finding
from agents.check.order.explained import (
    approval,
    asked,
    jointly,
    left_alone,
    opens,
    passed,
    pins,
    refusals,
    refuses,
    start,
)
from agents.gate import totals, totals_in_words
from agents.gate.earlier_questions import StatisticsLedger
from agents.gate.memory import Memory
from agents.order.party import UNSENT, Hospital
from agents.statistics import joined_rows, pooled
from agents.statistics.groups import pools_cells
from agents.statistics.party import (
    AskedStatistics,
    check_data,
    policy_rules,
)
from agents.statistics.readings import Reading
from protocol.errors import ConsiliumError, Refused, Rule
from protocol.statistics_plan import sketched_plan
from protocol.statistics_request import StatisticsOrder, StatisticsRequest

_SECTION = "[statistics]"


@dataclass(frozen=True)
class _Copied(AskedStatistics):
    """An order that is reserved in copies of what is remembered."""

    copied_memory: Memory
    copied_ledger: StatisticsLedger

    @property
    def memory(self) -> Memory:
        return self.copied_memory

    @property
    def ledger(self) -> StatisticsLedger:
        return self.copied_ledger


def statistics_findings(
    hospital: Hospital, request: StatisticsRequest
) -> Iterator[Finding]:
    """In the order of events; where rows cannot be read, what is known without them."""
    order = _copied(hospital, request)
    rules = asked(policy_rules(order, request))
    yield from rules
    yield from pins(order, request.hospitals)
    yield from start(request)
    yield from approval(order)
    if not order.is_provider:
        sentence = "This hospital only receives: none of its rows are asked for."
        yield Finding("rows", OK, sentence)
        return
    if order.policy.statistics is None:
        return
    data_rule = Rule("data_path", lambda: check_data(order, request, order.sql))
    of_data = asked([data_rule])
    yield from of_data
    is_unreadable = any(finding.check == "expression" for finding in rules)
    if refuses(of_data) or is_unreadable:
        return
    reading, refused = _read(order)
    yield from refused
    if reading is None:
        return
    yield _rows(reading)
    yield passed("min_rows")
    if request.is_joined:
        yield from _joined()
    elif request.rows.categorical:
        yield _with_levels(request)
    else:
        yield from _pooled(order, reading)
    yield from _opens(order, reading)


def _read(order: _Copied) -> tuple[Reading | None, list[Finding]]:
    """What an order would keep of this provider's rows, or every reason against it."""
    findings: list[Finding] = []

    def refuse(error: Refused) -> None:
        for finding in refusals(error):
            if finding not in findings:
                findings.append(finding)

    try:
        if order.request.is_joined:
            reading = joined_rows.read_anew(order)
        else:
            reading = pooled.read_anew(order, refuse=refuse)
    except ConsiliumError as error:
        return None, [*findings, *refusals(error)]
    return (None if findings else reading), findings


def _rows(reading: Reading) -> Finding:
    n_selected = reading.n_selected or reading.n_rows + reading.n_left_out
    n_without = reading.n_null - reading.n_left_out
    sentence = (
        f"{n_selected} rows are selected; {reading.n_left_out} are left out, and {n_without} more have no value in the"
        " question"
    )
    if reading.n_filled:
        sentence += f", {reading.n_filled} get the mean"
    return Finding("rows", OK, f"{sentence}.")


def _copied(hospital: Hospital, request: StatisticsRequest) -> _Copied:
    sql = {}
    if hospital.me in request.providers:
        sql["data"] = request.provider(hospital.me).data_path
    folder = hospital.vault.cohorts
    return _Copied(
        settings=hospital.settings,
        policy=hospital.policy,
        vault=hospital.vault,
        order_id=UNSENT,
        request=request,
        sql=sql,
        order=StatisticsOrder(request=request, commitments={}),
        copied_memory=Memory(folder, is_copy=True),
        copied_ledger=StatisticsLedger(folder, is_copy=True),
    )


def _pooled(order: _Copied, reading: Reading) -> Iterator[Finding]:
    """Of an answer whose rows have passed and are reserved in the copy."""
    request = order.request
    yield passed("earlier_cohort")
    yield from left_alone(
        order,
        order.memory,
        hospitals=request.providers,
        least_hospitals=order.rules.least_providers,
        regroup=order.rules.regroup,
        section=_SECTION,
    )
    if request.describes:
        yield _parts(reading)
        yield jointly(
            "groups",
            "whether each of all hospitals' groups and levels has enough rows, at enough hospitals (min_providers).",
        )
    if request.has_cells:
        yield _groups(reading)
        which = "each of all hospitals' groups has enough rows"
        if pools_cells(request, order.rules):
            which = "all hospitals' rows of each group are enough (cells = pooled)"
        yield jointly(
            "groups", f"whether {which}, at enough hospitals (min_providers)."
        )


def _with_levels(request: StatisticsRequest) -> Finding:
    """Of an answer whose groups the hospitals agree on."""
    names = ", ".join(request.rows.categorical)
    return jointly(
        "levels",
        f"which levels {names} has at all hospitals, whether enough rows here have each (rare_levels, min_rows,"
        " max_share), and what they tell with earlier answers (earlier_cohort, earlier_hospitals).",
    )


def _parts(reading: Reading) -> Finding:
    """Of all questions of `describe`."""
    n_groups = 0
    rules: list[str] = []
    for part in reading.parts.values():
        n_groups += len(part.tallies)
        rules += [rule for rule, _ in part.withheld.values()]
    return _counted(n_groups, rules)


def _groups(reading: Reading) -> Finding:
    rules = [rule for rule, _ in reading.withheld.values()]
    return _counted(len(reading.tallies), rules)


def _counted(n_groups: int, rules: Sequence[str]) -> Finding:
    """rules: for each group that is withheld the rule that does."""
    n_by_rule = Counter(rules)
    sentence = f"{n_groups} groups here"
    if n_by_rule:
        withheld = [f"{n} by {rule}" for rule, n in sorted(n_by_rule.items())]
        sentence += (
            f", of which this hospital's own rules withhold {', '.join(withheld)}"
        )
    return Finding("groups", OK, f"{sentence}.")


def _joined() -> Iterator[Finding]:
    yield jointly(
        "min_rows", "how many people all providers have, with a value in each column."
    )
    yield jointly(
        "earlier_cohort",
        "who they are, and so whether this answer and earlier ones tell few of them (earlier_cohort,"
        " earlier_hospitals, threshold), and two of them make up most of a sum (max_share).",
    )


def _opens(order: _Copied, reading: Reading) -> Iterator[Finding]:
    request = order.request
    circuit = sketched_plan(request)
    # Without an expression it is a yes or no for each.
    if request.is_joined and (circuit is None or circuit.is_row_level):
        sentence = "a value for each person whom all providers have"
        yield from opens([sentence], totals.receivers_of(request))
        return
    sentences = totals_in_words.words_before(
        totals.opened_totals(request, circuit, kinds=reading.kinds),
        n_own_rows=reading.n_rows,
        n_hospitals=len(request.providers),
    )
    yield from opens(sentences, totals.receivers_of(request))
