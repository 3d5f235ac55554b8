"""One hospital's numbers in a training order: from its cohort to sealed parts of sums, and from opened sums to a model.

Everything replicated (weights, optimizer state) is a function of the opened integers only, so all hospitals hold
the same bits; a checkpoint is written after each step, and what was sent is never made anew.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from agents.order.party import end, receive, receive_all, send
from agents.training import final_sums
from agents.training.cohorts import check_model_size, held_out_rows, ordered_model
from agents.training.party import TrainingParty, private_key
from analytics.arrays import Floats, Ints, Labels
from analytics.training import metrics as measures
from analytics.training import optimizers, standardization
from analytics.training.models import Model, initial_weights, local_gradient, local_loss, split_layers
from analytics.training.optimizers import OptimizerState
from protocol.errors import BadRequest
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE, Contribution, Opening, canonical, state_tag
from protocol.sums import limbs as wide
from protocol.sums import paillier, secure_sum
from protocol.sums.fixed_point import FixedPoint
from protocol.sums.secure_sum import SumKeys
from protocol.training_request import has_held_out, n_held_out

_OBFUSCATORS_AHEAD = (
    40  # a final histogram takes 33, a round of 31 values 2; so many pay for their power table
)


@dataclass
class Checkpoint:
    """The replicated state after `round` steps of a fold, and the pooled losses so far (penalty included).

    Where rounds are scored also this hospital's own gradient and the aggregate of the round before, and what the
    metrics of that round would have been without single hospitals. `mean_loss` is the last round's pooled loss without
    the penalty, for people to see; it is not kept.
    """

    fold: int
    round: int
    weights: Floats
    state: OptimizerState
    losses: list[float] = field(default_factory=list)
    stopped: bool = False
    gradient: Floats | None = None
    aggregate: Floats | None = None
    left_out: dict[str, Any] = field(default_factory=dict)
    mean_loss: float = math.nan


@dataclass(eq=False)
class Trainer:
    """One party's training; `agree_on_model` first, then fold by fold.

    held_out: the opened sums of each fold's held-out rows so far; after a crash every fold ends once more, with the
    same sums.
    """

    party: TrainingParty
    model: Model = field(init=False)
    start: Floats = field(init=False)
    held_out: list[Ints] = field(default_factory=list)

    @cached_property
    def params(self) -> Any:
        return self.party.request.model_params

    @cached_property
    def public(self) -> Any:
        key = self.party.paillier_key
        return paillier.public_from_bytes(key) if key else None

    @cached_property
    def obfuscators(self) -> paillier.Obfuscators | None:
        """Made in this process after its fork, kept in memory only."""
        return paillier.Obfuscators(self.public) if self.public else None

    @cached_property
    def private_key(self) -> Any:
        """The initiator's; read once, because its primes are tested when it is read."""
        return private_key(self.party) if self.public else None

    @functools.cache  # noqa: B019 (a trainer lives as long as its process's one order)
    def keys(self, fold: int, members: tuple[int, ...] | None = None) -> SumKeys:
        """What seals this hospital's parts of a fold's sums; weights are the training rows of that fold.

        `members` are those of one round's sum where some are left out.
        """
        session, request = self.party.session, self.party.request
        members = members or session.members
        return SumKeys(
            method=self.params.encrypt_param.method,
            me=self.party.me,
            members=members,
            n_rows={
                user: self.party.n_rows[user] - n_held_out(request, self.party.n_rows[user], fold)
                for user in members
            },
            pair_keys={
                peer: session.pair_key(peer, b"sum") for peer in session.members if peer != self.party.me
            },
            group_key=session.group_key(b"sum"),
            bound=self.params.bound,
            public=self.public,
            obfuscators=self.obfuscators,
        )

    def rows(self, fold: int) -> tuple[Floats, Labels, Floats, Labels]:
        """Training and test rows of a fold: held-out rows, or for fold 0 those of the order's test SQL."""
        cohort, test = self.party.cohort, self.party.test_cohort
        held_out = held_out_rows(self.party, fold)
        kept = np.setdiff1d(np.arange(cohort.n_rows), held_out)
        X, y = cohort.X, self._labels(cohort.y)
        if fold == 0 and test is not None:
            return X[kept], y[kept], test.X, self._labels(test.y)
        return X[kept], y[kept], X[held_out], y[held_out]

    def _labels(self, y: Any) -> Labels:
        if not self.model.classes:
            return np.asarray(y, dtype=np.float64)
        index = {label: position for position, label in enumerate(self.model.classes)}
        unknown = {label for label in y.tolist() if label not in index}
        if unknown:
            raise BadRequest(
                f"{len(unknown)} classes stand in the test rows only.",
                remedy="Test on classes that are trained.",
                code="classes",
            )
        return np.array([index[label] for label in y.tolist()], dtype=np.int64)


# The model


def agree_on_model(trainer: Trainer) -> None:
    """All hospitals learn the set of classes that occur, and the weights that training starts from.

    Disclosure: which classes a hospital has, to the other parties, sealed to the group; nothing to the coordinator.
    Raises BadRequest when there is one class over all hospitals, some are numbers and some texts, or the rows times
    the bound overflow the fixed point; Refused when the model is too large for this hospital's policy.
    """
    request = trainer.party.request
    FixedPoint(sum(trainer.party.n_rows.values()), trainer.params.bound)
    classes = [] if request.model_type == "linear" else _joint_classes(trainer)
    trainer.model = ordered_model(request, classes)
    if request.aggregation != "mean" and not request.is_open and trainer.model.n_weights == 1:
        raise BadRequest(
            f"A model of one value has no direction that {request.aggregation} could judge.",
            remedy="Order more attributes, an intercept, or the mean.",
            code="aggregation",
        )
    if trainer.model.classes:
        check_model_size(trainer.party, trainer.model.n_weights)
    trainer.start = _joint_start(trainer)


def _joint_classes(trainer: Trainer) -> list[Any]:
    party = trainer.party
    own = sorted({_plain(label) for label in party.cohort.labels}, key=_class_order)
    send(party, "classes", lambda: canonical(own).encode(), recipient=EVERYONE)
    told = receive_all(party, "classes", party.session.members, EVERYONE)
    classes = sorted({label for text in told.values() for label in _read_classes(text)}, key=_class_order)
    if len(classes) < 2:
        raise BadRequest(
            "All rows of all hospitals have the same label, so there is nothing to tell apart.",
            remedy="Choose rows of two classes or more.",
            code="one_class",
        )
    if len({type(label) for label in classes}) > 1:
        raise BadRequest(
            "The label is a whole number at some hospitals and a text at others.",
            remedy="Give it one type everywhere, by a view or a CAST.",
            code="classes",
        )
    return classes


def _read_classes(text: bytes) -> list[int | str]:
    """A partner's classes: whole numbers or short texts, not more than a model could have."""
    classes = json.loads(text)
    if (
        not isinstance(classes, list)
        or len(classes) > 1000
        or not all(type(c) in (int, str) for c in classes)
    ):
        raise BadRequest(
            "A hospital's classes are not at most 1,000 whole numbers or texts.",
            remedy="Order linear for a label that is no class; else compare the hospitals' versions.",
            code="classes",
        )
    return classes


def _plain(label: Any) -> Any:
    return int(label) if isinstance(label, float) and label.is_integer() else label


def _class_order(label: Any) -> tuple[bool, Any]:
    return isinstance(label, str), label


def _joint_start(trainer: Trainer) -> Floats:
    """Drawn once, by the initiator: another processor could draw other last bits."""
    party, init = trainer.party, trainer.params.init_param
    method = party.request.init_method

    def draw() -> bytes:
        drawn = initial_weights(trainer.model, method=method, const=init.init_const, seed=init.random_seed)
        return drawn.astype(">f8").tobytes()

    if party.is_initiator:
        send(party, "weights", draw, recipient=EVERYONE)
    data = receive(party, "weights", party.request.user_id, EVERYONE)
    weights = np.frombuffer(data, dtype=">f8").astype(np.float64)
    own = initial_weights(trainer.model, method=method, const=init.init_const, seed=init.random_seed)
    if weights.shape != own.shape or not np.allclose(weights, own, rtol=1e-9, atol=0):
        raise BadRequest(
            "The initiator's initial weights are not those that the order describes.",
            remedy="All hospitals must run the same version; then send the order again.",
            code="initial_weights",
        )
    return weights


# Sums


def _info(kind: str, fold: int, round_: int) -> bytes:
    return b"%s/%d/%d/0" % (kind.encode(), fold, round_)


def contribute(
    trainer: Trainer,
    kind: str,
    part: Callable[[], bytes],
    *,
    fold: int,
    round: int,
    state: Floats,
    report: dict[str, Any] | None = None,
) -> None:
    """Lets this hospital's part of a sum out, with a tag of its state that the coordinator can only compare."""
    party = trainer.party
    tag = state_tag(party.session, state, _info(kind, fold, round))
    send(
        party,
        kind,
        lambda: Contribution(part(), tag, report or {}).encode(),
        recipient=COORDINATOR,
        fold=fold,
        round=round,
    )


def open_total(
    trainer: Trainer, kind: str, *, fold: int, round: int, members: tuple[int, ...] | None = None
) -> Ints:
    """The initiator opens the sum that the coordinator formed. Only the sum: masks cancel in nothing less."""
    party = trainer.party
    total = party.exchange.get(Address(party.order_id, f"total-{kind}", fold, round), COORDINATOR)
    info = _info(kind, fold, round)
    return secure_sum.open_sum(trainer.keys(fold, members), total, info=info, private_key=trainer.private_key)


def receive_opening(
    trainer: Trainer,
    kind: str,
    *,
    fold: int,
    round: int,
    members: tuple[int, ...] | None = None,
    decide: Callable[[Ints], bool] = lambda sums: False,
) -> Opening:
    """What the initiator opened, verified; at the initiator, opened and told to all parties first.

    `decide` says, at the initiator only, whether training ends with this round.
    """
    party, topic = trainer.party, f"opening-{kind}"

    def opening() -> bytes:
        sums = open_total(trainer, kind, fold=fold, round=round, members=members)
        return Opening(sums, decide(sums)).encode()

    if party.is_initiator:
        send(party, topic, opening, recipient=EVERYONE, fold=fold, round=round)
    return Opening.decode(receive(party, topic, party.request.user_id, EVERYONE, fold=fold, round=round))


def joint_mean(trainer: Trainer, kind: str, values: Callable[[], Floats], *, fold: int) -> Floats:
    """The row-weighted mean of a vector of any magnitude over all hospitals, known to them and to nobody else."""
    keys = trainer.keys(fold)

    def part() -> bytes:
        limbs = wide.to_limbs(values(), keys.own_rows())
        return secure_sum.seal_counts(keys, limbs, info=_info(kind, fold, 0))

    contribute(trainer, kind, part, fold=fold, round=0, state=trainer.start)
    return wide.from_limbs(receive_opening(trainer, kind, fold=fold, round=0).sums, keys.n_rows_total)


# A fold


@dataclass
class Fold:
    """The rows of one fold as the model sees them, how far its training is, and the round under way.

    gradient: this hospital's own of the round; members: those of the round's sum.
    """

    number: int
    X: Floats
    y: Labels
    X_test: Floats
    y_test: Labels
    scale: tuple[Floats, Floats] | None
    checkpoint: Checkpoint
    gradient: Floats = field(default_factory=lambda: np.zeros(0))
    members: tuple[int, ...] = ()


def open_fold(trainer: Trainer, number: int) -> Fold:
    """Rows of the fold, standardized where the order asks for it, and the last checkpoint."""
    with sentences():
        X, y, X_test, y_test = trainer.rows(number)
        scale = _joint_scale(trainer, X, number) if trainer.params.standardize else None
        if scale:
            X, X_test = (
                standardization.standardize(table, *scale) if len(table) else table for table in (X, X_test)
            )
    return Fold(number, X, y, X_test, y_test, scale, _load_checkpoint(trainer, number))


def _joint_scale(trainer: Trainer, X: Floats, fold: int) -> tuple[Floats, Floats]:
    """Joint mean and deviation in two sums, so that nothing cancels; under the order's own encryption."""
    mean = joint_mean(trainer, "mean", lambda: standardization.local_mean(X), fold=fold)
    variance = joint_mean(trainer, "variance", lambda: standardization.local_variance(X, mean), fold=fold)
    return mean, standardization.deviation(variance, mean=mean)


def local_round(trainer: Trainer, fold: Fold) -> dict[str, Any]:
    """The local pseudo-gradient, kept in the fold, and the round's metrics at its starting model.

    Disclosure: the gradient leaves only as a sealed part of a sum, and for scores by
    `agents.training.shown_gradients`; the metrics leave rounded to 6 digits.
    """
    point, params = fold.checkpoint, trainer.params
    with sentences(point.round):
        fold.gradient = local_gradient(
            trainer.model,
            point.weights,
            fold.X,
            fold.y,
            batch_size=params.batch_size,
            learning_rate=_rate(trainer, point.round),
        )
        return evaluate(trainer, fold)


def evaluate(trainer: Trainer, fold: Fold) -> dict[str, Any]:
    """Metrics of the fold's present model on this hospital's training and test rows, rounded."""
    weights = fold.checkpoint.weights
    report: dict[str, Any] = {"n_rows": len(fold.y), "train": metrics_of(trainer, weights, fold.X, fold.y)}
    if len(fold.y_test):
        report["test"] = metrics_of(trainer, weights, fold.X_test, fold.y_test)
        report["n_test_rows"] = len(fold.y_test)
    if fold.checkpoint.left_out:
        report["leave_one_out"] = fold.checkpoint.left_out
    return report


def metrics_of(trainer: Trainer, weights: Floats, X: Floats, y: Labels) -> Any:
    """Metrics of a model on rows, rounded as they may leave."""
    return measures.round_metrics(measures.metrics(trainer.model, weights, X, y))


def encrypt_round(trainer: Trainer, fold: Fold, report: dict[str, Any]) -> None:
    """Seals this hospital's part of the round's sum by the order's method and lets it out.

    The part holds the gradient with the local loss behind it. Who is left out of the sum reports its metrics only.
    """
    point = fold.checkpoint

    def part() -> bytes:
        if trainer.party.me not in fold.members:
            return b""
        vector = np.append(fold.gradient, local_loss(trainer.model, point.weights, fold.X, fold.y))
        info = _info("gradient", fold.number, point.round)
        return secure_sum.seal(trainer.keys(fold.number, fold.members), vector, info=info)

    with sentences(point.round):
        contribute(
            trainer,
            "gradient",
            part,
            fold=fold.number,
            round=point.round,
            state=point.weights,
            report=report,
        )


def apply_round(
    trainer: Trainer, fold: Fold, *, told: Floats | None, settle: Callable[[Floats], dict[str, Any]]
) -> None:
    """Waits for the opened sum, takes the step that every hospital takes, and writes the checkpoint.

    `told` is the aggregate itself where the order's rule is no sum. `settle` is given the aggregate before the step:
    it may refuse it, and answers what is to be reported of the round with the next.
    """
    point = fold.checkpoint
    _prepare_ahead(trainer)
    with sentences(point.round):
        opening = receive_opening(
            trainer,
            "gradient",
            fold=fold.number,
            round=point.round,
            members=fold.members,
            decide=lambda sums: _ends(trainer, _stepped(trainer, fold, sums, told), point),
        )
        after = _stepped(trainer, fold, opening.sums, told)
        assert after.aggregate is not None
        after.left_out = settle(after.aggregate)
    after.stopped = opening.stop
    _save_checkpoint(trainer, after)
    fold.checkpoint = after


def _prepare_ahead(trainer: Trainer) -> None:
    """While this hospital waits for the others, it fills its stock of obfuscators for what it encrypts next."""
    stock = trainer.obfuscators
    if stock is not None and stock.ready < _OBFUSCATORS_AHEAD:
        threading.Thread(target=stock.prepare, args=(_OBFUSCATORS_AHEAD,), daemon=True).start()


def _stepped(trainer: Trainer, fold: Fold, sums: Ints, told: Floats | None) -> Checkpoint:
    point = fold.checkpoint
    mean = secure_sum.mean(trainer.keys(fold.number, fold.members), sums)
    aggregate = mean[:-1] if told is None else told
    weights, state = _step(trainer, point, aggregate)
    loss = float(mean[-1]) + optimizers.penalty_value(point.weights, **_penalty(trainer))
    losses = [*point.losses, loss]
    after = Checkpoint(point.fold, point.round + 1, weights, state, losses, mean_loss=float(mean[-1]))
    after.gradient, after.aggregate = fold.gradient, aggregate
    return after


def stepped_weights(trainer: Trainer, fold: Fold, aggregate: Floats) -> Floats:
    """The weights that the round would give with this aggregate."""
    return _step(trainer, fold.checkpoint, aggregate)[0]


def _step(trainer: Trainer, point: Checkpoint, aggregate: Floats) -> tuple[Floats, OptimizerState]:
    rate, name = _rate(trainer, point.round), trainer.params.optimizer
    return optimizers.step(
        name, point.weights, aggregate, point.state, learning_rate=rate, **_penalty(trainer)
    )


def _penalty(trainer: Trainer) -> dict[str, Any]:
    params = trainer.params
    return {"penalty": params.penalty, "alpha": params.alpha, "penalised": trainer.model.penalised}


def _ends(trainer: Trainer, after: Checkpoint, before: Checkpoint) -> bool:
    params = trainer.params
    return after.round >= params.max_iter or optimizers.converged(
        params.convergence,
        eps=params.tolerance,
        losses=after.losses,
        before=before.weights,
        after=after.weights,
    )


def _rate(trainer: Trainer, round_: int) -> float:
    params = trainer.params
    return optimizers.decayed_rate(
        params.learning_rate, decay=params.decay, decay_sqrt=params.decay_sqrt, round=round_
    )


def finish_fold(trainer: Trainer, fold: Fold) -> None:
    """Takes the final metrics once more, and adds up what no hospital knows of all rows; the initiator tells those.

    After the last fold of cross-validation also what all folds' held-out rows are together.

    Disclosure: pooled metrics, to the coordinator; the sums that they are made of
    (`agents.training.final_sums`), to the order's hospitals.
    """
    party, model, point = trainer.party, trainer.model, fold.checkpoint
    keys, info = trainer.keys(fold.number), _info("gradient", fold.number, point.round)
    held_out = (fold.X_test, fold.y_test) if has_held_out(party.request, fold.number) else None

    def part() -> bytes:
        sums = final_sums.local_sums(model, point.weights, (fold.X, fold.y), held_out)
        return secure_sum.seal_counts(keys, sums, info=info)

    with sentences(point.round):
        report = {**evaluate(trainer, fold), "final": True}
        contribute(
            trainer, "gradient", part, fold=fold.number, round=point.round, state=point.weights, report=report
        )
        opening = receive_opening(trainer, "gradient", fold=fold.number, round=point.round)
    of_held_out = final_sums.held_out_part(model, opening.sums)
    if fold.number:
        trainer.held_out.append(of_held_out)
    if party.is_initiator:
        pooled = {
            "training": final_sums.training_metrics(model, opening.sums),
            "held_out": final_sums.held_out_metrics(model, of_held_out),
        }
        if not fold.number and trainer.held_out:
            pooled["all_folds"] = final_sums.held_out_metrics(model, np.sum(trainer.held_out, axis=0))
        send(party, "pooled", lambda: canonical(pooled).encode(), recipient=COORDINATOR, fold=fold.number)


def save_model(trainer: Trainer, fold: Fold) -> None:
    """Keeps the model in this hospital's vault, at full precision; a standardized one with its mean and deviation."""
    party, model, point = trainer.party, trainer.model, fold.checkpoint
    layers = {name: values.tolist() for name, values in split_layers(model, point.weights).items()}
    party.vault.save_model(
        party.order_id,
        {
            "model_id": party.order_id,
            "model_type": model.kind,
            "attributes": list(party.request.attributes),
            "unique_id": party.request.unique_id,
            "label_name": party.request.label_name,
            "fit_intercept": model.fit_intercept,
            "classes": list(model.classes),
            "hidden": list(model.hidden),
            "shape": list(model.shape),
            "layers": layers,
            "standardize": None if fold.scale is None else [values.tolist() for values in fold.scale],
            "n_rounds": point.round,
            "losses": point.losses,
            "initiator": party.request.user_id,
        },
    )


def finish(party: TrainingParty) -> None:
    """Tells the coordinator that this hospital holds the model, and forgets the order's keys and snapshot."""
    send(party, "done", lambda: b"", recipient=COORDINATOR)
    end(party)


# Checkpoints


def _checkpoint_name(fold: int) -> str:
    return f"checkpoint-{fold}.npz"


def _save_checkpoint(trainer: Trainer, point: Checkpoint) -> None:
    moved = {"gradient": point.gradient, "aggregate": point.aggregate}
    trainer.party.store.save_arrays(
        _checkpoint_name(point.fold),
        round=np.array([point.round, point.state.step, point.stopped]),
        weights=point.weights,
        first=point.state.first,
        second=point.state.second,
        losses=np.array(point.losses, dtype=np.float64),
        left_out=np.array(canonical(point.left_out)),
        **{name: values for name, values in moved.items() if values is not None},
    )
    for kind in ("vectors", "gradient", "opening-gradient"):
        trainer.party.store.forget_outbox(f"{kind}-{point.fold}-{point.round - 1}-")


def _load_checkpoint(trainer: Trainer, fold: int) -> Checkpoint:
    stored = trainer.party.store.load_arrays(_checkpoint_name(fold))
    if stored is None:
        return Checkpoint(fold, 0, trainer.start, optimizers.initial_state(trainer.model.n_weights))
    round_, n_steps, stopped = (int(number) for number in stored["round"])
    return Checkpoint(
        fold,
        round_,
        stored["weights"],
        OptimizerState(n_steps, stored["first"], stored["second"]),
        stored["losses"].tolist(),
        bool(stopped),
        stored.get("gradient"),
        stored.get("aggregate"),
        json.loads(str(stored["left_out"])),
    )


@contextlib.contextmanager
def sentences(round_: int | None = None) -> Iterator[None]:
    """Turns the mathematics' ValueErrors, which name arguments and never values, into what a user can act on."""
    where = "" if round_ is None else f"In round {round_}: "
    try:
        yield
    except ValueError as error:
        raise BadRequest(
            f"{where}{error}",
            remedy="Standardise the attributes, or use a smaller learning_rate.",
            code="numbers",
        ) from None
    except BadRequest as error:
        if error.code != "bound_exceeded" or error.sentence.startswith("In round"):
            raise
        raise BadRequest(f"{where}{error.sentence}", remedy=error.remedy, code=error.code) from None
