"""The steps of the coordinator, each visible in Prefect.

Nothing of a hospital's is imported here.
"""
