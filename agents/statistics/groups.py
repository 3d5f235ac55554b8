"""Which groups of pooled rows all may know of, from what the providers state of theirs.

`agents/gate/withheld_groups.py` decides what is withheld; here are the messages, and what
they are agreed on.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, TypeVar

from pydantic import Field

from agents.gate import group_statements, withheld_groups
from agents.gate.pooled_cells import (
    AgreedLimits,
    Decided,
    absent_cells,
    grid_of,
    last_answers,
)
from agents.gate.withheld_groups import Hidden, Label, Withheld
from agents.order.party import receive_all, send
from agents.statistics import pooled_cells
from agents.statistics.answer import RowCounts
from agents.statistics.labels import (
    bin_labels,
    check_stated,
    n_label_columns,
)
from agents.statistics.party import AgreedStatistics
from agents.statistics.readings import Reading
from protocol.fields import Strict
from protocol.messages import EVERYONE, bad_message, read_json
from protocol.policy import StatisticsRules
from protocol.shares.cells import MOST_EARLIER, MOST_THRESHOLD, NOBODY
from protocol.statistics_request import TALLIED, StatisticsRequest

_OrderId = Annotated[int, Field(ge=1, lt=2**63)]
_Threshold = Annotated[int, Field(ge=1, le=MOST_THRESHOLD)]
_LeftOut = Annotated[int, Field(ge=NOBODY, lt=2**63)]

_Stated = dict[Label | Hidden, Withheld | None]
"""A provider's groups, and why it withholds one."""

_Reasons = dict[Label | Hidden, Withheld]
"""Why groups are withheld."""

_Cells = dict[Label, Withheld | None]
"""Of a provider's groups, where each has its name."""


Statement = TypeVar("Statement", bound=Strict)


class _Statement(Strict):
    """A provider to all hospitals of the order, sealed to the group.

    It has the provider's groups, and what its policy asks of all.
    """

    # As `agents.gate.group_statements.encode_statement` writes them: small ones without a
    # name (decision 39).
    groups: str
    # Too few rows have changed since the schedule's last result, which stands again.
    repeats: bool
    min_rows: _Threshold
    min_providers: _Threshold
    extremes: bool
    exact_quantiles: bool
    # Its column holds whole numbers of 64 bits, signed or not, in an order that shows
    # single ones of them. Left out where it does not hold, as versions do that do not
    # know it (decision 60).
    whole: bool = False
    # Its thresholds may be on the sum of all hospitals: the groups are those of min_rows
    # rows here, and nothing is said of smaller ones.
    pooled: bool = False
    # Then: the last answers that receivers have of such cells, by order and who is left
    # out, and the fewest of this hospital's people that its policy lets be compared.
    earlier: list[tuple[_OrderId, _LeftOut]] = Field(
        default_factory=list,
        max_length=MOST_EARLIER,
    )
    min_changed: int = Field(
        default=1,
        ge=1,
        le=MOST_THRESHOLD,
    )
    # None of its rows used, withheld and null are a few. Left out by versions that do
    # not know it, so that nobody tells.
    tells_rows: bool = False


@dataclass(frozen=True)
class Agreed:
    """What all providers have stated, the same at every hospital."""

    # The answer's groups, in order.
    shown: list[Label]
    # Groups whose values the answer leaves out, and why.
    withheld: _Reasons
    # Providers whose rows have hardly changed since the schedule's last result.
    repeats: list[int]
    # The largest of all policies: rows that a bracket of a quantile keeps, unless
    # exact_quantiles holds.
    min_rows: int
    # Whether all policies allow them.
    exact_quantiles: bool
    extremes: bool
    # All state that their columns hold whole numbers of 64 bits.
    whole: bool
    # The thresholds are on the sum of all hospitals. Cells that nobody has, or too few,
    # among those whose values are named; and what a receiver may say of all hospitals'
    # rows, once it has opened their sums.
    is_pooled: bool = False
    # Each provider may say how many of its rows are used, withheld and null.
    tells_rows: bool = False
    absent: list[Label] = field(default_factory=list)
    # What their comparison has opened, in words.
    opened: list[str] = field(default_factory=list)
    joint_rows: dict[str, int] = field(default_factory=dict)


def agree_on_groups(party: AgreedStatistics, reading: Reading | None) -> Agreed:
    """States this provider's groups and reads all others' statements.

    Disclosure: names of groups with at least min_rows rows here, which are withheld by
    which rule, and of a quantile that this hospital's policy shows exactly whether the
    column's numbers are whole, to the order's hospitals.
    """
    request = party.request
    groups_key = party.session.group_key(b"groups")
    statements = _exchange_statements(party, reading, groups_key)
    of_all = _joint_rules(statements)
    # As stated first: what is stated once more decides about groups alone.
    min_providers = max(statement.min_providers for statement in statements.values())
    pooling = []
    for provider, statement in statements.items():
        if statement.pooled:
            pooling.append(provider)
    is_pooled = len(pooling) == len(statements) > 1
    if is_pooled and not of_all.repeats:
        named_cells = _named_cells(request, statements, groups_key)
        limits = _agreed_limits(
            statements,
            min_rows=of_all.min_rows,
            min_providers=min_providers,
        )
        decided = pooled_cells.decide(party, reading, named_cells, limits)
        return _with_cells(request, of_all, decided)

    pooled_cells.compare_each(party, reading)
    if pooling:
        # Not all do: who would have pooled states its groups once more, by its own
        # rules.
        statements |= _exchange_statements(
            party,
            reading,
            groups_key,
            again=pooling,
        )
    stated = _stated_groups(request, statements, groups_key)
    withheld = withheld_groups.joint_withheld(stated, min_providers)
    shown_labels = withheld_groups.shown_groups(stated, withheld)
    if request.is_binned:
        shown_labels, withheld = _every_bin(request, shown_labels, withheld)
    return replace(of_all, shown=shown_labels, withheld=withheld)


def _joint_rules(statements: Mapping[int, _Statement]) -> Agreed:
    """What is agreed on but for the groups. The strictest policy holds for all: every
    hospital comes to the same from the same statements.
    """
    everybody = statements.values()
    repeats = []
    for provider, statement in statements.items():
        if statement.repeats:
            repeats.append(provider)
    return Agreed(
        shown=[],
        withheld={},
        repeats=repeats,
        min_rows=max(statement.min_rows for statement in everybody),
        exact_quantiles=all(statement.exact_quantiles for statement in everybody),
        extremes=all(statement.extremes for statement in everybody),
        whole=all(statement.whole for statement in everybody),
        # Of one that kept its numbers back they would follow from the answer and the
        # others'.
        tells_rows=all(statement.tells_rows for statement in everybody),
    )


def _agreed_limits(
    statements: Mapping[int, _Statement],
    *,
    min_rows: int,
    min_providers: int,
) -> AgreedLimits:
    """What a cell has to reach where thresholds are on the sum, and the earlier answers
    that it is compared with: the last of all that providers have stated.
    """
    earlier: list[tuple[int, int]] = []
    own_min_rows = {}
    for provider, statement in statements.items():
        earlier += statement.earlier
        own_min_rows[provider] = statement.min_rows
    return AgreedLimits(
        min_rows=min_rows,
        min_providers=min_providers,
        min_changed=max(statement.min_changed for statement in statements.values()),
        earlier=last_answers(earlier),
        own_min_rows=own_min_rows,
    )


def pools_cells(request: StatisticsRequest, rules: StatisticsRules) -> bool:
    """Whether a provider with these rules lets its cells be compared as part of a sum.

    Then a cell is compared with the same cell of earlier answers only. Who names cells by
    an expression could call each time another one so, and the level `other` is each time
    of other rows: there each hospital's rows decide.
    """
    if not request.has_cells or rules.cells != "pooled":
        return False
    labels = request.grouping
    if request.counted_as in TALLIED:
        labels += request.columns or []
        labels += [provider.key_column for provider in request.data_providers]
    rows = request.rows
    computed_columns = {*rows.derived, *rows.categorical}
    return computed_columns.isdisjoint(labels)


def _exchange_statements(
    party: AgreedStatistics,
    reading: Reading | None,
    key: bytes,
    *,
    again: Sequence[int] = (),
) -> dict[int, _Statement]:
    """All providers' statements; `again`, those of the ones that would have pooled."""
    round_ = 1 if again else 0
    senders = again or party.request.providers
    if reading is not None and party.me in senders:
        pooled = pools_cells(party.request, party.rules) and not again
        state = functools.partial(
            _state,
            party,
            reading,
            key,
            pooled=pooled,
        )
        send(
            party,
            "statement",
            state,
            recipient=EVERYONE,
            round=round_,
        )
    return receive_statements(party, _Statement, senders, round=round_)


def receive_statements(
    party: AgreedStatistics,
    statement: type[Statement],
    providers: Iterable[int],
    *,
    round: int = 0,
) -> dict[int, Statement]:
    """What these providers state of their groups, by provider.

    ProtocolViolation (code bad_message) for what is no such statement.
    """
    messages = receive_all(party, "statement", providers, EVERYONE, round=round)
    statements = {}
    for provider, message_body in messages.items():
        what = "A provider's statement of its groups"
        statements[provider] = read_json(statement, message_body, what=what)
    return statements


def _stated_groups(
    request: StatisticsRequest,
    statements: Mapping[int, _Statement],
    key: bytes,
) -> dict[int, _Stated]:
    """ProtocolViolation (code bad_message) for a name that no group can have."""
    groups = {}
    for provider, statement in statements.items():
        groups[provider] = statement.groups.encode()
    stated = group_statements.decode_statements(
        groups,
        n_columns=n_label_columns(request),
        key=key,
    )
    check_stated(request, stated.values())
    return stated


def _named_cells(
    request: StatisticsRequest,
    statements: Mapping[int, _Statement],
    key: bytes,
) -> dict[int, _Cells]:
    """What every provider has named, where thresholds are on the sum.

    ProtocolViolation (code bad_message) for a cell without its name.
    """
    stated = _stated_groups(request, statements, key)
    named: dict[int, _Cells] = {}
    for provider, of_provider in stated.items():
        provider_cells = {}
        for label, why in of_provider.items():
            if isinstance(label, Hidden):
                raise bad_message("states a cell without its name")
            provider_cells[label] = why
        named[provider] = provider_cells
    return named


def _with_cells(
    request: StatisticsRequest,
    agreed: Agreed,
    decided: Decided,
) -> Agreed:
    """The groups of an answer whose thresholds are on the sum."""
    named = []
    for label in decided.withheld:
        if not isinstance(label, Hidden):
            named.append(label)
    all_named = [*decided.shown, *named]
    grid: Collection[Label] = []
    if request.is_binned:
        grid = _bins_of_named_groups(request, all_named)
    elif request.counted_as == "crosstab":
        grid = grid_of(all_named)
    absent = absent_cells(decided, grid, named=named)
    return replace(
        agreed,
        shown=decided.shown,
        withheld=decided.withheld,
        is_pooled=True,
        absent=absent,
        opened=decided.opened,
    )


def _state(
    party: AgreedStatistics,
    reading: Reading,
    key: bytes,
    *,
    pooled: bool,
) -> bytes:
    """This provider's statement."""
    rules = party.rules
    labels = [_label(text) for text in reading.tallies]
    reasons = reading.withheld
    earlier: list[tuple[int, int]] = []
    min_changed = 1
    if pooled:
        labels = []
        for text, n_rows in reading.n_rows_of.items():
            if n_rows >= rules.min_rows:
                labels.append(_label(text))
        reasons = reading.withheld_of_pooled
        earlier = last_answers(reading.earlier)
        min_changed = reading.min_changed
    withheld: dict[Label, Withheld] = {}
    for text, why in reasons.items():
        withheld[_label(text)] = Withheld(*why)
    groups = group_statements.encode_statement(labels, withheld, key=key)
    statement = _Statement(
        groups=groups.decode(),
        repeats=reading.repeats,
        min_rows=rules.min_rows,
        min_providers=rules.least_providers,
        extremes=rules.extremes,
        exact_quantiles=rules.exact_quantiles,
        whole=reading.whole,
        pooled=pooled,
        earlier=earlier,
        min_changed=min_changed,
        # Groups that are shown have min_rows rows here or none, and of those that are
        # withheld all, or min_rows together: nothing else decides.
        tells_rows=not rows_tell_few(reading, rules.min_rows),
    )
    text = statement.model_dump_json(exclude_defaults=True)
    return text.encode()


def rows_tell_few(reading: Reading, min_rows: int) -> bool:
    """Whether a few of a provider's rows have a value in the question, or have none."""
    n_with_value = sum(reading.n_rows_of.values())
    rows = RowCounts(used=n_with_value, null=reading.n_null)
    return rows.tell_few(min_rows)


def _label(text: str) -> Label:
    """A group as a reading names it, read again."""
    return tuple(json.loads(text))


# Bins


def _every_bin(
    request: StatisticsRequest,
    shown_labels: list[Label],
    withheld: _Reasons,
) -> tuple[list[Label], _Reasons]:
    """All bins of the groups that are named, shown and withheld.

    A bin that no provider has is empty, or withheld where too small ones are. So nobody
    learns which of them hold few rows and which hold none.
    """
    named: _Reasons = {}
    reasons_of_hidden = []
    for label, why in withheld.items():
        if isinstance(label, Hidden):
            reasons_of_hidden.append(why)
        else:
            named[label] = why
    all_bins = _bins_of_named_groups(request, [*shown_labels, *named])
    missing = all_bins - set(shown_labels) - named.keys()
    if not reasons_of_hidden:
        all_shown = sorted([*shown_labels, *missing], key=_order)
        return all_shown, withheld
    # Some bins hold few rows, and their statements hide which. All that nobody names
    # are withheld alike, by the rule of the largest threshold.
    why_few = max(reasons_of_hidden, key=_threshold)
    # Without groups every hidden bin is one of the missing ones, and must not be
    # counted beside it.
    reasons = withheld if request.grouping else named
    too_small = sorted(missing, key=_order)
    joint_reasons = dict(reasons)
    for label in too_small:
        joint_reasons[label] = why_few
    return shown_labels, joint_reasons


def _threshold(why: Withheld) -> int:
    return int(why.threshold)


def _bins_of_named_groups(
    request: StatisticsRequest,
    named: Iterable[Label | Hidden],
) -> set[Label]:
    """Every bin of each group that at least one named bin is of."""
    bin_names = bin_labels(request)
    groups: set[Label] = set()
    # Without group columns there is one group, whose label is empty.
    if not request.grouping:
        groups.add(())
    for label in named:
        if not isinstance(label, Hidden):
            groups.add(label[:-1])
    bins: set[Label] = set()
    for group in groups:
        bins |= {(*group, bin_name) for bin_name in bin_names}
    return bins


def _order(label: Label) -> list[tuple[bool, str]]:
    """By value, NULL first."""
    order = []
    for label_value in label:
        has_value = label_value is not None
        order.append((has_value, label_value or ""))
    return order
