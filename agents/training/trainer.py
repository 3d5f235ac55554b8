"""One hospital's numbers in a training order: from its cohort to sealed parts of sums, and from opened sums to a model.

Everything replicated (weights, optimizer state) is a function of the opened integers only, so all hospitals hold
the same bits (decision 13); a checkpoint is written after each step, and what was sent is never made anew.

The functions of a fold stand in the order in which `flows.hospital.train_locally` calls them. What is shown of a
gradient for scores is in `agents.training.shown_gradients`, what is added up at a fold's end in
`agents.training.final_sums`.

Decision 5.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from phe.paillier import PaillierPrivateKey, PaillierPublicKey

from agents.order.party import end, receive, send
from agents.training import final_sums
from agents.training.checkpoint import Checkpoint, first_checkpoint, load_checkpoint, save_checkpoint
from agents.training.cohorts import OrderRows, held_out_rows
from agents.training.party import AgreedTraining, private_key
from analytics.arrays import Floats, Ints, Labels
from analytics.training import metrics as measures
from analytics.training import models, optimizers, standardization
from analytics.training.models import Model, local_loss, split_layers
from analytics.training.optimizers import OptimizerState
from protocol.errors import BadRequest
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE, Contribution, Opening, canonical, state_tag
from protocol.sums import limbs as wide
from protocol.sums import paillier, secure_sum
from protocol.sums.secure_sum import SumKeys
from protocol.training_request import ModelParams, has_held_out, n_held_out

_OBFUSCATORS_AHEAD = 40
"""A final histogram takes 33, a round of 31 values 2; so many pay for their power table."""


class FoldRows(NamedTuple):
    """The rows of a fold, as the model sees them."""

    X: Floats  # (n, d), those that train
    y: Labels  # (n,)
    X_test: Floats  # (n_test, d), those that test; none where the fold has no such rows
    y_test: Labels


@dataclass(frozen=True, eq=False)
class Trainer:
    """One hospital's training in an order that all have agreed on."""

    order: AgreedTraining
    rows: OrderRows
    model: Model
    start: Floats  # the weights that every fold starts from, (n_weights,)
    # The opened sums of each fold's held-out rows so far. After a crash every fold ends once more, with the same sums.
    held_out: list[Ints] = field(default_factory=list)

    @property
    def params(self) -> ModelParams:
        return self.order.request.model_params

    @cached_property
    def public(self) -> PaillierPublicKey | None:
        key = self.order.public_key
        return paillier.public_from_bytes(key) if key else None

    @cached_property
    def obfuscators(self) -> paillier.Obfuscators | None:
        """Made in this process after its fork, kept in memory only."""
        return paillier.Obfuscators(self.public) if self.public else None

    @cached_property
    def private_key(self) -> PaillierPrivateKey | None:
        """The initiator's; read once, because its primes are tested when it is read."""
        return private_key(self.order) if self.public else None

    @functools.cache  # noqa: B019 (a trainer lives as long as its process's one order)
    def keys(self, fold: int, members: tuple[int, ...] | None = None) -> SumKeys:
        """What seals this hospital's parts of a fold's sums; weights are the training rows of that fold.

        `members` are those of one round's sum where some are left out.
        """
        order, session = self.order, self.order.session
        members = members or session.members
        n_trained = {}
        for user in members:
            n_rows = order.n_rows[user]
            n_trained[user] = n_rows - n_held_out(order.request, n_rows, fold)
        others = [peer for peer in session.members if peer != order.me]
        return SumKeys(
            method=self.params.encrypt_param.method,
            me=order.me,
            members=members,
            n_rows=n_trained,
            pair_keys={peer: session.pair_key(peer, b"sum") for peer in others},
            group_key=session.group_key(b"sum"),
            bound=self.params.bound,
            public=self.public,
            obfuscators=self.obfuscators,
        )

    def fold_rows(self, fold: int) -> FoldRows:
        """Training and test rows of a fold: held-out rows, or for fold 0 those of the order's test SQL."""
        cohort, test = self.rows.train, self.rows.test
        X, y = cohort.X, self._labels(cohort.y)
        held_out = held_out_rows(self.order, self.rows, fold)
        kept = np.setdiff1d(np.arange(cohort.n_rows), held_out)
        X_test, y_test = X[held_out], y[held_out]
        if fold == 0 and test is not None:
            X_test, y_test = test.X, self._labels(test.y)
        return FoldRows(X[kept], y[kept], X_test, y_test)

    def _labels(self, labels: Any) -> Labels:
        """As the model takes them: the index of each class, or numbers where the model has none."""
        if not self.model.classes:
            return np.asarray(labels, dtype=np.float64)
        index = {label: position for position, label in enumerate(self.model.classes)}
        unknown = set(labels.tolist()) - set(index)
        if unknown:
            raise BadRequest(
                f"{len(unknown)} classes stand in the test rows only.",
                remedy="Test on classes that are trained.",
                code="classes",
            )
        return np.array([index[label] for label in labels.tolist()], dtype=np.int64)


@dataclass
class Fold:
    """The rows of one fold as the model sees them, how far its training is, and the round under way."""

    number: int
    X: Floats
    y: Labels
    X_test: Floats
    y_test: Labels
    scale: (
        tuple[Floats, Floats] | None
    )  # joint mean and deviation of each column; None where rows are as they came
    checkpoint: Checkpoint
    gradient: Floats = field(default_factory=lambda: np.zeros(0))  # this hospital's own of the round
    members: tuple[int, ...] = ()  # those of the round's sum


# Sums


def _info(kind: str, fold: int, round_: int) -> bytes:
    """What binds masks and tags to one sum: no two sums of an order have the same."""
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
    info = _info(kind, fold, round)
    tag = state_tag(trainer.order.session, state, info)

    def make() -> bytes:
        contribution = Contribution(part(), tag, report or {})
        return contribution.encode()

    send(trainer.order, kind, make, recipient=COORDINATOR, fold=fold, round=round)


def open_total(
    trainer: Trainer, kind: str, *, fold: int, round: int, members: tuple[int, ...] | None = None
) -> Ints:
    """The initiator opens the sum that the coordinator formed. Only the sum: masks cancel in nothing less."""
    address = Address(trainer.order.order_id, f"total-{kind}", fold, round)
    total = trainer.order.exchange.get(address, COORDINATOR)
    return secure_sum.open_sum(
        trainer.keys(fold, members),
        total,
        info=_info(kind, fold, round),
        private_key=trainer.private_key,
    )


def receive_opening(
    trainer: Trainer,
    kind: str,
    *,
    fold: int,
    round: int,
    members: tuple[int, ...] | None = None,
    decide: Callable[[Ints], bool] = lambda sums: False,
) -> Opening:
    """What the initiator opened, verified; at the initiator, opened and sent to all parties first.

    `decide` says, at the initiator only, whether training ends with this round.
    """
    order, topic = trainer.order, f"opening-{kind}"

    def make() -> bytes:
        sums = open_total(trainer, kind, fold=fold, round=round, members=members)
        is_last = decide(sums)
        return Opening(sums, is_last).encode()

    if order.is_initiator:
        send(order, topic, make, recipient=EVERYONE, fold=fold, round=round)
    # The initiator reads its own message too: after a crash all go by the one that was sent.
    initiator = order.request.user_id
    body = receive(order, topic, initiator, EVERYONE, fold=fold, round=round)
    return Opening.decode(body)


def joint_mean(trainer: Trainer, kind: str, values: Callable[[], Floats], *, fold: int) -> Floats:
    """The row-weighted mean of a vector of any magnitude over all hospitals, known to them and to nobody else."""
    keys = trainer.keys(fold)
    info = _info(kind, fold, 0)

    def part() -> bytes:
        # decision 25: a raw column may be larger than the bound of the fixed point.
        limbs = wide.to_limbs(values(), keys.own_rows())
        return secure_sum.seal_counts(keys, limbs, info=info)

    contribute(trainer, kind, part, fold=fold, round=0, state=trainer.start)
    opening = receive_opening(trainer, kind, fold=fold, round=0)
    return wide.from_limbs(opening.sums, keys.n_rows_total)


# A fold


def open_fold(trainer: Trainer, number: int) -> Fold:
    """Rows of the fold, standardized where the order asks for it, and the last checkpoint."""
    with sentences():
        X, y, X_test, y_test = trainer.fold_rows(number)
        scale = None
        if trainer.params.standardize:
            scale = _joint_scale(trainer, X, number)
            X, X_test = _scaled(X, scale), _scaled(X_test, scale)
    checkpoint = load_checkpoint(trainer.order.store, number)
    if checkpoint is None:
        checkpoint = first_checkpoint(number, trainer.start)
    return Fold(number, X, y, X_test, y_test, scale, checkpoint)


def _joint_scale(trainer: Trainer, X: Floats, fold: int) -> tuple[Floats, Floats]:
    """Joint mean and deviation in two sums, so that nothing cancels; under the order's own encryption."""

    def local_mean() -> Floats:
        return standardization.local_mean(X)

    def local_variance() -> Floats:
        return standardization.local_variance(X, mean)

    mean = joint_mean(trainer, "mean", local_mean, fold=fold)
    variance = joint_mean(trainer, "variance", local_variance, fold=fold)
    deviation = standardization.deviation(variance, mean=mean)
    return mean, deviation


def _scaled(table: Floats, scale: tuple[Floats, Floats]) -> Floats:
    mean, deviation = scale
    return standardization.standardize(table, mean, deviation) if len(table) else table


def local_gradient(trainer: Trainer, fold: Fold) -> dict[str, Any]:
    """The local pseudo-gradient, kept in the fold, and the round's metrics at its starting model.

    Disclosure: the gradient leaves only as a sealed part of a sum, and for scores by
    `agents.training.shown_gradients`; the metrics leave rounded to 6 digits.
    """
    point = fold.checkpoint
    with sentences(point.round):
        fold.gradient = models.local_gradient(
            trainer.model,
            point.weights,
            fold.X,
            fold.y,
            batch_size=trainer.params.batch_size,
            learning_rate=_learning_rate(trainer, point.round),
        )
        return evaluate(trainer, fold)


def evaluate(trainer: Trainer, fold: Fold) -> dict[str, Any]:
    """Metrics of the fold's present model on this hospital's training and test rows, rounded."""
    point = fold.checkpoint
    report: dict[str, Any] = {"n_rows": len(fold.y)}
    report["train"] = metrics_of(trainer, point.weights, fold.X, fold.y)
    if len(fold.y_test):
        report["test"] = metrics_of(trainer, point.weights, fold.X_test, fold.y_test)
        report["n_test_rows"] = len(fold.y_test)
    if point.left_out:
        report["leave_one_out"] = point.left_out
    return report


def metrics_of(trainer: Trainer, weights: Floats, X: Floats, y: Labels) -> Any:
    """Metrics of a model on rows, rounded as they may leave."""
    exact = measures.metrics(trainer.model, weights, X, y)
    return measures.round_metrics(exact)


def encrypt_contribution(trainer: Trainer, fold: Fold, report: dict[str, Any]) -> None:
    """Seals this hospital's part of the round's sum by the order's method and lets it out.

    The part holds the gradient with the local loss behind it. Who is left out of the sum reports its metrics only.
    """
    point = fold.checkpoint

    def part() -> bytes:
        if trainer.order.me not in fold.members:
            return b""
        loss = local_loss(trainer.model, point.weights, fold.X, fold.y)
        vector = np.append(fold.gradient, loss)
        keys = trainer.keys(fold.number, fold.members)
        info = _info("gradient", fold.number, point.round)
        return secure_sum.seal(keys, vector, info=info)

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


def apply_aggregate(
    trainer: Trainer,
    fold: Fold,
    *,
    robust: Floats | None,
    settle: Callable[[Floats], dict[str, Any]],
) -> None:
    """Waits for the opened sum, takes the step that every hospital takes, and writes the checkpoint.

    `robust` is the aggregate itself where the order's rule is no sum. `settle` is given the aggregate before the step:
    it may refuse it, and answers what is to be reported of the round with the next.
    """
    point = fold.checkpoint

    def decide(sums: Ints) -> bool:
        return _ends(trainer, _stepped(trainer, fold, sums, robust), point)

    _prepare_ahead(trainer)
    with sentences(point.round):
        opening = receive_opening(
            trainer,
            "gradient",
            fold=fold.number,
            round=point.round,
            members=fold.members,
            decide=decide,
        )
        after = _stepped(trainer, fold, opening.sums, robust)
        assert after.aggregate is not None
        after.left_out = settle(after.aggregate)
    after.stopped = opening.stop
    save_checkpoint(trainer.order.store, after)
    fold.checkpoint = after


def _prepare_ahead(trainer: Trainer) -> None:
    """While this hospital waits for the others, it fills its stock of obfuscators for what it encrypts next."""
    stock = trainer.obfuscators
    if stock is None or stock.ready >= _OBFUSCATORS_AHEAD:
        return
    filling = threading.Thread(target=stock.prepare, args=(_OBFUSCATORS_AHEAD,), daemon=True)
    filling.start()


def _stepped(trainer: Trainer, fold: Fold, sums: Ints, robust: Floats | None) -> Checkpoint:
    """The fold's state one round later; the sums' last value is the loss."""
    point = fold.checkpoint
    mean = secure_sum.mean(trainer.keys(fold.number, fold.members), sums)
    mean_loss = float(mean[-1])
    aggregate = mean[:-1] if robust is None else robust
    weights, state = _step(trainer, point, aggregate)
    loss = mean_loss + optimizers.penalty_value(point.weights, **_penalty(trainer))
    return Checkpoint(
        point.fold,
        point.round + 1,
        weights,
        state,
        losses=[*point.losses, loss],
        gradient=fold.gradient,
        aggregate=aggregate,
        mean_loss=mean_loss,
    )


def stepped_weights(trainer: Trainer, fold: Fold, aggregate: Floats) -> Floats:
    """The weights that the round would give with this aggregate."""
    weights, _ = _step(trainer, fold.checkpoint, aggregate)
    return weights


def _step(trainer: Trainer, point: Checkpoint, aggregate: Floats) -> tuple[Floats, OptimizerState]:
    return optimizers.step(
        trainer.params.optimizer,
        point.weights,
        aggregate,
        point.state,
        learning_rate=_learning_rate(trainer, point.round),
        **_penalty(trainer),
    )


def _penalty(trainer: Trainer) -> dict[str, Any]:
    params = trainer.params
    return {"penalty": params.penalty, "alpha": params.alpha, "penalised": trainer.model.penalised}


def _ends(trainer: Trainer, after: Checkpoint, before: Checkpoint) -> bool:
    params = trainer.params
    if after.round >= params.max_iter:
        return True
    return optimizers.converged(
        params.convergence,
        eps=params.tolerance,
        losses=after.losses,
        before=before.weights,
        after=after.weights,
    )


def _learning_rate(trainer: Trainer, round_: int) -> float:
    params = trainer.params
    return optimizers.decayed_rate(
        params.learning_rate, decay=params.decay, decay_sqrt=params.decay_sqrt, round=round_
    )


# The end of a fold, and of the order


def finish_fold(trainer: Trainer, fold: Fold) -> None:
    """Takes the final metrics once more, and adds up what no hospital knows of all rows; the initiator reports those.

    After the last fold of cross-validation also what all folds' held-out rows are together (decision 56).

    Disclosure: pooled metrics, to the coordinator; the sums that they are made of
    (`agents.training.final_sums`), to the order's hospitals.
    """
    order, model, point = trainer.order, trainer.model, fold.checkpoint
    keys = trainer.keys(fold.number)
    # By the request, not by this hospital's rows: every hospital's part has the same length.
    held_out = (fold.X_test, fold.y_test) if has_held_out(order.request, fold.number) else None

    def part() -> bytes:
        sums = final_sums.local_sums(model, point.weights, (fold.X, fold.y), held_out)
        return secure_sum.seal_counts(keys, sums, info=_info("gradient", fold.number, point.round))

    with sentences(point.round):
        report = {**evaluate(trainer, fold), "final": True}
        contribute(
            trainer,
            "gradient",
            part,
            fold=fold.number,
            round=point.round,
            state=point.weights,
            report=report,
        )
        opening = receive_opening(trainer, "gradient", fold=fold.number, round=point.round)
    of_held_out = final_sums.held_out_part(model, opening.sums)
    if fold.number:
        trainer.held_out.append(of_held_out)
    if order.is_initiator:
        pooled = {
            "training": final_sums.training_metrics(model, opening.sums),
            "held_out": final_sums.held_out_metrics(model, of_held_out),
        }
        # Fold 0, the model of all rows, comes after those of cross-validation.
        if fold.number == 0 and trainer.held_out:
            of_all_folds = np.sum(trainer.held_out, axis=0)
            pooled["all_folds"] = final_sums.held_out_metrics(model, of_all_folds)
        send(order, "pooled", lambda: canonical(pooled).encode(), recipient=COORDINATOR, fold=fold.number)


def save_model(trainer: Trainer, fold: Fold) -> None:
    """Keeps the model in this hospital's vault, at full precision; a standardized one with its mean and deviation."""
    order, model, point = trainer.order, trainer.model, fold.checkpoint
    request = order.request
    layers = split_layers(model, point.weights)
    scale = None if fold.scale is None else [values.tolist() for values in fold.scale]
    order.vault.save_model(
        order.order_id,
        {
            "model_id": order.order_id,
            "model_type": model.kind,
            "attributes": list(request.attributes),
            "unique_id": request.unique_id,
            "label_name": request.label_name,
            "fit_intercept": model.fit_intercept,
            "classes": list(model.classes),
            "hidden": list(model.hidden),
            "shape": list(model.shape),
            "layers": {name: values.tolist() for name, values in layers.items()},
            "standardize": scale,
            "n_rounds": point.round,
            "losses": point.losses,
            "initiator": request.user_id,
        },
    )


def end_order(order: AgreedTraining) -> None:
    """Reports to the coordinator that this hospital holds the model, and forgets the order's keys and snapshot."""
    send(order, "done", lambda: b"", recipient=COORDINATOR)
    end(order)


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
