"""This site's clock beside the coordinator's (decision 58).

Runs are scheduled by the coordinator's time, and nobody's order may wait for a
hospital's clock. What a hospital notes for itself (ledger, decisions, results) is by
its own clock, which nobody else can set.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

LARGEST_ERROR_SECONDS = 5
"""Above this a person is informed: Prefect's timeline, the ledger and certificates go
by the site's own clock.
"""


class Clock:
    """How many seconds the coordinator's clock is ahead of this site's, as its latest
    answers allow.
    """

    def __init__(
        self,
        *,
        own: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = own
        self._steady = steady
        self.ahead_seconds = 0.0
        self._has_heard = False

    def heard(self, theirs: float, *, asked: float) -> None:
        """The coordinator's time, seconds since 1970, in an answer that was asked for
        at `asked` (time.monotonic).

        It was written at some moment of the wait, so what it allows is a span: a long
        poll's is wide and keeps what a quick answer said before.
        """
        waited_seconds = self._steady() - asked
        # Written just now, or as long ago as the answer took at the most.
        least_ahead = theirs - self._own()
        most_ahead = least_ahead + waited_seconds
        if self._has_heard:
            self.ahead_seconds = min(max(self.ahead_seconds, least_ahead), most_ahead)
        else:
            self.ahead_seconds = least_ahead
        self._has_heard = True

    def coordinators_time(self) -> datetime:
        """What the coordinator's clock shows now."""
        return datetime.fromtimestamp(self._own(), UTC) + timedelta(
            seconds=self.ahead_seconds
        )

    def wrong_seconds(self) -> int:
        """Seconds that this site's clock is ahead of the coordinator's, negative
        behind; 0 while that is no trouble.
        """
        if abs(self.ahead_seconds) <= LARGEST_ERROR_SECONDS:
            return 0
        return round(-self.ahead_seconds)
