"""A Newton order from POST to report, beside what a user would take instead: statsmodels on
pooled rows, and orders of gradient descent.

A real federation of three hospitals on free ports, with the demonstration's tables. The
orders are sent in turn, several times; medians are compared. How many rounds gradient
descent needs for the same digits is counted in this process, on pooled rows: every split
of the same rows gives the same weights.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from analytics.arrays import Floats
from analytics.training.descent import joint_gradient
from analytics.training.models import Model
from api.settings import CoordinatorSettings
from benchmarks.orders import send
from benchmarks.own_home import own_home
from deployments.demo.breast_cancer import breast_cancer_tables
from deployments.demo.training import INITIATOR, document_order
from deployments.local.federation import choose_ports, federation
from deployments.local.sites import prepare

N_ORDERS = 5
COMPARED_ROUNDS = 6
TARGET_RATIO = 1.5
NEAR = 1e-6
"""Of the maximum-likelihood estimate, in each coefficient."""
LEARNING_RATE = 0.15
MOST_GRADIENT_ROUNDS = 20_000
PAUSE_SECONDS = 2.0


def main() -> None:
    """Prints seconds from POST to report, rounds, and the distance from statsmodels."""
    rows = _pooled_rows()
    pooled = _statsmodels(rows)
    with own_home():
        settings = choose_ports(any_free=True)
        sites = prepare(settings)
        measuring = _measure(settings, sites, pooled.estimates)
        measured = asyncio.run(measuring)
    newton = statistics.median(measured.newton)
    gradient = statistics.median(measured.gradient)
    n_rows = len(rows)
    n_weights = len(pooled.estimates)
    print(
        f"lr, {n_rows} rows, {n_weights} coefficients, three agents, Paillier: seconds"
    )
    print(f"  newton, POST to report     {newton:8.3f}   {measured.n_rounds} rounds")
    print(f"  gradient descent           {gradient:8.3f}   {COMPARED_ROUNDS} rounds")
    print(f"  statsmodels, pooled rows   {pooled.seconds:8.3f}")
    ratio = newton / gradient
    verdict = _verdict(ratio, TARGET_RATIO)
    print(f"newton to gradient descent: {ratio:.2f} ({verdict})")
    print(f"farthest from statsmodels: {measured.distance:.1e} standard errors")
    n_newton = measured.n_rounds_until_near
    n_gradient = _gradient_rounds(rows, pooled)
    print(
        f"rounds to {NEAR:.0e} of the estimate: newton {n_newton}, gradient descent {n_gradient}"
    )


def _verdict(value: float, target: float) -> str:
    word = "meets" if value <= target else "MISSES"
    return f"{word} {target}"


# On pooled rows


class Pooled(NamedTuple):
    estimates: Floats  # the intercept first
    errors: Floats
    seconds: float


def _attributes() -> list[str]:
    names: list[str] = document_order()["attributes"]
    return names


def _pooled_rows() -> pd.DataFrame:
    """The rows of hospitals 2, 3 and 4: two have the host's table."""
    tables = breast_cancer_tables()
    return pd.concat(
        [
            tables["host"],
            tables["host"],
            tables["guest"],
        ]
    )


def _statsmodels(rows: pd.DataFrame) -> Pooled:
    import statsmodels.api as sm

    columns = sm.add_constant(rows[_attributes()])
    began = time.perf_counter()
    family = sm.families.Binomial()
    model = sm.GLM(
        rows["y"],
        columns,
        family=family,
    )
    found = model.fit(tol=1e-14)
    seconds = time.perf_counter() - began
    return Pooled(
        estimates=found.params.to_numpy(),
        errors=found.bse.to_numpy(),
        seconds=seconds,
    )


def _gradient_rounds(rows: pd.DataFrame, pooled: Pooled) -> str:
    """How many rounds of the request document's rate come as near."""
    attributes = _attributes()
    model = Model("lr", len(attributes))
    X = rows[attributes].to_numpy()
    y = rows["y"].to_numpy(np.float64)
    parts = [(X, y)]
    wanted = np.roll(pooled.estimates, -1)  # a model's intercept comes last
    weights = np.zeros(model.n_weights)
    for round_ in range(MOST_GRADIENT_ROUNDS):
        if _farthest(weights, wanted) < NEAR:
            return str(round_)
        gradient = joint_gradient(
            model,
            weights,
            parts,
            batch_size=-1,
            learning_rate=LEARNING_RATE,
        )
        weights = weights - LEARNING_RATE * gradient
    distance = _farthest(weights, wanted)
    return f"not in {MOST_GRADIENT_ROUNDS}, then {distance:.1e} away"


def _farthest(found: Floats, wanted: Floats) -> float:
    """The largest distance of a coefficient."""
    distances = np.abs(found - wanted)
    return float(np.max(distances))


# Orders


@dataclass
class Measured:
    newton: list[float] = field(default_factory=list)
    gradient: list[float] = field(default_factory=list)
    n_rounds: int = 0
    distance: float = math.inf  # in standard errors
    n_rounds_until_near: int = 0


async def _measure(
    settings: CoordinatorSettings,
    sites: list[SiteSettings],
    wanted: Floats,
) -> Measured:
    by_user = {site.user_id: site for site in sites}
    initiator = by_user[INITIATOR]
    measured = Measured()
    async with federation(settings, sites, restart=False):
        # The first order of a process loads what later ones find.
        await send(settings, _gradient_order(), [])
        for _ in range(N_ORDERS):
            # No order pays for the end of the one before.
            await asyncio.sleep(PAUSE_SECONDS)
            seconds = await send(settings, _newton_order(), [])
            measured.newton.append(seconds)
            await asyncio.sleep(PAUSE_SECONDS)
            seconds = await send(settings, _gradient_order(), [])
            measured.gradient.append(seconds)
            if not measured.n_rounds:
                report = _last_report(initiator)
                measured.n_rounds = report["rounds"]
                errors = _of_terms(report, "se")
                estimates = _of_terms(report, "estimate")
                off = np.abs(estimates - wanted) / errors
                measured.distance = float(np.max(off))
        for n_rounds in range(1, measured.n_rounds + 1):
            order = _newton_order(max_iter=n_rounds)
            await send(settings, order, [])
            report = _last_report(initiator)
            estimates = _of_terms(report, "estimate")
            if _farthest(estimates, wanted) < NEAR:
                measured.n_rounds_until_near = n_rounds
                break
    return measured


def _newton_order(max_iter: int = 25) -> dict[str, Any]:
    body = document_order()
    body["model_params"] = {
        "optimizer": "newton",
        "penalty": None,
        "max_iter": max_iter,
        "encrypt_param": {"method": "Paillier"},
    }
    return body


def _gradient_order() -> dict[str, Any]:
    body = document_order(rounds=COMPARED_ROUNDS)
    body["model_params"]["eps"] = 0.0
    return body


def _last_report(site: SiteSettings) -> dict[str, Any]:
    """Of the newest Newton order."""
    vault = Vault(site.vault)
    newest_first = sorted(vault.models(), reverse=True)
    for model_id in newest_first:
        model = vault.model(model_id)
        report = model.get("report")
        if report is not None:
            found: dict[str, Any] = report
            return found
    raise RuntimeError("no Newton order has ended")


def _of_terms(report: dict[str, Any], name: str) -> Floats:
    values = [term[name] for term in report["terms"]]
    return np.array(values)
