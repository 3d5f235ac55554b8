"""Computing on additive shares: the ring, sharing, triples that are dealt, and the
matching of keys.
"""
