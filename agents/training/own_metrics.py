"""Which metrics the hospitals of an order show as their own, and which only together.

Metrics over few rows of a class are labels of single rows. Where one hospital has so few
in a part of its rows, none shows its own for that part: what all together have, less
what the others show, would be that one's.

Decisions 71 and 87.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from agents.gate.probes import shows_metrics
from agents.order.party import say_to_all
from agents.training.party import AgreedTraining
from agents.training.row_gate import least_rows
from agents.training.row_sets import OrderRows, row_parts
from protocol.messages import bad_message, canonical, read_fields
from protocol.policy import LARGEST_NUMBER


class Withheld(NamedTuple):
    """The parts of rows of which only metrics over all hospitals are shown.

    Each is 0 where every hospital shows its own, else the min_rows that asks for it.
    """

    train: int = 0
    test: int = 0


class Limits(NamedTuple):
    """What the strictest hospital of an order asks of all."""

    withheld: Withheld
    min_scored: int  # the fewest coefficients of a layer that is scored


def agree_on_limits(order: AgreedTraining, rows: OrderRows) -> Limits:
    """What is withheld of all folds, and what is scored, the same at every hospital.

    Disclosure: that a class has fewer than min_rows rows in some part at a hospital, to
    the other parties, sealed to the group; the coordinator sees what all withhold.
    """
    of_rows = own_withheld(order, rows)
    own_limits = {
        **of_rows._asdict(),
        "scored": order.policy.orders.min_scored_coefficients,
    }
    messages = say_to_all(order, "own_metrics", lambda: canonical(own_limits).encode())
    stated = [_read(text) for text in messages.values()]
    withheld = Withheld(
        train=max(limits["train"] for limits in stated),
        test=max(limits["test"] for limits in stated),
    )
    min_scored = max(limits["scored"] for limits in stated)
    return Limits(withheld, min_scored)


def own_withheld(order: AgreedTraining, rows: OrderRows) -> Withheld:
    """What this hospital's rows and policy ask for."""
    if order.request.evaluates is not None:
        # Of rows that a model is judged on nobody shows metrics of its own, and curves
        # are merged by the largest min_rows (decision 87).
        least = max(1, least_rows(order, "train"))
        return Withheld(train=least, test=least)
    is_class = order.request.has_class_label
    withheld = {"train": 0, "test": 0}
    for row_part in row_parts(order.request, rows):
        min_rows = least_rows(order, row_part.purpose)
        kind = "train" if row_part.trains else "test"
        shows_own = shows_metrics(
            row_part.labels,
            is_class=is_class,
            min_rows=min_rows,
        )
        if not shows_own:
            withheld[kind] = max(withheld[kind], min_rows)
    return Withheld(**withheld)


def _read(text: bytes) -> dict[str, int]:
    field_types: dict[str, type] = {
        "train": int,
        "test": int,
        "scored": int,
    }
    limits: dict[str, Any] = read_fields(text, field_types)
    for number in limits.values():
        if not 0 <= number <= LARGEST_NUMBER:
            raise bad_message("of kind own_metrics holds a number that no policy has")
    return limits
