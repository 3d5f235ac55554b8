"""Consilium beside what a user would use instead; comparison.py has the table, the
others are what it runs.
"""
