"""How the vectors of a round lie to each other: anomaly, contribution, robust aggregation."""

from typing import Literal

Aggregation = Literal["mean", "multi_krum", "minimum_diameter", "median", "trimmed_mean"]
"""The rules of `aggregation`. Here, so that a request is read without loading what computes them."""
