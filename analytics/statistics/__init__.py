"""Exact sums and moments, quantiles, and the expressions over joined rows."""

from typing import Literal

EventWeights = Literal["logrank", "wilcoxon", "fleming_harrington"]
"""By what the event times of a log-rank test weigh."""
