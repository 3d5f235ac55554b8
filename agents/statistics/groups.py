"""What providers of pooled rows state of their groups to each other, and what follows: which groups all may know of.

`agents/gate/disclosure.py` decides what is withheld; here are the messages, and what they are agreed on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from agents.gate import disclosure
from agents.gate.disclosure import Hidden, Label, Withheld
from agents.order.party import receive_all, send
from agents.statistics.party import Reading, StatisticsParty
from protocol.messages import EVERYONE, read_json
from protocol.statistics_request import StatisticsRequest
from protocol.training_request import Strict


class _Statement(Strict):
    """A provider to all hospitals of the order, sealed to the group: its groups, and what its policy asks of all."""

    # As `agents.gate.disclosure.encode_statement` writes them: small ones without a name (decision 39).
    groups: str
    # Too few rows have changed since the schedule's last result, which stands again.
    repeats: bool
    min_rows: int
    min_providers: int
    extremes: bool
    exact_quantiles: bool
    # Its column holds whole numbers of 64 bits, signed or not, in an order that shows single ones of them. Left out
    # where it does not hold, as versions do that do not know it (decision 60).
    whole: bool = False


@dataclass(frozen=True)
class Agreed:
    """What all providers have stated, the same at every hospital."""

    # The answer's groups, in order.
    shown: list[Label]
    # Groups whose values the answer leaves out, and why.
    withheld: dict[Label | Hidden, Withheld]
    # Providers whose rows have hardly changed since the schedule's last result.
    repeats: list[int]
    # The largest of all policies: rows that a bracket of a quantile keeps, unless exact_quantiles holds.
    min_rows: int
    # Whether all policies allow them.
    exact_quantiles: bool
    extremes: bool
    # All state that their columns hold whole numbers of 64 bits.
    whole: bool


def agree_on_groups(party: StatisticsParty, reading: Reading | None) -> Agreed:
    """States this provider's groups and reads all others' statements.

    Disclosure: names of groups with at least min_rows rows here, which are withheld by which rule, and of a quantile
    that this hospital's policy shows exactly whether the column's numbers are whole, to the order's hospitals.
    """
    request = party.request
    key = party.session.group_key(b"groups")
    if reading is not None:
        send(party, "statement", lambda: _state(party, reading, key), recipient=EVERYONE)
    envelopes = receive_all(party, "statement", request.providers, EVERYONE)
    what = "A provider's statement of its groups"
    statements = {user: read_json(_Statement, body, what=what) for user, body in envelopes.items()}
    groups = {user: statement.groups.encode() for user, statement in statements.items()}
    stated = disclosure.decode_statements(groups, n_columns=n_label_columns(request), key=key)
    # The strictest policy holds for all: every hospital comes to the same from the same statements.
    min_providers = max(statement.min_providers for statement in statements.values())
    withheld = disclosure.joint_withheld(stated, min_providers)
    shown = disclosure.shown_groups(stated, withheld)
    if request.method == "histogram":
        shown, withheld = _every_bin(request, shown, withheld)
    return Agreed(
        shown=shown,
        withheld=withheld,
        repeats=[user for user, statement in statements.items() if statement.repeats],
        min_rows=max(statement.min_rows for statement in statements.values()),
        exact_quantiles=all(statement.exact_quantiles for statement in statements.values()),
        extremes=all(statement.extremes for statement in statements.values()),
        whole=all(statement.whole for statement in statements.values()),
    )


def _state(party: StatisticsParty, reading: Reading, key: bytes) -> bytes:
    withheld = {_label(text): Withheld(*why) for text, why in reading.withheld.items()}
    labels = [_label(text) for text in reading.tallies]
    rules = party.rules
    statement = _Statement(
        groups=disclosure.encode_statement(labels, withheld, key=key).decode(),
        repeats=reading.repeats,
        min_rows=rules.min_rows,
        min_providers=rules.min_providers,
        extremes=rules.extremes,
        exact_quantiles=rules.exact_quantiles,
        whole=reading.whole,
    )
    return statement.model_dump_json(exclude_defaults=True).encode()


def _label(text: str) -> Label:
    """A group as a reading names it, read again."""
    return tuple(json.loads(text))


# Bins


def _every_bin(
    request: StatisticsRequest, shown: list[Label], withheld: dict[Label | Hidden, Withheld]
) -> tuple[list[Label], dict[Label | Hidden, Withheld]]:
    """All bins of the groups that are named: one that no provider has is empty, or withheld where too small ones are.

    So nobody learns which of them hold few rows and which hold none.
    """
    assert request.bins is not None
    named: dict[Label | Hidden, Withheld] = {}
    reasons_of_hidden = []
    groups: set[Label] = {()} if request.group_by is None else {label[:-1] for label in shown}
    for label, why in withheld.items():
        if isinstance(label, Hidden):
            reasons_of_hidden.append(why)
        else:
            named[label] = why
            groups.add(label[:-1])
    all_bins = [(*group, bin_label(place)) for group in groups for place in range(len(request.bins) + 1)]
    missing = set(all_bins) - set(shown) - named.keys()
    if not reasons_of_hidden:
        return sorted([*shown, *missing], key=_order), withheld
    # Some bins hold few rows, and their statements hide which. All that nobody names are withheld alike, by the rule
    # of the largest threshold.
    why_few = max(reasons_of_hidden, key=lambda why: int(why.threshold))
    # Without groups every hidden bin is one of the missing ones, and must not be counted beside it.
    kept = withheld if request.group_by else named
    return shown, kept | dict.fromkeys(sorted(missing, key=_order), why_few)


def _order(label: Label) -> list[tuple[bool, str]]:
    """By value, NULL first."""
    return [(value is not None, value or "") for value in label]


def n_label_columns(request: StatisticsRequest) -> int:
    """How many columns name a row of the answer: the groups', and what is counted."""
    n_counted = {"histogram": 1, "frequency": 1, "crosstab": 2}.get(request.method, 0)
    return len(request.group_by or []) + n_counted


def bin_label(place: int) -> str:
    """The label of a bin; labels are sorted as text."""
    return f"{place:04}"
