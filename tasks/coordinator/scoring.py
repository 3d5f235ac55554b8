"""What the coordinator does with the gradients it is shown.

It chooses members, answers their mean, keeps their geometry. In sealed orders they come
in frames that it does not know. It keeps lengths and angles and drops the vectors. The
hospitals' side is `agents.training.shown_gradients`; the mathematics is in
`analytics.scores`.

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
from protocol.errors import ProtocolViolation, listed, who_differ
from protocol.exchange import Address, Exchange
from protocol.messages import EVERYONE, Choice, Vectors
from protocol.training_request import TrainingRequest
from tasks.coordinator.order import sent_by_coordinator
from tasks.coordinator.reports import RoundReport

_SELECTIONS: dict[str, Callable[..., list[int]]] = {
    "multi_krum": aggregation.select_multi_krum,
    "minimum_diameter": aggregation.select_minimum_diameter,
}
_REASONS = {
    "multi_krum": "Its gradient is among the farthest from its nearest neighbours (Multi-Krum).",
    "minimum_diameter": "Its gradient is outside of the closest set of hospitals (minimum diameter).",
}
_COMPARED = ("accuracy", "loss")

Members = tuple[int, ...]
"""Who is in a round's sum, sorted."""

Metrics = dict[str, Any]
"""Numbers by name, or several such by hospital."""


@dataclass(frozen=True)
class Shown:
    """The gradients of a round, a row for each of `users`."""

    users: tuple[int, ...]  # sorted
    n_rows: tuple[int, ...]  # of each, those that train
    layers: dict[str, Floats]  # (n, d) each, in the order's layers
    # (n, 4) each: what compares two rounds, see `messages.vectors.BETWEEN`.
    between: dict[str, Floats]
    # Who may see scores made of it: parties, or the operator alone where one hospital's
    # policy says so.
    readers: str

    @cached_property
    def factors(self) -> dict[str, Floats]:
        """The triangular factor (n, n) of each layer (decision 28)."""
        factors = {}
        n_users = len(self.users)
        for layer_name, rows in self.layers.items():
            factors[layer_name] = triangular_factor([rows], n_users)
        return factors


def gather(messages: dict[int, Vectors], n_rows: dict[int, int]) -> Shown:
    """One round's messages, layer by layer.

    ProtocolViolation where hospitals show other layers than each other.
    """
    user_ids = tuple(sorted(messages))
    ordered = [messages[user_id] for user_id in user_ids]
    first_message = ordered[0]
    layers_of_users = {}
    for user_id in user_ids:
        message = messages[user_id]
        layers_of_users[user_id] = _layers(message)
    named = who_differ(layers_of_users)
    if named:
        raise ProtocolViolation(
            f"The hospitals show gradients of different layers: {listed(named)}.",
            remedy="Check that all run the same version, then send the order again.",
            code="layers",
            hospitals=named,
        )
    layers = {}
    for layer_name in first_message.layers:
        of_layer = [message.layers[layer_name] for message in ordered]
        layers[layer_name] = np.array(of_layer)
    between = {}
    for layer_name in first_message.between:
        compared = [message.between[layer_name] for message in ordered]
        between[layer_name] = np.array(compared)
    readers = "parties"
    # The strictest policy counts.
    policies = {message.readers for message in ordered}
    if "operator" in policies:
        readers = "operator"
    n_trained = tuple(n_rows[user_id] for user_id in user_ids)
    return Shown(
        user_ids,
        n_trained,
        layers,
        between,
        readers,
    )


def _layers(message: Vectors) -> tuple[Any, ...]:
    """What is equal of all: the layers, their lengths and their order."""
    lengths = []
    for layer_name, layer_values in message.layers.items():
        n_values = len(layer_values)
        lengths.append((layer_name, n_values))
    return (*lengths, *message.between)


# Who is in the sum


def choose(
    exchange: Exchange,
    address: Address,
    gradients: Shown,
    request: TrainingRequest,
) -> Choice:
    """The members of a round's sum, sent to all hospitals.

    A choice that was sent before stands.
    """
    if not request.chooses:
        return Choice(gradients.users)
    # Hospitals may have sealed for it already: a restart does not choose again.
    sent_choice = sent_by_coordinator(exchange, address, EVERYONE)
    if sent_choice is not None:
        return Choice.decode(sent_choice)
    choice = _choice(gradients, request)
    encoded_choice = choice.encode()
    exchange.put(address, EVERYONE, encoded_choice)
    return choice


def _choice(gradients: Shown, request: TrainingRequest) -> Choice:
    # Points of n dimensions that are as far from each other as the gradients are
    # (decision 28).
    factors = [*gradients.factors.values()]
    points = combine_factors(factors).T
    selection_rule = _SELECTIONS[request.aggregation]
    chosen = selection_rule(points, n_attackers=request.assumed_attackers)
    members = tuple(gradients.users[index] for index in chosen)
    reason = _REASONS[request.aggregation]
    left_out = {}
    for user_id in gradients.users:
        if user_id not in members:
            left_out[user_id] = reason
    return Choice(members, left_out)


# What it adds up to


class _MemberRows(NamedTuple):
    """What the members of a round have shown."""

    vectors: Floats  # (n, d), the layers one behind the other
    n_rows: Floats  # (n,)

    def without(self, index: int) -> _MemberRows:
        vectors = np.delete(self.vectors, index, axis=0)
        n_rows = np.delete(self.n_rows, index)
        return _MemberRows(vectors, n_rows)


def aggregate(
    gradients: Shown,
    members: Members,
    request: TrainingRequest,
) -> Floats:
    """What the round steps by, float64 (d,), the layers one behind the other.

    It is in the frames that it was shown in. A restart finds the same bytes: sums are
    taken in the order of the user ids, element by element.
    """
    of_members = _of_members(gradients, members)
    return _aggregate(of_members, request)


def answer(
    exchange: Exchange,
    address: Address,
    gradients: Shown,
    members: Members,
    request: TrainingRequest,
) -> None:
    """Sends all hospitals the aggregate of what was shown, with the round's sum.

    Of open orders also what it is without each member.
    """
    mean = aggregate(gradients, members, request)
    # With the sum, which the hospitals wait for.
    exchange.hold(address, EVERYONE, _bytes(mean))
    of_members = _of_members(gradients, members)
    n_members = len(members)
    n_weights = of_members.vectors.shape[1]
    # Models without single members are compared for the final model alone.
    if address.fold:
        return
    if not request.compares_openly(n_members, n_weights):
        return
    without = []
    for index in range(n_members):
        remaining_rows = of_members.without(index)
        without.append(_aggregate(remaining_rows, request))
    without_address = replace(address, topic="without")
    encoded_means = _bytes(np.array(without))
    exchange.hold(without_address, EVERYONE, encoded_means)


def _of_members(gradients: Shown, members: Members) -> _MemberRows:
    users = gradients.users
    indices = [users.index(member) for member in members]
    layers = [*gradients.layers.values()]
    stacked = np.hstack(layers)
    weights = np.array(gradients.n_rows, dtype=np.float64)
    vectors = stacked[indices]
    n_rows = weights[indices]
    return _MemberRows(vectors, n_rows)


def _aggregate(rows: _MemberRows, request: TrainingRequest) -> Floats:
    """The row-weighted mean, or the order's coordinate-wise rule; zeros of nobody's."""
    vectors = rows.vectors
    n_members, n_weights = vectors.shape
    if n_members == 0:
        return np.zeros(n_weights)
    if request.aggregation == "median":
        return aggregation.median(vectors)
    if request.aggregation == "trimmed_mean":
        # Without one member as many may be cut off as leave one value.
        most_attackers = (n_members - 1) // 2
        n_attackers = min(request.assumed_attackers, most_attackers)
        return aggregation.trimmed_mean(vectors, n_attackers=n_attackers)
    # One vector after the other: numpy's own sum may take another order, and a restart
    # must find the same bytes.
    weighted_sum = np.zeros(n_weights)
    weighted = zip(rows.n_rows, vectors, strict=True)
    for weight, vector in weighted:
        weighted_sum = weighted_sum + weight * vector
    n_rows = rows.n_rows.sum()
    mean: Floats = weighted_sum / n_rows
    return mean


def _bytes(values: Floats) -> bytes:
    big_endian = values.astype(">f8")
    return big_endian.tobytes()


# What is kept of a round


def round_file(
    gradients: Shown,
    members: Members,
    request: TrainingRequest,
) -> bytes:
    """What is kept of a round (docs/operators.md), as safetensors.

    Its gradients where they are open, else its geometry alone.
    """
    about: dict[str, Any] = {
        "kind": "open" if request.is_open else "sealed",
        "clients": list(gradients.users),
        "sizes": list(gradients.n_rows),
    }
    if request.is_open:
        mean = aggregate(gradients, members, request)
        tensors = _open_tensors(gradients, mean)
    else:
        # The vectors are dropped with this: only lengths and angles stay.
        tensors = _sealed_tensors(gradients)
        if members != gradients.users:
            about["members"] = list(members)
    metadata = {"round": json.dumps(about)}
    data: bytes = safetensors.numpy.save(tensors, metadata=metadata)
    return data


def _open_tensors(gradients: Shown, mean: Floats) -> dict[str, Floats]:
    """Each hospital's gradient and their aggregate `mean`, layer by layer."""
    tensors = {}
    for layer_name, rows in gradients.layers.items():
        of_users = zip(gradients.users, rows, strict=True)
        for user_id, gradient in of_users:
            tensors[f"gradient/{user_id}/{layer_name}"] = gradient
    layers = gradients.layers.values()
    layer_sizes = [rows.shape[1] for rows in layers]
    ends = np.cumsum(layer_sizes)
    averages = np.split(mean, ends[:-1])
    of_layers = zip(gradients.layers, averages, strict=True)
    for layer_name, average in of_layers:
        tensors[f"average/{layer_name}"] = average
    return tensors


def _sealed_tensors(gradients: Shown) -> dict[str, Floats]:
    tensors = {}
    for layer_name, factor in gradients.factors.items():
        tensors[f"factor/{layer_name}"] = factor
    for layer_name, numbers in gradients.between.items():
        tensors[f"between/{layer_name}"] = numbers
    return tensors


# What a round's model would have been without single hospitals


def leave_one_out(reports: dict[int, RoundReport], *, is_open: bool) -> Metrics:
    """By hospital, of the round before: metrics without it, and under `all` with all.

    Sealed orders: each hospital's own word on its own test rows. Method None: over all
    test rows, weighted.
    """
    if is_open:
        comparing = []
        for report in reports.values():
            if report.get("leave_one_out"):
                comparing.append(report)
        return _over_all_rows(comparing)
    metrics = {}
    for user_id, report in reports.items():
        of_hospitals = report.get("leave_one_out", {})
        without = of_hospitals.get(str(user_id))
        if without:
            with_all = _comparable(report["test"])
            metrics[str(user_id)] = {
                **without,
                "all": with_all,
            }
    return metrics


def _over_all_rows(reports: list[RoundReport]) -> Metrics:
    if not reports:
        return {}
    n_rows = [report["n_test_rows"] for report in reports]
    tested = [report["test"] for report in reports]
    with_all = _mean(n_rows, tested)
    user_ids: set[str] = set()
    for report in reports:
        user_ids.update(report["leave_one_out"])
    metrics = {}
    for user_id in sorted(user_ids, key=int):
        of_hospitals = []
        for report in reports:
            without_one = report["leave_one_out"]
            of_hospitals.append(without_one[user_id])
        without = _mean(n_rows, of_hospitals)
        metrics[user_id] = {
            **without,
            "all": with_all,
        }
    return metrics


def _mean(n_rows: list[int], of_hospitals: list[Metrics]) -> Metrics:
    """Of metrics of some rows each, n_rows of them: those of all rows."""
    means = {}
    for metric_name in _COMPARED:
        if not all(metric_name in metrics for metrics in of_hospitals):
            continue
        weighted = []
        pairs = zip(n_rows, of_hospitals, strict=True)
        for row_count, metrics in pairs:
            weighted_metric = row_count * metrics[metric_name]
            weighted.append(weighted_metric)
        metric_sum = math.fsum(weighted)
        means[metric_name] = metric_sum / sum(n_rows)
    return means


def _comparable(metrics: Metrics) -> Metrics:
    compared = {}
    for metric_name in _COMPARED:
        if metric_name in metrics:
            compared[metric_name] = metrics[metric_name]
    return compared
