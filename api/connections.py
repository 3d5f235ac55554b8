"""How long a connection may be silent, and how long its head may be: limits that
uvicorn does not have.

A head that never comes holds no application, but memory and a file descriptor. What
else a caller may do is `api.door`'s.

Decision 83.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 15.0
"""From the first byte, or from the connection's beginning, to the end of the head."""

LINGER_SECONDS = 5.0
"""That the rest of a body is thrown away for, once its request has been answered: who
is cut off while sending does not hear the answer."""

MOST_HEAD_BYTES = 65_536


class TimedProtocol(HttpToolsProtocol):
    """One HTTP connection with time limits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._due: asyncio.TimerHandle | None = None
        # None outside of a head.
        self._n_head_bytes: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._n_head_bytes is not None:
            self._n_head_bytes += len(data)
        super().data_received(data)
        # What came in one piece with the head is counted too: a piece is smaller than
        # the limit.
        is_in_head = self._n_head_bytes is not None
        if is_in_head and (self._n_head_bytes or 0) > MOST_HEAD_BYTES:
            self._close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # The first head's time runs since the connection began: a byte that comes late
        # in it begins no new time.
        if self._n_head_bytes is None:
            self._begin_head()

    def on_headers_complete(self) -> None:
        self._n_head_bytes = None
        self._cancel()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        # uvicorn looks at the end of a body only before it has answered.
        is_answered = self.cycle is not None and self.cycle.response_complete
        if is_answered:
            self._cancel()
            self.cycle.more_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        # Before the rest of the body: what still comes is dropped, for a moment.
        is_cut = self.cycle.more_body and not self.pipeline
        super().on_response_complete()
        if is_cut and not self.transport.is_closing():
            self._close_in(LINGER_SECONDS)

    def _begin_head(self) -> None:
        self._n_head_bytes = 0
        self._close_in(HEAD_SECONDS)

    def _close_in(self, seconds: float) -> None:
        self._cancel()
        self._due = self.loop.call_later(seconds, self._close)

    def _cancel(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _close(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()
