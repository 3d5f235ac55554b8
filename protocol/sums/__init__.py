"""Sums that only their openers can read: Paillier, masks, fixed point and exact sums."""
