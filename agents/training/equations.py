"""How much a Newton order has opened so far, counted in rounds, and the rule on it.

Decisions 84 and 109.
"""

from __future__ import annotations

from agents.training.checkpoint import Checkpoint, load_checkpoint
from agents.training.trainer import Trainer
from protocol.errors import Refused
from protocol.training_request import folds


def opened_before(trainer: Trainer, fold: int) -> int:
    """Rounds of the folds before this one, whose sums are over nearly the same rows, and
    what the ends of these and of this one open, as rounds.
    """
    n_folds = 1 + n_folds_before(trainer, fold)
    n_at_ends = n_folds * trainer.order.request.rounds_at_the_end
    return n_at_ends + rounds_before(trainer, fold)


def n_folds_before(trainer: Trainer, fold: int) -> int:
    return folds(trainer.order.request).index(fold)


def rounds_before(trainer: Trainer, fold: int) -> int:
    n_rounds = 0
    for number in folds(trainer.order.request):
        if number == fold:
            break
        point = load_checkpoint(trainer.order.store, number)
        assert point is not None, "it has ended"
        n_rounds += n_counted(point)
    return n_rounds


def n_counted(point: Checkpoint) -> int:
    """Rounds so far. A message of scores opens p sums, of others p (p + 3) / 2 + 2, which is
    three times as many or more.
    """
    n_scored = 0 if point.newton is None else point.newton.n_scored
    # Rounded up: rather too much is counted than too little.
    return point.round - n_scored + -(-n_scored // 3)


def check_equations(
    n_others: int, *, n_rounds: int, n_weights: int, is_alone: bool
) -> None:
    """Refuse a round after which the others' rows would no longer hide one's own.

    Each round opens n_weights + 3 numbers of each row's kind; the other hospitals
    together need that many rows for each round so far. Raises Refused (code equations).
    """
    needed = n_rounds * (n_weights + 3)
    if is_alone or n_others >= needed:
        return
    raise Refused(
        f"After {n_rounds} rounds of {n_weights} coefficients the other hospitals need {needed} rows together, so that"
        " what is opened cannot be solved for this hospital's.",
        remedy="Order fewer attributes or a smaller max_iter, or add hospitals or rows.",
        code="equations",
        threshold=needed,
    )
