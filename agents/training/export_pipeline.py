"""The steps before an exported estimator, where a model's columns are made of others: a
scikit-learn ColumnTransformer and StandardScaler in parts. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.training.kept_design import design_of, study_of
from analytics.training.design import Design, Levels, Number, Spline


def pipeline_of(stored: Mapping[str, Any]) -> dict[str, Any]:
    """`inputs`, `computed`, `columns` and `scaler` of a vault entry with features.

    inputs: the columns that the first step takes, in order; categories as canonical
    texts, whatever is none of their levels as "other" where they have it. computed: by
    name the expression of inputs, and of what they use, that are no column of the data;
    a spline is an input for each of its columns, name[1], name[2] and so on. columns:
    the parts of the ColumnTransformer, each for some inputs, with the parameters of its
    transformer. scaler: what a fitted StandardScaler knows; null where nothing was
    standardized.

    Disclosure: as `export_model`.
    """
    study = study_of(stored)
    design = design_of(stored, study)
    inputs: list[str] = []
    computed: dict[str, str] = {}
    columns: list[dict[str, Any]] = []
    for term in design.terms:
        input_names = list(term.features)
        if isinstance(term, Levels):
            input_names = [term.name]
        inputs.extend(input_names)
        if term.name in study.derived:
            expression = stored["derive"][term.name]
            for column_name in input_names:
                computed[column_name] = expression
        parts = _parts(term, input_names, design)
        columns.extend(parts)
    for column_name in study.in_order:
        is_step = column_name not in study.columns
        if is_step:
            computed[column_name] = stored["derive"][column_name]
    return {
        "inputs": inputs,
        "computed": computed,
        "columns": columns,
        "scaler": _scaler(stored),
    }


def _parts(
    term: Number | Levels | Spline,
    names: list[str],
    design: Design,
) -> list[dict[str, Any]]:
    if isinstance(term, Levels):
        parameters: dict[str, Any] = {
            "categories": [list(term.levels)],
            "drop": [term.reference],
            "sparse_output": False,
        }
        encoder = "sklearn.preprocessing.OneHotEncoder"
        return [_part(term.name, encoder, parameters)]
    parts: list[dict[str, Any]] = []
    for feature in names:
        if feature not in design.means:
            parts.append(_part(feature, "passthrough", {}))
            continue
        filled = {
            "strategy": "constant",
            "fill_value": design.means[feature],
        }
        imputer = "sklearn.impute.SimpleImputer"
        parts.append(_part(feature, imputer, filled))
    return parts


def _part(
    name: str,
    transformer: str,
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "name": name,
        "columns": [name],
        "transformer": transformer,
        "parameters": dict(parameters),
    }


def _scaler(stored: Mapping[str, Any]) -> dict[str, Any] | None:
    if stored["standardize"] is None:
        return None
    mean, deviation = stored["standardize"]
    scale = np.asarray(deviation, dtype=np.float64)
    variance = np.square(scale)
    return {
        "mean_": list(mean),
        "scale_": list(deviation),
        "var_": variance.tolist(),
        "n_features_in_": len(mean),
    }
