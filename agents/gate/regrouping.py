"""The gate when all hospitals of an order have accepted: whether its totals, with those
of earlier orders, would leave fewer hospitals alone than their policies ask for.

{2,3,4,5} and then {2,3,5} over the same rows is hospital 4's own sum. Whether that may
be told is said by the hospital that would be left: `regroup` of its policy, in its
acceptance of each order. The fewest hospitals that may be left are the most that a
party of one of the orders asks for. Both are remembered with what the order opens, and
a hospital lets itself be told only where it has said so in every order whose totals it
is in.

Why another hospital's word can be taken for this: a rule of this hospital holds unless
others say that they are willing, and their words can only name themselves. Who says it
of itself without meaning it lets its own sum be told, which it could tell anyway, and
nobody else's: a combination that leaves one who has not said it is refused, whoever is
left beside. Who asks for more hospitals than it minds, or says that it is not willing,
makes the rule stricter. For the others it is enough that one hospital beside the one
that would be left follows the rule.

The parts of pooled statistics and of training are the same: hospital 3 with 1, for its
column of the name that all use. Those of joined rows are other ones, (3, "x"): who of
hospital 3 is among the joined people nobody else knows, so that it is not taken for
granted that a pooled total and a joined one hold the same rows of it.

The mathematics is in `analytics.statistics.hospital_audit`.

Decisions 75 and 134.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from agents.gate.audit_words import AUDIT_SIZE, refused_beside
from agents.gate.audited_sets import unforeseen_prime
from agents.gate.cohort_audit import NO_ORDER, drop_ended
from agents.gate.connected_sets import connected, table_of
from agents.gate.kept_sets import IDS_ALONE, NO_SUM, OpenedSet, Terms
from agents.gate.memory import Memory
from analytics.statistics.audit import PASSES, Finding, Verdict
from analytics.statistics.hospital_audit import Part, audit_hospitals, hospital_of
from protocol.errors import Refused
from protocol.messages import Acceptance

EARLIER_HOSPITALS = "earlier_hospitals"


def terms_of(
    acceptances: Mapping[int, Acceptance],
    hospitals: Iterable[int],
) -> Terms:
    """What those hospitals have said whose rows are in an order's totals."""
    of_hospitals = {hospital: acceptances[hospital] for hospital in hospitals}
    least_hospitals = max(
        acceptance.least_hospitals for acceptance in of_hospitals.values()
    )
    willing = [
        hospital for hospital, acceptance in of_hospitals.items() if acceptance.regroup
    ]
    return Terms(least_hospitals, frozenset(willing))


def agree(
    memory: Memory,
    *,
    order_id: int,
    terms: Terms,
    section: str,
    has_ended: Callable[[int], bool],
    absent: Collection[int] = (),
) -> None:
    """Lets what an order has reserved pass, with what its parties have said, or refuses
    it.

    To be called when all have accepted and `cohort_audit.reserve` has let its people
    pass, before the first message from which a total can be opened; a second call
    changes nothing. section: of policy.toml, that has `regroup` for such an order.
    absent: hospitals that were asked and without which the order has started
    (`start_within_seconds`); remembered with it, so that a refusal can say why it was of
    fewer.

    Held against what has left and against orders under way that all have accepted; of
    two at once the second sees the first.

    Raises Refused (code earlier_hospitals; audit_size where it cannot be decided). It
    names the hospitals that have not let themselves be told; and, where only orders
    under way are in the way, the order to wait for.

    Disclosure: a refusal shows which other hospitals were asked for these rows before.
    """
    with memory.alone(), memory.opened() as transaction:
        drop_ended(transaction, NO_ORDER, has_ended)
        if absent:
            transaction.note_absent(order_id, absent)
        audit = _Audit(section, transaction.absent_by_order())
        for receiver, column in transaction.places_of(order_id):
            # None, but after an upgrade that writes values otherwise.
            of_persons = transaction.sets_by_persons(receiver, column)
            earlier = _agreed(of_persons)
            own_sets = _own(of_persons, order_id, terms)
            audit.check(earlier, own_sets)
            without_members = transaction.sets_of(
                receiver,
                column,
                with_members=False,
            )
            earlier = _agreed(without_members)
            own_sets = _own(without_members, order_id, terms)
            # Who the people are is not looked at where nobody could be left.
            if _nobody_minds([*earlier, *own_sets]):
                continue
            with_members = transaction.sets_of(receiver, column)
            earlier = _agreed(with_members)
            own_sets = _own(with_members, order_id, terms)
            audit.check(earlier, own_sets)
        transaction.agree(order_id, terms)


def _agreed(sets: Iterable[OpenedSet]) -> list[OpenedSet]:
    """Those that a receiver has, and those of orders that all have accepted."""
    return [opened_set for opened_set in sets if opened_set.is_agreed]


def _own(
    sets: Iterable[OpenedSet],
    order_id: int,
    terms: Terms,
) -> list[OpenedSet]:
    """Those of this order, which all have accepted now."""
    of_order = [opened_set for opened_set in sets if opened_set.order_id == order_id]
    reserved = [opened_set for opened_set in of_order if not opened_set.is_agreed]
    return [_said(opened_set, terms) for opened_set in reserved]


def _said(opened_set: OpenedSet, terms: Terms) -> OpenedSet:
    """A set of an order of which its parties have said this."""
    return replace(
        opened_set,
        least_hospitals=terms.least_hospitals,
        willing=terms.willing,
        kept_digest=opened_set.digest,
    )


class _Audit:
    """The totals of one order beside those that a receiver has of one column."""

    def __init__(
        self,
        section: str,
        absent: Mapping[int, frozenset[int]],
    ) -> None:
        self._section = section
        # By order, the hospitals without which it has started.
        self._absent = absent
        # Most receivers have the same, and most columns are of the same people.
        self._passed: set[tuple[int, tuple[bytes, ...]]] = set()

    def check(
        self,
        earlier: Sequence[OpenedSet],
        new: Sequence[OpenedSet],
    ) -> None:
        """Refused where they leave few hospitals against the word of one of them."""
        finding = self._find(earlier, new)
        if finding.verdict is Verdict.PASSES:
            return
        have_left = [opened_set for opened_set in earlier if opened_set.has_left]
        of_those = self._find(have_left, new)
        passes_alone = of_those.verdict is Verdict.PASSES
        if passes_alone and len(have_left) < len(earlier):
            under_way = {
                opened_set.order_id for opened_set in earlier if not opened_set.has_left
            }
            raise refused_beside(min(under_way), _code_of(finding))
        totals = [*earlier, *new]
        refusal = _refused(
            finding,
            totals,
            earlier,
            section=self._section,
        )
        raise _with_reason(
            refusal,
            totals,
            finding,
            self._absent,
        )

    def _find(
        self,
        earlier: Sequence[OpenedSet],
        new: Sequence[OpenedSet],
    ) -> Finding:
        # What hospitals told alone, and openly so, is no sum that hides one of them.
        sums = [
            opened_set for opened_set in earlier if opened_set.least_hospitals != NO_SUM
        ]
        earlier_totals = {
            opened_set.total: opened_set
            for opened_set in sums
            if opened_set.members.size
        }
        new_totals = {
            opened_set.total: opened_set
            for opened_set in new
            if opened_set.members.size
        }
        fresh = [
            opened_set
            for total_digest, opened_set in new_totals.items()
            if total_digest not in earlier_totals
        ]
        totals = [*earlier_totals.values(), *fresh]
        # Which hospitals were in sums over ids alone, an earlier version has not
        # written down.
        if not fresh or totals[0].column.form == IDS_ALONE:
            return PASSES
        if _nobody_minds(totals):
            return PASSES
        total_digests = tuple(opened_set.total for opened_set in totals)
        question = (len(fresh), total_digests)
        if question in self._passed:
            return PASSES
        is_new = np.arange(len(totals)) >= len(earlier_totals)
        # Sets that share nobody, even by way of others, tell nothing together.
        groups = connected([opened_set.members for opened_set in totals])
        for group in np.unique(groups[is_new]):
            group_places = np.flatnonzero(groups == group)
            together = [totals[place] for place in group_places.tolist()]
            n_new = int(is_new[group_places].sum())
            finding = _audited(together, n_new)
            if finding.verdict is not Verdict.PASSES:
                return finding
        self._passed.add(question)
        return PASSES


def _audited(totals: Sequence[OpenedSet], n_new: int) -> Finding:
    """Of connected totals, the last of which are new."""
    if _nobody_minds(totals):
        return PASSES
    # Who the people of a cell are, and how many, is nothing to hospitals.
    _, table = table_of([total.members for total in totals], most=1)
    parts: list[dict[Part, Fraction | int]] = []
    for total in totals:
        of_total: dict[Part, Fraction | int] = {}
        of_total.update(total.parts)
        parts.append(of_total)
    least_hospitals = max(total.least_hospitals for total in totals)
    return audit_hospitals(
        table,
        parts,
        n_new=n_new,
        least_hospitals=least_hospitals,
        prime=unforeseen_prime,
        willing=_willing(totals),
    )


def _nobody_minds(totals: Sequence[OpenedSet]) -> bool:
    """Whether all that could be left, whoever the people are, let themselves be told."""
    return _may_be_left(totals) <= _willing(totals)


def _may_be_left(totals: Sequence[OpenedSet]) -> set[int]:
    """The hospitals that are not in all totals in the same way."""
    every_part: set[Part] = set()
    for total in totals:
        every_part.update(total.parts)
    nothing = Fraction(0)
    varying = set()
    for part in every_part:
        coefficients = {total.parts.get(part, nothing) for total in totals}
        if len(coefficients) > 1:
            hospital = hospital_of(part)
            varying.add(hospital)
    return varying


def _hospitals_in(total: OpenedSet) -> set[int]:
    return {hospital_of(part) for part in total.parts}


def _willing(totals: Sequence[OpenedSet]) -> set[int]:
    """Those that let themselves be told in all of the totals that they are in."""
    everybody: set[int] = set()
    unwilling: set[int] = set()
    for total in totals:
        everybody |= _hospitals_in(total)
        unwilling |= _unwilling_in(total)
    return everybody - unwilling


def _unwilling_in(total: OpenedSet) -> set[int]:
    """The hospitals in a total that have not said that it may tell of them."""
    willing = total.willing or frozenset()
    return _hospitals_in(total) - willing


# Refusals


def _code_of(finding: Finding) -> str:
    is_undecided = finding.verdict is Verdict.UNDECIDED
    return AUDIT_SIZE if is_undecided else EARLIER_HOSPITALS


def _refused(
    finding: Finding,
    totals: Sequence[OpenedSet],
    earlier: Sequence[OpenedSet],
    *,
    section: str,
) -> Refused:
    if finding.verdict is Verdict.UNDECIDED:
        return Refused(
            "These rows were asked for with so many different hospitals that it cannot be decided whether the answers"
            " tell what few of them have.",
            remedy="Ask the same hospitals as before.",
            code=AUDIT_SIZE,
        )
    # What a hospital has said of an earlier order, it cannot take back.
    left_alone = set(finding.hospitals)
    named_hospitals = _named(finding.hospitals)
    could_still_say = set(left_alone)
    for opened_set in earlier:
        could_still_say -= _unwilling_in(opened_set)
    remedy = "Ask the same hospitals as before."
    if could_still_say == left_alone:
        remedy = (
            f"Ask the same hospitals as before, or have {named_hospitals} set regroup = true under"
            f" {section} in policy.toml."
        )
    least_hospitals = max(total.least_hospitals for total in totals)
    return Refused(
        "These rows were asked for together with other hospitals before: the difference would be that of fewer than"
        f" {least_hospitals} hospitals, and {named_hospitals} did not allow that (regroup).",
        remedy=remedy,
        code="earlier_hospitals",
        threshold=least_hospitals,
        hospitals=list(finding.hospitals),
    )


def _with_reason(
    refusal: Refused,
    totals: Sequence[OpenedSet],
    finding: Finding,
    absent: Mapping[int, frozenset[int]],
) -> Refused:
    """The refusal; and which order is of fewer hospitals because it did not wait for one
    of those that would be left.
    """
    of_orders = {total.order_id for total in totals}
    began_early = of_orders & absent.keys()
    reasons = []
    for order_id in sorted(began_early):
        left_alone = absent[order_id] & set(finding.hospitals)
        if not left_alone:
            continue
        named_hospitals = _named(sorted(left_alone))
        reasons.append(
            f"Order {order_id} began without {named_hospitals} (start_within_seconds)."
        )
    if not reasons:
        return refusal
    sentences = [refusal.sentence, *reasons]
    return Refused(
        " ".join(sentences),
        remedy=refusal.remedy,
        code=refusal.code,
        **refusal.detail,
        began_without=reasons,
    )


def _named(hospitals: Sequence[int]) -> str:
    """ "hospital 4", "hospitals 4 and 5" """
    if len(hospitals) == 1:
        return f"hospital {hospitals[0]}"
    *first, last = map(str, hospitals)
    return f"hospitals {', '.join(first)} and {last}"
