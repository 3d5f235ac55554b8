"""How many examples a property is tried on, where one takes long.

All others have as many as the profile says.
"""

from __future__ import annotations

from hypothesis import settings

FEWER_BY = 10

few = settings(max_examples=settings().max_examples // FEWER_BY)
"""For properties of which an example makes a database, a key or a whole computation of
several parties.
"""
