"""What a hospital shows of its gradient for scores, and what it checks of the answer.

The coordinator sees each gradient in a frame that only the hospitals know, fresh for
every round and layer; with method None it sees the gradient itself. Back come the
members that it chose, where the order's aggregation chooses, and the weighted mean of
what it was shown, which must be the aggregate that the initiator opened.

The frames are made in `protocol.sums.frames`; the coordinator's side is
`tasks.coordinator.scoring`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.gate.probes import scored_groups
from agents.order.party import send
from agents.training.fold import Fold, metrics_of, own_weights, stepped_weights
from agents.training.own_metrics import Limits
from agents.training.party import AgreedTraining
from agents.training.trainer import Trainer
from analytics.arrays import Floats
from analytics.training.models import Model, split_layers
from protocol.errors import BadRequest, ProtocolViolation
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE, Choice, Vectors
from protocol.sums.frames import rotate

# Errors of float64, as shares of the lengths that they come with.
_ROUNDING = 1e-9
_ROTATION_ROUNDING = 1e-15
_FIXED_POINT_STEP = 2.0**-62


def is_scored(trainer: Trainer) -> bool:
    """Whether this order's gradients are shown: those of a small model are not."""
    request = trainer.order.request
    if not request.is_scored:
        return False
    return request.is_open or bool(_groups(trainer.model, trainer.limits))


def check_scored(
    order: AgreedTraining,
    model: Model,
    limits: Limits,
) -> None:
    """Refuses a rule that judges gradients of a model too small to be shown.

    Raises BadRequest (code min_scored_coefficients).
    """
    request = order.request
    if request.is_open or not request.is_scored or _groups(model, limits):
        return
    if request.aggregation != "mean":
        raise BadRequest(
            f"A model of {model.n_weights} coefficients is too small to be scored, and {request.aggregation} judges"
            f" scores: a hospital asks for {limits.min_scored}.",
            remedy="Order more attributes, the mean, or ask the hospitals to lower min_scored_coefficients.",
            code="min_scored_coefficients",
        )


def _groups(
    model: Model,
    limits: Limits,
) -> list[tuple[str, ...]]:
    """The layers that are scored together, in their order; of a sealed order."""
    layer_sizes = {name: int(np.prod(shape)) for name, shape in model.layers.items()}
    # One value alone has no angle, only its length.
    least_size = max(2, limits.min_scored)
    return scored_groups(layer_sizes, least=least_size)


def show_gradient(trainer: Trainer, fold: Fold) -> None:
    """Shows the coordinator this round's gradient.

    Where scoring is full, also how it moved since the last one.

    Disclosure: per layer the gradient's length and its angles with the others'; a layer
    of fewer than min_scored_coefficients goes with its neighbour. With full scoring also four lengths and products that
    compare two rounds. With method None the gradient.
    """
    order = trainer.order
    point = fold.checkpoint
    request = order.request
    # Of open orders the coordinator knows both rounds anyway.
    is_sealed = not request.is_open
    # Folds other than the final model have no scores.
    of_final_model = is_sealed and fold.number == 0
    is_compared = request.scoring == "full" and of_final_model

    def make() -> bytes:
        layers = _shown_layers(
            trainer,
            fold,
            fold.gradient,
        )
        between: dict[str, Floats] = {}
        if is_compared and point.gradient is not None:
            between = _between(trainer, fold)
        readers = order.policy.orders.score_readers
        vectors = Vectors(
            layers,
            between,
            readers,
        )
        return vectors.encode()

    # Where the coordinator chooses members it answers before anything is sealed.
    send(
        order,
        "vectors",
        make,
        recipient=COORDINATOR,
        fold=fold.number,
        round=point.round,
        with_next=not request.chooses,
    )


def show_nothing(trainer: Trainer, fold: Fold) -> None:
    """Sends no gradient of a fold's last round, so that the coordinator waits for none."""
    order = trainer.order
    empty = Vectors({}, readers=order.policy.orders.score_readers)
    send(
        order,
        "vectors",
        empty.encode,
        recipient=COORDINATOR,
        fold=fold.number,
        round=fold.checkpoint.round,
        with_next=True,
    )


def _shown_layers(
    trainer: Trainer,
    fold: Fold,
    vector: Floats,
) -> dict[str, Floats]:
    """The layers of a gradient (n_weights,) in the frames of the round.

    In the label's own units, as the losses beside it are.
    """
    own_gradient = fold.label_scale.own_gradient(vector)
    layers = split_layers(trainer.model, own_gradient)
    if trainer.order.request.is_open:
        return layers
    purpose = b"rotation/%d/%d/" % (fold.number, fold.checkpoint.round)
    session = trainer.order.session
    shown_layers = {}
    for group_name, group_values in _grouped(trainer, layers).items():
        of_group = purpose + group_name.encode()
        rotation_key = session.group_key(of_group)
        shown_layers[group_name] = rotate(rotation_key, group_values)
    return shown_layers


def _grouped(
    trainer: Trainer,
    layers: dict[str, Floats],
) -> dict[str, Floats]:
    """Each group's layers as one vector, under their names."""
    grouped = {}
    for group in _groups(trainer.model, trainer.limits):
        vectors = [layers[layer_name] for layer_name in group]
        grouped["+".join(group)] = np.concatenate(vectors)
    return grouped


def _between(trainer: Trainer, fold: Fold) -> dict[str, Floats]:
    """What zeno and grad_diff need of two rounds, by layer (`messages.vectors.BETWEEN`).

    These numbers are the same in every frame.
    """
    point = fold.checkpoint
    assert point.gradient is not None
    assert point.aggregate is not None

    def grouped(vector: Floats) -> dict[str, Floats]:
        own_gradient = fold.label_scale.own_gradient(vector)
        return _grouped(trainer, split_layers(trainer.model, own_gradient))

    now = grouped(fold.gradient)
    last = grouped(point.gradient)
    last_mean = grouped(point.aggregate)
    between = {}
    for group_name, group_values in now.items():
        mean = last_mean[group_name]
        moved = _norm(group_values - last[group_name])
        apart = _norm(group_values - mean)
        product = float(group_values @ mean)
        length = _norm(mean)
        between[group_name] = np.array([moved, apart, product, length])
    return between


def _norm(vector: Floats) -> float:
    return float(np.linalg.norm(vector))


def receive_choice(trainer: Trainer, fold: Fold) -> tuple[int, ...]:
    """The members of this round's sum: all hospitals, or those that the rule chooses.

    Refused with fewer than this hospital's policy asks for; ProtocolViolation when more
    are left out than the order says. A round's choice is put once, before anything is
    sealed, and the members are part of every key (decision 30).
    """
    order = trainer.order
    everybody = order.session.members
    has_choice = order.request.chooses and is_scored(trainer)
    if not has_choice:
        return everybody
    round_ = fold.checkpoint.round
    address = Address(
        order.order_id,
        "choice",
        fold.number,
        round_,
    )
    choice_body = order.exchange.get(address, COORDINATOR, EVERYONE)
    members = Choice.decode(choice_body).members
    n_members = len(members)
    order.policy.check_hospitals(n_members)
    least_members = len(everybody) - order.request.most_left_out
    strangers = set(members) - set(everybody)
    if strangers or n_members < least_members:
        raise ProtocolViolation(
            f"In round {round_} the coordinator chose other hospitals than the order allows.",
            remedy="Nothing of this round was sent. If this repeats, the coordinator is not to be trusted.",
            code="choice",
        )
    return members


def receive_check(trainer: Trainer, fold: Fold) -> Floats:
    """The mean of what the coordinator was shown, in the round's frames.

    With a robust rule it is the aggregate itself.
    """
    order = trainer.order
    address = Address(
        order.order_id,
        "check",
        fold.number,
        fold.checkpoint.round,
    )
    body = order.exchange.get(address, COORDINATOR, EVERYONE)
    return _numbers(body)


def check_aggregate(
    trainer: Trainer,
    fold: Fold,
    aggregate: Floats,
    shown_mean: Floats,
) -> None:
    """ProtocolViolation unless the opened aggregate is the mean of what was shown.

    They are compared in the round's frames:
    |Q mean - shown_mean| <= 1e-9 (|mean| + |own gradient|) + sqrt(d) B (n 2^-62 +
    1e-15): the fixed point's error, and what turning the others' gradients rounds off,
    which are at most sqrt(d) B long. B is the bound in the units that are shown. It
    finds one hospital that shows another gradient than it seals, an initiator that
    passes on another sum, or a coordinator that alters one; not two hospitals together,
    and not who.
    """
    layers = _shown_layers(trainer, fold, aggregate)
    expected = np.zeros(0)
    if layers:
        expected = np.concatenate([*layers.values()])
    label_unit = fold.label_scale.unit
    lengths = _norm(aggregate) + _norm(fold.gradient)
    own_rounding = _ROUNDING * label_unit * lengths
    largest = trainer.params.bound * fold.label_scale.sealed * label_unit
    longest = np.sqrt(expected.size) * largest
    rounding_of_one = len(fold.members) * _FIXED_POINT_STEP + _ROTATION_ROUNDING
    others_rounding = longest * rounding_of_one
    fits = shown_mean.shape == expected.shape
    if fits:
        distance = _norm(shown_mean - expected)
        # A distance that is no number does not fit either.
        fits = distance <= own_rounding + others_rounding
    if not fits:
        raise ProtocolViolation(
            f"Round {fold.checkpoint.round} does not add up.",
            remedy="A hospital showed another gradient than it sealed, or the sum was altered; send the order again.",
            code="does_not_add_up",
        )


def leave_one_out(
    trainer: Trainer,
    fold: Fold,
    aggregate: Floats,
) -> dict[str, Any]:
    """Metrics on own test rows of the models that the round gives without one member.

    (N gbar - n_i g_i) / (N - n_i), applied to the round's starting model; that model
    itself where there was one member only. Sealed orders: without this hospital, by
    itself; method None: without each member, by the coordinator's sums.

    Disclosure: accuracy and loss per model, rounded; they ride in the next report.
    """
    request = trainer.order.request
    n_members = len(fold.members)
    # Scored are rounds of the final model, by hospitals that have rows to test it on.
    if request.scoring != "full":
        return {}
    if fold.number or not len(fold.y_test):
        return {}
    n_weights = trainer.model.n_weights
    if request.is_open and not request.compares_openly(n_members, n_weights):
        return {}
    # Two models' metrics on the same few rows say as much as one's (decision 71).
    if trainer.withheld.test:
        return {}
    reports: dict[str, Any] = {}
    means = _means_without(
        trainer,
        fold,
        aggregate,
    )
    for member, without in means.items():
        weights = own_weights(trainer, fold, fold.checkpoint.weights)
        if n_members > 1:
            weights = stepped_weights(trainer, fold, without)
        metrics = metrics_of(
            trainer,
            weights,
            fold.X_test,
            fold.y_test,
        )
        reported = {}
        for metric_name in ("accuracy", "loss"):
            if metric_name in metrics:
                reported[metric_name] = metrics[metric_name]
        reports[str(member)] = reported
    return reports


def _means_without(
    trainer: Trainer,
    fold: Fold,
    aggregate: Floats,
) -> dict[int, Floats]:
    """(n_weights,) for each member that is left out, the mean of the others."""
    order = trainer.order
    if order.request.is_open:
        address = Address(
            order.order_id,
            "without",
            0,
            fold.checkpoint.round,
        )
        means_body = order.exchange.get(address, COORDINATOR, EVERYONE)
        shown_means = _numbers(means_body).reshape(len(fold.members), -1)
        by_member = fold.label_scale.trained_gradient(shown_means)
        return dict(zip(fold.members, by_member, strict=True))
    if order.me not in fold.members:
        return {}
    n_rows = trainer.keys(fold.number, fold.members).n_rows
    n_all = sum(n_rows.values())
    n_own = n_rows[order.me]
    n_others = n_all - n_own
    sum_of_others = n_all * aggregate - n_own * fold.gradient
    # The only member has no others, and the caller does not step by their mean.
    return {order.me: sum_of_others / max(1, n_others)}


def _numbers(body: bytes) -> Floats:
    """The coordinator's float64 values.

    ProtocolViolation (code vector) for a message that it cut or filled with something
    else.
    """
    n_values = len(body) // 8
    big_endian = np.frombuffer(
        body,
        dtype=">f8",
        count=n_values,
    )
    values = big_endian.astype(np.float64)
    is_whole = len(body) == n_values * 8
    if not is_whole or not np.isfinite(values).all():
        raise ProtocolViolation(
            "The coordinator sent no vector.",
            remedy="Send the order again.",
            code="vector",
        )
    return values
