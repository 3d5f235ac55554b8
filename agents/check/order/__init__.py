"""What this hospital's gate would say to an order that nobody has sent yet: all reasons
at once, for its own people, at its own machine.

The rules are those that an order meets, in the same functions: a policy's and SQL's
before rows, then the rows of this hospital, then what was told before. What is asked of
memory is asked of a copy in memory: nothing is reserved, kept or written, and nothing
leaves. `order_file.py` reads the order, `explained.py` turns rules into findings, and
`training.py`, `statistics.py` and `predictions.py` ask those of each kind.

Decision 70.

Disclosure: counts of this hospital's own rows, small ones too, to who runs it; no value
of a row, and no name of a group.
"""
