"""A trained model as other programs read it. Pure: from the vault's entry to what JSON can hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from analytics.checks import Floats
from protocol.errors import BadRequest

FORMATS = ("json", "sklearn")


def export_model(stored: dict[str, Any], file_format: str) -> dict[str, Any]:
    """The vault's entry in one of FORMATS. BadRequest for a model that the format cannot hold.

    Disclosure: the model, which its order's hospitals alone hold. It may leave only as this hospital's own decision.
    """
    return _as_sklearn(stored) if file_format == "sklearn" else _as_json(stored)


def _as_json(stored: dict[str, Any]) -> dict[str, Any]:
    """The entry with each layer at the top by its name, at full precision: dense is [w_1 .. w_d, b].

    Where `standardize` is not null, the layers are for (x - mean) / deviation.
    """
    rest = {key: value for key, value in stored.items() if key not in ("layers", "standardize")}
    scale = stored["standardize"]
    names = None if scale is None else {"mean": scale[0], "deviation": scale[1]}
    return {**rest, "standardize": names, **stored["layers"]}


def _as_sklearn(stored: dict[str, Any]) -> dict[str, Any]:
    """What a scikit-learn estimator knows after `fit`: set these attributes on a new one and it predicts the same.

    In the units of the tables' own columns, standardized or not. Two classes are one row of coefficients there, so
    those of a softmax model are subtracted: p_2 = 1 / (1 + exp(-(z_2 - z_1))).
    """
    coef, intercept = _raw_units(stored, *_split(stored))
    classes: list[Any] = [0, 1] if stored["model_type"] == "lr" else list(stored["classes"])
    if len(classes) == 2 and len(coef) == 2:
        coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
    if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
        raise BadRequest(
            "In the columns' own units this model leaves the range of 64-bit floats.",
            remedy="Export it as json, whose layers are for standardized columns.",
            code="numbers",
        )
    return {
        "model_id": stored["model_id"],
        "estimator": f"sklearn.linear_model.{'LogisticRegression' if classes else 'LinearRegression'}",
        "attributes": _fitted(stored, coef, intercept, classes),
    }


def _fitted(stored: dict[str, Any], coef: Floats, intercept: Floats, classes: list[Any]) -> dict[str, Any]:
    names = {"n_features_in_": len(stored["attributes"]), "feature_names_in_": list(stored["attributes"])}
    if not classes:
        return {"coef_": coef[0].tolist(), "intercept_": float(intercept[0]), **names}
    return {"coef_": coef.tolist(), "intercept_": intercept.tolist(), "classes_": classes, **names}


def _split(stored: dict[str, Any]) -> tuple[Floats, Floats]:
    """Coefficients (n_outputs, d) and intercepts (n_outputs,), 0 where the model has none."""
    width = len(stored["attributes"]) + bool(stored["fit_intercept"])
    table = np.asarray(stored["layers"]["dense"], dtype=np.float64).reshape(-1, width)
    if not stored["fit_intercept"]:
        return table, np.zeros(len(table))
    return table[:, :-1], table[:, -1]


def _raw_units(stored: dict[str, Any], coef: Floats, intercept: Floats) -> tuple[Floats, Floats]:
    """w / deviation and b - sum(w * mean / deviation), which on x give what w and b give on (x - mean) / deviation."""
    if stored["standardize"] is None:
        return coef, intercept
    mean, deviation = (np.asarray(values, dtype=np.float64) for values in stored["standardize"])
    with np.errstate(over="ignore", invalid="ignore"):
        return coef / deviation, intercept - (coef * mean / deviation).sum(axis=1)
