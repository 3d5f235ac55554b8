"""The likelihood-ratio test of a model beside a kept one that it contains.

    chi2 = 2 (l - l0)    df = how many coefficients the kept model lacks

l and l0 are the maxima of the likelihood with and without these. Both have to be of the
same rows, label, family, link, offset and weights: with a kept model stand digests of
what it was trained on, and each hospital compares them with its own rows of today.

Disclosure: both reports are in the vault already, so that nothing is opened beside them.
A refusal tells the order's hospitals and the coordinator that this hospital's rows are
not those of the kept model.

Decision 115.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.rows.cohort import Cohort
from agents.site.vault import Vault
from agents.training.kept_design import features_of
from protocol.errors import BadRequest, Refused
from protocol.messages import canonical
from protocol.training_request import TrainingRequest

_PEOPLE = "people"

_ALIKE: dict[str, Any] = {
    "model_type": None,
    "unique_id": None,
    "label_name": None,
    "event_name": None,
    "entry_name": None,
    "strata": [],
    "family": "",
    "link": "",
}
"""What a vault's entry and an order have under the same names, and what it means where
the entry says nothing.
"""


def digests_of(cohort: Cohort) -> dict[str, str]:
    """Of who a cohort is with label and weights, and of each attribute by its name.

    A column of categories is hashed as texts: its places are of the levels that one
    order has met. They stay in the vault.
    """
    ids = canonical(list(cohort.unique_ids))
    people = hashlib.blake2b(ids.encode(), digest_size=32)
    for row_values in (cohort.y, cohort.weights):
        if row_values is not None:
            numbers = np.ascontiguousarray(row_values, dtype=np.float64)
            people.update(numbers.tobytes())
    digests = {_PEOPLE: people.hexdigest()}
    for attribute, column in zip(cohort.attributes, cohort.X.T, strict=True):
        if attribute in cohort.levels:
            levels = cohort.levels[attribute]
            level_texts = [levels[int(place)] for place in column]
            body = canonical(level_texts).encode()
        else:
            body = np.ascontiguousarray(column).tobytes()
        digest = hashlib.blake2b(body, digest_size=32)
        digests[f"attribute {attribute}"] = digest.hexdigest()
    return digests


def check_kept(vault: Vault, request: TrainingRequest) -> None:
    """Whether this hospital keeps a model that the order's can be compared with.

    Raises NotFound (code no_model) and Refused (code compare).
    """
    assert request.compare is not None
    stored = vault.model(request.compare)
    problems = _differences(stored, request)
    report = stored.get("report") or {}
    if not _has_maximum(report):
        problems.append("it has no likelihood at its maximum")
    elif not report["converged"]:
        problems.append("it has not converged")
    if "rows_digests" not in stored:
        problems.append("an earlier version kept it, without its rows' digests")
    missing = set(stored["attributes"]) - set(request.attributes)
    if missing:
        missing_names = ", ".join(sorted(missing))
        problems.append(f"it has attributes that the order lacks ({missing_names})")
    if problems:
        in_words = "; ".join(problems)
        raise Refused(
            f"The order cannot be compared with model {request.compare}: {in_words}.",
            remedy="Train both on the same rows, label, family, link, offset and weights, without a penalty, the"
            " smaller one first; or leave compare out.",
            code="compare",
        )


def _differences(
    stored: Mapping[str, Any],
    request: TrainingRequest,
) -> list[str]:
    differing = []
    for field_name, unsaid in _ALIKE.items():
        if stored.get(field_name, unsaid) != getattr(request, field_name):
            differing.append(field_name)
    trained_by = set(stored.get("hospitals", []))
    if trained_by != set(request.hospitals):
        differing.append("the hospitals")
    # A cox has none, whatever is said.
    if request.model_type != "cox":
        asked_intercept = request.model_params.init_param.fit_intercept
        if stored["fit_intercept"] != asked_intercept:
            differing.append("fit_intercept")
    report = stored.get("report") or {}
    weights = request.weights
    weights_type = None
    if weights is not None:
        weights_type = request.model_params.weights_type or "prior"
    asked_options = {
        "offset": request.model_params.offset,
        "weights": weights,
        "weights_type": weights_type,
    }
    for field_name, asked_value in asked_options.items():
        if report.get(field_name) != asked_value:
            differing.append(field_name)
    if not differing:
        return []
    differing_names = ", ".join(differing)
    return [f"other {differing_names}"]


def _has_maximum(report: Mapping[str, Any]) -> bool:
    """Neither penalised nor of a likelihood that there is none of.

    Robust standard errors leave the likelihood what it is, but say that it is not
    trusted.
    """
    is_robust = report.get("standard_errors") not in (None, "model")
    # With hospitals' columns it is of more than its attributes.
    of_hospitals = {"cluster", "site_effect"} & report.keys()
    is_plain = not of_hospitals and not is_robust
    return is_plain and report.get("aic") is not None


def check_rows(
    vault: Vault,
    request: TrainingRequest,
    rows: Cohort,
) -> None:
    """Whether these are the rows that the kept model was trained on.

    Raises Refused (code compare).
    """
    assert request.compare is not None
    kept_digests: dict[str, str] = vault.model(request.compare)["rows_digests"]
    own_digests = digests_of(rows)
    changed = [
        name for name, digest in kept_digests.items() if own_digests.get(name) != digest
    ]
    if changed:
        raise Refused(
            f"The rows here are not those that model {request.compare} was trained on: a likelihood-ratio test of two"
            " sets of rows says nothing.",
            remedy="Train the smaller model again on these rows, and compare with that, or leave compare out.",
            code="compare",
        )


def check_nested(
    vault: Vault,
    request: TrainingRequest,
    features: Sequence[str],
) -> None:
    """Whether the order's columns are those of the kept model and more.

    Raises BadRequest (code compare).
    """
    assert request.compare is not None
    kept_features = features_of(vault.model(request.compare))
    if set(kept_features) < set(features):
        return
    missing = sorted(set(kept_features) - set(features))
    reason = "it has no column more"
    if missing:
        missing_names = ", ".join(missing)
        reason = f"it lacks {missing_names}"
    raise BadRequest(
        f"The order's model does not contain model {request.compare}: {reason}.",
        remedy="Order all columns of the smaller model, categories with the same reference, and at least one more.",
        code="compare",
    )


def tested(
    vault: Vault,
    request: TrainingRequest,
    report: Mapping[str, Any],
    *,
    features: Sequence[str],
) -> dict[str, Any]:
    """The test, for the report of the order's model.

    `chi2` and `p` are None where it has not converged. Source: Wilks 1938; R's
    `anova(fit0, fit, test = "LRT")`, for a family with a dispersion each at the maximum
    of its own likelihood.
    """
    # Not above: it takes long to import, and a simulation starts without.
    from scipy import special

    assert request.compare is not None
    stored = vault.model(request.compare)
    df = len(features) - len(features_of(stored))
    comparison: dict[str, Any] = {"model_id": request.compare, "df": df}
    if not report["converged"] or report["log_likelihood"] is None:
        return {
            **comparison,
            "chi2": None,
            "p": None,
        }
    kept_report = stored["report"]
    difference = report["log_likelihood"] - kept_report["log_likelihood"]
    chi2 = max(0.0, 2 * difference)
    return {
        **comparison,
        "chi2": chi2,
        "p": float(special.chdtrc(df, chi2)),
    }
