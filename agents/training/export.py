"""A trained model as other programs read it. Pure: from the vault's entry to what JSON
can hold.

What an entry holds is written by `agents.training.fold_end.save_model`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from agents.training.export_pipeline import pipeline_of
from agents.training.inference import model_of
from agents.training.kept_design import features_of
from analytics.arrays import Floats
from protocol.errors import BadRequest


class LayerTable(NamedTuple):
    """One layer, as scikit-learn holds it."""

    coef: Floats  # (n_units, n_inputs)
    intercept: Floats  # (n_units,)


_ESTIMATORS = {
    "lr": "linear_model.LogisticRegression",
    "linear": "linear_model.LinearRegression",
    "softmax": "linear_model.LogisticRegression",
    "mlp": "neural_network.MLPClassifier",
}


def export_model(
    stored: dict[str, Any],
    file_format: str,
) -> dict[str, Any]:
    """The vault's entry in one of EXPORT_FORMATS.

    BadRequest for a model that the format cannot hold.

    Disclosure: the model, which its order's hospitals alone hold. It may leave only as
    this hospital's own decision.
    """
    if file_format == "sklearn":
        return _as_sklearn(stored)
    return _as_json(stored)


def _as_json(stored: dict[str, Any]) -> dict[str, Any]:
    """The entry with each layer at the top by its name, at full precision.

    A layer is [w_1 .. w_d, b] for each unit or class. Where `standardize` is not null,
    the layers are for (x - mean) / deviation.
    """
    exported = dict(stored)
    del exported["layers"]
    # Behind the other fields, with a name for each of the two.
    del exported["standardize"]
    exported["standardize"] = None
    if stored["standardize"] is not None:
        mean, deviation = stored["standardize"]
        exported["standardize"] = {"mean": mean, "deviation": deviation}
    for layer_name in model_of(stored).layers:
        exported[layer_name] = stored["layers"][layer_name]
    return exported


def _as_sklearn(stored: dict[str, Any]) -> dict[str, Any]:
    """What a scikit-learn estimator knows after `fit`.

    Set these attributes on a new one and it predicts the same. In the units of the
    tables' own columns, standardized or not; a model whose columns are made of others is
    the last step of a Pipeline, whose other steps stand under `pipeline`. Two classes are one row of coefficients
    there, so those of a model of classes are subtracted: p_2 = 1 / (1 + exp(-(z_2 -
    z_1))). Of an MLPClassifier's methods `predict_proba` works, with its columns in the
    order of `classes_`; `predict` needs what only its `fit` makes.
    """
    tables = _tables(stored)
    has_pipeline = "features" in stored
    if not has_pipeline:
        tables[0] = _raw_units(stored, tables[0])
    classes: list[Any] = list(stored["classes"])
    if stored["model_type"] == "lr":
        classes = [0, 1]
    if len(classes) == 2:
        tables[-1] = _as_one_row(tables[-1])
    for table in tables:
        _check_finite(table)
    estimator = _ESTIMATORS[stored["model_type"]]
    exported = {
        "model_id": stored["model_id"],
        "estimator": f"sklearn.{estimator}",
        "attributes": _fitted(stored, tables, classes),
    }
    if has_pipeline:
        exported["pipeline"] = pipeline_of(stored)
    return exported


def _check_finite(table: LayerTable) -> None:
    is_finite = np.isfinite(table.coef).all()
    if is_finite:
        is_finite = np.isfinite(table.intercept).all()
    if not is_finite:
        raise BadRequest(
            "In the columns' own units this model leaves the range of 64-bit floats.",
            remedy="Export it as json, whose layers are for standardized columns.",
            code="numbers",
        )


def _tables(stored: dict[str, Any]) -> list[LayerTable]:
    """Coefficients and intercepts of each layer.

    BadRequest where scikit-learn has no such model.
    """
    if stored["model_type"] not in _ESTIMATORS:
        raise BadRequest(
            f"scikit-learn has no {stored['model_type']} model.",
            remedy="Export it as json, which holds every layer.",
            code="model_type",
        )
    tables = []
    layers = model_of(stored).layers
    for layer_name, shape in layers.items():
        layer_values = np.asarray(stored["layers"][layer_name], dtype=np.float64)
        # One row for each unit or class.
        n_inputs = shape[-1]
        rows = layer_values.reshape(-1, n_inputs)
        if stored["fit_intercept"]:
            coef = rows[:, :-1]
            intercept = rows[:, -1]
        else:
            coef = rows
            intercept = np.zeros(len(rows))
        tables.append(LayerTable(coef, intercept))
    return tables


def _as_one_row(table: LayerTable) -> LayerTable:
    """The second class against the first."""
    coef, intercept = table
    if len(coef) == 1:
        return table
    coef_apart = coef[1:] - coef[:1]
    intercept_apart = intercept[1:] - intercept[:1]
    return LayerTable(coef_apart, intercept_apart)


def _fitted(
    stored: dict[str, Any],
    tables: list[LayerTable],
    classes: list[Any],
) -> dict[str, Any]:
    """The attributes of the estimator, as `fit` sets them."""
    if len(tables) > 1:
        fitted = _fitted_network(tables, classes)
    else:
        fitted = _fitted_line(tables[0], classes)
    features = features_of(stored)
    fitted["n_features_in_"] = len(features)
    if "features" not in stored:
        # In a Pipeline the steps before it give arrays without names.
        fitted["feature_names_in_"] = features
    return fitted


def _fitted_line(
    table: LayerTable,
    classes: list[Any],
) -> dict[str, Any]:
    coef = table.coef.tolist()
    intercept = table.intercept.tolist()
    if not classes:
        return {"coef_": coef[0], "intercept_": intercept[0]}
    return {
        "coef_": coef,
        "intercept_": intercept,
        "classes_": classes,
    }


def _fitted_network(
    tables: list[LayerTable],
    classes: list[Any],
) -> dict[str, Any]:
    coefs = [table.coef.T for table in tables]
    intercepts = [table.intercept for table in tables]
    n_outputs = len(intercepts[-1])
    activation = "softmax"
    if n_outputs == 1:
        activation = "logistic"
    return {
        "coefs_": [coef.tolist() for coef in coefs],
        "intercepts_": [intercept.tolist() for intercept in intercepts],
        "classes_": classes,
        "n_layers_": len(tables) + 1,
        "n_outputs_": n_outputs,
        "out_activation_": activation,
    }


def _raw_units(stored: dict[str, Any], table: LayerTable) -> LayerTable:
    """The first layer for x, from that for (x - mean) / deviation.

    w / deviation, and b - sum(w * mean / deviation).
    """
    if stored["standardize"] is None:
        return table
    scale = np.asarray(stored["standardize"], dtype=np.float64)
    mean, deviation = scale
    # What leaves the range of floats is refused by the caller, in a sentence.
    with np.errstate(over="ignore", invalid="ignore"):
        shifts = table.coef * mean / deviation
        coef = table.coef / deviation
        intercept = table.intercept - shifts.sum(axis=1)
        return LayerTable(coef, intercept)
