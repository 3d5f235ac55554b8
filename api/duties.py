"""What the coordinator's process does beside its routes, and says of it: one line when
something holds a duty up, one when it goes on.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from api.prefect_runs import PrefectAway
from protocol.errors import ConsiliumError

log = logging.getLogger("consilium.api")


class Duty:
    """A duty that is tried again and again, for as long as the process lives.

    `what` is a sentence's subject, in the plural: "Orders without places".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        # What held up the last attempt; None where nothing did.
        self._cause: str | None = None

    @property
    def is_held_up(self) -> bool:
        return self._cause is not None

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """One attempt.

        What goes wrong ends it, and is logged where the last one did not end so too:
        a known error by its sentence, any other with its traceback. That Prefect is
        away is said once for all duties, by `api.prefect_runs`.
        """
        try:
            yield
        except PrefectAway:
            self._cause = "prefect"
        except ConsiliumError as error:
            if self._is_new(error.code):
                log.warning("%s are held up: %s", self._what, error)
        except Exception as error:
            if self._is_new(type(error).__name__):
                log.exception("%s are held up by an unplanned error", self._what)
        else:
            if self._cause not in (None, "prefect"):
                log.warning("%s go on", self._what)
            self._cause = None

    def _is_new(self, cause: str) -> bool:
        is_new = cause != self._cause
        self._cause = cause
        return is_new
