"""A hospital's side of joint statistics: pooled rows, joined rows, groups and
quantiles.
"""
