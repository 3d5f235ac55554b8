"""What a new study should set in `model_params` of a training order.

The API has one set of defaults, those of its request document, so that this document's
order stays what it is: raw columns, an L2 penalty, and an end as soon as the loss
changes by less than 1e-4. A study wants estimates that depend on none of that. So these
stand as fields of their own in forms and examples; nothing is added behind anyone's
back (decision 77).
"""

from __future__ import annotations

from typing import Any

STUDY: dict[str, Any] = {
    # Columns of any unit and size, and a label of any size.
    "standardize": True,
    # No shrinking that nobody asked for. Separated classes are warned of.
    "penalty": None,
    # To the optimum in a tenth of the rounds of sgd, where columns are correlated.
    "optimizer": "nesterov_momentum_sgd",
    "learning_rate": 0.15,
    "decay": 0,
    "eps": 1e-8,
    "max_iter": 300,
}
