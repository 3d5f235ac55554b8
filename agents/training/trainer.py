"""One hospital's training in an agreed order: its rows, its keys, and its part of sums.

Everything that the hospitals learn of each other's rows passes here as a sealed part of
a sum, which the initiator opens for all; what was sent is never made anew.

`agents.training.fold` has the steps of a fold, which are made of these sums.

Decisions 5 and 150.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from phe.paillier import PaillierPrivateKey, PaillierPublicKey

from agents.order.party import receive, send
from agents.rows.row_tables import taken
from agents.training.own_metrics import Limits, Withheld
from agents.training.party import AgreedTraining, private_key
from agents.training.row_sets import OrderRows, held_out_rows
from analytics.arrays import Floats, Ints, Labels
from analytics.labels import ClassWarning
from analytics.training.design import Design
from analytics.training.models import Model
from protocol.errors import BadRequest
from protocol.exchange import Address
from protocol.messages import (
    COORDINATOR,
    EVERYONE,
    Contribution,
    Opening,
    state_tag,
)
from protocol.sums import limbs as wide
from protocol.sums import mask_graph, paillier, secure_sum
from protocol.sums.sum_keys import SumKeys
from protocol.training_request import ModelParams, n_held_out


class FoldRows(NamedTuple):
    """The rows of a fold, as the model sees them."""

    X: Floats  # (n, d), those that train
    y: Labels  # (n,)
    X_test: Floats  # (n_test, d), those that test; none where the fold has no such rows
    y_test: Labels
    row_weights: Floats | None  # (n,) of those that train; None: all weigh the same
    clusters: NDArray[np.object_] | None = None  # (n,) of those that train


@dataclass(frozen=True, eq=False)
class Trainer:
    """One hospital's training in an order that all have agreed on."""

    order: AgreedTraining
    rows: OrderRows
    model: Model
    start: Floats  # the weights that every fold starts from, (n_weights,)
    limits: Limits  # what the strictest hospital asks of all
    class_warnings: tuple[ClassWarning, ...] = ()  # what is odd about the classes
    # What the rows' columns are made of; None before that is agreed on, or where they
    # are the attributes.
    design: Design | None = None
    # By column of categories how many rows of all hospitals have each level.
    level_counts: dict[str, dict[str, int]] | None = None
    # Of an evaluation the levels of its subgroups over all hospitals.
    groups: tuple[str, ...] = ()
    # What the tags of an evaluation's sum are of, where some are sent the model; None
    # where its weights are enough.
    tagged: Floats | None = None
    # The opened sums of each fold's held-out rows so far. After a crash every fold ends
    # once more, with the same sums.
    held_out: list[Ints] = field(default_factory=list)
    # What `keys` has made, by fold and members. It goes with the trainer.
    _keys: dict[tuple[int, tuple[int, ...]], SumKeys] = field(
        default_factory=dict,
        init=False,
        repr=False,
    )

    @property
    def features(self) -> list[str]:
        """The names of the columns that the model sees."""
        of_sites = self.order.request.site_features
        if self.design is None:
            return [*self.order.request.attributes, *of_sites]
        return [*self.design.features, *of_sites]

    @property
    def params(self) -> ModelParams:
        return self.order.request.model_params

    @property
    def withheld(self) -> Withheld:
        """What no hospital shows as its own.

        Of a Newton order nothing, and all of it counted together: the coordinator does
        not learn how well the model fits.
        """
        of_rows = self.limits.withheld
        if not self.order.request.is_newton:
            return of_rows
        return Withheld(max(1, of_rows.train), max(1, of_rows.test))

    @cached_property
    def public(self) -> PaillierPublicKey | None:
        public_key = self.order.public_key
        return paillier.public_from_bytes(public_key) if public_key else None

    @cached_property
    def obfuscators(self) -> paillier.Obfuscators | None:
        """Made in this process after its fork, kept in memory only."""
        return paillier.Obfuscators(self.public) if self.public else None

    @cached_property
    def private_key(self) -> PaillierPrivateKey | None:
        """The initiator's; read once, because its primes are tested when it is read."""
        return private_key(self.order) if self.public else None

    def keys(
        self,
        fold: int,
        members: tuple[int, ...] | None = None,
    ) -> SumKeys:
        """What seals this hospital's parts of a fold's sums.

        A hospital's weight is the number of its training rows in that fold. `members`
        are those of one round's sum where some are left out. Their masks are complete:
        the coordinator names them when it knows the graph of sparse ones.
        """
        of_sum = (fold, members or self.order.session.members)
        if of_sum not in self._keys:
            self._keys[of_sum] = self._make_keys(*of_sum)
        return self._keys[of_sum]

    def _make_keys(
        self,
        fold: int,
        members: tuple[int, ...],
    ) -> SumKeys:
        order = self.order
        session = order.session
        n_trained = {}
        for member in members:
            n_rows = order.n_rows[member]
            n_trained[member] = n_rows - n_held_out(order.request, n_rows, fold)
        mask_seed = None
        if members == session.members:
            mask_seed = order.mask_seed(members)
        pair_keys = {}
        # Who is left out of a sum opens it, and masks nothing.
        if order.me in members:
            for peer in mask_graph.peers(
                members,
                order.me,
                seed=mask_seed,
            ):
                pair_keys[peer] = session.pair_key(peer, b"sum")
        return SumKeys(
            method=self.params.encrypt_param.method,
            me=order.me,
            members=members,
            n_rows=n_trained,
            pair_keys=pair_keys,
            mask_seed=mask_seed,
            group_key=session.group_key(b"sum"),
            bound=self.params.bound,
            public=self.public,
            obfuscators=self.obfuscators,
        )

    def fold_rows(self, fold: int) -> FoldRows:
        """Training and test rows of a fold.

        Test rows are held-out ones, or for fold 0 those of the order's test SQL.
        """
        cohort = self.rows.train
        test = self.rows.test
        X = cohort.X
        y = self._labels(cohort.y)
        held_out = held_out_rows(self.order, self.rows, fold)
        trained_places = np.setdiff1d(np.arange(cohort.n_rows), held_out)
        if fold == 0 and test is not None:
            X_test = test.X
            y_test = self._labels(test.y)
        else:
            X_test = taken(X, held_out)
            y_test = y[held_out]
        weights = None if cohort.weights is None else cohort.weights[trained_places]
        clusters = None if cohort.clusters is None else cohort.clusters[trained_places]
        # All rows are the cohort's own: a copy of them is a table as large.
        X_kept = taken(X, trained_places) if len(held_out) else X
        return FoldRows(
            X_kept,
            y[trained_places],
            X_test,
            y_test,
            weights,
            clusters,
        )

    def _labels(self, labels: Any) -> Labels:
        """The index of each class, or numbers where the model has no classes."""
        if not self.model.classes:
            return np.asarray(labels, dtype=np.float64)
        classes = self.model.classes
        index = {label: place for place, label in enumerate(classes)}
        unknown = set(labels.tolist()) - set(index)
        if unknown:
            raise BadRequest(
                f"{len(unknown)} classes stand in the test rows only.",
                remedy="Test on classes that are trained.",
                code="classes",
            )
        class_places = [index[label] for label in labels.tolist()]
        return np.array(class_places, dtype=np.int64)


# Sums


def sum_info(
    kind: str,
    fold: int,
    round_: int,
) -> bytes:
    """What binds masks and tags to one sum: no two sums of an order have the same."""
    return b"%s/%d/%d/0" % (kind.encode(), fold, round_)


def contribute(
    trainer: Trainer,
    kind: str,
    make_part: Callable[[], bytes],
    *,
    fold: int,
    round: int,
    state: Floats,
    report: dict[str, Any] | None = None,
) -> None:
    """Sends this hospital's part of a sum, with a tag of its state.

    The coordinator can only compare the tags.
    """
    info = sum_info(kind, fold, round)
    tag = state_tag(trainer.order.session, state, info)

    def make() -> bytes:
        contribution = Contribution(
            make_part(),
            tag,
            report or {},
        )
        return contribution.encode()

    send(
        trainer.order,
        kind,
        make,
        recipient=COORDINATOR,
        fold=fold,
        round=round,
    )


def open_total(
    trainer: Trainer,
    kind: str,
    *,
    fold: int,
    round: int,
    members: tuple[int, ...] | None = None,
) -> Ints:
    """The initiator opens the sum that the coordinator formed.

    Only the sum: masks cancel in nothing less.
    """
    address = Address(
        trainer.order.order_id,
        f"total-{kind}",
        fold,
        round,
    )
    sealed_total = trainer.order.exchange.get(address, COORDINATOR)
    return secure_sum.open_sum(
        trainer.keys(fold, members),
        sealed_total,
        info=sum_info(kind, fold, round),
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
    along: str | None = None,
) -> Opening:
    """What the initiator opened, verified.

    At the initiator, the sum is opened and sent to all parties first. `decide` says, at
    the initiator only, whether training ends with this round. `along` as
    `Exchange.gather` has it.
    """
    order = trainer.order
    topic = f"opening-{kind}"

    def make() -> bytes:
        sums = open_total(
            trainer,
            kind,
            fold=fold,
            round=round,
            members=members,
        )
        is_last = decide(sums)
        return Opening(sums, is_last).encode()

    if order.is_initiator:
        send(
            order,
            topic,
            make,
            recipient=EVERYONE,
            fold=fold,
            round=round,
        )
    # The initiator reads its own message too: after a crash all go by the one that was
    # sent.
    initiator = order.request.user_id
    opening_body = receive(
        order,
        topic,
        initiator,
        EVERYONE,
        fold=fold,
        round=round,
        along=along,
    )
    return Opening.decode(opening_body)


def joint_mean(
    trainer: Trainer,
    kind: str,
    values: Callable[[], Floats],
    *,
    fold: int,
    names: Sequence[str],
) -> Floats:
    """The row-weighted mean of a vector of any magnitude, known to the hospitals only.

    `names` are the columns that its values are of, for an error (code wide).
    """
    sum_keys = trainer.keys(fold)
    info = sum_info(kind, fold, 0)

    def part() -> bytes:
        # decision 25: a raw column may be larger than the bound of the fixed point.
        try:
            limbs = wide.to_limbs(values(), sum_keys.own_rows())
        except BadRequest as error:
            raise _named_columns(error, names) from None
        return secure_sum.seal_counts(
            sum_keys,
            limbs,
            info=info,
        )

    contribute(
        trainer,
        kind,
        part,
        fold=fold,
        round=0,
        state=trainer.start,
    )
    opening = receive_opening(
        trainer,
        kind,
        fold=fold,
        round=0,
    )
    return wide.from_limbs(opening.sums, sum_keys.n_rows_total)


def _named_columns(error: BadRequest, names: Sequence[str]) -> BadRequest:
    """The error with names in the place of a number of columns."""
    column_places = error.detail["places"]
    columns = ", ".join(names[column_place] for column_place in column_places)
    return BadRequest(
        f"What is added up of {columns} is too large: 2^110 or more.",
        remedy=error.remedy,
        code=error.code,
    )


@contextlib.contextmanager
def sentences(round_: int | None = None) -> Iterator[None]:
    """Turns ValueErrors of the mathematics into what a user can act on.

    These name arguments, and never values.
    """
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
        # Where blocks are nested, the inner one has named the round.
        if error.code != "bound_exceeded" or error.sentence.startswith("In round"):
            raise
        raise BadRequest(
            f"{where}{error.sentence}",
            remedy=error.remedy,
            code=error.code,
        ) from None
