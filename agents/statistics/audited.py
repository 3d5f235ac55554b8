"""Of whom an answer's totals are, at one provider: held against what left before, and
counted as having left from when on.

A provider reserves the sets of people before it accepts, checks hospitals that would be
left alone when all have, and commits the sets before the first message from which, with
the others', a total can be opened. `agents/gate/cohort_audit.py` and `regrouping.py`
decide; which columns a total depends on and which rows
it is of is said where they are read (`pooled.py`, `matched_rows.py`).

Totals are audited by column: of a group with its people, under the summed columns and
under those that make the groups; under these with all people who have a value, too.

Decision 70.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from fractions import Fraction

from agents.gate import regrouping
from agents.gate.asked_sets import AskedSet, AuditRules, Reserved, asked_sets
from agents.gate.cohort_audit import reserve
from agents.gate.memory import Memory
from agents.gate.totals import receivers_of
from agents.rows.canonical import Members, members_of
from agents.rows.dataset import Dataset
from agents.statistics.party import (
    AgreedStatistics,
    AskedStatistics,
)
from analytics.arrays import Ints
from analytics.statistics.hospital_audit import Part
from protocol.errors import Refused


def read_members(
    party: AskedStatistics, dataset: Dataset, columns: Iterable[str]
) -> Members:
    """Who the rows of a dataset are, with their values in these columns, in its order."""
    return members_of(dataset, list(dict.fromkeys(columns)), key=memory_of(party).key)


def totals_over(
    party: AskedStatistics,
    dataset: Dataset,
    members: Members,
    *,
    columns: Iterable[str],
    rows: Mapping[str, Ints],
    parts: Mapping[Part, Fraction] | None = None,
) -> list[AskedSet]:
    """The sets of totals that depend on these columns; by a total's name the places of
    its rows.

    parts: what else is in the total; the rows of every other provider unless given.
    """
    if parts is None:
        other_providers = [user for user in party.request.providers if user != party.me]
        parts = dict.fromkeys(other_providers, Fraction(1))
    column_names = list(columns)
    total_sets = []
    for population in dataset.populations:
        total_sets += asked_sets(
            members,
            party.policy,
            population=population,
            columns=column_names,
            rows=rows,
            parts=parts,
        )
    return total_sets


def reserve_totals(
    party: AskedStatistics,
    dataset: Dataset,
    whole_sets: list[AskedSet],
    groups: Collection[AskedSet] = (),
    *,
    cells: Collection[AskedSet] = (),
    afterwards: Collection[AskedSet] = (),
    kept_as: Mapping[str, str] | None = None,
) -> Reserved | None:
    """Reserves an order's totals, or refuses it. `cells` are groups whose thresholds
    are on the sum; afterwards and kept_as: as `cohort_audit.reserve` has them.

    None where a schedule's rows have changed by fewer than the gate allows, so that its
    last result stands again. Raises Refused (code earlier_cohort, audit_size) for such
    a change in any other order.
    """
    try:
        return reserve(
            memory_of(party),
            whole_sets,
            receivers=_receivers(party),
            order_id=party.order_id,
            rules=AuditRules(
                min_rows=least_rows(party, dataset),
                least_hospitals=party.rules.least_providers,
                budget_days=party.policy.cohort.budget_days,
            ),
            has_ended=party.vault.has_ended,
            now=datetime.now(UTC),
            groups=list(groups),
            cells=list(cells),
            afterwards=list(afterwards),
            kept_as=kept_as,
        )
    except Refused:
        if party.order.repeats is None:
            raise
        return None


def check_hospitals(party: AgreedStatistics) -> bool:
    """The gate once more, with what all providers have said in their acceptances.

    To be called when the totals are reserved and all have accepted, before the first
    message from which, with the others', a total can be opened. False where a
    schedule's rows would leave few hospitals alone, so that its last result stands
    again. Raises as `regrouping.agree` in any other order.
    """
    try:
        regrouping.agree(
            memory_of(party),
            order_id=party.order_id,
            terms=regrouping.terms_of(party.acceptances, party.request.providers),
            absent=party.absent,
            section="[statistics]",
            has_ended=party.vault.has_ended,
        )
    except Refused:
        if party.order.repeats is None:
            raise
        return False
    return True


def commit_totals(
    party: AskedStatistics, *, shown: Collection[str] | None = None
) -> None:
    """What was reserved counts as having left, from here on and for good; of totals
    with other names than `shown` nothing will be.
    """
    if party.is_provider:
        memory_of(party).commit(party.order_id, shown=shown)


def drop_totals(party: AskedStatistics) -> None:
    """Nothing of what was reserved will be opened."""
    if party.is_provider:
        memory_of(party).drop(party.order_id)


def memory_of(party: AskedStatistics) -> Memory:
    return party.memory


def _receivers(party: AskedStatistics) -> set[str]:
    """Who can open a total, but for this hospital, which knows its own rows."""
    return set(receivers_of(party.request)) - {str(party.me)}


def least_rows(party: AskedStatistics, dataset: Dataset) -> int:
    """The stricter of what the section and the tables ask for."""
    least = party.rules.min_rows
    for population, rules in party.policy.opened.items():
        if population in dataset.populations:
            least = max(least, rules.min_rows)
    return least
