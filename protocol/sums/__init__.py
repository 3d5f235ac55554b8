"""Sums that only their openers can read: Paillier, masks, fixed point and exact sums."""

from typing import Literal

EncryptMethod = Literal["Paillier", "Mask", "None"]
"""The ways to add vectors (`secure_sum`).

Here, as the lengths are, so that a request is read without loading what encrypts.
"""

KEY_LENGTHS = (2048, 3072, 4096)
"""Bits of a Paillier key's n; fewer are not safe."""
