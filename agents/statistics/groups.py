"""What providers of pooled rows state of their groups to each other, and what follows: which groups all may know of."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import ValidationError

from agents.gate import disclosure
from agents.gate.disclosure import Hidden, Label, Withheld
from agents.order.party import receive_all, send
from agents.statistics.party import AgreedStatistics, Reading
from protocol.errors import ProtocolViolation
from protocol.messages import EVERYONE
from protocol.statistics_request import StatisticsRequest
from protocol.training_request import Strict


class _Statement(Strict):
    """A provider to all hospitals of the order, sealed to the group: its groups, and what its policy asks of all.

    whole: its column holds whole numbers of 64 bits, signed or not, in an order that tells single ones of them. It is
    left out where it does not hold, as versions do that do not know it.
    """

    groups: str
    repeats: bool
    min_rows: int
    min_providers: int
    extremes: bool
    exact_quantiles: bool
    whole: bool = False


@dataclass(frozen=True)
class Agreed:
    """What all providers have stated, the same at every hospital.

    shown: the answer's groups, in order; withheld: groups that it does not tell, and why; repeats: providers whose rows
    have hardly changed since the schedule's last result; min_rows: rows that a bracket of a quantile keeps, unless
    exact_quantiles holds; whole: all say that their columns hold whole numbers of 64 bits.
    """

    shown: list[Label]
    withheld: dict[Label | Hidden, Withheld]
    repeats: list[int]
    min_rows: int
    exact_quantiles: bool
    extremes: bool
    whole: bool


def agree_on_groups(party: AgreedStatistics, reading: Reading | None) -> Agreed:
    """States this provider's groups and reads all others' statements.

    Disclosure: names of groups with at least min_rows rows here, which are withheld by which rule, and of a quantile
    that this hospital's policy tells exactly whether the column's numbers are whole, to the order's hospitals.
    """
    request, key = party.request, party.session.group_key(b"groups")
    if reading is not None:
        send(party, "statement", lambda: _state(party, reading, key), recipient=EVERYONE)
    envelopes = receive_all(party, "statement", request.providers, EVERYONE)
    said = {user: _read_statement(body) for user, body in envelopes.items()}
    groups = {user: statement.groups.encode() for user, statement in said.items()}
    stated = disclosure.decode_statements(groups, n_columns=n_label_columns(request), key=key)
    withheld = disclosure.joint_withheld(stated, max(statement.min_providers for statement in said.values()))
    shown = disclosure.shown_groups(stated, withheld)
    if request.method == "histogram":
        shown, withheld = _every_bin(request, shown, withheld)
    return Agreed(
        shown,
        withheld,
        [user for user, statement in said.items() if statement.repeats],
        max(statement.min_rows for statement in said.values()),
        all(statement.exact_quantiles for statement in said.values()),
        all(statement.extremes for statement in said.values()),
        all(statement.whole for statement in said.values()),
    )


def _every_bin(
    request: StatisticsRequest, shown: list[Label], withheld: dict[Label | Hidden, Withheld]
) -> tuple[list[Label], dict[Label | Hidden, Withheld]]:
    """All bins of the groups that are named: one that no provider has is empty, or withheld where too small ones are.

    So nobody learns which of them hold few rows and which hold none.
    """
    assert request.bins is not None
    named: dict[Label | Hidden, Withheld] = {
        b: why for b, why in withheld.items() if not isinstance(b, Hidden)
    }
    groups = (
        {label[:-1] for label in (*shown, *named) if not isinstance(label, Hidden)}
        if request.group_by
        else {()}
    )
    places = range(len(request.bins) + 1)
    rest = {(*group, bin_label(place)) for group in groups for place in places} - set(shown) - named.keys()
    reasons = [why for label, why in withheld.items() if isinstance(label, Hidden)]
    if reasons:
        few = max(reasons, key=lambda why: int(why.threshold))
        return shown, (withheld if request.group_by else named) | dict.fromkeys(sorted(rest, key=_order), few)
    return sorted([*shown, *rest], key=_order), withheld


def _order(label: Label) -> list[tuple[bool, str]]:
    return [(value is not None, value or "") for value in label]


def _state(party: AgreedStatistics, reading: Reading, key: bytes) -> bytes:
    withheld = {_label(text): Withheld(*why) for text, why in reading.withheld.items()}
    groups = disclosure.encode_statement(map(_label, reading.tallies), withheld, key=key)
    rules = party.rules
    statement = _Statement(
        groups=groups.decode(),
        repeats=reading.repeats,
        min_rows=rules.min_rows,
        min_providers=rules.min_providers,
        extremes=rules.extremes,
        exact_quantiles=rules.exact_quantiles,
        whole=reading.whole,
    )
    return statement.model_dump_json(exclude_defaults=True).encode()


def _read_statement(data: bytes) -> _Statement:
    try:
        return _Statement.model_validate_json(data, strict=True)
    except ValidationError:
        raise ProtocolViolation(
            "A provider's statement of its groups cannot be read.",
            remedy="Run the same version at all hospitals.",
            code="bad_message",
        ) from None


def _label(text: str) -> Label:
    return tuple(json.loads(text))


def n_label_columns(request: StatisticsRequest) -> int:
    """How many columns name a row of the answer: the groups', and what is counted."""
    counted = {"histogram": 1, "frequency": 1, "crosstab": 2}.get(request.method, 0)
    return len(request.group_by or []) + counted


def bin_label(place: int) -> str:
    """The label of a bin; labels are sorted as text."""
    return f"{place:04}"
