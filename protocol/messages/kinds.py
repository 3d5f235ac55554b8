"""Which messages there are, who may read each, and how much they may say."""

from __future__ import annotations

COORDINATOR = 1
"""The user id that the request document gives to the federation's server."""

EVERYONE = 0
"""As recipient, for what all parties read."""

CLEAR, PAIR, GROUP = 0, 1, 2
"""How a body is protected: for who carries it to read, for one party (pair key), for
all parties (group key).
"""

# Every kind of message that may leave, and how it has to be sealed. What is not here
# does not leave.
KINDS = {
    "order": CLEAR,
    "acceptance": CLEAR,
    "party": CLEAR,
    "setup": PAIR,
    "kept_model": PAIR,
    "levels": GROUP,
    "other_levels": GROUP,
    "design": CLEAR,
    "opening-design": GROUP,
    "flow": CLEAR,
    "classes": GROUP,
    "own_metrics": GROUP,
    "weights": GROUP,
    "public_key": CLEAR,
    "mean": CLEAR,
    "opening-mean": GROUP,
    "variance": CLEAR,
    "opening-variance": GROUP,
    "vectors": CLEAR,
    "gradient": CLEAR,
    "opening-gradient": GROUP,
    "pooled": CLEAR,
    "done": CLEAR,
    "statement": GROUP,
    "compared": CLEAR,
    "own_sums": GROUP,
    "cell_tags": CLEAR,
    "cell_digest": GROUP,
    "cell_share": GROUP,
    "unmask": PAIR,
    "addend": CLEAR,
    "pivots": GROUP,
    "tags": CLEAR,
    "matched": GROUP,
    "types": CLEAR,
    "opened": GROUP,
    "share": PAIR,
    "keys": PAIR,
    "report": CLEAR,
}

KIND_SINCE = {"party": 3}
"""The least protocol number that has a kind, of those that not every one has."""

MOST_ROWS = 2**40
"""That a hospital may say it has."""

MOST_TYPED_ROWS = 1_000
"""That a request for predictions may bring."""
