"""What a hospital shows of its gradient so that a round can be scored, and what it checks of the answer.

The coordinator sees each gradient in a frame that only the hospitals know, fresh for every round and layer; with method
None it sees the gradient itself. Back come the members that it chose, where the order's aggregation chooses, and the
weighted mean of what it was shown, which must be the aggregate that the initiator opened.

The frames are made in `protocol.sums.frames`; the coordinator's side is `tasks.coordinator.scoring`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.order.party import send
from agents.training.checkpoint import Checkpoint
from agents.training.trainer import Fold, Trainer, metrics_of, stepped_weights
from analytics.arrays import Floats
from analytics.training.models import split_layers
from protocol.errors import ProtocolViolation
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE, Choice, Vectors
from protocol.sums.frames import rotate

# Errors of float64, as shares of the lengths that they come with.
_ROUNDING = 1e-9
_ROTATION_ROUNDING = 1e-15
_FIXED_POINT_STEP = 2.0**-62


def is_scored(trainer: Trainer) -> bool:
    """Whether this order's gradients are shown. One value alone has no angle, only its length."""
    request = trainer.order.request
    if not request.is_scored:
        return False
    sizes = [int(np.prod(shape)) for shape in trainer.model.layers.values()]
    return request.is_open or max(sizes) > 1


def show_gradient(trainer: Trainer, fold: Fold) -> None:
    """Shows this round's gradient to the coordinator, and how it moved since the last one where scoring is full.

    Disclosure: per layer the gradient's length and its angles with the others'; a layer of one value is left out. With
    full scoring also four lengths and products that compare two rounds. With method None the gradient.
    """
    order, point = trainer.order, fold.checkpoint
    request = order.request

    def make() -> bytes:
        layers = _shown_layers(trainer, fold, fold.gradient)
        between: dict[str, Floats] = {}
        # Of open orders the coordinator knows both rounds anyway; folds other than the final model have no scores.
        is_compared = request.scoring == "full" and not request.is_open and fold.number == 0
        if is_compared and point.gradient is not None:
            between = _between(trainer, point, fold.gradient)
        vectors = Vectors(layers, between, order.policy.orders.score_readers)
        return vectors.encode()

    send(order, "vectors", make, recipient=COORDINATOR, fold=fold.number, round=point.round)


def show_nothing(trainer: Trainer, fold: Fold) -> None:
    """Tells the coordinator that a fold's last round has no gradient, so that it does not wait for one."""
    order = trainer.order
    empty = Vectors({}, readers=order.policy.orders.score_readers)
    send(
        order,
        "vectors",
        empty.encode,
        recipient=COORDINATOR,
        fold=fold.number,
        round=fold.checkpoint.round,
    )


def _shown_layers(trainer: Trainer, fold: Fold, vector: Floats) -> dict[str, Floats]:
    """The layers of a vector (n_weights,) in the frames of the round."""
    layers = split_layers(trainer.model, vector)
    if trainer.order.request.is_open:
        return layers
    purpose = b"rotation/%d/%d/" % (fold.number, fold.checkpoint.round)
    shown = {}
    for name, values in layers.items():
        # A rotation of one value would leave it as it is, but for its sign.
        if values.size > 1:
            key = trainer.order.session.group_key(purpose + name.encode())
            shown[name] = rotate(key, values)
    return shown


def _between(trainer: Trainer, point: Checkpoint, gradient: Floats) -> dict[str, Floats]:
    """What zeno and grad_diff need of two rounds, by layer: numbers without a frame (`messages.BETWEEN`)."""
    assert point.gradient is not None
    assert point.aggregate is not None
    now = split_layers(trainer.model, gradient)
    last = split_layers(trainer.model, point.gradient)
    last_mean = split_layers(trainer.model, point.aggregate)
    between = {}
    for name, values in now.items():
        if values.size > 1:
            mean = last_mean[name]
            moved, apart = _norm(values - last[name]), _norm(values - mean)
            between[name] = np.array([moved, apart, float(values @ mean), _norm(mean)])
    return between


def _norm(vector: Floats) -> float:
    return float(np.linalg.norm(vector))


def receive_choice(trainer: Trainer, fold: Fold) -> tuple[int, ...]:
    """The members of this round's sum: all hospitals, or those that the coordinator chose by the order's rule.

    Refused with fewer than this hospital's policy asks for; ProtocolViolation when more are left out than the order
    says. A round's choice is put once, before anything is sealed, and the members are part of every key (decision 30).
    """
    order = trainer.order
    everybody = order.session.members
    if not (order.request.chooses and is_scored(trainer)):
        return everybody
    address = Address(order.order_id, "choice", fold.number, fold.checkpoint.round)
    members = Choice.decode(order.exchange.get(address, COORDINATOR, EVERYONE)).members
    order.policy.check_hospitals(len(members))
    least = len(everybody) - order.request.most_left_out
    if not set(members) <= set(everybody) or len(members) < least:
        raise ProtocolViolation(
            f"In round {fold.checkpoint.round} the coordinator chose other hospitals than the order allows.",
            remedy="Nothing of this round was sent. If this repeats, the coordinator is not to be trusted.",
            code="choice",
        )
    return members


def receive_check(trainer: Trainer, fold: Fold) -> Floats:
    """The mean of what the coordinator was shown, in the round's frames, or with a robust rule the aggregate itself."""
    order = trainer.order
    address = Address(order.order_id, "check", fold.number, fold.checkpoint.round)
    body = order.exchange.get(address, COORDINATOR, EVERYONE)
    return _numbers(body)


def check_aggregate(trainer: Trainer, fold: Fold, aggregate: Floats, shown_mean: Floats) -> None:
    """ProtocolViolation unless the opened aggregate, in the round's frames, is the mean that the coordinator sends.

    |Q mean - shown_mean| <= 1e-9 (|mean| + |own gradient|) + sqrt(d) B (n 2^-62 + 1e-15): the fixed point's error, and
    what turning the others' gradients rounds off, which are at most sqrt(d) B long. It finds one hospital that shows
    another gradient than it seals, an initiator that passes on another sum, or a coordinator that alters one; not two
    hospitals together, and not who.
    """
    layers = _shown_layers(trainer, fold, aggregate)
    expected = np.concatenate([*layers.values()]) if layers else np.zeros(0)
    own_rounding = _ROUNDING * (_norm(aggregate) + _norm(fold.gradient))
    longest = np.sqrt(expected.size) * trainer.params.bound
    others_rounding = longest * (len(fold.members) * _FIXED_POINT_STEP + _ROTATION_ROUNDING)
    fits = shown_mean.shape == expected.shape
    # Written so that a distance which is no number does not fit either.
    if not fits or not _norm(shown_mean - expected) <= own_rounding + others_rounding:
        raise ProtocolViolation(
            f"Round {fold.checkpoint.round} does not add up.",
            remedy="A hospital showed another gradient than it sealed, or the sum was altered; send the order again.",
            code="does_not_add_up",
        )


def leave_one_out(trainer: Trainer, fold: Fold, aggregate: Floats) -> dict[str, Any]:
    """Metrics on this hospital's test rows of the models that the round would have given without one member.

    (N gbar - n_i g_i) / (N - n_i), applied to the round's starting model; that model itself where there was one member
    only. Sealed orders: without this hospital, by itself; method None: without each member, by the coordinator's sums.

    Disclosure: accuracy and loss per model, rounded; they ride in the next report.
    """
    request, n_members = trainer.order.request, len(fold.members)
    if request.scoring != "full" or fold.number or not len(fold.y_test):
        return {}
    if request.is_open and not request.compares_openly(n_members, trainer.model.n_weights):
        return {}
    found = {}
    for user, without in _means_without(trainer, fold, aggregate).items():
        weights = fold.checkpoint.weights
        if n_members > 1:
            weights = stepped_weights(trainer, fold, without)
        metrics = metrics_of(trainer, weights, fold.X_test, fold.y_test)
        found[str(user)] = {name: metrics[name] for name in ("accuracy", "loss") if name in metrics}
    return found


def _means_without(trainer: Trainer, fold: Fold, aggregate: Floats) -> dict[int, Floats]:
    order = trainer.order
    if order.request.is_open:
        address = Address(order.order_id, "without", 0, fold.checkpoint.round)
        body = order.exchange.get(address, COORDINATOR, EVERYONE)
        by_member = _numbers(body).reshape(len(fold.members), -1)
        return dict(zip(fold.members, by_member, strict=True))
    if order.me not in fold.members:
        return {}
    n_rows = trainer.keys(fold.number, fold.members).n_rows
    n_all, n_own = sum(n_rows.values()), n_rows[order.me]
    of_others = n_all * aggregate - n_own * fold.gradient
    return {order.me: of_others / max(1, n_all - n_own)}


def _numbers(body: bytes) -> Floats:
    """The coordinator's float64 values. ProtocolViolation (code vector) for a message that it cut or filled with
    something else."""
    whole = len(body) // 8 * 8
    values = np.frombuffer(body[:whole], dtype=">f8").astype(np.float64)
    if len(body) != whole or not np.isfinite(values).all():
        raise ProtocolViolation(
            "The coordinator sent no vector.", remedy="Send the order again.", code="vector"
        )
    return values
