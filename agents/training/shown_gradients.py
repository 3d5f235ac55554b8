"""What a hospital shows of its gradient so that a round can be scored, and what it checks of the answer.

The coordinator sees each gradient in a frame that only the hospitals know, fresh for every round and layer; with method
None it sees the gradient itself. Back come the members that it chose, where the order's aggregation chooses, and the
weighted mean of what it was shown, which must be the aggregate that the initiator opened.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.order.party import send
from agents.training.trainer import Checkpoint, Fold, Trainer, metrics_of, stepped_weights
from analytics.arrays import Floats
from analytics.training.models import split_layers
from protocol.errors import ProtocolViolation
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE, Choice, Vectors
from protocol.sums.frames import rotate

_ROUNDING = 1e-9


def is_scored(trainer: Trainer) -> bool:
    """Whether this order's gradients are shown. One value alone has no angle, only its length."""
    request, sizes = trainer.party.request, [np.prod(shape) for shape in trainer.model.layers.values()]
    return request.is_scored and (request.is_open or bool(max(sizes) > 1))


def send_vectors(trainer: Trainer, fold: Fold) -> None:
    """Shows this round's gradient to the coordinator, and how it moved since the last one where scoring is full.

    Disclosure: per layer the gradient's length and its angles with the others'; a layer of one value is left out. With
    full scoring also four lengths and products that compare two rounds. With method None the gradient.
    """
    party, point, request = trainer.party, fold.checkpoint, trainer.party.request

    def make() -> bytes:
        layers = _shown_layers(trainer, fold, fold.gradient)
        before = (
            point.gradient is not None
            and request.scoring == "full"
            and not request.is_open
            and not fold.number
        )
        between = _between(trainer, point, fold.gradient) if before else {}
        return Vectors(layers, between, party.policy.orders.score_readers).encode()

    send(party, "vectors", make, recipient=COORDINATOR, fold=fold.number, round=point.round)


def send_nothing(trainer: Trainer, fold: Fold) -> None:
    """Tells the coordinator that a fold's last round has no gradient, so that it does not wait for one."""
    readers, round_ = trainer.party.policy.orders.score_readers, fold.checkpoint.round
    empty = Vectors({}, readers=readers).encode
    send(trainer.party, "vectors", empty, recipient=COORDINATOR, fold=fold.number, round=round_)


def _shown_layers(trainer: Trainer, fold: Fold, vector: Floats) -> dict[str, Floats]:
    """The layers of a vector (n_weights,) in the frames of the round."""
    layers, session = split_layers(trainer.model, vector), trainer.party.session
    if trainer.party.request.is_open:
        return layers
    purpose = b"rotation/%d/%d/" % (fold.number, fold.checkpoint.round)
    return {
        name: rotate(session.group_key(purpose + name.encode()), g)
        for name, g in layers.items()
        if g.size > 1
    }


def _between(trainer: Trainer, point: Checkpoint, gradient: Floats) -> dict[str, Floats]:
    """What zeno and grad_diff need of two rounds, by layer: numbers without a frame (`messages.BETWEEN`)."""
    assert point.gradient is not None
    assert point.aggregate is not None
    now, last, mean = (split_layers(trainer.model, g) for g in (gradient, point.gradient, point.aggregate))
    return {
        name: np.array(
            [_norm(g - last[name]), _norm(g - mean[name]), float(g @ mean[name]), _norm(mean[name])]
        )
        for name, g in now.items()
        if g.size > 1
    }


def _norm(vector: Floats) -> float:
    return float(np.linalg.norm(vector))


def receive_choice(trainer: Trainer, fold: Fold) -> tuple[int, ...]:
    """The members of this round's sum: all hospitals, or those that the coordinator chose by the order's rule.

    Refused with fewer than this hospital's policy asks for; ProtocolViolation when more are left out than the order
    says. A round's choice is put once, and the members are part of every key.
    """
    party = trainer.party
    if not (party.request.chooses and is_scored(trainer)):
        return party.session.members
    address = Address(party.order_id, "choice", fold.number, fold.checkpoint.round)
    members = Choice.decode(party.exchange.get(address, COORDINATOR, EVERYONE)).members
    party.policy.check_hospitals(len(members))
    least = len(party.session.members) - party.request.most_left_out
    if not set(members) <= set(party.session.members) or len(members) < least:
        raise ProtocolViolation(
            f"In round {fold.checkpoint.round} the coordinator chose other hospitals than the order allows.",
            remedy="Nothing of this round was sent. If this repeats, the coordinator is not to be trusted.",
            code="choice",
        )
    return members


def receive_check(trainer: Trainer, fold: Fold) -> Floats:
    """The mean of what the coordinator was shown, in the round's frames, or with a robust rule the aggregate itself."""
    party = trainer.party
    address = Address(party.order_id, "check", fold.number, fold.checkpoint.round)
    return _numbers(party.exchange.get(address, COORDINATOR, EVERYONE))


def check_aggregate(trainer: Trainer, fold: Fold, aggregate: Floats, told: Floats) -> None:
    """ProtocolViolation unless the opened aggregate, in the round's frames, is the mean that the coordinator tells.

    |Q mean - told| <= 1e-9 (|mean| + |own gradient|) + sqrt(d) B (n 2^-62 + 1e-15): the fixed point's error, and what
    turning the others' gradients rounds off, which are at most sqrt(d) B long. It finds one hospital that shows another
    gradient than it seals, an initiator that passes on another sum, or a coordinator that alters one; not two hospitals
    together, and not who.
    """
    shown = _shown_layers(trainer, fold, aggregate).values()
    expected = np.concatenate([*shown]) if shown else np.zeros(0)
    longest = np.sqrt(expected.size) * trainer.params.bound
    allowed = _ROUNDING * (_norm(aggregate) + _norm(fold.gradient)) + longest * (
        len(fold.members) * 2.0**-62 + 1e-15
    )
    if told.shape != expected.shape or not _norm(told - expected) <= allowed:
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
    party = trainer.party
    request, n_members = party.request, len(fold.members)
    if request.scoring != "full" or fold.number or not len(fold.y_test):
        return {}
    if request.is_open and not request.compares_openly(n_members, trainer.model.n_weights):
        return {}
    found = {}
    for user, without in _means_without(trainer, fold, aggregate).items():
        weights = fold.checkpoint.weights if n_members == 1 else stepped_weights(trainer, fold, without)
        metrics = metrics_of(trainer, weights, fold.X_test, fold.y_test)
        found[str(user)] = {name: metrics[name] for name in ("accuracy", "loss") if name in metrics}
    return found


def _means_without(trainer: Trainer, fold: Fold, aggregate: Floats) -> dict[int, Floats]:
    party = trainer.party
    if party.request.is_open:
        address = Address(party.order_id, "without", 0, fold.checkpoint.round)
        means = _numbers(party.exchange.get(address, COORDINATOR, EVERYONE))
        return dict(zip(fold.members, means.reshape(len(fold.members), -1), strict=True))
    if party.me not in fold.members:
        return {}
    n_rows = trainer.keys(fold.number, fold.members).n_rows
    total, own = sum(n_rows.values()), n_rows[party.me]
    return {party.me: (total * aggregate - own * fold.gradient) / max(1, total - own)}


def _numbers(data: bytes) -> Floats:
    """The coordinator's float64 values; a message that it cut or filled with something else adds up to nothing."""
    values = np.frombuffer(data[: len(data) // 8 * 8], dtype=">f8").astype(np.float64)
    if len(data) % 8 or not np.isfinite(values).all():
        raise ProtocolViolation(
            "The coordinator sent no vector.", remedy="Send the order again.", code="vector"
        )
    return values
