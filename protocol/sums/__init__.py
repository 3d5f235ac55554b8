"""Sums that only their openers can read: Paillier, masks, fixed point and exact sums."""

from typing import Literal

EncryptMethod = Literal["Paillier", "Mask", "None"]
"""The ways to add vectors (`secure_sum`). Here, so that a request is read without loading what encrypts."""
