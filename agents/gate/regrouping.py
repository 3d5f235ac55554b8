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
    said = {user: acceptances[user] for user in hospitals}
    least = max(acceptance.least_hospitals for acceptance in said.values())
    willing = [user for user, acceptance in said.items() if acceptance.regroup]
    return Terms(least, frozenset(willing))


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
            own = _own(of_persons, order_id, terms)
            audit.check(earlier, own)
            made_of = transaction.sets_of(
                receiver,
                column,
                with_members=False,
            )
            earlier = _agreed(made_of)
            own = _own(made_of, order_id, terms)
            # Who the people are is not looked at where nobody could be left.
            if _nobody_minds([*earlier, *own]):
                continue
            found = transaction.sets_of(receiver, column)
            earlier = _agreed(found)
            own = _own(found, order_id, terms)
            audit.check(earlier, own)
        transaction.agree(order_id, terms)


def _agreed(sets: Iterable[OpenedSet]) -> list[OpenedSet]:
    """Those that a receiver has, and those of orders that all have accepted."""
    return [one for one in sets if one.is_agreed]


def _own(
    sets: Iterable[OpenedSet],
    order_id: int,
    terms: Terms,
) -> list[OpenedSet]:
    """Those of this order, which all have accepted now."""
    of_order = [one for one in sets if one.order_id == order_id]
    own = [one for one in of_order if not one.is_agreed]
    return [_said(one, terms) for one in own]


def _said(one: OpenedSet, terms: Terms) -> OpenedSet:
    """A set of an order of which its parties have said this."""
    return replace(
        one,
        least_hospitals=terms.least_hospitals,
        willing=terms.willing,
        kept_digest=one.digest,
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
        have_left = [one for one in earlier if one.has_left]
        of_those = self._find(have_left, new)
        passes_alone = of_those.verdict is Verdict.PASSES
        if passes_alone and len(have_left) < len(earlier):
            under_way = {one.order_id for one in earlier if not one.has_left}
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
        sums = [one for one in earlier if one.least_hospitals != NO_SUM]
        known = {one.total: one for one in sums if one.members.size}
        added = {one.total: one for one in new if one.members.size}
        fresh = [one for total, one in added.items() if total not in known]
        totals = [*known.values(), *fresh]
        # Which hospitals were in sums over ids alone, an earlier version has not
        # written down.
        if not fresh or totals[0].column.form == IDS_ALONE:
            return PASSES
        if _nobody_minds(totals):
            return PASSES
        names = tuple(one.total for one in totals)
        question = (len(fresh), names)
        if question in self._passed:
            return PASSES
        is_new = np.arange(len(totals)) >= len(known)
        # Sets that share nobody, even by way of others, tell nothing together.
        groups = connected([one.members for one in totals])
        for group in np.unique(groups[is_new]):
            places = np.flatnonzero(groups == group)
            together = [totals[place] for place in places.tolist()]
            n_new = int(is_new[places].sum())
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
    _, table = table_of([one.members for one in totals], most=1)
    parts: list[dict[Part, Fraction | int]] = []
    for one in totals:
        of_total: dict[Part, Fraction | int] = {}
        of_total.update(one.parts)
        parts.append(of_total)
    least = max(one.least_hospitals for one in totals)
    return audit_hospitals(
        table,
        parts,
        n_new=n_new,
        least_hospitals=least,
        prime=unforeseen_prime,
        willing=_willing(totals),
    )


def _nobody_minds(totals: Sequence[OpenedSet]) -> bool:
    """Whether all that could be left, whoever the people are, let themselves be told."""
    return _may_be_left(totals) <= _willing(totals)


def _may_be_left(totals: Sequence[OpenedSet]) -> set[int]:
    """The hospitals that are not in all totals in the same way."""
    every_part: set[Part] = set()
    for one in totals:
        every_part.update(one.parts)
    nothing = Fraction(0)
    varying = set()
    for part in every_part:
        coefficients = {one.parts.get(part, nothing) for one in totals}
        if len(coefficients) > 1:
            hospital = hospital_of(part)
            varying.add(hospital)
    return varying


def _hospitals_in(one: OpenedSet) -> set[int]:
    return {hospital_of(part) for part in one.parts}


def _willing(totals: Sequence[OpenedSet]) -> set[int]:
    """Those that let themselves be told in all of the totals that they are in."""
    everybody: set[int] = set()
    unwilling: set[int] = set()
    for one in totals:
        everybody |= _hospitals_in(one)
        unwilling |= _unwilling_in(one)
    return everybody - unwilling


def _unwilling_in(one: OpenedSet) -> set[int]:
    """The hospitals in a total that have not said that it may tell of them."""
    willing = one.willing or frozenset()
    return _hospitals_in(one) - willing


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
    left = set(finding.hospitals)
    names = _named(finding.hospitals)
    could_still_say = set(left)
    for one in earlier:
        could_still_say -= _unwilling_in(one)
    remedy = "Ask the same hospitals as before."
    if could_still_say == left:
        remedy = (
            f"Ask the same hospitals as before, or have {names} set regroup = true under"
            f" {section} in policy.toml."
        )
    least_hospitals = max(one.least_hospitals for one in totals)
    return Refused(
        "These rows were asked for together with other hospitals before: the difference would be that of fewer than"
        f" {least_hospitals} hospitals, and {names} did not allow that (regroup).",
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
    of_orders = {one.order_id for one in totals}
    began_early = of_orders & absent.keys()
    reasons = []
    for order_id in sorted(began_early):
        left = absent[order_id] & set(finding.hospitals)
        if not left:
            continue
        names = _named(sorted(left))
        reasons.append(
            f"Order {order_id} began without {names} (start_within_seconds)."
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
