"""The steps of a hospital, each visible in Prefect."""
