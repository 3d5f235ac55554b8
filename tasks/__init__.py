"""Prefect tasks: thin wrappers that make each step of an order visible."""
