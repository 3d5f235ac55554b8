"""Which families and links of generalised linear models go together. `families` has what
they say of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

POWER_OF_VARIANCE = {
    "gaussian": 0,
    "poisson": 1,
    "gamma": 2,
    "inverse_gaussian": 3,
}
"""k of V(mu) = mu^k; of negative_binomial it is mu + mu^2 / theta."""
NEGATIVE_BINOMIAL = "negative_binomial"

LINKS: dict[str, tuple[str, ...]] = {
    "gaussian": ("identity", "log", "inverse"),
    "binomial": ("logit", "probit", "cloglog", "log"),
    "poisson": ("log", "identity", "sqrt"),
    "gamma": ("inverse", "identity", "log"),
    "inverse_gaussian": ("inverse_squared", "inverse", "identity", "log"),
    # Its canonical link depends on theta.
    "negative_binomial": ("log",),
}
"""By family the links that go with it, the canonical one first."""


@dataclass(frozen=True)
class Pair:
    """A family and a link that go together.

    Raises ValueError for others.

    >>> Pair("poisson", "log").is_canonical
    True
    """

    family: str
    link: str
    # Of negative_binomial; infinite, which is poisson, before it is known.
    theta: float = math.inf

    def __post_init__(self) -> None:
        family_links = LINKS.get(self.family, ())
        if self.link not in family_links:
            raise ValueError(f"{self.family} has no link {self.link}.")

    @property
    def is_canonical(self) -> bool:
        canonical = LINKS[self.family][0]
        return self.link == canonical and not self.has_theta

    @property
    def has_theta(self) -> bool:
        """Whether theta is estimated beside the coefficients."""
        return self.family == NEGATIVE_BINOMIAL

    @property
    def is_binary(self) -> bool:
        return self.family == "binomial"

    @property
    def is_least_squares(self) -> bool:
        """Whether the equations do not depend on where they are made."""
        return self == LEAST_SQUARES

    @property
    def has_dispersion(self) -> bool:
        """Whether the family has a dispersion besides its mean."""
        without = ("binomial", "poisson", NEGATIVE_BINOMIAL)
        return self.family not in without


LOGISTIC = Pair("binomial", "logit")
LEAST_SQUARES = Pair("gaussian", "identity")


def canonical_pair(family: str) -> Pair:
    canonical = LINKS[family][0]
    return Pair(family, canonical)
