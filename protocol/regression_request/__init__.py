"""What an order may say where `optimizer` is newton, as that of a glm and a cox always
is, and what nothing follows from then.

To read in this order: `newton` (what it means for any model), `glm`, `cox`,
`standard_errors` (robust ones, clusters), `hospital_effects` (meta-analysis, intercepts of
each hospital's own). `protocol.training_request` has the fields themselves, and calls
the checks.
"""

from __future__ import annotations

from protocol.regression_request.cox import Edges, Strata, check_cox
from protocol.regression_request.glm import (
    OF_GLM,
    check_glm,
    check_offset,
    check_weights,
    glm_body,
    glm_pair,
)
from protocol.regression_request.hospital_effects import check_meta, check_site_effect
from protocol.regression_request.newton import (
    CONFIDENCE,
    COX,
    FIRTH,
    FIRTH_PAIRS,
    GLM,
    HOSPITAL,
    NEWTON,
    check_compare,
    check_firth,
    check_newton,
    with_newton_defaults,
    with_newton_models_defaults,
)
from protocol.regression_request.standard_errors import check_errors

__all__ = [
    "CONFIDENCE",
    "COX",
    "FIRTH",
    "FIRTH_PAIRS",
    "GLM",
    "HOSPITAL",
    "NEWTON",
    "OF_GLM",
    "Edges",
    "Strata",
    "check_compare",
    "check_cox",
    "check_errors",
    "check_firth",
    "check_glm",
    "check_meta",
    "check_newton",
    "check_offset",
    "check_site_effect",
    "check_weights",
    "glm_body",
    "glm_pair",
    "with_newton_defaults",
    "with_newton_models_defaults",
]
