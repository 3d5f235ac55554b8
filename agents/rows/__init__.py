"""The only room in which patients' rows exist: read, checked, and turned into arrays
and exact totals.
"""
