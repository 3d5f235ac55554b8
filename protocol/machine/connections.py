"""A connection that is closed as soon as it is open is a lost one, and no error of ours.

httpx looks at each new connection of an event loop for its TLS. Where the server died
in between, a connection of uvloop's, on which uvicorn runs the API, has no socket any
more, and anyio (4.16.0) asks none for its address: an AttributeError, which is none of
what httpx raises for a lost connection. An agent whose call is passed on to Prefect was
answered 500. Here nothing is known of such a connection; what is written to it next is
lost in httpx's own words.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from anyio.abc import SocketStream

Attributes = Mapping[Any, Callable[[], Any]]


@functools.cache
def mind_closed_connections() -> None:
    """To be called in a process that calls a server from uvloop's event loop."""
    original: Any = SocketStream.extra_attributes

    def extra_attributes(stream: SocketStream) -> Attributes:
        if stream._raw_socket is None:
            return {}
        attributes: Attributes = original.fget(stream)
        return attributes

    SocketStream.extra_attributes = property(extra_attributes)  # type: ignore[assignment]
