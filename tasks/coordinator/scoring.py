"""What the coordinator does with the gradients it is shown: chooses members, answers their mean, keeps their geometry.

In sealed orders they come in frames that it does not know. It keeps lengths and angles and drops the vectors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import safetensors.numpy

from analytics.arrays import Floats
from analytics.scores import aggregation
from analytics.scores.geometry import combine_factors, triangular_factor
from protocol.errors import ProtocolViolation
from protocol.exchange import Address, Exchange
from protocol.messages import COORDINATOR, EVERYONE, Choice, Vectors
from protocol.training_request import TrainingRequest

_REASONS = {
    "multi_krum": "Its gradient is among the farthest from its nearest neighbours (Multi-Krum).",
    "minimum_diameter": "Its gradient is outside of the closest set of hospitals (minimum diameter).",
}


@dataclass(frozen=True)
class Shown:
    """The gradients of a round, a row for each of `users` (sorted): float64 (n, d) per layer, in the order's layers."""

    users: tuple[int, ...]
    n_rows: tuple[int, ...]
    layers: dict[str, Floats]
    between: dict[str, Floats]
    readers: str

    @cached_property
    def factors(self) -> dict[str, Floats]:
        """The triangular factor (n, n) of each layer."""
        return {name: triangular_factor([rows], len(self.users)) for name, rows in self.layers.items()}


def gather(messages: dict[int, Vectors], n_rows: dict[int, int]) -> Shown:
    """One round's messages, layer by layer. ProtocolViolation where hospitals show other layers than each other."""
    users = tuple(sorted(messages))
    shapes = {tuple((name, len(g)) for name, g in messages[user].layers.items()) for user in users}
    compared = {tuple(messages[user].between) for user in users}
    if len(shapes) > 1 or len(compared) > 1:
        raise ProtocolViolation(
            "The hospitals show gradients of different layers.",
            remedy="Check that all run the same version, then send the order again.",
            code="layers",
        )
    first = messages[users[0]]
    return Shown(
        users,
        tuple(n_rows[user] for user in users),
        {name: np.array([messages[user].layers[name] for user in users]) for name in first.layers},
        {name: np.array([messages[user].between[name] for user in users]) for name in first.between},
        "operator" if any(message.readers == "operator" for message in messages.values()) else "parties",
    )


def choose(exchange: Exchange, address: Address, shown: Shown, request: TrainingRequest) -> Choice:
    """The members of a round's sum, told to all hospitals; a choice that was told before stands."""
    if not request.chooses:
        return Choice(shown.users)
    told = exchange.insist(
        lambda: exchange.transport.gather(address, (COORDINATOR,), EVERYONE, wait_seconds=0)
    )
    if told is not None:
        return Choice.decode(told[COORDINATOR])
    choice = _choice(shown, request)
    exchange.put(address, EVERYONE, choice.encode())
    return choice


def _choice(shown: Shown, request: TrainingRequest) -> Choice:
    points = combine_factors(list(shown.factors.values())).T
    rule: Callable[..., list[int]] = getattr(aggregation, f"select_{request.aggregation}")
    members = tuple(shown.users[i] for i in rule(points, n_attackers=request.assumed_attackers))
    left_out = {user: _REASONS[request.aggregation] for user in shown.users if user not in members}
    return Choice(members, left_out)


def aggregate(shown: Shown, members: tuple[int, ...], request: TrainingRequest) -> Floats:
    """What the round steps by, in the frames that it was shown in, float64 (d,), the layers one behind the other.

    A restart finds the same bytes: sums are taken in the order of the user ids, element by element.
    """
    stacked, n_rows = _of_members(shown, members)
    return _aggregate(stacked, n_rows, request)


def answer(
    exchange: Exchange, address: Address, shown: Shown, members: tuple[int, ...], request: TrainingRequest
) -> None:
    """Tells all hospitals the aggregate of what was shown; of open orders also what it is without each member."""
    exchange.put(address, EVERYONE, _bytes(aggregate(shown, members, request)))
    stacked, n_rows = _of_members(shown, members)
    if address.fold == 0 and request.compares_openly(len(members), stacked.shape[1]):
        without = [
            _aggregate(np.delete(stacked, i, axis=0), np.delete(n_rows, i), request)
            for i in range(len(members))
        ]
        exchange.put(replace(address, topic="without"), EVERYONE, _bytes(np.array(without)))


def _of_members(shown: Shown, members: tuple[int, ...]) -> tuple[Floats, Floats]:
    rows = [shown.users.index(user) for user in members]
    return np.hstack([*shown.layers.values()])[rows], np.array(shown.n_rows, dtype=np.float64)[rows]


def _aggregate(vectors: Floats, n_rows: Floats, request: TrainingRequest) -> Floats:
    """Of float64 (n, d): the row-weighted mean, or the order's coordinate-wise rule; zeros of nobody's."""
    if not len(vectors):
        return np.zeros(vectors.shape[1])
    if request.aggregation == "median":
        return aggregation.median(vectors)
    if request.aggregation == "trimmed_mean":
        return aggregation.trimmed_mean(
            vectors, n_attackers=min(request.assumed_attackers, (len(vectors) - 1) // 2)
        )
    total = np.zeros(vectors.shape[1])
    for weight, vector in zip(n_rows, vectors, strict=True):
        total = total + weight * vector
    result: Floats = total / n_rows.sum()
    return result


def _bytes(values: Floats) -> bytes:
    return values.astype(">f8").tobytes()


def round_file(shown: Shown, members: tuple[int, ...], request: TrainingRequest) -> bytes:
    """What is kept of a round (docs/operators.md): its gradients where they are open, else its geometry alone."""
    tensors: dict[str, Floats] = {}
    if request.is_open:
        for name, rows in shown.layers.items():
            tensors |= {f"gradient/{user}/{name}": row for user, row in zip(shown.users, rows, strict=True)}
        ends = np.cumsum([rows.shape[1] for rows in shown.layers.values()])[:-1]
        averages = np.split(aggregate(shown, members, request), ends)
        tensors |= {f"average/{name}": values for name, values in zip(shown.layers, averages, strict=True)}
    else:
        tensors |= {f"factor/{name}": factor for name, factor in shown.factors.items()}
        tensors |= {f"between/{name}": numbers for name, numbers in shown.between.items()}
    about: dict[str, Any] = {"kind": "open" if request.is_open else "sealed"}
    about |= {"clients": list(shown.users), "sizes": list(shown.n_rows)}
    about |= {} if request.is_open or members == shown.users else {"members": list(members)}
    data: bytes = safetensors.numpy.save(tensors, metadata={"round": json.dumps(about)})
    return data


def leave_one_out(reports: dict[int, dict[str, Any]], *, is_open: bool) -> dict[str, Any]:
    """What the round before is to be told of, by hospital: metrics without it, and with all.

    Sealed orders: each hospital's own word on its own test rows. Method None: over all test rows, weighted.
    """
    if is_open:
        return _over_all_rows([report for report in reports.values() if report.get("leave_one_out")])
    own = {
        str(user): report["leave_one_out"].get(str(user))
        for user, report in reports.items()
        if "leave_one_out" in report
    }
    return {user: {**found, "all": _both(reports[int(user)]["test"])} for user, found in own.items() if found}


def _over_all_rows(reports: list[dict[str, Any]]) -> dict[str, Any]:
    users = sorted({user for report in reports for user in report["leave_one_out"]}, key=int)
    with_all = [(report["n_test_rows"], report["test"]) for report in reports]
    without = {
        user: [(report["n_test_rows"], report["leave_one_out"][user]) for report in reports] for user in users
    }
    return {user: {**_mean(entries), "all": _mean(with_all)} for user, entries in without.items()}


def _mean(entries: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    total = sum(n_rows for n_rows, _ in entries)
    names = [name for name in ("accuracy", "loss") if all(name in metrics for _, metrics in entries)]
    return {name: math.fsum(n_rows * metrics[name] for n_rows, metrics in entries) / total for name in names}


def _both(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: metrics[name] for name in ("accuracy", "loss") if name in metrics}
