"""Who may see the page: one browser, which opens the link that the terminal printed.

Anybody on this machine can connect to a loopback port. So each start draws a key for
the link, spent at its first use, a session for the browser that used it, and a folder
name under which all pages lie: the cookie is for that folder, and a browser that is led
to another port of this machine shows it to nobody there.

Decision 47.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from dataclasses import dataclass, field

_BYTES = 32


def _secret() -> str:
    return secrets.token_urlsafe(_BYTES)


@dataclass
class Door:
    """The secrets of one start, in memory only."""

    # In the link that the terminal prints; it opens the door once.
    key: str = field(default_factory=_secret, repr=False)
    # In the cookie of the browser that has opened it.
    session: str = field(default_factory=_secret, repr=False)
    # In every form of the page, so that no other page's form is taken.
    form: str = field(default_factory=_secret, repr=False)
    # The folder below which all pages are.
    folder: str = field(default_factory=lambda: "/" + secrets.token_hex(8))
    _is_spent: bool = field(default=False, init=False)
    _lock: threading.Lock = field(
        default_factory=threading.Lock, init=False, repr=False
    )

    def open(self, key: str) -> bool:
        """True for the right key, the first time; a wrong one spends nothing."""
        if not _same(key, self.key):
            return False
        # Of two browsers at one moment, one gets in.
        with self._lock:
            was_spent = self._is_spent
            self._is_spent = True
        return not was_spent

    def is_in(self, session: str | None) -> bool:
        """Whether a browser's cookie is that of the session."""
        return session is not None and _same(session, self.session)

    def wrote_form(self, token: str) -> bool:
        """Whether a form was one of this page's own."""
        return _same(token, self.form)


def _same(given: str, expected: str) -> bool:
    """Compared in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())
