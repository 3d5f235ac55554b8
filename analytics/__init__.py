"""Pure mathematics: models, optimizers, metrics. No I/O, clock, randomness or
environment.
"""
