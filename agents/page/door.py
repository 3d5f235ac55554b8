"""Who may see the page: whoever opens the one-time link that the terminal printed, in one browser.

Anybody on this machine can connect to a loopback port. So each start draws a key for the link, spent at its first
use, a session for the browser that used it, and a folder name under which all pages lie: the cookie is for that
folder, and a browser that is led to another port of this machine shows it to nobody there.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from dataclasses import dataclass, field

_BYTES = 32


@dataclass
class Door:
    """The secrets of one start, in memory only."""

    key: str = field(default_factory=lambda: secrets.token_urlsafe(_BYTES), repr=False)
    session: str = field(default_factory=lambda: secrets.token_urlsafe(_BYTES), repr=False)
    form: str = field(default_factory=lambda: secrets.token_urlsafe(_BYTES), repr=False)
    folder: str = field(default_factory=lambda: "/" + secrets.token_hex(8))
    _spent: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def open(self, key: str) -> bool:
        """True for the right key, the first time; a wrong one spends nothing."""
        if not _same(key, self.key):
            return False
        with self._lock:
            was_spent, self._spent = self._spent, True
        return not was_spent

    def is_in(self, session: str | None) -> bool:
        """Whether a browser's cookie is that of the session."""
        return session is not None and _same(session, self.session)

    def wrote_form(self, token: str) -> bool:
        """Whether a form was one of this page's own."""
        return _same(token, self.form)


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())
