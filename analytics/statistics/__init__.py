"""Exact sums and moments, quantiles, and the expressions over joined rows."""
