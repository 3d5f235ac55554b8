"""Firth's penalised likelihood: finite estimates where an attribute separates the labels.

The maximum of l + ln|A| / 2 (Jeffreys' prior) for binomial with logit and poisson with log:
of the score's rows (y_i - mu_i) becomes

    binomial    y_i - mu_i + h_i (1/2 - mu_i)      poisson    y_i - mu_i + h_i / 2

with leverages h_i = W_i x_i' A^-1 x_i at the same b. So a step takes two messages: A, c and
the deviance at b, and with that A the sum of x_i times what is added, which is put to c. A
step is halved where -2 l - ln|A| rises. Firth 1993; Heinze and Schemper 2002; Kosmidis and
Firth 2009 for poisson.

Decision 107.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analytics.arrays import Floats, table_chunks
from analytics.training import families, newton, normal_equations
from analytics.training.elementary import logarithm
from analytics.training.newton import NewtonState, NoMean, RowNumbers
from analytics.training.normal_equations import Collinear, Opened
from analytics.training.pairs import Pair


def added_scores(
    pair: Pair, columns: Floats, rows: RowNumbers, inverse: Floats
) -> Floats:
    """What is added to each row's score, (n,); inverse: A^-1 over all hospitals' rows.

    columns (n, p): `newton.columns_of`. Disclosure: one number per row; they stay in the
    hospital.
    """
    leverages = np.empty(len(columns))
    for chunk, of_chunk in table_chunks(columns):
        squares = np.sum((of_chunk @ inverse) * of_chunk, axis=1)
        leverages[chunk] = rows.weights[chunk] * squares
    if not pair.is_binary:
        halves: Floats = leverages / 2
        return halves
    row_means = families.means(pair, rows.predictors)
    # 1/2 - mu, without losing digits near 1.
    of_binary: Floats = leverages * (row_means.complement - row_means.mu) / 2
    return of_binary


def local_sums(columns: Floats, added: Floats) -> Floats:
    """One hospital's part of the second message, float64 (p,); columns (n, p).

    Disclosure: weighted sums of columns. They leave through the release door only, sealed
    so that nothing but the sum over hospitals can be read.
    """
    sums = np.zeros(columns.shape[1])
    for chunk, of_chunk in table_chunks(columns):
        sums += of_chunk.T @ added[chunk]
    return sums


def with_information(state: NewtonState, opened: Opened, *, eps: float) -> NewtonState:
    """The state after a first message: the scores are next, or half of the last step.

    Raises Collinear, NoMean, and ValueError where no halved step lets -2 l - ln|A| fall.
    """
    if state.is_start:
        first_coef = normal_equations.solve(opened)
        return replace(state, coef=first_coef, base=first_coef, round=1)
    if state.deviance is None and not opened.is_valid:
        raise NoMean("the first weights give a mean that the family does not know")
    if not opened.is_valid:
        return newton.halved(state)
    try:
        penalised = opened.deviance - _log_determinant(opened)
    except Collinear:
        # A step so far that A has no rank left is too far.
        if state.deviance is None:
            raise
        return newton.halved(state)
    before = state.deviance
    margin = eps * (abs(penalised) + 0.1)
    if before is not None and penalised > before + margin:
        return newton.halved(state)
    return replace(
        state,
        base=state.coef,
        deviance=penalised,
        n_halvings=0,
        round=state.round + 1,
        is_still=before is not None and abs(penalised - before) < margin,
        is_scoring=True,
    )


def with_scores(
    state: NewtonState, opened: Opened, added: Sequence[int]
) -> NewtonState:
    """The state after a second message: the step is taken. opened: the first one's sums;
    added: integers over the same 2**bits. It ends when the penalised likelihood rests and
    a step is small, which is Fisher's and shrinks by a factor only.
    """
    c = [own + more for own, more in zip(opened.c, added, strict=True)]
    next_coef = normal_equations.solve(opened._replace(c=c))
    fisher_step = next_coef - state.coef
    is_small = newton.is_small(fisher_step, next_coef, opened, dispersion=1.0)
    return replace(
        state,
        coef=next_coef,
        round=state.round + 1,
        is_scoring=False,
        n_scored=state.n_scored + 1,
        is_done=state.is_still and is_small,
        last_step=float(np.max(np.abs(fisher_step))),
    )


def _log_determinant(opened: Opened) -> float:
    """ln|A|."""
    pivots = np.diag(normal_equations.factor(opened.A, bits=opened.bits))
    total = 0.0
    # One after the other: the order in which np.sum adds is not the same everywhere.
    for pivot in pivots.tolist():
        total += 2 * logarithm(pivot)
    return total
