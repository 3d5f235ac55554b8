"""How the vectors of a round lie to each other: anomaly, contribution, robust aggregation."""
