"""How the vectors of a round lie to each other: anomaly, contribution, robust
aggregation.
"""

from typing import Literal, get_args

Aggregation = Literal[
    "mean", "multi_krum", "minimum_diameter", "median", "trimmed_mean"
]
"""The rules of `aggregation`.

Here, so that a request is read without loading what computes them.
"""
AGGREGATIONS = get_args(Aggregation)


def most_attackers(aggregation: str, n: int) -> int:
    """The largest n_attackers f that a rule bears with n hospitals.

    mean 0; multi_krum 2 f + 3 <= n (Blanchard et al. 2017, proposition 4.2);
    minimum_diameter (El Mhamdi et al. 2018), median and trimmed_mean (Yin et al. 2018)
    2 f < n. Raises ValueError for another name or n below 1.

    >>> [most_attackers(name, 10) for name in AGGREGATIONS]
    [0, 3, 4, 4, 4]
    """
    if aggregation not in AGGREGATIONS:
        raise ValueError(
            f"aggregation is {aggregation!r}; allowed are {', '.join(AGGREGATIONS)}."
        )
    if n < 1:
        raise ValueError(f"n is {n}; 1 or more is allowed.")
    if aggregation == "mean":
        return 0
    if aggregation == "multi_krum":
        return max((n - 3) // 2, 0)
    return (n - 1) // 2
