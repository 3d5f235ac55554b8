"""Standard errors that do not rest on the model's variance: robust ones, and those of
clusters.

Decision 120.
"""

from __future__ import annotations

from typing import Any

from protocol.errors import Problems, bad_request
from protocol.regression_request.newton import HOSPITAL

LEAST_CLUSTERS = 5
"""Hospitals that are clusters."""


def check_errors(request: Any) -> None:
    """BadRequest for robust standard errors that an order cannot have."""
    params = request.model_params
    cluster = params.cluster
    if cluster is not None and params.standard_errors is not None:
        raise bad_request(
            "standard_errors",
            "standard_errors is given, and cluster, which has its own.",
            "Leave one of them out.",
        )
    if request.robust is not None and (request.is_penalised or request.is_firth):
        raise bad_request(
            "cluster" if cluster is not None else "standard_errors",
            "A penalty leaves no robust standard errors.",
            "Give penalty null, or leave standard_errors and cluster out.",
        )
    if request.cluster_column is not None:
        _check_cluster_column(request)
    n_hospitals = len(request.hospitals)
    if cluster == HOSPITAL and n_hospitals < LEAST_CLUSTERS:
        raise bad_request(
            "cluster",
            f"{n_hospitals} hospitals are too few to be clusters.",
            f"Add hospitals up to {LEAST_CLUSTERS}, or order standard_errors HC1.",
        )


def _check_cluster_column(request: Any) -> None:
    """All that does not go together with clusters by a column."""
    name = request.cluster_column
    params = request.model_params
    problems = Problems()
    add = problems.adder("cluster")

    taken_columns = [
        *request.attributes,
        request.label_name,
        request.unique_id,
        request.weights,
    ]
    if name in taken_columns:
        add(
            f"The column of clusters {name} is an attribute, the label, the unique id or the weights, too.",
            f"A column has one role: name another one, or give {HOSPITAL}.",
        )
    if name in request.derive:
        add(
            f"The column of clusters {name} is derived.",
            "Name a column of the tables: clusters that an order makes would tell single rows.",
        )
    if params.cv_param.need_cv or request.validation_fraction is not None:
        add(
            "Held-out rows would leave parts of clusters.",
            "Set need_cv to false and leave validation_fraction out, or order standard_errors HC1.",
        )
    problems.raise_any()
