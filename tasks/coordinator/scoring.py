"""What the coordinator does with the gradients it is shown: chooses members, answers their mean, keeps their geometry.

In sealed orders they come in frames that it does not know. It keeps lengths and angles and drops the vectors. The
hospitals' side is `agents.training.shown_gradients`; the mathematics is in `analytics.scores`.

Decision 30.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

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
    """The gradients of a round, a row for each of `users`."""

    users: tuple[int, ...]  # sorted
    n_rows: tuple[int, ...]  # of each, those that train
    layers: dict[str, Floats]  # (n, d) each, in the order's layers
    between: dict[str, Floats]  # (n, 4) each: what compares two rounds, see `messages.BETWEEN`
    readers: str  # who may see scores made of it: parties, or the operator alone where one hospital's policy says so

    @cached_property
    def factors(self) -> dict[str, Floats]:
        """The triangular factor (n, n) of each layer (decision 28)."""
        return {name: triangular_factor([rows], len(self.users)) for name, rows in self.layers.items()}


def gather(messages: dict[int, Vectors], n_rows: dict[int, int]) -> Shown:
    """One round's messages, layer by layer. ProtocolViolation where hospitals show other layers than each other."""
    users = tuple(sorted(messages))
    ordered = [messages[user] for user in users]
    shapes = {tuple((name, len(values)) for name, values in message.layers.items()) for message in ordered}
    compared = {tuple(message.between) for message in ordered}
    if len(shapes) > 1 or len(compared) > 1:
        raise ProtocolViolation(
            "The hospitals show gradients of different layers.",
            remedy="Check that all run the same version, then send the order again.",
            code="layers",
        )
    first = ordered[0]
    layers = {name: np.array([message.layers[name] for message in ordered]) for name in first.layers}
    between = {name: np.array([message.between[name] for message in ordered]) for name in first.between}
    # The strictest policy counts.
    is_for_operator = any(message.readers == "operator" for message in ordered)
    readers = "operator" if is_for_operator else "parties"
    return Shown(users, tuple(n_rows[user] for user in users), layers, between, readers)


# Who is in the sum


def choose(exchange: Exchange, address: Address, shown: Shown, request: TrainingRequest) -> Choice:
    """The members of a round's sum, sent to all hospitals; a choice that was sent before stands."""
    if not request.chooses:
        return Choice(shown.users)
    sent = exchange.insist(
        lambda: exchange.transport.gather(address, (COORDINATOR,), EVERYONE, wait_seconds=0)
    )
    if sent is not None:
        return Choice.decode(sent[COORDINATOR])
    choice = _choice(shown, request)
    exchange.put(address, EVERYONE, choice.encode())
    return choice


def _choice(shown: Shown, request: TrainingRequest) -> Choice:
    # Points of n dimensions that are as far from each other as the gradients are (decision 28).
    points = combine_factors(list(shown.factors.values())).T
    rule: Callable[..., list[int]] = getattr(aggregation, f"select_{request.aggregation}")
    chosen = rule(points, n_attackers=request.assumed_attackers)
    members = tuple(shown.users[index] for index in chosen)
    reason = _REASONS[request.aggregation]
    left_out = {user: reason for user in shown.users if user not in members}
    return Choice(members, left_out)


# What it adds up to


class _MemberRows(NamedTuple):
    """What the members of a round have shown."""

    vectors: Floats  # (n, d), the layers one behind the other
    n_rows: Floats  # (n,)


def aggregate(shown: Shown, members: tuple[int, ...], request: TrainingRequest) -> Floats:
    """What the round steps by, in the frames that it was shown in, float64 (d,), the layers one behind the other.

    A restart finds the same bytes: sums are taken in the order of the user ids, element by element.
    """
    of_members = _of_members(shown, members)
    return _aggregate(of_members.vectors, of_members.n_rows, request)


def answer(
    exchange: Exchange, address: Address, shown: Shown, members: tuple[int, ...], request: TrainingRequest
) -> None:
    """Sends all hospitals the aggregate of what was shown; of open orders also what it is without each member."""
    mean = aggregate(shown, members, request)
    exchange.put(address, EVERYONE, _bytes(mean))
    vectors, n_rows = _of_members(shown, members)
    if address.fold or not request.compares_openly(len(members), vectors.shape[1]):
        return
    without = []
    for index in range(len(members)):
        others, weights = np.delete(vectors, index, axis=0), np.delete(n_rows, index)
        without.append(_aggregate(others, weights, request))
    without_address = replace(address, topic="without")
    exchange.put(without_address, EVERYONE, _bytes(np.array(without)))


def _of_members(shown: Shown, members: tuple[int, ...]) -> _MemberRows:
    indices = [shown.users.index(user) for user in members]
    stacked = np.hstack([*shown.layers.values()])
    weights = np.array(shown.n_rows, dtype=np.float64)
    return _MemberRows(stacked[indices], weights[indices])


def _aggregate(vectors: Floats, n_rows: Floats, request: TrainingRequest) -> Floats:
    """Of float64 (n, d): the row-weighted mean, or the order's coordinate-wise rule; zeros of nobody's."""
    if not len(vectors):
        return np.zeros(vectors.shape[1])
    if request.aggregation == "median":
        return aggregation.median(vectors)
    if request.aggregation == "trimmed_mean":
        # Without one member as many may be cut off as leave one value.
        n_attackers = min(request.assumed_attackers, (len(vectors) - 1) // 2)
        return aggregation.trimmed_mean(vectors, n_attackers=n_attackers)
    total = np.zeros(vectors.shape[1])
    for weight, vector in zip(n_rows, vectors, strict=True):
        total = total + weight * vector
    mean: Floats = total / n_rows.sum()
    return mean


def _bytes(values: Floats) -> bytes:
    return values.astype(">f8").tobytes()


# What is kept of a round


def round_file(shown: Shown, members: tuple[int, ...], request: TrainingRequest) -> bytes:
    """What is kept of a round (docs/operators.md): its gradients where they are open, else its geometry alone."""
    tensors: dict[str, Floats] = {}
    about: dict[str, Any] = {
        "kind": "open" if request.is_open else "sealed",
        "clients": list(shown.users),
        "sizes": list(shown.n_rows),
    }
    if request.is_open:
        for name, rows in shown.layers.items():
            for user, row in zip(shown.users, rows, strict=True):
                tensors[f"gradient/{user}/{name}"] = row
        ends = np.cumsum([rows.shape[1] for rows in shown.layers.values()])[:-1]
        averages = np.split(aggregate(shown, members, request), ends)
        for name, average in zip(shown.layers, averages, strict=True):
            tensors[f"average/{name}"] = average
    else:
        for name, factor in shown.factors.items():
            tensors[f"factor/{name}"] = factor
        for name, numbers in shown.between.items():
            tensors[f"between/{name}"] = numbers
        if members != shown.users:
            about["members"] = list(members)
    data: bytes = safetensors.numpy.save(tensors, metadata={"round": json.dumps(about)})
    return data


def leave_one_out(reports: dict[int, dict[str, Any]], *, is_open: bool) -> dict[str, Any]:
    """What the round before is to be told of, by hospital: metrics without it, and with all.

    Sealed orders: each hospital's own word on its own test rows. Method None: over all test rows, weighted.
    """
    if is_open:
        return _over_all_rows([report for report in reports.values() if report.get("leave_one_out")])
    found = {}
    for user, report in reports.items():
        without = report.get("leave_one_out", {}).get(str(user))
        if without:
            found[str(user)] = {**without, "all": _comparable(report["test"])}
    return found


def _over_all_rows(reports: list[dict[str, Any]]) -> dict[str, Any]:
    if not reports:
        return {}
    n_rows = [report["n_test_rows"] for report in reports]
    with_all = _mean(n_rows, [report["test"] for report in reports])
    users = {user for report in reports for user in report["leave_one_out"]}
    found = {}
    for user in sorted(users, key=int):
        without = _mean(n_rows, [report["leave_one_out"][user] for report in reports])
        found[user] = {**without, "all": with_all}
    return found


def _mean(n_rows: list[int], metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Of metrics of some rows each, n_rows of them: those of all rows."""
    means = {}
    for name in ("accuracy", "loss"):
        if all(name in one for one in metrics):
            weighted = [count * one[name] for count, one in zip(n_rows, metrics, strict=True)]
            means[name] = math.fsum(weighted) / sum(n_rows)
    return means


def _comparable(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: metrics[name] for name in ("accuracy", "loss") if name in metrics}
