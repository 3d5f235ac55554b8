"""A trained model as other programs read it. Pure: from the vault's entry to what JSON can hold.

What an entry holds is written by `agents.training.trainer.save_model`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from agents.training.inference import model_of
from analytics.arrays import Floats
from protocol.errors import BadRequest

FORMATS = ("json", "sklearn")


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


def export_model(stored: dict[str, Any], file_format: str) -> dict[str, Any]:
    """The vault's entry in one of FORMATS. BadRequest for a model that the format cannot hold.

    Disclosure: the model, which its order's hospitals alone hold. It may leave only as this hospital's own decision.
    """
    return _as_sklearn(stored) if file_format == "sklearn" else _as_json(stored)


def _as_json(stored: dict[str, Any]) -> dict[str, Any]:
    """The entry with each layer at the top by its name, at full precision: [w_1 .. w_d, b] for each unit or class.

    Where `standardize` is not null, the layers are for (x - mean) / deviation.
    """
    exported = {key: value for key, value in stored.items() if key not in ("layers", "standardize")}
    exported["standardize"] = None
    if stored["standardize"] is not None:
        mean, deviation = stored["standardize"]
        exported["standardize"] = {"mean": mean, "deviation": deviation}
    for name in model_of(stored).layers:
        exported[name] = stored["layers"][name]
    return exported


def _as_sklearn(stored: dict[str, Any]) -> dict[str, Any]:
    """What a scikit-learn estimator knows after `fit`: set these attributes on a new one and it predicts the same.

    In the units of the tables' own columns, standardized or not. Two classes are one row of coefficients there, so
    those of a model of classes are subtracted: p_2 = 1 / (1 + exp(-(z_2 - z_1))). Of an MLPClassifier's methods
    `predict_proba` works, with its columns in the order of `classes_`; `predict` needs what only its `fit` makes.
    """
    tables = _tables(stored)
    tables[0] = _raw_units(stored, tables[0])
    classes: list[Any] = [0, 1] if stored["model_type"] == "lr" else list(stored["classes"])
    if len(classes) == 2:
        tables[-1] = _as_one_row(tables[-1])
    numbers = [values for table in tables for values in table]
    if not all(np.isfinite(values).all() for values in numbers):
        raise BadRequest(
            "In the columns' own units this model leaves the range of 64-bit floats.",
            remedy="Export it as json, whose layers are for standardized columns.",
            code="numbers",
        )
    return {
        "model_id": stored["model_id"],
        "estimator": f"sklearn.{_ESTIMATORS[stored['model_type']]}",
        "attributes": _fitted(stored, tables, classes),
    }


def _tables(stored: dict[str, Any]) -> list[LayerTable]:
    """Coefficients and intercepts of each layer. BadRequest where scikit-learn has no such model."""
    if stored["model_type"] not in _ESTIMATORS:
        raise BadRequest(
            f"scikit-learn has no {stored['model_type']} model.",
            remedy="Export it as json, which holds every layer.",
            code="model_type",
        )
    tables = []
    for name, shape in model_of(stored).layers.items():
        rows = np.asarray(stored["layers"][name], dtype=np.float64).reshape(-1, shape[-1])
        if stored["fit_intercept"]:
            tables.append(LayerTable(rows[:, :-1], rows[:, -1]))
        else:
            tables.append(LayerTable(rows, np.zeros(len(rows))))
    return tables


def _as_one_row(table: LayerTable) -> LayerTable:
    coef, intercept = table
    if len(coef) == 1:
        return table
    return LayerTable(coef[1:] - coef[:1], intercept[1:] - intercept[:1])


def _fitted(stored: dict[str, Any], tables: list[LayerTable], classes: list[Any]) -> dict[str, Any]:
    attributes = list(stored["attributes"])
    names = {"n_features_in_": len(attributes), "feature_names_in_": attributes}
    if len(tables) > 1:
        return {**_fitted_network(tables, classes), **names}
    coef, intercept = tables[0]
    if not classes:
        return {"coef_": coef[0].tolist(), "intercept_": float(intercept[0]), **names}
    return {"coef_": coef.tolist(), "intercept_": intercept.tolist(), "classes_": classes, **names}


def _fitted_network(tables: list[LayerTable], classes: list[Any]) -> dict[str, Any]:
    n_outputs = len(tables[-1][1])
    return {
        "coefs_": [coef.T.tolist() for coef, _ in tables],
        "intercepts_": [intercept.tolist() for _, intercept in tables],
        "classes_": classes,
        "n_layers_": len(tables) + 1,
        "n_outputs_": n_outputs,
        "out_activation_": "logistic" if n_outputs == 1 else "softmax",
    }


def _raw_units(stored: dict[str, Any], table: LayerTable) -> LayerTable:
    """Of the first layer w / deviation and b - sum(w * mean / deviation): on x as w and b on (x - mean) / deviation."""
    if stored["standardize"] is None:
        return table
    mean, deviation = (np.asarray(values, dtype=np.float64) for values in stored["standardize"])
    # What leaves the range of floats is refused by the caller, in a sentence.
    with np.errstate(over="ignore", invalid="ignore"):
        shift = (table.coef * mean / deviation).sum(axis=1)
        return LayerTable(table.coef / deviation, table.intercept - shift)
